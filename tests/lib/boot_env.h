/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_env.h - a guest's memory, a synthetic kernel to load into it, and checks of what is there
 * afterwards; shared by the boot loader's tests. The checks end the running cmocka test.
 */
#ifndef UNVMM_TESTS_BOOT_ENV_H
#define UNVMM_TESTS_BOOT_ENV_H

#include <unvmm/boot.h>

#include "kimage.h"

#define BOOT_ENV_RAM  MiB(32)
#define BOOT_ENV_RSDP 0xe0000u

/* hvm_start_info, written down from Xen's header once more. */
struct boot_env_pvh {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct boot_env {
	struct gmem mem;
	struct boot_source src;
	struct boot_entry entry;
	struct diag d;
	struct kimage k; /* the test makes it; boot_env_free() frees it */
};

void boot_env_init(struct boot_env *e, uint64_t ram);
void boot_env_free(struct boot_env *e);

/* An initrd of `size` bytes whose byte i is kimage_byte(i + 3). */
void boot_env_add_initrd(struct boot_env *e, size_t size);

/* Loads e->k, or its first len bytes. */
int boot_env_load_part(struct boot_env *e, size_t len);
int boot_env_load(struct boot_env *e);
void boot_env_load_ok(struct boot_env *e);
/* Must fail with err and with one sentence that names the file and has `words` in it. */
void boot_env_load_fails(struct boot_env *e, int err, const char *words);

const uint8_t *boot_env_at(struct boot_env *e, gpa_t gpa, uint64_t len);
/* Memory is kimage_byte(first), kimage_byte(first + 1)... */
void boot_env_content(struct boot_env *e, gpa_t gpa, size_t len, size_t first);
void boot_env_zero(struct boot_env *e, gpa_t gpa, size_t len);

struct boot_params boot_env_zero_page(struct boot_env *e);
struct boot_env_pvh boot_env_pvh_info(struct boot_env *e);
/* Entry i of the memory map is what the guest must be told, whichever protocol tells it. */
void boot_env_map_entry(const struct boot_env *e, unsigned int i, uint64_t addr, uint64_t size,
			uint32_t type);
void boot_env_e820(struct boot_env *e, unsigned int entries);
/* Page tables, walked as the processor would, and the GDT. */
void boot_env_long_mode_tables(struct boot_env *e);

#endif
