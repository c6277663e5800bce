/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_run_options.c - the command line of `unvmm run`: every switch in both forms, the overrides
 * it becomes, the script of --expect and --input, and the sentence of each refusal.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "run_options.h"

#define MAX_ARGS 24

static const char *command = "run";

/* getopt_long() permutes, so each call gets a copy. */
static int parse(struct run_options *o, struct diag *d, const char *const *args)
{
	static char copies[MAX_ARGS][256];
	static char long_copy[70000];
	char *argv[MAX_ARGS + 2];
	int n = 0;

	argv[n++] = strcpy(copies[MAX_ARGS - 1], command);
	for (; args[n - 1]; n++) {
		const char *arg = args[n - 1];

		assert_true(n < MAX_ARGS && strlen(arg) < sizeof(long_copy));
		argv[n] = strlen(arg) < sizeof(copies[0]) ? copies[n - 1] : long_copy;
		strcpy(argv[n], arg);
	}
	argv[n] = NULL;
	return run_options_parse(o, n, argv, d);
}

#define ARGS(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(, ) NULL })

static void parse_ok(struct run_options *o, const char *const *args)
{
	struct diag d = { "" };
	int err = parse(o, &d, args);

	assert_string_equal(d.text, "");
	assert_int_equal(err, 0);
}

static void parse_fail(const char *sentence, const char *const *args)
{
	struct run_options o;
	struct diag d = { "" };

	assert_int_equal(parse(&o, &d, args), -EINVAL);
	assert_string_equal(d.text, sentence);
	assert_null(o.over);
	assert_null(o.watch);
}

static void assert_over(const struct run_options *o, unsigned int i, const char *text,
			const char *what)
{
	assert_true(i < o->nover);
	assert_string_equal(o->over[i].text, text);
	assert_string_equal(o->over[i].what, what);
}

static void test_nothing(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, ARGS());
	assert_int_equal(o.action, RUN_GUEST);
	assert_null(o.path);
	assert_int_equal(o.nover + o.nexpect, 0);
	assert_null(o.watch);
	assert_int_equal(o.timeout_ms, 0);
	assert_int_equal(o.shutdown_ms, 30000);
	assert_int_equal(o.log_level, LOG_WARN);
	run_options_free(&o);
}

static void test_keys(void **state)
{
	static const char *const short_form[] = {
		"-k", "K", "-i", "I", "-a", "A b=c", "-m", "1X", "-c", "2", "-o", "pit=false", NULL,
	};
	static const char *const long_form[] = {
		"--kernel",  "K",	 "--initrd=I", "--append", "A b=c", "--memory",	      "1X",
		"--vcpus=2", "--option", "pit=false",  "--name",   "n",	    "--console=none", NULL,
	};
	struct run_options o;

	(void)state;
	parse_ok(&o, short_form);
	assert_int_equal(o.nover, 6);
	assert_over(&o, 0, "kernel=K", "-k K");
	assert_over(&o, 1, "initrd=I", "-i I");
	assert_over(&o, 2, "cmdline=A b=c", "-a A b=c");
	assert_over(&o, 3, "memory=1X", "-m 1X");
	assert_over(&o, 4, "vcpus=2", "-c 2");
	assert_over(&o, 5, "pit=false", "-o pit=false");
	run_options_free(&o);

	parse_ok(&o, long_form);
	assert_int_equal(o.nover, 8);
	assert_over(&o, 0, "kernel=K", "--kernel K");
	assert_over(&o, 1, "initrd=I", "--initrd I");
	assert_over(&o, 2, "cmdline=A b=c", "--append A b=c");
	assert_over(&o, 3, "memory=1X", "--memory 1X");
	assert_over(&o, 4, "vcpus=2", "--vcpus 2");
	assert_over(&o, 5, "pit=false", "-o pit=false");
	assert_over(&o, 6, "name=n", "--name n");
	assert_over(&o, 7, "console=none", "--console none");
	run_options_free(&o);
}

static void test_disks(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, ARGS("-d", "a.img", "--disk", "b,,c.img,readonly,serial=x,,y,queues=2"));
	assert_int_equal(o.nover, 5);
	assert_over(&o, 0, "disks.+.path=a.img", "-d a.img");
	assert_over(&o, 1, "disks.+.path=b,c.img", "--disk b,,c.img,readonly,serial=x,,y,queues=2");
	assert_string_equal(o.over[2].text, "disks.-1.readonly=true");
	assert_string_equal(o.over[3].text, "disks.-1.serial=x,y");
	assert_string_equal(o.over[4].text, "disks.-1.queues=2");
	run_options_free(&o);

	parse_fail("-d a.img,: a KEY is empty; it looks like root.img,readonly,serial=x",
		   ARGS("-d", "a.img,"));
	parse_fail("-d a.img,=x: a KEY is empty; it looks like root.img,readonly,serial=x",
		   ARGS("-d", "a.img,=x"));
}

