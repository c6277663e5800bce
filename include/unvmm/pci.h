/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci.h - the PCI host bridge (one bus, ECAM and ports 0xcf8/0xcfc) and the functions behind it.
 *
 * A function's configuration space is bytes plus a mask of the bits that the guest may write. BARs
 * are 64-bit memory BARs; the guest may size and move them and switch memory decode off, and the
 * function's hook then maps or unmaps what is behind (regions on the bus, doorbells). BARs are
 * assigned before the guest starts, as firmware would. Source: PCI 3.0 section 6, PCIe 5.0 7.5.
 *
 * Thread: control lock held, except for creation by main.
 */
#ifndef UNVMM_PCI_H
#define UNVMM_PCI_H

#include <linux/pci_regs.h>

#include <unvmm/state.h>
#include <unvmm/vm.h>

#define PCI_BARS	3    /* 64-bit BARs at registers 0/1, 2/3, 4/5 */
#define PCI_HEADER_SIZE 256  /* bytes that hold every bit a guest may write */
#define PCI_CONFIG_SIZE 4096 /* bytes of extended configuration space */

struct pci_bar {
	uint64_t size; /* power of two, at least 4 KiB; 0: not there */
	uint64_t base; /* where it is mapped now; valid while mapped */
	bool mapped;
	const struct bus_ops *ops;
	void *dev; /* given to ops */
	const char *name;
};

struct pci_dev {
	struct vm *vm;
	const char *id;
	uint8_t slot; /* device number on bus 0; function 0 */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t wmask[PCI_CONFIG_SIZE];	  /* bits that the guest may change */
	uint8_t written[PCI_HEADER_SIZE]; /* what travels: the bits of config that wmask allows */
	unsigned int cap_tail;		  /* where the last capability's next pointer is */
	unsigned int cap_free;		  /* first free byte for a capability */
	struct pci_bar bars[PCI_BARS];
	uint64_t assigned[PCI_BARS]; /* where the BARs are at power-on */
	/* A BAR became visible at bar->base, or is about to vanish from it. May be NULL. */
	void (*bar_changed)(struct pci_dev *p, unsigned int bar, bool mapped);
	/* After a write that changed configuration bytes [off, off + len). May be NULL. */
	void (*config_written)(struct pci_dev *p, unsigned int off, unsigned int len);
	/* Before a read of them, to bring bytes up to date. May be NULL. */
	void (*config_read)(struct pci_dev *p, unsigned int off, unsigned int len);
};

struct pci_ids {
	uint16_t vendor, device, subvendor, subdevice;
	uint8_t revision;
	uint32_t class_code; /* 24 bits: base class, subclass, programming interface */
};

/* Fills the header; p->vm, p->id, p->dev and hooks are set by the caller. */
void pci_dev_init(struct pci_dev *p, const struct pci_ids *ids);
/* Declares 64-bit memory BAR pair n (0..2) before pci_plug(). */
void pci_add_bar(struct pci_dev *p, unsigned int n, uint64_t size, const struct bus_ops *ops,
		 void *dev, const char *name);
/* Appends a capability of `len` bytes (ID and next included); returns its offset or -ENOSPC. */
int pci_add_cap(struct pci_dev *p, uint8_t id, unsigned int len) must_check;

/* Puts the function into the next free slot and assigns its BARs. -ENOSPC with a sentence. */
int pci_plug(struct vm *vm, struct pci_dev *p, struct diag *d) must_check;
void pci_unplug(struct pci_dev *p);

/*
 * p, which was just plugged, stands behind `front`: it has the same slot and the same BARs, and the
 * guest does not find it until pci_step_in() puts it there instead of `front`, which the guest then
 * finds no more. For pci_unplug() both are as good as unplugged while they are hidden.
 */
void pci_hide(struct pci_dev *p, const struct pci_dev *front);
void pci_step_in(struct pci_dev *p, struct pci_dev *front);

/* Back to the power-on values, BARs where they were assigned. */
void pci_reset(struct pci_dev *p);

static inline bool pci_bus_master(const struct pci_dev *p)
{
	return p->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

/* Little-endian accessors for configuration bytes. */
uint16_t pci_get16(const struct pci_dev *p, unsigned int off);
uint32_t pci_get32(const struct pci_dev *p, unsigned int off);
void pci_set16(struct pci_dev *p, unsigned int off, uint16_t v);
void pci_set32(struct pci_dev *p, unsigned int off, uint32_t v);

extern const struct state_desc pci_dev_state; /* of struct pci_dev */

#endif
