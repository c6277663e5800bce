/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_rtc.c - the CMOS clock through its two ports.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include <unvmm/platform.h>

#include "fake_vm.h"
#include "state_check.h"

extern const struct device_class rtc_class;

#define REG_A	 0x0a
#define REG_B	 0x0b
#define REG_C	 0x0c
#define REG_D	 0x0d
#define CENTURY	 0x32
#define B_24H	 0x02
#define B_BINARY 0x04
#define B_SET	 0x80

static int setup(void **state)
{
	struct fake_vm *f = fake_vm_new("none");

	fake_vm_add(f, &rtc_class, NULL);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fake_vm_free(*state);
	return 0;
}

static uint8_t rd(struct fake_vm *f, uint8_t reg)
{
	fake_outb(f, PLAT_RTC_PORT, reg);
	return fake_inb(f, PLAT_RTC_PORT + 1);
}

static void wr(struct fake_vm *f, uint8_t reg, uint8_t v)
{
	fake_outb(f, PLAT_RTC_PORT, reg);
	fake_outb(f, PLAT_RTC_PORT + 1, v);
}

static int bcd(uint8_t v)
{
	assert_true((v & 15) < 10 && v >> 4 < 10);
	return (v >> 4) * 10 + (v & 15);
}

/* The time as a driver reads it: again, if a second went by meanwhile. 24 hours, BCD. */
static time_t guest_time(struct fake_vm *f)
{
	struct tm tm = { 0 };
	uint8_t sec;

	do {
		while (rd(f, REG_A) & 0x80)
			;
		sec = rd(f, 0);
		tm.tm_sec = bcd(sec);
		tm.tm_min = bcd(rd(f, 2));
		tm.tm_hour = bcd(rd(f, 4));
		tm.tm_wday = bcd(rd(f, 6)) - 1;
		tm.tm_mday = bcd(rd(f, 7));
		tm.tm_mon = bcd(rd(f, 8)) - 1;
		tm.tm_year = bcd(rd(f, 9)) + (bcd(rd(f, CENTURY)) - 19) * 100;
	} while (rd(f, 0) != sec);
	return timegm(&tm);
}

static void assert_near(time_t t, time_t expected)
{
	if (t < expected - 1 || t > expected + 1)
		fail_msg("the clock shows %lld instead of %lld", (long long)t, (long long)expected);
}

/* As Linux' mc146818_set_time(), 24 hours, BCD. Arguments are in BCD already. */
static void set_time(struct fake_vm *f, uint8_t cent, uint8_t year, uint8_t mon, uint8_t day,
		     uint8_t hour, uint8_t min, uint8_t sec)
{
	uint8_t b = rd(f, REG_B);

	wr(f, REG_B, b | B_SET);
	wr(f, 9, year);
	wr(f, 8, mon);
	wr(f, 7, day);
	wr(f, 4, hour);
	wr(f, 2, min);
	wr(f, 0, sec);
	wr(f, CENTURY, cent);
	/* Stopped: what was written is what is read. */
	assert_int_equal(rd(f, 0), sec);
	assert_int_equal(rd(f, REG_A) & 0x80, 0);
	wr(f, REG_B, b);
}

static void test_power_on(void **state)
{
	struct fake_vm *f = *state;

	assert_near(guest_time(f), time(NULL));
	assert_int_equal(rd(f, REG_A) & 0x7f, 0x26);
	assert_int_equal(rd(f, REG_B), B_24H);
	assert_int_equal(rd(f, REG_C), 0);
	assert_int_equal(rd(f, REG_D), 0x80);
}

static void test_set(void **state)
{
	struct fake_vm *f = *state;

	set_time(f, 0x20, 0x00, 0x02, 0x29, 0x23, 0x59, 0x30);
	assert_near(guest_time(f), 951868770); /* 2000-02-29 23:59:30 */
	assert_int_equal(rd(f, 6), 3);	       /* a Tuesday */
	set_time(f, 0x19, 0x69, 0x12, 0x31, 0x00, 0x00, 0x00);
	assert_near(guest_time(f), -86400);
	set_time(f, 0x20, 0x99, 0x12, 0x31, 0x12, 0x30, 0x45);
	assert_near(guest_time(f), 4102403445);
}

/* Some guests write single registers while the clock runs. */
static void test_set_running(void **state)
{
	struct fake_vm *f = *state;
	time_t t;

	set_time(f, 0x20, 0x24, 0x05, 0x06, 0x07, 0x08, 0x09);
	t = guest_time(f);
	wr(f, 4, 0x17);
	assert_near(guest_time(f), t + 10 * 3600);
}

