/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lazy.h - a guest that runs before all of its memory has been read: pages come out of the
 * snapshot's file when they are touched (userfaultfd(2)), and in the background until all are
 * there.
 *
 * While the file is received only the heads of its RAM sections are read, which say where each
 * page is. A section is read whole, and its checksum looked at, before the first of its pages is
 * given: whatever happens to the file meanwhile, the guest never sees a wrong byte. It ends
 * instead, since who waits for a page that will never come can neither go on nor be called off.
 *
 * A page that nobody gave is missing for every thread that touches it, in user space, in a system
 * call or in KVM; all wait for the thread of this file, which therefore waits for nobody.
 *
 * Thread: lazy_create() and lazy_destroy() main, the others the migration thread.
 */
#ifndef UNVMM_MIGRATE_LAZY_H
#define UNVMM_MIGRATE_LAZY_H

#include <unvmm/gmem.h>

#include "ram.h"
#include "stream.h"

struct lazy;
struct sandbox;

/*
 * Opens what takes privileges and starts the thread "lazy", which sleeps; before the sandbox is
 * entered, which it does by itself. lost() is called on it when memory cannot be given any more: it
 * ends the process. -EPERM and others with a sentence: this host or user cannot do it.
 */
int lazy_create(struct gmem *mem, const struct sandbox *sandbox,
		void (*lost)(void *arg, const char *why), void *arg, struct lazy **out,
		struct diag *d) must_check;
/* Nobody touches the memory any more unless lazy_over(). NULL does nothing. */
void lazy_destroy(struct lazy *l);
/* Is all of the memory there, or nothing of it lazy? l may be NULL. Any thread. */
bool lazy_over(const struct lazy *l);
/* Waits until it is. */
void lazy_finish(struct lazy *l);

/* Can it be read at any place, and again? Else it is read as it comes. */
bool lazy_suits(int fd) must_check;

/*
 * A section that stream_recv() read the head of. -EPROTO with a sentence. No page may be given
 * twice by one section; if several have it, the last one counts.
 */
int lazy_note(struct lazy *l, const struct section *s, struct diag *d) must_check;
/* All have been noted: is every page there? How many have contents, how many are zero. */
int lazy_complete(const struct lazy *l, uint64_t *pages, uint64_t *zero_pages,
		  struct diag *d) must_check;
/* Either reads all at once, because it is to be compared ... */
int lazy_read_all(struct lazy *l, int fd, struct diag *d) must_check;
/* ... or gives what is touched from now on. The fd stays the caller's. */
int lazy_serve(struct lazy *l, int fd, struct diag *d) must_check;

#endif
