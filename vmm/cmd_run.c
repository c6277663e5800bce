/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_run.c - `unvmm run`: from the command line to a guest in the foreground, its end, and the
 * exit status. `unvmm receive` has the same guest, which comes from elsewhere. Main thread;
 * on_event and the handlers run on the main loop.
 */
#include "cmd.h"
#include "cmd_guest.h"
#include "inherited.h"
#include "machine.h"
#include "qmp_migrate.h"

#include <unvmm/chardev.h>
#include <unvmm/console_watch.h>
#include <unvmm/control.h>
#include <unvmm/log.h>
#include <unvmm/migration.h>

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define LEAVE_MS 5000 /* for clients to ask how the move went, before a source ends */

struct run {
	struct machine machine;
	struct run_options *options;
	struct vm_config *config;
	struct inherited inherited;
	struct control *control;			  /* NULL: none */
	int signal_fd, timeout_fd, shutdown_fd, leave_fd; /* -1: not made */
	struct loop_fd signals, timeout, shutdown, leave, listener;
	struct migration *migration; /* this one's machinery; NULL: not made */
	struct qmp_migration qmp;
	struct arrival *arrival; /* NULL: the guest boots here */
	bool switching;		 /* clients were told STOP because of a migration */
	bool moved;		 /* the guest runs elsewhere */
	bool shutting_down;	 /* SIGTERM has asked for power-off */
	bool shut_down_later;	 /* it came while a migration held the machine */
	int status;		 /* exit status, once the loop has ended */
};

static void end(struct run *r, int status)
{
	r->status = status;
	control_event(r->control, CONTROL_END);
	loop_quit(&r->machine.vm.main_loop);
}

/* --- what the guest or the host does to the machine ------------------------------------------ */

static void reboot(struct run *r)
{
	struct diag d = { 0 };

	log_info("the guest resets itself");
	if (!machine_reboot(&r->machine, &d)) {
		control_event(r->control, CONTROL_RESET);
		return;
	}
	log_error("%s", d.text);
	end(r, EXIT_USAGE);
}

/* The guest is over; with patterns still waited for, that is a failure however it ended. */
static void ended_by_guest(struct run *r, int status)
{
	if (r->options->watch)
		console_watch_finish(r->options->watch);
	if (r->options->nexpect) {
		const char *pending = console_watch_pending(r->options->watch);

		if (!pending) {
			end(r, 0);
			return;
		}
		log_error("the guest ended without printing \"%s\"", pending);
		status = EXIT_GUEST_FAILED;
	}
	end(r, status);
}

static void on_event(struct vm *vm)
{
	struct run *r = container_of(vm, struct run, machine.vm);

	switch (vm->event) {
	case VM_EVENT_NONE:
		break;
	case VM_EVENT_POWEROFF:
		ended_by_guest(r, 0);
		break;
	case VM_EVENT_REBOOT:
		if (vm->held) /* comes again with vm_release() */
			break;
		if (r->config->on_reboot == ON_REBOOT_RESTART && !r->shutting_down)
			reboot(r);
		else
			ended_by_guest(r, r->shutting_down ? 0 : EXIT_GUEST_FAILED);
		break;
	case VM_EVENT_PANIC:
		log_error("the guest's kernel panicked");
		ended_by_guest(r, EXIT_GUEST_FAILED);
		break;
	case VM_EVENT_EXIT_CODE:
		ended_by_guest(r, vm->code);
		break;
	case VM_EVENT_QUIT:
		if (r->moved)
			ended_by_guest(r, vm->code);
		else
			end(r, vm->code);
		break;
	case VM_EVENT_ERROR:
		log_error("%s", vm->error.text);
		end(r, EXIT_USAGE);
		break;
	}
}

/* --- the operator and the clock -------------------------------------------------------------- */

static void quit(struct run *r, int status)
{
	vm_lock(&r->machine.vm);
	vm_request(&r->machine.vm, VM_EVENT_QUIT, (uint8_t)status);
	vm_unlock(&r->machine.vm);
}

/* A timer that has been heard is quiet again. */
static void hear(struct loop_fd *lf)
{
	uint64_t times;

	if (read(lf->fd, &times, sizeof(times)) < 0)
		return;
}

static void arm(int fd, uint64_t ms)
{
	struct itimerspec t = { .it_value = { .tv_sec = (time_t)(ms / 1000),
					      .tv_nsec = (long)(ms % 1000) * 1000000 } };

	timerfd_settime(fd, 0, &t, NULL);
}

static void shut_down(struct run *r)
{
	struct vm *vm = &r->machine.vm;

	r->shutting_down = true;
	arm(r->shutdown_fd, r->options->shutdown_ms ? r->options->shutdown_ms : 1);
	if (vm->paused) { /* it can only power off when it runs */
		vm_resume(vm);
		control_event(r->control, CONTROL_RESUME);
	}
	vm_lock(vm);
	vm->power_button(vm);
	vm_unlock(vm);
	control_event(r->control, CONTROL_POWERDOWN);
}

