/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_transport.h - opens what a migration goes over, for the commands that own it: the process
 * of a guest opens no connection, it is given one (`unvmm migrate`) or had it before its sandbox
 * was closed (`unvmm receive`).
 *
 * Thread: main. Every wait has a deadline.
 */
#ifndef UNVMM_VMM_MIGRATE_TRANSPORT_H
#define UNVMM_VMM_MIGRATE_TRANSPORT_H

#include <sys/types.h>

#include "migrate_address.h"

#define MIGRATE_CONNECT_MS 10000

/*
 * Connects to a TCP or UNIX address; with SSH, starts ssh (or what $UNVMM_SSH names) with `command`
 * to be run by the other host's shell, and stores the child in *pid, whose stderr is ours. FD: that
 * descriptor, if it is a socket. Returns the descriptor, or -errno with a sentence.
 */
int migrate_connect(const struct migrate_address *a, const char *command, pid_t *pid,
		    struct diag *d) must_check;

/* A TCP socket that listens at the address. `at` is where, with the port in numbers. */
#define MIGRATE_AT_MAX 80
int migrate_listen(const struct migrate_address *a, char at[static MIGRATE_AT_MAX],
		   struct diag *d) must_check;

/*
 * Copies bytes both ways between in/out and the socket `peer` until `peer` is at its end and all it
 * sent is out, or `in` or `out` fails. What ends on one side is passed on (shutdown). Non-blocking
 * descriptors are not needed. 0, or -errno of the side that failed.
 */
int migrate_relay(int in, int out, int peer) must_check;

/* `text` as one word of a POSIX shell, to be freed; NULL: no memory. */
char *migrate_quote(const char *text) must_check;

#endif
