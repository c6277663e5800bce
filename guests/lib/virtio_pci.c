/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_pci.c - finds and checks the structures of a virtio-PCI function (virtio 1.2, 4.1.4) and
 * brings it from reset to DRIVER_OK (3.1.1).
 */
#include "virtio.h"

#include "guest.h"
#include "io.h"

#define CYCLES_PER_SECOND 3000000000ull /* for timeouts only: a fast machine's figure */

bool vio_within(uint64_t *start, unsigned int seconds)
{
	uint64_t now = io_tsc();

	if (!*start)
		*start = now;
	io_relax();
	return now - *start < seconds * CYCLES_PER_SECOND;
}

uint8_t vio_get8(const struct vio *v, unsigned int offset)
{
	return mmio_read8(v->common.addr + offset);
}

uint16_t vio_get16(const struct vio *v, unsigned int offset)
{
	return mmio_read16(v->common.addr + offset);
}

uint32_t vio_get32(const struct vio *v, unsigned int offset)
{
	return mmio_read32(v->common.addr + offset);
}

void vio_set8(const struct vio *v, unsigned int offset, uint8_t val)
{
	mmio_write8(v->common.addr + offset, val);
}

void vio_set16(const struct vio *v, unsigned int offset, uint16_t val)
{
	mmio_write16(v->common.addr + offset, val);
}

void vio_set32(const struct vio *v, unsigned int offset, uint32_t val)
{
	mmio_write32(v->common.addr + offset, val);
}

/* 4.1.4.3 to 4.1.4.6: smallest length and alignment of each structure. */
static const struct {
	uint8_t type, align, cap_len;
	uint32_t length;
	const char *name;
} structures[] = {
	{ VIRTIO_PCI_CAP_COMMON_CFG, 4, 16, 56, "common" },
	{ VIRTIO_PCI_CAP_NOTIFY_CFG, 2, 20, 2, "notify" },
	{ VIRTIO_PCI_CAP_ISR_CFG, 1, 16, 1, "ISR" },
	{ VIRTIO_PCI_CAP_DEVICE_CFG, 4, 16, 1, "device" },
};

static struct vio_region *region_of(struct vio *v, uint8_t type)
{
	switch (type) {
	case VIRTIO_PCI_CAP_COMMON_CFG:
		return &v->common;
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		return &v->notify;
	case VIRTIO_PCI_CAP_ISR_CFG:
		return &v->isr;
	default:
		return &v->device;
	}
}

/* The first structure of a type is the one that a driver must use (4.1.4). */
static void read_structure(struct vio *v, unsigned int at, size_t s)
{
	struct vio_region *r = region_of(v, structures[s].type);
	struct vio_region got = {
		.bar = pci_read8(&v->fn, at + VIRTIO_PCI_CAP_BAR),
		.offset = pci_read32(&v->fn, at + VIRTIO_PCI_CAP_OFFSET),
		.length = pci_read32(&v->fn, at + VIRTIO_PCI_CAP_LENGTH),
	};
	uint8_t len = pci_read8(&v->fn, at + VIRTIO_PCI_CAP_LEN);
	const char *name = structures[s].name;

	if (r->length)
		return;
	if (!test_check(len >= structures[s].cap_len, "%s capability: length %u", name, len) ||
	    !test_check(got.bar < PCI_BARS, "%s capability: BAR %u", name, got.bar) ||
	    !test_check(!(got.offset % structures[s].align), "%s: offset 0x%x", name, got.offset) ||
	    !test_check(got.length >= structures[s].length, "%s: length %u", name, got.length) ||
	    !test_check((uint64_t)got.offset + got.length <= v->bar[got.bar].size,
			"%s: 0x%x + 0x%x lies outside BAR %u", name, got.offset, got.length,
			got.bar))
		return;
	*r = got;
	if (structures[s].type == VIRTIO_PCI_CAP_NOTIFY_CFG) {
		v->notify_multiplier = pci_read32(&v->fn, at + VIRTIO_PCI_NOTIFY_CAP_MULT);
		/* 4.1.4.4: 0, or an even power of 2; a queue's doorbell is 2 bytes. */
		test_check(!(v->notify_multiplier & (v->notify_multiplier - 1)) &&
				   v->notify_multiplier != 1,
			   "notify multiplier %u", v->notify_multiplier);
	}
}

