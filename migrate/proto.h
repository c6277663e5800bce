/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proto.h - the messages of a migration and in which order they may come. Both sides look every
 * message up, sent or received, in a table of their own; one that is not there ends the migration.
 * (migrate/FORMAT.md, section 2)
 *
 * Thread: any; no state but the caller's.
 */
#ifndef UNVMM_MIGRATE_PROTO_H
#define UNVMM_MIGRATE_PROTO_H

#include "stream.h"

/* The versions that this side speaks. A new one speaks the one before, too. */
#define PROTO_OLDEST 1
#define PROTO_NEWEST 1

enum proto_msg {
	MSG_NONE,
	MSG_HELLO,     /* > versions, flags, size of RAM, description of the machine */
	MSG_ACCEPT,    /* < the version to be spoken */
	MSG_REFUSE,    /* < why not */
	MSG_RAM,       /* > pages */
	MSG_PREPARED,  /* < all that takes time is done; the guest may be stopped */
	MSG_PING,      /* > are you there? */
	MSG_PONG,      /* < yes */
	MSG_STATE,     /* > one part of the machine */
	MSG_STATE_END, /* > that was all of it, RAM included */
	MSG_READY,     /* < all is loaded; nothing can fail any more */
	MSG_COMMIT,    /* > the guest is yours */
	MSG_RUNNING,   /* < it runs */
	MSG_ABORT,     /* > it goes on at the source */
	MSG_ABORTED,   /* < it never ran here and never will; why */
	MSG_OPAQUE,    /* > bytes of a device's that only its like understands */
	MSG_COUNT,
};

enum proto_state {
	PROTO_START,
	PROTO_HELLO,	/* HELLO, not answered */
	PROTO_RAM,	/* accepted */
	PROTO_PREPARED, /* ... and prepared */
	PROTO_STATE,	/* the first part of the state has gone */
	PROTO_LOADING,	/* STATE_END, not answered */
	PROTO_READY,	/* the last moment at which the source may take the guest back */
	PROTO_COMMITTED,
	PROTO_DONE,
	PROTO_OVER, /* given up */
	PROTO_STATES,
};

enum proto_dir { PROTO_SEND, PROTO_RECV };

struct proto_rule {
	enum proto_state in;
	enum proto_dir dir;
	enum proto_msg msg;
	enum proto_state next;
};

struct proto_table {
	const char *name; /* "source" */
	const struct proto_rule *rules;
	unsigned int n;
};

extern const struct proto_table proto_source, proto_target;

/* The state after it, or -1: not allowed. */
int proto_next(const struct proto_table *t, enum proto_state in, enum proto_dir dir,
	       unsigned int msg) must_check;

const char *proto_msg_name(unsigned int msg);
const char *proto_state_name(unsigned int state);
/* Longest payload of a message; 0 for a number that is none. For stream.cap. */
uint32_t proto_cap(uint16_t msg);

/* --- payloads: encode returns the length; decode -EPROTO with a sentence ---------------------- */

#define PROTO_MAGIC "unvmmMIG"

enum { PROTO_HELLO_FILE = 1 }; /* nobody answers: this is a file */

struct proto_hello {
	uint16_t oldest, newest;
	uint32_t flags;
	uint64_t ram_size;
	const void *description; /* into the payload, not aligned */
	size_t description_len;
};

#define PROTO_HELLO_FIXED 24u

size_t proto_put_hello(uint8_t *p, const struct proto_hello *h);
int proto_get_hello(const struct section *s, struct proto_hello *h, struct diag *d) must_check;
/* The newest version that both speak; -EPROTO with a sentence. */
int proto_choose(const struct proto_hello *h, struct diag *d) must_check;

size_t proto_put_accept(uint8_t *p, uint16_t version);
int proto_get_accept(const struct section *s, uint16_t *version, struct diag *d) must_check;

#define PROTO_ID_MAX 32u /* with the NUL */

/* Of STATE, and of OPAQUE. */
struct proto_state_part {
	char id[PROTO_ID_MAX];
	const void *blob; /* decode: into the payload, aligned to 8 */
	size_t len;
};

/* -E2BIG if id or blob are too long. */
int proto_put_state(uint8_t *p, const struct proto_state_part *part, size_t *len) must_check;
int proto_get_state(const struct section *s, struct proto_state_part *part,
		    struct diag *d) must_check;

enum {
	PROTO_END_PAUSED = 1, /* the operator had stopped the guest: it stays so */
	PROTO_END_HASH = 2,   /* ram_hash is there to be compared */
};

struct proto_state_end {
	uint32_t flags;
	uint32_t parts;
	uint64_t ram_hash;
};

size_t proto_put_state_end(uint8_t *p, const struct proto_state_end *e);
int proto_get_state_end(const struct section *s, struct proto_state_end *e,
			struct diag *d) must_check;

/* PING, PONG: a number that comes back. RUNNING: nanoseconds that it took. */
size_t proto_put_number(uint8_t *p, uint64_t n);
int proto_get_number(const struct section *s, uint64_t *n, struct diag *d) must_check;

/* READY: nanoseconds that loading the state took, and after that starting functions. */
size_t proto_put_ready(uint8_t *p, uint64_t load, uint64_t arm);
int proto_get_ready(const struct section *s, uint64_t *load, uint64_t *arm,
		    struct diag *d) must_check;

/* REFUSE, ABORT, ABORTED: one sentence. What cannot be printed becomes '?'. */
#define PROTO_REASON_MAX 500u
size_t proto_put_reason(uint8_t *p, const char *text);
void proto_get_reason(const struct section *s, char *text, size_t size);

#endif
