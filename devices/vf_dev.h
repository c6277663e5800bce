/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_dev.h - what the files of the VF device share. Private to devices/ (and to the tests).
 *
 *   vf.c           the vdev's ops and the works behind them: start, stop, changes, trouble
 *   vf_create.c    the device: options, how it is put together and taken apart, what it tells
 *   vf_call.c      from main to the vf thread and back
 *   vf_state.c     what of it travels
 *   vf_function.c  the function's registers; what it is and has
 *   vf_offer.c     what of that the guest is offered
 *   vf_config.c    device configuration as the guest sees it
 *   vf_program.c   the journal into the function, by one table
 *   vf_doorbell.c  how each queue's doorbell reaches the function
 *   vf_cvq.c       the control queue of a network card, on a ring of ours: vf_ring.c
 *   vf_window.c    memory of ours that the function reaches
 *   relay.c        the path of each data queue: direct, or by a relay (vf_relay.h, relay_ring.c)
 *   vf_track.c     the device in a migration
 *   vf_standin.c   a software device in its place
 *   vf_fallback.c  ... behind it, for when the function fails
 *   vf_opaque.c    its function's own state, for another of its model
 *   vf_vendor.c    registers of some functions that say where a queue stands
 *   vf_disk.c      a disk's serial number; and its cache, before another host reads what is behind
 *
 * Thread: main and vcpus, under the control lock, run the vdev's ops, which only note what is
 * wanted and wake the vf thread. That thread makes every call to the function, one at a time, and
 * never holds the lock meanwhile. What both sides look at (`config`, the doorbells' ways) is
 * written by the vf thread with the lock held.
 */
#ifndef UNVMM_DEVICES_VF_DEV_H
#define UNVMM_DEVICES_VF_DEV_H

#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>

#include <unvmm/device.h>
#include <unvmm/vf.h>
#include <unvmm/vf_caps.h>
#include <unvmm/virtio.h>
#include <unvmm/vm.h>

#include "vf_relay.h"
#include "virtio_net.h"

/* --- the function: vf_function.c ------------------------------------------------------------- */

/* A function may take so long to confirm a reset. Shorter than the machine waits for a stop. */
#define VF_STOP_MS 5000

/* Of the common configuration (virtio 1.2, 4.1.4.3): not in older kernel headers. */
#define VF_COMMON_QUEUE_RESET 58

/* A queue as the function has it after a reset. */
struct vf_fn_queue {
	uint16_t size_max; /* 0: there is none */
	uint16_t notify_off;
};

struct vf_function {
	struct vf *vf; /* NULL: it has been given back and closed */
	struct vf_caps caps;
	uint64_t features; /* that it offers */
	uint16_t nqueues;
	struct vf_fn_queue queues[VDEV_QUEUES_MAX];
	bool ring_index; /* it can be told where a queue begins: vf_vendor.c */
	bool cancel;	 /* atomic: whoever waits for the function shall give up */
};

/*
 * One register of the common configuration. -ENODEV also if it reads so that nobody can be there
 * any more. In every error the sentence says which register.
 */
int vf_reg_read(struct vf_function *fn, unsigned int off, unsigned int len, uint32_t *value,
		struct diag *d) must_check;
int vf_reg_write(struct vf_function *fn, unsigned int off, unsigned int len, uint32_t value,
		 struct diag *d) must_check;
int vf_status(struct vf_function *fn, uint8_t *status, struct diag *d) must_check;
/* err, or -ENODEV and its sentence if what went wrong is that there is no function any more. */
int vf_function_blame(struct vf_function *fn, int err, struct diag *d) must_check;
/* Status 0, until the function confirms it. -ETIMEDOUT, -ECANCELED. */
int vf_function_reset(struct vf_function *fn, struct diag *d) must_check;
int vf_bus_master(struct vf_function *fn, bool on, struct diag *d) must_check;
/* Finds its structures, features and queues. Leaves it in DRIVER, for vf_config_read(). */
int vf_function_probe(struct vf_function *fn, struct diag *d) must_check;
int vf_function_queue(struct vf_function *fn, uint16_t index, struct vf_fn_queue *q,
		      struct diag *d) must_check;
/* Rings the doorbell of the function's queue `index` by a register access. */
int vf_function_kick(struct vf_function *fn, uint16_t index, uint16_t notify_off) must_check;

/* --- the offer: vf_offer.c ------------------------------------------------------------------- */

enum vf_offer_kind { VF_OFFER_PORTABLE, VF_OFFER_NATIVE };

struct vf_wish {
	enum vf_offer_kind kind;
	uint16_t queues;	 /* pairs of a network card; 0: what the offer has by default */
	bool physical_addresses; /* a function without ACCESS_PLATFORM is accepted */
};

struct vf_offer {
	uint64_t guest;	      /* features that the guest may accept */
	uint64_t to_function; /* of these, what the function is told if the guest does */
	uint64_t ours;	      /* what it is told whatever the guest accepts */
	uint16_t nqueues, npairs;
	uint16_t queue_size;
};

/* `queues_has`: as its device configuration says, pairs or queues. -ENOTSUP with what is lacking.
 */
int vf_offer_make(struct vf_offer *o, const struct vf_function *fn, uint16_t queues_has,
		  const struct vf_wish *wish, struct diag *d) must_check;

/* --- device configuration: vf_config.c ------------------------------------------------------- */

union vf_config {
	struct virtio_net_config net;
	struct virtio_blk_config blk;
	uint8_t bytes[64];
};

/* What a field must be where the guest moves to. */
enum vf_relation {
	VF_EQUAL,    /* the same */
	VF_AT_LEAST, /* as large or larger: the guest goes on with the smaller value */
	VF_DYNAMIC,  /* anything: the guest is told of the change */
};

struct vf_config_field {
	uint16_t device_id;
	uint8_t feature; /* the field exists if it is offered; VF_FIELD_ALWAYS */
	uint8_t offset, size;
	enum vf_relation relation;
	bool follows; /* while the guest runs, a change in the function becomes one of the guest's
		       */
	const char *name;
};

#define VF_FIELD_ALWAYS 0xff

extern const struct vf_config_field vf_config_fields[];
extern const unsigned int vf_config_nfields;

/* Bytes that the guest sees, as many as of the software devices. */
uint16_t vf_config_size(uint16_t device_id);
/* The function's bytes, consistent by its generation. Fields that it does not have are 0. */
int vf_config_read(struct vf_function *fn, union vf_config *c, struct diag *d) must_check;
/* Pairs or queues that the configuration promises; 1 without the multiqueue feature. */
uint16_t vf_config_queues(const struct vf_function *fn, const union vf_config *c);
/* Makes what the guest sees of what the function has. -EINVAL for what no guest should see. */
int vf_config_adopt(const struct vf_function *fn, const struct vf_offer *o, union vf_config *c,
		    struct diag *d) must_check;
/* Takes over what follows the function. True if something changed. */
bool vf_config_follow(uint16_t device_id, union vf_config *guest, const union vf_config *fresh);
/* Can a guest that sees `guest` go on with a function that would show it `here`? */
int vf_config_compatible(uint16_t device_id, const union vf_config *guest,
			 const union vf_config *here, struct diag *d) must_check;

/* --- programming: vf_program.c --------------------------------------------------------------- */

struct vf_plan_queue {
	uint16_t index; /* in the function */
	uint16_t size;
	uint16_t vector; /* of the function */
	uint64_t desc, driver, device;
	uint16_t begin;	     /* the index at which it begins, if the function can be told one */
	uint16_t notify_off; /* found on the way */
};

struct vf_plan {
	uint64_t features;
	bool ring_words; /* it is told where each queue begins */
	unsigned int nqueues;
	struct vf_plan_queue queues[VDEV_QUEUES_MAX];
};

/*
 * Resets the function and takes it to DRIVER_OK, by the table in the order of virtio 1.2, 3.1.1. On
 * failure it has been reset again as far as it can be, and the sentence names the step.
 */
int vf_program_start(struct vf_function *fn, struct vf_plan *plan, struct diag *d) must_check;
/* Queue q of it again, after a reset of the queue: all steps but its enabling, or only that. */
int vf_program_queue(struct vf_function *fn, const struct vf_plan *plan, struct vf_plan_queue *q,
		     bool enable, struct diag *d) must_check;
/*
 * Stops it: status 0 confirmed, bus mastering off. -ETIMEDOUT: it may still reach memory. 0 with a
 * sentence: it did not confirm, and a reset of all of it was needed.
 */
int vf_program_stop(struct vf_function *fn, struct diag *d) must_check;

/* --- doorbells: vf_doorbell.c ---------------------------------------------------------------- */

enum vf_way {
	VF_WAY_REGISTER, /* an eventfd on the vf thread's loop, then a register access */
	VF_WAY_FORWARD,	 /* an eventfd that the backend forwards */
	VF_WAY_MAPPED,	 /* the guest stores into the function's page */
};

/* The decision, from the function's layout alone. */
struct vf_way_plan {
	enum vf_way way; /* VF_WAY_MAPPED, or VF_WAY_REGISTER for "not mapped" */
	uint64_t offset; /* of the doorbell in the notify BAR */
	const char *why; /* not mapped; static */
};

struct vf_doorbell {
	struct vf_dev *vd;
	unsigned int q; /* of the guest */
	struct vf_way_plan plan;
	enum vf_way way;	    /* what came of it; control lock */
	const char *why;	    /* control lock */
	void *page;		    /* mapping of the function's page, or NULL; owned */
	uint64_t page_at;	    /* in the BAR */
	int forward_fd;		    /* of the backend; -1 */
	int kick_fd;		    /* ours: ioeventfd without forwarding, and trapped kicks */
	struct loop_fd watch;	    /* of kick_fd */
	uint16_t index, notify_off; /* in the function, while it runs */
};

/* -EINVAL: the doorbell lies outside of the notify structure. */
int vf_doorbell_plan(const struct vf_caps *caps, const struct vf_region *bar, uint16_t notify_off,
		     uint16_t guest_offset, struct vf_way_plan *plan) must_check;
/* In-page offset for the guest of a doorbell with this notify_off. `native`: the function's own. */
uint16_t vf_doorbell_guest_offset(const struct vf_caps *caps, uint16_t notify_off, bool native);

int vf_doorbell_init(struct vf_doorbell *db, struct vf_dev *vd, unsigned int q) must_check;
void vf_doorbell_fini(struct vf_doorbell *db);
/* The function's page is shown to nobody any more, and goes. */
void vf_doorbell_unmap(struct vf_doorbell *db);
/* Decides, and makes ready what the decision takes. */
int vf_doorbell_prepare(struct vf_doorbell *db, uint16_t index, uint16_t notify_off,
			struct diag *d) must_check;
/* Rings it for a guest whose queue is relayed, or stands; after its index, a full fence between. */
int vf_doorbell_ring(const struct vf_doorbell *db) must_check;
/* Its queue is DIRECT, and was not rung meanwhile: its driver is to ring, and is rung for. */
int vf_doorbell_hand_over(struct vf_doorbell *db) must_check;
/* The control queue's: never mapped, unvmm itself listens. */
void vf_doorbell_relay(struct vf_doorbell *db);
/* For ops->doorbell and ops->kick: control lock held. */
void vf_doorbell_answer(const struct vf_doorbell *db, struct vdev_doorbell *out);
void vf_doorbell_signal(const struct vf_doorbell *db);

/* --- memory of ours: vf_window.c ------------------------------------------------------------- */

/* Maps mem (of fd) for the function where guest memory is not; *iova 0: not mapped. */
int vf_window_map(struct vf_dev *vd, void *mem, int fd, uint64_t bytes, uint64_t *iova,
		  struct diag *d) must_check;
void vf_window_unmap(struct vf_dev *vd, uint64_t bytes, uint64_t *iova);

/* --- driver side of a ring: vf_ring.c -------------------------------------------------------- */

#define VF_RING_SIZE_MAX 64
#define VF_RING_BYTES	 4096u

/*
 * One request at a time, on a split ring in memory of ours that the function reaches. The guest can
 * aim the function's DMA at it too: what is read back is checked like everything that is hostile.
 */
struct vf_ring {
	uint16_t size;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint64_t iova; /* of desc; the rings follow at the offsets of vf_ring_init() */
	uint64_t avail_iova, used_iova;
	uint16_t next, taken; /* available and used index */
};

void vf_ring_init(struct vf_ring *r, void *mem, uint64_t iova, uint16_t size);
/* It is empty, and the function has come so far. */
void vf_ring_stands_at(struct vf_ring *r, uint16_t index);
/* out_len bytes to read at out, in_len to write at in (IOVAs). Kick afterwards. */
void vf_ring_post(struct vf_ring *r, uint64_t out, uint32_t out_len, uint64_t in, uint32_t in_len);
/* 1: the request has come back, 0: not yet, -EPROTO: what came back was never posted. */
int vf_ring_take(struct vf_ring *r) must_check;

/* --- the control queue: vf_cvq.c ------------------------------------------------------------- */

/*
 * The window: memory of ours at I/O virtual addresses outside of guest memory. One page of rings,
 * two of command, one of answer.
 */
#define VF_WINDOW_BYTES	   (4 * PAGE_SIZE_4K)
#define VF_CVQ_COMMAND_MAX (2 * PAGE_SIZE_4K)
#define VF_CVQ_IOV	   64
#define VF_CVQ_MS	   5000
#define VF_RESUME_MS	   100 /* for which the vcpus wait for it */

/* What a driver may switch by GUEST_OFFLOADS_SET; the last two are USO. */
#define VF_NET_OFFLOADS \
	(NET_GUEST_OFFLOADS | VIRTIO_BIT(VIRTIO_NET_F_GUEST_UFO) | VIRTIO_BIT(54) | VIRTIO_BIT(55))

enum vf_cvq_busy {
	VF_CVQ_IDLE,
	VF_CVQ_COMMAND, /* one of the guest's */
	VF_CVQ_REPLAY,	/* one of ours, from the journal */
	VF_CVQ_BROKEN,	/* until the next stop */
};

struct vf_cvq {
	struct vf_dev *vd;
	uint8_t *window;
	int window_fd;
	uint64_t iova; /* 0: not mapped for the function */

	/* From start to stop. */
	bool running;
	unsigned int q;		    /* of the guest */
	uint16_t index, notify_off; /* of the function */
	struct vq vq;
	struct vf_ring ring;
	enum vf_cvq_busy busy;
	unsigned int replay; /* where net_command_replay() goes on */

	/* The command under way, and what the card would be with it accepted. */
	struct vq_chain chain;
	struct iovec iov[VF_CVQ_IOV];
	gpa_t gpa[VF_CVQ_IOV];
	uint8_t *command; /* VF_CVQ_COMMAND_MAX bytes; owned */
	struct net_ctrl next;
	uint8_t class;

	/* The journal: what the function has accepted. Control lock; travels. */
	struct net_ctrl ctrl;
	int answer_fd; /* of its vector */
	struct loop_fd answer;
	int deadline_fd; /* a timerfd */
	struct loop_fd deadline;
};

/* The guest's number of its control queue, -1: it has none; and the function's. */
int vf_cvq_queue(const struct vf_dev *vd, uint64_t negotiated);
uint16_t vf_cvq_function_queue(const struct vf_dev *vd, uint64_t negotiated);

/* c->vd is set and the descriptors are -1; after a failure too, vf_cvq_fini() is owed. */
int vf_cvq_init(struct vf_cvq *c, struct diag *d) must_check;
/* The window is not mapped for the function any more. */
void vf_cvq_fini(struct vf_cvq *c);
int vf_cvq_map(struct vf_cvq *c, struct diag *d) must_check;
void vf_cvq_unmap(struct vf_cvq *c);
/* As a reset of the guest leaves it. It is stopped; control lock. */
void vf_cvq_forget(struct vf_cvq *c);
/* The command under way gets its answer within the time, if it gets one. */
bool vf_cvq_idle(struct vf_cvq *c, unsigned int ms) must_check;

/* An empty ring for the function to start with. */
void vf_cvq_plan(struct vf_cvq *c, struct vf_plan_queue *pq);
/*
 * The function is in DRIVER_OK: replays the journal (unless the function `knows` it), says vf_up(),
 * and then serves the guest's queue q from guest->index on.
 */
int vf_cvq_start(struct vf_cvq *c, unsigned int q, const struct vdev_queue *guest,
		 const struct vf_plan_queue *pq, bool knows, struct diag *d) must_check;
/* Gives a command under way back to the guest's ring. The index where it goes on. */
uint16_t vf_cvq_stop(struct vf_cvq *c);
/* The guest has rung; the function has interrupted. */
void vf_cvq_serve(struct vf_cvq *c);
void vf_cvq_answered(struct vf_cvq *c);

/* --- ring indexes in registers: vf_vendor.c -------------------------------------------------- */

/* Does the function have them? Its capabilities are known. */
bool vf_vendor_find(const struct vf_function *fn);
/* Does unvmm know them for all data queues that the guest is offered? */
bool vf_vendor_usable(const struct vf_dev *vd);
/* Queue `index`, which is not enabled, is to begin at `begin`. */
int vf_vendor_begin(struct vf_function *fn, uint16_t index, uint16_t begin,
		    struct diag *d) must_check;
/* For the stop that follows: has the function say where its direct queues stand. */
void vf_vendor_take(struct vf_dev *vd);

/* --- the function's own state: vf_opaque.c --------------------------------------------------- */

#define VF_OPAQUE_HEAD 56u
#define VF_OPAQUE_MAX  MiB(32)

/*
 * What a function knows of itself, as bytes that only another of its model understands (VFIO's
 * migration protocol v2). They travel beside the journal, never instead of it: whoever cannot use
 * them programs the function by the journal, as ever.
 *
 * The bytes are our head (struct vf_mark: what must be the same on both sides), then the
 * function's.
 */
struct vf_mark {
	char kind[16]; /* of the backend */
	uint16_t vendor, device, subvendor, subdevice;
	uint64_t features; /* as negotiated with the function, ours included */
	uint64_t window;   /* where the control queue's rings are for it; 0: no such queue */
	uint16_t npairs, nqueues, ctrl_size;
	uint16_t ctrl_index; /* where that ring stands; this one may differ */
	uint64_t bytes;	     /* of the function's, that follow */
};

struct vf_opaque {
	uint64_t flags; /* VFIO_MIGRATION_; 0: it has no such state. Constant */
	bool dma_log;	/* constant */
	bool forget;	/* atomic: the guest has reset the device since */
	/* The vf thread's. */
	bool copying; /* in PRE_COPY, and `data` grows */
	bool peers;   /* in RUNNING_P2P, or PRE_COPY_P2P */
	bool held;    /* in STOP, and what it knows is what `data` says */
	bool whole;   /* `data` is complete */
	uint8_t *data;
	size_t len;
};

/* The rungs of the way back, as `unvmm vf` and `unvmm info` name them. */
#define VF_RUNG_STATE	  "vfio"
#define VF_RUNG_REGISTERS "registers"
#define VF_RUNG_RELAY	  "relay"

void vf_opaque_find(struct vf_dev *vd);
void vf_opaque_fini(struct vf_dev *vd);
void vf_mark_put(const struct vf_mark *m, uint8_t head[VF_OPAQUE_HEAD]);
/* -EINVAL: these are no such bytes. */
int vf_mark_get(struct vf_mark *m, const uint8_t *data, size_t len) must_check;

/* A migration begins: what can be read while the function runs is read. */
void vf_opaque_begin(struct vf_dev *vd);
void vf_opaque_collect(struct vf_dev *vd);
/* It stops to reach for other functions' memory; all are to, before the first one stops. */
void vf_opaque_peers(struct vf_dev *vd);
/*
 * Stops the function for the switch, drained, with its state in `data`. False: it has to be stopped
 * in another way; nothing is kept.
 */
bool vf_opaque_take(struct vf_dev *vd);
/* It did not come to that, or it is over: the function runs on as if nothing had been. */
void vf_opaque_end(struct vf_dev *vd);
/* The start that is due may go by the state. */
bool vf_opaque_usable(const struct vf_dev *vd);
/* Into DRIVER_OK with the plan, whose doorbells are filled in, by `data`. */
int vf_opaque_start(struct vf_dev *vd, struct diag *d) must_check;
/* Whatever it holds is for nothing: it has been reset, as far as it can be. */
void vf_opaque_drop(struct vf_dev *vd);
/* If it holds its state it does so no more, and has been reset; `data` stays. */
void vf_opaque_let_go(struct vf_dev *vd);

/* For the class (device.h); main. */
void vf_opaque_get(struct device *dev, const void **data, size_t *len);
void vf_opaque_put(struct device *dev, const void *data, size_t len);

/* --- a disk: vf_disk.c ----------------------------------------------------------------------- */

/* Has the function say which disk it is, if it has one: vd->serial. No driver has been there yet.
 */
void vf_disk_identify(struct vf_dev *vd);
/* For the class: a FLUSH, while it is stopped for the switch. */
int vf_sync(struct device *dev);

/* --- the device: vf.c ------------------------------------------------------------------------ */

enum vf_phase {
	VF_DOWN,
	VF_STARTING, /* in DRIVER_OK, while the journal of its control queue is replayed */
	VF_ARMED,    /* the same, done: nothing of the guest's was shown to it yet */
	VF_UP,
};

struct vf_dev {
	struct vdev vdev; /* first: dev->priv is the vdev too */
	struct vf_function fn;
	char name[VF_NAME_MAX]; /* of the function, and of its backend, also when it is closed */
	const char *kind;
	struct device *dev;
	struct device *spare; /* the software device behind it, or NULL: vf_fallback.c */
	bool standin;	      /* all of it is of a software device: vf_standin.c */
	struct vf_offer offer;
	struct vf_wish wish;
	bool native_doorbells;
	struct loop *loop; /* of the vf thread */

	/* What the function has more than the guest is offered. */
	uint16_t fn_pairs, fn_ctrl_size;
	union vf_config own; /* what it would show to a guest that knows no other */

	/* Control lock. */
	union vf_config config;		  /* as the guest sees it; travels */
	char serial[VIRTIO_BLK_ID_BYTES]; /* of a disk (GET_ID); empty: not known; travels */
	bool up;			  /* doorbells may be rung past the vf thread */
	struct vf_doorbell doorbells[VDEV_QUEUES_MAX];
	struct vf_cvq cvq; /* of a network card */

	/* The vf thread's. */
	enum vf_phase phase;
	bool lost;	   /* there is no function any more */
	bool given_back;   /* ... and nobody here calls it: main closes it */
	bool trouble;	   /* it failed since the driver started it */
	struct diag fault; /* ... and how */
	bool arming;	   /* atomic: the guest is not here yet, it is started up to VF_ARMED */
	bool tracking;	   /* its writes to guest memory are to be seen */
	bool logging;	   /* ... and it logs them itself */
	bool tracked;	   /* ... and they are, so the next stop is the switch */
	struct vf_opaque opaque;
	const char
		*by; /* the rung on which it last went on for this driver, or NULL; control lock */
	uint64_t known; /* queues of which the function has said where they stand, for the stop */
	uint16_t stands[VDEV_QUEUES_MAX];
	struct vf_relays relays;
	struct vdev_queue queues[VDEV_QUEUES_MAX]; /* the journal as it was at start */
	uint64_t negotiated;
	struct vf_plan plan;
	unsigned int plan_of[VDEV_QUEUES_MAX]; /* where an enabled queue is in it */
	struct loop_work start_work, stop_work, fault_work;
	struct loop_work close_work; /* main loop: the function has been given back */
	bool fresh;	 /* the start is not over: no queue has gone all the way round */
	bool exact;	 /* the last stop left every queue where another device can go on */
	bool to_replace; /* atomic: the software device behind it is due */
	struct loop_work replace_work; /* main loop: for that */
	int config_fd;		       /* of vector 0 */
	struct loop_fd config_watch;

	struct state_ref state[VIRTIO_PCI_STATES + 2];
};

static inline struct vf_dev *vf_of_vdev(struct vdev *v)
{
	return container_of(v, struct vf_dev, vdev);
}

/*
 * Runs fn on the vf thread and returns what it does. -ETIMEDOUT: it runs still, so nothing that it
 * uses may be freed. Main, without the control lock. (vf_call.c)
 */
int vf_call(struct vf_dev *vd, int (*fn)(struct vf_dev *vd, struct diag *d),
	    struct diag *d) must_check;

/* vf.c, for vf_create.c. */
extern const struct vdev_ops vf_vdev_ops;
void vf_init_works(struct vf_dev *vd);
void vf_lost(struct vf *vf, const char *why);
/* Stops the function and uses it no more: NEEDS_RESET for this driver and any other. vf thread. */
void vf_abandon(struct vf_dev *vd, const char *why);
void vf_config_ready(struct loop_fd *lf, uint32_t revents);

/* The function failed in a way that ends its use by this driver: one sentence. vf thread. */
void vf_failed(struct vf_dev *vd, const char *why);
/* The same, and the function is stopped. */
void vf_give_up(struct vf_dev *vd, struct diag *d);
/* Stops the function and starts it again with every queue where it is. vf thread. */
void vf_restart(struct vf_dev *vd);
/* Starts it for a guest that is about to come, up to VF_ARMED; and takes that back. vf thread. */
int vf_arm(struct vf_dev *vd, struct diag *d) must_check;
void vf_disarm(struct vf_dev *vd);
/* A part of the pause has ended. */
void vf_lap(struct vf_dev *vd, uint64_t *part);
/* The data queues run from now on, if the guest is there. vf thread. */
void vf_up(struct vf_dev *vd);

/* vf_track.c: for the class. */
int vf_track_begin(struct device *dev, struct diag *d);
int vf_track_wait(struct device *dev, struct diag *d);
int vf_track_sync(struct device *dev, struct diag *d);
void vf_track_end(struct device *dev);
void vf_track_pause(const struct device *dev, struct track_pause *p);
int vf_track_prepare(struct device *dev, struct diag *d);
int vf_track_arm(struct device *dev, struct diag *d);
/* Before the device is reset or goes. */
void vf_track_disarm(struct device *dev);
int vf_quiesce(struct device *dev);
void vf_resume(struct device *dev);
void vf_moved(struct device *dev);

/* vf_state.c: both of struct vf_dev, the second of network cards only. */
extern const struct state_desc vf_state;
extern const struct state_desc vf_net_state;

/* --- a software device behind it: vf_fallback.c ---------------------------------------------- */

struct vf_standin_conf;

/* Makes it, hidden; -errno with a sentence if it could not take the function's place. Main. */
int vf_fallback_create(struct vf_dev *vd, const struct vf_standin_conf *c,
		       struct diag *d) must_check;
void vf_fallback_destroy(struct vf_dev *vd);
/*
 * The function has failed and is stopped: true if the software device takes its place. Nothing is
 * lost then: all queues are where it goes on, and the function cannot reach memory. vf thread.
 */
bool vf_fallback_begin(struct vf_dev *vd, const char *why) must_check;
/* The machine goes on: what was begun while it was held is done now. Main. */
void vf_fallback_resume(struct vf_dev *vd);

/* vf_standin.c: from the software device into the tables, and back. */
void vf_standin_save(struct vf_dev *vd);
void vf_standin_load(struct vf_dev *vd);

#endif
