/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_offer.c - what a guest is offered of a function, and which functions are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include <unvmm/offer.h>

#include "vf_dev.h"

#define NET(f) VIRTIO_BIT(VIRTIO_NET_F_##f)
#define BLK(f) VIRTIO_BIT(VIRTIO_BLK_F_##f)

static struct vf_function fn;
static struct vf_wish wish;
static uint16_t has; /* pairs or queues of its configuration */

/* A card with 4 pairs, or a disk with 4 queues, that has everything. */
static void good(uint16_t id)
{
	memset(&fn, 0, sizeof(fn));
	wish = (struct vf_wish){ .kind = VF_OFFER_PORTABLE };
	has = 4;
	fn.caps.device_id = id;
	fn.nqueues = id == VIRTIO_ID_NET ? 9 : 4;
	fn.caps.nvectors = fn.nqueues + 1;
	for (unsigned int q = 0; q < fn.nqueues; q++)
		fn.queues[q].size_max = 256;
	fn.features = offer_features(id, ~0ull) | VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM);
	if (id == VIRTIO_ID_BLOCK)
		fn.features &= ~BLK(RO);
	else
		fn.features &= ~NET(GUEST_ANNOUNCE);
}

static struct vf_offer offered(void)
{
	struct vf_offer o;
	struct diag d = { "" };

	if (vf_offer_make(&o, &fn, has, &wish, &d))
		fail_msg("%s", d.text);
	return o;
}

static void is_refused(const char *says)
{
	struct vf_offer o;
	struct diag d = { "" };

	assert_true(vf_offer_make(&o, &fn, has, &wish, &d) < 0);
	if (!strstr(d.text, says))
		fail_msg("\"%s\" does not say \"%s\"", d.text, says);
}

static void test_portable_card(void **state)
{
	struct vf_offer o;

	(void)state;
	good(VIRTIO_ID_NET);
	o = offered();
	assert_int_equal(o.npairs, 1);
	assert_int_equal(o.nqueues, 3);
	assert_int_equal(o.queue_size, 256);
	/* As the software card with its defaults: one pair, offloads, no MTU. */
	assert_int_equal(o.guest, offer_features(VIRTIO_ID_NET, ~(NET(MQ) | NET(MTU))));
	assert_int_equal(o.ours, VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM));
	assert_true(o.guest & NET(GUEST_ANNOUNCE));
	assert_false(o.to_function & NET(GUEST_ANNOUNCE));
	wish.queues = 3;
	o = offered();
	assert_int_equal(o.nqueues, 7);
	assert_true(o.guest & NET(MQ) && o.to_function & NET(MQ));
}

static void test_portable_disk(void **state)
{
	struct vf_offer o;

	(void)state;
	good(VIRTIO_ID_BLOCK);
	o = offered();
	assert_int_equal(o.nqueues, 1);
	assert_int_equal(o.npairs, 0);
	assert_int_equal(o.guest,
			 offer_features(VIRTIO_ID_BLOCK, BLK(DISCARD) | BLK(WRITE_ZEROES)));
	wish.queues = 4;
	assert_true(offered().guest & BLK(MQ));
	/* Read-only: told, and then there is nothing to discard. */
	fn.features |= BLK(RO);
	o = offered();
	assert_true(o.guest & BLK(RO));
	assert_false(o.guest & (BLK(DISCARD) | BLK(WRITE_ZEROES)));
}

/* The guest has barriers for a function that wants them; one that does not is not told. */
static void test_order_platform(void **state)
{
	struct vf_offer o;
	uint64_t order = VIRTIO_BIT(VIRTIO_F_ORDER_PLATFORM);

	(void)state;
	good(VIRTIO_ID_BLOCK);
	assert_true(offered().to_function & order);
	fn.features &= ~order;
	o = offered();
	assert_true(o.guest & order);
	assert_false(o.to_function & order);
}

static void test_every_missing_feature_has_its_name(void **state)
{
	static const uint16_t ids[] = { VIRTIO_ID_NET, VIRTIO_ID_BLOCK };

	(void)state;
	for (unsigned int i = 0; i < offer_nfeatures; i++) {
		const struct offer_feature *f = &offer_table[i];

		for (unsigned int k = 0; k < ARRAY_SIZE(ids); k++) {
			if ((f->device_id && f->device_id != ids[k]) || f->when != OFFER_ALWAYS ||
			    !strcmp(f->name, "ORDER_PLATFORM") ||
			    !strcmp(f->name, "GUEST_ANNOUNCE"))
				continue;
			good(ids[k]);
			fn.features &= ~VIRTIO_BIT(f->bit);
			is_refused(f->name);
			is_refused("portable-1");
		}
	}
	good(VIRTIO_ID_NET);
	fn.features &= ~(NET(MRG_RXBUF) | NET(STATUS));
	is_refused("MRG_RXBUF");
	is_refused("STATUS");
}

