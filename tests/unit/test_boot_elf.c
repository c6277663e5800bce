/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_boot_elf.c - loads synthetic ELF kernels by both entries and looks at what is in guest
 * memory afterwards; spoils one header field after the other and looks at what is said about it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unvmm/platform.h>

#include "boot_env.h"
#include "boot_internal.h"

/* --- ELF ------------------------------------------------------------------------------------ */

static void assert_elf_memory(struct boot_env *e, size_t size)
{
	boot_env_content(e, KIMAGE_TEXT_GPA, size, 0);
	boot_env_content(e, KIMAGE_DATA_GPA, size, size);
	boot_env_zero(e, KIMAGE_DATA_GPA + size, KIMAGE_DATA_MEMSZ - size);
}

static void elf_pvh(void **state)
{
	struct boot_env_pvh info;
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	memset((void *)(uintptr_t)boot_env_at(&e, 0, BOOT_ENV_RAM), 0xaa,
	       BOOT_ENV_RAM); /* bss must be zeroed, not found so */
	e.k = kimage_elf(4096);
	boot_env_load_ok(&e);
	assert_int_equal(e.entry.mode, BOOT_PVH);
	assert_int_equal(e.entry.rip, KIMAGE_ENTRY_PVH);
	assert_elf_memory(&e, 4096);
	assert_int_equal(*boot_env_at(&e, KIMAGE_DATA_GPA + KIMAGE_DATA_MEMSZ, 1), 0xaa);

	info = boot_env_pvh_info(&e);
	assert_int_equal(info.magic, 0x336ec578);
	assert_int_equal(info.version, 1);
	assert_int_equal(info.flags, 0);
	assert_int_equal(info.nr_modules, 0);
	assert_int_equal(info.modlist, 0);
	assert_int_equal(info.cmdline, PLAT_CMDLINE);
	assert_int_equal(info.rsdp, BOOT_ENV_RSDP);
	assert_int_equal(info.memmap_entries, 5);
	for (unsigned int i = 0; i < info.memmap_entries; i++) {
		uint64_t m[3];

		assert_int_equal(gmem_read(&e.mem, info.memmap + i * 24, m, 24), 0);
		boot_env_map_entry(&e, i, m[0], m[1], (uint32_t)m[2]);
		assert_int_equal(m[2] >> 32, 0);
	}
	assert_string_equal((const char *)boot_env_at(&e, PLAT_CMDLINE, 64), "console=ttyS0 quiet");
	boot_env_free(&e);
}

static void elf_pvh_module(void **state)
{
	struct boot_env_pvh info;
	uint64_t mod[4];
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_elf(512);
	boot_env_add_initrd(&e, 6000);
	boot_env_load_ok(&e);
	info = boot_env_pvh_info(&e);
	assert_int_equal(info.nr_modules, 1);
	assert_int_equal(gmem_read(&e.mem, info.modlist, mod, sizeof(mod)), 0);
	assert_int_equal(mod[0], BOOT_ENV_RAM - 8192);
	assert_int_equal(mod[1], 6000);
	assert_int_equal(mod[2], 0);
	assert_int_equal(mod[3], 0);
	boot_env_content(&e, BOOT_ENV_RAM - 8192, 6000, 3);
	boot_env_free(&e);
}

/* spoil: what to do to the note; the 64-bit entry is taken instead. */
static void elf_64bit_entry(void **state)
{
	(void)state;
	for (int spoil = 0; spoil < 4; spoil++) {
		struct boot_params bp;
		struct boot_env e;

		boot_env_init(&e, BOOT_ENV_RAM);
		e.k = kimage_elf(512);
		switch (spoil) {
		case 0:
			e.src.prefer_64bit_entry = true;
			break;
		case 1:
			kimage_pvh_note(&e.k)->n_type = 6;
			break;
		case 2:
			memcpy(kimage_pvh_note(&e.k) + 1, "Xem", 4);
			break;
		default:
			kimage_ehdr(&e.k)->e_phnum = KIMAGE_PH_NOTE;
		}
		boot_env_load_ok(&e);
		assert_int_equal(e.entry.mode, BOOT_LONG_MODE);
		assert_int_equal(e.entry.rip, KIMAGE_ENTRY64);
		assert_elf_memory(&e, 512);
		boot_env_long_mode_tables(&e);
		boot_env_e820(&e, 5);
		bp = boot_env_zero_page(&e);
		assert_int_equal(bp.hdr.header, 0x53726448);
		assert_int_equal(bp.hdr.boot_flag, 0xaa55);
		assert_int_equal(bp.hdr.type_of_loader, 0xff);
		assert_int_equal(bp.hdr.cmd_line_ptr, PLAT_CMDLINE);
		assert_int_equal(bp.acpi_rsdp_addr, BOOT_ENV_RSDP);
		boot_env_free(&e);
	}
}

