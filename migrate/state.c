/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.c - the walker over state tables: saves and loads. Printing and comparing of blobs is in
 * state_blob.c. Runs on the thread that holds the control lock, the VM paused.
 *
 * A blob is a flattened devicetree (Devicetree Specification 0.4, chapter 5), so that dtc and
 * fdtdump show it:
 *
 *	/ {
 *		device = "serial0";
 *		serial {                            one node per description, in the device's order
 *			state-version = <1>;
 *			ier = <0x00>;               bool, u8, u16, u32: one cell per element
 *			offset = <0x00 0x12345678>; u64: two cells
 *			rx = [00 00 ...];           bytes
 *			vq@0 { state-version = <1>; ... };  structs, after all scalars
 *		};
 *	};
 *
 * The order of properties and nodes is that of the table. A reader therefore goes through blob and
 * table in step, once, and whatever is unknown, missing, double or left over shows as "found this,
 * expected that". Scalars of a table come before its structs, as a devicetree demands.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <libfdt.h>

#include <unvmm/state_io.h>

#include "state_internal.h"

#define STATE_BLOB_FIRST 2048u

static bool field_is_struct(const struct state_field *f)
{
	return f->kind == STATE_STRUCT;
}

/* Is the field part of the blob? obj holds the fields before it. */
static bool field_present(const struct state_field *f, uint32_t version, const void *obj)
{
	return f->since <= version && (!f->needed || f->needed(obj));
}

/* Tables are ours: a mistake in one is a bug, found by the first unit test that saves it. */
static void check_desc(const struct state_desc *desc)
{
	bool structs = false;

	for (unsigned int i = 0; i < desc->nfields; i++) {
		const struct state_field *f = &desc->fields[i];

		assert(f->offset <= desc->obj_size &&
		       (uint64_t)f->size * f->count <= desc->obj_size - f->offset);
		assert(f->since <= desc->version);
		assert(!structs || field_is_struct(f));
		if (field_is_struct(f)) {
			assert(f->child && f->child->obj_size == f->size && !f->flags);
			assert(!f->child->pre_save && !f->child->post_load);
		}
		structs |= field_is_struct(f);
	}
}

/* Bytes of the property that holds the field. */
static uint32_t field_prop_len(const struct state_field *f)
{
	switch (f->kind) {
	case STATE_BYTES:
		return f->size * f->count;
	case STATE_U64:
		return f->count * 8;
	default:
		return f->count * 4;
	}
}

static uint64_t elem_get(const struct state_field *f, const uint8_t *p)
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

/* False if the value does not fit the kind. */
static bool elem_set(const struct state_field *f, uint8_t *p, uint64_t v)
{
	uint16_t u16 = (uint16_t)v;
	uint32_t u32 = (uint32_t)v;

	switch (f->kind) {
	case STATE_BOOL:
		*p = (uint8_t)v;
		return v <= 1;
	case STATE_U8:
		*p = (uint8_t)v;
		return v <= UINT8_MAX;
	case STATE_U16:
		memcpy(p, &u16, sizeof(u16));
		return v <= UINT16_MAX;
	case STATE_U32:
		memcpy(p, &u32, sizeof(u32));
		return v <= UINT32_MAX;
	default:
		memcpy(p, &v, sizeof(v));
		return true;
	}
}

/* --- Saving --- */

/* Functions below return libfdt's errors until state_save() translates them. */
static int save_field(void *fdt, const struct state_field *f, const void *obj)
{
	const uint8_t *p = (const uint8_t *)obj + f->offset;
	void *val;
	int ret;

	ret = fdt_property_placeholder(fdt, f->name, (int)field_prop_len(f), &val);
	if (ret)
		return ret;
	if (f->kind == STATE_BYTES) {
		memcpy(val, p, field_prop_len(f));
		return 0;
	}
	for (uint32_t i = 0; i < f->count; i++) {
		uint64_t v = elem_get(f, p + (size_t)i * f->size);

		if (f->kind == STATE_U64)
			fdt64_st((uint8_t *)val + 8 * (size_t)i, v);
		else
			fdt32_st((uint8_t *)val + 4 * (size_t)i, (uint32_t)v);
	}
	return 0;
}

