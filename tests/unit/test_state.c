/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_state.c - the state walker: everything comes back, and nothing but a true blob is taken.
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
#include "state_sample.h"

static struct state_ref ref(struct sample *s)
{
	return (struct state_ref){ .desc = &sample_desc, .obj = s };
}

static void *save(const char *id, const struct state_ref *refs, unsigned int n, size_t *len)
{
	struct diag d = { 0 };
	void *blob;

	if (state_save(id, refs, n, &blob, len, &d))
		fail_msg("%s", d.text);
	return blob;
}

/* Expects that the blob is refused, with a sentence that contains `says`, and changes nothing. */
static void refused(const void *blob, size_t len, const char *says)
{
	struct state_load *load = NULL;
	struct sample s, before;
	struct state_ref r = ref(&s);
	struct diag d = { 0 };

	sample_init(&s);
	memcpy(&before, &s, sizeof(s));
	assert_int_equal(state_parse("dev0", blob, len, &r, 1, &load, &d), -EINVAL);
	assert_null(load);
	assert_memory_equal(&s, &before, sizeof(s));
	if (!strstr(d.text, says))
		fail_msg("the refusal \"%s\" does not say \"%s\"", d.text, says);
}

/* A blob of a fresh sample with room for changes; *s is what was saved. */
static void *open_blob(struct sample *s)
{
	struct state_ref r = ref(s);
	size_t len;
	void *blob = save("dev0", &r, 1, &len), *big = malloc(len + 1024);

	assert_non_null(big);
	assert_int_equal(fdt_open_into(blob, big, (int)len + 1024), 0);
	free(blob);
	return big;
}

static void refused_open(void *blob, const char *says)
{
	assert_int_equal(fdt_pack(blob), 0);
	refused(blob, fdt_totalsize(blob), says);
	free(blob);
}

static void test_roundtrip(void **state)
{
	struct sample a, b;
	struct state_ref refs[2] = { ref(&a), ref(&b) };

	(void)state;
	sample_init(&a);
	sample_init(&b);
	b.flag = false; /* without `extra` */
	b.u8++;
	state_check_roundtrip("pair", refs, 2);
	assert_int_equal(a.saves, 2);
	assert_int_equal(a.loads, 1);
	assert_int_equal(b.loads, 1);
}

/* The checker itself must notice a field that is not carried. */
static void test_perturb_reaches_every_field(void **state)
{
	struct sample a, b;

	(void)state;
	sample_init(&a);
	sample_init(&b);
	state_perturb(&sample_desc, &a);
	assert_true(a.flag != b.flag && a.u8 != b.u8 && a.u32 != b.u32 && a.u64 != b.u64);
	assert_true(a.extra != b.extra && a.newer != b.newer);
	for (int i = 0; i < 3; i++) {
		assert_true(a.u16[i] != b.u16[i]);
		assert_true(a.queues[i].addr != b.queues[i].addr);
		assert_true(a.queues[i].enabled != b.queues[i].enabled);
	}
	assert_true(a.tail[1] != b.tail[1] && a.mem[36] != b.mem[36]);
	assert_true(a.last.size != b.last.size);
	assert_true(a.model == b.model && a.max_u32 == b.max_u32);
}

/* Byte-exact: this is the wire format. */
static void test_layout(void **state)
{
	struct sample s;
	struct state_ref r = ref(&s);
	const void *val;
	size_t size;
	void *blob;
	int node, len;

	(void)state;
	sample_init(&s);
	blob = save("dev0", &r, 1, &size);
	assert_string_equal(fdt_getprop(blob, 0, "device", NULL), "dev0");
	node = fdt_path_offset(blob, "/sample");
	assert_true(node > 0);
	val = fdt_getprop(blob, node, "state-version", &len);
	assert_int_equal(len, 4);
	assert_memory_equal(val, "\0\0\0\3", 4);
	val = fdt_getprop(blob, node, "u16", &len);
	assert_int_equal(len, 12);
	assert_memory_equal(val, "\0\0\x12\x34\0\0\xff\xff\0\0\0\1", 12);
	val = fdt_getprop(blob, node, "u64", &len);
	assert_int_equal(len, 8);
	assert_memory_equal(val, "\x01\x23\x45\x67\x89\xab\xcd\xef", 8);
	val = fdt_getprop(blob, node, "mem", &len);
	assert_int_equal(len, 37);
	assert_memory_equal(val, s.mem, 37);
	node = fdt_path_offset(blob, "/sample/queues@2");
	assert_true(node > 0);
	val = fdt_getprop(blob, node, "size", &len);
	assert_int_equal(len, 4);
	assert_memory_equal(val, "\0\0\0\x66", 4);
	free(blob);
}

