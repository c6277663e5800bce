/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_config.c - the device configuration of a function as its guest sees it: reading it
 * consistently, what of it is refused or mended, what follows, and what two hosts must agree on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "vf_dev.h"
#include "vf_mock.h"

static struct vf_mock *mock;
static struct vf_function fn;
static struct vf_offer offer;
static union vf_config config;

static void begin(uint16_t id, uint16_t nqueues, enum vf_offer_kind kind)
{
	struct vf_wish wish = { .kind = kind };
	struct diag d = { "" };

	mock = vf_mock_new(id, nqueues);
	memset(&fn, 0, sizeof(fn));
	fn.vf = &mock->vf;
	if (vf_function_probe(&fn, &d) || vf_config_read(&fn, &config, &d) ||
	    vf_offer_make(&offer, &fn, vf_config_queues(&fn, &config), &wish, &d))
		fail_msg("%s", d.text);
}

static void adopt(void)
{
	struct diag d = { "" };

	if (vf_config_adopt(&fn, &offer, &config, &d))
		fail_msg("%s", d.text);
}

static void is_refused(const char *says)
{
	union vf_config c = config;
	struct diag d = { "" };

	assert_int_equal(vf_config_adopt(&fn, &offer, &c, &d), -EINVAL);
	if (!strstr(d.text, says))
		fail_msg("\"%s\" does not say \"%s\"", d.text, says);
}

/* Fields are where the software devices have them, and the table covers what the guest sees. */
static void test_table(void **state)
{
	uint8_t seen[2][64] = { { 0 } };

	(void)state;
	for (unsigned int i = 0; i < vf_config_nfields; i++) {
		const struct vf_config_field *f = &vf_config_fields[i];
		bool net = f->device_id == VIRTIO_ID_NET;

		assert_true(f->offset + f->size <= vf_config_size(f->device_id));
		for (unsigned int b = 0; b < f->size; b++)
			assert_int_equal(seen[net][f->offset + b]++, 0);
	}
	for (unsigned int b = 0; b < vf_config_size(VIRTIO_ID_NET); b++)
		assert_int_equal(seen[1][b], 1);
	for (unsigned int b = 0; b < vf_config_size(VIRTIO_ID_BLOCK); b++)
		if (b != offsetof(struct virtio_blk_config, wce) &&
		    b != offsetof(struct virtio_blk_config, unused))
			assert_int_equal(seen[0][b], 1);
}

static void test_read_disk(void **state)
{
	(void)state;
	begin(VIRTIO_ID_BLOCK, 4, VF_OFFER_PORTABLE);
	adopt();
	assert_int_equal(config.blk.capacity, 0x12345678900);
	assert_int_equal(config.blk.seg_max, 126);
	assert_int_equal(config.blk.blk_size, 512);
	assert_int_equal(config.blk.num_queues, 0); /* one is offered, so MQ is not */
	assert_int_equal(config.blk.max_discard_sectors, 1024);
	vf_mock_free(mock);
}

static void test_read_card(void **state)
{
	(void)state;
	begin(VIRTIO_ID_NET, 5, VF_OFFER_PORTABLE);
	assert_int_equal(vf_config_queues(&fn, &config), 2);
	adopt();
	assert_int_equal(config.net.mac[5], 7);
	assert_int_equal(config.net.status, VIRTIO_NET_S_LINK_UP);
	assert_int_equal(config.net.max_virtqueue_pairs, 1);
	assert_int_equal(config.net.mtu, 0); /* not offered, so not seen */
	vf_mock_free(mock);
}

static void test_generation(void **state)
{
	struct diag d = { "" };

	(void)state;
	begin(VIRTIO_ID_NET, 3, VF_OFFER_PORTABLE);
	mock->generation_runs = true;
	assert_int_equal(vf_config_read(&fn, &config, &d), -EPROTO);
	assert_non_null(strstr(d.text, "changes while it is read"));
	vf_mock_free(mock);
}

static void test_too_short(void **state)
{
	struct diag d = { "" };

	(void)state;
	begin(VIRTIO_ID_NET, 3, VF_OFFER_PORTABLE);
	fn.caps.config.length = 8;
	assert_int_equal(vf_config_read(&fn, &config, &d), -EINVAL);
	assert_non_null(strstr(d.text, "max_virtqueue_pairs"));
	fn.caps.config.length = 0;
	d.text[0] = 0;
	assert_int_equal(vf_config_read(&fn, &config, &d), -EINVAL);
	vf_mock_free(mock);
}

