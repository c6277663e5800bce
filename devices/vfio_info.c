/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio_info.c - the parsers of VFIO's answers, and the look into sysfs before
 * anything is opened. No state; runs on whatever thread asks (main, while the
 * machine is built).
 */
#include "vfio_info.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A capability of an answer. Chains go forward in what the kernel writes; so
 * must these. */
struct info_cap {
	const uint8_t *at;
	size_t len; /* as far as the answer goes */
	struct vfio_info_cap_header h;
};

/* 1: *cap is the capability at `off`; 0: the chain has ended; -EPROTO. */
static int cap_at(const void *info, size_t len, size_t off, struct info_cap *cap)
{
	if (!off)
		return 0;
	if (off % 4 || off > len || len - off < sizeof(cap->h))
		return -EPROTO;
	cap->at = (const uint8_t *)info + off;
	cap->len = len - off;
	memcpy(&cap->h, cap->at, sizeof(cap->h));
	return cap->h.next && cap->h.next <= off ? -EPROTO : 1;
}

/* Checks an array of `n` elements behind a capability's fixed part. */
static bool array_fits(const struct info_cap *cap, size_t fixed, uint32_t n, size_t element)
{
	return cap->len >= fixed && n <= (cap->len - fixed) / element;
}

/* --- regions
 * ----------------------------------------------------------------------------------
 */

