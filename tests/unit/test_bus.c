/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_bus.c - who answers an access: edges of regions, and handlers that change the bus they are
 * called from. One thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include <unvmm/bus.h>

struct dev {
	struct bus *bus;
	uint64_t base;
	uint64_t offset, value; /* of the last access */
	unsigned int len, reads, writes;
};

static struct bus bus;

static int setup(void **state)
{
	(void)state;
	bus_init(&bus);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	bus_fini(&bus);
	bus_fini(&bus);
	return 0;
}

/* All-ones whatever was asked for: the bus cuts it. */
static uint64_t dev_read(void *p, uint64_t offset, unsigned int len)
{
	struct dev *d = p;

	d->offset = offset;
	d->len = len;
	d->reads++;
	return 0xfedcba9876543210;
}

static void dev_write(void *p, uint64_t offset, unsigned int len, uint64_t value)
{
	struct dev *d = p;

	d->offset = offset;
	d->len = len;
	d->value = value;
	d->writes++;
}

static const struct bus_ops ops = { .read = dev_read, .write = dev_write };

static int add(uint64_t base, uint64_t size, struct dev *d)
{
	return bus_add(&bus, base, size, &ops, d, "dev");
}

static void test_add(void **state)
{
	struct dev d = { 0 };

	(void)state;
	assert_int_equal(add(0x1000, 0, &d), -EINVAL);
	assert_int_equal(add(UINT64_MAX, 2, &d), -EINVAL);
	assert_int_equal(add(2, UINT64_MAX, &d), -EINVAL);
	assert_int_equal(add(0x1000, 0x1000, &d), 0);
	assert_int_equal(add(0x1000, 0x1000, &d), -EEXIST);
	assert_int_equal(add(0x1fff, 1, &d), -EEXIST);
	assert_int_equal(add(0x1fff, 0x1000, &d), -EEXIST);
	assert_int_equal(add(0xfff, 2, &d), -EEXIST);
	assert_int_equal(add(0, 0x1001, &d), -EEXIST);
	assert_int_equal(add(0, UINT64_MAX, &d), -EEXIST);
	assert_int_equal(add(0x1400, 0x10, &d), -EEXIST);
	assert_int_equal(bus.n, 1);
	/* Neighbours on both sides, and the ends of the address space. */
	assert_int_equal(add(0x2000, 1, &d), 0);
	assert_int_equal(add(0xfff, 1, &d), 0);
	assert_int_equal(add(UINT64_MAX, 1, &d), 0);
	assert_int_equal(add(0, 1, &d), 0);
	assert_int_equal(bus.n, 5);
	bus_read(&bus, UINT64_MAX, 1);
	assert_int_equal(d.reads, 1);
	bus_read(&bus, UINT64_MAX, 2); /* wraps */
	bus_read(&bus, UINT64_MAX - 1, 2);
	assert_int_equal(d.reads, 1);
}

static void test_all_of_it(void **state)
{
	struct dev d = { 0 };

	(void)state;
	assert_int_equal(add(0, UINT64_MAX, &d), 0);
	assert_int_equal(add(UINT64_MAX - 1, 1, &d), -EEXIST);
	bus_write(&bus, UINT64_MAX - 8, 8, 1);
	assert_true(d.writes == 1 && d.offset == UINT64_MAX - 8);
}

static void test_lookup(void **state)
{
	struct dev low = { 0 }, high = { 0 };

	(void)state;
	assert_int_equal(add(0x3000, 0x10, &high), 0);
	assert_int_equal(add(0x1000, 0x10, &low), 0);
	assert_int_equal(bus_read(&bus, 0x1000, 1), 0x10);
	assert_int_equal(bus_read(&bus, 0x100e, 2), 0x3210);
	assert_int_equal(low.offset, 0xe);
	assert_int_equal(bus_read(&bus, 0x300c, 4), 0x76543210);
	assert_true(bus_read(&bus, 0x3008, 8) == 0xfedcba9876543210);
	assert_int_equal(high.reads, 2);
	/* Over an edge, beside, between, in front, behind: nobody. */
	assert_int_equal(bus_read(&bus, 0x100f, 2), 0xffff);
	assert_int_equal(bus_read(&bus, 0x0fff, 2), 0xffff);
	assert_int_equal(bus_read(&bus, 0x0fff, 1), 0xff);
	assert_int_equal(bus_read(&bus, 0x1010, 4), UINT32_MAX);
	assert_int_equal(bus_read(&bus, 0x2000, 1), 0xff);
	assert_true(bus_read(&bus, 0x300c, 8) == UINT64_MAX);
	assert_true(bus_read(&bus, 0x4000, 8) == UINT64_MAX);
	bus_write(&bus, 0x100f, 2, 1);
	bus_write(&bus, 0x2000, 1, 1);
	assert_int_equal(low.reads + high.reads, 4);
	assert_int_equal(low.writes + high.writes, 0);
	/* A value has no more bytes than the access. */
	bus_write(&bus, 0x1004, 1, 0x1234567890abcdef);
	assert_true(low.value == 0xef && low.offset == 4 && low.len == 1);
	bus_write(&bus, 0x1004, 4, 0x1234567890abcdef);
	assert_true(low.value == 0x90abcdef);
	bus_write(&bus, 0x1008, 8, 0x1234567890abcdef);
	assert_true(low.value == 0x1234567890abcdef);
}