static void test_hostile_card(void **state)
{
	union vf_config good;

	(void)state;
	begin(VIRTIO_ID_NET, 3, VF_OFFER_NATIVE);
	good = config;
	memset(config.net.mac, 0, ETH_ALEN);
	is_refused("no MAC address");
	config = good;
	config.net.mac[0] = 1;
	is_refused("no MAC address");
	config = good;
	config.net.mtu = 67;
	is_refused("MTU is 67");
	config = good;
	config.net.status = 0xffff;
	config.net.max_virtqueue_pairs = 0xffff;
	adopt();
	assert_int_equal(config.net.status, VIRTIO_NET_S_LINK_UP);
	assert_int_equal(config.net.max_virtqueue_pairs, 1);
	/* A card that cannot tell has its link up. */
	config = good;
	config.net.status = 0;
	fn.features &= ~VIRTIO_BIT(VIRTIO_NET_F_STATUS);
	offer.guest &= ~VIRTIO_BIT(VIRTIO_NET_F_STATUS);
	adopt();
	assert_int_equal(config.net.status, VIRTIO_NET_S_LINK_UP);
	vf_mock_free(mock);
}

static void test_hostile_disk(void **state)
{
	static const uint32_t sizes[] = { 0, 1, 256, 513, 8192, 0x80000000 };
	union vf_config good;

	(void)state;
	begin(VIRTIO_ID_BLOCK, 1, VF_OFFER_PORTABLE);
	good = config;
	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		config.blk.blk_size = sizes[i];
		is_refused("its blocks have");
	}
	config = good;
	config.blk.seg_max = 0;
	is_refused("0 segments");
	config.blk.seg_max = 0xffffffff;
	config.blk.physical_block_exp = 255;
	config.blk.max_discard_sectors = config.blk.max_write_zeroes_sectors = 0x3fffff;
	config.blk.max_discard_seg = config.blk.max_write_zeroes_seg = 256;
	adopt();
	assert_int_equal(config.blk.seg_max, 254);
	/* As a software disk has them: the guest may go on with one. */
	assert_int_equal(config.blk.max_discard_sectors, GiB(1) / 512);
	assert_int_equal(config.blk.max_write_zeroes_sectors, MiB(128) / 512);
	assert_int_equal(config.blk.max_discard_seg, 1);
	assert_int_equal(config.blk.max_write_zeroes_seg, 1);
	assert_int_equal(config.blk.physical_block_exp, 0);
	vf_mock_free(mock);
}

static void test_follow(void **state)
{
	union vf_config fresh;

	(void)state;
	begin(VIRTIO_ID_BLOCK, 1, VF_OFFER_PORTABLE);
	adopt();
	fresh = config;
	assert_false(vf_config_follow(VIRTIO_ID_BLOCK, &config, &fresh));
	fresh.blk.seg_max = 1;
	fresh.blk.blk_size = 4096;
	assert_false(vf_config_follow(VIRTIO_ID_BLOCK, &config, &fresh));
	assert_int_equal(config.blk.seg_max, 126);
	fresh.blk.capacity++;
	assert_true(vf_config_follow(VIRTIO_ID_BLOCK, &config, &fresh));
	assert_int_equal(config.blk.capacity, 0x12345678901);
	assert_int_equal(config.blk.blk_size, 512);
	vf_mock_free(mock);
}

/* Each field by itself, one more and one less than the guest knows: as the table says. */
static void test_relations(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < vf_config_nfields; i++) {
		const struct vf_config_field *f = &vf_config_fields[i];
		union vf_config guest, here;
		struct diag d = { "" };

		memset(&guest, 0, sizeof(guest));
		guest.bytes[f->offset] = 5;
		here = guest;
		assert_int_equal(vf_config_compatible(f->device_id, &guest, &here, &d), 0);
		here.bytes[f->offset] = 6;
		assert_int_equal(vf_config_compatible(f->device_id, &guest, &here, &d),
				 f->relation == VF_EQUAL ? -EINVAL : 0);
		d.text[0] = 0;
		here.bytes[f->offset] = 4;
		assert_int_equal(vf_config_compatible(f->device_id, &guest, &here, &d),
				 f->relation == VF_DYNAMIC ? 0 : -EINVAL);
		if (f->relation != VF_DYNAMIC)
			assert_non_null(strstr(d.text, f->name));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),	     cmocka_unit_test(test_read_disk),
		cmocka_unit_test(test_read_card),    cmocka_unit_test(test_generation),
		cmocka_unit_test(test_too_short),    cmocka_unit_test(test_hostile_card),
		cmocka_unit_test(test_hostile_disk), cmocka_unit_test(test_follow),
		cmocka_unit_test(test_relations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
