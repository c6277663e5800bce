/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots.h - single pages of devices in the guest's address space: one KVM memory slot each, behind
 * the slots of RAM. A guest's store to such a page goes to the device without an exit.
 *
 * Adding a page is cheap. Removing one makes KVM drop every shadow entry of the VM, which the
 * vcpus then fault in again one by one: who has several to remove does it in one go, so that the
 * vcpus pay once.
 *
 * Thread: control lock held, slots_removals() aside. A call waits for the vcpus to pass a
 * quiescent point, as every change of a slot does: some milliseconds at the most.
 */
#ifndef UNVMM_SLOTS_H
#define UNVMM_SLOTS_H

#include <unvmm/compiler.h>

struct kvm;

#define SLOTS_PAGES_MAX 2048 /* 31 functions of 64 queues, and some */

struct slots {
	struct kvm *kvm;
	uint64_t used[SLOTS_PAGES_MAX / 64];
	uint32_t removals; /* how often a page was removed; atomic */
};

/* May be called before kvm_open(). */
void slots_init(struct slots *s, struct kvm *kvm);

/*
 * Shows the 4 KiB page at `page` of this process to the guest at gpa, readable and writable, and
 * returns its slot. Both are page aligned. The page stays mapped in this process until
 * slots_unmap(). -ENOSPC: KVM has no slot left; -EEXIST: something is at gpa; or KVM's error.
 */
int slots_map(struct slots *s, uint64_t gpa, void *page) must_check;
/*
 * 0: no vcpu reaches the page any more. Else KVM keeps the slot (-ENOMEM), and the page has to stay
 * mapped in this process: the guest would reach what comes to lie there. It may be tried again.
 */
int slots_unmap(struct slots *s, int slot, uint64_t gpa) must_check;

/*
 * Changes whenever a page was removed. A vcpu that reads it before KVM_RUN knows after -EFAULT
 * whether the page it stumbled over may be gone since. Any thread.
 */
static inline uint32_t slots_removals(const struct slots *s)
{
	return __atomic_load_n(&s->removals, __ATOMIC_ACQUIRE);
}

#endif
