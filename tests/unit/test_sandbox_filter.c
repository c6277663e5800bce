/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_sandbox_filter.c - the table of system calls against the filters made of it (by an
 * interpreter of BPF, for every call there is) and against the kernel: in child processes, each
 * kind of thread makes the calls that it may make and dies of those that it may not. One thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox_filter.h"

#define NR_MAX 1000 /* above every number that is given out, x32's special ones included */

static const char *const kind_names[] = {
	[SANDBOX_MAIN] = "main", [SANDBOX_VCPU] = "vcpu",	    [SANDBOX_IO] = "io",
	[SANDBOX_VF] = "vf",	 [SANDBOX_MIGRATION] = "migration", [SANDBOX_KEEPER] = "keeper",
	[SANDBOX_TLS] = "tls",
};

static bool has_kind(const struct sandbox_rule *r, unsigned int kind)
{
	return r->kinds & 1u << kind;
}

/* --- the table ------------------------------------------------------------------------------- */

static void every_row_says_why(void **state)
{
	(void)state;
	assert_true(sandbox_nrules > 50);
	for (unsigned int i = 0; i < sandbox_nrules; i++) {
		const struct sandbox_rule *r = &sandbox_rules[i];

		assert_non_null(r->reason);
		assert_true(strlen(r->reason) >= 4);
		assert_true(r->kinds != 0 && r->kinds < 1u << SANDBOX_KINDS);
		assert_in_range(r->arg, 0, 5);
		assert_true(r->test == SANDBOX_EQUAL || r->test == SANDBOX_SELF || r->value ||
			    r->test == SANDBOX_ANY);
	}
}

/* A second row for what a first one allows already would be read by nobody. */
static void no_row_is_there_twice(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sandbox_nrules; i++)
		for (unsigned int j = 0; j < i; j++) {
			const struct sandbox_rule *a = &sandbox_rules[j], *b = &sandbox_rules[i];

			if (a->nr != b->nr || !(a->kinds & b->kinds))
				continue;
			assert_true(a->test == SANDBOX_EQUAL && b->test == SANDBOX_EQUAL);
			assert_true(a->arg == b->arg && a->value != b->value);
		}
}

static void rows_of_a_call_stand_together(void **state)
{
	bool seen[NR_MAX] = { false };

	(void)state;
	for (unsigned int i = 0; i < sandbox_nrules; i++) {
		int nr = sandbox_rules[i].nr;

		assert_in_range(nr, 0, NR_MAX - 1);
		assert_true(!seen[nr] || sandbox_rules[i - 1].nr == nr);
		seen[nr] = true;
	}
}

/* What opens, connects, executes, starts, or reaches into others is for nobody. */
static void the_dangerous_is_for_nobody(void **state)
{
	static const int never[] = {
		__NR_open,
		__NR_openat,
		__NR_openat2,
		__NR_creat,
		__NR_execve,
		__NR_execveat,
		__NR_socket,
		__NR_connect,
		__NR_bind,
		__NR_listen,
		__NR_socketpair,
		__NR_clone,
		__NR_clone3,
		__NR_fork,
		__NR_vfork,
		__NR_ptrace,
		__NR_kill,
		__NR_tkill,
		__NR_process_vm_readv,
		__NR_process_vm_writev,
		__NR_pidfd_getfd,
		__NR_pidfd_open,
		__NR_io_uring_setup,
		__NR_bpf,
		__NR_seccomp,
		__NR_rt_sigaction,
		__NR_mprotect,
		__NR_pkey_mprotect,
		__NR_setuid,
		__NR_setresuid,
		__NR_capset,
		__NR_mount,
		__NR_unshare,
		__NR_setns,
		__NR_chroot,
		__NR_personality,
		__NR_shmat,
		__NR_userfaultfd,
		__NR_perf_event_open,
		__NR_memfd_create,
		__NR_rename,
		__NR_unlink,
		__NR_mkdir,
		__NR_symlink,
		__NR_chmod,
		__NR_fchmod,
		__NR_chown,
		__NR_fchown,
		__NR_modify_ldt,
		__NR_arch_prctl,
		__NR_keyctl,
		__NR_add_key,
	};

	(void)state;
	for (unsigned int i = 0; i < sandbox_nrules; i++) {
		for (unsigned int n = 0; n < ARRAY_SIZE(never); n++)
			assert_int_not_equal(sandbox_rules[i].nr, never[n]);
		if (sandbox_rules[i].nr == __NR_ioctl || sandbox_rules[i].nr == __NR_fcntl ||
		    sandbox_rules[i].nr == __NR_prctl || sandbox_rules[i].nr == __NR_mmap ||
		    sandbox_rules[i].nr == __NR_tgkill)
			assert_int_not_equal(sandbox_rules[i].test, SANDBOX_ANY);
		if (sandbox_rules[i].nr == __NR_ioctl)
			assert_int_not_equal(sandbox_rules[i].value, TIOCSTI);
	}
}