static int area_order(const void *a, const void *b)
{
	const struct vf_area *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Adds the whole pages of [offset, offset + size); areas that do not fit are
 * left out. */
static int add_area(struct vf_region *r, uint64_t offset, uint64_t size)
{
	uint64_t first, last;

	if (!range_within(offset, size, 0, r->size))
		return -EPROTO;
	last = align_down(offset + size, PAGE_SIZE_4K);
	if (offset > last)
		return 0;
	first = align_up(offset, PAGE_SIZE_4K);
	if (first >= last || r->nareas == VF_AREAS_MAX)
		return 0;
	r->areas[r->nareas++] = (struct vf_area){ .offset = first, .size = last - first };
	return 0;
}

static int parse_sparse(const struct info_cap *cap, struct vf_region *r)
{
	struct vfio_region_info_cap_sparse_mmap sparse;

	if (cap->len < sizeof(sparse))
		return -EPROTO;
	memcpy(&sparse, cap->at, sizeof(sparse));
	if (!array_fits(cap, sizeof(sparse), sparse.nr_areas, sizeof(sparse.areas[0])))
		return -EPROTO;
	for (uint32_t i = 0; i < sparse.nr_areas; i++) {
		struct vfio_region_sparse_mmap_area a;
		int err;

		memcpy(&a, cap->at + sizeof(sparse) + i * sizeof(a), sizeof(a));
		err = add_area(r, a.offset, a.size);
		if (err)
			return err;
	}
	return 0;
}

int vfio_parse_region(const void *bytes, size_t len, struct vf_region *r, uint64_t *offset)
{
	struct vfio_region_info info;
	struct info_cap cap;
	bool sparse = false;
	int more, err = 0;

	*r = (struct vf_region){ 0 };
	if (len < sizeof(info))
		return -EPROTO;
	memcpy(&info, bytes, sizeof(info));
	if (info.size > INT64_MAX || info.offset > INT64_MAX - info.size)
		return -EPROTO;
	*offset = info.offset;
	r->size = info.size;
	r->readable = info.flags & VFIO_REGION_INFO_FLAG_READ;
	r->writable = info.flags & VFIO_REGION_INFO_FLAG_WRITE;
	if (!(info.flags & VFIO_REGION_INFO_FLAG_MMAP))
		return 0;
	more = info.flags & VFIO_REGION_INFO_FLAG_CAPS ? cap_at(bytes, len, info.cap_offset, &cap)
						       : 0;
	while (more > 0 && !err) {
		/*
		 * VFIO_REGION_INFO_CAP_MSIX_MAPPABLE says that the region may be mapped
		 * although the MSI-X table is in it, as the whole region is anyhow without
		 * a sparse one.
		 */
		if (cap.h.id == VFIO_REGION_INFO_CAP_SPARSE_MMAP && cap.h.version == 1) {
			sparse = true;
			err = parse_sparse(&cap, r);
		}
		if (!err)
			more = cap_at(bytes, len, cap.h.next, &cap);
	}
	if (!err && more < 0)
		err = more;
	if (!err && !sparse)
		err = add_area(r, 0, r->size);
	if (err)
		return err;
	qsort(r->areas, r->nareas, sizeof(r->areas[0]), area_order);
	for (unsigned int i = 1; i < r->nareas; i++)
		if (r->areas[i].offset - r->areas[i - 1].offset < r->areas[i - 1].size)
			return -EPROTO;
	return 0;
}

/* --- the IOMMU
 * --------------------------------------------------------------------------------
 */

static int iova_order(const void *a, const void *b)
{
	const struct vf_iova *x = a, *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

static int parse_ranges(const struct info_cap *cap, struct vfio_iommu *out)
{
	struct vfio_iommu_type1_info_cap_iova_range ranges;

	if (cap->len < sizeof(ranges))
		return -EPROTO;
	memcpy(&ranges, cap->at, sizeof(ranges));
	if (!array_fits(cap, sizeof(ranges), ranges.nr_iovas, sizeof(ranges.iova_ranges[0])))
		return -EPROTO;
	out->niova = 0;
	for (uint32_t i = 0; i < ranges.nr_iovas && i < VF_IOVA_MAX; i++) {
		struct vfio_iova_range range;

		memcpy(&range, cap->at + sizeof(ranges) + i * sizeof(range), sizeof(range));
		if (range.start > range.end)
			return -EPROTO;
		out->iova[out->niova++] =
			(struct vf_iova){ .first = range.start, .last = range.end };
	}
	qsort(out->iova, out->niova, sizeof(out->iova[0]), iova_order);
	for (unsigned int i = 1; i < out->niova; i++)
		if (out->iova[i].first <= out->iova[i - 1].last)
			return -EPROTO;
	return 0;
}

int vfio_parse_iommu(const void *bytes, size_t len, struct vfio_iommu *out)
{
	struct vfio_iommu_type1_info info;
	struct info_cap cap;
	int more, err = 0;

	*out = (struct vfio_iommu){ .maps_left = UINT32_MAX };
	if (len < sizeof(info))
		return -EPROTO;
	memcpy(&info, bytes, sizeof(info));
	if (info.flags & VFIO_IOMMU_INFO_PGSIZES)
		out->page_sizes = info.iova_pgsizes;
	more = info.flags & VFIO_IOMMU_INFO_CAPS ? cap_at(bytes, len, info.cap_offset, &cap) : 0;
	while (more > 0 && !err) {
		struct vfio_iommu_type1_info_dma_avail avail;

		if (cap.h.id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE && cap.h.version == 1) {
			err = parse_ranges(&cap, out);
		} else if (cap.h.id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL && cap.h.version == 1) {
			if (cap.len < sizeof(avail))
				return -EPROTO;
			memcpy(&avail, cap.at, sizeof(avail));
			out->maps_left = avail.avail;
		}
		if (!err)
			more = cap_at(bytes, len, cap.h.next, &cap);
	}
	return err ? err : more < 0 ? more : 0;
}

/* --- sysfs
 * ------------------------------------------------------------------------------------
 */

/* Reads up to `max` hexadecimal digits at *text; false if there are none or too
 * many. */
static bool hex_field(const char **text, unsigned int max, unsigned int *value)
{
	const char *p = *text;
	unsigned int n = strspn(p, "0123456789abcdefABCDEF");

	if (n == 0 || n > max)
		return false;
	*value = (unsigned int)strtoul(p, NULL, 16);
	*text = p + n;
	return true;
}

int vfio_parse_address(const char *text, char address[PCI_ADDRESS_LEN], struct diag *d)
{
	unsigned int domain = 0, bus, device, function;
	const char *p = text;
	bool long_form = strchr(text, ':') != strrchr(text, ':');
	bool good = !long_form || (hex_field(&p, 8, &domain) && *p++ == ':');

	good = good && hex_field(&p, 2, &bus) && *p++ == ':' && hex_field(&p, 2, &device) &&
	       *p++ == '.' && hex_field(&p, 1, &function) && !*p;
	if (!good || device > 31 || function > 7)
		return diag_set(d, -EINVAL,
				"'%.64s' is no PCI address; one looks like 0000:03:00.2, as `lspci "
				"-D` shows it",
				text);
	snprintf(address, PCI_ADDRESS_LEN, "%04x:%02x:%02x.%x", domain, bus & 0xff, device,
		 function);
	return 0;
}

/* The last part of what a symbolic link of sysfs points at. */
static int link_name(const char *path, char name[VFIO_NAME_MAX])
{
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	const char *base;

	if (n < 0)
		return -errno;
	target[n] = '\0';
	base = strrchr(target, '/');
	base = base ? base + 1 : target;
	if (strlen(base) >= VFIO_NAME_MAX)
		return -ENAMETOOLONG;
	strcpy(name, base);
	return 0;
}

static int driver_of(const char *root, const char *address, char name[VFIO_NAME_MAX])
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s/driver", root, address);
	return link_name(path, name);
}

/* vfio-pci, and the variants that vendors have for their functions:
 * mlx5_vfio_pci... */
static bool is_vfio_driver(const char *name)
{
	return strstr(name, "vfio");
}

static bool is_noiommu(const char *root, unsigned int group)
{
	char path[PATH_MAX], name[VFIO_NAME_MAX] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/sys/kernel/iommu_groups/%u/name", root, group);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (!fgets(name, sizeof(name), f))
		name[0] = '\0';
	fclose(f);
	return !strncmp(name, "vfio-noiommu", strlen("vfio-noiommu"));
}

int vfio_find_group(const char *root, const char *address, unsigned int *group, struct diag *d)
{
	char path[PATH_MAX], name[VFIO_NAME_MAX];
	char *end;
	int err;

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s", root, address);
	if (access(path, F_OK))
		return diag_set(d, -ENODEV,
				"%s: there is no such PCI function; `unvmm vf` lists this host's, "
				"and SR-IOV functions appear when the card's sriov_numvfs is set",
				address);
	err = driver_of(root, address, name);
	if (err)
		return diag_set(d, -ENODEV,
				"%s is bound to no driver; `unvmm vf bind %s` gives it to vfio-pci",
				address, address);
	if (!is_vfio_driver(name))
		return diag_set(d, -EBUSY,
				"%s is bound to %s; `unvmm vf bind %s` gives it to vfio-pci",
				address, name, address);
	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s/iommu_group", root, address);
	if (link_name(path, name))
		return diag_set(d, -ENODEV,
				"%s is in no IOMMU group: switch the IOMMU on in the firmware and "
				"with intel_iommu=on on the kernel's command line",
				address);
	*group = (unsigned int)strtoul(name, &end, 10);
	if (!*name || *end)
		return diag_set(d, -EPROTO, "%s: its IOMMU group has the odd name '%s'", address,
				name);
	if (is_noiommu(root, *group))
		return diag_set(d, -ENOTSUP,
				"%s has no IOMMU before it (VFIO's no-IOMMU mode), so it could "
				"reach all of this host's memory: switch the IOMMU on",
				address);
	return 0;
}

/* Bridges stay with the kernel's port driver; VFIO takes no offence at these.
 */
static bool is_harmless(const char *driver)
{
	return is_vfio_driver(driver) || !strcmp(driver, "pci-stub") || !strcmp(driver, "pcieport");
}

int vfio_group_not_viable(const char *root, const char *address, unsigned int group, int err,
			  struct diag *d)
{
	char path[PATH_MAX], driver[VFIO_NAME_MAX], members[256] = "";
	struct dirent *e;
	size_t used = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/sys/kernel/iommu_groups/%u/devices", root, group);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		int n;

		if (e->d_name[0] == '.' || driver_of(root, e->d_name, driver) ||
		    is_harmless(driver))
			continue;
		n = snprintf(members + used, sizeof(members) - used, "%s%s (%s)", used ? ", " : "",
			     e->d_name, driver);
		if (n < 0 || (size_t)n >= sizeof(members) - used) {
			members[used] = '\0';
			break;
		}
		used += (size_t)n;
	}
	if (dir)
		closedir(dir);
	return diag_set(d, err,
			"%s shares IOMMU group %u with functions that other drivers use: %s; "
			"bind "
			"them to vfio-pci too, or put the card into a slot of its own",
			address, group, used ? members : "see /sys/kernel/iommu_groups");
}
