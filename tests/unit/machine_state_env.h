/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine_state_env.h - machines with ring-3 guests that are moved from one to the other within a
 * process: what the tests of machine_state.h share. Included once by each program.
 */
#ifndef UNVMM_TESTS_MACHINE_STATE_ENV_H
#define UNVMM_TESTS_MACHINE_STATE_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <unvmm/machine_state.h>
#include <unvmm/platform.h>
#include <unvmm/state_io.h>
#include <unvmm/vcpu_migrate.h>

#include "fake_kvm.h"
#include "fake_vm.h"
#include "ram.h"
#include "state_equal.h"

#define CPUS	  2
#define MOVES	  100
#define CODE	  0x100000
#define CELLS	  0x200000 /* of each vcpu one page */
#define STACKS	  0x300000
#define IDT	  0x400000
#define PORT	  0x520 /* and four further for each vcpu */
#define PARTS_MAX 16
#define VECTOR	  0x41
#define WAIT_MS	  30000

/* Page table, segment and control register bits: Intel SDM vol. 3A, 4.5, 3.4.5 and 2.5. */
#define PTE_TABLE   0x07 /* present, writable, ring 3 */
#define PTE_2M	    0x87
#define CODE0	    0x08
#define DATA0	    0x10
#define DATA3	    0x1b
#define CODE3	    0x23
#define RFLAGS_IF   0x200
#define RFLAGS_IOPL 0x3000
#define CR0_LONG    0x80010011ull
#define CR4_SSE	    0x620ull /* PAE, OSFXSR, OSXMMEXCPT */
#define EFER_LONG   0x500ull
#define LAPIC_SVR   0xf0
#define SVR_ENABLED 0x1ff
#define MSI_ADDRESS 0xfee00000ull

#define FACTOR 6364136223846793005ull
#define PERIOD 4096 /* steps of the computation between two port accesses */

extern const struct device_class pci_host_class, rtc_class, serial_class, acpi_pm_class;

/*
 * The guest. rax, rdx: ports. rbx = rbx * r8 + r9, xmm0 += xmm1, rcx counts; every PERIOD steps rbx
 * is written to the port and r10 takes in what the port says.
 */
static const uint8_t compute[] = {
	0x66, 0x49, 0x0f, 0x6e, 0xcb,		  /* 0	movq %r11, %xmm1 */
	0x49, 0x0f, 0xaf, 0xd8,			  /* 5	1: imul %r8, %rbx */
	0x4c, 0x01, 0xcb,			  /* 9	add %r9, %rbx */
	0x66, 0x0f, 0xd4, 0xc1,			  /* 12 paddq %xmm1, %xmm0 */
	0x48, 0xff, 0xc1,			  /* 16 inc %rcx */
	0x48, 0x89, 0x0f,			  /* 19 mov %rcx, (%rdi) */
	0x48, 0xf7, 0xc1, 0xff, 0x0f, 0x00, 0x00, /* 22 test $0xfff, %rcx */
	0x75, 0xe6,				  /* 29 jne 1b */
	0x89, 0xd8,				  /* 31 mov %ebx, %eax */
	0xef,					  /* 33 out %eax, %dx */
	0xed,					  /* 34 in %dx, %eax */
	0x49, 0x01, 0xc2,			  /* 35 add %rax, %r10 */
	0xeb, 0xdd,				  /* 38 jmp 1b */
};
enum { AT_LOOP = 5, AT_ADD = 9, AT_PADD = 12, AT_INC = 16, AT_COUNTED = 19 };

/* Ring 0: waits for an interrupt with hlt, counts it, waits again. */
static const uint8_t halt[] = {
	0xfb,		  /* 0	1: sti */
	0xf4,		  /* 1	hlt */
	0x48, 0xff, 0x07, /* 2	incq (%rdi) */
	0xeb, 0xf9,	  /* 5	jmp 1b */
};
static const uint8_t handler[] = {
	0x50,				    /* push %rax */
	0xb8, 0x00, 0x00, 0xe0, 0xfe,	    /* mov $0xfee00000, %eax */
	0xc7, 0x80, 0xb0, 0x00, 0x00, 0x00, /* movl $0, 0xb0(%rax): EOI */
	0x00, 0x00, 0x00, 0x00,		    /* */
	0x48, 0xff, 0x47, 0x08,		    /* incq 8(%rdi) */
	0x58,				    /* pop %rax */
	0x48, 0xcf,			    /* iretq */
};

