/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creds.c - reads certificates and keys, and says what is wrong with them; see creds.h. One thread.
 */
#include "creds.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILE_MAX  MiB(1)
#define CHAIN_MAX 16u
#define NAME_SIZE 256u

/* --- files ----------------------------------------------------------------------------------- */

static void path_of(const struct creds *c, const char *name, char *path, size_t size)
{
	snprintf(path, size, "%.300s/%s", c->folder, name);
}

/* Who else can read a key can be this host. The file's group may (as with ssh, for a service). */
static int check_mode(const char *path, const struct stat *st, struct diag *d)
{
	if (!(st->st_mode & (S_IRWXO | S_IWGRP)))
		return 0;
	return diag_set(d, -EACCES,
			"%s has mode %04o: a key must not be read by everybody or changed by "
			"others; \"chmod 600 %s\" mends it",
			path, st->st_mode & 07777, path);
}

static int read_fd(int fd, const char *path, bool secret, gnutls_datum_t *out, struct diag *d)
{
	struct stat st;
	size_t size;
	ssize_t n;

	if (fstat(fd, &st) < 0)
		return diag_errno(d, -errno, "%s", path);
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)FILE_MAX)
		return diag_set(d, -EINVAL, "%s is no file of at most 1 MiB", path);
	if (secret && check_mode(path, &st, d))
		return -EACCES;
	size = (size_t)st.st_size;
	out->data = malloc(size + 1);
	if (!out->data)
		return diag_set(d, -ENOMEM, "out of memory");
	while (out->size < size && (n = read(fd, out->data + out->size, size - out->size)) != 0) {
		if (n < 0)
			return diag_errno(d, -errno, "%s cannot be read", path);
		out->size += (unsigned int)n;
	}
	return 0;
}

static void free_datum(gnutls_datum_t *p)
{
	if (p->data)
		gnutls_memset(p->data, 0, p->size); /* it may have been a key */
	free(p->data);
	*p = (gnutls_datum_t){ 0 };
}

/* -ENOENT without a sentence. */
static int read_file(const char *path, bool secret, gnutls_datum_t *out, struct diag *d)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), err;

	*out = (gnutls_datum_t){ 0 };
	if (fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (fd < 0)
		return diag_errno(d, -errno, "%s cannot be read", path);
	err = read_fd(fd, path, secret, out, d);
	close(fd);
	if (err)
		free_datum(out);
	return err;
}

static int read_needed(const struct creds *c, const char *name, bool secret, char *path,
		       size_t size, gnutls_datum_t *out, struct diag *d)
{
	int err;

	path_of(c, name, path, size);
	err = read_file(path, secret, out, d);
	return err != -ENOENT ? err
			      : diag_set(d, err,
					 "there is no %s, without which there is no TLS; "
					 "unvmm-tls(8) says how "
					 "to make it",
					 path);
}

/* --- the three or four of them --------------------------------------------------------------- */

static int load_ca(struct creds *c, struct diag *d)
{
	gnutls_datum_t data;
	char path[NAME_SIZE * 2];
	int err = read_needed(c, "ca-cert.pem", false, path, sizeof(path), &data, d), n;

	if (err)
		return err;
	n = gnutls_certificate_set_x509_trust_mem(c->all, &data, GNUTLS_X509_FMT_PEM);
	free_datum(&data);
	return n > 0 ? 0 : diag_set(d, -EINVAL, "%s holds no certificate of a CA", path);
}

static int load_crl(struct creds *c, struct diag *d)
{
	gnutls_datum_t data;
	char path[NAME_SIZE * 2];
	int err, n;

	path_of(c, "ca-crl.pem", path, sizeof(path));
	err = read_file(path, false, &data, d);
	if (err)
		return err == -ENOENT ? 0 : err;
	n = gnutls_certificate_set_x509_crl_mem(c->all, &data, GNUTLS_X509_FMT_PEM);
	free_datum(&data);
	return n > 0 ? 0 : diag_set(d, -EINVAL, "%s holds no list of revoked certificates", path);
}

static int load_key(const struct creds *c, const char *name, gnutls_x509_privkey_t *key,
		    struct diag *d)
{
	gnutls_datum_t data;
	char path[NAME_SIZE * 2];
	int err = read_needed(c, name, true, path, sizeof(path), &data, d), r;

