/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migration.h - moves a running machine over a connected descriptor, or into and out of a file.
 * The bytes are described in migrate/FORMAT.md, the order of the steps in migrate/proto.c.
 *
 * A machine has one struct migration, with a thread of its own ("migration") that sleeps until it
 * is given a descriptor. On the source it sends RAM while the guest runs; on the target it receives
 * into a machine that was built but never ran. What touches devices and vcpus it has main do.
 * Whoever is at the other end is hostile: every length is bounded, every wait has a deadline.
 *
 * Exactly one side runs the guest. Until COMMIT is sent, whatever fails lets the source's guest go
 * on, with nothing lost. From then on the source stays stopped unless the target says that it has
 * not run and never will. A source that hears nothing is MIGRATION_HANDED_OVER: only a person can
 * know whether the target is alive (migration_resume_source()).
 *
 * Thread: main, without the control lock, unless it says otherwise.
 */
#ifndef UNVMM_MIGRATION_H
#define UNVMM_MIGRATION_H

#include <unvmm/diag.h>
#include <unvmm/track.h>

struct migration;
struct vm;

enum migration_phase {
	MIGRATION_IDLE,
	/* Source, in this order. */
	MIGRATION_SETUP,      /* HELLO, ACCEPT */
	MIGRATION_PRECOPY,    /* rounds of RAM; the guest runs */
	MIGRATION_SWITCH,     /* the guest is stopped; last RAM, state, READY */
	MIGRATION_COMMITTED,  /* COMMIT is sent, RUNNING not yet here */
	MIGRATION_CANCELLING, /* the source's guest is about to go on */
	/* Target. */
	MIGRATION_INCOMING,  /* nothing has come yet that was accepted */
	MIGRATION_RECEIVING, /* RAM */
	MIGRATION_LOADING,   /* the state is complete; READY */
	MIGRATION_STARTING,  /* COMMIT is here */
	/* The end. */
	MIGRATION_COMPLETED,   /* source: the guest runs at the target (or is in the file). target:
				  here */
	MIGRATION_FAILED,      /* source: the guest runs here. target: it never did */
	MIGRATION_CANCELLED,   /* the same, by migration_cancel() */
	MIGRATION_HANDED_OVER, /* source: the guest may run at the target; it does not run here */
};

/* "precopy": for query-migrate and messages. */
const char *migration_phase_name(enum migration_phase phase);
/* Is this an end? */
bool migration_phase_over(enum migration_phase phase);

enum migration_on_timeout { MIGRATION_TIMEOUT_CANCEL, MIGRATION_TIMEOUT_FORCE };

struct migration_params {
	uint32_t downtime_ms;	  /* the guest may be stopped for so long; default 300 */
	uint64_t bandwidth;	  /* bytes per second, 0: unlimited */
	uint32_t timeout_ms;	  /* of the pre-copy; 0: none */
	uint32_t peer_timeout_ms; /* silence after which the peer is dead; default 10000 */
	enum migration_on_timeout on_timeout; /* FORCE: switch then, whatever the downtime */
	bool throttle; /* slow the vcpus down when RAM does not converge; default true */
	bool verify;   /* hash all of RAM on both sides at the switch */
};

/* Defaults. verify is on when the environment has UNVMM_VERIFY=1. Any thread. */
void migration_params_init(struct migration_params *p);
/* -EINVAL with a sentence that names the parameter. Any thread. */
int migration_params_check(const struct migration_params *p, struct diag *d) must_check;

/* Of the switch, in nanoseconds; one after the other, so that they sum to `total`. */
struct migration_downtime {
	uint64_t park;	/* vcpus parked, software devices drained */
	uint64_t drain; /* assigned functions: what had to be finished */
	uint64_t stop;	/* ... stopped, confirmed */
	uint64_t sync;	/* disks */
	uint64_t save;	/* state of devices, vcpus, chips */
	uint64_t ram;	/* the last pages; the target loads the state meanwhile */
	uint64_t state; /* sending it, until the target has loaded it; the hash if it is wanted */
	uint64_t arm;	/* the target's assigned functions started, until READY */
	uint64_t start; /* COMMIT until the guest runs; at most until RUNNING */
	uint64_t total;
	uint64_t target_load, target_start; /* the target's shares of `state` and `start` */
};

