/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_mem.c - guest memory for functions: all of RAM at IOVA = guest-physical address. Main thread,
 * before any vcpu runs, or when none does any more.
 */
#include <errno.h>

#include <unvmm/vf.h>

bool vf_iova_usable(const struct vf_info *info, uint64_t iova, uint64_t size)
{
	uint64_t last = iova + size - 1;

	if (!size || last < iova)
		return false;
	for (unsigned int i = 0; i < info->niova; i++)
		if (iova >= info->iova[i].first && last <= info->iova[i].last)
			return true;
	return false;
}

static void unmap_first(struct vf *vf, const struct gmem *g, unsigned int n)
{
	/* What fails here was lost with the function, or goes when it is closed. */
	while (n-- > 0)
		(void)vf->ops->dma_unmap(vf, g->regions[n].gpa, g->regions[n].size);
	vf->ram = NULL;
}

int vf_map_ram(struct vf *vf, struct gmem *g, struct diag *d)
{
	if (vf->info.needs_shared_ram && g->fd < 0)
		return diag_set(
			d, -EINVAL,
			"%s: another process is to reach guest memory, which is private: it "
			"has to be shared (a memfd) from the start",
			vf->name);
	for (unsigned int i = 0; i < g->nregions; i++) {
		const struct gmem_region *r = &g->regions[i];
		int err;

		if (!vf_iova_usable(&vf->info, r->gpa, r->size))
			err = diag_set(d, -EINVAL,
				       "%s: this host's IOMMU cannot translate guest memory at "
				       "[%#llx, +%#llx): give the guest less memory",
				       vf->name, (unsigned long long)r->gpa,
				       (unsigned long long)r->size);
		else
			err = vf->ops->dma_map(vf, r->gpa, r->size, r->hva, g->fd, r->offset, d);
		if (err) {
			unmap_first(vf, g, i);
			return err;
		}
	}
	vf->ram = g;
	return 0;
}

void vf_unmap_ram(struct vf *vf, const struct gmem *g)
{
	unmap_first(vf, g, g->nregions);
}
