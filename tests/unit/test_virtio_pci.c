/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_virtio_pci.c - the transport as a driver sees it, in and out of order (virtio 1.2, 3.1 and
 * 4.1), in front of a vdev that checks the transport's side of the contract. One thread, but for
 * the stop that is answered from another.
 */
#include <fcntl.h>
#include <unistd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unvmm/platform.h>

#include "fake_vdev.h"

#define V1	 VIRTIO_BIT(VIRTIO_F_VERSION_1)
#define RINGS	 VIRTIO_SOFT_RING_FEATURES
#define OWN	 VIRTIO_BIT(5) /* a feature of the device type */
#define OFFERED	 (RINGS | OWN)
#define QUEUES	 3
#define ACK	 VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER	 VIRTIO_CONFIG_S_DRIVER
#define FEATURES VIRTIO_CONFIG_S_FEATURES_OK
#define OK	 VIRTIO_CONFIG_S_DRIVER_OK
#define RESET	 VIRTIO_CONFIG_S_NEEDS_RESET
#define FAILED	 VIRTIO_CONFIG_S_FAILED
#define LIVE	 (ACK | DRIVER | FEATURES | OK)

struct fixture {
	struct fake_vm *f;
	struct fake_vdev *fv;
	struct virtio_pci *t;
};

static int setup(void **state)
{
	static struct fixture x;
	struct diag d = { 0 };

	x.f = fake_vm_with_pci();
	x.fv = fake_vdev_new(&x.f->vm, QUEUES, OFFERED, &d);
	if (!x.fv)
		fail_msg("%s", d.text);
	x.t = x.fv->vdev.transport;
	vd_decode(x.fv);
	*state = &x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	fake_vdev_free(x->fv);
	fake_vm_free(x->f);
	return 0;
}

static bool is_running(const struct fixture *x)
{
	return x->fv->running;
}

/* --- a driver that follows the book ---------------------------------------------------------- */

static void test_initialisation(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;
	uint64_t offered;

	assert_int_equal(vd_status(fv), 0);
	assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_NUMQ, 2), QUEUES);
	vd_set_status(fv, ACK);
	vd_set_status(fv, ACK | DRIVER);
	vd_write(fv, VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
	offered = vd_read(fv, VIRTIO_PCI_COMMON_DF, 4);
	vd_write(fv, VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	offered |= (uint64_t)vd_read(fv, VIRTIO_PCI_COMMON_DF, 4) << 32;
	assert_true(offered == OFFERED);
	vd_features(fv, V1 | OWN);
	vd_set_status(fv, ACK | DRIVER | FEATURES);
	assert_int_equal(vd_status(fv), ACK | DRIVER | FEATURES);
	assert_true(fv->vdev.negotiated == (V1 | OWN));
	for (uint16_t q = 0; q < QUEUES; q++) {
		vd_write(fv, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
		assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_Q_SIZE, 2), 256);
		assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
		vd_queue(fv, q, 64, q);
		assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_Q_SIZE, 2), 64);
		assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
		assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_Q_MSIX, 2), q);
		assert_true(fv->vdev.queues[q].desc == 0x100000 + q * 0x4000u);
		assert_true(fv->vdev.queues[q].driver == 0x101000 + q * 0x4000u);
		assert_true(fv->vdev.queues[q].device == 0x102000 + q * 0x4000u);
	}
	assert_int_equal(fv->starts, 0);
	vd_set_status(fv, LIVE);
	assert_int_equal(vd_status(fv), LIVE);
	assert_int_equal(fv->starts, 1);
	vd_kick(fv, 2);
	assert_int_equal(fv->kicks[2], 1);
	vd_set_status(fv, 0);
	assert_int_equal(vd_status(fv), 0);
	assert_int_equal(fv->stops, 1);
	assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_Q_SIZE, 2), 256);
	assert_true(fv->vdev.negotiated == 0);
	vd_drive(fv, RINGS);
	assert_int_equal(fv->starts, 2);
	assert_int_equal(fv->started_at[0], 0);
}