static void test_no_table(void **state)
{
	struct diag d = { 0 };
	void *blob;
	size_t len;

	(void)state;
	assert_int_equal(state_save("odd0", NULL, 0, &blob, &len, &d), -ENOTSUP);
	assert_non_null(strstr(d.text, "odd0"));
}

static void test_large(void **state)
{
	static uint8_t big[900 * 1024], huge[1100 * 1024];
	const struct state_field big_field = {
		.name = "data", .kind = STATE_BYTES, .size = sizeof(big), .count = 1
	};
	const struct state_field huge_field = {
		.name = "data", .kind = STATE_BYTES, .size = sizeof(huge), .count = 1
	};
	const struct state_desc big_desc = { .name = "big",
					     .version = 1,
					     .obj_size = sizeof(big),
					     .fields = &big_field,
					     .nfields = 1 };
	const struct state_desc huge_desc = { .name = "huge",
					      .version = 1,
					      .obj_size = sizeof(huge),
					      .fields = &huge_field,
					      .nfields = 1 };
	struct state_ref r = { .desc = &big_desc, .obj = big };
	struct diag d = { 0 };
	void *blob;
	size_t len;

	(void)state;
	memset(big, 0x3c, sizeof(big));
	state_check_roundtrip("big0", &r, 1);
	r = (struct state_ref){ .desc = &huge_desc, .obj = huge };
	assert_int_equal(state_save("huge0", &r, 1, &blob, &len, &d), -E2BIG);
}

/* Fields that the blob does not have keep what the destination has. */
static void test_versions(void **state)
{
	struct sample src, dst;
	struct state_ref old = { .desc = &sample_desc_v2, .obj = &src }, now = ref(&dst);
	struct state_load *load;
	struct diag d = { 0 };
	size_t len;
	void *blob;

	(void)state;
	sample_init(&src);
	src.flag = false;
	src.tail[1] = 99;
	blob = save("dev0", &old, 1, &len);
	sample_init(&dst);
	dst.newer = 1;
	dst.extra = 2;
	if (state_parse("dev0", blob, len, &now, 1, &load, &d))
		fail_msg("%s", d.text);
	assert_int_equal(state_commit(load, &d), 0);
	state_load_free(load);
	free(blob);
	assert_int_equal(dst.tail[1], 99);
	assert_int_equal(dst.flag, false);
	assert_int_equal(dst.newer, 1);
	assert_int_equal(dst.extra, 2);

	old.desc = &sample_desc_v1;
	blob = save("dev0", &old, 1, &len);
	refused(blob, len, "dev0/sample/state-version: is 1, but versions 3 and 2");
	free(blob);
}

static void test_newer_version(void **state)
{
	struct sample s;
	struct state_ref r = ref(&s);

	(void)state;
	sample_init(&s);
	state_check_refuses("dev0", &r, 1, "/sample", "state-version", 4, "is 4");
	state_check_refuses("dev0", &r, 1, "/sample", "state-version", 0, "is 0");
	state_check_refuses("dev0", &r, 1, "/sample", "state-version", UINT32_MAX, "understood");
	/* Version 2 has no `newer`. */
	state_check_refuses("dev0", &r, 1, "/sample", "state-version", 2, "\"newer\" was found");
}

static void test_check_fields(void **state)
{
	struct sample s;
	struct state_ref r = ref(&s);
	void *blob;

	(void)state;
	sample_init(&s);
	state_check_refuses("dev0", &r, 1, "/sample", "model", 8,
			    "dev0/sample/model: is 0x8 there and 0x7 on this machine");
	s.key[3]++;
	blob = open_blob(&s);
	refused_open(blob, "dev0/sample/key: differs");
}

