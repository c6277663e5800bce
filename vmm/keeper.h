/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.h - a small process that removes the names that a guest has in the file system (sockets,
 * the link to its pty) when the guest's process has ended, however it ended: by then that one may
 * not be allowed to (sandbox.h), as another user it could not, and a signal leaves it no time.
 *
 * It is forked before there is anything that it should not have, learns each name when it is made,
 * and from keeper_settle() on waits for the other end of its socket to be closed. Nothing that the
 * guest's process says later is heard: who takes that over cannot have files removed. It keeps the
 * user and, of the capabilities, CAP_DAC_OVERRIDE, for folders of other users; no descriptors, no
 * signals, and a filter of its own.
 *
 * Thread: main. keeper_settle() and keeper_stop() wait for 10 s at the most.
 */
#ifndef UNVMM_VMM_KEEPER_H
#define UNVMM_VMM_KEEPER_H

#include <unvmm/sandbox.h>

struct keeper {
	int fd;		/* -1: there is none */
	unsigned int n; /* names it was told */
};

int keeper_start(struct keeper *k, const struct sandbox *s, struct diag *d) must_check;
/*
 * Tells it path, which exists and is not followed if it is a link. *kept: from now on the path is
 * the keeper's to remove. Without a keeper (NULL, in tests) it stays its owner's.
 */
int keeper_add(struct keeper *k, const char *path, bool *kept, struct diag *d) must_check;
/* There are no more: the keeper gives up what it needs no longer. Without any name it ends. */
int keeper_settle(struct keeper *k, struct diag *d) must_check;
/* Returns when the names are gone. Also for one that was never started or handed nothing. */
void keeper_stop(struct keeper *k);

#endif
