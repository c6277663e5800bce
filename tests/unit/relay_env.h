/* SPDX-License-Identifier: Apache-2.0 */
/*
 * relay_env.h - vf_env.h, and a function whose data queues do something when the test says so: it
 * takes heads from wherever its rings are, and gives them back. The test's thread.
 */
#ifndef UNVMM_TESTS_RELAY_ENV_H
#define UNVMM_TESTS_RELAY_ENV_H

#include "vf_env.h"

#include <unvmm/pci.h>

#define RING_RESET VIRTIO_BIT(40)

static inline void relay_begin(struct env *e, uint16_t id, uint16_t nqueues, bool ring_reset)
{
	struct diag d = { "" };

	env_begin(e, id, nqueues);
	if (ring_reset)
		mock->features |= RING_RESET;
	else
		mock->features &= ~RING_RESET;
	if (env_create(e, &d))
		fail_msg("%s", d.text);
}

static inline void drive(struct env *e, uint64_t without)
{
	guest_drive(e, e->vd->vdev.offered & ~without, e->vd->vdev.nqueues);
	assert_true(wait_until(e, is_up));
	env_barrier(e);
}

/* The queue is empty, and has come so far. */
static inline void guest_stands_at(struct env *e, uint16_t q, uint16_t index)
{
	struct vq_driver *d = &e->d[q];

	d->avail_idx = d->last_used = index;
	d->avail->idx = d->used->idx = index;
}

static inline void guest_post(struct env *e, uint16_t q, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		struct vqd_buf buf = { MiB(12) + i * PAGE_SIZE_4K, 64, true };

		(void)vqd_post(&e->d[q], &buf, 1);
	}
	(void)vqd_show(&e->d[q]);
	guest_kick(e, q);
}

/* What came back, waiting for `want`; *empty of them with length 0. */
static inline unsigned int guest_collect(struct env *e, uint16_t q, unsigned int want,
					 unsigned int *empty)
{
	struct vring_used_elem elem;
	unsigned int n = 0, zero = 0;

	for (unsigned int i = 0; i < WAIT_MS && n < want; i++) {
		while (vqd_take(&e->d[q], &elem)) {
			zero += !elem.len;
			n++;
		}
		if (n < want)
			usleep(1000);
	}
	if (empty)
		*empty = zero;
	return n;
}

/* The function takes what is there, at most `max`, and gives it back. */
static inline unsigned int fn_run(uint16_t q, unsigned int max)
{
	struct vf_mock_queue *mq = &mock->queues[q];
	struct vring_avail *avail;
	struct vring_used *used;
	unsigned int n = 0;

	pthread_mutex_lock(&mock->lock);
	avail = mq->enable && vf_mock_runs(mock) ? vf_mock_dma(mock, mq->driver, 4 + mq->size * 2u)
						 : NULL;
	used = mq->enable ? vf_mock_dma(mock, mq->device, 4 + mq->size * 8u) : NULL;
	for (;
	     avail && used && n < max && __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE) != mq->next;
	     n++) {
		used->ring[used->idx & (mq->size - 1)] =
			(struct vring_used_elem){ .id = avail->ring[mq->next++ & (mq->size - 1)],
						  .len = 1 };
		__atomic_store_n(&used->idx, used->idx + 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&mock->lock);
	if (n)
		vf_mock_interrupt(mock, q + 1u);
	return n;
}

/* The same until `want` have been served. */
static inline void fn_serve(uint16_t q, unsigned int want)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < WAIT_MS && n < want; i++) {
		n += fn_run(q, want - n);
		if (n < want)
			usleep(1000);
	}
	assert_int_equal(n, want);
}

static inline enum vf_path path_of(struct env *e, unsigned int q)
{
	enum vf_path path;

	vm_lock(&e->f->vm);
	path = e->vd->relays.queues[q].path;
	vm_unlock(&e->f->vm);
	return path;
}

static inline void wait_path(struct env *e, unsigned int q, enum vf_path path)
{
	for (unsigned int i = 0; i < WAIT_MS && path_of(e, q) != path; i++)
		usleep(1000);
	assert_int_equal(path_of(e, q), path);
	env_barrier(e);
}

/* As vm_track_begin() does it. */
static inline void enter_relay(struct env *e)
{
	struct diag d = { "" };
	int hold = vf_class.track_begin(&e->dev, &d);

	if (hold < 0)
		fail_msg("%s", d.text);
	if (hold) {
		assert_int_equal(vf_class.quiesce(&e->dev), 0);
		vf_class.resume(&e->dev);
	}
	if (vf_class.track_wait(&e->dev, &d))
		fail_msg("%s", d.text);
}

#endif
