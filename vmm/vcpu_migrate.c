/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu_migrate.c - a vcpu's state out of KVM and into it. Main thread; the vcpu is parked.
 *
 * Reading: MP state first, because KVM then lets a pending INIT or SIPI take effect. Writing, and
 * why in this order (Documentation/virt/kvm/api.rst and arch/x86/kvm/x86.c of Linux):
 *   TSC rate      before the counter is set by it
 *   sregs         the APIC base decides in which mode the LAPIC's registers are read
 *   XCR0, xsave
 *   MSRs          the TSC with them: what counts on it comes later
 *   LAPIC         its timer starts; KVM makes its map of local APICs anew
 *   late MSRs     TSC deadline: needs the LAPIC's timer mode and the TSC. KVM's own (kvm-clock,
 * async page faults, PV EOI, steal time): name guest memory, and need the LAPIC debug, regs
 * KVM_SET_REGS drops a pending exception MP state, events
 */
#include <unvmm/vcpu_migrate.h>
#include <unvmm/vm.h>

#include "vcpu_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TSC_TOLERANCE_PPM 250
#define REFUSED_MAX	  1

/* Far from any value that a counter may have been given: see set_tsc(). */
#define TSC_ELSEWHERE (1ull << 50)

/* What VMX can do: constants of the host's, which the guest cannot read without VMX. */
#define MSR_VMX_FIRST 0x480
#define MSR_VMX_LAST  0x491
/* Documentation/virt/kvm/x86/msr.rst: two old numbers, and a range. */
#define MSR_KVM_WALL_CLOCK_OLD	0x11
#define MSR_KVM_SYSTEM_TIME_OLD 0x12
#define MSR_KVM_FIRST		0x4b564d00
#define MSR_KVM_LAST		0x4b564dff

static bool msr_travels(uint32_t index)
{
	return index != MSR_APIC_BASE && (index < MSR_VMX_FIRST || index > MSR_VMX_LAST);
}

static bool msr_is_late(uint32_t index)
{
	return index == MSR_TSC_DEADLINE || index == MSR_KVM_WALL_CLOCK_OLD ||
	       index == MSR_KVM_SYSTEM_TIME_OLD ||
	       (index >= MSR_KVM_FIRST && index <= MSR_KVM_LAST);
}

/* --- tables ---------------------------------------------------------------------------------- */

#define RUN(kind, member) STATE_SCALAR(kind, struct vcpu_run_image, member)
#define REG(member)	  STATE_SCALAR(STATE_U64, struct kvm_regs, member)
#define SEG(kind, member) STATE_SCALAR(kind, struct kvm_segment, member)
#define SREG(k, member)	  STATE_SCALAR(k, struct kvm_sregs2, member)
#define DEBUG(member)	  STATE_SCALAR(STATE_U64, struct kvm_debugregs, member)
#define EVENT(k, member)  STATE_SCALAR(k, struct kvm_vcpu_events, member)
#define IMAGE_DESC(n, type, table, check)                                               \
	{                                                                               \
		.name = (n), .version = 1, .obj_size = sizeof(type), .fields = (table), \
		.nfields = ARRAY_SIZE(table), .validate = (check)                       \
	}

static const struct state_field run_fields[] = {
	RUN(STATE_U32, mp_state),
	RUN(STATE_U32, tsc_khz),
};

static const struct state_field regs_fields[] = {
	REG(rax), REG(rbx), REG(rcx), REG(rdx), REG(rsi), REG(rdi), REG(rsp), REG(rbp), REG(r8),
	REG(r9),  REG(r10), REG(r11), REG(r12), REG(r13), REG(r14), REG(r15), REG(rip), REG(rflags),
};

static const struct state_field segment_fields[] = {
	SEG(STATE_U64, base), SEG(STATE_U32, limit),  SEG(STATE_U16, selector),
	SEG(STATE_U8, type),  SEG(STATE_U8, present), SEG(STATE_U8, dpl),
	SEG(STATE_U8, db),    SEG(STATE_U8, s),	      SEG(STATE_U8, l),
	SEG(STATE_U8, g),     SEG(STATE_U8, avl),     SEG(STATE_U8, unusable),
};

