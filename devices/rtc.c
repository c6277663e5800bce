/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rtc.c - the PC's CMOS clock: a Motorola MC146818 with 128 bytes of memory, and the century byte
 * that the FADT names. Section numbers in comments are the MC146818A data sheet's.
 * Thread: control lock held; the timer's handler runs on the main loop and takes it.
 *
 * Time is counted in periods of the chip's crystal (32.768 kHz, so that a second and every periodic
 * rate is a power of two of them): the host's UTC plus an offset, which is what the guest's setting
 * of the clock changes. Nothing ticks: time, update-in-progress and the flags of register C are
 * computed when they are read. One timer on the main loop runs only while an enabled interrupt is
 * to come, and none comes before the guest has read the last one's cause from register C. Periodic
 * interrupts above 1024 Hz come at 1024 Hz, for each costs the host a wake-up.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <unvmm/log.h>
#include <unvmm/platform.h>
#include <unvmm/vm.h>

#define RTC_PORTS 2u
#define RTC_CMOS  128u

enum {
	RTC_SECONDS = 0x00,
	RTC_SECONDS_ALARM = 0x01,
	RTC_MINUTES = 0x02,
	RTC_MINUTES_ALARM = 0x03,
	RTC_HOURS = 0x04,
	RTC_HOURS_ALARM = 0x05,
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
#define A_DV_RESET 0x60 /* both: the divider is held in reset */
#define A_RS	   0x0f
#define A_POWER_ON 0x26 /* 32.768 kHz, 1024 Hz */
#define B_SET	   0x80
#define B_UIE	   0x10
#define B_BINARY   0x04
#define B_24H	   0x02
#define C_IRQF	   0x80
#define C_PF	   0x40 /* the flags stand where register B has their enables */
#define C_AF	   0x20
#define C_UF	   0x10
#define C_FLAGS	   (C_PF | C_AF | C_UF)
#define D_VALID	   0x80
#define HOUR_PM	   0x80
#define ALARM_ANY  0xc0 /* both bits: matches every value */

#define DAY_SECONDS 86400u

/* In periods of the crystal. */
#define TICK_SHIFT 15
#define SECOND	   (1u << TICK_SHIFT)
#define UIP_TICKS  8u		/* 244 us from update-in-progress to the update (7, "UIP") */
#define HALF	   (SECOND / 2) /* from the end of a divider reset to the first update */
#define PERIOD_MIN (SECOND / 1024)

struct rtc {
	struct vm *vm;
	struct state_ref state;
	uint8_t index;
	/*
	 * Registers. Those of the time are true while the clock is stopped, else they are computed
	 * at each read; C has the flags of what happened until `seen`.
	 */
	uint8_t cmos[RTC_CMOS];
	uint64_t offset; /* two's complement: the guest's time minus the host's */
	uint64_t seen;	 /* the guest's time */

	int timer_fd;
	struct loop_fd timer;
	uint64_t deadline; /* the host's time that the timer waits for; 0: it does not run */
};

static uint64_t host_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec << TICK_SHIFT |
	       ((uint64_t)now.tv_nsec << TICK_SHIFT) / 1000000000;
}

/* The moment at which host_now() is t: rounded up. */
static struct timespec host_timespec(uint64_t t)
{
	return (struct timespec){
		.tv_sec = (time_t)(t >> TICK_SHIFT),
		.tv_nsec = (long)(((t & (SECOND - 1)) * 1000000000 + SECOND - 1) >> TICK_SHIFT),
	};
}

/* Seconds of a guest's time, which may lie before 1970. */
static int64_t seconds(uint64_t t)
{
	return (int64_t)t >> TICK_SHIFT;
}

static bool rtc_in_reset(const struct rtc *r)
{
	return (r->cmos[RTC_REG_A] & A_DV_RESET) == A_DV_RESET;
}

/* No updates: the time registers belong to the guest. */
static bool rtc_stopped(const struct rtc *r)
{
	return (r->cmos[RTC_REG_B] & B_SET) || rtc_in_reset(r);
}