/* --- the filters, interpreted ---------------------------------------------------------------- */

#define SELF 4711

/* Classic BPF as far as filters use it; what they do not is a failure. */
static uint32_t interpret(const struct sock_filter *code, unsigned int n,
			  const struct seccomp_data *data)
{
	uint32_t a = 0;

	for (unsigned int pc = 0; pc < n;) {
		const struct sock_filter *f = &code[pc++];

		switch (f->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			assert_true(f->k % 4 == 0 && f->k + 4 <= sizeof(*data));
			memcpy(&a, (const char *)data + f->k, 4);
			break;
		case BPF_JMP | BPF_JA:
			pc += f->k;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
			pc += a == f->k ? f->jt : f->jf;
			break;
		case BPF_JMP | BPF_JSET | BPF_K:
			pc += a & f->k ? f->jt : f->jf;
			break;
		case BPF_RET | BPF_K:
			return f->k;
		default:
			fail_msg("instruction %u is 0x%x", pc - 1, f->code);
		}
	}
	fail_msg("the filter has no end");
	return 0;
}

static bool table_allows(unsigned int kind, const struct seccomp_data *data)
{
	for (unsigned int i = 0; i < sandbox_nrules; i++) {
		const struct sandbox_rule *r = &sandbox_rules[i];
		uint32_t value = (uint32_t)data->args[r->arg];

		if (r->nr != data->nr || !has_kind(r, kind))
			continue;
		if (r->test == SANDBOX_ANY || (r->test == SANDBOX_EQUAL && value == r->value) ||
		    (r->test == SANDBOX_WITHOUT && !(value & r->value)) ||
		    (r->test == SANDBOX_SELF && value == SELF))
			return true;
	}
	return false;
}

static void compare(const struct sock_filter *code, unsigned int n, unsigned int kind,
		    const struct seccomp_data *data)
{
	uint32_t want = table_allows(kind, data) ? SECCOMP_RET_ALLOW : SECCOMP_RET_TRAP;
	uint32_t got = interpret(code, n, data);

	if (got != want)
		fail_msg("%s: call %d with %llx, %llx, %llx: 0x%x and not 0x%x", kind_names[kind],
			 data->nr, data->args[0], data->args[1], data->args[2], got, want);
}

/* Every call, with every value that a row knows and its neighbours in each argument. */
static void filters_say_what_the_table_says(void **state)
{
	struct sock_filter code[SANDBOX_CODE_MAX];

	(void)state;
	for (unsigned int kind = 0; kind < SANDBOX_KINDS; kind++) {
		int n = sandbox_filter_build(kind, SELF, code, ARRAY_SIZE(code));

		assert_in_range(n, 5, SANDBOX_CODE_MAX);
		for (int nr = 0; nr < NR_MAX; nr++) {
			struct seccomp_data data = { .nr = nr, .arch = AUDIT_ARCH_X86_64 };

			compare(code, (unsigned int)n, kind, &data);
			memset(data.args, 0xff, sizeof(data.args));
			compare(code, (unsigned int)n, kind, &data);
			for (unsigned int i = 0; i < sandbox_nrules; i++) {
				const struct sandbox_rule *r = &sandbox_rules[i];
				uint64_t near[] = { r->value, r->value ^ 1, r->value | 1ull << 32,
						    ~(uint64_t)r->value, SELF };

				if (r->nr != nr || r->test == SANDBOX_ANY)
					continue;
				for (unsigned int v = 0; v < ARRAY_SIZE(near); v++) {
					data.args[r->arg] = near[v];
					compare(code, (unsigned int)n, kind, &data);
				}
			}
		}
	}
}

