/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_caps.c - capabilities of a virtio function: a good layout, and each way to be a bad one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <string.h>

#include <unvmm/vf_caps.h>

#define COMMON 0x40
#define NOTIFY 0x50
#define ISR    0x64
#define DEVICE 0x74
#define CFG    0x84
#define MSIX   0x98

static struct {
	uint8_t config[256];
	struct vf_caps_source src;
	int err;
} f;

static int read_config(void *opaque, unsigned int off, void *buf, unsigned int len)
{
	(void)opaque;
	if (!f.err)
		memcpy(buf, f.config + off, len);
	return f.err;
}

static void put16(unsigned int off, uint16_t v)
{
	memcpy(f.config + off, &v, sizeof(v));
}

static void put32(unsigned int off, uint32_t v)
{
	memcpy(f.config + off, &v, sizeof(v));
}

static void put_cap(unsigned int at, uint8_t next, uint8_t type, uint8_t bar, uint32_t off,
		    uint32_t length)
{
	f.config[at] = PCI_CAP_ID_VNDR;
	f.config[at + PCI_CAP_LIST_NEXT] = next;
	f.config[at + VIRTIO_PCI_CAP_LEN] = type == VIRTIO_PCI_CAP_NOTIFY_CFG ? 20 : 16;
	f.config[at + VIRTIO_PCI_CAP_CFG_TYPE] = type;
	f.config[at + VIRTIO_PCI_CAP_BAR] = bar;
	put32(at + VIRTIO_PCI_CAP_OFFSET, off);
	put32(at + VIRTIO_PCI_CAP_LENGTH, length);
}

/* Everything in BAR 4, MSI-X in BAR 1: as the usual software makes them. */
static void good(void)
{
	memset(&f, 0, sizeof(f));
	f.src.read = read_config;
	f.src.bar_size[1] = 0x1000;
	f.src.bar_size[4] = 0x8000;
	put16(PCI_VENDOR_ID, 0x1af4);
	put16(PCI_DEVICE_ID, 0x1041);
	put16(PCI_SUBSYSTEM_VENDOR_ID, 0x8086);
	put16(PCI_SUBSYSTEM_ID, 0x001a);
	put16(PCI_STATUS, PCI_STATUS_CAP_LIST);
	f.config[PCI_CAPABILITY_LIST] = COMMON;
	put_cap(COMMON, NOTIFY, VIRTIO_PCI_CAP_COMMON_CFG, 4, 0, 56);
	put_cap(NOTIFY, ISR, VIRTIO_PCI_CAP_NOTIFY_CFG, 4, 0x3000, 0x4000);
	put32(NOTIFY + VIRTIO_PCI_NOTIFY_CAP_MULT, 4);
	put_cap(ISR, DEVICE, VIRTIO_PCI_CAP_ISR_CFG, 4, 0x1000, 1);
	put_cap(DEVICE, CFG, VIRTIO_PCI_CAP_DEVICE_CFG, 4, 0x2000, 64);
	put_cap(CFG, MSIX, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0);
	f.config[MSIX] = PCI_CAP_ID_MSIX;
	put16(MSIX + PCI_MSIX_FLAGS, 4);
	put32(MSIX + PCI_MSIX_TABLE, 1);
	put32(MSIX + PCI_MSIX_PBA, 0x800 | 1);
}

static void is_found(struct vf_caps *caps)
{
	struct diag d = { "" };

	if (vf_caps_find(caps, &f.src, &d))
		fail_msg("%s", d.text);
}

static void is_refused(const char *says)
{
	struct vf_caps caps;
	struct diag d = { "" };

	assert_true(vf_caps_find(&caps, &f.src, &d) < 0);
	if (!strstr(d.text, says))
		fail_msg("\"%s\" does not say \"%s\"", d.text, says);
}

static void test_good(void **state)
{
	struct vf_caps c;

	(void)state;
	good();
	is_found(&c);
	assert_int_equal(c.device_id, 1);
	assert_int_equal(c.subvendor, 0x8086);
	assert_int_equal(c.common.bar, 4);
	assert_int_equal(c.common.length, 56);
	assert_int_equal(c.notify.offset, 0x3000);
	assert_int_equal(c.notify_multiplier, 4);
	assert_int_equal(c.config.offset, 0x2000);
	assert_int_equal(c.nvectors, 5);
	assert_int_equal(c.msix_table.length, 80);
	assert_int_equal(c.msix_pba.offset, 0x800);
	assert_int_equal(c.msix_pba.length, 8);
	assert_int_equal(c.nplaces, 4);
}

