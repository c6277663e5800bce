/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_run.c - `unvmm run`: from the command line to a guest in the foreground, its end, and the
 * exit status. Main thread; on_event and the handlers run on the main loop.
 */
#include "cmd.h"
#include "machine.h"
#include "run_options.h"

#include <unvmm/chardev.h>
#include <unvmm/console_watch.h>
#include <unvmm/control.h>
#include <unvmm/log.h>

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

struct run {
	struct machine machine;
	struct run_options options;
	struct vm_config config;
	struct control *control;		/* NULL: none */
	int signal_fd, timeout_fd, shutdown_fd; /* -1: not made */
	struct loop_fd signals, timeout, shutdown;
	bool shutting_down; /* SIGTERM has asked for power-off */
	int status;	    /* exit status, once the loop has ended */
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
	if (r->options.watch)
		console_watch_finish(r->options.watch);
	if (r->options.nexpect) {
		const char *pending = console_watch_pending(r->options.watch);

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
		if (r->config.on_reboot == ON_REBOOT_RESTART && !r->shutting_down)
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

/* The first SIGTERM presses the power button; a second one, and SIGINT, end the guest at once. */
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
		chardev_continue(vm->console);
		vm_unlock(vm);
		return;
	}
	if (si.ssi_signo != SIGTERM || r->shutting_down || !vm->power_button) {
		log_warn("ended by signal %u", si.ssi_signo);
		quit(r, 128 + (int)si.ssi_signo);
		return;
	}
	r->shutting_down = true;
	arm(r->shutdown_fd, r->options.shutdown_ms ? r->options.shutdown_ms : 1);
	if (vm->paused) { /* it can only power off when it runs */
		vm_resume(vm);
		control_event(r->control, CONTROL_RESUME);
	}
	vm_lock(vm);
	vm->power_button(vm);
	vm_unlock(vm);
	control_event(r->control, CONTROL_POWERDOWN);
}

static void on_shutdown_timeout(struct loop_fd *lf, uint32_t revents)
{
	struct run *r = container_of(lf, struct run, shutdown);

	(void)revents;
	hear(lf);
	log_warn("the guest did not power off within %.3g s of SIGTERM; it is ended",
		 (double)r->options.shutdown_ms / 1000);
	quit(r, EXIT_GUEST_FAILED);
}

static void on_timeout(struct loop_fd *lf, uint32_t revents)
{
	struct run *r = container_of(lf, struct run, timeout);
	const char *pending = r->options.watch ? console_watch_pending(r->options.watch) : NULL;

	(void)revents;
	hear(lf);
	if (pending)
		log_error("no \"%s\" within %.3g s", pending, (double)r->options.timeout_ms / 1000);
	else
		log_error("the guest is still running after %.3g s",
			  (double)r->options.timeout_ms / 1000);
	quit(r, EXIT_TIMEOUT);
}

/* Every --expect was seen. */
static void on_watched(void *opaque)
{
	struct run *r = opaque;

	if (r->options.nexpect)
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
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGCONT };
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
	if (err || !r->options.timeout_ms)
		return err;
	err = make_timer(l, &r->timeout, &r->timeout_fd, on_timeout, d);
	if (!err)
		arm(r->timeout_fd, r->options.timeout_ms);
	return err;
}

static int watch_console(struct run *r, struct diag *d)
{
	struct vm *vm = &r->machine.vm;
	int err;

	if (!r->options.watch)
		return 0;
	vm_lock(vm);
	err = console_watch_start(r->options.watch, vm, vm->console, on_watched, r, d);
	vm_unlock(vm);
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
	err = machine_create(&r->machine, &r->config, d);
	vm->on_event = on_event;
	if (!err) {
		struct termios modes;
		int fd;

		if (chardev_saved_terminal(vm->console, &fd, &modes))
			main_save_terminal(fd, &modes);
		err = watch_operator(r, d);
	}
	if (!err)
		err = watch_console(r, d);
	if (!err)
		err = control_open(&r->control, vm, d);
	if (!err)
		err = machine_start(&r->machine, d);
	if (!err) {
		err = loop_run(&vm->main_loop);
		if (err)
			diag_errno(d, err, "the event loop failed");
	}
	return err;
}

static void close_run(struct run *r)
{
	int fds[] = { r->signal_fd, r->timeout_fd, r->shutdown_fd };

	console_watch_free(r->options.watch);
	r->options.watch = NULL;
	control_close(r->control);
	machine_destroy(&r->machine);
	for (unsigned int i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

int cmd_run(int argc, char **argv)
{
	struct run r = { .signal_fd = -1, .timeout_fd = -1, .shutdown_fd = -1 };
	struct diag d = { 0 };
	int err;

	if (run_options_parse(&r.options, argc, argv, &d)) {
		fprintf(stderr, "unvmm: %s\ntry 'unvmm run --help'\n", d.text);
		return EXIT_USAGE;
	}
	log_set_level(r.options.log_level);
	if (r.options.action == RUN_HELP || r.options.action == RUN_HELP_KEYS) {
		if (r.options.action == RUN_HELP)
			run_options_usage(stdout);
		else
			config_print_keys(stdout, device_classes, device_class_count);
		run_options_free(&r.options);
		return 0;
	}
	err = config_load(&r.config, r.options.path, r.options.over, r.options.nover,
			  device_classes, device_class_count, &d);
	if (!err && r.options.action == RUN_GUEST) {
		err = run_machine(&r, &d);
		close_run(&r);
	}
	if (err)
		log_error("%s", d.text);
	config_free(&r.config);
	run_options_free(&r.options);
	return err ? EXIT_USAGE : r.status;
}
