/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ram.c - guest RAM in rounds. A page's bit is cleared in both logs before the page is read, so
 * what is written while it is read, or later, makes it pending again. The migration thread.
 */
#include "ram.h"
#include "stream.h"

#include <unvmm/kvm.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OFF_SUM 16 /* in a section's payload (FORMAT.md, section 3) */

#define WORD_BITS    64
#define WINDOW_WORDS (RAM_PAGES / WORD_BITS)
/*
 * Pages whose log KVM is told to clear in one go: each time it flushes the vcpus' TLBs, and pages
 * that wait for their turn with a cleared bit may have to be sent twice.
 */
#define CLEAR_PAGES 4096u

static uint64_t words(uint64_t pages)
{
	return (pages + WORD_BITS - 1) / WORD_BITS;
}

/* --- the logs --------------------------------------------------------------------------------- */

static void mark_all(struct ram *r)
{
	memset(r->pending, 0xff, words(r->npages) * sizeof(*r->pending));
	if (r->npages % WORD_BITS)
		r->pending[r->npages / WORD_BITS] = (1ull << r->npages % WORD_BITS) - 1;
	r->npending = r->npages;
}

int ram_start(struct ram *r, struct kvm *kvm, struct gmem *mem, struct diag *d)
{
	int err;

	*r = (struct ram){ .kvm = kvm, .mem = mem, .npages = mem->size / PAGE_SIZE_4K };
	r->pending = calloc(words(r->npages), sizeof(*r->pending));
	r->scratch = calloc(words(r->npages), sizeof(*r->scratch));
	if (!r->pending || !r->scratch) {
		ram_stop(r);
		return diag_set(d, -ENOMEM, "out of memory for the log of dirty pages");
	}
	err = gmem_log_start(mem);
	if (!err) {
		r->logging = true;
		err = kvm ? kvm_log_start(kvm, mem) : 0;
	}
	if (err) {
		ram_stop(r);
		return diag_errno(d, err, "cannot log which pages the guest writes");
	}
	mark_all(r);
	return 0;
}

void ram_stop(struct ram *r)
{
	if (r->logging && r->kvm)
		kvm_log_stop(r->kvm, r->mem);
	if (r->logging)
		gmem_log_stop(r->mem);
	r->logging = false;
	free(r->pending);
	free(r->scratch);
	r->pending = r->scratch = NULL;
}

static void count_pending(struct ram *r)
{
	r->npending = 0;
	for (uint64_t i = 0; i < words(r->npages); i++)
		r->npending += (uint64_t)__builtin_popcountll(r->pending[i]);
}

int ram_fetch(struct ram *r, struct diag *d)
{
	for (unsigned int i = 0; r->kvm && i < r->mem->nregions; i++) {
		const struct gmem_region *g = &r->mem->regions[i];
		uint64_t *to = r->pending + g->offset / PAGE_SIZE_4K / WORD_BITS;
		int err = kvm_log_get(r->kvm, i, r->scratch);

		if (err)
			return diag_errno(d, err, "KVM does not say which pages were written");
		for (uint64_t w = 0; w < words(g->size / PAGE_SIZE_4K); w++)
			to[w] |= r->scratch[w];
	}
	gmem_log_fetch(r->mem, r->pending);
	count_pending(r);
	r->next = r->cleared = 0;
	return 0;
}

static const struct gmem_region *region_of(const struct ram *r, uint64_t page)
{
	const struct gmem *g = r->mem;

	for (unsigned int i = 0; i < g->nregions; i++)
		if (range_within(page * PAGE_SIZE_4K, 1, g->regions[i].offset, g->regions[i].size))
			return &g->regions[i];
	return NULL;
}

/* Before `page` is read: KVM forgets that the pending pages around it were written. */
static int clear_ahead(struct ram *r, uint64_t page, struct diag *d)
{
	const struct gmem_region *g = region_of(r, page);
	uint64_t start, end;
	int err;

	if (!r->kvm || r->stopped || page < r->cleared || !g)
		return 0;
	start = g->offset / PAGE_SIZE_4K;
	end = start + g->size / PAGE_SIZE_4K;
	if (end - page > CLEAR_PAGES)
		end = page + CLEAR_PAGES;
	err = kvm_log_clear(r->kvm, (unsigned int)(g - r->mem->regions), page - start,
			    (uint32_t)(end - page), r->pending + page / WORD_BITS);
	if (err)
		return diag_errno(d, err, "KVM cannot clear its log of written pages");
	r->cleared = end;
	return 0;
}

/* --- sections --------------------------------------------------------------------------------- */

typedef uint64_t quad __attribute__((vector_size(32), aligned(8), may_alias));

bool ram_page_is_zero(const void *page)
{
	const quad *q = page;

	/* The first bytes tell for most pages that are not. */
	for (unsigned int i = 0; i < PAGE_SIZE_4K / sizeof(*q); i += 4) {
		quad any = q[i] | q[i + 1] | q[i + 2] | q[i + 3];

		if (any[0] | any[1] | any[2] | any[3])
			return false;
	}
	return true;
}

