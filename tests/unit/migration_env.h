/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migration_env.h - both sides of a migration with a guest that checks itself, the target in a
 * process of its own: what the tests of migration.h share. Included once by each program.
 */
#ifndef UNVMM_TESTS_MIGRATION_ENV_H
#define UNVMM_TESTS_MIGRATION_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <unvmm/log.h>
#include <unvmm/migration.h>
#include <unvmm/sandbox.h>

#include "machine.h"
#include "proto.h"

#define MAILBOX 0x50000

#define need_kvm()                                       \
	do {                                             \
		if (access("/dev/kvm", R_OK | W_OK) < 0) \
			skip();                          \
	} while (0)

/* What one side of a test is told. */
struct plan {
	const char *cmdline;
	const char *memory;
	unsigned int vcpus;
	bool paused; /* the operator has stopped the guest */
	bool sandbox;
	const char *disk;   /* that both can reach */
	uint32_t target_ms; /* silence that the target bears; 0: the default */
};

struct side {
	struct machine machine;
	struct vm_config config;
	struct migration *migration;
	struct migration_status status;
	bool created, ended;
};

static inline uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline void on_ended(void *arg, const struct migration_status *s)
{
	struct side *x = arg;

	x->status = *s;
	x->ended = true;
}

static inline void on_event(struct vm *vm)
{
	(void)vm;
}

static inline void die(const char *what, const struct diag *d)
{
	fprintf(stderr, "%s: %s\n", what, d->text);
	abort();
}

static inline void side_open(struct side *x, const struct plan *p, bool target)
{
	char text[6][512];
	struct config_override over[6];
	unsigned int n = p->disk ? 6 : 5;
	const struct migration_events events = { .ended = on_ended, .arg = x };
	struct diag d = { 0 };

	memset(x, 0, sizeof(*x));
	mallopt(M_ARENA_MAX, 1); /* as `unvmm run`: other heaps need calls that are forbidden */
	snprintf(text[0], sizeof(text[0]), "kernel=build/guests/migrate.elf");
	snprintf(text[1], sizeof(text[1]), "cmdline=mailbox=%d passes=0 %s", MAILBOX, p->cmdline);
	snprintf(text[2], sizeof(text[2]), "memory=%s", p->memory);
	snprintf(text[3], sizeof(text[3]), "vcpus=%u", p->vcpus);
	snprintf(text[4], sizeof(text[4]), "sandbox=%s", p->sandbox ? "true" : "false");
	snprintf(text[5], sizeof(text[5]), "disks.0.path=%s", p->disk ? p->disk : "");
	for (unsigned int i = 0; i < n; i++)
		over[i] = (struct config_override){ .text = text[i] };
	if ((target ? config_load_incoming : config_load)(&x->config, NULL, over, n, device_classes,
							  device_class_count, &d))
		die("config", &d);
	free(x->config.console);
	x->config.console = strdup(getenv("SHOW") ? "file:/dev/stderr" : "none");
	x->created = true;
	if (machine_create(&x->machine, &x->config, &d))
		die("machine", &d);
	x->machine.vm.on_event = on_event;
	if (migration_create(&x->machine.vm, &events, &x->migration, &d))
		die("migration", &d);
	if (target && vm_hold(&x->machine.vm, &d))
		die("hold", &d);
	if (machine_start(&x->machine, &d))
		die("start", &d);
}

static inline void side_close(struct side *x)
{
	migration_destroy(x->migration);
	machine_destroy(&x->machine);
	config_free(&x->config);
}

/* Runs the main loop until cond, or for ms. */
static inline bool run_until(struct side *x, bool (*cond)(struct side *x), unsigned int ms)
{
	uint64_t until = now_ms() + ms;

	while (now_ms() < until && !(cond && cond(x)))
		if (loop_turn(&x->machine.vm.main_loop, 2000000) < 0)
			abort();
	return cond && cond(x);
}

static inline uint64_t mailbox(struct side *x, unsigned int i)
{
	uint64_t v;

	if (gmem_read(&x->machine.vm.mem, MAILBOX + 8 * i, &v, sizeof(v)))
		abort();
	return v;
}

static inline bool has_begun(struct side *x)
{
	return mailbox(x, 1) >= 2;
}

static inline bool has_ended(struct side *x)
{
	return x->ended;
}

static inline bool has_exited(struct side *x)
{
	enum vm_event event;

	vm_lock(&x->machine.vm); /* a vcpu may be just asking for it */
	event = x->machine.vm.event;
	vm_unlock(&x->machine.vm);
	return event != VM_EVENT_NONE;
}

