/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_rtc.c - the CMOS clock through its two ports.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
#define A_RUN	 0x20
#define A_RESET	 0x70
#define B_PIE	 0x40
#define B_AIE	 0x20
#define B_UIE	 0x10
#define C_IRQF	 0x80
#define C_PF	 0x40
#define C_AF	 0x20
#define C_UF	 0x10
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
	assert_int_equal(rd(f, REG_C) & ~(C_PF | C_UF), 0);
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
	assert_int_equal(rd(f, REG_C) & ~(C_PF | C_UF), 0);
	assert_int_equal(rd(f, REG_D), 0x80);
	wr(f, 1, 0x59);
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

/* --- interrupts ------------------------------------------------------------------------------ */

/* Nanoseconds until the next timer of this process expires; 0: none runs. */
static uint64_t timer_left(void)
{
	char path[300], line[128];
	unsigned long long s, ns;
	uint64_t left = 0;
	struct dirent *e;
	DIR *dir = opendir("/proc/self/fdinfo");

	assert_non_null(dir);
	while ((e = readdir(dir))) {
		FILE *info;

		snprintf(path, sizeof(path), "/proc/self/fdinfo/%s", e->d_name);
		info = fopen(path, "r");
		while (info && fgets(line, sizeof(line), info))
			if (sscanf(line, "it_value: (%llu, %llu)", &s, &ns) == 2 && s + ns)
				left = s * 1000000000 + ns;
		if (info)
			fclose(info);
	}
	closedir(dir);
	return left;
}

