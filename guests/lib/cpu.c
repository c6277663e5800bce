/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu.c - GDT, TSS, IDT and page tables. They are filled in ring 0 before the drop to ring 3; page
 * tables may be added to from ring 3 as well, for they lie in the memory that they map.
 */
#include "guest.h"

#include <cpuid.h>

#include "cpu.h"
#include "io.h"

#define PTE_PRESENT  0x001ull
#define PTE_WRITE    0x002ull
#define PTE_USER     0x004ull
#define PTE_UNCACHED 0x018ull /* PCD and PWT: type UC whatever the PAT's reset values */
#define PTE_LARGE    0x080ull
#define PTE_ADDR     0x000ffffffffff000ull
#define PAGE_2M	     0x200000ull

#define VECTOR_GP  13
#define OPCODE_HLT 0xf4

/* One page directory maps 1 GiB: 4 for what every guest maps, the rest for RAM above and BARs. */
#define TABLES_MAX 96

/*
 * Intel SDM vol. 3, 8.7 and vol. 1, 19.5.2: 64-bit TSS with RSP0 for exceptions and an I/O bitmap.
 * Ring 3 gets its ports by the bitmap, not by IOPL 3: that is lost where KVM interprets iretq.
 */
struct tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t ist[7];
	uint64_t reserved2;
	uint16_t reserved3, iomap_offset;
	uint8_t iomap[65536 / 8 + 1]; /* all ports allowed, then the byte that must be all ones */
} __attribute__((packed));

struct idt_gate {
	uint16_t offset0, selector;
	uint8_t ist, type;
	uint16_t offset1;
	uint32_t offset2, reserved;
};

extern char cpu_stubs[], trap_stack_top[];

/* start.S knows these by name. */
extern uint64_t cpu_gdt[CPU_GDT_WORDS], cpu_pml4[512];
extern struct idt_gate cpu_idt[CPU_VECTORS];

uint64_t cpu_gdt[CPU_GDT_WORDS] = {
	0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff,
};
struct idt_gate cpu_idt[CPU_VECTORS];
uint64_t cpu_pml4[512] __attribute__((aligned(4096)));

static uint64_t tables[TABLES_MAX][512] __attribute__((aligned(4096)));
static unsigned int tables_used;
static struct tss tss;

static uint64_t *table_below(uint64_t *entry)
{
	if (!(*entry & PTE_PRESENT)) {
		if (tables_used == TABLES_MAX)
			test_abort("more than %u page tables needed", TABLES_MAX);
		*entry = (uintptr_t)tables[tables_used++] | PTE_PRESENT | PTE_WRITE | PTE_USER;
	}
	return (uint64_t *)(*entry & PTE_ADDR);
}

void cpu_map(uint64_t base, uint64_t size, enum cpu_cache cache)
{
	uint64_t flags = PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_LARGE;
	uint64_t end = base + size, addr = base & ~(PAGE_2M - 1);

	if (cache == CPU_UNCACHED)
		flags |= PTE_UNCACHED;
	while (addr < end) {
		uint64_t *pdpt = table_below(&cpu_pml4[addr >> 39 & 511]);
		uint64_t *pd = table_below(&pdpt[addr >> 30 & 511]);

		/* What is mapped stays as it is: then no TLB entry can be stale. */
		do {
			if (!(pd[addr >> 21 & 511] & PTE_PRESENT))
				pd[addr >> 21 & 511] = addr | flags;
			addr += PAGE_2M;
		} while (addr < end && (addr >> 21 & 511));
	}
	io_fence();
}

static void gate_set(struct idt_gate *g, uintptr_t handler)
{
	g->offset0 = (uint16_t)handler;
	g->offset1 = (uint16_t)(handler >> 16);
	g->offset2 = (uint32_t)(handler >> 32);
	g->selector = CPU_CODE0;
	g->type = 0x8e; /* present, ring 0, interrupt gate */
}

void cpu_init(void)
{
	uintptr_t base = (uintptr_t)&tss;

	tss.rsp[0] = (uintptr_t)trap_stack_top;
	tss.iomap_offset = offsetof(struct tss, iomap);
	tss.iomap[sizeof(tss.iomap) - 1] = 0xff;
	/* A descriptor each, because ltr marks it busy; one TSS for all: no exception returns. */
	for (unsigned int i = 0; i < CPU_MAX; i++) {
		uint64_t *d = &cpu_gdt[CPU_TSS / 8 + 2 * i];

		d[0] = (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
		       (base >> 24 & 0xff) << 56;
		d[1] = base >> 32;
	}
	for (unsigned int i = 0; i < CPU_VECTORS; i++)
		gate_set(&cpu_idt[i], (uintptr_t)cpu_stubs + (uintptr_t)i * CPU_STUB_SIZE);
}

/* Ring 3 may not: cpu_exception() does it. */
void cpu_halt(void)
{
	for (;;)
		__asm__ volatile("hlt" : : : "memory");
}

void cpu_exception(const struct cpu_trap *trap, uint64_t cr2)
{
	if (trap->vector == VECTOR_GP && *(const uint8_t *)trap->rip == OPCODE_HLT)
		cpu_halt();
	print("\r\nexception %u error 0x%x rip 0x%llx ring %u rsp 0x%llx cr2 0x%llx\r\n",
	      (unsigned int)trap->vector, (unsigned int)trap->error, (unsigned long long)trap->rip,
	      (unsigned int)trap->cs & 3, (unsigned long long)trap->rsp, (unsigned long long)cr2);
	print("FAIL exception\r\n");
	guest_exit(1);
}

/* Linux, Documentation/virt/kvm/x86/msr.rst and cpuid.rst. */
#define KVM_CPUID_SIGNATURE	 0x40000000
#define KVM_CPUID_FEATURES	 0x40000001
#define KVM_FEATURE_CLOCKSOURCE2 (1u << 3)
#define KVM_MSR_SYSTEM_TIME	 0x4b564d01

struct pvclock {
	uint32_t version, pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags, pad2[2];
};

static void msr_write(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr"
			 :
			 : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))
			 : "memory");
}

uint64_t cpu_tsc_khz(void)
{
	static volatile struct pvclock clock __attribute__((aligned(64)));
	uint32_t eax, ebx, ecx, edx, mul;
	uint64_t khz;

	__cpuid(1, eax, ebx, ecx, edx);
	if (!(ecx & 1u << 31)) /* no hypervisor leaves */
		return 0;
	__cpuid(KVM_CPUID_SIGNATURE, eax, ebx, ecx, edx);
	if (ebx != 0x4b4d564b || ecx != 0x564b4d56 || edx != 0x4d) /* "KVMKVMKVM" */
		return 0;
	__cpuid(KVM_CPUID_FEATURES, eax, ebx, ecx, edx);
	if (!(eax & KVM_FEATURE_CLOCKSOURCE2))
		return 0;
	msr_write(KVM_MSR_SYSTEM_TIME, (uintptr_t)&clock | 1);
	mul = clock.tsc_to_system_mul;
	/* ns = (ticks << shift) * mul >> 32, so ticks per ms = (10^6 << 32) / mul >> shift. */
	khz = mul ? (1000000ull << 32) / mul : 0;
	khz = clock.tsc_shift < 0 ? khz << -clock.tsc_shift : khz >> clock.tsc_shift;
	msr_write(KVM_MSR_SYSTEM_TIME, 0);
	return khz;
}
