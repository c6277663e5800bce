/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio.h - what stands behind the one virtio-PCI transport: a struct vdev, software or VF.
 *
 * devices/virtio_pci.c owns everything that the guest sees of the function: PCI configuration,
 * capabilities, common configuration, MSI-X. It keeps the journal (struct vdev below: negotiated
 * features, status, ring addresses, indexes, vectors) and is its only writer. The vdev is told of
 * changes by its ops and asked how a queue's doorbell is to be wired. The transport does not know
 * whether a ring is served by a thread of ours or by a device. Source: virtio 1.2, section 4.1.
 *
 *   guest: register write -> policy table -> journal -> op -> software queue or VF
 *   guest: doorbell       -> page of the VF, eventfd (KVM) or trapped, as vdev_ops.doorbell says
 *   vdev:  interrupt      -> the queue's eventfd -> irqfd (msix.h) -> guest
 *
 * Thread: ops run with the control lock held, on a vcpu or the main thread (doorbell() on the one
 * that rewires, too), and never wait for a ring. vdev_needs_reset(), vdev_stopped(),
 * vdev_config_changed() and vdev_interrupt() may be called by any thread, with the lock or without;
 * they leave a note that the transport finds at the guest's next register access.
 */
#ifndef UNVMM_VIRTIO_H
#define UNVMM_VIRTIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include <unvmm/msix.h>
#include <unvmm/pci.h>
#include <unvmm/vq.h>

#define VDEV_QUEUES_MAX 64 /* one doorbell page each */

/* After so many calls of ops->doorbell_fault() nothing of the vdev is mapped any more. */
#define VDEV_DOORBELL_FAULTS 4

#define VIRTIO_BIT(n) (1ull << (n))

/* What the ring code of every software device can do (vq.h). */
#define VIRTIO_SOFT_RING_FEATURES                                                   \
	(VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC) | \
	 VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX))

/* The journal of one queue. */
struct vdev_queue {
	uint16_t size_max;	  /* as offered */
	uint16_t size;		  /* as the driver chose it */
	uint16_t vector;	  /* guest's MSI-X vector or MSIX_NO_VECTOR */
	uint16_t doorbell_offset; /* in-page offset of the doorbell: machine ABI, multiple of 4 */
	bool enabled;
	uint64_t desc, driver,
		device; /* guest addresses of descriptor table, avail and used ring */
	uint16_t index; /* where the rings go on at the next start: 0 after a reset */
	int irq_fd;	/* eventfd of this queue's interrupt; -1 while the vector is NO_VECTOR */
};

/* How a queue's doorbell reaches the vdev. */
enum doorbell_kind {
	DOORBELL_TRAP,	  /* exit to user space, ops->kick() */
	DOORBELL_EVENTFD, /* KVM writes to `fd` */
	DOORBELL_MAPPED,  /* the guest's doorbell page is `page`: its store reaches the device */
};

/*
 * What ops->doorbell() answers; it is given { DOORBELL_TRAP, -1, NULL, NULL }. fd and page belong
 * to the vdev and stay valid until another answer is wired, or the queue is not wired any more:
 * that is once stop() is called. Whatever is wired, kick() may be called at any time while it runs.
 *
 * All of a mapped page is the guest's, to read and to write, not just the doorbell in it: the page
 * must hold nothing but doorbells of this function. The guest rings at queues[q].doorbell_offset in
 * it, so that must be where the device expects the doorbell of q.
 */
struct vdev_doorbell {
	enum doorbell_kind kind;
	int fd;		 /* DOORBELL_EVENTFD; DOORBELL_MAPPED: if it cannot be mapped; -1: trap */
	void *page;	 /* DOORBELL_MAPPED: one page of 4 KiB in this process */
	const char *why; /* static: why it is not mapped, for `unvmm info`; NULL: no reason known */
};

/* What has gone through a queue. One writer each; read by anybody, at any time. */
struct vdev_counters {
	uint64_t kicks;	     /* doorbells that the queue's owner heard */
	uint64_t traps;	     /* doorbells that cost an exit to user space */
	uint64_t requests;   /* completed */
	uint64_t interrupts; /* asked for */
};

