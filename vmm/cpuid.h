/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpuid.h - the CPUID that a guest sees. Private to vmm/. Main thread, before vcpus run.
 */
#ifndef UNVMM_VMM_CPUID_H
#define UNVMM_VMM_CPUID_H

#include <unvmm/kvm.h>

/*
 * A copy of what the host's KVM supports, without nested virtualization, with `ncpus` cores in one
 * package; *out is for the caller to free. cpuid_set_vcpu() then fills in one vcpu's number.
 */
int cpuid_build(const struct kvm *k, unsigned int ncpus, struct kvm_cpuid2 **out) must_check;
void cpuid_set_vcpu(struct kvm_cpuid2 *c, unsigned int id);

#endif
