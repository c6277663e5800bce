/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h - what source.c, target.c and migration.c share: one struct migration per machine.
 *
 * Two threads meet in it. What both touch is under `lock`, which is a leaf: nothing is waited for
 * and nothing called while it is held. The migration thread never takes the control lock: devices
 * and vcpus are main's, which it asks by engine_call().
 */
#ifndef UNVMM_MIGRATE_ENGINE_H
#define UNVMM_MIGRATE_ENGINE_H

#include <unvmm/loop.h>
#include <unvmm/migration.h>

#include "lazy.h"
#include "proto.h"
#include "ram.h"

#include <pthread.h>

/* One part of the machine's state on its way. */
struct part {
	struct proto_state_part head; /* blob: owned */
};

#define PARTS_MAX	1024u	/* devices, vcpus, chips */
#define PARTS_BYTES_MAX MiB(64) /* of all of them */

struct parts {
	struct part *part;
	unsigned int n;
	size_t bytes;
};

/* Copies the blob. -E2BIG, -ENOMEM with a sentence. */
int parts_add(struct parts *p, const char *id, const void *blob, size_t len,
	      struct diag *d) must_check;
void parts_free(struct parts *p);

enum job { JOB_NONE, JOB_START, JOB_SAVE, JOB_RECEIVE, JOB_RESTORE };

#define PHASES_MAX 16u

struct migration {
	struct vm *vm;
	struct migration_events events;
	pthread_t thread;
	bool thread_started;
	int wake_fd; /* eventfd: there is something for the thread, wherever it waits */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under the lock. */
	enum job job; /* what the thread is to do, or does */
	bool cancel, closing;
	struct migration_params params;
	struct migration_status status;
	enum migration_phase phases[PHASES_MAX]; /* that main has not been told of */
	unsigned int nphases;
	bool calling;  /* main has not done the call yet */
	bool prepared; /* target; or not, and why */
	int prepare_err;
	struct diag prepare_diag;

	/* Works on the main loop. */
	struct loop_work notify, call, prepare;
	int (*call_fn)(struct migration *m, struct diag *d);
	int call_err;
	struct diag call_diag;

	/* Given before the job begins, the thread's from then on. */
	int fd;
	bool stay_paused;
	void *description; /* owned */
	size_t description_len;

	/* The thread's; main's while that handles a call. */
	const struct proto_table *table;
	enum proto_state state;
	bool file, outgoing;
	struct stream stream;
	struct ram ram;
	struct parts parts;
	struct parts opaque; /* target: whole, one per device */
	struct lazy *lazy;   /* NULL: memory is read before the guest runs */
	bool lazily;	     /* this job's is not */
	struct ram_loaded loaded;
	struct section section; /* the last one that came */
	struct proto_state_end end;
	struct migration_downtime downtime;
	struct track_pause stopped; /* the devices' parts of the stop */
	uint64_t started;	    /* stream_now() */
	bool held;		    /* main holds the machine for us */
	bool tracked;		    /* main has the devices say what they write */
	/* target.c */
	bool loading;	    /* main has begun to load the parts */
	uint64_t committed; /* when COMMIT came */
	/* source.c */
	uint64_t ping_sent, ping_number, rtt; /* ping_sent 0: none is out */
	uint64_t last_ping, limit_until, next_nap;
	uint64_t attended, ping_deaf;	/* ns in which nobody here could have heard an answer */
	uint64_t rate;			/* bytes of pages per second */
	uint64_t timed_pages, timed_ns; /* of this round, for that */
	uint64_t stop_ns, state_ns;	/* as the last switch took, or a guess */
	uint64_t next_throttle;		/* not before this is the guest slowed down further */
	uint64_t last_lap;		/* end of the last part of the downtime */
	unsigned int slow_rounds;
	bool forced;
};

/* --- for both sides (migration.c); the migration thread ------------------------------------------
 */

/* A copy that does not change under the reader. */
struct migration_params engine_params(struct migration *m);
/* Has main run fn(m, d) without the control lock, and waits for it. -ECANCELED: main is closing. */
int engine_call(struct migration *m, int (*fn)(struct migration *m, struct diag *d),
		struct diag *d) must_check;
/* The same in two: in between main is at it, and the thread must not touch what it touches. */
int engine_begin(struct migration *m, int (*fn)(struct migration *m, struct diag *d),
		 struct diag *d) must_check;
int engine_end(struct migration *m, struct diag *d) must_check;
/* Enters a phase that is no end; main is told. */
void engine_phase(struct migration *m, enum migration_phase phase);
/* Has `update` change the status under the lock. */
void engine_count(struct migration *m);

/*
 * Main: the guest goes on at the source. If another has taken its disks meanwhile it is left
 * paused.
 */
void engine_go_on(struct vm *vm);

/* Sends a message and takes its transition. payload NULL: it is in stream_payload(). */
int engine_send(struct migration *m, enum proto_msg msg, const void *payload, size_t len,
		struct diag *d) must_check;
/* Receives one into m->section, if the table allows it, and takes its transition. */
int engine_recv(struct migration *m, struct diag *d) must_check;
/* In a file nobody answers: takes the transition that the answer would have had. */
void engine_assume(struct migration *m, enum proto_dir dir, enum proto_msg msg);
/* Was the job cancelled, or is the machine going down? -ECANCELED with a sentence. */
int engine_cancelled(struct migration *m, struct diag *d) must_check;

/* Ends the tracking of devices' writes. Main. (source.c) */
void source_track_end(struct migration *m);

/*
 * opaque.c: what devices know of themselves. Sends all of it; keeps what m->section has; main:
 * hands out what has been kept, to whom it is for.
 */
int opaque_send(struct migration *m, struct diag *d) must_check;
int opaque_keep(struct migration *m, struct diag *d) must_check;
void opaque_hand_out(struct migration *m);

/* Both run their job to its end and say which it was. m->stream is open; d has the sentence. */
enum migration_phase source_run(struct migration *m, struct diag *d);
enum migration_phase target_run(struct migration *m, struct diag *d);

#endif
