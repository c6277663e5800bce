/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - the program: a table of subcommands, and what a process owes its caller whatever
 * happens: sane standard descriptors, and the terminal as it was. Before any thread starts.
 */
#include "cmd.h"

#include <unvmm/log.h>
#include <unvmm/sandbox.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The terminal to give back if the process dies; written by cmd_run() before raw mode matters. */
static struct {
	volatile sig_atomic_t valid;
	int fd;
	struct termios modes;
} saved_terminal;

void main_save_terminal(int fd, const struct termios *modes)
{
	saved_terminal.fd = fd;
	saved_terminal.modes = *modes;
	saved_terminal.valid = 1;
}

/* In the background the terminal has its shell's modes, and setting it would stop us. */
static int may_set(int fd)
{
	pid_t pgrp = tcgetpgrp(fd);

	return pgrp < 0 || pgrp == getpgrp();
}

static void give_back_terminal(void)
{
	if (saved_terminal.valid && may_set(saved_terminal.fd))
		tcsetattr(saved_terminal.fd, TCSANOW, &saved_terminal.modes);
}

void main_quit(int status)
{
	give_back_terminal();
	_exit(status);
}

static void on_fatal_signal(int sig, siginfo_t *si, void *context)
{
	char text[256];

	(void)context;
	/* SA_RESETHAND has restored the default action: raise() ends the process as the signal
	 * says. */
	give_back_terminal();
	if (sandbox_describe(si, text, sizeof(text)))
		log_error("%s", text);
	raise(sig);
}

static void handle_fatal_signals(void)
{
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGQUIT, SIGSYS };
	struct sigaction sa = { .sa_sigaction = on_fatal_signal,
				.sa_flags = (int)SA_RESETHAND | SA_SIGINFO };

	for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
		sigaction(fatal[i], &sa, NULL);
}

/* A caller may have closed 0, 1 or 2; the next descriptor that we open must not become one. */
static int open_standard_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return -1;
	return 0;
}

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
	bool tells; /* with status 0 all is printed; else the status is about the guest alone */
} commands[] = {
	{ "run", cmd_run, "run a guest in the foreground", true },
	{ "receive", cmd_receive, "run a guest that another host sends", true },
	{ "migrate", cmd_migrate, "move a running guest to another host or into a file", false },
	{ "list", cmd_list, "running guests", true },
	{ "info", cmd_info, "what a running guest is made of", true },
	{ "stats", cmd_stats, "counters of a running guest", true },
	{ "top", cmd_top, "what all guests do, again and again", true },
	{ "pause", cmd_control, "stop a guest's processors", false },
	{ "resume", cmd_control, "let a paused guest go on", false },
	{ "reset", cmd_control, "reset a guest", false },
	{ "stop", cmd_stop, "have a guest power off", false },
	{ "doctor", cmd_doctor, "what this host has and lacks, and what mends it", true },
	{ "vf", cmd_vf, "this host's virtio functions: list, bind, unbind", true },
};

static void usage(FILE *out)
{
	fprintf(out, "usage: unvmm COMMAND [ARGS]\n\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
	fprintf(out, "\nunvmm COMMAND --help tells more; unvmm --version the version.\n");
}

/* A full disk, not a reader who went away: that ends the process by SIGPIPE. */
static int flush_output(int status, bool tells)
{
	int err = fflush(stdout) ? errno : 0;

	if (!err && !ferror(stdout))
		return status;
	fprintf(stderr, "unvmm: what it prints cannot be written to standard output%s%s\n",
		err ? ": " : "", err ? strerror(err) : "");
	return tells && !status ? EXIT_USAGE : status;
}

int main(int argc, char **argv)
{
	if (open_standard_descriptors()) {
		fprintf(stderr, "unvmm: /dev/null cannot be opened\n");
		return EXIT_USAGE;
	}
	handle_fatal_signals();
	if (argc < 2) {
		usage(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		usage(stdout);
		return flush_output(0, true);
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("unvmm %s\n", UNVMM_VERSION);
		return flush_output(0, true);
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[1], commands[i].name))
			return flush_output(commands[i].run(argc - 1, argv + 1), commands[i].tells);
	fprintf(stderr, "unvmm: there is no command \"%s\"; try 'unvmm --help'\n", argv[1]);
	return EXIT_USAGE;
}
