/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rtc.c - the PC's CMOS clock: a Motorola MC146818 with 128 bytes of memory, and the century byte
 * that the FADT names. Section numbers in comments are the MC146818A data sheet's.
 * Thread: control lock held.
 *
 * The time is the host's UTC plus an offset in seconds, which is what the guest's setting of the
 * clock changes; there is no timer. Alarm and periodic interrupts are not raised (their registers
 * are kept): a guest has the local APIC's timer for that.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include <unvmm/platform.h>
#include <unvmm/vm.h>

#define RTC_PORTS 2u
#define RTC_CMOS  128u

enum {
	RTC_SECONDS = 0x00,
	RTC_MINUTES = 0x02,
	RTC_HOURS = 0x04,
	RTC_WEEKDAY = 0x06,
	RTC_DAY = 0x07,
	RTC_MONTH = 0x08,
	RTC_YEAR = 0x09,
	RTC_REG_A = 0x0a,
	RTC_REG_B = 0x0b,
	RTC_REG_C = 0x0c,
	RTC_REG_D = 0x0d,
	RTC_CENTURY = 0x32,
};

#define A_UIP	   0x80
#define A_POWER_ON 0x26 /* 32.768 kHz, 1024 Hz */
#define B_SET	   0x80
#define B_BINARY   0x04
#define B_24H	   0x02
#define D_VALID	   0x80
#define HOUR_PM	   0x80

/* Update in progress: an update starts 244 us after the bit shows it (7, "Update cycle"). */
#define UIP_NS (1000000000L - 244000L)

struct rtc {
	struct vm *vm;
	struct state_ref state;
	uint8_t index;
	/*
	 * Registers. Those of the time are true while B_SET stops the clock; else they are computed
	 * at each read.
	 */
	uint8_t cmos[RTC_CMOS];
	uint64_t offset; /* seconds, two's complement: the guest's time minus the host's */
};

static bool rtc_is_time(uint8_t reg)
{
	return reg == RTC_SECONDS || reg == RTC_MINUTES || reg == RTC_HOURS ||
	       (reg >= RTC_WEEKDAY && reg <= RTC_YEAR) || reg == RTC_CENTURY;
}

/* Two digits of v, which a hostile offset can make negative. */
static uint8_t rtc_encode(const struct rtc *r, int v)
{
	v = (v % 100 + 100) % 100;
	if (r->cmos[RTC_REG_B] & B_BINARY)
		return (uint8_t)v;
	return (uint8_t)(v / 10 << 4 | v % 10);
}

/* Whatever the guest wrote gives a number; timegm() brings it into range. */
static int rtc_decode(const struct rtc *r, uint8_t v)
{
	if (r->cmos[RTC_REG_B] & B_BINARY)
		return v;
	return (v >> 4) * 10 + (v & 15);
}

static uint8_t rtc_encode_hour(const struct rtc *r, int hour)
{
	if (r->cmos[RTC_REG_B] & B_24H)
		return rtc_encode(r, hour);
	return rtc_encode(r, (hour + 11) % 12 + 1) | (hour >= 12 ? HOUR_PM : 0);
}

