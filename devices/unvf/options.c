/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.c - reads the command line. What configures the disk or the network card goes through the
 * option table of its class, as guest.cfg's keys do for unvmm. Main, at the start.
 */
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

extern const struct device_class virtio_blk_class, virtio_net_class;

const char options_usage[] =
	"usage: unvf --socket PATH --type blk --image FILE [OPTIONS] [--socket PATH ...]\n"
	"       unvf --socket PATH --type net --tap NAME | --loopback [OPTIONS] [--socket PATH "
	"...]\n"
	"  --queues N           queues of a disk, pairs of queues of a network card\n"
	"  --queue-size N       entries of a queue\n"
	"  --doorbell HOW       mmap (default), ioeventfd or message\n"
	"  --page-per-vq        a page for each doorbell, not 4 bytes\n"
	"  --read-only, --direct, --shared, --serial TEXT      of a disk\n"
	"  --mac ADDRESS, --mtu N                              of a network card\n"
	"  --state              the function's state can be saved and loaded\n"
	"  --dirty-log          the function keeps a log of its DMA\n"
	"  --ring-index         where a queue stands can be read and written\n"
	"  --ring-reset         queues can be reset one by one\n"
	"  --no-access-platform the function takes physical addresses\n"
	"  --pattern            unused bytes of the BARs hold a pattern\n"
	"  --fault NAME[@N]     misbehave, see unvf(1)\n"
	"  --verbose, --help, --version\n";

/* --- values of the class ---------------------------------------------------------------------- */

static const struct opt *find_opt(const struct device_class *cls, const char *name)
{
	for (unsigned int i = 0; i < cls->nopts; i++)
		if (!strcmp(cls->opts[i].name, name))
			return &cls->opts[i];
	return NULL;
}

static int store(const struct opt *o, void *conf, const char *text)
{
	void *field = (uint8_t *)conf + o->offset;
	char *end;

	switch (o->type) {
	case OPT_BOOL:
		*(bool *)field = true;
		return 0;
	case OPT_INT:
		errno = 0;
		*(int64_t *)field = strtoll(text, &end, 10);
		return errno || *end || end == text ? -EINVAL : 0;
	default:
		*(const char **)field = text;
		return 0;
	}
}

/* `text` for the class's option `key`. */
static int class_option(struct unvf_group *g, const char *option, const char *key, const char *text,
			struct diag *d)
{
	const struct opt *o;
	int64_t n;

	if (!g->cls)
		return diag_set(d, -EINVAL, "%s: comes before --type", option);
	o = find_opt(g->cls, key);
	if (!o)
		return diag_set(d, -EINVAL, "%s: is not for a function of this type", option);
	if (store(o, g->conf, text))
		return diag_set(d, -EINVAL, "%s %s: is not a number", option, text);
	n = o->type == OPT_INT ? *(int64_t *)((uint8_t *)g->conf + o->offset) : 0;
	if (o->type == OPT_INT && o->min != o->max && (n < o->min || n > o->max))
		return diag_set(d, -EINVAL, "%s %s: must be from %" PRId64 " to %" PRId64, option,
				text, o->min, o->max);
	if (o->type != OPT_INT && o->type != OPT_BOOL && o->max && strlen(text) > (size_t)o->max)
		return diag_set(d, -EINVAL, "%s %s: is longer than %" PRId64 " characters", option,
				text, o->max);
	if (o->check && o->check(g->conf, d)) {
		diag_prefix(d, "%s", option);
		return -EINVAL;
	}
	return 0;
}

/* --- the options ------------------------------------------------------------------------------ */

