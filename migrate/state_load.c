/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_load.c - the walker over state tables: loading, in two passes. The first goes through blob
 * and table in step, into scratch objects, and is where hostile bytes end; the second only copies.
 * Runs on the thread that holds the control lock, the VM paused.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <libfdt.h>

#include <unvmm/state_io.h>

#include "state_internal.h"

/* --- First pass --- */

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

struct load_ref {
	const struct state_ref *ref;
	void *scratch;
};

struct state_load {
	char id[STATE_NAME_MAX];
	unsigned int n;
	struct load_ref refs[];
};

/*
 * A parse under way, which reads the structure block in order. libfdt would find each node's and
 * property's successor by walking over all that is in between, checking it anew each time: ten
 * times the work, while a guest stands still. It has checked all of the blob before, once: tags,
 * lengths, strings, and that nodes which begin end (state_blob_check()). So the next tag is always
 * there to be looked at, and the last, FDT_END, is one that nothing here steps over.
 */
struct parse {
	const uint8_t *at; /* the next tag */
	const char *strings;
	struct state_path path;
	bool checks_only;
	struct diag *d;
};

#define parse_fail(p, fmt, ...) \
	diag_set((p)->d, -EINVAL, "%s: " fmt, path_text(&(p)->path), ##__VA_ARGS__)

/* offset: of a node's beginning, as libfdt counts. */
static void parse_from(struct parse *p, const void *fdt, int offset)
{
	p->at = (const uint8_t *)fdt + fdt_off_dt_struct(fdt) + offset;
	p->strings = (const char *)fdt + fdt_off_dt_strings(fdt);
}

static uint32_t next_tag(struct parse *p)
{
	while (fdt32_ld((const void *)p->at) == FDT_NOP)
		p->at += FDT_TAGSIZE;
	return fdt32_ld((const void *)p->at);
}

static uint32_t padded(size_t len)
{
	return (uint32_t)align_up(len, FDT_TAGSIZE);
}

/* Steps over the beginning of a node; NULL: there is none. */
static const char *enter_node(struct parse *p)
{
	const char *name;

	if (next_tag(p) != FDT_BEGIN_NODE)
		return NULL;
	name = (const char *)p->at + FDT_TAGSIZE;
	p->at += FDT_TAGSIZE + padded(strlen(name) + 1);
	return name;
}

/* Steps over a property; NULL: there is none. */
static const char *take_prop(struct parse *p, const void **val, uint32_t *len)
{
	const struct fdt_property *prop;

	if (next_tag(p) != FDT_PROP)
		return NULL;
	prop = (const void *)p->at;
	*len = fdt32_ld(&prop->len);
	*val = prop->data;
	p->at += sizeof(*prop) + padded(*len);
	return p->strings + fdt32_ld(&prop->nameoff);
}

static int parse_elems(struct parse *p, const struct state_field *f, uint32_t used, const void *val,
		       uint8_t *dst)
{
	if (f->kind == STATE_BYTES) {
		memcpy(dst, val, field_prop_len(f, used));
		return 0;
	}
	for (uint32_t i = 0; i < used; i++) {
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

/* The next property must be `name` with `len` bytes. */
static int parse_prop(struct parse *p, const char *name, uint32_t len, const void **val)
{
	uint32_t found_len;
	const char *found = take_prop(p, val, &found_len);

	if (!found)
		return parse_fail(p, "is missing");
	if (strcmp(found, name) != 0)
		return parse_fail(p, "expected here, but \"%s\" was found", found);
#ifndef FUZZ_PLANT
	if (found_len != len)
		return parse_fail(p, "has %u bytes instead of %u", found_len, len);
#else
	(void)len;
#endif
	return 0;
}

static int parse_version(struct parse *p, const struct state_desc *desc, uint32_t *version)
{
	const void *val;
	int ret;

	path_push(&p->path, STATE_VERSION_PROP);
	ret = parse_prop(p, STATE_VERSION_PROP, 4, &val);
	if (ret)
		return ret;
	*version = fdt32_ld(val);
	if (!*version || *version > desc->version || *version + 1 < desc->version)
		return parse_fail(p, "is %u, but versions %u and %d are understood", *version,
				  desc->version, desc->version - 1);
	path_pop(&p->path);
	return 0;
}

static int parse_node(struct parse *p, const char *name, const struct state_desc *desc,
		      uint8_t *scratch, const uint8_t *live);

static int parse_field(struct parse *p, const struct state_field *f, uint8_t *scratch,
		       const uint8_t *live)
{
	uint32_t used = field_used(f, scratch);
	char name[STATE_NAME_MAX];
	const void *val;
	int ret;

#ifndef FUZZ_PLANT
	if (used > f->count)
		return parse_fail(p, "%u elements of %s, %u are possible", used, f->name, f->count);
#endif
	if (field_is_struct(f)) {
		for (uint32_t n = 0; n < used; n++) {
			size_t at = f->offset + (size_t)n * f->size;

			snprintf(name, sizeof(name), "%s@%x", f->name, n);
			ret = parse_node(p, name, f->child, scratch + at, live + at);
			if (ret)
				return ret;
		}
		return 0;
	}
	path_push(&p->path, f->name);
	ret = parse_prop(p, f->name, field_prop_len(f, used), &val);
	if (!ret)
		ret = parse_elems(p, f, used, val, scratch + f->offset);
	if (!ret)
		ret = parse_check(p, f, scratch, live);
	if (!ret)
		path_pop(&p->path);
	return ret;
}

/* What no table asked for. */
static int left_over(struct parse *p)
{
	const void *val;
	uint32_t len;
	const char *name = take_prop(p, &val, &len);

	if (!name)
		name = enter_node(p);
	return parse_fail(p, "\"%s\" is unknown, or there twice", name ? name : "?");
}

/* Nothing may be left in a node whose table is at its end; steps over that. */
static int parse_end(struct parse *p)
{
	if (next_tag(p) != FDT_END_NODE)
		return left_over(p);
	p->at += FDT_TAGSIZE;
	return 0;
}

static bool tells(const struct state_desc *desc)
{
	for (unsigned int i = 0; i < desc->nfields; i++)
		if (desc->fields[i].flags & STATE_TOLD)
			return true;
	return false;
}

/* The next node must be `name`. */
static int parse_node(struct parse *p, const char *name, const struct state_desc *desc,
		      uint8_t *scratch, const uint8_t *live)
{
	const char *found = enter_node(p);
	uint32_t version;
	int ret;

	if (!found &&
	    next_tag(p) == FDT_PROP) /* of the node around it, whose fields have all come */
		return left_over(p);
	path_push(&p->path, name);
	if (!found)
		return parse_fail(p, "is missing");
	if (strcmp(found, name) != 0)
		return parse_fail(p, "expected here, but \"%s\" was found", found);
	ret = parse_version(p, desc, &version);
	for (unsigned int i = 0; !ret && i < desc->nfields; i++) {
		const struct state_field *f = &desc->fields[i];

		if (field_present(f, version, scratch) && (!p->checks_only || field_is_checked(f)))
			ret = parse_field(p, f, scratch, live);
		else /* so that the commit, which copies all, changes nothing */
			memcpy(scratch + f->offset, live + f->offset, (size_t)f->size * f->count);
	}
	if (!ret)
		ret = parse_end(p);
	if (!ret && desc->validate && (!p->checks_only || tells(desc))) {
		ret = desc->validate(scratch, live, p->d);
		if (ret)
			diag_prefix(p->d, "%s", path_text(&p->path));
	}
	if (ret)
		return ret;
	path_pop(&p->path);
	return 0;
}

static int parse_blob(struct parse *p, struct state_load *load)
{
	const void *val;
	int ret;

	(void)enter_node(p); /* the root, which has been checked to be there */
	path_push(&p->path, STATE_DEVICE_PROP);
	ret = parse_prop(p, STATE_DEVICE_PROP, (uint32_t)strlen(load->id) + 1, &val);
	if (ret)
		return ret;
	if (memcmp(val, load->id, strlen(load->id) + 1) != 0)
		return parse_fail(p, "this is the state of another device");
	path_pop(&p->path);
	for (unsigned int i = 0; !ret && i < load->n; i++) {
		const struct state_ref *ref = load->refs[i].ref;

		ret = parse_node(p, ref->desc->name, ref->desc, load->refs[i].scratch, ref->obj);
	}
	return ret ? ret : parse_end(p);
}

/* One node into scratch memory, which is forgotten. */
static int match(struct parse *p, const struct state_ref *ref)
{
	uint8_t *scratch = calloc(1, ref->desc->obj_size + 1);
	int ret;

	if (!scratch)
		return diag_set(p->d, -ENOMEM, "no memory for a state");
	ret = parse_node(p, ref->desc->name, ref->desc, scratch, ref->obj);
	free(scratch);
	return ret;
}

int state_match_checks(const void *fdt, int parent, const char *path, const struct state_ref *refs,
		       unsigned int n, struct diag *d)
{
	struct parse p = { .checks_only = true, .d = d };
	const void *val;
	uint32_t len;
	int ret = 0;

	parse_from(&p, fdt, parent);
	path_push(&p.path, path);
	(void)enter_node(&p);
	while (take_prop(&p, &val, &len))
		;
	for (unsigned int i = 0; !ret && i < n; i++)
		ret = match(&p, &refs[i]);
	return ret ? ret : parse_end(&p);
}

int state_match_node(const void *fdt, int *node, const struct state_ref *ref, struct diag *d)
{
	struct parse p = { .d = d };
	int ret;

	if (*node < 0)
		return diag_set(d, -EINVAL, "%s: is missing", ref->desc->name);
	parse_from(&p, fdt, *node);
	ret = match(&p, ref);
	*node = fdt_next_subnode(fdt, *node);
	return ret;
}

int state_parse(const char *id, const void *blob, size_t len, const struct state_ref *refs,
		unsigned int n, struct state_load **out, struct diag *d)
{
	struct state_load *load = calloc(1, sizeof(*load) + n * sizeof(load->refs[0]));
	struct parse p = { .d = d };
	int ret;

	if (!load)
		return diag_set(d, -ENOMEM, "%s: no memory for its state", id);
	path_push(&p.path, id);
	ret = state_blob_check(blob, len, d);
	if (ret) {
		diag_prefix(d, "%s", id);
		goto fail;
	}
	parse_from(&p, blob, 0);
	snprintf(load->id, sizeof(load->id), "%s", id);
	for (load->n = 0; load->n < n; load->n++) {
		struct load_ref *lr = &load->refs[load->n];

		state_desc_check(refs[load->n].desc);
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

/* --- Second pass --- */

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
		for (uint32_t n = 0; n < field_used(f, scratch); n++) {
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