/* The edges of what is good: at the end of the BAR, no device configuration, one doorbell for all.
 */
static void test_edges(void **state)
{
	struct vf_caps c;

	(void)state;
	good();
	put_cap(NOTIFY, ISR, VIRTIO_PCI_CAP_NOTIFY_CFG, 4, 0x7ffe, 2);
	put32(NOTIFY + VIRTIO_PCI_NOTIFY_CAP_MULT, 0);
	is_found(&c);
	good();
	put_cap(DEVICE, CFG, VIRTIO_PCI_CAP_DEVICE_CFG, 4, 0x2000, 0);
	is_found(&c);
	assert_int_equal(c.config.length, 0);
	good();
	put32(NOTIFY + VIRTIO_PCI_NOTIFY_CAP_MULT, 0x80000000);
	is_found(&c);
}

static void test_first_usable_counts(void **state)
{
	struct vf_caps c;

	(void)state;
	/* One in an I/O BAR and one in a reserved BAR in front of it; one more behind it. */
	good();
	f.src.bar_size[0] = 0x100;
	put32(PCI_BASE_ADDRESS_0, 0xc001);
	f.config[PCI_CAPABILITY_LIST] = 0xb0;
	put_cap(0xb0, 0xc0, VIRTIO_PCI_CAP_COMMON_CFG, 0, 0, 56);
	put_cap(0xc0, 0xd0, VIRTIO_PCI_CAP_COMMON_CFG, 6, 0, 56);
	put_cap(0xd0, COMMON, VIRTIO_PCI_CAP_COMMON_CFG, 4, 0x100, 56);
	is_found(&c);
	assert_int_equal(c.common.offset, 0x100);
	assert_int_equal(c.nplaces, 5);
}

static void test_shared_memory_is_a_place(void **state)
{
	struct vf_caps c;

	(void)state;
	good();
	f.config[PCI_CAPABILITY_LIST] = 0xb0;
	put_cap(0xb0, COMMON, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, 2, 0x1000, 0x2000);
	f.config[0xb0 + VIRTIO_PCI_CAP_LEN] = 24;
	put32(0xb0 + 16, 1);
	put32(0xb0 + 20, 2);
	is_found(&c);
	assert_int_equal(c.places[0].offset, 0x100001000);
	assert_int_equal(c.places[0].length, 0x200002000);
}

static void test_transitional(void **state)
{
	struct vf_caps c;

	(void)state;
	good();
	put16(PCI_DEVICE_ID, 0x1001);
	put16(PCI_SUBSYSTEM_ID, 2);
	is_found(&c);
	assert_int_equal(c.device_id, 2);
}

static void test_what_it_is_not(void **state)
{
	(void)state;
	good();
	put16(PCI_VENDOR_ID, 0x8086);
	is_refused("8086:1041 and no virtio function");
	good();
	put16(PCI_DEVICE_ID, 0x1080);
	is_refused("no virtio function");
	good();
	memset(f.config, 0xff, sizeof(f.config));
	is_refused("all-ones");
	good();
	f.err = -EIO;
	is_refused("cannot be read");
	/* Legacy only: an ID, and no capabilities of virtio. */
	good();
	put16(PCI_DEVICE_ID, 0x1000);
	f.config[PCI_CAPABILITY_LIST] = MSIX;
	is_refused("only the legacy interface");
	good();
	put16(PCI_STATUS, 0);
	is_refused("only the legacy interface");
}

