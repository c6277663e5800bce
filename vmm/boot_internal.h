/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_internal.h - what the files boot*.c share. A format's parser reads headers only and fills a
 * struct boot_image, the plan of what goes where; boot.c checks the plan against RAM, loads the
 * segments and the initrd, and boot_info.c writes what the kernel is told. Thread: main.
 */
#ifndef UNVMM_VMM_BOOT_INTERNAL_H
#define UNVMM_VMM_BOOT_INTERNAL_H

#include <asm/bootparam.h>

#include <unvmm/boot.h>

/* A kernel or initrd file. `head` saves the parsers a system call per header. */
struct boot_file {
	int fd;
	const char *what; /* "kernel" or "initrd" */
	const char *path;
	uint64_t size;
	size_t head_len;
	uint8_t head[4096];
};

/* File bytes that become memory, followed by zeroes up to memsz. */
struct boot_segment {
	gpa_t gpa;
	uint64_t memsz, filesz, offset;
};

#define BOOT_SEGMENTS_MAX 32

struct boot_image {
	struct boot_segment seg[BOOT_SEGMENTS_MAX];
	unsigned int nseg;
	gpa_t start, end;     /* what the kernel needs, its own scratch room included */
	gpa_t initrd_limit;   /* the initrd must end at or below it */
	uint32_t cmdline_max; /* bytes without the NUL */
	struct boot_entry entry;
	struct setup_header hdr; /* BOOT_LONG_MODE: for the zero page */
};

struct boot_initrd {
	gpa_t gpa;
	uint64_t size; /* 0: none */
};

/* Copies file bytes from the head or by pread. -EIO names the file when it is too short. */
int boot_file_read(const struct boot_file *f, uint64_t offset, void *buf, size_t len,
		   struct diag *d) must_check;

bool boot_is_bzimage(const struct boot_file *f) must_check;
int boot_bzimage_parse(const struct boot_file *f, struct boot_image *img,
		       struct diag *d) must_check;

bool boot_is_elf(const struct boot_file *f) must_check;
int boot_elf_parse(const struct boot_file *f, bool prefer_64bit_entry, struct boot_image *img,
		   struct diag *d) must_check;

/* Writes command line, memory map and either zero page, page tables and GDT, or start info. */
int boot_info_write(struct gmem *mem, const struct boot_source *src, const struct boot_image *img,
		    const struct boot_initrd *initrd, gpa_t *info, struct diag *d) must_check;

#endif
