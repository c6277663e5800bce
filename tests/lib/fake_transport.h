/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_transport.h - a stand-in for the virtio-PCI transport, for unit tests of software devices:
 * what a device asks of virtio.h is noted in `host`, where the test can wait for it. Included once
 * by each test program; the test's thread, notes from the device's loop.
 */
#ifndef UNVMM_TESTS_FAKE_TRANSPORT_H
#define UNVMM_TESTS_FAKE_TRANSPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <unvmm/virtio.h>

#define WAIT_S 30

static struct {
	sem_t irq, stopped, broken, config;
	int irqs;
	char why[128];
} host;

int virtio_pci_create(struct vdev *v, struct diag *d)
{
	(void)d;
	for (unsigned int q = 0; q < v->nqueues; q++)
		v->queues[q].size = v->queues[q].size_max;
	return 0;
}

void virtio_pci_destroy(struct vdev *v)
{
	(void)v;
}

void virtio_pci_state(struct vdev *v, struct state_ref *refs)
{
	(void)v;
	memset(refs, 0, VIRTIO_PCI_STATES * sizeof(*refs));
}

static inline int wait_for(sem_t *s)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_S;
	return sem_timedwait(s, &until);
}

int virtio_pci_quiesce(struct vdev *v)
{
	v->ops->stop(v);
	return wait_for(&host.stopped) ? -ETIMEDOUT : 0;
}

int virtio_pci_reset(struct vdev *v)
{
	int err = virtio_pci_quiesce(v);

	v->status = 0;
	for (unsigned int q = 0; !err && q < v->nqueues; q++)
		v->queues[q].index = 0;
	if (!err && v->ops->reset)
		v->ops->reset(v);
	return err;
}

void virtio_pci_resume(struct vdev *v)
{
	assert_int_equal(v->ops->start(v), 0);
}

void virtio_pci_moved(struct vdev *v)
{
	(void)v;
}

void virtio_pci_rewire(struct vdev *v)
{
	(void)v;
}

int vdev_irq_fd(const struct vdev *v, unsigned int q)
{
	return v->queues[q].irq_fd;
}

void vdev_needs_reset(struct vdev *v, const char *why)
{
	(void)v;
	snprintf(host.why, sizeof(host.why), "%s", why);
	sem_post(&host.broken);
}

void vdev_stopped(struct vdev *v)
{
	(void)v;
	sem_post(&host.stopped);
}

void vdev_config_changed(struct vdev *v)
{
	(void)v;
	sem_post(&host.config);
}

void vdev_interrupt(struct vdev *v, unsigned int q)
{
	(void)v;
	(void)q;
	__atomic_fetch_add(&host.irqs, 1, __ATOMIC_RELAXED);
	sem_post(&host.irq);
}

static inline void clear_transport(void)
{
	memset(&host, 0, sizeof(host));
	sem_init(&host.irq, 0, 0);
	sem_init(&host.stopped, 0, 0);
	sem_init(&host.broken, 0, 0);
	sem_init(&host.config, 0, 0);
}

#endif
