/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_migrate_address.c - where a guest is moved to, as operators write it: each form, its limits,
 * and the sentence of each refusal.
 */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "migrate_address.h"

static struct migrate_address good(const char *text, enum migrate_kind kind)
{
	struct migrate_address a;
	struct diag d = { "" };

	if (migrate_address_parse(&a, text, &d))
		fail_msg("%s: %s", text, d.text);
	assert_int_equal(a.kind, kind);
	return a;
}

static void bad(const char *text, const char *part)
{
	struct migrate_address a;
	struct diag d = { "" };

	if (!migrate_address_parse(&a, text, &d))
		fail_msg("%s is taken for good", text);
	if (!strstr(d.text, part))
		fail_msg("%s: no \"%s\" in: %s", text, part, d.text);
}

static void host(const char *text, enum migrate_kind kind, const char *name, const char *port)
{
	struct migrate_address a = good(text, kind);

	assert_string_equal(a.host, name);
	assert_string_equal(a.port, port);
}

static void test_tcp(void **state)
{
	char longest[MIGRATE_HOST_MAX + 2];

	(void)state;
	host("host2", MIGRATE_TCP, "host2", MIGRATE_PORT);
	host("host2.example.org:1", MIGRATE_TCP, "host2.example.org", "1");
	host("192.0.2.1:065535", MIGRATE_TCP, "192.0.2.1", "65535");
	host("[::1]", MIGRATE_TCP, "::1", MIGRATE_PORT);
	host("[fe80::1%eth0]:0", MIGRATE_TCP, "fe80::1%eth0", "0");
	host(":4000", MIGRATE_TCP, "", "4000");
	host("tcp:ssh", MIGRATE_TCP, "ssh", MIGRATE_PORT);
	memset(longest, 'a', sizeof(longest) - 1);
	longest[MIGRATE_HOST_MAX] = '\0';
	host(longest, MIGRATE_TCP, longest, MIGRATE_PORT);
	longest[MIGRATE_HOST_MAX] = 'a';
	longest[MIGRATE_HOST_MAX + 1] = '\0';
	bad(longest, "no valid host name");
	bad("", "empty");
	bad("::1", "brackets");
	bad("[::1", "looks like");
	bad("[]", "looks like");
	bad("[::1]x", "looks like");
	bad("host:", "is no port");
	bad("host:65536", "is no port");
	bad("host:-1", "is no port");
	bad("host:1x", "is no port");
	bad("host: 1", "is no port");
	bad("a b", "no valid host name");
	bad("-oProxyCommand=x", "no valid host name");
	bad("a/b", "no valid host name");
	bad("a\nb", "no valid host name");
	bad("user@host", "ssh://");
}

static void test_ssh(void **state)
{
	char text[600] = "ssh://";

	(void)state;
	host("ssh://host2", MIGRATE_SSH, "host2", "");
	host("ssh://root@host2:2222", MIGRATE_SSH, "root@host2", "2222");
	host("ssh://root@host2/", MIGRATE_SSH, "root@host2", "");
	host("ssh://u@[::1]:22", MIGRATE_SSH, "u@::1", "22");
	bad("ssh://", "names no host");
	bad("ssh://root@", "names no host");
	bad("ssh://@host", "names no host");
	bad("ssh://-F/dev/null", "no valid host name");
	bad("ssh://-l@x", "no valid host name");
	bad("ssh://a@-oX", "no valid host name");
	bad("ssh://host;reboot x", "no valid host name");
	bad("ssh://a:b:c", "brackets");
	memset(text + 6, 'a', 500);
	bad(text, "no valid host name");
}

static void test_paths(void **state)
{
	char *text = malloc(PATH_MAX + 8);

	(void)state;
	assert_string_equal(good("unix:/run/x y", MIGRATE_UNIX).path, "/run/x y");
	assert_string_equal(good("file:a:b", MIGRATE_FILE).path, "a:b");
	bad("unix:", "1 to");
	bad("file:", "1 to");
	assert_non_null(text);
	memset(text, 'x', PATH_MAX + 7);
	memcpy(text, "file:", 5);
	text[5 + PATH_MAX] = '\0';
	bad(text, "1 to");
	text[5 + PATH_MAX - 1] = '\0';
	good(text, MIGRATE_FILE);
	free(text);
}

static void test_descriptors(void **state)
{
	(void)state;
	assert_int_equal(good("fd:0", MIGRATE_FD).fd, 0);
	assert_int_equal(good("fd:2147483647", MIGRATE_FD).fd, INT_MAX);
	bad("fd:", "fd:3");
	bad("fd:-1", "fd:3");
	bad("fd:2147483648", "fd:3");
	bad("fd:99999999999999999999", "fd:3");
	bad("fd:3x", "fd:3");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tcp),
		cmocka_unit_test(test_ssh),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
