/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_doorbells_kvm.c - doorbells on the real KVM: two vcpus in ring 3 ring those of a vdev, by a
 * mapped page, an eventfd and a trap, and when the memory behind the page goes away. The guest is
 * twenty bytes of code. Threads: the test's and the vcpus'.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <unvmm/boot.h>
#include <unvmm/platform.h>
#include <unvmm/vcpu.h>

#include "fake_vdev.h"

#define V1	VIRTIO_BIT(VIRTIO_F_VERSION_1)
#define CPUS	2 /* each rings the queue of its number */
#define RINGS	1000
#define CODE	0x100000
#define CELLS	0x200000 /* of each vcpu one page: what it shall ring, what it has rung */
#define WAIT_MS 30000

/* Page table and segment bits: Intel SDM vol. 3A, 4.5 and 3.4.5. */
#define PTE_TABLE 0x07 /* present, writable, ring 3 */
#define PTE_2M	  0x87
#define PTE_UC	  0x18
#define CODE3	  0x23
#define DATA3	  0x1b

extern const struct device_class pci_host_class;

struct fixture {
	struct fake_vm *f;
	struct fake_vdev *fv;
	struct vcpu_set cpus;
	int memory; /* behind the pages of the vdev */
	int eventfds[CPUS];
	uint32_t rung[CPUS];
};

/* The guest: whenever the number at (%rsi) changes it stores it to (%rdi), then to 4(%rsi). */
static const uint8_t guest[] = {
	0x31, 0xdb,	  /*	xor %ebx, %ebx */
	0xf3, 0x90,	  /* 1:	pause */
	0x8b, 0x06,	  /*	mov (%rsi), %eax */
	0x39, 0xd8,	  /*	cmp %ebx, %eax */
	0x74, 0xf8,	  /*	je 1b */
	0x89, 0xc3,	  /*	mov %eax, %ebx */
	0x66, 0x89, 0x07, /*	mov %ax, (%rdi) */
	0x89, 0x5e, 0x04, /*	mov %ebx, 4(%rsi) */
	0xeb, 0xee,	  /*	jmp 1b */
};

static void put64(struct fixture *x, gpa_t at, uint64_t v)
{
	assert_int_equal(gmem_write(&x->f->vm.mem, at, &v, sizeof(v)), 0);
}

/* Identity map of 4 GiB for ring 3, in 2 MiB pages. */
static void write_tables(struct fixture *x)
{
	gpa_t pdpt = PLAT_PAGE_TABLES + 0x1000, pd = PLAT_PAGE_TABLES + 0x2000;

	put64(x, PLAT_PAGE_TABLES, pdpt | PTE_TABLE);
	for (unsigned int i = 0; i < 4; i++)
		put64(x, pdpt + 8 * i, (pd + i * 0x1000) | PTE_TABLE);
	for (uint64_t i = 0; i < 4 * 512; i++)
		put64(x, pd + 8 * i,
		      i << 21 | PTE_2M | (i << 21 >= PLAT_PCI_MEM_BASE ? PTE_UC : 0));
	put64(x, PLAT_GDT + (DATA3 & ~7u), 0x00cff3000000ffff);
	put64(x, PLAT_GDT + (CODE3 & ~7u), 0x00affb000000ffff);
}

static struct kvm_segment ring3_segment(uint16_t selector, bool code)
{
	return (struct kvm_segment){ .limit = 0xffffffff,
				     .selector = selector,
				     .type = code ? 11 : 3,
				     .present = 1,
				     .dpl = 3,
				     .s = 1,
				     .g = 1,
				     .l = code,
				     .db = !code };
}

static void enter_ring3(struct fixture *x, unsigned int cpu, uint64_t doorbell)
{
	struct kvm_regs regs = { .rflags = 2, .rip = CODE, .rsp = CELLS - 16 };
	struct kvm_sregs sregs;
	int fd = x->cpus.cpus[cpu].fd;

	assert_int_equal(kvm_vcpu_get_sregs(x->cpus.cpus[0].fd, &sregs), 0);
	sregs.cs = ring3_segment(CODE3, true);
	sregs.ds = sregs.es = sregs.ss = ring3_segment(DATA3, false);
	if (cpu) {
		struct kvm_sregs own;

		assert_int_equal(kvm_vcpu_get_sregs(fd, &own), 0);
		sregs.apic_base = own.apic_base;
	}
	regs.rdi = doorbell;
	regs.rsi = CELLS + cpu * 0x1000;
	assert_int_equal(kvm_vcpu_set_sregs(fd, &sregs), 0);
	assert_int_equal(kvm_vcpu_set_regs(fd, &regs), 0);
	assert_int_equal(kvm_vcpu_set_mp_state(fd, KVM_MP_STATE_RUNNABLE), 0);
}

