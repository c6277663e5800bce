/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_vm.c - a struct vm without KVM and vcpus. Runs on the test's only thread.
 */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_vm.h"

#define TICK_MS 2

static void record(void *opaque, const uint8_t *buf, size_t len)
{
	struct fake_vm *f = opaque;

	if (len > sizeof(f->out) - f->out_len)
		fail_msg("the guest printed more than the fake console holds");
	memcpy(f->out + f->out_len, buf, len);
	f->out_len += len;
}

struct fake_vm *fake_vm_new(const char *console)
{
	struct fake_vm *f = calloc(1, sizeof(*f));
	struct diag d = { 0 };

	assert_non_null(f);
	if (vm_init(&f->vm, &f->config, &d))
		fail_msg("%s", d.text);
	f->vm.console = chardev_open(&f->vm, console, &d);
	if (!f->vm.console)
		fail_msg("%s", d.text);
	f->vm.attended = f->vm.console;
	chardev_watch(f->vm.console, record, f);
	return f;
}

void fake_vm_free(struct fake_vm *f)
{
	struct device *dev, *next;

	for (dev = f->vm.devices; dev; dev = next) {
		next = dev->next;
		dev->cls->destroy(dev);
		free(dev);
	}
	chardev_close(f->vm.console);
	vm_fini(&f->vm);
	free(f);
}

struct device *fake_vm_add(struct fake_vm *f, const struct device_class *cls, const void *conf)
{
	struct device *dev = calloc(1, sizeof(*dev));
	struct diag d = { 0 };

	assert_non_null(dev);
	snprintf(dev->id, sizeof(dev->id), "%s0", cls->id);
	dev->cls = cls;
	if (cls->create(&f->vm, dev, conf, &d))
		fail_msg("%s", d.text);
	dev->next = f->vm.devices;
	f->vm.devices = dev;
	return dev;
}

struct tick {
	struct loop_fd watch;
	struct fake_vm *f;
	bool (*cond)(void *arg);
	void *arg;
	unsigned int left;
	bool met;
};

static void tick_ready(struct loop_fd *lf, uint32_t revents)
{
	struct tick *t = container_of(lf, struct tick, watch);
	uint64_t n;

	(void)revents;
	if (read(t->watch.fd, &n, sizeof(n)) != (ssize_t)sizeof(n))
		return;
	t->met = t->cond(t->arg);
	t->left = n < t->left ? t->left - (unsigned int)n : 0;
	if (t->met || !t->left)
		loop_quit(&t->f->vm.main_loop);
}

bool fake_vm_run(struct fake_vm *f, bool (*cond)(void *arg), void *arg, unsigned int ms)
{
	struct itimerspec every = { .it_value.tv_nsec = TICK_MS * 1000000,
				    .it_interval.tv_nsec = TICK_MS * 1000000 };
	struct tick t = { .f = f, .cond = cond, .arg = arg, .left = ms / TICK_MS + 1 };
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(timerfd_settime(fd, 0, &every, NULL), 0);
	assert_int_equal(loop_add(&f->vm.main_loop, &t.watch, fd, POLLIN, tick_ready), 0);
	assert_int_equal(loop_run(&f->vm.main_loop), 0);
	loop_del(&t.watch);
	close(fd);
	return t.met;
}
