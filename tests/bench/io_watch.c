/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_watch.c - watches the number at the start of a guest's disk image, which io-clock in the guest
 * increments by each of its writes, and prints every change: microseconds since the epoch, number.
 * Looks each 0.5 ms, until SIGTERM. One thread. The image must go through the page cache.
 *
 * Usage: io_watch IMAGE
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL_NS 500000

static volatile sig_atomic_t ended;

static void on_term(int sig)
{
	(void)sig;
	ended = 1;
}

static void watch(const volatile uint64_t *number)
{
	const struct timespec interval = { .tv_nsec = INTERVAL_NS };
	uint64_t last = *number;

	while (!ended) {
		uint64_t now = *number;
		struct timespec t;

		if (now != last) {
			clock_gettime(CLOCK_REALTIME, &t);
			printf("%lld %" PRIu64 "\n", t.tv_sec * 1000000LL + t.tv_nsec / 1000, now);
			last = now;
		}
		nanosleep(&interval, NULL);
	}
}

int main(int argc, char **argv)
{
	static char buffer[1 << 16];
	void *image;
	int fd;

	if (argc != 2) {
		fprintf(stderr, "usage: io_watch IMAGE\n");
		return 2;
	}
	setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
	signal(SIGTERM, on_term);
	fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	image = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (image == MAP_FAILED) {
		fprintf(stderr, "io_watch: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	watch(image);
	return fflush(stdout) ? 1 : 0;
}
