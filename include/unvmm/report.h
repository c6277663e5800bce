/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.h - what a part of the machine tells of itself, as groups and lists of named values. The
 * control socket turns it into JSON; who tells does not know that.
 *
 * Texts may hold any bytes. What memory does not suffice for is left out. Thread: the caller's.
 */
#ifndef UNVMM_REPORT_H
#define UNVMM_REPORT_H

#include <unvmm/compiler.h>

#define REPORT_DEPTH 8

struct json_object;

struct report {
	struct json_object *open[REPORT_DEPTH]; /* the innermost last; [0] is the root, a group */
	unsigned int depth;
};

/* The root: a new group, or NULL if there is no memory. It is the caller's. */
struct json_object *report_begin(struct report *r) must_check;

/* key: what it is called in the open group; NULL when a list is open. */
void report_number(struct report *r, const char *key, uint64_t value);
void report_flag(struct report *r, const char *key, bool value);
void report_text(struct report *r, const char *key, const char *fmt, ...) printf_like(3, 4);

/* What follows goes into a group or a list of that name, until report_close(). */
void report_group(struct report *r, const char *key);
void report_list(struct report *r, const char *key);
void report_close(struct report *r);

#endif