static int set_type(struct unvf_group *g, const char *text, struct diag *d)
{
	if (g->cls)
		return diag_set(d, -EINVAL, "--type %s: this function has a type already", text);
	if (!strcmp(text, "blk"))
		g->cls = &virtio_blk_class;
	else if (!strcmp(text, "net"))
		g->cls = &virtio_net_class;
	else
		return diag_set(d, -EINVAL, "--type %s: must be blk or net", text);
	g->conf = calloc(1, g->cls->conf_size);
	if (!g->conf)
		return diag_errno(d, -ENOMEM, "--type %s", text);
	if (g->cls->init_conf)
		g->cls->init_conf(g->conf);
	return 0;
}

static int set_doorbell(struct unvf_group *g, const char *text, struct diag *d)
{
	static const char *const names[] = { [FN_DOORBELL_MMAP] = "mmap",
					     [FN_DOORBELL_IOEVENTFD] = "ioeventfd",
					     [FN_DOORBELL_MESSAGE] = "message" };

	for (unsigned int i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(text, names[i])) {
			g->fn.doorbell = (enum fn_doorbell)i;
			return 0;
		}
	return diag_set(d, -EINVAL, "--doorbell %s: must be mmap, ioeventfd or message", text);
}

static int set_queue_size(struct unvf_group *g, const char *text, struct diag *d)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*end || n < 16 || n > VQ_SIZE_MAX || !is_power_of_2(n))
		return diag_set(d, -EINVAL, "--queue-size %s: must be a power of two from 16 to %u",
				text, VQ_SIZE_MAX);
	g->fn.queue_size = (uint16_t)n;
	/* A disk sizes its requests by it; a card's queues are only cut short. */
	if (g->cls && find_opt(g->cls, "queue_size"))
		return class_option(g, "--queue-size", "queue_size", text, d);
	if (n > 256)
		return diag_set(d, -EINVAL, "--queue-size %s: a network card has at most 256",
				text);
	return 0;
}

static int set_fault(struct unvf_group *g, const char *text, struct diag *d)
{
	return fault_parse(&g->fn.faults, text, d);
}

#define FLAG(f) offsetof(struct unvf_group, f)

static const struct option_row {
	const char *name;
	const char *key; /* of the class's option */
	size_t flag;	 /* of a bool in the group; 0: none */
	bool alone;	 /* takes no value */
	int (*set)(struct unvf_group *g, const char *text, struct diag *d);
} rows[] = {
	{ .name = "--type", .set = set_type },
	{ .name = "--image", .key = "path" },
	{ .name = "--read-only", .key = "readonly", .alone = true },
	{ .name = "--serial", .key = "serial" },
	{ .name = "--direct", .key = "direct", .alone = true },
	{ .name = "--shared", .key = "shared", .alone = true },
	{ .name = "--tap", .key = "tap" },
	{ .name = "--loopback", .key = "loopback", .alone = true },
	{ .name = "--mac", .key = "mac" },
	{ .name = "--mtu", .key = "mtu" },
	{ .name = "--queues", .key = "queues" },
	{ .name = "--queue-size", .set = set_queue_size },
	{ .name = "--doorbell", .set = set_doorbell },
	{ .name = "--fault", .set = set_fault },
	{ .name = "--shared", .flag = FLAG(fn.shared), .alone = true },
	{ .name = "--state", .flag = FLAG(fn.state), .alone = true },
	{ .name = "--dirty-log", .flag = FLAG(fn.dirty_log), .alone = true },
	{ .name = "--ring-index", .flag = FLAG(fn.ring_index), .alone = true },
	{ .name = "--ring-reset", .flag = FLAG(fn.ring_reset), .alone = true },
	{ .name = "--page-per-vq", .flag = FLAG(fn.page_per_vq), .alone = true },
	{ .name = "--pattern", .flag = FLAG(fn.pattern), .alone = true },
	{ .name = "--no-access-platform", .flag = FLAG(fn.no_access_platform), .alone = true },
};

static const struct option_row *find_row(const char *name)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(rows); i++)
		if (!strcmp(rows[i].name, name))
			return &rows[i];
	return NULL;
}

