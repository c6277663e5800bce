/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_vf_look.c - judges one virtio function: can it be assigned, are its doorbells mapped, which
 * rungs of the two migration ladders does it reach. Main thread.
 */
#include "cmd_vf.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <string.h>

#include <unvmm/offer.h>

#define VENDOR_VIRTIO 0x1af4
#define DEVICE_FIRST  0x1000
#define MODERN_FIRST  0x1040
#define DEVICE_LAST   0x107f
/* Intel's functions with ring indexes that can be read and set (devices/vf_vendor.c). */
#define IFCVF_VENDOR 0x8086
#define IFCVF_NET    0x001a
#define IFCVF_DISK   0x0002
/* What the guest sees between two doorbells of a page (design of the doorbells). */
#define GUEST_MULTIPLIER 4u

static const struct {
	uint16_t id;
	const char *name;
} types[] = {
	{ VIRTIO_ID_NET, "net" },	  { VIRTIO_ID_BLOCK, "block" },
	{ VIRTIO_ID_CONSOLE, "console" }, { VIRTIO_ID_RNG, "rng" },
	{ VIRTIO_ID_BALLOON, "balloon" }, { VIRTIO_ID_SCSI, "scsi" },
	{ VIRTIO_ID_9P, "9p" },		  { VIRTIO_ID_GPU, "gpu" },
	{ VIRTIO_ID_INPUT, "input" },	  { VIRTIO_ID_VSOCK, "vsock" },
	{ VIRTIO_ID_CRYPTO, "crypto" },	  { VIRTIO_ID_IOMMU, "iommu" },
	{ VIRTIO_ID_MEM, "mem" },	  { VIRTIO_ID_FS, "fs" },
	{ VIRTIO_ID_PMEM, "pmem" },
};

bool vf_is_virtio(const struct sysfs_pci *f)
{
	return f->vendor == VENDOR_VIRTIO && f->device >= DEVICE_FIRST && f->device <= DEVICE_LAST;
}

uint16_t vf_device_id(const struct sysfs_pci *f)
{
	if (!vf_is_virtio(f))
		return 0;
	return f->device < MODERN_FIRST ? f->subsystem : (uint16_t)(f->device - MODERN_FIRST);
}

const char *vf_type(uint16_t device_id)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (types[i].id == device_id)
			return types[i].name;
	return "other";
}

/* --- capabilities ---------------------------------------------------------------------------- */

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

/* The bytes of sysfs; a VF's IDs read as all-ones there, but the kernel knows them. */
static int read_config(void *opaque, unsigned int off, void *buf, unsigned int len)
{
	const struct sysfs_pci *f = opaque;
	uint8_t copy[SYSFS_PCI_CONFIG];

	if (f->config_size < sizeof(copy))
		return -EACCES;
	if (!range_within(off, len, 0, sizeof(copy)))
		return -EINVAL;
	memcpy(copy, f->config, sizeof(copy));
	put16(copy + PCI_VENDOR_ID, f->vendor);
	put16(copy + PCI_DEVICE_ID, f->device);
	put16(copy + PCI_SUBSYSTEM_VENDOR_ID, f->subsystem_vendor);
	put16(copy + PCI_SUBSYSTEM_ID, f->subsystem);
	memcpy(buf, copy + off, len);
	return 0;
}

static void find_caps(struct vf_view *v)
{
	struct vf_caps_source src = { .read = read_config, .opaque = &v->pci };
	struct diag d = { "" };

	for (unsigned int i = 0; i < VF_BARS; i++)
		src.bar_size[i] = v->pci.bar_mem[i] ? v->pci.bar_size[i] : 0;
	if (v->pci.config_size < SYSFS_PCI_CONFIG) {
		snprintf(v->remark, sizeof(v->remark), "its capabilities are shown to root only");
		return;
	}
	v->has_caps = !vf_caps_find(&v->caps, &src, &d);
	if (!v->has_caps)
		snprintf(v->why, sizeof(v->why), "%s", d.text);
}

/*
 * The features that the host's driver and the function have agreed upon: "0" and "1", bit 0 first.
 */
