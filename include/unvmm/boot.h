/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot.h - puts a kernel, its initrd and its command line into guest memory.
 *
 * Formats, told apart by content: bzImage (Linux boot protocol >= 2.12, 64-bit entry; source:
 * Documentation/arch/x86/boot.rst), ELF64 x86-64 with a PVH note (Xen's pvh.h ABI: 32-bit entry) or
 * without (Linux 64-bit entry with %rsi = boot_params). Files come from the operator but may be
 * truncated or crafted: every offset and length is checked, and each refusal names the field.
 *
 * Memory: boot structures at the addresses of platform.h, kernel where it asks to be, initrd as
 * high as possible below 3 GiB and below the kernel's initrd_addr_max.
 *
 * Thread: main; vcpus are parked. Blocks on file reads.
 */
#ifndef UNVMM_BOOT_H
#define UNVMM_BOOT_H

#include <unvmm/gmem.h>

enum boot_mode {
	BOOT_LONG_MODE, /* 64-bit, paging on (identity map of 4 GiB), %rsi = zero page */
	BOOT_PVH,	/* 32-bit, paging off, %ebx = hvm_start_info */
};

/*
 * The flat segments of the table at PLAT_GDT, for both modes: the selectors that boot.rst's 64-bit
 * protocol fixes, and a 32-bit code segment for PVH. A vcpu's segment caches must say the same.
 */
#define BOOT_GDT_ENTRIES 5
#define BOOT_SEL_CODE64	 0x10
#define BOOT_SEL_DATA	 0x18
#define BOOT_SEL_CODE32	 0x20
#define BOOT_DESC_CODE64 0x00af9b000000ffffull
#define BOOT_DESC_DATA	 0x00cf93000000ffffull
#define BOOT_DESC_CODE32 0x00cf9b000000ffffull

/* The first state of vcpu 0. */
struct boot_entry {
	enum boot_mode mode;
	gpa_t rip;
	gpa_t info; /* %rsi or %ebx */
};

struct boot_source {
	int kernel_fd;			       /* kept open by the machine: a reboot loads again */
	int initrd_fd;			       /* -1: none */
	const char *kernel_path, *initrd_path; /* for messages */
	const char *cmdline;		       /* not NULL */
	gpa_t acpi_rsdp;		       /* 0: none */
	/* Prefer one of two entries of an ELF file; for tests. 0: PVH if it is there. */
	bool prefer_64bit_entry;
};

/*
 * -ENOEXEC (not a kernel, or a broken one), -EINVAL (not a file, empty; command line too long),
 * -ENOSPC (too little RAM: says how much), -EIO (read failed, file shrank). After an error guest
 * memory may be half written. Can be called again on the same memory for a reboot: nothing that
 * the guest left behind is relied on. (The guest may have written to its ACPI tables, too.)
 */
int boot_load(struct gmem *mem, const struct boot_source *src, struct boot_entry *out,
	      struct diag *d) must_check;

#endif
