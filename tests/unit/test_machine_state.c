/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_machine_state.c - a machine's state out of the real KVM and into another machine. Two vcpus
 * compute in ring 3 with general and vector registers and talk to a port; they are stopped at
 * random moments, moved, and go on: every instruction and every access must have been executed
 * once. Threads: the test's and the vcpus'.
 */
#include "machine_state_env.h"

#include <sys/ioctl.h>

static void test_compute(void **state)
{
	uint64_t seed = (uint64_t)time(NULL) | 1, done[CPUS] = { 0 };
	struct box *b;

	(void)state;
	need_kvm();
	print_message("seed %llu\n", (unsigned long long)seed);
	b = box_new(&usual);
	enter_compute(b);
	box_start(b);
	for (unsigned int i = 0; i < MOVES; i++) {
		vcpus_unpark(&b->cpus);
		sleep_us((unsigned int)(random_next(&seed) % 3000));
		assert_int_equal(vcpus_park(&b->cpus), 0);
		assert_int_equal(b->f->vm.event, VM_EVENT_NONE);
		b = move(b);
		for (unsigned int cpu = 0; cpu < CPUS; cpu++)
			check_compute(b, cpu);
	}
	for (unsigned int cpu = 0; cpu < CPUS; cpu++) {
		done[cpu] = b->counter->read[cpu];
		print_message("vcpu %u: %llu accesses\n", cpu, (unsigned long long)done[cpu]);
		assert_true(done[cpu] > MOVES);
	}
	box_free(b);
}

static void set_lapic(struct box *b, unsigned int cpu)
{
	struct kvm_lapic_state l;

	assert_int_equal(kvm_vcpu_get_lapic(b->cpus.cpus[cpu].fd, &l), 0);
	memcpy(&l.regs[LAPIC_SVR], &(uint32_t){ SVR_ENABLED }, 4);
	assert_int_equal(kvm_vcpu_set_lapic(b->cpus.cpus[cpu].fd, &l), 0);
}

static uint32_t mp_state(struct box *b, unsigned int cpu)
{
	uint32_t s;

	assert_int_equal(kvm_vcpu_get_mp_state(b->cpus.cpus[cpu].fd, &s), 0);
	return s;
}

static void signal_msi(struct box *b)
{
	struct kvm_msi msi = { .address_lo = MSI_ADDRESS, .data = VECTOR };

	assert_true(ioctl(b->f->vm.kvm.vm_fd, KVM_SIGNAL_MSI, &msi) >= 0);
}

/*
 * vcpu 0 waits in hlt, vcpu 1 for a start-up IPI. Both still do after a move; an interrupt that
 * came while the machine was stopped is not lost, and one that comes afterwards wakes as well.
 */
static void test_halted(void **state)
{
	struct box *b;

	(void)state;
	need_kvm();
	b = box_new(&usual);
	write_tables(b);
	assert_int_equal(gmem_write(&b->f->vm.mem, CODE, halt, sizeof(halt)), 0);
	assert_int_equal(gmem_write(&b->f->vm.mem, CODE + sizeof(halt), handler, sizeof(handler)),
			 0);
	set_lapic(b, 0);
	enter(b, 0, 0, (struct kvm_regs){ .rip = CODE });
	assert_int_equal(kvm_vcpu_set_mp_state(b->cpus.cpus[1].fd, KVM_MP_STATE_UNINITIALIZED), 0);
	box_start(b);
	vcpus_unpark(&b->cpus);
	for (unsigned int ms = 0; ms < 200; ms++)
		sleep_us(1000);
	assert_int_equal(vcpus_park(&b->cpus), 0);
	assert_int_equal(mp_state(b, 0), KVM_MP_STATE_HALTED);
	assert_int_equal(mp_state(b, 1), KVM_MP_STATE_UNINITIALIZED);
	b = move(b);
	assert_int_equal(mp_state(b, 0), KVM_MP_STATE_HALTED);
	assert_int_equal(mp_state(b, 1), KVM_MP_STATE_UNINITIALIZED);
	for (unsigned int i = 1; i <= 5; i++) {
		/* Stopped: it waits in the local APIC, and travels there. */
		signal_msi(b);
		b = move(b);
		vcpus_unpark(&b->cpus);
		await_cell(b, 1, 2 * i - 1);
		await_cell(b, 0, 2 * i - 1);
		signal_msi(b);
		await_cell(b, 1, 2 * i);
		await_cell(b, 0, 2 * i);
		assert_int_equal(vcpus_park(&b->cpus), 0);
	}
	assert_int_equal(mp_state(b, 1), KVM_MP_STATE_UNINITIALIZED);
	box_free(b);
}

