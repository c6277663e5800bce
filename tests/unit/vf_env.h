/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_env.h - an assigned function in a machine without KVM: the device of vf.c behind the real
 * transport, a real vf thread, and the mock for the function. The test's thread is the guest.
 * Included once by each test program that uses it.
 */
#ifndef UNVMM_TESTS_VF_ENV_H
#define UNVMM_TESTS_VF_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fake_kvm.h"
#include "fake_vdev.h"
#include "vf_dev.h"
#include "vf_mock.h"
#include "vq_driver.h"

#define WAIT_MS	   30000
#define ENV_QUEUES 9

extern const struct device_class vf_class;

/* What the two backends would open: the test makes it before. */
static struct vf_mock *mock;

int vf_vfio_open(struct vm *vm, struct loop *loop, const char *address, struct vf **vf,
		 struct diag *d)
{
	(void)vm;
	(void)loop;
	if (!mock)
		return diag_set(d, -ENODEV, "function %s: there is no such function", address);
	*vf = &mock->vf;
	return 0;
}

int vf_user_open(struct loop *loop, const char *socket, struct vf **vf, struct diag *d)
{
	return vf_vfio_open(NULL, loop, socket, vf, d);
}

struct env {
	struct fake_vm *f;
	struct device dev;
	struct vf_dev *vd;
	_Alignas(16) uint8_t conf[256];
	struct vq_driver d[ENV_QUEUES];
};

/* A change of the function's, while the vf thread may be looking at it. */
#define MOCK_SET(field, value)                     \
	do {                                       \
		pthread_mutex_lock(&mock->lock);   \
		mock->field = (value);             \
		pthread_mutex_unlock(&mock->lock); \
	} while (0)

/* --- options ---------------------------------------------------------------------------------- */

static inline void *conf_at(struct env *e, const char *key)
{
	for (unsigned int i = 0; i < vf_class.nopts; i++)
		if (!strcmp(vf_class.opts[i].name, key))
			return e->conf + vf_class.opts[i].offset;
	fail_msg("there is no option %s", key);
	return NULL;
}

static inline void conf_text(struct env *e, const char *key, const char *value)
{
	*(const char **)conf_at(e, key) = value;
}

static inline void conf_number(struct env *e, const char *key, int64_t value)
{
	*(int64_t *)conf_at(e, key) = value;
}

static inline void conf_choice(struct env *e, const char *key, int value)
{
	*(int *)conf_at(e, key) = value;
}

static inline void conf_flag(struct env *e, const char *key)
{
	*(bool *)conf_at(e, key) = true;
}

/* --- the machine ------------------------------------------------------------------------------ */

/* A machine and a function, not yet together. */
static inline void env_begin(struct env *e, uint16_t device_id, uint16_t nqueues)
{
	memset(e, 0, sizeof(*e));
	assert_true(vf_class.conf_size <= sizeof(e->conf));
	e->f = fake_vm_with_pci();
	fake_kvm_reset(&e->f->vm);
	mock = vf_mock_new(device_id, nqueues);
	conf_text(e, "pci", "0000:03:00.2");
	snprintf(e->dev.id, sizeof(e->dev.id), "vf0");
	e->dev.cls = &vf_class;
}

static inline int env_create(struct env *e, struct diag *d)
{
	int err = vf_class.create(&e->f->vm, &e->dev, e->conf, d);

	mock->queues[0].kicks = 0; /* by unvmm itself, which asks a disk which one it is */
	e->vd = err ? NULL : e->dev.priv;
	return err;
}

static inline void env_end(struct env *e)
{
	if (e->vd)
		vf_class.destroy(&e->dev);
	assert_int_equal(mock->nmaps, 0);
	assert_int_equal(mock->nirq, 0);
	io_thread_stop(&e->f->vm.vf);
	e->f->vm.vf_started = false;
	vf_mock_free(mock);
	mock = NULL;
	fake_vm_free(e->f);
}

/* --- the guest -------------------------------------------------------------------------------- */

static inline uint64_t guest_bar(struct env *e, unsigned int bar)
{
	unsigned int slot = e->vd->vdev.transport->pci.slot, reg = PCI_BASE_ADDRESS_0 + 8 * bar;

	return (fake_ecam_read(&e->f->vm, slot, reg, 4) & PCI_BASE_ADDRESS_MEM_MASK) |
	       fake_ecam_read(&e->f->vm, slot, reg + 4, 4) << 32;
}

/* Like a vcpu: with the control lock held. */
static inline uint32_t guest_read(struct env *e, uint64_t off, unsigned int len)
{
	uint64_t v;

	vm_lock(&e->f->vm);
	v = bus_read(&e->f->vm.mmio, guest_bar(e, VP_BAR) + off, len);
	vm_unlock(&e->f->vm);
	return (uint32_t)v;
}

static inline void guest_write(struct env *e, uint64_t off, unsigned int len, uint32_t v)
{
	vm_lock(&e->f->vm);
	bus_write(&e->f->vm.mmio, guest_bar(e, VP_BAR) + off, len, v);
	vm_unlock(&e->f->vm);
}

static inline void guest_command(struct env *e, uint16_t command)
{
	vm_lock(&e->f->vm);
	fake_ecam_write(&e->f->vm, e->vd->vdev.transport->pci.slot, PCI_COMMAND, 2, command);
	vm_end_access(&e->f->vm);
}

