/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_msix.c - masks, pending bits and the eventfds behind the vectors (PCI 3.0, 6.8.2), without
 * KVM: what would be an irqfd is `attached`, what KVM would have as routes is the table. One
 * thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <unvmm/platform.h>

#include "fake_vdev.h"
#include "state_check.h"

#define QUEUES	3 /* four vectors, four sources */
#define VECTORS (QUEUES + 1)
#define ADDR	0xfee01000
#define ENABLE	PCI_MSIX_FLAGS_ENABLE
#define MASKALL PCI_MSIX_FLAGS_MASKALL
#define PBA	0x800

struct fixture {
	struct fake_vm *f;
	struct fake_vdev *fv;
	struct msix *m;
	struct virtio_pci *t;
};

static void plug(struct fixture *x)
{
	struct diag d = { 0 };

	x->fv = fake_vdev_new(&x->f->vm, QUEUES, VIRTIO_BIT(VIRTIO_F_VERSION_1), &d);
	if (!x->fv)
		fail_msg("%s", d.text);
	x->t = x->fv->vdev.transport;
	x->m = &x->t->msix;
}

/* A running driver: the configuration interrupt on vector 0, queue q on vector q + 1. */
static int setup(void **state)
{
	static struct fixture x;

	x.f = fake_vm_with_pci();
	plug(&x);
	vd_drive(x.fv, VIRTIO_BIT(VIRTIO_F_VERSION_1));
	vd_write(x.fv, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	*state = &x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	fake_vdev_free(x->fv);
	for (unsigned int i = 0; i < ARRAY_SIZE(x->f->vm.irq.used); i++)
		assert_true(x->f->vm.irq.used[i] == 0); /* every GSI was given back */
	fake_vm_free(x->f);
	return 0;
}

static bool attached(const struct fixture *x, unsigned int q)
{
	return x->m->sources[x->t->irq_sources[q]].attached;
}

static uint64_t pba(struct fixture *x)
{
	return vd_bar_read(x->fv, VP_MSIX_BAR, PBA, 8);
}

static void mask(struct fixture *x, unsigned int v, bool on)
{
	vd_bar_write(x->fv, VP_MSIX_BAR, v * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL, 4,
		     on);
}

/* The route of a vector as KVM would have it; NULL: none. */
static const struct kvm_irq_routing_entry *route(const struct fixture *x, unsigned int v)
{
	const struct kvm_irq_routing *r = x->f->vm.irq.table;

	for (unsigned int i = 0; i < r->nr; i++)
		if (x->m->gsi[v] >= 0 && r->entries[i].gsi == (uint32_t)x->m->gsi[v])
			return &r->entries[i];
	return NULL;
}

static void test_masks(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(vd_config_read(x->fv, x->m->cap + PCI_MSIX_FLAGS, 2), VECTORS - 1);
	assert_false(attached(x, 0)); /* off, and masked by itself */
	mask(x, 1, false);
	assert_false(attached(x, 0)); /* off */
	vd_msix_control(x->fv, ENABLE | MASKALL);
	assert_false(attached(x, 0)); /* masked with all */
	vd_msix_control(x->fv, ENABLE);
	assert_true(attached(x, 0));
	assert_false(attached(x, 1)); /* masked by itself */
	mask(x, 2, false);
	assert_true(attached(x, 1));
	mask(x, 1, true);
	assert_false(attached(x, 0));
	assert_true(attached(x, 1));
	vd_msix_control(x->fv, ENABLE | MASKALL);
	assert_false(attached(x, 1));
	vd_msix_control(x->fv, 0);
	assert_false(attached(x, 1));
	/* By bytes, as some drivers write it. */
	vd_config_write(x->fv, x->m->cap + PCI_MSIX_FLAGS + 1, 1, ENABLE >> 8);
	assert_true(attached(x, 1));
	vd_config_write(x->fv, x->m->cap + PCI_MSIX_FLAGS, 1, 0xff); /* the size is read-only */
	assert_int_equal(vd_config_read(x->fv, x->m->cap + PCI_MSIX_FLAGS, 2),
			 ENABLE | (VECTORS - 1));
	assert_true(attached(x, 1));
}

static void test_routes(void **state)
{
	struct fixture *x = *state;
	const struct kvm_irq_routing_entry *r;

	vd_msix_control(x->fv, ENABLE);
	assert_null(route(x, 1));
	vd_msix_vector(x->fv, 1, 0x1fee01000, 0x4041, false);
	r = route(x, 1);
	assert_non_null(r);
	assert_int_equal(r->type, KVM_IRQ_ROUTING_MSI);
	assert_int_equal(r->u.msi.address_lo, 0xfee01000);
	assert_int_equal(r->u.msi.address_hi, 1);
	assert_int_equal(r->u.msi.data, 0x4041);
	assert_false(x->f->vm.irq.changed); /* committed before the irqfd was there */
	/* Reprogrammed without a mask, as a driver that moves an interrupt may do. */
	vd_bar_write(x->fv, VP_MSIX_BAR, PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_DATA, 4, 0x42);
	assert_int_equal(route(x, 1)->u.msi.data, 0x42);
	/* Under the mask the table is only memory until it is lifted. */
	mask(x, 1, true);
	vd_bar_write(x->fv, VP_MSIX_BAR, PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_DATA, 4, 0x43);
	assert_int_equal(route(x, 1)->u.msi.data, 0x42);
	mask(x, 1, false);
	assert_int_equal(route(x, 1)->u.msi.data, 0x43);
}

static void test_pending(void **state)
{
	struct fixture *x = *state;
	int fd = x->t->irq_fds[0];

	vd_msix_vector(x->fv, 1, ADDR, 0x41, true);
	vd_msix_control(x->fv, ENABLE);
	assert_true(pba(x) == 0);
	vdev_interrupt(&x->fv->vdev, 0);
	vdev_interrupt(&x->fv->vdev, 0);
	assert_true(pba(x) == 1 << 1);
	assert_int_equal(vd_bar_read(x->fv, VP_MSIX_BAR, PBA, 4), 1 << 1);
	assert_int_equal(vd_bar_read(x->fv, VP_MSIX_BAR, PBA + 4, 4), 0);
	assert_true(vd_bar_read(x->fv, VP_MSIX_BAR, PBA + 8, 8) == 0);
	/* Lifted: what is attached now is signalled, so KVM injects it, once. */
	mask(x, 1, false);
	assert_true(attached(x, 0));
	assert_true(pba(x) == 0);
	assert_true(fake_signal_taken(fd));
	mask(x, 1, true);
	assert_true(pba(x) == 0);
	/* The same by the mask of all. */
	mask(x, 1, false);
	vd_msix_control(x->fv, ENABLE | MASKALL);
	vdev_interrupt(&x->fv->vdev, 0);
	assert_true(pba(x) == 1 << 1);
	vd_msix_control(x->fv, ENABLE);
	assert_true(attached(x, 0) && fake_signal_taken(fd));
	/* Pending bits are the function's to tell. */
	vd_bar_write(x->fv, VP_MSIX_BAR, PBA, 8, UINT64_MAX);
	assert_true(pba(x) == 0);
}

static void test_shared_vector(void **state)
{
	struct fixture *x = *state;

	for (uint16_t q = 0; q < QUEUES; q++) {
		vd_write(x->fv, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
		vd_write(x->fv, VIRTIO_PCI_COMMON_Q_MSIX, 2, 3);
	}
	vd_msix_control(x->fv, ENABLE);
	vd_msix_vector(x->fv, 3, ADDR, 0x43, false);
	for (unsigned int q = 0; q < QUEUES; q++)
		assert_true(attached(x, q));
	assert_true(x->m->gsi[1] < 0 && x->m->gsi[2] < 0 && x->m->gsi[3] >= 0);
	mask(x, 3, true);
	vdev_interrupt(&x->fv->vdev, 2);
	assert_true(pba(x) == 1 << 3);
	/* One leaves, the others stay. */
	mask(x, 3, false);
	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_MSIX, 2, MSIX_NO_VECTOR);
	assert_true(attached(x, 0) && attached(x, 1));
	assert_false(attached(x, 2));
}

static void test_wrong_vectors(void **state)
{
	static const uint16_t wrong[] = { VECTORS, VECTORS + 1, 64, 65, 0x7fff, 0xfffe };
	struct fixture *x = *state;

	vd_msix_control(x->fv, ENABLE);
	vd_msix_vector(x->fv, 1, ADDR, 0x41, false);
	for (unsigned int i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(msix_connect(x->m, x->t->irq_sources[0], 1), 0);
		assert_true(attached(x, 0));
		assert_int_equal(msix_connect(x->m, x->t->irq_sources[0], wrong[i]), -EINVAL);
		assert_false(attached(x, 0));
		assert_int_equal(x->m->sources[x->t->irq_sources[0]].vector, MSIX_NO_VECTOR);
	}
}

static void test_table_accesses(void **state)
{
	struct fixture *x = *state;
	const unsigned int end = VECTORS * PCI_MSIX_ENTRY_SIZE;
	struct msix_entry before[MSIX_VECTORS_MAX];

	for (unsigned int v = 0; v < VECTORS; v++)
		vd_msix_vector(x->fv, v, ADDR + v, 0x40 + v, true);
	memcpy(before, x->m->table, sizeof(before));
	for (unsigned int off = 0; off < 0x1000; off++) {
		for (unsigned int len = 1; len <= 8; len *= 2) {
			uint64_t got = vd_bar_read(x->fv, VP_MSIX_BAR, off, len), want = 0;
			bool refused = len < 4 || off % len;

			if (refused)
				want = len == 8 ? UINT64_MAX : (1ull << (8 * len)) - 1;
			else if (off + len <= end)
				memcpy(&want, (uint8_t *)before + off, len);
			if (refused && off + len > 0x1000) /* leaves the BAR */
				continue;
			assert_true(got == want);
			if (refused || off >= end)
				vd_bar_write(x->fv, VP_MSIX_BAR, off, len, 0);
		}
	}
	assert_memory_equal(before, x->m->table, sizeof(before));
	/* Of the control word one bit exists. */
	mask(x, 0, false);
	vd_bar_write(x->fv, VP_MSIX_BAR, PCI_MSIX_ENTRY_VECTOR_CTRL, 4, 0xfffffffe);
	assert_int_equal(vd_bar_read(x->fv, VP_MSIX_BAR, PCI_MSIX_ENTRY_VECTOR_CTRL, 4), 0);
	/* Data and control as one access of 8 bytes unmask as well. */
	vd_bar_write(x->fv, VP_MSIX_BAR, PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_DATA, 8, 0x77);
	vd_msix_control(x->fv, ENABLE);
	assert_true(attached(x, 0));
	assert_int_equal(route(x, 1)->u.msi.data, 0x77);
}

static void test_reset(void **state)
{
	struct fixture *x = *state;

	vd_msix_vector(x->fv, 1, ADDR, 0x41, false);
	vd_msix_control(x->fv, ENABLE);
	assert_true(attached(x, 0));
	assert_int_equal(virtio_pci_reset(&x->fv->vdev), 0);
	assert_false(attached(x, 0));
	assert_int_equal(x->m->control, 0);
	vd_decode(x->fv);
	assert_int_equal(vd_bar_read(x->fv, VP_MSIX_BAR, PCI_MSIX_ENTRY_SIZE, 8), 0);
	assert_int_equal(vd_bar_read(x->fv, VP_MSIX_BAR,
				     PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL, 4),
			 PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/* --- state ----------------------------------------------------------------------------------- */

static void test_state(void **state)
{
	struct fixture *x = *state;
	const struct state_ref ref = { &msix_state, x->m };

	vd_msix_vector(x->fv, 1, ADDR, 0x41, false);
	vd_msix_vector(x->fv, 2, ADDR, 0x42, true);
	vd_msix_control(x->fv, ENABLE);
	vdev_interrupt(&x->fv->vdev, 1);
	state_check_roundtrip("fake0", &ref, 1);
	assert_true(attached(x, 0));
	state_check_refuses("fake0", &ref, 1, "/msix", "nvectors", 3, "nvectors");
}

/*
 * The guest arrives on a machine whose function nobody has touched yet: the vectors are connected,
 * and interrupts that were pending are pending there.
 */
static void test_state_moves(void **state)
{
	struct fixture *x = *state, there;
	struct state_load *load;
	struct diag d = { 0 };
	size_t len;
	void *blob;

	vd_msix_vector(x->fv, 0, ADDR, 0x40, true);
	vd_msix_vector(x->fv, 1, ADDR, 0x41, false);
	vd_msix_vector(x->fv, 2, ADDR, 0x42, true);
	vd_msix_control(x->fv, ENABLE);
	vdev_interrupt(&x->fv->vdev, 1);
	vdev_config_changed(&x->fv->vdev);
	assert_true(pba(x) == (1 | 1 << 2));
	assert_int_equal(virtio_pci_quiesce(&x->fv->vdev), 0);
	assert_int_equal(state_save("fake0", x->fv->state, VIRTIO_PCI_STATES, &blob, &len, &d), 0);

	there.f = fake_vm_with_pci();
	plug(&there);
	if (state_parse("fake0", blob, len, there.fv->state, VIRTIO_PCI_STATES, &load, &d) ||
	    state_commit(load, &d))
		fail_msg("%s", d.text);
	state_load_free(load);
	free(blob);
	virtio_pci_resume(&there.fv->vdev);
	assert_int_equal(there.fv->starts, 1);
	assert_true(attached(&there, 0));
	assert_int_equal(route(&there, 1)->u.msi.data, 0x41);
	assert_true(pba(&there) == (1 | 1 << 2));
	mask(&there, 2, false);
	assert_true(attached(&there, 1) && fake_signal_taken(there.t->irq_fds[1]));
	assert_false(fake_signal_taken(there.t->irq_fds[0]));
	fake_vdev_free(there.fv);
	fake_vm_free(there.f);
}

/* A guest that asks again and again for what KVM refuses does not fill its host's log. */
static void test_refused_by_kvm(void **state)
{
	struct fixture *x = *state;
	struct kvm none = { .fd = -1, .vm_fd = -1 };

	x->f->vm.irq.kvm = &none;
	vd_msix_control(x->fv, ENABLE);
	for (unsigned int i = 0; i < 100; i++) {
		mask(x, 1, i % 2);
		assert_false(attached(x, 0));
	}
	assert_in_range(x->m->limit.tokens_used, 1, 20);
	assert_true(x->m->limit.dropped > 0);
	x->f->vm.irq.kvm = NULL;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(masks),	     TEST(routes),	   TEST(pending), TEST(shared_vector),
		TEST(wrong_vectors), TEST(table_accesses), TEST(reset),	  TEST(state),
		TEST(state_moves),   TEST(refused_by_kvm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