static void sleep_ms(long ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

static uint64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/*
 * Sets the time (registers as they are) as Linux does: the divider is reset, so that the next
 * second begins half a second later. Leaves no periodic rate, so that PF stays clear.
 */
static void set_hms(struct fake_vm *f, uint8_t hour, uint8_t min, uint8_t sec)
{
	uint8_t b = rd(f, REG_B);

	wr(f, REG_B, b | B_SET);
	wr(f, REG_A, A_RESET);
	wr(f, 4, hour);
	wr(f, 2, min);
	wr(f, 0, sec);
	wr(f, REG_B, b);
	assert_int_equal(rd(f, REG_A) & 0x80, 0);
	wr(f, REG_A, A_RUN);
}

static void set_alarm(struct fake_vm *f, uint8_t hour, uint8_t min, uint8_t sec)
{
	wr(f, 5, hour);
	wr(f, 3, min);
	wr(f, 1, sec);
}

static bool raised(void *arg)
{
	return fake_line(arg, PLAT_GSI_RTC);
}

/* The line rises, in 0.5 s as set_hms() has arranged it. Returns what C says. */
static uint8_t wait_half_second(struct fake_vm *f)
{
	uint64_t start = clock_ms(), took;
	uint8_t c;

	assert_false(raised(f));
	assert_true(fake_vm_run(f, raised, f, 30000));
	took = clock_ms() - start;
	/* Late is this machine's load, early is wrong. */
	if (took < 400)
		fail_msg("an interrupt after %llu ms instead of 500", (unsigned long long)took);
	c = rd(f, REG_C);
	assert_false(raised(f));
	return c;
}

static void test_idle_has_no_timer(void **state)
{
	struct fake_vm *f = *state;

	assert_int_equal(timer_left(), 0);
	set_hms(f, 0x10, 0x00, 0x00);
	set_alarm(f, 0x10, 0x00, 0x30);
	(void)rd(f, REG_C);
	assert_int_equal(timer_left(), 0);
	wr(f, REG_B, B_24H | B_AIE);
	assert_int_not_equal(timer_left(), 0);
	wr(f, REG_B, B_24H);
	assert_int_equal(timer_left(), 0);
	/* An alarm that no time has. */
	wr(f, REG_B, B_24H | B_AIE);
	set_alarm(f, 0x24, 0x00, 0x00);
	assert_int_equal(timer_left(), 0);
	set_alarm(f, 0x10, 0x60, 0x00);
	assert_int_equal(timer_left(), 0);
	set_alarm(f, 0x10, 0x00, 0x0a);
	assert_int_equal(timer_left(), 0);
	/* A periodic interrupt without a rate. */
	wr(f, REG_A, A_RUN);
	wr(f, REG_B, B_24H | B_PIE);
	assert_int_equal(timer_left(), 0);
}

static void test_update_interrupt(void **state)
{
	struct fake_vm *f = *state;

	set_hms(f, 0x23, 0x59, 0x58);
	set_alarm(f, 0x12, 0x00, 0x00);
	(void)rd(f, REG_C);
	wr(f, REG_B, B_24H | B_UIE);
	assert_int_equal(wait_half_second(f), C_IRQF | C_UF);
	assert_int_equal(rd(f, 0), 0x59);
	assert_int_equal(rd(f, REG_C), 0);
	/* One a second until it is disabled. */
	assert_true(timer_left() && timer_left() <= 1000000000);
	assert_true(fake_vm_run(f, raised, f, 30000));
	/* Nothing more to tell before C was read. */
	assert_int_equal(timer_left(), 0);
	wr(f, REG_B, B_24H);
	assert_false(raised(f));
	assert_int_equal(rd(f, REG_C) & (C_IRQF | C_UF), C_UF);
}

static void test_alarm_interrupt(void **state)
{
	struct fake_vm *f = *state;
	uint64_t left;

	set_hms(f, 0x23, 0x59, 0x59);
	set_alarm(f, 0x00, 0x00, 0x00);
	(void)rd(f, REG_C);
	wr(f, REG_B, B_24H | B_AIE);
	assert_int_equal(wait_half_second(f), C_IRQF | C_AF | C_UF);
	assert_int_equal(rd(f, 4), 0x00);
	/* The next one comes in a day. */
	left = timer_left() / 1000000000;
	assert_true(left > 86300 && left < 86400);
}

/* Seconds from the time to the alarm, as the timer knows them. */
static void test_next_alarm(void **state)
{
	static const struct {
		uint8_t b;
		uint8_t hour, min, sec;
		uint8_t hour_alarm, min_alarm, sec_alarm;
		unsigned int seconds;
	} cases[] = {
		{ B_24H, 0x10, 0x20, 0x30, 0x10, 0x20, 0x31, 1 },
		{ B_24H, 0x10, 0x20, 0x30, 0x10, 0x20, 0x30, 86400 },
		{ B_24H, 0x10, 0x20, 0x30, 0x10, 0x20, 0x29, 86399 },
		{ B_24H, 0x10, 0x20, 0x30, 0x11, 0x00, 0x00, 2370 },
		{ B_24H, 0x23, 0x59, 0x59, 0x00, 0x00, 0x00, 1 },
		{ B_24H, 0x10, 0x20, 0x30, 0xff, 0xff, 0xff, 1 },
		{ B_24H, 0x10, 0x20, 0x30, 0xff, 0xff, 0xc0, 1 },
		{ B_24H, 0x10, 0x20, 0x30, 0xc0, 0xc5, 0x30, 60 },
		{ B_24H, 0x10, 0x20, 0x30, 0xff, 0xff, 0x29, 59 },
		{ B_24H, 0x10, 0x20, 0x30, 0xff, 0x20, 0x30, 3600 },
		{ B_24H, 0x10, 0x20, 0x30, 0xff, 0x20, 0xff, 1 },
		{ B_24H, 0x10, 0x20, 0x59, 0xff, 0x20, 0xff, 3541 },
		{ B_24H, 0x10, 0x20, 0x30, 0x09, 0xff, 0xff, 81570 },
		{ B_24H, 0x10, 0x20, 0x30, 0x11, 0xff, 0xff, 2370 },
		{ B_24H, 0x10, 0x20, 0x30, 0xbf, 0xff, 0xff, 0 },
		{ B_24H | B_BINARY, 10, 20, 30, 10, 20, 59, 29 },
		{ B_24H | B_BINARY, 10, 20, 30, 0x10, 20, 30, 21600 },
		{ B_24H | B_BINARY, 10, 20, 30, 10, 20, 60, 0 },
		{ 0, 0x12, 0x00, 0x00, 0x92, 0x00, 0x00, 43200 }, /* midnight to noon */
		{ 0, 0x91, 0x59, 0x59, 0x12, 0x00, 0x00, 1 },	  /* 11 PM to midnight */
		{ 0, 0x81, 0x00, 0x00, 0x01, 0x00, 0x00, 43200 }, /* 1 PM to 1 AM */
		{ 0, 0x81, 0x00, 0x00, 0x13, 0x00, 0x00, 0 },
		{ B_BINARY, 0x81, 0, 0, 0x8c, 0, 0, 82800 }, /* 1 PM to noon */
	};
	struct fake_vm *f = *state;

	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t expected = cases[i].seconds * 1000ull, left;

		wr(f, REG_B, cases[i].b);
		set_hms(f, cases[i].hour, cases[i].min, cases[i].sec);
		set_alarm(f, cases[i].hour_alarm, cases[i].min_alarm, cases[i].sec_alarm);
		(void)rd(f, REG_C);
		wr(f, REG_B, cases[i].b | B_AIE);
		left = timer_left() / 1000000;
		/* The first second of set_hms() has 500 ms, of which some may have passed. */
		if (expected ? left > expected - 500 || left + 950 < expected : left != 0)
			fail_msg("case %u: %llu ms instead of %llu", i, (unsigned long long)left,
				 (unsigned long long)(expected ? expected - 500 : 0));
	}
}

