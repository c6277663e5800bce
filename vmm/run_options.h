/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_options.h - the command lines of `unvmm run` and `unvmm receive`, which has all of its
 * switches.
 *
 * Switches that describe the machine become configuration overrides, in the order typed; the rest
 * says how the guest is run. No file is opened and no value of the machine is checked here:
 * config_load() does that, and calls each value by the switch that gave it.
 *
 * Thread: main.
 */
#ifndef RUN_OPTIONS_H
#define RUN_OPTIONS_H

#include <stdio.h>

#include <unvmm/config.h>
#include <unvmm/console_watch.h>
#include <unvmm/log.h>

enum run_action {
	RUN_GUEST,
	RUN_CHECK,     /* -n: read and check the configuration, nothing else */
	RUN_HELP,      /* print the usage to stdout, exit 0 */
	RUN_HELP_KEYS, /* -o help: config_print_keys(), exit 0 */
};

struct run_options {
	enum run_action action;
	const char *path; /* guest.cfg, or NULL; points into argv */
	struct config_override *over;
	unsigned int nover;
	/*
	 * --expect and --input in the order typed, not started yet; NULL: there are none. With an
	 * expect step the run has succeeded when the last step is through; with input steps only
	 * (nexpect == 0) it goes on.
	 */
	struct console_watch *watch;
	unsigned int nexpect;
	uint64_t timeout_ms;  /* 0: none */
	uint64_t shutdown_ms; /* from the request to power off to the end of the guest */
	enum log_level log_level;
	/*
	 * `receive` only: where the guest comes from, exactly one of these. They point into argv.
	 */
	const char *listen, *from;
	bool stdio;
	bool eager;		/* all of a file is read before the guest runs */
	bool insecure;		/* plain TCP */
	const char *tls_folder; /* of the certificates; NULL: the default one */
	const char *tls_peer;	/* names of who may send; NULL: all */
};

/*
 * argv[0] is "run" or "receive". argv is permuted by getopt_long() and must outlive o. -EINVAL with
 * a sentence: print it and "try 'unvmm COMMAND --help'", exit 2. o is written in full;
 * run_options_free() is owed on success only.
 */
int run_options_parse(struct run_options *o, int argc, char **argv, struct diag *d) must_check;
void run_options_free(struct run_options *o);
/* command: argv[0]. */
void run_options_usage(FILE *out, const char *command);

/* The text of --input with its escapes decoded, to be freed. -EINVAL, -ENOMEM with a sentence. */
int run_options_decode(const char *text, char **out, struct diag *d) must_check;

#endif
