/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proto.c - the order of a migration as two tables, and its messages as bytes. Any thread.
 *
 * The source's guest goes on by itself from every state before COMMITTED; the target's starts in no
 * other. Between the two nobody knows, until RUNNING or ABORTED comes.
 */
#include "proto.h"

#include <unvmm/state_io.h>

#include "ram.h"

#include <errno.h>
#include <string.h>

static const struct proto_rule source_rules[] = {
	{ PROTO_START, PROTO_SEND, MSG_HELLO, PROTO_HELLO },
	{ PROTO_START, PROTO_RECV, MSG_ABORTED, PROTO_OVER },

	{ PROTO_HELLO, PROTO_RECV, MSG_ACCEPT, PROTO_RAM },
	{ PROTO_HELLO, PROTO_RECV, MSG_REFUSE, PROTO_OVER },
	{ PROTO_HELLO, PROTO_RECV, MSG_ABORTED, PROTO_OVER },
	{ PROTO_HELLO, PROTO_SEND, MSG_ABORT, PROTO_OVER },

	{ PROTO_RAM, PROTO_SEND, MSG_RAM, PROTO_RAM },
	{ PROTO_RAM, PROTO_SEND, MSG_PING, PROTO_RAM },
	{ PROTO_RAM, PROTO_RECV, MSG_PONG, PROTO_RAM },
	{ PROTO_RAM, PROTO_RECV, MSG_PREPARED, PROTO_PREPARED },
	{ PROTO_RAM, PROTO_RECV, MSG_ABORTED, PROTO_OVER },
	{ PROTO_RAM, PROTO_SEND, MSG_ABORT, PROTO_OVER },

	{ PROTO_PREPARED, PROTO_SEND, MSG_RAM, PROTO_PREPARED },
	{ PROTO_PREPARED, PROTO_SEND, MSG_PING, PROTO_PREPARED },
	{ PROTO_PREPARED, PROTO_RECV, MSG_PONG, PROTO_PREPARED },
	{ PROTO_PREPARED, PROTO_SEND, MSG_STATE, PROTO_STATE },
	{ PROTO_PREPARED, PROTO_RECV, MSG_ABORTED, PROTO_OVER },
	{ PROTO_PREPARED, PROTO_SEND, MSG_ABORT, PROTO_OVER },

	{ PROTO_STATE, PROTO_SEND, MSG_STATE, PROTO_STATE },
	{ PROTO_STATE, PROTO_SEND, MSG_OPAQUE, PROTO_STATE },
	{ PROTO_STATE, PROTO_SEND, MSG_RAM, PROTO_STATE },
	{ PROTO_STATE, PROTO_SEND, MSG_STATE_END, PROTO_LOADING },
	{ PROTO_STATE, PROTO_RECV, MSG_ABORTED, PROTO_OVER },
	{ PROTO_STATE, PROTO_SEND, MSG_ABORT, PROTO_OVER },

	{ PROTO_LOADING, PROTO_RECV, MSG_READY, PROTO_READY },
	{ PROTO_LOADING, PROTO_RECV, MSG_ABORTED, PROTO_OVER },
	{ PROTO_LOADING, PROTO_SEND, MSG_ABORT, PROTO_OVER },

	{ PROTO_READY, PROTO_SEND, MSG_COMMIT, PROTO_COMMITTED },
	{ PROTO_READY, PROTO_RECV, MSG_ABORTED, PROTO_OVER },
	{ PROTO_READY, PROTO_SEND, MSG_ABORT, PROTO_OVER },

	{ PROTO_COMMITTED, PROTO_RECV, MSG_RUNNING, PROTO_DONE },
	{ PROTO_COMMITTED, PROTO_RECV, MSG_ABORTED, PROTO_OVER },
};