static const struct state_desc segment_desc =
	IMAGE_DESC("segment", struct kvm_segment, segment_fields, NULL);

/* cs, ds, es, fs, gs, ss, tr, ldt: one after the other in the kernel's struct. */
#define SEGMENTS 8
_Static_assert(offsetof(struct kvm_sregs2, ldt) ==
		       offsetof(struct kvm_sregs2, cs) + 7 * sizeof(struct kvm_segment),
	       "eight segments");

static const struct state_field sregs_fields[] = {
	SREG(STATE_U64, gdt.base),
	SREG(STATE_U16, gdt.limit),
	SREG(STATE_U64, idt.base),
	SREG(STATE_U16, idt.limit),
	SREG(STATE_U64, cr0),
	SREG(STATE_U64, cr2),
	SREG(STATE_U64, cr3),
	SREG(STATE_U64, cr4),
	SREG(STATE_U64, cr8),
	SREG(STATE_U64, efer),
	SREG(STATE_U64, apic_base),
	SREG(STATE_U64, flags),
	SREG(STATE_U64, pdptrs),
	{ .name = "segment",
	  .kind = STATE_STRUCT,
	  .offset = offsetof(struct kvm_sregs2, cs),
	  .size = sizeof(struct kvm_segment),
	  .count = SEGMENTS,
	  .child = &segment_desc },
};

static uint32_t xsave_used(const void *obj)
{
	return ((const struct vcpu_fpu_image *)obj)->xsave_size;
}

static const struct state_field fpu_fields[] = {
	STATE_SCALAR(STATE_U64, struct vcpu_fpu_image, xcr0),
	STATE_SCALAR_CHECK(STATE_U32, struct vcpu_fpu_image, xsave_size),
	{ .name = "xsave",
	  .kind = STATE_BYTES,
	  .offset = offsetof(struct vcpu_fpu_image, xsave),
	  .size = 1,
	  .count = VCPU_IMAGE_XSAVE,
	  .used = xsave_used },
};

static uint32_t msrs_used(const void *obj)
{
	return ((const struct vcpu_msrs_image *)obj)->n;
}

#define MSR_ARRAY(k, member)                                                                      \
	{                                                                                         \
		.name = #member, .kind = (k), .offset = offsetof(struct vcpu_msrs_image, member), \
		.size = sizeof(((struct vcpu_msrs_image *)0)->member[0]),                         \
		.count = VCPU_IMAGE_MSRS, .used = msrs_used                                       \
	}

static const struct state_field msrs_fields[] = {
	STATE_SCALAR(STATE_U32, struct vcpu_msrs_image, n),
	MSR_ARRAY(STATE_U32, index),
	MSR_ARRAY(STATE_U64, value),
};

static const struct state_field lapic_fields[] = { STATE_RAW(struct kvm_lapic_state, regs) };

static const struct state_field debug_fields[] = {
	DEBUG(db),
	DEBUG(dr6),
	DEBUG(dr7),
	DEBUG(flags),
};

static const struct state_field events_fields[] = {
	EVENT(STATE_U8, exception.injected),
	EVENT(STATE_U8, exception.nr),
	EVENT(STATE_U8, exception.has_error_code),
	EVENT(STATE_U8, exception.pending),
	EVENT(STATE_U32, exception.error_code),
	EVENT(STATE_U8, interrupt.injected),
	EVENT(STATE_U8, interrupt.nr),
	EVENT(STATE_U8, interrupt.soft),
	EVENT(STATE_U8, interrupt.shadow),
	EVENT(STATE_U8, nmi.injected),
	EVENT(STATE_U8, nmi.pending),
	EVENT(STATE_U8, nmi.masked),
	EVENT(STATE_U32, sipi_vector),
	EVENT(STATE_U32, flags),
	EVENT(STATE_U8, smi.smm),
	EVENT(STATE_U8, smi.pending),
	EVENT(STATE_U8, smi.smm_inside_nmi),
	EVENT(STATE_U8, smi.latched_init),
	EVENT(STATE_U8, triple_fault.pending),
	EVENT(STATE_U8, exception_has_payload),
	EVENT(STATE_U64, exception_payload),
};