/* Is the guest stopped for a migration, which may yet fail and have it go on here? */
static bool at_switch(const struct run *r)
{
	struct migration_status s;

	if (!r->machine.vm.held || !r->migration)
		return false;
	migration_status(r->migration, &s);
	return s.outgoing && !migration_phase_over(s.phase);
}

/*
 * The first SIGTERM presses the power button; a second one, and SIGINT, end the guest at once. So
 * does the first where there is no guest to press a button for.
 */
static void on_signal(struct loop_fd *lf, uint32_t revents)
{
	struct run *r = container_of(lf, struct run, signals);
	struct vm *vm = &r->machine.vm;
	struct signalfd_siginfo si;

	(void)revents;
	if (read(lf->fd, &si, sizeof(si)) != sizeof(si))
		return;
	if (si.ssi_signo == SIGCONT) {
		vm_lock(vm);
		chardev_continue(vm->operator);
		vm_unlock(vm);
		return;
	}
	if (si.ssi_signo == SIGWINCH) {
		vm_lock(vm);
		chardev_resized(vm->operator);
		vm_unlock(vm);
		return;
	}
	if (r->moved) {
		quit(r, 0);
	} else if (si.ssi_signo == SIGTERM && at_switch(r)) {
		r->shut_down_later = true;
	} else if (si.ssi_signo != SIGTERM || r->shutting_down || !vm->power_button || vm->held) {
		log_warn("ended by signal %u", si.ssi_signo);
		quit(r, 128 + (int)si.ssi_signo);
	} else {
		shut_down(r);
	}
}

static void on_shutdown_timeout(struct loop_fd *lf, uint32_t revents)
{
	struct run *r = container_of(lf, struct run, shutdown);

	(void)revents;
	hear(lf);
	log_warn("the guest did not power off within %.3g s of SIGTERM; it is ended",
		 (double)r->options->shutdown_ms / 1000);
	quit(r, EXIT_GUEST_FAILED);
}

static void on_timeout(struct loop_fd *lf, uint32_t revents)
{
	struct run *r = container_of(lf, struct run, timeout);
	const char *pending = r->options->watch ? console_watch_pending(r->options->watch) : NULL;

	(void)revents;
	hear(lf);
	if (pending)
		log_error("no \"%s\" within %.3g s", pending,
			  (double)r->options->timeout_ms / 1000);
	else
		log_error("the guest is still running after %.3g s",
			  (double)r->options->timeout_ms / 1000);
	quit(r, EXIT_TIMEOUT);
}

/* Every --expect was seen. */
static void on_watched(void *opaque)
{
	struct run *r = opaque;

	if (r->options->nexpect)
		vm_request(&r->machine.vm, VM_EVENT_QUIT, 0);
}

static int make_timer(struct loop *l, struct loop_fd *lf, int *fd,
		      void (*ready)(struct loop_fd *, uint32_t), struct diag *d)
{
	int err;

	*fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (*fd < 0)
		return diag_errno(d, -errno, "cannot make a timer");
	err = loop_add(l, lf, *fd, POLLIN, ready);
	return err ? diag_errno(d, err, "cannot watch a timer") : 0;
}

/* What the operator says by signals; read from a signalfd on the main loop. */
static sigset_t operator_signals(void)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGCONT, SIGWINCH };
	sigset_t set;

	sigemptyset(&set);
	for (unsigned int i = 0; i < ARRAY_SIZE(signals); i++)
		sigaddset(&set, signals[i]);
	return set;
}

static int watch_operator(struct run *r, struct diag *d)
{
	struct loop *l = &r->machine.vm.main_loop;
	sigset_t set = operator_signals();
	int err;

	r->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (r->signal_fd < 0)
		return diag_errno(d, -errno, "cannot listen for signals");
	err = loop_add(l, &r->signals, r->signal_fd, POLLIN, on_signal);
	if (err)
		return diag_errno(d, err, "cannot listen for signals");
	err = make_timer(l, &r->shutdown, &r->shutdown_fd, on_shutdown_timeout, d);
	if (err || !r->options->timeout_ms)
		return err;
	err = make_timer(l, &r->timeout, &r->timeout_fd, on_timeout, d);
	if (!err)
		arm(r->timeout_fd, r->options->timeout_ms);
	return err;
}

static int watch_console(struct run *r, struct diag *d)
{
	struct vm *vm = &r->machine.vm;
	int err;

	if (!r->options->watch)
		return 0;
	vm_lock(vm);
	err = console_watch_start(r->options->watch, vm, vm->operator, on_watched, r, d);
	vm_unlock(vm);
	return err;
}

/* --- migration: away from here, and to here -------------------------------------------------- */

