/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_chardev.c - the console's other end: files, sockets and pipes. Terminals:
 * test_chardev_tty.c.
 */
#include "chardev_env.h"

static void test_bad_specs(void **state)
{
	char spec[200];

	(void)state;
	refused("", "must be \"stdio\"");
	refused("vty", "must be \"stdio\", \"none\"");
	refused("file:/nonexistent/x", "console \"file:/nonexistent/x\": No such file");
	refused("unix:", "1 to 107 characters");
	memset(spec, 'a', sizeof(spec) - 1);
	spec[sizeof(spec) - 1] = '\0';
	memcpy(spec, "unix:", 5);
	refused(spec, "1 to 107 characters");
}

static void test_none_and_inject(void **state)
{
	struct fixture *x = *state;
	static uint8_t big[65536];

	start(x, "none", 0);
	put(x, "lost", 4);
	assert_int_equal(chardev_inject(x->f->vm.console, big, sizeof(big)), 0);
	assert_int_equal(chardev_inject(x->f->vm.console, big, 1), -ENOSPC);
	/* No room: nothing is delivered, and nothing is lost. */
	assert_false(fake_vm_run(x->f, never, NULL, 20));
	assert_int_equal(x->sink.len, 0);
	x->sink.room = sizeof(big);
	chardev_poll_input(x->f->vm.console);
	assert_int_equal(x->sink.len, sizeof(big));
}

static void test_file(void **state)
{
	struct fixture *x = *state;
	char path[64], spec[64], buf[16];
	struct stat st;
	int fd;

	path_in(x, path, sizeof(path), "", "log");
	path_in(x, spec, sizeof(spec), "file:", "log");
	start(x, spec, 0);
	put(x, "one", 3);
	put(x, "two", 3);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(st.st_size, 6); /* there at once, not at the end */
	stop(x);
	start(x, spec, 0);
	put(x, "new", 3);
	stop(x);
	fd = open(path, O_RDONLY);
	assert_int_equal(read(fd, buf, sizeof(buf)), 3);
	assert_memory_equal(buf, "new", 3);
	close(fd);
}

/* A full disk loses output, says so, and does not end the console. */
static void test_disk_full(void **state)
{
	struct fixture *x = *state;

	start(x, "file:/dev/full", 0);
	for (int i = 0; i < 1000; i++)
		put(x, "x", 1);
	stop(x);
}

static int client(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		close(fd);
		return -errno;
	}
	return fd;
}

static void test_unix(void **state)
{
	struct fixture *x = *state;
	char path[64], spec[64], buf[16];
	int a, b;
	struct stat st;

	path_in(x, path, sizeof(path), "", "sock");
	path_in(x, spec, sizeof(spec), "unix:", "sock");
	start(x, spec, 1000);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	put(x, "nobody listens", 14);
	a = client(path);
	b = client(path);
	assert_int_equal(write(a, "from a", 6), 6);
	assert_int_equal(write(b, "from b", 6), 6);
	expect_input(x, "from a");
	put(x, "to a", 4);
	assert_int_equal(read(a, buf, sizeof(buf)), 4);
	assert_memory_equal(buf, "to a", 4);
	/* The second one has its turn when the first has gone. */
	assert_int_equal(read(b, buf, sizeof(buf)), -1);
	close(a);
	expect_input(x, "from b");
	put(x, "to b", 4);
	assert_int_equal(read(b, buf, sizeof(buf)), 4);
	close(b);
	put(x, "gone", 4);
	stop(x);
	assert_int_equal(stat(path, &st), -1);
}

/* `echo key | socat - UNIX:console.sock`: nothing more to type is no reason not to listen. */
static void test_unix_half_closed(void **state)
{
	struct fixture *x = *state;
	char path[64], spec[64], buf[16];
	int a, b;

	path_in(x, path, sizeof(path), "", "sock");
	path_in(x, spec, sizeof(spec), "unix:", "sock");
	start(x, spec, 1000);
	a = client(path);
	b = client(path);
	assert_int_equal(write(a, "from a", 6), 6);
	assert_int_equal(shutdown(a, SHUT_WR), 0);
	expect_input(x, "from a");
	(void)fake_vm_run(x->f, never, NULL, 20);
	put(x, "to a", 4);
	assert_int_equal(read(a, buf, sizeof(buf)), 4);
	/* When it is gone altogether the next one has its turn. */
	close(a);
	assert_int_equal(write(b, "from b", 6), 6);
	expect_input(x, "from b");
	close(b);
	stop(x);
}