static inline void vdev_count(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

struct vdev {
	struct vm *vm;
	struct virtio_pci *transport; /* set by virtio_pci_create() */
	const struct vdev_ops *ops;
	const char *id;	     /* "blk0" */
	uint16_t device_id;  /* VIRTIO_ID_* */
	uint32_t class_code; /* PCI class */
	uint16_t nqueues;
	uint16_t config_size; /* bytes of device configuration */
	uint64_t offered;     /* features that the guest may accept; VERSION_1 included */

	/* The journal: written by the transport only, read by ops. */
	uint64_t shown; /* `offered`, or less of it: what the guest was offered where it began */
	uint64_t negotiated;
	uint8_t status;
	struct vdev_queue queues[VDEV_QUEUES_MAX];

	struct vdev_counters counters[VDEV_QUEUES_MAX];
	uint64_t resets_asked; /* vdev_needs_reset(); atomic */
};

struct vdev_ops {
	/* FEATURES_OK is being set: are these acceptable together? NULL: any subset is. */
	bool (*accept_features)(const struct vdev *v, uint64_t features);
	/*
	 * The journal has been cleared, because of a reset (2.4.2) or at the very beginning: what
	 * the device itself keeps of a driver goes too. It is stopped. NULL: it keeps nothing.
	 */
	void (*reset)(struct vdev *v);
	/*
	 * DRIVER_OK with the queues that are enabled: take them over at queues[q].index. An error
	 * becomes NEEDS_RESET. 1: it is not up yet, calls virtio_pci_rewire() when it is, and looks
	 * at all queues then; until then doorbells are as they were, at first traps.
	 */
	int (*start)(struct vdev *v);
	/*
	 * Stop using rings, interrupts and guest memory, whatever the state; what is under way is
	 * cancelled or completed. Calls vdev_stopped() when that is done, at once or later from any
	 * thread. Until then the guest reads the old status (virtio 1.2, 4.1.4.3.1) and a stop is
	 * not repeated. Before vdev_stopped() it has put each queue's place into queues[q].index.
	 */
	void (*stop)(struct vdev *v);
	/*
	 * Which way for the doorbell of q? Asked for every enabled queue after every start(), when
	 * the guest has moved the BAR, and by virtio_pci_rewire(). NULL:
	 * DOORBELL_TRAP. A way that KVM refuses becomes the next worse one, at last a trap.
	 */
	void (*doorbell)(struct vdev *v, unsigned int q, struct vdev_doorbell *db);
	/* A trapped doorbell. */
	void (*kick)(struct vdev *v, unsigned int q);
	/*
	 * A vcpu stumbled over a page that this vdev, or another one, has mapped: the memory behind
	 * it is gone (KVM_RUN: -EFAULT, which does not say where). No doorbell of the VM is mapped
	 * any more; they signal the eventfd of the same answer, or trap. The vdev looks after its
	 * function and then says vdev_needs_reset() or calls virtio_pci_rewire(). Called on a vcpu.
	 * NULL: nothing is mapped until the next start.
	 */
	void (*doorbell_fault)(struct vdev *v);
	/* Device configuration; [off, off + len) lies inside config_size; little endian. */
	void (*config_read)(struct vdev *v, unsigned int off, void *buf, unsigned int len);
	/* NULL: all fields are read-only. */
	void (*config_write)(struct vdev *v, unsigned int off, const void *buf, unsigned int len);
};

/*
 * Gives a vdev its PCI function. v->vm, ops, id, device_id, class_code, nqueues, config_size,
 * offered, queues[].size_max and queues[].doorbell_offset are set by the caller, which keeps the
 * memory until virtio_pci_destroy(). Transport features (VERSION_1, INDIRECT_DESC, EVENT_IDX) are
 * part of `offered`, because a VF may lack them.
 */
int virtio_pci_create(struct vdev *v, struct diag *d) must_check;
/* The vdev has been stopped. */
void virtio_pci_destroy(struct vdev *v);
/*
 * Just created, v stands behind `front` from now on: the guest finds it only after
 * virtio_pci_step_in(), in the place of `front`, with that one's state loaded into it. Both are
 * quiesced then. Main.
 */
void virtio_pci_hide(struct vdev *v, const struct vdev *front);
void virtio_pci_step_in(struct vdev *v, struct vdev *front);
/*
 * For device_class.reset, quiesce and resume. They wait until the vdev has stopped, so they take
 * the control lock themselves; main thread, vcpus parked. -ETIMEDOUT after 10 s.
 */
int virtio_pci_reset(struct vdev *v) must_check;
int virtio_pci_quiesce(struct vdev *v) must_check;
void virtio_pci_resume(struct vdev *v);
/* For device_class.arm: will virtio_pci_resume() start it? Control lock held. */
bool virtio_pci_will_start(const struct vdev *v) must_check;
/*
 * For device_class.moved: interrupts the guest for every queue, because what was signalled at the
 * other host may not have come along. Drivers find nothing to do, or what they waited for.
 */
void virtio_pci_moved(struct vdev *v);

/*
 * Asks ops->doorbell() anew for every queue and changes what differs; no doorbell is lost on the
 * way. Nothing happens unless the vdev runs. Control lock held, any thread that may take it.
 */
void virtio_pci_rewire(struct vdev *v);

/*
 * Does the guest reach this page as the doorbell of q? Then it must not be unmapped: also after a
 * stop, if KVM has refused to forget it. Control lock held.
 */
bool virtio_pci_shows(const struct vdev *v, unsigned int q, const void *page) must_check;

/*
 * The eventfd of queue q's interrupt, whatever its vector is, from virtio_pci_create() to
 * virtio_pci_destroy(): for a function's MSI-X vector, whose interrupts then reach the guest by the
 * irqfd without a thread of unvmm. Any thread. Other than with vdev_interrupt(), a signal is
 * kept while the queue has no vector.
 */
int vdev_irq_fd(const struct vdev *v, unsigned int q);

/*
 * For device_class.info and stats of devices whose dev->priv is the vdev: the function, and its
 * queues with the way of their doorbells; the queues' counters. (virtio_report.c)
 */
void virtio_pci_info(const struct device *dev, struct report *r);
void virtio_pci_stats(const struct device *dev, struct report *r);

/* State tables of the transport (PCI function, MSI-X, registers, journal). */
#define VIRTIO_PCI_STATES 4
void virtio_pci_state(struct vdev *v, struct state_ref *refs);

/*
 * The device met something it cannot go on from: sets NEEDS_RESET and tells the guest, and the log
 * unless `why` is NULL (it knows already). Any thread.
 */
void vdev_needs_reset(struct vdev *v, const char *why);
/* Answer to ops->stop. Any thread. */
void vdev_stopped(struct vdev *v);
/* Device configuration changed: new generation, interrupt. Any thread. */
void vdev_config_changed(struct vdev *v);

static inline bool vdev_has(const struct vdev *v, unsigned int feature)
{
	return v->negotiated & VIRTIO_BIT(feature);
}

/* Interrupts the guest for a queue: one write to its eventfd. The thread that owns the queue. */
void vdev_interrupt(struct vdev *v, unsigned int q);

#endif
