/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vfio_info.c - the parsers of VFIO's answers on bytes that a sane kernel would never write,
 * and the sentences about a function that cannot be assigned, from a made-up sysfs. One thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vfio_info.h"

#define BAR MiB(1)

/* An answer under construction: a fixed part, and capabilities one behind the other. */
static struct {
	uint8_t bytes[4096];
	size_t len;
} answer;

static void put_region(uint32_t flags, uint64_t size, uint64_t offset)
{
	const struct vfio_region_info r = { .argsz = sizeof(r),
					    .flags = flags,
					    .cap_offset = flags & VFIO_REGION_INFO_FLAG_CAPS
								  ? sizeof(r)
								  : 0,
					    .size = size,
					    .offset = offset };

	memset(&answer, 0, sizeof(answer));
	memcpy(answer.bytes, &r, sizeof(r));
	answer.len = sizeof(r);
}

/* Appends a capability of `len` bytes; `next`: another one follows. */
static uint8_t *put_cap(uint16_t id, size_t len, bool next)
{
	uint8_t *at = answer.bytes + answer.len;
	const struct vfio_info_cap_header h = { .id = id,
						.version = 1,
						.next = next ? (uint32_t)(answer.len + len) : 0 };

	memcpy(at, &h, sizeof(h));
	answer.len += len;
	return at;
}

static void put_sparse(unsigned int n, const struct vfio_region_sparse_mmap_area *areas, bool next)
{
	uint8_t *at = put_cap(VFIO_REGION_INFO_CAP_SPARSE_MMAP, 16 + n * sizeof(*areas), next);
	const uint32_t nr = n;

	memcpy(at + 8, &nr, sizeof(nr));
	memcpy(at + 16, areas, n * sizeof(*areas));
}

/* Parses a copy without a byte more than there is, for AddressSanitizer. */
static int parse_region(struct vf_region *r, uint64_t *offset)
{
	uint8_t *exact = malloc(answer.len);
	int err;

	assert_non_null(exact);
	memcpy(exact, answer.bytes, answer.len);
	err = vfio_parse_region(exact, answer.len, r, offset);
	free(exact);
	return err;
}

#define RW	(VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE)
#define RWM	(RW | VFIO_REGION_INFO_FLAG_MMAP)
#define RWM_CAP (RWM | VFIO_REGION_INFO_FLAG_CAPS)

static void test_region(void **state)
{
	struct vf_region r;
	uint64_t offset;

	(void)state;
	put_region(RW, 256, 7ULL << 40);
	assert_int_equal(parse_region(&r, &offset), 0);
	assert_int_equal(r.size, 256);
	assert_true(r.readable && r.writable);
	assert_int_equal(r.nareas, 0);
	assert_int_equal(offset, 7ULL << 40);

	put_region(VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_MMAP, BAR, 0);
	assert_int_equal(parse_region(&r, &offset), 0);
	assert_true(r.readable && !r.writable);
	assert_int_equal(r.nareas, 1);
	assert_int_equal(r.areas[0].offset, 0);
	assert_int_equal(r.areas[0].size, BAR);

	/* The table of MSI-X is in it and may be mapped: nothing changes. */
	put_region(RWM_CAP, BAR, 0);
	put_cap(VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 8, false);
	assert_int_equal(parse_region(&r, &offset), 0);
	assert_int_equal(r.nareas, 1);
	assert_int_equal(r.areas[0].size, BAR);

	/* Less than a page cannot be mapped. */
	put_region(RWM, 2048, 0);
	assert_int_equal(parse_region(&r, &offset), 0);
	assert_int_equal(r.nareas, 0);
}

static void test_sparse_areas(void **state)
{
	const struct vfio_region_sparse_mmap_area areas[] = {
		{ .offset = 0x8000, .size = 0x2000 }, { .offset = 0x1000, .size = 0x1000 },
		{ .offset = 0x3800, .size = 0x1900 }, /* whole pages of it: 0x4000-0x4fff */
		{ .offset = 0x6001, .size = 0x0fff }, /* none */
		{ .offset = BAR, .size = 0 },
	};
	struct vf_region r;
	uint64_t offset;

	(void)state;
	put_region(RWM_CAP, BAR, 0);
	put_cap(VFIO_REGION_INFO_CAP_TYPE, 16, true);
	put_sparse(ARRAY_SIZE(areas), areas, true);
	put_cap(0xffff, 8, false);
	assert_int_equal(parse_region(&r, &offset), 0);
	assert_int_equal(r.nareas, 3);
	assert_int_equal(r.areas[0].offset, 0x1000);
	assert_int_equal(r.areas[1].offset, 0x4000);
	assert_int_equal(r.areas[1].size, 0x1000);
	assert_int_equal(r.areas[2].offset, 0x8000);
	assert_int_equal(r.areas[2].size, 0x2000);

	/* An empty list: nothing can be mapped. */
	put_region(RWM_CAP, BAR, 0);
	put_sparse(0, areas, false);
	assert_int_equal(parse_region(&r, &offset), 0);
	assert_int_equal(r.nareas, 0);
}

