/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu_state.c - power-on state, reset, and the registers with which a kernel is entered.
 * Sources: Documentation/arch/x86/boot.rst (64-bit protocol), Xen's PVH boot ABI.
 */
#include "vcpu_state.h"

#include <unvmm/boot.h>
#include <unvmm/log.h>
#include <unvmm/platform.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Control registers and EFER bits (Intel SDM vol. 3A, section 2.5). */
#define CR0_PE	 (1ull << 0)
#define CR0_ET	 (1ull << 4)
#define CR0_PG	 (1ull << 31)
#define CR4_PAE	 (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)

#define MSR_MTRR_DEF_TYPE 0x2ff
#define MTRR_ENABLE_WB	  0x806 /* MTRRs on, default type write-back: what firmware leaves */
/* FXSAVE area, in 32-bit words, and the values after a reset (Intel SDM vol. 1, 10.5.1, 8.1.5). */
#define XSAVE_FCW_WORD	 0
#define XSAVE_MXCSR_WORD 6
#define FCW_INIT	 0x37f
#define MXCSR_INIT	 0x1f80
#define REFUSED_MAX	 16

struct vcpu_power_on {
	bool used; /* the guest has run since: more than the entry's registers must be set */
	struct kvm_sregs sregs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	unsigned int nmsrs;
	struct kvm_msr_entry *msrs; /* behind this struct, in the same allocation */
};

/* Time goes on over a reset, and the APIC base travels with the special registers. */
static bool msr_is_reset(uint32_t index)
{
	return index != MSR_TSC && index != MSR_TSC_ADJUST && index != MSR_TSC_DEADLINE &&
	       index != MSR_APIC_BASE;
}

int vcpu_state_read_msrs(const struct vcpu *c, struct kvm_msr_entry *out, unsigned int n)
{
	unsigned int got = 0;

	while (got < n) {
		int r = kvm_vcpu_get_msrs(c->fd, &out[got], n - got);

		if (r < 0)
			return r;
		got += (unsigned int)r;
		if (got < n) /* this one cannot be read here: leave it out */
			memmove(&out[got], &out[got + 1], (--n - got) * sizeof(*out));
	}
	return (int)n;
}

int vcpu_state_set_msrs(const struct vcpu *c, const struct kvm_msr_entry *want, unsigned int n,
			uint32_t *refused, unsigned int nrefused)
{
	struct kvm_msr_entry *set = calloc(n ? n : 1, sizeof(*set));
	unsigned int nset = 0, at = 0;
	int r;

	if (!set)
		return -ENOMEM;
	memcpy(set, want, n * sizeof(*set));
	r = vcpu_state_read_msrs(c, set, n);
	/* What was read is a part of what is wanted, in the same order. */
	for (unsigned int i = 0; r >= 0 && i < n; i++) {
		bool known = at < (unsigned int)r && set[at].index == want[i].index;

		if (known && set[at++].data == want[i].data)
			continue;
		set[nset++] = want[i];
	}
	if (r >= 0)
		r = kvm_vcpu_set_msrs(c->fd, set, nset, refused, nrefused);
	free(set);
	return r;
}

/* Says once, for vcpu 0, which MSRs the host's KVM refuses; the guest runs without them. */
static void report_refused(const struct vcpu *c, const uint32_t *refused, int n)
{
	for (int i = 0; i < n && i < REFUSED_MAX && c->id == 0; i++)
		log_info("this host's KVM refuses to set MSR 0x%x; going on without", refused[i]);
}

int vcpu_state_power_on(struct vcpu *c, struct diag *d)
{
	static const struct kvm_msr_entry firmware[] = {
		{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE_WB },
	};
	unsigned int max = c->vm->kvm.msrs->nmsrs;
	struct vcpu_power_on *p = calloc(1, sizeof(*p) + max * sizeof(struct kvm_msr_entry));
	uint32_t refused[REFUSED_MAX];
	int r;

	if (!p)
		return diag_set(d, -ENOMEM, "out of memory for vcpu %u", c->id);
	c->power_on = p;
	p->msrs = (struct kvm_msr_entry *)(p + 1);
	r = kvm_vcpu_set_msrs(c->fd, firmware, ARRAY_SIZE(firmware), refused, REFUSED_MAX);
	if (r >= 0) {
		report_refused(c, refused, r);
		for (unsigned int i = 0; i < max; i++)
			p->msrs[i].index = c->vm->kvm.msrs->indices[i];
		r = vcpu_state_read_msrs(c, p->msrs, max);
	}
	if (r >= 0) {
		p->nmsrs = (unsigned int)r;
		r = kvm_vcpu_get_sregs(c->fd, &p->sregs);
	}
	if (!r)
		r = kvm_vcpu_get_lapic(c->fd, &p->lapic);
	if (!r)
		r = kvm_vcpu_get_events(c->fd, &p->events);
	if (!r)
		r = kvm_vcpu_get_debugregs(c->fd, &p->debugregs);
	if (!r && c->vm->kvm.has_xcrs)
		r = kvm_vcpu_get_xcrs(c->fd, &p->xcrs);
	return r < 0 ? diag_errno(d, r, "cannot read the state of vcpu %u", c->id) : 0;
}

