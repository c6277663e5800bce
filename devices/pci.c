/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci.c - configuration space of one PCI function: header, capabilities, BAR sizing and moving.
 * The bridge that routes configuration cycles here is pci_host.c. Control lock held.
 */
#include <unvmm/log.h>
#include <unvmm/pci.h>
#include <unvmm/platform.h>

#include "pci_host.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define CAP_FIRST 0x40
#define CAP_END	  0x100

#define COMMAND_WRITABLE \
	(PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE)

uint16_t pci_get16(const struct pci_dev *p, unsigned int off)
{
	uint16_t v;

	memcpy(&v, &p->config[off], sizeof(v));
	return le16toh(v);
}

uint32_t pci_get32(const struct pci_dev *p, unsigned int off)
{
	uint32_t v;

	memcpy(&v, &p->config[off], sizeof(v));
	return le32toh(v);
}

void pci_set16(struct pci_dev *p, unsigned int off, uint16_t v)
{
	v = htole16(v);
	memcpy(&p->config[off], &v, sizeof(v));
}

void pci_set32(struct pci_dev *p, unsigned int off, uint32_t v)
{
	v = htole32(v);
	memcpy(&p->config[off], &v, sizeof(v));
}

static void pci_mask16(struct pci_dev *p, unsigned int off, uint16_t v)
{
	v = htole16(v);
	memcpy(&p->wmask[off], &v, sizeof(v));
}

static void pci_mask32(struct pci_dev *p, unsigned int off, uint32_t v)
{
	v = htole32(v);
	memcpy(&p->wmask[off], &v, sizeof(v));
}

void pci_dev_init(struct pci_dev *p, const struct pci_ids *ids)
{
	pci_set16(p, PCI_VENDOR_ID, ids->vendor);
	pci_set16(p, PCI_DEVICE_ID, ids->device);
	pci_set32(p, PCI_CLASS_REVISION, ids->class_code << 8 | ids->revision);
	pci_set16(p, PCI_SUBSYSTEM_VENDOR_ID, ids->subvendor);
	pci_set16(p, PCI_SUBSYSTEM_ID, ids->subdevice);
	pci_mask16(p, PCI_COMMAND, COMMAND_WRITABLE);
	pci_mask32(p, PCI_INTERRUPT_LINE, 0xff);
	pci_mask32(p, PCI_CACHE_LINE_SIZE, 0xff);
	p->cap_tail = PCI_CAPABILITY_LIST;
	p->cap_free = CAP_FIRST;
}

int pci_add_cap(struct pci_dev *p, uint8_t id, unsigned int len)
{
	unsigned int off = p->cap_free;

	if (len < 2 || off + len > CAP_END)
		return -ENOSPC;
	p->config[p->cap_tail] = (uint8_t)off;
	p->config[off] = id;
	p->cap_tail = off + 1;
	p->cap_free = align_up(off + len, 4u);
	pci_set16(p, PCI_STATUS, pci_get16(p, PCI_STATUS) | PCI_STATUS_CAP_LIST);
	return (int)off;
}

/* --- BARs ----------------------------------------------------------------------------------- */

static unsigned int bar_reg(unsigned int n)
{
	return PCI_BASE_ADDRESS_0 + 8 * n;
}

void pci_add_bar(struct pci_dev *p, unsigned int n, uint64_t size, const struct bus_ops *ops,
		 void *dev, const char *name)
{
	p->bars[n] = (struct pci_bar){ .size = size, .ops = ops, .dev = dev, .name = name };
	p->config[bar_reg(n)] = PCI_BASE_ADDRESS_SPACE_MEMORY | PCI_BASE_ADDRESS_MEM_TYPE_64;
	/* The bits below the size read as zero: that is how the guest measures it. */
	pci_mask32(p, bar_reg(n), (uint32_t) ~(size - 1));
	pci_mask32(p, bar_reg(n) + 4, (uint32_t)(~(size - 1) >> 32));
}

static uint64_t bar_address(const struct pci_dev *p, unsigned int n)
{
	return (pci_get32(p, bar_reg(n)) & PCI_BASE_ADDRESS_MEM_MASK) |
	       (uint64_t)pci_get32(p, bar_reg(n) + 4) << 32;
}

static void bar_unmap(struct pci_dev *p, unsigned int n)
{
	struct pci_bar *bar = &p->bars[n];

	if (!bar->mapped)
		return;
	if (p->bar_changed)
		p->bar_changed(p, n, false);
	bus_remove(&p->vm->mmio, bar->base);
	bar->mapped = false;
}

static void bar_map(struct pci_dev *p, unsigned int n, uint64_t base)
{
	struct pci_bar *bar = &p->bars[n];

	/*
	 * Only inside the window that the host bridge decodes: a BAR over RAM or the interrupt
	 * controllers answers nothing, as behind a real bridge.
	 */
	if (!range_within(base, bar->size, PLAT_PCI_MEM_BASE, PLAT_PCI_MEM_SIZE))
		return;
	/* While the guest moves BARs around, two may overlap: the first keeps answering. */
	if (bus_add(&p->vm->mmio, base, bar->size, bar->ops, bar->dev, bar->name))
		return;
	bar->base = base;
	bar->mapped = true;
	if (p->bar_changed)
		p->bar_changed(p, n, true);
}

static bool bars_decoded(const struct pci_dev *p)
{
	return p->config[PCI_COMMAND] & PCI_COMMAND_MEMORY;
}

void pci_map_bars(struct pci_dev *p)
{
	for (unsigned int n = 0; n < PCI_BARS; n++)
		if (bars_decoded(p) && p->bars[n].size && !p->bars[n].mapped)
			bar_map(p, n, bar_address(p, n));
}