/*
 * Never touched by anybody, so of zeroes; to look at such pages of a memfd has the host allocate
 * them. To be asked when the logs have been cleared: what is touched from then on is in there
 * again.
 */
static bool untouched(const struct gmem *mem, uint64_t offset, uint64_t len)
{
	off_t data = mem->fd >= 0 ? lseek(mem->fd, (off_t)offset, SEEK_DATA) : (off_t)offset;

	return data < 0 ? errno == ENXIO : (uint64_t)data >= offset + len;
}

static bool window_pending(const struct ram *r, uint64_t page)
{
	uint64_t any = 0;

	for (unsigned int w = 0; w < WINDOW_WORDS && page + w * WORD_BITS < r->npages; w++)
		any |= r->pending[page / WORD_BITS + w];
	return any;
}

/* Puts the pending pages of [page, page + n) behind the bitmaps; returns where they end. */
static uint8_t *fill_window(struct ram *r, uint64_t page, unsigned int n, uint8_t *data,
			    uint8_t *zero, uint8_t *out)
{
	const uint8_t *from = r->mem->base + page * PAGE_SIZE_4K;
	bool zeroes = untouched(r->mem, page * PAGE_SIZE_4K, (uint64_t)n * PAGE_SIZE_4K);

	for (unsigned int i = 0; i < n; i++, from += PAGE_SIZE_4K) {
		uint64_t *word = &r->pending[(page + i) / WORD_BITS];

		if (!(*word >> (page + i) % WORD_BITS & 1))
			continue;
		*word &= ~(1ull << (page + i) % WORD_BITS);
		r->npending--;
		if (zeroes || ram_page_is_zero(from)) {
			zero[i / 8] |= (uint8_t)(1u << i % 8);
			r->zero_pages++;
			continue;
		}
		data[i / 8] |= (uint8_t)(1u << i % 8);
		memcpy(out, from, PAGE_SIZE_4K);
		out += PAGE_SIZE_4K;
		r->pages++;
	}
	return out;
}

int ram_fill(struct ram *r, uint8_t *payload, struct diag *d)
{
	uint64_t page = r->next;
	const struct gmem_region *g;
	unsigned int n, bitmap;
	uint8_t *pages, *end;
	int err;

	while (page < r->npages && !window_pending(r, page))
		page += RAM_PAGES;
	if (page >= r->npages) {
		r->next = page;
		return 0;
	}
	err = clear_ahead(r, page, d);
	if (err)
		return err;
	g = region_of(r, page);
	n = r->npages - page < RAM_PAGES ? (unsigned int)(r->npages - page) : RAM_PAGES;
	bitmap = (unsigned int)words(n) * 8;
	put_le64(payload, g->gpa + page * PAGE_SIZE_4K - g->offset);
	put_le32(payload + 8, n);
	put_le32(payload + 12, 0);
	memset(payload + RAM_FIXED, 0, 2 * bitmap);
	pages = payload + RAM_FIXED + 2 * bitmap;
	end = fill_window(r, page, n, payload + RAM_FIXED, payload + RAM_FIXED + bitmap, pages);
	/* Of the copies: the guest may be writing to its pages. */
	put_le64(payload + OFF_SUM, ram_sum(pages, (size_t)(end - pages) / PAGE_SIZE_4K));
	r->next = page + RAM_PAGES;
	return (int)(end - payload);
}

static int bad(const char *what, uint64_t gpa, uint64_t n, struct diag *d)
{
	return diag_set(d, -EPROTO, "RAM section for 0x%" PRIx64 ", %" PRIu64 " pages: %s", gpa, n,
			what);
}

/* The bitmaps; their bits agree with each other and with the length. */
static int check_bitmaps(struct ram_section *r, size_t len, gpa_t gpa, struct diag *d)
{
	size_t bitmap = words(r->n) * 8;

	r->npages = 0;
	for (unsigned int i = 0; i < bitmap * 8; i++) {
		bool has = ram_has(r->data, i), is_zero = ram_has(r->zero, i);

		if ((has && is_zero) || ((has || is_zero) && i >= r->n))
			return bad("its bitmaps contradict each other", gpa, r->n, d);
		r->npages += has;
	}
	if (len != RAM_FIXED + 2 * bitmap + r->npages * PAGE_SIZE_4K)
		return bad("its length is not that of its pages", gpa, r->n, d);
	return 0;
}

int ram_parse(const struct gmem *mem, const uint8_t *payload, size_t got, size_t len,
	      struct ram_section *r, struct diag *d)
{
	gpa_t gpa = got >= RAM_FIXED ? get_le64(payload) : 0;
	uint32_t n;
	size_t bitmap;
	int err;

