/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_keeper.c - the process that removes names behind a guest: at a clean end, at a kill, and
 * what it leaves alone. One thread; the keeper is a real one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "usock.h"

static const struct sandbox confined = { .filter = true };

static int set_up(void **state)
{
	char *folder = strdup("/tmp/unvmm-keeper-XXXXXX");

	if (!folder || !mkdtemp(folder) || chdir(folder))
		return -1;
	*state = folder;
	return 0;
}

static int tear_down(void **state)
{
	int bad = chdir("/");

	if (rmdir(*state)) /* each case leaves it empty */
		bad = 1;
	free(*state);
	return bad;
}

static bool exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

static void listen_at(struct usock *u, const char *path, struct keeper_name **names)
{
	struct diag d = { 0 };

	if (usock_listen(u, path, 1, &d))
		fail_msg("%s", d.text);
	keeper_note(names, &u->name, u->path);
}

static void start(struct keeper *k)
{
	struct diag d = { 0 };

	if (keeper_start(k, &confined, &d))
		fail_msg("%s", d.text);
	assert_true(k->fd >= 0);
}

static void names_are_gone_when_stop_returns(void **state)
{
	char absolute[128];
	struct keeper_name *names = NULL, link = { 0 };
	struct diag d = { 0 };
	struct usock a, b;
	struct keeper k;

	start(&k);
	snprintf(absolute, sizeof(absolute), "%s/b.sock", (char *)*state);
	listen_at(&a, "a.sock", &names);
	listen_at(&b, absolute, &names);
	assert_int_equal(symlink("/dev/null", "link"), 0);
	keeper_note(&names, &link, "link");
	assert_int_equal(keeper_take(&k, names, &d), 0);
	assert_true(a.name.taken && b.name.taken && link.taken);
	usock_close(&a);
	usock_close(&b);
	assert_true(exists("a.sock") && exists("b.sock") && exists("link"));
	keeper_stop(&k);
	assert_false(exists("a.sock") || exists("b.sock") || exists("link"));
	assert_true(exists("/dev/null"));
}

static void without_a_sandbox_owners_do_it(void **state)
{
	struct sandbox none = { 0 };
	struct keeper_name *names = NULL;
	struct diag d = { 0 };
	struct keeper k;
	struct usock a;

	(void)state;
	assert_int_equal(keeper_start(&k, &none, &d), 0);
	assert_int_equal(k.fd, -1);
	listen_at(&a, "a.sock", &names);
	assert_int_equal(keeper_take(&k, names, &d), 0);
	assert_false(a.name.taken);
	usock_close(&a);
	assert_false(exists("a.sock"));
	keeper_stop(&k);
}

static void with_no_names_it_ends(void **state)
{
	struct diag d = { 0 };
	struct keeper k;

	(void)state;
	start(&k);
	assert_int_equal(keeper_take(&k, NULL, &d), 0);
	assert_int_equal(k.fd, -1);
	while (waitpid(-1, NULL, 0) > 0)
		;
	keeper_stop(&k);
}

/* By then another guest may have the name. */
static void what_others_made_stays(void **state)
{
	struct keeper_name *names = NULL, *other = NULL;
	struct diag d = { 0 };
	struct usock a, b;
	struct keeper k;

	(void)state;
	start(&k);
	listen_at(&a, "a.sock", &names);
	assert_int_equal(keeper_take(&k, names, &d), 0);
	usock_close(&a);
	/* It is stale now, and the next one takes it. Many times: numbers of files come back. */
	for (unsigned int i = 0; i < 20; i++) {
		if (i)
			usock_close(&b);
		listen_at(&b, "a.sock", &other);
		other = NULL;
	}
	keeper_stop(&k);
	assert_true(exists("a.sock"));
	usock_close(&b);
	assert_false(exists("a.sock"));
}

/* Who takes over the guest's process gets no file removed. */
static void later_words_are_not_heard(void **state)
{
	struct keeper_name *names = NULL;
	struct diag d = { 0 };
	struct keeper k;
	struct usock a;
	struct {
		dev_t dev;
		ino_t ino;
		char path[1000];
	} more = { .path = "precious" };
	struct stat st;
	int fd = open("precious", O_CREAT | O_CLOEXEC | O_WRONLY, 0600);

	(void)state;
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	close(fd);
	start(&k);
	listen_at(&a, "a.sock", &names);
	assert_int_equal(keeper_take(&k, names, &d), 0);
	more.dev = st.st_dev;
	more.ino = st.st_ino;
	assert_int_equal(send(k.fd, &more, sizeof(more), MSG_NOSIGNAL), sizeof(more));
	usock_close(&a);
	keeper_stop(&k);
	assert_false(exists("a.sock"));
	assert_true(exists("precious"));
	unlink("precious");
}

static void it_outlives_a_kill_of_the_group(void **state)
{
	int status, ready[2];
	char byte;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct keeper_name *names = NULL;
		struct diag d = { 0 };
		struct keeper k;
		struct usock a;

		setpgid(0, 0);
		if (keeper_start(&k, &confined, &d) || usock_listen(&a, "a.sock", 1, &d))
			_exit(1);
		keeper_note(&names, &a.name, a.path);
		if (keeper_take(&k, names, &d) || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	usleep(20000); /* until the keeper has learned the name, too */
	assert_true(exists("a.sock"));
	kill(-pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	for (unsigned int i = 0; i < 1000 && exists("a.sock"); i++)
		usleep(5000);
	assert_false(exists("a.sock"));
	close(ready[0]);
	close(ready[1]);
}

/* A folder that somebody holds locked for ever delays the end by a moment only. */
static void a_locked_folder_is_no_obstacle(void **state)
{
	struct keeper_name *names = NULL;
	struct diag d = { 0 };
	struct keeper k;
	struct usock a;
	int folder;

	start(&k);
	listen_at(&a, "a.sock", &names);
	assert_int_equal(keeper_take(&k, names, &d), 0);
	folder = open(*state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(folder, LOCK_EX), 0);
	usock_close(&a);
	keeper_stop(&k);
	assert_false(exists("a.sock"));
	close(folder);
}

static void too_long_a_path_is_an_error(void **state)
{
	char path[1200];
	struct keeper_name name = { .path = path };
	struct diag d = { 0 };
	struct keeper k;

	(void)state;
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	start(&k);
	assert_int_equal(keeper_take(&k, &name, &d), -ENAMETOOLONG);
	keeper_stop(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_gone_when_stop_returns),
		cmocka_unit_test(without_a_sandbox_owners_do_it),
		cmocka_unit_test(with_no_names_it_ends),
		cmocka_unit_test(what_others_made_stays),
		cmocka_unit_test(later_words_are_not_heard),
		cmocka_unit_test(it_outlives_a_kill_of_the_group),
		cmocka_unit_test(a_locked_folder_is_no_obstacle),
		cmocka_unit_test(too_long_a_path_is_an_error),
	};

	return cmocka_run_group_tests_name("keeper", tests, set_up, tear_down);
}
