/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_relay.h - the ring relay: what carries a queue of an assigned function while its writes to
 * guest memory have to be seen, or while the guest's indexes are not the function's. Private to
 * devices/ (and to the tests).
 *
 * A plain virtio function can neither tell nor be told a ring index: after any reset it begins at
 * 0. And its DMA shows in no dirty log. So unvmm gives it rings of its own, in a window of I/O
 * virtual addresses outside of guest memory, which do begin at 0:
 *
 *   guest's avail ring  --heads-->  relay's avail ring  -->  function
 *   guest's used ring   <-elements- relay's used ring   <--  function
 *   guest's descriptor table and buffers  <------ DMA ----->  function
 *
 * Only heads and used elements are copied; the function reads the guest's own descriptors and
 * buffers. A head is the same number on both sides, an index differs by one constant, the guest's
 * used index when the relay began, also with heads that come back in another order.
 *
 * The relay is an end of each side and passes no word of suppression on:
 *
 * - To the function it is the driver: it has used_event and flags of its own, set before it sleeps,
 *   so that the next completion wakes it; it rings as avail_event and flags of the function ask.
 * - To the guest it is the device: it sets avail_event and flags before it sleeps and looks at the
 *   guest's index again behind a full fence (virtio 1.2, 2.7.10.1); it reads the guest's used_event
 *   after it has published an index and a full fence (2.7.7.2). A copy of that word, which the
 *   guest changes by a plain store, would go stale, and lose an interrupt.
 *
 * Why no write of the function is missed: what it has written is marked dirty before the used
 * element is published; the guest cannot take a buffer back, and recycle it, that has not been
 * published. So at that moment its descriptors are still what the function was given, and may be
 * walked, an indirect table included. A guest that changes them all the same has stale memory of
 * its own on the other host, nobody else's. When the function has been stopped, buffers that are
 * still out may be half written: relay_settle() marks these.
 *
 * Both sides are hostile. The guest can aim the function's DMA at the window, so what is read back
 * from there is checked: the index is at most what is out ahead, each head is out. What the relay
 * itself needs is kept outside of the window, and the window is never read for it.
 *
 * Thread: the vf thread. It makes all calls to the function already, so that a queue's doorbell,
 * reset and path need no lock; no thread may be started once the sandbox is entered; and a relay
 * that is not used is then no thread that sleeps. The price: a slow call to one function of a
 * machine holds up the relays of all, for VF_CALL_MS at most.
 */
#ifndef UNVMM_DEVICES_VF_RELAY_H
#define UNVMM_DEVICES_VF_RELAY_H

#include <unvmm/diag.h>
#include <unvmm/loop.h>
#include <unvmm/track.h>
#include <unvmm/virtio.h>

/* --- one queue: relay_ring.c ----------------------------------------------------------------- */

/* Of the window, per queue: a page for the avail ring, and the used ring behind it. */
#define RELAY_BYTES   (4 * PAGE_SIZE_4K)
#define RELAY_USED_AT PAGE_SIZE_4K

#define RELAY_NO_LIMIT UINT32_MAX
/* Descriptors of one chain that are followed, an indirect table included. */
#define RELAY_CHAIN_MAX (4u * VQ_SIZE_MAX)

/* All indexes count as the guest does; the function's are `offset` less. */
struct relay {
	struct gmem *mem;
	struct vq_layout guest;
	bool event_idx;	   /* with the guest */
	bool fn_event_idx; /* with the function */
	bool indirect;
	const struct vring_desc *desc; /* the guest's */
	struct vring_avail *avail;
	struct vring_used *used;
	struct vring_avail *fn_avail; /* in the window */
	struct vring_used *fn_used;
	uint16_t offset;
	uint16_t forwarded;	/* heads given to the function */
	uint16_t completed;	/* elements given to the guest */
	uint16_t kicked;	/* `forwarded` when the function was last asked whether to ring */
	uint16_t shown;		/* `completed` when the guest was last asked whether to interrupt */
	bool rung, interrupted; /* the first time there is no asking */
	bool closed;		/* nothing is forwarded */
	/* Heads that may be forwarded until the boundary, a multiple of 65536; or RELAY_NO_LIMIT.
	 */
	uint32_t left;
	unsigned int nout; /* heads that the function has */
	uint64_t out[VQ_SIZE_MAX / 64];
	const char *why; /* after -EPROTO: whose fault and which */
};

/*
 * Begins at the guest's `index` with empty rings in `window`, RELAY_BYTES of zeroes or old rings.
 * Errors as of vq_start().
 */
int relay_start(struct relay *r, struct gmem *mem, const struct vq_layout *guest,
		uint64_t guest_features, bool fn_event_idx, uint16_t index,
		void *window) must_check;