static void test_remove(void **state)
{
	struct dev d[3] = { 0 };

	(void)state;
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(add(0x1000 * (i + 1), 0x1000, &d[i]), 0);
	bus_remove(&bus, 0x2001); /* inside, but no start */
	bus_remove(&bus, 0x1fff);
	bus_remove(&bus, 0);
	bus_remove(&bus, 0x9000);
	assert_int_equal(bus.n, 3);
	bus_remove(&bus, 0x2000);
	bus_remove(&bus, 0x2000);
	assert_int_equal(bus.n, 2);
	assert_int_equal(bus_read(&bus, 0x2800, 1), 0xff);
	bus_read(&bus, 0x1800, 1);
	bus_read(&bus, 0x3800, 1);
	assert_true(d[0].reads == 1 && d[1].reads == 0 && d[2].reads == 1);
	assert_int_equal(add(0x2000, 0x1000, &d[1]), 0);
	bus_remove(&bus, 0x3000);
	bus_remove(&bus, 0x2000);
	bus_remove(&bus, 0x1000);
	assert_int_equal(bus.n, 0);
	assert_int_equal(bus_read(&bus, 0x1000, 4), UINT32_MAX);
}

/* More than the array starts with, in an order that moves everything. */
static void test_many(void **state)
{
	static struct dev d[100];

	(void)state;
	memset(d, 0, sizeof(d));
	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(add((i * 37 % 100) * 16, 16, &d[i * 37 % 100]), 0);
	for (unsigned int i = 1; i < bus.n; i++)
		assert_true(bus.regions[i - 1].base < bus.regions[i].base);
	for (unsigned int i = 0; i < 100; i++) {
		bus_read(&bus, i * 16 + 15, 1);
		assert_int_equal(d[i].reads, 1);
	}
}

/* --- handlers that change the bus ------------------------------------------------------------ */

static uint64_t gone_read(void *p, uint64_t offset, unsigned int len)
{
	struct dev *d = p;

	bus_remove(d->bus, d->base);
	return dev_read(p, offset, len);
}

/* A moved BAR: away from here, to where the value says, with a hundred others. */
static void moving_write(void *p, uint64_t offset, unsigned int len, uint64_t value)
{
	static const struct bus_ops moving = { .read = gone_read, .write = moving_write };
	struct dev *d = p;

	bus_remove(d->bus, d->base);
	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(bus_add(d->bus, value + 16 + i * 16, 16, &ops, d, "more"), 0);
	assert_int_equal(bus_add(d->bus, value, 16, &moving, d, "moved"), 0);
	d->base = value;
	dev_write(p, offset, len, value);
}

static const struct bus_ops moving_ops = { .read = gone_read, .write = moving_write };

static void test_handlers_move_themselves(void **state)
{
	struct dev d = { .bus = &bus, .base = 0x5000 };

	(void)state;
	assert_int_equal(bus_add(&bus, 0x5000, 16, &moving_ops, &d, "moving"), 0);
	bus_write(&bus, 0x5004, 4, 0x1000);
	assert_true(d.writes == 1 && d.offset == 4);
	assert_int_equal(bus_read(&bus, 0x5004, 4), UINT32_MAX);
	assert_int_equal(bus_read(&bus, 0x1000, 4), 0x76543210);
	assert_int_equal(bus_read(&bus, 0x1000, 4), UINT32_MAX); /* it went with the first read */
	assert_int_equal(bus.n, 100);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(add),    TEST(all_of_it), TEST(lookup),
		TEST(remove), TEST(many),      TEST(handlers_move_themselves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
