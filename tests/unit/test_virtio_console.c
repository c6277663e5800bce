/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_virtio_console.c - the virtio console (virtio 1.2, 5.3) as a driver uses it, on its real io
 * thread and with a real chardev. The test's thread plays vcpu, driver and main loop in turn.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake_vdev.h"
#include "state_check.h"
#include "virtio_console.h"
#include "vq_driver.h"

#define RINGS	 0x100000
#define STEP	 MiB(1) /* from one queue's rings to the next */
#define HEAP	 (STEP - KiB(64))
#define SIZE	 64
#define CORE	 VIRTIO_SOFT_RING_FEATURES
#define PORTS	 (CORE | VIRTIO_BIT(VIRTIO_CONSOLE_F_MULTIPORT))
#define LIVE	 0x0f
#define DEADLINE 30000 /* ms: long past what any machine needs */

extern const struct device_class virtio_console_class;

/* As the class's options lay it out. */
struct console_conf {
	const char *chardev, *name;
};

struct fixture {
	char dir[40], path[64], spec[80];
	struct fake_vm *f;
	struct device *dev;
	struct virtio_console *con;
	struct vdev *v;
	struct vq_driver d[CONSOLE_QUEUES];
};

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	assert_non_null(x);
	signal(SIGPIPE, SIG_IGN); /* as main does */
	strcpy(x->dir, "/tmp/unvmm-console-XXXXXX");
	assert_non_null(mkdtemp(x->dir));
	snprintf(x->path, sizeof(x->path), "%s/end", x->dir);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	if (x->f)
		fake_vm_free(x->f);
	unlink(x->path);
	rmdir(x->dir);
	free(x);
	return 0;
}

/* --- the guest's side ------------------------------------------------------------------------- */

static uint64_t bar(const struct fixture *x)
{
	return x->v->transport->pci.bars[VP_BAR].base;
}

static void reg_write(struct fixture *x, unsigned int reg, unsigned int len, uint64_t value)
{
	bus_write(&x->f->vm.mmio, bar(x) + reg, len, value);
}

static uint8_t status(struct fixture *x)
{
	return (uint8_t)bus_read(&x->f->vm.mmio, bar(x) + VIRTIO_PCI_COMMON_STATUS, 1);
}

static uint64_t config(struct fixture *x, unsigned int off, unsigned int len)
{
	return bus_read(&x->f->vm.mmio, bar(x) + VP_DEVICE + off, len);
}

static void drive(struct fixture *x, uint64_t features)
{
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, 3);
	for (unsigned int i = 0; i < 2; i++) {
		reg_write(x, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		reg_write(x, VIRTIO_PCI_COMMON_GF, 4, features >> (32 * i));
	}
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, 0x0b);
	for (unsigned int q = 0; q < x->v->nqueues; q++) {
		gpa_t at = RINGS + q * STEP;

		vqd_init(&x->d[q], &x->f->vm.mem, at, HEAP, SIZE, features);
		reg_write(x, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
		reg_write(x, VIRTIO_PCI_COMMON_Q_DESCLO, 4, x->d[q].layout.desc);
		reg_write(x, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, x->d[q].layout.avail);
		reg_write(x, VIRTIO_PCI_COMMON_Q_USEDLO, 4, x->d[q].layout.used);
		reg_write(x, VIRTIO_PCI_COMMON_Q_MSIX, 2, q + 1);
		reg_write(x, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	}
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, LIVE);
	assert_int_equal(status(x), LIVE);
}

