/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_vm.h - a struct vm without KVM and vcpus, for unit tests of devices: buses work, interrupt
 * lines are recorded in vm->irq.lines, requests in vm->event, console output in a buffer.
 * Thread: the test's only one, which plays vcpu and main loop in turn.
 */
#ifndef UNVMM_TESTS_FAKE_VM_H
#define UNVMM_TESTS_FAKE_VM_H

#include <unvmm/chardev.h>
#include <unvmm/vm.h>

struct fake_vm {
	struct vm vm;
	struct vm_config config;
	uint8_t out[256 * 1024]; /* what the guest wrote to the console */
	size_t out_len;
};

/* Opens the console too: any spec of chardev.h. Fails the running test if it cannot. */
struct fake_vm *fake_vm_new(const char *console);
/* Destroys the devices and everything else. */
void fake_vm_free(struct fake_vm *f);

/* Creates an instance of the class. Fails the running test if it cannot. */
struct device *fake_vm_add(struct fake_vm *f, const struct device_class *cls, const void *conf);

/* Runs the main loop until cond(arg) or for ms at most; returns what cond says in the end. */
bool fake_vm_run(struct fake_vm *f, bool (*cond)(void *arg), void *arg, unsigned int ms);

static inline uint8_t fake_inb(struct fake_vm *f, uint64_t port)
{
	return (uint8_t)bus_read(&f->vm.pio, port, 1);
}

static inline void fake_outb(struct fake_vm *f, uint64_t port, uint8_t v)
{
	bus_write(&f->vm.pio, port, 1, v);
}

static inline bool fake_line(const struct fake_vm *f, unsigned int gsi)
{
	return f->vm.irq.lines & 1u << gsi;
}

#endif
