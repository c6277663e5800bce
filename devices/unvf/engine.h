/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h - the data path of unvf: one poll thread for the queues of all functions.
 *
 * A ring is looked at only after an atomic exchange on the doorbell cell of its queue returned the
 * queue's index, as hardware would; between two doorbells the device takes what was there at the
 * last look. A plain store into a mapped cell wakes nobody, so the thread scans: without a pause
 * while work came in within the last ENGINE_BUSY_NS, else every ENGINE_SCAN_NS; completions of
 * disks, frames of taps and doorbells by eventfd wake it at once. Where no function runs it sleeps.
 *
 * engine.c implements softq.h, which the devices use: vm_io_loop() is this thread's loop.
 *
 * Thread: init, start, stop and fini by main; the fn_engine_*() calls by main, one transition of a
 * function at a time, each answered by a note (function.h); struct fn_engine is the poll thread's.
 */
#ifndef UNVF_ENGINE_H
#define UNVF_ENGINE_H

#include <unvmm/softq.h>

#define ENGINE_FUNCTIONS_MAX 256
#define ENGINE_BUSY_NS	     1000000u
#define ENGINE_SCAN_NS	     1000000u

struct function;

struct engine {
	struct loop loop;
	pthread_t thread;
	bool started;
	bool quit; /* poll thread */
	struct loop_work quit_work;
	struct function *functions[ENGINE_FUNCTIONS_MAX];
	unsigned int nfunctions;
	uint64_t now; /* CLOCK_MONOTONIC at the start of this turn; poll thread */
};

int engine_init(struct engine *e, struct diag *d) must_check;
int engine_start(struct engine *e, struct diag *d) must_check;
/* Ends the thread; the functions have been reset. Twice does nothing. */
void engine_stop(struct engine *e);
void engine_fini(struct engine *e);

/* What of a queue's requests has been completed and not been shown to the driver, by a fault. */
struct fn_held {
	uint16_t head;
	uint32_t len;
};

struct fn_queue {
	unsigned int index;
	uint16_t *cell;
	bool look;	/* a doorbell was heard: the ring is to be looked at */
	bool again;	/* it has been, and not all was taken */
	bool resetting; /* RING_RESET */
	uint64_t reset_at;
	unsigned int hung; /* requests that are never given back */
	struct fn_held *held;
	unsigned int nheld;
	uint64_t held_since;
	struct loop_fd doorbell; /* FN_DOORBELL_IOEVENTFD */
};

enum fn_phase {
	FN_PHASE_OFF,
	FN_PHASE_SERVING,
	FN_PHASE_PAUSING,
	FN_PHASE_PAUSED,
	FN_PHASE_STOPPING
};

struct fn_engine {
	struct softq *sq;
	enum fn_phase phase;
	uint64_t settle_at; /* a transition is not over before that */
	uint32_t doorbells, requests;
	bool gone;    /* FAULT_ALL_ONES: no doorbell is heard; any thread, atomic */
	bool trapped; /* memory of the client vanished under an access */
	uint64_t ask_start, ask_reset; /* queues that main asked about; atomic */
	struct fn_queue queues[VDEV_QUEUES_MAX];
	struct loop_work pause_work, resume_work, queue_work, wake_work;
};

/* ON -> PAUSED (FN_NOTE_PAUSED) and back (at once). */
void fn_engine_pause(struct function *f);
void fn_engine_resume(struct function *f);
/* One queue of a function that is on: FN_NOTE_RING_RESET; starting has no answer but the worst. */
void fn_engine_queue_reset(struct function *f, unsigned int q);
void fn_engine_queue_start(struct function *f, unsigned int q);
/*
 * A doorbell that was rung while nobody listened is lost. Called before a start, and before the
 * driver is told of it: from then on it may ring, and the poll thread may only come to it later.
 */
void fn_engine_forget(struct function *f, unsigned int q);
/* Rings as if the driver had written to the cell. Any thread. */
void fn_engine_ring(struct function *f, unsigned int q);
/*
 * Changes what the function sees of the client's memory, on the poll thread, in the order of the
 * calls: FN_NOTE_MEMORY, with the outcome in err. `m` is the engine's until then. Memory may only
 * go away while the function rests.
 */
enum fn_memory_change { FN_MEMORY_ADD, FN_MEMORY_REMOVE, FN_MEMORY_CLEAR };

struct fn_memory {
	struct loop_work work;
	struct function *f;
	enum fn_memory_change change;
	struct gmem_region region; /* added; removed: by address and size, then the caller's */
	struct gmem all;	   /* cleared: the caller's */
	int err;
};
void fn_engine_memory(struct function *f, struct fn_memory *m);

/* Between engine.c and transition.c; poll thread. */
uint64_t engine_clock(void); /* of `now`, which was read when the turn began */
bool engine_may_serve(const struct function *f, unsigned int q);
void engine_publish(struct loop_work *w); /* of a queue; softq_queue.publish */
/* Ends the transitions that can end. True: some cannot yet. */
bool transition_settle(struct function *f);

/* guard.c: what the poll thread does when memory of a client vanishes under it. */
int guard_install(struct engine *e, struct diag *d) must_check;

#endif
