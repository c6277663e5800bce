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
#include <unvmm/slots.h>

struct pci_host;
struct chardev;
struct keeper;
struct sandbox;
struct vcpu_set;
struct vfio;

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

/* Somebody who shows memory to the guest (slots.h) that can go away, as a device's can. */
struct vm_mapper {
	/* Unmaps all of it and sees why; false: nothing was mapped. On a vcpu, lock held. */
	bool (*fault)(struct vm_mapper *m);
	struct vm_mapper *next; /* private */
};

struct vm {
	const struct vm_config *config;
	const struct sandbox *sandbox; /* what each thread enters; NULL: none */
	struct kvm kvm;
	struct gmem mem;
	struct slots slots;	   /* of pages in the guest's address space that are not RAM */
	struct vm_mapper *mappers; /* under the lock */
	struct bus pio, mmio;
	struct irq irq;
	pthread_mutex_t lock; /* the control lock */
	struct loop main_loop;
	struct io_thread io; /* started by the first device that asks vm_io_loop() */
	bool io_started;
	struct io_thread vf; /* likewise by vm_vf_loop() */
	bool vf_started;
	struct pci_host *pci;	  /* set by the PCI host bridge, the first device */
	struct chardev *console;  /* of the serial port */
	struct chardev *attended; /* of --expect, --input and the terminal's signals; never NULL */
	struct keeper *keeper;	  /* of names in the file system (vmm/keeper.h); NULL: none */
	struct vfio *vfio; /* the container of the assigned functions; lives as long as they */
	struct device *devices;
	/*
	 * Gives the state of a device to another with the same tables, or only says whether it
	 * would take it (`check`). Main, both quiesced, lock held. Set by the builder, since
	 * devices do not know the migration's code; NULL: it cannot be done.
	 */
	int (*transfer)(const struct device *from, const struct device *to, bool check,
			struct diag *d);
	struct vcpu_set *vcpus;
	bool paused;		      /* by vm_pause(); main thread */
	bool held;		      /* by vm_hold(); main thread */
	uint64_t hold_since, held_ns; /* when that was; how long the last one lasted (loop_now()) */

	enum vm_event event; /* under the lock */
	uint8_t code;
	struct diag error;
	struct loop_work event_work; /* runs on_event on the main loop */
	void (*on_event)(struct vm *vm);
	/* Set by the ACPI device; NULL: there is none. Control lock held. */
	void (*power_button)(void *arg);
	void *power_button_arg;

	void (*access_end)(void *arg); /* under the lock: vm_end_access_with() */
	void *access_arg;
};

void vm_lock(struct vm *vm);
void vm_unlock(struct vm *vm);

/*
 * For a guest's access that is over only when something else is: the vcpu calls fn behind the
 * handler, without the lock, and then goes on. fn has a deadline. The last call counts. Lock held.
 */
void vm_end_access_with(struct vm *vm, void (*fn)(void *arg), void *arg);
/* vm_unlock() behind an access, on the vcpu. */
void vm_end_access(struct vm *vm);

/*
 * Asks the main loop to end or restart the machine. Any thread, lock held. The calling vcpu should
 * return to its loop, which parks it: the guest executes nothing after the request.
 */
void vm_request(struct vm *vm, enum vm_event event, uint8_t code);

/* The same for host errors: VM_EVENT_ERROR with a sentence. */
void vm_fail(struct vm *vm, const char *fmt, ...) printf_like(2, 3);
/* What has been asked for. Any thread, without the lock. */
enum vm_event vm_requested(struct vm *vm) must_check;

/*
 * The operator's pause: when it returns, the vcpus are parked and the devices have finished what
 * was under way; a reset in between leaves the machine paused. Main thread, without the lock; waits
 * for the slowest request of the devices, with their deadlines. On failure the guest runs on.
 */
int vm_pause(struct vm *vm, struct diag *d) must_check;
void vm_resume(struct vm *vm);
/*
 * The same for a migration, apart from the operator's: the guest runs while neither holds it. While
 * it is held nothing changes the machine: a reset that is asked for waits for vm_release().
 */
int vm_hold(struct vm *vm, struct diag *d) must_check;
void vm_release(struct vm *vm);

/*
 * Takes, for all devices, what only one host may have at a time (device.h, claim): -EBUSY with a
 * sentence, and the caller gives up again what was taken. vm_yield() gives it up.
 */
int vm_claim(struct vm *vm, struct diag *d) must_check;
void vm_yield(struct vm *vm);

/*
 * The io thread's loop for software devices; starts the thread on first use. NULL with a sentence.
 */
struct loop *vm_io_loop(struct vm *vm, struct diag *d) must_check;

/*
 * The vf thread's loop: all calls to assigned functions and their servers are made there (vf.h),
 * because they block. So neither a vcpu nor main waits for a function, but for a stop: main when
 * it resets or holds it, a vcpu when it takes bus mastering away. The thread starts on first use
 * and sleeps while nobody calls. NULL with a sentence.
 */
struct loop *vm_vf_loop(struct vm *vm, struct diag *d) must_check;

/* m is the caller's until vm_remove_mapper(). Main, before any vcpu runs or with the lock held. */
void vm_add_mapper(struct vm *vm, struct vm_mapper *m);
void vm_remove_mapper(struct vm *vm, struct vm_mapper *m);
/*
 * KVM_RUN said -EFAULT: memory that a slot shows is not there. Has all mappers unmap theirs, since
 * KVM does not say which it was, and returns true if the vcpu may try again: it will trap then.
 * False if nothing was mapped: RAM itself has failed. `removals` is slots_removals() of before
 * KVM_RUN. Lock held. A vcpu cannot go round for ever: each time, a mapper must have mapped anew.
 */
bool vm_memory_fault(struct vm *vm, uint32_t removals) must_check;

/* Sets up an empty machine: locks, buses, main loop. KVM and memory are added by the builder. */
int vm_init(struct vm *vm, const struct vm_config *config, struct diag *d) must_check;
/* Releases what vm_init(), vm_io_loop() and vm_vf_loop() made; also after a failed vm_init().
 * Devices and vcpus are gone. */
void vm_fini(struct vm *vm);

#endif
