/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_tls.h - starts unvmm-tls, which encrypts a migration's connection in a process of its
 * own: neither the VMM nor the commands have a TLS library in them. What one gets is an end of a
 * socket pair; the helper lives as long as somebody holds that, and the connection. (migrate/tls/,
 * and its manual unvmm-tls(8))
 *
 * Thread: main, before the sandbox is entered. Every wait has a deadline.
 */
#ifndef UNVMM_VMM_MIGRATE_TLS_H
#define UNVMM_VMM_MIGRATE_TLS_H

#include <unvmm/diag.h>

/* Where libvirt's users look for QEMU's: /etc/pki/qemu. */
#define MIGRATE_TLS_FOLDER "/etc/pki/unvmm"

struct migrate_tls {
	const char *folder; /* of the certificates; NULL: MIGRATE_TLS_FOLDER */
	/* Connecting: the name in the server's certificate. Accepting: those of clients that may
	 * come, with commas between them; NULL: each that the CA has signed. */
	const char *peer;
};

/*
 * Encrypts a connection. Returns when the other side has been found to be who it should be, and has
 * found the same of us. *ended becomes readable (its end) when the helper has ended. net is taken
 * over in any case. Returns the descriptor for the VMM, or -errno with a sentence.
 */
int migrate_tls_connect(const struct migrate_tls *t, int net, int *ended,
			struct diag *d) must_check;

/*
 * Waits behind a listening socket, which is taken over in any case, for somebody who may connect.
 * Returns when the certificates are read and good, with a descriptor that becomes readable when
 * that one has something to say.
 */
int migrate_tls_accept(const struct migrate_tls *t, int listener, struct diag *d) must_check;

/*
 * Waits a moment for the helper's end, which has its last words to say; closes `ended` (-1: none).
 */
void migrate_tls_end(int ended);

#endif
