/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ram.h - which pages of guest RAM have to be sent (KVM's dirty log and that of host writes), and
 * pages as the payload of RAM sections. (migrate/FORMAT.md, section 3)
 *
 * Thread: the migration thread; the guest may run.
 */
#ifndef UNVMM_MIGRATE_RAM_H
#define UNVMM_MIGRATE_RAM_H

#include <unvmm/gmem.h>

struct kvm;

/*
 * Pages of one section. Measured over a socket pair, with everything that both sides do per page:
 * 2.2 GB/s with 64, 2.5 with 128, 2.6 with 256.
 */
#define RAM_PAGES  256u
#define RAM_FIXED  24u
#define RAM_BITMAP (RAM_PAGES / 8)
/* The section's CRC is for so much of it; the contents have a sum of their own. */
#define RAM_HEAD	(RAM_FIXED + 2 * RAM_BITMAP)
#define RAM_SECTION_MAX (RAM_HEAD + RAM_PAGES * PAGE_SIZE_4K)

struct ram {
	struct kvm *kvm; /* NULL: nobody runs a guest in it (tests) */
	struct gmem *mem;
	bool logging;
	bool stopped;		    /* nobody writes any more: what is read need not be watched */
	uint64_t npages;	    /* of the whole mapping */
	uint64_t *pending;	    /* to be sent; bits as in gmem's log */
	uint64_t *scratch;	    /* one slot's log */
	uint64_t npending;	    /* bits in `pending` */
	uint64_t next;		    /* page at which this round goes on */
	uint64_t cleared;	    /* KVM's log has been cleared up to this page in this round */
	uint64_t pages, zero_pages; /* sent in all */
};

/* Starts both logs; every page is pending. -ENOMEM or KVM's error, with a sentence. */
int ram_start(struct ram *r, struct kvm *kvm, struct gmem *mem, struct diag *d) must_check;
/* Stops the logs and frees. Also after a failed start, and twice. */
void ram_stop(struct ram *r);

/* Begins a round: what was written since a page was last read is pending again. */
int ram_fetch(struct ram *r, struct diag *d) must_check;
/*
 * Makes the payload of the next section of this round (RAM_SECTION_MAX bytes of room) and returns
 * its length; 0: the round is over.
 */
int ram_fill(struct ram *r, uint8_t *payload, struct diag *d) must_check;

/* What a payload says, its pointers into it. */
struct ram_section {
	uint8_t *to;		    /* the first page, in the machine's memory */
	unsigned int n;		    /* pages that it is about */
	const uint8_t *data, *zero; /* bitmaps: ram_has() */
	const uint8_t *contents;    /* of the pages in `data`, one behind the other */
	size_t npages;		    /* those */
};

static inline bool ram_has(const uint8_t *bitmap, unsigned int i)
{
	return bitmap[i / 8] >> i % 8 & 1;
}

/*
 * Checks a payload of len bytes, of which the first `got` are there: at least RAM_FIXED and the
 * bitmaps, or all. -EPROTO with a sentence.
 */
int ram_parse(const struct gmem *mem, const uint8_t *payload, size_t got, size_t len,
	      struct ram_section *r, struct diag *d) must_check;

/* The other way round. */
struct ram_loaded {
	uint64_t pages, zero_pages;
	uint64_t *written; /* a bit for each 2 MiB with contents; NULL: all pages are looked at */
};

/*
 * Empties memory that is this process's alone and that nobody has pinned. Then a page that is said
 * to be zero is only looked at where contents have come already: looking at untouched memory maps
 * it in pages of 4 KiB, one after the other, and so it would stay for the guest. Whatever was in
 * there is the source's to send.
 */
void ram_load_empty(struct ram_loaded *l, struct gmem *mem);
void ram_load_end(struct ram_loaded *l);
/* Checks a payload and writes its pages. -EPROTO with a sentence. */
int ram_load(struct gmem *mem, const uint8_t *payload, size_t len, struct ram_loaded *l,
	     struct diag *d) must_check;

/*
 * Of n pages (FORMAT.md, section 3). It finds accidents as a CRC does, without an instruction that
 * a CPU may lack or an emulator executes bit by bit: 13 GB/s here; in an emulated host 370 MB/s,
 * where CRC-32C makes 80.
 */
uint64_t ram_sum(const uint8_t *pages, size_t n);
/* The same of all RAM, for comparison. */
uint64_t ram_hash(const struct gmem *mem);

bool ram_page_is_zero(const void *page);

#endif
