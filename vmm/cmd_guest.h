/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_guest.h - a guest in the foreground, from its machine to its exit status, for the commands
 * that have one: `run` boots it, `receive` is sent it. (cmd_run.c) Main thread.
 */
#ifndef UNVMM_VMM_CMD_GUEST_H
#define UNVMM_VMM_CMD_GUEST_H

#include <unvmm/vm.h>

#include "run_options.h"

enum arrival_kind {
	ARRIVAL_LISTEN, /* fd listens: the first that connects sends the guest */
	ARRIVAL_LATER,	/* a stream, on which nothing comes before the guest does */
	ARRIVAL_STREAM,
	ARRIVAL_FILE,
};

/* How a guest arrives. */
struct arrival {
	enum arrival_kind kind;
	/*
	 * Called when the machine stands and before its sandbox is closed: sets fd, and `at` for
	 * messages. What it opens and is not given up here it owns itself.
	 */
	int (*open)(struct arrival *a, struct vm *vm, struct diag *d);
	int fd; /* taken over */
	char at[256];
	int told_fd; /* gets a byte when the guest runs; -1: nobody waits for it */
};

/*
 * What the command line of run or receive says, and the log's level. False: the command ends with
 * *status, and has said why; else o is to be freed.
 */
bool guest_options(struct run_options *o, int argc, char **argv, int *status) must_check;

/* arrival NULL: boots the kernel. Returns the exit status; has logged what went wrong. */
int guest_run(struct run_options *o, struct vm_config *config, struct arrival *arrival);

#endif
