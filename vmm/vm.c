/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm.c - what a machine is made of before it has anything in it: the control lock, the loops, and
 * the requests that end it. Any thread; see vm.h.
 */
#include <unvmm/log.h>
#include <unvmm/vcpu.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

/* Control messages, console and signals: a handful of descriptors. */
#define MAIN_LOOP_ENTRIES 16

static void vm_event_arrived(struct loop_work *w)
{
	struct vm *vm = container_of(w, struct vm, event_work);

	vm->on_event(vm);
}

int vm_init(struct vm *vm, const struct vm_config *config, struct diag *d)
{
	int err;

	*vm = (struct vm){ .config = config,
			   .kvm = { .fd = -1, .vm_fd = -1, .stats_fd = -1, .vfio_fd = -1 },
			   .mem = { .fd = -1 },
			   .event_work = { .fn = vm_event_arrived } };
	slots_init(&vm->slots, &vm->kvm);
	bus_init(&vm->pio);
	bus_init(&vm->mmio);
	pthread_mutex_init(&vm->lock, NULL);
	err = loop_init(&vm->main_loop, MAIN_LOOP_ENTRIES, d);
	if (err) {
		pthread_mutex_destroy(&vm->lock);
		vm->config = NULL; /* for vm_fini(): there is nothing */
	}
	return err;
}

void vm_fini(struct vm *vm)
{
	if (!vm->config)
		return;
	if (vm->vf_started)
		io_thread_stop(&vm->vf);
	if (vm->io_started)
		io_thread_stop(&vm->io);
	irq_fini(&vm->irq);
	kvm_close(&vm->kvm);
	gmem_destroy(&vm->mem);
	bus_fini(&vm->pio);
	bus_fini(&vm->mmio);
	loop_fini(&vm->main_loop);
	pthread_mutex_destroy(&vm->lock);
}

void vm_lock(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
}

void vm_unlock(struct vm *vm)
{
	pthread_mutex_unlock(&vm->lock);
}

void vm_end_access_with(struct vm *vm, void (*fn)(void *arg), void *arg)
{
	vm->access_end = fn;
	vm->access_arg = arg;
}

void vm_end_access(struct vm *vm)
{
	void (*fn)(void *arg) = vm->access_end;
	void *arg = vm->access_arg;

	vm->access_end = NULL;
	vm_unlock(vm);
	if (fn)
		fn(arg);
}

void vm_request(struct vm *vm, enum vm_event event, uint8_t code)
{
	/* A reboot that has not begun yet gives way to whatever ends the machine for good. */
	if (vm->event != VM_EVENT_NONE &&
	    (vm->event != VM_EVENT_REBOOT || event == VM_EVENT_REBOOT))
		return;
	vm->event = event;
	vm->code = code;
	if (vm->vcpus)
		vcpus_request_park(vm->vcpus);
	if (vm->on_event)
		loop_call(&vm->main_loop, &vm->event_work);
}

void vm_fail(struct vm *vm, const char *fmt, ...)
{
	va_list ap;

	if (vm->event != VM_EVENT_NONE && vm->event != VM_EVENT_REBOOT)
		return;
	va_start(ap, fmt);
	vsnprintf(vm->error.text, sizeof(vm->error.text), fmt, ap);
	va_end(ap);
	vm_request(vm, VM_EVENT_ERROR, 0);
}

enum vm_event vm_requested(struct vm *vm)
{
	enum vm_event event;

	vm_lock(vm);
	event = vm->event;
	vm_unlock(vm);
	return event;
}

/* Lets the vcpus go on, unless the machine is about to end or reset: that will see to them. */
static void unpark(struct vm *vm)
{
	vm_lock(vm);
	if (vm->vcpus && vm->event == VM_EVENT_NONE)
		vcpus_unpark(vm->vcpus);
	else if (vm->on_event && vm->event == VM_EVENT_REBOOT) /* it may have waited for this */
		loop_call(&vm->main_loop, &vm->event_work);
	vm_unlock(vm);
}

static void resume_devices(struct vm *vm, const struct device *end)
{
	for (struct device *dev = vm->devices; dev != end; dev = dev->next)
		if (dev->cls->resume)
			dev->cls->resume(dev);
}

