/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gmem.c - guest memory: one mapping, and the only conversion of a guest-physical
 * address into a host pointer. Created by main; used by any thread.
 */
#include <unvmm/gmem.h>
#include <unvmm/platform.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_2M	      MiB(2)
#define DIRTY_SHIFT   12
#define BITS_PER_WORD 64

static void gmem_layout(struct gmem *g)
{
	uint64_t low = g->size < PLAT_RAM_LOW_MAX ? g->size : PLAT_RAM_LOW_MAX;

	g->regions[0] = (struct gmem_region){ .gpa = 0, .size = low, .hva = g->base };
	g->nregions = 1;
	if (g->size > low) {
		g->regions[1] = (struct gmem_region){ .gpa = PLAT_RAM_HIGH_BASE,
						      .size = g->size - low,
						      .offset = low,
						      .hva = g->base + low };
		g->nregions = 2;
	}
}

/* The host pages are taken now, so that an empty pool is an error here and not a SIGBUS later. */
static int gmem_reserve_huge(struct gmem *g, struct diag *d)
{
	int err = -posix_fallocate(g->fd, 0, (off_t)g->size);

	if (!err)
		return 0;
	return diag_set(d, err,
			"hugepages: the host cannot give %" PRIu64 " pages of 2 MiB (%s); "
			"reserve them with 'sysctl vm.nr_hugepages=%" PRIu64
			"' or leave hugepages off",
			g->size / HUGE_2M, strerror(-err), g->size / HUGE_2M);
}