/* --- features -------------------------------------------------------------------------------- */

static void refused(struct fixture *x, uint64_t features)
{
	vd_set_status(x->fv, 0);
	vd_set_status(x->fv, ACK | DRIVER);
	vd_features(x->fv, features);
	vd_set_status(x->fv, ACK | DRIVER | FEATURES);
	assert_int_equal(vd_status(x->fv), ACK | DRIVER);
	assert_true(x->fv->vdev.negotiated == 0);
	/* A driver that does not look goes nowhere either. */
	vd_queue(x->fv, 0, 64, 0);
	assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	vd_set_status(x->fv, LIVE);
	assert_int_equal(vd_status(x->fv) & (FEATURES | OK), 0);
	assert_int_equal(x->fv->starts, 0);
}

static void test_features_refused(void **state)
{
	struct fixture *x = *state;

	refused(x, 0);
	refused(x, OWN); /* no VERSION_1 */
	refused(x, V1 | VIRTIO_BIT(6));
	refused(x, V1 | VIRTIO_BIT(63));
	x->fv->unwelcome = OWN;
	refused(x, V1 | OWN);
	/* And after a refusal the driver may try again with less. */
	vd_features(x->fv, V1);
	vd_set_status(x->fv, ACK | DRIVER | FEATURES);
	assert_int_equal(vd_status(x->fv), ACK | DRIVER | FEATURES);
}

static void test_features_closed(void **state)
{
	struct fixture *x = *state;

	vd_drive(x->fv, V1);
	vd_features(x->fv, V1 | OWN);
	vd_set_status(x->fv, LIVE);
	assert_true(x->fv->vdev.negotiated == V1);
	vd_write(x->fv, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_GF, 4), (uint32_t)V1);
}

static void test_feature_selectors(void **state)
{
	static const uint32_t beyond[] = { 2, 3, 31, 64, 0x80000000, UINT32_MAX };
	struct fixture *x = *state;

	for (unsigned int i = 0; i < ARRAY_SIZE(beyond); i++) {
		vd_write(x->fv, VIRTIO_PCI_COMMON_DFSELECT, 4, beyond[i]);
		assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_DFSELECT, 4), beyond[i]);
		assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_DF, 4), 0);
		vd_write(x->fv, VIRTIO_PCI_COMMON_GFSELECT, 4, beyond[i]);
		vd_write(x->fv, VIRTIO_PCI_COMMON_GF, 4, UINT32_MAX);
		assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_GF, 4), 0);
	}
	assert_true(x->t->driver_features == 0);
}

/* --- status ---------------------------------------------------------------------------------- */

static void test_status_bits_stay(void **state)
{
	struct fixture *x = *state;

	vd_drive(x->fv, V1);
	vd_set_status(x->fv, ACK);
	assert_int_equal(vd_status(x->fv), LIVE);
	assert_true(is_running(x));
	vd_set_status(x->fv, FAILED);
	assert_int_equal(vd_status(x->fv), LIVE | FAILED);
	/* Bits that only the device sets, or that nobody knows. */
	vd_set_status(x->fv, 0xff);
	assert_int_equal(vd_status(x->fv), LIVE | FAILED);
	assert_int_equal(x->fv->starts, 1);
}

static void test_driver_ok_too_early(void **state)
{
	struct fixture *x = *state;

	vd_set_status(x->fv, ACK | DRIVER | OK);
	assert_int_equal(vd_status(x->fv), ACK | DRIVER);
	assert_int_equal(x->fv->starts, 0);
	/* Both at once is one write, and complete. */
	vd_features(x->fv, V1);
	vd_set_status(x->fv, LIVE);
	assert_int_equal(vd_status(x->fv), LIVE);
	assert_int_equal(x->fv->starts, 1);
}