static int reset_msrs(struct vcpu *c)
{
	const struct vcpu_power_on *p = c->power_on;
	struct kvm_msr_entry *msrs = calloc(p->nmsrs + 1, sizeof(*msrs));
	uint32_t refused[REFUSED_MAX];
	unsigned int n = 0;
	int r;

	if (!msrs)
		return -ENOMEM;
	for (unsigned int i = 0; i < p->nmsrs; i++)
		if (msr_is_reset(p->msrs[i].index))
			msrs[n++] = p->msrs[i];
	r = vcpu_state_set_msrs(c, msrs, n, refused, REFUSED_MAX);
	if (r > 0)
		report_refused(c, refused, r);
	free(msrs);
	return r < 0 ? r : 0;
}

static struct kvm_segment flat_segment(uint16_t selector, bool code, bool long_mode)
{
	return (struct kvm_segment){
		.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.type = code ? 11 : 3, /* accessed; execute/read or read/write */
		.present = 1,
		.s = 1,
		.g = 1,
		.l = code && long_mode,
		.db = !(code && long_mode),
	};
}

static void entry_sregs(struct kvm_sregs *s, const struct boot_entry *entry)
{
	bool lm = entry->mode == BOOT_LONG_MODE;
	struct kvm_segment data = flat_segment(BOOT_SEL_DATA, false, lm);

	s->cs = flat_segment(lm ? BOOT_SEL_CODE64 : BOOT_SEL_CODE32, true, lm);
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->gdt = (struct kvm_dtable){ .base = PLAT_GDT, .limit = BOOT_GDT_ENTRIES * 8 - 1 };
	s->idt = (struct kvm_dtable){ 0 };
	s->tr = (struct kvm_segment){ .limit = 0xffff, .type = 11, .present = 1 };
	s->cr0 = CR0_PE | CR0_ET | (lm ? CR0_PG : 0);
	s->cr3 = lm ? PLAT_PAGE_TABLES : 0;
	s->cr4 = lm ? CR4_PAE : 0;
	s->efer = lm ? EFER_LME | EFER_LMA : 0;
}

/*
 * All of the floating-point and vector state in its initial configuration: a header that names no
 * component, and the two control words that have no initial configuration of their own.
 */
static int reset_fpu(struct vcpu *c)
{
	struct kvm_xsave *x = calloc(1, c->vm->kvm.xsave_size);
	int r;

	if (!x)
		return -ENOMEM;
	x->region[XSAVE_FCW_WORD] = FCW_INIT;
	x->region[XSAVE_MXCSR_WORD] = MXCSR_INIT;
	r = kvm_vcpu_set_xsave(c->fd, x);
	free(x);
	return r;
}

/* What a guest can have changed besides the registers that the entry sets. */
static int reset_used(struct vcpu *c)
{
	const struct vcpu_power_on *p = c->power_on;
	int r;

	r = c->vm->kvm.has_xcrs ? kvm_vcpu_set_xcrs(c->fd, &p->xcrs) : 0;
	if (!r)
		r = reset_fpu(c);
	if (!r)
		r = kvm_vcpu_set_debugregs(c->fd, &p->debugregs);
	if (!r)
		r = reset_msrs(c);
	if (!r)
		r = kvm_vcpu_set_events(c->fd, &p->events);
	return r;
}

int vcpu_state_reset(struct vcpu *c, const struct boot_entry *entry, struct diag *d)
{
	struct vcpu_power_on *p = c->power_on;
	struct kvm_sregs sregs = p->sregs;
	struct kvm_regs regs = { .rflags = 2 };
	bool boots = c->id == 0;
	int r;

	if (boots) {
		entry_sregs(&sregs, entry);
		regs.rip = entry->rip;
		regs.rsp = PLAT_BOOT_STACK;
		*(entry->mode == BOOT_PVH ? &regs.rbx : &regs.rsi) = entry->info;
	}
	r = kvm_vcpu_set_sregs(c->fd, &sregs);
	if (!r)
		r = kvm_vcpu_set_regs(c->fd, &regs);
	if (!r && p->used)
		r = reset_used(c);
	/*
	 * The first time, too: KVM made its map of local APICs before the last vcpu was in it, and
	 * makes it anew when one is set. Without, INIT never reaches that vcpu (guests/smp.c).
	 */
	if (!r)
		r = kvm_vcpu_set_lapic(c->fd, &p->lapic);
	if (!r)
		r = kvm_vcpu_set_mp_state(c->fd, boots ? KVM_MP_STATE_RUNNABLE
						       : KVM_MP_STATE_UNINITIALIZED);
	p->used = true;
	return r < 0 ? diag_errno(d, r, "cannot set the first registers of vcpu %u", c->id) : 0;
}

void vcpu_state_loaded(struct vcpu *c)
{
	c->power_on->used = true;
}
