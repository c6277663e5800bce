/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.h - the runtime of the micro-guests: what main() is given and may call.
 *
 * start.S and boot.c take the processor from either boot entry to ring 3 with all of memory
 * identity-mapped; everything below then runs in ring 3, which may use every port, on one
 * processor, polled: no interrupt is ever enabled.
 */
#ifndef GUESTS_GUEST_H
#define GUESTS_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* --- boot.c: what the loader told us --------------------------------------------------------- */

enum boot_protocol { BOOT_LINUX64 = 1, BOOT_PVH = 2 }; /* also in start.S */

#define BOOT_RANGES_MAX	 64
#define BOOT_CMDLINE_MAX 2048

struct mem_range {
	uint64_t base, size;
	bool ram;
};

struct boot_info {
	enum boot_protocol protocol;
	uint64_t rsdp;	  /* 0: not given */
	uint64_t tsc_khz; /* from kvm-clock; 0: unknown */
	unsigned int nranges;
	struct mem_range range[BOOT_RANGES_MAX];
	char cmdline[BOOT_CMDLINE_MAX];
};

/* Each guest's own. Returns when it is done: the verdict is what test_check() has counted. */
void guest_main(const struct boot_info *boot);

/* Ring 0, from start.S only. */
void boot_setup(enum boot_protocol protocol, uint64_t info);

/* Ring 3, from start.S only: calls guest_main() and exits. */
void boot_main(void) __attribute__((noreturn));

/* --- cpu.c: tables and page tables ----------------------------------------------------------- */

enum cpu_cache { CPU_CACHED, CPU_UNCACHED };

/* Ring 0. */
void cpu_init(void);
/* Identity-maps [base, base + size) for ring 3 in 2 MiB pages. Callable from either ring. */
void cpu_map(uint64_t base, uint64_t size, enum cpu_cache cache);
/* Ring 0. Reads tsc_khz from kvm-clock, if there is one. */
uint64_t cpu_tsc_khz(void);

/* Ring 3. The processor has nothing to do any more, and uses no time; its devices stay as they are.
 */
void cpu_halt(void) __attribute__((noreturn));

/* From the exception stubs of start.S: reports and exits with status 1. */
struct cpu_trap {
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};
void cpu_exception(const struct cpu_trap *trap, uint64_t cr2) __attribute__((noreturn));

/* --- mem.c: memory for rings and buffers ------------------------------------------------------ */

/* Zeroed, aligned (a power of two), from RAM below 3 GiB behind the image; ends the guest if none.
 */
void *mem_alloc(size_t size, size_t align);
/* The same, but NULL if there is no room. */
void *mem_try_alloc(size_t size, size_t align);
void mem_init(const struct boot_info *boot);

/* The image, stack, tables and all: nobody but its owners may write here. */
extern char image_start[], image_end[];

void *memset(void *dst, int c, size_t n);
void *memcpy(void *restrict dst, const void *restrict src, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);

/* --- print.c: serial console and exit --------------------------------------------------------- */

/* Knows %s %c %d %u %x, h, l, ll, z, width and leading zeroes. */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void guest_exit(uint8_t status) __attribute__((noreturn));

/* --- print.c: verdicts ------------------------------------------------------------------------ */

/* Counts a check; the first failures are printed. Returns ok. */
bool test_check(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Names the group that the following checks belong to. */
void test_group(const char *name);
void test_skip(const char *reason);
/* Prints "PASS" or "FAIL" and exits. */
void test_finish(void) __attribute__((noreturn));
/* For what makes going on senseless. */
void test_abort(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* --- opt.c: "key=value key flag" on the command line ------------------------------------------ */

bool opt_flag(const char *key);			     /* key, or key=1 */
uint64_t opt_number(const char *key, uint64_t dflt); /* decimal or 0x */
bool opt_string(const char *key, char *out, size_t size);
bool opt_has(const char *key, const char *item); /* key=a,b,c contains item */
void opt_init(const char *cmdline);

/* --- opt.c: repeatable randomness ------------------------------------------------------------- */

struct rnd {
	uint64_t state;
};
uint64_t rnd_next(struct rnd *r);
uint64_t rnd_below(struct rnd *r, uint64_t n);
/* A value that depends on every bit of x (the finaliser of SplitMix64). */
uint64_t rnd_hash(uint64_t x);

/* --- acpi.c: the two tables that a guest without an AML interpreter can use ------------------- */

/* Base of the ECAM window of segment 0, bus 0; 0 if there is no MCFG. Checks what it walks. */
uint64_t acpi_ecam(uint64_t rsdp);
/* Enabled processors of the MADT; their APIC ids go to ids[]. 0 if there is no MADT. */
unsigned int acpi_cpus(uint64_t rsdp, uint32_t *ids, unsigned int max);

/* --- smp.c ------------------------------------------------------------------------------------ */

/*
 * Starts the processor with this APIC id by INIT and SIPI; it comes to run(arg) in ring 3 on a
 * stack of its own. False if it has not come after a generous time.
 */
bool smp_start(uint32_t apic_id, void (*run)(void *arg), void *arg);
uint32_t smp_apic_id(void);

#endif