/* --- what can be said of loaded values before KVM is asked ------------------------------------ */

static int run_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct vcpu_run_image *s = scratch, *l = live;

	if (s->mp_state > KVM_MP_STATE_SIPI_RECEIVED)
		return diag_set(d, -EINVAL, "mp_state is %u, x86 has 0 to %u", s->mp_state,
				KVM_MP_STATE_SIPI_RECEIVED);
	return vcpu_tsc_khz_check(l->vcpu, s->tsc_khz, d);
}

/* A value in an MSR that this KVM does not have would be lost. Zero is what it has there anyway. */
static int msrs_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct vcpu_msrs_image *s = scratch, *l = live;
	const struct kvm_msr_list *list = l->vcpu->vm->kvm.msrs;

	for (uint32_t i = 0; i < s->n; i++) {
		uint32_t index = s->index[i];
		bool known = false;

		if (!msr_travels(index) || (i && index <= s->index[i - 1]))
			return diag_set(d, -EINVAL,
					"MSR 0x%x is none that travels, or out of order", index);
		for (uint32_t j = 0; j < list->nmsrs && !known; j++)
			known = list->indices[j] == index;
		if (!known && s->value[i])
			return diag_set(d, -ENOTSUP,
					"the guest has 0x%" PRIx64
					" in MSR 0x%x, which this host's "
					"KVM does not have",
					s->value[i], index);
	}
	return 0;
}

static const struct state_desc descs[VCPU_IMAGE_REFS] = {
	IMAGE_DESC("run", struct vcpu_run_image, run_fields, run_validate),
	IMAGE_DESC("regs", struct kvm_regs, regs_fields, NULL),
	IMAGE_DESC("sregs", struct kvm_sregs2, sregs_fields, NULL),
	IMAGE_DESC("fpu", struct vcpu_fpu_image, fpu_fields, NULL),
	IMAGE_DESC("msrs", struct vcpu_msrs_image, msrs_fields, msrs_validate),
	IMAGE_DESC("lapic", struct kvm_lapic_state, lapic_fields, NULL),
	IMAGE_DESC("debug", struct kvm_debugregs, debug_fields, NULL),
	IMAGE_DESC("events", struct kvm_vcpu_events, events_fields, NULL),
};

void vcpu_image_refs(struct vcpu_image *img, struct state_ref refs[VCPU_IMAGE_REFS])
{
	void *objs[VCPU_IMAGE_REFS] = { &img->run,  &img->regs,	 &img->sregs, &img->fpu,
					&img->msrs, &img->lapic, &img->debug, &img->events };

	for (unsigned int i = 0; i < VCPU_IMAGE_REFS; i++)
		refs[i] = (struct state_ref){ .desc = &descs[i], .obj = objs[i] };
}

int vcpu_image_init(struct vcpu_image *img, const struct vcpu *c, struct diag *d)
{
	size_t size = c->vm->kvm.xsave_size;

	if (size > VCPU_IMAGE_XSAVE)
		return diag_set(d, -ENOTSUP,
				"this host's extended state has %zu bytes, at most %d can be moved",
				size, VCPU_IMAGE_XSAVE);
	memset(img, 0, sizeof(*img));
	img->run.vcpu = img->msrs.vcpu = c;
	img->fpu.xsave_size = (uint32_t)size;
	return 0;
}

int vcpu_tsc_khz_check(const struct vcpu *c, uint32_t khz, struct diag *d)
{
	uint32_t own;
	uint64_t off;
	int err = kvm_vcpu_get_tsc_khz(c->fd, &own);

	if (err)
		return diag_errno(d, err, "this host's KVM does not tell the rate of its TSC");
	off = khz > own ? khz - own : own - khz;
	if (khz &&
	    (c->vm->kvm.has_tsc_scaling || off * 1000000 <= (uint64_t)own * TSC_TOLERANCE_PPM))
		return 0;
	return diag_set(d, -ENOTSUP,
			"the guest's time stamp counter runs at %u kHz, this host's at %u kHz and "
			"cannot be scaled",
			khz, own);
}

/* --- out of KVM ------------------------------------------------------------------------------ */

