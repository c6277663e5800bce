/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot.c - turns what either boot protocol hands over into one struct boot_info, copied, so that
 * the guest may overwrite everything outside its image. boot_setup() runs in ring 0, boot_main() in
 * ring 3.
 */
#include "guest.h"

#include <unvmm/platform.h>

/* Documentation/arch/x86/boot.rst and zero-page.rst. */
#define BP_ACPI_RSDP	0x070
#define BP_EXT_CMDLINE	0x0c8
#define BP_E820_ENTRIES 0x1e8
#define BP_HDR_MAGIC	0x202
#define BP_CMDLINE	0x228
#define BP_E820_TABLE	0x2d0
#define BP_E820_MAX	128

struct e820_entry {
	uint64_t base, size;
	uint32_t type;
} __attribute__((packed));

#define MEM_TYPE_RAM 1 /* the same number in e820 and in PVH's map */

/* Xen, public/arch-x86/hvm/start_info.h. */
#define PVH_MAGIC 0x336ec578

struct pvh_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp;
	uint64_t memmap; /* from version 1 on */
	uint32_t memmap_entries, reserved;
};

struct pvh_memmap_entry {
	uint64_t base, size;
	uint32_t type, reserved;
};

static struct boot_info boot_info;

static void range_add(uint64_t base, uint64_t size, uint32_t type)
{
	if (boot_info.nranges == BOOT_RANGES_MAX)
		test_abort("more than %u memory ranges", BOOT_RANGES_MAX);
	boot_info.range[boot_info.nranges++] =
		(struct mem_range){ .base = base, .size = size, .ram = type == MEM_TYPE_RAM };
}

static void cmdline_copy(uint64_t addr)
{
	const char *s = (const char *)addr;
	size_t i = 0;

	while (s && s[i] && i < BOOT_CMDLINE_MAX - 1) {
		boot_info.cmdline[i] = s[i];
		i++;
	}
	boot_info.cmdline[i] = 0;
}

static void read_linux(const uint8_t *bp)
{
	const struct e820_entry *e = (const void *)(bp + BP_E820_TABLE);
	unsigned int n = bp[BP_E820_ENTRIES];

	if (memcmp(bp + BP_HDR_MAGIC, "HdrS", 4))
		test_abort("boot_params without the HdrS magic");
	if (n > BP_E820_MAX)
		test_abort("boot_params with %u e820 entries", n);
	for (unsigned int i = 0; i < n; i++)
		range_add(e[i].base, e[i].size, e[i].type);
	boot_info.rsdp = *(const uint64_t *)(bp + BP_ACPI_RSDP);
	cmdline_copy(*(const uint32_t *)(bp + BP_CMDLINE) |
		     (uint64_t) * (const uint32_t *)(bp + BP_EXT_CMDLINE) << 32);
}

static void read_pvh(const struct pvh_start_info *si)
{
	const struct pvh_memmap_entry *e = (const void *)si->memmap;

	if (si->magic != PVH_MAGIC || si->version < 1)
		test_abort("hvm_start_info: magic 0x%x version %u", si->magic, si->version);
	for (uint32_t i = 0; i < si->memmap_entries; i++)
		range_add(e[i].base, e[i].size, e[i].type);
	boot_info.rsdp = si->rsdp;
	cmdline_copy(si->cmdline);
}

/*
 * RAM and the PCI window below 4 GiB, then all RAM above; by cpu_map()'s rule of first come, the
 * holes of the map are uncached and RAM is cached.
 */
static void map_memory(void)
{
	for (unsigned int i = 0; i < boot_info.nranges; i++) {
		const struct mem_range *r = &boot_info.range[i];

		if (r->ram && r->size)
			cpu_map(r->base, r->size, CPU_CACHED);
	}
	cpu_map(0, PLAT_RAM_HIGH_BASE, CPU_UNCACHED);
}

void boot_setup(enum boot_protocol protocol, uint64_t info)
{
	boot_info.protocol = protocol;
	if (protocol == BOOT_PVH)
		read_pvh((const void *)info);
	else
		read_linux((const void *)info);
	cpu_init();
	map_memory();
	boot_info.tsc_khz = cpu_tsc_khz();
}

void boot_main(void)
{
	opt_init(boot_info.cmdline);
	mem_init(&boot_info);
	print("entry %s, command line \"%s\"\r\n",
	      boot_info.protocol == BOOT_PVH ? "pvh" : "linux64", boot_info.cmdline);
	guest_main(&boot_info);
	test_finish();
}
