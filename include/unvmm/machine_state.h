/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine_state.h - all of a paused machine but its RAM as blobs (state_io.h), one per part: every
 * device in the order of creation, then "cpu0".. and "chips", which also has a reset that the guest
 * asked for and did not get yet. (migrate/machine_state.c, machine_state_desc.c)
 *
 * The machine on the receiving side has been built from its own configuration and has never run.
 * Loading has two passes: every blob is parsed and validated before the first is committed, so a
 * refused one leaves the machine as it was. Blobs come from a peer or a file and are hostile.
 *
 * Thread: main, vcpus parked, devices quiesced, control lock held. Never blocks.
 */
#ifndef UNVMM_MACHINE_STATE_H
#define UNVMM_MACHINE_STATE_H

#include <unvmm/diag.h>

struct device;
struct vm;

/* Names the first part that cannot be moved, and why: -ENOTSUP. To be asked before anything is
 * sent. */
int machine_state_supported(struct vm *vm, struct diag *d) must_check;

/*
 * Calls emit() with each part's blob, which is valid during the call only; an error of emit() ends
 * it and is returned.
 */
int machine_state_save(struct vm *vm,
		       int (*emit)(void *arg, const char *id, const void *blob, size_t len,
				   struct diag *d),
		       void *arg, struct diag *d) must_check;

struct machine_load;

/* Begins to load: nothing has been parsed. -ENOMEM: NULL. */
struct machine_load *machine_load_begin(struct vm *vm) must_check;
/* First pass, one part: any order, each exactly once. -EINVAL with a path ("cpu0/lapic: ..."). */
int machine_load_parse(struct machine_load *l, const char *id, const void *blob, size_t len,
		       struct diag *d) must_check;
/* -EINVAL naming a part of this machine that has not come. */
int machine_load_complete(struct machine_load *l, struct diag *d) must_check;
/*
 * Second pass; RAM must be there, because KVM reads and writes it when it is told where a guest
 * keeps its clock and page tables. An error leaves the machine unusable: it is never run. KVM may
 * refuse what a parse could not know, so this comes before READY.
 *
 * The guest's TSC and kvm-clock go on from where they stood when they were saved: the time in
 * between has not been, for the guest. Only its RTC follows the host's time.
 */
int machine_load_commit(struct machine_load *l, struct diag *d) must_check;
/* Also without a commit. NULL does nothing. */
void machine_load_free(struct machine_load *l);

/*
 * What is done for the first time in a process costs several times what it costs then, and when a
 * guest moves it stands still meanwhile. So both sides do it once before, and nothing comes of it:
 * the source, whose devices may run, takes the state of vcpus and chips and forgets it; the target
 * loads its own, power-on state, but for that of assigned functions.
 */
int machine_rehearse_save(struct vm *vm, struct diag *d) must_check;
int machine_rehearse_load(struct vm *vm, struct diag *d) must_check;

/*
 * From one device of this machine to another with the same tables, by a blob as between two hosts.
 * `check`: only says whether it would be taken. After an error `to` is as it was, or fit for
 * nothing but a reset if KVM refused something. (machine_state_move.c)
 */
int machine_state_move(const struct device *from, const struct device *to, bool check,
		       struct diag *d) must_check;

/*
 * What both sides must agree on before anything else: machine type, memory layout, vcpus, CPUID as
 * the guest sees it, TSC frequency, devices with their models and sizes. `blob` as those of
 * state_io.h; malloc'ed. check: 0 if a guest of that description can run here, else the first
 * reason that it cannot, as a sentence.
 */
int machine_description(struct vm *vm, void **blob, size_t *len, struct diag *d) must_check;
int machine_description_check(struct vm *vm, const void *blob, size_t len,
			      struct diag *d) must_check;

#endif