/* --- queues ---------------------------------------------------------------------------------- */

static void test_queue_select_out_of_range(void **state)
{
	static const uint16_t beyond[] = { QUEUES, 63, 64, 65, 0x7fff, 0xffff };
	struct fixture *x = *state;

	vd_features(x->fv, V1);
	vd_set_status(x->fv, ACK | DRIVER | FEATURES);
	for (unsigned int i = 0; i < ARRAY_SIZE(beyond); i++) {
		vd_queue(x->fv, beyond[i], 64, 1);
		assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_Q_SELECT, 2), beyond[i]);
		assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
		assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
		assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_Q_NOFF, 2), 0);
		assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
		for (unsigned int off = VIRTIO_PCI_COMMON_Q_DESCLO;
		     off <= VIRTIO_PCI_COMMON_Q_USEDHI; off += 4)
			assert_int_equal(vd_read(x->fv, off, 4), 0);
	}
	for (unsigned int q = 0; q < VDEV_QUEUES_MAX; q++)
		assert_false(x->fv->vdev.queues[q].enabled);
}

static void test_queue_size(void **state)
{
	static const uint16_t wrong[] = { 0, 3, 5, 255, 257, 512, 0x8000, 0xffff };
	struct fixture *x = *state;

	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	for (uint16_t size = 256; size; size /= 2) {
		vd_write(x->fv, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
		assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_Q_SIZE, 2), size);
		for (unsigned int i = 0; i < ARRAY_SIZE(wrong); i++) {
			vd_write(x->fv, VIRTIO_PCI_COMMON_Q_SIZE, 2, wrong[i]);
			assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_Q_SIZE, 2), size);
		}
	}
}

static void test_queue_enable_rules(void **state)
{
	struct fixture *x = *state;
	struct vdev_queue *q = &x->fv->vdev.queues[0];

	vd_queue(x->fv, 0, 64, 0);
	assert_false(q->enabled); /* not before FEATURES_OK */
	vd_features(x->fv, V1);
	vd_set_status(x->fv, ACK | DRIVER | FEATURES);
	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 2);
	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0xffff);
	assert_false(q->enabled);
	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_true(q->enabled);
	/* From here it is closed: neither back nor elsewhere. */
	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_SIZE, 2, 16);
	for (unsigned int off = VIRTIO_PCI_COMMON_Q_DESCLO; off <= VIRTIO_PCI_COMMON_Q_USEDHI;
	     off += 4)
		vd_write(x->fv, off, 4, 0xdead0000);
	assert_true(q->enabled);
	assert_int_equal(q->size, 64);
	assert_true(q->desc == 0x100000 && q->driver == 0x101000 && q->device == 0x102000);
	vd_set_status(x->fv, LIVE);
	/* Rings do not come one by one. */
	vd_queue(x->fv, 1, 64, 1);
	assert_false(x->fv->vdev.queues[1].enabled);
}

static void test_addresses_have_two_halves(void **state)
{
	struct fixture *x = *state;

	vd_write(x->fv, VIRTIO_PCI_COMMON_Q_SELECT, 2, 2);
	for (unsigned int off = VIRTIO_PCI_COMMON_Q_DESCLO; off <= VIRTIO_PCI_COMMON_Q_USEDHI;
	     off += 4)
		vd_write(x->fv, off, 4, 0x11111111 * (off / 4));
	for (unsigned int off = VIRTIO_PCI_COMMON_Q_DESCLO; off <= VIRTIO_PCI_COMMON_Q_USEDHI;
	     off += 4)
		assert_int_equal(vd_read(x->fv, off, 4), 0x11111111 * (off / 4));
	assert_true(x->fv->vdev.queues[2].desc == 0x9999999988888888);
	assert_true(x->fv->vdev.queues[2].device == 0xddddddddcccccccc);
}

/* --- doorbells ------------------------------------------------------------------------------- */