static inline uint8_t guest_status(struct env *e)
{
	return (uint8_t)guest_read(e, VIRTIO_PCI_COMMON_STATUS, 1);
}

static inline void guest_set_status(struct env *e, uint8_t v)
{
	guest_write(e, VIRTIO_PCI_COMMON_STATUS, 1, v);
}

static inline void guest_queue(struct env *e, uint16_t q, uint16_t size, uint64_t features)
{
	struct vq_driver *d = &e->d[q];

	vqd_init(d, &e->f->vm.mem, MiB(1) + q * MiB(1), KiB(256), size, features);
	guest_write(e, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
	guest_write(e, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
	guest_write(e, VIRTIO_PCI_COMMON_Q_MSIX, 2, q + 1u);
	guest_write(e, VIRTIO_PCI_COMMON_Q_DESCLO, 4, (uint32_t)d->layout.desc);
	guest_write(e, VIRTIO_PCI_COMMON_Q_DESCHI, 4, 0);
	guest_write(e, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, (uint32_t)d->layout.avail);
	guest_write(e, VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 0);
	guest_write(e, VIRTIO_PCI_COMMON_Q_USEDLO, 4, (uint32_t)d->layout.used);
	guest_write(e, VIRTIO_PCI_COMMON_Q_USEDHI, 4, 0);
	guest_write(e, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

#define S_DRIVER (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)

/* A driver, up to DRIVER_OK (virtio 1.2, 3.1.1), with queues [0, n). */
static inline void guest_drive(struct env *e, uint64_t features, uint16_t n)
{
	uint8_t status = S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;

	guest_command(e, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	guest_set_status(e, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	guest_set_status(e, S_DRIVER);
	for (unsigned int i = 0; i < 2; i++) {
		guest_write(e, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		guest_write(e, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(features >> (32 * i)));
	}
	guest_set_status(e, status);
	assert_int_equal(guest_status(e), status);
	for (uint16_t q = 0; q < n; q++)
		guest_queue(e, q, 256, features);
	guest_set_status(e, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

static inline void guest_kick(struct env *e, uint16_t q)
{
	guest_write(e,
		    VP_DOORBELLS + q * (uint64_t)VP_DOORBELL_PAGE +
			    e->vd->vdev.queues[q].doorbell_offset,
		    2, q);
}

/* --- waiting ---------------------------------------------------------------------------------- */

static inline bool wait_until(struct env *e, bool (*cond)(struct env *e))
{
	for (unsigned int i = 0; i < WAIT_MS; i++) {
		if (cond(e))
			return true;
		usleep(1000);
	}
	return cond(e);
}

static inline bool is_up(struct env *e)
{
	bool up;

	vm_lock(&e->f->vm);
	up = e->vd->up;
	vm_unlock(&e->f->vm);
	return up;
}

static inline bool needs_reset(struct env *e)
{
	return guest_status(e) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static inline bool is_reset(struct env *e)
{
	return guest_status(e) == 0;
}

static inline bool up_or_failed(struct env *e)
{
	return is_up(e) || needs_reset(e);
}

/* Everything that was posted to the vf thread has run. */
struct barrier {
	struct loop_work work;
	bool done;
};

static inline void barrier_work(struct loop_work *w)
{
	__atomic_store_n(&container_of(w, struct barrier, work)->done, true, __ATOMIC_RELEASE);
}

static inline void env_barrier(struct env *e)
{
	struct barrier b = { .work.fn = barrier_work };

	loop_call(e->vd->loop, &b.work);
	for (unsigned int i = 0; i < 20 * WAIT_MS; i++) {
		if (__atomic_load_n(&b.done, __ATOMIC_ACQUIRE))
			return;
		usleep(1000);
	}
	fail_msg("the vf thread hangs");
}

static inline void guest_reset(struct env *e)
{
	guest_set_status(e, 0);
	assert_true(wait_until(e, is_reset));
}

/* --- the control queue ------------------------------------------------------------------------ */

static inline void command_post(struct env *e, uint16_t q, uint8_t class, uint8_t cmd,
				const void *data, uint32_t len, gpa_t *ack)
{
	struct vq_driver *d = &e->d[q];
	gpa_t out = vqd_alloc(d, 2 + len, 1);
	uint8_t *p = vqd_at(d, out, 2 + len);
	struct vqd_buf bufs[] = { { out, 2 + len, false }, { 0, 1, true } };

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	*ack = bufs[1].gpa = vqd_alloc(d, 1, 1);
	*(uint8_t *)vqd_at(d, *ack, 1) = 0xee;
	vqd_post(d, bufs, 2);
	(void)vqd_show(d);
	guest_kick(e, q);
}

/* The guest's answer; 0xee: none within the time. */
static inline uint8_t command(struct env *e, uint16_t q, uint8_t class, uint8_t cmd,
			      const void *data, uint32_t len)
{
	struct vring_used_elem used;
	gpa_t ack;

	command_post(e, q, class, cmd, data, len, &ack);
	for (unsigned int i = 0; i < WAIT_MS; i++) {
		if (vqd_take(&e->d[q], &used))
			return *(uint8_t *)vqd_at(&e->d[q], ack, 1);
		usleep(1000);
	}
	return 0xee;
}

#endif
