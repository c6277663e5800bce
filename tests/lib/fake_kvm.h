/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_kvm.h - stands in for KVM where a struct kvm was never opened: remembers memory slots and
 * ioeventfds, refuses what KVM would refuse, and lets the test store to guest-physical memory as a
 * guest would. The linker puts it in front of kvm.c (Makefile: --wrap); an open struct kvm goes
 * through to the real one. One machine at a time; the test's thread.
 */
#ifndef UNVMM_TESTS_FAKE_KVM_H
#define UNVMM_TESTS_FAKE_KVM_H

#include <unvmm/vm.h>

#define FAKE_KVM_MAX	 128
#define FAKE_KVM_TSC_KHZ 2000000 /* of a vcpu without a descriptor; its irqchips are all zero */

struct fake_slot {
	bool used;
	uint64_t gpa;
	uint8_t *page;
};

struct fake_eventfd {
	bool used;
	uint64_t gpa;
	int fd; /* any number: nothing is done with it */
};

extern struct fake_kvm {
	struct fake_slot slots[FAKE_KVM_MAX]; /* by number */
	struct fake_eventfd eventfds[FAKE_KVM_MAX];
	unsigned int nslots, neventfds; /* that are there */
	unsigned int added, removed;	/* slots so far */
	unsigned int signals[1024];	/* by fd */
	bool refuse_slots, refuse_eventfds;
	bool keep_slots; /* none can be removed */
	/* The last changes in their order: '+' and '-' for eventfds, 'M' and 'U' for slots. */
	char order[64];
	/* After every change; for who wants to be in the middle of things. */
	void (*changed)(void *arg);
	void *arg;
} fake_kvm;

/* Forgets everything. vm->kvm.max_slots is set so that slots can be had. */
void fake_kvm_reset(struct vm *vm);

/* A guest's store: to the page that lies there, else to the eventfd, else it traps to the bus. */
void fake_kvm_store(struct vm *vm, uint64_t gpa, uint16_t value);

struct fake_slot *fake_kvm_slot_at(uint64_t gpa);
struct fake_eventfd *fake_kvm_eventfd_at(uint64_t gpa);

#endif