static void test_more_areas_than_room(void **state)
{
	struct vfio_region_sparse_mmap_area areas[VF_AREAS_MAX + 5];
	struct vf_region r;
	uint64_t offset;

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(areas); i++)
		areas[i] = (struct vfio_region_sparse_mmap_area){ .offset = i * 0x2000,
								  .size = 0x1000 };
	put_region(RWM_CAP, BAR, 0);
	put_sparse(ARRAY_SIZE(areas), areas, false);
	assert_int_equal(parse_region(&r, &offset), 0);
	assert_int_equal(r.nareas, VF_AREAS_MAX);
}

static void expect_bad_region(void)
{
	struct vf_region r;
	uint64_t offset;

	assert_int_equal(parse_region(&r, &offset), -EPROTO);
}

static void test_hostile_region(void **state)
{
	const struct vfio_region_sparse_mmap_area outside = { .offset = BAR, .size = 0x1000 };
	const struct vfio_region_sparse_mmap_area wraps = { .offset = UINT64_MAX - 0xfff,
							    .size = 0x2000 };
	const struct vfio_region_sparse_mmap_area overlap[] = {
		{ .offset = 0, .size = 0x3000 }, { .offset = 0x2000, .size = 0x1000 }
	};
	uint32_t u32;

	(void)state;
	put_region(RWM_CAP, BAR, 0);
	put_sparse(1, &outside, false);
	expect_bad_region();
	put_region(RWM_CAP, BAR, 0);
	put_sparse(1, &wraps, false);
	expect_bad_region();
	put_region(RWM_CAP, BAR, 0);
	put_sparse(2, overlap, false);
	expect_bad_region();
	/* Sizes and places that no file has. */
	put_region(RWM, 1ULL << 63, 0);
	expect_bad_region();
	put_region(RWM, BAR, (1ULL << 63) - BAR);
	expect_bad_region();
	/* More areas than there are bytes, in numbers that overflow a 32-bit product. */
	put_region(RWM_CAP, BAR, 0);
	put_sparse(1, overlap, false);
	u32 = 2;
	memcpy(answer.bytes + sizeof(struct vfio_region_info) + 8, &u32, 4);
	expect_bad_region();
	u32 = 0x10000000;
	memcpy(answer.bytes + sizeof(struct vfio_region_info) + 8, &u32, 4);
	expect_bad_region();
	/* Cut short. */
	for (size_t cut = 0; cut < 16 + 16 + sizeof(struct vfio_region_info); cut++) {
		put_region(RWM_CAP, BAR, 0);
		put_sparse(1, overlap, false);
		answer.len = cut ? cut : 1;
		expect_bad_region();
	}
}

/* Chains: at itself, backwards, outside, unaligned, and one that ends in the middle. */
static void test_hostile_chain(void **state)
{
	static const uint32_t next[] = { sizeof(struct vfio_region_info), 8, 4096, 0xfffffffc,
					 sizeof(struct vfio_region_info) + 6 };
	static const uint32_t first[] = { 4096, 0xffffffff, sizeof(struct vfio_region_info) + 2 };

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(next); i++) {
		put_region(RWM_CAP, BAR, 0);
		put_cap(VFIO_REGION_INFO_CAP_TYPE, 16, true);
		put_cap(VFIO_REGION_INFO_CAP_TYPE, 16, false);
		memcpy(answer.bytes + sizeof(struct vfio_region_info) + 4, &next[i], 4);
		expect_bad_region();
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(first); i++) {
		put_region(RWM_CAP, BAR, 0);
		put_cap(VFIO_REGION_INFO_CAP_TYPE, 16, false);
		memcpy(answer.bytes + offsetof(struct vfio_region_info, cap_offset), &first[i], 4);
		expect_bad_region();
	}
}

/* --- the IOMMU -------------------------------------------------------------------------------- */

static void put_iommu(uint32_t flags, uint64_t page_sizes)
{
	const struct vfio_iommu_type1_info info = { .argsz = sizeof(info),
						    .flags = flags,
						    .iova_pgsizes = page_sizes,
						    .cap_offset = sizeof(info) };

	memset(&answer, 0, sizeof(answer));
	memcpy(answer.bytes, &info, sizeof(info));
	answer.len = sizeof(info);
}

static void put_ranges(unsigned int n, const struct vfio_iova_range *ranges, bool next)
{
	uint8_t *at = put_cap(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 16 + n * sizeof(*ranges), next);
	const uint32_t nr = n;

	memcpy(at + 8, &nr, sizeof(nr));
	memcpy(at + 16, ranges, n * sizeof(*ranges));
}