/* Makes the bus agree with the command register and the BARs' registers. */
static void bars_update(struct pci_dev *p)
{
	bool freed = false;

	for (unsigned int n = 0; n < PCI_BARS; n++) {
		if (!p->bars[n].mapped || (bars_decoded(p) && p->bars[n].base == bar_address(p, n)))
			continue;
		bar_unmap(p, n);
		freed = true;
	}
	/* Where a BAR went away, one that it was in the way of may appear, of whatever function. */
	if (freed)
		pci_host_map_bars(p->vm->pci);
	else
		pci_map_bars(p);
}

/* --- configuration cycles ------------------------------------------------------------------- */

static bool config_range_ok(unsigned int off, unsigned int len)
{
	return (len == 1 || len == 2 || len == 4) && off % len == 0 && off + len <= PCI_CONFIG_SIZE;
}

uint32_t pci_config_read(struct pci_dev *p, unsigned int off, unsigned int len)
{
	uint32_t v = 0;

	if (!config_range_ok(off, len))
		return UINT32_MAX;
	if (p->config_read)
		p->config_read(p, off, len);
	memcpy(&v, &p->config[off], len);
	return le32toh(v);
}

void pci_config_write(struct pci_dev *p, unsigned int off, unsigned int len, uint32_t value)
{
	if (!config_range_ok(off, len))
		return;
	for (unsigned int i = 0; i < len; i++) {
		uint8_t mask = p->wmask[off + i], byte = (uint8_t)(value >> (8 * i));

		p->config[off + i] = (p->config[off + i] & ~mask) | (byte & mask);
	}
	if (ranges_overlap(off, len, PCI_COMMAND, 2) ||
	    ranges_overlap(off, len, PCI_BASE_ADDRESS_0, 8 * PCI_BARS))
		bars_update(p);
	if (p->config_written)
		p->config_written(p, off, len);
}

/* --- plugging and state --------------------------------------------------------------------- */

int pci_plug(struct vm *vm, struct pci_dev *p, struct diag *d)
{
	int err = pci_host_attach(vm->pci, p, d);

	if (err)
		return err;
	for (unsigned int n = 0; n < PCI_BARS; n++) {
		uint64_t base;

		if (!p->bars[n].size)
			continue;
		err = pci_host_alloc(vm->pci, p->bars[n].size, &base);
		if (err) {
			pci_unplug(p);
			return diag_set(d, err, "%s: the PCI memory window is full", p->id);
		}
		p->assigned[n] = base;
	}
	pci_reset(p);
	return 0;
}

void pci_unplug(struct pci_dev *p)
{
	for (unsigned int n = 0; n < PCI_BARS; n++)
		bar_unmap(p, n);
	pci_host_detach(p->vm->pci, p);
}

void pci_hide(struct pci_dev *p, const struct pci_dev *front)
{
	pci_unplug(p);
	p->slot = front->slot;
	memcpy(p->assigned, front->assigned, sizeof(p->assigned));
	pci_reset(p);
}

void pci_step_in(struct pci_dev *p, struct pci_dev *front)
{
	pci_unplug(front);
	pci_host_put(p->vm->pci, p);
	/* Also those of others that were in the way. */
	pci_host_map_bars(p->vm->pci);
}

void pci_reset(struct pci_dev *p)
{
	/*
	 * Whatever the guest can write is zero at power-on, but for the BARs, which firmware
	 * assigns. Decode is off; the guest's driver switches it on.
	 */
	for (unsigned int i = 0; i < PCI_CONFIG_SIZE; i++)
		p->config[i] &= (uint8_t)~p->wmask[i];
	bars_update(p);
	for (unsigned int n = 0; n < PCI_BARS; n++) {
		if (!p->bars[n].size)
			continue;
		pci_set32(p, bar_reg(n), (uint32_t)p->assigned[n] | PCI_BASE_ADDRESS_MEM_TYPE_64);
		pci_set32(p, bar_reg(n) + 4, (uint32_t)(p->assigned[n] >> 32));
	}
}

/*
 * Only what the guest can have written travels. The rest of configuration space is made by the
 * machine type and the configuration, on both sides alike; the devices' own CHECK fields say so.
 */
static int pci_state_pre_save(void *obj)
{
	struct pci_dev *p = obj;

	for (unsigned int i = 0; i < PCI_HEADER_SIZE; i++)
		p->written[i] = p->config[i] & p->wmask[i];
	return 0;
}

static int pci_state_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct pci_dev *s = scratch, *l = live;

	for (unsigned int i = 0; i < PCI_HEADER_SIZE; i++)
		if (s->written[i] & ~l->wmask[i])
			return diag_set(d, -EINVAL,
					"configuration byte 0x%x is 0x%02x, the guest can only "
					"change 0x%02x",
					i, s->written[i], l->wmask[i]);
	return 0;
}

static int pci_state_post_load(void *obj, struct diag *d)
{
	struct pci_dev *p = obj;

	(void)d;
	for (unsigned int i = 0; i < PCI_HEADER_SIZE; i++)
		p->config[i] = (p->config[i] & ~p->wmask[i]) | p->written[i];
	bars_update(p);
	return 0;
}

static const struct state_field pci_fields[] = {
	STATE_SCALAR_CHECK(STATE_U8, struct pci_dev, slot),
	STATE_RAW(struct pci_dev, written),
};

const struct state_desc pci_dev_state = {
	.name = "pci",
	.version = 1,
	.obj_size = sizeof(struct pci_dev),
	.fields = pci_fields,
	.nfields = ARRAY_SIZE(pci_fields),
	.pre_save = pci_state_pre_save,
	.validate = pci_state_validate,
	.post_load = pci_state_post_load,
};
