/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_control.c - the control socket: where it is, who may have it, and clients that are too many,
 * silent, gone, or send more than they read. The test's thread is both sides.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <unvmm/control.h>

#include "client.h"
#include "fake_vm.h"
#include "usock.h"

static char web_name[] = "web";

struct fixture {
	char dir[32], path[64];
	struct fake_vm *f;
	struct control *c;
};

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static void turn(struct fixture *x, unsigned int ms)
{
	(void)fake_vm_run(x->f, never, NULL, ms);
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	assert_non_null(x);
	strcpy(x->dir, "/tmp/unvmm-control-XXXXXX");
	assert_non_null(mkdtemp(x->dir));
	setenv("UNVMM_RUNTIME_DIR", x->dir, 1);
	snprintf(x->path, sizeof(x->path), "%s/web.sock", x->dir);
	x->f = fake_vm_new("none");
	x->f->config.name = web_name;
	x->f->config.named = true;
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	char command[64];

	control_close(x->c);
	fake_vm_free(x->f);
	snprintf(command, sizeof(command), "rm -rf %s", x->dir);
	assert_int_equal(system(command), 0);
	free(x);
	return 0;
}

static void start(struct fixture *x)
{
	struct diag d = { "" };

	if (control_open(&x->c, &x->f->vm, &d))
		fail_msg("%s", d.text);
	assert_non_null(x->c);
}

static void refused(struct fixture *x, const char *part)
{
	struct control *c;
	struct diag d = { "" };

	assert_true(control_open(&c, &x->f->vm, &d) < 0);
	assert_null(c);
	if (!strstr(d.text, part))
		fail_msg("\"%s\" is not in \"%s\"", part, d.text);
}

/* A guest that goes on without a socket. */
static void without(struct fixture *x)
{
	struct control *c;
	struct diag d = { "" };

	assert_int_equal(control_open(&c, &x->f->vm, &d), 0);
	assert_null(c);
	assert_string_equal(d.text, "");
}

/* Reads what is there into buf: bytes, or -1 for the end. */
static int get(struct fixture *x, int fd, char *buf, size_t size)
{
	ssize_t n;

	turn(x, 4);
	n = recv(fd, buf, size - 1, MSG_DONTWAIT);
	buf[n > 0 ? n : 0] = '\0';
	if (n < 0)
		return errno == EAGAIN ? 0 : -1;
	return n ? (int)n : -1;
}

static int connect_to(struct fixture *x)
{
	int fd = usock_connect(x->path);

	assert_true(fd >= 0);
	return fd;
}

static int negotiated(struct fixture *x)
{
	static const char hello[] = "{\"execute\":\"qmp_capabilities\"}";
	int fd = connect_to(x);
	char buf[512];

	assert_true(get(x, fd, buf, sizeof(buf)) > 0);
	assert_non_null(strstr(buf, "{\"QMP\":"));
	assert_int_equal(write(fd, hello, sizeof(hello) - 1), sizeof(hello) - 1);
	assert_true(get(x, fd, buf, sizeof(buf)) > 0);
	assert_string_equal(buf, "{\"return\":{}}\r\n");
	return fd;
}

