/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_virtio_rng.c - the entropy device (virtio 1.2, 5.4) as a driver uses it, on its real io
 * thread. The test's thread plays vcpu and driver; it waits by looking at the used ring.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <unvmm/platform.h>

#include "fake_vdev.h"
#include "state_check.h"
#include "vq_driver.h"

#define RINGS	 0x100000
#define HEAP	 MiB(1)
#define SIZE	 64
#define FEATURES VIRTIO_SOFT_RING_FEATURES
#define LIVE	 0x0f
#define DEADLINE 30000 /* ms: long past what any machine needs */

extern const struct device_class virtio_rng_class;

/* As the class's options lay it out. */
struct rng_conf {
	char *source;
};

struct fixture {
	struct fake_vm *f;
	struct device *dev;
	struct vdev *v;
	struct vq_driver d;
};

static void reg_write(struct fixture *x, unsigned int reg, unsigned int len, uint64_t value)
{
	bus_write(&x->f->vm.mmio, x->v->transport->pci.bars[VP_BAR].base + reg, len, value);
}

static uint8_t status(struct fixture *x)
{
	return (uint8_t)bus_read(&x->f->vm.mmio,
				 x->v->transport->pci.bars[VP_BAR].base + VIRTIO_PCI_COMMON_STATUS,
				 1);
}

