/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_config.c - the device configuration of a function, as its guest sees it: the same fields as of
 * the software devices, in the same bytes. One table says of each field which feature it hangs on,
 * whether it follows the function, and what it must be on another host.
 * Reading on the vf thread; the rest are pure functions.
 */
#include "vf_dev.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define GENERATION_TRIES 16
#define NET_MTU_MIN	 68 /* virtio 1.2, 5.1.4.1 */
#define BLK_SIZE_MIN	 512u
#define BLK_SIZE_MAX	 4096u
#define BLK_EXP_MAX	 8
/* As the software disk, which the guest may have to go on with. */
#define BLK_SEG_MAX	  254u
#define BLK_DISCARD_MAX	  (GiB(1) / 512)
#define BLK_ZEROES_MAX	  (MiB(128) / 512)
#define BLK_RANGE_SEG_MAX 1u

#define FIELD(id, cfg, f, m, rel, fol)                                                     \
	{                                                                                  \
		.device_id = VIRTIO_ID_##id, .feature = (f),                               \
		.offset = offsetof(struct virtio_##cfg##_config, m),                       \
		.size = sizeof(((struct virtio_##cfg##_config *)0)->m), .relation = (rel), \
		.follows = (fol), .name = #m                                               \
	}
#define NET(f, m, rel, fol) FIELD(NET, net, VIRTIO_NET_F_##f, m, rel, fol)
#define BLK(f, m, rel, fol) FIELD(BLOCK, blk, VIRTIO_BLK_F_##f, m, rel, fol)

/* clang-format off */
const struct vf_config_field vf_config_fields[] = {
	NET(MAC,          mac,                      VF_EQUAL,    false),
	NET(STATUS,       status,                   VF_DYNAMIC,  true),
	NET(MQ,           max_virtqueue_pairs,      VF_EQUAL,    false),
	NET(MTU,          mtu,                      VF_AT_LEAST, false),
	FIELD(BLOCK, blk, VF_FIELD_ALWAYS, capacity, VF_EQUAL,   true),
	BLK(SIZE_MAX,     size_max,                 VF_AT_LEAST, false),
	BLK(SEG_MAX,      seg_max,                  VF_AT_LEAST, false),
	BLK(GEOMETRY,     geometry.cylinders,       VF_EQUAL,    false),
	BLK(GEOMETRY,     geometry.heads,           VF_EQUAL,    false),
	BLK(GEOMETRY,     geometry.sectors,         VF_EQUAL,    false),
	BLK(BLK_SIZE,     blk_size,                 VF_EQUAL,    false),
	/* Hints: the guest keeps those that it began with. */
	BLK(TOPOLOGY,     physical_block_exp,       VF_DYNAMIC,  false),
	BLK(TOPOLOGY,     alignment_offset,         VF_DYNAMIC,  false),
	BLK(TOPOLOGY,     min_io_size,              VF_DYNAMIC,  false),
	BLK(TOPOLOGY,     opt_io_size,              VF_DYNAMIC,  false),
	BLK(MQ,           num_queues,               VF_EQUAL,    false),
	BLK(DISCARD,      max_discard_sectors,      VF_AT_LEAST, false),
	BLK(DISCARD,      max_discard_seg,          VF_AT_LEAST, false),
	BLK(DISCARD,      discard_sector_alignment, VF_DYNAMIC,  false),
	BLK(WRITE_ZEROES, max_write_zeroes_sectors, VF_AT_LEAST, false),
	BLK(WRITE_ZEROES, max_write_zeroes_seg,     VF_AT_LEAST, false),
	BLK(WRITE_ZEROES, write_zeroes_may_unmap,   VF_DYNAMIC,  false),
};
/* clang-format on */
const unsigned int vf_config_nfields = ARRAY_SIZE(vf_config_fields);

uint16_t vf_config_size(uint16_t device_id)
{
	return device_id == VIRTIO_ID_NET ? offsetof(struct virtio_net_config, speed)
					  : offsetof(struct virtio_blk_config, unused1);
}

static bool offered(const struct vf_config_field *f, uint64_t features)
{
	return f->feature == VF_FIELD_ALWAYS || features & VIRTIO_BIT(f->feature);
}

static uint64_t get(const union vf_config *c, const struct vf_config_field *f)
{
	uint64_t v = 0;

	memcpy(&v, c->bytes + f->offset, f->size);
	return le64toh(v);
}

/* --- reading --------------------------------------------------------------------------------- */

/* By accesses of the field's width at most; 64 bits may come as two halves (4.1.3.1). */
static int read_field(struct vf_function *fn, const struct vf_config_field *f, union vf_config *c)
{
	const struct vf_place *p = &fn->caps.config;
	unsigned int width = f->size == 2 || f->size == 4 ? f->size : f->size == 8 ? 4 : 1;

	for (unsigned int i = 0; i < f->size; i += width) {
		int err = fn->vf->ops->region_read(fn->vf, p->bar, p->offset + f->offset + i,
						   c->bytes + f->offset + i, width);

		if (err)
			return err;
	}
	return 0;
}

static int read_fields(struct vf_function *fn, union vf_config *c, struct diag *d)
{
	memset(c, 0, sizeof(*c));
	for (unsigned int i = 0; i < vf_config_nfields; i++) {
		const struct vf_config_field *f = &vf_config_fields[i];
		int err;

		if (f->device_id != fn->caps.device_id || !offered(f, fn->features))
			continue;
		if (!range_within(f->offset, f->size, 0, fn->caps.config.length))
			return diag_set(d, -EINVAL,
					"its device configuration of %llu bytes has no room for %s",
					(unsigned long long)fn->caps.config.length, f->name);
		err = read_field(fn, f, c);
		if (err)
			return diag_errno(d, err, "its device configuration cannot be read");
	}
	return 0;
}

int vf_config_read(struct vf_function *fn, union vf_config *c, struct diag *d)
{
	uint32_t before, after;
	int err;

	for (unsigned int i = 0; i < GENERATION_TRIES; i++) {
		err = vf_reg_read(fn, VIRTIO_PCI_COMMON_CFGGENERATION, 1, &before, d);
		if (!err)
			err = read_fields(fn, c, d);
		if (!err)
			err = vf_reg_read(fn, VIRTIO_PCI_COMMON_CFGGENERATION, 1, &after, d);
		if (err || before == after)
			return err;
	}
	return diag_set(d, -EPROTO,
			"its device configuration changes while it is read, %u times in a row",
			GENERATION_TRIES);
}

/* --- what the guest sees --------------------------------------------------------------------- */

uint16_t vf_config_queues(const struct vf_function *fn, const union vf_config *c)
{
	bool net = fn->caps.device_id == VIRTIO_ID_NET;

	if (!(fn->features & VIRTIO_BIT(net ? VIRTIO_NET_F_MQ : VIRTIO_BLK_F_MQ)))
		return 1;
	return le16toh(net ? c->net.max_virtqueue_pairs : c->blk.num_queues);
}

static int adopt_net(const struct vf_function *fn, const struct vf_offer *o,
		     struct virtio_net_config *c, struct diag *d)
{
	static const uint8_t zero[ETH_ALEN];

	if (o->guest & VIRTIO_BIT(VIRTIO_NET_F_MAC) &&
	    (c->mac[0] & 1 || !memcmp(c->mac, zero, sizeof(zero))))
		return diag_set(
			d, -EINVAL,
			"it has no MAC address of its own; on a host with its PF, set one: ip "
			"link set PF vf NUMBER mac ADDRESS");
	if (o->guest & VIRTIO_BIT(VIRTIO_NET_F_MTU) && le16toh(c->mtu) < NET_MTU_MIN)
		return diag_set(d, -EINVAL, "its MTU is %u; at least %u is possible",
				le16toh(c->mtu), NET_MTU_MIN);
	if (!(fn->features & VIRTIO_BIT(VIRTIO_NET_F_STATUS)))
		c->status = htole16(VIRTIO_NET_S_LINK_UP);
	/* Announcing is asked by unvmm, after a move, and never by a function. */
	c->status &= htole16(VIRTIO_NET_S_LINK_UP);
	c->max_virtqueue_pairs = htole16(o->npairs);
	return 0;
}

static uint32_t at_most(uint32_t le, uint32_t max)
{
	return le32toh(le) > max ? htole32(max) : le;
}

static int adopt_blk(const struct vf_offer *o, struct virtio_blk_config *c, struct diag *d)
{
	uint32_t blk_size = le32toh(c->blk_size);

	if (o->guest & VIRTIO_BIT(VIRTIO_BLK_F_BLK_SIZE) &&
	    (!is_power_of_2(blk_size) || blk_size < BLK_SIZE_MIN || blk_size > BLK_SIZE_MAX))
		return diag_set(
			d, -EINVAL,
			"its blocks have %u bytes; powers of two from %u to %u are possible",
			blk_size, BLK_SIZE_MIN, BLK_SIZE_MAX);
	if (o->guest & VIRTIO_BIT(VIRTIO_BLK_F_SEG_MAX) && !c->seg_max)
		return diag_set(d, -EINVAL, "it takes requests of 0 segments");
	c->seg_max = at_most(c->seg_max, BLK_SEG_MAX);
	c->max_discard_sectors = at_most(c->max_discard_sectors, BLK_DISCARD_MAX);
	c->max_discard_seg = at_most(c->max_discard_seg, BLK_RANGE_SEG_MAX);
	c->max_write_zeroes_sectors = at_most(c->max_write_zeroes_sectors, BLK_ZEROES_MAX);
	c->max_write_zeroes_seg = at_most(c->max_write_zeroes_seg, BLK_RANGE_SEG_MAX);
	if (c->physical_block_exp > BLK_EXP_MAX)
		c->physical_block_exp = 0;
	c->num_queues = o->guest & VIRTIO_BIT(VIRTIO_BLK_F_MQ) ? htole16(o->nqueues) : 0;
	return 0;
}

int vf_config_adopt(const struct vf_function *fn, const struct vf_offer *o, union vf_config *c,
		    struct diag *d)
{
	/* What the guest is not offered it does not see, or it would differ from host to host. */
	for (unsigned int i = 0; i < vf_config_nfields; i++) {
		const struct vf_config_field *f = &vf_config_fields[i];

		if (f->device_id == fn->caps.device_id && !offered(f, o->guest))
			memset(c->bytes + f->offset, 0, f->size);
	}
	return fn->caps.device_id == VIRTIO_ID_NET ? adopt_net(fn, o, &c->net, d)
						   : adopt_blk(o, &c->blk, d);
}

bool vf_config_follow(uint16_t device_id, union vf_config *guest, const union vf_config *fresh)
{
	bool changed = false;

	for (unsigned int i = 0; i < vf_config_nfields; i++) {
		const struct vf_config_field *f = &vf_config_fields[i];

		if (f->device_id != device_id || !f->follows || get(guest, f) == get(fresh, f))
			continue;
		memcpy(guest->bytes + f->offset, fresh->bytes + f->offset, f->size);
		changed = true;
	}
	return changed;
}

int vf_config_compatible(uint16_t device_id, const union vf_config *guest,
			 const union vf_config *here, struct diag *d)
{
	for (unsigned int i = 0; i < vf_config_nfields; i++) {
		const struct vf_config_field *f = &vf_config_fields[i];
		unsigned long long theirs = get(guest, f), ours = get(here, f);

		if (f->device_id != device_id)
			continue;
		if (f->relation == VF_EQUAL && theirs != ours)
			return diag_set(
				d, -EINVAL,
				"%s is 0x%llx, the function here has 0x%llx; it must be equal",
				f->name, theirs, ours);
		if (f->relation == VF_AT_LEAST && theirs > ours)
			return diag_set(
				d, -EINVAL,
				"%s is %llu, the function here has %llu; it must not be less",
				f->name, theirs, ours);
	}
	return 0;
}
