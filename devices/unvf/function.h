/* SPDX-License-Identifier: Apache-2.0 */
/*
 * function.h - one virtio function of unvf: its registers as a driver finds them, and what stands
 * behind them. The disk and the network card are those of devices/ (virtio_blk.c, virtio_net.c): a
 * function is a second transport for a struct vdev, in the place of devices/virtio_pci.c, and the
 * engine a second runner of its queues, in the place of devices/softq.c.
 *
 *   message of the client -> server.c -> requests.c -> config space, registers (main thread)
 *   doorbell cell -> engine.c -> vq_look() -> virtio_blk.c, virtio_net.c (poll thread)
 *   completion -> engine.c -> function_interrupt() -> eventfd of the client
 *
 * Thread: main owns the registers and asks the poll thread to start, pause and stop the queues;
 * what the poll thread has to say comes as notes. While the function is FN_OFF or FN_PAUSED and no
 * transition is under way, the poll thread touches neither the rings nor the client's memory.
 */
#ifndef UNVF_FUNCTION_H
#define UNVF_FUNCTION_H

#include <unvmm/virtio.h>

#include "engine.h"
#include "fault.h"

/*
 * What virtio 1.2, 4.1.4 puts into a BAR: f->fn_bar, of 64 bits. BAR 0: MSI-X, which the client
 * emulates. With ring indexes BAR 4 is theirs (ring_index.c).
 */
#define FN_BAR	       4
#define FN_BAR_BESIDE  2
#define FN_INDEX_BAR   4
#define FN_INDEX_SIZE  0x1000
#define FN_COMMON      0x0000
#define FN_ISR	       0x1000
#define FN_DEVICE      0x2000
#define FN_DOORBELLS   0x3000
#define FN_MSIX_BAR    0
#define FN_MSIX_SIZE   0x1000
#define FN_MSIX_PBA    0x800
#define FN_CONFIG_SIZE 256

/*
 * A doorbell cell holds this, or what was written to it last since the engine looked: the index of
 * its queue. There is no queue 0xffff.
 */
#define FN_CELL_EMPTY 0xffff

#define FN_PATTERN "unvf-BAR" /* with --pattern, every 8 bytes of a BAR that nothing else has */

/* Of the queues, of the configuration, and behind these VFIO's error and request events. */
#define FN_EVENTS      2
#define FN_VECTORS_MAX (VDEV_QUEUES_MAX + 1 + FN_EVENTS)

enum fn_doorbell { FN_DOORBELL_MMAP, FN_DOORBELL_IOEVENTFD, FN_DOORBELL_MESSAGE };

/* What of a function does not come from its device class. */
struct fn_options {
	enum fn_doorbell doorbell;
	bool state, dirty_log, ring_reset, ring_index, page_per_vq, pattern, no_access_platform;
	bool shared;	     /* its image is not locked: others write to it in turn */
	uint16_t queue_size; /* 0: as the device has it */
	struct faults faults;
};

enum fn_run { FN_OFF, FN_PAUSED, FN_ON };

/* Why the function must not touch rings and memory although the driver is there. */
#define FN_PAUSE_UNMAP 1u
#define FN_PAUSE_STATE 2u

struct fn_vector {
	int fd; /* the client's eventfd, owned; -1 */
	bool masked, pending;
};

struct function {
	/* Constant. */
	struct fn_options opt;
	struct engine *engine;
	struct loop *main_loop;
	struct vm vm;	   /* for the device; its `mem` is what the client has mapped */
	struct device dev; /* the instance of the class */
	struct vdev *v;	   /* of the device, from virtio_pci_create() on */
	uint64_t offered;
	unsigned int nvectors;
	uint32_t multiplier;

	unsigned int fn_bar; /* FN_BAR, or FN_BAR_BESIDE */

	/* That BAR, of which [FN_DOORBELLS, bar_size) can be mapped; nothing else is kept in it. */
	int bar_fd;
	uint8_t *bar;
	uint64_t bar_size, doorbell_size;
	int doorbell_fds[VDEV_QUEUES_MAX]; /* FN_DOORBELL_IOEVENTFD; owned */
	uint8_t msix_bar[FN_MSIX_SIZE];

	/* Registers. Main. */
	uint8_t config[FN_CONFIG_SIZE], wmask[FN_CONFIG_SIZE]; /* wmask: bits that can be written */
	unsigned int cap_tail, cap_free, cfg_cap;
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features;
	uint16_t queue_select, config_vector;
	uint8_t generation, isr;
	uint32_t accesses;		      /* for FAULT_ALL_ONES and FAULT_ERROR */
	uint32_t ring_words[VDEV_QUEUES_MAX]; /* ring_index.c */

