/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_elf.c - reads the headers of an ELF64 kernel and plans where its segments go. Sources: the
 * System V ABI's x86-64 supplement; Xen's docs/misc/pvh.pandoc and public/elfnote.h for the PVH
 * note; Linux's arch/x86/kernel/head_64.S (startup_64) for the 64-bit entry. Thread: main.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <unvmm/platform.h>

#include "boot_internal.h"

#define ELF_PHNUM_MAX 128
#define ELF_NOTES_MAX (64u << 10) /* bytes in one PT_NOTE; Linux has half a KiB */

#define XEN_NOTE_NAME	      "Xen"
#define XEN_NOTE_PHYS32_ENTRY 18

struct elf_pvh {
	bool found;
	uint64_t entry;
};

bool boot_is_elf(const struct boot_file *f)
{
	return f->head_len >= SELFMAG && !memcmp(f->head, ELFMAG, SELFMAG);
}

static int elf_check_header(const struct boot_file *f, const Elf64_Ehdr *eh, struct diag *d)
{
	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh->e_machine != EM_X86_64)
		return diag_set(d, -ENOEXEC,
				"kernel %s: the ELF file has class %u, data encoding %u, machine "
				"%u: it must be 64-bit (2), little-endian (1), x86-64 (62)",
				f->path, eh->e_ident[EI_CLASS], eh->e_ident[EI_DATA],
				eh->e_machine);
	if (eh->e_type != ET_EXEC)
		return diag_set(d, -ENOEXEC,
				"kernel %s: e_type is %u: it must be an executable (2), linked to "
				"fixed addresses",
				f->path, eh->e_type);
	if (eh->e_phentsize != sizeof(Elf64_Phdr))
		return diag_set(d, -ENOEXEC, "kernel %s: e_phentsize is %u: it must be %zu",
				f->path, eh->e_phentsize, sizeof(Elf64_Phdr));
	if (eh->e_phnum < 1 || eh->e_phnum > ELF_PHNUM_MAX)
		return diag_set(d, -ENOEXEC, "kernel %s: e_phnum is %u: it must be 1 to %u",
				f->path, eh->e_phnum, ELF_PHNUM_MAX);
	return 0;
}

static int elf_add_segment(const struct boot_file *f, const Elf64_Phdr *ph, unsigned int index,
			   struct boot_image *img, struct diag *d)
{
	if (!ph->p_memsz && !ph->p_filesz)
		return 0;
	if (ph->p_filesz > ph->p_memsz)
		return diag_set(d, -ENOEXEC,
				"kernel %s: program header %u: p_filesz 0x%" PRIx64
				" is more than p_memsz 0x%" PRIx64,
				f->path, index, (uint64_t)ph->p_filesz, (uint64_t)ph->p_memsz);
	if (!range_within(ph->p_offset, ph->p_filesz, 0, f->size))
		return diag_set(d, -ENOEXEC,
				"kernel %s: program header %u: bytes 0x%" PRIx64 " + 0x%" PRIx64
				" of the file, which has 0x%" PRIx64 ": is it truncated?",
				f->path, index, (uint64_t)ph->p_offset, (uint64_t)ph->p_filesz,
				f->size);
	if (!range_within(ph->p_paddr, ph->p_memsz, PLAT_KERNEL_MIN,
			  PLAT_RAM_LOW_MAX - PLAT_KERNEL_MIN))
		return diag_set(d, -ENOEXEC,
				"kernel %s: program header %u: p_paddr 0x%" PRIx64 " + 0x%" PRIx64
				" must lie between 1 MiB (below are boot structures) and 3 GiB "
				"(above is the PCI window)",
				f->path, index, (uint64_t)ph->p_paddr, (uint64_t)ph->p_memsz);
	for (unsigned int i = 0; i < img->nseg; i++)
		if (ranges_overlap(ph->p_paddr, ph->p_memsz, img->seg[i].gpa, img->seg[i].memsz))
			return diag_set(d, -ENOEXEC,
					"kernel %s: program header %u: memory 0x%" PRIx64
					" + 0x%" PRIx64 " overlaps the segment at 0x%" PRIx64,
					f->path, index, (uint64_t)ph->p_paddr,
					(uint64_t)ph->p_memsz, img->seg[i].gpa);
	if (img->nseg == BOOT_SEGMENTS_MAX)
		return diag_set(d, -ENOEXEC, "kernel %s: more than %u loadable segments", f->path,
				BOOT_SEGMENTS_MAX);
	img->seg[img->nseg++] = (struct boot_segment){ .gpa = ph->p_paddr,
						       .memsz = ph->p_memsz,
						       .filesz = ph->p_filesz,
						       .offset = ph->p_offset };
	return 0;
}