/* --- the time registers ---------------------------------------------------------------------- */

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

/* Brings the time registers to the guest's time t. */
static void rtc_latch(struct rtc *r, uint64_t t)
{
	time_t s = seconds(t);
	struct tm tm = { 0 };

	(void)gmtime_r(&s, &tm); /* cannot fail: an int holds the years of 49 bits of seconds */
	r->cmos[RTC_SECONDS] = rtc_encode(r, tm.tm_sec);
	r->cmos[RTC_MINUTES] = rtc_encode(r, tm.tm_min);
	r->cmos[RTC_HOURS] = rtc_encode_hour(r, tm.tm_hour);
	r->cmos[RTC_WEEKDAY] = rtc_encode(r, tm.tm_wday + 1);
	r->cmos[RTC_DAY] = rtc_encode(r, tm.tm_mday);
	r->cmos[RTC_MONTH] = rtc_encode(r, tm.tm_mon + 1);
	r->cmos[RTC_YEAR] = rtc_encode(r, tm.tm_year);
	r->cmos[RTC_CENTURY] = rtc_encode(r, tm.tm_year / 100 + 19);
}

/* The guest's time is t from now on; nothing happens in between. */
static void rtc_move(struct rtc *r, uint64_t now, uint64_t t)
{
	r->offset = t - now;
	r->seen = t;
}

/*
 * The time registers are the guest's time from now on; the divider below the seconds goes on as it
 * was. The weekday follows from the date.
 */
static void rtc_set(struct rtc *r, uint64_t now)
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

	rtc_move(r, now, (uint64_t)timegm(&tm) << TICK_SHIFT | ((now + r->offset) & (SECOND - 1)));
}

/* --- interrupts ------------------------------------------------------------------------------ */

/* The period of the rate bits; 0: none (4, table 5). */
static uint64_t rtc_period(const struct rtc *r)
{
	unsigned int rs = r->cmos[RTC_REG_A] & A_RS;

	if (!rs || rtc_in_reset(r))
		return 0;
	/* With this crystal 1 and 2 are the same as 8 and 9. */
	return 1u << ((rs < 3 ? rs + 7 : rs) - 1);
}

/* A chip compares bytes: an alarm that is none in the present format never matches. */
static bool alarm_matches(uint8_t alarm, uint8_t value)
{
	return (alarm & ALARM_ANY) == ALARM_ANY || alarm == value;
}

static bool alarm_possible(const struct rtc *r)
{
	bool s = false, m = false, h = false;

	for (int i = 0; i < 60; i++) {
		s |= alarm_matches(r->cmos[RTC_SECONDS_ALARM], rtc_encode(r, i));
		m |= alarm_matches(r->cmos[RTC_MINUTES_ALARM], rtc_encode(r, i));
	}
	for (int i = 0; i < 24; i++)
		h |= alarm_matches(r->cmos[RTC_HOURS_ALARM], rtc_encode_hour(r, i));
	return s && m && h;
}

/*
 * Seconds from s to the next alarm, 1 to a day; 0: never. What does not match is skipped in whole
 * hours and minutes, so there are at most some 150 steps.
 */
static unsigned int alarm_delay(const struct rtc *r, int64_t s)
{
	int64_t rest = s % (int64_t)DAY_SECONDS;
	unsigned int now = (unsigned int)(rest < 0 ? rest + DAY_SECONDS : rest), t = now + 1;

	if (!alarm_possible(r))
		return 0;
	for (;;) {
		if (!alarm_matches(r->cmos[RTC_HOURS_ALARM],
				   rtc_encode_hour(r, (int)(t / 3600 % 24))))
			t += 3600 - t % 3600;
		else if (!alarm_matches(r->cmos[RTC_MINUTES_ALARM],
					rtc_encode(r, (int)(t / 60 % 60))))
			t += 60 - t % 60;
		else if (!alarm_matches(r->cmos[RTC_SECONDS_ALARM], rtc_encode(r, (int)(t % 60))))
			t++;
		else
			return t - now;
	}
}