static void plug(struct fixture *x, const char *spec, const char *name)
{
	struct console_conf conf = { .chardev = spec, .name = name };

	x->f = fake_vm_with_pci();
	x->dev = fake_vm_add(x->f, &virtio_console_class, &conf);
	x->con = x->dev->priv;
	x->v = &x->con->vdev;
	fake_ecam_write(&x->f->vm, x->v->transport->pci.slot, PCI_COMMAND, 2,
			PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void kick(struct fixture *x, unsigned int q)
{
	(void)vqd_show(&x->d[q]);
	reg_write(x, VP_DOORBELLS + 4096 * q, 2, q);
}

struct used {
	struct fixture *x;
	unsigned int q;
	bool taken;
	struct vring_used_elem e;
};

/* May be asked again after it has said yes. */
static bool used(void *arg)
{
	struct used *u = arg;

	u->taken = u->taken || vqd_take(&u->x->d[u->q], &u->e);
	return u->taken;
}

/* Runs the main loop until the device has used a chain: its length. */
static uint32_t wait_used(struct fixture *x, unsigned int q)
{
	struct used u = { .x = x, .q = q };

	if (!fake_vm_run(x->f, used, &u, DEADLINE))
		fail_msg("no answer on queue %u", q);
	return u.e.len;
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static void wants_unused(struct fixture *x, unsigned int q)
{
	struct used u = { .x = x, .q = q };

	assert_false(fake_vm_run(x->f, used, &u, 30));
}

static bool needs_reset(void *arg)
{
	return status(arg) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* An empty buffer for the device. */
static gpa_t give(struct fixture *x, unsigned int q, uint32_t len)
{
	gpa_t at = vqd_alloc(&x->d[q], len, 1);
	struct vqd_buf b = { at, len, true };

	vqd_post(&x->d[q], &b, 1);
	kick(x, q);
	return at;
}

/* Bytes of the driver, in two pieces. */
static void print(struct fixture *x, unsigned int q, const void *bytes, uint32_t len)
{
	gpa_t at = vqd_alloc(&x->d[q], len + 1, 1);
	uint32_t half = len / 2;
	struct vqd_buf b[2] = { { at, half, false }, { at + half + 1, len - half, false } };

	if (half)
		memcpy(vqd_at(&x->d[q], at, half), bytes, half);
	memcpy(vqd_at(&x->d[q], at + half + 1, len - half), (const uint8_t *)bytes + half,
	       len - half);
	vqd_post(&x->d[q], b, 2);
	kick(x, q);
}

static void control(struct fixture *x, uint32_t id, uint16_t event, uint16_t value)
{
	struct virtio_console_control m = { id, event, value };

	print(x, CONSOLE_CTRL_TX, &m, sizeof(m));
	assert_int_equal(wait_used(x, CONSOLE_CTRL_TX), 0);
}

static void wants_bytes(struct fixture *x, unsigned int q, gpa_t at, const void *bytes,
			uint32_t len)
{
	assert_int_equal(wait_used(x, q), len);
	assert_memory_equal(vqd_at(&x->d[q], at, len), bytes, len);
}

static void wants_message(struct fixture *x, gpa_t at, uint16_t event, uint16_t value,
			  const char *text)
{
	uint8_t want[sizeof(struct virtio_console_control) + CONSOLE_NAME];
	struct virtio_console_control m = { 0, event, value };

	memcpy(want, &m, sizeof(m));
	memcpy(want + sizeof(m), text, strlen(text));
	wants_bytes(x, CONSOLE_CTRL_RX, at, want, (uint32_t)(sizeof(m) + strlen(text)));
}

/* --- the host's side -------------------------------------------------------------------------- */

static void in_file(struct fixture *x, const char *want)
{
	char buf[256] = "";
	int fd = open(x->path, O_RDONLY | O_CLOEXEC);

	for (unsigned int i = 0; i < DEADLINE / 10; i++) {
		(void)fake_vm_run(x->f, never, NULL, 10);
		if (pread(fd, buf, sizeof(buf) - 1, 0) == (ssize_t)strlen(want))
			break;
	}
	close(fd);
	assert_string_equal(buf, want);
}

static const char *spec_of(struct fixture *x, const char *kind)
{
	snprintf(x->spec, sizeof(x->spec), "%s:%s", kind, x->path);
	return x->spec;
}

static int client(struct fixture *x)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", x->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_what_is_offered(void **state)
{
	struct fixture *x = *state;

	plug(x, "none", NULL);
	assert_int_equal(x->v->offered, offer_features(VIRTIO_ID_CONSOLE, 1));
	assert_int_equal(x->v->nqueues, 2);
	drive(x, CORE);
	assert_int_equal(config(x, 0, 4), 0);
	assert_int_equal(config(x, 4, 4), 1);
	fake_vm_free(x->f);
	plug(x, "none", "org.unvmm.port");
	assert_int_equal(x->v->offered, offer_features(VIRTIO_ID_CONSOLE, 2));
	assert_int_equal(x->v->nqueues, 4);
	/* The operator looks at the serial port, also when that leads nowhere. */
	assert_ptr_equal(x->f->vm.attended, x->f->vm.console);
}

static void test_output(void **state)
{
	struct fixture *x = *state;

	plug(x, spec_of(x, "file"), NULL);
	assert_ptr_equal(x->f->vm.attended, x->con->chardev);
	drive(x, CORE);
	print(x, CONSOLE_TX, "hello, ", 7);
	print(x, CONSOLE_TX, "world\n", 6);
	assert_int_equal(wait_used(x, CONSOLE_TX), 0);
	assert_int_equal(wait_used(x, CONSOLE_TX), 0);
	in_file(x, "hello, world\n");
	/* What is on its way is not left behind by a pause. */
	print(x, CONSOLE_TX, "bye", 3);
	assert_int_equal(wait_used(x, CONSOLE_TX), 0);
	print(x, CONSOLE_TX, "!", 1);
	assert_int_equal(x->dev->cls->quiesce(x->dev), 0);
	x->dev->cls->resume(x->dev);
	assert_int_equal(wait_used(x, CONSOLE_TX), 0);
	in_file(x, "hello, world\nbye!");
}

struct flood {
	struct virtio_console *con;
	uint64_t bytes;
};

/* A guest that refills the ring as fast as it is emptied, or until enough is enough. */
static void refill(void *arg, const uint8_t *buf, size_t len)
{
	static const uint8_t more[CONSOLE_RING];
	struct flood *f = arg;

	(void)buf;
	f->bytes += len;
	pthread_mutex_lock(&f->con->lock);
	if (f->bytes < MiB(1))
		(void)console_ring_put(&f->con->to_host, more, sizeof(more));
	pthread_mutex_unlock(&f->con->lock);
}

static bool flooded(void *arg)
{
	const struct flood *f = arg;

	return f->bytes >= MiB(1) && !f->con->to_host.len;
}

/* The control lock is let go again and again, and nothing is left behind. */
static void test_flood(void **state)
{
	struct fixture *x = *state;
	struct flood f = { 0 };

	plug(x, "none", NULL);
	drive(x, CORE);
	f.con = x->con;
	chardev_watch(x->con->chardev, refill, &f);
	refill(&f, NULL, 0);
	x->con->main_work.fn(&x->con->main_work);
	assert_in_range(f.bytes, 1, CONSOLE_RING);
	assert_true(fake_vm_run(x->f, flooded, &f, DEADLINE));
}

static void test_emergency_write(void **state)
{
	struct fixture *x = *state;

	plug(x, spec_of(x, "file"), NULL);
	reg_write(x, VP_DEVICE + 8, 4, '!'); /* no driver has touched it */
	reg_write(x, VP_DEVICE + 8, 1, '?');
	reg_write(x, VP_DEVICE + 4, 4, 'x'); /* another field: read-only */
	reg_write(x, VP_DEVICE + 9, 1, 'x');
	in_file(x, "!?");
}

static void test_input(void **state)
{
	struct fixture *x = *state;
	static uint8_t data[20000];
	size_t sent = 0, got = 0;
	gpa_t at;
	int fd;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i % 251);
	plug(x, spec_of(x, "unix"), NULL);
	fd = client(x);
	/* Before the driver is there, and while it has no buffers, nothing is lost. */
	while (sent < sizeof(data)) {
		ssize_t n = write(fd, data + sent, sizeof(data) - sent);

		if (n > 0)
			sent += (size_t)n;
		(void)fake_vm_run(x->f, never, NULL, 4);
	}
	drive(x, CORE);
	while (got < sizeof(data)) {
		uint32_t n;

		at = give(x, CONSOLE_RX, 700);
		n = wait_used(x, CONSOLE_RX);
		assert_in_range(n, 1, 700);
		assert_memory_equal(vqd_at(&x->d[CONSOLE_RX], at, n), data + got, n);
		got += n;
	}
	/* A buffer that was there first gets what comes. */
	at = give(x, CONSOLE_RX, 700);
	wants_unused(x, CONSOLE_RX);
	assert_int_equal(write(fd, "now", 3), 3);
	wants_bytes(x, CONSOLE_RX, at, "now", 3);
	close(fd);
}

/* A chain larger than the ring, to a reader that is slow: held, and passed on whole. */
static void test_output_is_held(void **state)
{
	struct fixture *x = *state;
	static uint8_t data[400000], buf[4096];
	size_t got = 0;
	ssize_t n;
	int fd;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i % 253);
	assert_int_equal(mkfifo(x->path, 0600), 0);
	fd = open(x->path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	plug(x, spec_of(x, "file"), NULL);
	drive(x, CORE);
	print(x, CONSOLE_TX, data, sizeof(data));
	wants_unused(x, CONSOLE_TX);
	(void)fake_vm_run(x->f, never, NULL, 100);
	/* A pause in the middle: the chain goes on where it was. */
	assert_int_equal(x->dev->cls->quiesce(x->dev), 0);
	assert_true(x->con->tx_held);
	assert_true(x->con->tx_done > 65536);
	state_check_roundtrip(x->dev->id, x->dev->state, x->dev->nstate);
	x->dev->cls->resume(x->dev);
	while (got < sizeof(data)) {
		while ((n = read(fd, buf, sizeof(buf))) > 0) {
			for (ssize_t i = 0; i < n; i++)
				assert_int_equal(buf[i], (got + (size_t)i) % 253);
			got += (size_t)n;
		}
		(void)fake_vm_run(x->f, never, NULL, 4);
	}
	assert_int_equal(wait_used(x, CONSOLE_TX), 0);
	/* It stops reading for good: the guest is held for a second, and goes on without it. */
	print(x, CONSOLE_TX, data, sizeof(data));
	assert_int_equal(wait_used(x, CONSOLE_TX), 0);
	close(fd);
}

static void test_reset_forgets_a_held_chain(void **state)
{
	struct fixture *x = *state;
	static uint8_t data[400000];
	struct diag d = { 0 };
	int fd;

	assert_int_equal(mkfifo(x->path, 0600), 0);
	fd = open(x->path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	plug(x, spec_of(x, "file"), NULL);
	drive(x, CORE);
	print(x, CONSOLE_TX, data, sizeof(data));
	(void)fake_vm_run(x->f, never, NULL, 100);
	assert_int_equal(x->dev->cls->quiesce(x->dev), 0);
	assert_true(x->con->tx_done > 0);
	x->dev->cls->resume(x->dev);
	assert_int_equal(x->dev->cls->reset(x->dev, &d), 0);
	assert_int_equal(x->con->tx_done, 0);
	close(fd);
}

static void test_window(void **state)
{
	struct fixture *x = *state;
	struct winsize w = { .ws_col = 80, .ws_row = 25 };
	int master, slave, saved[2] = { dup(0), dup(1) };

	assert_int_equal(openpty(&master, &slave, NULL, NULL, &w), 0);
	fflush(stdout);
	dup2(slave, 0);
	dup2(slave, 1);
	plug(x, "stdio", NULL);
	drive(x, CORE | VIRTIO_BIT(VIRTIO_CONSOLE_F_SIZE));
	/* cmocka has something to say on the real stdout. */
	assert_ptr_equal(x->f->vm.attended, x->con->chardev);
	assert_int_equal(config(x, 0, 2), 80);
	assert_int_equal(config(x, 2, 2), 25);
	(void)fake_signal_taken(x->v->transport->config_fd);
	w = (struct winsize){ .ws_col = 132, .ws_row = 50 };
	assert_int_equal(ioctl(master, TIOCSWINSZ, &w), 0);
	chardev_resized(x->f->vm.attended);
	assert_true(fake_signal_taken(x->v->transport->config_fd));
	assert_int_equal(config(x, 0, 2), 132);
	assert_int_equal(config(x, 2, 2), 50);
	chardev_resized(x->f->vm.attended); /* nothing new */
	assert_false(fake_signal_taken(x->v->transport->config_fd));
	fake_vm_free(x->f);
	x->f = NULL;
	dup2(saved[0], 0);
	dup2(saved[1], 1);
	close(saved[0]);
	close(saved[1]);
	close(master);
	close(slave);
}

static void test_port(void **state)
{
	struct fixture *x = *state;
	gpa_t at[3], in;
	char buf[16];
	int fd;

	plug(x, spec_of(x, "unix"), "org.unvmm.port");
	drive(x, PORTS);
	for (unsigned int i = 0; i < 3; i++)
		at[i] = give(x, CONSOLE_CTRL_RX, 128);
	wants_unused(x, CONSOLE_CTRL_RX);
	control(x, VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY, 1);
	wants_message(x, at[0], VIRTIO_CONSOLE_PORT_ADD, 0, "");
	control(x, 0, VIRTIO_CONSOLE_PORT_READY, 1);
	wants_message(x, at[1], VIRTIO_CONSOLE_PORT_NAME, 1, "org.unvmm.port");
	wants_message(x, at[2], VIRTIO_CONSOLE_PORT_OPEN, 0, "");
	/* The host's end is opened; without a buffer the news waits. */
	fd = client(x);
	assert_int_equal(write(fd, "early", 5), 5);
	(void)fake_vm_run(x->f, never, NULL, 30);
	assert_int_equal(x->con->ctrl.send, CONSOLE_SEND_OPEN);
	assert_int_equal(x->dev->cls->quiesce(x->dev), 0);
	state_check_roundtrip(x->dev->id, x->dev->state, x->dev->nstate);
	state_check_refuses(x->dev->id, x->dev->state, x->dev->nstate, "/virtio-console",
			    "ctrl.send", 8, "control messages 0x8");
	x->dev->cls->resume(x->dev);
	at[0] = give(x, CONSOLE_CTRL_RX, 128);
	wants_message(x, at[0], VIRTIO_CONSOLE_PORT_OPEN, 1, "");
	/* Input waits until somebody in the guest opens the port. */
	in = give(x, CONSOLE_RX, 16);
	wants_unused(x, CONSOLE_RX);
	control(x, 0, VIRTIO_CONSOLE_PORT_OPEN, 1);
	wants_bytes(x, CONSOLE_RX, in, "early", 5);
	print(x, CONSOLE_TX, "answer", 6);
	assert_int_equal(wait_used(x, CONSOLE_TX), 0);
	(void)fake_vm_run(x->f, never, NULL, 30);
	assert_int_equal(read(fd, buf, sizeof(buf)), 6);
	at[0] = give(x, CONSOLE_CTRL_RX, 128);
	close(fd);
	wants_message(x, at[0], VIRTIO_CONSOLE_PORT_OPEN, 0, "");
	/* A reset starts all over. */
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	(void)fake_vm_run(x->f, never, NULL, 30);
	assert_int_equal(status(x), 0);
	assert_false(x->con->ctrl.ready || x->con->ctrl.guest_open || x->con->ctrl.send);
}

static void test_hostile_control(void **state)
{
	static const struct virtio_console_control messages[] = {
		{ 1, VIRTIO_CONSOLE_PORT_READY, 1 },
		{ 0x80000000, VIRTIO_CONSOLE_PORT_OPEN, 1 },
		{ VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_PORT_OPEN, 1 },
		{ 0, VIRTIO_CONSOLE_PORT_ADD, 1 },
		{ 0, VIRTIO_CONSOLE_PORT_NAME, 1 },
		{ 0, VIRTIO_CONSOLE_RESIZE, 1 },
		{ 0, 0xffff, 0xffff },
		{ 0, VIRTIO_CONSOLE_DEVICE_READY, 0 },
		{ 0, VIRTIO_CONSOLE_PORT_READY, 0 },
	};
	struct fixture *x = *state;
	uint8_t many[300] = { 0 };

	plug(x, "none", "p");
	drive(x, PORTS);
	for (unsigned int i = 0; i < ARRAY_SIZE(messages); i++)
		control(x, messages[i].id, messages[i].event, messages[i].value);
	assert_false(x->con->ctrl.ready || x->con->ctrl.guest_open || x->con->ctrl.send);
	print(x, CONSOLE_CTRL_TX, many, 7); /* too short */
	assert_int_equal(wait_used(x, CONSOLE_CTRL_TX), 0);
	print(x, CONSOLE_CTRL_TX, many, sizeof(many)); /* DEVICE_READY with value 0, and more */
	assert_int_equal(wait_used(x, CONSOLE_CTRL_TX), 0);
	/* However often it asks, a message waits once. */
	for (unsigned int i = 0; i < 200; i++) {
		control(x, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
		control(x, 0, VIRTIO_CONSOLE_PORT_READY, 1);
	}
	assert_int_equal(x->con->ctrl.send, CONSOLE_SEND_ALL);
	assert_int_equal(status(x), LIVE);
	/* A buffer too small for a message. */
	give(x, CONSOLE_CTRL_RX, 7);
	assert_true(fake_vm_run(x->f, needs_reset, x, DEADLINE));
}

static void test_hostile_chains(void **state)
{
	struct fixture *x = *state;
	struct vqd_buf b;
	int fd;

	plug(x, spec_of(x, "unix"), NULL);
	drive(x, CORE);
	/* Writable output is no output. */
	b = (struct vqd_buf){ vqd_alloc(&x->d[CONSOLE_TX], 64, 1), 64, true };
	vqd_post(&x->d[CONSOLE_TX], &b, 1);
	kick(x, CONSOLE_TX);
	assert_int_equal(wait_used(x, CONSOLE_TX), 0);
	/* Input buffers that cannot be written to. */
	fd = client(x);
	assert_int_equal(write(fd, "x", 1), 1);
	b = (struct vqd_buf){ vqd_alloc(&x->d[CONSOLE_RX], 64, 1), 64, false };
	vqd_post(&x->d[CONSOLE_RX], &b, 1);
	kick(x, CONSOLE_RX);
	assert_true(fake_vm_run(x->f, needs_reset, x, DEADLINE));
	close(fd);
	/* The driver resets it, and all is well; then a head that there is not. */
	reg_write(x, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	(void)fake_vm_run(x->f, never, NULL, 30);
	drive(x, CORE);
	print(x, CONSOLE_TX, "ok", 2);
	assert_int_equal(wait_used(x, CONSOLE_TX), 0);
	vqd_post_head(&x->d[CONSOLE_TX], SIZE);
	kick(x, CONSOLE_TX);
	assert_true(fake_vm_run(x->f, needs_reset, x, DEADLINE));
}

static void test_bad_chardev(void **state)
{
	struct fake_vm *f = fake_vm_with_pci();
	struct console_conf conf = { .chardev = "file:/nonexistent/x" };
	struct device dev = { .id = "console0" };
	struct diag d = { 0 };

	(void)state;
	assert_true(virtio_console_class.create(&f->vm, &dev, &conf, &d) < 0);
	assert_non_null(strstr(d.text, "/nonexistent/x"));
	fake_vm_free(f);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_what_is_offered),
		T(test_output),
		T(test_flood),
		T(test_emergency_write),
		T(test_input),
		T(test_output_is_held),
		T(test_reset_forgets_a_held_chain),
		T(test_window),
		T(test_port),
		T(test_hostile_control),
		T(test_hostile_chains),
		cmocka_unit_test(test_bad_chardev),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
