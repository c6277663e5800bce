/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_check.h - what every device's unit test does with its state tables. All of it fails the
 * running cmocka test by itself. Thread: the test's.
 */
#ifndef UNVMM_TESTS_STATE_CHECK_H
#define UNVMM_TESTS_STATE_CHECK_H

#include <unvmm/state_io.h>

/*
 * Saves the objects, changes every field that travels, loads the blob back and compares: each field
 * must have changed in between and must have its old value at the end, and a second save must give
 * the same blob. Call it with the device in a state that is not all zeroes.
 */
void state_check_roundtrip(const char *id, const struct state_ref *refs, unsigned int n);

/* Changes every field of obj that travels (not CHECK fields) to another value. */
void state_perturb(const struct state_desc *desc, void *obj);

/*
 * Saves, puts `value` into the one-cell property `prop` of node `path` ("/serial"), and expects
 * that the load refuses it with a sentence that contains `says`, and leaves the objects as they
 * were.
 */
void state_check_refuses(const char *id, const struct state_ref *refs, unsigned int n,
			 const char *path, const char *prop, uint32_t value, const char *says);

#endif