static void test_values(void **state)
{
	struct sample s;
	struct state_ref r = ref(&s);

	(void)state;
	sample_init(&s);
	state_check_refuses("dev0", &r, 1, "/sample", "flag", 2, "dev0/sample/flag: the value 0x2");
	state_check_refuses("dev0", &r, 1, "/sample", "u8", 256, "too large");
	state_check_refuses("dev0", &r, 1, "/sample", "u32", 0x1000000,
			    "dev0/sample: u32 is 16777216");
	state_check_refuses("dev0", &r, 1, "/sample/queues@1", "size", 0x10000,
			    "dev0/sample/queues@1/size: the value");
	state_check_refuses("dev0", &r, 1, "/sample/queues@2", "size", 1025,
			    "dev0/sample/queues@2: size is 1025");
	/* A field that `needed` takes away is not expected any more. */
	state_check_refuses("dev0", &r, 1, "/sample", "flag", 0, "\"extra\" was found");
}

static void test_unknown_and_missing(void **state)
{
	static const struct state_field again = {
		.name = "again", .kind = STATE_U8, .size = 1, .count = 1
	};
	struct state_field fields[32];
	struct state_desc longer = sample_desc;
	struct sample s;
	struct state_ref r = ref(&s);
	unsigned int scalars = sample_desc.nfields - 2;
	size_t len;
	void *b;

	(void)state;
	memcpy(fields, sample_desc.fields, sample_desc.nfields * sizeof(fields[0]));
	memmove(&fields[scalars + 1], &fields[scalars], 2 * sizeof(fields[0]));
	fields[scalars] = again;
	longer.fields = fields;
	longer.nfields++;
	sample_init(&s);
	b = open_blob(&s);
	fdt_delprop(b, fdt_path_offset(b, "/sample"), "u32");
	refused_open(b, "dev0/sample/u32: expected here, but \"u64\" was found");
	b = open_blob(&s);
	fdt_delprop(b, fdt_path_offset(b, "/sample"), "tail");
	refused_open(b, "dev0/sample/tail: is missing");
	sample_init(&s);
	r.desc = &longer; /* saves one field more */
	b = save("dev0", &r, 1, &len);
	refused(b, len, "dev0/sample: \"again\" is unknown");
	free(b);
	b = open_blob(&s);
	fdt_setprop_u32(b, fdt_path_offset(b, "/sample"), "surprise", 1);
	refused_open(b, "dev0/sample/state-version: expected here, but \"surprise\" was found");
	b = open_blob(&s);
	fdt_setprop_u32(b, 0, "surprise", 1);
	refused_open(b, "dev0/device: expected here, but \"surprise\" was found");
	b = open_blob(&s);
	fdt_del_node(b, fdt_path_offset(b, "/sample/queues@2"));
	refused_open(b, "dev0/sample/queues@2: expected here, but \"last@0\" was found");
	b = open_blob(&s);
	fdt_del_node(b, fdt_path_offset(b, "/sample/last@0"));
	refused_open(b, "dev0/sample/last@0: is missing");
	b = open_blob(&s);
	fdt_add_subnode(b, fdt_path_offset(b, "/sample/queues@0"), "deeper");
	refused_open(b, "dev0/sample/queues@0: \"deeper\" is unknown");
	b = open_blob(&s);
	fdt_add_subnode(b, 0, "first");
	refused_open(b, "dev0/sample: expected here, but \"first\" was found");
	b = open_blob(&s);
	fdt_del_node(b, fdt_path_offset(b, "/sample"));
	refused_open(b, "dev0/sample: is missing");
	b = open_blob(&s);
	fdt_setprop(b, fdt_path_offset(b, "/sample"), "mem", "short", 5);
	refused_open(b, "dev0/sample/mem: has 5 bytes instead of 37");
}

/* Two devices of a kind must not get each other's state, nor one table twice. */
static void test_identity(void **state)
{
	struct sample a, b;
	struct state_ref refs[2] = { ref(&a), ref(&b) };
	size_t len;
	void *blob;

	(void)state;
	sample_init(&a);
	sample_init(&b);
	blob = save("dev1", refs, 1, &len);
	refused(blob, len, "dev0/device: this is the state of another device");
	free(blob);
	blob = save("dev0", refs, 2, &len);
	refused(blob, len, "dev0: \"sample\" is unknown, or there twice");
	free(blob);
}

