/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_equal.h - do two state blobs hold the same? Needs no tables: blobs of any version, and
 * hostile ones. The test's thread.
 */
#ifndef UNVMM_TESTS_STATE_EQUAL_H
#define UNVMM_TESTS_STATE_EQUAL_H

#include <unvmm/diag.h>

/* 0, -EBADMSG with the path of the first difference, -EINVAL for a blob that is none. */
int state_equal(const void *a, size_t alen, const void *b, size_t blen, struct diag *d) must_check;

#endif
