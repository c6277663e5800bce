/* SPDX-License-Identifier: Apache-2.0 */
/*
 * smp.c - starts every processor of the MADT by INIT and start-up IPI, and lets them count
 * together: atomically on one cell, each on its own, and in a chain where each waits for the one
 * before, so that all must really run and see each other's stores.
 *
 * Options: cpus=N (so many are expected), count=N (additions by each).
 */
#include "lib/cpu.h"
#include "lib/guest.h"
#include "lib/io.h"

#define COUNT_DEFAULT  100000
#define ROUNDS	       20
#define TIMEOUT_CYCLES 60000000000ull

static struct {
	uint32_t cpus;
	uint64_t count;
	volatile bool go;
	uint64_t together; /* atomic */
	uint64_t own[CPU_MAX];
	volatile uint32_t turn; /* whose, counted up over all rounds */
	uint32_t done;		/* atomic */
} shared;

static void take_turns(uint32_t me)
{
	for (uint32_t round = 0; round < ROUNDS; round++) {
		while (shared.turn != round * shared.cpus + me)
			io_relax();
		shared.turn++;
	}
}

static void count_together(uint32_t me)
{
	for (uint64_t i = 0; i < shared.count; i++) {
		__atomic_fetch_add(&shared.together, 1, __ATOMIC_SEQ_CST);
		shared.own[me]++;
	}
	take_turns(me);
	__atomic_fetch_add(&shared.done, 1, __ATOMIC_SEQ_CST);
}

static void ap_main(void *arg)
{
	while (!shared.go)
		io_relax();
	count_together((uint32_t)(uintptr_t)arg);
}

void guest_main(const struct boot_info *boot)
{
	uint32_t ids[CPU_MAX], boot_id = smp_apic_id(), n;
	uint64_t start;

	test_group("start");
	n = acpi_cpus(boot->rsdp, ids, CPU_MAX);
	if (!n) {
		/* Without a MADT: ids from 0 on, as many as we are told. */
		n = (uint32_t)opt_number("cpus", 1);
		for (uint32_t i = 0; i < n && i < CPU_MAX; i++)
			ids[i] = i;
	}
	test_check(n == opt_number("cpus", n), "%u processors in the MADT", n);
	shared.count = opt_number("count", COUNT_DEFAULT);
	for (uint32_t i = 0; i < n; i++) {
		if (ids[i] == boot_id)
			continue;
		if (test_check(smp_start(ids[i], ap_main, (void *)(uintptr_t)(shared.cpus + 1)),
			       "processor with APIC id %u does not start", ids[i]))
			shared.cpus++;
	}
	shared.cpus++;
	print("    %u processors\r\n", shared.cpus);

	test_group("count");
	shared.go = true;
	count_together(0);
	start = io_tsc();
	while (__atomic_load_n(&shared.done, __ATOMIC_SEQ_CST) != shared.cpus) {
		if (io_tsc() - start > TIMEOUT_CYCLES)
			test_abort("%u of %u processors came to the end", shared.done, shared.cpus);
		io_relax();
	}
	test_check(shared.together == shared.cpus * shared.count, "counted %llu of %llu together",
		   (unsigned long long)shared.together,
		   (unsigned long long)(shared.cpus * shared.count));
	for (uint32_t i = 0; i < shared.cpus; i++)
		test_check(shared.own[i] == shared.count, "processor %u counted %llu", i,
			   (unsigned long long)shared.own[i]);
	test_check(shared.turn == ROUNDS * shared.cpus, "%u turns", shared.turn);
}
