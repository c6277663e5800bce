/* SPDX-License-Identifier: Apache-2.0 */
/*
 * relay_cost.c - what one request costs the ring relay (devices/relay_ring.c): "relay_cost BATCH
 * REQUESTS [log]" has REQUESTS go through in batches, between a guest and a function that cost
 * nothing worth mentioning, and prints nanoseconds and cycles per request. `log`: with a log of
 * written pages, as in a migration. Under callgrind with --toggle-collect='relay_turn' it counts
 * instructions.
 */
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "vf_relay.h"

#define SIZE 256u

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Both ways of a batch: what relay.c does between two wake-ups. */
__attribute__((noinline)) static int relay_turn(struct relay *r)
{
	int n = relay_forward(r), back;
	bool kick = relay_wants_kick(r), interrupt;

	/* The function of this bench was as fast as can be. */
	for (uint16_t i = (uint16_t)(r->forwarded - n); i != r->forwarded; i++)
		r->fn_used->ring[(uint16_t)(i - r->offset) % SIZE].id =
			r->fn_avail->ring[(uint16_t)(i - r->offset) % SIZE];
	r->fn_used->idx = (uint16_t)(r->forwarded - r->offset);
	back = relay_complete(r);
	interrupt = relay_wants_interrupt(r);
	return back + kick + interrupt + relay_sleep(r);
}

int main(int argc, char **argv)
{
	const struct vq_layout layout = {
		.size = SIZE, .desc = MiB(1), .avail = MiB(1) + 0x2000, .used = MiB(1) + 0x3000
	};
	unsigned int batch = argc > 1 ? (unsigned int)atoi(argv[1]) : 1;
	unsigned long requests = argc > 2 ? strtoul(argv[2], NULL, 10) : 1000000, done = 0;
	struct vring_avail *avail;
	struct vring_desc *desc;
	struct diag d = { "" };
	struct gmem mem;
	struct relay r;
	void *window;
	uint64_t cycles;
	double start;

	if (!batch || batch > SIZE || gmem_create(&mem, MiB(16), GMEM_PRIVATE, &d) ||
	    (argc > 3 && gmem_log_start(&mem)) ||
	    posix_memalign(&window, PAGE_SIZE_4K, RELAY_BYTES) ||
	    relay_start(&r, &mem, &layout, VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX), true, 0, window))
		return 2;
	avail = gmem_ptr(&mem, layout.avail, PAGE_SIZE_4K);
	desc = gmem_ptr(&mem, layout.desc, PAGE_SIZE_4K);
	if (!avail || !desc)
		return 2;
	for (unsigned int i = 0; i < SIZE; i++) {
		avail->ring[i] = (uint16_t)i;
		desc[i] = (struct vring_desc){ MiB(2) + i * 4096, 4096, VRING_DESC_F_WRITE, 0 };
	}
	start = now();
	cycles = __rdtsc();
	for (; done < requests; done += batch) {
		avail->idx = (uint16_t)(avail->idx + batch);
		if (relay_turn(&r) < (int)batch)
			return 1;
	}
	cycles = __rdtsc() - cycles;
	printf("relay batch=%u log=%d ns_per_request=%.1f cycles_per_request=%.1f\n", batch,
	       argc > 3, (now() - start) / (double)done, (double)cycles / (double)done);
	return 0;
}
