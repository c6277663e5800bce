/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_offer.c - the offer "portable-1" is what it was: changing what is under a name would strand
 * guests that negotiated it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#include <unvmm/offer.h>

/* VERSION_1 and ORDER_PLATFORM, INDIRECT_DESC and EVENT_IDX: 32, 36, 28, 29. */
#define CORE 0x1130000000ull

static void numbers_stand(void **state)
{
	(void)state;
	assert_int_equal(offer_features(VIRTIO_ID_RNG, 0), CORE);
	/* SEG_MAX 2, BLK_SIZE 6, FLUSH 9, TOPOLOGY 10; RO 5, MQ 12, DISCARD 13, WRITE_ZEROES 14. */
	assert_int_equal(offer_features(VIRTIO_ID_BLOCK, 0), CORE | 0x644);
	assert_int_equal(offer_features(VIRTIO_ID_BLOCK, UINT64_MAX), CORE | 0x7664);
	/* MAC 5, MRG_RXBUF 15, STATUS 16, CTRL_VQ 17, _RX 18, _VLAN 19, ANNOUNCE 21, _MAC_ADDR 23.
	 */
	assert_int_equal(offer_features(VIRTIO_ID_NET, 0), CORE | 0xaf8020);
	/* CSUM 0, GUEST_CSUM 1, OFFLOADS 2, MTU 3, GUEST_TSO 7-9, HOST_TSO 11-13, MQ 22. */
	assert_int_equal(offer_features(VIRTIO_ID_NET, UINT64_MAX), CORE | 0xefbbaf);
	assert_int_equal(offer_queue_size(VIRTIO_ID_NET), 256);
	assert_int_equal(offer_queue_size(VIRTIO_ID_BLOCK), 256);
	assert_int_equal(offer_queue_size(VIRTIO_ID_RNG), 64);
	/* EMERG_WRITE 2; SIZE 0, MULTIPORT 1. */
	assert_int_equal(offer_features(VIRTIO_ID_CONSOLE, 0), CORE | 0x4);
	assert_int_equal(offer_features(VIRTIO_ID_CONSOLE, UINT64_MAX), CORE | 0x7);
	assert_int_equal(offer_queue_size(VIRTIO_ID_CONSOLE), 64);
	assert_int_equal(offer_queue_size(VIRTIO_ID_GPU), 0);
}

static void never_offered(void **state)
{
	static const unsigned int bits[] = { VIRTIO_F_ACCESS_PLATFORM,
					     VIRTIO_F_RING_PACKED,
					     VIRTIO_F_IN_ORDER,
					     VIRTIO_F_SR_IOV,
					     VIRTIO_F_RING_RESET,
					     38,
					     39 /* NOTIF_CONFIG_DATA */ };

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(bits); i++)
		for (uint16_t id = 1; id < 32; id++)
			assert_false(offer_features(id, UINT64_MAX) & 1ull << bits[i]);
}

static void lacks_are_named(void **state)
{
	uint64_t has = offer_features(VIRTIO_ID_NET, 0);

	(void)state;
	assert_int_equal(offer_lacks(VIRTIO_ID_NET, has), 0);
	assert_int_equal(offer_lacks(VIRTIO_ID_NET, UINT64_MAX), 0);
	assert_int_equal(offer_lacks(VIRTIO_ID_NET, has & ~(1ull << VIRTIO_NET_F_MRG_RXBUF)),
			 1ull << VIRTIO_NET_F_MRG_RXBUF);
	assert_string_equal(offer_name(VIRTIO_ID_NET, VIRTIO_NET_F_MRG_RXBUF), "MRG_RXBUF");
	assert_string_equal(offer_name(VIRTIO_ID_BLOCK, VIRTIO_BLK_F_FLUSH), "FLUSH");
	assert_string_equal(offer_name(VIRTIO_ID_BLOCK, VIRTIO_F_VERSION_1), "VERSION_1");
	assert_null(offer_name(VIRTIO_ID_BLOCK, VIRTIO_NET_F_MRG_RXBUF));
	assert_null(offer_name(VIRTIO_ID_NET, VIRTIO_F_RING_PACKED));
}

/* No bit twice for one device: the second row would never be looked at. */
static void rows_are_distinct(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < offer_nfeatures; i++)
		for (unsigned int j = 0; j < i; j++)
			assert_false(offer_table[i].bit == offer_table[j].bit &&
				     (offer_table[i].device_id == offer_table[j].device_id ||
				      !offer_table[i].device_id || !offer_table[j].device_id));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_stand),
		cmocka_unit_test(never_offered),
		cmocka_unit_test(lacks_are_named),
		cmocka_unit_test(rows_are_distinct),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
