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
#define RAM_PAGES	256u
#define RAM_FIXED	16u
#define RAM_BITMAP	(RAM_PAGES / 8)
#define RAM_SECTION_MAX (RAM_FIXED + 2 * RAM_BITMAP + RAM_PAGES * PAGE_SIZE_4K)

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

/* The other way round: checks a payload and writes its pages. -EPROTO with a sentence. */
struct ram_loaded {
	uint64_t pages, zero_pages;
};
int ram_load(struct gmem *mem, const uint8_t *payload, size_t len, struct ram_loaded *count,
	     struct diag *d) must_check;

/* Of all RAM, for comparison; FORMAT.md, section 5. */
uint64_t ram_hash(const struct gmem *mem);

bool ram_page_is_zero(const void *page);

#endif
