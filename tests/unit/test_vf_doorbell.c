/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_doorbell.c - which doorbells may be mapped: the decision as a table, and what the guest
 * and the operator see of it.
 */
#include "vf_env.h"

/* A notify structure at 0x4000 of BAR 0, everything from there to 0x10000 mappable. */
static struct vf_caps caps;
static struct vf_region bar;

static void lay_out(uint32_t multiplier, uint64_t offset, uint64_t length)
{
	memset(&caps, 0, sizeof(caps));
	caps.notify = (struct vf_place){ VIRTIO_PCI_CAP_NOTIFY_CFG, 0, offset, length };
	caps.common = (struct vf_place){ VIRTIO_PCI_CAP_COMMON_CFG, 0, 0, 56 };
	caps.msix_table = (struct vf_place){ 0, 2, 0, 0x1000 };
	caps.msix_pba = (struct vf_place){ 0, 2, 0x1000, 0x100 };
	caps.notify_multiplier = multiplier;
	caps.places[0] = caps.common;
	caps.places[1] = caps.notify;
	caps.nplaces = 2;
	bar = (struct vf_region){ .size = 0x10000, .nareas = 1, .areas = { { 0x4000, 0xc000 } } };
}

static void is_mapped(uint16_t notify_off, uint16_t guest_offset, uint64_t at)
{
	struct vf_way_plan p;

	assert_int_equal(vf_doorbell_plan(&caps, &bar, notify_off, guest_offset, &p), 0);
	if (p.way != VF_WAY_MAPPED)
		fail_msg("not mapped: %s", p.why);
	assert_null(p.why);
	assert_int_equal(p.offset, at);
}

static void is_not(uint16_t notify_off, uint16_t guest_offset, const char *why)
{
	struct vf_way_plan p;

	assert_int_equal(vf_doorbell_plan(&caps, &bar, notify_off, guest_offset, &p), 0);
	assert_int_equal(p.way, VF_WAY_REGISTER);
	assert_non_null(p.why);
	if (!strstr(p.why, why))
		fail_msg("\"%s\" does not say \"%s\"", p.why, why);
}

static void test_page_per_queue(void **state)
{
	(void)state;
	lay_out(4096, 0x4000, 0x4000);
	is_mapped(0, 0, 0x4000);
	is_mapped(3, 0, 0x7000);
	is_not(3, 4, "another offset");
}

/* All doorbells in one page: the guest's pages show it several times. */
static void test_shared_page(void **state)
{
	(void)state;
	lay_out(4, 0x4000, 0x1000);
	is_mapped(0, 0, 0x4000);
	is_mapped(5, 20, 0x4014);
	is_not(5, 0, "another offset");
	lay_out(0, 0x4000, 0x1000);
	is_mapped(5, 0, 0x4000);
}

static void test_page_is_shared_with_something(void **state)
{
	(void)state;
	/* The structure ends, or begins, inside the page. */
	lay_out(4, 0x4000, 0xffe);
	is_not(0, 0, "not all doorbells");
	lay_out(4096, 0x4002, 0x3ff0);
	is_not(0, 2, "not all doorbells");
	is_mapped(1, 2, 0x5002);
	is_not(3, 2, "not all doorbells");
	/* Overlaps are refused before; but not of structures that nobody uses. */
	lay_out(4096, 0x4000, 0x4000);
	caps.places[caps.nplaces++] =
		(struct vf_place){ VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, 0, 0x4fff, 2 };
	is_not(0, 0, "another structure");
	is_not(1, 0, "another structure");
	is_mapped(2, 0, 0x6000);
	caps.places[2].bar = 1;
	is_mapped(0, 0, 0x4000);
	caps.msix_table = (struct vf_place){ 0, 0, 0x5000, 16 };
	is_not(1, 0, "MSI-X");
	caps.msix_pba = (struct vf_place){ 0, 0, 0x6ff8, 8 };
	is_not(2, 0, "MSI-X");
}

static void test_backend_decides_too(void **state)
{
	struct vf_way_plan p;

	(void)state;
	lay_out(4096, 0x4000, 0x4000);
	bar.nareas = 0;
	is_not(0, 0, "nothing of its BAR");
	bar.nareas = 2;
	bar.areas[0] = (struct vf_area){ 0, 0x4000 };
	bar.areas[1] = (struct vf_area){ 0x5000, 0x1000 };
	is_not(0, 0, "does not let its page");
	is_mapped(1, 0, 0x5000);
	assert_int_equal(vf_doorbell_plan(&caps, &bar, 4, 0, &p), -EINVAL);
}

