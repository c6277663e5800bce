/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creds.h - certificates and keys in a folder, by the names that QEMU and libvirt gave them:
 *
 *   ca-cert.pem                       who may sign; ca-crl.pem, what it has revoked (optional)
 *   server-cert.pem, server-key.pem   of the side that is connected to
 *   client-cert.pem, client-key.pem   of the side that connects
 *
 * They are read once and checked as the peer will: what it would refuse is refused here.
 *
 * Thread: the helper's only one.
 */
#ifndef UNVMM_MIGRATE_TLS_CREDS_H
#define UNVMM_MIGRATE_TLS_CREDS_H

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include <unvmm/diag.h>

struct creds {
	gnutls_certificate_credentials_t all;
	const char *folder; /* the caller's */
	bool server;
};

/* Also what failed is to be freed. */
int creds_load(struct creds *c, const char *folder, bool server, struct diag *d) must_check;
void creds_free(struct creds *c);

/* What the owner of a certificate is to be; name NULL: any. */
struct creds_wanted {
	const char *name; /* of a server: host name or address */
	bool server;
};

/*
 * Why a certificate with this status (gnutls_certificate_status_t) is refused, as the end of a
 * sentence: "has expired on 2026-01-01". Returns the alert for its owner.
 */
gnutls_alert_description_t creds_reason(const struct creds *c, gnutls_x509_crt_t cert,
					unsigned int status, const struct creds_wanted *wanted,
					char *text, size_t size);

/* Is the certificate for that name: host name or address in it, or common name? */
bool creds_is_for(gnutls_x509_crt_t cert, const char *name);
/* Whom it is for, to be shown: the names in it, else the common name. */
void creds_names(gnutls_x509_crt_t cert, char *text, size_t size);

#endif