static const struct proto_rule target_rules[] = {
	{ PROTO_START, PROTO_RECV, MSG_HELLO, PROTO_HELLO },
	{ PROTO_START, PROTO_SEND, MSG_ABORTED, PROTO_OVER },

	{ PROTO_HELLO, PROTO_SEND, MSG_ACCEPT, PROTO_RAM },
	{ PROTO_HELLO, PROTO_SEND, MSG_REFUSE, PROTO_OVER },
	{ PROTO_HELLO, PROTO_RECV, MSG_ABORT, PROTO_OVER },
	{ PROTO_HELLO, PROTO_SEND, MSG_ABORTED, PROTO_OVER },

	{ PROTO_RAM, PROTO_RECV, MSG_RAM, PROTO_RAM },
	{ PROTO_RAM, PROTO_RECV, MSG_PING, PROTO_RAM },
	{ PROTO_RAM, PROTO_SEND, MSG_PONG, PROTO_RAM },
	{ PROTO_RAM, PROTO_SEND, MSG_PREPARED, PROTO_PREPARED },
	{ PROTO_RAM, PROTO_RECV, MSG_ABORT, PROTO_OVER },
	{ PROTO_RAM, PROTO_SEND, MSG_ABORTED, PROTO_OVER },

	{ PROTO_PREPARED, PROTO_RECV, MSG_RAM, PROTO_PREPARED },
	{ PROTO_PREPARED, PROTO_RECV, MSG_PING, PROTO_PREPARED },
	{ PROTO_PREPARED, PROTO_SEND, MSG_PONG, PROTO_PREPARED },
	{ PROTO_PREPARED, PROTO_RECV, MSG_STATE, PROTO_STATE },
	{ PROTO_PREPARED, PROTO_RECV, MSG_ABORT, PROTO_OVER },
	{ PROTO_PREPARED, PROTO_SEND, MSG_ABORTED, PROTO_OVER },

	{ PROTO_STATE, PROTO_RECV, MSG_STATE, PROTO_STATE },
	{ PROTO_STATE, PROTO_RECV, MSG_OPAQUE, PROTO_STATE },
	{ PROTO_STATE, PROTO_RECV, MSG_RAM, PROTO_STATE },
	{ PROTO_STATE, PROTO_RECV, MSG_STATE_END, PROTO_LOADING },
	{ PROTO_STATE, PROTO_RECV, MSG_ABORT, PROTO_OVER },
	{ PROTO_STATE, PROTO_SEND, MSG_ABORTED, PROTO_OVER },

	{ PROTO_LOADING, PROTO_SEND, MSG_READY, PROTO_READY },
	{ PROTO_LOADING, PROTO_RECV, MSG_ABORT, PROTO_OVER },
	{ PROTO_LOADING, PROTO_SEND, MSG_ABORTED, PROTO_OVER },

	{ PROTO_READY, PROTO_RECV, MSG_COMMIT, PROTO_COMMITTED },
	{ PROTO_READY, PROTO_RECV, MSG_ABORT, PROTO_OVER },
	{ PROTO_READY, PROTO_SEND, MSG_ABORTED, PROTO_OVER },

	{ PROTO_COMMITTED, PROTO_SEND, MSG_RUNNING, PROTO_DONE },
	{ PROTO_COMMITTED, PROTO_SEND, MSG_ABORTED, PROTO_OVER },
};

const struct proto_table proto_source = { "source", source_rules, ARRAY_SIZE(source_rules) };
const struct proto_table proto_target = { "target", target_rules, ARRAY_SIZE(target_rules) };

int proto_next(const struct proto_table *t, enum proto_state in, enum proto_dir dir,
	       unsigned int msg)
{
	for (unsigned int i = 0; i < t->n; i++) {
		const struct proto_rule *r = &t->rules[i];

		if (r->in == in && r->dir == dir && r->msg == msg)
			return (int)r->next;
	}
	return -1;
}

