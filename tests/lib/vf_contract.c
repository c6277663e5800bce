/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_contract.c - the contract of unvmm/vf.h as checks over an opened function, see vf_contract.h.
 */
#include "vf_contract.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include <unvmm/platform.h>

#define CFG VFIO_PCI_CONFIG_REGION_INDEX

/* The IOVAs of the memory checks: above guest RAM of any test, below 39 bits. */
#define IOVA GiB(64)

/* An event is there by then. */
#define EVENT_S 30

#define FAIL(c, ...) (snprintf((c)->why, sizeof((c)->why), __VA_ARGS__), false)

/* One call and what it has to return. */
#define EXPECT(c, call, want)                                                    \
	do {                                                                     \
		int got_ = (call);                                               \
		if (got_ != (want))                                              \
			return FAIL(c, "%s is %d, not %d", #call, got_, (want)); \
	} while (0)

#define REQUIRE(c, cond)                                     \
	do {                                                 \
		if (!(cond))                                 \
			return FAIL(c, "not so: %s", #cond); \
	} while (0)

static int rd(struct vf_contract *c, unsigned int region, uint64_t off, void *buf, unsigned int len)
{
	return c->vf->ops->region_read(c->vf, region, off, buf, len);
}

static int wr(struct vf_contract *c, unsigned int region, uint64_t off, const void *buf,
	      unsigned int len)
{
	return c->vf->ops->region_write(c->vf, region, off, buf, len);
}

/* --- what open said -------------------------------------------------------------------------- */

static bool check_region(struct vf_contract *c, const struct vf_region *r)
{
	uint64_t end = 0;

	REQUIRE(c, r->nareas <= VF_AREAS_MAX);
	for (unsigned int i = 0; i < r->nareas; i++) {
		const struct vf_area *a = &r->areas[i];

		REQUIRE(c, a->size && (a->offset | a->size) % PAGE_SIZE_4K == 0);
		REQUIRE(c, a->offset >= end);
		REQUIRE(c, range_within(a->offset, a->size, 0, r->size));
		end = a->offset + a->size;
	}
	return true;
}

static bool info(struct vf_contract *c)
{
	const struct vf_info *i = &c->vf->info;

	REQUIRE(c, c->vf->name[0] && memchr(c->vf->name, 0, VF_NAME_MAX));
	REQUIRE(c, c->vf->ops->kind && c->vf->ops->kind[0]);
	REQUIRE(c, i->regions[CFG].size == 256 || i->regions[CFG].size == 4096);
	REQUIRE(c, i->regions[CFG].readable && i->regions[CFG].writable);
	REQUIRE(c, i->nvectors <= VF_VECTORS_MAX);
	REQUIRE(c, i->niova >= 1 && i->niova <= VF_IOVA_MAX);
	for (unsigned int k = 0; k < i->niova; k++) {
		REQUIRE(c, i->iova[k].first <= i->iova[k].last);
		REQUIRE(c, !k || i->iova[k].first > i->iova[k - 1].last);
	}
	for (unsigned int k = 0; k < VF_REGIONS; k++)
		if (!check_region(c, &i->regions[k]))
			return false;
	return true;
}

static bool iova_usable(struct vf_contract *c)
{
	struct vf_info i = { .niova = 2, .iova = { { 0, 0xfffff }, { 0x200000, UINT64_MAX } } };

	REQUIRE(c, vf_iova_usable(&i, 0, 0x100000));
	REQUIRE(c, !vf_iova_usable(&i, 0, 0x100001));
	REQUIRE(c, !vf_iova_usable(&i, 0x1000, 0));
	REQUIRE(c, !vf_iova_usable(&i, 0x100000, 0x1000));
	REQUIRE(c, vf_iova_usable(&i, UINT64_MAX - 0xfff, 0x1000));
	REQUIRE(c, !vf_iova_usable(&i, UINT64_MAX - 0xfff, 0x1001));
	return true;
}

/* --- registers ------------------------------------------------------------------------------- */

static bool bounds(struct vf_contract *c)
{
	static uint8_t buf[2 * PAGE_SIZE_4K];

	for (unsigned int r = 0; r <= VF_REGIONS; r++) {
		uint64_t size = r < VF_REGIONS ? c->vf->info.regions[r].size : 0;

		EXPECT(c, rd(c, r, size, buf, 1), -EINVAL);
		EXPECT(c, wr(c, r, size, buf, 1), -EINVAL);
		EXPECT(c, rd(c, r, size - 1, buf, 2), -EINVAL);
		EXPECT(c, wr(c, r, size - 1, buf, 2), -EINVAL);
		EXPECT(c, rd(c, r, UINT64_MAX, buf, 4), -EINVAL);
		EXPECT(c, rd(c, r, UINT64_MAX - 3, buf, 4), -EINVAL);
		EXPECT(c, rd(c, r, 0, buf, 0), -EINVAL);
		EXPECT(c, wr(c, r, 0, buf, 0), -EINVAL);
		EXPECT(c, rd(c, r, 0, buf, 4097), -EINVAL);
		EXPECT(c, wr(c, r, 0, buf, 4097), -EINVAL);
	}
	return true;
}

/* The first capability of the kind, and that the chain ends. */
static bool find_cap(struct vf_contract *c, const uint8_t *cfg, uint8_t type, unsigned int *bar,
		     uint64_t *off)
{
	uint8_t at = cfg[PCI_CAPABILITY_LIST];

	*bar = VF_REGIONS;
	for (int left = 48; at; left--, at = cfg[at + PCI_CAP_LIST_NEXT]) {
		struct virtio_pci_cap cap;

		if (!left || at > 256 - sizeof(cap))
			return FAIL(c, "the chain of PCI capabilities does not end");
		memcpy(&cap, cfg + at, sizeof(cap));
		if (cap.cap_vndr != PCI_CAP_ID_VNDR || cap.cfg_type != type || cap.bar > 5)
			continue;
		*bar = cap.bar;
		*off = cap.offset;
		return true;
	}
	return FAIL(c, "it has no virtio capability %u", type);
}

static bool config_space(struct vf_contract *c)
{
	uint8_t cfg[256], byte;
	uint16_t word, command;
	uint32_t dword;
	uint64_t qword;

	EXPECT(c, rd(c, CFG, 0, cfg, sizeof(cfg)), 0);
	EXPECT(c, rd(c, CFG, 0, &byte, 1), 0);
	EXPECT(c, rd(c, CFG, 0, &word, 2), 0);
	EXPECT(c, rd(c, CFG, 0, &dword, 4), 0);
	EXPECT(c, rd(c, CFG, 0, &qword, 8), 0);
	REQUIRE(c, word == 0x1af4 && byte == 0xf4 && (uint16_t)dword == word);
	REQUIRE(c, (uint32_t)qword == dword && !memcmp(cfg, &qword, 8));
	REQUIRE(c, dword >> 16 >= 0x1040 && dword >> 16 < 0x1080);
	memcpy(&command, cfg + PCI_COMMAND, 2);
	REQUIRE(c, command & PCI_COMMAND_MEMORY && !(command & PCI_COMMAND_MASTER));
	word = command | PCI_COMMAND_MASTER;
	EXPECT(c, wr(c, CFG, PCI_COMMAND, &word, 2), 0);
	EXPECT(c, rd(c, CFG, PCI_COMMAND, &word, 2), 0);
	REQUIRE(c, word == (command | PCI_COMMAND_MASTER));
	EXPECT(c, wr(c, CFG, PCI_COMMAND, &command, 2), 0);
	EXPECT(c, rd(c, CFG, PCI_COMMAND, &word, 2), 0);
	REQUIRE(c, word == command);
	return find_cap(c, cfg, VIRTIO_PCI_CAP_COMMON_CFG, &c->common_bar, &c->common) &&
	       find_cap(c, cfg, VIRTIO_PCI_CAP_NOTIFY_CFG, &c->notify_bar, &c->notify);
}

static int get_status(struct vf_contract *c, uint8_t *status)
{
	return rd(c, c->common_bar, c->common + VIRTIO_PCI_COMMON_STATUS, status, 1);
}

static int set_status(struct vf_contract *c, uint8_t status)
{
	return wr(c, c->common_bar, c->common + VIRTIO_PCI_COMMON_STATUS, &status, 1);
}

static bool status_register(struct vf_contract *c)
{
	uint8_t status = 0xff;
	uint16_t queues = 0, select = 1, read = 0;

	REQUIRE(c, c->common_bar < VF_REGIONS);
	EXPECT(c, get_status(c, &status), 0);
	REQUIRE(c, status == 0);
	EXPECT(c, set_status(c, 1), 0);
	EXPECT(c, get_status(c, &status), 0);
	REQUIRE(c, status == 1);
	EXPECT(c, rd(c, c->common_bar, c->common + VIRTIO_PCI_COMMON_NUMQ, &queues, 2), 0);
	REQUIRE(c, queues >= 1);
	EXPECT(c, wr(c, c->common_bar, c->common + VIRTIO_PCI_COMMON_Q_SELECT, &select, 2), 0);
	EXPECT(c, rd(c, c->common_bar, c->common + VIRTIO_PCI_COMMON_Q_SELECT, &read, 2), 0);
	REQUIRE(c, read == select);
	EXPECT(c, set_status(c, 0), 0);
	for (int i = 0; i < 1000 && !get_status(c, &status) && status; i++)
		usleep(1000);
	REQUIRE(c, status == 0);
	return true;
}

static int map(struct vf_contract *c, unsigned int r, uint64_t off, uint64_t len)
{
	void *at = MAP_FAILED;
	int err = c->vf->ops->region_mmap(c->vf, r, off, len, &at);

	if (!err)
		munmap(at, len);
	return err;
}

static bool mmap_areas(struct vf_contract *c)
{
	for (unsigned int r = 0; r < VF_REGIONS; r++) {
		const struct vf_region *reg = &c->vf->info.regions[r];
		uint64_t at = 0;

		for (unsigned int i = 0; i < reg->nareas; i++) {
			const struct vf_area *a = &reg->areas[i];

			EXPECT(c, map(c, r, a->offset, a->size), 0);
			EXPECT(c, map(c, r, a->offset, PAGE_SIZE_4K), 0);
			EXPECT(c, map(c, r, a->offset, 0), -EINVAL);
			EXPECT(c, map(c, r, a->offset, 100), -EINVAL);
			EXPECT(c, map(c, r, a->offset + 1, PAGE_SIZE_4K), -EINVAL);
			if (a->offset > at)
				EXPECT(c, map(c, r, at, PAGE_SIZE_4K), -EINVAL);
			at = a->offset + a->size;
		}
		EXPECT(c, map(c, r, at, PAGE_SIZE_4K), -EINVAL);
		EXPECT(c, map(c, r, UINT64_MAX - 4095, PAGE_SIZE_4K), -EINVAL);
	}
	EXPECT(c, map(c, VF_REGIONS, 0, PAGE_SIZE_4K), -EINVAL);
	return true;
}

static bool doorbell(struct vf_contract *c)
{
	const struct vf_ops *ops = c->vf->ops;
	int fd = -1, again = -1, err;

	REQUIRE(c, c->notify_bar < VF_REGIONS);
	EXPECT(c,
	       ops->doorbell_fd(c->vf, c->notify_bar, c->vf->info.regions[c->notify_bar].size, 2, 0,
				&fd),
	       -EINVAL);
	err = ops->doorbell_fd(c->vf, c->notify_bar, c->notify, 2, 0, &fd);
	if (err == -EOPNOTSUPP)
		return true;
	EXPECT(c, err, 0);
	REQUIRE(c, fd >= 0);
	/* Asked again, at the next start of the queue: not one more each time. */
	EXPECT(c, ops->doorbell_fd(c->vf, c->notify_bar, c->notify, 2, 0, &again), 0);
	REQUIRE(c, again == fd);
	return true;
}

/* --- interrupts ------------------------------------------------------------------------------ */

static bool irqs(struct vf_contract *c)
{
	const struct vf_ops *ops = c->vf->ops;
	unsigned int n = c->vf->info.nvectors;
	static int fds[VF_VECTORS_MAX + 1];

	for (unsigned int i = 0; i <= n; i++)
		fds[i] = -1;
	EXPECT(c, ops->irq_set(c->vf, fds, n + 1), -EINVAL);
	EXPECT(c, ops->irq_set(c->vf, NULL, 0), 0);
	if (!n)
		return true;
	for (unsigned int i = 0; i < n; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	REQUIRE(c, fds[n - 1] >= 0);
	EXPECT(c, ops->irq_set(c->vf, fds, n), 0);
	EXPECT(c, ops->irq_set(c->vf, fds, n), 0);
	close(fds[n - 1]);
	fds[n - 1] = -1;
	EXPECT(c, ops->irq_set(c->vf, fds, n), 0);
	EXPECT(c, ops->irq_set(c->vf, fds, 1), 0);
	EXPECT(c, ops->irq_set(c->vf, fds, n), 0);
	EXPECT(c, ops->irq_set(c->vf, NULL, 0), 0);
	EXPECT(c, ops->irq_set(c->vf, NULL, 0), 0);
	for (unsigned int i = 0; i + 1 < n; i++)
		close(fds[i]);
	return true;
}

/* --- memory ---------------------------------------------------------------------------------- */

static int dma(struct vf_contract *c, uint64_t iova, uint64_t size, uint64_t at)
{
	struct diag d = { "" };
	int err = c->vf->ops->dma_map(c->vf, iova, size, c->ram.base + at, c->ram.fd, at, &d);

	if (err && !d.text[0])
		return -ENOMSG; /* it fails without a sentence */
	return err;
}

static bool dma_maps(struct vf_contract *c)
{
	const struct vf_ops *ops = c->vf->ops;

	EXPECT(c, dma(c, IOVA, 0, 0), -EINVAL);
	EXPECT(c, dma(c, IOVA + 1, 0x1000, 0), -EINVAL);
	EXPECT(c, dma(c, IOVA, 0x1001, 0), -EINVAL);
	EXPECT(c, dma(c, UINT64_MAX - 0xfff, 0x2000, 0), -EINVAL);
	EXPECT(c, dma(c, IOVA, 0x4000, 0), 0);
	EXPECT(c, dma(c, IOVA, 0x4000, 0), -EEXIST);
	EXPECT(c, dma(c, IOVA + 0x3000, 0x2000, 0), -EEXIST);
	EXPECT(c, dma(c, IOVA - 0x1000, 0x2000, 0), -EEXIST);
	EXPECT(c, dma(c, IOVA + 0x1000, 0x1000, 0), -EEXIST);
	EXPECT(c, dma(c, IOVA + 0x4000, 0x1000, 0x8000), 0);
	EXPECT(c, ops->dma_unmap(c->vf, IOVA, 0x1000), -ENOENT);
	EXPECT(c, ops->dma_unmap(c->vf, IOVA, 0x5000), -ENOENT);
	EXPECT(c, ops->dma_unmap(c->vf, IOVA + 0x1000, 0x3000), -ENOENT);
	EXPECT(c, ops->dma_unmap(c->vf, IOVA, 0x4000), 0);
	EXPECT(c, ops->dma_unmap(c->vf, IOVA, 0x4000), -ENOENT);
	EXPECT(c, dma(c, IOVA, 0x2000, 0), 0);
	EXPECT(c, ops->dma_unmap(c->vf, IOVA, 0x2000), 0);
	EXPECT(c, ops->dma_unmap(c->vf, IOVA + 0x4000, 0x1000), 0);
	return true;
}

static bool ram(struct vf_contract *c)
{
	const struct vf_ops *ops = c->vf->ops;
	const struct gmem_region *last = &c->ram.regions[c->ram.nregions - 1];
	struct gmem none = c->ram;
	struct diag d = { "" };

	EXPECT(c, vf_map_ram(c->vf, &c->ram, &d), 0);
	EXPECT(c, dma(c, last->gpa, 0x1000, 0), -EEXIST);
	vf_unmap_ram(c->vf, &c->ram);
	EXPECT(c, ops->dma_unmap(c->vf, last->gpa, last->size), -ENOENT);
	/* What fails in the middle leaves nothing behind. */
	none.regions[none.nregions] =
		(struct gmem_region){ .gpa = UINT64_MAX - 0xfff, .size = 0x2000, .hva = last->hva };
	none.nregions++;
	REQUIRE(c, none.nregions <= GMEM_REGIONS_MAX);
	REQUIRE(c, vf_map_ram(c->vf, &none, &d) < 0 && d.text[0]);
	EXPECT(c, ops->dma_unmap(c->vf, last->gpa, last->size), -ENOENT);
	EXPECT(c, vf_map_ram(c->vf, &c->ram, &d), 0);
	vf_unmap_ram(c->vf, &c->ram);
	return true;
}

/* --- reset and migration --------------------------------------------------------------------- */

static bool reset(struct vf_contract *c)
{
	uint16_t vendor = 0;

	EXPECT(c, c->vf->ops->reset(c->vf), c->vf->info.can_reset ? 0 : -EOPNOTSUPP);
	EXPECT(c, rd(c, CFG, 0, &vendor, 2), 0);
	REQUIRE(c, vendor == 0x1af4);
	return true;
}

static bool no_migration(struct vf_contract *c)
{
	const struct vf_ops *ops = c->vf->ops;
	uint32_t state;
	size_t len;
	char b;

	EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_STOP), -EOPNOTSUPP);
	EXPECT(c, ops->mig_state_get(c->vf, &state), -EOPNOTSUPP);
	EXPECT(c, ops->mig_read(c->vf, &b, 1, &len), -EOPNOTSUPP);
	EXPECT(c, ops->mig_write(c->vf, &b, 1), -EOPNOTSUPP);
	return true;
}

/* Out and in again: what STOP_COPY gives, RESUMING takes. */
static bool state_transfer(struct vf_contract *c)
{
	const struct vf_ops *ops = c->vf->ops;
	size_t cap = MiB(4), total = 0, len = 1;
	uint8_t *data = malloc(cap);
	uint32_t state = 0;

	REQUIRE(c, data);
	EXPECT(c, ops->mig_state_get(c->vf, &state), 0);
	REQUIRE(c, state == VFIO_DEVICE_STATE_RUNNING);
	EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_STOP_COPY), 0);
	while (len && total < cap) {
		EXPECT(c, ops->mig_read(c->vf, data + total, cap - total, &len), 0);
		REQUIRE(c, len <= cap - total);
		total += len;
	}
	REQUIRE(c, total && total < cap);
	EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_STOP), 0);
	EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_RESUMING), 0);
	EXPECT(c, ops->mig_write(c->vf, data, total), 0);
	EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_STOP), 0);
	EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_RUNNING), 0);
	EXPECT(c, ops->mig_state_get(c->vf, &state), 0);
	REQUIRE(c, state == VFIO_DEVICE_STATE_RUNNING);
	free(data);
	return true;
}

