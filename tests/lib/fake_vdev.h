/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_vdev.h - a vdev that records what the virtio-PCI transport asks of it, and aborts when the
 * transport breaks the contract of virtio.h; and a guest's way to its registers, through the buses.
 * For tests and fuzzers; needs a struct vm with buses and irq, but no loop and no KVM. Thread: the
 * test's, which holds or needs no lock; vdev_stopped() may come from any.
 */
#ifndef UNVMM_TESTS_FAKE_VDEV_H
#define UNVMM_TESTS_FAKE_VDEV_H

#include <unvmm/virtio.h>

#include "fake_vm.h"
#include "virtio_pci.h"

#define FAKE_VDEV_CONFIG 24
#define FAKE_DOORBELL_FD 500 /* plus the queue */

struct fake_vdev {
	/* What it shall do. */
	bool slow_stop;	    /* stop() only notes the wish: fake_vdev_stop_now() answers */
	int start_error;    /* what start() returns */
	uint64_t unwelcome; /* features that accept_features() refuses */
	/* What doorbell() answers: DOORBELL_MAPPED with the eventfd below it if it is not -1. */
	enum doorbell_kind way[VDEV_QUEUES_MAX];
	int doorbell_fds[VDEV_QUEUES_MAX]; /* numbers for fake_kvm.h, unless the test sets others */
	uint8_t *pages;			   /* one for each queue; the test may set others */
	bool rewires_on_fault;

	/* What it was asked. */
	unsigned int starts, stops;
	unsigned int kicks[VDEV_QUEUES_MAX];
	unsigned int config_writes;
	unsigned int faults;
	bool running;			      /* start() has been called, and no stop() since */
	bool stopping;			      /* stop() was called and not answered */
	uint16_t started_at[VDEV_QUEUES_MAX]; /* index of each queue at the last start */
	uint16_t stop_index; /* that every enabled queue has reached when it stops */
	uint8_t config[FAKE_VDEV_CONFIG];

	uint8_t *own_pages;
	struct state_ref state[VIRTIO_PCI_STATES];
	/* Last, so that the address sanitizer sees accesses behind it. */
	struct vdev vdev;
};

/* A fake VM with interrupt routes, 16 MiB of RAM and the PCI host bridge. Fails the running test.
 */
struct fake_vm *fake_vm_with_pci(void);

/* vm->pci is there. NULL if the transport refused it, with the sentence in *d. */
struct fake_vdev *fake_vdev_new(struct vm *vm, uint16_t nqueues, uint64_t offered, struct diag *d);
void fake_vdev_free(struct fake_vdev *fv);
/* Answers a stop() that was slow. Any thread. */
void fake_vdev_stop_now(struct fake_vdev *fv);

/* Configuration space of the function, through the ECAM. */
uint64_t fake_ecam_read(struct vm *vm, unsigned int slot, unsigned int off, unsigned int len);
void fake_ecam_write(struct vm *vm, unsigned int slot, unsigned int off, unsigned int len,
		     uint64_t value);

uint64_t vd_config_read(struct fake_vdev *fv, unsigned int off, unsigned int len);
void vd_config_write(struct fake_vdev *fv, unsigned int off, unsigned int len, uint64_t value);

/* The BARs, through the memory bus, where the BAR's register says that they are. */
uint64_t vd_bar_read(struct fake_vdev *fv, unsigned int bar, uint64_t off, unsigned int len);
void vd_bar_write(struct fake_vdev *fv, unsigned int bar, uint64_t off, unsigned int len,
		  uint64_t value);

/* Common configuration. */
static inline uint32_t vd_read(struct fake_vdev *fv, unsigned int off, unsigned int len)
{
	return (uint32_t)vd_bar_read(fv, VP_BAR, VP_COMMON + off, len);
}

static inline void vd_write(struct fake_vdev *fv, unsigned int off, unsigned int len, uint32_t v)
{
	vd_bar_write(fv, VP_BAR, VP_COMMON + off, len, v);
}

static inline uint8_t vd_status(struct fake_vdev *fv)
{
	return (uint8_t)vd_read(fv, VIRTIO_PCI_COMMON_STATUS, 1);
}

static inline void vd_set_status(struct fake_vdev *fv, uint8_t v)
{
	vd_write(fv, VIRTIO_PCI_COMMON_STATUS, 1, v);
}

/* Steps of a driver (virtio 1.2, 3.1.1); each can be left out. */
void vd_decode(struct fake_vdev *fv); /* memory decode and bus mastering on */
void vd_features(struct fake_vdev *fv, uint64_t features);
/* Programs queue q with made-up addresses, size and vector, and enables it. */
void vd_queue(struct fake_vdev *fv, uint16_t q, uint16_t size, uint16_t vector);
/* All of them, with every queue at its largest size on vector q + 1, up to DRIVER_OK. */
void vd_drive(struct fake_vdev *fv, uint64_t features);
void vd_kick(struct fake_vdev *fv, uint16_t q);

/* MSI-X: switches it on or off, programs a vector's message, masks or unmasks it. */
void vd_msix_control(struct fake_vdev *fv, uint16_t flags);
void vd_msix_vector(struct fake_vdev *fv, unsigned int v, uint64_t addr, uint32_t data, bool mask);
/* Has somebody signalled the eventfd? Takes the signal away, as an irqfd would. */
bool fake_signal_taken(int eventfd);

#endif
