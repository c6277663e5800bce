/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vmgenid.c - the VM generation id: what is in the guest's memory when a guest boots, resets,
 * is moved, is restored. That Linux hears of it: tests/testbed/cases/state.sh.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include <stdlib.h>

#include <unvmm/platform.h>

#include "fake_vm.h"
#include "state_check.h"

#define BYTES 16

extern const struct device_class vmgenid_class;

struct box {
	struct fake_vm *f;
	struct device *dev;
};

static struct box new_box(bool incoming)
{
	struct box b = { .f = fake_vm_new("none") };
	struct diag d = { 0 };

	assert_int_equal(gmem_create(&b.f->vm.mem, MiB(16), GMEM_PRIVATE, &d), 0);
	b.f->config.incoming = incoming;
	b.dev = fake_vm_add(b.f, &vmgenid_class, NULL);
	return b;
}

static void free_box(struct box *b)
{
	struct gmem mem = b->f->vm.mem;

	fake_vm_free(b->f);
	gmem_destroy(&mem);
}

static void id_of(const struct box *b, uint8_t id[BYTES])
{
	assert_int_equal(gmem_read(&b->f->vm.mem, PLAT_VMGENID, id, BYTES), 0);
}

static bool is_zero(const uint8_t id[BYTES])
{
	static const uint8_t zero[BYTES];

	return !memcmp(id, zero, BYTES);
}

static void test_each_guest_has_its_own(void **state)
{
	struct box a = new_box(false), b = new_box(false);
	uint8_t ia[BYTES], ib[BYTES];

	(void)state;
	id_of(&a, ia);
	id_of(&b, ib);
	assert_false(is_zero(ia));
	assert_memory_not_equal(ia, ib, BYTES);
	free_box(&a);
	free_box(&b);
}

static void test_reset(void **state)
{
	struct box a = new_box(false);
	uint8_t before[BYTES], after[BYTES];
	struct diag d = { 0 };

	(void)state;
	id_of(&a, before);
	assert_int_equal(gmem_zero(&a.f->vm.mem, PLAT_VMGENID, BYTES), 0);
	assert_int_equal(a.dev->cls->reset(a.dev, &d), 0);
	id_of(&a, after);
	assert_memory_equal(before, after, BYTES);
	free_box(&a);
}

/* The memory comes with the guest, so it is not touched before; what is there then stays. */
static void test_moved_and_restored(void **state)
{
	struct box a = new_box(false), b = new_box(true);
	uint8_t from[BYTES], to[BYTES], again[BYTES];
	struct state_load *load;
	struct diag d = { 0 };
	void *blob;
	size_t len;

	(void)state;
	id_of(&b, to);
	assert_true(is_zero(to));
	id_of(&a, from);
	assert_int_equal(gmem_write(&b.f->vm.mem, PLAT_VMGENID, from, BYTES), 0);
	assert_int_equal(state_save(a.dev->id, a.dev->state, a.dev->nstate, &blob, &len, &d), 0);
	assert_int_equal(state_parse(b.dev->id, blob, len, b.dev->state, b.dev->nstate, &load, &d),
			 0);
	assert_int_equal(state_commit(load, &d), 0);
	state_load_free(load);
	free(blob);
	/* Moved: the same id, also after a reset. */
	id_of(&b, to);
	assert_memory_equal(from, to, BYTES);
	assert_int_equal(b.dev->cls->reset(b.dev, &d), 0);
	id_of(&b, to);
	assert_memory_equal(from, to, BYTES);
	/* Restored: another one, which stays. Its original's has not changed. */
	b.dev->cls->cloned(b.dev);
	id_of(&b, to);
	assert_false(is_zero(to));
	assert_memory_not_equal(from, to, BYTES);
	assert_false(fake_line(b.f, PLAT_GSI_GED)); /* an edge */
	assert_int_equal(b.dev->cls->reset(b.dev, &d), 0);
	id_of(&b, again);
	assert_memory_equal(to, again, BYTES);
	id_of(&a, again);
	assert_memory_equal(from, again, BYTES);
	free_box(&a);
	free_box(&b);
}

static void test_state(void **state)
{
	struct box a = new_box(false);

	(void)state;
	state_check_roundtrip(a.dev->id, a.dev->state, a.dev->nstate);
	free_box(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_guest_has_its_own),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_moved_and_restored),
		cmocka_unit_test(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
