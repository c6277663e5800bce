/* SPDX-License-Identifier: Apache-2.0 */
/*
 * track.h - has every device of a machine say what it writes to guest memory, for a migration: the
 * loop over device_class.track_begin() and its likes (device.h).
 *
 * Thread: main, without the control lock, but for vm_track_sync(): any thread without it. They wait
 * for assigned functions, with those devices' deadlines.
 */
#ifndef UNVMM_TRACK_H
#define UNVMM_TRACK_H

#include <unvmm/diag.h>

struct vm;

/*
 * How long the guest stood for it, in nanoseconds; the parts follow each other and sum to `total`.
 */
struct track_pause {
	uint64_t park;	  /* vcpus out of the guest, devices that were not meant */
	uint64_t drain;	  /* what had to be finished */
	uint64_t stop;	  /* functions stopped, confirmed */
	uint64_t program; /* ... and given the journal, up to DRIVER_OK */
	uint64_t start;	  /* control queues replayed, doorbells, the first kicks */
	uint64_t total;
	uint64_t end; /* when the last device was up again, loop_now(); 0: it is not */
};

/*
 * When it returns 0, each write of a device to guest memory shows in gmem's log, if that has been
 * started, at the next vm_track_sync(). If a device needs it the machine was held once for that, as
 * shortly as can be: *pause has how long, zeroes if it was not. On failure the sentence names the
 * device, the guest runs on, and nothing is tracked.
 */
int vm_track_begin(struct vm *vm, struct track_pause *pause, struct diag *d) must_check;
/* The parts of the devices' last stop: drain and stop. Main. */
void vm_track_stopped(struct vm *vm, struct track_pause *pause);
/* Before each gmem_log_fetch(). */
int vm_track_sync(struct vm *vm, struct diag *d) must_check;
void vm_track_end(struct vm *vm);

#endif