static bool migration(struct vf_contract *c)
{
	struct vf_mig_caps caps = { .flags = ~0ull };

	EXPECT(c, c->vf->ops->mig_caps(c->vf, &caps), 0);
	return caps.flags ? state_transfer(c) : no_migration(c);
}

/* A transfer is possible only where the states say so; other states are left as they were. */
static bool migration_states(struct vf_contract *c)
{
	const struct vf_ops *ops = c->vf->ops;
	struct vf_mig_caps caps = { 0 };
	uint8_t bytes[64] = { 0 };
	uint32_t state = 0;
	size_t len = 0;

	EXPECT(c, ops->mig_caps(c->vf, &caps), 0);
	if (!caps.flags)
		return true;
	REQUIRE(c, ops->mig_read(c->vf, bytes, sizeof(bytes), &len) < 0);
	REQUIRE(c, ops->mig_write(c->vf, bytes, sizeof(bytes)) < 0);
	REQUIRE(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_ERROR) < 0);
	REQUIRE(c, ops->mig_state(c->vf, 99) < 0);
	EXPECT(c, ops->mig_state_get(c->vf, &state), 0);
	REQUIRE(c, state == VFIO_DEVICE_STATE_RUNNING);
	EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_RUNNING_P2P),
	       caps.flags & VFIO_MIGRATION_P2P ? 0 : -EINVAL);
	EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_STOP), 0);
	REQUIRE(c, ops->mig_read(c->vf, bytes, sizeof(bytes), &len) < 0);
	EXPECT(c, ops->mig_state_get(c->vf, &state), 0);
	REQUIRE(c, state == VFIO_DEVICE_STATE_STOP);
	EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_RUNNING), 0);
	if (caps.flags & VF_MIGRATION_PRE_COPY) {
		EXPECT(c, ops->mig_state(c->vf, VF_STATE_PRE_COPY), 0);
		EXPECT(c, ops->mig_read(c->vf, bytes, sizeof(bytes), &len), 0);
		REQUIRE(c, len <= sizeof(bytes));
		EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_RUNNING), 0);
	}
	return true;
}

