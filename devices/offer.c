/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offer.c - the offer "portable-1": features and queue sizes of each virtio device, as one table.
 * Constant data, any thread.
 *
 * Left out on purpose: RING_PACKED, IN_ORDER, NOTIFICATION_DATA, NOTIF_CONFIG_DATA (plain functions
 * differ in them or cannot be relayed with them), ACCESS_PLATFORM, RING_RESET (between unvmm and
 * a function), RSS, HASH_REPORT, RSC_EXT, USO and coalescing of net, ZONED of block.
 */
#include <unvmm/offer.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#define ANY 0

#define RING(f, w)                            \
	{                                     \
		ANY, VIRTIO_RING_F_##f, w, #f \
	}
#define CORE(f, w)                       \
	{                                \
		ANY, VIRTIO_F_##f, w, #f \
	}
#define BLK(f, w)                                        \
	{                                                \
		VIRTIO_ID_BLOCK, VIRTIO_BLK_F_##f, w, #f \
	}
#define NET(f, w)                                      \
	{                                              \
		VIRTIO_ID_NET, VIRTIO_NET_F_##f, w, #f \
	}
#define CONSOLE(f, w)                                          \
	{                                                      \
		VIRTIO_ID_CONSOLE, VIRTIO_CONSOLE_F_##f, w, #f \
	}

/* clang-format off */
const struct offer_feature offer_table[] = {
	CORE(VERSION_1,          OFFER_ALWAYS),
	CORE(ORDER_PLATFORM,     OFFER_ALWAYS), /* a function wants real barriers of the guest */
	RING(INDIRECT_DESC,      OFFER_ALWAYS),
	RING(EVENT_IDX,          OFFER_ALWAYS),

	BLK(SEG_MAX,             OFFER_ALWAYS),
	BLK(BLK_SIZE,            OFFER_ALWAYS),
	BLK(TOPOLOGY,            OFFER_ALWAYS),
	BLK(FLUSH,               OFFER_ALWAYS),
	BLK(RO,                  OFFER_CONFIGURED),
	BLK(MQ,                  OFFER_CONFIGURED),
	BLK(DISCARD,             OFFER_CONFIGURED),
	BLK(WRITE_ZEROES,        OFFER_CONFIGURED),

	NET(MAC,                 OFFER_ALWAYS),
	NET(STATUS,              OFFER_ALWAYS),
	NET(MRG_RXBUF,           OFFER_ALWAYS),
	NET(CTRL_VQ,             OFFER_ALWAYS),
	NET(CTRL_RX,             OFFER_ALWAYS),
	NET(CTRL_VLAN,           OFFER_ALWAYS),
	NET(CTRL_MAC_ADDR,       OFFER_ALWAYS),
	NET(GUEST_ANNOUNCE,      OFFER_ALWAYS), /* ours: a function never has to announce */
	NET(CSUM,                OFFER_CONFIGURED),
	NET(GUEST_CSUM,          OFFER_CONFIGURED),
	NET(GUEST_TSO4,          OFFER_CONFIGURED),
	NET(GUEST_TSO6,          OFFER_CONFIGURED),
	NET(GUEST_ECN,           OFFER_CONFIGURED),
	NET(HOST_TSO4,           OFFER_CONFIGURED),
	NET(HOST_TSO6,           OFFER_CONFIGURED),
	NET(HOST_ECN,            OFFER_CONFIGURED),
	NET(CTRL_GUEST_OFFLOADS, OFFER_CONFIGURED),
	NET(MTU,                 OFFER_CONFIGURED),
	NET(MQ,                  OFFER_CONFIGURED),

	CONSOLE(EMERG_WRITE,     OFFER_ALWAYS),
	CONSOLE(SIZE,            OFFER_CONFIGURED), /* a console has it, a port with a name not */
	CONSOLE(MULTIPORT,       OFFER_CONFIGURED), /* ... and the other way round */
};
/* clang-format on */
const unsigned int offer_nfeatures = ARRAY_SIZE(offer_table);

static const struct {
	uint16_t device_id, queue_size;
} queue_sizes[] = {
	{ VIRTIO_ID_BLOCK, OFFER_QUEUE_SIZE },
	{ VIRTIO_ID_NET, OFFER_QUEUE_SIZE },
	{ VIRTIO_ID_RNG, OFFER_RNG_QUEUE_SIZE },
	{ VIRTIO_ID_CONSOLE, OFFER_CONSOLE_QUEUE_SIZE },
};

static bool concerns(const struct offer_feature *f, uint16_t device_id)
{
	return f->device_id == ANY || f->device_id == device_id;
}

uint64_t offer_features(uint16_t device_id, uint64_t configured)
{
	uint64_t offered = 0;

	for (unsigned int i = 0; i < offer_nfeatures; i++) {
		const struct offer_feature *f = &offer_table[i];
		uint64_t bit = 1ull << f->bit;

		if (concerns(f, device_id) && (f->when == OFFER_ALWAYS || configured & bit))
			offered |= bit;
	}
	return offered;
}

uint64_t offer_lacks(uint16_t device_id, uint64_t has)
{
	return offer_features(device_id, 0) & ~has;
}

const char *offer_name(uint16_t device_id, unsigned int bit)
{
	for (unsigned int i = 0; i < offer_nfeatures; i++)
		if (concerns(&offer_table[i], device_id) && offer_table[i].bit == bit)
			return offer_table[i].name;
	return NULL;
}

uint16_t offer_queue_size(uint16_t device_id)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(queue_sizes); i++)
		if (queue_sizes[i].device_id == device_id)
			return queue_sizes[i].queue_size;
	return 0;
}
