/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio_info.h - what the kernel says of a VFIO region or IOMMU, and what sysfs
 * says of a PCI function, as plain values. Private to the VFIO backend.
 *
 * The parsers take bytes: every offset, count and size in them is checked
 * before it is used, so they serve for whatever else speaks these structures
 * too. Thread: any, no state.
 */
#ifndef UNVMM_VFIO_INFO_H
#define UNVMM_VFIO_INFO_H

#include <unvmm/vf.h>

#define VFIO_INFO_MAX	KiB(64) /* bytes of one answer with its capabilities */
#define PCI_ADDRESS_LEN 17	/* "0000:03:00.2" and its NUL; domains may have 8 digits */
#define VFIO_NAME_MAX	64	/* of a driver */

/*
 * struct vfio_region_info with its capability chain, `len` bytes of it. The
 * areas that can be mapped come out page aligned, sorted and inside the region;
 * those beyond VF_AREAS_MAX are left out. *offset: where the region begins in
 * the device's file. -EPROTO if the bytes contradict themselves.
 */
int vfio_parse_region(const void *info, size_t len, struct vf_region *r,
		      uint64_t *offset) must_check;

struct vfio_iommu {
	uint64_t page_sizes; /* one bit each; 0: not told */
	uint32_t maps_left;  /* UINT32_MAX: not told */
	unsigned int niova;
	struct vf_iova iova[VF_IOVA_MAX]; /* sorted; ranges beyond these are not used */
};

/* struct vfio_iommu_type1_info with its capability chain. -EPROTO as above. */
int vfio_parse_iommu(const void *info, size_t len, struct vfio_iommu *out) must_check;

/* "3:0.2", "03:00.2" or "0000:03:00.2" -> the last form. -EINVAL with a
 * sentence. */
int vfio_parse_address(const char *text, char address[PCI_ADDRESS_LEN], struct diag *d) must_check;

/*
 * The IOMMU group of a function that vfio-pci (or a variant driver of VFIO)
 * has. Everything that can be wrong with it is a sentence that says what mends
 * it. `root` stands before /sys; "" but in tests.
 */
int vfio_find_group(const char *root, const char *address, unsigned int *group,
		    struct diag *d) must_check;

/* Fills d with the members of a group that are bound to drivers outside VFIO;
 * returns err. */
int vfio_group_not_viable(const char *root, const char *address, unsigned int group, int err,
			  struct diag *d);

#endif
