/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_chardev.c - the console's other end: files, sockets, pipes and terminals.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_vm.h"

/* A device that takes `room` bytes and no more until it is given new room. */
struct sink {
	uint8_t buf[128 * 1024];
	size_t len, room, want;
};

struct fixture {
	char dir[32];
	int saved[2]; /* the test's own stdin and stdout */
	struct fake_vm *f;
	struct sink sink;
};

static size_t sink_room(void *dev)
{
	return ((struct sink *)dev)->room;
}

static void sink_receive(void *dev, const uint8_t *buf, size_t len)
{
	struct sink *s = dev;

	assert_in_range(len, 1, s->room);
	assert_true(s->len + len <= sizeof(s->buf));
	memcpy(s->buf + s->len, buf, len);
	s->len += len;
	s->room -= len;
}

static bool sink_has(void *arg)
{
	struct sink *s = arg;

	return s->len >= s->want;
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	assert_non_null(x);
	strcpy(x->dir, "/tmp/unvmm-chardev-XXXXXX");
	assert_non_null(mkdtemp(x->dir));
	fflush(stdout);
	x->saved[0] = dup(STDIN_FILENO);
	x->saved[1] = dup(STDOUT_FILENO);
	signal(SIGPIPE, SIG_IGN); /* as main does */
	*state = x;
	return 0;
}

static void restore_stdio(struct fixture *x)
{
	dup2(x->saved[0], STDIN_FILENO);
	dup2(x->saved[1], STDOUT_FILENO);
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	char cmd[64];

	restore_stdio(x);
	if (x->f)
		fake_vm_free(x->f);
	close(x->saved[0]);
	close(x->saved[1]);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", x->dir);
	assert_int_equal(system(cmd), 0);
	free(x);
	return 0;
}

static void start(struct fixture *x, const char *spec, size_t room)
{
	struct chardev_user user = { .room = sink_room, .receive = sink_receive, .dev = &x->sink };

	x->f = fake_vm_new(spec);
	x->sink.room = room;
	chardev_attach(x->f->vm.console, &user);
}

static void start_stdio(struct fixture *x, int in, int out, size_t room)
{
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	start(x, "stdio", room);
}

static void stop(struct fixture *x)
{
	fake_vm_free(x->f);
	x->f = NULL;
}

static void put(struct fixture *x, const void *buf, size_t len)
{
	chardev_write(x->f->vm.console, buf, len);
}

static void expect_input(struct fixture *x, const char *text)
{
	x->sink.want = strlen(text);
	if (!fake_vm_run(x->f, sink_has, &x->sink, 2000))
		fail_msg("the device got %zu bytes instead of \"%s\"", x->sink.len, text);
	assert_int_equal(x->sink.len, strlen(text));
	assert_memory_equal(x->sink.buf, text, strlen(text));
	x->sink.len = 0;
}

static void path_in(struct fixture *x, char *buf, size_t size, const char *prefix, const char *name)
{
	snprintf(buf, size, "%s%s/%s", prefix, x->dir, name);
}