static int save_node(void *fdt, const char *name, const struct state_desc *desc, const void *obj)
{
	int ret = fdt_begin_node(fdt, name);

	if (!ret)
		ret = fdt_property_u32(fdt, STATE_VERSION_PROP, desc->version);
	for (unsigned int i = 0; !ret && i < desc->nfields; i++) {
		const struct state_field *f = &desc->fields[i];
		char child[STATE_NAME_MAX];

		if (!field_present(f, desc->version, obj))
			continue;
		if (!field_is_struct(f)) {
			ret = save_field(fdt, f, obj);
			continue;
		}
		for (uint32_t n = 0; !ret && n < f->count; n++) {
			snprintf(child, sizeof(child), "%s@%x", f->name, n);
			ret = save_node(fdt, child, f->child,
					(const uint8_t *)obj + f->offset + (size_t)n * f->size);
		}
	}
	return ret ? ret : fdt_end_node(fdt);
}

static int save_blob(void *fdt, size_t size, const char *id, const struct state_ref *refs,
		     unsigned int n)
{
	int ret = fdt_create(fdt, (int)size);

	if (!ret)
		ret = fdt_finish_reservemap(fdt);
	if (!ret)
		ret = fdt_begin_node(fdt, "");
	if (!ret)
		ret = fdt_property_string(fdt, STATE_DEVICE_PROP, id);
	for (unsigned int i = 0; !ret && i < n; i++)
		ret = save_node(fdt, refs[i].desc->name, refs[i].desc, refs[i].obj);
	if (!ret)
		ret = fdt_end_node(fdt);
	return ret ? ret : fdt_finish(fdt);
}

int state_save(const char *id, const struct state_ref *refs, unsigned int n, void **blob,
	       size_t *len, struct diag *d)
{
	int ret = 0;

	if (!n)
		return diag_set(d, -ENOTSUP, "%s: this device has no state table, so it cannot be "
				"moved or saved", id);
	for (unsigned int i = 0; i < n; i++) {
		check_desc(refs[i].desc);
		if (refs[i].desc->pre_save)
			ret = refs[i].desc->pre_save(refs[i].obj);
		if (ret)
			return diag_errno(d, ret, "%s/%s: the state cannot be read", id,
					  refs[i].desc->name);
	}
	/* The size is not known beforehand: take twice as much until it fits. */
	for (size_t size = STATE_BLOB_FIRST; size <= STATE_BLOB_MAX; size *= 2) {
		void *fdt = malloc(size);

		if (!fdt)
			return diag_set(d, -ENOMEM, "%s: no memory for its state", id);
		memset(fdt, 0, size);
		ret = save_blob(fdt, size, id, refs, n);
		if (!ret) {
			*blob = fdt;
			*len = fdt_totalsize(fdt);
			return 0;
		}
		free(fdt);
		if (ret != -FDT_ERR_NOSPACE)
			return diag_set(d, -EINVAL, "%s: the state table is wrong: %s", id,
					fdt_strerror(ret));
	}
	return diag_set(d, -E2BIG, "%s: the state is larger than %llu bytes", id,
			(unsigned long long)STATE_BLOB_MAX);
}

/* --- Loading: first pass --- */

struct load_ref {
	const struct state_ref *ref;
	void *scratch;
};

struct state_load {
	char id[STATE_NAME_MAX];
	unsigned int n;
	struct load_ref refs[];
};

/* A parse under way: the blob, and where in it we are, for messages. */
struct parse {
	const void *fdt;
	struct state_path path;
	struct diag *d;
};

