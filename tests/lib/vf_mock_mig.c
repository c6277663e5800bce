/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_mock_mig.c - the mock's function in a migration: VFIO's states with every arc checked, what it
 * knows of itself as a stream, and the log of its writes. As strict as the strictest server: in
 * STOP and STOP_COPY it takes no mapping, no interrupt and no reset, in STOP_COPY it has no
 * registers. The mock's lock is held.
 */
#include "vf_mock_model.h"

#include <errno.h>
#include <string.h>

#define MAGIC 0x6b636f6d2d666d76ull
#define AHEAD 3 /* parts that PRE_COPY gives before there is nothing for now */

bool vf_mock_runs(const struct vf_mock *m)
{
	return m->state == VFIO_DEVICE_STATE_RUNNING || m->state == VFIO_DEVICE_STATE_RUNNING_P2P ||
	       m->state == VF_STATE_PRE_COPY || m->state == VF_STATE_PRE_COPY_P2P;
}

bool vf_model_stands(const struct vf_mock *m)
{
	return m->state == VFIO_DEVICE_STATE_STOP || m->state == VFIO_DEVICE_STATE_STOP_COPY;
}

static bool copies(uint32_t state)
{
	return state == VF_STATE_PRE_COPY || state == VF_STATE_PRE_COPY_P2P;
}

/* --- what it knows ---------------------------------------------------------------------------- */

struct image {
	uint64_t magic, acknowledged;
	uint16_t device_id, config_vector;
	uint8_t status;
	struct vf_mock_queue queues[8];
};

static void save(struct vf_mock *m)
{
	struct image im = { .magic = MAGIC,
			    .acknowledged = m->acknowledged,
			    .device_id = m->device_id,
			    .config_vector = m->config_vector,
			    .status = m->status };

	memcpy(im.queues, m->queues, sizeof(im.queues));
	memcpy(m->stream, &im, sizeof(im));
	m->stream_len = sizeof(im);
	m->stream_at = 0;
}

/* Behind what PRE_COPY gave, if it did. */
static int load(struct vf_mock *m)
{
	struct image im;

	if (m->stream_len < sizeof(im) || (m->stream_len - sizeof(im)) % sizeof(uint64_t))
		return -EINVAL;
	memcpy(&im, m->stream + m->stream_len - sizeof(im), sizeof(im));
	if (im.magic != MAGIC || im.device_id != m->device_id || im.acknowledged & ~m->features)
		return -EINVAL;
	m->acknowledged = im.acknowledged;
	m->config_vector = im.config_vector;
	m->status = im.status;
	for (unsigned int q = 0; q < ARRAY_SIZE(im.queues); q++) {
		unsigned int kicks = m->queues[q].kicks;

		m->queues[q] = im.queues[q];
		m->queues[q].kicks = kicks;
	}
	return 0;
}

/* --- states ----------------------------------------------------------------------------------- */

/* Which states a SET can reach from another (linux/vfio.h); the path in between is its own. */
static bool reachable(const struct vf_mock *m, uint32_t to)
{
	uint32_t from = m->state;

	if (from == VFIO_DEVICE_STATE_ERROR)
		return false;
	if ((to == VFIO_DEVICE_STATE_RUNNING_P2P && !(m->mig_flags & VFIO_MIGRATION_P2P)) ||
	    (copies(to) && !(m->mig_flags & VF_MIGRATION_PRE_COPY)) ||
	    (to == VF_STATE_PRE_COPY_P2P && !(m->mig_flags & VFIO_MIGRATION_P2P)))
		return false;
	if (copies(to))
		return vf_mock_runs(m);
	return to >= VFIO_DEVICE_STATE_STOP && to <= VFIO_DEVICE_STATE_RUNNING_P2P;
}

static int model_mig_state(struct vf_mock *m, uint32_t to)
{
	uint32_t from = m->state;
	int err = 0;

	vf_mock_note(m, "state %u", to);
	if (!reachable(m, to))
		return -EINVAL;
	if (to == from)
		return 0;
	if (to == m->breaks_at) {
		m->state = VFIO_DEVICE_STATE_ERROR;
		return -EIO;
	}
	if (to == VFIO_DEVICE_STATE_STOP_COPY)
		save(m);
	else if (copies(to) && !copies(from))
		m->ahead = 0;
	if (to == VFIO_DEVICE_STATE_RESUMING) {
		vf_model_reset(m);
		m->stream_len = 0;
	}
	if (from == VFIO_DEVICE_STATE_RESUMING)
		err = load(m);
	m->state = err ? VFIO_DEVICE_STATE_ERROR : to;
	return err;
}

