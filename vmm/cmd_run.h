/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_run.h - a guest in the foreground, as the two files that run it share it: cmd_run.c, the
 * guest, its operator and its end; cmd_run_move.c, how it comes and goes by a migration. Main
 * thread.
 */
#ifndef UNVMM_VMM_CMD_RUN_H
#define UNVMM_VMM_CMD_RUN_H

#include <unvmm/control.h>
#include <unvmm/log.h>

#include "cmd_guest.h"
#include "inherited.h"
#include "machine.h"
#include "qmp_migrate.h"

struct run {
	struct machine machine;
	struct run_options *options;
	struct vm_config *config;
	struct inherited inherited;
	struct control *control;			  /* NULL: none */
	int signal_fd, timeout_fd, shutdown_fd, leave_fd; /* -1: not made */
	struct loop_fd signals, timeout, shutdown, leave, listener;
	struct migration *migration; /* this one's machinery; NULL: not made */
	struct qmp_migration qmp;
	struct arrival *arrival; /* NULL: the guest boots here */
	bool switching;		 /* clients were told STOP because of a migration */
	bool moved;		 /* the guest runs elsewhere */
	bool shutting_down;	 /* SIGTERM has asked for power-off */
	bool shut_down_later;	 /* it came while a migration held the machine */
	int status;		 /* exit status, once the loop has ended */
	struct log_limit resets; /* of what is said about them */
};

/* --- cmd_run.c -------------------------------------------------------------------------------- */

/* The loop ends, and the command with this status. */
void run_end(struct run *r, int status);
/* The same, by way of the machine: the event of VM_EVENT_QUIT comes first. */
void run_quit(struct run *r, int status);
/* The terminal's keys are the guest's from here on, and it is given back whatever happens. */
int run_take_terminal(struct run *r, struct diag *d) must_check;
/* Presses the power button, and ends the guest when it does not power off in time. */
void run_shut_down(struct run *r);
/* A timer (timer.h) on the main loop, not armed; *fd is to be closed. */
int run_make_timer(struct run *r, struct loop_fd *lf, int *fd,
		   void (*ready)(struct loop_fd *, uint32_t), struct diag *d) must_check;

/* --- cmd_run_move.c --------------------------------------------------------------------------- */

/* The migration machinery, and where the guest comes from. Before the sandbox is closed. */
int run_prepare_migration(struct run *r, struct diag *d) must_check;
/* Waits for the guest, or begins to read it. The machine has been started. */
int run_await_arrival(struct run *r, struct diag *d) must_check;
/* Is the guest stopped for a migration, which may yet fail and have it go on here? */
bool run_at_switch(const struct run *r);

#endif
