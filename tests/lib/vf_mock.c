/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_mock.c - a recording VF backend; the function behind it is in vf_mock_model.c. Any thread,
 * under the mock's lock.
 */
#include "vf_mock_model.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <unvmm/offer.h>

#define CFG	      VFIO_PCI_CONFIG_REGION_INDEX
#define MSIX_BAR      2
#define MSIX_BAR_SIZE 0x1000
#define INDEX_BAR     4

static struct vf_mock *of(struct vf *vf)
{
	return (struct vf_mock *)vf;
}

/* --- writing down ---------------------------------------------------------------------------- */

void vf_mock_note(struct vf_mock *m, const char *fmt, ...)
{
	char line[160];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	line[n++] = '\n';
	if (m->log_len + (size_t)n + 1 > m->log_cap) {
		m->log_cap = 2 * m->log_cap + 4096;
		m->log = realloc(m->log, m->log_cap);
		if (!m->log)
			abort();
	}
	memcpy(m->log + m->log_len, line, (size_t)n);
	m->log_len += (size_t)n;
	m->log[m->log_len] = 0;
}

char *vf_mock_take_log(struct vf_mock *m)
{
	char *copy;

	pthread_mutex_lock(&m->lock);
	copy = strdup(m->log ? m->log : "");
	m->log_len = 0;
	if (m->log)
		m->log[0] = 0;
	pthread_mutex_unlock(&m->lock);
	return copy;
}

unsigned int vf_mock_kicks(struct vf_mock *m, unsigned int q)
{
	unsigned int n;

	pthread_mutex_lock(&m->lock);
	n = m->queues[q].kicks;
	pthread_mutex_unlock(&m->lock);
	return n;
}

/* Takes the lock for a call; an error is the call's, and the lock is not held then. */
int vf_mock_enter(struct vf_mock *m)
{
	int err = 0;

	pthread_mutex_lock(&m->lock);
	m->calls++;
	if (vf_gone(&m->vf))
		err = -ENODEV;
	else if (m->calls == m->fail_at)
		err = -EIO;
	if (err)
		pthread_mutex_unlock(&m->lock);
	return err;
}

int vf_mock_leave(struct vf_mock *m, int err)
{
	pthread_mutex_unlock(&m->lock);
	return err;
}

/* --- memory and interrupts ------------------------------------------------------------------- */

void *vf_mock_dma(struct vf_mock *m, uint64_t iova, uint64_t len)
{
	for (unsigned int i = 0; i < m->nmaps; i++)
		if (range_within(iova, len, m->maps[i].iova, m->maps[i].size))
			return (uint8_t *)m->maps[i].hva + (iova - m->maps[i].iova);
	return NULL;
}

void vf_mock_signal(struct vf_mock *m, unsigned int vector)
{
	uint64_t one = 1;

	if (vector < m->nirq && m->irq[vector] >= 0 && write(m->irq[vector], &one, sizeof(one)) < 0)
		abort();
}

void vf_mock_interrupt(struct vf_mock *m, unsigned int vector)
{
	pthread_mutex_lock(&m->lock);
	vf_mock_signal(m, vector);
	pthread_mutex_unlock(&m->lock);
}

void vf_mock_config_set(struct vf_mock *m, unsigned int off, const void *bytes, unsigned int len)
{
	pthread_mutex_lock(&m->lock);
	memcpy(m->config + off, bytes, len);
	m->generation++;
	vf_mock_signal(m, m->config_vector);
	pthread_mutex_unlock(&m->lock);
}

void vf_mock_lose(struct vf_mock *m, const char *why)
{
	snprintf(m->vf.why, sizeof(m->vf.why), "%s", why);
	__atomic_store_n(&m->vf.gone, true, __ATOMIC_RELEASE);
	if (m->vf.lost)
		m->vf.lost(&m->vf, why);
}

/* --- regions --------------------------------------------------------------------------------- */

static int check_access(const struct vf_mock *m, unsigned int region, uint64_t off,
			unsigned int len)
{
	if (region >= VF_REGIONS || !len || len > 4096 || m->state == VFIO_DEVICE_STATE_STOP_COPY ||
	    !range_within(off, len, 0, m->vf.info.regions[region].size))
		return -EINVAL;
	return 0;
}

