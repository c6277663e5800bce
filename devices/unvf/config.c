/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.c - a function on the bus: configuration space with the capabilities of virtio 1.2, 4.1.4,
 * and accesses to its BARs. Main thread.
 */
#include "function.h"

#include <endian.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <string.h>

#define VIRTIO_VENDOR	 0x1af4
#define VIRTIO_DEVICE	 0x1040 /* and the device type (4.1.2.1) */
#define VIRTIO_SUBSYSTEM 0x1100
#define VIRTIO_REVISION	 1
/* By these a driver knows functions that have ring indexes. */
#define INDEX_VENDOR 0x8086
#define INDEX_CARD   0x001a
#define INDEX_DISK   0x0002
#define COMMON_SIZE  64
#define CAP_FIRST    0x40

static uint32_t get32(const struct function *f, unsigned int off)
{
	uint32_t v;

	memcpy(&v, &f->config[off], sizeof(v));
	return le32toh(v);
}

static void set16(struct function *f, unsigned int off, uint16_t v)
{
	v = htole16(v);
	memcpy(&f->config[off], &v, sizeof(v));
}

static void set32(struct function *f, unsigned int off, uint32_t v)
{
	v = htole32(v);
	memcpy(&f->config[off], &v, sizeof(v));
}

/* --- capabilities ----------------------------------------------------------------------------- */

static int add_cap(struct function *f, uint8_t id, unsigned int len)
{
	unsigned int off = f->cap_free;

	if (off + len > FN_CONFIG_SIZE)
		return -ENOSPC;
	f->config[f->cap_tail] = (uint8_t)off;
	f->config[off] = id;
	f->cap_tail = off + 1;
	f->cap_free = align_up(off + len, 4u);
	return (int)off;
}

static int add_virtio_cap(struct function *f, uint8_t type, unsigned int len, uint32_t offset,
			  uint32_t size)
{
	int cap = add_cap(f, PCI_CAP_ID_VNDR, len);

	if (cap < 0)
		return cap;
	f->config[cap + offsetof(struct virtio_pci_cap, cap_len)] = (uint8_t)len;
	f->config[cap + offsetof(struct virtio_pci_cap, cfg_type)] = type;
	f->config[cap + offsetof(struct virtio_pci_cap, bar)] = (uint8_t)f->fn_bar;
	set32(f, (unsigned int)cap + offsetof(struct virtio_pci_cap, offset), offset);
	set32(f, (unsigned int)cap + offsetof(struct virtio_pci_cap, length), size);
	return cap;
}

static int add_notify_cap(struct function *f)
{
	/* Whole pages, whatever of them is used: else nobody could map them for a guest. */
	uint32_t size = f->opt.page_per_vq ? f->v->nqueues * PAGE_SIZE_4K : PAGE_SIZE_4K;
	int cap = add_virtio_cap(f, VIRTIO_PCI_CAP_NOTIFY_CFG, sizeof(struct virtio_pci_notify_cap),
				 FN_DOORBELLS, size);

	if (cap >= 0)
		set32(f,
		      (unsigned int)cap +
			      offsetof(struct virtio_pci_notify_cap, notify_off_multiplier),
		      f->opt.page_per_vq ? PAGE_SIZE_4K : 4);
	return cap;
}

/* A window through which configuration cycles reach the BARs (4.1.4.9). */
static int add_cfg_cap(struct function *f)
{
	int cap =
		add_virtio_cap(f, VIRTIO_PCI_CAP_PCI_CFG, sizeof(struct virtio_pci_cfg_cap), 0, 0);

	if (cap < 0)
		return cap;
	f->cfg_cap = (unsigned int)cap;
	f->wmask[cap + offsetof(struct virtio_pci_cap, bar)] = 0xff;
	memset(&f->wmask[cap + offsetof(struct virtio_pci_cap, offset)], 0xff, 12);
	return 0;
}

