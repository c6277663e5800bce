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
};

#define GMEM_REGIONS_MAX 2

struct gmem {
	int fd;	       /* the memfd: owned; shared with vfio-user servers */
	uint64_t size; /* bytes of RAM in all */
	unsigned int nregions;
	struct gmem_region regions[GMEM_REGIONS_MAX];
	uint8_t *base;	 /* the whole mapping */
	uint64_t *dirty; /* one bit per 4 KiB page of the mapping, or NULL when not logging */
};

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

/* Host pointer to [gpa, gpa + len), or NULL if that is not all in one region. len 0: NULL. */
void *gmem_ptr(const struct gmem *g, gpa_t gpa, uint64_t len) must_check;

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

/* Starts and stops the log of host writes (a bitmap of 4 KiB pages, all clear). Stop:
 * only while every thread that marks pages is quiescent, since the bitmap is freed. */
int gmem_log_start(struct gmem *g) must_check;
void gmem_log_stop(struct gmem *g);

#endif