static bool in_common(unsigned int region, uint64_t off)
{
	return region == 0 && off < VM_COMMON + VM_COMMON_BYTES;
}

/* The words of the first queues, 4 bytes apart. */
static struct vf_mock_queue *index_queue(struct vf_mock *m, uint64_t off, unsigned int len)
{
	if (len != 4 || off < 0x20 || off % 4 || (off - 0x20) / 4 >= m->nqueues)
		return NULL;
	return &m->queues[(off - 0x20) / 4];
}

static void bar_read(struct vf_mock *m, unsigned int region, uint64_t off, void *buf,
		     unsigned int len)
{
	const char *name = in_common(region, off) ? vf_model_register(off, len) : NULL;
	uint32_t v;

	memset(buf, 0, len);
	if (region == CFG) {
		for (unsigned int i = 0; i < len; i++)
			((uint8_t *)buf)[i] = off + i < sizeof(m->pci) ? m->pci[off + i] : 0;
	} else if (name) {
		v = vf_model_read(m, off);
		memcpy(buf, &v, len);
		if (m->log_reads)
			vf_mock_note(m, "read %s 0x%x", name, v);
	} else if (region == INDEX_BAR && index_queue(m, off, len)) {
		memcpy(buf, &index_queue(m, off, len)->word, len);
	} else if (region == 0 && range_within(off, len, VM_CONFIG, VM_CONFIG_BYTES)) {
		memcpy(buf, m->config + (off - VM_CONFIG), len);
	}
}

static int mock_region_read(struct vf *vf, unsigned int region, uint64_t off, void *buf,
			    unsigned int len)
{
	struct vf_mock *m = of(vf);
	int err = vf_mock_enter(m);

	if (err)
		return err;
	err = check_access(m, region, off, len);
	if (!err && m->all_ones_from && m->calls >= m->all_ones_from)
		memset(buf, 0xff, len);
	else if (!err)
		bar_read(m, region, off, buf, len);
	return vf_mock_leave(m, err);
}

static void bar_write(struct vf_mock *m, unsigned int region, uint64_t off, const void *buf,
		      unsigned int len)
{
	const char *name = in_common(region, off) ? vf_model_register(off, len) : NULL;
	uint32_t v = 0;

	memcpy(&v, buf, len < sizeof(v) ? len : sizeof(v));
	if (region == CFG && off == PCI_COMMAND && len == 2) {
		vf_mock_note(m, "write command 0x%x", v);
		memcpy(m->pci + off, buf, len);
	} else if (name) {
		vf_mock_note(m, "write %s 0x%x", name, v);
		if (m->refuses != (int)off)
			vf_model_write(m, off, v);
	} else if (region == INDEX_BAR && index_queue(m, off, len)) {
		vf_mock_note(m, "write ring word 0x%x", v);
		if (!index_queue(m, off, len)->enable)
			index_queue(m, off, len)->word = v;
	} else if (region == 0 && off >= VM_NOTIFY) {
		vf_model_notify(m, off - VM_NOTIFY, v);
	}
}

static int mock_region_write(struct vf *vf, unsigned int region, uint64_t off, const void *buf,
			     unsigned int len)
{
	struct vf_mock *m = of(vf);
	int err = vf_mock_enter(m);

	if (err)
		return err;
	err = check_access(m, region, off, len);
	if (!err && !(m->all_ones_from && m->calls >= m->all_ones_from))
		bar_write(m, region, off, buf, len);
	return vf_mock_leave(m, err);
}

static int mock_region_mmap(struct vf *vf, unsigned int region, uint64_t off, uint64_t len,
			    void **at)
{
	struct vf_mock *m = of(vf);
	int err = vf_mock_enter(m);
	void *p;

	if (err)
		return err;
	err = -EINVAL;
	for (unsigned int i = 0; region < VF_REGIONS && i < vf->info.regions[region].nareas; i++) {
		const struct vf_area *a = &vf->info.regions[region].areas[i];

		if (len && off % PAGE_SIZE_4K == 0 && len % PAGE_SIZE_4K == 0 &&
		    range_within(off, len, a->offset, a->size))
			err = 0;
	}
	if (err)
		return vf_mock_leave(m, err);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, m->bar_fd, (off_t)off);
	if (p == MAP_FAILED)
		return vf_mock_leave(m, -errno);
	vf_mock_note(m, "mmap 0x%llx", (unsigned long long)off);
	*at = p;
	return vf_mock_leave(m, 0);
}

