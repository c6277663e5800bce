/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci_host.c - the PCI host bridge: bus 0, reached by ECAM and by ports 0xcf8/0xcfc, slot
 * assignment and the memory window; port 0xcf9 resets the machine. Control lock held.
 */
#include <unvmm/device.h>
#include <unvmm/pci.h>
#include <unvmm/platform.h>

#include "pci_host.h"

#include <errno.h>
#include <stdlib.h>

#define CFG_ENABLE 0x80000000u
#define RESET_CPU  0x04 /* port 0xcf9: a rising edge of this bit resets */
#define SLOTS	   32

/* No vendor's: a bridge that no driver binds to. */
#define BRIDGE_VENDOR 0x1b36 /* Red Hat's block for virtual devices */
#define BRIDGE_DEVICE 0x0008 /* "generic PCIe host bridge" */

struct pci_host {
	struct vm *vm;
	struct pci_dev *slots[SLOTS];
	struct pci_dev bridge;
	uint64_t window_next;
	uint32_t cfg_addr;
	struct state_ref state[2]; /* the ports, and the bridge as a function */
};

static struct pci_dev *find(struct pci_host *h, unsigned int bus, unsigned int slot,
			    unsigned int func)
{
	return bus == 0 && func == 0 ? h->slots[slot] : NULL;
}

/* --- ECAM: address bits 27..20 bus, 19..15 device, 14..12 function, 11..0 register ----------- */

static uint64_t ecam_read(void *dev, uint64_t off, unsigned int len)
{
	struct pci_dev *p = find(dev, (off >> 20) & 0xff, (off >> 15) & 31, (off >> 12) & 7);

	return p && len <= 4 ? pci_config_read(p, off & 0xfff, len) : UINT64_MAX;
}

static void ecam_write(void *dev, uint64_t off, unsigned int len, uint64_t value)
{
	struct pci_dev *p = find(dev, (off >> 20) & 0xff, (off >> 15) & 31, (off >> 12) & 7);

	if (p && len <= 4)
		pci_config_write(p, off & 0xfff, len, (uint32_t)value);
}

static const struct bus_ops ecam_ops = { .read = ecam_read, .write = ecam_write };

/* --- configuration mechanism #1 -------------------------------------------------------------- */

static struct pci_dev *cfg_target(struct pci_host *h)
{
	uint32_t a = h->cfg_addr;

	return a & CFG_ENABLE ? find(h, (a >> 16) & 0xff, (a >> 11) & 31, (a >> 8) & 7) : NULL;
}

static uint64_t ports_read(void *dev, uint64_t off, unsigned int len)
{
	struct pci_host *h = dev;
	struct pci_dev *p = cfg_target(h);

	if (off < 4)
		return off == 0 && len == 4 ? h->cfg_addr : UINT64_MAX;
	return p ? pci_config_read(p, (h->cfg_addr & 0xfc) + (off & 3), len) : UINT64_MAX;
}

static void ports_write(void *dev, uint64_t off, unsigned int len, uint64_t value)
{
	struct pci_host *h = dev;
	struct pci_dev *p = cfg_target(h);

	if (off == 0 && len == 4)
		h->cfg_addr = (uint32_t)value;
	else if (off == PLAT_PCI_RESET_PORT - PLAT_PCI_CFG_ADDR && len == 1) {
		if (value & RESET_CPU)
			vm_request(h->vm, VM_EVENT_REBOOT, 0);
	} else if (off >= 4 && p)
		pci_config_write(p, (h->cfg_addr & 0xfc) + (off & 3), len, (uint32_t)value);
}

static const struct bus_ops port_ops = { .read = ports_read, .write = ports_write };

/* --- slots and window ------------------------------------------------------------------------ */

