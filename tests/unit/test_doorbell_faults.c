/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_doorbell_faults.c - what becomes of mapped doorbells when KVM refuses a slot or an eventfd,
 * when slots run out, and when the memory behind a page goes away. One thread.
 */
#include "doorbell_env.h"

#include <errno.h>
#include <unvmm/platform.h>

/* --- refusals -------------------------------------------------------------------------------- */

static void test_slots_refused(void **state)
{
	struct fixture *x = *state;

	fake_kvm.refuse_slots = true;
	want_all(x->fv, MAPPED_OVER_EVENTFD);
	vd_drive(x->fv, V1);
	rings(x->fv, EVENTFD);
	assert_non_null(strstr(x->t->wires[0].why, "memory slot"));
	want_all(x->fv, MAPPED);
	virtio_pci_rewire(&x->fv->vdev);
	rings(x->fv, TRAP);
	fake_kvm.refuse_slots = false;
	virtio_pci_rewire(&x->fv->vdev);
	rings(x->fv, MAPPED);
	assert_null(x->t->wires[0].why);
}

static void test_eventfds_refused(void **state)
{
	struct fixture *x = *state;

	fake_kvm.refuse_eventfds = true;
	want_all(x->fv, EVENTFD);
	vd_drive(x->fv, V1);
	rings(x->fv, TRAP);
	want_all(x->fv, MAPPED_OVER_EVENTFD);
	virtio_pci_rewire(&x->fv->vdev);
	rings(x->fv, MAPPED);
}

/* As many slots as KVM has, and not one more; those that come free are used again. */
static void test_slots_run_out(void **state)
{
	struct fixture *x = *state;

	x->f->vm.kvm.max_slots = GMEM_REGIONS_MAX + 2;
	want_all(x->fv, MAPPED_OVER_EVENTFD);
	vd_drive(x->fv, V1);
	assert_int_equal(ring(x->fv, 0), MAPPED);
	assert_int_equal(ring(x->fv, 1), MAPPED);
	assert_int_equal(ring(x->fv, 2), EVENTFD);
	want(x->fv, 0, EVENTFD);
	virtio_pci_rewire(&x->fv->vdev);
	assert_int_equal(ring(x->fv, 0), EVENTFD);
	assert_int_equal(ring(x->fv, 2), MAPPED);
}

static void test_all_slots(void **state)
{
	static uint8_t page[VP_DOORBELL_PAGE] __attribute__((aligned(VP_DOORBELL_PAGE)));
	struct fixture *x = *state;
	struct slots *s = &x->f->vm.slots;
	int slots[FAKE_KVM_MAX];
	unsigned int n = FAKE_KVM_MAX - GMEM_REGIONS_MAX;
	uint32_t removals = slots_removals(s);

	for (unsigned int i = 0; i < n; i++) {
		slots[i] = slots_map(s, PLAT_PCI_MEM_BASE + i * PAGE_SIZE_4K, page);
		assert_int_equal(slots[i], GMEM_REGIONS_MAX + i);
	}
	assert_int_equal(slots_map(s, PLAT_PCI_MEM_BASE, page), -ENOSPC);
	assert_int_equal(slots_removals(s), removals);
	assert_int_equal(slots_unmap(s, slots[70], PLAT_PCI_MEM_BASE + 70 * PAGE_SIZE_4K), 0);
	assert_int_not_equal(slots_removals(s), removals);
	/* What KVM refuses takes no slot. */
	assert_int_equal(slots_map(s, PLAT_PCI_MEM_BASE, page), -EEXIST);
	assert_int_equal(slots_map(s, PLAT_PCI_MEM_BASE, page), -EEXIST);
	slots[70] = slots_map(s, PLAT_PCI_MEM_BASE + 70 * PAGE_SIZE_4K, page);
	assert_int_equal(slots[70], GMEM_REGIONS_MAX + 70);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(slots_unmap(s, slots[i], PLAT_PCI_MEM_BASE + i * PAGE_SIZE_4K), 0);
}

