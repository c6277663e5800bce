/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_sandbox.c - who a process becomes, what it has given up then, and the sentence about a
 * forbidden call. Giving up is for good, so it happens in child processes. Some cases are for root.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <unvmm/sandbox.h>

#include "sandbox_filter.h"

#define ROOT_ONLY()                 \
	do {                        \
		if (geteuid() != 0) \
			skip();     \
	} while (0)

static void users_are_named_in_four_ways(void **state)
{
	static const char *const good[] = { "nobody", "65534", "nobody:nogroup", "1000:1000" };
	static const char *const bad[] = { "", ":", "a:", ":b", "a:b:c", "a b", "/x", "a,b" };

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(sandbox_user_valid(good[i]));
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(sandbox_user_valid(bad[i]));
}

static void expect_user(const char *user, uid_t uid, gid_t gid)
{
	struct diag d = { 0 };
	struct sandbox s;

	if (sandbox_init(&s, user, true, &d))
		fail_msg("%s: %s", user ? user : "default", d.text);
	assert_true(s.drop);
	assert_int_equal(s.uid, uid);
	assert_int_equal(s.gid, gid);
}

static void root_becomes_nobody_or_who_was_named(void **state)
{
	struct diag d = { 0 };
	struct sandbox s;

	(void)state;
	ROOT_ONLY();
	assert_int_equal(sandbox_init(&s, "root", true, &d), 0);
	if (s.filter) /* a sanitizer's build stays who it is */
		expect_user(NULL, 65534, 65534);
	expect_user("root", 0, 0);
	expect_user("4242", 4242, 4242);
	expect_user("4242:17", 4242, 17);
	expect_user("root:4242", 0, 4242);
	expect_user("0", 0, 0);
}

static void expect_refusal(const char *user, int err, const char *words)
{
	struct diag d = { 0 };
	struct sandbox s;

	assert_int_equal(sandbox_init(&s, user, true, &d), err);
	if (!strstr(d.text, words))
		fail_msg("\"%s\" has not \"%s\"", d.text, words);
}

static void strangers_are_refused(void **state)
{
	(void)state;
	ROOT_ONLY();
	expect_refusal("nosuchuser", -ENOENT, "there is no user \"nosuchuser\" on this host");
	/* -1, which would mean "as it is". */
	expect_refusal("4294967295", -EINVAL, "user: 4294967295 is above 4294967294");
	expect_refusal("root:nosuchgroup", -ENOENT, "there is no group \"nosuchgroup\"");
	expect_refusal("root:4294967295", -ENOENT, "there is no group");
}

/* Runs fn in a child: its exit status. */
static int in_child(int (*fn)(void *arg), void *arg)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		syscall(SYS_exit_group, fn(arg));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static int try_without_root(void *arg)
{
	struct diag d = { 0 };
	struct sandbox s;

	(void)arg;
	if (setgroups(0, NULL) || setgid(4243) || setuid(4242))
		return 1;
	if (sandbox_init(&s, "4244", true, &d) != -EPERM || !strstr(d.text, "only root can"))
		return 2;
	if (sandbox_init(&s, "4242:4243", true, &d) || s.drop)
		return 3;
	if (sandbox_init(&s, NULL, true, &d) || s.drop)
		return 4;
	return 0;
}

static void only_root_becomes_another(void **state)
{
	(void)state;
	ROOT_ONLY();
	assert_int_equal(in_child(try_without_root, NULL), 0);
}

/* A line of this thread's status, as a text without the blanks before it. */
static bool status_is(const char *key, const char *want)
{
	char line[256];
	bool is = false;
	FILE *f = fopen("/proc/thread-self/status", "re");

	while (f && !is && fgets(line, sizeof(line), f)) {
		size_t n = strlen(key);

		if (strncmp(line, key, n) || line[n] != ':')
			continue;
		line[strcspn(line, "\n")] = '\0';
		while (line[n] == ':' || line[n] == '\t' || line[n] == ' ')
			n++;
		is = !strcmp(line + n, want);
		if (!is)
			fprintf(stderr, "%s is \"%s\"\n", key, line + n);
	}
	if (f)
		fclose(f);
	return is;
}

