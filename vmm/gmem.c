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
#include <sys/stat.h>
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
	free(g->log);
	g->log = NULL;
	for (unsigned int i = 0; i < g->nshared; i++)
		gmem_region_unmap(&g->shared[i]);
	free(g->shared);
	g->shared = NULL;
	g->nshared = 0;
	if (g->base)
		munmap(g->base, g->size);
	if (g->fd >= 0)
		close(g->fd);
	g->base = NULL;
	g->fd = -1;
	g->nregions = 0;
}

/* The last region that begins at or below gpa, if it holds all of the range. */
static const struct gmem_region *gmem_find_shared(const struct gmem *g, gpa_t gpa, uint64_t len)
{
	unsigned int low = 0, high = g->nshared;
	const struct gmem_region *r;

	while (low < high) {
		unsigned int mid = (low + high) / 2;

		if (g->shared[mid].gpa <= gpa)
			low = mid + 1;
		else
			high = mid;
	}
	r = low ? &g->shared[low - 1] : NULL;
	return r && range_within(gpa, len, r->gpa, r->size) ? r : NULL;
}

static const struct gmem_region *gmem_find(const struct gmem *g, gpa_t gpa, uint64_t len)
{
	for (unsigned int i = 0; i < g->nregions; i++)
		if (range_within(gpa, len, g->regions[i].gpa, g->regions[i].size))
			return &g->regions[i];
	return g->nshared ? gmem_find_shared(g, gpa, len) : NULL;
}

const void *gmem_ptr_read(const struct gmem *g, gpa_t gpa, uint64_t len)
{
	const struct gmem_region *r = len ? gmem_find(g, gpa, len) : NULL;

	return r && r->hva ? (uint8_t *)r->hva + (gpa - r->gpa) : NULL;
}

void *gmem_ptr(const struct gmem *g, gpa_t gpa, uint64_t len)
{
	const struct gmem_region *r = len ? gmem_find(g, gpa, len) : NULL;

	return r && r->hva && !r->readonly ? (uint8_t *)r->hva + (gpa - r->gpa) : NULL;
}

int gmem_read(const struct gmem *g, gpa_t gpa, void *buf, size_t len)
{
	const void *p;

	if (!len)
		return 0;
	p = gmem_ptr_read(g, gpa, len);
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
	if (dirty == &g->shared_log) {
		dirty = __atomic_load_n(&r->dirty, __ATOMIC_ACQUIRE);
		if (!dirty)
			return;
		first = (gpa - r->gpa) >> DIRTY_SHIFT;
		last = (gpa - r->gpa + len - 1) >> DIRTY_SHIFT;
	}
	for (uint64_t page = first; page <= last; page++)
		__atomic_fetch_or(&dirty[page / BITS_PER_WORD], 1ull << (page % BITS_PER_WORD),
				  __ATOMIC_RELAXED);
}

static uint64_t log_words(const struct gmem *g)
{
	return ((g->size >> DIRTY_SHIFT) + BITS_PER_WORD - 1) / BITS_PER_WORD;
}

int gmem_log_start(struct gmem *g)
{
	if (g->dirty)
		return -EALREADY;
	if (!g->log)
		g->log = calloc(log_words(g), sizeof(*g->log));
	if (!g->log)
		return -ENOMEM;
	/* A thread that was marking when the last log was stopped may have left a bit behind. */
	for (uint64_t i = 0; i < log_words(g); i++)
		__atomic_store_n(&g->log[i], 0, __ATOMIC_RELAXED);
	/*
	 * The caller makes KVM keep a log as well before it reads a page: by then a store of a
	 * thread that found no log here has long left its processor's store buffer.
	 */
	__atomic_store_n(&g->dirty, g->log, __ATOMIC_SEQ_CST);
	return 0;
}

/* The memory stays: a thread may be about to mark a page in it. */
void gmem_log_stop(struct gmem *g)
{
	__atomic_store_n(&g->dirty, NULL, __ATOMIC_RELEASE);
}

void gmem_log_fetch(struct gmem *g, uint64_t *bits)
{
	for (uint64_t i = 0; g->dirty && i < log_words(g); i++)
		if (__atomic_load_n(&g->log[i], __ATOMIC_RELAXED))
			bits[i] |= __atomic_exchange_n(&g->log[i], 0, __ATOMIC_SEQ_CST);
}

/* --- shared regions -------------------------------------------------------------------------- */

static uint64_t *log_alloc(uint64_t size)
{
	uint64_t pages = size >> DIRTY_SHIFT;

	return calloc((pages + BITS_PER_WORD - 1) / BITS_PER_WORD, sizeof(uint64_t));
}

static bool paged(uint64_t a, uint64_t b, uint64_t c)
{
	return (a | b | c) % PAGE_SIZE_4K == 0;
}

int gmem_region_map(struct gmem_region *r, gpa_t gpa, uint64_t size, int fd, uint64_t offset,
		    bool readonly)
{
	struct stat st;
	void *p;

	*r = (struct gmem_region){
		.gpa = gpa, .size = size, .offset = offset, .readonly = readonly
	};
	if (!size || !paged(gpa, size, offset) || gpa + (size - 1) < gpa ||
	    offset + size < offset || offset + size > INT64_MAX)
		return -EINVAL;
	if (fd < 0)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || offset + size > (uint64_t)st.st_size)
		return -EINVAL;
	p = mmap(NULL, size, PROT_READ | (readonly ? 0 : PROT_WRITE), MAP_SHARED | MAP_NORESERVE,
		 fd, (off_t)offset);
	if (p == MAP_FAILED)
		return -errno;
	madvise(p, size, MADV_DONTDUMP);
	r->hva = p;
	return 0;
}

