/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_function.c - the registers of a virtio function behind a VF backend, and what the function is
 * and has. The vf thread: every call here may block for VF_CALL_MS.
 */
#include "vf_dev.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#define POLL_NS 50000

/* --- registers ------------------------------------------------------------------------------- */

static int place_read(struct vf_function *fn, const struct vf_place *p, unsigned int off, void *buf,
		      unsigned int len)
{
	if (!range_within(off, len, 0, p->length))
		return -EINVAL;
	return fn->vf->ops->region_read(fn->vf, p->bar, p->offset + off, buf, len);
}

int vf_reg_read(struct vf_function *fn, unsigned int off, unsigned int len, uint32_t *value,
		struct diag *d)
{
	uint32_t v = 0;
	int err = place_read(fn, &fn->caps.common, off, &v, len);

	if (err)
		return diag_errno(d, err, "its register 0x%x cannot be read", off);
	*value = le32toh(v);
	return 0;
}

int vf_reg_write(struct vf_function *fn, unsigned int off, unsigned int len, uint32_t value,
		 struct diag *d)
{
	const struct vf_place *p = &fn->caps.common;
	uint32_t v = htole32(value);
	int err = fn->vf->ops->region_write(fn->vf, p->bar, p->offset + off, &v, len);

	return err ? diag_errno(d, err, "its register 0x%x cannot be written", off) : 0;
}

static int all_ones(struct diag *d)
{
	return diag_set(
		d, -ENODEV,
		"it answers all-ones: it is gone from its bus, or in reset; look at it with "
		"'lspci -vv', and start the guest or its driver again when it is back");
}

/* No device sets all bits of the status: 0xff is what a bus answers for one that is not there. */
int vf_status(struct vf_function *fn, uint8_t *status, struct diag *d)
{
	uint32_t v;
	int err = vf_reg_read(fn, VIRTIO_PCI_COMMON_STATUS, 1, &v, d);

	if (err)
		return err;
	if (v == 0xff)
		return all_ones(d);
	*status = (uint8_t)v;
	return 0;
}