static int become(void *arg)
{
	const struct sandbox *s = arg;
	gid_t groups[] = { 1, 2, 3 };
	struct diag d = { 0 };

	if (setgroups(3, groups) || sandbox_enter(s, SANDBOX_IO, &d))
		return 1;
	if (!status_is("Uid", "4242\t4242\t4242\t4242") || !status_is("Gid", "17\t17\t17\t17") ||
	    !status_is("Groups", ""))
		return 2;
	if (!status_is("CapEff", "0000000000000000") || !status_is("CapPrm", "0000000000000000") ||
	    !status_is("CapInh", "0000000000000000") || !status_is("CapBnd", "0000000000000000") ||
	    !status_is("CapAmb", "0000000000000000"))
		return 3;
	if (!status_is("NoNewPrivs", "1") || prctl(PR_GET_DUMPABLE) != 0)
		return 4;
	if (syscall(SYS_setresuid, 0, 0, 0) == 0 || errno != EPERM)
		return 5;
	return 0;
}

static void what_was_given_up_is_gone(void **state)
{
	struct sandbox s = { .drop = true, .uid = 4242, .gid = 17 };

	(void)state;
	ROOT_ONLY();
	assert_int_equal(in_child(become, &s), 0);
}

static int stay_root(void *arg)
{
	struct diag d = { 0 };

	if (sandbox_enter(arg, SANDBOX_IO, &d))
		return 1;
	return !status_is("Uid", "0\t0\t0\t0") || !status_is("CapEff", "0000000000000000");
}

static void user_root_has_no_capabilities(void **state)
{
	struct sandbox s = { .drop = true };

	(void)state;
	ROOT_ONLY();
	assert_int_equal(in_child(stay_root, &s), 0);
}

static int enter_nothing(void *arg)
{
	struct sandbox none = { 0 };
	struct diag d = { 0 };

	(void)arg;
	if (sandbox_enter(NULL, SANDBOX_IO, &d) || sandbox_enter(&none, SANDBOX_IO, &d))
		return 1;
	return !status_is("NoNewPrivs", "0") || !status_is("Seccomp", "0");
}

static void no_sandbox_changes_nothing(void **state)
{
	(void)state;
	assert_int_equal(in_child(enter_nothing, NULL), 0);
}

/* A host without filters, made by a filter: seccomp(2) is -ENOSYS. */
static int init_without_seccomp(void *arg)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_seccomp, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };
	struct diag d = { 0 };
	struct sandbox s;

	(void)arg;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		return 1;
	if (sandbox_init(&s, NULL, true, &d) != -ENOSYS ||
	    !strstr(d.text, "CONFIG_SECCOMP_FILTER") || !strstr(d.text, "--no-sandbox"))
		return 2;
	return sandbox_init(&s, NULL, false, &d) ? 3 : 0;
}

static void a_kernel_without_filters_is_named(void **state)
{
	struct diag d = { 0 };
	struct sandbox s;

	(void)state;
	assert_int_equal(sandbox_init(&s, NULL, true, &d), 0);
	if (s.filter) /* not in a sanitizer's build */
		assert_int_equal(in_child(init_without_seccomp, NULL), 0);
}

/* --- a loop's thread ------------------------------------------------------------------------- */

static int enter_by_loop(void *arg)
{
	struct sandbox s = { .drop = true, .uid = 4242, .gid = 17 };
	struct sandbox_entry e;
	struct diag d = { 0 };
	struct io_thread t;
	char path[64], text[4096];
	ssize_t n;
	int fd;

	(void)arg;
	if (io_thread_start(&t, "unvmm-test", &d) ||
	    sandbox_enter_loop(&e, &s, SANDBOX_IO, &t.loop, &d))
		return 1;
	/* The other thread has changed, and this one has not. */
	if (geteuid() != 0)
		return 2;
	snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)getpid() + 1);
	for (int tid = getpid() + 1; tid < getpid() + 100; tid++) {
		snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		n = read(fd, text, sizeof(text) - 1);
		text[n > 0 ? n : 0] = '\0';
		return !strstr(text, "Uid:\t4242\t4242") || !strstr(text, "NoNewPrivs:\t1");
	}
	return 3;
}

