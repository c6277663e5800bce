/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot.c - looks at kernel and initrd, asks the format's parser for a plan, checks the
 * plan against the guest's RAM and loads: file bytes go straight into guest memory by pread (a
 * mapping of a file that shrinks would be a SIGBUS). Thread: main, vcpus parked.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <unvmm/platform.h>

#include "boot_internal.h"

/* Reads len bytes at offset, whatever pieces they come in. */
static int boot_pread(const struct boot_file *f, uint64_t offset, void *buf, uint64_t len,
		      struct diag *d)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = pread(f->fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return diag_errno(d, -errno, "%s %s: cannot read", f->what, f->path);
		if (n == 0)
			return diag_set(d, -EIO,
					"%s %s: it ended at byte %" PRIu64 " while being read, it "
					"had %" PRIu64 " bytes before: it must not change during "
					"the start",
					f->what, f->path, offset, f->size);
		p += n;
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

int boot_file_read(const struct boot_file *f, uint64_t offset, void *buf, size_t len,
		   struct diag *d)
{
	if (range_within(offset, len, 0, f->head_len)) {
		memcpy(buf, f->head + offset, len);
		return 0;
	}
	return boot_pread(f, offset, buf, len, d);
}

/* head_max: how much of the file to have at hand for a parser. */
static int boot_file_open(struct boot_file *f, const char *what, const char *path, int fd,
			  size_t head_max, struct diag *d)
{
	struct stat st;

	f->fd = fd;
	f->what = what;
	f->path = path;
	f->head_len = 0;
	if (fstat(fd, &st) < 0)
		return diag_errno(d, -errno, "%s %s: cannot get its size", what, path);
	if (!S_ISREG(st.st_mode))
		return diag_set(d, -EINVAL, "%s %s: it is a %s: it must be a regular file", what,
				path, S_ISDIR(st.st_mode) ? "directory" : "device or a pipe");
	if (st.st_size == 0)
		return diag_set(d, -EINVAL, "%s %s: the file is empty", what, path);
	f->size = (uint64_t)st.st_size;
	if (head_max > f->size)
		head_max = f->size;
	f->head_len = head_max;
	return boot_pread(f, 0, f->head, head_max, d);
}

static int boot_parse(const struct boot_file *f, const struct boot_source *src,
		      struct boot_image *img, struct diag *d)
{
	if (boot_is_elf(f))
		return boot_elf_parse(f, src->prefer_64bit_entry, img, d);
	if (boot_is_bzimage(f))
		return boot_bzimage_parse(f, img, d);
	return diag_set(d, -ENOEXEC, "kernel %s: it is neither a Linux bzImage nor an ELF file",
			f->path);
}

static uint64_t to_mib(uint64_t bytes)
{
	return (bytes + MiB(1) - 1) / MiB(1);
}

/* Kernel and initrd one after the other must fit below 3 GiB and into the guest's RAM. */
static int boot_check_room(const struct gmem *mem, const struct boot_file *kernel,
			   const struct boot_image *img, uint64_t initrd_size, struct diag *d)
{
	uint64_t kernel_size = img->end - img->start;
	uint64_t room = PLAT_RAM_LOW_MAX - align_up(img->end, PAGE_SIZE_4K);
	uint64_t need;

	if (initrd_size > room)
		return diag_set(d, -ENOSPC,
				"kernel %s needs %" PRIu64 " MiB at 0x%" PRIx64
				" and its initrd %" PRIu64 " MiB: they must fit below 3 GiB",
				kernel->path, to_mib(kernel_size), img->start, to_mib(initrd_size));
	need = align_up(img->end, PAGE_SIZE_4K) + align_up(initrd_size, PAGE_SIZE_4K);
	if (need <= mem->regions[0].size)
		return 0;
	if (!initrd_size)
		return diag_set(d, -ENOSPC,
				"kernel %s needs %" PRIu64 " MiB at 0x%" PRIx64
				", the guest has %" PRIu64 " MiB: set memory to at least \"%" PRIu64
				"M\"",
				kernel->path, to_mib(kernel_size), img->start, mem->size / MiB(1),
				to_mib(need));
	return diag_set(d, -ENOSPC,
			"kernel %s needs %" PRIu64 " MiB at 0x%" PRIx64 " and its initrd %" PRIu64
			" MiB above that, the guest has %" PRIu64
			" MiB: set memory to at least \"%" PRIu64 "M\"",
			kernel->path, to_mib(kernel_size), img->start, to_mib(initrd_size),
			mem->size / MiB(1), to_mib(need));
}

/* As high as RAM and the kernel's limit allow, so that it is out of the kernel's way. */
static int boot_place_initrd(const struct gmem *mem, const struct boot_file *f,
			     const struct boot_image *img, struct boot_initrd *initrd,
			     struct diag *d)
{
	gpa_t limit = mem->regions[0].size;

	if (img->initrd_limit < limit)
		limit = img->initrd_limit;
	initrd->size = f->size;
	if (f->size <= limit)
		initrd->gpa = align_down(limit - f->size, PAGE_SIZE_4K);
	if (f->size > limit || initrd->gpa < img->end)
		return diag_set(d, -ENOSPC,
				"initrd %s: its %" PRIu64 " MiB do not fit between the kernel's "
				"end at 0x%" PRIx64 " and the kernel's initrd_addr_max 0x%" PRIx64,
				f->path, to_mib(f->size), img->end, img->initrd_limit - 1);
	return 0;
}

static int boot_load_bytes(struct gmem *mem, const struct boot_file *f, gpa_t gpa, uint64_t offset,
			   uint64_t len, struct diag *d)
{
	void *p;
	int err;

	if (!len)
		return 0;
	p = gmem_ptr(mem, gpa, len);
	if (!p)
		return diag_set(d, -EFAULT,
				"%s %s: 0x%" PRIx64 " + 0x%" PRIx64 " is outside guest memory",
				f->what, f->path, gpa, len);
	err = boot_pread(f, offset, p, len, d);
	gmem_mark_dirty(mem, gpa, len);
	return err;
}

static int boot_load_kernel(struct gmem *mem, const struct boot_file *f,
			    const struct boot_image *img, struct diag *d)
{
	for (unsigned int i = 0; i < img->nseg; i++) {
		const struct boot_segment *s = &img->seg[i];
		int err = boot_load_bytes(mem, f, s->gpa, s->offset, s->filesz, d);

		if (!err && s->memsz > s->filesz &&
		    gmem_zero(mem, s->gpa + s->filesz, s->memsz - s->filesz))
			err = diag_set(d, -EFAULT,
				       "kernel %s: 0x%" PRIx64 " + 0x%" PRIx64
				       " is outside guest memory",
				       f->path, s->gpa, s->memsz);
		if (err)
			return err;
	}
	return 0;
}

int boot_load(struct gmem *mem, const struct boot_source *src, struct boot_entry *out,
	      struct diag *d)
{
	struct boot_image img = { .nseg = 0 };
	struct boot_initrd initrd = { .size = 0 };
	struct boot_file kernel, ramdisk = { .size = 0 };
	int err;

	err = boot_file_open(&kernel, "kernel", src->kernel_path, src->kernel_fd,
			     sizeof(kernel.head), d);
	if (!err && src->initrd_fd >= 0)
		err = boot_file_open(&ramdisk, "initrd", src->initrd_path, src->initrd_fd, 0, d);
	if (!err)
		err = boot_parse(&kernel, src, &img, d);
	if (!err)
		err = boot_check_room(mem, &kernel, &img, ramdisk.size, d);
	if (!err && ramdisk.size)
		err = boot_place_initrd(mem, &ramdisk, &img, &initrd, d);
	if (!err)
		err = boot_info_write(mem, src, &img, &initrd, &img.entry.info, d);
	if (!err)
		err = boot_load_kernel(mem, &kernel, &img, d);
	if (!err && initrd.size)
		err = boot_load_bytes(mem, &ramdisk, initrd.gpa, 0, initrd.size, d);
	if (err)
		return err;
	*out = img.entry;
	return 0;
}