/* The entry's descriptor is an address of the guest's word size: 4 bytes, or 8 from Linux. */
static int elf_pvh_entry(const struct boot_file *f, const uint8_t *desc, uint32_t len,
			 struct elf_pvh *pvh, struct diag *d)
{
	pvh->entry = 0;
	if (len != 4 && len != 8)
		return diag_set(d, -ENOEXEC,
				"kernel %s: the PVH entry note has %u bytes: it must have 4 or 8",
				f->path, len);
	memcpy(&pvh->entry, desc, len);
	pvh->found = true;
	return 0;
}

/* One PT_NOTE segment: {namesz, descsz, type, name, desc}, both padded to `align`. */
static int elf_walk_notes(const struct boot_file *f, const uint8_t *notes, uint64_t len,
			  uint64_t align, struct elf_pvh *pvh, struct diag *d)
{
	uint64_t at = 0;

	while (len - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr nh;
		uint64_t name = at + sizeof(nh), desc;

		memcpy(&nh, notes + at, sizeof(nh));
		desc = align_up(name + nh.n_namesz, align);
#ifdef FUZZ_PLANT /* tests/fuzz: the bound that is easiest to forget */
		if (desc > len)
#else
		if (desc > len || nh.n_descsz > len - desc)
#endif
			return diag_set(d, -ENOEXEC,
					"kernel %s: the note at byte 0x%" PRIx64 " of its segment "
					"runs past the segment's end",
					f->path, at);
		if (nh.n_type == XEN_NOTE_PHYS32_ENTRY && nh.n_namesz == sizeof(XEN_NOTE_NAME) &&
		    !memcmp(notes + name, XEN_NOTE_NAME, sizeof(XEN_NOTE_NAME)))
			return elf_pvh_entry(f, notes + desc, nh.n_descsz, pvh, d);
		at = align_up(desc + nh.n_descsz, align);
		if (at > len)
			break; /* the last padding may be missing */
	}
	return 0;
}

static int elf_read_notes(const struct boot_file *f, const Elf64_Phdr *ph, struct elf_pvh *pvh,
			  struct diag *d)
{
	uint8_t *notes;
	int err;

	if (pvh->found || !ph->p_filesz)
		return 0;
	if (ph->p_filesz > ELF_NOTES_MAX || !range_within(ph->p_offset, ph->p_filesz, 0, f->size))
		return diag_set(d, -ENOEXEC,
				"kernel %s: notes of 0x%" PRIx64 " bytes at 0x%" PRIx64
				" of the file: they must lie inside it and have at most 64 KiB",
				f->path, (uint64_t)ph->p_filesz, (uint64_t)ph->p_offset);
	notes = malloc(ph->p_filesz);
	if (!notes)
		return diag_errno(d, -ENOMEM, "kernel %s: cannot read its notes", f->path);
	err = boot_file_read(f, ph->p_offset, notes, ph->p_filesz, d);
	if (!err)
		err = elf_walk_notes(f, notes, ph->p_filesz, ph->p_align == 8 ? 8 : 4, pvh, d);
	free(notes);
	return err;
}

static bool elf_is_loaded(const struct boot_image *img, gpa_t gpa)
{
	for (unsigned int i = 0; i < img->nseg; i++)
		if (range_within(gpa, 1, img->seg[i].gpa, img->seg[i].memsz))
			return true;
	return false;
}

/*
 * Linux's e_entry is a physical address although its segments have virtual ones; other kernels
 * give a virtual one, which is translated through the segment that holds it.
 */
