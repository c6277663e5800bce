/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_unvf_options.c - the command line of unvf: groups, values, and a sentence for each mistake.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "options.h"

static int parse(struct unvf_options *o, const char *line, struct diag *d)
{
	static char text[512]; /* the options keep pointers into it */
	char *argv[32] = { "unvf" }, *save = NULL;
	int argc = 1;

	strcpy(text, line);
	for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save))
		argv[argc++] = w;
	*d = (struct diag){ 0 };
	return options_parse(o, argc, argv, d);
}

static void test_groups(void **state)
{
	struct unvf_options o;
	struct diag d;

	(void)state;
	assert_int_equal(
		parse(&o,
		      "--verbose --socket a --type blk --image f --queues 4 --state --fault "
		      "slow-disable@9 --queue-size 64 --socket b --type net --loopback "
		      "--doorbell ioeventfd --page-per-vq --queue-size 128",
		      &d),
		0);
	assert_true(o.verbose);
	assert_int_equal(o.ngroups, 2);
	assert_string_equal(o.groups[0].socket, "a");
	assert_string_equal(o.groups[0].cls->id, "blk");
	assert_true(o.groups[0].fn.state && !o.groups[1].fn.state);
	assert_int_equal(o.groups[0].fn.faults.n[FAULT_SLOW_DISABLE], 9);
	assert_int_equal(o.groups[0].fn.doorbell, FN_DOORBELL_MMAP);
	assert_string_equal(o.groups[1].cls->id, "net");
	assert_int_equal(o.groups[1].fn.doorbell, FN_DOORBELL_IOEVENTFD);
	assert_true(o.groups[1].fn.page_per_vq);
	assert_int_equal(o.groups[1].fn.queue_size, 128);
	options_free(&o);
	assert_int_equal(parse(&o, "--help", &d), 0);
	assert_true(o.help);
	options_free(&o);
}

static void test_mistakes(void **state)
{
	static const char *const lines[][2] = {
		{ "", "nothing to do" },
		{ "--nonsense", "--nonsense: there is no such option" },
		{ "--socket", "--socket: needs a value" },
		{ "--type blk", "comes before --socket" },
		{ "--socket a", "needs --type blk or --type net" },
		{ "--socket a --image f", "--image: comes before --type" },
		{ "--socket a --type rng", "must be blk or net" },
		{ "--socket a --type blk --type net", "has a type already" },
		{ "--socket a --type blk", "needs --image FILE" },
		{ "--socket a --type net", "needs --tap NAME or --loopback" },
		{ "--socket a --type net --loopback --tap t", "has several of" },
		{ "--socket a --type net --loopback --image f", "not for a function of this type" },
		{ "--socket a --type net --loopback --mac 1", "--mac" },
		{ "--socket a --type net --loopback --queue-size 512", "has at most 256" },
		{ "--socket a --type blk --image f --queues 17", "must be from 1 to 16" },
		{ "--socket a --type blk --image f --queues x", "is not a number" },
		{ "--socket a --type blk --image f --queue-size 48", "must be a power of two" },
		{ "--socket a --type blk --image f --queue-size", "needs a value" },
		{ "--socket a --type blk --image f --serial 123456789012345678901", "is longer" },
		{ "--socket a --type blk --image f --doorbell bell", "must be mmap, ioeventfd" },
		{ "--socket a --type blk --image f --fault fire", "--fault fire: is none of" },
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(lines); i++) {
		struct unvf_options o;
		struct diag d;

		assert_true(parse(&o, lines[i][0], &d) < 0);
		if (!strstr(d.text, lines[i][1]))
			fail_msg("'%s': %s", lines[i][0], d.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_groups),
		cmocka_unit_test(test_mistakes),
	};

	return cmocka_run_group_tests_name("unvf_options", tests, NULL, NULL);
}
