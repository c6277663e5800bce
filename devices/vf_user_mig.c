/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_user_mig.c - migration of a function behind a vfio-user server: its state machine, its opaque
 * state, its log of DMA (VFIO migration v2 by DEVICE_FEATURE and MIG_DATA). The vf thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vf_user.h"

/* What a reply of MIG_DATA_READ, or a request of MIG_DATA_WRITE, carries at once. */
#define MIG_DATA_MAX 16384

/* A message that carries ranges is kept below VFIO_USER_SEND_MAX. */
#define RANGES_MAX 1024

/* A GET or SET of a feature: the header, then `data` in both directions as told. */
static int feature(struct vf_user *u, uint32_t flags, const void *out, size_t out_len, void *in,
		   size_t in_len)
{
	size_t room = out_len > in_len ? out_len : in_len;
	struct vfio_device_feature ask = { .argsz = (uint32_t)(sizeof(ask) + room),
					   .flags = flags };
	struct vf_user_call c = { .cmd = VFIO_USER_DEVICE_FEATURE,
				  .out = { { &ask, sizeof(ask) },
					   { (void *)(uintptr_t)out, out_len } } };
	uint8_t *reply = malloc(sizeof(ask) + room);
	int err;

	if (!reply)
		return -ENOMEM;
	c.in = reply;
	/* A SET's answer repeats the request, or its header, or nothing of it. */
	c.in_min = in_len ? sizeof(ask) + in_len : 0;
	c.in_max = sizeof(ask) + room;
	err = vf_user_call(u, &c);
	if (!err && in_len)
		memcpy(in, reply + sizeof(ask), in_len);
	free(reply);
	return err;
}

/* Servers say in many ways that they do not know a feature; a lost connection shows later. */
void vf_user_mig_probe(struct vf_user *u)
{
	struct vfio_device_feature_migration mig = { 0 };

	if (!feature(u, VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET, NULL, 0, &mig,
		     sizeof(mig)) &&
	    mig.flags & VFIO_MIGRATION_STOP_COPY)
		u->mig.flags = mig.flags;
	u->mig.dma_log = !feature(u,
				  VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET |
					  VFIO_DEVICE_FEATURE_PROBE,
				  NULL, 0, NULL, 0) &&
			 !feature(u,
				  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET |
					  VFIO_DEVICE_FEATURE_PROBE,
				  NULL, 0, NULL, 0);
}

int vf_user_mig_caps(struct vf *vf, struct vf_mig_caps *caps)
{
	*caps = vf_user_of(vf)->mig;
	return 0;
}

int vf_user_mig_state(struct vf *vf, uint32_t state)
{
	struct vf_user *u = vf_user_of(vf);
	struct vfio_device_feature_mig_state s = { .device_state = state };

	if (!u->mig.flags)
		return -EOPNOTSUPP;
	return feature(u, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET, &s,
		       sizeof(s), NULL, 0);
}

int vf_user_mig_state_get(struct vf *vf, uint32_t *state)
{
	struct vf_user *u = vf_user_of(vf);
	struct vfio_device_feature_mig_state s;
	int err;

	if (!u->mig.flags)
		return -EOPNOTSUPP;
	err = feature(u, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_GET, NULL, 0,
		      &s, sizeof(s));
	if (!err)
		*state = s.device_state;
	return err;
}

int vf_user_mig_read(struct vf *vf, void *buf, size_t cap, size_t *len)
{
	struct vf_user *u = vf_user_of(vf);
	struct {
		struct vfio_user_mig_data d;
		uint8_t data[MIG_DATA_MAX];
	} reply;
	struct vfio_user_mig_data ask;
	struct vf_user_call c = { .cmd = VFIO_USER_MIG_DATA_READ,
				  .out = { { &ask, sizeof(ask) } },
				  .in = &reply };
	int err;

	if (!u->mig.flags)
		return -EOPNOTSUPP;
	if (cap > MIG_DATA_MAX)
		cap = MIG_DATA_MAX;
	if (cap > u->max_xfer)
		cap = u->max_xfer;
	ask = (struct vfio_user_mig_data){ (uint32_t)(sizeof(ask) + cap), (uint32_t)cap };
	c.in_min = sizeof(ask);
	c.in_max = sizeof(ask) + cap;
	err = vf_user_call(u, &c);
	if (err)
		return err;
	/* libvfio-user's answer is as long as the request allows; size is what counts. */
	if (reply.d.size > c.in_len - sizeof(ask)) {
		pthread_mutex_lock(&u->lock);
		err = vf_user_lost(u, -EPROTO, "it answered MIG_DATA_READ with less than it says");
		pthread_mutex_unlock(&u->lock);
		return err;
	}
	memcpy(buf, reply.data, reply.d.size);
	*len = reply.d.size;
	return 0;
}

