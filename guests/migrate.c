/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate.c - writes memory without pause, so that moving it is hard, and sees whether anything is
 * lost: each word of a hot page says which pass wrote it, and is looked at before the next pass
 * overwrites it. Cold pages are written once, others are written and then zeroed again; both are
 * looked at in the end. All that is known of the passes is in registers and on the stack, so they
 * move with the rest.
 *
 * It ends after its passes, or when the host sets the first word of the mailbox: four words of
 * memory at an address of the host's choice { stop, pass, page, failed words }.
 *
 * Options: cpus=N, hot=N, cold=N, zeroed=N (pages, of each processor), passes=N (0: until it is
 * stopped), mailbox=ADDRESS, tsc (the time stamp counter must never go backwards), slow=N (cycles
 * between pages).
 */
#include "lib/cpu.h"
#include "lib/guest.h"
#include "lib/io.h"

#define PAGE	       4096
#define WORDS	       (PAGE / 8)
#define MULTIPLIER     0x9e3779b97f4a7c15ull
#define TIMEOUT_CYCLES 60000000000ull

static struct {
	uint64_t hot, cold, zeroed, passes, slow;
	bool tsc;
	volatile uint64_t *mailbox;
	volatile bool stop;
	uint64_t failed;       /* atomic: words that are wrong */
	uint64_t backwards;    /* atomic: times the TSC went back */
	uint64_t gap[CPU_MAX]; /* longest time between two pages, in cycles */
	uint64_t done[CPU_MAX];
	uint32_t finished; /* atomic */
} shared;

struct area {
	uint64_t *hot, *cold, *zeroed;
};
static struct area areas[CPU_MAX];

static uint64_t word_of(const volatile uint64_t *at, uint64_t pass)
{
	return ((uintptr_t)at + pass) * MULTIPLIER;
}

static void fill(volatile uint64_t *page, uint64_t pass)
{
	for (unsigned int i = 0; i < WORDS; i++)
		page[i] = word_of(&page[i], pass);
}

static void verify(const volatile uint64_t *page, uint64_t pass, const char *what)
{
	uint64_t bad = 0;

	for (unsigned int i = 0; i < WORDS; i++)
		bad += page[i] != (what[0] == 'z' ? 0 : word_of(&page[i], pass));
	if (!bad)
		return;
	__atomic_fetch_add(&shared.failed, bad, __ATOMIC_SEQ_CST);
	test_check(false, "%s page 0x%llx: %llu words are not those of pass %llu", what,
		   (unsigned long long)(uintptr_t)page, (unsigned long long)bad,
		   (unsigned long long)pass);
}

static uint64_t look_at_clock(uint32_t me, uint64_t last)
{
	uint64_t now = io_tsc(), gap = now - last;

	if (now < last)
		__atomic_fetch_add(&shared.backwards, 1, __ATOMIC_SEQ_CST);
	else if (gap > shared.gap[me])
		shared.gap[me] = gap;
	while (shared.slow && io_tsc() - now < shared.slow)
		io_relax();
	return now;
}

static bool stopped(void)
{
	if (shared.mailbox && shared.mailbox[0])
		shared.stop = true;
	return shared.stop;
}

static void work(uint32_t me)
{
	const struct area *a = &areas[me];
	uint64_t pass = 0, last = io_tsc();

	for (uint64_t p = 0; p < shared.hot; p++)
		fill(a->hot + p * WORDS, 0);
	while (!stopped() && (!shared.passes || pass < shared.passes)) {
		for (uint64_t p = 0; p < shared.hot; p++) {
			verify(a->hot + p * WORDS, pass, "hot");
			fill(a->hot + p * WORDS, pass + 1);
			last = look_at_clock(me, last);
			if (shared.mailbox && !me)
				shared.mailbox[2] = p;
		}
		pass++;
		if (shared.mailbox && !me)
			shared.mailbox[1] = pass;
	}
	for (uint64_t p = 0; p < shared.hot; p++)
		verify(a->hot + p * WORDS, pass, "hot");
	for (uint64_t p = 0; p < shared.cold; p++)
		verify(a->cold + p * WORDS, 0, "cold");
	for (uint64_t p = 0; p < shared.zeroed; p++)
		verify(a->zeroed + p * WORDS, 0, "zeroed");
	shared.done[me] = pass;
	__atomic_fetch_add(&shared.finished, 1, __ATOMIC_SEQ_CST);
}

static void prepare(struct area *a)
{
	a->hot = mem_alloc(shared.hot * PAGE, PAGE);
	a->cold = mem_alloc((shared.cold + 1) * PAGE, PAGE);
	a->zeroed = mem_alloc((shared.zeroed + 1) * PAGE, PAGE);
	for (uint64_t p = 0; p < shared.cold; p++)
		fill(a->cold + p * WORDS, 0);
	for (uint64_t p = 0; p < shared.zeroed; p++)
		fill(a->zeroed + p * WORDS, 0);
	for (uint64_t i = 0; i < shared.zeroed * WORDS; i++)
		((volatile uint64_t *)a->zeroed)[i] = 0;
}

static void ap_main(void *arg)
{
	work((uint32_t)(uintptr_t)arg);
}

void guest_main(const struct boot_info *boot)
{
	uint32_t ids[CPU_MAX], cpus = (uint32_t)opt_number("cpus", 1), me = smp_apic_id(), n = 1;
	unsigned int found = acpi_cpus(boot->rsdp, ids, CPU_MAX);
	uint64_t start;

	shared.hot = opt_number("hot", 256);
	shared.cold = opt_number("cold", 256);
	shared.zeroed = opt_number("zeroed", 256);
	shared.passes = opt_number("passes", 10);
	shared.slow = opt_number("slow", 0);
	shared.tsc = opt_flag("tsc");
	shared.mailbox = (volatile uint64_t *)(uintptr_t)opt_number("mailbox", 0);
	for (uint32_t i = 0; i < cpus && i < CPU_MAX; i++)
		prepare(&areas[i]);

	test_group("start");
	for (unsigned int i = 0; i < found && n < cpus; i++) {
		if (ids[i] == me)
			continue;
		test_check(smp_start(ids[i], ap_main, (void *)(uintptr_t)n),
			   "processor with APIC id %u does not start", ids[i]);
		n++;
	}
	test_check(n == cpus, "%u processors of %u", n, cpus);
	print("    %u processors write %llu pages each\r\n", n, (unsigned long long)shared.hot);
	test_group("write");
	work(0);
	start = io_tsc();
	while (__atomic_load_n(&shared.finished, __ATOMIC_SEQ_CST) != n) {
		if (io_tsc() - start > TIMEOUT_CYCLES)
			test_abort("%u of %u processors came to the end", shared.finished, n);
		io_relax();
	}
	if (shared.mailbox)
		shared.mailbox[3] = shared.failed;
	test_check(!shared.failed, "%llu words are wrong", (unsigned long long)shared.failed);
	test_check(!shared.tsc || !shared.backwards, "time went backwards %llu times",
		   (unsigned long long)shared.backwards);
	for (uint32_t i = 0; i < n; i++)
		print("processor %u: %llu passes, longest gap %llu us\r\n", i,
		      (unsigned long long)shared.done[i],
		      (unsigned long long)(boot->tsc_khz ? shared.gap[i] * 1000 / boot->tsc_khz
							 : 0));
}