/* Sets the flags of what happened since they were last looked at. */
static void rtc_catch_up(struct rtc *r, uint64_t now)
{
	uint64_t t = now + r->offset, from = r->seen, period = rtc_period(r);
	uint8_t *c = &r->cmos[RTC_REG_C];
	unsigned int delay;

	r->seen = t;
	if ((int64_t)(t - from) <= 0) /* the host's clock was set back */
		return;
	if (period && t / period != from / period)
		*c |= C_PF;
	if (rtc_stopped(r) || seconds(t) == seconds(from))
		return;
	*c |= C_UF;
	delay = alarm_delay(r, seconds(from));
	if (delay && seconds(t) - seconds(from) >= delay)
		*c |= C_AF;
}

/* The pin: low, which is a raised line on a PC, from an enabled flag until C is read (4, IRQF). */
static void rtc_update_line(struct rtc *r)
{
	uint8_t *c = &r->cmos[RTC_REG_C];
	bool level = *c & r->cmos[RTC_REG_B] & C_FLAGS;

	if (level == !!(*c & C_IRQF))
		return;
	*c ^= C_IRQF;
	irq_line(&r->vm->irq, PLAT_GSI_RTC, level);
}

/* The guest's time of the next interrupt after t; false: none will come by itself. */
static bool rtc_next(const struct rtc *r, uint64_t t, uint64_t *next)
{
	uint64_t wait = UINT64_MAX, period = rtc_period(r), second = SECOND - t % SECOND;
	uint8_t b = r->cmos[RTC_REG_B];
	unsigned int delay;

	if (r->cmos[RTC_REG_C] & C_IRQF)
		return false;
	if ((b & C_PF) && period) {
		if (period < PERIOD_MIN)
			period = PERIOD_MIN;
		wait = period - t % period;
	}
	if ((b & C_UF) && !rtc_stopped(r) && second < wait)
		wait = second;
	if ((b & C_AF) && !rtc_stopped(r)) {
		delay = alarm_delay(r, seconds(t));
		if (delay && second + (delay - 1) * (uint64_t)SECOND < wait)
			wait = second + (delay - 1) * (uint64_t)SECOND;
	}
	*next = t + wait;
	return wait != UINT64_MAX;
}

/* deadline: in the host's time; 0 stops the timer. */
static void rtc_arm(struct rtc *r, uint64_t deadline)
{
	/* If the host's clock is set the timer wakes, and the deadline is computed anew. */
	int flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET;
	struct itimerspec t = { .it_value = host_timespec(deadline) };

	if (deadline == r->deadline)
		return;
	r->deadline = deadline;
	if (timerfd_settime(r->timer_fd, flags, &t, NULL) < 0)
		log_error("the clock's timer cannot be set");
}

/* After rtc_catch_up() and whatever changed then. */
static void rtc_sync(struct rtc *r)
{
	uint64_t next = 0;

	rtc_update_line(r);
	rtc_arm(r, rtc_next(r, r->seen, &next) ? next - r->offset : 0);
}

static void rtc_timer_ready(struct loop_fd *lf, uint32_t revents)
{
	struct rtc *r = container_of(lf, struct rtc, timer);
	uint64_t times;

	(void)revents;
	vm_lock(r->vm);
	/* Nothing to read: a vcpu was faster and set the timer anew. ECANCELED: see rtc_arm(). */
	if (read(r->timer_fd, &times, sizeof(times)) > 0 || errno == ECANCELED)
		r->deadline = 0;
	rtc_catch_up(r, host_now());
	rtc_sync(r);
	vm_unlock(r->vm);
}

/* --- the ports ------------------------------------------------------------------------------- */

static uint8_t rtc_read_a(const struct rtc *r, uint64_t now)
{
	bool soon = (now + r->offset) % SECOND >= SECOND - UIP_TICKS;

	return r->cmos[RTC_REG_A] | (soon && !rtc_stopped(r) ? A_UIP : 0);
}

