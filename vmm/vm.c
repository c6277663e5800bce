/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm.c - what a machine is made of before it has anything in it: the control lock, the loops, and
 * the requests that end it. Any thread; see vm.h.
 */
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
	*vm = (struct vm){ .config = config,
			   .kvm = { .fd = -1, .vm_fd = -1 },
			   .mem = { .fd = -1 },
			   .event_work = { .fn = vm_event_arrived } };
	bus_init(&vm->pio);
	bus_init(&vm->mmio);
	pthread_mutex_init(&vm->lock, NULL);
	return loop_init(&vm->main_loop, MAIN_LOOP_ENTRIES, d);
}

void vm_fini(struct vm *vm)
{
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

struct loop *vm_io_loop(struct vm *vm, struct diag *d)
{
	if (!vm->io_started) {
		if (io_thread_start(&vm->io, "unvmm-io", d))
			return NULL;
		vm->io_started = true;
	}
	return &vm->io.loop;
}
