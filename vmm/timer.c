/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timer.c - timers as descriptors; see timer.h. Any thread.
 */
#include <unvmm/loop.h>
#include <unvmm/timer.h>

#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

int timer_open(void)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

void timer_arm(int fd, uint64_t ms)
{
	struct itimerspec t = { .it_value = { .tv_sec = (time_t)(ms / 1000),
					      .tv_nsec = (long)(ms % 1000) * 1000000 } };

	/* Cannot fail for a timerfd and a sane time. */
	(void)timerfd_settime(fd, 0, &t, NULL);
}

bool timer_rang(int fd)
{
	uint64_t times;

	return read(fd, &times, sizeof(times)) > 0;
}

uint64_t timer_now_ms(void)
{
	return loop_now() / 1000000;
}