/* A time before 1970 has alarms as well. */
static void test_alarm_before_1970(void **state)
{
	struct fake_vm *f = *state;

	set_time(f, 0x19, 0x31, 0x05, 0x06, 0x10, 0x20, 0x30);
	set_hms(f, 0x10, 0x20, 0x30);
	set_alarm(f, 0x10, 0x20, 0x31);
	(void)rd(f, REG_C);
	wr(f, REG_B, B_24H | B_AIE);
	assert_int_equal(wait_half_second(f), C_IRQF | C_AF | C_UF);
	assert_int_equal(rd(f, 9), 0x31);
}

struct count {
	struct fake_vm *f;
	unsigned int n;
};

static bool acknowledge(void *arg)
{
	struct count *c = arg;

	if (raised(c->f)) {
		assert_int_equal(rd(c->f, REG_C) & (C_IRQF | C_PF), C_IRQF | C_PF);
		c->n++;
	}
	return false;
}

static void test_periodic_interrupt(void **state)
{
	struct fake_vm *f = *state;
	struct count count = { .f = f };
	uint64_t start, took;

	/* The divider's reset ends when A is written: a period begins. */
	wr(f, REG_A, A_RESET | 14);
	(void)rd(f, REG_C);
	wr(f, REG_A, A_RUN | 14); /* 4 Hz */
	wr(f, REG_B, B_24H | B_PIE);
	assert_true(timer_left() > 0 && timer_left() <= 250000000);
	start = clock_ms();
	assert_true(fake_vm_run(f, raised, f, 30000));
	took = clock_ms() - start;
	if (took < 200)
		fail_msg("4 Hz: an interrupt after %llu ms", (unsigned long long)took);
	assert_int_equal(rd(f, REG_C) & ~C_UF, C_IRQF | C_PF);

	wr(f, REG_A, A_RUN | 9); /* 128 Hz */
	start = clock_ms();
	fake_vm_run(f, acknowledge, &count, 300);
	took = clock_ms() - start;
	if (count.n < 3 || count.n > took * 128 / 1000 + 2)
		fail_msg("128 Hz: %u interrupts in %llu ms", count.n, (unsigned long long)took);
	/* No interrupts while the divider is in reset. */
	wr(f, REG_A, A_RESET | 9);
	assert_int_equal(timer_left(), 0);
}

/* The largest wait that the timer is set to over some of its periods. */
static uint64_t longest_wait(struct fake_vm *f)
{
	uint64_t longest = 0, left;

	for (int i = 0; i < 200; i++) {
		(void)rd(f, REG_C);
		left = timer_left();
		if (left > longest)
			longest = left;
	}
	return longest;
}

static void test_rates(void **state)
{
	/* Periods in microseconds, by rate bits; the timer's are not below 1024 Hz. */
	static const unsigned int us[16] = {
		0,    3906, 7812,  977,	  977,	 977,	 977,	 1953,
		3906, 7812, 15625, 31250, 62500, 125000, 250000, 500000
	};
	struct fake_vm *f = *state;

	wr(f, REG_B, B_24H | B_PIE);
	for (unsigned int rs = 1; rs < 16; rs++) {
		uint64_t wait;

		wr(f, REG_A, A_RESET | (uint8_t)rs);
		wr(f, REG_A, A_RUN | (uint8_t)rs);
		wait = longest_wait(f);
		if (wait > us[rs] * 1001ull || wait < us[rs] * 250ull)
			fail_msg("rate %u: the timer waits %llu ns", rs, (unsigned long long)wait);
	}
}

