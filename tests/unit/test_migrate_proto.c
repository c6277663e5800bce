/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_migrate_proto.c - the two transition tables: every message in every state, that the tables
 * are each other's mirror, and what they promise about who has the guest; and the messages' bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "proto.h"

static const struct proto_table *const tables[] = { &proto_source, &proto_target };

/* What is not a row is refused; what is one is one only. */
static void test_every_message_in_every_state(void **state)
{
	unsigned int allowed = 0;

	(void)state;
	for (unsigned int t = 0; t < 2; t++)
		for (unsigned int s = 0; s < PROTO_STATES; s++)
			for (unsigned int dir = 0; dir < 2; dir++)
				for (unsigned int msg = 0; msg < MSG_COUNT + 3u; msg++) {
					int next = proto_next(tables[t], s, dir, msg), want = -1;
					unsigned int rows = 0;

					for (unsigned int i = 0; i < tables[t]->n; i++) {
						const struct proto_rule *r = &tables[t]->rules[i];

						if (r->in != s || r->dir != dir || r->msg != msg)
							continue;
						want = (int)r->next;
						rows++;
					}
					assert_int_equal(next, want);
					assert_in_range(rows, 0, 1);
					allowed += rows;
					if (!msg || msg >= MSG_COUNT || s >= PROTO_DONE)
						assert_int_equal(next, -1);
				}
	assert_int_equal(allowed, proto_source.n + proto_target.n);
}

/* Each message has one sender. */
static void test_messages_have_a_direction(void **state)
{
	(void)state;
	for (unsigned int msg = 1; msg < MSG_COUNT; msg++) {
		unsigned int from[2][2] = { { 0 } };

		for (unsigned int t = 0; t < 2; t++)
			for (unsigned int i = 0; i < tables[t]->n; i++)
				if (tables[t]->rules[i].msg == msg)
					from[t][tables[t]->rules[i].dir]++;
		/* Either the source sends and the target receives, or the other way round. */
		assert_true(!from[0][PROTO_SEND] != !from[0][PROTO_RECV]);
		assert_true(!from[1][PROTO_SEND] != !from[1][PROTO_RECV]);
		assert_true(!from[0][PROTO_SEND] == !from[1][PROTO_RECV]);
		assert_true(proto_cap((uint16_t)msg) >= 8);
		assert_true(proto_cap((uint16_t)msg) <= STREAM_PAYLOAD_MAX);
	}
	assert_int_equal(proto_cap(MSG_NONE), 0);
	assert_int_equal(proto_cap(MSG_COUNT), 0);
}

/*
 * Walks both tables together, with messages of each side under way to the other: whatever the
 * order, nobody receives what it must refuse, and the guest runs in one place at the most.
 */
#define QUEUE 2 /* messages under way in each direction; enough for any order of two */

struct pair {
	uint8_t source, target;
	uint8_t to_target[QUEUE], to_source[QUEUE];
};

static uint8_t seen[PROTO_STATES][PROTO_STATES][MSG_COUNT + 1][MSG_COUNT + 1][MSG_COUNT + 1]
		   [MSG_COUNT + 1];
static unsigned int npairs;

static bool source_has_guest(unsigned int s)
{
	return s != PROTO_COMMITTED && s != PROTO_DONE;
}

static bool target_has_guest(unsigned int s)
{
	return s == PROTO_DONE;
}

/* ABORT and ABORTED cross each other: who is over hears nothing any more. */
static void walk(struct pair p)
{
	uint8_t *was = &seen[p.source][p.target][p.to_target[0]][p.to_target[1]][p.to_source[0]]
			    [p.to_source[1]];

	if (*was)
		return;
	*was = 1;
	npairs++;
	assert_false(source_has_guest(p.source) && target_has_guest(p.target));
	for (unsigned int i = 0; i < proto_source.n; i++) {
		const struct proto_rule *r = &proto_source.rules[i];
		struct pair q = p;

		if (r->in != p.source || r->dir != PROTO_SEND || p.to_target[QUEUE - 1])
			continue;
		q.source = (uint8_t)r->next;
		q.to_target[p.to_target[0] ? 1 : 0] = (uint8_t)r->msg;
		walk(q);
	}
	for (unsigned int i = 0; i < proto_target.n; i++) {
		const struct proto_rule *r = &proto_target.rules[i];
		struct pair q = p;

		if (r->in != p.target || r->dir != PROTO_SEND || p.to_source[QUEUE - 1])
			continue;
		/* An answer is sent after what it answers: a pong that nobody asked for is not. */
		q.target = (uint8_t)r->next;
		q.to_source[p.to_source[0] ? 1 : 0] = (uint8_t)r->msg;
		if (r->msg == MSG_PONG)
			continue;
		walk(q);
	}
	if (p.to_target[0] && p.target != PROTO_OVER) {
		int next = proto_next(&proto_target, p.target, PROTO_RECV, p.to_target[0]);
		struct pair q = p;

		if (next < 0)
			fail_msg("target refuses %s in state %s", proto_msg_name(p.to_target[0]),
				 proto_state_name(p.target));
		q.target = (uint8_t)next;
		q.to_target[0] = p.to_target[1];
		q.to_target[1] = 0;
		walk(q);
	}
	if (p.to_source[0] && p.source != PROTO_OVER) {
		int next = proto_next(&proto_source, p.source, PROTO_RECV, p.to_source[0]);
		struct pair q = p;

		if (next < 0)
			fail_msg("source refuses %s in state %s", proto_msg_name(p.to_source[0]),
				 proto_state_name(p.source));
		q.source = (uint8_t)next;
		q.to_source[0] = p.to_source[1];
		q.to_source[1] = 0;
		walk(q);
	}
}