static int add_msix_cap(struct function *f)
{
	int cap = add_cap(f, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);

	if (cap < 0)
		return cap;
	set16(f, (unsigned int)cap + PCI_MSIX_FLAGS, (uint16_t)(f->nvectors - 1));
	set32(f, (unsigned int)cap + PCI_MSIX_TABLE, FN_MSIX_BAR);
	set32(f, (unsigned int)cap + PCI_MSIX_PBA, FN_MSIX_BAR | FN_MSIX_PBA);
	f->wmask[cap + PCI_MSIX_FLAGS + 1] = (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8;
	return 0;
}

/* A 64-bit memory BAR that nobody decodes here: the client does. */
static void add_bar(struct function *f, unsigned int bar, uint64_t size)
{
	unsigned int reg = PCI_BASE_ADDRESS_0 + 4 * bar;
	uint64_t mask = htole64(~(size - 1));

	set32(f, reg, PCI_BASE_ADDRESS_SPACE_MEMORY | PCI_BASE_ADDRESS_MEM_TYPE_64);
	memcpy(&f->wmask[reg], &mask, sizeof(mask));
}

static uint16_t subsystem(const struct function *f)
{
	if (!f->opt.ring_index)
		return VIRTIO_SUBSYSTEM;
	return f->v->device_id == VIRTIO_ID_NET ? INDEX_CARD : INDEX_DISK;
}

int fn_config_init(struct function *f, struct diag *d)
{
	int err;

	set16(f, PCI_VENDOR_ID, VIRTIO_VENDOR);
	set16(f, PCI_DEVICE_ID, (uint16_t)(VIRTIO_DEVICE + f->v->device_id));
	set32(f, PCI_CLASS_REVISION, f->v->class_code << 8 | VIRTIO_REVISION);
	set16(f, PCI_SUBSYSTEM_VENDOR_ID, f->opt.ring_index ? INDEX_VENDOR : VIRTIO_VENDOR);
	set16(f, PCI_SUBSYSTEM_ID, subsystem(f));
	set16(f, PCI_STATUS, PCI_STATUS_CAP_LIST);
	f->wmask[PCI_COMMAND] = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	f->wmask[PCI_COMMAND + 1] = PCI_COMMAND_INTX_DISABLE >> 8;
	f->wmask[PCI_INTERRUPT_LINE] = f->wmask[PCI_CACHE_LINE_SIZE] = 0xff;
	f->cap_tail = PCI_CAPABILITY_LIST;
	f->cap_free = CAP_FIRST;
	err = add_msix_cap(f);
	if (err >= 0)
		err = add_virtio_cap(f, VIRTIO_PCI_CAP_COMMON_CFG, sizeof(struct virtio_pci_cap),
				     FN_COMMON, COMMON_SIZE);
	if (err >= 0)
		err = add_virtio_cap(f, VIRTIO_PCI_CAP_ISR_CFG, sizeof(struct virtio_pci_cap),
				     FN_ISR, 1);
	if (err >= 0)
		err = add_virtio_cap(f, VIRTIO_PCI_CAP_DEVICE_CFG, sizeof(struct virtio_pci_cap),
				     FN_DEVICE, f->v->config_size);
	if (err >= 0)
		err = add_notify_cap(f);
	if (err >= 0)
		err = add_cfg_cap(f);
	if (err < 0)
		return diag_errno(d, err, "%s: no room in configuration space", f->dev.id);
	return 0;
}

void fn_config_bars(struct function *f)
{
	add_bar(f, FN_MSIX_BAR, FN_MSIX_SIZE);
	add_bar(f, f->fn_bar, f->bar_size);
	if (f->opt.ring_index)
		add_bar(f, FN_INDEX_BAR, FN_INDEX_SIZE);
}

/* Whatever can be written is zero after a reset. */
void fn_config_reset(struct function *f)
{
	for (unsigned int i = 0; i < FN_CONFIG_SIZE; i++)
		f->config[i] &= (uint8_t)~f->wmask[i];
	memset(f->msix_bar, 0, sizeof(f->msix_bar));
}

bool fn_config_master(const struct function *f)
{
	return f->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

/* --- BARs: one access of 1, 2, 4 bytes, aligned -------------------------------------------------
 */

static uint32_t unused(const struct function *f, uint64_t off, unsigned int len)
{
	uint32_t v = 0;

	for (unsigned int i = 0; f->opt.pattern && i < len; i++)
		v |= (uint32_t)(uint8_t)FN_PATTERN[(off + i) % 8] << (8 * i);
	return v;
}

static uint32_t isr_read(struct function *f)
{
	uint8_t isr = f->isr;

	f->isr = 0;
	return isr;
}

static uint32_t bar_read(struct function *f, uint64_t off, unsigned int len)
{
	uint32_t v = 0;

	if (off < FN_ISR && fn_reg_read(f, (unsigned int)off, len, &v))
		return v;
	if (off == FN_ISR && len == 1)
		return isr_read(f);
	if (range_within(off, len, FN_DEVICE, f->v->config_size)) {
		f->v->ops->config_read(f->v, (unsigned int)(off - FN_DEVICE), &v, len);
		return v;
	}
	return unused(f, off, len);
}

static void doorbell_write(struct function *f, uint64_t off, uint32_t value)
{
	uint64_t q = off / f->multiplier;

	if (off % f->multiplier == 0 && q < f->v->nqueues && (uint16_t)value == q)
		fn_engine_ring(f, (unsigned int)q);
}

static void bar_write(struct function *f, uint64_t off, unsigned int len, uint32_t value)
{
	if (off < FN_ISR)
		(void)fn_reg_write(f, (unsigned int)off, len, value);
	else if (range_within(off, len, FN_DEVICE, f->v->config_size) && f->v->ops->config_write)
		f->v->ops->config_write(f->v, (unsigned int)(off - FN_DEVICE), &value, len);
	else if (len >= 2 && range_within(off, len, FN_DOORBELLS, f->doorbell_size))
		doorbell_write(f, off - FN_DOORBELLS, value);
}

/* --- the window in configuration space ----------------------------------------------------------
 */

/* Where it points to, if that is an access that a bus could make. */
static bool cfg_window(const struct function *f, uint64_t *off, unsigned int *len)
{
	const unsigned int cap = f->cfg_cap;

	*off = get32(f, cap + offsetof(struct virtio_pci_cap, offset));
	*len = get32(f, cap + offsetof(struct virtio_pci_cap, length));
	return f->config[cap + offsetof(struct virtio_pci_cap, bar)] == f->fn_bar &&
	       (*len == 1 || *len == 2 || *len == 4) && *off % *len == 0 &&
	       range_within(*off, *len, 0, f->bar_size);
}

static unsigned int cfg_data(const struct function *f)
{
	return f->cfg_cap + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);
}

static uint32_t config_read(struct function *f, unsigned int off, unsigned int len)
{
	unsigned int window_len;
	uint64_t window;
	uint32_t v = 0;

	if (ranges_overlap(off, len, cfg_data(f), 4) && cfg_window(f, &window, &window_len))
		set32(f, cfg_data(f), bar_read(f, window, window_len));
	memcpy(&v, &f->config[off], len);
	return le32toh(v);
}

static void config_write(struct function *f, unsigned int off, unsigned int len, uint32_t value)
{
	unsigned int window_len;
	uint64_t window;

	for (unsigned int i = 0; i < len; i++) {
		uint8_t mask = f->wmask[off + i], byte = (uint8_t)(value >> (8 * i));

		f->config[off + i] = (f->config[off + i] & (uint8_t)~mask) | (byte & mask);
	}
	if (ranges_overlap(off, len, cfg_data(f), 4) && cfg_window(f, &window, &window_len))
		bar_write(f, window, window_len, get32(f, cfg_data(f)));
	if (ranges_overlap(off, len, PCI_COMMAND, 2))
		function_update(f);
}

/* --- regions ------------------------------------------------------------------------------------
 */

uint64_t fn_region_size(const struct function *f, unsigned int region)
{
	if (region == f->fn_bar)
		return f->bar_size;
	if (region == FN_MSIX_BAR)
		return FN_MSIX_SIZE;
	if (region == FN_INDEX_BAR && f->opt.ring_index)
		return FN_INDEX_SIZE;
	return region == VFIO_PCI_CONFIG_REGION_INDEX ? FN_CONFIG_SIZE : 0;
}

/* The longest access that a bus would make of what is left. */
static unsigned int piece(uint64_t off, unsigned int len)
{
	return len >= 4 && off % 4 == 0 ? 4 : len >= 2 && off % 2 == 0 ? 2 : 1;
}

static bool gone(struct function *f)
{
	const uint32_t *n = f->opt.faults.n;

	f->accesses++;
	if (f->accesses == n[FAULT_ERROR])
		function_event(f, VFIO_PCI_ERR_IRQ_INDEX);
	if (!n[FAULT_ALL_ONES] || f->accesses <= n[FAULT_ALL_ONES])
		return false;
	__atomic_store_n(&f->e.gone, true, __ATOMIC_RELAXED);
	return true;
}

void fn_region_read(struct function *f, unsigned int region, uint64_t off, uint8_t *buf,
		    unsigned int len)
{
	bool ones = gone(f);

	while (len) {
		unsigned int n = piece(off, len);
		uint32_t v = UINT32_MAX;

		if (!ones && region == VFIO_PCI_CONFIG_REGION_INDEX)
			v = config_read(f, (unsigned int)off, n);
		else if (!ones && region == f->fn_bar)
			v = bar_read(f, off, n);
		else if (!ones && region == FN_INDEX_BAR)
			v = fn_index_read(f, off, n);
		else if (!ones)
			memcpy(&v, f->msix_bar + off, n);
		v = htole32(v);
		memcpy(buf, &v, n);
		buf += n;
		off += n;
		len -= n;
	}
}

void fn_region_write(struct function *f, unsigned int region, uint64_t off, const uint8_t *buf,
		     unsigned int len)
{
	if (gone(f))
		return;
	while (len) {
		unsigned int n = piece(off, len);
		uint32_t v = 0;

		memcpy(&v, buf, n);
		v = le32toh(v);
		if (region == VFIO_PCI_CONFIG_REGION_INDEX)
			config_write(f, (unsigned int)off, n, v);
		else if (region == f->fn_bar)
			bar_write(f, off, n, v);
		else if (region == FN_INDEX_BAR)
			fn_index_write(f, off, n, v);
		else if (off < FN_MSIX_PBA)
			memcpy(f->msix_bar + off, buf, n);
		buf += n;
		off += n;
		len -= n;
	}
}
