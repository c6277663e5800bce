/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.h - a small process that removes the names that a guest has in the file system (sockets,
 * the link to its pty) when the guest's process has ended, however it ended: that one is not
 * allowed to (sandbox.h), and as another user it could not.
 *
 * It is forked before there is anything that it should not have, learns the names once, when they
 * are all there, and then waits for the other end of its socket to be closed. Nothing that the
 * guest's process says later is heard: who takes that over cannot have files removed. It keeps the
 * user and, of the capabilities, CAP_DAC_OVERRIDE, for folders of other users; no descriptors, no
 * signals, and a filter of its own.
 *
 * Thread: main. keeper_take() waits for 10 s at the most, keeper_stop() for 1 s.
 */
#ifndef UNVMM_VMM_KEEPER_H
#define UNVMM_VMM_KEEPER_H

#include <sys/types.h>

#include <unvmm/sandbox.h>

/* A name in the file system that ends with the guest; part of whatever owns the path. */
struct keeper_name {
	const char *path;
	dev_t dev;
	ino_t ino;
	bool taken; /* by the keeper: the owner leaves it alone */
	struct keeper_name *next;
};

struct keeper {
	int fd; /* -1: there is none */
};

/* Puts path, which exists and is not followed if it is a link, into a list (vm.names). */
void keeper_note(struct keeper_name **list, struct keeper_name *n, const char *path);

/* Where nothing is given up there is no keeper, and the owners remove their names. */
int keeper_start(struct keeper *k, const struct sandbox *s, struct diag *d) must_check;
/* Hands over the list, once. Empty: the keeper ends. */
int keeper_take(struct keeper *k, struct keeper_name *list, struct diag *d) must_check;
/* Returns when the names are gone. Also for one that was never started or handed nothing. */
void keeper_stop(struct keeper *k);

#endif