/* Both structs begin alike; the older one has no page directory pointers. */
static int get_sregs(struct vcpu *c, struct kvm_sregs2 *out)
{
	struct kvm_sregs s;
	int err;

	if (c->vm->kvm.has_sregs2)
		return kvm_vcpu_get_sregs2(c->fd, out);
	err = kvm_vcpu_get_sregs(c->fd, &s);
	if (!err) {
		*out = (struct kvm_sregs2){ 0 };
		memcpy(out, &s, offsetof(struct kvm_sregs2, flags));
	}
	return err;
}

static int compare_msrs(const void *a, const void *b)
{
	uint32_t x = ((const struct kvm_msr_entry *)a)->index;
	uint32_t y = ((const struct kvm_msr_entry *)b)->index;

	return (x > y) - (x < y);
}

/* In ascending order, so that none can be there twice. */
static int get_msrs(struct vcpu *c, struct vcpu_msrs_image *img)
{
	const struct kvm_msr_list *list = c->vm->kvm.msrs;
	struct kvm_msr_entry msrs[VCPU_IMAGE_MSRS] = { 0 };
	unsigned int n = 0;
	int r;

	if (list->nmsrs > VCPU_IMAGE_MSRS)
		return -E2BIG;
	for (unsigned int i = 0; i < list->nmsrs; i++)
		if (msr_travels(list->indices[i]))
			msrs[n++].index = list->indices[i];
	r = vcpu_state_read_msrs(c, msrs, n);
	if (r < 0)
		return r;
	qsort(msrs, (size_t)r, sizeof(msrs[0]), compare_msrs);
	img->n = 0;
	for (int i = 0; i < r; i++) {
		if (i && msrs[i].index == msrs[i - 1].index)
			continue;
		img->index[img->n] = msrs[i].index;
		img->value[img->n++] = msrs[i].data;
	}
	return 0;
}

int vcpu_image_save(struct vcpu_image *img, struct vcpu *c, struct diag *d)
{
	struct kvm_xcrs xcrs = { 0 };
	int err = vcpu_image_init(img, c, d);

	if (err)
		return err;
	err = kvm_vcpu_get_mp_state(c->fd, &img->run.mp_state);
	if (!err)
		err = kvm_vcpu_get_tsc_khz(c->fd, &img->run.tsc_khz);
	if (!err)
		err = kvm_vcpu_get_regs(c->fd, &img->regs);
	if (!err)
		err = get_sregs(c, &img->sregs);
	if (!err && c->vm->kvm.has_xcrs)
		err = kvm_vcpu_get_xcrs(c->fd, &xcrs);
	for (uint32_t i = 0; !err && i < xcrs.nr_xcrs && i < KVM_MAX_XCRS; i++)
		if (xcrs.xcrs[i].xcr == 0)
			img->fpu.xcr0 = xcrs.xcrs[i].value;
	if (!err)
		err = kvm_vcpu_get_xsave(&c->vm->kvm, c->fd, (void *)img->fpu.xsave);
	if (!err)
		err = get_msrs(c, &img->msrs);
	if (!err)
		err = kvm_vcpu_get_lapic(c->fd, &img->lapic);
	if (!err)
		err = kvm_vcpu_get_debugregs(c->fd, &img->debug);
	if (!err)
		err = kvm_vcpu_get_events(c->fd, &img->events);
	return err ? diag_errno(d, err, "cannot read the state of vcpu %u", c->id) : 0;
}

/* --- into KVM -------------------------------------------------------------------------------- */

static int set_tsc_khz(struct vcpu *c, uint32_t khz)
{
	uint32_t own;
	int err = kvm_vcpu_get_tsc_khz(c->fd, &own);

	if (err || own == khz || !c->vm->kvm.has_tsc_scaling)
		return err;
	return kvm_vcpu_set_tsc_khz(c->fd, khz);
}

static int set_sregs(struct vcpu *c, const struct kvm_sregs2 *in)
{
	struct kvm_sregs s = { 0 };

	if (c->vm->kvm.has_sregs2)
		return kvm_vcpu_set_sregs2(c->fd, in);
	/* KVM reads the page directory pointers from RAM then. */
	memcpy(&s, in, offsetof(struct kvm_sregs2, flags));
	return kvm_vcpu_set_sregs(c->fd, &s);
}

