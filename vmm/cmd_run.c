/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_run.c - `unvmm run`: from the command line to a guest in the foreground, its end, and the
 * exit status. `unvmm receive` has the same guest, which comes from elsewhere
 * (cmd_run_move.c). Main thread; on_event and the handlers run on the main loop.
 */
#include "cmd_run.h"
#include "cmd.h"

#include <unvmm/chardev.h>
#include <unvmm/console_watch.h>
#include <unvmm/migration.h>
#include <unvmm/timer.h>

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

void run_end(struct run *r, int status)
{
	r->status = status;
	control_event(r->control, CONTROL_END);
	loop_quit(&r->machine.vm.main_loop);
}

/* --- what the guest or the host does to the machine ------------------------------------------ */

static void reboot(struct run *r)
{
	struct diag d = { 0 };

	log_limited(&r->resets, LOG_INFO, "the guest resets itself");
	if (!machine_reboot(&r->machine, &d)) {
		control_event(r->control, CONTROL_RESET);
		return;
	}
	log_error("%s", d.text);
	run_end(r, EXIT_USAGE);
}

/* The guest is over; with patterns still waited for, that is a failure however it ended. */
static void ended_by_guest(struct run *r, int status)
{
	if (r->options->watch)
		console_watch_finish(r->options->watch);
	if (r->options->nexpect) {
		const char *pending = console_watch_pending(r->options->watch);

		if (!pending) {
			run_end(r, 0);
			return;
		}
		log_error("the guest ended without printing \"%s\"", pending);
		status = EXIT_GUEST_FAILED;
	}
	run_end(r, status);
}

static void on_event(struct vm *vm)
{
	struct run *r = container_of(vm, struct run, machine.vm);

	/* What ends the machine for good stays as it is: its code and sentence can be read then. */
	switch (vm_requested(vm)) {
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
			run_end(r, vm->code);
		break;
	case VM_EVENT_ERROR:
		log_error("%s", vm->error.text);
		run_end(r, EXIT_USAGE);
		break;
	}
}

/* --- the operator and the clock -------------------------------------------------------------- */

void run_quit(struct run *r, int status)
{
	vm_lock(&r->machine.vm);
	vm_request(&r->machine.vm, VM_EVENT_QUIT, (uint8_t)status);
	vm_unlock(&r->machine.vm);
}

void run_shut_down(struct run *r)
{
	struct vm *vm = &r->machine.vm;

	r->shutting_down = true;
	timer_arm(r->shutdown_fd, r->options->shutdown_ms ? r->options->shutdown_ms : 1);
	if (vm->paused) { /* it can only power off when it runs */
		vm_resume(vm);
		control_event(r->control, CONTROL_RESUME);
	}
	vm_lock(vm);
	vm->power_button(vm->power_button_arg);
	vm_unlock(vm);
	control_event(r->control, CONTROL_POWERDOWN);
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
		chardev_continue(vm->attended);
		vm_unlock(vm);
		return;
	}
	if (si.ssi_signo == SIGWINCH) {
		vm_lock(vm);
		chardev_resized(vm->attended);
		vm_unlock(vm);
		return;
	}
	if (r->moved) {
		run_quit(r, 0);
	} else if (si.ssi_signo == SIGTERM && run_at_switch(r)) {
		r->shut_down_later = true;
	} else if (si.ssi_signo != SIGTERM || r->shutting_down || !vm->power_button || vm->held) {
		log_warn("ended by signal %u", si.ssi_signo);
		run_quit(r, 128 + (int)si.ssi_signo);
	} else {
		run_shut_down(r);
	}
}

static void on_shutdown_timeout(struct loop_fd *lf, uint32_t revents)
{
	struct run *r = container_of(lf, struct run, shutdown);

	(void)revents;
	if (!timer_rang(lf->fd))
		return;
	log_warn("the guest did not power off within %.3g s of SIGTERM; it is ended",
		 (double)r->options->shutdown_ms / 1000);
	run_quit(r, EXIT_GUEST_FAILED);
}

static void on_timeout(struct loop_fd *lf, uint32_t revents)
{
	struct run *r = container_of(lf, struct run, timeout);
	const char *pending = r->options->watch ? console_watch_pending(r->options->watch) : NULL;

	(void)revents;
	if (!timer_rang(lf->fd))
		return;
	if (pending)
		log_error("no \"%s\" within %.3g s", pending,
			  (double)r->options->timeout_ms / 1000);
	else
		log_error("the guest is still running after %.3g s",
			  (double)r->options->timeout_ms / 1000);
	run_quit(r, EXIT_TIMEOUT);
}

