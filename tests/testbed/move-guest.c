/* SPDX-License-Identifier: Apache-2.0 */
/*
 * move-guest.c - `move-guest run ...` is `unvmm run ...` for a guest that changes its machine every
 * MOVE_MS milliseconds (environment, default 500): it is stopped, its RAM and state are copied, the
 * machine ends, and a new one of the same configuration is given both and goes on. So machine state
 * is tested with a real kernel, without a stream. Exit status: the guest's, or 2.
 * Threads: main, and those of the machines.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <unvmm/log.h>
#include <unvmm/machine_state.h>

#include "machine.h"
#include "run_options.h"

#define PARTS_MAX	128
#define MOVE_MS_DEFAULT 500

struct part {
	char id[24];
	void *blob;
	size_t len;
};

struct guest {
	struct machine machine;
	struct vm_config config;
	unsigned int move_ms, moves;
	int timer_fd;
	struct loop_fd timer;
	bool moving, over;
	int status;
	/* Between two machines. */
	struct part parts[PARTS_MAX];
	unsigned int nparts;
	void *description;
	size_t description_len;
	void *ram[GMEM_REGIONS_MAX];
	unsigned int nram;
};

static struct guest guest;

/* --- what ends a machine's life ----------------------------------------------------------------
 */

static void on_event(struct vm *vm)
{
	if (vm->held) /* it comes again with vm_release(), or travels */
		return;
	switch (vm->event) {
	case VM_EVENT_NONE:
		return;
	case VM_EVENT_POWEROFF:
		guest.status = 0;
		break;
	case VM_EVENT_EXIT_CODE:
		guest.status = vm->code;
		break;
	case VM_EVENT_ERROR:
		log_error("%s", vm->error.text);
		guest.status = 2;
		break;
	default:
		guest.status = 1;
	}
	guest.over = true;
	loop_quit(&vm->main_loop);
}

static void on_timer(struct loop_fd *lf, uint32_t revents)
{
	struct vm *vm = &guest.machine.vm;
	struct diag d = { 0 };
	uint64_t times;

	(void)revents;
	if (read(lf->fd, &times, sizeof(times)) < 0 || vm_hold(vm, &d))
		return;
	if (vm->event != VM_EVENT_NONE && vm->event != VM_EVENT_REBOOT) {
		vm->held = false; /* nothing is to be moved any more */
		on_event(vm);
		return;
	}
	guest.moving = true;
	loop_quit(&vm->main_loop);
}

/* --- out of one machine, into the next ---------------------------------------------------------
 */

static int keep(void *arg, const char *id, const void *blob, size_t len, struct diag *d)
{
	struct part *p = &guest.parts[guest.nparts];

	(void)arg;
	if (guest.nparts == PARTS_MAX)
		return diag_set(d, -E2BIG, "more than %d parts", PARTS_MAX);
	p->blob = malloc(len);
	if (!p->blob)
		return diag_set(d, -ENOMEM, "no memory for %s", id);
	memcpy(p->blob, blob, len);
	snprintf(p->id, sizeof(p->id), "%s", id);
	p->len = len;
	guest.nparts++;
	return 0;
}

static int leave(struct diag *d)
{
	struct vm *vm = &guest.machine.vm;
	int err;

	vm_lock(vm);
	err = machine_state_supported(vm, d);
	if (!err)
		err = machine_description(vm, &guest.description, &guest.description_len, d);
	if (!err)
		err = machine_state_save(vm, keep, NULL, d);
	vm_unlock(vm);
	for (guest.nram = 0; guest.nram < vm->mem.nregions && !err; guest.nram++) {
		const struct gmem_region *r = &vm->mem.regions[guest.nram];

		guest.ram[guest.nram] = malloc(r->size);
		if (!guest.ram[guest.nram])
			return diag_set(d, -ENOMEM, "no memory for the guest's RAM");
		memcpy(guest.ram[guest.nram], r->hva, r->size);
	}
	return err;
}

