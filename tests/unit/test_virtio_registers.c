/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_virtio_registers.c - the registers of a virtio function one by one: the table that every
 * access must pass, the window in configuration space, device configuration, and what travels when
 * the function is moved. One thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "fake_vdev.h"
#include "state_check.h"

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

/* --- device configuration -------------------------------------------------------------------- */

static void test_device_config(void **state)
{
	struct fixture *x = *state;
	struct fake_vdev *fv = x->fv;

	for (unsigned int len = 1; len <= 8; len *= 2) {
		for (unsigned int off = 0; off <= FAKE_VDEV_CONFIG; off++) {
			uint64_t want = UINT64_MAX;

			if (off + len <= FAKE_VDEV_CONFIG) {
				want = 0;
				memcpy(&want, fv->config + off, len);
			} else if (len < 8) {
				want = (1ull << (8 * len)) - 1;
			}
			assert_true(vd_bar_read(fv, VP_BAR, VP_DEVICE + off, len) == want);
		}
		vd_bar_write(fv, VP_BAR, VP_DEVICE + FAKE_VDEV_CONFIG - len + 1, len, 0);
	}
	vd_bar_write(fv, VP_BAR, VP_DEVICE - 1, 1, 0);
	vd_bar_write(fv, VP_BAR, VP_DOORBELLS - 1, 1, 0);
	assert_int_equal(fv->config_writes, 0);
	vd_bar_write(fv, VP_BAR, VP_DEVICE + 4, 4, 0x01020304);
	assert_int_equal(fv->config_writes, 1);
	assert_int_equal(vd_bar_read(fv, VP_BAR, VP_DEVICE + 4, 4), 0x01020304);
}

/* --- the register table ---------------------------------------------------------------------- */

static void test_every_register_size(void **state)
{
	struct fixture *x = *state;

	for (unsigned int i = 0; i < vp_nregs; i++) {
		const struct vp_reg *r = &vp_regs[i];

		assert_true(!i || r->offset >= vp_regs[i - 1].offset + vp_regs[i - 1].size);
		assert_true((r->policy == REG_READONLY) == !r->write);
		assert_int_equal(r->offset % r->size, 0);
		for (unsigned int len = 1; len <= 8; len *= 2) {
			assert_ptr_equal(vp_reg_find(r->offset, len), len == r->size ? r : NULL);
			if (len == r->size)
				continue;
			assert_true(vd_bar_read(x->fv, VP_BAR, r->offset, len) ==
				    (len == 8 ? UINT64_MAX : (1ull << (8 * len)) - 1));
		}
		for (unsigned int off = r->offset + 1u; off < r->offset + (unsigned int)r->size;
		     off++)
			assert_null(vp_reg_find(off, 1));
	}
	assert_int_equal(vp_regs[vp_nregs - 1].offset + vp_regs[vp_nregs - 1].size,
			 sizeof(struct virtio_pci_common_cfg));
}

/* What no row lists, has another size or is READONLY changes nothing, wherever it is written. */
static void test_denied_writes(void **state)
{
	struct fixture *x = *state;
	struct virtio_pci before;
	struct vdev vdev;

	vd_features(x->fv, V1);
	vd_set_status(x->fv, ACK | DRIVER | FEATURES);
	before = *x->t;
	vdev = x->fv->vdev;
	for (unsigned int off = 0; off < VP_DEVICE; off++) {
		for (unsigned int len = 1; len <= 8; len *= 2) {
			const struct vp_reg *r = vp_reg_find(off, len);

			if (r && r->policy != REG_READONLY)
				continue;
			vd_bar_write(x->fv, VP_BAR, off, len, UINT64_MAX);
			vd_bar_write(x->fv, VP_BAR, off, len, 0);
			if (!r && off != VP_ISR)
				assert_true(vd_bar_read(x->fv, VP_BAR, off, len) ==
					    (len == 8 ? UINT64_MAX : (1ull << (8 * len)) - 1));
		}
	}
	assert_memory_equal(&before, x->t, sizeof(before));
	assert_memory_equal(&vdev, &x->fv->vdev, sizeof(vdev));
}

/* --- the window in configuration space ------------------------------------------------------- */

static void window(struct fixture *x, uint8_t bar, uint32_t off, uint32_t len)
{
	vd_config_write(x->fv, x->t->cfg_cap + offsetof(struct virtio_pci_cap, bar), 1, bar);
	vd_config_write(x->fv, x->t->cfg_cap + offsetof(struct virtio_pci_cap, offset), 4, off);
	vd_config_write(x->fv, x->t->cfg_cap + offsetof(struct virtio_pci_cap, length), 4, len);
}