/* Some software KVMs show the host's counter as it is. */
static bool tsc_is_virtual(struct box *b)
{
	struct kvm_msr_entry e = { .index = 0x10, .data = 1ull << 60 };
	uint32_t refused;

	assert_int_equal(kvm_vcpu_set_msrs(b->cpus.cpus[0].fd, &e, 1, &refused, 1), 0);
	assert_int_equal(kvm_vcpu_get_msrs(b->cpus.cpus[0].fd, &e, 1), 1);
	return e.data >> 60;
}

/* Neither kvm-clock nor the counters jump, although the second machine is much younger. */
static void test_clock(void **state)
{
	struct kvm_msr_entry tsc[CPUS] = { { .index = 0x10 }, { .index = 0x10 } };
	uint64_t before, clock_before = 0, clock_after = 0, khz;
	struct parts ps = { 0 };
	struct box *a, *b;
	uint32_t rate;
	bool virtual;

	(void)state;
	need_kvm();
	a = box_new(&usual);
	sleep_us(300000);
	assert_int_equal(kvm_vcpu_get_tsc_khz(a->cpus.cpus[0].fd, &rate), 0);
	khz = rate;
	assert_int_equal(kvm_vcpu_get_msrs(a->cpus.cpus[0].fd, tsc, 1), 1);
	before = tsc[0].data;
	if (a->f->vm.kvm.has_clock)
		assert_int_equal(kvm_get_clock(&a->f->vm.kvm, &clock_before), 0);
	save(a, &ps);
	b = box_new(&usual);
	virtual = tsc_is_virtual(b);
	sleep_us(100000);
	load(b, &ps);
	for (unsigned int i = 0; i < CPUS && virtual; i++) {
		assert_int_equal(kvm_vcpu_get_msrs(b->cpus.cpus[i].fd, &tsc[i], 1), 1);
		/* The time of the save and of the load, but not what was in between. */
		assert_in_range(tsc[i].data, before, before + 50 * khz);
	}
	if (b->f->vm.kvm.has_clock) {
		assert_int_equal(kvm_get_clock(&b->f->vm.kvm, &clock_after), 0);
		assert_in_range(clock_after, clock_before, clock_before + 50000000);
	}
	parts_free(&ps);
	box_free(a);
	box_free(b);
}

/* The chips' registers, and a request for a reset that had not begun. */
static void test_chips(void **state)
{
	struct parts ps = { 0 };
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC }, pic = { .chip_id = 1 };
	struct kvm_pit_state2 pit;
	struct box *a, *b;

	(void)state;
	need_kvm();
	a = box_new(&usual);
	b = box_new(&usual);
	assert_int_equal(kvm_get_irqchip(&a->f->vm.kvm, &chip), 0);
	chip.chip.ioapic.redirtbl[7].bits = 0x0300000000018033;
	chip.chip.ioapic.ioregsel = 0x1e;
	assert_int_equal(kvm_set_irqchip(&a->f->vm.kvm, &chip), 0);
	assert_int_equal(kvm_get_irqchip(&a->f->vm.kvm, &pic), 0);
	pic.chip.pic.imr = 0xa5;
	pic.chip.pic.irq_base = 0x70;
	assert_int_equal(kvm_set_irqchip(&a->f->vm.kvm, &pic), 0);
	assert_int_equal(kvm_get_pit(&a->f->vm.kvm, &pit), 0);
	pit.channels[2].count = 0x4321;
	pit.channels[2].mode = 3;
	assert_int_equal(kvm_set_pit(&a->f->vm.kvm, &pit), 0);
	a->f->vm.event = VM_EVENT_REBOOT;
	save(a, &ps);
	load(b, &ps);
	memset(&chip.chip, 0, sizeof(chip.chip));
	memset(&pic.chip, 0, sizeof(pic.chip));
	assert_int_equal(kvm_get_irqchip(&b->f->vm.kvm, &chip), 0);
	assert_int_equal(chip.chip.ioapic.redirtbl[7].bits, 0x0300000000018033);
	assert_int_equal(chip.chip.ioapic.ioregsel, 0x1e);
	assert_int_equal(kvm_get_irqchip(&b->f->vm.kvm, &pic), 0);
	assert_int_equal(pic.chip.pic.imr, 0xa5);
	assert_int_equal(pic.chip.pic.irq_base, 0x70);
	assert_int_equal(kvm_get_pit(&b->f->vm.kvm, &pit), 0);
	assert_int_equal(pit.channels[2].count, 0x4321);
	assert_int_equal(pit.channels[2].mode, 3);
	assert_int_equal(b->f->vm.event, VM_EVENT_REBOOT);
	parts_free(&ps);
	box_free(a);
	box_free(b);
}
int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clock),
		cmocka_unit_test(test_chips),
		cmocka_unit_test(test_compute),
		cmocka_unit_test(test_halted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