/* --- the device behind the ports ---------------------------------------------------------------
 */

struct counter {
	uint64_t written[CPUS], last[CPUS], read[CPUS];
};

static inline uint64_t counter_read(void *dev, uint64_t offset, unsigned int len)
{
	struct counter *c = dev;

	(void)len;
	return ++c->read[offset / 4];
}

static inline void counter_write(void *dev, uint64_t offset, unsigned int len, uint64_t value)
{
	struct counter *c = dev;

	(void)len;
	c->written[offset / 4]++;
	c->last[offset / 4] = value;
}

static const struct bus_ops counter_ops = { .read = counter_read, .write = counter_write };

static const struct state_field counter_fields[] = {
	STATE_SCALAR(STATE_U64, struct counter, written),
	STATE_SCALAR(STATE_U64, struct counter, last),
	STATE_SCALAR(STATE_U64, struct counter, read),
};

static const struct state_desc counter_desc = {
	.name = "counter",
	.version = 1,
	.obj_size = sizeof(struct counter),
	.fields = counter_fields,
	.nfields = ARRAY_SIZE(counter_fields),
};

struct counter_dev {
	struct counter c;
	struct state_ref ref;
};

static inline int counter_create(struct vm *vm, struct device *dev, const void *conf,
				 struct diag *d)
{
	struct counter_dev *cd = calloc(1, sizeof(*cd));

	(void)conf;
	(void)d;
	assert_non_null(cd);
	cd->ref = (struct state_ref){ .desc = &counter_desc, .obj = &cd->c };
	dev->priv = cd;
	dev->state = &cd->ref;
	dev->nstate = 1;
	return bus_add(&vm->pio, PORT, 4 * CPUS, &counter_ops, &cd->c, "counter");
}

static inline void counter_destroy(struct device *dev)
{
	free(dev->priv);
}

static const struct device_class counter_class = {
	.name = "counter", .id = "counter", .create = counter_create, .destroy = counter_destroy
};

static const struct device_class stateless_class = { .name = "stateless", .id = "stateless" };

/* --- machines ----------------------------------------------------------------------------------
 */

struct box {
	struct fake_vm *f;
	struct vcpu_set cpus;
	struct counter *counter;
};

struct shape {
	uint64_t memory;
	unsigned int cpus;
	bool pit, no_rtc, no_serial;
};

static const struct shape usual = { .memory = PLAT_RAM_MIN, .cpus = CPUS, .pit = true };

static inline void put64(struct box *b, gpa_t at, uint64_t v)
{
	assert_int_equal(gmem_write(&b->f->vm.mem, at, &v, sizeof(v)), 0);
}

/* Where its threads find it, so it does not move itself. */
static inline struct box *box_new(const struct shape *s)
{
	struct box *b = calloc(1, sizeof(*b));
	struct diag d = { 0 };
	struct vm *vm;

	assert_non_null(b);
	b->f = fake_vm_new("none");
	vm = &b->f->vm;
	b->f->config = (struct vm_config){
		.machine = (char *)"unvmm-1", .memory = s->memory, .vcpus = s->cpus, .pit = s->pit
	};
	if (kvm_open(&vm->kvm, NULL, &d))
		fail_msg("%s", d.text);
	if (gmem_create(&vm->mem, s->memory, GMEM_PRIVATE, &d) ||
	    kvm_add_ram(&vm->kvm, &vm->mem, &d) || kvm_create_irqchip(&vm->kvm, s->pit, &d) ||
	    irq_init(&vm->irq, &vm->kvm, &d))
		fail_msg("%s", d.text);
	fake_vm_add(b->f, &pci_host_class, NULL);
	if (!s->no_serial)
		fake_vm_add(b->f, &serial_class, NULL);
	if (!s->no_rtc)
		fake_vm_add(b->f, &rtc_class, NULL);
	fake_vm_add(b->f, &acpi_pm_class, NULL);
	b->counter = &((struct counter_dev *)fake_vm_add(b->f, &counter_class, NULL)->priv)->c;
	if (vcpus_create(&b->cpus, vm, s->cpus, &d))
		fail_msg("%s", d.text);
	vm->vcpus = &b->cpus;
	return b;
}

