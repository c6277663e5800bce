/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.h - builds, resets and takes down a whole machine. For main.c and cmd_*.c only.
 * Main thread.
 */
#ifndef UNVMM_VMM_MACHINE_H
#define UNVMM_VMM_MACHINE_H

#include <unvmm/boot.h>
#include <unvmm/vcpu.h>
#include <unvmm/vm.h>

#define MACHINE_IRQCHIPS 3 /* two PICs and the I/O APIC */

struct machine {
	struct vm vm;
	struct vcpu_set vcpus;
	struct boot_source boot;		    /* open files: a reboot loads them again */
	struct kvm_irqchip chips[MACHINE_IRQCHIPS]; /* as they were at power-on */
	struct kvm_pit_state2 pit;
};

/*
 * Builds the machine that config describes, loaded and parked at the kernel's entry. Whatever can
 * be refused is refused here, with a sentence, before the guest runs. config must outlive it.
 */
int machine_create(struct machine *m, const struct vm_config *config, struct diag *d) must_check;

/* Lets the guest run. */
int machine_start(struct machine *m, struct diag *d) must_check;

/* Power-on again: parks the vcpus, resets every device, loads the kernel anew, runs. */
int machine_reboot(struct machine *m, struct diag *d) must_check;

/* Ends the guest and releases everything; also after a failed machine_create(). */
void machine_destroy(struct machine *m);

#endif