/* Bytes that are no state: taken by nobody, or refused; and out of ERROR a reset leads. */
static bool migration_garbage(struct vf_contract *c)
{
	const struct vf_ops *ops = c->vf->ops;
	struct vf_mig_caps caps = { 0 };
	uint8_t bytes[64];
	uint32_t state = 0;
	int err;

	memset(bytes, 0xa5, sizeof(bytes));
	EXPECT(c, ops->mig_caps(c->vf, &caps), 0);
	if (!caps.flags)
		return true;
	EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_RESUMING), 0);
	err = ops->mig_write(c->vf, bytes, sizeof(bytes));
	if (!err)
		err = ops->mig_state(c->vf, VFIO_DEVICE_STATE_STOP);
	EXPECT(c, ops->mig_state_get(c->vf, &state), 0);
	REQUIRE(c, !err || state == VFIO_DEVICE_STATE_ERROR || state == VFIO_DEVICE_STATE_RESUMING);
	if (state == VFIO_DEVICE_STATE_ERROR) {
		REQUIRE(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_RUNNING) < 0);
		EXPECT(c, ops->reset(c->vf), 0);
	} else {
		EXPECT(c, ops->mig_state(c->vf, VFIO_DEVICE_STATE_RUNNING), 0);
	}
	EXPECT(c, ops->mig_state_get(c->vf, &state), 0);
	REQUIRE(c, state == VFIO_DEVICE_STATE_RUNNING);
	return true;
}

