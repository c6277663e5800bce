/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_state_behaviour.c - what state tables leave out. A guest does random accesses to a machine's
 * devices; their state goes into a second machine; from then on the same accesses must give the
 * same values and interrupt lines in both. A field that is missing in a table shows as a
 * difference, which a save, load and save cannot find. Thread: the test's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unvmm/platform.h>
#include <unvmm/state_io.h>

#include "fake_kvm.h"
#include "fake_vdev.h"

#define ROUNDS 60
#define BEFORE 400 /* accesses */
#define AFTER  400

extern const struct device_class serial_class, acpi_pm_class, i8042_class, rtc_class,
	virtio_rng_class;

struct rng_conf {
	char *source;
};

struct access {
	bool button; /* of the operator's, before it */
	bool mmio, write;
	uint64_t addr, value;
	unsigned int len;
};

typedef struct access (*pick_fn)(struct fake_vm *f, uint64_t *seed);

static uint64_t random_next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	return *x ^= *x << 17;
}

static uint64_t access_do(struct fake_vm *f, const struct access *a)
{
	struct bus *bus = a->mmio ? &f->vm.mmio : &f->vm.pio;

	if (a->button)
		f->vm.power_button(f->vm.power_button_arg);
	f->vm.event = VM_EVENT_NONE; /* nothing that is asked for happens here */

	if (!a->write)
		return bus_read(bus, a->addr, a->len);
	bus_write(bus, a->addr, a->len, a->value);
	return 0;
}

static void load_all(struct fake_vm *from, struct fake_vm *to)
{
	struct device *b = to->vm.devices;

	for (struct device *a = from->vm.devices; a; a = a->next, b = b->next) {
		struct state_load *l;
		struct diag d = { 0 };
		void *blob;
		size_t len;

		assert_int_equal(a->cls->quiesce ? a->cls->quiesce(a) : 0, 0);
		if (state_save(a->id, a->state, a->nstate, &blob, &len, &d) ||
		    state_parse(a->id, blob, len, b->state, b->nstate, &l, &d) ||
		    state_commit(l, &d))
			fail_msg("%s", d.text);
		state_load_free(l);
		free(blob);
		if (a->cls->resume)
			a->cls->resume(a);
		if (b->cls->resume)
			b->cls->resume(b);
	}
}

/* Lines that a device holds are the interrupt controllers' to carry over. */
static void carry_lines(struct fake_vm *from, struct fake_vm *to)
{
	to->vm.irq.lines = from->vm.irq.lines;
}

static void check_alike(struct fake_vm *(*make)(void), pick_fn pick)
{
	for (uint64_t round = 1; round <= ROUNDS; round++) {
		uint64_t seed = round * 0x9e3779b97f4a7c15ull;
		struct fake_vm *a = make(), *b = make();

		for (unsigned int i = 0; i < BEFORE; i++) {
			struct access x = pick(a, &seed);

			access_do(a, &x);
		}
		load_all(a, b);
		carry_lines(a, b);
		for (unsigned int i = 0; i < AFTER; i++) {
			struct access x = pick(a, &seed);
			uint64_t va = access_do(a, &x), vb = access_do(b, &x);

			if (va != vb || a->vm.irq.lines != b->vm.irq.lines)
				fail_msg("round %llu, access %u: %s of %u bytes at 0x%llx: 0x%llx "
					 "there, 0x%llx here; lines 0x%x and 0x%x",
					 (unsigned long long)round, i, x.write ? "write" : "read",
					 x.len, (unsigned long long)x.addr, (unsigned long long)va,
					 (unsigned long long)vb, a->vm.irq.lines, b->vm.irq.lines);
		}
		fake_vm_free(a);
		fake_vm_free(b);
	}
}

/* --- port devices ------------------------------------------------------------------------------
 */

static struct fake_vm *make_ports(void)
{
	struct fake_vm *f = fake_vm_new("none");

	fake_vm_add(f, &serial_class, NULL);
	fake_vm_add(f, &acpi_pm_class, NULL);
	fake_vm_add(f, &i8042_class, NULL);
	return f;
}