struct migration_status {
	enum migration_phase phase;
	bool outgoing, file;
	uint64_t ram_total;	    /* bytes of guest RAM */
	uint64_t remaining;	    /* bytes of RAM that are still to be sent in this round */
	uint64_t transferred;	    /* bytes on the wire (received, on the target) */
	uint64_t pages, zero_pages; /* sent with contents; as a bit */
	uint32_t rounds;	    /* of RAM, the one under way included */
	uint64_t dirty_rate;	    /* bytes per second that the guest dirtied in the last round */
	uint64_t rate;		    /* bytes per second on the wire */
	uint64_t expected_downtime_ns; /* if the switch were now */
	uint32_t throttle;	       /* percent of a vcpu's time that is taken away */
	uint64_t elapsed_ns;	       /* since the start; fixed at the end */
	uint64_t setup_ns;	       /* until the first page */
	struct track_pause entry; /* the guest stood before the first page; zeroes: it did not */
	struct migration_downtime downtime; /* zeroes before the switch */
	char error[512];		    /* one sentence; empty unless it failed */
};

/* All on the main loop, without the control lock. Any may be NULL. */
struct migration_events {
	/* The phase has changed (events for control clients). */
	void (*phase)(void *arg, enum migration_phase phase);
	/* Target: everything is prepared; the guest may come. */
	void (*prepared)(void *arg);
	/*
	 * It is over, once: migration_phase_over(status->phase). The descriptor is closed. Another
	 * migration may be started from here on.
	 */
	void (*ended)(void *arg, const struct migration_status *status);
	/*
	 * Not on the main loop but at once, on a thread of the engine: memory of a lazily restored
	 * guest cannot be read, and whoever touches it waits for ever. It ends the process and does
	 * not return; needed by who calls migration_allow_lazy().
	 */
	void (*lost)(void *arg, const char *why);
	void *arg;
};

/*
 * Starts the thread, which sleeps. Before the sandbox is entered: no thread can be started after
 * that; it enters by itself. events is copied.
 */
int migration_create(struct vm *vm, const struct migration_events *events, struct migration **out,
		     struct diag *d) must_check;
/*
 * Ends it at once and joins the thread. What was under way fails: on the source the guest goes on
 * unless COMMIT was sent. No callback runs any more. NULL does nothing.
 */
void migration_destroy(struct migration *m);

/*
 * Source: moves the guest to whoever is at the other end of fd, a stream socket or any descriptor
 * that poll(2) knows and that carries bytes both ways. fd is the callee's from here on, also on
 * failure. A guest that was paused by the operator arrives paused. -EBUSY: one is under way;
 * -ENOTSUP with the device that cannot be moved: nothing was sent.
 */
int migration_start(struct migration *m, int fd, const struct migration_params *p,
		    struct diag *d) must_check;

/*
 * Source: into a file (or pipe), which is synced and complete when this ends. stay_paused: the
 * guest is left stopped at the very instant of the snapshot (vm->held), for a file that replaces
 * it; else it goes on.
 */
int migration_save(struct migration *m, int fd, bool stay_paused, const struct migration_params *p,
		   struct diag *d) must_check;

/*
 * Target: receives a guest into vm, which was built from its own configuration, whose vcpu threads
 * have been started and never ran, and which is held (vm_hold()). It runs when `ended` says
 * COMPLETED (or is paused, if it was). After a failure the machine is fit for nothing but its end.
 * migration_restore() is the same from a file.
 */
int migration_receive(struct migration *m, int fd, const struct migration_params *p,
		      struct diag *d) must_check;
int migration_restore(struct migration *m, int fd, const struct migration_params *p,
		      struct diag *d) must_check;

/*
 * Lets migration_restore() run the guest as soon as all but its memory has been read, if the
 * descriptor is a file: what of it is touched comes first, the rest in the background. What is
 * damaged ends the process (events.lost) before the guest sees it. Before the sandbox is entered.
 * -EOPNOTSUPP, -EPERM with a sentence: a device pins or shares guest memory, or this host does not
 * do that for us; then migration_restore() reads all of it first.
 */
int migration_allow_lazy(struct migration *m, struct diag *d) must_check;

/* Changes downtime_ms, bandwidth, timeout_ms, on_timeout and throttle of what is under way. */
int migration_set_params(struct migration *m, const struct migration_params *p,
			 struct diag *d) must_check;

/*
 * Asks for the end: `ended` comes with CANCELLED, unless it was too late. -EALREADY: nothing is
 * under way; -EBUSY: COMMIT is sent, only the target can say now.
 */
int migration_cancel(struct migration *m, struct diag *d) must_check;

/*
 * Source, after HANDED_OVER, and only if a person says that the target is dead: the guest goes on
 * here. Two running copies of it are the price of a wrong word. -EINVAL in any other phase.
 */
int migration_resume_source(struct migration *m, struct diag *d) must_check;

/* A consistent copy of where it stands. Any thread. */
void migration_status(struct migration *m, struct migration_status *s);

#endif
