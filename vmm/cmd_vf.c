/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_vf.c - `unvmm vf`: lists this host's virtio functions, gives them to vfio-pci and takes them
 * back. All that was asked for is checked before anything is changed. Main thread.
 */
#include "cmd_vf.h"
#include "cmd.h"
#include "cmd_client.h"
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unvmm/report.h>

#define ADDRESSES_MAX 64
#define BIND_MS	      5000

/* getopt's value for a switch without a letter. */
enum { OPT_FORCE = 256, OPT_JSON, OPT_SYSROOT };

enum vf_action { VF_LIST, VF_DO_BIND, VF_DO_UNBIND };

struct vf_args {
	enum vf_action action;
	bool json, force, own; /* own: the root is this host's */
	const char *sysroot;
	unsigned int n;
	char address[ADDRESSES_MAX][SYSFS_PCI_ADDRESS];
};

static void usage(void)
{
	puts("usage: unvmm vf [list] [OPTIONS] [ADDRESS]...\n"
	     "       unvmm vf bind|unbind [OPTIONS] ADDRESS...\n"
	     "The virtio functions of this host: what each can do, and why not; gives them to "
	     "vfio-pci,\nfor guests (vfs = ({ pci = \"ADDRESS\"; });), and back to the host's own "
	     "driver.\n\n"
	     "      --force              bind also what the host uses, and other functions\n"
	     "      --json               print JSON\n"
	     "      --sysroot DIR        take DIR for the root of /sys, /proc and /dev\n"
	     "  -h, --help               this text\n\n"
	     "ADDRESS looks like 0000:03:00.2 or 03:00.2.\n\n"
	     "exit status: 0 done (or it was so already), 1 refused, 2 wrong usage");
}

/* --- arguments ------------------------------------------------------------------------------- */

static int wrong(const char *text, const char *what)
{
	fprintf(stderr, "unvmm: vf: \"%s\" %s\n", text, what);
	return EXIT_USAGE;
}

static int take_addresses(struct vf_args *a, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		bool known = false;

		if (a->n == ADDRESSES_MAX)
			return wrong(argv[i], "is one address too many");
		if (!sysfs_pci_address(argv[i], a->address[a->n]))
			return wrong(argv[i],
				     "is no PCI address; it looks like 0000:03:00.2 or 03:00.2");
		for (unsigned int j = 0; j < a->n; j++)
			known |= !strcmp(a->address[j], a->address[a->n]);
		a->n += !known;
	}
	return a->action != VF_LIST && !a->n
		       ? wrong(a->action == VF_DO_BIND ? "bind" : "unbind",
			       "needs the address of a function; 'unvmm vf' lists them")
		       : 0;
}

/* -1: go on; else the exit status. */
static int parse(struct vf_args *a, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "force", no_argument, NULL, OPT_FORCE },
		{ "json", no_argument, NULL, OPT_JSON },
		{ "sysroot", required_argument, NULL, OPT_SYSROOT },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct diag d = { "" };
	const char *word;
	int opt, status;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":h", longs, NULL)) >= 0) {
		if (opt == 'h') {
			usage();
			return 0;
		}
		if (opt == '?' || opt == ':') {
			options_refused(opt, argv, longs, &d);
			fprintf(stderr, "unvmm: vf: %s; try 'unvmm vf --help'\n", d.text);
			return EXIT_USAGE;
		}
		a->force |= opt == OPT_FORCE;
		a->json |= opt == OPT_JSON;
		if (opt == OPT_SYSROOT)
			a->sysroot = optarg;
	}
	word = optind < argc ? argv[optind] : "";
	if (!strcmp(word, "list") || !strcmp(word, "bind") || !strcmp(word, "unbind")) {
		a->action = *word == 'l' ? VF_LIST : *word == 'b' ? VF_DO_BIND : VF_DO_UNBIND;
		optind++;
	} else if (*word && !strchr(word, ':')) {
		return wrong(word, "is neither list, bind nor unbind, nor a PCI address");
	}
	a->own = !a->sysroot;
	status = take_addresses(a, argc - optind, argv + optind);
	return status ? status : -1;
}

/* --- list ------------------------------------------------------------------------------------ */

static const char *verdict_name(enum vf_verdict v)
{
	return v == VF_YES ? "yes" : v == VF_BIND ? "after bind" : "no";
}