static int set_xcr0(struct vcpu *c, uint64_t xcr0)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = xcr0 } } };

	return c->vm->kvm.has_xcrs && xcr0 ? kvm_vcpu_set_xcrs(c->fd, &xcrs) : 0;
}

static int msr_refused(const struct vcpu *c, uint32_t index, const struct vcpu_msrs_image *img,
		       struct diag *d)
{
	uint64_t value = 0;

	for (uint32_t i = 0; i < img->n; i++)
		if (img->index[i] == index)
			value = img->value[i];
	return diag_set(d, -ENOTSUP,
			"vcpu %u: this host's KVM refuses the guest's 0x%" PRIx64 " in MSR 0x%x",
			c->id, value, index);
}

/*
 * KVM takes a counter that is less than a second from where it would be by now for an attempt to
 * synchronise it, and keeps its own value: the clock would jump. So the first vcpu's counter is
 * set to something else before. The others are then synchronised to it, which is wanted: they were
 * read one after the other. (kvm_synchronize_tsc() in x86.c)
 */
static int set_tsc(struct vcpu *c, uint64_t value, uint32_t *refused)
{
	struct kvm_msr_entry tsc[] = {
		{ .index = MSR_TSC, .data = value ^ TSC_ELSEWHERE },
		{ .index = MSR_TSC, .data = value },
	};
	bool first = c->id == 0;

	return kvm_vcpu_set_msrs(c->fd, &tsc[!first], first ? 2 : 1, refused, REFUSED_MAX);
}

static int set_msrs(struct vcpu *c, const struct vcpu_msrs_image *img, bool late, struct diag *d)
{
	struct kvm_msr_entry msrs[VCPU_IMAGE_MSRS];
	uint32_t refused[REFUSED_MAX];
	unsigned int n = 0;
	int r = 0;

	for (uint32_t i = 0; i < img->n && r == 0; i++) {
		struct kvm_msr_entry m = { .index = img->index[i], .data = img->value[i] };

		if (msr_is_late(m.index) != late)
			continue;
		if (m.index == MSR_TSC)
			r = set_tsc(c, m.data, refused);
		else
			msrs[n++] = m;
	}
	if (r == 0)
		r = vcpu_state_set_msrs(c, msrs, n, refused, REFUSED_MAX);
	if (r > 0)
		return msr_refused(c, refused[0], img, d);
	return r ? diag_errno(d, r, "cannot set the MSRs of vcpu %u", c->id) : 0;
}

static int step(const struct vcpu *c, int err, const char *what, struct diag *d)
{
	return err ? diag_errno(d, err, "vcpu %u: this host's KVM refuses the guest's %s", c->id,
				what)
		   : 0;
}

int vcpu_image_load(const struct vcpu_image *img, struct vcpu *c, struct diag *d)
{
	int err;

	vcpu_state_loaded(c);
	err = step(c, set_tsc_khz(c, img->run.tsc_khz), "TSC rate", d);
	if (!err)
		err = step(c, set_sregs(c, &img->sregs), "control and segment registers", d);
	if (!err)
		err = step(c, set_xcr0(c, img->fpu.xcr0), "XCR0", d);
	if (!err)
		err = step(c, kvm_vcpu_set_xsave(c->fd, (const void *)img->fpu.xsave),
			   "vector registers", d);
	if (!err)
		err = set_msrs(c, &img->msrs, false, d);
	if (!err)
		err = step(c, kvm_vcpu_set_lapic(c->fd, &img->lapic), "local APIC", d);
	if (!err)
		err = set_msrs(c, &img->msrs, true, d);
	if (!err)
		err = step(c, kvm_vcpu_set_debugregs(c->fd, &img->debug), "debug registers", d);
	if (!err)
		err = step(c, kvm_vcpu_set_regs(c->fd, &img->regs), "registers", d);
	if (!err)
		err = step(c, kvm_vcpu_set_mp_state(c->fd, img->run.mp_state), "MP state", d);
	if (!err)
		err = step(c, kvm_vcpu_set_events(c->fd, &img->events), "pending events", d);
	return err;
}
