/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c - proves that all RAM of the memory map is there, is distinct, and keeps what is
 * written: each pass fills everything, then verifies everything, so that two addresses that share
 * a cell, or a cell that is none, cannot hide.
 *
 * Options: passes=N (default 1), patterns=N (only the first N), seed=N, mib=N (at least so much RAM
 * must be found).
 */
#include "lib/guest.h"
#include "lib/io.h"

#include <unvmm/platform.h>

#define MIB (1024 * 1024)

struct pattern {
	const char *name;
	uint64_t (*value)(uint64_t addr, uint64_t seed);
};

static uint64_t address(uint64_t addr, uint64_t seed)
{
	return addr ^ seed;
}

static uint64_t inverted(uint64_t addr, uint64_t seed)
{
	return ~(addr ^ seed);
}

static uint64_t walking(uint64_t addr, uint64_t seed)
{
	return 1ull << ((addr / 8 + seed) % 64);
}

static uint64_t seeded(uint64_t addr, uint64_t seed)
{
	return rnd_hash(addr + seed);
}

static const struct pattern patterns[] = {
	{ "address in address", address },
	{ "inverted address", inverted },
	{ "walking one", walking },
	{ "random", seeded },
};

/* Calls fn on each piece of RAM outside our image. */
static void each_range(const struct boot_info *boot,
		       void (*fn)(uint64_t *from, uint64_t *to, const struct pattern *p,
				  uint64_t seed),
		       const struct pattern *p, uint64_t seed)
{
	uintptr_t own = (uintptr_t)image_start, own_end = (uintptr_t)image_end;

	for (unsigned int i = 0; i < boot->nranges; i++) {
		const struct mem_range *r = &boot->range[i];
		uint64_t from = (r->base + 7) & ~7ull, to = (r->base + r->size) & ~7ull;

		if (!r->ram)
			continue;
		if (from < own && to > own)
			fn((uint64_t *)from, (uint64_t *)own, p, seed);
		else if (to <= own || from >= own_end)
			fn((uint64_t *)from, (uint64_t *)to, p, seed);
		if (from < own_end && to > own_end)
			fn((uint64_t *)own_end, (uint64_t *)to, p, seed);
	}
}

static void fill(uint64_t *from, uint64_t *to, const struct pattern *p, uint64_t seed)
{
	for (volatile uint64_t *w = from; w < to; w++)
		*w = p->value((uintptr_t)w, seed);
}

static void verify(uint64_t *from, uint64_t *to, const struct pattern *p, uint64_t seed)
{
	for (volatile uint64_t *w = from; w < to; w++) {
		uint64_t want = p->value((uintptr_t)w, seed), got = *w;

		if (got != want)
			test_check(false, "%s at 0x%llx: read 0x%llx, wrote 0x%llx", p->name,
				   (unsigned long long)(uintptr_t)w, (unsigned long long)got,
				   (unsigned long long)want);
	}
	test_check(true, "range");
}

/* The map itself: sorted or not, no two ranges may overlap, and RAM stays out of the PCI hole. */
static void check_map(const struct boot_info *boot)
{
	test_group("memory map");
	for (unsigned int i = 0; i < boot->nranges; i++) {
		const struct mem_range *a = &boot->range[i];
		uint64_t end = a->base + a->size;

		print("    0x%010llx-0x%010llx %s\r\n", (unsigned long long)a->base,
		      (unsigned long long)end - 1, a->ram ? "RAM" : "reserved");
		test_check(end > a->base, "range %u is empty or wraps", i);
		test_check(!a->ram || end <= PLAT_IOAPIC_BASE || a->base >= PLAT_RAM_HIGH_BASE,
			   "range %u: RAM over the interrupt controllers", i);
		for (unsigned int j = 0; j < i; j++) {
			const struct mem_range *b = &boot->range[j];

			test_check(b->base + b->size <= a->base || end <= b->base,
				   "ranges %u and %u overlap", j, i);
		}
	}
}

static uint64_t ram_total(const struct boot_info *boot, uint64_t from)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < boot->nranges; i++) {
		if (boot->range[i].ram && boot->range[i].base >= from)
			sum += boot->range[i].size;
	}
	return sum;
}

void guest_main(const struct boot_info *boot)
{
	uint64_t total = ram_total(boot, 0), high = ram_total(boot, PLAT_RAM_HIGH_BASE);
	uint64_t passes = opt_number("passes", 1), seed = opt_number("seed", 1);
	uint64_t npatterns = opt_number("patterns", ARRAY_SIZE(patterns));

	check_map(boot);
	/* The map leaves out a few KiB below 1 MiB. */
	test_check((total + MIB - 1) / MIB >= opt_number("mib", 1), "only %llu MiB in the map",
		   (unsigned long long)total / MIB);
	for (uint64_t pass = 0; pass < passes; pass++) {
		for (size_t i = 0; i < ARRAY_SIZE(patterns) && i < npatterns; i++) {
			uint64_t mixed =
				patterns[i].value == walking ? seed + pass : (seed + pass) << 56;

			test_group(patterns[i].name);
			each_range(boot, fill, &patterns[i], mixed);
			each_range(boot, verify, &patterns[i], mixed);
		}
	}
	print("tested %llu MiB, %llu MiB of it above 4 GiB\r\n", (unsigned long long)total / MIB,
	      (unsigned long long)high / MIB);
}
