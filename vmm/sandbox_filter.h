/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox_filter.h - the table of system calls, and the filters made of it. Any thread.
 */
#ifndef UNVMM_VMM_SANDBOX_FILTER_H
#define UNVMM_VMM_SANDBOX_FILTER_H

#include <linux/filter.h>
#include <stdint.h>

#include <unvmm/sandbox.h>

/* What one argument must be for a row to allow its call. */
enum sandbox_test {
	SANDBOX_ANY,	 /* no condition */
	SANDBOX_EQUAL,	 /* its low 32 bits are `value` */
	SANDBOX_WITHOUT, /* none of the bits of `value` is set */
	SANDBOX_SELF,	 /* it is the PID of this process */
};

struct sandbox_rule {
	int nr;		    /* __NR_... */
	unsigned int kinds; /* 1 << enum sandbox_kind, or-ed */
	enum sandbox_test test;
	unsigned int arg; /* 0 to 5 */
	uint32_t value;
	const char *reason; /* what needs it */
};

extern const struct sandbox_rule sandbox_rules[];
extern const unsigned int sandbox_nrules;

#define SANDBOX_CODE_MAX 512

/* The filter of one kind of thread of the process `self`: its instructions, or -E2BIG. */
int sandbox_filter_build(enum sandbox_kind kind, pid_t self, struct sock_filter *code,
			 unsigned int max) must_check;
/* Installs it for the calling thread, which must have no_new_privs. */
int sandbox_filter_install(enum sandbox_kind kind) must_check;

#endif