static bool dma_log(struct vf_contract *c)
{
	const struct vf_ops *ops = c->vf->ops;
	const struct gmem_region *r = &c->ram.regions[0];
	struct vf_range range = { r->gpa, r->size };
	uint64_t *bits = calloc(r->size / PAGE_SIZE_4K / 64 + 1, sizeof(*bits));
	struct vf_mig_caps caps = { 0 };
	struct diag d = { "" };

	REQUIRE(c, bits);
	EXPECT(c, ops->mig_caps(c->vf, &caps), 0);
	if (!caps.dma_log) {
		EXPECT(c, ops->log_start(c->vf, &range, 1), -EOPNOTSUPP);
		EXPECT(c, ops->log_stop(c->vf), -EOPNOTSUPP);
		EXPECT(c, ops->log_report(c->vf, r->gpa, r->size, bits), -EOPNOTSUPP);
		free(bits);
		return true;
	}
	EXPECT(c, vf_map_ram(c->vf, &c->ram, &d), 0);
	EXPECT(c, ops->log_stop(c->vf), 0);
	EXPECT(c, ops->log_start(c->vf, &range, 1), 0);
	EXPECT(c, ops->log_start(c->vf, &range, 1), 0);
	bits[0] = 1ull << 63;
	EXPECT(c, ops->log_report(c->vf, r->gpa, r->size, bits), 0);
	/* Nothing has run: nothing is dirty, and what the caller had set stays. */
	for (uint64_t i = 0; i < r->size / PAGE_SIZE_4K / 64; i++)
		REQUIRE(c, bits[i] == (i ? 0 : 1ull << 63));
	EXPECT(c, ops->log_stop(c->vf), 0);
	EXPECT(c, ops->log_stop(c->vf), 0);
	vf_unmap_ram(c->vf, &c->ram);
	free(bits);
	return true;
}