static struct access pick_port(struct fake_vm *f, uint64_t *seed)
{
	static const struct {
		uint16_t port, n;
	} ranges[] = { { PLAT_SERIAL_PORT, 8 },
		       { PLAT_SERIAL_PORT, 8 },
		       { PLAT_PM1_EVT_PORT, 6 },
		       { PLAT_I8042_DATA, 1 },
		       { PLAT_I8042_CMD, 1 } };
	uint64_t r = random_next(seed), which = r % ARRAY_SIZE(ranges);

	(void)f;
	return (struct access){ .button = (r >> 40) % 32 == 0,
				.write = r >> 8 & 1,
				.addr = ranges[which].port + (r >> 16) % ranges[which].n,
				.value = r >> 32 & 0xff,
				.len = 1 };
}

static void test_ports(void **state)
{
	(void)state;
	check_alike(make_ports, pick_port);
}

/* --- the clock, standing: a running one would tick between the two ------------------------------
 */

static struct fake_vm *make_rtc(void)
{
	struct fake_vm *f = fake_vm_new("none");

	fake_vm_add(f, &rtc_class, NULL);
	fake_outb(f, PLAT_RTC_PORT, 0x0a);
	fake_outb(f, PLAT_RTC_PORT + 1, 0x20); /* no periodic rate */
	fake_outb(f, PLAT_RTC_PORT, 0x0b);
	fake_outb(f, PLAT_RTC_PORT + 1, 0x82); /* SET, 24 hours */
	fake_outb(f, PLAT_RTC_PORT, 0x0d);
	return f;
}

/* All but register A, with the rates, and B, which would have it run. */
static struct access pick_rtc(struct fake_vm *f, uint64_t *seed)
{
	uint64_t r = random_next(seed), index = r % 128;

	(void)f;
	if ((r >> 8 & 3) == 0)
		return (struct access){ .write = true,
					.addr = PLAT_RTC_PORT,
					.value = index == 0x0a || index == 0x0b ? 0x0d : index,
					.len = 1 };
	return (struct access){
		.write = r >> 10 & 1, .addr = PLAT_RTC_PORT + 1, .value = r >> 16 & 0xff, .len = 1
	};
}

static void test_rtc(void **state)
{
	(void)state;
	check_alike(make_rtc, pick_rtc);
}

/* --- PCI: the bridge, and a virtio function -----------------------------------------------------
 */

static struct fake_vm *make_pci(void)
{
	struct rng_conf conf = { 0 };
	struct fake_vm *f = fake_vm_with_pci();

	fake_vm_add(f, &virtio_rng_class, &conf);
	fake_ecam_write(&f->vm, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	return f;
}

/* By both ways to configuration space, and in the function's BARs. */
static struct access pick_pci(struct fake_vm *f, uint64_t *seed)
{
	uint64_t r = random_next(seed), value = random_next(seed) & 0xffffffff;
	unsigned int len = 1u << (r >> 8) % 3;
	struct access a = { .write = r >> 12 & 1, .len = len, .value = value };

	switch (r % 4) {
	case 0:
		a.addr = PLAT_PCI_CFG_ADDR;
		a.len = 4;
		a.value = 0x80000000u | (value & 0x8fc);
		break;
	case 1:
		a.addr = PLAT_PCI_CFG_DATA + ((r >> 16) & 3 & ~(len - 1));
		break;
	case 2:
		a.mmio = true;
		a.addr =
			PLAT_ECAM_BASE + ((r >> 16) & 1) * 0x8000 + ((r >> 20) & 0xff & ~(len - 1));
		break;
	default:
		a.mmio = true;
		a.addr = PLAT_PCI_MEM_BASE + ((r >> 16) & 0x5ff8) + (r >> 40 & 4);
		a.len = 4;
		/* Registers like small numbers. */
		a.value = r >> 50 & 1 ? value & 0x1f : value;
		break;
	}
	(void)f;
	return a;
}

static void test_pci(void **state)
{
	(void)state;
	check_alike(make_pci, pick_pci);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ports),
		cmocka_unit_test(test_rtc),
		cmocka_unit_test(test_pci),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