static void test_access_platform(void **state)
{
	(void)state;
	good(VIRTIO_ID_BLOCK);
	fn.features &= ~VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM);
	is_refused("unsafe_no_access_platform");
	wish.physical_addresses = true;
	assert_int_equal(offered().ours, 0);
}

static void test_queues(void **state)
{
	(void)state;
	good(VIRTIO_ID_NET);
	wish.queues = 5;
	is_refused("can give the guest 4 pairs");
	/* Vectors: one for each queue, and one. */
	good(VIRTIO_ID_NET);
	fn.caps.nvectors = 7;
	wish.queues = 3;
	is_refused("can give the guest 2 pairs");
	wish.queues = 2;
	assert_int_equal(offered().nqueues, 5);
	fn.caps.nvectors = 3;
	wish.queues = 0;
	is_refused("too few");
	good(VIRTIO_ID_BLOCK);
	fn.caps.nvectors = 1;
	is_refused("too few");
	/* Its configuration promises more than there is, or nothing. */
	good(VIRTIO_ID_BLOCK);
	has = 0;
	is_refused("too few");
	good(VIRTIO_ID_NET);
	has = 0x8000;
	wish.queues = 4;
	assert_int_equal(offered().npairs, 4);
	fn.queues[7].size_max = 128;
	is_refused("queue 7 has at most 128 entries");
	fn.queues[7].size_max = 0;
	is_refused("queue 7 has at most 0 entries");
}

static void test_native(void **state)
{
	static const uint8_t never[] = {
		VIRTIO_F_ACCESS_PLATFORM,
		VIRTIO_F_RING_PACKED,
		VIRTIO_F_IN_ORDER,
		VIRTIO_F_SR_IOV,
		VIRTIO_F_RING_RESET,
		38, /* NOTIFICATION_DATA */
		39, /* NOTIF_CONFIG_DATA */
		41, /* ADMIN_VQ */
		43, /* SUSPEND */
	};
	struct vf_offer o;

	(void)state;
	good(VIRTIO_ID_NET);
	wish.kind = VF_OFFER_NATIVE;
	fn.features = ~0ull;
	o = offered();
	for (unsigned int i = 0; i < ARRAY_SIZE(never); i++)
		assert_false(o.guest & VIRTIO_BIT(never[i]));
	assert_false(o.guest & (NET(RSS) | NET(STANDBY) | NET(HASH_REPORT) | NET(NOTF_COAL)));
	assert_true(o.guest & NET(MTU) && o.guest & NET(RSC_EXT));
	assert_int_equal(o.npairs, 4);
	assert_int_equal(o.ours, VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM));
	assert_false(o.to_function & ~o.guest);
	/* Fewer vectors than queues: those that are left over are not offered. */
	fn.caps.nvectors = 8;
	assert_int_equal(offered().npairs, 3);
	/* Less than portable-1 is fine. */
	fn.features = VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM);
	has = 1;
	o = offered();
	assert_int_equal(o.nqueues, 2);
	assert_false(o.guest & NET(GUEST_ANNOUNCE));
	fn.features = VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM);
	is_refused("VERSION_1");
	/* ZONED, and a cache whose mode the driver would set. */
	good(VIRTIO_ID_BLOCK);
	wish.kind = VF_OFFER_NATIVE;
	fn.features = ~0ull;
	assert_false(offered().guest & (VIRTIO_BIT(17) | BLK(CONFIG_WCE) | BLK(SECURE_ERASE)));
}

static void test_other_types(void **state)
{
	(void)state;
	good(VIRTIO_ID_NET);
	fn.caps.device_id = VIRTIO_ID_RNG;
	is_refused("type 4");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_portable_card),
		cmocka_unit_test(test_portable_disk),
		cmocka_unit_test(test_order_platform),
		cmocka_unit_test(test_every_missing_feature_has_its_name),
		cmocka_unit_test(test_access_platform),
		cmocka_unit_test(test_queues),
		cmocka_unit_test(test_native),
		cmocka_unit_test(test_other_types),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