static void test_no_order_confuses_them(void **state)
{
	struct pair start = { PROTO_START, PROTO_START, { 0 }, { 0 } };

	(void)state;
	walk(start);
	assert_true(npairs > 100);
	/* The normal end was among them. */
	assert_true(seen[PROTO_DONE][PROTO_DONE][0][0][0][0]);
}

/* Until COMMIT is sent the source can always take the guest back by itself; never after. */
static void test_the_source_can_give_up(void **state)
{
	(void)state;
	for (unsigned int s = PROTO_HELLO; s <= PROTO_READY; s++)
		assert_int_equal(proto_next(&proto_source, s, PROTO_SEND, MSG_ABORT), PROTO_OVER);
	assert_int_equal(proto_next(&proto_source, PROTO_COMMITTED, PROTO_SEND, MSG_ABORT), -1);
	for (unsigned int s = PROTO_HELLO; s <= PROTO_COMMITTED; s++)
		assert_int_equal(proto_next(&proto_target, s, PROTO_SEND, MSG_ABORTED), PROTO_OVER);
	/* The guest starts after COMMIT only. */
	for (unsigned int i = 0; i < proto_target.n; i++)
		if (proto_target.rules[i].next == PROTO_DONE)
			assert_int_equal(proto_target.rules[i].in, PROTO_COMMITTED);
}

/* --- bytes ----------------------------------------------------------------------------------- */

static struct section section(uint16_t type, const uint8_t *p, size_t len)
{
	return (struct section){ .type = type, .len = (uint32_t)len, .payload = p };
}

static void test_hello(void **state)
{
	struct proto_hello h = { .oldest = 1,
				 .newest = 2,
				 .flags = PROTO_HELLO_FILE,
				 .ram_size = 0x123456789000,
				 .description = "abc",
				 .description_len = 3 },
			   g;
	static const uint8_t bytes[] = { 'u',  'n',  'v',  'm',	 'm', 'M', 'I', 'G',  1,
					 0,    2,    0,	   1,	 0,   0,   0,	0x00, 0x90,
					 0x78, 0x56, 0x34, 0x12, 0,   0,   'a', 'b',  'c' };
	uint8_t p[64];
	size_t len = proto_put_hello(p, &h);
	struct section s = section(MSG_HELLO, p, len);
	struct diag d = { 0 };

	(void)state;
	assert_int_equal(len, sizeof(bytes));
	assert_memory_equal(p, bytes, len);
	assert_int_equal(proto_get_hello(&s, &g, &d), 0);
	assert_true(g.oldest == 1 && g.newest == 2 && g.ram_size == h.ram_size &&
		    g.description_len == 3 && !memcmp(g.description, "abc", 3));
	for (uint32_t cut = 0; cut <= PROTO_HELLO_FIXED; cut++) {
		s.len = cut;
		assert_int_equal(proto_get_hello(&s, &g, &d), -EPROTO);
	}
	s.len = (uint32_t)len;
	p[0] ^= 1;
	assert_int_equal(proto_get_hello(&s, &g, &d), -EPROTO);
	p[0] ^= 1;
	p[13] = 1; /* an unknown flag */
	assert_int_equal(proto_get_hello(&s, &g, &d), -EPROTO);
	p[13] = 0;
	put_le16(p + 8, 3); /* oldest above newest */
	assert_int_equal(proto_get_hello(&s, &g, &d), -EPROTO);
}

static void test_versions(void **state)
{
	struct diag d = { 0 };
	struct proto_hello h = { .oldest = PROTO_NEWEST, .newest = PROTO_NEWEST };

	(void)state;
	assert_int_equal(proto_choose(&h, &d), PROTO_NEWEST);
	h.newest = PROTO_NEWEST + 1; /* the release after ours speaks ours, too */
	assert_int_equal(proto_choose(&h, &d), PROTO_NEWEST);
	h.oldest = PROTO_NEWEST + 1; /* the one after that does not */
	h.newest = PROTO_NEWEST + 2;
	assert_int_equal(proto_choose(&h, &d), -EPROTO);
	assert_non_null(strstr(d.text, "closer to each other"));
}

