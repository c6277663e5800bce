/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tsc-khz - prints the rate of this machine's time stamp counter, which is also that of the
 * emulated host. A kernel that measures it against an emulated timer, on a busy machine, was seen
 * to be wrong by a factor of 26: its seconds were 40 ms long. Run by host.sh before a host is
 * started.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

struct sample {
	uint64_t tsc;
	int64_t ns;
};

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The two clocks at one moment: the closest of several readings, in case one was interrupted. */
static struct sample take(void)
{
	struct sample best = { 0 };
	uint64_t width = UINT64_MAX;

	for (int i = 0; i < 50; i++) {
		uint64_t before = __rdtsc();
		int64_t ns = now();
		uint64_t after = __rdtsc();

		if (after - before < width) {
			width = after - before;
			best = (struct sample){ .tsc = before + width / 2, .ns = ns };
		}
	}
	return best;
}

int main(void)
{
	struct timespec pause = { .tv_nsec = 50000000 };
	struct sample a = take(), b;

	nanosleep(&pause, NULL);
	b = take();
	printf("%.0f\n", (double)(b.tsc - a.tsc) * 1e6 / (double)(b.ns - a.ns));
	return 0;
}
