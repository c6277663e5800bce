/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_address.h - where a guest is moved to or comes from, as the operator writes it:
 *
 *   HOST[:PORT]               TCP; an IPv6 address in brackets; PORT is MIGRATE_PORT by default
 *   unix:PATH                 a UNIX socket
 *   ssh://[USER@]HOST[:PORT]  the stdin and stdout of `unvmm receive --stdio` there
 *   fd:N                      a connected descriptor that this process was started with
 *   file:PATH                 a snapshot
 *
 * Thread: any.
 */
#ifndef UNVMM_VMM_MIGRATE_ADDRESS_H
#define UNVMM_VMM_MIGRATE_ADDRESS_H

#include <unvmm/diag.h>

#define MIGRATE_PORT	 "4733"
#define MIGRATE_HOST_MAX 255

enum migrate_kind { MIGRATE_TCP, MIGRATE_UNIX, MIGRATE_SSH, MIGRATE_FD, MIGRATE_FILE };

struct migrate_address {
	enum migrate_kind kind;
	/* TCP: "" is every address of this host. SSH: with "USER@" if it was given. */
	char host[MIGRATE_HOST_MAX + 1];
	char port[6];	  /* SSH: "" is what ssh's configuration says */
	const char *path; /* UNIX, FILE: the rest of the text that was parsed */
	int fd;
};

/* -EINVAL with a sentence that quotes the text. Nothing is looked up or opened. */
int migrate_address_parse(struct migrate_address *a, const char *text, struct diag *d) must_check;

#endif
