/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_run_move.c - how a guest in the foreground comes and goes by a migration: what it arrives
 * through, what its clients and its operator are told, and when this process ends. Main thread;
 * the engine's events come on the main loop.
 */
#include "cmd_run.h"
#include "cmd.h"

#include <unvmm/migration.h>
#include <unvmm/timer.h>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LEAVE_MS 5000 /* for clients to ask how the move went, before a source ends */

bool run_at_switch(const struct run *r)
{
	struct migration_status s;

	if (!r->machine.vm.held || !r->migration)
		return false;
	migration_status(r->migration, &s);
	return s.outgoing && !migration_phase_over(s.phase);
}

static void on_leave(struct loop_fd *lf, uint32_t revents)
{
	struct run *r = container_of(lf, struct run, leave);

	(void)revents;
	loop_del(lf);
	run_quit(r, 0);
}

/* Nothing is left to do but to tell clients that ask. */
static void leave(struct run *r)
{
	const char *to = r->qmp.destination[0] ? r->qmp.destination : "its destination";
	struct diag d = { 0 };

	r->moved = true;
	log_notice("the guest runs at %s now; this process ends", to);
	if (run_make_timer(r, &r->leave, &r->leave_fd, on_leave, &d))
		run_quit(r, 0);
	else
		timer_arm(r->leave_fd, LEAVE_MS);
}

/* It goes on here, or stays paused as it was. */
static void goes_on(struct run *r)
{
	if (r->switching && !r->machine.vm.paused)
		control_event(r->control, CONTROL_RESUME);
	if (r->shut_down_later)
		run_shut_down(r);
	r->shut_down_later = false;
}

static void source_ended(struct run *r, const struct migration_status *s)
{
	switch (s->phase) {
	case MIGRATION_COMPLETED:
		if (!s->file)
			leave(r);
		else if (!r->machine.vm.held)
			goes_on(r);
		break;
	case MIGRATION_HANDED_OVER:
		log_error("the guest may run at %s: %s; it stays stopped here. If it does not run "
			  "there and never will, \"unvmm resume --destination-is-dead\" has it go "
			  "on here; else end this process (\"unvmm stop --now\")",
			  r->qmp.destination[0] ? r->qmp.destination : "its destination", s->error);
		break;
	case MIGRATION_CANCELLED:
		log_notice("the migration is cancelled; the guest goes on here");
		goes_on(r);
		break;
	default:
		log_warn("the migration failed: %s; the guest goes on here", s->error);
		goes_on(r);
		break;
	}
	r->switching = false;
}

static void target_ended(struct run *r, const struct migration_status *s)
{
	int fd = r->arrival->told_fd;
	struct diag d = { 0 };

	if (s->phase != MIGRATION_COMPLETED) {
		log_error("the guest did not arrive: %s", s->error);
		run_end(r, EXIT_USAGE);
		return;
	}
	if (!r->machine.vm.paused)
		control_event(r->control, CONTROL_RESUME);
	log_notice("the guest runs here now");
	if (run_take_terminal(r, &d))
		log_warn("%s", d.text);
	if (fd >= 0 && write(fd, "", 1) < 0)
		log_debug("nobody waits for the guest to run");
	if (fd >= 0)
		close(fd);
	r->arrival->told_fd = -1;
}

static void on_phase(void *arg, enum migration_phase phase)
{
	struct run *r = arg;

	control_migration_event(r->control, phase);
	if (phase != MIGRATION_SWITCH || r->machine.vm.paused)
		return;
	r->switching = true;
	control_event(r->control, CONTROL_STOP);
}

static void on_ended(void *arg, const struct migration_status *s)
{
	struct run *r = arg;

	if (s->outgoing)
		source_ended(r, s);
	else
		target_ended(r, s);
}

/* Threads wait for that memory, main perhaps among them: there is no orderly end. */
static void on_lost(void *arg, const char *why)
{
	(void)arg;
	log_error("the guest's memory cannot be read any more: %s; it ends here", why);
	main_quit(EXIT_USAGE);
}

/* A guest out of a file need not wait for all of it, if it may be so here. */
static void allow_lazy(struct run *r)
{
	struct diag d = { 0 };

	if (!r->options->eager && migration_allow_lazy(r->migration, &d))
		log_info("all of the guest's memory is read before it runs: %s", d.text);
}

static void arrive(struct run *r, int fd)
{
	struct diag d = { 0 };
	int err;

	if (r->arrival->kind == ARRIVAL_FILE)
		err = migration_restore(r->migration, fd, &r->qmp.params, &d);
	else
		err = migration_receive(r->migration, fd, &r->qmp.params, &d);
	if (!err)
		return;
	log_error("%s", d.text);
	run_end(r, EXIT_USAGE);
}

/* The first one, for better or worse: a machine can be tried only once. */
static void on_connection(struct loop_fd *lf, uint32_t revents)
{
	struct run *r = container_of(lf, struct run, listener);
	bool listens = r->arrival->kind == ARRIVAL_LISTEN;
	int fd = lf->fd;

	(void)revents;
	if (listens)
		fd = accept4(lf->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	loop_del(lf);
	if (listens)
		close(r->arrival->fd);
	r->arrival->fd = -1;
	arrive(r, fd);
}

int run_await_arrival(struct run *r, struct diag *d)
{
	struct arrival *a = r->arrival;
	int err, fd = a->fd;

	if (a->kind == ARRIVAL_LISTEN || a->kind == ARRIVAL_LATER) {
		err = loop_add(&r->machine.vm.main_loop, &r->listener, fd, POLLIN, on_connection);
		if (err)
			return diag_errno(d, err, "cannot wait for the guest");
		log_notice("waiting for the guest at %s", a->at);
		return 0;
	}
	a->fd = -1;
	arrive(r, fd);
	return 0;
}

int run_prepare_migration(struct run *r, struct diag *d)
{
	static const struct qmp_migration_ops ops = {
		.start = migration_start,
		.save = migration_save,
		.check = migration_params_check,
		.set_params = migration_set_params,
		.cancel = migration_cancel,
		.resume_source = migration_resume_source,
		.status = migration_status,
		.phase_name = migration_phase_name,
	};
	const struct migration_events events = {
		.phase = on_phase, .ended = on_ended, .lost = on_lost, .arg = r
	};
	struct vm *vm = &r->machine.vm;
	int err;

	if (r->arrival) {
		err = vm_hold(vm, d);
		if (!err)
			err = r->arrival->open(r->arrival, vm, d);
		if (err)
			return err;
	}
	err = migration_create(vm, &events, &r->migration, d);
	if (!err && r->arrival && r->arrival->kind == ARRIVAL_FILE)
		allow_lazy(r);
	r->qmp.ops = &ops;
	r->qmp.engine = r->migration;
	migration_params_init(&r->qmp.params);
	return err;
}