	if (err)
		return err;
	r = gnutls_x509_privkey_init(key);
	if (r >= 0)
		r = gnutls_x509_privkey_import2(*key, &data, GNUTLS_X509_FMT_PEM, NULL, 0);
	free_datum(&data);
	if (r == GNUTLS_E_DECRYPTION_FAILED || r == GNUTLS_E_PK_DECRYPTION_FAILED)
		return diag_set(d, -EINVAL,
				"%s is encrypted with a password, which nobody could type here",
				path);
	return r < 0 ? diag_set(d, -EINVAL, "%s holds no private key that GnuTLS knows: %s", path,
				gnutls_strerror(r))
		     : 0;
}

static int load_chain(const struct creds *c, const char *name, gnutls_x509_crt_t **chain,
		      unsigned int *n, struct diag *d)
{
	gnutls_datum_t data;
	char path[NAME_SIZE * 2];
	int err = read_needed(c, name, false, path, sizeof(path), &data, d), r;

	if (err)
		return err;
	r = gnutls_x509_crt_list_import2(chain, n, &data, GNUTLS_X509_FMT_PEM, 0);
	free_datum(&data);
	if (r < 0)
		return diag_set(d, -EINVAL, "%s holds no certificate: %s", path,
				gnutls_strerror(r));
	return *n <= CHAIN_MAX ? 0
			       : diag_set(d, -EINVAL, "%s holds %u certificates, more than %u",
					  path, *n, CHAIN_MAX);
}

/* Would the peer take it? It looks at the same things. */
static int check_own(const struct creds *c, const char *name, gnutls_x509_crt_t *chain,
		     unsigned int n, struct diag *d)
{
	const struct creds_wanted wanted = { .server = c->server };
	const char *purpose = c->server ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT;
	gnutls_typed_vdata_st data = { .type = GNUTLS_DT_KEY_PURPOSE_OID,
				       .data = (unsigned char *)(uintptr_t)purpose };
	gnutls_x509_trust_list_t cas;
	unsigned int status = 0;
	char why[300];
	int r;

	gnutls_certificate_get_trust_list(c->all, &cas);
	r = gnutls_x509_trust_list_verify_crt2(cas, chain, n, &data, 1, 0, &status, NULL);
	if (r < 0)
		return diag_set(d, -EINVAL, "%.300s/%s cannot be checked: %s", c->folder, name,
				gnutls_strerror(r));
	if (!status)
		return 0;
	creds_reason(c, chain[0], status, &wanted, why, sizeof(why));
	return diag_set(d, -EINVAL, "%.300s/%s %s", c->folder, name, why);
}

static int use_pair(struct creds *c, const char *cert_name, const char *key_name,
		    gnutls_x509_crt_t *chain, unsigned int n, gnutls_x509_privkey_t key,
		    struct diag *d)
{
	int r = gnutls_certificate_set_x509_key(c->all, chain, (int)n, key);

	if (r == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
		return diag_set(d, -EINVAL, "%.300s/%s is not the key of %s beside it", c->folder,
				key_name, cert_name);
	if (r < 0)
		return diag_set(d, -EINVAL, "%.300s/%s cannot be used: %s", c->folder, cert_name,
				gnutls_strerror(r));
	return check_own(c, cert_name, chain, n, d);
}

static int load_pair(struct creds *c, struct diag *d)
{
	const char *cert_name = c->server ? "server-cert.pem" : "client-cert.pem";
	const char *key_name = c->server ? "server-key.pem" : "client-key.pem";
	gnutls_x509_privkey_t key = NULL;
	gnutls_x509_crt_t *chain = NULL;
	unsigned int n = 0;
	int err = load_chain(c, cert_name, &chain, &n, d);

	if (!err)
		err = load_key(c, key_name, &key, d);
	if (!err)
		err = use_pair(c, cert_name, key_name, chain, n, key, d);
	if (key)
		gnutls_x509_privkey_deinit(key);
	for (unsigned int i = 0; i < n; i++)
		gnutls_x509_crt_deinit(chain[i]);
	gnutls_free(chain);
	return err;
}

int creds_load(struct creds *c, const char *folder, bool server, struct diag *d)
{
	int err;

	*c = (struct creds){ .folder = folder, .server = server };
	if (gnutls_certificate_allocate_credentials(&c->all) < 0)
		return diag_set(d, -ENOMEM, "out of memory");
	err = load_ca(c, d);
	if (!err)
		err = load_crl(c, d);
	return err ? err : load_pair(c, d);
}

void creds_free(struct creds *c)
{
	if (c->all)
		gnutls_certificate_free_credentials(c->all);
	c->all = NULL;
}

/* --- whom a certificate is for --------------------------------------------------------------- */

static bool common_name(gnutls_x509_crt_t cert, char *text, size_t size)
{
	return gnutls_x509_crt_get_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, 0, text,
					     &size) >= 0;
}