static void test_lists(void **state)
{
	(void)state;
	good();
	f.config[MSIX + PCI_CAP_LIST_NEXT] = COMMON;
	is_refused("loops at 0x40");
	good();
	f.config[MSIX + PCI_CAP_LIST_NEXT] = MSIX;
	is_refused("loops at 0x98");
	good();
	f.config[MSIX + PCI_CAP_LIST_NEXT] = 0x10;
	is_refused("into the header");
	good();
	f.config[MSIX + PCI_CAP_LIST_NEXT] = 0xf8;
	f.config[0xf8] = PCI_CAP_ID_VNDR;
	is_refused("at 0xf8 does not end");
	good();
	f.config[MSIX + PCI_CAP_LIST_NEXT] = 0xf8;
	f.config[0xf8] = PCI_CAP_ID_MSIX;
	is_refused("two MSI-X");
	good();
	f.config[NOTIFY + VIRTIO_PCI_CAP_LEN] = 16;
	is_refused("16 bytes long");
	good();
	f.config[COMMON + VIRTIO_PCI_CAP_LEN] = 255;
	is_refused("255 bytes long");
}

static void test_missing(void **state)
{
	(void)state;
	good();
	f.config[COMMON + VIRTIO_PCI_CAP_CFG_TYPE] = 77;
	is_refused("no common configuration");
	good();
	f.config[NOTIFY + VIRTIO_PCI_CAP_CFG_TYPE] = 77;
	is_refused("no notify structure");
	good();
	f.config[MSIX] = PCI_CAP_ID_MSI;
	is_refused("no MSI-X");
	good();
	put32(PCI_BASE_ADDRESS_4, 1);
	is_refused("no common configuration in a memory BAR");
}

static void test_places(void **state)
{
	(void)state;
	good();
	put_cap(COMMON, NOTIFY, VIRTIO_PCI_CAP_COMMON_CFG, 3, 0, 56);
	is_refused("BAR 3, which it does not have");
	good();
	put_cap(COMMON, NOTIFY, VIRTIO_PCI_CAP_COMMON_CFG, 4, 0x7ff0, 56);
	is_refused("leaves BAR 4");
	good();
	put_cap(COMMON, NOTIFY, VIRTIO_PCI_CAP_COMMON_CFG, 4, 0xfffffff0, 56);
	is_refused("leaves BAR 4");
	good();
	put_cap(COMMON, NOTIFY, VIRTIO_PCI_CAP_COMMON_CFG, 4, 0, 55);
	is_refused("has 55 bytes");
	good();
	put_cap(COMMON, NOTIFY, VIRTIO_PCI_CAP_COMMON_CFG, 4, 2, 56);
	is_refused("not aligned");
	good();
	put_cap(NOTIFY, ISR, VIRTIO_PCI_CAP_NOTIFY_CFG, 4, 0x3001, 0x1000);
	is_refused("not aligned");
	good();
	put32(NOTIFY + VIRTIO_PCI_NOTIFY_CAP_MULT, 6);
	is_refused("even power of two");
	good();
	put32(NOTIFY + VIRTIO_PCI_NOTIFY_CAP_MULT, 1);
	is_refused("even power of two");
	good();
	put_cap(DEVICE, CFG, VIRTIO_PCI_CAP_DEVICE_CFG, 4, 0x20, 64);
	is_refused("common configuration and its device configuration overlap");
	good();
	put32(MSIX + PCI_MSIX_TABLE, 0x3000 | 4);
	is_refused("notify structure and its MSI-X structure overlap");
	good();
	put16(MSIX + PCI_MSIX_FLAGS, 0x7ff);
	is_refused("leaves BAR 1");
	good();
	put32(MSIX + PCI_MSIX_PBA, 0x1000 | 1);
	is_refused("leaves BAR 1");
	good();
	put32(MSIX + PCI_MSIX_TABLE, 7);
	is_refused("BAR 7, which it does not have");
}

static void test_doorbells(void **state)
{
	struct vf_caps c;
	uint64_t at;

	(void)state;
	good();
	is_found(&c);
	assert_int_equal(vf_caps_doorbell(&c, 0xfff, &at), 0);
	assert_int_equal(at, 0x3000 + 0x3ffc);
	assert_int_equal(vf_caps_doorbell(&c, 0x1000, &at), -EINVAL);
	put32(NOTIFY + VIRTIO_PCI_NOTIFY_CAP_MULT, 0x80000000);
	is_found(&c);
	assert_int_equal(vf_caps_doorbell(&c, 0, &at), 0);
	assert_int_equal(vf_caps_doorbell(&c, 2, &at), -EINVAL);
	assert_int_equal(vf_caps_doorbell(&c, 0xffff, &at), -EINVAL);
	put32(NOTIFY + VIRTIO_PCI_NOTIFY_CAP_MULT, 0);
	is_found(&c);
	assert_int_equal(vf_caps_doorbell(&c, 0xffff, &at), 0);
	assert_int_equal(at, 0x3000);
}