static void other_architectures_are_killed(void **state)
{
	struct sock_filter code[SANDBOX_CODE_MAX];
	struct seccomp_data i386 = { .nr = __NR_read, .arch = AUDIT_ARCH_I386 };
	struct seccomp_data x32 = { .nr = 0x40000000 | __NR_read, .arch = AUDIT_ARCH_X86_64 };

	(void)state;
	for (unsigned int kind = 0; kind < SANDBOX_KINDS; kind++) {
		int n = sandbox_filter_build(kind, SELF, code, ARRAY_SIZE(code));

		assert_true(n > 0);
		assert_true(interpret(code, (unsigned int)n, &i386) == SECCOMP_RET_KILL_PROCESS);
		assert_true(interpret(code, (unsigned int)n, &x32) == SECCOMP_RET_TRAP);
	}
}

static void too_small_a_buffer_is_an_error(void **state)
{
	struct sock_filter code[SANDBOX_CODE_MAX];
	struct sock_filter guard = code[20] = (struct sock_filter){ .k = 0x12345678 };

	(void)state;
	assert_int_equal(sandbox_filter_build(SANDBOX_MAIN, SELF, code, 20), -E2BIG);
	assert_memory_equal(&code[20], &guard, sizeof(guard));
}

/* --- the kernel ------------------------------------------------------------------------------ */

struct call {
	const char *name;
	long nr;
	unsigned long args[6];
};

static long make(const struct call *c)
{
	return syscall(c->nr, c->args[0], c->args[1], c->args[2], c->args[3], c->args[4],
		       c->args[5]);
}

