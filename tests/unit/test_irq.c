/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_irq.c - the GSI routes as they would be given to KVM, without KVM. One thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include <unvmm/irq.h>
#include <unvmm/kvm.h>
#include <unvmm/platform.h>

static struct irq irq;

static int setup(void **state)
{
	(void)state;
	return irq_init(&irq, NULL, NULL);
}

static int teardown(void **state)
{
	(void)state;
	irq_fini(&irq);
	irq_fini(&irq);
	return 0;
}

static unsigned int routes_of(uint32_t gsi, unsigned int chip, unsigned int *pin)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < irq.table->nr; i++) {
		const struct kvm_irq_routing_entry *e = &irq.table->entries[i];

		if (e->gsi != gsi || e->type != KVM_IRQ_ROUTING_IRQCHIP ||
		    e->u.irqchip.irqchip != chip)
			continue;
		*pin = e->u.irqchip.pin;
		n++;
	}
	return n;
}

/* The wiring of a PC, and the MADT's override: GSI 0 on pin 2. */
static void test_lines(void **state)
{
	unsigned int pin = 99;

	(void)state;
	for (unsigned int gsi = 0; gsi < 24; gsi++) {
		assert_int_equal(routes_of(gsi, KVM_IRQCHIP_IOAPIC, &pin), gsi != 2);
		if (gsi != 2)
			assert_int_equal(pin, gsi ? gsi : 2);
		assert_int_equal(routes_of(gsi, KVM_IRQCHIP_PIC_MASTER, &pin), gsi < 8 && gsi != 2);
		assert_int_equal(routes_of(gsi, KVM_IRQCHIP_PIC_SLAVE, &pin), gsi >= 8 && gsi < 16);
	}
	irq_line(&irq, 4, true);
	irq_line(&irq, 9, true);
	irq_line(&irq, 9, true);
	assert_int_equal(irq.lines, 1 << 4 | 1 << 9);
	irq_line(&irq, 9, false);
	assert_int_equal(irq.lines, 1 << 4);
}

static unsigned int msi_routes(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < irq.table->nr; i++)
		n += irq.table->entries[i].type == KVM_IRQ_ROUTING_MSI;
	return n;
}

static void test_alloc_all(void **state)
{
	const unsigned int lines = irq.table->nr;

	(void)state;
	for (int i = 0; i < IRQ_MSI_MAX; i++) {
		int gsi = irq_msi_alloc(&irq);

		assert_int_equal(gsi, PLAT_GSI_MSI_FIRST + i);
		irq_msi_set(&irq, gsi, 0xfee00000 + (uint64_t)i * 0x1000, (uint32_t)i);
	}
	assert_int_equal(irq_msi_alloc(&irq), -ENOSPC);
	assert_int_equal(msi_routes(), IRQ_MSI_MAX);
	/* A freed one is given out again; its old message is gone, the others' are not. */
	irq_msi_free(&irq, PLAT_GSI_MSI_FIRST + 1000);
	assert_int_equal(msi_routes(), IRQ_MSI_MAX - 1);
	assert_int_equal(irq_msi_alloc(&irq), PLAT_GSI_MSI_FIRST + 1000);
	assert_int_equal(irq_msi_alloc(&irq), -ENOSPC);
	for (unsigned int i = 0; i < irq.table->nr; i++) {
		const struct kvm_irq_routing_entry *e = &irq.table->entries[i];

		assert_true(e->type != KVM_IRQ_ROUTING_MSI ||
			    e->u.msi.data == e->gsi - PLAT_GSI_MSI_FIRST);
	}
	for (int i = 0; i < IRQ_MSI_MAX; i++)
		irq_msi_free(&irq, PLAT_GSI_MSI_FIRST + i);
	assert_int_equal(irq.table->nr, lines);
	assert_int_equal(irq_msi_alloc(&irq), PLAT_GSI_MSI_FIRST);
}

static void test_commit_only_changes(void **state)
{
	int gsi = irq_msi_alloc(&irq);

	(void)state;
	assert_int_equal(irq_commit(&irq), 0);
	assert_false(irq.changed);
	irq_msi_set(&irq, gsi, 0x1fee00000, 0x41);
	assert_true(irq.changed);
	assert_int_equal(irq_commit(&irq), 0);
	irq_msi_set(&irq, gsi, 0x1fee00000, 0x41); /* the same */
	assert_false(irq.changed);
	irq_msi_set(&irq, gsi, 0xfee00000, 0x41);
	assert_true(irq.changed);
	assert_int_equal(irq_commit(&irq), 0);
	irq_msi_set(&irq, gsi, 0xfee00000, 0x42);
	assert_true(irq.changed);
	assert_int_equal(irq_commit(&irq), 0);
	assert_int_equal(msi_routes(), 1);
	irq_msi_free(&irq, gsi);
	assert_true(irq.changed);
}

/* Nothing reaches KVM (there is no VM: it would refuse) before all of it does. */
static void test_collect(void **state)
{
	struct kvm none = { .fd = -1, .vm_fd = -1 };
	int gsi = irq_msi_alloc(&irq);

	(void)state;
	irq.kvm = &none;
	irq_collect(&irq);
	irq_msi_set(&irq, gsi, 0xfee00000, 0x41);
	assert_int_equal(irq_commit(&irq), 0);
	assert_int_equal(irq_attach(&irq, 3, gsi), 0);
	assert_int_equal(irq_attach(&irq, 4, gsi), 0);
	irq_detach(&irq, 3, gsi);
	assert_int_equal(irq.nattaching, 1);
	assert_true(irq.changed);
	assert_int_equal(irq_apply(&irq), -EBADF);
	assert_int_equal(irq.nattaching, 0);
	/* The routes are in KVM already: it is the attachment that is refused. */
	irq_collect(&irq);
	irq.changed = false;
	assert_int_equal(irq_attach(&irq, 3, gsi), 0);
	assert_int_equal(irq_apply(&irq), -EBADF);
	irq.kvm = NULL;
	irq_collect(&irq);
	assert_int_equal(irq_attach(&irq, 3, gsi), 0);
	assert_int_equal(irq_apply(&irq), 0);
	assert_int_equal(irq.nattaching, 0);
}

/* A KVM that refuses (no VM at all): the error is told, and the change stays to be made. */
static void test_refused(void **state)
{
	struct kvm none = { .fd = -1, .vm_fd = -1 };
	int gsi = irq_msi_alloc(&irq);

	(void)state;
	irq.kvm = &none;
	irq_msi_set(&irq, gsi, 0xfee00000, 0x41);
	assert_int_equal(irq_commit(&irq), -EBADF);
	assert_true(irq.changed);
	assert_int_equal(irq_attach(&irq, 0, gsi), -EBADF);
	irq_detach(&irq, 0, gsi);
	irq_line(&irq, 4, true); /* nothing to be done about it */
	assert_int_equal(irq.lines, 1 << 4);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(lines),   TEST(alloc_all), TEST(commit_only_changes),
		TEST(collect), TEST(refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
