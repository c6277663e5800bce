/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kimage.h - synthetic kernels for the tests: a valid bzImage or ELF file in memory, whose headers
 * a test then spoils. Nothing in them can run. Failures abort: there is nothing to test then.
 */
#ifndef UNVMM_TESTS_KIMAGE_H
#define UNVMM_TESTS_KIMAGE_H

#include <asm/bootparam.h>
#include <elf.h>
#include <stddef.h>
#include <stdint.h>

struct kimage {
	uint8_t *data;
	size_t len;
};

#define KIMAGE_SETUP_SIZE 1024u /* real-mode part of the bzImage */
#define KIMAGE_BZ_LOAD	  0x1000000u
#define KIMAGE_BZ_INIT	  0x400000u

/* The ELF file: text, data with bss, and a note segment. Virtual = physical + KIMAGE_ELF_VIRT. */
#define KIMAGE_ELF_VIRT	   0xffffffff80000000ull
#define KIMAGE_TEXT_GPA	   0x100000u
#define KIMAGE_DATA_GPA	   0x200000u
#define KIMAGE_DATA_MEMSZ  0x3000u
#define KIMAGE_ENTRY64	   (KIMAGE_TEXT_GPA + 0x10)
#define KIMAGE_ENTRY_PVH   (KIMAGE_TEXT_GPA + 0x20)
#define KIMAGE_ELF_HEADERS 1024u /* text follows, then data */

enum { KIMAGE_PH_TEXT, KIMAGE_PH_DATA, KIMAGE_PH_NOTE, KIMAGE_PH_COUNT };

/* Byte i of the loadable content: never zero, and no short period. */
uint8_t kimage_byte(size_t i);

/* `payload` (a multiple of 16) bytes of protected-mode code after the setup part. */
struct kimage kimage_bzimage(size_t payload);
struct setup_header *kimage_setup_header(struct kimage *k);

/* `size` bytes in each of text and data (less than KIMAGE_DATA_MEMSZ). */
struct kimage kimage_elf(size_t size);
Elf64_Ehdr *kimage_ehdr(struct kimage *k);
Elf64_Phdr *kimage_phdr(struct kimage *k, unsigned int index);
/* The Xen note: header, then name "Xen", then the entry. */
Elf64_Nhdr *kimage_pvh_note(struct kimage *k);

/* A memfd with the image (or with `len` bytes of it); to be closed. */
int kimage_fd(const struct kimage *k, size_t len);
void kimage_free(struct kimage *k);

#endif
