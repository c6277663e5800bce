/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - what of a device travels when the guest is moved or saved, as data.
 *
 * Each device describes its state by a static table of fields; one walker (migrate/state.c) saves,
 * loads, prints and compares all of them. A device without a table cannot be migrated and the user
 * is told so by its name. Loading has two passes: every field of every device is parsed into a
 * scratch copy and validated, and only when all are good is anything committed.
 *
 * Thread: the walker runs while the VM is paused, with the control lock held.
 */
#ifndef UNVMM_STATE_H
#define UNVMM_STATE_H

#include <unvmm/diag.h>

enum state_kind {
	STATE_BOOL,
	STATE_U8,
	STATE_U16,
	STATE_U32,
	STATE_U64,
	STATE_BYTES,  /* `size` raw bytes in guest order (register files, config space) */
	STATE_STRUCT, /* `count` elements of `child` */
};

enum {
	STATE_CHECK =
		1,	/* not loaded: must equal what the destination already has (model, sizes) */
	STATE_TOLD = 2, /* also told before anything is sent: validate() sees it then, too */
};

struct state_desc;

struct state_field {
	const char *name;
	enum state_kind kind;
	uint32_t offset; /* in the object */
	uint32_t size;	 /* bytes of one element */
	uint32_t count;	 /* elements in the array; 1 for a scalar */
	uint32_t flags;
	uint16_t since; /* first version of the description that has the field */
	const struct state_desc *child;
	/* Saved, and expected, only if it returns true; NULL: always. Looks only at fields before
	 * it. */
	bool (*needed)(const void *obj);
	/* Elements that are saved, at most `count`; NULL: all. Looks only at fields before it. */
	uint32_t (*used)(const void *obj);
};

struct state_desc {
	const char *name; /* "serial", "virtio-pci": unique per device */
	uint16_t version; /* that is saved; loads version and version - 1 */
	uint32_t obj_size;
	const struct state_field *fields;
	unsigned int nfields;
	/*
	 * Brings the object up to date before it is saved (e.g. reads indexes from another owner).
	 */
	int (*pre_save)(void *obj);
	/*
	 * Checks a scratch object that holds the loaded fields, the destination's own values for
	 * fields that the blob does not have, and zeroes outside of the table; `live` is the
	 * destination's own object (sizes, limits). The bytes came from a peer: trust none. Of a
	 * table with STATE_TOLD fields also before anything is sent, with those fields and the
	 * destination's own values for all others.
	 */
	int (*validate)(const void *scratch, const void *live, struct diag *d);
	/* After the commit: makes the loaded registers real (routes, timers). */
	int (*post_load)(void *obj, struct diag *d);
};

#define STATE_FIELD_(k, type, f, n, sz, fl)                                                       \
	{                                                                                         \
		.name = #f, .kind = (k), .offset = offsetof(type, f), .size = (sz), .count = (n), \
		.flags = (fl)                                                                     \
	}

/* Scalars and arrays of scalars; the width is taken from the member. */
#define STATE_SCALAR(k, type, f) \
	STATE_FIELD_(k, type, f, sizeof(((type *)0)->f) / state_kind_size(k), state_kind_size(k), 0)
#define STATE_SCALAR_CHECK(k, type, f)                                                            \
	STATE_FIELD_(k, type, f, sizeof(((type *)0)->f) / state_kind_size(k), state_kind_size(k), \
		     STATE_CHECK)
#define STATE_RAW(type, f) STATE_FIELD_(STATE_BYTES, type, f, 1, sizeof(((type *)0)->f), 0)
/* Of structs; fn: how many of them are used. */
#define STATE_ARRAY_USED(type, f, childdesc, fn)                               \
	{                                                                      \
		.name = #f, .kind = STATE_STRUCT, .offset = offsetof(type, f), \
		.size = sizeof(((type *)0)->f[0]),                             \
		.count = sizeof(((type *)0)->f) / sizeof(((type *)0)->f[0]),   \
		.child = &(childdesc), .used = (fn)                            \
	}

#define STATE_ARRAY(type, f, childdesc) STATE_ARRAY_USED(type, f, childdesc, NULL)

#define state_kind_size(k) \
	((k) == STATE_U64 ? 8u : (k) == STATE_U32 ? 4u : (k) == STATE_U16 ? 2u : 1u)

/* An object together with its description: what a device hands to the walker. */
struct state_ref {
	const struct state_desc *desc;
	void *obj;
};

#endif
