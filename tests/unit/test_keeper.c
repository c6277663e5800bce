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

#include "keeper.h"
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

static void add(struct keeper *k, const char *path, bool *kept)
{
	struct diag d = { 0 };

	if (keeper_add(k, path, kept, &d))
		fail_msg("%s", d.text);
}

static void listen_at(struct usock *u, const char *path, struct keeper *k)
{
	struct diag d = { 0 };

	if (usock_listen(u, path, 1, &d))
		fail_msg("%s", d.text);
	add(k, path, &u->kept);
}

static void settle(struct keeper *k)
{
	struct diag d = { 0 };

	if (keeper_settle(k, &d))
		fail_msg("%s", d.text);
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
	struct usock a, b;
	struct keeper k;
	bool link;

	start(&k);
	snprintf(absolute, sizeof(absolute), "%s/b.sock", (char *)*state);
	listen_at(&a, "a.sock", &k);
	listen_at(&b, absolute, &k);
	assert_int_equal(symlink("/dev/null", "link"), 0);
	add(&k, "link", &link);
	settle(&k);
	assert_true(a.kept && b.kept && link);
	usock_close(&a);
	usock_close(&b);
	assert_true(exists("a.sock") && exists("b.sock") && exists("link"));
	keeper_stop(&k);
	assert_false(exists("a.sock") || exists("b.sock") || exists("link"));
	assert_true(exists("/dev/null"));
}

/* A machine whose set-up failed, or was broken off. */
static void names_go_before_they_are_all_there(void **state)
{
	struct usock a;
	struct keeper k;

	(void)state;
	start(&k);
	listen_at(&a, "a.sock", &k);
	usock_close(&a);
	keeper_stop(&k);
	assert_false(exists("a.sock"));
}

static void without_a_keeper_owners_do_it(void **state)
{
	struct usock a;

	(void)state;
	listen_at(&a, "a.sock", NULL);
	assert_false(a.kept);
	usock_close(&a);
	assert_false(exists("a.sock"));
}

static void with_no_names_it_ends(void **state)
{
	struct keeper k;

	(void)state;
	start(&k);
	settle(&k);
	assert_int_equal(k.fd, -1);
	while (waitpid(-1, NULL, 0) > 0)
		;
	keeper_stop(&k);
}

/* By then another guest may have the name. */
static void what_others_made_stays(void **state)
{
	struct usock a, b;
	struct keeper k;

	(void)state;
	start(&k);
	listen_at(&a, "a.sock", &k);
	settle(&k);
	usock_close(&a);
	/* It is stale now, and the next one takes it. Many times: numbers of files come back. */
	for (unsigned int i = 0; i < 20; i++) {
		if (i)
			usock_close(&b);
		listen_at(&b, "a.sock", NULL);
	}
	keeper_stop(&k);
	assert_true(exists("a.sock"));
	usock_close(&b);
	assert_false(exists("a.sock"));
}

/* Who takes over the guest's process gets no file removed. */
static void later_words_are_not_heard(void **state)
{
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
	listen_at(&a, "a.sock", &k);
	settle(&k);
	more.dev = st.st_dev;
	more.ino = st.st_ino;
	assert_int_equal(send(k.fd, &more, sizeof(more), MSG_NOSIGNAL), sizeof(more));
	usock_close(&a);
	keeper_stop(&k);
	assert_false(exists("a.sock"));
	assert_true(exists("precious"));
	unlink("precious");
}

/* The keeper, that process's only child, has a session of its own. */
static bool keeper_left(pid_t parent)
{
	char path[64];
	bool left;
	int pid;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", parent, parent);
	f = fopen(path, "re");
	assert_non_null(f);
	left = fscanf(f, "%d", &pid) == 1 && getsid(pid) == pid;
	fclose(f);
	return left;
}

/* A process with a socket, killed together with its group; by then the keeper has settled or not.
 */
static void outlives_a_kill(bool settled)
{
	int status, ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct diag d = { 0 };
		struct keeper k;
		struct usock a;

		setpgid(0, 0);
		if (keeper_start(&k, &confined, &d) || usock_listen(&a, "a.sock", 1, &d) ||
		    keeper_add(&k, "a.sock", &a.kept, &d) || (settled && keeper_settle(&k, &d)) ||
		    write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	for (unsigned int i = 0; i < 6000 && !keeper_left(pid); i++)
		usleep(5000);
	assert_true(exists("a.sock"));
	kill(-pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	for (unsigned int i = 0; i < 6000 && exists("a.sock"); i++)
		usleep(5000);
	assert_false(exists("a.sock"));
	close(ready[0]);
	close(ready[1]);
}

static void it_outlives_a_kill_of_the_group(void **state)
{
	(void)state;
	outlives_a_kill(true);
	outlives_a_kill(false);
}

/* A folder that somebody holds locked for ever delays the end by a moment only. */
static void a_locked_folder_is_no_obstacle(void **state)
{
	struct keeper k;
	struct usock a;
	int folder;

	start(&k);
	listen_at(&a, "a.sock", &k);
	settle(&k);
	folder = open(*state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(folder, LOCK_EX), 0);
	usock_close(&a);
	keeper_stop(&k);
	assert_false(exists("a.sock"));
	close(folder);
}

static void too_long_a_path_is_an_error(void **state)
{
	char path[1100] = "";
	struct diag d = { 0 };
	struct keeper k;
	bool kept = true;

	(void)state;
	while (strlen(path) < 1000)
		strcat(path, "./");
	strcat(path, "link");
	start(&k);
	assert_int_equal(symlink("/dev/null", "link"), 0);
	assert_int_equal(keeper_add(&k, path, &kept, &d), -ENAMETOOLONG);
	assert_false(kept);
	keeper_stop(&k);
	assert_int_equal(unlink("link"), 0);
}

static void too_many_names_are_an_error(void **state)
{
	struct diag d = { 0 };
	struct keeper k;
	bool kept = true;
	int err = 0;

	(void)state;
	start(&k);
	assert_int_equal(symlink("/dev/null", "link"), 0);
	for (unsigned int i = 0; i < 33 && !err; i++)
		err = keeper_add(&k, "link", &kept, &d);
	assert_int_equal(err, -ENOSPC);
	assert_false(kept);
	assert_int_equal(k.n, 32);
	keeper_stop(&k);
	assert_false(exists("link"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_gone_when_stop_returns),
		cmocka_unit_test(names_go_before_they_are_all_there),
		cmocka_unit_test(without_a_keeper_owners_do_it),
		cmocka_unit_test(with_no_names_it_ends),
		cmocka_unit_test(what_others_made_stays),
		cmocka_unit_test(later_words_are_not_heard),
		cmocka_unit_test(it_outlives_a_kill_of_the_group),
		cmocka_unit_test(a_locked_folder_is_no_obstacle),
		cmocka_unit_test(too_long_a_path_is_an_error),
		cmocka_unit_test(too_many_names_are_an_error),
	};

	return cmocka_run_group_tests_name("keeper", tests, set_up, tear_down);
}
