/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - what the commands' command lines have in common: the sentences for what
 * getopt_long() refuses and for wrong times. Main thread; no state but getopt's own.
 */
#ifndef UNVMM_VMM_OPTIONS_H
#define UNVMM_VMM_OPTIONS_H

#include <getopt.h>

#include <unvmm/diag.h>

/*
 * -EINVAL with the sentence for `val`, '?' or ':' as getopt_long() has just returned it. opterr is
 * 0, the letters begin with ':', and the values in longs are letters or above 255.
 */
int options_refused(int val, char **argv, const struct option *longs, struct diag *d);

/* What a switch that takes a time wants. */
struct options_time {
	const char *name; /* of the switch, without "--" */
	bool milliseconds;
	bool zero; /* 0 is a time */
	double max;
};

/* text in *ms; what is above 0 gives at least 1. -EINVAL with a sentence. */
int options_time(const struct options_time *t, const char *text, uint64_t *ms,
		 struct diag *d) must_check;
/* The same, of a switch whose max fits. */
int options_short_time(const struct options_time *t, const char *text, unsigned int *ms,
		       struct diag *d) must_check;

#endif