static inline void box_start(struct box *b)
{
	struct diag d = { 0 };

	if (vcpus_start(&b->cpus, &d))
		fail_msg("%s", d.text);
}

static inline void box_free(struct box *b)
{
	vcpus_destroy(&b->cpus);
	b->f->vm.vcpus = NULL;
	fake_vm_free(b->f);
	free(b);
}

/* --- the guest ---------------------------------------------------------------------------------
 */

/* Identity map of 4 GiB for both rings, in 2 MiB pages; segments; one interrupt gate. */
static inline void write_tables(struct box *b)
{
	gpa_t pdpt = PLAT_PAGE_TABLES + 0x1000, pd = PLAT_PAGE_TABLES + 0x2000;
	uint64_t at = CODE + sizeof(halt);

	put64(b, PLAT_PAGE_TABLES, pdpt | PTE_TABLE);
	for (unsigned int i = 0; i < 4; i++)
		put64(b, pdpt + 8 * i, (pd + i * 0x1000) | PTE_TABLE);
	for (uint64_t i = 0; i < 4 * 512; i++)
		put64(b, pd + 8 * i, i << 21 | PTE_2M);
	put64(b, PLAT_GDT + CODE0, 0x00af9b000000ffff);
	put64(b, PLAT_GDT + DATA0, 0x00cf93000000ffff);
	put64(b, PLAT_GDT + (DATA3 & ~7u), 0x00cff3000000ffff);
	put64(b, PLAT_GDT + (CODE3 & ~7u), 0x00affb000000ffff);
	put64(b, IDT + 16 * VECTOR,
	      (at & 0xffff) | CODE0 << 16 | 0x8e00ull << 32 | (at >> 16 & 0xffff) << 48);
	put64(b, IDT + 16 * VECTOR + 8, 0);
}

static inline struct kvm_segment flat(uint16_t selector, bool code)
{
	return (struct kvm_segment){ .limit = 0xffffffff,
				     .selector = selector,
				     .type = code ? 11 : 3,
				     .present = 1,
				     .dpl = selector & 3,
				     .s = 1,
				     .g = 1,
				     .l = code,
				     .db = !code };
}

static inline void enter(struct box *b, unsigned int cpu, unsigned int ring, struct kvm_regs regs)
{
	struct kvm_sregs s;
	int fd = b->cpus.cpus[cpu].fd;

	assert_int_equal(kvm_vcpu_get_sregs(fd, &s), 0);
	s.cs = flat(ring ? CODE3 : CODE0, true);
	s.ds = s.es = s.ss = s.fs = s.gs = flat(ring ? DATA3 : DATA0, false);
	s.gdt = (struct kvm_dtable){ .base = PLAT_GDT, .limit = 5 * 8 - 1 };
	s.idt = (struct kvm_dtable){ .base = IDT, .limit = 4095 };
	s.tr = (struct kvm_segment){ .limit = 0xffff, .type = 11, .present = 1 };
	s.cr0 = CR0_LONG;
	s.cr3 = PLAT_PAGE_TABLES;
	s.cr4 = CR4_SSE;
	s.efer = EFER_LONG;
	regs.rsp = STACKS + (cpu + 1) * 0x1000;
	regs.rdi = CELLS + cpu * 0x1000;
	regs.rflags |= 2;
	assert_int_equal(kvm_vcpu_set_sregs(fd, &s), 0);
	assert_int_equal(kvm_vcpu_set_regs(fd, &regs), 0);
	assert_int_equal(kvm_vcpu_set_mp_state(fd, KVM_MP_STATE_RUNNABLE), 0);
}

