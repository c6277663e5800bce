/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chips_state.c - interrupt controllers, PIT and kvm-clock out of KVM and into it. Main thread, the
 * vcpus parked. Source: Documentation/virt/kvm/api.rst, 4.24 to 4.30 and 4.71, 4.72.
 */
#include <unvmm/chips_state.h>
#include <unvmm/vm.h>

#include <errno.h>

#define PIC(member)	   STATE_SCALAR(STATE_U8, struct kvm_pic_state, member)
#define CHANNEL(k, member) STATE_SCALAR(k, struct kvm_pit_channel_state, member)
#define CHIPS(k, member)   STATE_SCALAR(k, struct chips, member)

static const struct state_field pic_fields[] = {
	PIC(last_irr),
	PIC(irr),
	PIC(imr),
	PIC(isr),
	PIC(priority_add),
	PIC(irq_base),
	PIC(read_reg_select),
	PIC(poll),
	PIC(special_mask),
	PIC(init_state),
	PIC(auto_eoi),
	PIC(rotate_on_auto_eoi),
	PIC(special_fully_nested_mode),
	PIC(init4),
	PIC(elcr),
	STATE_SCALAR_CHECK(STATE_U8, struct kvm_pic_state, elcr_mask), /* wired */
};

static const struct state_desc pic_desc = {
	.name = "pic",
	.version = 1,
	.obj_size = sizeof(struct kvm_pic_state),
	.fields = pic_fields,
	.nfields = ARRAY_SIZE(pic_fields),
};

/* Not when the count was loaded: that is the host's time, and KVM begins to count anew. */
static const struct state_field channel_fields[] = {
	CHANNEL(STATE_U32, count),	  CHANNEL(STATE_U16, latched_count),
	CHANNEL(STATE_U8, count_latched), CHANNEL(STATE_U8, status_latched),
	CHANNEL(STATE_U8, status),	  CHANNEL(STATE_U8, read_state),
	CHANNEL(STATE_U8, write_state),	  CHANNEL(STATE_U8, write_latch),
	CHANNEL(STATE_U8, rw_mode),	  CHANNEL(STATE_U8, mode),
	CHANNEL(STATE_U8, bcd),		  CHANNEL(STATE_U8, gate),
};

static const struct state_desc channel_desc = {
	.name = "pit-channel",
	.version = 1,
	.obj_size = sizeof(struct kvm_pit_channel_state),
	.fields = channel_fields,
	.nfields = ARRAY_SIZE(channel_fields),
};

static bool pit_needed(const void *obj)
{
	return ((const struct chips *)obj)->has_pit;
}

static bool clock_needed(const void *obj)
{
	return ((const struct chips *)obj)->has_clock;
}

static const struct state_field chips_fields[] = {
	STATE_SCALAR_CHECK(STATE_BOOL, struct chips, has_pit),
	STATE_SCALAR_CHECK(STATE_BOOL, struct chips, has_clock),
	{ .name = "clock",
	  .kind = STATE_U64,
	  .offset = offsetof(struct chips, clock),
	  .size = 8,
	  .count = 1,
	  .needed = clock_needed },
	STATE_SCALAR_CHECK(STATE_U32, struct chips, ioapic_base), /* as the tables say */
	CHIPS(STATE_U32, ioapic_select),
	CHIPS(STATE_U32, ioapic_id),
	CHIPS(STATE_U32, ioapic_irr),
	CHIPS(STATE_U64, ioapic_redirect),
	{ .name = "pit_flags",
	  .kind = STATE_U32,
	  .offset = offsetof(struct chips, pit.flags),
	  .size = 4,
	  .count = 1,
	  .needed = pit_needed },
	STATE_ARRAY(struct chips, pics, pic_desc),
	{ .name = "pit_channel",
	  .kind = STATE_STRUCT,
	  .offset = offsetof(struct chips, pit.channels),
	  .size = sizeof(struct kvm_pit_channel_state),
	  .count = 3,
	  .child = &channel_desc,
	  .needed = pit_needed },
};

const struct state_desc chips_desc = {
	.name = "chips",
	.version = 1,
	.obj_size = sizeof(struct chips),
	.fields = chips_fields,
	.nfields = ARRAY_SIZE(chips_fields),
};

/* --- KVM ---------------------------------------------------------------------------------------
 */

static int read_ioapic(struct vm *vm, struct chips *c)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	const struct kvm_ioapic_state *s = &chip.chip.ioapic;
	int err = kvm_get_irqchip(&vm->kvm, &chip);

	if (err)
		return err;
	c->ioapic_base = (uint32_t)s->base_address;
	c->ioapic_select = s->ioregsel;
	c->ioapic_id = s->id;
	c->ioapic_irr = s->irr;
	for (unsigned int i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		c->ioapic_redirect[i] = s->redirtbl[i].bits;
	return 0;
}

static int write_ioapic(struct vm *vm, const struct chips *c)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct kvm_ioapic_state *s = &chip.chip.ioapic;

	s->base_address = c->ioapic_base;
	s->ioregsel = c->ioapic_select;
	s->id = c->ioapic_id;
	s->irr = c->ioapic_irr;
	for (unsigned int i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		s->redirtbl[i].bits = c->ioapic_redirect[i];
	return kvm_set_irqchip(&vm->kvm, &chip);
}

int chips_read(struct vm *vm, struct chips *chips, struct diag *d)
{
	int err = 0;

	*chips = (struct chips){ .has_pit = vm->config->pit, .has_clock = vm->kvm.has_clock };
	for (unsigned int i = 0; i < CHIPS_PICS && !err; i++) {
		struct kvm_irqchip chip = { .chip_id = i };

		err = kvm_get_irqchip(&vm->kvm, &chip);
		chips->pics[i] = chip.chip.pic;
	}
	if (!err)
		err = read_ioapic(vm, chips);
	if (!err && chips->has_pit)
		err = kvm_get_pit(&vm->kvm, &chips->pit);
	if (err)
		return diag_errno(d, err, "cannot read the interrupt controllers' state");
	if (chips->has_clock)
		err = kvm_get_clock(&vm->kvm, &chips->clock);
	return err ? diag_errno(d, err, "cannot read kvm-clock") : 0;
}

int chips_write(struct vm *vm, const struct chips *chips, struct diag *d)
{
	int err = 0;

	for (unsigned int i = 0; i < CHIPS_PICS && !err; i++) {
		struct kvm_irqchip chip = { .chip_id = i, .chip.pic = chips->pics[i] };

		err = kvm_set_irqchip(&vm->kvm, &chip);
	}
	if (!err)
		err = write_ioapic(vm, chips);
	if (!err && chips->has_pit)
		err = kvm_set_pit(&vm->kvm, &chips->pit);
	return err ? diag_errno(d, err, "KVM refuses the interrupt controllers' state") : 0;
}

int chips_write_clock(struct vm *vm, const struct chips *chips, struct diag *d)
{
	int err = chips->has_clock ? kvm_set_clock(&vm->kvm, chips->clock) : 0;

	return err ? diag_errno(d, err, "KVM refuses the value of kvm-clock") : 0;
}