static uint64_t doorbell_at(const struct fake_vdev *fv, unsigned int q)
{
	return fv->vdev.transport->pci.bars[VP_BAR].base + VP_DOORBELLS + q * VP_DOORBELL_PAGE +
	       fv->vdev.queues[q].doorbell_offset;
}

static void make_pages(struct fixture *x)
{
	x->memory = memfd_create("doorbells", MFD_CLOEXEC);
	assert_true(x->memory >= 0);
	assert_int_equal(ftruncate(x->memory, CPUS * VP_DOORBELL_PAGE), 0);
	x->fv->pages = mmap(NULL, CPUS * VP_DOORBELL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    x->memory, 0);
	assert_ptr_not_equal(x->fv->pages, MAP_FAILED);
}

static void make_machine(struct fixture *x, struct diag *d)
{
	struct boot_entry entry = { .mode = BOOT_LONG_MODE, .rip = CODE };
	struct vm *vm = &x->f->vm;

	if (gmem_create(&vm->mem, PLAT_RAM_MIN, GMEM_SHARED, d) ||
	    kvm_add_ram(&vm->kvm, &vm->mem, d) || kvm_create_irqchip(&vm->kvm, false, d) ||
	    irq_init(&vm->irq, &vm->kvm, d))
		fail_msg("%s", d->text);
	fake_vm_add(x->f, &pci_host_class, NULL);
	write_tables(x);
	assert_int_equal(gmem_write(&vm->mem, CODE, guest, sizeof(guest)), 0);
	x->fv = fake_vdev_new(vm, CPUS, V1, d);
	if (!x->fv || vcpus_create(&x->cpus, vm, CPUS, d) || vcpus_reset(&x->cpus, &entry, d))
		fail_msg("%s", d->text);
	vm->vcpus = &x->cpus;
}

static int setup(void **state)
{
	static struct fixture x;
	struct diag d = { 0 };

	x = (struct fixture){ .f = fake_vm_new("none") };
	*state = &x;
	if (kvm_open(&x.f->vm.kvm, NULL, &d)) {
		print_message("%s\n", d.text);
		return 0; /* the tests are skipped */
	}
	make_machine(&x, &d);
	make_pages(&x);
	for (unsigned int q = 0; q < CPUS; q++) {
		x.fv->way[q] = DOORBELL_MAPPED;
		x.eventfds[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		assert_true(x.eventfds[q] >= 0);
		x.fv->doorbell_fds[q] = x.eventfds[q];
	}
	vd_drive(x.fv, V1);
	for (unsigned int i = 0; i < CPUS; i++)
		enter_ring3(&x, i, doorbell_at(x.fv, i));
	if (vcpus_start(&x.cpus, &d))
		fail_msg("%s", d.text);
	vcpus_unpark(&x.cpus);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	if (x->fv) {
		vcpus_destroy(&x->cpus);
		x->f->vm.vcpus = NULL;
		for (unsigned int q = 0; q < CPUS; q++)
			close(x->eventfds[q]);
		munmap(x->fv->pages, CPUS * VP_DOORBELL_PAGE);
		close(x->memory);
		fake_vdev_free(x->fv);
	}
	fake_vm_free(x->f);
	return 0;
}

/* --- what the guest is told to do, and what came of it --------------------------------------- */

static uint32_t *cell(struct fixture *x, unsigned int cpu, unsigned int n)
{
	return (uint32_t *)gmem_ptr(&x->f->vm.mem, CELLS + cpu * 0x1000, 8) + n;
}

static void tell(struct fixture *x, unsigned int cpu)
{
	__atomic_store_n(cell(x, cpu, 0), ++x->rung[cpu], __ATOMIC_RELEASE);
}

static bool failed(struct fixture *x)
{
	bool r;

	vm_lock(&x->f->vm);
	r = x->f->vm.event != VM_EVENT_NONE;
	vm_unlock(&x->f->vm);
	return r;
}

static void pass(void)
{
	struct timespec ts = { .tv_nsec = 20000 };

	nanosleep(&ts, NULL);
}

static void await(struct fixture *x, unsigned int cpu)
{
	struct timespec start, now;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (;;) {
		if (__atomic_load_n(cell(x, cpu, 1), __ATOMIC_ACQUIRE) == x->rung[cpu])
			return;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - start.tv_sec > WAIT_MS / 1000)
			fail_msg("vcpu %u does not ring: %s", cpu, x->f->vm.error.text);
		pass();
	}
}