static uint8_t rtc_read_c(struct rtc *r, uint64_t now)
{
	uint8_t v;

	rtc_catch_up(r, now);
	v = r->cmos[RTC_REG_C];
	/* What is told here needs no interrupt any more. */
	if (v & r->cmos[RTC_REG_B] & C_FLAGS)
		v |= C_IRQF;
	r->cmos[RTC_REG_C] &= ~C_FLAGS;
	rtc_sync(r);
	return v;
}

static uint64_t rtc_read(void *dev, uint64_t offset, unsigned int len)
{
	struct rtc *r = dev;
	uint64_t now;

	/* The index is write-only (0x70 also holds the NMI mask, which has no effect here). */
	if (len != 1 || offset != 1)
		return UINT64_MAX;
	now = host_now();
	if (r->index == RTC_REG_A)
		return rtc_read_a(r, now);
	if (r->index == RTC_REG_C)
		return rtc_read_c(r, now);
	if (rtc_is_time(r->index) && !rtc_stopped(r))
		rtc_latch(r, now + r->offset);
	return r->cmos[r->index];
}

/*
 * Both control registers can stop and start the clock. In this order: the time registers are
 * converted in the mode that they were written in.
 */
static void rtc_control(struct rtc *r, uint64_t now, uint8_t a, uint8_t b)
{
	bool was_stopped = rtc_stopped(r), was_in_reset = rtc_in_reset(r);
	uint8_t old_b = r->cmos[RTC_REG_B];

	rtc_catch_up(r, now);
	r->cmos[RTC_REG_A] = a;
	r->cmos[RTC_REG_B] = (b & B_SET) | (old_b & ~B_SET);
	if (!was_stopped && rtc_stopped(r))
		rtc_latch(r, r->seen);
	/* The first update comes half a second after the reset of the divider (4, DV). */
	if (was_in_reset && !rtc_in_reset(r))
		rtc_move(r, now, (r->seen & ~(uint64_t)(SECOND - 1)) | HALF);
	if (was_stopped && !rtc_stopped(r))
		rtc_set(r, now);
	/* 4, UIE: cleared when SET goes high. */
	r->cmos[RTC_REG_B] = b & B_SET ? b & ~B_UIE : b;
	rtc_sync(r);
}

static void rtc_write_time(struct rtc *r, uint64_t now, uint8_t v)
{
	if (rtc_stopped(r)) {
		r->cmos[r->index] = v;
		return;
	}
	rtc_catch_up(r, now);
	rtc_latch(r, r->seen);
	r->cmos[r->index] = v;
	rtc_set(r, now);
	rtc_sync(r);
}

