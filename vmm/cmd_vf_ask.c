/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_vf_ask.c - opens a function that vfio-pci has and asks it what only it knows: features,
 * queues, where each doorbell is, and what its driver can do for a migration. It is the function's
 * only user while it does so, and sets no status bit: the next user finds it reset. Main thread.
 */
#include "cmd_vf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <linux/virtio_pci.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define REGION_INFO_MAX 4096

struct asking {
	int container, group, device;
	uint64_t common; /* of the common configuration, from the start of the device's file */
	struct diag *d;
	const struct sysfs_pci *f;
};

static int group_refused(struct asking *a, const char *node, int err)
{
	if (err == -EBUSY)
		return diag_set(a->d, err, "a guest or another process has its group open (%s)",
				node);
	if (err == -EACCES || err == -EPERM)
		return diag_set(
			a->d, err,
			"%s may not be opened: 'chown USER %s' gives the function to a user", node,
			node);
	return diag_errno(a->d, err, "%s cannot be opened", node);
}

static int open_group(struct asking *a)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	char node[64];

	snprintf(node, sizeof(node), "/dev/vfio/%d", a->f->group);
	a->group = open(node, O_RDWR | O_CLOEXEC);
	if (a->group < 0)
		return group_refused(a, node, -errno);
	a->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (a->container < 0)
		return diag_errno(a->d, -errno, "/dev/vfio/vfio cannot be opened");
	if (ioctl(a->group, VFIO_GROUP_GET_STATUS, &status) < 0 ||
	    !(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return diag_set(a->d, -EPERM, "its IOMMU group %d is not viable", a->f->group);
	if (ioctl(a->group, VFIO_GROUP_SET_CONTAINER, &a->container) < 0 ||
	    ioctl(a->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0)
		return diag_errno(a->d, -errno, "VFIO gives its group no IOMMU");
	a->device = ioctl(a->group, VFIO_GROUP_GET_DEVICE_FD, a->f->address);
	return a->device < 0 ? diag_errno(a->d, -errno, "VFIO does not open it") : 0;
}

/* A region with its capabilities; NULL when there is none. The caller frees. */
static struct vfio_region_info *region(const struct asking *a, uint32_t index)
{
	struct vfio_region_info *r = calloc(1, REGION_INFO_MAX);

	if (!r)
		return NULL;
	*r = (struct vfio_region_info){ .argsz = REGION_INFO_MAX, .index = index };
	if (ioctl(a->device, VFIO_DEVICE_GET_REGION_INFO, r) < 0 || !r->size ||
	    r->argsz > REGION_INFO_MAX) {
		free(r);
		return NULL;
	}
	return r;
}

static void add_area(struct vf_answers *out, uint64_t offset, uint64_t size)
{
	if (out->nareas < VF_ASKED_AREAS) {
		out->areas[out->nareas].offset = offset;
		out->areas[out->nareas++].size = size;
	}
}

/* The kernel made this list; it is walked with care all the same. */
static void find_areas(struct vf_answers *out, const struct vfio_region_info *r)
{
	uint32_t at = r->flags & VFIO_REGION_INFO_FLAG_CAPS ? r->cap_offset : 0;
	struct vfio_region_info_cap_sparse_mmap sparse;
	struct vfio_region_sparse_mmap_area area;

	if (!(r->flags & VFIO_REGION_INFO_FLAG_MMAP))
		return;
	for (int i = 0; at && i < 64 && at <= r->argsz - sizeof(sparse); i++) {
		const uint8_t *p = (const uint8_t *)r + at;

		memcpy(&sparse, p, sizeof(sparse));
		at = sparse.header.next;
		if (sparse.header.id != VFIO_REGION_INFO_CAP_SPARSE_MMAP)
			continue;
		p += sizeof(sparse);
		for (uint32_t j = 0; j < sparse.nr_areas; j++, p += sizeof(area)) {
			if (p + sizeof(area) > (const uint8_t *)r + r->argsz)
				return;
			memcpy(&area, p, sizeof(area));
			add_area(out, area.offset, area.size);
		}
		return;
	}
	add_area(out, 0, r->size);
}

/* Little-endian registers on a little-endian host. */
static uint32_t get(struct asking *a, unsigned int reg, unsigned int len, int *err)
{
	uint32_t v = 0;

	if (pread(a->device, &v, len, (off_t)(a->common + reg)) != (ssize_t)len)
		*err = -EIO;
	return v;
}

static void set(struct asking *a, unsigned int reg, uint32_t v, unsigned int len, int *err)
{
	if (pwrite(a->device, &v, len, (off_t)(a->common + reg)) != (ssize_t)len)
		*err = -EIO;
}

static int ask_registers(struct asking *a, struct vf_answers *out)
{
	int err = 0;

	set(a, VIRTIO_PCI_COMMON_DFSELECT, 0, 4, &err);
	out->features = get(a, VIRTIO_PCI_COMMON_DF, 4, &err);
	set(a, VIRTIO_PCI_COMMON_DFSELECT, 1, 4, &err);
	out->features |= (uint64_t)get(a, VIRTIO_PCI_COMMON_DF, 4, &err) << 32;
	out->nqueues = get(a, VIRTIO_PCI_COMMON_NUMQ, 2, &err);
	if (err || (out->features == UINT64_MAX && out->nqueues == 0xffff))
		return diag_set(a->d, -EIO, "it answers all-ones, as a function that is gone");
	for (unsigned int q = 0; q < out->nqueues && q < VF_ASKED_QUEUES && !err; q++) {
		set(a, VIRTIO_PCI_COMMON_Q_SELECT, q, 2, &err);
		if (!q)
			out->queue_size = (uint16_t)get(a, VIRTIO_PCI_COMMON_Q_SIZE, 2, &err);
		out->notify_off[q] = (uint16_t)get(a, VIRTIO_PCI_COMMON_Q_NOFF, 2, &err);
	}
	return err ? diag_set(a->d, err, "its registers cannot be read") : 0;
}

/* Registers answer only while memory decoding is on. */
static int ask_function(struct asking *a, struct vf_answers *out, const struct vf_caps *caps)
{
	struct vfio_region_info *config = region(a, VFIO_PCI_CONFIG_REGION_INDEX);
	struct vfio_region_info *common = region(a, caps->common.bar);
	struct vfio_region_info *notify = region(a, caps->notify.bar);
	uint16_t command;
	int err = -EIO;

	if (!config || !common || !notify ||
	    !range_within(caps->common.offset, caps->common.length, 0, common->size)) {
		diag_set(a->d, err, "VFIO does not show its BARs");
	} else {
		off_t at = (off_t)(config->offset + PCI_COMMAND);

		find_areas(out, notify);
		a->common = common->offset + caps->common.offset;
		if (pread(a->device, &command, 2, at) == 2) {
			command |= PCI_COMMAND_MEMORY;
			if (pwrite(a->device, &command, 2, at) == 2)
				err = 0;
		}
		err = err ? diag_set(a->d, err, "its memory decoding cannot be switched on")
			  : ask_registers(a, out);
	}
	free(config);
	free(common);
	free(notify);
	return err;
}

static bool has_feature(const struct asking *a, uint32_t what)
{
	struct vfio_device_feature f = { .argsz = sizeof(f),
					 .flags = VFIO_DEVICE_FEATURE_PROBE | what };

	return !ioctl(a->device, VFIO_DEVICE_FEATURE, &f);
}

/* The answer to VFIO_DEVICE_FEATURE_MIGRATION stands behind the question. */
static void ask_migration(struct asking *a, struct vf_answers *out)
{
	union {
		struct vfio_device_feature f;
		uint8_t room[sizeof(struct vfio_device_feature) +
			     sizeof(struct vfio_device_feature_migration)];
	} q = { .f = { .argsz = sizeof(q),
		       .flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION } };
	struct vfio_device_feature_migration m;

	if (!ioctl(a->device, VFIO_DEVICE_FEATURE, &q)) {
		memcpy(&m, q.room + sizeof(q.f), sizeof(m));
		out->mig_flags = m.flags;
	}
	out->dma_log =
		has_feature(a, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START);
}

int vf_ask(struct vf_answers *out, const struct sysfs_pci *f, const struct vf_caps *caps,
	   struct diag *d)
{
	struct asking a = { .container = -1, .group = -1, .device = -1, .d = d, .f = f };
	int err = open_group(&a);

	*out = (struct vf_answers){ 0 };
	if (!err)
		err = ask_function(&a, out, caps);
	if (!err)
		ask_migration(&a, out);
	if (a.device >= 0)
		close(a.device);
	if (a.group >= 0)
		close(a.group);
	if (a.container >= 0)
		close(a.container);
	return err;
}