int vf_user_mig_write(struct vf *vf, const void *buf, size_t len)
{
	struct vf_user *u = vf_user_of(vf);
	int err = u->mig.flags ? 0 : -EOPNOTSUPP;

	while (len && !err) {
		size_t part = len < MIG_DATA_MAX ? len : MIG_DATA_MAX;
		struct vfio_user_mig_data d;
		struct vf_user_call c = { .cmd = VFIO_USER_MIG_DATA_WRITE,
					  .out = { { &d, sizeof(d) },
						   { (void *)(uintptr_t)buf, part } } };

		if (part > u->max_xfer)
			c.out[1].iov_len = part = u->max_xfer;
		d = (struct vfio_user_mig_data){ (uint32_t)(sizeof(d) + part), (uint32_t)part };
		err = vf_user_call(u, &c);
		buf = (const uint8_t *)buf + part;
		len -= part;
	}
	return err;
}

int vf_user_log_start(struct vf *vf, const struct vf_range *ranges, unsigned int n)
{
	struct vf_user *u = vf_user_of(vf);
	struct {
		struct vfio_user_log_start h;
		struct vf_range ranges[RANGES_MAX];
	} body;
	int err;

	if (!u->mig.dma_log)
		return -EOPNOTSUPP;
	if (u->logging)
		return 0;
	if (!n || n > RANGES_MAX)
		return -EINVAL;
	body.h = (struct vfio_user_log_start){ .page_size = PAGE_SIZE_4K, .num_ranges = n };
	memcpy(body.ranges, ranges, n * sizeof(*ranges));
	err = feature(u, VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET, &body,
		      sizeof(body.h) + n * sizeof(*ranges), NULL, 0);
	u->logging = !err;
	return err;
}

int vf_user_log_stop(struct vf *vf)
{
	struct vf_user *u = vf_user_of(vf);
	int err;

	if (!u->mig.dma_log)
		return -EOPNOTSUPP;
	if (!u->logging)
		return 0;
	err = feature(u, VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET, NULL, 0,
		      NULL, 0);
	if (!err)
		u->logging = false;
	return err;
}

/* ORs n bits of `from` into `to` from bit `at` on. */
static void or_bits(uint64_t *to, uint64_t at, const uint64_t *from, uint64_t n)
{
	for (uint64_t i = 0; i < n; i += 64) {
		uint64_t word = from[i / 64], to_bit = at + i;
		unsigned int shift = to_bit % 64;

		if (n - i < 64)
			word &= (1ull << (n - i)) - 1;
		if (!word)
			continue;
		to[to_bit / 64] |= word << shift;
		if (shift && word >> (64 - shift))
			to[to_bit / 64 + 1] |= word >> (64 - shift);
	}
}

/* One range inside one mapping; the bits go to `bitmap` from bit `at` on. */
static int report_range(struct vf_user *u, const struct vf_range *r, uint64_t *bitmap, uint64_t at)
{
	uint64_t pages = r->size / PAGE_SIZE_4K, words = (pages + 63) / 64;
	struct vfio_user_log_report ask = { r->iova, r->size, PAGE_SIZE_4K };
	size_t len = sizeof(ask) + words * sizeof(uint64_t);
	uint8_t *reply = malloc(len);
	int err;

	if (!reply)
		return -ENOMEM;
	err = feature(u, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET, &ask,
		      sizeof(ask), reply, len);
	if (!err)
		or_bits(bitmap, at, (const uint64_t *)(const void *)(reply + sizeof(ask)), pages);
	free(reply);
	return err;
}

/* Servers answer for what lies inside one mapping, so each is asked for by itself. */
int vf_user_log_report(struct vf *vf, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	struct vf_user *u = vf_user_of(vf);
	int err = 0;

	if (!u->mig.dma_log)
		return -EOPNOTSUPP;
	if (!u->logging || (iova | size) % PAGE_SIZE_4K || !size || iova + size - 1 < iova)
		return -EINVAL;
	for (unsigned int i = 0; i < u->nmaps && !err; i++) {
		uint64_t first = u->maps[i].iova, last = first + u->maps[i].size - 1;
		struct vf_range r;

		if (first > iova + size - 1 || last < iova)
			continue;
		first = first > iova ? first : iova;
		last = last < iova + size - 1 ? last : iova + size - 1;
		r = (struct vf_range){ first, last - first + 1 };
		err = report_range(u, &r, bitmap, (first - iova) / PAGE_SIZE_4K);
	}
	return err;
}