/* Without an enabled interrupt the flags are there for those who poll them, and cost no timer. */
static void test_polled_flags(void **state)
{
	struct fake_vm *f = *state;

	set_hms(f, 0x01, 0x02, 0x03);
	set_alarm(f, 0xff, 0xff, 0x04);
	wr(f, REG_A, A_RUN | 15); /* 2 Hz */
	(void)rd(f, REG_C);
	assert_int_equal(rd(f, REG_C), 0);
	sleep_ms(600);
	assert_int_equal(timer_left(), 0);
	assert_int_equal(rd(f, REG_C), C_PF | C_AF | C_UF);
	assert_int_equal(rd(f, REG_C), 0);
	assert_false(raised(f));
	/* A flag that is set when its interrupt is enabled raises it at once. */
	sleep_ms(600);
	wr(f, REG_B, B_24H | B_PIE);
	assert_true(raised(f));
	assert_int_equal(rd(f, REG_C) & (C_IRQF | C_PF), C_IRQF | C_PF);
}

static void test_set_stops_updates(void **state)
{
	struct fake_vm *f = *state;

	set_hms(f, 0x10, 0x00, 0x00);
	set_alarm(f, 0xff, 0xff, 0xff);
	(void)rd(f, REG_C);
	wr(f, REG_B, B_24H | B_UIE | B_AIE);
	assert_int_not_equal(timer_left(), 0);
	wr(f, REG_B, B_24H | B_UIE | B_AIE | B_SET);
	assert_int_equal(timer_left(), 0);
	assert_int_equal(rd(f, REG_B), B_24H | B_AIE | B_SET); /* SET clears UIE */
	sleep_ms(700);
	assert_int_equal(rd(f, 0), 0x00);
	assert_int_equal(rd(f, REG_A) & 0x80, 0);
	assert_int_equal(rd(f, REG_C), 0);
	wr(f, REG_B, B_24H | B_AIE);
	assert_int_equal(rd(f, 0), 0x00);
	assert_int_not_equal(timer_left(), 0);
}

/* Whoever sees UIP clear has 244 us to read the time; whoever sees it set sees it end soon. */
static void test_update_in_progress(void **state)
{
	struct fake_vm *f = *state;
	uint64_t start = clock_ms(), took;
	uint8_t before;

	set_hms(f, 0x10, 0x00, 0x10);
	before = rd(f, 0);
	while (!(rd(f, REG_A) & 0x80))
		if (clock_ms() - start > 20000)
			fail_msg("no update was seen in progress");
	/* 500 ms after set_hms(), or a multiple of a second later when we were not running then. */
	took = (clock_ms() - start) % 1000;
	assert_true(took >= 490 && took < 900);
	while (rd(f, REG_A) & 0x80)
		;
	assert_int_not_equal(rd(f, 0), before);
}

static void save(const struct device *dev, void **blob, size_t *len)
{
	struct diag d = { 0 };

	if (state_save(dev->id, dev->state, dev->nstate, blob, len, &d))
		fail_msg("save: %s", d.text);
}

static void load(const struct device *dev, void *blob, size_t len)
{
	struct state_load *l;
	struct diag d = { 0 };

	if (state_parse(dev->id, blob, len, dev->state, dev->nstate, &l, &d) || state_commit(l, &d))
		fail_msg("load: %s", d.text);
	state_load_free(l);
	free(blob);
}

/* An alarm is still there after a move, and one that came due on the way is not lost. */
static void test_alarm_is_moved(void **state)
{
	struct fake_vm *f = *state;
	const struct device *dev = f->vm.devices;
	void *blob;
	size_t len;

	for (int late = 0; late < 2; late++) {
		wr(f, REG_B, B_24H);
		set_hms(f, 0x10, 0x00, 0x00);
		set_alarm(f, 0x10, 0x00, 0x01);
		(void)rd(f, REG_C);
		wr(f, REG_B, B_24H | B_AIE);
		save(dev, &blob, &len);
		wr(f, REG_B, B_24H);
		set_hms(f, 0x12, 0x00, 0x00);
		assert_int_equal(timer_left(), 0);
		if (late)
			sleep_ms(700);
		load(dev, blob, len);
		assert_true(fake_vm_run(f, raised, f, 30000));
		assert_int_equal(rd(f, REG_C), C_IRQF | C_AF | C_UF);
	}
	/* Without an enabled interrupt no timer runs after a load either. */
	wr(f, REG_B, B_24H);
	save(dev, &blob, &len);
	wr(f, REG_B, B_24H | B_UIE);
	load(dev, blob, len);
	assert_int_equal(timer_left(), 0);
}

