/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread.h - starts the threads of a machine: small stacks, a name, signals blocked.
 *
 * Any thread. Stacks are THREAD_STACK bytes: a default one (8 MiB) is large enough for the kernel
 * to back it with a huge page, 2 MiB of memory for a thread that uses 8 KiB.
 */
#ifndef UNVMM_THREAD_H
#define UNVMM_THREAD_H

#include <pthread.h>

#include <unvmm/diag.h>

#define THREAD_STACK KiB(256)

/*
 * Starts fn(arg) with all signals blocked but faults and `unblocked` (0: none). name: at most 15
 * characters, as `ps -L` shows it. -EAGAIN, -ENOMEM with a sentence.
 */
int thread_start(pthread_t *thread, const char *name, int unblocked, void *(*fn)(void *arg),
		 void *arg, struct diag *d) must_check;

#endif