static int mock_doorbell_fd(struct vf *vf, unsigned int region, uint64_t off, unsigned int len,
			    uint32_t value, int *fd)
{
	struct vf_mock *m = of(vf);
	int err = vf_mock_enter(m);

	(void)value;
	if (err)
		return err;
	if (check_access(m, region, off, len))
		return vf_mock_leave(m, -EINVAL);
	if (!m->forwards)
		return vf_mock_leave(m, -EOPNOTSUPP);
	for (unsigned int i = 0; i < m->ndoorbells; i++)
		if (m->doorbells[i].off == off) {
			*fd = m->doorbells[i].fd;
			return vf_mock_leave(m, 0);
		}
	if (m->ndoorbells == VM_QUEUES)
		return vf_mock_leave(m, -ENOSPC);
	*fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->doorbells[m->ndoorbells].off = off;
	m->doorbells[m->ndoorbells++].fd = *fd;
	vf_mock_note(m, "forward 0x%llx", (unsigned long long)off);
	return vf_mock_leave(m, 0);
}

static int mock_irq_set(struct vf *vf, const int *fds, unsigned int n)
{
	struct vf_mock *m = of(vf);
	int err = vf_mock_enter(m);

	if (err)
		return err;
	if (n > vf->info.nvectors || vf_model_stands(m))
		return vf_mock_leave(m, -EINVAL);
	for (unsigned int i = 0; i < VM_VECTORS; i++)
		m->irq[i] = i < n ? fds[i] : -1;
	m->nirq = n;
	vf_mock_note(m, "irq_set %u", n);
	return vf_mock_leave(m, 0);
}

/* --- memory ---------------------------------------------------------------------------------- */

static int check_map(const struct vf_mock *m, uint64_t iova, uint64_t size)
{
	if (!size || (iova | size) % PAGE_SIZE_4K || !vf_iova_usable(&m->vf.info, iova, size))
		return -EINVAL;
	for (unsigned int i = 0; i < m->nmaps; i++)
		if (iova < m->maps[i].iova + m->maps[i].size && m->maps[i].iova < iova + size)
			return -EEXIST;
	return m->nmaps == VM_MAPS ? -ENOMEM : 0;
}

static int mock_dma_map(struct vf *vf, uint64_t iova, uint64_t size, void *hva, int fd,
			uint64_t offset, struct diag *d)
{
	struct vf_mock *m = of(vf);
	int err = vf_mock_enter(m);

	(void)fd;
	(void)offset;
	if (err)
		return diag_errno(d, err, "%s: memory cannot be mapped", vf->name);
	err = vf_model_stands(m) ? -EINVAL : check_map(m, iova, size);
	if (err) {
		diag_errno(d, err, "%s: memory at 0x%llx cannot be mapped", vf->name,
			   (unsigned long long)iova);
		return vf_mock_leave(m, err);
	}
	m->maps[m->nmaps++] = (struct vf_mock_map){ iova, size, hva };
	vf_mock_note(m, "dma_map 0x%llx 0x%llx", (unsigned long long)iova,
		     (unsigned long long)size);
	return vf_mock_leave(m, 0);
}

static int mock_dma_unmap(struct vf *vf, uint64_t iova, uint64_t size)
{
	struct vf_mock *m = of(vf);
	int err = vf_mock_enter(m);

	if (err)
		return err;
	if (vf_model_stands(m))
		return vf_mock_leave(m, -EINVAL);
	for (unsigned int i = 0; i < m->nmaps; i++)
		if (m->maps[i].iova == iova && m->maps[i].size == size) {
			m->maps[i] = m->maps[--m->nmaps];
			vf_mock_note(m, "dma_unmap 0x%llx", (unsigned long long)iova);
			return vf_mock_leave(m, 0);
		}
	return vf_mock_leave(m, -ENOENT);
}