static int apply(struct unvf_group *g, const struct option_row *row, const char *text,
		 struct diag *d)
{
	if (row->set)
		return row->set(g, text, d);
	if (!strcmp(row->name, "--tap") || !strcmp(row->name, "--loopback"))
		g->connected = true;
	if (row->key)
		return class_option(g, row->name, row->key, text, d);
	*(bool *)((uint8_t *)g + row->flag) = true;
	return 0;
}

/* What the options of a function must satisfy together. */
static int check_group(const struct unvf_group *g, struct diag *d)
{
	if (!g->cls)
		return diag_set(d, -EINVAL, "--socket %s: needs --type blk or --type net",
				g->socket);
	if (g->cls == &virtio_net_class && !g->connected)
		return diag_set(d, -EINVAL, "--socket %s: needs --tap NAME or --loopback",
				g->socket);
	for (unsigned int i = 0; i < g->cls->nopts; i++) {
		const struct opt *o = &g->cls->opts[i];

		if (o->required && !*(char **)((uint8_t *)g->conf + o->offset))
			return diag_set(d, -EINVAL, "--socket %s: needs --image FILE", g->socket);
	}
	if (g->fn.shared && !g->cls->claim)
		return diag_set(d, -EINVAL, "--socket %s: --shared is for a disk", g->socket);
	if (g->cls->check && g->cls->check(g->conf, d)) {
		diag_prefix(d, "--socket %s", g->socket);
		return -EINVAL;
	}
	return 0;
}

static int new_group(struct unvf_options *o, const char *socket, struct diag *d)
{
	struct unvf_group *groups = realloc(o->groups, (o->ngroups + 1) * sizeof(*o->groups));

	if (!groups)
		return diag_errno(d, -ENOMEM, "--socket %s", socket);
	o->groups = groups;
	groups[o->ngroups++] = (struct unvf_group){ .socket = socket };
	return 0;
}

/* One argument and its value. Returns how many were used, or -errno. */
static int parse_one(struct unvf_options *o, int left, char **argv, struct diag *d)
{
	struct unvf_group *g = o->ngroups ? &o->groups[o->ngroups - 1] : NULL;
	const struct option_row *row = find_row(argv[0]);
	bool socket = !strcmp(argv[0], "--socket");
	int err;

	if (!strcmp(argv[0], "--help"))
		o->help = true;
	else if (!strcmp(argv[0], "--version"))
		o->version = true;
	else if (!strcmp(argv[0], "--verbose"))
		o->verbose = true;
	else if (!row && !socket)
		return diag_set(d, -EINVAL, "%s: there is no such option, see --help", argv[0]);
	if (!row && !socket)
		return 1;
	if (!socket && !g)
		return diag_set(d, -EINVAL,
				"%s: comes before --socket, with which a function begins", argv[0]);
	if ((socket || !row->alone) && left < 2)
		return diag_set(d, -EINVAL, "%s: needs a value", argv[0]);
	err = socket ? new_group(o, argv[1], d) : apply(g, row, row->alone ? NULL : argv[1], d);
	if (err)
		return err;
	return socket || !row->alone ? 2 : 1;
}

int options_parse(struct unvf_options *o, int argc, char **argv, struct diag *d)
{
	int err = 0;

	*o = (struct unvf_options){ 0 };
	for (int i = 1; i < argc && err >= 0; i += err)
		err = parse_one(o, argc - i, argv + i, d);
	for (unsigned int i = 0; i < o->ngroups && err >= 0; i++)
		err = check_group(&o->groups[i], d);
	if (err >= 0 && !o->ngroups && !o->help && !o->version)
		err = diag_set(d, -EINVAL, "there is no --socket, so nothing to do; see --help");
	if (err < 0)
		options_free(o);
	return err < 0 ? err : 0;
}

void options_free(struct unvf_options *o)
{
	for (unsigned int i = 0; i < o->ngroups; i++)
		free(o->groups[i].conf);
	free(o->groups);
	*o = (struct unvf_options){ 0 };
}
