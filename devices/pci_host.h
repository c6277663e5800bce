/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci_host.h - between the host bridge and the functions on its bus. Private to devices/.
 * Control lock held, except for set-up by main.
 */
#ifndef UNVMM_DEVICES_PCI_HOST_H
#define UNVMM_DEVICES_PCI_HOST_H

#include <unvmm/pci.h>

/* Next free slot, or -ENOSPC with a sentence. */
int pci_host_attach(struct pci_host *h, struct pci_dev *p, struct diag *d) must_check;
/* Into its own slot, which is free. */
void pci_host_put(struct pci_host *h, struct pci_dev *p);
void pci_host_detach(struct pci_host *h, struct pci_dev *p);

/* A naturally aligned piece of the memory window; never given back. */
int pci_host_alloc(struct pci_host *h, uint64_t size, uint64_t *base) must_check;

/* Maps what of a function's BARs, and of every function's, is decoded, not mapped, and has room. */
void pci_map_bars(struct pci_dev *p);
void pci_host_map_bars(struct pci_host *h);

/* Configuration cycles of one function; off and len come from the guest. */
uint32_t pci_config_read(struct pci_dev *p, unsigned int off, unsigned int len);
void pci_config_write(struct pci_dev *p, unsigned int off, unsigned int len, uint32_t value);

#endif