static int gmem_create_fd(struct gmem *g, bool huge, struct diag *d)
{
	g->fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING |
						  (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
	if (g->fd < 0)
		return diag_errno(d, -errno, "memory: cannot create the guest's memory%s",
				  huge ? " from 2 MiB pages" : "");
	if (ftruncate(g->fd, (off_t)g->size) < 0)
		return diag_errno(d, -errno,
				  "memory: cannot size the guest's memory to %" PRIu64 " MiB",
				  g->size >> 20);
	/* A peer that is handed the descriptor must not be able to pull the pages away. */
	if (fcntl(g->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return diag_errno(d, -errno, "memory: cannot seal the guest's memory");
	return huge ? gmem_reserve_huge(g, d) : 0;
}

/*
 * Maps the RAM on a 2 MiB boundary: guest and host addresses then agree in their low 21 bits, as
 * they must for a huge page to be mapped into the guest as one.
 */
static int gmem_map(struct gmem *g, struct diag *d)
{
	int flags = g->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	uint8_t *room, *at;

	room = mmap(NULL, g->size + HUGE_2M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
	if (room == MAP_FAILED)
		return diag_errno(d, -errno, "memory: no address space for %" PRIu64 " MiB",
				  g->size >> 20);
	at = (uint8_t *)align_up((uintptr_t)room, HUGE_2M);
	if (mmap(at, g->size, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, g->fd,
		 0) == MAP_FAILED) {
		int err =
			diag_errno(d, -errno, "memory: cannot map %" PRIu64 " MiB", g->size >> 20);

		munmap(room, g->size + HUGE_2M);
		return err;
	}
	if (at != room)
		munmap(room, (size_t)(at - room));
	munmap(at + g->size, HUGE_2M - (size_t)(at - room));
	g->base = at;
	/* A core dump of the VMM must not carry the guest's memory. */
	madvise(g->base, g->size, MADV_DONTDUMP);
	/* Where huge pages are to be asked for. Refused: the host has none. */
	madvise(g->base, g->size, MADV_HUGEPAGE);
	/*
	 * But a huge page is zeroed before a guest's first instruction, and all that a small guest
	 * ever touches, and what a large one needs to start, is in the first two megabytes.
	 */
	madvise(g->base, HUGE_2M, MADV_NOHUGEPAGE);
	return 0;
}

int gmem_create(struct gmem *g, uint64_t size, enum gmem_kind kind, struct diag *d)
{
	bool huge = kind == GMEM_HUGETLB;
	int err = 0;

	*g = (struct gmem){ .fd = -1, .size = size };
	if (size < PLAT_RAM_MIN || size % (huge ? HUGE_2M : PAGE_SIZE_4K))
		return diag_set(d, -EINVAL,
				"memory: %" PRIu64 " bytes is not possible; it must be at least "
				"16 MiB and a multiple of %s",
				size, huge ? "2 MiB" : "4 KiB");
	if (kind != GMEM_PRIVATE)
		err = gmem_create_fd(g, huge, d);
	if (!err)
		err = gmem_map(g, d);
	if (err) {
		gmem_destroy(g);
		return err;
	}
	gmem_layout(g);
	return 0;
}

void gmem_destroy(struct gmem *g)
{
	gmem_log_stop(g);
	if (g->base)
		munmap(g->base, g->size);
	if (g->fd >= 0)
		close(g->fd);
	g->base = NULL;
	g->fd = -1;
	g->nregions = 0;
}

static const struct gmem_region *gmem_find(const struct gmem *g, gpa_t gpa, uint64_t len)
{
	for (unsigned int i = 0; i < g->nregions; i++)
		if (range_within(gpa, len, g->regions[i].gpa, g->regions[i].size))
			return &g->regions[i];
	return NULL;
}

void *gmem_ptr(const struct gmem *g, gpa_t gpa, uint64_t len)
{
	const struct gmem_region *r = len ? gmem_find(g, gpa, len) : NULL;

	return r ? (uint8_t *)r->hva + (gpa - r->gpa) : NULL;
}

int gmem_read(const struct gmem *g, gpa_t gpa, void *buf, size_t len)
{
	const void *p;

	if (!len)
		return 0;
	p = gmem_ptr(g, gpa, len);
	if (!p)
		return -EFAULT;
	memcpy(buf, p, len);
	return 0;
}

int gmem_write(struct gmem *g, gpa_t gpa, const void *buf, size_t len)
{
	void *p;

	if (!len)
		return 0;
	p = gmem_ptr(g, gpa, len);
	if (!p)
		return -EFAULT;
	memcpy(p, buf, len);
	gmem_mark_dirty(g, gpa, len);
	return 0;
}

int gmem_zero(struct gmem *g, gpa_t gpa, uint64_t len)
{
	void *p;

	if (!len)
		return 0;
	p = gmem_ptr(g, gpa, len);
	if (!p)
		return -EFAULT;
	memset(p, 0, len);
	gmem_mark_dirty(g, gpa, len);
	return 0;
}

void gmem_mark_dirty(struct gmem *g, gpa_t gpa, uint64_t len)
{
	uint64_t *dirty = __atomic_load_n(&g->dirty, __ATOMIC_ACQUIRE);
	const struct gmem_region *r;
	uint64_t first, last;

	if (likely(!dirty) || !len)
		return;
	r = gmem_find(g, gpa, len);
	if (!r)
		return;
	first = (r->offset + (gpa - r->gpa)) >> DIRTY_SHIFT;
	last = (r->offset + (gpa - r->gpa) + len - 1) >> DIRTY_SHIFT;
	for (uint64_t page = first; page <= last; page++)
		__atomic_fetch_or(&dirty[page / BITS_PER_WORD], 1ull << (page % BITS_PER_WORD),
				  __ATOMIC_RELAXED);
}

int gmem_log_start(struct gmem *g)
{
	uint64_t pages = g->size >> DIRTY_SHIFT;
	uint64_t *bits;

	if (g->dirty)
		return -EALREADY;
	bits = calloc((pages + BITS_PER_WORD - 1) / BITS_PER_WORD, sizeof(*bits));
	if (!bits)
		return -ENOMEM;
	__atomic_store_n(&g->dirty, bits, __ATOMIC_RELEASE);
	return 0;
}

void gmem_log_stop(struct gmem *g)
{
	uint64_t *bits = g->dirty;

	__atomic_store_n(&g->dirty, NULL, __ATOMIC_RELEASE);
	free(bits);
}
