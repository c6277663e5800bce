/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox.h - what is left of a process's power once the guest runs: another user, no capabilities,
 * and per kind of thread the system calls that it needs (vmm/sandbox_filter.c has the table).
 *
 * Everything that takes privileges is opened before. Then each thread enters by itself: the kernel
 * keeps user, capabilities and filter per thread. A system call outside the table ends the process
 * by SIGSYS, with one sentence that names the call (sandbox_describe()).
 *
 * Thread: sandbox_init() and sandbox_enter_loop() by main; sandbox_enter() by the one that enters.
 */
#ifndef UNVMM_SANDBOX_H
#define UNVMM_SANDBOX_H

#include <semaphore.h>
#include <signal.h>
#include <sys/types.h>

#include <unvmm/diag.h>
#include <unvmm/loop.h>

enum sandbox_kind {
	SANDBOX_MAIN,
	SANDBOX_VCPU,
	SANDBOX_IO, /* software devices */
	SANDBOX_VF, /* assigned functions */
	SANDBOX_MIGRATION,
	SANDBOX_KEEPER, /* not a thread but a process (keeper.h) */
	SANDBOX_TLS,	/* and another program (migrate/tls/) */
	SANDBOX_KINDS,
};

struct sandbox {
	bool filter; /* install the filters */
	bool drop;   /* change to this user and group, no others */
	uid_t uid;
	gid_t gid;
};

/*
 * Decides. user: "NAME", "UID", "NAME:GROUP" or "UID:GID"; NULL: nobody for root, else no change.
 * Nobody is left out, with a message, where nobody asked for it and it is not possible (a container
 * without CAP_SETUID, a user namespace of one user). -ENOENT: there is no such user; -EPERM: only
 * root can become another; -ENOSYS: filter is wanted and the kernel has none.
 */
int sandbox_init(struct sandbox *s, const char *user, bool filter, struct diag *d) must_check;

/* The syntax alone, for the configuration's check. */
bool sandbox_user_valid(const char *user);

/*
 * The calling thread gives up what s says, for good. s NULL: nothing (tests without a sandbox).
 * After a failure the thread may have given up a part; the guest must not run then.
 */
int sandbox_enter(const struct sandbox *s, enum sandbox_kind kind, struct diag *d) must_check;

/* The same for the thread that runs a loop. It is the caller's until the process ends. */
struct sandbox_entry {
	const struct sandbox *sandbox;
	enum sandbox_kind kind;
	struct loop_work work;
	sem_t done;
	struct diag diag;
	int err;
};
int sandbox_enter_loop(struct sandbox_entry *e, const struct sandbox *s, enum sandbox_kind kind,
		       struct loop *l, struct diag *d) must_check;

/*
 * A sentence about a SIGSYS: which thread made which system call. False if it was not a filter that
 * sent it. For the signal's handler.
 */
bool sandbox_describe(const siginfo_t *si, char *buf, size_t size);

#endif
