/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_platform_devices.c - i8042, exit port, pvpanic and ACPI PM1 through their ports.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <misc/pvpanic.h>

#include <unvmm/platform.h>

#include "fake_vm.h"
#include "state_check.h"

extern const struct device_class i8042_class, exit_port_class, pvpanic_class, acpi_pm_class;

#define PM1_STS PLAT_PM1_EVT_PORT
#define PM1_EN	(PLAT_PM1_EVT_PORT + 2)
#define PM1_CNT PLAT_PM1_CNT_PORT
#define PWRBTN	0x0100
#define SLP_EN	0x2000

static int setup(void **state)
{
	struct fake_vm *f = fake_vm_new("none");

	fake_vm_add(f, &i8042_class, NULL);
	fake_vm_add(f, &exit_port_class, NULL);
	fake_vm_add(f, &pvpanic_class, NULL);
	fake_vm_add(f, &acpi_pm_class, NULL);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fake_vm_free(*state);
	return 0;
}

static uint16_t inw(struct fake_vm *f, uint64_t port)
{
	return (uint16_t)bus_read(&f->vm.pio, port, 2);
}

static void outw(struct fake_vm *f, uint64_t port, uint16_t v)
{
	bus_write(&f->vm.pio, port, 2, v);
}

static void test_i8042_reset(void **state)
{
	struct fake_vm *f = *state;

	assert_int_equal(fake_inb(f, PLAT_I8042_CMD), 0); /* ready for a command */
	assert_int_equal(fake_inb(f, PLAT_I8042_DATA), 0);
	fake_outb(f, PLAT_I8042_CMD, 0xd1);
	fake_outb(f, PLAT_I8042_DATA, 0xfe);
	fake_outb(f, PLAT_I8042_CMD, 0xff); /* pulses nothing */
	assert_int_equal(f->vm.event, VM_EVENT_NONE);
	fake_outb(f, PLAT_I8042_CMD, 0xfe);
	assert_int_equal(f->vm.event, VM_EVENT_REBOOT);
}

static void test_exit_port(void **state)
{
	struct fake_vm *f = *state;

	assert_int_equal(fake_inb(f, PLAT_EXIT_PORT), 0xff);
	assert_int_equal(f->vm.event, VM_EVENT_NONE);
	fake_outb(f, PLAT_EXIT_PORT, 42);
	assert_int_equal(f->vm.event, VM_EVENT_EXIT_CODE);
	assert_int_equal(f->vm.code, 42);
	/* The first request wins. */
	fake_outb(f, PLAT_EXIT_PORT, 0);
	assert_int_equal(f->vm.code, 42);
}

static void test_pvpanic(void **state)
{
	struct fake_vm *f = *state;

	assert_int_equal(fake_inb(f, PLAT_PVPANIC_PORT), PVPANIC_PANICKED | PVPANIC_CRASH_LOADED);
	fake_outb(f, PLAT_PVPANIC_PORT, 0);
	fake_outb(f, PLAT_PVPANIC_PORT, PVPANIC_CRASH_LOADED); /* its own kernel deals with it */
	assert_int_equal(f->vm.event, VM_EVENT_NONE);
	fake_outb(f, PLAT_PVPANIC_PORT, PVPANIC_PANICKED);
	assert_int_equal(f->vm.event, VM_EVENT_PANIC);
}

static void test_poweroff(void **state)
{
	struct fake_vm *f = *state;

	assert_int_equal(inw(f, PM1_CNT), 1); /* SCI_EN */
	outw(f, PM1_CNT, 0);
	assert_int_equal(inw(f, PM1_CNT), 1);
	/* Linux writes the type first, then type and SLP_EN. */
	outw(f, PM1_CNT, 1 | PLAT_S5_SLP_TYP << 10);
	assert_int_equal(inw(f, PM1_CNT), 1 | PLAT_S5_SLP_TYP << 10);
	assert_int_equal(f->vm.event, VM_EVENT_NONE);
	outw(f, PM1_CNT, 1 | 1 << 10 | SLP_EN); /* S-something else */
	assert_int_equal(f->vm.event, VM_EVENT_NONE);
	outw(f, PM1_CNT, 1 | PLAT_S5_SLP_TYP << 10 | SLP_EN);
	assert_int_equal(f->vm.event, VM_EVENT_POWEROFF);
	assert_int_equal(inw(f, PM1_CNT) & SLP_EN, 0); /* write-only */
}