static inline uint64_t addend(unsigned int cpu)
{
	return 2 * cpu + 1;
}

static inline uint64_t vector_step(unsigned int cpu)
{
	return 0x0123456789abcdefull + cpu;
}

static inline void enter_compute(struct box *b)
{
	write_tables(b);
	assert_int_equal(gmem_write(&b->f->vm.mem, CODE, compute, sizeof(compute)), 0);
	for (unsigned int i = 0; i < CPUS; i++)
		enter(b, i, 3,
		      (struct kvm_regs){ .rip = CODE,
					 .rflags = RFLAGS_IOPL,
					 .rdx = PORT + 4 * i,
					 .r8 = FACTOR,
					 .r9 = addend(i),
					 .r11 = vector_step(i) });
}

/* rbx after n steps: n is large, so by squaring the map x -> a x + c. */
static inline uint64_t after(uint64_t n, uint64_t c)
{
	uint64_t a = FACTOR, result = 0;

	for (; n; n >>= 1) {
		if (n & 1)
			result = a * result + c;
		c *= a + 1;
		a *= a;
	}
	return result;
}

/* The state at any instruction follows from how many steps are done. */
static inline void check_compute(struct box *b, unsigned int cpu)
{
	struct vcpu *c = &b->cpus.cpus[cpu];
	struct kvm_xsave *x = calloc(1, b->f->vm.kvm.xsave_size);
	uint64_t n, vector, rbx, at, accesses,
		*cell = gmem_ptr(&b->f->vm.mem, CELLS + cpu * 0x1000, 8);
	struct kvm_regs r;

	assert_non_null(x);
	assert_int_equal(kvm_vcpu_get_regs(c->fd, &r), 0);
	assert_int_equal(kvm_vcpu_get_xsave(&b->f->vm.kvm, c->fd, x), 0);
	at = r.rip - CODE;
	n = r.rcx;
	rbx = after(n + (at == AT_PADD || at == AT_INC), addend(cpu));
	if (at == AT_ADD)
		rbx *= FACTOR;
	assert_int_equal(r.rbx, rbx);
	memcpy(&vector, &x->region[40], 8); /* XMM0: SDM vol. 1, 10.5.1 */
	assert_int_equal(vector, (n + (at == AT_INC)) * vector_step(cpu));
	assert_int_equal(*cell, at == AT_COUNTED ? n - 1 : n);
	accesses = b->counter->written[cpu];
	assert_in_range(accesses, n ? (n - 1) / PERIOD : 0, n / PERIOD);
	assert_int_equal(b->counter->last[cpu], (uint32_t)after(accesses * PERIOD, addend(cpu)));
	assert_in_range(b->counter->read[cpu], accesses ? accesses - 1 : 0, accesses);
	accesses = b->counter->read[cpu];
	if (at <= AT_COUNTED) /* elsewhere the last one may be on its way from rax to r10 */
		assert_int_equal(r.r10, accesses * (accesses + 1) / 2);
	free(x);
}

/* --- moving ------------------------------------------------------------------------------------
 */

struct parts {
	unsigned int n;
	struct {
		char id[24];
		void *blob;
		size_t len;
	} p[PARTS_MAX];
};

static inline int keep(void *arg, const char *id, const void *blob, size_t len, struct diag *d)
{
	struct parts *ps = arg;

	(void)d;
	assert_true(ps->n < PARTS_MAX);
	snprintf(ps->p[ps->n].id, sizeof(ps->p[0].id), "%s", id);
	ps->p[ps->n].blob = malloc(len);
	assert_non_null(ps->p[ps->n].blob);
	memcpy(ps->p[ps->n].blob, blob, len);
	ps->p[ps->n++].len = len;
	return 0;
}

static inline void parts_free(struct parts *ps)
{
	for (unsigned int i = 0; i < ps->n; i++)
		free(ps->p[i].blob);
	ps->n = 0;
}

static inline void save(struct box *b, struct parts *ps)
{
	struct diag d = { 0 };

	vm_lock(&b->f->vm);
	if (machine_state_supported(&b->f->vm, &d) || machine_state_save(&b->f->vm, keep, ps, &d))
		fail_msg("%s", d.text);
	vm_unlock(&b->f->vm);
}

