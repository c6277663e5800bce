/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c - handshake, identity and errors of a TLS connection; see session.h. One thread.
 */
#include "session.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* TLS 1.3 alone. AES-128 first: it is the fastest where the CPU has AES, and nothing is weaker. */
#define PRIORITY                                                                         \
	"NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-" \
	"POLY1305"

#define RAW_SIZE KiB(64)

/* Content types of TLS records (RFC 8446, section 5.1). */
#define RECORD_FIRST 20
#define RECORD_LAST  23

/* --- who the peer is ------------------------------------------------------------------------- */

static bool on_list(gnutls_x509_crt_t cert, const char *names)
{
	char name[256];

	while (*names) {
		size_t len = strcspn(names, ",");

		if (len && len < sizeof(name)) {
			memcpy(name, names, len);
			name[len] = '\0';
			if (creds_is_for(cert, name))
				return true;
		}
		names += len + (names[len] == ',');
	}
	return false;
}

static void refuse(struct session *s, gnutls_x509_crt_t cert, unsigned int status)
{
	const struct creds_wanted wanted = { .server = !s->creds->server,
					     .name = s->creds->server ? NULL : s->names };
	char why[300];

	s->alert = creds_reason(s->creds, cert, status, &wanted, why, sizeof(why));
	snprintf(s->refusal, sizeof(s->refusal), "the peer's certificate %s", why);
}

static int check_cert(struct session *s, gnutls_x509_crt_t cert)
{
	bool server = s->creds->server;
	const char *purpose = server ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER;
	gnutls_typed_vdata_st data[] = {
		{ .type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (void *)(uintptr_t)purpose },
		{ .type = GNUTLS_DT_DNS_HOSTNAME, .data = (void *)(uintptr_t)s->names },
	};
	unsigned int status = 0;
	char names[128];
	int r = gnutls_certificate_verify_peers(s->tls, data, server ? 1 : 2, &status);

	if (r < 0) {
		snprintf(s->refusal, sizeof(s->refusal), "the peer's certificate: %s",
			 gnutls_strerror(r));
		s->alert = GNUTLS_A_BAD_CERTIFICATE;
	} else if (status) {
		refuse(s, cert, status);
	} else if (server && s->names && !on_list(cert, s->names)) {
		creds_names(cert, names, sizeof(names));
		snprintf(s->refusal, sizeof(s->refusal),
			 "the peer's certificate is for %s, and only %.150s may send a guest",
			 names, s->names);
		s->alert = GNUTLS_A_ACCESS_DENIED;
	} else {
		return 0;
	}
	return GNUTLS_E_CERTIFICATE_ERROR;
}

/* GnuTLS calls it in the handshake when it has the peer's certificates. */
static int verify(gnutls_session_t tls)
{
	struct session *s = gnutls_session_get_ptr(tls);
	gnutls_x509_crt_t cert;
	const gnutls_datum_t *list;
	unsigned int n = 0;
	int r;

	list = gnutls_certificate_get_peers(tls, &n);
	if (!list || !n)
		return GNUTLS_E_NO_CERTIFICATE_FOUND;
	r = gnutls_x509_crt_init(&cert);
	if (r < 0)
		return r;
	r = gnutls_x509_crt_import(cert, &list[0], GNUTLS_X509_FMT_DER);
	if (r >= 0)
		r = check_cert(s, cert);
	gnutls_x509_crt_deinit(cert);
	return r;
}

/* --- sentences ------------------------------------------------------------------------------- */

/* What the peer holds against us. */
static const char *alert_words(gnutls_alert_description_t alert)
{
	switch (alert) {
	case GNUTLS_A_CERTIFICATE_EXPIRED:
		return "our certificate has expired or is not valid yet, by the peer's clock";
	case GNUTLS_A_UNKNOWN_CA:
		return "our certificate is not signed by the peer's CA";
	case GNUTLS_A_CERTIFICATE_REVOKED:
		return "our certificate is revoked";
	case GNUTLS_A_ACCESS_DENIED:
		return "our certificate's name is not on its list";
	case GNUTLS_A_CERTIFICATE_REQUIRED:
		return "we showed no certificate";
	case GNUTLS_A_UNSUPPORTED_CERTIFICATE:
	case GNUTLS_A_BAD_CERTIFICATE:
		return "our certificate is not for this use or not for this name";
	case GNUTLS_A_PROTOCOL_VERSION:
		return "it does not speak TLS 1.3";
	default:
		return gnutls_alert_get_name(alert);
	}
}

