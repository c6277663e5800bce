/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_info.c - writes what the kernel finds in low memory: command line, memory map, and either
 * the zero page with page tables and GDT (boot.rst, "64-bit Boot Protocol") or PVH start info
 * (Xen's public/arch-x86/hvm/start_info.h). Every byte is written again at each boot, because the
 * guest before a reboot may have used the memory. Thread: main.
 */
#include <errno.h>
#include <string.h>

#include <unvmm/platform.h>

#include "boot_internal.h"

#define E820_RAM      1
#define E820_RESERVED 2
#define LOW_MAP_MAX   8

#define PVH_MAGIC   0x336ec578
#define PVH_VERSION 1

struct pvh_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct pvh_module {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct pvh_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved; /* the types are E820's */
};

/* One page at PLAT_PVH_INFO. */
struct pvh_page {
	struct pvh_start_info info;
	struct pvh_module module;
	struct pvh_memmap_entry map[LOW_MAP_MAX];
};

_Static_assert(sizeof(struct pvh_start_info) == 56, "hvm_start_info version 1");
_Static_assert(sizeof(struct pvh_memmap_entry) == 24, "hvm_memmap_table_entry");
_Static_assert(sizeof(struct boot_params) == PAGE_SIZE_4K, "zero page");
_Static_assert(PLAT_PVH_INFO + sizeof(struct pvh_page) <= PLAT_ZERO_PAGE, "no overlap");
_Static_assert(PLAT_ZERO_PAGE + sizeof(struct boot_params) <= PLAT_PAGE_TABLES, "no overlap");
_Static_assert(PLAT_PAGE_TABLES + 6 * PAGE_SIZE_4K <= PLAT_BOOT_STACK, "no overlap");

/* Page table bits (Intel SDM 3A 4.5). Accessed and dirty are set so that no walk has to write. */
#define PT_PRESENT  (1u << 0)
#define PT_WRITABLE (1u << 1)
#define PT_ACCESSED (1u << 5)
#define PT_DIRTY    (1u << 6)
#define PT_LARGE    (1u << 7)
#define PT_ENTRIES  512u

/*
 * The guest's view of memory. The ACPI tables stay reserved rather than reclaimable, since the
 * FACS is among them; the ECAM is reserved, since guests trust the MCFG only then.
 */
static unsigned int info_memory_map(const struct gmem *mem, struct boot_e820_entry *map)
{
	unsigned int n = 0;

	map[n++] = (struct boot_e820_entry){ 0, PLAT_EBDA, E820_RAM };
	map[n++] = (struct boot_e820_entry){ PLAT_ACPI_BASE, PLAT_ACPI_SIZE, E820_RESERVED };
	map[n++] = (struct boot_e820_entry){ PLAT_KERNEL_MIN,
					     mem->regions[0].size - PLAT_KERNEL_MIN, E820_RAM };
	map[n++] = (struct boot_e820_entry){ PLAT_ECAM_BASE, PLAT_ECAM_SIZE, E820_RESERVED };
	map[n++] =
		(struct boot_e820_entry){ PLAT_KVM_IDENTITY_MAP,
					  PLAT_KVM_TSS + 3 * PAGE_SIZE_4K - PLAT_KVM_IDENTITY_MAP,
					  E820_RESERVED };
	if (mem->nregions > 1)
		map[n++] = (struct boot_e820_entry){ PLAT_RAM_HIGH_BASE, mem->regions[1].size,
						     E820_RAM };
	return n;
}

/* Page 0: the GDT, and zeroes where a BIOS would leave data that guests look at (EBDA segment). */
static int info_write_page0(struct gmem *mem)
{
	uint64_t gdt[BOOT_GDT_ENTRIES] = {
		[BOOT_SEL_CODE64 / 8] = BOOT_DESC_CODE64,
		[BOOT_SEL_DATA / 8] = BOOT_DESC_DATA,
		[BOOT_SEL_CODE32 / 8] = BOOT_DESC_CODE32,
	};

	int err = gmem_zero(mem, 0, PAGE_SIZE_4K);

	return err ? err : gmem_write(mem, PLAT_GDT, gdt, sizeof(gdt));
}

/* PML4, PDPT and four page directories of 2 MiB pages: virtual = physical for 4 GiB. */
static int info_write_page_tables(struct gmem *mem)
{
	const uint64_t table = PT_PRESENT | PT_WRITABLE | PT_ACCESSED;
	const uint64_t leaf = table | PT_DIRTY | PT_LARGE;
	const gpa_t pdpt = PLAT_PAGE_TABLES + PAGE_SIZE_4K, pd = pdpt + PAGE_SIZE_4K;
	uint64_t page[PT_ENTRIES] = { pdpt | table };
	int err;

	err = gmem_write(mem, PLAT_PAGE_TABLES, page, sizeof(page));
	for (unsigned int i = 0; i < 4; i++)
		page[i] = (pd + i * PAGE_SIZE_4K) | table;
	if (!err)
		err = gmem_write(mem, pdpt, page, sizeof(page));
	for (uint64_t i = 0; i < 4 && !err; i++) {
		for (unsigned int j = 0; j < PT_ENTRIES; j++)
			page[j] = MiB(2) * (i * PT_ENTRIES + j) | leaf;
		err = gmem_write(mem, pd + i * PAGE_SIZE_4K, page, sizeof(page));
	}
	return err;
}

static int info_write_zero_page(struct gmem *mem, const struct boot_source *src,
				const struct boot_image *img, const struct boot_initrd *initrd)
{
	struct boot_params bp;

	memset(&bp, 0, sizeof(bp));
	bp.hdr = img->hdr;
	bp.hdr.cmd_line_ptr = PLAT_CMDLINE;
	bp.hdr.ramdisk_image = (uint32_t)initrd->gpa;
	bp.hdr.ramdisk_size = (uint32_t)initrd->size;
	bp.ext_ramdisk_image = (uint32_t)(initrd->gpa >> 32);
	bp.ext_ramdisk_size = (uint32_t)(initrd->size >> 32);
	bp.acpi_rsdp_addr = src->acpi_rsdp;
	bp.e820_entries = (uint8_t)info_memory_map(mem, bp.e820_table);
	return gmem_write(mem, PLAT_ZERO_PAGE, &bp, sizeof(bp));
}

static int info_write_pvh(struct gmem *mem, const struct boot_source *src,
			  const struct boot_initrd *initrd)
{
	struct boot_e820_entry map[LOW_MAP_MAX];
	struct pvh_page page = {
		.info = { .magic = PVH_MAGIC,
			  .version = PVH_VERSION,
			  .cmdline_paddr = PLAT_CMDLINE,
			  .rsdp_paddr = src->acpi_rsdp,
			  .memmap_paddr = PLAT_PVH_INFO + offsetof(struct pvh_page, map) },
	};

	page.info.memmap_entries = info_memory_map(mem, map);
	for (unsigned int i = 0; i < page.info.memmap_entries; i++)
		page.map[i] = (struct pvh_memmap_entry){ .addr = map[i].addr,
							 .size = map[i].size,
							 .type = map[i].type };
	if (initrd->size) {
		page.info.nr_modules = 1;
		page.info.modlist_paddr = PLAT_PVH_INFO + offsetof(struct pvh_page, module);
		page.module = (struct pvh_module){ .paddr = initrd->gpa, .size = initrd->size };
	}
	return gmem_write(mem, PLAT_PVH_INFO, &page, sizeof(page));
}

int boot_info_write(struct gmem *mem, const struct boot_source *src, const struct boot_image *img,
		    const struct boot_initrd *initrd, gpa_t *info, struct diag *d)
{
	size_t len = strlen(src->cmdline);
	size_t max = img->cmdline_max < PLAT_CMDLINE_MAX ? img->cmdline_max : PLAT_CMDLINE_MAX - 1;
	int err;

	if (len > max)
		return diag_set(d, -EINVAL,
				"kernel %s: the command line has %zu bytes, this kernel takes at "
				"most %zu",
				src->kernel_path, len, max);
	err = gmem_write(mem, PLAT_CMDLINE, src->cmdline, len + 1);
	if (!err)
		err = info_write_page0(mem);
	if (!err && img->entry.mode == BOOT_PVH) {
		*info = PLAT_PVH_INFO;
		err = info_write_pvh(mem, src, initrd);
	} else if (!err) {
		*info = PLAT_ZERO_PAGE;
		err = info_write_page_tables(mem);
		if (!err)
			err = info_write_zero_page(mem, src, img, initrd);
	}
	if (err)
		return diag_set(d, err,
				"the boot structures lie outside guest memory: it must "
				"cover the first MiB");
	return 0;
}
