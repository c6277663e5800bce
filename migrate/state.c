/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.c - the walker over state tables: what a blob looks like, and saving. Loading is in
 * state_load.c; printing and comparing of blobs in state_blob.c. Runs on the thread that holds the
 * control lock, the VM paused.
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

/* A vcpu's takes 8 to 12 KiB; each try costs all of the work. */
#define STATE_BLOB_FIRST 16384u

/* Tables are ours: a mistake in one is a bug, found by the first unit test that saves it. */
void state_desc_check(const struct state_desc *desc)
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

/* Functions below return libfdt's errors until state_make_blob() translates them. */
static int save_field(void *fdt, const struct state_field *f, const void *obj)
{
	const uint8_t *p = (const uint8_t *)obj + f->offset;
	uint32_t used = field_used(f, obj);
	void *val;
	int ret;

	assert(used <= f->count);
	ret = fdt_property_placeholder(fdt, f->name, (int)field_prop_len(f, used), &val);
	if (ret)
		return ret;
	if (f->kind == STATE_BYTES) {
		memcpy(val, p, field_prop_len(f, used));
		return 0;
	}
	for (uint32_t i = 0; i < used; i++) {
		uint64_t v = elem_get(f, p + (size_t)i * f->size);

		if (f->kind == STATE_U64)
			fdt64_st((uint8_t *)val + 8 * (size_t)i, v);
		else
			fdt32_st((uint8_t *)val + 4 * (size_t)i, (uint32_t)v);
	}
	return 0;
}

static int save_node(void *fdt, const char *name, const struct state_desc *desc, const void *obj,
		     bool checks_only)
{
	int ret = fdt_begin_node(fdt, name);

	if (!ret)
		ret = fdt_property_u32(fdt, STATE_VERSION_PROP, desc->version);
	for (unsigned int i = 0; !ret && i < desc->nfields; i++) {
		const struct state_field *f = &desc->fields[i];
		char child[STATE_NAME_MAX];

		if (!field_present(f, desc->version, obj) || (checks_only && !field_is_checked(f)))
			continue;
		if (!field_is_struct(f)) {
			ret = save_field(fdt, f, obj);
			continue;
		}
		for (uint32_t n = 0; !ret && n < field_used(f, obj); n++) {
			snprintf(child, sizeof(child), "%s@%x", f->name, n);
			ret = save_node(fdt, child, f->child,
					(const uint8_t *)obj + f->offset + (size_t)n * f->size,
					checks_only);
		}
	}
	return ret ? ret : fdt_end_node(fdt);
}

int state_write_nodes(void *fdt, const struct state_ref *refs, unsigned int n, bool checks_only)
{
	int ret = 0;

	for (unsigned int i = 0; !ret && i < n; i++)
		ret = save_node(fdt, refs[i].desc->name, refs[i].desc, refs[i].obj, checks_only);
	return ret;
}

static int make_blob(void *fdt, size_t size, const char *id,
		     int (*fill)(void *fdt, const void *arg), const void *arg)
{
	/* To find a name that is there already libfdt compares it with every byte of all names. */
	int ret = fdt_create_with_flags(fdt, (int)size, FDT_CREATE_FLAG_NO_NAME_DEDUP);

	if (!ret)
		ret = fdt_finish_reservemap(fdt);
	if (!ret)
		ret = fdt_begin_node(fdt, "");
	if (!ret)
		ret = fdt_property_string(fdt, STATE_DEVICE_PROP, id);
	if (!ret)
		ret = fill(fdt, arg);
	if (!ret)
		ret = fdt_end_node(fdt);
	return ret ? ret : fdt_finish(fdt);
}

int state_make_blob(const char *id, int (*fill)(void *fdt, const void *arg), const void *arg,
		    void **blob, size_t *len, struct diag *d)
{
	/* The size is not known beforehand: take twice as much until it fits. */
	for (size_t size = STATE_BLOB_FIRST; size <= STATE_BLOB_MAX; size *= 2) {
		void *fdt = calloc(1, size);
		int ret;

		if (!fdt)
			return diag_set(d, -ENOMEM, "%s: no memory for its state", id);
		ret = make_blob(fdt, size, id, fill, arg);
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

struct refs {
	const struct state_ref *refs;
	unsigned int n;
};

static int fill_nodes(void *fdt, const void *arg)
{
	const struct refs *r = arg;

	return state_write_nodes(fdt, r->refs, r->n, false);
}

int state_save(const char *id, const struct state_ref *refs, unsigned int n, void **blob,
	       size_t *len, struct diag *d)
{
	const struct refs r = { refs, n };
	int ret = 0;

	if (!n)
		return diag_set(d, -ENOTSUP,
				"%s: this device has no state table, so it cannot be "
				"moved or saved",
				id);
	for (unsigned int i = 0; i < n; i++) {
		state_desc_check(refs[i].desc);
		if (refs[i].desc->pre_save)
			ret = refs[i].desc->pre_save(refs[i].obj);
		if (ret)
			return diag_errno(d, ret, "%s/%s: the state cannot be read", id,
					  refs[i].desc->name);
	}
	return state_make_blob(id, fill_nodes, &r, blob, len, d);
}