static void test_actions(void **state)
{
	struct run_options o;

	(void)state;
	parse_ok(&o, ARGS("x.cfg", "-n"));
	assert_int_equal(o.action, RUN_CHECK);
	assert_string_equal(o.path, "x.cfg");
	run_options_free(&o);
	parse_ok(&o, ARGS("-n", "--", "-x.cfg"));
	assert_string_equal(o.path, "-x.cfg");
	run_options_free(&o);
	parse_ok(&o, ARGS("-h"));
	assert_int_equal(o.action, RUN_HELP);
	run_options_free(&o);
	/* Help is shown whatever else is wrong behind it. */
	parse_ok(&o, ARGS("--help", "--nonsense"));
	assert_int_equal(o.action, RUN_HELP);
	run_options_free(&o);
	parse_ok(&o, ARGS("-o", "help"));
	assert_int_equal(o.action, RUN_HELP_KEYS);
	run_options_free(&o);
	parse_ok(&o, ARGS("-v"));
	assert_int_equal(o.log_level, LOG_INFO);
	run_options_free(&o);
	parse_ok(&o, ARGS("-vv"));
	assert_int_equal(o.log_level, LOG_DEBUG);
	run_options_free(&o);
	parse_ok(&o, ARGS("-q"));
	assert_int_equal(o.log_level, LOG_ERROR);
	run_options_free(&o);
}

static void test_seconds(void **state)
{
	static const char *const bad[] = { "",	 "0",	"-1",  "+1",   " 1",
					   "1s", "inf", "nan", "1e99", "." };
	char sentence[200];
	struct run_options o;
	unsigned int i;

	(void)state;
	parse_ok(&o, ARGS("--timeout", "2.5", "--shutdown-timeout", "0"));
	assert_int_equal(o.timeout_ms, 2500);
	assert_int_equal(o.shutdown_ms, 0);
	run_options_free(&o);
	parse_ok(&o, ARGS("--timeout", "0.0001", "--shutdown-timeout=60"));
	assert_int_equal(o.timeout_ms, 1);
	assert_int_equal(o.shutdown_ms, 60000);
	run_options_free(&o);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(sentence, sizeof(sentence),
			 "--timeout %s: it must be a number of seconds "
			 "above 0, at most 31536000, for example 60 or 2.5",
			 bad[i]);
		parse_fail(sentence, ARGS("--timeout", bad[i]));
	}
	parse_fail("--shutdown-timeout -1: it must be a number of seconds, at most 31536000, for "
		   "example 60 or 2.5",
		   ARGS("--shutdown-timeout", "-1"));
}

static void test_decode(void **state)
{
	static const struct {
		const char *text, *decoded;
	} good[] = {
		{ "", "" },
		{ "root", "root" },
		{ "a\\nb", "a\nb" },
		{ "\\r\\t\\e\\\\", "\r\t\033\\" },
		{ "\\x41\\x7Fz\\xfF", "A\177z\377" },
		{ "\\\\n", "\\n" },
	};
	static const struct {
		const char *text, *shown;
	} bad[] = {
		{ "a\\q", "\\q" },    { "a\\", "\\" },	    { "\\x4", "\\x4" },
		{ "\\x4g", "\\x4g" }, { "\\x00", "\\x00" }, { "\\nothing\\0rest", "\\0re" },
	};
	char sentence[200], *text;
	struct diag d;
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(run_options_decode(good[i].text, &text, &d), 0);
		assert_string_equal(text, good[i].decoded);
		free(text);
	}
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		d.text[0] = '\0';
		assert_int_equal(run_options_decode(bad[i].text, &text, &d), -EINVAL);
		snprintf(sentence, sizeof(sentence),
			 "--input %s: \"%s\" is no escape; known are \\n "
			 "\\r \\t \\e \\\\ and \\x01 to \\xff",
			 bad[i].text, bad[i].shown);
		assert_string_equal(d.text, sentence);
	}
}

