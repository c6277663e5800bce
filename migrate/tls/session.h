/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.h - one TLS 1.3 connection: its handshake, who the peer is, and what the pump does with
 * it. Nothing here waits: session_step() goes on as far as it can.
 *
 * Both sides show a certificate. When the accepting side has checked the other's it says so, as the
 * first thing in the encrypted stream (GREETING): in TLS 1.3 the connecting side's handshake ends
 * before anybody has looked at its certificate. (unvmm-tls(8), PROTOCOL)
 *
 * Thread: the helper's only one.
 */
#ifndef UNVMM_MIGRATE_TLS_SESSION_H
#define UNVMM_MIGRATE_TLS_SESSION_H

#include "creds.h"
#include "pump.h"

#define GREETING "unvmm-tls 1\n"

struct session {
	gnutls_session_t tls;
	int fd; /* the caller's; non-blocking */
	const struct creds *creds;
	/* Connecting: the name that the server must have. Accepting: names of clients, with commas
	 * between them; NULL: each that the CA has signed. */
	const char *names;
	char peer[128]; /* address, for sentences */
	/* private */
	bool asked, heard, shaken;
	size_t greeted; /* bytes of GREETING */
	char refusal[400];
	gnutls_alert_description_t alert;
	size_t raw_off, raw_len; /* of raw: read ahead, not yet GnuTLS's */
	unsigned char *raw;	 /* owned */
};

/* The fields above `private` but tls are set. -ENOMEM. */
int session_begin(struct session *s, struct diag *d) must_check;
void session_end(struct session *s);

/*
 * 0: the peer is who it should be; -EAGAIN: call again when session_events() are there; else
 * -errno with a sentence that begins with the peer's address.
 */
int session_step(struct session *s, struct diag *d) must_check;
short session_events(const struct session *s);

/* For the pump, after session_step() has said 0. */
struct pump_tls session_pump(struct session *s);

#endif