static void on_leave(struct loop_fd *lf, uint32_t revents)
{
	struct run *r = container_of(lf, struct run, leave);

	(void)revents;
	hear(lf);
	quit(r, 0);
}

/* Nothing is left to do but to tell clients that ask. */
static void leave(struct run *r)
{
	const char *to = r->qmp.destination[0] ? r->qmp.destination : "its destination";
	struct diag d = { 0 };

	r->moved = true;
	log_notice("the guest runs at %s now; this process ends", to);
	if (make_timer(&r->machine.vm.main_loop, &r->leave, &r->leave_fd, on_leave, &d))
		quit(r, 0);
	else
		arm(r->leave_fd, LEAVE_MS);
}

/* It goes on here, or stays paused as it was. */
static void goes_on(struct run *r)
{
	if (r->switching && !r->machine.vm.paused)
		control_event(r->control, CONTROL_RESUME);
	if (r->shut_down_later)
		shut_down(r);
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

	if (s->phase != MIGRATION_COMPLETED) {
		log_error("the guest did not arrive: %s", s->error);
		end(r, EXIT_USAGE);
		return;
	}
	if (!r->machine.vm.paused)
		control_event(r->control, CONTROL_RESUME);
	log_notice("the guest runs here now");
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
	end(r, EXIT_USAGE);
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

static int await_arrival(struct run *r, struct diag *d)
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

static int prepare_migration(struct run *r, struct diag *d)
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

/* --- the command ----------------------------------------------------------------------------- */

static void block_signals(void)
{
	sigset_t set = operator_signals();

	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static int run_machine(struct run *r, struct diag *d)
{
	struct vm *vm = &r->machine.vm;
	int err;

	/* Threads allocate next to nothing: one heap for all keeps the process small. */
	mallopt(M_ARENA_MAX, 1);
	block_signals();
	inherited_find(&r->inherited);
	err = machine_create(&r->machine, r->config, d);
	vm->on_event = on_event;
	if (!err) {
		struct termios modes;
		int fd;

		if (chardev_saved_terminal(vm->operator, & fd, &modes))
			main_save_terminal(fd, &modes);
		err = watch_operator(r, d);
	}
	if (!err)
		err = watch_console(r, d);
	if (!err)
		err = prepare_migration(r, d);
	if (!err)
		err = control_open(&r->control, vm, d);
	control_set_migration(r->control, &r->qmp);
	inherited_close(&r->inherited);
	if (!err)
		err = machine_start(&r->machine, d);
	if (!err && r->arrival)
		err = await_arrival(r, d);
	if (!err) {
		err = loop_run(&vm->main_loop);
		if (err)
			diag_errno(d, err, "the event loop failed");
	}
	return err;
}

static void close_run(struct run *r)
{
	int fds[] = { r->signal_fd, r->timeout_fd, r->shutdown_fd, r->leave_fd };

	console_watch_free(r->options->watch);
	r->options->watch = NULL;
	control_close(r->control);
	migration_destroy(r->migration);
	loop_del(&r->listener);
	if (r->arrival && r->arrival->fd >= 0)
		close(r->arrival->fd);
	machine_destroy(&r->machine);
	for (unsigned int i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

int guest_run(struct run_options *o, struct vm_config *config, struct arrival *arrival)
{
	struct run r = { .options = o,
			 .config = config,
			 .arrival = arrival,
			 .signal_fd = -1,
			 .timeout_fd = -1,
			 .shutdown_fd = -1,
			 .leave_fd = -1 };
	struct diag d = { 0 };
	int err = run_machine(&r, &d);

	close_run(&r);
	if (err)
		log_error("%s", d.text);
	return err ? EXIT_USAGE : r.status;
}

bool guest_options(struct run_options *o, int argc, char **argv, int *status)
{
	struct diag d = { 0 };

	if (run_options_parse(o, argc, argv, &d)) {
		fprintf(stderr, "unvmm: %s\ntry 'unvmm %s --help'\n", d.text, argv[0]);
		*status = EXIT_USAGE;
		return false;
	}
	log_set_level(o->log_level);
	if (o->action != RUN_HELP && o->action != RUN_HELP_KEYS)
		return true;
	if (o->action == RUN_HELP)
		run_options_usage(stdout, argv[0]);
	else
		config_print_keys(stdout, device_classes, device_class_count);
	run_options_free(o);
	*status = 0;
	return false;
}

int cmd_run(int argc, char **argv)
{
	struct run_options o;
	struct vm_config config;
	struct diag d = { 0 };
	int status = 0;

	if (!guest_options(&o, argc, argv, &status))
		return status;
	if (config_load(&config, o.path, o.over, o.nover, device_classes, device_class_count, &d)) {
		log_error("%s", d.text);
		status = EXIT_USAGE;
	} else if (o.action == RUN_GUEST) {
		status = guest_run(&o, &config, NULL);
	}
	config_free(&config);
	run_options_free(&o);
	return status;
}