static int elf_entry64(const struct boot_file *f, const Elf64_Ehdr *eh, const Elf64_Phdr *ph,
		       struct boot_image *img, struct diag *d)
{
	if (elf_is_loaded(img, eh->e_entry)) {
		img->entry.rip = eh->e_entry;
		return 0;
	}
	for (unsigned int i = 0; i < eh->e_phnum; i++)
		if (ph[i].p_type == PT_LOAD && ph[i].p_memsz && eh->e_entry >= ph[i].p_vaddr &&
		    eh->e_entry - ph[i].p_vaddr < ph[i].p_memsz) {
			img->entry.rip = ph[i].p_paddr + (eh->e_entry - ph[i].p_vaddr);
			return 0;
		}
	return diag_set(d, -ENOEXEC, "kernel %s: e_entry 0x%" PRIx64 " is in no loadable segment",
			f->path, (uint64_t)eh->e_entry);
}

/* A setup header for a vmlinux, which has none: what boot.rst requires of a 64-bit loader. */
static void elf_fill_setup_header(struct setup_header *hdr)
{
	memset(hdr, 0, sizeof(*hdr));
	hdr->boot_flag = 0xaa55;
	hdr->header = 0x53726448;
	hdr->version = 0x020c;
	hdr->type_of_loader = 0xff;
	hdr->loadflags = LOADED_HIGH;
}

static int elf_parse_segments(const struct boot_file *f, const Elf64_Ehdr *eh, const Elf64_Phdr *ph,
			      struct boot_image *img, struct elf_pvh *pvh, struct diag *d)
{
	int err = 0;

	for (unsigned int i = 0; i < eh->e_phnum && !err; i++) {
		if (ph[i].p_type == PT_LOAD)
			err = elf_add_segment(f, &ph[i], i, img, d);
		else if (ph[i].p_type == PT_NOTE)
			err = elf_read_notes(f, &ph[i], pvh, d);
	}
	if (err)
		return err;
	if (!img->nseg)
		return diag_set(d, -ENOEXEC, "kernel %s: the ELF file has no loadable segment",
				f->path);
	img->start = UINT64_MAX;
	img->end = 0;
	for (unsigned int i = 0; i < img->nseg; i++) {
		if (img->seg[i].gpa < img->start)
			img->start = img->seg[i].gpa;
		if (img->seg[i].gpa + img->seg[i].memsz > img->end)
			img->end = img->seg[i].gpa + img->seg[i].memsz;
	}
	return 0;
}

int boot_elf_parse(const struct boot_file *f, bool prefer_64bit_entry, struct boot_image *img,
		   struct diag *d)
{
	Elf64_Phdr ph[ELF_PHNUM_MAX];
	Elf64_Ehdr eh;
	struct elf_pvh pvh = { .found = false };
	int err;

	if (f->size < sizeof(eh))
		return diag_set(d, -ENOEXEC,
				"kernel %s: the file ends inside the ELF header: is it truncated?",
				f->path);
	err = boot_file_read(f, 0, &eh, sizeof(eh), d);
	if (!err)
		err = elf_check_header(f, &eh, d);
	if (err)
		return err;
	if (!range_within(eh.e_phoff, (uint64_t)eh.e_phnum * sizeof(ph[0]), 0, f->size))
		return diag_set(d, -ENOEXEC,
				"kernel %s: %u program headers at 0x%" PRIx64
				" end outside the file: is it truncated?",
				f->path, eh.e_phnum, (uint64_t)eh.e_phoff);
	err = boot_file_read(f, eh.e_phoff, ph, eh.e_phnum * sizeof(ph[0]), d);
	if (!err)
		err = elf_parse_segments(f, &eh, ph, img, &pvh, d);
	if (err)
		return err;

	img->initrd_limit = PLAT_RAM_LOW_MAX;
	img->cmdline_max = PLAT_CMDLINE_MAX - 1;
	if (pvh.found && !prefer_64bit_entry) {
		if (!elf_is_loaded(img, pvh.entry))
			return diag_set(d, -ENOEXEC,
					"kernel %s: the PVH entry 0x%" PRIx64
					" is in no loadable segment",
					f->path, pvh.entry);
		img->entry = (struct boot_entry){ .mode = BOOT_PVH, .rip = pvh.entry };
		return 0;
	}
	img->entry.mode = BOOT_LONG_MODE;
	elf_fill_setup_header(&img->hdr);
	return elf_entry64(f, &eh, ph, img, d);
}
