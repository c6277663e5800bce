/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_pci.h - the transport's own state and register table. Private to devices/ (and to the
 * tests, which walk the table). Control lock held.
 */
#ifndef UNVMM_DEVICES_VIRTIO_PCI_H
#define UNVMM_DEVICES_VIRTIO_PCI_H

#include <unvmm/log.h>
#include <unvmm/virtio.h>

/* BAR pair 0: where the structures of virtio 1.2, 4.1.4 lie. BAR pair 2: MSI-X. */
#define VP_BAR		 0
#define VP_MSIX_BAR	 2
#define VP_BAR_SIZE	 0x80000
#define VP_COMMON	 0x00000
#define VP_ISR		 0x01000
#define VP_DEVICE	 0x02000
#define VP_DOORBELLS	 0x40000
#define VP_DOORBELL_PAGE 0x1000
#define VP_NOTIFY_MULT	 4

enum vp_run {
	VP_STOPPED,
	VP_RUNNING,
	VP_STOPPING, /* ops->stop was called, vdev_stopped() has not been */
};

/*
 * queue_notify_off counts multipliers in 16 bits (4.1.4.3): page 63 and the last offset in it make
 * 65535, so every queue has a page and every offset that is allowed can be told.
 */
_Static_assert(((VDEV_QUEUES_MAX - 1) * VP_DOORBELL_PAGE + VP_DOORBELL_PAGE - VP_NOTIFY_MULT) /
			       VP_NOTIFY_MULT ==
		       UINT16_MAX,
	       "queue_notify_off is 16 bits wide");
_Static_assert(VP_DOORBELLS + VDEV_QUEUES_MAX * VP_DOORBELL_PAGE <= VP_BAR_SIZE,
	       "the doorbells lie in the BAR");

static inline bool vp_doorbell_offset_valid(uint16_t offset)
{
	return offset % VP_NOTIFY_MULT == 0 && offset < VP_DOORBELL_PAGE;
}

/* How a queue's doorbell is wired in KVM (virtio_doorbell.c). */
struct vp_wire {
	uint64_t at;	 /* guest address of the doorbell while one of the two is there */
	int fd;		 /* eventfd; not heard while a page lies over it; -1: none */
	int slot;	 /* of the page; -1: none */
	void *page;	 /* of the vdev; NULL: none */
	const char *why; /* it is not mapped; NULL: no reason known */
};

struct virtio_pci {
	struct vdev *v;
	struct pci_dev pci;
	struct msix msix;

	/* Registers that are nobody else's business. */
	uint32_t device_feature_select;
	uint32_t driver_feature_select;
	uint64_t driver_features; /* as written; v->negotiated after FEATURES_OK */
	uint16_t queue_select;
	uint16_t config_vector;
	uint8_t config_generation;
	uint8_t isr;

	enum vp_run run;
	bool reset_pending; /* the guest wrote status 0; done when the vdev has stopped */
	bool quiesced;	    /* paused by us */
	bool loaded;	    /* its state came from elsewhere, and it has not been started since */

	unsigned int cfg_cap; /* where the PCI configuration access capability lies */
	int config_fd;	      /* eventfd of the configuration interrupt */
	unsigned int config_source;
	int irq_fds[VDEV_QUEUES_MAX]; /* eventfds of the queues' interrupts; -1 beyond nqueues */
	unsigned int irq_sources[VDEV_QUEUES_MAX];
	struct vp_wire wires[VDEV_QUEUES_MAX];
	unsigned int doorbell_faults; /* how often mapped pages had no memory behind them */
	struct log_limit doorbell_limit;
	struct vm_mapper mapper; /* of the pages in wires */

	/* Notes from other threads: VP_NOTE_ bits, found by vp_settle(). */
	uint32_t notes;
	pthread_mutex_t stop_lock; /* protects limit, and orders stop_cond with the note */
	pthread_cond_t stop_cond;  /* VP_NOTE_STOPPED has come */
	struct loop_work settle; /* main loop: a stop was answered, it may be wanted to run again */
	struct loop_work wire;	 /* main loop: the doorbells of a guest that has moved here */
	struct log_limit limit;
};

#define VP_NOTE_STOPPED	    1u
#define VP_NOTE_NEEDS_RESET 2u
#define VP_NOTE_CONFIG	    4u

/*
 * What a guest's access to a register means. The policy is checked before any
 * code runs for the access; what no row lists is denied: it reads all-ones and ignores writes.
 */
enum reg_policy {
	REG_READONLY, /* ours to tell; writes are ignored */
	REG_SHADOW,   /* kept here; the vdev learns of it with the step that uses it */
	REG_BOTH,     /* the vdev acts first, the journal keeps what came of it */
};

struct vp_reg {
	const char *name;
	uint16_t offset; /* in the common configuration; access size must be `size` exactly */
	uint8_t size;
	enum reg_policy policy;
	uint32_t (*read)(struct virtio_pci *t);
	void (*write)(struct virtio_pci *t, uint32_t value); /* NULL for REG_READONLY */
};

/* virtio_regs.c: the table, sorted by offset, and its lookup (NULL: denied). */
extern const struct vp_reg vp_regs[];
extern const unsigned int vp_nregs;
const struct vp_reg *vp_reg_find(uint64_t offset, unsigned int len);
/* May a driver have these features, together? */
bool vp_features_acceptable(const struct vdev *v, uint64_t features);

/* virtio_pci.c: what the register hooks call. */
void vp_settle(struct virtio_pci *t);	  /* takes the notes of other threads into the journal */
void vp_update_run(struct virtio_pci *t); /* starts or stops the vdev as the journal now wants */
void vp_begin_reset(struct virtio_pci *t);
void vp_connect_queue(struct virtio_pci *t, unsigned int q); /* vector of v->queues[q] */
void vp_connect_config(struct virtio_pci *t);		     /* t->config_vector */
/* Waits for the note that the vdev has stopped. Lock held on entry and exit, not while waiting. */
int vp_wait_stopped(struct virtio_pci *t, unsigned int seconds) must_check;
uint64_t vp_bar_read(void *dev, uint64_t off, unsigned int len);
void vp_bar_write(void *dev, uint64_t off, unsigned int len, uint64_t value);

/* virtio_pci_config.c: the capabilities, and what the guest's accesses to the space do. */
int vp_config_init(struct virtio_pci *t) must_check;

/* virtio_doorbell.c */
void vp_doorbells_init(struct virtio_pci *t);
void vp_doorbells_fini(struct virtio_pci *t);
void vp_doorbells_wire(struct virtio_pci *t); /* as the vdev wants them, if it runs */
void vp_doorbells_unwire(struct virtio_pci *t);
void vp_doorbell_trapped(struct virtio_pci *t, uint64_t off); /* off: in the doorbell window */

#endif
