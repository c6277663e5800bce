/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msix.h - the MSI-X capability, table and pending bits of one PCI function, as the guest sees
 * them. Source: PCI 3.0 section 6.8.2.
 *
 * An interrupt source is an eventfd: a software device writes to it, a VF's vector is wired to it,
 * nobody else needs to know which. While a vector is unmasked its sources are irqfds, so an
 * interrupt does not pass through unvmm at all. While it is masked they are detached and their
 * counters are the pending bits; attaching a signalled eventfd injects it, so nothing is lost.
 *
 * Thread: control lock held.
 */
#ifndef UNVMM_MSIX_H
#define UNVMM_MSIX_H

#include <unvmm/log.h>
#include <unvmm/pci.h>

#define MSIX_VECTORS_MAX 65 /* 64 queues and the configuration vector */
#define MSIX_SOURCES_MAX 65
#define MSIX_NO_VECTOR	 0xffff

struct msix_entry {
	uint32_t addr_lo, addr_hi, data, ctrl; /* the table entry; ctrl bit 0 masks */
};

struct msix_source {
	int eventfd;
	uint16_t vector; /* MSIX_NO_VECTOR: connected to nothing */
	bool attached;
};

struct msix {
	struct pci_dev *pci;
	unsigned int cap; /* offset of the capability */
	unsigned int bar;
	uint16_t nvectors;
	uint16_t control; /* last Message Control that was applied */
	struct msix_entry table[MSIX_VECTORS_MAX];
	uint64_t pending[2];	   /* loaded pending bits, and what pre_save found */
	int gsi[MSIX_VECTORS_MAX]; /* -1 until first used */
	struct msix_source sources[MSIX_SOURCES_MAX];
	unsigned int nsources;
	struct log_limit limit; /* of what KVM refuses: the guest may ask again and again */
};

/* Adds capability and BAR pair `bar` (4 KiB: table at 0, pending bits at 0x800). */
int msix_init(struct msix *m, struct pci_dev *p, unsigned int bar, uint16_t nvectors) must_check;
void msix_fini(struct msix *m);
void msix_reset(struct msix *m);

/* Registers an eventfd (kept by the caller), connected to nothing. Returns its number. */
int msix_add_source(struct msix *m, int eventfd) must_check;
/*
 * Connects a source to a vector or, with MSIX_NO_VECTOR, to nothing. Out of range: -EINVAL. After
 * an error it is connected to nothing.
 */
int msix_connect(struct msix *m, unsigned int source, uint16_t vector) must_check;

/* To be called from the function's config_written hook. */
void msix_config_written(struct msix *m, unsigned int off, unsigned int len);

/* Of struct msix. It is loaded after the PCI function and after whatever connects the sources. */
extern const struct state_desc msix_state;

#endif