	if (got < RAM_FIXED)
		return diag_set(d, -EPROTO, "RAM section of %zu bytes", len);
	n = get_le32(payload + 8);
	if (!n || n > RAM_PAGES || gpa % PAGE_SIZE_4K || get_le32(payload + 12))
		return bad("impossible", gpa, n, d);
	bitmap = words(n) * 8;
	if (got < RAM_FIXED + 2 * bitmap)
		return bad("too short for its bitmaps", gpa, n, d);
	*r = (struct ram_section){ .n = n,
				   .data = payload + RAM_FIXED,
				   .zero = payload + RAM_FIXED + bitmap,
				   .contents = payload + RAM_FIXED + 2 * bitmap };
	err = check_bitmaps(r, len, gpa, d);
	if (err)
		return err;
	if (got == len && ram_sum(r->contents, r->npages) != get_le64(payload + OFF_SUM))
		return bad("it is damaged: its sum is wrong", gpa, n, d);
#ifdef FUZZ_PLANT
	r->to = gmem_ptr(mem, gpa, PAGE_SIZE_4K);
#else
	r->to = gmem_ptr(mem, gpa, (uint64_t)n * PAGE_SIZE_4K);
#endif
	return r->to ? 0 : bad("not all of it is RAM of this machine", gpa, n, d);
}

#define HUGE_PAGES (MiB(2) / PAGE_SIZE_4K)

void ram_load_empty(struct ram_loaded *l, struct gmem *mem)
{
	uint64_t *bits = calloc(words(mem->size / MiB(2) + 1), sizeof(*bits));

	/* Either is a matter of speed only. */
	if (bits && madvise(mem->base, mem->size, MADV_DONTNEED)) {
		free(bits);
		bits = NULL;
	}
	l->written = bits;
}

void ram_load_end(struct ram_loaded *l)
{
	free(l->written);
	l->written = NULL;
}

static bool is_written(const struct ram_loaded *l, uint64_t page)
{
	uint64_t huge = page / HUGE_PAGES;

	return !l->written || l->written[huge / WORD_BITS] >> huge % WORD_BITS & 1;
}

static void note_written(struct ram_loaded *l, uint64_t page)
{
	uint64_t huge = page / HUGE_PAGES;

	if (l->written)
		l->written[huge / WORD_BITS] |= 1ull << huge % WORD_BITS;
}

int ram_load(struct gmem *mem, const uint8_t *payload, size_t len, struct ram_loaded *l,
	     struct diag *d)
{
	struct ram_section r;
	const uint8_t *from;
	uint64_t page;
	uint8_t *to;
	bool zeroes;
	int err = ram_parse(mem, payload, len, len, &r, d);

	if (err)
		return err;
	from = r.contents;
	to = r.to;
	page = (uint64_t)(to - mem->base) / PAGE_SIZE_4K;
	zeroes = !r.npages && untouched(mem, page * PAGE_SIZE_4K, r.n * PAGE_SIZE_4K);
	for (unsigned int i = 0; i < r.n; i++, page++, to += PAGE_SIZE_4K) {
		if (ram_has(r.data, i)) {
			note_written(l, page);
			memcpy(to, from, PAGE_SIZE_4K);
			from += PAGE_SIZE_4K;
			l->pages++;
		} else if (ram_has(r.zero, i)) {
			/* Reading what was never touched costs no memory; writing would. */
			if (is_written(l, page) && !zeroes && !ram_page_is_zero(to))
				memset(to, 0, PAGE_SIZE_4K);
			l->zero_pages++;
		}
	}
	return 0;
}

/* --- sums ------------------------------------------------------------------------------------- */

#define HASH_K1 0x9e3779b97f4a7c15ull
#define HASH_K2 0xc2b2ae3d27d4eb4full

static uint64_t rotate(uint64_t v, unsigned int n)
{
	return v << n | v >> (WORD_BITS - n);
}

/* A bijection of either argument: one word that differs always shows. */
static uint64_t mix(uint64_t lane, const uint8_t *p)
{
	uint64_t word;

	memcpy(&word, p, sizeof(word));
	return rotate(lane ^ word, 31) * HASH_K1;
}

static uint64_t fold(uint64_t h, uint64_t lane)
{
	return (rotate(h, 17) ^ lane) * HASH_K2;
}

/* Four lanes keep the multiplier busy. In an array gcc makes vectors of them, at half the speed. */
static uint64_t hash_page(const uint8_t *page)
{
	uint64_t a = 1, b = 2, c = 3, d = 4;

	for (unsigned int i = 0; i < PAGE_SIZE_4K; i += 32) {
		a = mix(a, page + i);
		b = mix(b, page + i + 8);
		c = mix(c, page + i + 16);
		d = mix(d, page + i + 24);
	}
	return fold(fold(fold(fold(0, a), b), c), d);
}

uint64_t ram_sum(const uint8_t *pages, size_t n)
{
	uint64_t h = 0;

	for (size_t i = 0; i < n; i++)
		h = fold(h, hash_page(pages + i * PAGE_SIZE_4K));
	return h;
}

uint64_t ram_hash(const struct gmem *mem)
{
	static const uint8_t nothing[PAGE_SIZE_4K];
	uint64_t zero = hash_page(nothing), h = 0;

	for (uint64_t at = 0; at < mem->size; at += PAGE_SIZE_4K) {
		const uint8_t *page = mem->base + at;

		h = fold(h, ram_page_is_zero(page) ? zero : hash_page(page));
	}
	return h;
}
