/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_kernel.c - kernel images into boot_load(), with 32 MiB of guest RAM. Byte 0 of the input is
 * for the operator's part (bit 0: 64-bit entry preferred; the rest: size of the initrd in 16 KiB),
 * the file follows. What it looks for beyond the sanitizers: an entry outside RAM, a kernel that
 * overwrites boot structures or initrd, writes where neither belongs, a refusal without a sentence.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <unvmm/boot.h>
#include <unvmm/platform.h>

#define RAM	    MiB(32)
#define INITRD_UNIT KiB(16)
#define INITRD_MAX  (127 * INITRD_UNIT)
#define INITRD_BYTE 0xc7
#define CANARY	    0x3c
/* Between the EBDA and 1 MiB nothing is ever loaded. */
#define QUIET_BASE PLAT_EBDA
#define QUIET_SIZE (PLAT_KERNEL_MIN - PLAT_EBDA)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(what)                                              \
	do {                                                    \
		if (!(what)) {                                  \
			fprintf(stderr, "failed: %s\n", #what); \
			abort();                                \
		}                                               \
	} while (0)

static struct gmem mem;
static int kernel_fd, initrd_fd;

static uint8_t initrd_bytes[INITRD_MAX];

static void fill_file(int fd, const void *bytes, size_t size)
{
	MUST(ftruncate(fd, 0) == 0);
	MUST(pwrite(fd, bytes, size, 0) == (ssize_t)size);
}

static void set_up(void)
{
	struct diag d = { "" };

	MUST(gmem_create(&mem, RAM, false, &d) == 0);
	memset(gmem_ptr(&mem, QUIET_BASE, QUIET_SIZE), CANARY, QUIET_SIZE);
	kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
	initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
	MUST(kernel_fd >= 0 && initrd_fd >= 0);
	memset(initrd_bytes, INITRD_BYTE, sizeof(initrd_bytes));
}

static bool all_bytes(gpa_t gpa, uint64_t len, uint8_t value)
{
	const uint8_t *p = gmem_ptr(&mem, gpa, len);

	return p && p[0] == value && !memcmp(p, p + 1, len - 1);
}

/* Where the guest is told that its initrd is. */
static void told_initrd(const struct boot_entry *entry, uint64_t *gpa, uint64_t *len)
{
	uint64_t start_info[4], module[2] = { 0, 0 };
	uint32_t ramdisk[2];

	if (entry->mode == BOOT_PVH) {
		MUST(gmem_read(&mem, entry->info, start_info, sizeof(start_info)) == 0);
		MUST((uint32_t)start_info[0] == 0x336ec578);
		if (start_info[1] >> 32)
			MUST(gmem_read(&mem, start_info[2], module, sizeof(module)) == 0);
		*gpa = module[0];
		*len = module[1];
	} else {
		MUST(gmem_read(&mem, entry->info + 0x218, ramdisk, sizeof(ramdisk)) == 0);
		*gpa = ramdisk[0];
		*len = ramdisk[1];
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct boot_source src = {
		.initrd_fd = -1, .kernel_path = "kernel", .initrd_path = "initrd", .cmdline = "fuzz"
	};
	struct boot_entry entry;
	struct diag d = { "" };
	uint64_t initrd_size, gpa, len;
	char cmdline[5];

	if (!size)
		return 0;
	if (!mem.base)
		set_up();
	fill_file(kernel_fd, data + 1, size - 1);
	src.kernel_fd = kernel_fd;
	src.prefer_64bit_entry = data[0] & 1;
	initrd_size = (data[0] >> 1) * INITRD_UNIT;
	if (initrd_size) {
		fill_file(initrd_fd, initrd_bytes, initrd_size);
		src.initrd_fd = initrd_fd;
	}

	if (boot_load(&mem, &src, &entry, &d)) {
		MUST(d.text[0] != '\0');
	} else {
		MUST(entry.rip >= PLAT_KERNEL_MIN && entry.rip < RAM);
		MUST(gmem_read(&mem, PLAT_CMDLINE, cmdline, 5) == 0 && !strcmp(cmdline, "fuzz"));
		told_initrd(&entry, &gpa, &len);
		MUST(len == initrd_size);
		if (len)
			MUST(gpa >= PLAT_KERNEL_MIN && all_bytes(gpa, len, INITRD_BYTE));
	}
	MUST(all_bytes(QUIET_BASE, QUIET_SIZE, CANARY));
	return 0;
}