static int no_tls(const struct session *s, struct diag *d)
{
	return diag_set(d, -EPROTO, "%s speaks no TLS; is --insecure meant on both sides?",
			s->peer);
}

static int explain(struct session *s, int r, struct diag *d)
{
	if (!s->heard && r != GNUTLS_E_FATAL_ALERT_RECEIVED)
		return no_tls(s, d);
	switch (r) {
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		return diag_set(d, -EACCES, "%s refuses us: %s", s->peer,
				alert_words(gnutls_alert_get(s->tls)));
	case GNUTLS_E_PREMATURE_TERMINATION:
		return diag_set(d, -ECONNRESET, "%s has closed the connection without an end",
				s->peer);
	case GNUTLS_E_PUSH_ERROR:
	case GNUTLS_E_PULL_ERROR:
		return diag_set(d, -ECONNRESET, "the connection with %s is broken", s->peer);
	case GNUTLS_E_CERTIFICATE_REQUIRED:
	case GNUTLS_E_NO_CERTIFICATE_FOUND:
		return diag_set(d, -EACCES, "%s shows no certificate", s->peer);
	case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
	case GNUTLS_E_NO_CIPHER_SUITES:
		return diag_set(d, -EPROTO, "%s does not speak TLS 1.3", s->peer);
	case GNUTLS_E_DECRYPTION_FAILED:
		return diag_set(d, -EBADMSG, "what comes from %s was changed on its way", s->peer);
	default:
		return diag_set(d, -EPROTO, "%s: TLS: %s", s->peer, gnutls_strerror(r));
	}
}

/* GnuTLS asks for the five bytes of a header, then for the record: two calls of the kernel each. */
static ssize_t pull(gnutls_transport_ptr_t arg, void *data, size_t size)
{
	struct session *s = arg;
	ssize_t n;

	if (s->raw_off == s->raw_len) {
		n = recv(s->fd, s->raw, RAW_SIZE, MSG_DONTWAIT);
		if (n <= 0) {
			gnutls_transport_set_errno(s->tls, errno);
			return n;
		}
		s->raw_off = 0;
		s->raw_len = (size_t)n;
	}
	if (size > s->raw_len - s->raw_off)
		size = s->raw_len - s->raw_off;
	memcpy(data, s->raw + s->raw_off, size);
	s->raw_off += size;
	return (ssize_t)size;
}

/* --- the handshake --------------------------------------------------------------------------- */