static void ring(struct fixture *x, unsigned int cpu)
{
	tell(x, cpu);
	await(x, cpu);
}

static uint64_t exits(struct fixture *x)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < CPUS; i++)
		n += __atomic_load_n(&x->cpus.cpus[i].exits, __ATOMIC_RELAXED);
	return n;
}

static unsigned int kicks(struct fixture *x, unsigned int q)
{
	unsigned int n;

	vm_lock(&x->f->vm);
	n = x->fv->kicks[q];
	vm_unlock(&x->f->vm);
	return n;
}

static unsigned int faults(struct fixture *x)
{
	unsigned int n;

	vm_lock(&x->f->vm);
	n = x->fv->faults;
	vm_unlock(&x->f->vm);
	return n;
}

static uint64_t signals(struct fixture *x, unsigned int q)
{
	uint64_t n = 0;

	return read(x->eventfds[q], &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static uint16_t stored(struct fixture *x, unsigned int q)
{
	return *(volatile uint16_t *)(x->fv->pages + q * VP_DOORBELL_PAGE +
				      x->fv->vdev.queues[q].doorbell_offset);
}

static void rewire(struct fixture *x, enum doorbell_kind way)
{
	vm_lock(&x->f->vm);
	for (unsigned int q = 0; q < CPUS; q++)
		x->fv->way[q] = way;
	virtio_pci_rewire(&x->fv->vdev);
	vm_unlock(&x->f->vm);
}

#define need_kvm(x)             \
	do {                    \
		if (!(x)->fv)   \
			skip(); \
	} while (0)

/* --- tests ----------------------------------------------------------------------------------- */

/* The store of a 16-bit doorbell is in the device's memory, and nobody left the guest for it. */
static void test_mapped(void **state)
{
	struct fixture *x = *state;
	uint64_t before;

	need_kvm(x);
	ring(x, 0);
	ring(x, 1);
	before = exits(x);
	for (unsigned int i = 0; i < RINGS; i++) {
		ring(x, i % CPUS);
		assert_int_equal(stored(x, i % CPUS), x->rung[i % CPUS]);
	}
	assert_int_equal(exits(x), before);
	assert_int_equal(kicks(x, 0) + kicks(x, 1), 0);
	assert_int_equal(signals(x, 0) + signals(x, 1), 0);
}

/* Each way after each other way, while the vcpus run. */
static void test_rewire(void **state)
{
	static const enum doorbell_kind ways[] = { DOORBELL_EVENTFD, DOORBELL_TRAP,
						   DOORBELL_MAPPED,  DOORBELL_TRAP,
						   DOORBELL_EVENTFD, DOORBELL_MAPPED };
	struct fixture *x = *state;

	need_kvm(x);
	for (unsigned int i = 0; i < ARRAY_SIZE(ways); i++) {
		unsigned int was_kicked, kicked, signalled;
		uint16_t was_stored = stored(x, 1);
		uint64_t before;

		rewire(x, ways[i]);
		was_kicked = kicks(x, 1);
		before = exits(x);
		for (unsigned int n = 0; n < 10; n++)
			ring(x, 1);
		kicked = kicks(x, 1) - was_kicked;
		signalled = (unsigned int)signals(x, 1);
		assert_int_equal(kicked, ways[i] == DOORBELL_TRAP ? 10 : 0);
		assert_int_equal(signalled, ways[i] == DOORBELL_EVENTFD ? 10 : 0);
		assert_int_equal(stored(x, 1),
				 ways[i] == DOORBELL_MAPPED ? x->rung[1] : was_stored);
		assert_int_equal(exits(x) - before, kicked);
	}
}

/* The guest takes decode away and gives it back: what it stores in between is nobody's. */
static void test_decode_off(void **state)
{
	struct fixture *x = *state;
	uint32_t last;

	need_kvm(x);
	ring(x, 0);
	last = x->rung[0];
	vm_lock(&x->f->vm);
	vd_config_write(x->fv, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	vm_unlock(&x->f->vm);
	ring(x, 0);
	assert_int_equal(stored(x, 0), last);
	assert_int_equal(kicks(x, 0), 0);
	vm_lock(&x->f->vm);
	vd_decode(x->fv);
	vm_unlock(&x->f->vm);
	ring(x, 0);
	assert_int_equal(stored(x, 0), x->rung[0]);
}

/* Both vcpus stumble at once over what was taken away: they trap, and the VM lives. */
static void test_memory_goes_away(void **state)
{
	struct fixture *x = *state;

	need_kvm(x);
	x->fv->doorbell_fds[0] = -1; /* nothing below the page */
	rewire(x, DOORBELL_MAPPED);
	for (unsigned int i = 0; i < CPUS; i++)
		ring(x, i);
	assert_int_equal(ftruncate(x->memory, 0), 0);
	for (unsigned int i = 0; i < CPUS; i++)
		tell(x, i);
	for (unsigned int i = 0; i < CPUS; i++)
		await(x, i);
	assert_false(failed(x));
	assert_int_equal(faults(x), 1);
	assert_int_equal(kicks(x, 0), 1);
	assert_int_equal(signals(x, 1), 1);
	/* And it is there again: the vdev's driver has looked after it. */
	assert_int_equal(ftruncate(x->memory, CPUS * VP_DOORBELL_PAGE), 0);
	rewire(x, DOORBELL_MAPPED);
	for (unsigned int i = 0; i < CPUS; i++) {
		ring(x, i);
		assert_int_equal(stored(x, i), x->rung[i]);
	}
	assert_int_equal(kicks(x, 0), 1);
}

/* A vdev that maps again what is not there: the guest goes on by another way in the end. */
static void test_memory_stays_away(void **state)
{
	struct fixture *x = *state;

	need_kvm(x);
	x->fv->rewires_on_fault = true;
	rewire(x, DOORBELL_MAPPED);
	ring(x, 0);
	assert_int_equal(ftruncate(x->memory, 0), 0);
	ring(x, 0);
	ring(x, 1);
	assert_false(failed(x));
	assert_int_equal(faults(x), VDEV_DOORBELL_FAULTS);
	assert_int_equal(signals(x, 0), 1);
	assert_int_equal(signals(x, 1), 1);
}

/* Memory that nobody can give up is the guest's own: then the VM ends, as it always did. */
static void test_ram_goes_away(void **state)
{
	struct fixture *x = *state;
	struct timespec start, now;
	int slot;

	need_kvm(x);
	rewire(x, DOORBELL_TRAP);
	vm_lock(&x->f->vm);
	slot = slots_map(&x->f->vm.slots, align_down(doorbell_at(x->fv, 0), VP_DOORBELL_PAGE),
			 x->fv->pages);
	vm_unlock(&x->f->vm);
	assert_true(slot >= 0);
	ring(x, 0);
	assert_int_equal(stored(x, 0), x->rung[0]);
	assert_int_equal(ftruncate(x->memory, 0), 0);
	tell(x, 0);
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		pass();
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (!failed(x) && now.tv_sec - start.tv_sec < WAIT_MS / 1000);
	assert_int_equal(x->f->vm.event, VM_EVENT_ERROR);
	assert_non_null(strstr(x->f->vm.error.text, "KVM cannot run the guest: Bad address"));
	assert_int_equal(faults(x), 0);
	vm_lock(&x->f->vm);
	assert_int_equal(slots_unmap(&x->f->vm.slots, slot,
				     align_down(doorbell_at(x->fv, 0), VP_DOORBELL_PAGE)),
			 0);
	vm_unlock(&x->f->vm);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(mapped),
		TEST(rewire),
		TEST(decode_off),
		TEST(memory_goes_away),
		TEST(memory_stays_away),
		TEST(ram_goes_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