/* What becomes of a child that makes the call under the filter: its wait status. */
static int status_of(unsigned int kind, const struct call *c)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		signal(SIGSYS, SIG_DFL); /* a sanitizer may have set it */
		if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		    sandbox_filter_install(kind))
			syscall(SYS_exit_group, 99);
		make(c);
		syscall(SYS_exit_group, 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void expect_death(unsigned int kind, const struct call *c)
{
	int status = status_of(kind, c);

	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
		fail_msg("%s: %s did not kill it (status 0x%x)", kind_names[kind], c->name, status);
}

static void expect_life(unsigned int kind, const struct call *c)
{
	int status = status_of(kind, c);

	if (status)
		fail_msg("%s: %s ended it with status 0x%x", kind_names[kind], c->name, status);
}

static void forbidden_calls_kill_every_kind(void **state)
{
	static const char null[] = "/dev/null", true_path[] = "/bin/true";
	const unsigned long page = PROT_READ | PROT_WRITE | PROT_EXEC;
	const unsigned long anon = MAP_PRIVATE | MAP_ANONYMOUS;
	const struct call calls[] = {
		{ "open", __NR_open, { (uintptr_t)null, O_RDONLY } },
		{ "openat", __NR_openat, { (unsigned long)AT_FDCWD, (uintptr_t)null, O_RDONLY } },
		{ "execve", __NR_execve, { (uintptr_t)true_path } },
		{ "execveat", __NR_execveat, { (unsigned long)AT_FDCWD, (uintptr_t)true_path } },
		{ "socket", __NR_socket, { AF_UNIX, SOCK_STREAM } },
		{ "connect", __NR_connect, { 0 } },
		{ "bind", __NR_bind, { 0 } },
		{ "ptrace", __NR_ptrace, { 0 } },
		{ "process_vm_readv", __NR_process_vm_readv, { (unsigned long)getpid() } },
		{ "mmap PROT_EXEC", __NR_mmap, { 0, 4096, page, anon, -1ul } },
		{ "mprotect", __NR_mprotect, { 0, 4096, PROT_READ | PROT_EXEC } },
		{ "fork", __NR_fork, { 0 } },
		{ "vfork", __NR_vfork, { 0 } },
		{ "clone", __NR_clone, { SIGCHLD } },
		{ "clone3", __NR_clone3, { 0 } },
		{ "io_uring_setup", __NR_io_uring_setup, { 8 } },
		{ "kill", __NR_kill, { (unsigned long)getppid(), 0 } },
		{ "tgkill",
		  __NR_tgkill,
		  { (unsigned long)getppid(), (unsigned long)getppid(), 0 } },
		{ "rt_sigaction", __NR_rt_sigaction, { SIGSYS, 0, 0, 8 } },
		{ "seccomp", __NR_seccomp, { SECCOMP_GET_ACTION_AVAIL } },
		{ "setuid", __NR_setuid, { 0 } },
		{ "unlink", __NR_unlink, { (uintptr_t) "/nonexistent/x" } },
		{ "rename",
		  __NR_rename,
		  { (uintptr_t) "/nonexistent/x", (uintptr_t) "/nonexistent/y" } },
		{ "chmod", __NR_chmod, { (uintptr_t) "/nonexistent/x" } },
		{ "bpf", __NR_bpf, { 0 } },
		{ "perf_event_open", __NR_perf_event_open, { 0 } },
		{ "memfd_create", __NR_memfd_create, { (uintptr_t) "x" } },
		{ "ioctl TIOCSTI", __NR_ioctl, { 0, TIOCSTI } },
		{ "ioctl KVM_CREATE_VM", __NR_ioctl, { -1ul, KVM_CREATE_VM } },
		{ "ioctl KVM_CREATE_VCPU", __NR_ioctl, { -1ul, KVM_CREATE_VCPU } },
		{ "fcntl F_SETFL", __NR_fcntl, { 0, F_SETFL } },
		{ "prctl PR_SET_DUMPABLE", __NR_prctl, { PR_SET_DUMPABLE, 1 } },
		{ "madvise", __NR_madvise, { 0, 0, MADV_DOFORK } },
		{ "io_uring_register", __NR_io_uring_register, { -1ul, 0 } },
		{ "no such call", 999, { 0 } },
	};

	(void)state;
	for (unsigned int kind = 0; kind < SANDBOX_KINDS; kind++)
		for (unsigned int i = 0; i < ARRAY_SIZE(calls); i++)
			expect_death(kind, &calls[i]);
}

static void kinds_do_not_do_the_work_of_others(void **state)
{
	static const struct {
		unsigned int kind;
		struct call call;
	} cases[] = {
		{ SANDBOX_MAIN, { "KVM_RUN", __NR_ioctl, { -1ul, KVM_RUN } } },
		{ SANDBOX_IO, { "KVM_RUN", __NR_ioctl, { -1ul, KVM_RUN } } },
		{ SANDBOX_VF, { "KVM_RUN", __NR_ioctl, { -1ul, KVM_RUN } } },
		{ SANDBOX_MIGRATION, { "KVM_RUN", __NR_ioctl, { -1ul, KVM_RUN } } },
		{ SANDBOX_MIGRATION, { "recvmsg", __NR_recvmsg, { -1ul } } },
		{ SANDBOX_VCPU, { "KVM_GET_DIRTY_LOG", __NR_ioctl, { -1ul, KVM_GET_DIRTY_LOG } } },
		{ SANDBOX_VCPU, { "KVM_SET_REGS", __NR_ioctl, { -1ul, KVM_SET_REGS } } },
		{ SANDBOX_IO, { "KVM_IRQFD", __NR_ioctl, { -1ul, KVM_IRQFD } } },
		{ SANDBOX_VCPU, { "io_uring_enter", __NR_io_uring_enter, { -1ul } } },
		{ SANDBOX_VCPU, { "recvmsg", __NR_recvmsg, { -1ul } } },
		{ SANDBOX_IO, { "recvmsg", __NR_recvmsg, { -1ul } } },
		{ SANDBOX_IO, { "accept4", __NR_accept4, { -1ul } } },
		{ SANDBOX_VCPU, { "accept4", __NR_accept4, { -1ul } } },
		{ SANDBOX_VCPU, { "pread64", __NR_pread64, { -1ul } } },
		{ SANDBOX_IO, { "pwrite64", __NR_pwrite64, { -1ul } } },
		{ SANDBOX_MAIN, { "unlinkat", __NR_unlinkat, { -1ul } } },
		{ SANDBOX_KEEPER, { "write", __NR_write, { -1ul } } },
		{ SANDBOX_TLS, { "openat", __NR_openat, { -1ul } } },
		{ SANDBOX_TLS, { "connect", __NR_connect, { -1ul } } },
		{ SANDBOX_TLS, { "recvmsg", __NR_recvmsg, { -1ul } } },
		{ SANDBOX_TLS, { "KVM_RUN", __NR_ioctl, { -1ul, KVM_RUN } } },
		{ SANDBOX_KEEPER, { "mmap", __NR_mmap, { 0 } } },
		{ SANDBOX_KEEPER, { "ioctl", __NR_ioctl, { 0, TCGETS } } },
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++)
		expect_death(cases[i].kind, &cases[i].call);
}

/* Every row, with arguments that do no more than fail. */
static void allowed_calls_are_made(void **state)
{
	(void)state;
	for (unsigned int kind = 0; kind < SANDBOX_KINDS; kind++)
		for (unsigned int i = 0; i < sandbox_nrules; i++) {
			const struct sandbox_rule *r = &sandbox_rules[i];
			struct call c = { r->reason, r->nr, { 0 } };

			/* They do not come back to where they were called. */
			if (!has_kind(r, kind) || r->nr == __NR_rt_sigreturn)
				continue;
			if (r->nr != __NR_poll && r->nr != __NR_exit && r->nr != __NR_exit_group)
				memset(c.args, 0xff, sizeof(c.args));
			if (r->test == SANDBOX_EQUAL)
				c.args[r->arg] = r->value;
			if (r->test == SANDBOX_WITHOUT)
				c.args[r->arg] = ~(uint64_t)r->value;
			if (r->test == SANDBOX_SELF) {
				expect_life(kind, &(struct call){ "getpid", __NR_getpid, { 0 } });
				continue;
			}
			if (r->nr == __NR_prctl || r->nr == __NR_getrandom)
				c.args[1] = 0;
			expect_life(kind, &c);
		}
}

static void a_thread_signals_its_own_process(void **state)
{
	(void)state;
	for (unsigned int kind = 0; kind <= SANDBOX_MIGRATION; kind++) {
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (!pid) {
			if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || sandbox_filter_install(kind))
				syscall(SYS_exit_group, 99);
			syscall(SYS_exit_group, syscall(SYS_tgkill, getpid(), gettid(), 0) ? 1 : 0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
}

/* Blocking the signal does not help: then the kernel kills without asking. */
static void sigsys_cannot_be_blocked(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (!pid) {
		sigset_t set;

		sigfillset(&set);
		if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		    sandbox_filter_install(SANDBOX_IO) || sigprocmask(SIG_BLOCK, &set, NULL))
			syscall(SYS_exit_group, 99);
		syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
		syscall(SYS_exit_group, 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_row_says_why),
		cmocka_unit_test(no_row_is_there_twice),
		cmocka_unit_test(rows_of_a_call_stand_together),
		cmocka_unit_test(the_dangerous_is_for_nobody),
		cmocka_unit_test(filters_say_what_the_table_says),
		cmocka_unit_test(other_architectures_are_killed),
		cmocka_unit_test(too_small_a_buffer_is_an_error),
		cmocka_unit_test(forbidden_calls_kill_every_kind),
		cmocka_unit_test(kinds_do_not_do_the_work_of_others),
		cmocka_unit_test(allowed_calls_are_made),
		cmocka_unit_test(a_thread_signals_its_own_process),
		cmocka_unit_test(sigsys_cannot_be_blocked),
	};

	return cmocka_run_group_tests_name("sandbox_filter", tests, NULL, NULL);
}