static void refused(const char *spec, const char *says)
{
	struct fake_vm *f = fake_vm_new("none");
	struct diag d = { 0 };

	assert_null(chardev_open(&f->vm, spec, &d));
	if (!strstr(d.text, says))
		fail_msg("the refusal \"%s\" does not say \"%s\"", d.text, says);
	fake_vm_free(f);
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void test_bad_specs(void **state)
{
	char spec[200];

	(void)state;
	refused("", "must be \"stdio\"");
	refused("vty", "must be \"stdio\", \"file:PATH\"");
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
	assert_true(seconds() - t < 0.9);
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
			assert_true(fake_vm_run(x->f, sink_has, &x->sink, 2000));
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
	size_t got;
	bool broken;
	unsigned int pause_us;
};

static void *slow_reader(void *arg)
{
	struct reader *r = arg;
	uint8_t buf[4096];
	ssize_t n;

	while ((n = read(r->fd, buf, sizeof(buf))) > 0) {
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
	struct reader r = { .pause_us = 2000 };
	static uint8_t data[600000];
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
	for (size_t i = 0; i < sizeof(data); i += 100) {
		put(x, data + i, 100);
		x->f->out_len = 0;
	}
	stop(x);
	restore_stdio(x);
	close(out[1]);
	pthread_join(t, NULL);
	close(out[0]);
	assert_int_equal(r.got, sizeof(data));
	assert_false(r.broken);
}

/* A reader that has stopped holds the guest for about a second, once; then output is dropped. */
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
	t = seconds() - t;
	assert_true(t > 0.9 && t < 2);
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

static void tty_type(int master, const char *keys, size_t len)
{
	assert_int_equal(write(master, keys, len), (ssize_t)len);
}

static void test_terminal(void **state)
{
	struct fixture *x = *state;
	struct termios before, during, after;
	int master, slave, fd;
	char buf[64];

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	tcgetattr(slave, &before);
	start_stdio(x, slave, slave, 1000);
	tcgetattr(slave, &during);
	assert_true((before.c_lflag & ICANON) && (before.c_lflag & ISIG));
	assert_false(during.c_lflag & (ICANON | ECHO | ISIG | IEXTEN));
	assert_true(during.c_oflag & OPOST);
	assert_true(chardev_saved_terminal(x->f->vm.console, &fd, &after));
	assert_int_equal(fd, STDIN_FILENO);
	assert_int_equal(after.c_lflag, before.c_lflag);
	/* Ctrl-C is a key like others; Ctrl-A is ours. */
	tty_type(master, "a\003b", 3);
	expect_input(x, "a\003b");
	tty_type(master, "\001", 1);
	tty_type(master, "\001c\001qd", 5);
	expect_input(x, "\001cd");
	put(x, "hello", 5);
	assert_int_equal(read(master, buf, sizeof(buf)), 5);
	assert_int_equal(x->f->vm.event, VM_EVENT_NONE);
	tty_type(master, "\001x", 2);
	(void)fake_vm_run(x->f, never, NULL, 20);
	assert_int_equal(x->f->vm.event, VM_EVENT_QUIT);
	stop(x);
	tcgetattr(slave, &after);
	assert_int_equal(after.c_lflag, before.c_lflag);
	assert_int_equal(after.c_iflag, before.c_iflag);
	close(master);
	close(slave);
}

/* Ctrl-A x ends a guest that takes no input. */
static void test_terminal_hung_guest(void **state)
{
	struct fixture *x = *state;
	int master, slave;
	char keys[1000];

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	start_stdio(x, slave, slave, 0);
	memset(keys, 'k', sizeof(keys));
	for (int i = 0; i < 100; i++) {
		tty_type(master, keys, sizeof(keys));
		(void)fake_vm_run(x->f, never, NULL, 2);
	}
	tty_type(master, "\001x", 2);
	(void)fake_vm_run(x->f, never, NULL, 50);
	assert_int_equal(x->f->vm.event, VM_EVENT_QUIT);
	close(master);
	close(slave);
}

/* Says to the shell that it may go on, and waits until the shell says so. */
static bool your_turn(int to, int from)
{
	char c;

	return write(to, "t", 1) == 1 && read(from, &c, 1) == 1;
}

/* A job of the terminal, first in the background, then in the foreground, then sent back. */
static int background_job(struct fixture *x, int slave, int to_shell, int from_shell)
{
	struct termios t;

	setpgid(0, 0);
	start_stdio(x, slave, slave, 1000);
	tcgetattr(slave, &t);
	if (!(t.c_lflag & ICANON))
		return 1; /* it changed a terminal that is not its own */
	(void)fake_vm_run(x->f, never, NULL, 50);
	if (x->sink.len)
		return 2;
	if (!your_turn(to_shell, from_shell))
		return 3;
	chardev_continue(x->f->vm.console);
	tcgetattr(slave, &t);
	if (t.c_lflag & ICANON)
		return 4;
	x->sink.want = 3;
	if (!fake_vm_run(x->f, sink_has, &x->sink, 2000))
		return 5;
	x->sink.len = 0;
	if (!your_turn(to_shell, from_shell))
		return 6;
	/* The shell's keys again: reading them would stop this process. */
	(void)fake_vm_run(x->f, never, NULL, 50);
	if (x->sink.len)
		return 7;
	stop(x);
	tcgetattr(slave, &t);
	return t.c_lflag & ISIG ? 0 : 8;
}

/* The shell: session leader with the terminal. */
static int shell(struct fixture *x, int slave, int master)
{
	int to_shell[2], to_job[2], status;
	struct termios own;
	pid_t job;
	char c;

	signal(SIGTTOU, SIG_IGN);
	if (setsid() < 0 || ioctl(slave, TIOCSCTTY, 0) || pipe(to_shell) || pipe(to_job))
		return 10;
	tcgetattr(slave, &own);
	job = fork();
	if (job == 0) {
		signal(SIGTTOU, SIG_DFL);
		_exit(background_job(x, slave, to_shell[1], to_job[0]));
	}
	setpgid(job, job);
	if (write(master, "sh\n", 3) != 3 || read(to_shell[0], &c, 1) != 1)
		return 11;
	tcsetpgrp(slave, job);
	if (write(to_job[1], "g", 1) != 1 || read(to_shell[0], &c, 1) != 1)
		return 12;
	tcsetpgrp(slave, getpgrp());
	tcsetattr(slave, TCSANOW, &own);
	if (write(master, "sh\n", 3) != 3 || write(to_job[1], "g", 1) != 1)
		return 13;
	if (waitpid(job, &status, WUNTRACED) != job)
		return 14;
	if (WIFSTOPPED(status)) {
		kill(job, SIGKILL);
		return 15;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 16;
}

static void test_background(void **state)
{
	struct fixture *x = *state;
	int master, slave, status;
	pid_t pid;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	pid = fork();
	if (pid == 0) {
		alarm(10);
		_exit(shell(x, slave, master));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	close(master);
	close(slave);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_bad_specs),
		T(test_none_and_inject),
		T(test_file),
		T(test_disk_full),
		T(test_unix),
		T(test_unix_half_closed),
		T(test_unix_paths),
		T(test_unix_slow_client),
		T(test_flow_control),
		T(test_stdin_ends),
		T(test_stdio_closed),
		T(test_slow_pipe),
		T(test_stopped_pipe),
		T(test_terminal),
		T(test_terminal_hung_guest),
		T(test_background),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