static void test_formats(void **state)
{
	struct fake_vm *f = *state;

	set_time(f, 0x20, 0x24, 0x10, 0x11, 0x00, 0x34, 0x20);
	wr(f, REG_B, B_24H | B_BINARY);
	assert_int_equal(rd(f, 4), 0);
	assert_int_equal(rd(f, 2), 34);
	assert_int_equal(rd(f, 9), 24);
	wr(f, REG_B, B_BINARY);
	assert_int_equal(rd(f, 4), 12); /* midnight is 12 AM */
	wr(f, 4, 12 | 0x80);		/* noon */
	wr(f, REG_B, B_24H);
	assert_int_equal(rd(f, 4), 0x12);
	wr(f, 4, 0x23);
	wr(f, REG_B, 0);
	assert_int_equal(rd(f, 4), 0x91); /* 11 PM, BCD */
}

/* Nonsense from the guest must give some time, not a crash or a digit that is none. */
static void test_nonsense(void **state)
{
	struct fake_vm *f = *state;

	set_time(f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
	(void)guest_time(f);
	set_time(f, 0, 0, 0, 0, 0, 0, 0);
	(void)guest_time(f);
	wr(f, REG_B, B_24H | B_BINARY | B_SET);
	for (int reg = 0; reg < 10; reg++)
		wr(f, (uint8_t)reg, 0xff);
	wr(f, CENTURY, 0xff);
	wr(f, REG_B, B_24H);
	(void)guest_time(f);
}

static void test_memory(void **state)
{
	struct fake_vm *f = *state;

	wr(f, 0x40, 0x12);
	wr(f, 0x7f, 0x34);
	assert_int_equal(rd(f, 0x40), 0x12);
	/* Bit 7 of the index is the NMI mask. */
	assert_int_equal(rd(f, 0x80 | 0x7f), 0x34);
	wr(f, REG_C, 0xff);
	wr(f, REG_D, 0);
	assert_int_equal(rd(f, REG_C), 0);
	assert_int_equal(rd(f, REG_D), 0x80);
	wr(f, 1, 0x59); /* alarm registers are memory */
	assert_int_equal(rd(f, 1), 0x59);
	assert_int_equal(fake_inb(f, PLAT_RTC_PORT), 0xff);
	bus_write(&f->vm.pio, PLAT_RTC_PORT, 2, 0x5540); /* not 8 bits: ignored */
	assert_int_equal(rd(f, 0x40), 0x12);
}

static void test_reset_keeps_time(void **state)
{
	struct fake_vm *f = *state;
	struct device *dev = f->vm.devices;
	time_t t;

	set_time(f, 0x20, 0x30, 0x01, 0x01, 0x00, 0x00, 0x00);
	t = guest_time(f);
	wr(f, REG_B, B_SET | B_24H);
	assert_int_equal(dev->cls->reset(dev, NULL), 0);
	assert_near(guest_time(f), t);
	assert_int_equal(rd(f, REG_B), B_24H);
}

static void test_state(void **state)
{
	struct fake_vm *f = *state;
	const struct device *dev = f->vm.devices;
	time_t t;

	set_time(f, 0x20, 0x30, 0x01, 0x01, 0x00, 0x00, 0x00);
	t = guest_time(f);
	wr(f, 0x50, 0xaa);
	state_check_roundtrip("rtc0", dev->state, dev->nstate);
	assert_near(guest_time(f), t);
	assert_int_equal(rd(f, 0x50), 0xaa);
	state_check_refuses("rtc0", dev->state, dev->nstate, "/rtc", "index", 128,
			    "rtc0/rtc: index is 128");
	state_check_refuses("rtc0", dev->state, dev->nstate, "/rtc", "index", 300, "too large");
}

/* A peer may send any offset. */
static void test_hostile_offset(void **state)
{
	static const uint64_t offsets[] = { INT64_MAX, (uint64_t)INT64_MIN, UINT64_MAX, 1ull << 62,
					    1ull << 56 };
	struct fake_vm *f = *state;
	const struct state_ref *ref = f->vm.devices->state;
	const struct state_field *offset = &ref->desc->fields[2];

	assert_string_equal(offset->name, "offset");
	for (unsigned int i = 0; i < ARRAY_SIZE(offsets); i++) {
		*(uint64_t *)((char *)ref->obj + offset->offset) = offsets[i];
		for (uint8_t reg = 0; reg < 10; reg++)
			(void)bcd(rd(f, reg) & (reg == 1 || reg == 3 || reg == 5 ? 0 : 0xff));
		(void)bcd(rd(f, CENTURY));
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_power_on),	  T(test_set),	    T(test_set_running),
		T(test_formats),	  T(test_nonsense), T(test_memory),
		T(test_reset_keeps_time), T(test_state),    T(test_hostile_offset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
