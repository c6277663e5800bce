/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chips_state.h - the state of what all vcpus share in KVM: two PICs, the I/O APIC, the PIT if the
 * machine has one, and kvm-clock. For resets, and with state tables for the move to another
 * machine.
 *
 * Thread: main, the vcpus parked.
 */
#ifndef UNVMM_CHIPS_STATE_H
#define UNVMM_CHIPS_STATE_H

#include <unvmm/kvm.h>
#include <unvmm/state.h>

struct vm;

#define CHIPS_PICS 2

struct chips {
	bool has_pit, has_clock;
	uint64_t clock; /* kvm-clock, ns */
	uint32_t ioapic_base, ioapic_select, ioapic_id, ioapic_irr;
	uint64_t ioapic_redirect[KVM_IOAPIC_NUM_PINS];
	struct kvm_pic_state pics[CHIPS_PICS];
	struct kvm_pit_state2 pit;
};

extern const struct state_desc chips_desc; /* of struct chips */

/* kvm-clock is read after the vcpus were parked, so that none of them has seen a later time. */
int chips_read(struct vm *vm, struct chips *chips, struct diag *d) must_check;
/*
 * All but the clock. When another machine's state is loaded: after the local APICs, because the I/O
 * APIC passes on what is pending in it.
 */
int chips_write(struct vm *vm, const struct chips *chips, struct diag *d) must_check;
/*
 * Lets kvm-clock go on from where it stood when it was read: for the guest the time in between has
 * not been. Before the vcpus' MSRs, one of which has KVM write the wall clock by it to guest
 * memory.
 */
int chips_write_clock(struct vm *vm, const struct chips *chips, struct diag *d) must_check;

#endif
