/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_bzimage.c - reads the setup header of a Linux bzImage and plans where its protected-mode
 * part goes. Source: Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header", "64-bit Boot
 * Protocol"). Thread: main.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include <unvmm/platform.h>

#include "boot_internal.h"

#define BZ_HDR_OFFSET	  offsetof(struct boot_params, hdr)
#define BZ_BOOT_FLAG	  0xaa55
#define BZ_MAGIC	  0x53726448 /* "HdrS" */
#define BZ_MIN_VERSION	  0x020c     /* the first with xloadflags */
#define BZ_SECTOR	  512u
#define BZ_DEFAULT_SECTS  4	/* what setup_sects 0 means */
#define BZ_ENTRY64_OFFSET 0x200 /* of the 64-bit entry from the load address */
#define BZ_LOADER_OTHER	  0xff	/* type_of_loader of one without an assigned number */

/* The jump at 0x200 skips the header: its operand tells where the header ends. */
#define BZ_JUMP_END 0x202

_Static_assert(BZ_HDR_OFFSET == 0x1f1, "setup header");

bool boot_is_bzimage(const struct boot_file *f)
{
	struct setup_header hdr;

	if (f->head_len < BZ_HDR_OFFSET + offsetof(struct setup_header, version))
		return false;
	memcpy(&hdr, f->head + BZ_HDR_OFFSET, offsetof(struct setup_header, version));
	return hdr.boot_flag == BZ_BOOT_FLAG && hdr.header == BZ_MAGIC;
}

/* Copies what the file has of the header; a shorter one than ours leaves zeroes. */
static int bz_read_header(const struct boot_file *f, struct setup_header *hdr, struct diag *d)
{
	size_t len;

	memset(hdr, 0, sizeof(*hdr));
	if (f->head_len < BZ_JUMP_END)
		return diag_set(d, -ENOEXEC,
				"kernel %s: the file ends inside the bzImage setup header: "
				"is it truncated?",
				f->path);
	len = BZ_JUMP_END + f->head[BZ_JUMP_END - 1] - BZ_HDR_OFFSET;
	if (len > sizeof(*hdr))
		len = sizeof(*hdr);
	if (f->head_len < BZ_HDR_OFFSET + len)
		return diag_set(d, -ENOEXEC,
				"kernel %s: the file ends inside the bzImage setup header: "
				"is it truncated?",
				f->path);
	memcpy(hdr, f->head + BZ_HDR_OFFSET, len);
	return 0;
}

static int bz_check_header(const struct boot_file *f, const struct setup_header *hdr,
			   struct diag *d)
{
	if (hdr->version < BZ_MIN_VERSION)
		return diag_set(d, -ENOEXEC,
				"kernel %s: boot protocol %u.%02u is too old, 2.12 (Linux 3.8) or "
				"newer is needed",
				f->path, hdr->version >> 8, hdr->version & 0xff);
	if (!(hdr->loadflags & LOADED_HIGH))
		return diag_set(d, -ENOEXEC,
				"kernel %s: loadflags lacks LOADED_HIGH: it is a zImage, a bzImage "
				"is needed",
				f->path);
	if (!(hdr->xloadflags & XLF_KERNEL_64))
		return diag_set(d, -ENOEXEC,
				"kernel %s: xloadflags lacks XLF_KERNEL_64: it has no 64-bit "
				"entry; an x86-64 kernel is needed",
				f->path);
	if (hdr->relocatable_kernel && !is_power_of_2(hdr->kernel_alignment))
		return diag_set(d, -ENOEXEC,
				"kernel %s: kernel_alignment 0x%x is not a power of two", f->path,
				hdr->kernel_alignment);
	if (hdr->init_size > PLAT_RAM_LOW_MAX)
		return diag_set(d, -ENOEXEC,
				"kernel %s: init_size 0x%x is more than the 3 GiB that a guest has "
				"below its PCI window",
				f->path, hdr->init_size);
	return 0;
}

/*
 * The address that the kernel prefers, or, if that cannot be and it can move, the next higher one
 * that suits. Never a lower one: a relocatable Linux below its preferred address decompresses
 * itself to that address all the same.
 */
static int bz_place(const struct boot_file *f, const struct setup_header *hdr, uint64_t size,
		    gpa_t *load, struct diag *d)
{
	gpa_t at = hdr->pref_address;

	if (hdr->relocatable_kernel && at < PLAT_RAM_LOW_MAX) {
		if (at < PLAT_KERNEL_MIN)
			at = PLAT_KERNEL_MIN;
		at = align_up(at, hdr->kernel_alignment);
	}
	if (!range_within(at, size, PLAT_KERNEL_MIN, PLAT_RAM_LOW_MAX - PLAT_KERNEL_MIN))
		return diag_set(d, -ENOEXEC,
				"kernel %s: pref_address 0x%" PRIx64
				" (%s, alignment 0x%x) with 0x%" PRIx64
				" bytes does not lie between 1 MiB and 3 GiB",
				f->path, (uint64_t)hdr->pref_address,
				hdr->relocatable_kernel ? "relocatable" : "not relocatable",
				hdr->kernel_alignment, size);
	*load = at;
	return 0;
}

int boot_bzimage_parse(const struct boot_file *f, struct boot_image *img, struct diag *d)
{
	struct setup_header *hdr = &img->hdr;
	uint64_t offset, payload, need;
	int err;

	err = bz_read_header(f, hdr, d);
	if (!err)
		err = bz_check_header(f, hdr, d);
	if (err)
		return err;

	offset = ((hdr->setup_sects ? hdr->setup_sects : BZ_DEFAULT_SECTS) + 1) * BZ_SECTOR;
	payload = (uint64_t)hdr->syssize * 16;
	if (payload <= BZ_ENTRY64_OFFSET)
		return diag_set(d, -ENOEXEC,
				"kernel %s: syssize %u leaves no room for a 64-bit entry at 0x%x",
				f->path, hdr->syssize, BZ_ENTRY64_OFFSET);
	if (!range_within(offset, payload, 0, f->size))
		return diag_set(d, -ENOEXEC,
				"kernel %s: setup_sects and syssize call for %" PRIu64
				" bytes, the file has %" PRIu64 ": is it truncated?",
				f->path, offset + payload, f->size);
	need = hdr->init_size > payload ? hdr->init_size : payload;
	err = bz_place(f, hdr, need, &img->start, d);
	if (err)
		return err;

	img->end = img->start + need;
	img->seg[0] = (struct boot_segment){
		.gpa = img->start, .memsz = payload, .filesz = payload, .offset = offset
	};
	img->nseg = 1;
	img->initrd_limit = (gpa_t)hdr->initrd_addr_max + 1;
	img->cmdline_max = hdr->cmdline_size;
	img->entry = (struct boot_entry){ .mode = BOOT_LONG_MODE,
					  .rip = img->start + BZ_ENTRY64_OFFSET };
	hdr->type_of_loader = BZ_LOADER_OTHER;
	hdr->ext_loader_ver = 0;
	hdr->ext_loader_type = 0;
	hdr->code32_start = (uint32_t)img->start;
	hdr->setup_data = 0; /* a list in guest memory: nothing that a file may name */
	return 0;
}
