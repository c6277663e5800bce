/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_check.c - save, perturb, load, compare: driven by the tables, so that no field of any
 * device can be forgotten. Runs on the test's thread.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <libfdt.h>

#include "state_check.h"
#include "state_equal.h"

static void field_perturb(const struct state_field *f, uint8_t *p)
{
	uint32_t n = f->size * f->count;

	/* Booleans stay booleans; any other byte pattern is a value. */
	for (uint32_t i = 0; i < n; i++)
		p[i] ^= f->kind == STATE_BOOL ? 0x01 : 0x5a;
}

/* How many of the structs in a field are in the blob: fields before it say so, that must be equal.
 */
static uint32_t structs(const struct state_field *f, const void *obj)
{
	return f->used ? f->used(obj) : f->count;
}

void state_perturb(const struct state_desc *desc, void *obj)
{
	for (unsigned int i = 0; i < desc->nfields; i++) {
		const struct state_field *f = &desc->fields[i];
		uint8_t *p = (uint8_t *)obj + f->offset;

		if (f->flags & STATE_CHECK)
			continue;
		if (f->kind != STATE_STRUCT) {
			field_perturb(f, p);
			continue;
		}
		for (uint32_t n = 0; n < structs(f, obj); n++)
			state_perturb(f->child, p + (size_t)n * f->size);
	}
}

enum expect { EXPECT_SAME, EXPECT_CHANGED };

/* `before` is a raw copy of the object: it says which fields were in the blob. */
static void fields_compare(const struct state_desc *desc, const void *before, const void *now,
			   enum expect expect)
{
	for (unsigned int i = 0; i < desc->nfields; i++) {
		const struct state_field *f = &desc->fields[i];
		const uint8_t *a = (const uint8_t *)before + f->offset;
		const uint8_t *b = (const uint8_t *)now + f->offset;
		bool same = memcmp(a, b, (size_t)f->size * f->count) == 0;

		if ((f->flags & STATE_CHECK) || (f->needed && !f->needed(before)))
			continue;
		if (f->kind == STATE_STRUCT) {
			for (uint32_t n = 0; n < structs(f, before); n++)
				fields_compare(f->child, a + (size_t)n * f->size,
					       b + (size_t)n * f->size, expect);
		} else if (same != (expect == EXPECT_SAME)) {
			fail_msg("%s/%s: %s", desc->name, f->name,
				 same ? "the perturbation did not change it"
				      : "the load did not bring it back");
		}
	}
}

static void **copy_objects(const struct state_ref *refs, unsigned int n)
{
	void **copies = calloc(n, sizeof(*copies));

	assert_non_null(copies);
	for (unsigned int i = 0; i < n; i++) {
		copies[i] = malloc(refs[i].desc->obj_size + 1);
		assert_non_null(copies[i]);
		memcpy(copies[i], refs[i].obj, refs[i].desc->obj_size);
	}
	return copies;
}

static void free_copies(void **copies, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		free(copies[i]);
	free(copies);
}

void state_check_roundtrip(const char *id, const struct state_ref *refs, unsigned int n)
{
	struct state_load *load;
	struct diag d = { 0 };
	void **copies, *first, *second;
	size_t len, len2;

	if (state_save(id, refs, n, &first, &len, &d))
		fail_msg("save: %s", d.text);
	copies = copy_objects(refs, n);
	for (unsigned int i = 0; i < n; i++) {
		state_perturb(refs[i].desc, refs[i].obj);
		fields_compare(refs[i].desc, copies[i], refs[i].obj, EXPECT_CHANGED);
	}
	if (state_parse(id, first, len, refs, n, &load, &d))
		fail_msg("parse: %s", d.text);
	if (state_commit(load, &d))
		fail_msg("commit: %s", d.text);
	state_load_free(load);
	for (unsigned int i = 0; i < n; i++)
		fields_compare(refs[i].desc, copies[i], refs[i].obj, EXPECT_SAME);
	if (state_save(id, refs, n, &second, &len2, &d))
		fail_msg("second save: %s", d.text);
	if (state_equal(first, len, second, len2, &d))
		fail_msg("%s", d.text);
	free_copies(copies, n);
	free(first);
	free(second);
}

void state_check_refuses(const char *id, const struct state_ref *refs, unsigned int n,
			 const char *path, const char *prop, uint32_t value, const char *says)
{
	struct state_load *load;
	struct diag d = { 0 };
	void **copies, *blob;
	size_t len;
	int node;

	if (state_save(id, refs, n, &blob, &len, &d))
		fail_msg("save: %s", d.text);
	copies = copy_objects(refs, n);
	node = fdt_path_offset(blob, path);
	if (node < 0 || fdt_setprop_inplace_u32(blob, node, prop, value))
		fail_msg("the blob has no cell %s/%s", path, prop);
	assert_int_equal(state_parse(id, blob, len, refs, n, &load, &d), -EINVAL);
	if (!strstr(d.text, says))
		fail_msg("the refusal \"%s\" does not say \"%s\"", d.text, says);
	for (unsigned int i = 0; i < n; i++)
		assert_memory_equal(copies[i], refs[i].obj, refs[i].desc->obj_size);
	free_copies(copies, n);
	free(blob);
}
