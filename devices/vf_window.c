/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_window.c - memory of ours that a function reaches at I/O virtual addresses outside of guest
 * memory: the rings of its control queue and of its relays. The vf thread.
 */
#include "vf_dev.h"

#include <errno.h>

/* It is put below what the narrowest IOMMUs translate, and one per function of the VM. */
#define IOVA_LIMIT (1ull << 39)
#define IOVA_TRIES 256

static bool in_ram(const struct gmem *g, uint64_t iova, uint64_t bytes)
{
	for (unsigned int i = 0; i < g->nregions; i++)
		if (ranges_overlap(iova, bytes, g->regions[i].gpa, g->regions[i].size))
			return true;
	return false;
}

/* The window right below `end`, if that is higher than *best and the function can use it. */
static void consider(const struct vf_info *info, const struct gmem *g, uint64_t end, uint64_t bytes,
		     uint64_t *best)
{
	uint64_t at = align_down(end, (uint64_t)PAGE_SIZE_4K) - bytes;

	if (end >= 2 * bytes && at > *best && !in_ram(g, at, bytes) &&
	    vf_iova_usable(info, at, bytes))
		*best = at;
}

/* The highest place below `limit` that the function can reach and guest memory leaves. 0: none. */
static uint64_t place_below(const struct vf_info *info, const struct gmem *g, uint64_t limit,
			    uint64_t bytes)
{
	uint64_t best = 0;

	for (unsigned int i = 0; i < info->niova; i++)
		consider(info, g, info->iova[i].last < limit ? info->iova[i].last + 1 : limit,
			 bytes, &best);
	for (unsigned int i = 0; i < g->nregions; i++)
		if (g->regions[i].gpa < limit)
			consider(info, g, g->regions[i].gpa, bytes, &best);
	return best;
}

int vf_window_map(struct vf_dev *vd, void *mem, int fd, uint64_t bytes, uint64_t *iova,
		  struct diag *d)
{
	struct vf *vf = vd->fn.vf;
	const struct gmem *g = &vd->vdev.vm->mem;
	uint64_t at = IOVA_LIMIT;
	int err = -EEXIST;

	/* Another window of the guest's may be there: functions share their mappings. */
	for (unsigned int i = 0; i < IOVA_TRIES && err == -EEXIST; i++) {
		at = place_below(&vf->info, g, at, bytes);
		if (!at)
			return diag_set(d, -ENOSPC,
					"its IOMMU has no room below 2^39 for rings of unvmm's "
					"beside the guest's memory");
		err = vf->ops->dma_map(vf, at, bytes, mem, fd, 0, NULL);
	}
	if (err)
		return diag_errno(d, err, "memory of unvmm's rings cannot be mapped");
	*iova = at;
	return 0;
}

void vf_window_unmap(struct vf_dev *vd, uint64_t bytes, uint64_t *iova)
{
	struct vf *vf = vd->fn.vf;

	/* What is lost with the function need not be unmapped. */
	if (*iova && vf->ops->dma_unmap(vf, *iova, bytes))
		log_debug("%s: a window of unvmm's rings was not mapped", vf->name);
	*iova = 0;
}
