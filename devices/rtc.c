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

#include "rtc.h"

#define RTC_PORTS 2u

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
	if (rtc_stopped(r) || rtc_seconds(t) == rtc_seconds(from))
		return;
	*c |= C_UF;
	delay = rtc_alarm_delay(r, rtc_seconds(from));
	if (delay && rtc_seconds(t) - rtc_seconds(from) >= delay)
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
		delay = rtc_alarm_delay(r, rtc_seconds(t));
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