static int mock_reset(struct vf *vf)
{
	struct vf_mock *m = of(vf);
	int err = vf_mock_enter(m);

	if (err)
		return err;
	if (!vf->info.can_reset)
		return vf_mock_leave(m, -EOPNOTSUPP);
	if (vf_model_stands(m))
		return vf_mock_leave(m, -EINVAL);
	vf_mock_note(m, "function reset");
	m->state = VFIO_DEVICE_STATE_RUNNING;
	m->never_resets = false;
	vf_model_reset(m);
	return vf_mock_leave(m, 0);
}

static void mock_close(struct vf *vf)
{
	of(vf)->closed = true;
}

static const struct vf_ops mock_ops = {
	.kind = "mock",
	.region_read = mock_region_read,
	.region_write = mock_region_write,
	.region_mmap = mock_region_mmap,
	.doorbell_fd = mock_doorbell_fd,
	.irq_set = mock_irq_set,
	.dma_map = mock_dma_map,
	.dma_unmap = mock_dma_unmap,
	.reset = mock_reset,
	.mig_caps = vf_mock_mig_caps,
	.mig_state = vf_mock_mig_state,
	.mig_state_get = vf_mock_mig_state_get,
	.mig_read = vf_mock_mig_read,
	.mig_write = vf_mock_mig_write,
	.log_start = vf_mock_log_start,
	.log_stop = vf_mock_log_stop,
	.log_report = vf_mock_log_report,
	.close = mock_close,
};

/* --- making one ------------------------------------------------------------------------------ */

static unsigned int put_cap(struct vf_mock *m, unsigned int at, uint8_t type, uint32_t off,
			    uint32_t length)
{
	uint8_t len = type == VIRTIO_PCI_CAP_NOTIFY_CFG ? 20 : 16;
	struct virtio_pci_notify_cap cap = {
		.cap = { .cap_vndr = PCI_CAP_ID_VNDR,
			 .cap_next = (uint8_t)(at + 0x14),
			 .cap_len = len,
			 .cfg_type = type,
			 .offset = off,
			 .length = length },
		.notify_off_multiplier = m->multiplier,
	};

	memcpy(m->pci + at, &cap, len);
	return at + 0x14;
}

static void put16(struct vf_mock *m, unsigned int off, uint16_t v)
{
	memcpy(m->pci + off, &v, sizeof(v));
}

static void put32(struct vf_mock *m, unsigned int off, uint32_t v)
{
	memcpy(m->pci + off, &v, sizeof(v));
}

void vf_mock_lay_out(struct vf_mock *m, bool mappable)
{
	struct vf_region *bar = &m->vf.info.regions[0];
	uint64_t pages = align_down(VM_NOTIFY + m->notify_length, PAGE_SIZE_4K) - VM_NOTIFY;
	unsigned int at = 0x40;

	put16(m, PCI_VENDOR_ID, 0x1af4);
	put16(m, PCI_DEVICE_ID, (uint16_t)(0x1040 + m->device_id));
	put16(m, PCI_COMMAND, PCI_COMMAND_MEMORY);
	put16(m, PCI_STATUS, PCI_STATUS_CAP_LIST);
	m->pci[PCI_CAPABILITY_LIST] = (uint8_t)at;
	at = put_cap(m, at, VIRTIO_PCI_CAP_COMMON_CFG, VM_COMMON, VM_COMMON_BYTES);
	at = put_cap(m, at, VIRTIO_PCI_CAP_ISR_CFG, VM_ISR, 1);
	at = put_cap(m, at, VIRTIO_PCI_CAP_DEVICE_CFG, VM_CONFIG, VM_CONFIG_BYTES);
	at = put_cap(m, at, VIRTIO_PCI_CAP_NOTIFY_CFG, VM_NOTIFY, m->notify_length);
	m->pci[at] = PCI_CAP_ID_MSIX;
	m->pci[at + PCI_CAP_LIST_NEXT] = 0;
	put16(m, at + PCI_MSIX_FLAGS, (uint16_t)(m->vf.info.nvectors - 1));
	put32(m, at + PCI_MSIX_TABLE, MSIX_BAR);
	put32(m, at + PCI_MSIX_PBA, 0x800 | MSIX_BAR);
	bar->nareas = mappable && pages;
	bar->areas[0] = (struct vf_area){ VM_NOTIFY, pages };
}