static void test_doorbells(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;

	vd_drive(fv, V1);
	for (unsigned int q = 0; q < QUEUES; q++) {
		uint64_t at = q * 0x1000 + 4 * (q % 3);

		vd_write(fv, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
		assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_Q_NOFF, 2) * VP_NOTIFY_MULT, at);
		vd_bar_write(fv, VP_BAR, VP_DOORBELLS + at, 2, q);
		vd_bar_write(fv, VP_BAR, VP_DOORBELLS + at, 4, q);
		assert_int_equal(fv->kicks[q], 2);
		assert_true(vd_bar_read(fv, VP_BAR, VP_DOORBELLS + at, 2) == 0xffff);
	}
	/* Every other place of every page belongs to nobody. */
	for (uint64_t off = 0; off < VP_BAR_SIZE - VP_DOORBELLS; off += 4)
		if (off / 0x1000 >= QUEUES || off % 0x1000 != 4 * (off / 0x1000 % 3))
			vd_bar_write(fv, VP_BAR, VP_DOORBELLS + off, 2, 0);
	for (unsigned int q = 0; q < VDEV_QUEUES_MAX; q++)
		assert_int_equal(fv->kicks[q], q < QUEUES ? 2 : 0);
}

static void test_doorbells_only_while_running(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;

	vd_kick(fv, 0);
	vd_features(fv, V1);
	vd_set_status(fv, ACK | DRIVER | FEATURES);
	vd_queue(fv, 0, 64, 0);
	vd_kick(fv, 0);
	vd_set_status(fv, LIVE);
	vd_kick(fv, 1); /* not enabled */
	assert_int_equal(fv->kicks[0] + fv->kicks[1], 0);
	vd_kick(fv, 0);
	assert_int_equal(fv->kicks[0], 1);
	vd_set_status(fv, 0);
	vd_kick(fv, 0);
	assert_int_equal(fv->kicks[0], 1);
}

/* --- reset and stop -------------------------------------------------------------------------- */

static void test_reset_waits_for_the_vdev(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;

	vd_drive(fv, V1);
	fv->slow_stop = true;
	vd_set_status(fv, 0);
	assert_int_equal(fv->stops, 1);
	/* The old status shows that the reset goes on; nothing else is heard meanwhile. */
	assert_int_equal(vd_status(fv), LIVE);
	vd_set_status(fv, 0);
	vd_set_status(fv, ACK);
	vd_kick(fv, 0);
	assert_int_equal(vd_status(fv), LIVE);
	assert_int_equal(fv->stops, 1);
	assert_int_equal(fv->kicks[0], 0);
	fake_vdev_stop_now(fv);
	assert_int_equal(vd_status(fv), 0);
	fv->slow_stop = false;
	vd_drive(fv, V1);
	assert_int_equal(fv->starts, 2);
}

static void *stop_later(void *arg)
{
	struct timespec ms20 = { .tv_nsec = 20000000 };

	nanosleep(&ms20, NULL);
	fake_vdev_stop_now(arg);
	return NULL;
}