/* --- memory that goes away ------------------------------------------------------------------- */

static bool fault(struct fixture *x)
{
	return vm_memory_fault(&x->f->vm, slots_removals(&x->f->vm.slots));
}

static void test_fault(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *other = make_vdev(x), *idle = make_vdev(x);

	assert_false(fault(x)); /* nothing is mapped: RAM itself is broken */
	want_all(x->fv, MAPPED);
	want_all(other, MAPPED_OVER_EVENTFD);
	want_all(idle, EVENTFD);
	vd_drive(x->fv, V1);
	vd_drive(other, V1);
	vd_drive(idle, V1);
	assert_true(fault(x));
	rings(x->fv, TRAP);
	rings(other, EVENTFD);
	rings(idle, EVENTFD);
	assert_int_equal(x->fv->faults, 1);
	assert_int_equal(other->faults, 1);
	assert_int_equal(idle->faults, 0);
	assert_non_null(strstr(x->t->wires[0].why, "went away"));
	assert_false(fault(x));
	/* The vdev found its function well. */
	virtio_pci_rewire(&x->fv->vdev);
	rings(x->fv, MAPPED);
	rings(other, EVENTFD);
	fake_vdev_free(other);
	fake_vdev_free(idle);
	assert_true(fault(x));
	assert_int_equal(x->fv->faults, 2);
}

/* A vcpu that comes late with its fault must neither end the VM nor have pages unmapped anew. */
static void test_fault_of_another_vcpu(void **state)
{
	struct fixture *x = *state;
	uint32_t before;

	want_all(x->fv, MAPPED);
	vd_drive(x->fv, V1);
	before = slots_removals(&x->f->vm.slots);
	assert_true(vm_memory_fault(&x->f->vm, before));
	assert_true(vm_memory_fault(&x->f->vm, before));
	assert_int_equal(x->fv->faults, 1);
	virtio_pci_rewire(&x->fv->vdev);
	assert_true(vm_memory_fault(&x->f->vm, before));
	assert_int_equal(x->fv->faults, 1);
	rings(x->fv, MAPPED);
	assert_true(fault(x));
	assert_int_equal(x->fv->faults, 2);
}

/* A vdev that maps what is not there again and again is not listened to for ever. */
static void test_faults_end(void **state)
{
	struct fixture *x = *state;
	unsigned int n = 0;

	x->fv->rewires_on_fault = true;
	want_all(x->fv, MAPPED_OVER_EVENTFD);
	vd_drive(x->fv, V1);
	while (fault(x))
		assert_in_range(++n, 1, VDEV_DOORBELL_FAULTS);
	assert_int_equal(n, VDEV_DOORBELL_FAULTS);
	assert_int_equal(x->fv->faults, VDEV_DOORBELL_FAULTS);
	rings(x->fv, EVENTFD);
	assert_non_null(strstr(x->t->wires[0].why, "too often"));
	vd_drive(x->fv, V1);
	rings(x->fv, EVENTFD);
}

/* The function is gone: the guest is told, and its doorbells go nowhere. */
static void test_fault_needs_reset(void **state)
{
	struct fixture *x = *state;

	want_all(x->fv, MAPPED);
	vd_drive(x->fv, V1);
	assert_true(fault(x));
	vdev_needs_reset(&x->fv->vdev, "the test took its function away");
	assert_int_equal(vd_status(x->fv) & VIRTIO_CONFIG_S_NEEDS_RESET,
			 VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_false(x->fv->running);
	fake_kvm_store(&x->f->vm, doorbell_at(x->fv, 0), 0);
	assert_int_equal(x->fv->kicks[0], 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(slots_refused), TEST(eventfds_refused),
		TEST(slots_run_out), TEST(all_slots),
		TEST(fault),	     TEST(fault_of_another_vcpu),
		TEST(faults_end),    TEST(fault_needs_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