static void read_negotiated(int root, struct vf_view *v)
{
	struct sysfs_names names;
	char bits[80];

	sysfs_list(root, &names, "sys/bus/pci/devices/%s", v->pci.address);
	for (unsigned int i = 0; i < names.n; i++) {
		if (strncmp(names.name[i], "virtio", 6) ||
		    sysfs_text(root, bits, sizeof(bits), "sys/bus/pci/devices/%s/%s/features",
			       v->pci.address, names.name[i]))
			continue;
		v->has_negotiated = true;
		for (unsigned int b = 0; b < 64 && bits[b]; b++)
			v->negotiated |= (uint64_t)(bits[b] == '1') << b;
	}
	sysfs_names_free(&names);
}

/* --- doorbells ------------------------------------------------------------------------------- */

static bool maps(const struct vf_view *v, uint64_t page)
{
	for (unsigned int i = 0; i < v->answers.nareas; i++)
		if (range_within(page, PAGE_SIZE_4K, v->answers.areas[i].offset,
				 v->answers.areas[i].size))
			return true;
	return !v->asked;
}

/* True if the page may be a guest's; why says what is against it. */
static bool page_is_clean(const struct vf_view *v, uint64_t page, char *why, size_t size)
{
	const struct vf_place *notify = &v->caps.notify;
	enum vf_page kind = vf_caps_page(&v->caps, page);

	if (kind == VF_PAGE_PARTLY)
		snprintf(why, size,
			 "the doorbells' structure (0x%llx bytes at 0x%llx) does not fill the page "
			 "at 0x%llx",
			 (unsigned long long)notify->length, (unsigned long long)notify->offset,
			 (unsigned long long)page);
	else if (kind != VF_PAGE_DOORBELLS)
		snprintf(why, size, "%s share the page of the doorbells at 0x%llx",
			 kind == VF_PAGE_MSIX ? "the MSI-X table" : "other registers",
			 (unsigned long long)page);
	else if (!maps(v, page))
		snprintf(why, size, "VFIO does not map the page of the doorbells at 0x%llx",
			 (unsigned long long)page);
	else
		return true;
	return false;
}

static void judge_queues(struct vf_view *v)
{
	unsigned int n =
		v->answers.nqueues < VF_ASKED_QUEUES ? v->answers.nqueues : VF_ASKED_QUEUES;
	unsigned int clean = 0;
	uint64_t at;

	for (unsigned int q = 0; q < n; q++) {
		if (vf_caps_doorbell(&v->caps, v->answers.notify_off[q], &at))
			snprintf(
				v->doorbells_why, sizeof(v->doorbells_why),
				"the doorbell of queue %u lies outside of the doorbells' structure",
				q);
		else
			clean += page_is_clean(v, align_down(at, (uint64_t)PAGE_SIZE_4K),
					       v->doorbells_why, sizeof(v->doorbells_why));
	}
	if (clean == n)
		snprintf(v->doorbells, sizeof(v->doorbells), "mapped");
	else if (clean)
		snprintf(v->doorbells, sizeof(v->doorbells), "%u of %u", clean, n);
	else
		snprintf(v->doorbells, sizeof(v->doorbells), "trapped");
}

/* Where each queue's doorbell is, only the function tells: here all pages must do, or none. */
static void judge_unasked(struct vf_view *v)
{
	const struct vf_place *notify = &v->caps.notify;
	uint64_t first = align_down(notify->offset, (uint64_t)PAGE_SIZE_4K);
	uint64_t end = align_up(notify->offset + notify->length, (uint64_t)PAGE_SIZE_4K);
	unsigned int clean = 0, pages = 0;

	for (uint64_t page = first; page < end && pages < VF_ASKED_QUEUES; page += PAGE_SIZE_4K) {
		clean += page_is_clean(v, page, v->doorbells_why, sizeof(v->doorbells_why));
		pages++;
	}
	snprintf(v->doorbells, sizeof(v->doorbells), "%s",
		 clean == pages ? "mapped"
		 : clean	? "?"
				: "trapped");
}

/* --- the ladders ----------------------------------------------------------------------------- */

/* In the order of the rungs: what a function can do best it is asked for first. */
static void judge_ladders(struct vf_view *v)
{
	uint16_t wanted = v->device_id == VIRTIO_ID_NET ? IFCVF_NET : IFCVF_DISK;
	bool ifcvf = v->pci.subsystem_vendor == IFCVF_VENDOR && v->pci.subsystem == wanted;

	v->dirty = !v->asked ? "?" : v->answers.dma_log ? "dma-log" : "relay";
	v->restore = v->asked && v->answers.mig_flags ? "vfio"
		     : ifcvf			      ? "registers"
		     : v->asked			      ? "relay"
						      : "?";
}