/* Heads from the guest to the function: how many, 0, or -EPROTO. */
int relay_forward(struct relay *r) must_check;
/* Does the function want its doorbell rung for what was forwarded since the last time? */
bool relay_wants_kick(struct relay *r) must_check;
/* Elements from the function to the guest, marked dirty and published: how many, 0, -EPROTO. */
int relay_complete(struct relay *r) must_check;
/* Does the guest want an interrupt for what was published since the last time? */
bool relay_wants_interrupt(struct relay *r) must_check;
/* It works on both rings now and need not be told of more, until relay_sleep(). */
void relay_wake(struct relay *r);
/* Asks both sides to be woken. True: there is work already, so that it must be done first. */
bool relay_sleep(struct relay *r) must_check;

/* Nothing behind the next multiple of 65536 is forwarded. `beyond`: not at this one, if r is there.
 */
void relay_aim(struct relay *r, bool beyond);
static inline bool relay_at_boundary(const struct relay *r)
{
	return !r->left;
}

/*
 * The function has been stopped, and relay_complete() called: marks the buffers that are still out,
 * and has the guest's avail ring say again what is to be taken from `completed` on. That differs
 * only if heads came back in another order. No driver reads its avail ring.
 */
void relay_settle(struct relay *r);
/* Gives back what is still out, with nothing written, and publishes it. */
void relay_return(struct relay *r);
/* The function is about to see the guest's own rings: no wish of the relay's stays in them. */
void relay_leave(struct relay *r);

/* --- the queues of a function: relay.c ------------------------------------------------------- */

enum vf_path {
	VF_PATH_OFF,
	VF_PATH_DIRECT, /* the guest's rings are the function's */
	VF_PATH_RELAY,
};

/* A disk may take so long to finish what it has, before a stop; then nothing is stopped. */
#define VF_DRAIN_MS 1000
/*
 * A queue may be out of work at the boundary for so long: receive queues are then returned as they
 * are, others go on to the next multiple.
 */
#define VF_RX_BOUNDARY_MS 50
#define VF_BOUNDARY_MS	  100
/* A queue's reset is confirmed within this. */
#define VF_QUEUE_RESET_MS 1000

struct vf_dev;

struct vf_relay {
	struct vf_dev *vd;
	unsigned int q;
	enum vf_path path; /* written with the control lock held */
	struct relay r;
	int answer_fd; /* of the function's vector; -1 */
	struct loop_fd answer;
	struct loop_work again;
	uint64_t deadline; /* at the boundary, loop_now(); 0: none */
	uint64_t returns;  /* how often it came back to DIRECT */
};

struct vf_relays {
	struct vf_relay queues[VDEV_QUEUES_MAX];
	uint8_t *window;
	size_t window_bytes;
	int window_fd;
	uint64_t iova; /* 0: not mapped for the function */
	int timer_fd;
	struct loop_fd timer;
	int settled_fd; /* the function has been started, or will not be */
	bool is_wired;
	uint64_t wired;		  /* vectors that are the relay's, by queue */
	struct track_pause pause; /* of the last stop, and the start after it; control lock */
	uint64_t mark;		  /* private: when the part that is measured began */
};

/* vf thread, before the sandbox. After a failure vf_relays_fini() is owed. */
int vf_relays_init(struct vf_dev *vd, struct diag *d) must_check;
void vf_relays_fini(struct vf_dev *vd);
int vf_relays_map(struct vf_dev *vd, struct diag *d) must_check;
void vf_relays_unmap(struct vf_dev *vd);

/*
 * For start. plan: decides the path of data queue q and changes what the function is told of it;
 * wire: vectors by path; up: the data queues run.
 */
struct vf_plan_queue;
int vf_relay_plan(struct vf_dev *vd, unsigned int q, struct vf_plan_queue *pq,
		  struct diag *d) must_check;
int vf_relays_wire(struct vf_dev *vd, struct diag *d) must_check;
/* Something came from the guest or the function; q is in RELAY and the function is up. */
void vf_relay_serve(struct vf_dev *vd, unsigned int q);
/* The same for all that run; DIRECT queues are rung. */
void vf_relays_serve(struct vf_dev *vd);
/* The function has been stopped: last elements, and where each queue is, in vd->queues[].index. All
 * are OFF then. */
void vf_relays_stop(struct vf_dev *vd);
bool vf_relays_any(const struct vf_dev *vd, enum vf_path path);

/*
 * Ends what has to end before the function may be stopped: doorbells come to us, each queue is
 * rung once, a disk finishes what it has. -ETIMEDOUT: it does not, and goes on as before.
 */
int vf_relays_drain(struct vf_dev *vd, struct diag *d) must_check;
/* Queues return to DIRECT at the next boundary (on), or never. */
void vf_relays_return(struct vf_dev *vd, bool on);
/* Completions until q may be DIRECT; RELAY_NO_LIMIT: it stays. Control lock, or the vf thread. */
uint32_t vf_relay_left(const struct vf_dev *vd, unsigned int q);

#endif
