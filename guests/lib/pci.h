/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci.h - configuration space of bus 0, by ECAM and by ports 0xcf8/0xcfc, and BARs.
 */
#ifndef GUESTS_PCI_H
#define GUESTS_PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/pci_regs.h>

#define PCI_SLOTS 32
#define PCI_FUNCS 8
#define PCI_BARS  6

enum pci_access {
	PCI_BY_ECAM,
	PCI_BY_PORT, /* only the first 256 bytes */
};

struct pci_fn {
	uint8_t slot, func;
	enum pci_access access;
};

struct pci_bar {
	uint64_t base, size; /* size 0: not there */
	bool io, wide, prefetch;
};

/* Finds ECAM (MCFG, else the platform's address) and checks that both ways see one host bridge. */
void pci_init(uint64_t rsdp);
bool pci_has_ecam(void);

/* Widths 1, 2 and 4. */
uint32_t pci_read(const struct pci_fn *fn, unsigned int offset, unsigned int width);
void pci_write(const struct pci_fn *fn, unsigned int offset, unsigned int width, uint32_t v);

static inline uint8_t pci_read8(const struct pci_fn *fn, unsigned int offset)
{
	return (uint8_t)pci_read(fn, offset, 1);
}

static inline uint16_t pci_read16(const struct pci_fn *fn, unsigned int offset)
{
	return (uint16_t)pci_read(fn, offset, 2);
}

static inline uint32_t pci_read32(const struct pci_fn *fn, unsigned int offset)
{
	return pci_read(fn, offset, 4);
}

/* The nth function with this vendor and device. */
bool pci_find(uint16_t vendor, uint16_t device, unsigned int nth, struct pci_fn *out);

/* A free place in the memory window: from its upper end down, where firmware has put nothing. */
uint64_t pci_alloc(uint64_t size);
/* Sizes and reads a BAR with memory decoding off for that time; assigns an address if it has none.
 */
struct pci_bar pci_bar_get(const struct pci_fn *fn, unsigned int index);
void pci_bar_set(const struct pci_fn *fn, unsigned int index, const struct pci_bar *bar,
		 uint64_t base);

/* Sets and clears bits of the command register. */
void pci_command(const struct pci_fn *fn, uint16_t set, uint16_t clear);

/*
 * Visits the capability list: bounded, dword-aligned, inside the configuration space; returns the
 * offset of the next one with this id after `after` (0: the first), 0 if there is none.
 */
unsigned int pci_cap_next(const struct pci_fn *fn, unsigned int after, uint8_t id);

#endif