static void test_unix_paths(void **state)
{
	struct fixture *x = *state;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char path[64], spec[64];
	struct stat st;
	int fd;

	path_in(x, path, sizeof(path), "", "sock");
	path_in(x, spec, sizeof(spec), "unix:", "sock");
	/* Left behind by a process that died: replaced. */
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	start(x, spec, 0);
	/* In use: refused, and the owner keeps it. */
	refused(spec, "another process listens there");
	fd = client(path);
	assert_true(fd >= 0);
	close(fd);
	/* Replaced behind our back by somebody else's file: not removed at the end. */
	assert_int_equal(unlink(path), 0);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	refused(spec, "no socket is there");
	stop(x);
	assert_int_equal(stat(path, &st), 0);
}

/* A client that does not read loses output; the guest does not notice. */
static void test_unix_slow_client(void **state)
{
	struct fixture *x = *state;
	char path[64], spec[64];
	static uint8_t buf[8192];
	size_t got = 0;
	double t;
	ssize_t n;
	int fd;

	path_in(x, path, sizeof(path), "", "sock");
	path_in(x, spec, sizeof(spec), "unix:", "sock");
	start(x, spec, 100);
	fd = client(path);
	assert_int_equal(write(fd, "hi", 2), 2);
	expect_input(x, "hi");
	memset(buf, 'o', sizeof(buf));
	t = seconds();
	for (int i = 0; i < 1000; i++) {
		put(x, buf, 256);
		x->f->out_len = 0;
		if (i % 4 == 3)
			put(x, buf, sizeof(buf));
		x->f->out_len = 0;
	}
	assert_true(seconds() - t < 10); /* none of them waited for long */
	/* When it reads again it gets what was kept, in one piece, and then what is new. */
	for (int i = 0; i < 50; i++) {
		while ((n = read(fd, buf, sizeof(buf))) > 0)
			got += (size_t)n;
		(void)fake_vm_run(x->f, never, NULL, 4);
	}
	assert_true(got > 65536);
	put(x, "END", 3);
	assert_int_equal(read(fd, buf, sizeof(buf)), 3);
	close(fd);
}

/* Input larger than the device's room arrives whole and in order. */
static void test_flow_control(void **state)
{
	struct fixture *x = *state;
	static uint8_t data[100000];
	int in[2];
	size_t sent = 0;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i % 251); /* Ctrl-A included: no terminal, no escape */
	assert_int_equal(pipe2(in, O_CLOEXEC | O_NONBLOCK), 0);
	start_stdio(x, in[0], x->saved[1], 0);
	while (x->sink.len < sizeof(data)) {
		ssize_t n = write(in[1], data + sent, sizeof(data) - sent);

		if (n > 0)
			sent += (size_t)n;
		x->sink.want = x->sink.len + 1;
		x->sink.room = 700;
		chardev_poll_input(x->f->vm.console);
		if (!sink_has(&x->sink))
			assert_true(fake_vm_run(x->f, sink_has, &x->sink, 30000));
	}
	assert_memory_equal(x->sink.buf, data, sizeof(data));
	close(in[0]);
	close(in[1]);
}

static void test_stdin_ends(void **state)
{
	struct fixture *x = *state;
	char path[64];
	uint64_t turns;
	int fd;

	/* At its end from the start: the loop must come to rest. */
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	start_stdio(x, fd, fd, 100);
	(void)fake_vm_run(x->f, never, NULL, 20);
	turns = x->f->vm.main_loop.turns;
	(void)fake_vm_run(x->f, never, NULL, 100);
	assert_true(x->f->vm.main_loop.turns - turns < 100 / 2 + 20); /* the test's own ticks */
	stop(x);
	close(fd);
	/* A file is read to its end. */
	path_in(x, path, sizeof(path), "", "in");
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "\001xline\n", 7), 7);
	lseek(fd, 0, SEEK_SET);
	start_stdio(x, fd, x->saved[1], 100);
	expect_input(x, "\001xline\n");
	assert_int_equal(x->f->vm.event, VM_EVENT_NONE);
	stop(x);
	close(fd);
}

/* Without stdin and stdout it is as "none". */
static void test_stdio_closed(void **state)
{
	struct fixture *x = *state;
	struct chardev *c;

	start(x, "none", 0);
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	c = chardev_open(&x->f->vm, "stdio", NULL);
	assert_non_null(c);
	chardev_write(c, (const uint8_t *)"x", 1);
	(void)fake_vm_run(x->f, never, NULL, 10);
	chardev_close(c);
}

