/* SPDX-License-Identifier: Apache-2.0 */
/*
 * irq.h - interrupt routes: I/O APIC lines and MSI messages behind GSI numbers.
 *
 * GSIs 0..23 are the I/O APIC's pins (and the PICs'), routed once. Above them each MSI-X vector of
 * each device owns a GSI. Changes are collected and one KVM_SET_GSI_ROUTING makes them real,
 * because that call waits for every vcpu to pass a quiescent point.
 *
 * Thread: control lock held, except irq_line(), which is for any thread.
 */
#ifndef UNVMM_IRQ_H
#define UNVMM_IRQ_H

#include <unvmm/diag.h>

struct kvm;
struct kvm_irq_routing;
struct irq_attachment;

#define IRQ_MSI_MAX 2048 /* 31 devices of 65 vectors */

struct irq {
	struct kvm *kvm;	       /* NULL: no KVM, everything is only recorded (unit tests) */
	uint32_t lines;		       /* levels of the I/O APIC pins as last set */
	struct kvm_irq_routing *table; /* what KVM has, or will have after irq_commit(); owned */
	uint64_t used[IRQ_MSI_MAX / 64]; /* allocated MSI GSIs */
	bool changed;
	bool collecting; /* irq_collect() */
	unsigned int nattaching;
	struct irq_attachment *attaching; /* owned; until irq_apply() */
};

/* After kvm_create_irqchip(). */
int irq_init(struct irq *irq, struct kvm *kvm, struct diag *d) must_check;
void irq_fini(struct irq *irq);

/* Level of an I/O APIC pin. A pulse is raise, then lower. */
void irq_line(struct irq *irq, unsigned int gsi, bool level);

/* A GSI for one MSI vector, not routed yet; -ENOSPC. */
int irq_msi_alloc(struct irq *irq) must_check;
void irq_msi_free(struct irq *irq, int gsi);

/* Routes an allocated gsi to the message; takes effect with irq_commit(). */
void irq_msi_set(struct irq *irq, int gsi, uint64_t addr, uint32_t data);
int irq_commit(struct irq *irq) must_check;

/* eventfd -> gsi in the kernel. An eventfd that is already signalled injects at once. */
int irq_attach(struct irq *irq, int eventfd, int gsi) must_check;
void irq_detach(struct irq *irq, int eventfd, int gsi);

/*
 * From irq_collect() on routes and attachments are only noted; irq_apply() makes all of them real
 * at once. For the state of a whole machine, whose vcpus stand meanwhile.
 */
void irq_collect(struct irq *irq);
int irq_apply(struct irq *irq) must_check;

#endif