static void test_guest_offset(void **state)
{
	(void)state;
	lay_out(4, 0x4000, 0x1000);
	assert_int_equal(vf_doorbell_guest_offset(&caps, 7, true), 28);
	assert_int_equal(vf_doorbell_guest_offset(&caps, 7, false), 0);
	/* What the guest's multiplier cannot say. */
	lay_out(2, 0x4000, 0x1000);
	assert_int_equal(vf_doorbell_guest_offset(&caps, 3, true), 0);
	assert_int_equal(vf_doorbell_guest_offset(&caps, 4, true), 8);
}

/* --- in a machine ----------------------------------------------------------------------------- */

static bool kvm_maps(struct env *e, unsigned int q)
{
	return fake_kvm_slot_at(guest_bar(e, VP_BAR) + VP_DOORBELLS + q * VP_DOORBELL_PAGE);
}

static void start(struct env *e)
{
	struct diag d = { "" };

	if (env_create(e, &d))
		fail_msg("%s", d.text);
	guest_drive(e, e->vd->vdev.offered, e->vd->vdev.nqueues);
	assert_true(wait_until(e, is_up));
	env_barrier(e);
}

static void test_control_queue_is_never_mapped(void **state)
{
	struct env e;

	(void)state;
	env_begin(&e, VIRTIO_ID_NET, 5);
	conf_number(&e, "queues", 2);
	start(&e);
	for (unsigned int q = 0; q < 4; q++)
		assert_true(kvm_maps(&e, q));
	assert_false(kvm_maps(&e, 4));
	guest_reset(&e);
	/* Without MQ it is queue 2. */
	guest_drive(&e, e.vd->vdev.offered & ~VIRTIO_BIT(VIRTIO_NET_F_MQ), 3);
	assert_true(wait_until(&e, is_up));
	assert_true(kvm_maps(&e, 0) && kvm_maps(&e, 1));
	assert_false(kvm_maps(&e, 2));
	env_end(&e);
}

/* Doorbells 4 bytes apart: native ones are mapped, portable ones are where they are elsewhere. */
static void test_native_and_portable(void **state)
{
	struct env e;

	(void)state;
	for (int portable = 0; portable < 2; portable++) {
		env_begin(&e, VIRTIO_ID_BLOCK, 2);
		mock->multiplier = 4;
		mock->notify_length = 0x1000;
		vf_mock_lay_out(mock, true);
		conf_number(&e, "queues", 2);
		conf_choice(&e, "doorbells", portable);
		start(&e);
		assert_int_equal(e.vd->vdev.queues[1].doorbell_offset, portable ? 0 : 4);
		assert_true(kvm_maps(&e, 0));
		assert_int_equal(kvm_maps(&e, 1), !portable);
		/* What traps all the same is rung at the right queue. */
		guest_kick(&e, 1);
		for (unsigned int i = 0; i < WAIT_MS && vf_mock_kicks(mock, 1) < 2; i++)
			usleep(1000);
		assert_int_equal(vf_mock_kicks(mock, 1), 2);
		assert_int_equal(vf_mock_kicks(mock, 0), 1);
		env_end(&e);
	}
}

static void test_forwarded_by_the_backend(void **state)
{
	struct env e;

	(void)state;
	env_begin(&e, VIRTIO_ID_BLOCK, 1);
	vf_mock_lay_out(mock, false);
	mock->forwards = true;
	start(&e);
	assert_int_equal(mock->ndoorbells, 1);
	assert_int_equal(fake_kvm_eventfd_at(guest_bar(&e, VP_BAR) + VP_DOORBELLS)->fd,
			 mock->doorbells[0].fd);
	env_end(&e);
}

/* The function's doorbells are elsewhere after a reset: decided anew at every start. */
static void test_moved(void **state)
{
	struct env e;

	(void)state;
	env_begin(&e, VIRTIO_ID_BLOCK, 2);
	start(&e);
	assert_true(kvm_maps(&e, 0));
	guest_reset(&e);
	mock->queues[0].notify_off = 1;
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	mock->bar[VM_NOTIFY + 0x1000] = 0xee;
	fake_kvm_store(&e.f->vm, guest_bar(&e, VP_BAR) + VP_DOORBELLS, 0);
	assert_int_equal(mock->bar[VM_NOTIFY + 0x1000], 0);
	guest_reset(&e);
	mock->queues[0].notify_off = 2; /* behind the structure */
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, needs_reset));
	assert_int_equal(mock->status, 0);
	assert_false(mock->pci[PCI_COMMAND] & PCI_COMMAND_MASTER);
	env_end(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_page_per_queue),
		cmocka_unit_test(test_shared_page),
		cmocka_unit_test(test_page_is_shared_with_something),
		cmocka_unit_test(test_backend_decides_too),
		cmocka_unit_test(test_guest_offset),
		cmocka_unit_test(test_control_queue_is_never_mapped),
		cmocka_unit_test(test_native_and_portable),
		cmocka_unit_test(test_forwarded_by_the_backend),
		cmocka_unit_test(test_moved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