static int model_mig_read(struct vf_mock *m, void *buf, size_t cap, size_t *len)
{
	uint64_t part = m->ahead;
	size_t rest = m->stream_len - m->stream_at;

	*len = 0;
	if (copies(m->state) && m->ahead < AHEAD && cap >= sizeof(part)) {
		memcpy(buf, &part, sizeof(part));
		*len = sizeof(part);
		m->ahead++;
		return 0;
	}
	if (m->state != VFIO_DEVICE_STATE_STOP_COPY)
		return copies(m->state) ? 0 : -EINVAL;
	*len = rest < cap ? rest : cap;
	memcpy(buf, m->stream + m->stream_at, *len);
	m->stream_at += *len;
	return 0;
}

static int model_mig_write(struct vf_mock *m, const void *buf, size_t len)
{
	if (m->state != VFIO_DEVICE_STATE_RESUMING || len > sizeof(m->stream) - m->stream_len)
		return -EINVAL;
	memcpy(m->stream + m->stream_len, buf, len);
	m->stream_len += len;
	return 0;
}

/* --- the log ---------------------------------------------------------------------------------- */

void vf_mock_writes(struct vf_mock *m, uint64_t iova)
{
	pthread_mutex_lock(&m->lock);
	if (m->logging && m->nwritten < VM_WRITTEN)
		m->written[m->nwritten++] = align_down(iova, (uint64_t)PAGE_SIZE_4K);
	pthread_mutex_unlock(&m->lock);
}

static int model_log_report(struct vf_mock *m, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	unsigned int kept = 0;

	if (!m->logging)
		return -EINVAL;
	for (unsigned int i = 0; i < m->nwritten; i++) {
		uint64_t page = (m->written[i] - iova) / PAGE_SIZE_4K;

		if (range_within(m->written[i], PAGE_SIZE_4K, iova, size))
			bitmap[page / 64] |= 1ull << (page % 64);
		else
			m->written[kept++] = m->written[i];
	}
	m->nwritten = kept;
	return 0;
}

/* --- the ops ---------------------------------------------------------------------------------- */

int vf_mock_mig_caps(struct vf *vf, struct vf_mig_caps *caps)
{
	struct vf_mock *m = (struct vf_mock *)vf;

	*caps = (struct vf_mig_caps){ .flags = m->mig_flags, .dma_log = m->mig_log };
	return 0;
}

static int enter_mig(struct vf_mock *m, bool there)
{
	int err = vf_mock_enter(m);

	return err ? err : there ? 0 : vf_mock_leave(m, -EOPNOTSUPP);
}

int vf_mock_mig_state(struct vf *vf, uint32_t state)
{
	struct vf_mock *m = (struct vf_mock *)vf;
	int err = enter_mig(m, m->mig_flags);

	return err ? err : vf_mock_leave(m, model_mig_state(m, state));
}

int vf_mock_mig_state_get(struct vf *vf, uint32_t *state)
{
	struct vf_mock *m = (struct vf_mock *)vf;
	int err = enter_mig(m, m->mig_flags);

	if (err)
		return err;
	*state = m->state;
	return vf_mock_leave(m, 0);
}

int vf_mock_mig_read(struct vf *vf, void *buf, size_t cap, size_t *len)
{
	struct vf_mock *m = (struct vf_mock *)vf;
	int err = enter_mig(m, m->mig_flags);

	return err ? err : vf_mock_leave(m, model_mig_read(m, buf, cap, len));
}

int vf_mock_mig_write(struct vf *vf, const void *buf, size_t len)
{
	struct vf_mock *m = (struct vf_mock *)vf;
	int err = enter_mig(m, m->mig_flags);

	return err ? err : vf_mock_leave(m, model_mig_write(m, buf, len));
}

int vf_mock_log_start(struct vf *vf, const struct vf_range *ranges, unsigned int n)
{
	struct vf_mock *m = (struct vf_mock *)vf;
	int err = enter_mig(m, m->mig_log);

	(void)ranges;
	if (err)
		return err;
	if (!m->logging)
		vf_mock_note(m, "log_start %u", n);
	m->logging = true;
	return vf_mock_leave(m, n ? 0 : -EINVAL);
}

int vf_mock_log_stop(struct vf *vf)
{
	struct vf_mock *m = (struct vf_mock *)vf;
	int err = enter_mig(m, m->mig_log);

	if (err)
		return err;
	m->logging = false;
	m->nwritten = 0;
	return vf_mock_leave(m, 0);
}

int vf_mock_log_report(struct vf *vf, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	struct vf_mock *m = (struct vf_mock *)vf;
	int err = enter_mig(m, m->mig_log);

	return err ? err : vf_mock_leave(m, model_log_report(m, iova, size, bitmap));
}
