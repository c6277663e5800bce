/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu_migrate.h - all that KVM holds of a vcpu, as an object with state tables: saved from a
 * parked vcpu, put into one that has never run. A device model's half of an access that trapped is
 * no part of it: a parked vcpu has completed its last one (vcpu.c, run_guest()).
 *
 * Thread: main, the vcpu parked.
 */
#ifndef UNVMM_VCPU_MIGRATE_H
#define UNVMM_VCPU_MIGRATE_H

#include <unvmm/state.h>
#include <unvmm/vcpu.h>

#define VCPU_IMAGE_MSRS	 512
#define VCPU_IMAGE_XSAVE 16384 /* AMX needs 11008 */
#define VCPU_IMAGE_REFS	 8

/* One object per table; the kernel's structs are those of asm/kvm.h. */
struct vcpu_run_image {
	const struct vcpu *vcpu; /* whose KVM the loaded values must suit */
	uint32_t mp_state, tsc_khz;
};

struct vcpu_fpu_image {
	uint64_t xcr0;
	uint32_t xsave_size;
	uint8_t xsave[VCPU_IMAGE_XSAVE] __attribute__((aligned(8))); /* struct kvm_xsave */
};

struct vcpu_msrs_image {
	const struct vcpu *vcpu;
	uint32_t n;
	uint32_t index[VCPU_IMAGE_MSRS]; /* ascending */
	uint64_t value[VCPU_IMAGE_MSRS];
};

struct vcpu_image {
	struct vcpu_run_image run;
	struct kvm_regs regs;
	struct kvm_sregs2 sregs; /* .flags tells whether .pdptrs are valid */
	struct vcpu_fpu_image fpu;
	struct vcpu_msrs_image msrs;
	struct kvm_lapic_state lapic;
	struct kvm_debugregs debug;
	struct kvm_vcpu_events events;
};

/* Empty, for a load into c: what must equal is there. -ENOTSUP: a state that is too large. */
int vcpu_image_init(struct vcpu_image *img, const struct vcpu *c, struct diag *d) must_check;
/* The tables of the image, in their order. */
void vcpu_image_refs(struct vcpu_image *img, struct state_ref refs[VCPU_IMAGE_REFS]);

int vcpu_image_save(struct vcpu_image *img, struct vcpu *c, struct diag *d) must_check;
/*
 * RAM must be there. KVM checks what the tables' validate() cannot: an error names the step, and
 * leaves a vcpu that must not run.
 */
int vcpu_image_load(const struct vcpu_image *img, struct vcpu *c, struct diag *d) must_check;

/*
 * Can a guest whose time stamp counter runs at that rate go on here? 0, or -ENOTSUP with a
 * sentence. A counter that is off by less than 250 parts in a million is what NTP corrects.
 */
int vcpu_tsc_khz_check(const struct vcpu *c, uint32_t khz, struct diag *d) must_check;

#endif
