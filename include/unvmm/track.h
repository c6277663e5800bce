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
 * When it returns 0, each write of a device to guest memory shows in gmem's log, if that has been
 * started, at the next vm_track_sync(). If a device needs it the machine was held once for that, as
 * shortly as can be. On failure the sentence names the device, the guest runs on, and nothing is
 * tracked.
 */
int vm_track_begin(struct vm *vm, struct diag *d) must_check;
/* Before each gmem_log_fetch(). */
int vm_track_sync(struct vm *vm, struct diag *d) must_check;
void vm_track_end(struct vm *vm);

#endif