static void drive(struct fixture *x)
{
	const gpa_t rings[] = { x->d.layout.desc, x->d.layout.avail, x->d.layout.used };

	fake_ecam_write(&x->f->vm, x->v->transport->pci.slot, PCI_COMMAND, 2,
			PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, 3);
	for (unsigned int i = 0; i < 2; i++) {
		reg_write(x, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		reg_write(x, VIRTIO_PCI_COMMON_GF, 4, FEATURES >> (32 * i));
	}
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, 0x0b);
	for (unsigned int i = 0; i < 3; i++)
		reg_write(x, VIRTIO_PCI_COMMON_Q_DESCLO + 8 * i, 4, rings[i]);
	reg_write(x, VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
	reg_write(x, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, LIVE);
	assert_int_equal(status(x), LIVE);
}

static void plug(struct fixture *x, char *source)
{
	struct rng_conf conf = { .source = source };

	x->f = fake_vm_with_pci();
	x->dev = fake_vm_add(x->f, &virtio_rng_class, &conf);
	x->v = x->dev->priv;
	vqd_init(&x->d, &x->f->vm.mem, RINGS, HEAP, SIZE, FEATURES);
	drive(x);
}

static int setup(void **state)
{
	static struct fixture x;

	plug(&x, NULL);
	*state = &x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	fake_vm_free(x->f);
	return 0;
}

static void kick(struct fixture *x)
{
	if (vqd_show(&x->d))
		reg_write(x, VP_DOORBELLS, 2, 0);
}

static void nap(void)
{
	struct timespec ms = { .tv_nsec = 1000000 };

	nanosleep(&ms, NULL);
}

static uint32_t wait_used(struct fixture *x, uint16_t head)
{
	struct vring_used_elem e;

	for (unsigned int ms = 0; ms < DEADLINE; ms++) {
		if (vqd_take(&x->d, &e)) {
			assert_int_equal(e.id, head);
			return e.len;
		}
		nap();
	}
	fail_msg("no answer from the device");
	return 0;
}

static void wait_needs_reset(struct fixture *x)
{
	for (unsigned int ms = 0; ms < DEADLINE; ms++) {
		if (status(x) & VIRTIO_CONFIG_S_NEEDS_RESET)
			return;
		nap();
	}
	fail_msg("no NEEDS_RESET");
}

/* A buffer of `len` bytes in n pieces, all `fill`. */
static uint16_t post(struct fixture *x, uint32_t len, unsigned int n, gpa_t *at)
{
	struct vqd_buf bufs[SIZE];

	*at = vqd_alloc(&x->d, len, 1);
	memset(vqd_at(&x->d, *at, len), 0x11, len);
	for (unsigned int i = 0; i < n; i++)
		bufs[i] = (struct vqd_buf){ *at + i * (len / n), len / n, true };
	return vqd_post(&x->d, bufs, n);
}

/* How many of the bytes are no more what post() put there. */
static unsigned int changed(struct fixture *x, gpa_t at, uint32_t len)
{
	const uint8_t *p = vqd_at(&x->d, at, len);
	unsigned int n = 0;

	for (uint32_t i = 0; i < len; i++)
		n += p[i] != 0x11;
	return n;
}

static void test_fills_buffers(void **state)
{
	struct fixture *x = *state;
	gpa_t a, b, fence;
	uint16_t first = post(x, 4096, 1, &a), second = post(x, 4096, 4, &b);

	fence = vqd_alloc(&x->d, 1, 1);
	*(uint8_t *)vqd_at(&x->d, fence, 1) = 0x33;
	kick(x);
	assert_int_equal(wait_used(x, first), 4096);
	assert_int_equal(wait_used(x, second), 4096);
	assert_true(changed(x, a, 4096) > 3900); /* one of 256 stays by chance */
	assert_true(changed(x, b, 4096) > 3900);
	assert_true(memcmp(vqd_at(&x->d, a, 4096), vqd_at(&x->d, b, 4096), 4096) != 0);
	assert_int_equal(*(uint8_t *)vqd_at(&x->d, fence, 1), 0x33);
	assert_int_equal(status(x), LIVE);
}

static void test_interrupts(void **state)
{
	struct fixture *x = *state;
	uint16_t head;
	gpa_t at;

	vqd_want_interrupt(&x->d, true);
	head = post(x, 16, 1, &at);
	kick(x);
	assert_int_equal(wait_used(x, head), 16);
	for (unsigned int ms = 0; ms < DEADLINE; ms++) {
		if (fake_signal_taken(x->v->transport->irq_fds[0]))
			return;
		nap();
	}
	fail_msg("no interrupt");
}

static void test_limits(void **state)
{
	struct fixture *x = *state;
	uint16_t head;
	gpa_t at;

	/* More than it gives at a time: the rest is left alone, and not claimed. */
	head = post(x, 256 * 1024, 2, &at);
	kick(x);
	assert_int_equal(wait_used(x, head), 64 * 1024);
	assert_int_equal(changed(x, at + 64 * 1024, 192 * 1024), 0);
	head = post(x, 1, 1, &at);
	kick(x);
	assert_int_equal(wait_used(x, head), 1);
	/* As many pieces as the queue has descriptors. */
	head = post(x, 1024, SIZE, &at);
	kick(x);
	assert_int_equal(wait_used(x, head), 1024);
	assert_true(changed(x, at, 1024) > 900);
	/* What the driver wants read is not written. */
	{
		gpa_t out = vqd_alloc(&x->d, 64, 1);
		struct vqd_buf bufs[] = { { out, 64, false }, { at, 64, true } };

		memset(vqd_at(&x->d, out, 64), 0x11, 64);
		head = vqd_post(&x->d, bufs, 2);
		kick(x);
		assert_int_equal(wait_used(x, head), 64);
		assert_int_equal(changed(x, out, 64), 0);
	}
}

static void test_dirty_pages(void **state)
{
	struct fixture *x = *state;
	uint16_t head;
	gpa_t at;

	vqd_alloc(&x->d, 1, 4096);
	head = post(x, 8192, 1, &at);
	assert_int_equal(gmem_log_start(&x->f->vm.mem), 0);
	kick(x);
	assert_int_equal(wait_used(x, head), 8192);
	assert_int_equal(x->dev->cls->quiesce(x->dev), 0);
	for (gpa_t p = at / 4096; p <= (at + 8191) / 4096; p++)
		assert_true(x->f->vm.mem.dirty[p / 64] >> (p % 64) & 1);
	gmem_log_stop(&x->f->vm.mem);
}

static void test_broken_ring(void **state)
{
	struct fixture *x = *state;
	struct diag d = { 0 };
	uint16_t head;
	gpa_t at;

	vqd_post_head(&x->d, SIZE); /* no such descriptor */
	kick(x);
	wait_needs_reset(x);
	/* The driver resets it, and all is well. */
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	for (unsigned int ms = 0; status(x) && ms < DEADLINE; ms++)
		nap();
	assert_int_equal(status(x), 0);
	vqd_init(&x->d, &x->f->vm.mem, RINGS, HEAP, SIZE, FEATURES);
	drive(x);
	head = post(x, 64, 1, &at);
	kick(x);
	assert_int_equal(wait_used(x, head), 64);
	/* The same by the machine's own reset. */
	assert_int_equal(x->dev->cls->reset(x->dev, &d), 0);
	vqd_init(&x->d, &x->f->vm.mem, RINGS, HEAP, SIZE, FEATURES);
	drive(x);
	head = post(x, 64, 1, &at);
	kick(x);
	assert_int_equal(wait_used(x, head), 64);
}

static void test_rings_outside_of_ram(void **state)
{
	struct fixture *x = *state;

	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	for (unsigned int ms = 0; status(x) && ms < DEADLINE; ms++)
		nap();
	x->d.layout.used = PLAT_RAM_MIN - 8;
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, 3);
	reg_write(x, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
	reg_write(x, VIRTIO_PCI_COMMON_GF, 4, 1);
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, 0x0b);
	reg_write(x, VIRTIO_PCI_COMMON_Q_USEDLO, 4, x->d.layout.used);
	reg_write(x, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, LIVE);
	assert_int_equal(status(x), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* A pause in the middle: the ring goes on where it was. */
static void test_quiesce(void **state)
{
	struct fixture *x = *state;
	uint16_t head;
	gpa_t at;

	for (unsigned int i = 0; i < 5; i++) {
		head = post(x, 32, 1, &at);
		kick(x);
		assert_int_equal(wait_used(x, head), 32);
	}
	assert_int_equal(x->dev->cls->quiesce(x->dev), 0);
	assert_int_equal(x->v->queues[0].index, 5);
	state_check_roundtrip(x->dev->id, x->dev->state, x->dev->nstate);
	head = post(x, 32, 1, &at);
	kick(x); /* not heard, or heard by nobody */
	x->dev->cls->resume(x->dev);
	assert_int_equal(wait_used(x, head), 32);
	assert_true(changed(x, at, 32) > 0);
}

/* A file that ends: the last bytes are handed out, then the device says that it cannot go on. */
static void test_source_ends(void **state)
{
	char path[] = "/tmp/test_virtio_rng.XXXXXX";
	int fd = mkstemp(path);
	struct fixture x;
	uint16_t head;
	gpa_t at;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "0123456789", 10), 10);
	close(fd);
	plug(&x, path);
	head = post(&x, 64, 1, &at);
	kick(&x);
	assert_int_equal(wait_used(&x, head), 10);
	assert_memory_equal(vqd_at(&x.d, at, 10), "0123456789", 10);
	assert_int_equal(changed(&x, at + 10, 54), 0);
	head = post(&x, 64, 1, &at);
	kick(&x);
	assert_int_equal(wait_used(&x, head), 0);
	wait_needs_reset(&x);
	fake_vm_free(x.f);
	unlink(path);
}

static void test_source_missing(void **state)
{
	struct fake_vm *f = fake_vm_with_pci();
	struct rng_conf conf = { .source = "/nonexistent/random" };
	struct device dev = { .id = "rng0" };
	struct diag d = { 0 };

	(void)state;
	assert_true(virtio_rng_class.create(&f->vm, &dev, &conf, &d) < 0);
	assert_non_null(strstr(d.text, "/nonexistent/random"));
	fake_vm_free(f);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(fills_buffers),
		TEST(interrupts),
		TEST(limits),
		TEST(dirty_pages),
		TEST(broken_ring),
		TEST(rings_outside_of_ram),
		TEST(quiesce),
		cmocka_unit_test(test_source_ends),
		cmocka_unit_test(test_source_missing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