int session_begin(struct session *s, struct diag *d)
{
	unsigned int flags = (s->creds->server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK |
			     GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;

	s->raw = malloc(RAW_SIZE);
	if (!s->raw || gnutls_init(&s->tls, flags) < 0 ||
	    gnutls_priority_set_direct(s->tls, PRIORITY, NULL) < 0 ||
	    gnutls_credentials_set(s->tls, GNUTLS_CRD_CERTIFICATE, s->creds->all) < 0)
		return diag_set(d, -ENOMEM, "TLS cannot be set up");
	gnutls_session_set_ptr(s->tls, s);
	gnutls_session_set_verify_function(s->tls, verify);
	if (s->creds->server)
		gnutls_certificate_server_set_request(s->tls, GNUTLS_CERT_REQUIRE);
	gnutls_transport_set_int(s->tls, s->fd);
	gnutls_transport_set_pull_function(s->tls, pull);
	gnutls_transport_set_ptr2(s->tls, s, (gnutls_transport_ptr_t)(intptr_t)s->fd);
	return 0;
}

void session_end(struct session *s)
{
	if (s->tls)
		gnutls_deinit(s->tls);
	s->tls = NULL;
	free(s->raw);
	s->raw = NULL;
}

/* A peer that speaks something else gets a sentence of its own. */
static int hear_first(struct session *s, struct diag *d)
{
	unsigned char first;
	ssize_t n = recv(s->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (n < 0 && errno != ECONNRESET)
		return diag_errno(d, -errno, "%s", s->peer);
	if (n <= 0)
		return diag_set(d, -ECONNRESET,
				"%s has closed the connection before it said anything", s->peer);
	if (first < RECORD_FIRST || first > RECORD_LAST)
		return no_tls(s, d);
	s->heard = true;
	return 0;
}

static int shake(struct session *s, struct diag *d)
{
	int r = gnutls_handshake(s->tls);

	s->asked = true;
	if (r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED ||
	    (r < 0 && !gnutls_error_is_fatal(r)))
		return -EAGAIN;
	if (r >= 0) {
		s->shaken = true;
		return 0;
	}
	/* Best effort: the alert fits into the socket's empty buffer. */
	if (s->refusal[0]) {
		(void)gnutls_alert_send(s->tls, GNUTLS_AL_FATAL, s->alert);
		return diag_set(d, -EACCES, "%s: %s", s->peer, s->refusal);
	}
	if (r != GNUTLS_E_FATAL_ALERT_RECEIVED)
		(void)gnutls_alert_send_appropriate(s->tls, r);
	return explain(s, r, d);
}

/* GnuTLS's numbers, of which none is EAGAIN's; explain() knows them. */
static ssize_t result(ssize_t n)
{
	return n < 0 && !gnutls_error_is_fatal((int)n) ? -EAGAIN : n;
}

/* What is not for us ends a call, too; with more of it at hand poll() would wait for nothing. */
static ssize_t session_recv(void *arg, void *p, size_t len)
{
	struct session *s = arg;
	ssize_t n;

	do
		n = result(gnutls_record_recv(s->tls, p, len));
	while (n == -EAGAIN && s->raw_off < s->raw_len && !gnutls_record_get_direction(s->tls));
	return n;
}

static ssize_t session_send(void *arg, const void *p, size_t len)
{
	struct session *s = arg;

	return result(gnutls_record_send(s->tls, p, len));
}

static int greet(struct session *s, struct diag *d)
{
	static const char greeting[] = GREETING;
	size_t len = sizeof(greeting) - 1;
	char got[sizeof(greeting)];
	ssize_t n;

	while (s->greeted < len) {
		if (s->creds->server)
			n = session_send(s, greeting + s->greeted, len - s->greeted);
		else
			n = session_recv(s, got, len - s->greeted);
		if (n == -EAGAIN)
			return -EAGAIN;
		if (n < 0)
			return explain(s, (int)n, d);
		if (n == 0 ||
		    (!s->creds->server && memcmp(got, greeting + s->greeted, (size_t)n) != 0))
			return diag_set(d, -EPROTO, "%s speaks TLS, but is no \"unvmm receive\"",
					s->peer);
		s->greeted += (size_t)n;
	}
	return 0;
}

int session_step(struct session *s, struct diag *d)
{
	int err = s->heard ? 0 : hear_first(s, d);

	if (err == -EAGAIN && !s->creds->server && !s->asked) /* that side speaks first */
		err = 0;
	if (!err && !s->shaken)
		err = shake(s, d);
	if (!err)
		err = greet(s, d);
	return err;
}

short session_events(const struct session *s)
{
	return s->heard && gnutls_record_get_direction(s->tls) ? POLLOUT : POLLIN;
}

/* --- afterwards ------------------------------------------------------------------------------ */

static int session_bye(void *arg)
{
	struct session *s = arg;

	return (int)result(gnutls_bye(s->tls, GNUTLS_SHUT_WR));
}

static bool session_recv_sends(void *arg)
{
	struct session *s = arg;

	return gnutls_record_get_direction(s->tls);
}

static int session_explain(void *arg, int err, struct diag *d)
{
	return explain(arg, err, d);
}

struct pump_tls session_pump(struct session *s)
{
	return (struct pump_tls){ .arg = s,
				  .fd = s->fd,
				  .send = session_send,
				  .recv = session_recv,
				  .bye = session_bye,
				  .recv_sends = session_recv_sends,
				  .explain = session_explain };
}
