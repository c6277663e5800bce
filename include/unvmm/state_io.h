/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_io.h - device state as bytes: the state tables of state.h to and from one FDT blob per
 * device. The layout is described in migrate/state.c.
 *
 * Blobs come from a peer or a file and are hostile until state_parse() has accepted them. It
 * touches nothing but scratch memory, so a caller parses the blobs of all devices before it commits
 * the first. Refusals are one sentence that starts with the path of what is wrong,
 * "serial0/serial/rx_count: ...".
 *
 * Thread: the VM is paused, control lock held. Never blocks.
 */
#ifndef UNVMM_STATE_IO_H
#define UNVMM_STATE_IO_H

#include <unvmm/state.h>

/* The largest blob that is made or accepted. */
#define STATE_BLOB_MAX MiB(1)

/*
 * Saves the n objects of device `id`. *blob is malloc'ed. Errors: -ENOTSUP when the device has no
 * table (n is 0), -E2BIG, -ENOMEM, or what a pre_save hook returned.
 */
int state_save(const char *id, const struct state_ref *refs, unsigned int n, void **blob,
	       size_t *len, struct diag *d) must_check;

/* A parsed and validated blob, waiting to be committed. */
struct state_load;

/*
 * First pass. blob is aligned as by malloc(). refs and what they point to must stay as they are
 * until the load is committed or freed; blob may go. -EINVAL for anything that is not exactly what
 * these tables would have saved: unknown, missing, duplicate, out of order, left over, wrong size,
 * wrong version, refused by a CHECK field or by validate(). *out only on success.
 */
int state_parse(const char *id, const void *blob, size_t len, const struct state_ref *refs,
		unsigned int n, struct state_load **out, struct diag *d) must_check;

/* Second pass: copies the fields into the objects, then calls their post_load hooks in order. */
int state_commit(struct state_load *load, struct diag *d) must_check;

/* Also without a commit. NULL does nothing. */
void state_load_free(struct state_load *load);

#endif