static void test_state_parts(void **state)
{
	struct proto_state_part part = { .id = "cpu0", .blob = "blob", .len = 4 }, got;
	struct diag d = { 0 };
	uint8_t p[64];
	struct section s;
	size_t len;

	(void)state;
	assert_int_equal(proto_put_state(p, &part, &len), 0);
	assert_int_equal(len, PROTO_ID_MAX + 4);
	s = section(MSG_STATE, p, len);
	assert_int_equal(proto_get_state(&s, &got, &d), 0);
	assert_string_equal(got.id, "cpu0");
	assert_true(got.len == 4 && !memcmp(got.blob, "blob", 4));
	s.len = PROTO_ID_MAX;
	assert_int_equal(proto_get_state(&s, &got, &d), -EPROTO);
	s.len = (uint32_t)len;
	p[10] = 'x'; /* behind the end of the name */
	assert_int_equal(proto_get_state(&s, &got, &d), -EPROTO);
	memset(p, 'a', PROTO_ID_MAX); /* no end at all */
	assert_int_equal(proto_get_state(&s, &got, &d), -EPROTO);
	memset(p, 0, PROTO_ID_MAX);
	assert_int_equal(proto_get_state(&s, &got, &d), -EPROTO);
	memcpy(p, "a/b", 3);
	assert_int_equal(proto_get_state(&s, &got, &d), -EPROTO);
	part.len = STREAM_PAYLOAD_MAX;
	assert_int_equal(proto_put_state(p, &part, &len), -E2BIG);
}

static void test_small_messages(void **state)
{
	struct proto_state_end e = { PROTO_END_PAUSED | PROTO_END_HASH, 7, 0x1122334455667788 }, f;
	struct diag d = { 0 };
	uint8_t p[PROTO_REASON_MAX + 8];
	char text[PROTO_REASON_MAX + 1];
	uint16_t version;
	uint64_t n, arm;
	struct section s = section(MSG_STATE_END, p, proto_put_state_end(p, &e));

	(void)state;
	assert_int_equal(proto_get_state_end(&s, &f, &d), 0);
	assert_true(f.flags == e.flags && f.parts == 7 && f.ram_hash == e.ram_hash);
	p[1] = 1;
	assert_int_equal(proto_get_state_end(&s, &f, &d), -EPROTO);
	s.len = 15;
	assert_int_equal(proto_get_state_end(&s, &f, &d), -EPROTO);

	s = section(MSG_ACCEPT, p, proto_put_accept(p, PROTO_NEWEST));
	assert_int_equal(proto_get_accept(&s, &version, &d), 0);
	assert_int_equal(version, PROTO_NEWEST);
	s = section(MSG_ACCEPT, p, proto_put_accept(p, PROTO_NEWEST + 1));
	assert_int_equal(proto_get_accept(&s, &version, &d), -EPROTO);

	s = section(MSG_PING, p, proto_put_number(p, 0x0102030405060708));
	assert_int_equal(p[0], 8);
	assert_int_equal(proto_get_number(&s, &n, &d), 0);
	assert_true(n == 0x0102030405060708);
	s.len = 7;
	assert_int_equal(proto_get_number(&s, &n, &d), -EPROTO);

	s = section(MSG_READY, p, proto_put_ready(p, 5, 0x0102030405060708));
	assert_int_equal(p[8], 8);
	assert_int_equal(proto_get_ready(&s, &n, &arm, &d), 0);
	assert_true(n == 5 && arm == 0x0102030405060708);
	s.len = 8;
	assert_int_equal(proto_get_ready(&s, &n, &arm, &d), -EPROTO);

	s = section(MSG_REFUSE, p, proto_put_reason(p, "no\033[2J disk\n"));
	proto_get_reason(&s, text, sizeof(text));
	assert_string_equal(text, "no?[2J disk?");
	memset(p, 'y', sizeof(p));
	s.len = PROTO_REASON_MAX;
	proto_get_reason(&s, text, sizeof(text));
	assert_int_equal(strlen(text), PROTO_REASON_MAX);
	for (unsigned int m = 0; m < MSG_COUNT + 2u; m++)
		assert_non_null(proto_msg_name(m));
	for (unsigned int i = 0; i < PROTO_STATES + 1u; i++)
		assert_non_null(proto_state_name(i));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_message_in_every_state),
		cmocka_unit_test(test_messages_have_a_direction),
		cmocka_unit_test(test_no_order_confuses_them),
		cmocka_unit_test(test_the_source_can_give_up),
		cmocka_unit_test(test_hello),
		cmocka_unit_test(test_versions),
		cmocka_unit_test(test_state_parts),
		cmocka_unit_test(test_small_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
