/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd.h - the subcommands (cmd_*.c) and the exit statuses they share. Main thread.
 */
#ifndef UNVMM_VMM_CMD_H
#define UNVMM_VMM_CMD_H

#include <termios.h>

/* Exit statuses, as unvmm(1) has them. */
enum {
	EXIT_GUEST_FAILED = 1, /* reset with on_reboot = "exit", panic, --expect not seen */
	EXIT_USAGE = 2,	       /* wrong usage, configuration or host error */
	EXIT_TIMEOUT = 124,    /* --timeout passed */
};

/* The modes that a fatal signal's handler gives back to this terminal (main.c). */
void main_save_terminal(int fd, const struct termios *modes);
/* Ends the process at once, with the terminal as it was: threads may wait for ever. Any thread. */
void main_quit(int status) __attribute__((noreturn));

/* argv[0] is the subcommand's name. Returns the exit status. */
int cmd_run(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_control(int argc, char **argv); /* pause, resume, reset */
int cmd_stop(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_vf(int argc, char **argv);
int cmd_migrate(int argc, char **argv);
int cmd_receive(int argc, char **argv);

#endif
