/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pump.h - carries bytes both ways between a local socket, whose other end is a VMM's, and an
 * encrypted connection, until both directions have ended.
 *
 * What ends on one side is passed on only when all that came before is out; a direction that breaks
 * does not stop the other one: its last message is what says why. Each direction holds PUMP_BUF
 * bytes at most, so a side that does not read makes the other one wait.
 *
 * Thread: the helper's only one.
 */
#ifndef UNVMM_MIGRATE_TLS_PUMP_H
#define UNVMM_MIGRATE_TLS_PUMP_H

#include <sys/types.h>

#include <unvmm/diag.h>

#define PUMP_RECORD KiB(16) /* the most that recv() gives at once: a record of TLS */
#define PUMP_BUF    (4 * PUMP_RECORD)

/* The encrypted side; nothing of it waits. A function that could not go on says -EAGAIN. */
struct pump_tls {
	void *arg;
	int fd; /* to be polled */
	ssize_t (*send)(void *arg, const void *p, size_t len);
	/* 0: the peer has ended its direction, and said so. */
	ssize_t (*recv)(void *arg, void *p, size_t len);
	/* Ends our direction. */
	int (*bye)(void *arg);
	/* Does recv() wait for room to send (a key update)? */
	bool (*recv_sends)(void *arg);
	/* An error of one of these, as -errno with a sentence. */
	int (*explain)(void *arg, int err, struct diag *d);
};

/*
 * local must not block. linger_ms: how long what is left may take, once the VMM's end is closed.
 * 0: both directions ended as they should; or -errno with a sentence.
 */
int pump_run(int local, const struct pump_tls *tls, unsigned int linger_ms,
	     struct diag *d) must_check;

#endif
