/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_virtio_doorbells.c - where a guest's doorbell arrives: in a page of the device, at an
 * eventfd, or by a trap; and that it arrives exactly once, whatever is being rewired at that
 * moment. test_doorbells_kvm.c has a real KVM. One thread.
 */
#include "doorbell_env.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <unvmm/platform.h>
#include <unvmm/state_io.h>

/* --- the ways -------------------------------------------------------------------------------- */

static void test_ways(void **state)
{
	static const char *const names[] = { "trapped", "ioeventfd", "mapped", "mapped" };
	struct fixture *x = *state;

	for (enum way way = TRAP; way < WAYS; way++) {
		want_all(x->fv, way);
		vd_drive(x->fv, V1);
		rings(x->fv, seen_as(way));
		for (unsigned int q = 0; q < QUEUES; q++)
			assert_string_equal(reported(x, q, "doorbell"), names[way]);
		assert_int_equal(fake_kvm.nslots, seen_as(way) == MAPPED ? QUEUES : 0);
		vd_set_status(x->fv, 0);
		assert_int_equal(fake_kvm.nslots + fake_kvm.neventfds, 0);
		assert_string_equal(reported(x, 0, "doorbell"), "off");
	}
}

/* queue_notify_off leads to the doorbell, in the last queue and at the last offset too. */
static void test_notify_off(void **state)
{
	static const uint16_t offsets[] = { 0, 4, 8, 2048, 4092 };
	struct fixture *x = *state;
	struct diag d = { 0 };

	for (unsigned int i = 0; i < ARRAY_SIZE(offsets); i++) {
		struct fake_vdev *fv;

		fv = fake_vdev_new(&x->f->vm, VDEV_QUEUES_MAX, V1, &d);
		assert_non_null(fv);
		for (unsigned int q = 0; q < VDEV_QUEUES_MAX; q++) {
			fv->vdev.queues[q].doorbell_offset = offsets[i];
			fv->way[q] = DOORBELL_MAPPED;
		}
		vd_drive(fv, V1);
		for (uint16_t q = 0; q < VDEV_QUEUES_MAX; q++) {
			uint64_t at = fv->vdev.transport->pci.bars[VP_BAR].base + VP_DOORBELLS;
			uint16_t stored;

			vd_write(fv, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
			at += (uint64_t)vd_read(fv, VIRTIO_PCI_COMMON_Q_NOFF, 2) * VP_NOTIFY_MULT;
			fake_kvm_store(&x->f->vm, at, q + 1);
			memcpy(&stored, fv->pages + q * VP_DOORBELL_PAGE + offsets[i],
			       sizeof(stored));
			assert_int_equal(stored, q + 1);
			assert_int_equal(fv->kicks[q], 0);
		}
		fake_vdev_free(fv);
	}
}

static void test_offset_refused(void **state)
{
	static const uint16_t wrong[] = { 1, 2, 3, 4093, 4094, 4096, 8192, 65532 };
	struct fixture *x = *state;

	for (unsigned int i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct vdev v = x->fv->vdev;
		struct diag d = { 0 };

		v.queues[2].doorbell_offset = wrong[i];
		assert_int_equal(virtio_pci_create(&v, &d), -EINVAL);
		assert_non_null(strstr(d.text, "the doorbell of queue 2"));
	}
}

/* Other places of a mapped page are the device's, too: all of the page is (virtio.h). */
static void test_rest_of_the_page(void **state)
{
	struct fixture *x = *state;
	uint64_t page;

	want_all(x->fv, MAPPED);
	vd_drive(x->fv, V1);
	page = align_down(doorbell_at(x->fv, 1), VP_DOORBELL_PAGE);
	fake_kvm_store(&x->f->vm, page + 0xffe, 0xabcd);
	assert_int_equal(x->fv->pages[VP_DOORBELL_PAGE + 0xffe], 0xcd);
	assert_int_equal(x->fv->kicks[1], 0);
	/* And nothing beyond it. */
	fake_kvm_store(&x->f->vm, page + QUEUES * VP_DOORBELL_PAGE, 1);
	assert_int_equal(fake_kvm.nslots, QUEUES);
}

/* --- changes --------------------------------------------------------------------------------- */

static void ring_all(void *arg)
{
	struct fixture *x = arg;

	for (unsigned int q = 0; q < QUEUES; q++) {
		ring(x->fv, q);
		x->rings++;
	}
}

/* From every way to every other, of each queue on its own, with bells ringing all the time. */
static void test_rewire(void **state)
{
	struct fixture *x = *state;

	vd_drive(x->fv, V1);
	fake_kvm.changed = ring_all;
	fake_kvm.arg = x;
	for (enum way from = TRAP; from < WAYS; from++) {
		for (enum way to = TRAP; to < WAYS; to++) {
			want_all(x->fv, from);
			virtio_pci_rewire(&x->fv->vdev);
			rings(x->fv, seen_as(from));
			want(x->fv, 1, to);
			virtio_pci_rewire(&x->fv->vdev);
			assert_int_equal(ring(x->fv, 0), seen_as(from));
			assert_int_equal(ring(x->fv, 1), seen_as(to));
			assert_int_equal(ring(x->fv, 2), seen_as(from));
		}
	}
	assert_in_range(x->rings, 50, 1000);
}

/* Between a page and an eventfd no doorbell costs an exit. */
static void test_rewire_without_traps(void **state)
{
	struct fixture *x = *state;

	want_all(x->fv, MAPPED);
	vd_drive(x->fv, V1);
	fake_kvm.changed = ring_all;
	fake_kvm.arg = x;
	want_all(x->fv, EVENTFD);
	virtio_pci_rewire(&x->fv->vdev);
	rings(x->fv, EVENTFD);
	want_all(x->fv, MAPPED_OVER_EVENTFD);
	virtio_pci_rewire(&x->fv->vdev);
	rings(x->fv, MAPPED);
	assert_true(x->rings >= 2 * QUEUES * QUEUES);
	for (unsigned int q = 0; q < QUEUES; q++)
		assert_int_equal(x->fv->kicks[q], 0);
}

static void test_rewire_changes_only_what_differs(void **state)
{
	struct fixture *x = *state;

	want_all(x->fv, MAPPED);
	vd_drive(x->fv, V1);
	assert_int_equal(fake_kvm.added, QUEUES);
	virtio_pci_rewire(&x->fv->vdev);
	assert_int_equal(fake_kvm.added, QUEUES);
	assert_int_equal(fake_kvm.removed, 0);
	/* Another page for all: the old ones must go, and not stay below. */
	x->fv->pages = aligned_alloc(VP_DOORBELL_PAGE, QUEUES * VP_DOORBELL_PAGE);
	assert_non_null(x->fv->pages);
	fake_kvm.order[0] = '\0';
	virtio_pci_rewire(&x->fv->vdev);
	rings(x->fv, MAPPED);
	assert_string_equal(fake_kvm.order, "UUUMMM"); /* the removals in one go */
	vd_set_status(x->fv, 0);
	free(x->fv->pages);
	x->fv->pages = x->fv->own_pages;
}

static void test_rewire_only_while_it_runs(void **state)
{
	struct fixture *x = *state;

	want_all(x->fv, MAPPED);
	virtio_pci_rewire(&x->fv->vdev);
	vd_drive(x->fv, V1);
	/* While the vcpus stand nobody rings, and nothing is changed for that. */
	fake_kvm.order[0] = '\0';
	assert_int_equal(virtio_pci_quiesce(&x->fv->vdev), 0);
	want(x->fv, 1, EVENTFD);
	virtio_pci_rewire(&x->fv->vdev);
	assert_string_equal(fake_kvm.order, "");
	virtio_pci_resume(&x->fv->vdev);
	assert_string_equal(fake_kvm.order, "+U");
	assert_int_equal(ring(x->fv, 0), MAPPED);
	assert_int_equal(ring(x->fv, 1), EVENTFD);
	want_all(x->fv, MAPPED);
	virtio_pci_rewire(&x->fv->vdev);
	/* Without decode there is no place for it. */
	vd_config_write(x->fv, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	virtio_pci_rewire(&x->fv->vdev);
	assert_int_equal(fake_kvm.nslots, 0);
}

static void move_bar(struct fixture *x, uint64_t base)
{
	vd_config_write(x->fv, PCI_BASE_ADDRESS_0, 4, (uint32_t)base);
}

static void test_bar_moves(void **state)
{
	struct fixture *x = *state;
	uint64_t old, new = PLAT_PCI_MEM_BASE + 0x10000000;

	want_all(x->fv, MAPPED_OVER_EVENTFD);
	vd_drive(x->fv, V1);
	old = doorbell_at(x->fv, 0);
	fake_kvm.order[0] = '\0';
	move_bar(x, new);
	assert_int_equal(x->t->pci.bars[VP_BAR].base, new);
	assert_string_equal(fake_kvm.order, "---UUUMMM+++");
	assert_null(fake_kvm_slot_at(old));
	assert_null(fake_kvm_eventfd_at(old));
	assert_int_equal(fake_kvm.nslots, QUEUES);
	rings(x->fv, MAPPED);
	/* Out of the bridge's window: nothing answers, and nothing lies over RAM. */
	move_bar(x, 0x100000);
	assert_int_equal(fake_kvm.nslots + fake_kvm.neventfds, 0);
	move_bar(x, new);
	rings(x->fv, MAPPED);
}

static void test_decode_off(void **state)
{
	struct fixture *x = *state;

	want_all(x->fv, MAPPED_OVER_EVENTFD);
	vd_drive(x->fv, V1);
	vd_config_write(x->fv, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert_int_equal(fake_kvm.nslots + fake_kvm.neventfds, 0);
	assert_true(x->fv->running);
	vd_decode(x->fv);
	rings(x->fv, MAPPED);
	/* Bus mastering off stops the device, and its doorbells. */
	vd_config_write(x->fv, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_false(x->fv->running);
	assert_int_equal(fake_kvm.nslots + fake_kvm.neventfds, 0);
	vd_decode(x->fv);
	rings(x->fv, MAPPED);
	assert_int_equal(virtio_pci_reset(&x->fv->vdev), 0);
	assert_int_equal(fake_kvm.nslots + fake_kvm.neventfds, 0);
}

/* The next driver may put the BAR elsewhere. */
static void test_reset_while_quiesced(void **state)
{
	struct fixture *x = *state;

	want_all(x->fv, MAPPED_OVER_EVENTFD);
	vd_drive(x->fv, V1);
	assert_int_equal(virtio_pci_quiesce(&x->fv->vdev), 0);
	assert_int_equal(fake_kvm.nslots, QUEUES);
	assert_int_equal(virtio_pci_reset(&x->fv->vdev), 0);
	assert_int_equal(fake_kvm.nslots + fake_kvm.neventfds, 0);
	virtio_pci_resume(&x->fv->vdev);
	assert_int_equal(fake_kvm.nslots + fake_kvm.neventfds, 0);
}

/* A vdev that is not up at once says when it is; until then its doorbells trap. */
static void test_late_start(void **state)
{
	struct fixture *x = *state;

	want_all(x->fv, MAPPED);
	x->fv->start_error = 1;
	vd_drive(x->fv, V1);
	rings(x->fv, TRAP);
	virtio_pci_rewire(&x->fv->vdev);
	rings(x->fv, MAPPED);
}

/* The vdev may let go of its pages as soon as stop() is called: they are not in KVM then. */
static void test_slow_stop(void **state)
{
	struct fixture *x = *state;

	want_all(x->fv, MAPPED);
	vd_drive(x->fv, V1);
	x->fv->slow_stop = true;
	vd_set_status(x->fv, 0);
	assert_true(x->fv->stopping);
	assert_int_equal(fake_kvm.nslots, 0);
	fake_kvm_store(&x->f->vm, doorbell_at(x->fv, 0), 0);
	fake_vdev_stop_now(x->fv);
	assert_int_equal(vd_status(x->fv), 0);
	assert_int_equal(x->fv->kicks[0], 0);
}

/* A vdev that is destroyed while its doorbells are mapped leaves nothing: teardown looks. */
static void test_destroyed_while_mapped(void **state)
{
	struct fixture *x = *state;

	want_all(x->fv, MAPPED_OVER_EVENTFD);
	vd_drive(x->fv, V1);
	fake_vdev_free(x->fv);
	x->fv = NULL;
}

/* --- what else a function needs -------------------------------------------------------------- */

static void test_irq_fd(void **state)
{
	struct fixture *x = *state;
	int fd = vdev_irq_fd(&x->fv->vdev, 1);
	uint64_t one = 1;

	assert_true(fd >= 0);
	vd_drive(x->fv, V1);
	assert_int_equal(vdev_irq_fd(&x->fv->vdev, 1), fd);
	assert_int_equal(x->fv->vdev.queues[1].irq_fd, fd);
	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_MSIX, 2, VIRTIO_MSI_NO_VECTOR);
	assert_int_equal(x->fv->vdev.queues[1].irq_fd, -1);
	assert_int_equal(vdev_irq_fd(&x->fv->vdev, 1), fd);
	/* A masked vector's interrupt is pending, whoever signalled it. */
	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	vd_msix_control(x->fv, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
	assert_int_equal(vd_bar_read(x->fv, VP_MSIX_BAR, 0x800, 8), 1 << 2);
}

/* The in-page offset is the source's: the guest has it in its driver. */
static void test_offset_travels(void **state)
{
	struct fixture *x = *state;
	struct state_load *load;
	struct diag d = { 0 };
	void *blob;
	size_t len;

	want_all(x->fv, MAPPED);
	vd_drive(x->fv, V1);
	assert_int_equal(virtio_pci_quiesce(&x->fv->vdev), 0);
	assert_int_equal(state_save("fake0", x->fv->state, VIRTIO_PCI_STATES, &blob, &len, &d), 0);
	for (unsigned int q = 0; q < QUEUES; q++)
		x->fv->vdev.queues[q].doorbell_offset = 0x200;
	assert_int_equal(state_parse("fake0", blob, len, x->fv->state, VIRTIO_PCI_STATES, &load,
				     &d),
			 0);
	assert_int_equal(state_commit(load, &d), 0);
	state_load_free(load);
	free(blob);
	for (unsigned int q = 0; q < QUEUES; q++)
		assert_int_equal(x->fv->vdev.queues[q].doorbell_offset, 4 * (q % 3));
	virtio_pci_resume(&x->fv->vdev);
	rings(x->fv, TRAP); /* the guest need not wait for its doorbells */
	assert_true(loop_turn(&x->fv->vdev.vm->main_loop, 0) >= 0);
	rings(x->fv, MAPPED);
}

static void test_report(void **state)
{
	struct fixture *x = *state;

	want(x->fv, 0, MAPPED);
	want(x->fv, 1, EVENTFD);
	vd_drive(x->fv, V1);
	assert_string_equal(reported(x, 0, "doorbell-why"), "");
	assert_string_equal(reported(x, 1, "doorbell-why"), "the test says so");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(ways),
		TEST(notify_off),
		TEST(offset_refused),
		TEST(rest_of_the_page),
		TEST(rewire),
		TEST(rewire_without_traps),
		TEST(rewire_changes_only_what_differs),
		TEST(rewire_only_while_it_runs),
		TEST(bar_moves),
		TEST(decode_off),
		TEST(reset_while_quiesced),
		TEST(late_start),
		TEST(slow_stop),
		TEST(destroyed_while_mapped),
		TEST(irq_fd),
		TEST(offset_travels),
		TEST(report),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
