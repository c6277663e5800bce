/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.h - builds, resets and takes down a whole machine. For main.c and cmd_*.c only.
 * Main thread.
 */
#ifndef UNVMM_VMM_MACHINE_H
#define UNVMM_VMM_MACHINE_H

#include <unvmm/boot.h>
#include <unvmm/chips_state.h>
#include <unvmm/sandbox.h>
#include <unvmm/vcpu.h>
#include <unvmm/vm.h>

#include "keeper.h"

struct machine {
	struct vm vm;
	struct vcpu_set vcpus;
	struct boot_source boot; /* open files: a reboot loads them again */
	struct chips chips;	 /* as they were at power-on */
	struct sandbox sandbox;
	struct keeper keeper;
	struct sandbox_entry io_entry, vf_entry;
};

/*
 * Builds the machine that config describes, loaded and parked at the kernel's entry, or empty if
 * its guest is incoming. Whatever can be refused is refused here, with a sentence, before the guest
 * runs. config must outlive it.
 */
int machine_create(struct machine *m, const struct vm_config *config, struct diag *d) must_check;

/*
 * Has every thread enter the sandbox, main the last, and lets the guest run. What main has not
 * opened by now it never will.
 */
int machine_start(struct machine *m, struct diag *d) must_check;

/* Power-on again: parks the vcpus, resets every device, loads the kernel anew, runs. */
int machine_reboot(struct machine *m, struct diag *d) must_check;

/* Ends the guest and releases everything; also after a failed machine_create(). */
void machine_destroy(struct machine *m);

#endif
