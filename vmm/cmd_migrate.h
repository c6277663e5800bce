/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_migrate.h - what the files of `unvmm migrate` share: its command line
 * (cmd_migrate_options.c), what it knows of a migration under way, and how it shows it: a bar on a
 * terminal, else a line per second, or JSON (cmd_migrate_show.c). Main thread.
 */
#ifndef UNVMM_VMM_CMD_MIGRATE_H
#define UNVMM_VMM_CMD_MIGRATE_H

#include "client.h"
#include "migrate_tls.h"

/* What the command line says; texts point into argv. */
struct migrate_options {
	const char *name, *to;
	struct migrate_tls tls;
	char **remote; /* arguments of `unvmm receive` there; NULL ends it */
	bool json, cancel, insecure, keep_running, force;
	uint64_t bandwidth; /* bytes per second; 0: any */
	unsigned int downtime_ms, timeout_ms;
};

/*
 * Writes o in full; argv is permuted, and cut at "--". 1: the help has been printed, and the
 * command ends with status 0. -EINVAL with a sentence.
 */
int migrate_options_parse(struct migrate_options *o, int argc, char **argv,
			  struct diag *d) must_check;

/* An answer to query-migrate. */
struct progress {
	struct json_object *answer; /* owned */
	const char *phase;	    /* x-unvmm-phase */
	const char *status;	    /* QMP's */
	uint64_t total, remaining, transferred, rounds;
	uint64_t dirty_rate, rate; /* bytes per second */
	uint64_t expected_downtime_ms, total_ms;
	unsigned int throttle; /* percent */
	bool over;
};

struct show {
	const char *guest, *to;
	bool json, bar;
	bool saves; /* into a file */
	uint64_t shown_ms;
	unsigned int width; /* of what stands in the bar's line */
};

/* Reads an answer, which it takes over. Missing members are 0 and "". */
void progress_read(struct progress *p, struct json_object *answer);
void progress_free(struct progress *p);

/* Seconds until all of `remaining` is sent, if the guest goes on like that; -1: nobody knows. */
double progress_left(const struct progress *p);
/* Shares of RAM, of this round: 0 to 100. */
unsigned int progress_percent(const struct progress *p);

/* Begins now: a line comes when a second has passed. */
void show_begin(struct show *s);
/* At most ten times (bar) or once a second; `last`: in any case. */
void show_progress(struct show *s, const struct progress *p, bool last);
/* Makes room for a message in the bar's place. */
void show_clear(struct show *s);
/* The guest is there: what it took. */
void show_result(struct show *s, const struct progress *p);

#endif