static inline bool progress(struct side *x, unsigned int ms)
{
	uint64_t pass = mailbox(x, 1), page = mailbox(x, 2), until = now_ms() + ms;

	do {
		run_until(x, NULL, 20);
		if (mailbox(x, 1) != pass || mailbox(x, 2) != page)
			return true;
	} while (now_ms() < until);
	return false;
}

/* Does the guest get on? On a busy host that may be a while. */
static inline bool runs(struct side *x)
{
	return progress(x, 30000);
}

static inline bool stands(struct side *x)
{
	return !progress(x, 100);
}

/* Has the guest look at all that it ever wrote; true: nothing is lost. */
static inline bool guest_is_content(struct side *x)
{
	uint64_t one = 1;

	if (gmem_write(&x->machine.vm.mem, MAILBOX, &one, sizeof(one)))
		abort();
	if (!run_until(x, has_exited, 30000)) {
		fprintf(stderr, "the guest does not end\n");
		return false;
	}
	if (x->machine.vm.event != VM_EVENT_EXIT_CODE || x->machine.vm.code)
		fprintf(stderr, "event %d, code %u, %s\n", x->machine.vm.event, x->machine.vm.code,
			x->machine.vm.error.text);
	return x->machine.vm.event == VM_EVENT_EXIT_CODE && !x->machine.vm.code;
}

static inline struct migration_params params(void)
{
	struct migration_params p;

	migration_params_init(&p);
	p.verify = true;
	p.peer_timeout_ms = 5000;
	return p;
}

static inline void forbidden(int sig, siginfo_t *si, void *context)
{
	char text[200] = "";

	(void)context;
	if (sandbox_describe(si, text, sizeof(text)) && write(2, text, strlen(text)) > 0)
		_exit(128 + sig);
	_exit(99);
}

/* Instead of cmocka's handler, which a filtered thread cannot run to its end. */
static inline void hear_forbidden_calls(void)
{
	struct sigaction sa = { .sa_sigaction = forbidden, .sa_flags = SA_SIGINFO };

	sigaction(SIGSYS, &sa, NULL);
}

/* --- the target's process --------------------------------------------------------------------- */

enum { TARGET_OK, TARGET_NOT_RUN, TARGET_BROKEN };

/* Exit status: what became of the guest here. */
static inline int run_target(int fd, const struct plan *p, bool restore)
{
	struct migration_params prm = params();
	struct pollfd comes = { .fd = fd, .events = POLLIN };
	struct diag d = { 0 };
	struct side x;
	int status = TARGET_BROKEN;

	side_open(&x, p, true);
	/* The source's guest has to come to something first. */
	if (poll(&comes, 1, 30000) < 0)
		die("poll", &d);
	if (p->target_ms)
		prm.peer_timeout_ms = p->target_ms;
	if ((restore ? migration_restore : migration_receive)(x.migration, fd, &prm, &d))
		die("receive", &d);
	run_until(&x, has_ended, 60000);
	if (getenv("SHOW"))
		fprintf(stderr, "target: %s %s\n", migration_phase_name(x.status.phase),
			x.status.error);
	if (x.ended && x.status.phase == MIGRATION_COMPLETED) {
		if (p->paused && (!x.machine.vm.paused || !stands(&x)))
			fprintf(stderr, "it was paused, but runs\n");
		else if (p->paused)
			vm_resume(&x.machine.vm);
		if (!runs(&x))
			fprintf(stderr, "the guest does not run\n");
		else if (guest_is_content(&x))
			status = TARGET_OK;
	} else if (x.ended && stands(&x)) {
		status = TARGET_NOT_RUN;
	}
	side_close(&x);
	return status;
}

static inline pid_t fork_target(int fd, const struct plan *p, bool restore)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		/* No other end of anything: it must see when one is closed. */
		close_range(3, (unsigned int)fd - 1, 0);
		close_range((unsigned int)fd + 1, ~0u, 0);
		alarm(120);
		hear_forbidden_calls();
		_exit(run_target(fd, p, restore));
	}
	return pid;
}

static inline int target_status(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static inline void make_pair(int pair[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
}

static inline unsigned int open_descriptors(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 1000; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static inline bool is_sending(struct side *x)
{
	struct migration_status s;

	migration_status(x->migration, &s);
	return s.phase == MIGRATION_PRECOPY && s.transferred > MiB(1);
}

#endif