static void test_state_with_interrupts(void **state)
{
	struct fake_vm *f = *state;
	const struct device *dev = f->vm.devices;
	const struct state_desc *desc = dev->state->desc;
	uint8_t *cmos = (uint8_t *)dev->state->obj + desc->fields[1].offset;
	struct diag d = { 0 };

	assert_string_equal(desc->fields[1].name, "cmos");
	set_hms(f, 0x10, 0x00, 0x00);
	wr(f, REG_B, B_24H | B_UIE);
	assert_true(fake_vm_run(f, raised, f, 30000));
	state_check_roundtrip("rtc0", dev->state, dev->nstate);
	assert_int_equal(desc->validate(dev->state->obj, dev->state->obj, &d), 0);
	cmos[REG_C] = C_UF; /* enabled, but no IRQF */
	assert_int_equal(desc->validate(dev->state->obj, dev->state->obj, &d), -EINVAL);
	cmos[REG_C] = C_IRQF | C_AF;
	assert_int_equal(desc->validate(dev->state->obj, dev->state->obj, &d), -EINVAL);
	cmos[REG_C] = 1;
	assert_int_equal(desc->validate(dev->state->obj, dev->state->obj, &d), -EINVAL);
	assert_non_null(strstr(d.text, "register C"));
	cmos[REG_C] = C_IRQF | C_UF;
	(void)rd(f, REG_C);
	assert_false(raised(f));
}

static void test_reset_ends_interrupts(void **state)
{
	struct fake_vm *f = *state;
	struct device *dev = f->vm.devices;

	set_hms(f, 0x10, 0x00, 0x00);
	(void)rd(f, REG_C);
	wr(f, REG_B, B_24H | B_UIE);
	wait_half_second(f);
	assert_true(fake_vm_run(f, raised, f, 30000));
	assert_int_equal(dev->cls->reset(dev, NULL), 0);
	assert_false(raised(f));
	assert_int_equal(timer_left(), 0);
	assert_int_equal(rd(f, REG_C) & ~C_PF, 0); /* a rate is set again */
	assert_int_equal(rd(f, REG_B), B_24H);
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
		/* The alarm is within a second. */
		wr(f, REG_B, B_24H);
		set_alarm(f, 0xff, 0xff, 0xff);
		(void)rd(f, REG_C);
		wr(f, REG_B, B_24H | B_AIE);
		assert_true(timer_left() && timer_left() <= 1000000000);
	}
	/* Nor does the other time of the state table do harm. */
	offset = &ref->desc->fields[3];
	assert_string_equal(offset->name, "seen");
	for (unsigned int i = 0; i < ARRAY_SIZE(offsets); i++) {
		*(uint64_t *)((char *)ref->obj + offset->offset) = offsets[i];
		assert_int_equal(ref->desc->post_load(ref->obj, NULL), 0);
		fake_vm_run(f, raised, f, 20);
		(void)rd(f, REG_C);
		assert_true(timer_left() && timer_left() <= 1000000000);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_power_on),
		T(test_set),
		T(test_set_running),
		T(test_formats),
		T(test_nonsense),
		T(test_memory),
		T(test_reset_keeps_time),
		T(test_state),
		T(test_hostile_offset),
		T(test_idle_has_no_timer),
		T(test_update_interrupt),
		T(test_alarm_interrupt),
		T(test_next_alarm),
		T(test_alarm_before_1970),
		T(test_periodic_interrupt),
		T(test_rates),
		T(test_polled_flags),
		T(test_set_stops_updates),
		T(test_update_in_progress),
		T(test_alarm_is_moved),
		T(test_state_with_interrupts),
		T(test_reset_ends_interrupts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