static void elf_virtual_entry(void **state)
{
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.src.prefer_64bit_entry = true;
	e.k = kimage_elf(512);
	kimage_ehdr(&e.k)->e_entry = KIMAGE_ELF_VIRT + KIMAGE_DATA_GPA + 5;
	boot_env_load_ok(&e);
	assert_int_equal(e.entry.rip, KIMAGE_DATA_GPA + 5);
	boot_env_free(&e);
}

static void elf_note_forms(void **state)
{
	struct boot_env e;

	(void)state;
	/* Four bytes instead of eight. */
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_elf(512);
	kimage_pvh_note(&e.k)->n_descsz = 4;
	memset((uint8_t *)(kimage_pvh_note(&e.k) + 1) + 8, 0xff, 4);
	boot_env_load_ok(&e);
	assert_int_equal(e.entry.rip, KIMAGE_ENTRY_PVH);

	/* 8-byte alignment: the first note is gone, since it is padded to 4. */
	kimage_phdr(&e.k, KIMAGE_PH_NOTE)->p_align = 8;
	kimage_phdr(&e.k, KIMAGE_PH_NOTE)->p_offset += 32;
	kimage_phdr(&e.k, KIMAGE_PH_NOTE)->p_filesz -= 32;
	boot_env_load_ok(&e);
	assert_int_equal(e.entry.rip, KIMAGE_ENTRY_PVH);
	assert_int_equal(e.entry.mode, BOOT_PVH);
	boot_env_free(&e);
}

/* Segments without a byte of memory may say anything. */
static void elf_empty_segment(void **state)
{
	Elf64_Phdr *ph;
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_elf(512);
	ph = kimage_phdr(&e.k, KIMAGE_PH_DATA);
	*ph = (Elf64_Phdr){ .p_type = PT_LOAD, .p_offset = UINT64_MAX, .p_paddr = 3 };
	boot_env_load_ok(&e);
	boot_env_content(&e, KIMAGE_TEXT_GPA, 512, 0);
	boot_env_free(&e);
}

static void elf_refusals(void **state)
{
	static const struct {
		size_t offset, size;
		uint64_t value;
		const char *words;
	} cases[] = {
#define EH(field, val, words) \
	{ offsetof(Elf64_Ehdr, field), sizeof(((Elf64_Ehdr *)0)->field), val, words }
#define PH(n, field, val, words)                                                             \
	{                                                                                    \
		sizeof(Elf64_Ehdr) + (n) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field), \
			sizeof(((Elf64_Phdr *)0)->field), val, words                         \
	}
		{ EI_CLASS, 1, ELFCLASS32, "class 1" },
		{ EI_DATA, 1, ELFDATA2MSB, "data encoding 2" },
		EH(e_machine, EM_AARCH64, "machine 183: it must be"),
		EH(e_type, ET_DYN, "e_type is 3: it must be an executable (2)"),
		EH(e_type, ET_REL, "e_type is 1"),
		EH(e_phentsize, 32, "e_phentsize is 32: it must be 56"),
		EH(e_phnum, 0, "e_phnum is 0: it must be 1 to 128"),
		EH(e_phnum, 129, "e_phnum is 129"),
		EH(e_phnum, 65535, "e_phnum is 65535"),
		EH(e_phnum, 128, "128 program headers at 0x40 end outside the file"),
		EH(e_phoff, UINT64_MAX, "program headers at 0xffffffffffffffff end outside"),
		PH(KIMAGE_PH_DATA, p_filesz, KIMAGE_DATA_MEMSZ + 1, "program header 1: p_filesz"),
		PH(KIMAGE_PH_DATA, p_filesz, 513, "program header 1: bytes 0x600 + 0x201"),
		PH(KIMAGE_PH_DATA, p_offset, UINT64_MAX, "is it truncated?"),
		PH(KIMAGE_PH_DATA, p_memsz, UINT64_MAX, "must lie between 1 MiB"),
		PH(KIMAGE_PH_DATA, p_paddr, 0xfffff, "must lie between 1 MiB"),
		PH(KIMAGE_PH_DATA, p_paddr, PLAT_ZERO_PAGE, "must lie between 1 MiB"),
		PH(KIMAGE_PH_DATA, p_paddr, 0xbffff000, "must lie between 1 MiB"),
		PH(KIMAGE_PH_DATA, p_paddr, UINT64_MAX - 10, "must lie between 1 MiB"),
		PH(KIMAGE_PH_DATA, p_paddr, KIMAGE_TEXT_GPA + 511,
		   "overlaps the segment at 0x100000"),
		PH(KIMAGE_PH_DATA, p_paddr, KIMAGE_TEXT_GPA, "overlaps the segment at 0x100000"),
		PH(KIMAGE_PH_NOTE, p_offset, UINT64_MAX, "notes of 0x38 bytes"),
		PH(KIMAGE_PH_NOTE, p_filesz, 65537, "at most 64 KiB"),
		PH(KIMAGE_PH_NOTE, p_filesz, 2000, "notes of 0x7d0 bytes"),
		PH(KIMAGE_PH_NOTE, p_filesz, 0x37, "runs past the segment's end"),
#undef PH
#undef EH
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct boot_env e;

		boot_env_init(&e, BOOT_ENV_RAM);
		e.k = kimage_elf(512);
		memcpy(e.k.data + cases[i].offset, &cases[i].value, cases[i].size);
		boot_env_load_fails(&e, -ENOEXEC, cases[i].words);
		boot_env_free(&e);
	}
}