static void test_poweroff_by_bytes(void **state)
{
	struct fake_vm *f = *state;

	fake_outb(f, PM1_CNT + 1, PLAT_S5_SLP_TYP << 2 | SLP_EN >> 8);
	assert_int_equal(f->vm.event, VM_EVENT_POWEROFF);
}

static void test_power_button(void **state)
{
	struct fake_vm *f = *state;

	f->vm.power_button(f->vm.power_button_arg);
	assert_int_equal(inw(f, PM1_STS), PWRBTN);
	assert_false(fake_line(f, PLAT_GSI_SCI)); /* not enabled yet */
	outw(f, PM1_EN, PWRBTN | 0x0020);
	assert_int_equal(inw(f, PM1_EN), PWRBTN | 0x0020);
	assert_true(fake_line(f, PLAT_GSI_SCI));
	/* Level: clearing another bit, or part of the register, does not end it. */
	outw(f, PM1_STS, (uint16_t)~PWRBTN);
	fake_outb(f, PM1_STS, 0xff);
	assert_true(fake_line(f, PLAT_GSI_SCI));
	outw(f, PM1_STS, PWRBTN);
	assert_false(fake_line(f, PLAT_GSI_SCI));
	assert_int_equal(inw(f, PM1_STS), 0);
	f->vm.power_button(f->vm.power_button_arg);
	assert_true(fake_line(f, PLAT_GSI_SCI));
	assert_int_equal(bus_read(&f->vm.pio, PM1_STS, 4), (PWRBTN | 0x20u) << 16 | PWRBTN);
}

static void test_reset(void **state)
{
	struct fake_vm *f = *state;

	outw(f, PM1_EN, PWRBTN);
	f->vm.power_button(f->vm.power_button_arg);
	assert_true(fake_line(f, PLAT_GSI_SCI));
	for (struct device *dev = f->vm.devices; dev; dev = dev->next)
		assert_int_equal(dev->cls->reset(dev, NULL), 0);
	assert_false(fake_line(f, PLAT_GSI_SCI));
	assert_int_equal(inw(f, PM1_STS), 0);
	assert_int_equal(inw(f, PM1_EN), 0);
	/* Still wired after it. */
	fake_outb(f, PLAT_EXIT_PORT, 1);
	assert_int_equal(f->vm.event, VM_EVENT_EXIT_CODE);
}

static void test_state(void **state)
{
	struct fake_vm *f = *state;
	const struct device *pm = f->vm.devices; /* the one made last */

	outw(f, PM1_EN, PWRBTN);
	outw(f, PM1_CNT, 5 << 10);
	f->vm.power_button(f->vm.power_button_arg);
	for (struct device *dev = f->vm.devices; dev; dev = dev->next)
		state_check_roundtrip(dev->id, dev->state, dev->nstate);
	assert_string_equal(pm->cls->name, "acpi-pm");
	state_check_refuses(pm->id, pm->state, pm->nstate, "/acpi-pm", "en", 0x8000,
			    "pm0/acpi-pm: sts, en or cnt");
	state_check_refuses(pm->id, pm->state, pm->nstate, "/acpi-pm", "sci", 2, "too large");
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_i8042_reset),	   T(test_exit_port),	 T(test_pvpanic), T(test_poweroff),
		T(test_poweroff_by_bytes), T(test_power_button), T(test_reset),	  T(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
