/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm.h - a virtual machine as the devices and vcpus see it: memory, buses, interrupts, loops, the
 * control lock, and the requests that end or restart it.
 *
 * The control lock protects the buses, all devices' registers and the interrupt routes. Trapped
 * accesses, main-loop handlers and state walks run under it. It is never held across a wait for
 * something that a guest, a VF or a peer can delay.
 */
#ifndef UNVMM_VM_H
#define UNVMM_VM_H

#include <pthread.h>

#include <unvmm/bus.h>
#include <unvmm/config.h>
#include <unvmm/device.h>
#include <unvmm/gmem.h>
#include <unvmm/irq.h>
#include <unvmm/kvm.h>
#include <unvmm/loop.h>

struct pci_host;
struct chardev;
struct vcpu_set;

/* Why the machine stops. The first request wins, but anything goes before a reboot. */
enum vm_event {
	VM_EVENT_NONE,
	VM_EVENT_POWEROFF,  /* ACPI S5 */
	VM_EVENT_REBOOT,    /* i8042, port 0xcf9, triple fault */
	VM_EVENT_PANIC,	    /* pvpanic */
	VM_EVENT_EXIT_CODE, /* exit-status port; `code` is the byte */
	VM_EVENT_QUIT,	    /* the operator (Ctrl-A x, second signal, --timeout, console match) */
	VM_EVENT_ERROR,	    /* the host failed the machine: sentence in vm->error */
};

struct vm {
	const struct vm_config *config;
	struct kvm kvm;
	struct gmem mem;
	struct bus pio, mmio;
	struct irq irq;
	pthread_mutex_t lock; /* the control lock */
	struct loop main_loop;
	struct io_thread io; /* started by the first device that asks vm_io_loop() */
	bool io_started;
	struct pci_host *pci; /* set by the PCI host bridge, the first device */
	struct chardev *console;
	struct device *devices;
	struct vcpu_set *vcpus;
	bool paused; /* by vm_pause(); main thread */

	enum vm_event event; /* under the lock */
	uint8_t code;
	struct diag error;
	struct loop_work event_work; /* runs on_event on the main loop */
	void (*on_event)(struct vm *vm);
	void (*power_button)(struct vm *vm); /* set by the ACPI device; control lock held */
};

void vm_lock(struct vm *vm);
void vm_unlock(struct vm *vm);

/*
 * Asks the main loop to end or restart the machine. Any thread, lock held. The calling vcpu should
 * return to its loop, which parks it: the guest executes nothing after the request.
 */
void vm_request(struct vm *vm, enum vm_event event, uint8_t code);

/* The same for host errors: VM_EVENT_ERROR with a sentence. */
void vm_fail(struct vm *vm, const char *fmt, ...) printf_like(2, 3);

/*
 * The operator's pause: when it returns, the vcpus are parked and the devices have finished what
 * was under way; a reset in between leaves the machine paused. Main thread, without the lock; waits
 * for the slowest request of the devices, with their deadlines. On failure the guest runs on.
 */
int vm_pause(struct vm *vm, struct diag *d) must_check;
void vm_resume(struct vm *vm);

/* The io thread's loop for software devices; starts the thread on first use. NULL with a sentence.
 */
struct loop *vm_io_loop(struct vm *vm, struct diag *d) must_check;

/* Sets up an empty machine: locks, buses, main loop. KVM and memory are added by the builder. */
int vm_init(struct vm *vm, const struct vm_config *config, struct diag *d) must_check;
/* Releases what vm_init() and vm_io_loop() made; also after a failed vm_init(). Devices and vcpus
 * are gone. */
void vm_fini(struct vm *vm);

#endif
