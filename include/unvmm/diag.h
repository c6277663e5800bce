/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diag.h - one sentence for the person who has to mend something.
 *
 * Functions return 0 or -errno; cold paths (configuration, opening, building the machine) also
 * take a struct diag and fill it when they fail: which thing, what is wrong with it, what would be
 * right. The caller prints it once. A diag may be NULL: then only the error number is wanted.
 */
#ifndef UNVMM_DIAG_H
#define UNVMM_DIAG_H

#include <unvmm/compiler.h>

struct diag {
	char text[512]; /* one line, without control characters; empty while nothing went wrong */
};

/*
 * Writes the sentence, unless one is there already (the innermost report knows most), and returns
 * err (a negative errno), so that `return diag_set(d, -EINVAL, "...")` is the whole error path.
 */
int diag_set(struct diag *d, int err, const char *fmt, ...) printf_like(3, 4);

/* The same with ": <strerror(-err)>" at the end: for failed system calls. */
int diag_errno(struct diag *d, int err, const char *fmt, ...) printf_like(3, 4);

/* Puts "<prefix>: " before the sentence that is there (a file name, a device). */
void diag_prefix(struct diag *d, const char *fmt, ...) printf_like(2, 3);

/*
 * Control characters (C0, DEL, and C1 in UTF-8) become "?": names in a message come from files,
 * guests and peers, and a terminal must neither obey them nor show a second line. The functions
 * above and log.h's do it by themselves.
 */
void diag_clean(char *text);

#endif