static void test_container(void **state)
{
	struct sample s;
	struct state_ref r = ref(&s);
	uint8_t *blob, *more;
	size_t len;

	(void)state;
	sample_init(&s);
	blob = save("dev0", &r, 1, &len);
	/* Every truncation, in memory of its own so that a sanitizer sees a read behind the end. */
	for (size_t n = 0; n < len; n++) {
		uint8_t *cut = malloc(n ? n : 1);

		assert_non_null(cut);
		memcpy(cut, blob, n);
		refused(cut, n, "dev0: the state");
		free(cut);
	}
	more = calloc(1, len + 4);
	assert_non_null(more);
	memcpy(more, blob, len);
	refused(more, len + 4, "nothing after it");
	free(more);
	blob[0] ^= 1;
	refused(blob, len, "no devicetree of version 17");
	blob[0] ^= 1;
	fdt_set_version(blob, 3);
	refused(blob, len, "no devicetree of version 17");
	fdt_set_version(blob, 17);
	fdt_set_off_dt_struct(blob, (uint32_t)len);
	refused(blob, len, "no valid devicetree");
	free(blob);
}

/* Every single-byte change is refused, or is a change of a value that then arrives. */
static void test_every_byte(void **state)
{
	struct sample s, t;
	struct state_ref r = ref(&s), rt = ref(&t);
	unsigned int taken = 0;
	uint8_t *blob, *again;
	size_t len, len2;

	(void)state;
	sample_init(&s);
	blob = save("dev0", &r, 1, &len);
	for (size_t i = 0; i < len; i++) {
		struct state_load *load;
		struct diag d = { 0 };

		blob[i] ^= 0x01;
		sample_init(&t);
		if (state_parse("dev0", blob, len, &rt, 1, &load, &d)) {
			assert_true(d.text[0]);
		} else {
			assert_int_equal(state_commit(load, &d), 0);
			state_load_free(load);
			again = save("dev0", &rt, 1, &len2);
			assert_int_equal(state_equal(blob, len, again, len2, &d), 0);
			free(again);
			taken++;
		}
		blob[i] ^= 0x01;
	}
	assert_in_range(taken, 50, len - 100);
	free(blob);
}

static void test_equal(void **state)
{
	struct sample a, b;
	struct state_ref ra = ref(&a), rb = ref(&b);
	struct diag d = { 0 };
	void *ba, *bb;
	size_t la, lb;

	(void)state;
	sample_init(&a);
	sample_init(&b);
	ba = save("dev0", &ra, 1, &la);
	bb = save("dev0", &rb, 1, &lb);
	assert_int_equal(state_equal(ba, la, bb, lb, &d), 0);
	free(bb);
	b.queues[1].size++;
	bb = save("dev0", &rb, 1, &lb);
	assert_int_equal(state_equal(ba, la, bb, lb, &d), -EBADMSG);
	assert_string_equal(d.text, "state/sample/queues@1/size: byte 3 is 0x65 and 0x66");
	free(bb);
	b = a;
	b.flag = false;
	b.flag = false;
	bb = save("dev0", &rb, 1, &lb);
	d.text[0] = '\0';
	assert_int_equal(state_equal(ba, la, bb, lb, &d), -EBADMSG);
	assert_non_null(strstr(d.text, "state/sample/flag"));
	assert_int_equal(state_equal(ba, la, "junk", 4, NULL), -EINVAL);
	free(ba);
	free(bb);
}

static int failing_post_load(void *obj, struct diag *d)
{
	(void)obj;
	return diag_set(d, -EIO, "the route is taken");
}

static void test_post_load_fails(void **state)
{
	struct state_desc desc = sample_desc;
	struct sample s;
	struct state_ref r = { .desc = &desc, .obj = &s };
	struct state_load *load;
	struct diag d = { 0 };
	size_t len;
	void *blob;

	(void)state;
	desc.post_load = failing_post_load;
	sample_init(&s);
	blob = save("dev0", &r, 1, &len);
	assert_int_equal(state_parse("dev0", blob, len, &r, 1, &load, &d), 0);
	assert_int_equal(state_commit(load, &d), -EIO);
	assert_string_equal(d.text, "dev0/sample: the route is taken");
	state_load_free(load);
	free(blob);
}

#define T(f) cmocka_unit_test(f)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_roundtrip),	 T(test_perturb_reaches_every_field),
		T(test_layout),		 T(test_no_table),
		T(test_large),		 T(test_versions),
		T(test_newer_version),	 T(test_check_fields),
		T(test_values),		 T(test_unknown_and_missing),
		T(test_identity),	 T(test_container),
		T(test_every_byte),	 T(test_equal),
		T(test_post_load_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
