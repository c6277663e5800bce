/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gmem.h - guest memory: the only module that turns a guest-physical address into host memory.
 *
 * RAM is one mapping, split around the PCI hole. It is private memory in transparent huge pages
 * where the host gives them, because every 4 KiB page that a guest touches first costs it a nested
 * page fault (the cloud kernel's boot takes 27,000 of them, or 60); or a memfd, when another
 * process is to see it. Every call takes a length and fails unless [gpa, gpa + len) lies in one RAM
 * region. What is interpreted (descriptors, headers, indexes) is copied out once with gmem_read()
 * and the copy is checked and used; pointers from gmem_ptr() go only into iovecs, or to the ring
 * accessors that use single aligned loads/stores.
 *
 * Thread: set-up and destruction by main; the rest from any thread, without a lock: regions never
 * change after gmem_create(). Never blocks (page faults aside).
 *
 * A process that is handed memory of others (unvf, as a vfio-user server) starts with GMEM_EMPTY
 * and gives it shared regions, which come and go: see the end of this file.
 */
#ifndef UNVMM_GMEM_H
#define UNVMM_GMEM_H

#include <unvmm/diag.h>

typedef uint64_t gpa_t;

struct gmem_region {
	gpa_t gpa;	 /* 4 KiB aligned */
	uint64_t size;	 /* bytes, 4 KiB aligned */
	uint64_t offset; /* where it starts in the mapping, and in the memfd if there is one */
	void *hva;	 /* where it starts in this process */
	/* Shared regions only. */
	bool readonly;	 /* the owner lets us read it, not write */
	uint64_t *dirty; /* log of its own, or NULL: one bit per 4 KiB page; owned */
};

#define GMEM_REGIONS_MAX 2

struct gmem {
	int fd;	       /* the memfd: owned; shared with vfio-user servers */
	uint64_t size; /* bytes of RAM in all */
	unsigned int nregions;
	struct gmem_region regions[GMEM_REGIONS_MAX];
	uint8_t *base;	 /* the whole mapping */
	uint64_t *dirty; /* one bit per 4 KiB page of the mapping, or NULL when not logging */
	uint64_t *log;	 /* private: the memory of `dirty`, kept once it was needed; owned */
	/* Shared regions, by address, no overlaps. nregions is 0 then. */
	struct gmem_region *shared;
	unsigned int nshared;
	uint64_t shared_log; /* private: what `dirty` points to while their logs are kept */
};

/* No memory at all. */
#define GMEM_EMPTY ((struct gmem){ .fd = -1 })

enum gmem_kind {
	GMEM_PRIVATE, /* anonymous, huge pages as the host has them */
	GMEM_HUGETLB, /* memfd of 2 MiB pages from the host's pool, reserved now: no SIGBUS later */
	GMEM_SHARED,  /* memfd of ordinary pages */
};

/*
 * Allocates `size` bytes (a multiple of 4 KiB, at least PLAT_RAM_MIN; of 2 MiB with GMEM_HUGETLB),
 * zeroed, not touched. Errors: -ENOMEM, -EINVAL, with a sentence.
 */
int gmem_create(struct gmem *g, uint64_t size, enum gmem_kind kind, struct diag *d) must_check;
void gmem_destroy(struct gmem *g);

/*
 * Host pointer to [gpa, gpa + len), or NULL if that is not all in one region, or may not be
 * written. len 0: NULL. gmem_ptr_read() is for what is only read.
 */
void *gmem_ptr(const struct gmem *g, gpa_t gpa, uint64_t len) must_check;
const void *gmem_ptr_read(const struct gmem *g, gpa_t gpa, uint64_t len) must_check;

/* Copy out / in. 0 or -EFAULT (then nothing was copied). gmem_write marks the pages dirty. */
int gmem_read(const struct gmem *g, gpa_t gpa, void *buf, size_t len) must_check;
int gmem_write(struct gmem *g, gpa_t gpa, const void *buf, size_t len) must_check;

/* Fill with zeroes; as gmem_write. */
int gmem_zero(struct gmem *g, gpa_t gpa, uint64_t len) must_check;

/*
 * Says that the host (or a device) wrote to [gpa, gpa + len). Anything written through a pointer
 * must be marked after the write and before the guest is told of it. Does nothing while no log is
 * kept; ranges outside RAM are ignored.
 */
void gmem_mark_dirty(struct gmem *g, gpa_t gpa, uint64_t len);

/*
 * Starts and stops the log of host writes (a bitmap of 4 KiB pages, all clear). -EALREADY. fetch
 * ORs the bits of the pages of the whole mapping, in its order, into `bits` and clears them in the
 * log: read a page after that and what is written later is found by the next fetch. One thread.
 */
int gmem_log_start(struct gmem *g) must_check;
void gmem_log_stop(struct gmem *g);
void gmem_log_fetch(struct gmem *g, uint64_t *bits);

/*
 * Shared regions: memory of another process, mapped from descriptors that it handed us.
 *
 * gmem_region_map() maps [offset, offset + size) of a file and touches no gmem: any thread. All
 * four numbers are the peer's: what is not page aligned, empty, wraps, or lies beyond the file's
 * end is -EINVAL. fd -1 makes a region that is there but cannot be reached (hva NULL). The
 * descriptor stays the caller's. A peer can cut its file afterwards, and an access is SIGBUS then:
 * whoever maps such memory has a handler for that which calls gmem_trap().
 *
 * gmem_share() adds a region, -EEXIST if it overlaps one, -ENOSPC above GMEM_SHARED_MAX;
 * gmem_unshare() takes out exactly [gpa, gpa + size), else -ENOENT. Both while no thread uses the
 * gmem but the caller.
 */
#define GMEM_SHARED_MAX 1024

int gmem_region_map(struct gmem_region *r, gpa_t gpa, uint64_t size, int fd, uint64_t offset,
		    bool readonly) must_check;
void gmem_region_unmap(struct gmem_region *r);
int gmem_share(struct gmem *g, const struct gmem_region *r) must_check;
int gmem_unshare(struct gmem *g, gpa_t gpa, uint64_t size, struct gmem_region *r) must_check;

/*
 * If `addr` lies in a shared region, puts zeroed memory of our own in the place of all of it and
 * returns true: the access that failed can be repeated. For a handler of SIGBUS.
 */
bool gmem_trap(const struct gmem *g, const void *addr) must_check;

/*
 * The log of shared regions, by address. start: a region that comes later is logged as well; what
 * is logged already goes on. stop: the bits stay. fetch ORs one bit per page of [gpa, gpa + len)
 * into `bits` and clears them: any thread but those that share. -ENOENT if a page is in no region,
 * -EINVAL unless page aligned.
 */
int gmem_shared_log_start(struct gmem *g) must_check;
void gmem_shared_log_stop(struct gmem *g);
int gmem_shared_log_fetch(struct gmem *g, gpa_t gpa, uint64_t len, uint64_t *bits) must_check;

#endif