static void read_bars(struct vio *v)
{
	for (unsigned int i = 0; i < PCI_BARS; i++) {
		v->bar[i] = pci_bar_get(&v->fn, i);
		if (!v->bar[i].size)
			continue;
		test_check(!(v->bar[i].size & (v->bar[i].size - 1)), "BAR %u: size 0x%llx", i,
			   (unsigned long long)v->bar[i].size);
		test_check(!(v->bar[i].base & (v->bar[i].size - 1)), "BAR %u at 0x%llx", i,
			   (unsigned long long)v->bar[i].base);
		if (v->bar[i].wide)
			i++;
	}
}

void vio_map(struct vio *v)
{
	struct vio_region *all[] = { &v->common, &v->notify, &v->isr, &v->device };

	for (unsigned int i = 0; i < PCI_BARS; i++) {
		if (v->bar[i].size && !v->bar[i].io)
			cpu_map(v->bar[i].base, v->bar[i].size, CPU_UNCACHED);
	}
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		all[i]->addr = v->bar[all[i]->bar].base + all[i]->offset;
}

bool vio_open(struct vio *v, const struct pci_fn *fn)
{
	*v = (struct vio){ .fn = *fn };
	read_bars(v);
	for (unsigned int at = 0; (at = pci_cap_next(fn, at, PCI_CAP_ID_VNDR));) {
		uint8_t type = pci_read8(fn, at + VIRTIO_PCI_CAP_CFG_TYPE);

		for (size_t s = 0; s < ARRAY_SIZE(structures); s++) {
			if (structures[s].type == type)
				read_structure(v, at, s);
		}
		if (type == VIRTIO_PCI_CAP_PCI_CFG)
			v->pci_cfg_cap = at;
	}
	test_check(v->pci_cfg_cap, "no PCI configuration access capability (4.1.4.9)");
	if (!test_check(v->common.length && v->notify.length && v->isr.length,
			"common, notify or ISR structure missing"))
		return false;
	vio_map(v);
	pci_command(fn, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE, 0);
	v->nqueues = vio_get16(v, VIRTIO_PCI_COMMON_NUMQ);
	return test_check(vio_reset(v), "status does not become 0 after a reset");
}

bool vio_reset(struct vio *v)
{
	uint64_t start = 0;

	vio_set8(v, VIRTIO_PCI_COMMON_STATUS, 0);
	while (vio_get8(v, VIRTIO_PCI_COMMON_STATUS)) {
		if (!vio_within(&start, 30))
			return false;
	}
	v->features = 0;
	return true;
}

uint64_t vio_device_features(const struct vio *v)
{
	uint64_t features;

	vio_set32(v, VIRTIO_PCI_COMMON_DFSELECT, 0);
	features = vio_get32(v, VIRTIO_PCI_COMMON_DF);
	vio_set32(v, VIRTIO_PCI_COMMON_DFSELECT, 1);
	return features | (uint64_t)vio_get32(v, VIRTIO_PCI_COMMON_DF) << 32;
}

void vio_driver_features(const struct vio *v, uint64_t features)
{
	vio_set32(v, VIRTIO_PCI_COMMON_GFSELECT, 0);
	vio_set32(v, VIRTIO_PCI_COMMON_GF, (uint32_t)features);
	vio_set32(v, VIRTIO_PCI_COMMON_GFSELECT, 1);
	vio_set32(v, VIRTIO_PCI_COMMON_GF, (uint32_t)(features >> 32));
}

bool vio_negotiate(struct vio *v, uint64_t wanted)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	if (!vio_reset(v))
		return false;
	vio_set8(v, VIRTIO_PCI_COMMON_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	vio_set8(v, VIRTIO_PCI_COMMON_STATUS, status);
	v->offered = vio_device_features(v);
	if (!test_check(v->offered & VIO_BIT(VIRTIO_F_VERSION_1), "VERSION_1 is not offered"))
		return false;
	/* What the platform demands of us is no choice (6.1). */
	wanted |= VIO_BIT(VIRTIO_F_VERSION_1) | VIO_BIT(VIRTIO_F_ACCESS_PLATFORM) |
		  VIO_BIT(VIRTIO_F_ORDER_PLATFORM);
	v->features = wanted & v->offered;
	vio_driver_features(v, v->features);
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	vio_set8(v, VIRTIO_PCI_COMMON_STATUS, status);
	/* It may ask for a reset at any time, but that is no refusal. */
	return test_check(vio_get8(v, VIRTIO_PCI_COMMON_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK,
			  "offered features 0x%llx are refused", (unsigned long long)v->features);
}

void vio_driver_ok(struct vio *v)
{
	vio_set8(v, VIRTIO_PCI_COMMON_STATUS,
		 vio_get8(v, VIRTIO_PCI_COMMON_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
}