/* The common name as well: certificates of clients often have no other. */
bool creds_is_for(gnutls_x509_crt_t cert, const char *name)
{
	char cn[NAME_SIZE];

	return gnutls_x509_crt_check_hostname(cert, name) ||
	       (common_name(cert, cn, sizeof(cn)) && !strcmp(cn, name));
}

/* One of the names; false: that was the last. What cannot be shown is left out. */
static bool alternative_name(gnutls_x509_crt_t cert, unsigned int i, char *text, size_t size)
{
	char raw[NAME_SIZE];
	size_t len = sizeof(raw) - 1;
	int type = gnutls_x509_crt_get_subject_alt_name(cert, i, raw, &len, NULL);

	text[0] = '\0';
	if (type == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
		return false;
	if (type == GNUTLS_SAN_DNSNAME) {
		raw[len] = '\0';
		snprintf(text, size, "%s", raw);
	} else if (type == GNUTLS_SAN_IPADDRESS && (len == 4 || len == 16)) {
		inet_ntop(len == 4 ? AF_INET : AF_INET6, raw, text, (socklen_t)size);
	}
	return true;
}

void creds_names(gnutls_x509_crt_t cert, char *text, size_t size)
{
	char name[NAME_SIZE];
	size_t used = 0;

	text[0] = '\0';
	for (unsigned int i = 0; i < 8 && alternative_name(cert, i, name, sizeof(name)); i++)
		if (name[0] && used < size)
			used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "",
						 name);
	if (!used && common_name(cert, name, sizeof(name)))
		snprintf(text, size, "%s", name);
	for (char *c = text; *c; c++) /* a peer wrote it, and a terminal may show it */
		if (!isprint((unsigned char)*c))
			*c = '?';
	if (!text[0])
		snprintf(text, size, "nobody");
}

/* --- what is wrong with it ------------------------------------------------------------------- */

static const char *date(time_t t, char buf[static 32])
{
	struct tm tm;

	if (!gmtime_r(&t, &tm) || !strftime(buf, 32, "%Y-%m-%d %H:%M UTC", &tm))
		return "a day that is none";
	return buf;
}

static void outdated(gnutls_x509_crt_t cert, bool expired, char *text, size_t size)
{
	time_t now = time(NULL), from = gnutls_x509_crt_get_activation_time(cert),
	       to = gnutls_x509_crt_get_expiration_time(cert);
	char day[32];

	if (expired && to < now)
		snprintf(text, size, "has expired on %s", date(to, day));
	else if (!expired && from > now)
		snprintf(text, size, "is not valid before %s", date(from, day));
	else
		snprintf(text, size, "is signed by a CA whose own certificate %s",
			 expired ? "has expired" : "is not valid yet");
}

gnutls_alert_description_t creds_reason(const struct creds *c, gnutls_x509_crt_t cert,
					unsigned int status, const struct creds_wanted *wanted,
					char *text, size_t size)
{
	gnutls_datum_t words = { 0 };
	char names[128];

	if (status & (GNUTLS_CERT_SIGNER_NOT_FOUND | GNUTLS_CERT_SIGNER_NOT_CA)) {
		snprintf(text, size, "is not signed by the CA in %.200s/ca-cert.pem", c->folder);
		return GNUTLS_A_UNKNOWN_CA;
	}
	if (status & GNUTLS_CERT_REVOKED) {
		snprintf(text, size, "is revoked by %.200s/ca-crl.pem", c->folder);
		return GNUTLS_A_CERTIFICATE_REVOKED;
	}
	if (status & (GNUTLS_CERT_EXPIRED | GNUTLS_CERT_NOT_ACTIVATED)) {
		outdated(cert, status & GNUTLS_CERT_EXPIRED, text, size);
		return GNUTLS_A_CERTIFICATE_EXPIRED;
	}
	if (status & GNUTLS_CERT_PURPOSE_MISMATCH) {
		snprintf(text, size, "is not for a %s (its key purposes have no tls_www_%s)",
			 wanted->server ? "server" : "client",
			 wanted->server ? "server" : "client");
		return GNUTLS_A_UNSUPPORTED_CERTIFICATE;
	}
	if (status & GNUTLS_CERT_UNEXPECTED_OWNER) {
		creds_names(cert, names, sizeof(names));
		snprintf(text, size, "is for %s, not for %.100s", names,
			 wanted->name ? wanted->name : "this");
		return GNUTLS_A_BAD_CERTIFICATE;
	}
	gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &words, 0);
	snprintf(text, size, "is refused: %.200s", words.data ? (char *)words.data : "no reason");
	gnutls_free(words.data);
	return GNUTLS_A_BAD_CERTIFICATE;
}
