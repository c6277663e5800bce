/* SPDX-License-Identifier: Apache-2.0 */
/*
 * irq.c - the GSI routing table and its copy in KVM. Control lock held, irq_line() aside.
 */
#include <unvmm/irq.h>
#include <unvmm/kvm.h>
#include <unvmm/platform.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IOAPIC_PINS 24
#define PIC_PINS    8

struct irq_attachment {
	int eventfd, gsi;
};

static void route_chip(struct kvm_irq_routing *t, unsigned int gsi, unsigned int chip,
		       unsigned int pin)
{
	t->entries[t->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

/*
 * The wiring of a PC: ISA interrupts reach the PICs and the I/O APIC; the timer (GSI 0) is on the
 * I/O APIC's pin 2, which is also what the MADT's override says.
 */
static void route_lines(struct kvm_irq_routing *t)
{
	for (unsigned int gsi = 0; gsi < 2 * PIC_PINS; gsi++) {
		if (gsi == 2)
			continue;
		route_chip(t, gsi, gsi < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
			   gsi % PIC_PINS);
	}
	for (unsigned int gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		if (gsi == 2)
			continue;
		route_chip(t, gsi, KVM_IRQCHIP_IOAPIC, gsi == 0 ? 2 : gsi);
	}
}

int irq_init(struct irq *irq, struct kvm *kvm, struct diag *d)
{
	size_t max = 2 * PIC_PINS + IOAPIC_PINS + IRQ_MSI_MAX;

	*irq = (struct irq){ .kvm = kvm };
	irq->table = calloc(1, sizeof(*irq->table) + max * sizeof(irq->table->entries[0]));
	if (!irq->table)
		return diag_set(d, -ENOMEM, "out of memory for the interrupt routes");
	route_lines(irq->table);
	irq->changed =
		true; /* the first commit comes with the first MSI; KVM's default equals it */
	return 0;
}

void irq_fini(struct irq *irq)
{
	free(irq->table);
	free(irq->attaching);
	irq->table = NULL;
	irq->attaching = NULL;
}

void irq_line(struct irq *irq, unsigned int gsi, bool level)
{
	if (level)
		__atomic_fetch_or(&irq->lines, 1u << gsi, __ATOMIC_RELAXED);
	else
		__atomic_fetch_and(&irq->lines, ~(1u << gsi), __ATOMIC_RELAXED);
	/* Refused by a VM that KVM itself has given up: the vcpus report that. */
	if (irq->kvm && kvm_irq_line(irq->kvm, gsi, level) < 0)
		return;
}

int irq_msi_alloc(struct irq *irq)
{
	for (unsigned int w = 0; w < ARRAY_SIZE(irq->used); w++) {
		if (irq->used[w] == UINT64_MAX)
			continue;
		unsigned int bit = (unsigned int)__builtin_ctzll(~irq->used[w]);

		irq->used[w] |= 1ull << bit;
		return (int)(PLAT_GSI_MSI_FIRST + w * 64 + bit);
	}
	return -ENOSPC;
}

static struct kvm_irq_routing_entry *irq_msi_find(struct irq *irq, int gsi)
{
	for (unsigned int i = 0; i < irq->table->nr; i++)
		if (irq->table->entries[i].gsi == (uint32_t)gsi)
			return &irq->table->entries[i];
	return NULL;
}

void irq_msi_free(struct irq *irq, int gsi)
{
	struct kvm_irq_routing_entry *e = irq_msi_find(irq, gsi);
	unsigned int n = (unsigned int)(gsi - PLAT_GSI_MSI_FIRST);

	irq->used[n / 64] &= ~(1ull << (n % 64));
	if (e) {
		*e = irq->table->entries[--irq->table->nr];
		irq->changed = true;
	}
}

void irq_msi_set(struct irq *irq, int gsi, uint64_t addr, uint32_t data)
{
	struct kvm_irq_routing_entry *e = irq_msi_find(irq, gsi);

	if (!e) {
		e = &irq->table->entries[irq->table->nr++];
		*e = (struct kvm_irq_routing_entry){ .gsi = (uint32_t)gsi,
						     .type = KVM_IRQ_ROUTING_MSI };
	} else if (e->u.msi.address_lo == (uint32_t)addr &&
		   e->u.msi.address_hi == (uint32_t)(addr >> 32) && e->u.msi.data == data) {
		return;
	}
	e->u.msi.address_lo = (uint32_t)addr;
	e->u.msi.address_hi = (uint32_t)(addr >> 32);
	e->u.msi.data = data;
	irq->changed = true;
}

int irq_commit(struct irq *irq)
{
	int err = 0;

	if (!irq->changed || irq->collecting)
		return 0;
	if (irq->kvm)
		err = kvm_set_routes(irq->kvm, irq->table);
	if (!err)
		irq->changed = false;
	return err;
}

static int note(struct irq *irq, int eventfd, int gsi)
{
	struct irq_attachment *all = realloc(irq->attaching, (irq->nattaching + 1) * sizeof(*all));

	if (!all)
		return -ENOMEM;
	irq->attaching = all;
	all[irq->nattaching++] = (struct irq_attachment){ eventfd, gsi };
	return 0;
}

int irq_attach(struct irq *irq, int eventfd, int gsi)
{
	if (irq->collecting)
		return note(irq, eventfd, gsi);
	return irq->kvm ? kvm_irqfd(irq->kvm, eventfd, (unsigned int)gsi, true) : 0;
}

void irq_detach(struct irq *irq, int eventfd, int gsi)
{
	for (unsigned int i = 0; i < irq->nattaching; i++) {
		if (irq->attaching[i].eventfd != eventfd || irq->attaching[i].gsi != gsi)
			continue;
		irq->attaching[i] = irq->attaching[--irq->nattaching];
		return;
	}
	/* Fails only if it is not attached. */
	if (irq->kvm && kvm_irqfd(irq->kvm, eventfd, (unsigned int)gsi, false) < 0)
		return;
}

void irq_collect(struct irq *irq)
{
	irq->collecting = true;
}

/* Routes first: an eventfd that is signalled already injects when it is attached. */
int irq_apply(struct irq *irq)
{
	int err;

	irq->collecting = false;
	err = irq_commit(irq);
	for (unsigned int i = 0; i < irq->nattaching && !err; i++)
		err = irq_attach(irq, irq->attaching[i].eventfd, irq->attaching[i].gsi);
	irq->nattaching = 0;
	return err;
}