struct reader {
	int fd;
	size_t got, want; /* 0: until the end */
	bool broken;
	unsigned int pause_us;
};

static void *slow_reader(void *arg)
{
	struct reader *r = arg;
	uint8_t buf[4096];
	ssize_t n;

	/* The ring may keep the other end open for a while after the console has let go of it. */
	while ((!r->want || r->got < r->want) && (n = read(r->fd, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			r->broken |= buf[i] != (uint8_t)((r->got + (size_t)i) % 253);
		r->got += (size_t)n;
		usleep(r->pause_us);
	}
	return NULL;
}

/* `unvmm run | slow program` gets every byte. */
static void test_slow_pipe(void **state)
{
	struct fixture *x = *state;
	static uint8_t data[600000];
	struct reader r = { .pause_us = 2000, .want = sizeof(data) };
	pthread_t t;
	int out[2];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i % 253);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	r.fd = out[0];
	start_stdio(x, x->saved[0], out[1], 0);
	/* The description that others share is not made non-blocking. */
	assert_int_equal(fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(pthread_create(&t, NULL, slow_reader, &r), 0);
	for (size_t i = 0; i < sizeof(data); i += 100)
		put_patiently(x, data + i, 100);
	assert_true(x->sink.writable > 0);
	stop(x);
	restore_stdio(x);
	close(out[1]);
	pthread_join(t, NULL);
	close(out[0]);
	assert_int_equal(r.got, sizeof(data));
	assert_false(r.broken);
}

/*
 * A reader that has stopped never makes a write wait, whatever the device does. A device that waits
 * is told after about a second that it need not any more, once; then output is dropped.
 */
static void test_stopped_pipe(void **state)
{
	struct fixture *x = *state;
	struct reader r = { 0 };
	static uint8_t data[400000];
	int out[2];
	double t;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i % 253);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	start_stdio(x, x->saved[0], out[1], 0);
	t = seconds();
	for (size_t i = 0; i < sizeof(data); i += 1000) {
		put(x, data + i, 1000);
		x->f->out_len = 0;
	}
	assert_true(seconds() - t < 10); /* none of them waited for long */
	assert_int_equal(chardev_room(x->f->vm.console), 0);
	assert_true(fake_vm_run(x->f, has_room, x, 30000));
	t = seconds() - t;
	assert_true(t > 0.9);
	assert_int_equal(x->sink.writable, 1);
	for (size_t i = 0; i < 100; i++) {
		put(x, data, 1000);
		x->f->out_len = 0;
		assert_int_equal(chardev_room(x->f->vm.console), 65536);
	}
	/* What had been taken is still passed on, without a gap. */
	r.fd = out[0];
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 20; i++) {
		slow_reader(&r);
		(void)fake_vm_run(x->f, never, NULL, 4);
	}
	assert_in_range(r.got, 2 * 65536 - 4096, 2 * 65536);
	assert_false(r.broken);
	/* It reads again: nothing more is lost, also of what has to be buffered. */
	r = (struct reader){ .fd = out[0] };
	put(x, data, 253 * 400);
	for (int i = 0; i < 20; i++) {
		slow_reader(&r);
		(void)fake_vm_run(x->f, never, NULL, 4);
	}
	assert_int_equal(r.got, 253 * 400);
	assert_false(r.broken);
	close(out[0]);
	put(x, "EPIPE", 5);
	put(x, "EPIPE", 5);
	close(out[1]);
}

/* `unvmm run 2>&1 | pager`: the message itself must not wait for the reader either. */
static void test_stopped_pipe_for_messages_too(void **state)
{
	struct fixture *x = *state;
	int out[2], saved = dup(STDERR_FILENO);
	static uint8_t data[200000];
	double t;

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	start_stdio(x, x->saved[0], out[1], 0);
	dup2(out[1], STDERR_FILENO);
	t = seconds();
	put(x, data, sizeof(data));
	put(x, data, sizeof(data) / 4);
	stop(x); /* waits for 1 s itself */
	t = seconds() - t;
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(out[0]);
	close(out[1]);
	assert_true(t < 10);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_bad_specs),    T(test_none_and_inject),
		T(test_file),	      T(test_disk_full),
		T(test_unix),	      T(test_unix_half_closed),
		T(test_unix_paths),   T(test_unix_slow_client),
		T(test_flow_control), T(test_stdin_ends),
		T(test_stdio_closed), T(test_slow_pipe),
		T(test_stopped_pipe), T(test_stopped_pipe_for_messages_too),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
