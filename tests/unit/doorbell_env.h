/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doorbell_env.h - a vdev that asks for its doorbells in any way, on the KVM of fake_kvm.h, and a
 * guest that rings them. Included once by each test program; the test's thread.
 */
#ifndef UNVMM_TESTS_DOORBELL_ENV_H
#define UNVMM_TESTS_DOORBELL_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <json-c/json.h>
#include <stdio.h>
#include <unvmm/device.h>

#include "fake_kvm.h"
#include "fake_vdev.h"

#define V1     VIRTIO_BIT(VIRTIO_F_VERSION_1)
#define QUEUES 3

enum way { TRAP, EVENTFD, MAPPED, MAPPED_OVER_EVENTFD, WAYS };

struct fixture {
	struct fake_vm *f;
	struct fake_vdev *fv;
	struct virtio_pci *t;
	unsigned int rings; /* in the middle of changes */
};

static inline struct fake_vdev *make_vdev(struct fixture *x)
{
	struct diag d = { 0 };
	struct fake_vdev *fv = fake_vdev_new(&x->f->vm, QUEUES, V1, &d);

	if (!fv)
		fail_msg("%s", d.text);
	return fv;
}

static inline int setup(void **state)
{
	static struct fixture x;

	x = (struct fixture){ .f = fake_vm_with_pci() };
	fake_kvm_reset(&x.f->vm);
	x.fv = make_vdev(&x);
	x.t = x.fv->vdev.transport;
	*state = &x;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *x = *state;

	fake_kvm.changed = NULL;
	if (x->fv)
		fake_vdev_free(x->fv);
	assert_int_equal(fake_kvm.nslots, 0);
	assert_int_equal(fake_kvm.neventfds, 0);
	assert_null(x->f->vm.mappers);
	for (unsigned int i = 0; i < ARRAY_SIZE(x->f->vm.slots.used); i++)
		assert_true(x->f->vm.slots.used[i] == 0);
	fake_vm_free(x->f);
	return 0;
}

static inline void want(struct fake_vdev *fv, unsigned int q, enum way way)
{
	static const enum doorbell_kind kinds[] = { DOORBELL_TRAP, DOORBELL_EVENTFD,
						    DOORBELL_MAPPED, DOORBELL_MAPPED };

	fv->way[q] = kinds[way];
	fv->doorbell_fds[q] = way == MAPPED ? -1 : FAKE_DOORBELL_FD + (int)q;
}

static inline void want_all(struct fake_vdev *fv, enum way way)
{
	for (unsigned int q = 0; q < QUEUES; q++)
		want(fv, q, way);
}

/* Where the guest rings: it read queue_notify_off once. */
static inline uint64_t doorbell_at(const struct fake_vdev *fv, unsigned int q)
{
	const struct virtio_pci *t = fv->vdev.transport;

	return t->pci.bars[VP_BAR].base + VP_DOORBELLS + q * VP_DOORBELL_PAGE +
	       fv->vdev.queues[q].doorbell_offset;
}

/* Rings as the guest does and says what way it went; it must have gone one. */
static inline enum way ring(struct fake_vdev *fv, unsigned int q)
{
	uint8_t *cell = fv->pages + q * VP_DOORBELL_PAGE + fv->vdev.queues[q].doorbell_offset;
	unsigned int signals = fake_kvm.signals[FAKE_DOORBELL_FD + q], kicks = fv->kicks[q];
	uint16_t value = (uint16_t)(0x100 + q), stored;

	memset(cell, 0, sizeof(stored));
	fake_kvm_store(fv->vdev.vm, doorbell_at(fv, q), value);
	memcpy(&stored, cell, sizeof(stored));
	assert_true(stored == 0 || stored == value);
	signals = fake_kvm.signals[FAKE_DOORBELL_FD + q] - signals;
	kicks = fv->kicks[q] - kicks;
	assert_int_equal(signals + kicks + (stored == value), 1);
	return kicks ? TRAP : signals ? EVENTFD : MAPPED;
}

static inline enum way seen_as(enum way way)
{
	return way == MAPPED_OVER_EVENTFD ? MAPPED : way;
}

static inline void rings(struct fake_vdev *fv, enum way way)
{
	for (unsigned int q = 0; q < QUEUES; q++)
		assert_int_equal(ring(fv, q), way);
}

/* What `unvmm info` would tell of queue q; "": nothing. */
static inline const char *reported(const struct fixture *x, unsigned int q, const char *key)
{
	struct device dev = { .priv = &x->fv->vdev };
	struct json_object *root, *queues, *value;
	static char text[64];
	struct report r;

	text[0] = '\0';
	root = report_begin(&r);
	virtio_pci_info(&dev, &r);
	assert_true(json_object_object_get_ex(root, "queues", &queues));
	if (json_object_object_get_ex(json_object_array_get_idx(queues, q), key, &value))
		snprintf(text, sizeof(text), "%s", json_object_get_string(value));
	json_object_put(root);
	return text;
}

#endif