static void test_script(void **state)
{
	static char text[66000];
	struct run_options o;

	(void)state;
	parse_ok(&o, ARGS("--input", "a\\n", "--expect", "^login: *$", "--input", "root\\n",
			  "--expect", "(ok|done)"));
	assert_non_null(o.watch);
	assert_int_equal(o.nexpect, 2);
	run_options_free(&o);
	parse_ok(&o, ARGS("--input", "x"));
	assert_non_null(o.watch);
	assert_int_equal(o.nexpect, 0);
	run_options_free(&o);

	parse_fail("--expect \"(\": Unmatched ( or \\(; a POSIX extended regular expression is "
		   "needed",
		   ARGS("--input", "x", "--expect", "("));
	parse_fail("--input: the text has 0 bytes; it must have 1 to 65536", ARGS("--input", ""));
	memset(text, 'i', 65537);
	parse_fail("--input: the text has 65537 bytes; it must have 1 to 65536",
		   ARGS("--input", text));
	text[4097] = '\0';
	parse_fail("--expect: the pattern has 4097 bytes; it must have at most 4096",
		   ARGS("--expect", text));
}

static void test_wrong_usage(void **state)
{
	(void)state;
	parse_fail("there is no switch --memroy", ARGS("--memroy", "1G"));
	parse_fail("there is no switch -x", ARGS("-nx"));
	parse_fail("--memory needs a value: --memory SIZE", ARGS("-m"));
	parse_fail("--memory needs a value: --memory SIZE", ARGS("--memory"));
	parse_fail("--timeout needs a value: --timeout SECONDS", ARGS("-k", "k", "--timeout"));
	parse_fail("--dry-run takes no value", ARGS("--dry-run=1"));
	parse_fail("one configuration file is enough; \"b.cfg\" is left over",
		   ARGS("a.cfg", "-n", "b.cfg"));
}

/* All of run's switches, and where the guest comes from: exactly one of three. */
static void test_receive(void **state)
{
	static const char which[] =
		"say where the guest comes from: --listen ADDRESS, --stdio or --from file:PATH";
	static const char once[] = "say where the guest comes from once: --listen ADDRESS, "
				   "--stdio or --from file:PATH";
	struct run_options o;

	(void)state;
	parse_fail("there is no switch --stdio", ARGS("--stdio"));
	command = "receive";
	parse_ok(&o, ARGS("--listen", "h:1", "--insecure", "-m", "1G", "--expect", "x"));
	assert_string_equal(o.listen, "h:1");
	assert_true(o.insecure && !o.stdio && !o.from && !o.tls_folder && !o.tls_peer);
	assert_over(&o, 0, "memory=1G", "-m 1G");
	assert_int_equal(o.nexpect, 1);
	run_options_free(&o);
	parse_ok(&o, ARGS("--stdio", "--config", "a.cfg"));
	assert_true(o.stdio);
	assert_string_equal(o.path, "a.cfg");
	run_options_free(&o);
	parse_ok(&o, ARGS("--from=file:x", "a.cfg", "--tls-creds", "t"));
	assert_string_equal(o.from, "file:x");
	assert_string_equal(o.path, "a.cfg");
	assert_string_equal(o.tls_folder, "t");
	run_options_free(&o);
	parse_ok(&o, ARGS("--help"));
	run_options_free(&o);
	parse_fail(which, ARGS());
	parse_fail(which, ARGS("-n"));
	parse_fail(once, ARGS("--stdio", "--listen", "h"));
	parse_fail(once, ARGS("--from", "file:x", "--stdio"));
	parse_fail("one configuration file is enough; \"b.cfg\" is left over",
		   ARGS("--stdio", "--config", "a.cfg", "b.cfg"));
	command = "run";
}

static void test_usage_text(void **state)
{
	char *text = NULL, *line, *save;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	(void)state;
	assert_non_null(f);
	run_options_usage(f, "run");
	run_options_usage(f, "receive");
	fclose(f);
	assert_non_null(strstr(text, "  -k, --kernel FILE "));
	assert_non_null(strstr(text, "      --shutdown-timeout SECONDS "));
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		assert_true(strlen(line) <= 90);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing),	   cmocka_unit_test(test_keys),
		cmocka_unit_test(test_disks),	   cmocka_unit_test(test_actions),
		cmocka_unit_test(test_seconds),	   cmocka_unit_test(test_decode),
		cmocka_unit_test(test_script),	   cmocka_unit_test(test_wrong_usage),
		cmocka_unit_test(test_usage_text), cmocka_unit_test(test_receive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
