/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rtc.h - what the two files of the CMOS clock share: rtc.c, its ports, interrupts and life, and
 * rtc_time.c, what its registers say about time. Section numbers in comments are the MC146818A data
 * sheet's. Control lock held.
 */
#ifndef UNVMM_DEVICES_RTC_H
#define UNVMM_DEVICES_RTC_H

#include <unvmm/loop.h>
#include <unvmm/vm.h>

#define RTC_CMOS 128u

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

/* --- rtc_time.c ------------------------------------------------------------------------------- */

/* Seconds of a guest's time, which may lie before 1970. */
static inline int64_t rtc_seconds(uint64_t t)
{
	return (int64_t)t >> TICK_SHIFT;
}

static inline bool rtc_in_reset(const struct rtc *r)
{
	return (r->cmos[RTC_REG_A] & A_DV_RESET) == A_DV_RESET;
}

/* No updates: the time registers belong to the guest. */
static inline bool rtc_stopped(const struct rtc *r)
{
	return (r->cmos[RTC_REG_B] & B_SET) || rtc_in_reset(r);
}

bool rtc_is_time(uint8_t reg);
/* Brings the time registers to the guest's time t. */
void rtc_latch(struct rtc *r, uint64_t t);
/* The guest's time is t from now on; nothing happens in between. */
void rtc_move(struct rtc *r, uint64_t now, uint64_t t);
/*
 * The time registers are the guest's time from now on; the divider below the seconds goes on as it
 * was. The weekday follows from the date.
 */
void rtc_set(struct rtc *r, uint64_t now);
/* Seconds from s to the next alarm, 1 to a day; 0: never. */
unsigned int rtc_alarm_delay(const struct rtc *r, int64_t s);

#endif