static void rtc_write_data(struct rtc *r, uint8_t v)
{
	uint64_t now = host_now();

	switch (r->index) {
	case RTC_REG_A:
		rtc_control(r, now, v & ~A_UIP, r->cmos[RTC_REG_B]);
		break;
	case RTC_REG_B:
		rtc_control(r, now, r->cmos[RTC_REG_A], v);
		break;
	case RTC_REG_C: /* read-only */
	case RTC_REG_D:
		break;
	case RTC_SECONDS_ALARM:
	case RTC_MINUTES_ALARM:
	case RTC_HOURS_ALARM:
		rtc_catch_up(r, now);
		r->cmos[r->index] = v;
		rtc_sync(r);
		break;
	default:
		if (rtc_is_time(r->index))
			rtc_write_time(r, now, v);
		else
			r->cmos[r->index] = v;
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

/* --- state and life -------------------------------------------------------------------------- */

static const struct state_field rtc_fields[] = {
	STATE_SCALAR(STATE_U8, struct rtc, index),
	STATE_RAW(struct rtc, cmos),
	STATE_SCALAR(STATE_U64, struct rtc, offset),
	STATE_SCALAR(STATE_U64, struct rtc, seen),
};

static int rtc_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct rtc *r = scratch;
	uint8_t c = r->cmos[RTC_REG_C];

	(void)live;
	if (r->index >= RTC_CMOS)
		return diag_set(d, -EINVAL, "index is %u, must be below %u", r->index, RTC_CMOS);
	if ((r->cmos[RTC_REG_A] & A_UIP) || r->cmos[RTC_REG_D] != D_VALID)
		return diag_set(d, -EINVAL, "cmos: register A has UIP set, or D is not %#x",
				D_VALID);
	if ((c & ~(C_IRQF | C_FLAGS)) || !(c & C_IRQF) != !(c & r->cmos[RTC_REG_B] & C_FLAGS))
		return diag_set(d, -EINVAL,
				"cmos: register C is %#x, its IRQF must say whether a flag is set "
				"that register B (%#x) enables",
				c, r->cmos[RTC_REG_B]);
	return 0;
}

/*
 * The interrupt controller carries its own state, so the line is not raised here. What came due on
 * the way raises it once the main loop runs: the timer is set to a moment that has passed.
 */
static int rtc_post_load(void *obj, struct diag *d)
{
	struct rtc *r = obj;
	uint64_t next;

	(void)d;
	rtc_arm(r, 0);
	if (rtc_next(r, r->seen, &next))
		rtc_arm(r, 1);
	return 0;
}

static const struct state_desc rtc_desc = {
	.name = "rtc",
	.version = 1,
	.obj_size = sizeof(struct rtc),
	.fields = rtc_fields,
	.nfields = ARRAY_SIZE(rtc_fields),
	.validate = rtc_validate,
	.post_load = rtc_post_load,
};

/*
 * The clock has a battery: a reset of the machine stops neither it nor what the guest set. It
 * clears interrupts and their enables (4, RESET); a clock that stood goes on.
 */
static int rtc_reset(struct device *dev, struct diag *d)
{
	struct rtc *r = dev->priv;

	(void)d;
	vm_lock(r->vm);
	r->index = 0;
	rtc_control(r, host_now(), A_POWER_ON, B_24H);
	r->cmos[RTC_REG_C] &= ~C_FLAGS;
	rtc_sync(r);
	vm_unlock(r->vm);
	return 0;
}

static int rtc_start_timer(struct rtc *r, struct diag *d)
{
	int ret;

	r->timer_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (r->timer_fd < 0)
		return diag_errno(d, -errno, "a timer for the clock");
	ret = loop_add(&r->vm->main_loop, &r->timer, r->timer_fd, POLLIN, rtc_timer_ready);
	if (ret) {
		close(r->timer_fd);
		return diag_errno(d, ret, "a timer for the clock");
	}
	return 0;
}

static int rtc_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	struct rtc *r = calloc(1, sizeof(*r));
	int ret;

	(void)conf;
	if (!r)
		return diag_set(d, -ENOMEM, "no memory for the clock");
	r->vm = vm;
	ret = rtc_start_timer(r, d);
	if (ret)
		goto err_free;
	ret = bus_add(&vm->pio, PLAT_RTC_PORT, RTC_PORTS, &rtc_ops, r, "rtc");
	if (ret) {
		diag_errno(d, ret, "I/O ports of the clock at %#x", PLAT_RTC_PORT);
		goto err_timer;
	}
	r->state = (struct state_ref){ .desc = &rtc_desc, .obj = r };
	r->cmos[RTC_REG_A] = A_POWER_ON;
	r->cmos[RTC_REG_B] = B_24H;
	r->cmos[RTC_REG_D] = D_VALID;
	r->seen = host_now();
	dev->priv = r;
	dev->state = &r->state;
	dev->nstate = 1;
	return 0;

err_timer:
	loop_del(&r->timer);
	close(r->timer_fd);
err_free:
	free(r);
	return ret;
}

static void rtc_destroy(struct device *dev)
{
	struct rtc *r = dev->priv;

	bus_remove(&r->vm->pio, PLAT_RTC_PORT);
	loop_del(&r->timer);
	close(r->timer_fd);
	free(r);
}

const struct device_class rtc_class = {
	.name = "rtc",
	.id = "rtc",
	.create = rtc_create,
	.reset = rtc_reset,
	.destroy = rtc_destroy,
};