void gmem_region_unmap(struct gmem_region *r)
{
	if (r->hva)
		munmap(r->hva, r->size);
	free(r->dirty);
	r->hva = NULL;
	r->dirty = NULL;
}

int gmem_share(struct gmem *g, const struct gmem_region *r)
{
	struct gmem_region *table, new = *r;
	unsigned int at = g->nshared;

	/* Ends are compared as last bytes: a region may end at 2^64. */
	for (unsigned int i = 0; i < g->nshared; i++) {
		const struct gmem_region *o = &g->shared[i];

		if (r->gpa <= o->gpa + (o->size - 1) && o->gpa <= r->gpa + (r->size - 1))
			return -EEXIST;
		if (o->gpa > r->gpa && i < at)
			at = i;
	}
	if (g->nshared == GMEM_SHARED_MAX)
		return -ENOSPC;
	/* What cannot be reached is not written, and of any size: no log is made of it. */
	if (g->dirty == &g->shared_log && new.hva && !new.dirty) {
		new.dirty = log_alloc(r->size);
		if (!new.dirty)
			return -ENOMEM;
	}
	table = realloc(g->shared, (g->nshared + 1) * sizeof(*table));
	if (!table) {
		free(new.dirty);
		return -ENOMEM;
	}
	memmove(table + at + 1, table + at, (g->nshared - at) * sizeof(*table));
	table[at] = new;
	g->shared = table;
	g->nshared++;
	return 0;
}

int gmem_unshare(struct gmem *g, gpa_t gpa, uint64_t size, struct gmem_region *r)
{
	for (unsigned int i = 0; i < g->nshared; i++) {
		if (g->shared[i].gpa != gpa || g->shared[i].size != size)
			continue;
		*r = g->shared[i];
		g->nshared--;
		memmove(g->shared + i, g->shared + i + 1, (g->nshared - i) * sizeof(*r));
		return 0;
	}
	return -ENOENT;
}

bool gmem_trap(const struct gmem *g, const void *addr)
{
	for (unsigned int i = 0; i < g->nshared; i++) {
		const struct gmem_region *r = &g->shared[i];

		if (r->hva && range_within((uintptr_t)addr, 1, (uintptr_t)r->hva, r->size))
			return mmap(r->hva, r->size, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
				    0) != MAP_FAILED;
	}
	return false;
}

int gmem_shared_log_start(struct gmem *g)
{
	for (unsigned int i = 0; i < g->nshared; i++) {
		struct gmem_region *r = &g->shared[i];
		uint64_t *bits;

		if (r->dirty || !r->hva)
			continue;
		bits = log_alloc(r->size);
		if (!bits)
			return -ENOMEM;
		__atomic_store_n(&r->dirty, bits, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&g->dirty, &g->shared_log, __ATOMIC_RELEASE);
	return 0;
}

void gmem_shared_log_stop(struct gmem *g)
{
	__atomic_store_n(&g->dirty, NULL, __ATOMIC_RELEASE);
}

/* As much of [gpa, gpa + len) as lies in r, which holds its first page. */
static uint64_t part_in(const struct gmem_region *r, gpa_t gpa, uint64_t len)
{
	uint64_t rest = r->size - (gpa - r->gpa);

	return len < rest ? len : rest;
}

/* Bits of the log of r, from the page at gpa on, to those of `bits` from `to` on. */
static void fetch_region(const struct gmem_region *r, gpa_t gpa, uint64_t npages, uint64_t *bits,
			 uint64_t to)
{
	uint64_t page = (gpa - r->gpa) >> DIRTY_SHIFT, end = page + npages;

	while (r->dirty && page < end) {
		uint64_t *word = &r->dirty[page / BITS_PER_WORD],
			 bit = 1ull << page % BITS_PER_WORD;
		uint64_t now = __atomic_load_n(word, __ATOMIC_RELAXED);
		uint64_t step = now ? 1 : BITS_PER_WORD - page % BITS_PER_WORD;

		if (now & bit) {
			/* Cleared before the owner copies the page: a write after that is found
			 * next time.
			 */
			__atomic_fetch_and(word, ~bit, __ATOMIC_ACQ_REL);
			bits[to / BITS_PER_WORD] |= 1ull << to % BITS_PER_WORD;
		}
		page += step;
		to += step;
	}
}

int gmem_shared_log_fetch(struct gmem *g, gpa_t gpa, uint64_t len, uint64_t *bits)
{
	const struct gmem_region *r;
	uint64_t part;

	if (!paged(gpa, len, 0) || gpa + len < gpa)
		return -EINVAL;
	/* By regions, not by pages: it is a client that says how many there are. */
	for (uint64_t done = 0; done < len; done += part) {
		r = gmem_find_shared(g, gpa + done, PAGE_SIZE_4K);
		if (!r)
			return -ENOENT;
		part = part_in(r, gpa + done, len - done);
	}
	for (uint64_t done = 0; done < len; done += part) {
		r = gmem_find_shared(g, gpa + done, PAGE_SIZE_4K);
		part = part_in(r, gpa + done, len - done);
		fetch_region(r, gpa + done, part >> DIRTY_SHIFT, bits, done >> DIRTY_SHIFT);
	}
	return 0;
}