static void put_row(const struct vf_view *v)
{
	char group[16] = "-", queues[16] = "?", vectors[16] = "?";

	if (v->pci.group >= 0)
		snprintf(group, sizeof(group), "%d", v->pci.group);
	if (v->asked)
		snprintf(queues, sizeof(queues), "%u", v->answers.nqueues);
	if (v->has_caps)
		snprintf(vectors, sizeof(vectors), "%u", v->caps.nvectors);
	printf("%-13s %-8s %-12s %5s %6s %7s %-9s %-7s %-9s %s\n", v->pci.address, v->type,
	       *v->pci.driver ? v->pci.driver : "-", group, queues, vectors, v->doorbells, v->dirty,
	       v->restore, verdict_name(v->verdict));
	if (v->verdict == VF_NO)
		printf("    not assigned: %s\n", v->why);
	if (*v->doorbells_why && strcmp(v->doorbells, "mapped"))
		printf("    doorbells: %s\n", v->doorbells_why);
	if (v->asked && v->answers.nqueues >= v->caps.nvectors)
		printf("    vectors: %u for %u queues and the configuration; the surplus queues "
		       "are "
		       "not offered\n",
		       v->caps.nvectors, v->answers.nqueues);
	if (*v->pci.physfn)
		printf("    a virtual function of %s\n", v->pci.physfn);
	if (v->pci.nvfs)
		printf("    a physical function with %" PRIu64 " virtual ones\n", v->pci.nvfs);
	if (*v->remark && v->verdict != VF_NO)
		printf("    %s\n", v->remark);
}

static void report_caps(struct report *r, const struct vf_view *v)
{
	report_number(r, "vectors", v->caps.nvectors);
	report_group(r, "doorbells");
	report_text(r, "state", "%s", v->doorbells);
	if (*v->doorbells_why)
		report_text(r, "why", "%s", v->doorbells_why);
	report_number(r, "bar", v->caps.notify.bar);
	report_number(r, "offset", v->caps.notify.offset);
	report_number(r, "length", v->caps.notify.length);
	report_number(r, "multiplier", v->caps.notify_multiplier);
	report_close(r);
}

static void report_answers(struct report *r, const struct vf_view *v)
{
	const struct vf_answers *a = &v->answers;

	report_text(r, "features", "0x%016" PRIx64, a->features);
	report_flag(r, "access-platform", a->features >> VIRTIO_F_ACCESS_PLATFORM & 1);
	report_flag(r, "ring-reset", a->features >> VIRTIO_F_RING_RESET & 1);
	report_flag(r, "ring-packed", a->features >> VIRTIO_F_RING_PACKED & 1);
	report_number(r, "queues", a->nqueues);
	report_number(r, "vfio-migration-flags", a->mig_flags);
	report_flag(r, "dma-log", a->dma_log);
}

/* What is not known is not there. */
static void report_view(struct report *r, const struct vf_view *v)
{
	report_group(r, NULL);
	report_text(r, "address", "%s", v->pci.address);
	report_text(r, "type", "%s", v->type);
	report_text(r, "ids", "%04x:%04x", v->pci.vendor, v->pci.device);
	report_text(r, "driver", "%s", v->pci.driver);
	if (v->pci.group >= 0)
		report_number(r, "iommu-group", (uint64_t)v->pci.group);
	if (*v->pci.physfn)
		report_text(r, "physical-function", "%s", v->pci.physfn);
	if (v->pci.nvfs)
		report_number(r, "virtual-functions", v->pci.nvfs);
	if (v->has_caps)
		report_caps(r, v);
	if (v->asked)
		report_answers(r, v);
	if (v->has_negotiated)
		report_text(r, "negotiated-features", "0x%016" PRIx64, v->negotiated);
	if (strcmp(v->dirty, "?"))
		report_text(r, "dirty", "%s", v->dirty);
	if (strcmp(v->restore, "?"))
		report_text(r, "restore", "%s", v->restore);
	report_text(r, "assign", "%s", verdict_name(v->verdict));
	if (*v->why)
		report_text(r, "why", "%s", v->why);
	if (*v->remark)
		report_text(r, "remark", "%s", v->remark);
	report_close(r);
}

static int list_one(int root, const struct vf_args *a, const char *address, struct report *r,
		    struct diag *d)
{
	struct sysfs_pci f;
	struct vf_view v;
	int err = sysfs_pci_read(root, &f, address, d);

	if (err)
		return err;
	if (!vf_is_virtio(&f)) {
		/* Unasked for, other functions are none of our business. */
		return !a->n ? 0
			     : diag_set(d, -ENOTSUP, "%s: it is a %04x:%04x and no virtio function",
					address, f.vendor, f.device);
	}
	vf_look(root, &v, &f, a->own);
	if (r)
		report_view(r, &v);
	else
		put_row(&v);
	return 0;
}

static int list(int root, const struct vf_args *a, struct report *r, struct diag *d)
{
	struct sysfs_names all;
	int err = 0;

	if (!r)
		printf("%-13s %-8s %-12s %5s %6s %7s %-9s %-7s %-9s %s\n", "ADDRESS", "TYPE",
		       "DRIVER", "GROUP", "QUEUES", "VECTORS", "DOORBELLS", "DIRTY", "RESTORE",
		       "ASSIGN");
	if (a->n) {
		for (unsigned int i = 0; i < a->n && !err; i++)
			err = list_one(root, a, a->address[i], r, d);
		return err;
	}
	sysfs_pci_list(root, &all);
	for (unsigned int i = 0; i < all.n && !err; i++) {
		/* One that goes while we look is not there. */
		err = list_one(root, a, all.name[i], r, NULL);
		if (err == -ENODEV)
			err = 0;
	}
	sysfs_names_free(&all);
	return err;
}

