/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rtc_time.c - the CMOS clock's registers as time: binary or BCD, 12 or 24 hours, and when an alarm
 * matches. Control lock held.
 */
#include "rtc.h"

#include <time.h>

/* --- the time registers ---------------------------------------------------------------------- */

bool rtc_is_time(uint8_t reg)
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

void rtc_latch(struct rtc *r, uint64_t t)
{
	time_t s = rtc_seconds(t);
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

void rtc_move(struct rtc *r, uint64_t now, uint64_t t)
{
	r->offset = t - now;
	r->seen = t;
}

void rtc_set(struct rtc *r, uint64_t now)
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

/* --- the alarm -------------------------------------------------------------------------------- */

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
 * What does not match is skipped in whole hours and minutes, so there are at most some 150 steps.
 */
unsigned int rtc_alarm_delay(const struct rtc *r, int64_t s)
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
