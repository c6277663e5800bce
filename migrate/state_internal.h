/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_internal.h - what the files of the state walker share: names, limits, the path of what is
 * being looked at, and how a field lies in object and blob. Thread: that of the caller.
 */
#ifndef UNVMM_STATE_INTERNAL_H
#define UNVMM_STATE_INTERNAL_H

#include <stdio.h>
#include <string.h>

#include <unvmm/state.h>

#define STATE_DEVICE_PROP  "device"
#define STATE_VERSION_PROP "state-version"
#define STATE_NAME_MAX	   64
#define STATE_DEPTH_MAX	   16 /* of nodes in a blob */

/* "serial0/serial/rx_head", made of its parts when a message needs it; a longer one is cut. */
struct state_path {
	const char *part[STATE_DEPTH_MAX + 4]; /* the caller's */
	unsigned int depth;
	char text[256];
};

static inline void path_push(struct state_path *p, const char *name)
{
	p->part[p->depth++] = name;
}

static inline void path_pop(struct state_path *p)
{
	p->depth--;
}

static inline const char *path_text(struct state_path *p)
{
	size_t len = 0;

	p->text[0] = '\0';
	for (unsigned int i = 0; i < p->depth && len < sizeof(p->text) - 1; i++) {
		snprintf(p->text + len, sizeof(p->text) - len, "%s%s", i ? "/" : "", p->part[i]);
		len += strlen(p->text + len);
	}
	return p->text;
}

static inline bool field_is_struct(const struct state_field *f)
{
	return f->kind == STATE_STRUCT;
}

/* Is the field part of the blob? obj holds the fields before it. */
static inline bool field_present(const struct state_field *f, uint32_t version, const void *obj)
{
	return f->since <= version && (!f->needed || f->needed(obj));
}

/* Does it travel in a description, too? */
static inline bool field_is_checked(const struct state_field *f)
{
	return field_is_struct(f) || (f->flags & (STATE_CHECK | STATE_TOLD));
}

/* Elements of the field in the blob: more than f->count only if obj holds a peer's bytes. */
static inline uint32_t field_used(const struct state_field *f, const void *obj)
{
	return f->used ? f->used(obj) : f->count;
}

/* Bytes of the property that holds `count` elements of the field. */
static inline uint32_t field_prop_len(const struct state_field *f, uint32_t count)
{
	switch (f->kind) {
	case STATE_BYTES:
		return f->size * count;
	case STATE_U64:
		return count * 8;
	default:
		return count * 4;
	}
}

static inline uint64_t elem_get(const struct state_field *f, const uint8_t *p)
{
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;

	switch (f->kind) {
	case STATE_U16:
		memcpy(&u16, p, sizeof(u16));
		return u16;
	case STATE_U32:
		memcpy(&u32, p, sizeof(u32));
		return u32;
	case STATE_U64:
		memcpy(&u64, p, sizeof(u64));
		return u64;
	default:
		return *p;
	}
}

/*
 * A blob with the root's `device` and whatever fill() puts into the root node, which returns
 * libfdt's errors. The caller frees it. -ENOMEM, -EINVAL, -E2BIG with a sentence.
 */
int state_make_blob(const char *id, int (*fill)(void *fdt, const void *arg), const void *arg,
		    void **blob, size_t *len, struct diag *d) must_check;

/*
 * The nodes of refs into the open node of a tree under construction; with checks_only their CHECK
 * fields alone. libfdt's errors.
 */
int state_write_nodes(void *fdt, const struct state_ref *refs, unsigned int n,
		      bool checks_only) must_check;
/* Do the nodes in `parent`, made with checks_only, agree with the objects? path: for the sentence.
 */
int state_match_checks(const void *fdt, int parent, const char *path, const struct state_ref *refs,
		       unsigned int n, struct diag *d) must_check;

/* Parses and validates the node at *node and forgets its values; moves on to the next one. */
int state_match_node(const void *fdt, int *node, const struct state_ref *ref,
		     struct diag *d) must_check;

/* Asserts that a table makes sense. */
void state_desc_check(const struct state_desc *desc);

/*
 * True devicetree of the one version that we write, in exactly `len` bytes: after this libfdt's
 * read functions are safe on it. -EINVAL with a sentence.
 */
int state_blob_check(const void *blob, size_t len, struct diag *d) must_check;

#endif
