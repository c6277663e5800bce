/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci.c - configuration space of bus 0 by both mechanisms of PCI Express, and BARs.
 */
#include "pci.h"

#include <unvmm/platform.h>

#include "guest.h"
#include "io.h"

#define CAPS_MAX 48 /* dwords between the header and the end of the 256 bytes */

static uintptr_t ecam; /* 0: none */

static uint32_t port_address(const struct pci_fn *fn, unsigned int offset)
{
	return 0x80000000u | (uint32_t)fn->slot << 11 | (uint32_t)fn->func << 8 | (offset & 0xfc);
}

static uintptr_t ecam_address(const struct pci_fn *fn, unsigned int offset)
{
	return ecam + ((uintptr_t)fn->slot << 15 | (uintptr_t)fn->func << 12 | offset);
}

uint32_t pci_read(const struct pci_fn *fn, unsigned int offset, unsigned int width)
{
	uint16_t data = (uint16_t)(PLAT_PCI_CFG_DATA + (offset & 3));

	if (fn->access == PCI_BY_ECAM) {
		uintptr_t at = ecam_address(fn, offset);

		return width == 1 ? mmio_read8(at) : width == 2 ? mmio_read16(at) : mmio_read32(at);
	}
	io_out32(PLAT_PCI_CFG_ADDR, port_address(fn, offset));
	return width == 1 ? io_in8(data) : width == 2 ? io_in16(data) : io_in32(data);
}

void pci_write(const struct pci_fn *fn, unsigned int offset, unsigned int width, uint32_t v)
{
	uint16_t data = (uint16_t)(PLAT_PCI_CFG_DATA + (offset & 3));
	uintptr_t at = ecam_address(fn, offset);

	if (fn->access == PCI_BY_PORT)
		io_out32(PLAT_PCI_CFG_ADDR, port_address(fn, offset));
	if (width == 1)
		fn->access == PCI_BY_ECAM ? mmio_write8(at, (uint8_t)v) : io_out8(data, (uint8_t)v);
	else if (width == 2)
		fn->access == PCI_BY_ECAM ? mmio_write16(at, (uint16_t)v)
					  : io_out16(data, (uint16_t)v);
	else
		fn->access == PCI_BY_ECAM ? mmio_write32(at, v) : io_out32(data, v);
}

void pci_init(uint64_t rsdp)
{
	const struct pci_fn by_port = { .access = PCI_BY_PORT },
			    by_ecam = { .access = PCI_BY_ECAM };
	uint64_t base = acpi_ecam(rsdp);

	ecam = base ? base : PLAT_ECAM_BASE;
	cpu_map(ecam, PLAT_ECAM_SIZE, CPU_UNCACHED);
	if (pci_read32(&by_ecam, PCI_VENDOR_ID) == pci_read32(&by_port, PCI_VENDOR_ID))
		return;
	test_check(!base, "MCFG's window at 0x%llx does not show the host bridge",
		   (unsigned long long)base);
	ecam = 0;
}

bool pci_has_ecam(void)
{
	return ecam;
}

bool pci_find(uint16_t vendor, uint16_t device, unsigned int nth, struct pci_fn *out)
{
	for (unsigned int slot = 0; slot < PCI_SLOTS; slot++) {
		struct pci_fn fn = { .slot = (uint8_t)slot,
				     .access = ecam ? PCI_BY_ECAM : PCI_BY_PORT };

		if (pci_read32(&fn, PCI_VENDOR_ID) != ((uint32_t)device << 16 | vendor))
			continue;
		if (!nth--) {
			*out = fn;
			return true;
		}
	}
	return false;
}

void pci_command(const struct pci_fn *fn, uint16_t set, uint16_t clear)
{
	uint16_t v = pci_read16(fn, PCI_COMMAND);

	pci_write(fn, PCI_COMMAND, 2, (uint32_t)((v | set) & ~clear));
}

void pci_bar_set(const struct pci_fn *fn, unsigned int index, const struct pci_bar *bar,
		 uint64_t base)
{
	unsigned int at = PCI_BASE_ADDRESS_0 + 4 * index;

	pci_write(fn, at, 4, (uint32_t)base);
	if (bar->wide)
		pci_write(fn, at + 4, 4, (uint32_t)(base >> 32));
}

uint64_t pci_alloc(uint64_t size)
{
	static uint64_t next = PLAT_PCI_MEM_BASE + PLAT_PCI_MEM_SIZE;

	next = (next - size) & ~(size - 1);
	return next;
}

struct pci_bar pci_bar_get(const struct pci_fn *fn, unsigned int index)
{
	unsigned int at = PCI_BASE_ADDRESS_0 + 4 * index;
	uint32_t low = pci_read32(fn, at), high = 0;
	uint16_t command = pci_read16(fn, PCI_COMMAND);
	struct pci_bar bar = { .io = low & PCI_BASE_ADDRESS_SPACE_IO };
	uint64_t mask;

	pci_command(fn, 0, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
	bar.wide =
		!bar.io && (low & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64;
	bar.prefetch = !bar.io && low & PCI_BASE_ADDRESS_MEM_PREFETCH;
	if (bar.wide)
		high = pci_read32(fn, at + 4);
	bar.base = (low & (bar.io ? ~3u : ~15u)) | (uint64_t)high << 32;
	pci_bar_set(fn, index, &bar, ~0ull);
	mask = pci_read32(fn, at) & (bar.io ? ~3u : ~15u);
	if (bar.wide)
		mask |= (uint64_t)pci_read32(fn, at + 4) << 32;
	else if (mask)
		mask |= 0xffffffff00000000;
	bar.size = -mask;
	if (bar.size && !bar.base && !bar.io)
		bar.base = pci_alloc(bar.size);
	pci_bar_set(fn, index, &bar, bar.base);
	pci_write(fn, PCI_COMMAND, 2, command);
	return bar;
}

unsigned int pci_cap_next(const struct pci_fn *fn, unsigned int after, uint8_t id)
{
	unsigned int at;

	if (!(pci_read16(fn, PCI_STATUS) & PCI_STATUS_CAP_LIST))
		return 0;
	at = pci_read8(fn, after ? after + PCI_CAP_LIST_NEXT : PCI_CAPABILITY_LIST);
	for (unsigned int i = 0; at; i++) {
		if (!test_check(i < CAPS_MAX, "capability list has a loop") ||
		    !test_check(at >= 0x40 && !(at & 3), "capability at 0x%x", at))
			return 0;
		if (pci_read8(fn, at + PCI_CAP_LIST_ID) == id)
			return at;
		at = pci_read8(fn, at + PCI_CAP_LIST_NEXT);
	}
	return 0;
}