static int parse_iommu(struct vfio_iommu *out)
{
	uint8_t *exact = malloc(answer.len);
	int err;

	assert_non_null(exact);
	memcpy(exact, answer.bytes, answer.len);
	err = vfio_parse_iommu(exact, answer.len, out);
	free(exact);
	return err;
}

#define IOMMU_FLAGS (VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS)

static void test_iommu(void **state)
{
	/* What an Intel host says, in the wrong order. */
	const struct vfio_iova_range ranges[] = { { .start = 0xfef00000, .end = 0x7fffffffff },
						  { .start = 0, .end = 0xfedfffff } };
	const uint32_t avail = 65535;
	struct vfio_iommu iommu;

	(void)state;
	put_iommu(IOMMU_FLAGS, 0x40201000);
	put_cap(VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 32, true);
	memcpy(put_cap(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 12, true) + 8, &avail, 4);
	put_ranges(2, ranges, false);
	assert_int_equal(parse_iommu(&iommu), 0);
	assert_int_equal(iommu.page_sizes, 0x40201000);
	assert_int_equal(iommu.maps_left, 65535);
	assert_int_equal(iommu.niova, 2);
	assert_int_equal(iommu.iova[0].last, 0xfedfffff);
	assert_int_equal(iommu.iova[1].first, 0xfef00000);

	put_iommu(0, 0);
	assert_int_equal(parse_iommu(&iommu), 0);
	assert_int_equal(iommu.page_sizes, 0);
	assert_int_equal(iommu.maps_left, UINT32_MAX);
	assert_int_equal(iommu.niova, 0);
}

static void test_hostile_iommu(void **state)
{
	const struct vfio_iova_range backwards = { .start = 2, .end = 1 };
	const struct vfio_iova_range overlap[] = { { .start = 0, .end = 0x1000 },
						   { .start = 0x1000, .end = 0x2000 } };
	struct vfio_iova_range many[VF_IOVA_MAX + 8];
	struct vfio_iommu iommu;
	uint32_t u32 = 3;

	(void)state;
	put_iommu(IOMMU_FLAGS, 0x1000);
	put_ranges(1, &backwards, false);
	assert_int_equal(parse_iommu(&iommu), -EPROTO);
	put_iommu(IOMMU_FLAGS, 0x1000);
	put_ranges(2, overlap, false);
	assert_int_equal(parse_iommu(&iommu), -EPROTO);
	put_iommu(IOMMU_FLAGS, 0x1000);
	put_ranges(2, overlap, false);
	memcpy(answer.bytes + sizeof(struct vfio_iommu_type1_info) + 8, &u32, 4);
	assert_int_equal(parse_iommu(&iommu), -EPROTO);
	put_iommu(IOMMU_FLAGS, 0x1000);
	put_cap(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 8, false);
	assert_int_equal(parse_iommu(&iommu), -EPROTO);
	for (unsigned int i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = (struct vfio_iova_range){ .start = i * 16, .end = i * 16 + 7 };
	put_iommu(IOMMU_FLAGS, 0x1000);
	put_ranges(ARRAY_SIZE(many), many, false);
	assert_int_equal(parse_iommu(&iommu), 0);
	assert_int_equal(iommu.niova, VF_IOVA_MAX);
	for (size_t cut = 1; cut < sizeof(struct vfio_iommu_type1_info) + 16; cut++) {
		put_iommu(IOMMU_FLAGS, 0x1000);
		put_ranges(1, overlap, false);
		answer.len = cut;
		assert_int_equal(parse_iommu(&iommu), -EPROTO);
	}
}

/* --- addresses and sysfs ---------------------------------------------------------------------- */

static void test_addresses(void **state)
{
	static const char *const good[][2] = {
		{ "0000:03:00.2", "0000:03:00.2" },
		{ "3:0.2", "0000:03:00.2" },
		{ "03:1F.7", "0000:03:1f.7" },
		{ "10000:e1:00.0", "10000:e1:00.0" },
		{ "ffffffff:ff:1f.7", "ffffffff:ff:1f.7" },
	};
	static const char *const bad[] = { "",
					   "3.0",
					   "eth0",
					   "0000:03:20.0",
					   "0000:03:00.8",
					   "0000:03:00",
					   "0000:03:00.",
					   "0000:03:00.2 ",
					   "0:0000:03:00.2",
					   "../../x",
					   ":03:00.2",
					   "100000000:03:00.2",
					   "-1:03:00.2",
					   "0x3:00.2",
					   "003:00.2" };
	char address[PCI_ADDRESS_LEN];

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(vfio_parse_address(good[i][0], address, NULL), 0);
		assert_string_equal(address, good[i][1]);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		struct diag d = { 0 };

		assert_int_equal(vfio_parse_address(bad[i], address, &d), -EINVAL);
		assert_non_null(strstr(d.text, "is no PCI address"));
	}
}

