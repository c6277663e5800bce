/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inherited.h - descriptors that the caller of unvmm left open besides the standard ones. They are
 * there while the machine is built, so that a disk can be /dev/fd/9, and gone when the guest runs;
 * no child process gets them. Main thread.
 */
#ifndef UNVMM_VMM_INHERITED_H
#define UNVMM_VMM_INHERITED_H

struct inherited {
	int *fds; /* owned */
	unsigned int n;
};

/* First of all, before anything is opened. Without /proc they are closed at once. */
void inherited_find(struct inherited *in);
/* Also for one that found nothing. */
void inherited_close(struct inherited *in);

#endif