/* --- the verdict ----------------------------------------------------------------------------- */

/* What unvmm answers by itself, or what any function stands: ORDER_PLATFORM, GUEST_ANNOUNCE. */
static uint64_t ours(uint16_t device_id)
{
	return 1ull << VIRTIO_F_ORDER_PLATFORM |
	       (device_id == VIRTIO_ID_NET ? 1ull << VIRTIO_NET_F_GUEST_ANNOUNCE : 0);
}

/* Fills why when the function is refused, remark when it needs a key in the guest's file. */
static bool lacks_features(struct vf_view *v)
{
	const struct vf_answers *a = &v->answers;
	uint64_t lacks = offer_lacks(v->device_id, a->features | ours(v->device_id));

	if (!v->asked)
		return false;
	if (!(a->features & 1ull << VIRTIO_F_VERSION_1))
		snprintf(v->why, sizeof(v->why), "it does not offer VERSION_1: legacy only");
	else if (!(a->features & 1ull << VIRTIO_F_ACCESS_PLATFORM))
		snprintf(v->why, sizeof(v->why),
			 "it does not offer ACCESS_PLATFORM, so it may go around the IOMMU; "
			 "unsafe_no_access_platform = true takes it all the same");
	else if (a->queue_size < offer_queue_size(v->device_id))
		snprintf(v->why, sizeof(v->why), "its queues have at most %u entries; %s has %u",
			 a->queue_size, OFFER_NAME, offer_queue_size(v->device_id));
	else if (lacks)
		snprintf(v->remark, sizeof(v->remark),
			 "it lacks %s of %s: the guest's file must say offer = \"native\"",
			 offer_name(v->device_id, (unsigned int)__builtin_ctzll(lacks)),
			 OFFER_NAME);
	return *v->why;
}

static void judge(int root, struct vf_view *v)
{
	bool bound = sysfs_pci_has_vfio(&v->pci);
	char blockers[256];
	struct diag d = { "" };

	v->verdict = VF_NO;
	if (*v->why)
		return;
	if (v->device_id != VIRTIO_ID_NET && v->device_id != VIRTIO_ID_BLOCK)
		snprintf(v->why, sizeof(v->why), "unvmm assigns net and block functions only");
	else if (v->pci.group < 0)
		snprintf(v->why, sizeof(v->why),
			 "it is in no IOMMU group: there is no IOMMU, or it is "
			 "switched off");
	else if (sysfs_pci_is_noiommu(root, &v->pci))
		snprintf(v->why, sizeof(v->why),
			 "there is no IOMMU before it (VFIO's no-IOMMU mode), so it reaches all of "
			 "this host's memory");
	else if (sysfs_pci_group_blockers(root, &v->pci, NULL, 0, blockers, sizeof(blockers)))
		snprintf(v->why, sizeof(v->why),
			 "its IOMMU group %d is not viable: the host has %s of it", v->pci.group,
			 blockers);
	else if (!lacks_features(v)) {
		v->verdict = bound ? VF_YES : VF_BIND;
		if (!bound && sysfs_pci_in_use(root, &v->pci, &d)) {
			v->verdict = VF_NO;
			snprintf(v->why, sizeof(v->why), "%s", d.text);
		}
	}
}

void vf_look(int root, struct vf_view *v, const struct sysfs_pci *f, bool ask)
{
	bool bound = sysfs_pci_has_vfio(f);
	struct diag d = { "" };

	*v = (struct vf_view){ .pci = *f, .device_id = vf_device_id(f) };
	v->type = vf_type(v->device_id);
	find_caps(v);
	if (v->has_caps && bound && ask) {
		v->asked = !vf_ask(&v->answers, f, &v->caps, &d);
		if (!v->asked)
			snprintf(v->remark, sizeof(v->remark), "%s", d.text);
	} else if (v->has_caps && !*v->remark) {
		snprintf(v->remark, sizeof(v->remark),
			 bound ? "what \"?\" stands for only the function itself tells"
			       : "what \"?\" stands for is known when it is bound to vfio-pci");
	}
	read_negotiated(root, v);
	snprintf(v->doorbells, sizeof(v->doorbells), "?");
	if (v->has_caps && v->asked)
		judge_queues(v);
	else if (v->has_caps)
		judge_unasked(v);
	judge_ladders(v);
	judge(root, v);
}
