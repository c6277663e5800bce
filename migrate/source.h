/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source.h - between the two files of the source. The migration thread.
 */
#ifndef UNVMM_MIGRATE_SOURCE_H
#define UNVMM_MIGRATE_SOURCE_H

#include <unvmm/diag.h>

struct migration;

/* Handles what has come, without waiting, and sends a ping if it is time for one. (source.c) */
int source_attend(struct migration *m, struct diag *d) must_check;

/*
 * Waits until the target has taken all that was sent: pages that are still in buffers on the way
 * would be waited for while the guest stands. (source.c)
 */
int source_drain(struct migration *m, struct diag *d) must_check;

/* Rounds until the rest fits into the downtime, or the switch is to be forced. (precopy.c) */
int precopy_run(struct migration *m, struct diag *d) must_check;
/* Begins a round: asks all logs what has been written since a page was last read. */
int precopy_fetch(struct migration *m, struct diag *d) must_check;
/* Sends what is pending; as fast as it can while the guest is held. */
int precopy_send_round(struct migration *m, struct diag *d) must_check;

#endif