static void test_place(void **state)
{
	struct fixture *x = *state;
	struct stat st;

	start(x);
	assert_int_equal(stat(x->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* A second guest of that name; one whose name nobody chose. */
	refused(x, "a guest named \"web\" is running already");
	x->f->config.named = false;
	{
		struct control *other;
		struct diag d = { "" };
		char path[128];

		assert_int_equal(control_open(&other, &x->f->vm, &d), 0);
		snprintf(path, sizeof(path), "%s/web-%d.sock", x->dir, getpid());
		assert_int_equal(stat(path, &st), 0);
		control_close(other);
		assert_int_equal(stat(path, &st), -1);
	}
	control_close(x->c);
	x->c = NULL;
	assert_int_equal(stat(x->path, &st), -1);
}

static void test_stale(void **state)
{
	struct fixture *x = *state;
	struct diag d = { "" };
	struct usock u;

	/* Left behind by a guest that died: the descriptor is closed and the path stays. */
	assert_int_equal(usock_listen(&u, x->path, 1, &d), 0);
	close(u.fd);
	free(u.path);
	assert_int_equal(usock_connect(x->path), -ECONNREFUSED);
	start(x);
	close(negotiated(x));
	usock_remove_stale(x->path); /* it lives */
	close(negotiated(x));
}

static void test_explicit_path(void **state)
{
	struct fixture *x = *state;
	char spec[256];
	struct stat st;

	snprintf(spec, sizeof(spec), "unix:%s/own", x->dir);
	x->f->config.control = spec;
	start(x);
	refused(x, "another process listens there");
	control_close(x->c);
	x->c = NULL;
	snprintf(spec, sizeof(spec), "unix:%s", x->dir);
	refused(x, "no socket is there");
	snprintf(spec, sizeof(spec), "unix:%s/no/such", x->dir);
	refused(x, "there is no folder /");
	refused(x, "/no; make it");
	memset(spec + 5, 'a', 120);
	spec[125] = '\0';
	refused(x, "1 to 107 characters");
	strcpy(spec, "none");
	without(x);
	assert_int_equal(stat(x->path, &st), -1);
}

/* Without a key, what is wrong with the folder is no reason not to run. */
static void test_bad_folders(void **state)
{
	struct fixture *x = *state;
	char dir[256];
	struct diag d = { "" };

	setenv("UNVMM_RUNTIME_DIR", "/nonexistent/x", 1);
	without(x);
	assert_int_equal(chmod(x->dir, 0777), 0);
	setenv("UNVMM_RUNTIME_DIR", x->dir, 1);
	without(x);
	assert_int_equal(control_folder(dir, sizeof(dir), true, &d), -EPERM);
	assert_non_null(strstr(d.text, "others may write"));
	d.text[0] = '\0';
	setenv("UNVMM_RUNTIME_DIR", "/dev/null", 1);
	assert_int_equal(control_folder(dir, sizeof(dir), true, &d), -ENOTDIR);
	d.text[0] = '\0';
	assert_int_equal(chmod(x->dir, 0700), 0);
	if (geteuid() == 0) {
		assert_int_equal(chown(x->dir, 12345, 0), 0);
		setenv("UNVMM_RUNTIME_DIR", x->dir, 1);
		assert_int_equal(control_folder(dir, sizeof(dir), true, &d), -EPERM);
		assert_non_null(strstr(d.text, "belongs to user 12345"));
		d.text[0] = '\0';
	}
	snprintf(dir, sizeof(dir), "%s/%0100d", x->dir, 0);
	setenv("UNVMM_RUNTIME_DIR", dir, 1);
	without(x); /* too long for a socket */
}

static void test_too_many(void **state)
{
	struct fixture *x = *state;
	int fds[CONTROL_CLIENTS], crowd[50];
	unsigned int turned_away = 0;
	char buf[512];

	start(x);
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++)
		fds[i] = negotiated(x);
	for (unsigned int i = 0; i < 1000 / ARRAY_SIZE(crowd); i++) {
		for (unsigned int k = 0; k < ARRAY_SIZE(crowd); k++)
			crowd[k] = connect_to(x);
		turn(x, 4);
		for (unsigned int k = 0; k < ARRAY_SIZE(crowd); k++) {
			ssize_t n = recv(crowd[k], buf, sizeof(buf) - 1, MSG_DONTWAIT);

			buf[n > 0 ? n : 0] = '\0';
			turned_away += strstr(buf, "16 clients are connected already") != NULL;
			assert_int_equal(recv(crowd[k], buf, sizeof(buf), MSG_DONTWAIT), 0);
			close(crowd[k]);
		}
	}
	assert_int_equal(turned_away, 1000);
	/* When one goes there is room for one. */
	close(fds[3]);
	turn(x, 4);
	fds[3] = negotiated(x);
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++)
		close(fds[i]);
	turn(x, 4);
	close(negotiated(x));
}