/* *failed: the first that did not. */
static int quiesce_devices(struct vm *vm, struct device **failed, struct diag *d)
{
	struct device *dev;
	int err = 0;

	for (dev = vm->devices; dev && !err; dev = err ? dev : dev->next)
		err = dev->cls->quiesce ? dev->cls->quiesce(dev) : 0;
	*failed = dev;
	if (err == -ETIMEDOUT)
		return diag_set(d, err, "%s does not finish in time what is under way", dev->id);
	return err ? diag_errno(d, err, "%s does not finish what is under way", dev->id) : 0;
}

static int stop(struct vm *vm, struct diag *d)
{
	struct device *failed;
	int err;

	if (vm->vcpus && vcpus_park(vm->vcpus)) {
		unpark(vm);
		return diag_set(d, -ETIMEDOUT, "a vcpu does not leave the guest; it runs on");
	}
	err = quiesce_devices(vm, &failed, d);
	if (err) {
		resume_devices(vm, failed->next);
		unpark(vm);
	}
	return err;
}

static void go(struct vm *vm)
{
	resume_devices(vm, NULL);
	/* Else the guest's watchdogs take the pause for a hang; without kvm-clock they do not. */
	for (unsigned int i = 0; vm->vcpus && i < vm->vcpus->n && vm->kvm.has_kvmclock_ctrl; i++)
		if (kvm_vcpu_was_paused(vm->vcpus->cpus[i].fd))
			break;
	unpark(vm);
}

int vm_pause(struct vm *vm, struct diag *d)
{
	int err = vm->paused || vm->held ? 0 : stop(vm, d);

	vm->paused |= !err;
	return err;
}

void vm_resume(struct vm *vm)
{
	bool was = vm->paused;

	vm->paused = false;
	if (was && !vm->held)
		go(vm);
}

int vm_hold(struct vm *vm, struct diag *d)
{
	struct device *failed;
	int err;

	if (vm->held)
		return 0;
	vm->hold_since = loop_now();
	/* What a pause may leave alone (device.h), such as a function, stops now. */
	err = vm->paused ? quiesce_devices(vm, &failed, d) : stop(vm, d);
	vm->held = !err;
	return err;
}

void vm_release(struct vm *vm)
{
	bool was = vm->held;

	vm->held = false;
	if (was && !vm->paused)
		go(vm);
	if (was)
		vm->held_ns = loop_now() - vm->hold_since;
}

int vm_claim(struct vm *vm, struct diag *d)
{
	int err = 0;

	for (struct device *dev = vm->devices; dev && !err; dev = dev->next)
		if (dev->cls->claim)
			err = dev->cls->claim(dev, true, d);
	return err;
}

void vm_yield(struct vm *vm)
{
	for (struct device *dev = vm->devices; dev; dev = dev->next)
		if (dev->cls->claim && dev->cls->claim(dev, false, NULL))
			log_warn("%s: its lock cannot be given up", dev->id);
}

/* --- memory that can go away ------------------------------------------------------------------ */

void vm_add_mapper(struct vm *vm, struct vm_mapper *m)
{
	m->next = vm->mappers;
	vm->mappers = m;
}

void vm_remove_mapper(struct vm *vm, struct vm_mapper *m)
{
	struct vm_mapper **p = &vm->mappers;

	while (*p && *p != m)
		p = &(*p)->next;
	if (*p)
		*p = m->next;
}

bool vm_memory_fault(struct vm *vm, uint32_t removals)
{
	/*
	 * Several vcpus may stumble over one page: the first has it removed, for the others, too.
	 */
	bool removed = slots_removals(&vm->slots) != removals;

	if (!removed)
		for (struct vm_mapper *m = vm->mappers; m; m = m->next)
			removed |= m->fault(m);
	return removed;
}

/* --- threads on first use --------------------------------------------------------------------- */

static struct loop *thread_loop(struct io_thread *t, bool *started, const char *name,
				struct diag *d)
{
	if (!*started) {
		if (io_thread_start(t, name, d))
			return NULL;
		*started = true;
	}
	return &t->loop;
}

struct loop *vm_io_loop(struct vm *vm, struct diag *d)
{
	return thread_loop(&vm->io, &vm->io_started, "unvmm-io", d);
}

struct loop *vm_vf_loop(struct vm *vm, struct diag *d)
{
	return thread_loop(&vm->vf, &vm->vf_started, "vf", d);
}