static inline void load(struct box *b, const struct parts *ps)
{
	struct machine_load *l = machine_load_begin(&b->f->vm);
	struct diag d = { 0 };

	assert_non_null(l);
	vm_lock(&b->f->vm);
	for (unsigned int i = 0; i < ps->n; i++)
		if (machine_load_parse(l, ps->p[i].id, ps->p[i].blob, ps->p[i].len, &d))
			fail_msg("%s", d.text);
	if (machine_load_complete(l, &d) || machine_load_commit(l, &d))
		fail_msg("%s", d.text);
	vm_unlock(&b->f->vm);
	machine_load_free(l);
}

static inline void copy_ram(struct box *to, const struct box *from)
{
	for (unsigned int i = 0; i < from->f->vm.mem.nregions; i++)
		memcpy(to->f->vm.mem.regions[i].hva, from->f->vm.mem.regions[i].hva,
		       from->f->vm.mem.regions[i].size);
}

/* As before every migration; nothing may come of it, in RAM neither. */
static inline void rehearse(struct box *from, struct box *to)
{
	uint64_t hash = ram_hash(&to->f->vm.mem);
	struct diag d = { 0 };

	vm_lock(&from->f->vm);
	if (machine_rehearse_save(&from->f->vm, &d))
		fail_msg("%s", d.text);
	vm_unlock(&from->f->vm);
	vm_lock(&to->f->vm);
	if (machine_rehearse_load(&to->f->vm, &d))
		fail_msg("%s", d.text);
	vm_unlock(&to->f->vm);
	assert_true(ram_hash(&to->f->vm.mem) == hash);
}

/* Returns the other machine, parked. */
static inline struct box *move(struct box *b)
{
	struct parts ps = { 0 }, again = { 0 };
	void *blob;
	struct diag d = { 0 };
	struct box *to = box_new(&usual);
	size_t len;

	box_start(to);
	if (machine_description(&b->f->vm, &blob, &len, &d) ||
	    machine_description_check(&to->f->vm, blob, len, &d))
		fail_msg("%s", d.text);
	free(blob);
	rehearse(b, to);
	save(b, &ps);
	copy_ram(to, b);
	load(to, &ps);
	/* All but what counts time is there again. */
	save(to, &again);
	for (unsigned int i = 0; i < ps.n; i++) {
		bool time = strcmp(ps.p[i].id, "chips") == 0 || strncmp(ps.p[i].id, "cpu", 3) == 0;

		assert_string_equal(ps.p[i].id, again.p[i].id);
		if (state_equal(ps.p[i].blob, ps.p[i].len, again.p[i].blob, again.p[i].len, &d) &&
		    !(time && (strstr(d.text, "/clock") || strstr(d.text, "/msrs/value"))))
			fail_msg("%s: %s", ps.p[i].id, d.text);
	}
	parts_free(&ps);
	parts_free(&again);
	box_free(b);
	return to;
}

static inline void sleep_us(unsigned int us)
{
	struct timespec t = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };

	nanosleep(&t, NULL);
}

static inline void await_cell(struct box *b, unsigned int n, uint64_t value)
{
	volatile uint64_t *cell = gmem_ptr(&b->f->vm.mem, CELLS, 16);

	for (unsigned int ms = 0; cell[n] != value; ms++) {
		if (ms > WAIT_MS)
			fail_msg("cell %u is %llu, never %llu: %s", n, (unsigned long long)cell[n],
				 (unsigned long long)value, b->f->vm.error.text);
		sleep_us(1000);
	}
}

/* --- tests -------------------------------------------------------------------------------------
 */

static inline bool have_kvm(void)
{
	struct kvm k;
	struct diag d = { 0 };

	if (kvm_open(&k, NULL, &d))
		return false;
	kvm_close(&k);
	return true;
}

#define need_kvm()               \
	do {                     \
		if (!have_kvm()) \
			skip();  \
	} while (0)

static inline uint64_t random_next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	return *x ^= *x << 17;
}

#endif