static void test_no_descriptors(void **state)
{
	struct fixture *x = *state;
	struct rlimit old, low;
	char buf[512];
	int fd, top;

	start(x);
	fd = connect_to(x);
	top = dup(fd);
	close(top);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	low = (struct rlimit){ .rlim_cur = (rlim_t)top + 1, .rlim_max = old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	/* fake_vm_run() takes the last one for its timer. */
	while (!get(x, fd, buf, sizeof(buf)))
		;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_non_null(strstr(buf, "already"));
	close(fd);
	close(negotiated(x));
}

/* Answers wait for their reader, and so does the rest of what he asked. */
static void test_slow_reader(void **state)
{
	static const char ask[] = "{\"execute\":\"query-commands\"}";
	struct fixture *x = *state;
	unsigned int asked = 0, answered = 0;
	char buf[8192];
	int fd, n;

	start(x);
	fd = negotiated(x);
	for (unsigned int i = 0; i < 20000; i++) {
		if (send(fd, ask, sizeof(ask) - 1, MSG_DONTWAIT) != sizeof(ask) - 1)
			break;
		asked++;
		if (i % 64 == 0)
			turn(x, 2);
	}
	assert_in_range(asked, 100, 19999); /* it was stopped from asking */
	while ((n = get(x, fd, buf, sizeof(buf))) > 0 || answered < asked) {
		assert_true(n >= 0);
		for (int i = 0; i < n; i++)
			answered += buf[i] == '\n';
	}
	assert_int_equal(answered, asked);
	close(fd);
}

/* Events come unasked: who leaves too many unread is cut off, and nobody else. */
static void test_never_reads(void **state)
{
	struct fixture *x = *state;
	char buf[65536];
	int deaf, other, n = 0, last = 0;
	unsigned int events = 0;

	start(x);
	deaf = negotiated(x);
	other = negotiated(x);
	for (unsigned int i = 0; i < 20000; i++) {
		control_event(x->c, CONTROL_POWERDOWN);
		while ((n = (int)recv(other, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
			for (int k = 0; k < n; k++)
				events += buf[k] == '\n';
	}
	turn(x, 10);
	while ((n = get(x, other, buf, sizeof(buf))) > 0)
		for (int k = 0; k < n; k++)
			events += buf[k] == '\n';
	assert_int_equal(events, 20000);
	while ((n = get(x, deaf, buf, sizeof(buf))) > 0)
		last = n;
	assert_int_equal(n, -1); /* not waiting: ended */
	assert_true(last > 0);
	close(deaf);
	close(other);
}

static void test_half_close_and_vanish(void **state)
{
	static const char ask[] = "{\"execute\":\"query-name\"}";
	struct fixture *x = *state;
	char buf[512];
	int fd;

	start(x);
	fd = negotiated(x);
	assert_int_equal(write(fd, ask, sizeof(ask) - 1), sizeof(ask) - 1);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	assert_true(get(x, fd, buf, sizeof(buf)) > 0);
	assert_string_equal(buf, "{\"return\":{\"name\":\"web\"}}\r\n");
	assert_int_equal(get(x, fd, buf, sizeof(buf)), -1);
	close(fd);
	for (unsigned int i = 0; i < 50; i++) {
		fd = connect_to(x);
		assert_true(write(fd, ask, i % sizeof(ask)) >= 0);
		if (i % 2)
			turn(x, 2);
		close(fd);
	}
	turn(x, 4);
	close(negotiated(x));
}

static void test_pass_descriptor(void **state)
{
	static const char ask[] = "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a\"}}"
				  "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"a\"}}";
	struct fixture *x = *state;
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .room = "" };
	struct iovec iov = { .iov_base = (char *)(uintptr_t)ask, .iov_len = sizeof(ask) - 1 };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	int fd, ends[2];
	char buf[512];

	start(x);
	fd = negotiated(x);
	assert_int_equal(pipe(ends), 0);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &ends[1], sizeof(int));
	assert_int_equal(sendmsg(fd, &m, 0), sizeof(ask) - 1);
	close(ends[1]);
	assert_true(get(x, fd, buf, sizeof(buf)) > 0);
	assert_string_equal(buf, "{\"return\":{}}\r\n{\"return\":{}}\r\n");
	assert_int_equal(read(ends[0], buf, 1), 0); /* the last writer has closed it */
	close(ends[0]);
	close(fd);
}

/* What the clients hear when the machine ends. */
static void test_end_events(void **state)
{
	static const struct {
		enum vm_event event;
		const char *text;
	} ends[] = {
		{ VM_EVENT_POWEROFF, "{\"guest\":true,\"reason\":\"guest-shutdown\"}" },
		{ VM_EVENT_PANIC, "\"event\":\"GUEST_PANICKED\",\"data\":{\"action\":" },
		{ VM_EVENT_PANIC, "{\"guest\":true,\"reason\":\"guest-panic\"}" },
		{ VM_EVENT_REBOOT, "{\"guest\":true,\"reason\":\"guest-reset\"}" },
		{ VM_EVENT_QUIT, "{\"guest\":false,\"reason\":\"host-signal\"}" },
		{ VM_EVENT_ERROR, "{\"guest\":false,\"reason\":\"host-error\"}" },
	};
	struct fixture *x = *state;
	char buf[4096];
	int fd;

	control_event(NULL, CONTROL_END);
	start(x);
	fd = negotiated(x);
	for (unsigned int i = 0; i < ARRAY_SIZE(ends); i++) {
		x->f->vm.event = ends[i].event;
		control_event(x->c, CONTROL_END);
		assert_true(get(x, fd, buf, sizeof(buf)) > 0);
		assert_non_null(strstr(buf, "\"event\":\"SHUTDOWN\""));
		assert_non_null(strstr(buf, ends[i].text));
	}
	control_event(x->c, CONTROL_RESET);
	assert_true(get(x, fd, buf, sizeof(buf)) > 0);
	assert_non_null(strstr(buf, "\"event\":\"RESET\",\"data\":{\"guest\":true"));
	/* What was said last is still there when the process has gone. */
	control_event(x->c, CONTROL_END);
	control_close(x->c);
	x->c = NULL;
	assert_true(recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 0);
	close(fd);
}

static void test_names(void **state)
{
	struct fixture *x = *state;
	struct diag d = { "" };
	struct client_link l;
	char **names, path[128];
	unsigned int n;

	assert_int_equal(client_names(&names, &n, &d), 0);
	assert_int_equal(n, 0);
	client_free_names(names, n);
	assert_int_equal(client_open(&l, NULL, 100, &d), -ENOENT);
	assert_non_null(strstr(d.text, "no guest is running"));
	client_close(&l);
	start(x);
	snprintf(path, sizeof(path), "%s/notes.txt", x->dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(client_names(&names, &n, &d), 0);
	assert_int_equal(n, 1);
	assert_string_equal(names[0], "web");
	client_free_names(names, n);
	/* It is there and gives no answer, because nobody runs its loop. */
	d.text[0] = '\0';
	assert_int_equal(client_open(&l, "web", 50, &d), -ETIMEDOUT);
	assert_string_equal(d.text, "web gives no answer");
	assert_int_equal(l.pid, getpid());
	client_close(&l);
	setenv("UNVMM_RUNTIME_DIR", "/nonexistent/x", 1);
	d.text[0] = '\0';
	assert_int_equal(client_names(&names, &n, &d), 0);
	assert_int_equal(n, 0);
	client_free_names(names, n);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_place),		 T(test_stale),	      T(test_explicit_path),
		T(test_bad_folders),	 T(test_too_many),    T(test_no_descriptors),
		T(test_slow_reader),	 T(test_never_reads), T(test_half_close_and_vanish),
		T(test_pass_descriptor), T(test_end_events),  T(test_names),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
