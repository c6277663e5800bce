/* SPDX-License-Identifier: Apache-2.0 */
/*
 * smp.c - starts processors by INIT and start-up IPI through the local APIC's registers (Intel SDM
 * vol. 3, 9.4.4 and 11.6.1), from ring 3, polled.
 */
#include "guest.h"

#include <unvmm/platform.h>

#include "cpu.h"
#include "io.h"

#define LAPIC_ID       0x020
#define LAPIC_ICR_LOW  0x300
#define LAPIC_ICR_HIGH 0x310
#define ICR_INIT       0x00004500 /* INIT, assert */
#define ICR_STARTUP    0x00004600
#define ICR_PENDING    0x00001000

#define STACK_BYTES   16384
#define SHORT_CYCLES  600000ull	  /* some 200 us between the IPIs */
#define INIT_CYCLES   30000000ull /* some 10 ms after INIT */
#define ARRIVE_CYCLES 15000000000ull

extern const char ap_code[], ap_code_end[];

/* Read by ap.S. All addresses lie below 4 GiB. */
extern uint32_t ap_run, ap_arg, ap_stack0, ap_stack3, ap_tss;
uint32_t ap_run, ap_arg, ap_stack0, ap_stack3, ap_tss;

static struct {
	void (*run)(void *arg);
	void *arg;
	volatile bool arrived;
} starting;

static unsigned int started = 1; /* the boot processor */

static void wait_cycles(uint64_t n)
{
	uint64_t start = io_tsc();

	while (io_tsc() - start < n)
		io_relax();
}

static void send_ipi(uint32_t apic_id, uint32_t command)
{
	uint64_t start = io_tsc();

	mmio_write32(PLAT_LAPIC_BASE + LAPIC_ICR_HIGH, apic_id << 24);
	mmio_write32(PLAT_LAPIC_BASE + LAPIC_ICR_LOW, command);
	while (mmio_read32(PLAT_LAPIC_BASE + LAPIC_ICR_LOW) & ICR_PENDING) {
		if (io_tsc() - start > ARRIVE_CYCLES)
			test_abort("the local APIC does not deliver an IPI");
	}
}

uint32_t smp_apic_id(void)
{
	return mmio_read32(PLAT_LAPIC_BASE + LAPIC_ID) >> 24;
}

static void arrive(void *unused)
{
	void (*run)(void *arg) = starting.run;
	void *arg = starting.arg;

	(void)unused;
	io_barrier();
	starting.arrived = true;
	run(arg);
}

static bool wait_arrival(uint64_t cycles)
{
	uint64_t start = io_tsc();

	while (!starting.arrived) {
		if (io_tsc() - start > cycles)
			return false;
		io_relax();
	}
	return true;
}

bool smp_start(uint32_t apic_id, void (*run)(void *arg), void *arg)
{
	char *stacks = mem_alloc(2 * STACK_BYTES, 16);

	if (started >= CPU_MAX)
		test_abort("more than %u processors", CPU_MAX);
	memcpy((void *)CPU_AP_PAGE, ap_code, (size_t)(ap_code_end - ap_code));
	starting.run = run;
	starting.arg = arg;
	starting.arrived = false;
	ap_run = (uint32_t)(uintptr_t)arrive;
	ap_arg = 0;
	ap_stack0 = (uint32_t)(uintptr_t)(stacks + STACK_BYTES);
	ap_stack3 = (uint32_t)(uintptr_t)(stacks + 2 * STACK_BYTES);
	ap_tss = CPU_TSS + 16 * started++;
	io_fence();

	send_ipi(apic_id, ICR_INIT);
	wait_cycles(INIT_CYCLES);
	send_ipi(apic_id, ICR_STARTUP | CPU_AP_PAGE >> 12);
	if (wait_arrival(SHORT_CYCLES))
		return true;
	send_ipi(apic_id, ICR_STARTUP | CPU_AP_PAGE >> 12);
	return wait_arrival(ARRIVE_CYCLES);
}