/* --- bind and unbind ------------------------------------------------------------------------- */

static int may_bind(int root, const struct vf_args *a, const struct sysfs_pci *f, struct diag *d)
{
	uint16_t type = vf_device_id(f);
	char(*others)[SYSFS_PCI_ADDRESS] = (char(*)[SYSFS_PCI_ADDRESS])a->address;
	char blockers[256];
	int err;

	if (sysfs_pci_has_vfio(f))
		return 0;
	if (!a->force && !vf_is_virtio(f))
		return diag_set(
			d, -ENOTSUP,
			"it is a %04x:%04x and no virtio function; --force binds it all the "
			"same",
			f->vendor, f->device);
	if (!a->force && type != VIRTIO_ID_NET && type != VIRTIO_ID_BLOCK)
		return diag_set(
			d, -ENOTSUP,
			"it is a virtio %s function, and unvmm assigns net and block; --force "
			"binds it all the same",
			vf_type(type));
	err = sysfs_pci_can_bind(root, f, d);
	if (err)
		return err;
	if (sysfs_pci_group_blockers(root, f, others, a->n, blockers, sizeof(blockers)))
		return diag_set(
			d, -EBUSY,
			"its IOMMU group %d is not viable: the host has %s of it; bind these "
			"together, or put the card into a slot of its own",
			f->group, blockers);
	return a->force ? 0 : sysfs_pci_in_use(root, f, d);
}

/* What was done, or "it was so". */
static void put_change(const struct vf_args *a, const struct sysfs_pci *f, const char *was,
		       bool same, struct report *r)
{
	bool bind = a->action == VF_DO_BIND;

	if (r) {
		report_group(r, NULL);
		report_text(r, "address", "%s", f->address);
		report_flag(r, "changed", !same);
		report_text(r, "driver", "%s", f->driver);
		report_text(r, "was", "%s", was);
		if (bind)
			report_text(r, "node", "/dev/vfio/%d", f->group);
		report_close(r);
	} else if (same && bind) {
		printf("%s: bound to %s already, /dev/vfio/%d\n", f->address, f->driver, f->group);
	} else if (same) {
		printf("%s: not bound to vfio-pci; its driver is %s\n", f->address,
		       *f->driver ? f->driver : "none");
	} else if (bind) {
		printf("%s: bound to vfio-pci (was: %s), /dev/vfio/%d\n", f->address,
		       *was ? was : "no driver", f->group);
	} else if (*f->driver) {
		printf("%s: given back to %s\n", f->address, f->driver);
	} else {
		printf("%s: taken from vfio-pci; no other driver is loaded for it ('modprobe "
		       "virtio_pci' loads one)\n",
		       f->address);
	}
}

static int change(int root, const struct vf_args *a, struct report *r, struct diag *d)
{
	struct sysfs_pci f;
	int err = 0;

	for (unsigned int i = 0; i < a->n && !err; i++) {
		err = sysfs_pci_read(root, &f, a->address[i], d);
		if (err)
			return err;
		if (a->action == VF_DO_BIND)
			err = may_bind(root, a, &f, d);
		if (err)
			diag_prefix(d, "%s", f.address);
	}
	for (unsigned int i = 0; i < a->n && !err; i++) {
		char was[SYSFS_NAME];

		err = sysfs_pci_read(root, &f, a->address[i], d);
		if (err)
			return err;
		strcpy(was, f.driver);
		err = a->action == VF_DO_BIND ? sysfs_pci_bind(root, &f, BIND_MS, d)
					      : sysfs_pci_unbind(root, &f, BIND_MS, d);
		if (err < 0)
			diag_prefix(d, "%s", f.address);
		else
			put_change(a, &f, was, err == 1, r);
		err = err == 1 ? 0 : err;
	}
	return err;
}

int cmd_vf(int argc, char **argv)
{
	struct vf_args a = { 0 };
	struct json_object *json = NULL;
	struct diag d = { "" };
	struct report r;
	int status = parse(&a, argc, argv), root, err;

	if (status >= 0)
		return status;
	root = sysfs_open_root(a.sysroot ? a.sysroot : "/", &d);
	if (root < 0)
		return cmd_failed(root, &d);
	if (a.json) {
		json = report_begin(&r);
		report_list(&r, "functions");
	}
	err = a.action == VF_LIST ? list(root, &a, a.json ? &r : NULL, &d)
				  : change(root, &a, a.json ? &r : NULL, &d);
	close(root);
	if (a.json)
		cmd_put_json(json);
	json_object_put(json);
	if (err) {
		cmd_failed(err, &d);
		return EXIT_GUEST_FAILED;
	}
	return 0;
}