int vf_function_blame(struct vf_function *fn, int err, struct diag *d)
{
	struct diag gone = { "" };
	uint8_t status;

	if (!err)
		return 0;
	if (vf_gone(fn->vf))
		diag_set(&gone, -ENODEV, "it is gone: %s; look at the log of what serves it",
			 fn->vf->why);
	else if (vf_status(fn, &status, &gone) != -ENODEV)
		return err;
	if (d)
		*d = gone;
	return -ENODEV;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int vf_function_reset(struct vf_function *fn, struct diag *d)
{
	const struct timespec pause = { .tv_nsec = POLL_NS };
	uint64_t until = now_ms() + VF_STOP_MS;
	uint8_t status = 0;
	int err = vf_reg_write(fn, VIRTIO_PCI_COMMON_STATUS, 1, 0, d);

	while (!err) {
		err = vf_status(fn, &status, d);
		if (err || !status)
			return err;
		if (now_ms() >= until)
			return diag_set(d, -ETIMEDOUT,
					"it does not confirm a reset within %u s (status 0x%02x)",
					VF_STOP_MS / 1000, status);
		if (__atomic_load_n(&fn->cancel, __ATOMIC_RELAXED))
			return diag_set(d, -ECANCELED, "its reset is not wanted any more");
		nanosleep(&pause, NULL);
	}
	return err;
}

int vf_bus_master(struct vf_function *fn, bool on, struct diag *d)
{
	const struct vf_ops *ops = fn->vf->ops;
	uint16_t old, command;
	int err = ops->region_read(fn->vf, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, &old,
				   sizeof(old));

	if (!err && old == 0xffff)
		return all_ones(d);
	if (!err) {
		command = le16toh(old) | PCI_COMMAND_MEMORY;
		command =
			on ? command | PCI_COMMAND_MASTER : command & (uint16_t)~PCI_COMMAND_MASTER;
		command = htole16(command);
		if (command != old)
			err = ops->region_write(fn->vf, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND,
						&command, sizeof(command));
	}
	return err ? diag_errno(d, err, "bus mastering cannot be switched %s", on ? "on" : "off")
		   : 0;
}

int vf_function_kick(struct vf_function *fn, uint16_t index, uint16_t notify_off)
{
	uint16_t v = htole16(index);
	uint64_t at;
	int err = vf_caps_doorbell(&fn->caps, notify_off, &at);

	return err ? err
		   : fn->vf->ops->region_write(fn->vf, fn->caps.notify.bar, at, &v, sizeof(v));
}

/* --- what it is ------------------------------------------------------------------------------ */

static int read_config_space(void *opaque, unsigned int off, void *buf, unsigned int len)
{
	struct vf *vf = opaque;

	return vf->ops->region_read(vf, VFIO_PCI_CONFIG_REGION_INDEX, off, buf, len);
}

static int find_caps(struct vf_function *fn, struct diag *d)
{
	struct vf_caps_source src = { .read = read_config_space, .opaque = fn->vf };
	int err;

	for (unsigned int i = 0; i < VF_BARS; i++)
		src.bar_size[i] = fn->vf->info.regions[i].size;
	err = vf_caps_find(&fn->caps, &src, d);
	if (err)
		return err;
	/* What can be wired counts: a backend may know of fewer vectors than the capability. */
	if (fn->caps.nvectors > fn->vf->info.nvectors)
		fn->caps.nvectors = (uint16_t)fn->vf->info.nvectors;
	if (!fn->caps.nvectors)
		return diag_set(d, -ENOTSUP, "its MSI-X vectors cannot be used");
	return 0;
}

static int read_features(struct vf_function *fn, struct diag *d)
{
	fn->features = 0;
	for (unsigned int word = 0; word < 2; word++) {
		uint32_t v;
		int err = vf_reg_write(fn, VIRTIO_PCI_COMMON_DFSELECT, 4, word, d);

		if (!err)
			err = vf_reg_read(fn, VIRTIO_PCI_COMMON_DF, 4, &v, d);
		if (err)
			return err;
		fn->features |= (uint64_t)v << (32 * word);
	}
	return 0;
}

int vf_function_queue(struct vf_function *fn, uint16_t index, struct vf_fn_queue *q, struct diag *d)
{
	uint32_t size, notify_off;
	uint64_t at;
	int err = vf_reg_write(fn, VIRTIO_PCI_COMMON_Q_SELECT, 2, index, d);

	if (!err)
		err = vf_reg_read(fn, VIRTIO_PCI_COMMON_Q_SIZE, 2, &size, d);
	if (!err)
		err = vf_reg_read(fn, VIRTIO_PCI_COMMON_Q_NOFF, 2, &notify_off, d);
	if (err)
		return err;
	if (size && (!is_power_of_2(size) || size > 32768))
		return diag_set(
			d, -EINVAL,
			"its queue %u has %u entries; powers of two up to 32768 are possible",
			index, size);
	if (size && vf_caps_doorbell(&fn->caps, (uint16_t)notify_off, &at))
		return diag_set(d, -EINVAL,
				"the doorbell of its queue %u (offset %u) lies behind its notify "
				"structure of 0x%llx bytes",
				index, notify_off, (unsigned long long)fn->caps.notify.length);
	q->size_max = (uint16_t)size;
	q->notify_off = (uint16_t)notify_off;
	return 0;
}

static int read_queues(struct vf_function *fn, struct diag *d)
{
	uint32_t n;
	int err = vf_reg_read(fn, VIRTIO_PCI_COMMON_NUMQ, 2, &n, d);

	if (err)
		return err;
	if (!n)
		return diag_set(d, -EINVAL, "it has no queues");
	fn->nqueues = (uint16_t)n;
	for (uint16_t q = 0; q < n && q < VDEV_QUEUES_MAX && !err; q++)
		err = vf_function_queue(fn, q, &fn->queues[q], d);
	return err;
}

int vf_function_probe(struct vf_function *fn, struct diag *d)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE;
	int err = find_caps(fn, d);

	if (!err)
		err = vf_function_reset(fn, d);
	if (!err)
		err = vf_reg_write(fn, VIRTIO_PCI_COMMON_STATUS, 1, status, d);
	status |= VIRTIO_CONFIG_S_DRIVER;
	if (!err)
		err = vf_reg_write(fn, VIRTIO_PCI_COMMON_STATUS, 1, status, d);
	if (!err)
		err = read_features(fn, d);
	if (!err)
		err = read_queues(fn, d);
	fn->ring_index = !err && vf_vendor_find(fn);
	return err;
}