static void a_loops_thread_enters_by_itself(void **state)
{
	(void)state;
	ROOT_ONLY();
	assert_int_equal(in_child(enter_by_loop, NULL), 0);
}

/* What a ring can still do once it runs: no registering, no operation that opens (test_loop.c). */
static void a_running_ring_registers_nothing(void **state)
{
	struct diag d = { 0 };
	struct loop l;
	int fd = 0;

	(void)state;
	assert_int_equal(loop_init(&l, 8, &d), 0);
	assert_int_equal(loop_enable(&l), 0);
	assert_int_equal(io_uring_register(l.ring.ring_fd, IORING_REGISTER_FILES, &fd, 1), -EACCES);
	assert_int_equal(io_uring_register(l.ring.ring_fd, IORING_REGISTER_PERSONALITY, NULL, 0),
			 -EACCES);
	loop_fini(&l);
}

/* --- the sentence ---------------------------------------------------------------------------- */

static void tell(int sig, siginfo_t *si, void *context)
{
	char text[256];

	(void)sig;
	(void)context;
	if (sandbox_describe(si, text, sizeof(text)) &&
	    write(STDOUT_FILENO, text, strlen(text)) == (ssize_t)strlen(text))
		syscall(SYS_exit_group, 7);
	syscall(SYS_exit_group, 8);
}

static int call_socket(void *arg)
{
	const int *pipe_fd = arg;
	struct sigaction sa = { .sa_sigaction = tell, .sa_flags = SA_SIGINFO };

	if (dup2(pipe_fd[1], STDOUT_FILENO) < 0 || sigaction(SIGSYS, &sa, NULL) ||
	    prctl(PR_SET_NAME, "unvmm-io") || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    sandbox_filter_install(SANDBOX_IO))
		return 1;
	syscall(SYS_socket, 1, 1, 0);
	return 0;
}

static void the_sentence_names_thread_and_call(void **state)
{
	char text[512];
	int fds[2];
	ssize_t n;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(in_child(call_socket, fds), 7 << 8);
	n = read(fds[0], text, sizeof(text) - 1);
	assert_true(n > 0);
	text[n] = '\0';
	assert_non_null(strstr(text, "\"unvmm-io\""));
	assert_non_null(strstr(text, "41 (socket)"));
	close(fds[0]);
	close(fds[1]);
}

static void other_signals_are_not_described(void **state)
{
	siginfo_t si = { .si_signo = SIGSYS, .si_code = SI_USER };
	char text[64] = "";

	(void)state;
	assert_false(sandbox_describe(&si, text, sizeof(text)));
	si.si_signo = SIGSEGV;
	si.si_code = 1;
	assert_false(sandbox_describe(&si, text, sizeof(text)));
	assert_string_equal(text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(users_are_named_in_four_ways),
		cmocka_unit_test(root_becomes_nobody_or_who_was_named),
		cmocka_unit_test(strangers_are_refused),
		cmocka_unit_test(only_root_becomes_another),
		cmocka_unit_test(what_was_given_up_is_gone),
		cmocka_unit_test(user_root_has_no_capabilities),
		cmocka_unit_test(no_sandbox_changes_nothing),
		cmocka_unit_test(a_kernel_without_filters_is_named),
		cmocka_unit_test(a_loops_thread_enters_by_itself),
		cmocka_unit_test(a_running_ring_registers_nothing),
		cmocka_unit_test(the_sentence_names_thread_and_call),
		cmocka_unit_test(other_signals_are_not_described),
	};

	return cmocka_run_group_tests_name("sandbox", tests, NULL, NULL);
}
