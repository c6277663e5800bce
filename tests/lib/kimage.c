/* SPDX-License-Identifier: Apache-2.0 */
/* kimage.c - builds the synthetic kernels of kimage.h. Any thread. */
#include "kimage.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HDR_OFFSET  offsetof(struct boot_params, hdr)
#define NOTE_OFFSET 0x200u
#define PVH_NOTE_AT 32u /* after another note */
#define NOTES_SIZE  (PVH_NOTE_AT + sizeof(Elf64_Nhdr) + 4 + 8)

uint8_t kimage_byte(size_t i)
{
	return (uint8_t)(1 + (i * 7 + i / 255) % 255);
}

static struct kimage kimage_alloc(size_t head, size_t content)
{
	struct kimage k = { .data = calloc(1, head + content), .len = head + content };

	if (!k.data)
		abort();
	for (size_t i = 0; i < content; i++)
		k.data[head + i] = kimage_byte(i);
	return k;
}

struct setup_header *kimage_setup_header(struct kimage *k)
{
	return (struct setup_header *)(k->data + HDR_OFFSET);
}

struct kimage kimage_bzimage(size_t payload)
{
	struct kimage k = kimage_alloc(KIMAGE_SETUP_SIZE, payload);

	*kimage_setup_header(&k) = (struct setup_header){
		.setup_sects = KIMAGE_SETUP_SIZE / 512 - 1,
		.syssize = (uint32_t)(payload / 16),
		.boot_flag = 0xaa55,
		/* jmp to the end of the header */
		.jump = (uint16_t)((HDR_OFFSET + sizeof(struct setup_header) - 0x202) << 8 | 0xeb),
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G,
		.cmdline_size = 2047,
		.setup_data = 0xdeadbeef,
		.pref_address = KIMAGE_BZ_LOAD,
		.init_size = KIMAGE_BZ_INIT,
	};
	return k;
}

Elf64_Ehdr *kimage_ehdr(struct kimage *k)
{
	return (Elf64_Ehdr *)k->data;
}

Elf64_Phdr *kimage_phdr(struct kimage *k, unsigned int index)
{
	return (Elf64_Phdr *)(k->data + sizeof(Elf64_Ehdr)) + index;
}

Elf64_Nhdr *kimage_pvh_note(struct kimage *k)
{
	return (Elf64_Nhdr *)(k->data + NOTE_OFFSET + PVH_NOTE_AT);
}

static void kimage_fill_notes(struct kimage *k)
{
	Elf64_Nhdr *other = (Elf64_Nhdr *)(k->data + NOTE_OFFSET);
	Elf64_Nhdr *pvh = kimage_pvh_note(k);
	uint64_t entry = KIMAGE_ENTRY_PVH;

	*other = (Elf64_Nhdr){ .n_namesz = 6, .n_descsz = 9, .n_type = 18 };
	memcpy(other + 1, "Other", 6);
	*pvh = (Elf64_Nhdr){ .n_namesz = 4, .n_descsz = sizeof(entry), .n_type = 18 };
	memcpy(pvh + 1, "Xen", 4);
	memcpy((uint8_t *)(pvh + 1) + 4, &entry, sizeof(entry));
}

struct kimage kimage_elf(size_t size)
{
	struct kimage k = kimage_alloc(KIMAGE_ELF_HEADERS, 2 * size);

	*kimage_ehdr(&k) = (Elf64_Ehdr){
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
			     EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = KIMAGE_ENTRY64,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = KIMAGE_PH_COUNT,
	};
	*kimage_phdr(&k, KIMAGE_PH_TEXT) = (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_offset = KIMAGE_ELF_HEADERS,
		.p_paddr = KIMAGE_TEXT_GPA,
		.p_vaddr = KIMAGE_ELF_VIRT + KIMAGE_TEXT_GPA,
		.p_filesz = size,
		.p_memsz = size,
	};
	*kimage_phdr(&k, KIMAGE_PH_DATA) = (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_offset = KIMAGE_ELF_HEADERS + size,
		.p_paddr = KIMAGE_DATA_GPA,
		.p_vaddr = KIMAGE_ELF_VIRT + KIMAGE_DATA_GPA,
		.p_filesz = size,
		.p_memsz = KIMAGE_DATA_MEMSZ,
	};
	*kimage_phdr(&k, KIMAGE_PH_NOTE) = (Elf64_Phdr){
		.p_type = PT_NOTE,
		.p_offset = NOTE_OFFSET,
		.p_filesz = NOTES_SIZE,
		.p_memsz = NOTES_SIZE,
		.p_align = 4,
	};
	kimage_fill_notes(&k);
	return k;
}

int kimage_fd(const struct kimage *k, size_t len)
{
	int fd = memfd_create("kimage", MFD_CLOEXEC);

	if (fd < 0 || write(fd, k->data, len) != (ssize_t)len)
		abort();
	return fd;
}

void kimage_free(struct kimage *k)
{
	free(k->data);
	k->data = NULL;
}
