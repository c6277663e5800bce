/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu_state.h - a vcpu's registers at power-on and at the kernel's entry. Private to vmm/.
 * Main thread; the vcpu does not run.
 */
#ifndef UNVMM_VMM_VCPU_STATE_H
#define UNVMM_VMM_VCPU_STATE_H

#include <unvmm/vcpu.h>

/* Keeps the state that KVM gave the new vcpu, with the few MSRs that firmware would set. */
int vcpu_state_power_on(struct vcpu *c, struct diag *d) must_check;

/* Back to that; vcpu 0 then stands at the kernel's entry, the others wait for INIT and SIPI. */
int vcpu_state_reset(struct vcpu *c, const struct boot_entry *entry, struct diag *d) must_check;

/* MSRs that are set at a moment or in an order of their own. */
#define MSR_TSC		 0x10
#define MSR_APIC_BASE	 0x1b
#define MSR_TSC_ADJUST	 0x3b
#define MSR_TSC_DEADLINE 0x6e0

/*
 * Reads the MSRs whose indexes are in out[]. What cannot be read is taken out; the rest is counted.
 */
int vcpu_state_read_msrs(const struct vcpu *c, struct kvm_msr_entry *out,
			 unsigned int n) must_check;
/*
 * Sets those that have another value: some KVMs refuse even the value that is there. Otherwise like
 * kvm_vcpu_set_msrs().
 */
int vcpu_state_set_msrs(const struct vcpu *c, const struct kvm_msr_entry *want, unsigned int n,
			uint32_t *refused, unsigned int nrefused) must_check;
/* Another machine's state was put into it: a reset has more to do than for a new vcpu. */
void vcpu_state_loaded(struct vcpu *c);

#endif