#define parse_fail(p, fmt, ...) \
	diag_set((p)->d, -EINVAL, "%s: " fmt, (p)->path.text, ##__VA_ARGS__)

static int parse_elems(struct parse *p, const struct state_field *f, const void *val, uint8_t *dst)
{
	if (f->kind == STATE_BYTES) {
		memcpy(dst, val, field_prop_len(f));
		return 0;
	}
	for (uint32_t i = 0; i < f->count; i++) {
		const void *cell = (const uint8_t *)val + i * (f->kind == STATE_U64 ? 8ul : 4ul);
		uint64_t v = f->kind == STATE_U64 ? fdt64_ld(cell) : fdt32_ld(cell);

		if (!elem_set(f, dst + (size_t)i * f->size, v))
			return parse_fail(p, "the value %#llx is too large for the field",
					  (unsigned long long)v);
	}
	return 0;
}

static int parse_check(struct parse *p, const struct state_field *f, const void *scratch,
		       const void *live)
{
	const uint8_t *a = (const uint8_t *)scratch + f->offset;
	const uint8_t *b = (const uint8_t *)live + f->offset;

	if (!(f->flags & STATE_CHECK) || memcmp(a, b, (size_t)f->size * f->count) == 0)
		return 0;
	if (f->kind == STATE_BYTES || f->count != 1)
		return parse_fail(p, "differs from what this machine has, and must be equal");
	return parse_fail(p, "is %#llx there and %#llx on this machine, and must be equal",
			  (unsigned long long)elem_get(f, a), (unsigned long long)elem_get(f, b));
}

/* The property at *prop must be `name` with `len` bytes; moves on to the next one. */
static int parse_prop(struct parse *p, int *prop, const char *name, uint32_t len, const void **val)
{
	const char *found;
	int found_len;

	if (*prop < 0)
		return parse_fail(p, "is missing");
	*val = fdt_getprop_by_offset(p->fdt, *prop, &found, &found_len);
	if (!*val || strcmp(found, name) != 0)
		return parse_fail(p, "expected here, but \"%s\" was found", *val ? found : "nothing");
#ifndef FUZZ_PLANT
	if ((uint32_t)found_len != len)
		return parse_fail(p, "has %d bytes instead of %u", found_len, len);
#endif
	*prop = fdt_next_property_offset(p->fdt, *prop);
	return 0;
}

static int parse_version(struct parse *p, int *prop, const struct state_desc *desc,
			 uint32_t *version)
{
	const void *val;
	int ret;

	path_push(&p->path, STATE_VERSION_PROP);
	ret = parse_prop(p, prop, STATE_VERSION_PROP, 4, &val);
	if (ret)
		return ret;
	*version = fdt32_ld(val);
	if (!*version || *version > desc->version || *version + 1 < desc->version)
		return parse_fail(p, "is %u, but versions %u and %d are understood", *version,
				  desc->version, desc->version - 1);
	path_pop(&p->path);
	return 0;
}

static int parse_node(struct parse *p, int *node, const char *name, const struct state_desc *desc,
		      uint8_t *scratch, const uint8_t *live);

static int parse_field(struct parse *p, int *prop, int *child, const struct state_field *f,
		       uint8_t *scratch, const uint8_t *live)
{
	char name[STATE_NAME_MAX];
	const void *val;
	int ret;

	if (field_is_struct(f)) {
		for (uint32_t n = 0; n < f->count; n++) {
			size_t at = f->offset + (size_t)n * f->size;

			snprintf(name, sizeof(name), "%s@%x", f->name, n);
			ret = parse_node(p, child, name, f->child, scratch + at, live + at);
			if (ret)
				return ret;
		}
		return 0;
	}
	path_push(&p->path, f->name);
	ret = parse_prop(p, prop, f->name, field_prop_len(f), &val);
	if (!ret)
		ret = parse_elems(p, f, val, scratch + f->offset);
	if (!ret)
		ret = parse_check(p, f, scratch, live);
	if (!ret)
		path_pop(&p->path);
	return ret;
}

/* Nothing may be left in a node whose table is at its end. */
static int parse_end(struct parse *p, int prop, int child)
{
	const char *name = NULL;

	if (prop >= 0)
		(void)fdt_getprop_by_offset(p->fdt, prop, &name, NULL);
	else if (child >= 0)
		name = fdt_get_name(p->fdt, child, NULL);
	else
		return 0;
	return parse_fail(p, "\"%s\" is unknown, or there twice", name ? name : "?");
}

/* The node at *node must be `name`; moves on to its sibling. */
static int parse_node(struct parse *p, int *node, const char *name, const struct state_desc *desc,
		      uint8_t *scratch, const uint8_t *live)
{
	const char *found = *node >= 0 ? fdt_get_name(p->fdt, *node, NULL) : NULL;
	int prop, child, ret;
	uint32_t version;

	path_push(&p->path, name);
	if (!found)
		return parse_fail(p, "is missing");
	if (strcmp(found, name) != 0)
		return parse_fail(p, "expected here, but \"%s\" was found", found);
	prop = fdt_first_property_offset(p->fdt, *node);
	child = fdt_first_subnode(p->fdt, *node);
	ret = parse_version(p, &prop, desc, &version);
	for (unsigned int i = 0; !ret && i < desc->nfields; i++) {
		const struct state_field *f = &desc->fields[i];

		if (field_present(f, version, scratch))
			ret = parse_field(p, &prop, &child, f, scratch, live);
		else /* so that the commit, which copies all, changes nothing */
			memcpy(scratch + f->offset, live + f->offset, (size_t)f->size * f->count);
	}
	if (!ret)
		ret = parse_end(p, prop, child);
	if (!ret && desc->validate) {
		ret = desc->validate(scratch, live, p->d);
		if (ret)
			diag_prefix(p->d, "%s", p->path.text);
	}
	if (ret)
		return ret;
	path_pop(&p->path);
	*node = fdt_next_subnode(p->fdt, *node);
	return 0;
}

static int parse_blob(struct parse *p, struct state_load *load)
{
	int prop = fdt_first_property_offset(p->fdt, 0), node = fdt_first_subnode(p->fdt, 0);
	const void *val;
	int ret;

	path_push(&p->path, STATE_DEVICE_PROP);
	ret = parse_prop(p, &prop, STATE_DEVICE_PROP, (uint32_t)strlen(load->id) + 1, &val);
	if (ret)
		return ret;
	if (memcmp(val, load->id, strlen(load->id) + 1) != 0)
		return parse_fail(p, "this is the state of another device");
	path_pop(&p->path);
	for (unsigned int i = 0; !ret && i < load->n; i++) {
		const struct state_ref *ref = load->refs[i].ref;

		ret = parse_node(p, &node, ref->desc->name, ref->desc, load->refs[i].scratch,
				 ref->obj);
	}
	return ret ? ret : parse_end(p, prop, node);
}

int state_parse(const char *id, const void *blob, size_t len, const struct state_ref *refs,
		unsigned int n, struct state_load **out, struct diag *d)
{
	struct state_load *load = calloc(1, sizeof(*load) + n * sizeof(load->refs[0]));
	struct parse p = { .fdt = blob, .d = d };
	int ret;

	if (!load)
		return diag_set(d, -ENOMEM, "%s: no memory for its state", id);
	path_push(&p.path, id);
	ret = state_blob_check(blob, len, d);
	if (ret) {
		diag_prefix(d, "%s", id);
		goto fail;
	}
	snprintf(load->id, sizeof(load->id), "%s", id);
	for (load->n = 0; load->n < n; load->n++) {
		struct load_ref *lr = &load->refs[load->n];

		check_desc(refs[load->n].desc);
		lr->ref = &refs[load->n];
		/* One more byte: a description without fields has an empty object. */
		lr->scratch = calloc(1, lr->ref->desc->obj_size + 1);
		if (!lr->scratch) {
			ret = diag_set(d, -ENOMEM, "%s: no memory for its state", id);
			goto fail;
		}
	}
	ret = parse_blob(&p, load);
	if (ret)
		goto fail;
	*out = load;
	return 0;

fail:
	state_load_free(load);
	return ret;
}

/* --- Loading: second pass --- */

static void commit_fields(const struct state_desc *desc, uint8_t *obj, const uint8_t *scratch)
{
	for (unsigned int i = 0; i < desc->nfields; i++) {
		const struct state_field *f = &desc->fields[i];

		if (f->flags & STATE_CHECK)
			continue;
		if (!field_is_struct(f)) {
			memcpy(obj + f->offset, scratch + f->offset, (size_t)f->size * f->count);
			continue;
		}
		for (uint32_t n = 0; n < f->count; n++) {
			size_t at = f->offset + (size_t)n * f->size;

			commit_fields(f->child, obj + at, scratch + at);
		}
	}
}

int state_commit(struct state_load *load, struct diag *d)
{
	int ret = 0;

	for (unsigned int i = 0; i < load->n; i++)
		commit_fields(load->refs[i].ref->desc, load->refs[i].ref->obj,
			      load->refs[i].scratch);
	for (unsigned int i = 0; !ret && i < load->n; i++) {
		const struct state_ref *ref = load->refs[i].ref;

		if (ref->desc->post_load)
			ret = ref->desc->post_load(ref->obj, d);
		if (ret) {
			diag_errno(d, ret, "the state cannot be made real");
			diag_prefix(d, "%s/%s", load->id, ref->desc->name);
		}
	}
	return ret;
}

void state_load_free(struct state_load *load)
{
	if (!load)
		return;
	for (unsigned int i = 0; i < load->n; i++)
		free(load->refs[i].scratch);
	free(load);
}
