/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.h - how a function of unvf can be told to misbehave, for tests of those who drive it.
 * Parsed by main; constant then. unvf.1 says what each does.
 */
#ifndef UNVF_FAULT_H
#define UNVF_FAULT_H

#include <unvmm/diag.h>

enum fault_kind {
	FAULT_LOST_DOORBELL, /* every n-th doorbell is taken and forgotten */
	FAULT_SLOW_DISABLE,  /* a reset takes n milliseconds */
	FAULT_ALL_ONES,	     /* after n register accesses the function is gone from the bus */
	FAULT_OUT_OF_ORDER,  /* up to n completions are given back in reverse */
	FAULT_MASKED_IRQ,    /* every n-th interrupt stays pending until it is unmasked or wired */
	FAULT_HANG_REQUEST,  /* the n-th request is never given back */
	FAULT_MERGED_USED,   /* up to n completions become visible at once */
	FAULT_DISCONNECT,    /* the n-th message ends the connection */
	FAULT_ERROR,	     /* at the n-th register access VFIO's error event comes */
	FAULT_KINDS
};

struct faults {
	uint32_t n[FAULT_KINDS]; /* 0: off */
};

/* "lost-doorbell" or "lost-doorbell@8". -EINVAL with a sentence. */
int fault_parse(struct faults *f, const char *text, struct diag *d) must_check;

#endif
