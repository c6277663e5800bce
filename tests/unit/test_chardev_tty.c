/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_chardev_tty.c - the console's other end: the terminal of stdio, and pseudo-terminals.
 */
#include "chardev_env.h"
#include "chardev_internal.h"

static void tty_type(int master, const char *keys, size_t len)
{
	assert_int_equal(write(master, keys, len), (ssize_t)len);
}

static bool quits(void *arg)
{
	return ((struct fixture *)arg)->f->vm.event == VM_EVENT_QUIT;
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
	assert_true(fake_vm_run(x->f, quits, x, 30000));
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
	size_t typed = 0;
	ssize_t n;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	start_stdio(x, slave, slave, 0);
	memset(keys, 'k', sizeof(keys));
	/* The terminal takes more when the console has read: both are this thread's. */
	fcntl(master, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 10000 && typed < 100 * sizeof(keys); i++) {
		n = write(master, keys, sizeof(keys));
		typed += n > 0 ? (size_t)n : 0;
		(void)fake_vm_run(x->f, never, NULL, 2);
	}
	assert_true(typed >= 100 * sizeof(keys));
	for (int i = 0; i < 10000 && write(master, "\001x", 2) != 2; i++)
		(void)fake_vm_run(x->f, never, NULL, 2);
	assert_true(fake_vm_run(x->f, quits, x, 30000));
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
	if (!fake_vm_run(x->f, sink_has, &x->sink, 30000))
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

/* What came to a reader; the kernel passes it on from a thread of its own. */
static ssize_t take(int fd, void *buf, size_t size)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 30000) == 1 ? read(fd, buf, size) : -1;
}

static int open_reader(const struct fixture *x)
{
	int fd = open(x->f->vm.console->pty, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void test_pty(void **state)
{
	struct fixture *x = *state;
	char path[64], spec[64], target[64] = "", buf[64];
	struct termios t;
	struct stat st;
	int a, b;

	path_in(x, path, sizeof(path), "", "link");
	path_in(x, spec, sizeof(spec), "pty:", "link");
	start(x, spec, 1000);
	assert_int_equal(chardev_kind(x->f->vm.console), CHARDEV_PTY);
	assert_true(readlink(path, target, sizeof(target) - 1) > 0);
	assert_string_equal(target, x->f->vm.console->pty);
	/* What was printed before a reader came is not lost; nothing is changed or echoed. */
	put(x, "early\n\x03", 7);
	a = open_reader(x);
	assert_int_equal(take(a, buf, sizeof(buf)), 7);
	assert_memory_equal(buf, "early\n\x03", 7);
	tcgetattr(a, &t);
	assert_false(t.c_lflag & (ECHO | ICANON | ISIG));
	assert_int_equal(write(a, "keys\r\x01x", 7), 7);
	expect_input(x, "keys\r\x01x");
	assert_int_equal(x->f->vm.event, VM_EVENT_NONE);
	/* Readers come and go. */
	close(a);
	(void)fake_vm_run(x->f, never, NULL, 20);
	put(x, "between", 7);
	(void)fake_vm_run(x->f, never, NULL, 20);
	b = open_reader(x);
	assert_int_equal(take(b, buf, sizeof(buf)), 7);
	assert_int_equal(write(b, "again", 5), 5);
	expect_input(x, "again");
	stop(x);
	assert_int_equal(lstat(path, &st), -1);
	close(b);
}

/* A pty that nobody reads holds a bounded part of the output, and never the guest. */
static void test_pty_without_reader(void **state)
{
	struct fixture *x = *state;
	static uint8_t buf[8192];
	struct json_object *o, *lost;
	struct report r;
	uint64_t turns;
	size_t got = 0;
	double t;
	ssize_t n;
	int fd;

	start(x, "pty", 100);
	memset(buf, 'o', sizeof(buf));
	t = seconds();
	for (int i = 0; i < 200; i++) {
		assert_true(chardev_room(x->f->vm.console) > 0);
		put(x, buf, sizeof(buf));
		x->f->out_len = 0;
		if (i % 20 == 0)
			(void)fake_vm_run(x->f, never, NULL, 2);
	}
	assert_true(seconds() - t < 10); /* none of them waited for long */
	turns = x->f->vm.main_loop.turns;
	(void)fake_vm_run(x->f, never, NULL, 100);
	assert_true(x->f->vm.main_loop.turns - turns < 100 / 2 + 20); /* the test's own ticks */
	o = report_begin(&r);
	chardev_stats(x->f->vm.console, &r);
	assert_true(json_object_object_get_ex(o, "bytes-lost", &lost));
	assert_in_range(json_object_get_uint64(lost), 200 * 8192 - 300000, 200 * 8192 - 65536);
	json_object_put(o);
	fd = open_reader(x);
	for (int i = 0; i < 100; i++) {
		while ((n = read(fd, buf, sizeof(buf))) > 0)
			got += (size_t)n;
		(void)fake_vm_run(x->f, never, NULL, 4);
	}
	assert_in_range(got, 65536, 300000);
	put(x, "END", 3);
	assert_int_equal(take(fd, buf, sizeof(buf)), 3);
	close(fd);
}

static void test_pty_links(void **state)
{
	struct fixture *x = *state;
	char path[64], spec[64], target[64] = "";
	struct stat st;
	int fd;

	path_in(x, path, sizeof(path), "", "link");
	path_in(x, spec, sizeof(spec), "pty:", "link");
	/* Not ours to replace. */
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	refused(spec, "something that is no link to a pty is there");
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	refused(spec, "something that is no link to a pty is there");
	assert_int_equal(unlink(path), 0);
	refused("pty:/nonexistent/link", "console \"pty:/nonexistent/link\": No such file");
	/* Left behind by a process that died. */
	assert_int_equal(symlink("/dev/pts/99999", path), 0);
	start(x, spec, 0);
	assert_true(readlink(path, target, sizeof(target) - 1) > 0);
	assert_string_equal(target, x->f->vm.console->pty);
	/* Taken over by another: that one keeps it. */
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/dev/pts/99999", path), 0);
	stop(x);
	assert_int_equal(lstat(path, &st), 0);
}

static void test_background(void **state)
{
	struct fixture *x = *state;
	int master, slave, status;
	pid_t pid;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	pid = fork();
	if (pid == 0) {
		alarm(120);
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
		T(test_pty),	  T(test_pty_without_reader),  T(test_pty_links),
		T(test_terminal), T(test_terminal_hung_guest), T(test_background),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