/* Every --expect was seen. */
static void on_watched(void *opaque)
{
	struct run *r = opaque;

	if (r->options->nexpect)
		vm_request(&r->machine.vm, VM_EVENT_QUIT, 0);
}

int run_make_timer(struct run *r, struct loop_fd *lf, int *fd,
		   void (*ready)(struct loop_fd *, uint32_t), struct diag *d)
{
	int err;

	*fd = timer_open();
	if (*fd < 0)
		return diag_errno(d, *fd, "cannot make a timer");
	err = loop_add(&r->machine.vm.main_loop, lf, *fd, POLLIN, ready);
	return err ? diag_errno(d, err, "cannot watch a timer") : 0;
}

static const int end_signals[] = { SIGTERM, SIGINT, SIGHUP };

/* What the operator says by signals; read from a signalfd on the main loop. */
static sigset_t operator_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	for (unsigned int i = 0; i < ARRAY_SIZE(end_signals); i++)
		sigaddset(&set, end_signals[i]);
	sigaddset(&set, SIGCONT);
	sigaddset(&set, SIGWINCH);
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
	err = run_make_timer(r, &r->shutdown, &r->shutdown_fd, on_shutdown_timeout, d);
	if (err || !r->options->timeout_ms)
		return err;
	err = run_make_timer(r, &r->timeout, &r->timeout_fd, on_timeout, d);
	if (!err)
		timer_arm(r->timeout_fd, r->options->timeout_ms);
	return err;
}

static int watch_console(struct run *r, struct diag *d)
{
	struct vm *vm = &r->machine.vm;
	int err;

	if (!r->options->watch)
		return 0;
	vm_lock(vm);
	err = console_watch_start(r->options->watch, vm, vm->attended, on_watched, r, d);
	vm_unlock(vm);
	return err;
}

/* --- the command ----------------------------------------------------------------------------- */

static void end_at_once(int sig)
{
	log_warn("ended by signal %d", sig);
	main_quit(128 + sig);
}

/*
 * While the machine is being set up no loop listens, and some of what is opened is slow or hangs:
 * then a signal ends the process at once. There is no guest yet that could lose anything, and what
 * is left in the file system is the keeper's business.
 */
static void hear_signals_at_once(void)
{
	struct sigaction sa = { .sa_handler = end_at_once }, was;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* RLIMIT_FSIZE: the write fails, and its device copes */
	for (unsigned int i = 0; i < ARRAY_SIZE(end_signals); i++)
		if (!sigaction(end_signals[i], NULL, &was) && was.sa_handler != SIG_IGN)
			sigaction(end_signals[i], &sa, NULL);
}

/* From here on they wait for the main loop. */
static void block_signals(void)
{
	sigset_t set = operator_signals();

	sigprocmask(SIG_BLOCK, &set, NULL);
}

int run_take_terminal(struct run *r, struct diag *d)
{
	struct vm *vm = &r->machine.vm;
	struct termios modes;
	int fd, err;

	vm_lock(vm);
	err = chardev_take_terminal(vm->attended, d);
	if (!err && chardev_saved_terminal(vm->attended, &fd, &modes))
		main_save_terminal(fd, &modes);
	vm_unlock(vm);
	return err;
}

static int run_machine(struct run *r, struct diag *d)
{
	struct vm *vm = &r->machine.vm;
	int err;

	/* Threads allocate next to nothing: one heap for all keeps the process small. */
	mallopt(M_ARENA_MAX, 1);
	hear_signals_at_once();
	inherited_find(&r->inherited);
	err = machine_create(&r->machine, r->config, d);
	vm->on_event = on_event;
	if (!err)
		err = watch_operator(r, d);
	if (!err)
		err = watch_console(r, d);
	if (!err)
		err = run_prepare_migration(r, d);
	if (!err)
		err = control_open(&r->control, vm, d);
	control_set_migration(r->control, &r->qmp);
	inherited_close(&r->inherited);
	block_signals();
	if (!err && !r->arrival) /* until the guest is there, ^C ends the wait for it */
		err = run_take_terminal(r, d);
	if (!err)
		err = machine_start(&r->machine, d);
	if (!err && r->arrival)
		err = run_await_arrival(r, d);
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
