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

#endif