/* Name and longest payload. */
static const struct {
	const char *name;
	uint32_t cap;
} messages[MSG_COUNT] = {
	[MSG_HELLO] = { "HELLO", PROTO_HELLO_FIXED + (uint32_t)STATE_BLOB_MAX },
	[MSG_ACCEPT] = { "ACCEPT", 8 },
	[MSG_REFUSE] = { "REFUSE", PROTO_REASON_MAX },
	[MSG_RAM] = { "RAM", RAM_SECTION_MAX },
	[MSG_PREPARED] = { "PREPARED", 8 },
	[MSG_PING] = { "PING", 8 },
	[MSG_PONG] = { "PONG", 8 },
	[MSG_STATE] = { "STATE", PROTO_ID_MAX + (uint32_t)STATE_BLOB_MAX },
	[MSG_STATE_END] = { "STATE_END", 16 },
	[MSG_READY] = { "READY", 16 },
	[MSG_COMMIT] = { "COMMIT", 8 },
	[MSG_RUNNING] = { "RUNNING", 8 },
	[MSG_ABORT] = { "ABORT", PROTO_REASON_MAX },
	[MSG_ABORTED] = { "ABORTED", PROTO_REASON_MAX },
	[MSG_OPAQUE] = { "OPAQUE", PROTO_ID_MAX + (uint32_t)STATE_BLOB_MAX },
};

const char *proto_msg_name(unsigned int msg)
{
	return msg < MSG_COUNT && messages[msg].name ? messages[msg].name : "a message of no kind";
}

const char *proto_state_name(unsigned int state)
{
	static const char *const names[PROTO_STATES] = {
		[PROTO_START] = "start", [PROTO_HELLO] = "hello",
		[PROTO_RAM] = "ram",	 [PROTO_PREPARED] = "prepared",
		[PROTO_STATE] = "state", [PROTO_LOADING] = "loading",
		[PROTO_READY] = "ready", [PROTO_COMMITTED] = "committed",
		[PROTO_DONE] = "done",	 [PROTO_OVER] = "over",
	};

	return state < PROTO_STATES ? names[state] : "?";
}

uint32_t proto_cap(uint16_t msg)
{
	return msg < MSG_COUNT ? messages[msg].cap : 0;
}

static int wrong_size(const struct section *s, struct diag *d)
{
	return diag_set(d, -EPROTO, "%s has %u bytes", proto_msg_name(s->type), s->len);
}

/* --- HELLO, ACCEPT ---------------------------------------------------------------------------- */

size_t proto_put_hello(uint8_t *p, const struct proto_hello *h)
{
	memcpy(p, PROTO_MAGIC, 8);
	put_le16(p + 8, h->oldest);
	put_le16(p + 10, h->newest);
	put_le32(p + 12, h->flags);
	put_le64(p + 16, h->ram_size);
	memcpy(p + PROTO_HELLO_FIXED, h->description, h->description_len);
	return PROTO_HELLO_FIXED + h->description_len;
}

int proto_get_hello(const struct section *s, struct proto_hello *h, struct diag *d)
{
	const uint8_t *p = s->payload;

	if (s->len <= PROTO_HELLO_FIXED || memcmp(p, PROTO_MAGIC, 8))
		return diag_set(d, -EPROTO, "HELLO is not that of an unvmm migration");
	*h = (struct proto_hello){ .oldest = get_le16(p + 8),
				   .newest = get_le16(p + 10),
				   .flags = get_le32(p + 12),
				   .ram_size = get_le64(p + 16),
				   .description = p + PROTO_HELLO_FIXED,
				   .description_len = s->len - PROTO_HELLO_FIXED };
	if (h->oldest > h->newest || !h->oldest || h->flags & ~(uint32_t)PROTO_HELLO_FILE)
		return diag_set(d, -EPROTO, "HELLO has versions %u to %u and flags 0x%x", h->oldest,
				h->newest, h->flags);
	return 0;
}

int proto_choose(const struct proto_hello *h, struct diag *d)
{
	uint16_t newest = h->newest < PROTO_NEWEST ? h->newest : PROTO_NEWEST;

	if (newest < h->oldest || newest < PROTO_OLDEST)
		return diag_set(d, -EPROTO,
				"the source speaks versions %u to %u of the migration protocol, "
				"this unvmm %u to %u; use releases that are closer to each other",
				h->oldest, h->newest, PROTO_OLDEST, PROTO_NEWEST);
	return newest;
}

size_t proto_put_accept(uint8_t *p, uint16_t version)
{
	put_le16(p, version);
	memset(p + 2, 0, 6);
	return 8;
}