int pci_host_attach(struct pci_host *h, struct pci_dev *p, struct diag *d)
{
	for (unsigned int slot = 0; slot < SLOTS; slot++) {
		if (h->slots[slot])
			continue;
		p->slot = (uint8_t)slot;
		h->slots[slot] = p;
		return 0;
	}
	return diag_set(d, -ENOSPC, "%s: all %u PCI slots are taken", p->id, PLAT_PCI_DEVICES_MAX);
}

void pci_host_put(struct pci_host *h, struct pci_dev *p)
{
	h->slots[p->slot] = p;
}

void pci_host_detach(struct pci_host *h, struct pci_dev *p)
{
	if (h->slots[p->slot] == p)
		h->slots[p->slot] = NULL;
}

int pci_host_alloc(struct pci_host *h, uint64_t size, uint64_t *base)
{
	uint64_t at = align_up(h->window_next, size);

	if (!range_within(at, size, PLAT_PCI_MEM_BASE, PLAT_PCI_MEM_SIZE))
		return -ENOSPC;
	*base = at;
	h->window_next = at + size;
	return 0;
}

void pci_host_map_bars(struct pci_host *h)
{
	for (unsigned int slot = 0; slot < SLOTS; slot++)
		if (h->slots[slot])
			pci_map_bars(h->slots[slot]);
}

/* --- the device class ------------------------------------------------------------------------ */

static const struct state_field host_fields[] = {
	STATE_SCALAR(STATE_U32, struct pci_host, cfg_addr),
};

static const struct state_desc host_state = {
	.name = "pci-host",
	.version = 1,
	.obj_size = sizeof(struct pci_host),
	.fields = host_fields,
	.nfields = ARRAY_SIZE(host_fields),
};

static void pci_host_destroy(struct device *dev)
{
	struct pci_host *h = dev->priv;

	pci_unplug(&h->bridge);
	bus_remove(&h->vm->mmio, PLAT_ECAM_BASE);
	bus_remove(&h->vm->pio, PLAT_PCI_CFG_ADDR);
	h->vm->pci = NULL;
	free(h);
}

static int pci_host_reset(struct device *dev, struct diag *d)
{
	struct pci_host *h = dev->priv;

	(void)d;
	h->cfg_addr = 0;
	pci_reset(&h->bridge);
	return 0;
}

static int plug_bridge(struct pci_host *h, struct diag *d)
{
	static const struct pci_ids ids = {
		.vendor = BRIDGE_VENDOR,
		.device = BRIDGE_DEVICE,
		.class_code = 0x060000, /* bridge, host */
	};

	h->bridge.id = "pci-host";
	pci_dev_init(&h->bridge, &ids);
	return pci_plug(h->vm, &h->bridge, d);
}

static int pci_host_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	struct pci_host *h = calloc(1, sizeof(*h));
	int err;

	(void)conf;
	if (!h)
		return diag_set(d, -ENOMEM, "out of memory for the PCI host bridge");
	h->vm = h->bridge.vm = vm;
	h->window_next = PLAT_PCI_MEM_BASE;
	h->state[0] = (struct state_ref){ &host_state, h };
	h->state[1] = (struct state_ref){ &pci_dev_state, &h->bridge };
	vm->pci = h;
	dev->priv = h;
	dev->state = h->state;
	dev->nstate = ARRAY_SIZE(h->state);
	err = bus_add(&vm->mmio, PLAT_ECAM_BASE, PLAT_ECAM_SIZE, &ecam_ops, h, "pci-ecam");
	if (!err)
		err = bus_add(&vm->pio, PLAT_PCI_CFG_ADDR, 8, &port_ops, h, "pci-config");
	if (err)
		diag_errno(d, err, "PCI host bridge: cannot claim its addresses");
	else
		err = plug_bridge(h, d);
	if (err)
		pci_host_destroy(dev);
	return err;
}

const struct device_class pci_host_class = {
	.name = "pci-host",
	.id = "pci",
	.create = pci_host_create,
	.reset = pci_host_reset,
	.destroy = pci_host_destroy,
};