static void test_machine_reset_waits(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;
	pthread_t thread;

	vd_drive(fv, V1);
	vd_config_write(fv, PCI_INTERRUPT_LINE, 1, 11);
	vd_msix_control(fv, PCI_MSIX_FLAGS_ENABLE);
	fv->slow_stop = true;
	assert_int_equal(pthread_create(&thread, NULL, stop_later, fv), 0);
	assert_int_equal(virtio_pci_reset(&fv->vdev), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_false(x->t->pci.bars[VP_BAR].mapped);
	assert_int_equal(x->t->msix.control, 0);
	assert_int_equal(vd_config_read(fv, PCI_COMMAND, 2), 0);
	assert_int_equal(vd_config_read(fv, PCI_INTERRUPT_LINE, 1), 0);
	vd_decode(fv);
	assert_int_equal(vd_status(fv), 0);
	fv->slow_stop = false;
	vd_drive(fv, V1);
	assert_int_equal(fv->starts, 2);
}

/* Power-on again means: every byte that the old guest could write is as it was. */
static void test_machine_reset_forgets(void **state)
{
	struct fixture *x = *state;
	uint8_t before[PCI_CONFIG_SIZE];

	assert_int_equal(virtio_pci_reset(&x->fv->vdev), 0);
	memcpy(before, x->t->pci.config, sizeof(before));
	for (unsigned int off = PCI_CONFIG_SIZE; off; off -= 4)
		if (off - 4 != x->t->cfg_cap + sizeof(struct virtio_pci_cap))
			vd_config_write(x->fv, off - 4, 4, 0x5a5a5a5e);
	assert_int_equal(virtio_pci_reset(&x->fv->vdev), 0);
	for (unsigned int i = 0; i < sizeof(before); i++)
		if (before[i] != x->t->pci.config[i])
			fail_msg("byte 0x%x is 0x%02x after a reset, not 0x%02x", i,
				 x->t->pci.config[i], before[i]);
}

static void test_bus_mastering(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;

	vd_drive(fv, V1);
	fv->stop_index = 77;
	vd_config_write(fv, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_false(is_running(x));
	assert_int_equal(vd_status(fv), LIVE);
	vd_kick(fv, 0);
	assert_int_equal(fv->kicks[0], 0);
	vd_decode(fv);
	assert_true(is_running(x));
	for (unsigned int q = 0; q < QUEUES; q++)
		assert_int_equal(fv->started_at[q], 77);
	/* DRIVER_OK before bus mastering: it starts with the latter. */
	vd_set_status(fv, 0);
	vd_config_write(fv, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	vd_features(fv, V1);
	vd_set_status(fv, LIVE);
	assert_int_equal(fv->starts, 2);
	vd_decode(fv);
	assert_int_equal(fv->starts, 3);
	assert_int_equal(fv->started_at[0], 0);
}

static bool runs(void *arg)
{
	return is_running(arg);
}

/*
 * Given back before the vdev had stopped. The guest has rung while nobody could hear it and only
 * waits now, so the vdev must be found and started without an access.
 */
static void test_bus_mastering_slow_stop(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;

	vd_drive(fv, V1);
	fv->slow_stop = true;
	fv->stop_index = 5;
	vd_config_write(fv, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	vd_decode(fv);
	vd_kick(fv, 0);
	assert_false(is_running(x));
	fake_vdev_stop_now(fv);
	assert_true(fake_vm_run(x->f, runs, x, 30000));
	assert_int_equal(fv->started_at[0], 5);
	assert_int_equal(vd_status(fv), LIVE);
}

/* The function goes while the main loop has still to hear that it stopped. */
static void test_destroyed_after_a_stop(void **state)
{
	struct fixture *x = *state;
	struct diag d = { 0 };
	struct fake_vdev *other = fake_vdev_new(&x->f->vm, 1, V1, &d);

	assert_non_null(other);
	vd_drive(other, V1);
	vd_drive(x->fv, V1);
	vd_set_status(other, 0);
	vd_config_write(x->fv, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	fake_vdev_free(other);
	vd_decode(x->fv);
	assert_true(fake_vm_run(x->f, runs, x, 30000));
}

static void test_quiesce_and_resume(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;
	pthread_t thread;

	assert_int_equal(virtio_pci_quiesce(&fv->vdev), 0); /* nothing runs: nothing to wait for */
	virtio_pci_resume(&fv->vdev);
	assert_int_equal(fv->starts, 0);
	vd_drive(fv, V1);
	fv->slow_stop = true;
	fv->stop_index = 4711;
	assert_int_equal(pthread_create(&thread, NULL, stop_later, fv), 0);
	assert_int_equal(virtio_pci_quiesce(&fv->vdev), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_false(is_running(x));
	assert_int_equal(x->t->run, VP_STOPPED);
	virtio_pci_resume(&fv->vdev);
	assert_true(is_running(x));
	assert_int_equal(fv->started_at[2], 4711);
	assert_int_equal(vd_status(fv), LIVE);
}

/* --- trouble --------------------------------------------------------------------------------- */

static void test_start_fails(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;

	fv->start_error = -EFAULT;
	vd_features(fv, V1);
	vd_set_status(fv, ACK | DRIVER | FEATURES);
	vd_write(fv, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	vd_set_status(fv, LIVE);
	assert_int_equal(vd_status(fv), LIVE | RESET);
	assert_int_equal(fv->stops, 1);
	assert_true(fake_signal_taken(x->t->config_fd));
	assert_int_equal(vd_bar_read(fv, VP_BAR, VP_ISR, 1), VIRTIO_PCI_ISR_CONFIG);
	fv->start_error = 0;
	vd_drive(fv, V1);
	assert_int_equal(vd_status(fv), LIVE);
	assert_true(is_running(x));
}

static void test_needs_reset(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;

	vd_drive(fv, V1);
	vdev_needs_reset(&fv->vdev, "the test says so");
	assert_true(fake_signal_taken(x->t->config_fd));
	assert_int_equal(vd_status(fv), LIVE | RESET);
	assert_false(is_running(x));
	vd_kick(fv, 0);
	vd_decode(fv);
	vd_set_status(fv, LIVE);
	assert_int_equal(vd_status(fv), LIVE | RESET);
	assert_int_equal(fv->starts, 1);
	vd_set_status(fv, 0);
	assert_int_equal(vd_status(fv), 0);
	/* The complaint of the old life is not held against the new one. */
	vdev_needs_reset(&fv->vdev, "too late");
	vd_set_status(fv, 0);
	assert_int_equal(vd_status(fv), 0);
	vd_drive(fv, V1);
	assert_int_equal(vd_status(fv), LIVE);
}

static void test_config_changed(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;
	uint32_t gen;

	vd_drive(fv, V1);
	gen = vd_read(fv, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	vdev_config_changed(&fv->vdev);
	assert_true(fake_signal_taken(x->t->config_fd));
	assert_int_not_equal(vd_read(fv, VIRTIO_PCI_COMMON_CFGGENERATION, 1), gen);
	/* Reading acknowledges, and only whole. */
	assert_int_equal(vd_bar_read(fv, VP_BAR, VP_ISR, 2), 0xffff);
	assert_int_equal(vd_bar_read(fv, VP_BAR, VP_ISR, 1), VIRTIO_PCI_ISR_CONFIG);
	assert_int_equal(vd_bar_read(fv, VP_BAR, VP_ISR, 1), 0);
	assert_int_equal(vd_bar_read(fv, VP_BAR, VP_ISR + 1, 1), 0xff);
	vd_bar_write(fv, VP_BAR, VP_ISR, 1, 3);
	assert_int_equal(vd_bar_read(fv, VP_BAR, VP_ISR, 1), 0);
	assert_true(is_running(x));
}

/* --- interrupts ------------------------------------------------------------------------------ */

static void test_vectors(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;
	struct vdev_queue *q = &fv->vdev.queues[0];

	vd_drive(fv, V1);
	assert_int_equal(q->irq_fd, x->t->irq_fds[0]);
	vdev_interrupt(&fv->vdev, 0);
	assert_true(fake_signal_taken(x->t->irq_fds[0]));
	/* Beyond the table: reads back as NO_VECTOR, and nothing comes by the old one. */
	vd_msix_control(fv, PCI_MSIX_FLAGS_ENABLE);
	vd_msix_vector(fv, 1, 0xfee00000, 0x41, false);
	assert_true(x->t->msix.sources[x->t->irq_sources[0]].attached);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_MSIX, 2, QUEUES + 1);
	assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	assert_int_equal(q->irq_fd, -1);
	assert_false(x->t->msix.sources[x->t->irq_sources[0]].attached);
	vdev_interrupt(&fv->vdev, 0);
	assert_false(fake_signal_taken(x->t->irq_fds[0]));
	vd_write(fv, VIRTIO_PCI_COMMON_MSIX, 2, 1);
	assert_true(x->t->msix.sources[x->t->config_source].attached);
	vd_write(fv, VIRTIO_PCI_COMMON_MSIX, 2, 0x1234);
	assert_int_equal(vd_read(fv, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	assert_false(x->t->msix.sources[x->t->config_source].attached);
}

/* An interrupt that was not taken before a reset is not the new driver's. */
static void test_reset_drops_interrupts(void **state)
{
	struct fixture *x = *state;

	vd_drive(x->fv, V1);
	vd_write(x->fv, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	vdev_interrupt(&x->fv->vdev, 1);
	vdev_config_changed(&x->fv->vdev);
	vd_set_status(x->fv, 0);
	assert_false(fake_signal_taken(x->t->irq_fds[1]));
	assert_false(fake_signal_taken(x->t->config_fd));
	assert_int_equal(vd_bar_read(x->fv, VP_BAR, VP_ISR, 1), 0);
	assert_int_equal(vd_read(x->fv, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
}

/*
 * Who is handed the eventfd of an interrupt (a vfio-user server) shares its flags and its counter,
 * and can make it one that blocks. The guest is then held up by nothing all the same.
 */
static void test_blocking_eventfd(void **state)
{
	struct fixture *x = *state;
	const uint64_t full = UINT64_MAX - 1;
	int fd = vdev_irq_fd(&x->fv->vdev, 1);

	alarm(120);
	vd_drive(x->fv, V1);
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
	assert_int_equal(write(fd, &full, sizeof(full)), sizeof(full));
	vdev_interrupt(&x->fv->vdev, 1);
	vd_set_status(x->fv, 0);
	vd_drive(x->fv, V1);
	vd_set_status(x->fv, 0); /* nothing to read now */
	alarm(0);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	assert_false(fake_signal_taken(fd));
}

static void test_too_many_queues(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *most;
	struct diag d = { 0 };

	assert_null(fake_vdev_new(&x->f->vm, 0, V1, &d));
	assert_non_null(strstr(d.text, "queues"));
	d.text[0] = '\0';
	assert_null(fake_vdev_new(&x->f->vm, VDEV_QUEUES_MAX + 1, V1, &d));
	assert_non_null(strstr(d.text, "65 queues"));
	most = fake_vdev_new(&x->f->vm, VDEV_QUEUES_MAX, V1, &d);
	assert_non_null(most);
	vd_drive(most, V1);
	for (unsigned int q = 0; q < VDEV_QUEUES_MAX; q++) {
		vd_kick(most, (uint16_t)q);
		assert_int_equal(most->kicks[q], 1);
		assert_int_equal(most->vdev.queues[q].vector, q + 1);
	}
	fake_vdev_free(most);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(initialisation),
		TEST(features_refused),
		TEST(features_closed),
		TEST(feature_selectors),
		TEST(status_bits_stay),
		TEST(driver_ok_too_early),
		TEST(queue_select_out_of_range),
		TEST(queue_size),
		TEST(queue_enable_rules),
		TEST(addresses_have_two_halves),
		TEST(doorbells),
		TEST(doorbells_only_while_running),
		TEST(reset_waits_for_the_vdev),
		TEST(machine_reset_waits),
		TEST(machine_reset_forgets),
		TEST(bus_mastering),
		TEST(bus_mastering_slow_stop),
		TEST(destroyed_after_a_stop),
		TEST(quiesce_and_resume),
		TEST(start_fails),
		TEST(needs_reset),
		TEST(config_changed),
		TEST(vectors),
		TEST(reset_drops_interrupts),
		TEST(blocking_eventfd),
		TEST(too_many_queues),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
