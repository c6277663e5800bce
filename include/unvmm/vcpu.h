/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu.h - virtual CPUs: one thread each, an explicit state machine, KVM_RUN and its exits.
 *
 *   CREATED --vcpus_start--> PARKED <--park / unpark--> RUNNING --> STOPPED (thread ended)
 *
 * A vcpu leaves KVM_RUN because the guest trapped or because it was kicked: vcpus_park() sets the
 * wanted state and immediate_exit and sends a signal whose handler does nothing, so there is no
 * window in which a kick is lost (Documentation/virt/kvm/api.rst, immediate_exit).
 *
 * Thread: main, without the control lock, except where it says so.
 */
#ifndef UNVMM_VCPU_H
#define UNVMM_VCPU_H

#include <pthread.h>
#include <sys/types.h>

#include <unvmm/kvm.h>
#include <unvmm/log.h>

struct vm;
struct boot_entry;
struct vcpu_power_on;
struct vcpu_set;

enum vcpu_state { VCPU_CREATED, VCPU_PARKED, VCPU_RUNNING, VCPU_STOPPED };

struct vcpu {
	struct vm *vm;
	unsigned int id;
	int fd;
	int stats_fd; /* KVM's statistics, for any thread to read; -1: none */
	struct kvm_run *run;
	pthread_t thread;
	bool thread_started;
	pid_t tid;	       /* of its thread, once that runs; atomic */
	enum vcpu_state state; /* protected by park_lock of the set */
	struct vcpu_set *set;
	uint64_t exits;			/* returns to user space; its own thread writes */
	uint64_t nap_ns;		/* to be slept through before it runs on; park_lock */
	struct vcpu_power_on *power_on; /* state to go back to at a reset; owned */
};

/* All vcpus of a machine and where they are wanted. */
struct vcpu_set {
	struct vcpu *cpus;
	unsigned int n;
	struct kvm_cpuid2 *cpuid; /* what the guest sees on vcpu 0; owned */
	pthread_mutex_t park_lock;
	pthread_cond_t changed;
	bool run_wanted, stop_wanted; /* written under park_lock, read by vcpus without */
	struct log_limit faults;      /* a guest can triple fault again and again; control lock */
};

/* Creates n vcpus with their CPUID, keeps their power-on state; starts no thread. */
int vcpus_create(struct vcpu_set *s, struct vm *vm, unsigned int n, struct diag *d) must_check;

/* Back to power-on state, then vcpu 0 to the kernel's entry; the others wait for SIPI. Parked. */
int vcpus_reset(struct vcpu_set *s, const struct boot_entry *entry, struct diag *d) must_check;

/* Starts the threads, parked. */
int vcpus_start(struct vcpu_set *s, struct diag *d) must_check;
void vcpus_unpark(struct vcpu_set *s);
/* Returns when every vcpu is out of KVM_RUN and parked: -ETIMEDOUT after 10 s. */
int vcpus_park(struct vcpu_set *s) must_check;
/* Tells the vcpus to leave the guest, without waiting: for vm_request(). Any thread, any lock. */
void vcpus_request_park(struct vcpu_set *s);
/*
 * Takes every running vcpu out of the guest for `ns` nanoseconds, unless it is parked before: to
 * slow down a guest that writes memory faster than it can be moved. Any thread; does not wait.
 */
void vcpus_nap(struct vcpu_set *s, uint64_t ns);
/* Ends and joins all threads, closes everything. Also fit for a set that never started. */
void vcpus_destroy(struct vcpu_set *s);

#endif