/* --- events ---------------------------------------------------------------------------------- */

static void on_request(struct vf *vf)
{
	struct vf_contract *c = vf->owner;

	__atomic_fetch_add(&c->requests, 1, __ATOMIC_RELAXED);
	sem_post(&c->told);
}

static void on_lost(struct vf *vf, const char *why)
{
	struct vf_contract *c = vf->owner;

	snprintf(c->why, sizeof(c->why), "%s", why);
	__atomic_fetch_add(&c->losses, 1, __ATOMIC_RELAXED);
	sem_post(&c->told);
}

static bool is_told(struct vf_contract *c, uint32_t index)
{
	struct timespec until;

	c->events->raise(c->events->arg, index);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += EVENT_S;
	return !sem_timedwait(&c->told, &until);
}

/* Its host asks for it, more than once, and nothing else changes; then its link fails. */
static bool events(struct vf_contract *c)
{
	struct vf *vf = c->vf;
	uint16_t v;

	if (!c->events)
		return true;
	vf->owner = c;
	vf->request = on_request;
	vf->lost = on_lost;
	for (unsigned int n = 1; n <= 2; n++) {
		REQUIRE(c, is_told(c, VFIO_PCI_REQ_IRQ_INDEX));
		REQUIRE(c, c->requests == n && !c->losses && !vf_gone(vf));
		EXPECT(c, rd(c, CFG, 0, &v, 2), 0);
	}
	REQUIRE(c, is_told(c, VFIO_PCI_ERR_IRQ_INDEX));
	REQUIRE(c, c->losses == 1 && c->requests == 2 && vf_gone(vf) && *c->why);
	EXPECT(c, rd(c, CFG, 0, &v, 2), -ENODEV);
	vf->request = NULL;
	vf->lost = NULL;
	return true;
}