int proto_get_accept(const struct section *s, uint16_t *version, struct diag *d)
{
	if (s->len != 8)
		return wrong_size(s, d);
	*version = get_le16(s->payload);
	if (*version < PROTO_OLDEST || *version > PROTO_NEWEST)
		return diag_set(d, -EPROTO, "the target chose version %u, which was not offered",
				*version);
	return 0;
}

/* --- state ------------------------------------------------------------------------------------ */

int proto_put_state(uint8_t *p, const struct proto_state_part *part, size_t *len)
{
	if (part->len > STATE_BLOB_MAX || !memchr(part->id, 0, PROTO_ID_MAX))
		return -E2BIG;
	memset(p, 0, PROTO_ID_MAX);
	memcpy(p, part->id, strlen(part->id));
	memcpy(p + PROTO_ID_MAX, part->blob, part->len);
	*len = PROTO_ID_MAX + part->len;
	return 0;
}

/* Letters, digits and '-': what parts are called. */
static bool id_valid(const uint8_t *p)
{
	const uint8_t *end = memchr(p, 0, PROTO_ID_MAX);

	if (!end || end == p)
		return false;
	for (const uint8_t *c = p; c < end; c++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", *c))
			return false;
	for (const uint8_t *c = end; c < p + PROTO_ID_MAX; c++)
		if (*c)
			return false;
	return true;
}

int proto_get_state(const struct section *s, struct proto_state_part *part, struct diag *d)
{
	if (s->len <= PROTO_ID_MAX)
		return wrong_size(s, d);
	if (!id_valid(s->payload))
		return diag_set(d, -EPROTO, "STATE has a part whose name is none");
	memcpy(part->id, s->payload, PROTO_ID_MAX);
	part->blob = s->payload + PROTO_ID_MAX;
	part->len = s->len - PROTO_ID_MAX;
	return 0;
}

size_t proto_put_state_end(uint8_t *p, const struct proto_state_end *e)
{
	put_le32(p, e->flags);
	put_le32(p + 4, e->parts);
	put_le64(p + 8, e->ram_hash);
	return 16;
}

int proto_get_state_end(const struct section *s, struct proto_state_end *e, struct diag *d)
{
	if (s->len != 16)
		return wrong_size(s, d);
	*e = (struct proto_state_end){ .flags = get_le32(s->payload),
				       .parts = get_le32(s->payload + 4),
				       .ram_hash = get_le64(s->payload + 8) };
	if (e->flags & ~(uint32_t)(PROTO_END_PAUSED | PROTO_END_HASH))
		return diag_set(d, -EPROTO, "STATE_END has unknown flags 0x%x", e->flags);
	return 0;
}

/* --- numbers and sentences -------------------------------------------------------------------- */

size_t proto_put_number(uint8_t *p, uint64_t n)
{
	put_le64(p, n);
	return 8;
}

int proto_get_number(const struct section *s, uint64_t *n, struct diag *d)
{
	if (s->len != 8)
		return wrong_size(s, d);
	*n = get_le64(s->payload);
	return 0;
}

size_t proto_put_ready(uint8_t *p, uint64_t load, uint64_t arm)
{
	put_le64(p, load);
	put_le64(p + 8, arm);
	return 16;
}

int proto_get_ready(const struct section *s, uint64_t *load, uint64_t *arm, struct diag *d)
{
	if (s->len != 16)
		return wrong_size(s, d);
	*load = get_le64(s->payload);
	*arm = get_le64(s->payload + 8);
	return 0;
}

size_t proto_put_reason(uint8_t *p, const char *text)
{
	size_t len = strnlen(text, PROTO_REASON_MAX);

	memcpy(p, text, len);
	return len;
}

void proto_get_reason(const struct section *s, char *text, size_t size)
{
	size_t len = s->len < size - 1 ? s->len : size - 1;

	for (size_t i = 0; i < len; i++)
		text[i] = s->payload[i] >= ' ' && s->payload[i] < 0x7f ? (char)s->payload[i] : '?';
	text[len] = 0;
}