static int rtc_decode_hour(const struct rtc *r, uint8_t v)
{
	if (r->cmos[RTC_REG_B] & B_24H)
		return rtc_decode(r, v);
	return rtc_decode(r, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* Brings the time registers up to date. */
static void rtc_latch(struct rtc *r)
{
	struct timespec now;
	struct tm tm = { 0 };
	time_t t;

	clock_gettime(CLOCK_REALTIME, &now);
	t = (time_t)((uint64_t)now.tv_sec + r->offset);
	if (!gmtime_r(&t, &tm))
		tm = (struct tm){ .tm_mday = 1, .tm_year = 70 };
	r->cmos[RTC_SECONDS] = rtc_encode(r, tm.tm_sec);
	r->cmos[RTC_MINUTES] = rtc_encode(r, tm.tm_min);
	r->cmos[RTC_HOURS] = rtc_encode_hour(r, tm.tm_hour);
	r->cmos[RTC_WEEKDAY] = rtc_encode(r, tm.tm_wday + 1);
	r->cmos[RTC_DAY] = rtc_encode(r, tm.tm_mday);
	r->cmos[RTC_MONTH] = rtc_encode(r, tm.tm_mon + 1);
	r->cmos[RTC_YEAR] = rtc_encode(r, tm.tm_year);
	r->cmos[RTC_CENTURY] = rtc_encode(r, tm.tm_year / 100 + 19);
}

/* The time registers are the guest's time from now on. The weekday follows from the date. */
static void rtc_set(struct rtc *r)
{
	struct tm tm = {
		.tm_sec = rtc_decode(r, r->cmos[RTC_SECONDS]),
		.tm_min = rtc_decode(r, r->cmos[RTC_MINUTES]),
		.tm_hour = rtc_decode_hour(r, r->cmos[RTC_HOURS]),
		.tm_mday = rtc_decode(r, r->cmos[RTC_DAY]),
		.tm_mon = rtc_decode(r, r->cmos[RTC_MONTH]) - 1,
		.tm_year = (rtc_decode(r, r->cmos[RTC_CENTURY]) - 19) * 100 +
			   rtc_decode(r, r->cmos[RTC_YEAR]),
	};
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	r->offset = (uint64_t)timegm(&tm) - (uint64_t)now.tv_sec;
}

static bool rtc_stopped(const struct rtc *r)
{
	return r->cmos[RTC_REG_B] & B_SET;
}

static uint8_t rtc_read_a(const struct rtc *r)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return r->cmos[RTC_REG_A] | (!rtc_stopped(r) && now.tv_nsec >= UIP_NS ? A_UIP : 0);
}

static uint64_t rtc_read(void *dev, uint64_t offset, unsigned int len)
{
	struct rtc *r = dev;

	/* The index is write-only (0x70 also holds the NMI mask, which has no effect here). */
	if (len != 1 || offset != 1)
		return UINT64_MAX;
	if (r->index == RTC_REG_A)
		return rtc_read_a(r);
	if (rtc_is_time(r->index) && !rtc_stopped(r))
		rtc_latch(r);
	return r->cmos[r->index];
}

static void rtc_write_b(struct rtc *r, uint8_t v)
{
	bool was_stopped = rtc_stopped(r);

	/* In this order: registers are converted with the mode that they were written in. */
	if (!was_stopped && (v & B_SET))
		rtc_latch(r);
	if (was_stopped && !(v & B_SET))
		rtc_set(r);
	r->cmos[RTC_REG_B] = v;
}

static void rtc_write_data(struct rtc *r, uint8_t v)
{
	switch (r->index) {
	case RTC_REG_A:
		r->cmos[RTC_REG_A] = v & ~A_UIP;
		break;
	case RTC_REG_B:
		rtc_write_b(r, v);
		break;
	case RTC_REG_C: /* read-only: no interrupt is ever pending */
	case RTC_REG_D:
		break;
	default:
		if (!rtc_is_time(r->index) || rtc_stopped(r)) {
			r->cmos[r->index] = v;
			break;
		}
		rtc_latch(r);
		r->cmos[r->index] = v;
		rtc_set(r);
		break;
	}
}

static void rtc_write(void *dev, uint64_t offset, unsigned int len, uint64_t value)
{
	struct rtc *r = dev;

	if (len != 1)
		return;
	if (offset == 0)
		r->index = value & (RTC_CMOS - 1);
	else
		rtc_write_data(r, (uint8_t)value);
}

static const struct bus_ops rtc_ops = { .read = rtc_read, .write = rtc_write };

static const struct state_field rtc_fields[] = {
	STATE_SCALAR(STATE_U8, struct rtc, index),
	STATE_RAW(struct rtc, cmos),
	STATE_SCALAR(STATE_U64, struct rtc, offset),
};

static int rtc_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct rtc *r = scratch;

	(void)live;
	if (r->index >= RTC_CMOS)
		return diag_set(d, -EINVAL, "index is %u, must be below %u", r->index, RTC_CMOS);
	if ((r->cmos[RTC_REG_A] & A_UIP) || r->cmos[RTC_REG_C] || r->cmos[RTC_REG_D] != D_VALID)
		return diag_set(d, -EINVAL,
				"cmos: register A has UIP set, C is not 0, or D is not %#x",
				D_VALID);
	return 0;
}

static const struct state_desc rtc_desc = {
	.name = "rtc",
	.version = 1,
	.obj_size = sizeof(struct rtc),
	.fields = rtc_fields,
	.nfields = ARRAY_SIZE(rtc_fields),
	.validate = rtc_validate,
};

/* The clock has a battery: a reset of the machine stops neither it nor what the guest set. */
static int rtc_reset(struct device *dev, struct diag *d)
{
	struct rtc *r = dev->priv;

	(void)d;
	if (rtc_stopped(r))
		rtc_write_b(r, r->cmos[RTC_REG_B] & ~B_SET);
	r->index = 0;
	r->cmos[RTC_REG_A] = A_POWER_ON;
	r->cmos[RTC_REG_B] = B_24H;
	return 0;
}

static int rtc_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	struct rtc *r = calloc(1, sizeof(*r));
	int ret;

	(void)conf;
	if (!r)
		return diag_set(d, -ENOMEM, "no memory for the clock");
	ret = bus_add(&vm->pio, PLAT_RTC_PORT, RTC_PORTS, &rtc_ops, r, "rtc");
	if (ret) {
		free(r);
		return diag_errno(d, ret, "I/O ports of the clock at %#x", PLAT_RTC_PORT);
	}
	r->vm = vm;
	r->state = (struct state_ref){ .desc = &rtc_desc, .obj = r };
	r->cmos[RTC_REG_A] = A_POWER_ON;
	r->cmos[RTC_REG_B] = B_24H;
	r->cmos[RTC_REG_D] = D_VALID;
	dev->priv = r;
	dev->state = &r->state;
	dev->nstate = 1;
	return 0;
}

static void rtc_destroy(struct device *dev)
{
	struct rtc *r = dev->priv;

	bus_remove(&r->vm->pio, PLAT_RTC_PORT);
	free(r);
}

const struct device_class rtc_class = {
	.name = "rtc",
	.id = "rtc",
	.create = rtc_create,
	.reset = rtc_reset,
	.destroy = rtc_destroy,
};