const struct vf_contract_check vf_contract_checks[] = {
	{ "info", info },
	{ "iova-usable", iova_usable },
	{ "access-bounds", bounds },
	{ "config-space", config_space },
	{ "status-register", status_register },
	{ "mmap-areas", mmap_areas },
	{ "doorbell-fd", doorbell },
	{ "irq-set", irqs },
	{ "dma-map", dma_maps },
	{ "map-ram", ram },
	{ "reset", reset },
	{ "migration", migration },
	{ "migration-states", migration_states },
	{ "migration-garbage", migration_garbage },
	{ "dma-log", dma_log },
	{ "events", events },
	{ NULL, NULL },
};

/* --- running them ---------------------------------------------------------------------------- */

bool vf_contract_begin(struct vf_contract *c, struct vf *vf)
{
	*c = (struct vf_contract){ .vf = vf, .common_bar = VF_REGIONS, .notify_bar = VF_REGIONS };
	sem_init(&c->told, 0, 0);
	return !gmem_create(&c->ram, PLAT_RAM_MIN, GMEM_SHARED, NULL);
}

void vf_contract_end(struct vf_contract *c)
{
	gmem_destroy(&c->ram);
	sem_destroy(&c->told);
}

unsigned int vf_contract_run(struct vf *vf, const struct vf_contract_events *ev, const char *prefix)
{
	struct vf_contract c;
	unsigned int failed = 0;

	if (!vf_contract_begin(&c, vf)) {
		printf("not ok %s - no memory\n", prefix);
		return 1;
	}
	c.events = ev;
	for (const struct vf_contract_check *k = vf_contract_checks; k->name; k++) {
		if (k->run(&c)) {
			printf("ok %s %s\n", prefix, k->name);
			continue;
		}
		printf("not ok %s %s - %s\n", prefix, k->name, c.why);
		failed++;
	}
	vf_contract_end(&c);
	return failed;
}

unsigned int vf_contract_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}