static char root[] = "/tmp/unvmm-vfio-XXXXXX";

/* As a shell would, below root. */
static printf_like(1, 2) void shell(const char *fmt, ...)
{
	char command[512], line[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	snprintf(line, sizeof(line), "cd %s && %s", root, command);
	assert_int_equal(system(line), 0);
}

static void add_function(const char *address, const char *driver, const char *group)
{
	shell("mkdir -p sys/bus/pci/devices/%s sys/bus/pci/drivers", address);
	if (driver)
		shell("ln -s ../../../../bus/pci/drivers/%s sys/bus/pci/devices/%s/driver", driver,
		      address);
	if (!group)
		return;
	shell("mkdir -p sys/kernel/iommu_groups/%s/devices/%s", group, address);
	shell("ln -s ../../../../kernel/iommu_groups/%s sys/bus/pci/devices/%s/iommu_group", group,
	      address);
}

static int make_root(void **state)
{
	(void)state;
	if (!mkdtemp(root))
		return -1;
	add_function("0000:03:00.2", "vfio-pci", "17");
	add_function("0000:03:00.3", "virtio-pci", "17");
	add_function("0000:03:00.4", "nvme", "17");
	add_function("0000:03:00.5", "pcieport", "17");
	add_function("0000:03:00.6", NULL, "17");
	add_function("0000:04:00.0", "vfio-pci", NULL);
	add_function("0000:05:00.0", "vfio-pci", "odd");
	add_function("0000:06:00.0", "vfio-pci", "3");
	shell("echo vfio-noiommu > sys/kernel/iommu_groups/3/name");
	add_function("0000:07:00.0", "mlx5_vfio_pci", "4");
	return 0;
}

static int remove_root(void **state)
{
	(void)state;
	shell("rm -rf sys");
	return rmdir(root);
}

static void expect_sentence(const char *address, int err, const char *what)
{
	struct diag d = { 0 };
	unsigned int group;

	assert_int_equal(vfio_find_group(root, address, &group, &d), err);
	assert_non_null(strstr(d.text, address));
	if (!strstr(d.text, what))
		fail_msg("'%s' does not say '%s'", d.text, what);
}

static void test_groups(void **state)
{
	unsigned int group;

	(void)state;
	assert_int_equal(vfio_find_group(root, "0000:03:00.2", &group, NULL), 0);
	assert_int_equal(group, 17);
	assert_int_equal(vfio_find_group(root, "0000:07:00.0", &group, NULL), 0);
	assert_int_equal(group, 4);
	expect_sentence("0000:09:00.0", -ENODEV, "there is no such PCI function");
	expect_sentence("0000:03:00.3", -EBUSY, "is bound to virtio-pci; `unvmm vf bind 0000:03:");
	expect_sentence("0000:03:00.6", -ENODEV,
			"bound to no driver; `unvmm vf bind 0000:03:00.6`");
	expect_sentence("0000:04:00.0", -ENODEV, "is in no IOMMU group");
	expect_sentence("0000:05:00.0", -EPROTO, "the odd name 'odd'");
	expect_sentence("0000:06:00.0", -ENOTSUP, "no-IOMMU");
}

static void test_not_viable(void **state)
{
	struct diag d = { 0 };

	(void)state;
	assert_int_equal(vfio_group_not_viable(root, "0000:03:00.2", 17, -EPERM, &d), -EPERM);
	assert_non_null(strstr(d.text, "0000:03:00.3 (virtio-pci)"));
	assert_non_null(strstr(d.text, "0000:03:00.4 (nvme)"));
	assert_null(strstr(d.text, "0000:03:00.5"));
	assert_null(strstr(d.text, "0000:03:00.6"));
	/* A card with many functions: as many as the sentence has room for, and no more. */
	for (int i = 0; i < 30; i++) {
		char address[32];

		snprintf(address, sizeof(address), "0000:0a:%02x.0", i);
		add_function(address, "a-driver-with-quite-a-long-name", "18");
	}
	d.text[0] = '\0';
	assert_int_equal(vfio_group_not_viable(root, "0000:0a:00.0", 18, -EPERM, &d), -EPERM);
	assert_non_null(strstr(d.text, "bind them"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_region),
		cmocka_unit_test(test_sparse_areas),
		cmocka_unit_test(test_more_areas_than_room),
		cmocka_unit_test(test_hostile_region),
		cmocka_unit_test(test_hostile_chain),
		cmocka_unit_test(test_iommu),
		cmocka_unit_test(test_hostile_iommu),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_groups),
		cmocka_unit_test(test_not_viable),
	};

	return cmocka_run_group_tests(tests, make_root, remove_root);
}