static void test_config_window(void **state)
{
	static const struct {
		uint8_t bar;
		uint32_t off, len;
	} invalid[] = {
		{ 1, VP_COMMON + VIRTIO_PCI_COMMON_STATUS, 1 },
		{ 4, VP_COMMON + VIRTIO_PCI_COMMON_STATUS, 1 },
		{ 0xff, VP_COMMON + VIRTIO_PCI_COMMON_STATUS, 1 },
		{ 0, VP_COMMON + VIRTIO_PCI_COMMON_STATUS, 0 },
		{ 0, VP_COMMON + VIRTIO_PCI_COMMON_STATUS, 3 },
		{ 0, VP_COMMON + VIRTIO_PCI_COMMON_STATUS, 8 },
		{ 0, VP_COMMON + VIRTIO_PCI_COMMON_STATUS, UINT32_MAX },
		{ 0, VP_COMMON + VIRTIO_PCI_COMMON_STATUS - 2, 4 },
		{ 0, VP_BAR_SIZE, 1 },
		{ 0, VP_BAR_SIZE + VIRTIO_PCI_COMMON_STATUS, 1 },
		{ 0, UINT32_MAX, 1 },
		{ 0, UINT32_MAX - 3, 4 },
	};
	struct fixture *x = *state;
	unsigned int data = x->t->cfg_cap + sizeof(struct virtio_pci_cap);

	window(x, 0, VP_COMMON + VIRTIO_PCI_COMMON_NUMQ, 2);
	assert_int_equal(vd_config_read(x->fv, data, 4), QUEUES);
	window(x, 0, VP_COMMON + VIRTIO_PCI_COMMON_STATUS, 1);
	vd_config_write(x->fv, data, 1, ACK | DRIVER);
	assert_int_equal(x->fv->vdev.status, ACK | DRIVER);
	assert_int_equal(vd_config_read(x->fv, data, 1), ACK | DRIVER);
	vd_config_write(x->fv, data + 1, 1, FAILED); /* not where the access is made */
	for (unsigned int i = 0; i < ARRAY_SIZE(invalid); i++) {
		window(x, invalid[i].bar, invalid[i].off, invalid[i].len);
		vd_config_write(x->fv, data, 4, FAILED);
		/* Memory of the register, no access behind it. */
		assert_int_equal(vd_config_read(x->fv, data, 4), FAILED);
	}
	assert_int_equal(x->fv->vdev.status, ACK | DRIVER);
	window(x, 0, VP_DEVICE + 4, 4);
	vd_config_write(x->fv, data, 4, 0x11223344);
	assert_int_equal(vd_config_read(x->fv, data, 4), 0x11223344);
	assert_int_equal(vd_bar_read(x->fv, VP_BAR, VP_DEVICE + 4, 4), 0x11223344);
	/* It works without memory decode: firmware's way in. */
	vd_config_write(x->fv, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert_int_equal(vd_config_read(x->fv, data, 4), 0x11223344);
	vd_decode(x->fv);
	vd_drive(x->fv, V1);
	window(x, 0, VP_DOORBELLS + VP_DOORBELL_PAGE + 4, 2);
	vd_config_write(x->fv, data, 2, 1);
	assert_int_equal(x->fv->kicks[1], 1);
}

/* --- state ----------------------------------------------------------------------------------- */

static void test_state(void **state)
{
	struct fixture *x = *state;

	vd_drive(x->fv, V1 | OWN);
	vd_write(x->fv, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	vd_msix_vector(x->fv, 1, 0xfee00000, 0x41, true);
	vd_msix_control(x->fv, PCI_MSIX_FLAGS_ENABLE);
	vdev_interrupt(&x->fv->vdev, 0);
	vdev_config_changed(&x->fv->vdev);
	x->fv->stop_index = 0x1234;
	assert_int_equal(virtio_pci_quiesce(&x->fv->vdev), 0);
	state_check_roundtrip("fake0", x->fv->state, VIRTIO_PCI_STATES);
	virtio_pci_resume(&x->fv->vdev);
	assert_true(is_running(x));
	assert_int_equal(x->fv->started_at[1], 0x1234);
	assert_int_equal(vd_status(x->fv), LIVE);
	vd_kick(x->fv, 2);
	assert_int_equal(x->fv->kicks[2], 1);
}

static void refuse(struct fixture *x, const char *path, const char *prop, uint32_t value,
		   const char *says)
{
	state_check_refuses("fake0", x->fv->state, VIRTIO_PCI_STATES, path, prop, value, says);
}

static void test_state_refusals(void **state)
{
	struct fixture *x = *state;

	vd_drive(x->fv, V1 | OWN);
	assert_int_equal(virtio_pci_quiesce(&x->fv->vdev), 0);
	refuse(x, "/virtio-pci", "config_vector", QUEUES + 1, "configuration vector");
	refuse(x, "/virtio", "device_id", VIRTIO_ID_RNG, "device_id");
	refuse(x, "/virtio", "nqueues", QUEUES + 1, "nqueues");
	refuse(x, "/virtio", "status", LIVE | 0x10, "unknown bits");
	refuse(x, "/virtio", "status", ACK | DRIVER | OK, "without FEATURES_OK");
	refuse(x, "/virtio/queues@0", "size_max", 512, "size_max");
	refuse(x, "/virtio/queues@1", "size", 0, "size 0");
	refuse(x, "/virtio/queues@1", "size", 100, "size 100");
	refuse(x, "/virtio/queues@2", "size", 512, "size 512");
	refuse(x, "/virtio/queues@2", "vector", QUEUES + 1, "vector 4");
	refuse(x, "/virtio/queues@0", "doorbell_offset", 2, "in-page offset 2");
	refuse(x, "/virtio/queues@0", "doorbell_offset", VP_DOORBELL_PAGE, "offset 4096");
	refuse(x, "/virtio/queues@0", "enabled", 2, "enabled");
	x->fv->unwelcome = OWN;
	refuse(x, "/virtio", "status", LIVE, "not a set");
	x->fv->unwelcome = 0;
	x->fv->vdev.offered = x->fv->vdev.shown = V1;
	refuse(x, "/virtio", "status", LIVE, "lacks 0x20");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(device_config), TEST(every_register_size),
		TEST(denied_writes), TEST(config_window),
		TEST(state),	     TEST(state_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
