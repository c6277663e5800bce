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

	unsigned int cfg_cap; /* where the PCI configuration access capability lies */
	int config_fd;	      /* eventfd of the configuration interrupt */
	unsigned int config_source;
	int irq_fds[VDEV_QUEUES_MAX]; /* eventfds of the queues' interrupts; -1 beyond nqueues */
	unsigned int irq_sources[VDEV_QUEUES_MAX];
	int doorbell_fds[VDEV_QUEUES_MAX]; /* what is wired as ioeventfd; -1: trapped */

	/* Notes from other threads: VP_NOTE_ bits, found by vp_settle(). */
	uint32_t notes;
	pthread_mutex_t stop_lock; /* protects limit, and orders stop_cond with the note */
	pthread_cond_t stop_cond;  /* VP_NOTE_STOPPED has come */
	struct loop_work settle; /* main loop: a stop was answered, it may be wanted to run again */
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

#endif