void vf_mock_ring_index(struct vf_mock *m)
{
	m->ring_index = true;
	m->vf.info.regions[INDEX_BAR] =
		(struct vf_region){ .size = 0x1000, .readable = true, .writable = true };
	put16(m, PCI_SUBSYSTEM_VENDOR_ID, 0x8086);
	put16(m, PCI_SUBSYSTEM_ID, m->device_id == VIRTIO_ID_NET ? 0x001a : 0x0002);
}

static void fill_blk(struct vf_mock *m)
{
	struct virtio_blk_config c = {
		.capacity = 0x12345678900ull,
		.seg_max = 126,
		.blk_size = 512,
		.physical_block_exp = 3,
		.num_queues = m->nqueues,
		.max_discard_sectors = 1024,
		.max_discard_seg = 1,
		.discard_sector_alignment = 8,
		.max_write_zeroes_sectors = 2048,
		.max_write_zeroes_seg = 1,
	};

	m->features = offer_features(VIRTIO_ID_BLOCK, ~VIRTIO_BIT(VIRTIO_BLK_F_RO));
	memcpy(m->config, &c, offsetof(struct virtio_blk_config, unused1));
}

static void fill_net(struct vf_mock *m)
{
	struct virtio_net_config c = { .mac = { 0x52, 0x54, 0, 0, 0, 7 },
				       .status = VIRTIO_NET_S_LINK_UP,
				       .max_virtqueue_pairs = (uint16_t)((m->nqueues - 1) / 2),
				       .mtu = 1500 };

	m->features =
		offer_features(VIRTIO_ID_NET, ~0ull) & ~VIRTIO_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE);
	memcpy(m->config, &c, offsetof(struct virtio_net_config, speed));
}

struct vf_mock *vf_mock_new(uint16_t device_id, uint16_t nqueues)
{
	struct vf_mock *m = calloc(1, sizeof(*m));
	struct vf_info *info;

	if (!m || nqueues > VM_QUEUES)
		abort();
	info = &m->vf.info;
	m->vf.ops = &mock_ops;
	snprintf(m->vf.name, sizeof(m->vf.name), "0000:03:00.2");
	pthread_mutex_init(&m->lock, NULL);
	m->device_id = device_id;
	m->nqueues = nqueues;
	m->multiplier = PAGE_SIZE_4K;
	m->notify_length = nqueues * PAGE_SIZE_4K;
	m->refuses = -1;
	m->state = VFIO_DEVICE_STATE_RUNNING;
	m->bar_fd = memfd_create("vf-mock", MFD_CLOEXEC);
	if (m->bar_fd < 0 || ftruncate(m->bar_fd, VM_BAR_SIZE))
		abort();
	m->bar = mmap(NULL, VM_BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m->bar_fd, 0);
	if (m->bar == MAP_FAILED)
		abort();
	info->regions[0] =
		(struct vf_region){ .size = VM_BAR_SIZE, .readable = true, .writable = true };
	info->regions[MSIX_BAR] =
		(struct vf_region){ .size = MSIX_BAR_SIZE, .readable = true, .writable = true };
	info->regions[CFG] = (struct vf_region){ .size = 4096, .readable = true, .writable = true };
	info->nvectors = nqueues + 1u;
	info->can_reset = true;
	info->coherent = true;
	info->niova = 2;
	info->iova[0] = (struct vf_iova){ 0, 0xfedfffff };
	info->iova[1] = (struct vf_iova){ 0xfef00000, (1ull << 48) - 1 };
	for (uint16_t q = 0; q < nqueues; q++) {
		m->queues[q].size_max = 256;
		m->queues[q].notify_off = q;
	}
	for (unsigned int i = 0; i < VM_VECTORS; i++)
		m->irq[i] = -1;
	if (device_id == VIRTIO_ID_NET)
		fill_net(m);
	else
		fill_blk(m);
	m->features |= VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM);
	vf_mock_lay_out(m, true);
	vf_model_reset(m);
	return m;
}

void vf_mock_free(struct vf_mock *m)
{
	for (unsigned int i = 0; i < m->ndoorbells; i++)
		close(m->doorbells[i].fd);
	munmap(m->bar, VM_BAR_SIZE);
	close(m->bar_fd);
	pthread_mutex_destroy(&m->lock);
	free(m->log);
	free(m);
}