	/* The way to and from the engine. Main, but for what is named. */
	enum fn_run run;
	bool moving;	      /* until the note that it has arrived */
	bool reset_pending;   /* status 0 was written, or the client asked */
	unsigned int paused;  /* FN_PAUSE_ bits */
	uint64_t ring_resets; /* queues that are being reset or disabled */
	uint64_t disables;    /* of these, the ones whose queue_enable was cleared */
	uint64_t rung;	      /* queues that start as if their doorbell had been rung */
	bool memory_changed;  /* an fn_engine_memory() has been answered */
	bool lost;	      /* the client took its memory away */
	uint32_t notes;	      /* FN_NOTE_ bits; any thread, atomic */
	uint64_t reset_done;  /* queues; any thread, atomic */
	struct loop_work settle;
	void (*settled)(void *owner); /* called behind every note; may be NULL */
	void *owner;
	/* Under `lock`, as a virtio_pci_reset() waits for a note. */
	pthread_mutex_t lock;
	pthread_cond_t noted;
	/* Vectors: any thread, under irq_lock. */
	pthread_mutex_t irq_lock;
	struct fn_vector vectors[FN_VECTORS_MAX];
	uint32_t interrupts;

	struct fn_engine e; /* the poll thread's */
};

#define FN_NOTE_STOPPED	    1u
#define FN_NOTE_PAUSED	    2u
#define FN_NOTE_RING_RESET  4u
#define FN_NOTE_NEEDS_RESET 8u
#define FN_NOTE_CONFIG	    16u
#define FN_NOTE_LOST	    32u
#define FN_NOTE_MEMORY	    64u

static inline struct function *function_of(const struct vdev *v)
{
	return container_of(v->vm, struct function, vm);
}

/*
 * Makes a function of class `cls`, configured by `conf` (the class's), and adds it to the engine,
 * which has not been started. id: "blk0".
 */
int function_create(struct function **out, const char *id, const struct device_class *cls,
		    const void *conf, const struct fn_options *opt, struct engine *engine,
		    struct loop *main_loop, struct diag *d) must_check;
/* The engine has been stopped, or has let go of the function. */
void function_destroy(struct function *f);

/* --- ring_index.c: main thread ------------------------------------------------------------------
 */

/* A register of FN_INDEX_BAR; what is none reads 0. */
uint32_t fn_index_read(const struct function *f, uint64_t off, unsigned int len);
void fn_index_write(struct function *f, uint64_t off, unsigned int len, uint32_t value);
/* The queue has stopped: its word says where. It is to begin: false if its word cannot be. */
void fn_index_stopped(struct function *f, unsigned int q);
bool fn_index_start(struct function *f, unsigned int q);

/* --- function.c: main thread ------------------------------------------------------------------ */

/* Takes notes of the poll thread in, and has the queues started or stopped as is wanted now. */
void function_settle(struct function *f);
void function_update(struct function *f);
/* A whole reset, configuration space included; done when !f->reset_pending. */
void function_reset(struct function *f);
/* No rings and no memory are touched, and none will be before the next call into here. */
static inline bool function_rests(const struct function *f)
{
	return f->run != FN_ON && !f->moving && !f->ring_resets;
}
/* Any thread. */
void function_note(struct function *f, uint32_t bits);
/* Signals a vector, or keeps it pending. Any thread. */
void function_interrupt(struct function *f, unsigned int vector);
/* The same with VFIO_PCI_ERR_IRQ_INDEX or VFIO_PCI_REQ_IRQ_INDEX, if a client listens. Main. */
void function_event(struct function *f, uint32_t index);
/* Wires vector v to an eventfd, which then belongs to the function; -1: to nothing. Main. */
void function_wire(struct function *f, unsigned int v, int fd);
void function_mask(struct function *f, unsigned int v, bool masked);

/* --- config.c: configuration space and BARs; main thread ----------------------------------------
 */

int fn_config_init(struct function *f, struct diag *d) must_check;
/* The registers of the BARs, whose sizes are known by now. */
void fn_config_bars(struct function *f);
void fn_config_reset(struct function *f);
bool fn_config_master(const struct function *f);
/* [off, off + len) of a region, which it lies in. Any length: cut into accesses as a bus would. */
void fn_region_read(struct function *f, unsigned int region, uint64_t off, uint8_t *buf,
		    unsigned int len);
void fn_region_write(struct function *f, unsigned int region, uint64_t off, const uint8_t *buf,
		     unsigned int len);
uint64_t fn_region_size(const struct function *f, unsigned int region);

/* --- regs.c: the common configuration; main thread ----------------------------------------------
 */

/* False: there is no such register, or not of this width. */
bool fn_reg_read(struct function *f, unsigned int off, unsigned int len, uint32_t *value);
bool fn_reg_write(struct function *f, unsigned int off, unsigned int len, uint32_t value);
/* The journal as after a reset. */
void fn_regs_reset(struct function *f);
void fn_queue_default(struct vdev_queue *q);
static inline bool fn_has(const struct function *f, unsigned int feature)
{
	return f->driver_features & VIRTIO_BIT(feature);
}

#endif