static int load(struct vm *vm, struct diag *d)
{
	struct machine_load *l = machine_load_begin(vm);
	int err = l ? 0 : -ENOMEM;

	for (unsigned int i = 0; i < guest.nparts && !err; i++)
		err = machine_load_parse(l, guest.parts[i].id, guest.parts[i].blob,
					 guest.parts[i].len, d);
	if (!err)
		err = machine_load_complete(l, d);
	if (!err)
		err = machine_load_commit(l, d);
	machine_load_free(l);
	return err;
}

static int arrive(struct diag *d)
{
	struct vm *vm = &guest.machine.vm;
	int err;

	vm_lock(vm);
	err = machine_description_check(vm, guest.description, guest.description_len, d);
	vm_unlock(vm);
	for (unsigned int i = 0; i < guest.nram; i++) {
		if (!err)
			memcpy(vm->mem.regions[i].hva, guest.ram[i], vm->mem.regions[i].size);
		free(guest.ram[i]);
	}
	vm_lock(vm);
	if (!err)
		err = load(vm, d);
	vm_unlock(vm);
	for (unsigned int i = 0; i < guest.nparts; i++)
		free(guest.parts[i].blob);
	free(guest.description);
	guest.nparts = guest.nram = 0;
	return err;
}

/* --- lives -------------------------------------------------------------------------------------
 */

static int make_timer(struct diag *d)
{
	int err;

	guest.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (guest.timer_fd < 0)
		return diag_errno(d, -errno, "cannot make a timer");
	err = loop_add(&guest.machine.vm.main_loop, &guest.timer, guest.timer_fd, POLLIN, on_timer);
	return err ? diag_errno(d, err, "cannot watch a timer") : 0;
}

static int arm_timer(struct diag *d)
{
	struct itimerspec t = { .it_value = { .tv_sec = guest.move_ms / 1000,
					      .tv_nsec = (long)(guest.move_ms % 1000) * 1000000 } };

	return timerfd_settime(guest.timer_fd, 0, &t, NULL) ? diag_errno(d, -errno, "no timer") : 0;
}

/* From a machine's creation to its end: the guest's, or that of its stay there. */
static int live(bool first, struct diag *d)
{
	struct vm *vm = &guest.machine.vm;
	int err;

	guest.config.incoming = !first;
	err = machine_create(&guest.machine, &guest.config, d);
	vm->on_event = on_event;
	if (!err && !first)
		err = vm_hold(vm, d);
	if (!err)
		err = make_timer(d);
	if (!err)
		err = machine_start(&guest.machine, d);
	if (!err && !first) {
		err = arrive(d);
		if (!err)
			vm_release(vm);
	}
	guest.moving = false;
	if (!err) /* now: the guest shall run for so long */
		err = arm_timer(d);
	if (!err) {
		err = loop_run(&vm->main_loop);
		if (err)
			diag_errno(d, err, "the event loop failed");
	}
	if (!err && guest.moving)
		err = leave(d);
	if (guest.timer_fd >= 0) {
		loop_del(&guest.timer);
		close(guest.timer_fd);
	}
	machine_destroy(&guest.machine);
	return err;
}

int main(int argc, char **argv)
{
	const char *every = getenv("MOVE_MS");
	struct run_options o;
	struct diag d = { 0 };
	int err;

	guest.timer_fd = -1;
	guest.move_ms = every ? (unsigned int)strtoul(every, NULL, 10) : MOVE_MS_DEFAULT;
	signal(SIGPIPE, SIG_IGN);
	err = run_options_parse(&o, argc - 1, argv + 1, &d);
	if (!err)
		err = config_load(&guest.config, o.path, o.over, o.nover, device_classes,
				  device_class_count, &d);
	if (err) {
		log_error("%s", d.text);
		return 2;
	}
	log_set_level(LOG_ERROR);
	/* Each machine opens everything anew. */
	guest.config.sandbox = false;
	free(guest.config.user);
	guest.config.user = strdup("root");
	for (guest.moves = 0; !guest.over && !err; guest.moves++)
		err = live(guest.moves == 0, &d);
	if (err)
		log_error("%s", d.text);
	fprintf(stderr, "moved %u times\n", guest.moves - 1);
	config_free(&guest.config);
	run_options_free(&o);
	return err ? 2 : guest.status;
}