/* Which pages of the doorbells' BAR may be a guest's: [0x3000, 0x7000) is doorbells. */
static void test_pages(void **state)
{
	struct vf_caps c;

	(void)state;
	good();
	is_found(&c);
	assert_int_equal(vf_caps_page(&c, 0x3000), VF_PAGE_DOORBELLS);
	assert_int_equal(vf_caps_page(&c, 0x6000), VF_PAGE_DOORBELLS);
	assert_int_equal(vf_caps_page(&c, 0x7000), VF_PAGE_PARTLY);
	assert_int_equal(vf_caps_page(&c, 0x2000), VF_PAGE_PARTLY);
	put_cap(NOTIFY, ISR, VIRTIO_PCI_CAP_NOTIFY_CFG, 4, 0x3800, 0x1000);
	is_found(&c);
	assert_int_equal(vf_caps_page(&c, 0x3000), VF_PAGE_PARTLY);
	assert_int_equal(vf_caps_page(&c, 0x4000), VF_PAGE_PARTLY);
	/* What nobody uses keeps its pages all the same: shared memory, a second notify structure.
	 */
	good();
	f.config[PCI_CAPABILITY_LIST] = 0xb0;
	put_cap(0xb0, COMMON, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, 4, 0x4ff0, 0x20);
	f.config[0xb0 + VIRTIO_PCI_CAP_LEN] = 24;
	is_found(&c);
	assert_int_equal(vf_caps_page(&c, 0x3000), VF_PAGE_DOORBELLS);
	assert_int_equal(vf_caps_page(&c, 0x4000), VF_PAGE_REGISTERS);
	assert_int_equal(vf_caps_page(&c, 0x5000), VF_PAGE_REGISTERS);
	assert_int_equal(vf_caps_page(&c, 0x6000), VF_PAGE_DOORBELLS);
	good();
	f.config[MSIX + PCI_CAP_LIST_NEXT] = 0xb0;
	put_cap(0xb0, 0, VIRTIO_PCI_CAP_NOTIFY_CFG, 4, 0x5000, 0x100);
	is_found(&c);
	assert_int_equal(c.notify.offset, 0x3000);
	assert_int_equal(vf_caps_page(&c, 0x4000), VF_PAGE_DOORBELLS);
	assert_int_equal(vf_caps_page(&c, 0x5000), VF_PAGE_REGISTERS);
	/* MSI-X may not overlap the doorbells themselves; in another BAR it is in nobody's way. */
	good();
	put32(MSIX + PCI_MSIX_TABLE, 0x7000 | 4);
	is_found(&c);
	assert_int_equal(vf_caps_page(&c, 0x6000), VF_PAGE_DOORBELLS);
	c.msix_table.offset = 0x6800;
	assert_int_equal(vf_caps_page(&c, 0x6000), VF_PAGE_MSIX);
	c.msix_table.bar = 1;
	assert_int_equal(vf_caps_page(&c, 0x6000), VF_PAGE_DOORBELLS);
}

/* Capabilities may lie over each other, so there can be more than there is room for side by side.
 */
static void test_too_many(void **state)
{
	unsigned int at = 0xa4;

	(void)state;
	good();
	f.config[MSIX + PCI_CAP_LIST_NEXT] = (uint8_t)at;
	for (; at < 0xf0; at += 8) {
		f.config[at] = PCI_CAP_ID_VNDR;
		f.config[at + PCI_CAP_LIST_NEXT] = at < 0xec ? (uint8_t)(at + 8) : 0;
		f.config[at + VIRTIO_PCI_CAP_LEN] = 16;
		f.config[at + VIRTIO_PCI_CAP_CFG_TYPE] = 0x77;
	}
	is_refused("virtio capabilities");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_edges),
		cmocka_unit_test(test_first_usable_counts),
		cmocka_unit_test(test_shared_memory_is_a_place),
		cmocka_unit_test(test_transitional),
		cmocka_unit_test(test_what_it_is_not),
		cmocka_unit_test(test_lists),
		cmocka_unit_test(test_missing),
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_doorbells),
		cmocka_unit_test(test_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