static void elf_more_refusals(void **state)
{
	Elf64_Phdr *text, *data;
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_elf(512);
	text = kimage_phdr(&e.k, KIMAGE_PH_TEXT);
	data = kimage_phdr(&e.k, KIMAGE_PH_DATA);
	kimage_pvh_note(&e.k)->n_descsz = 0xfffffffc;
	boot_env_load_fails(&e, -ENOEXEC, "runs past the segment's end");
	kimage_pvh_note(&e.k)->n_descsz = 5;
	boot_env_load_fails(&e, -ENOEXEC, "the PVH entry note has 5 bytes: it must have 4 or 8");
	kimage_pvh_note(&e.k)->n_descsz = 8;
	kimage_pvh_note(&e.k)->n_namesz = 0xffffffff;
	boot_env_load_fails(&e, -ENOEXEC, "runs past the segment's end");
	kimage_pvh_note(&e.k)->n_namesz = 4;
	text->p_paddr = 0x180000;
	boot_env_load_fails(&e, -ENOEXEC, "the PVH entry 0x100020 is in no loadable segment");
	e.src.prefer_64bit_entry = true;
	boot_env_load_fails(&e, -ENOEXEC, "e_entry 0x100010 is in no loadable segment");
	text->p_type = data->p_type = PT_NULL;
	boot_env_load_fails(&e, -ENOEXEC, "no loadable segment");
	text->p_type = data->p_type = PT_LOAD;
	text->p_paddr = KIMAGE_TEXT_GPA;
	data->p_memsz = BOOT_ENV_RAM;
	boot_env_load_fails(&e, -ENOSPC,
			    "needs 33 MiB at 0x100000, the guest has 32 MiB: set memory to at "
			    "least \"34M\"");
	boot_env_free(&e);
}

static void elf_too_many_segments(void **state)
{
	Elf64_Phdr *ph;
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_elf(4096);
	ph = kimage_phdr(&e.k, 0);
	kimage_ehdr(&e.k)->e_entry = 0x100000;
	kimage_ehdr(&e.k)->e_phnum = BOOT_SEGMENTS_MAX;
	for (unsigned int i = 0; i <= BOOT_SEGMENTS_MAX; i++)
		ph[i] = (Elf64_Phdr){ .p_type = PT_LOAD,
				      .p_paddr = 0x100000 + i * 0x1000,
				      .p_offset = i,
				      .p_filesz = 16,
				      .p_memsz = 16 };
	boot_env_load_ok(&e);
	assert_memory_equal(boot_env_at(&e, 0x100000, 16), e.k.data, 16);
	assert_memory_equal(boot_env_at(&e, 0x100000 + 31 * 0x1000, 16), e.k.data + 31, 16);
	kimage_ehdr(&e.k)->e_phnum++;
	boot_env_load_fails(&e, -ENOEXEC, "more than 32 loadable segments");
	boot_env_free(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(elf_pvh),
		cmocka_unit_test(elf_pvh_module),
		cmocka_unit_test(elf_64bit_entry),
		cmocka_unit_test(elf_virtual_entry),
		cmocka_unit_test(elf_note_forms),
		cmocka_unit_test(elf_empty_segment),
		cmocka_unit_test(elf_refusals),
		cmocka_unit_test(elf_more_refusals),
		cmocka_unit_test(elf_too_many_segments),
	};

	return cmocka_run_group_tests_name("boot_elf", tests, NULL, NULL);
}
