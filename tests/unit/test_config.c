/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_config.c - config_load() on files, pipes and overrides: what is stored, and the sentence of
 * each refusal that the golden files (which need the built program) do not show.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "config_classes.h"
#include "config_internal.h"

#define FILE_TEXT "name = \"web\"; kernel = \"vmlinuz\";\n"

/* Every test runs in an empty folder of its own. */
static int enter_folder(void **state)
{
	char *dir = strdup("/tmp/unvmm-config-XXXXXX");

	*state = dir;
	return dir && mkdtemp(dir) && !chdir(dir) ? 0 : -1;
}

static int leave_folder(void **state)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", (char *)*state);
	free(*state);
	return chdir("/") || system(command);
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

#define MAX_OVER 40

static int load(struct vm_config *c, const char *path, struct diag *d, const char *const *texts)
{
	struct config_override over[MAX_OVER] = { { 0 } };
	unsigned int n;

	for (n = 0; texts && texts[n]; n++) {
		assert_true(n < MAX_OVER);
		over[n].text = texts[n];
	}
	return config_load(c, path, over, n, config_test_classes, CONFIG_TEST_NCLASSES, d);
}

#define TEXTS(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(, ) NULL })

static void expect_ok(struct vm_config *c, const char *path, const char *const *texts)
{
	struct diag d = { "" };
	int err = load(c, path, &d, texts);

	assert_string_equal(d.text, "");
	assert_int_equal(err, 0);
}

static void expect_fail(const char *path, int err, const char *sentence, const char *const *texts)
{
	struct vm_config c;
	struct diag d = { "" };

	assert_int_equal(load(&c, path, &d, texts), err);
	assert_string_equal(d.text, sentence);
	assert_null(c.kernel); /* emptied: nothing is owed */
	assert_null(c.devices);
}

static struct disk_conf *disk(const struct vm_config *c, unsigned int index)
{
	const struct device_config *dev;

	for (dev = c->devices; dev; dev = dev->next)
		if (dev->cls == &class_disk && index-- == 0)
			return dev->conf;
	fail_msg("no such disk");
	return NULL;
}

static unsigned int count(const struct vm_config *c, const struct device_class *cls)
{
	const struct device_config *dev;
	unsigned int n = 0;

	for (dev = c->devices; dev; dev = dev->next)
		n += dev->cls == cls;
	return n;
}

static void test_size(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },
		{ "1", 1 },
		{ "512M", MiB(512) },
		{ "512m", MiB(512) },
		{ "4K", 4096 },
		{ "3G", GiB(3) },
		{ "2T", GiB(2048) },
		{ "18446744073709551615", UINT64_MAX },
		{ "16777215T", (uint64_t)16777215 << 40 },
	};
	static const char *const bad[] = {
		"",
		"M",
		"-1",
		"+1",
		" 1",
		"1 ",
		"1MB",
		"1X",
		"1.5G",
		"0x10",
		"16777216T",
		"1MM",
		"18446744073709551616",
		"99999999999999999999999999",
	};
	uint64_t bytes;
	char buf[24];
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(config_parse_size(good[i].text, &bytes), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
	for (i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(config_parse_size(bad[i], &bytes), -EINVAL);
	assert_string_equal(config_value_size(0, buf), "0");
	assert_string_equal(config_value_size(1023, buf), "1023");
	assert_string_equal(config_value_size(MiB(1536), buf), "1536M");
	assert_string_equal(config_value_size(GiB(2048), buf), "2T");
	assert_string_equal(config_value_size(UINT64_MAX, buf), "18446744073709551615");
}

static void test_defaults(void **state)
{
	struct vm_config c;

	(void)state;
	assert_int_equal(config_defaults(&c), 0);
	assert_null(c.devices);
	config_free(&c);

	expect_ok(&c, NULL, TEXTS("kernel=k"));
	assert_string_equal(c.name, "guest");
	assert_string_equal(c.machine, "unvmm-1");
	assert_string_equal(c.kernel, "k");
	assert_null(c.initrd);
	assert_string_equal(c.cmdline, "");
	assert_string_equal(c.console, "stdio");
	assert_int_equal(c.vcpus, 1);
	assert_int_equal(c.memory, MiB(256));
	assert_false(c.hugepages);
	assert_true(c.pit);
	assert_int_equal(c.on_reboot, ON_REBOOT_RESTART);
	assert_int_equal(count(&c, &class_serial), 0);
	assert_int_equal(count(&c, &class_watchdog), 1);
	assert_string_equal(c.devices->where, "watchdog (there by default)");
	assert_int_equal(count(&c, &class_disk) + count(&c, &class_rng), 0);
	config_free(&c);
}

static void test_file(void **state)
{
	struct vm_config c;
	const struct device_config *dev;

	(void)state;
	write_file("a.cfg", FILE_TEXT
		   "initrd = \"/abs/initrd\"; cmdline = \"console=ttyS0 \" \"quiet\";\n"
		   "vcpus = 64; memory = 16777216; hugepages = true; pit = false;\n"
		   "console = \"none\"; on_reboot = \"exit\"; machine = \"unvmm-1\";\n"
		   "rng = { source = \"r\"; };\n"
		   "disks = (\n"
		   "  { path = \"/d0\"; readonly = true; serial = \"s0\"; queues = 16; },\n"
		   "  { path = \"d1\"; size = 5368709120L; });\n");
	expect_fail("a.cfg", -EINVAL, "a.cfg:8: disks.1.size is 5G; it must be 512 to 4G", NULL);
	expect_ok(&c, "a.cfg", TEXTS("disks.1.size=4G"));
	assert_string_equal(c.name, "web");
	assert_string_equal(c.initrd, "/abs/initrd");
	assert_string_equal(c.cmdline, "console=ttyS0 quiet");
	assert_int_equal(c.vcpus, 64);
	assert_int_equal(c.memory, MiB(16));
	assert_true(c.hugepages);
	assert_false(c.pit);
	assert_int_equal(c.on_reboot, ON_REBOOT_EXIT);
	assert_string_equal(disk(&c, 0)->path, "/d0");
	assert_true(disk(&c, 0)->readonly);
	assert_string_equal(disk(&c, 0)->serial, "s0");
	assert_int_equal(disk(&c, 0)->queues, 16);
	assert_string_equal(disk(&c, 1)->path, "d1");
	assert_string_equal(disk(&c, 1)->serial, "none");
	assert_int_equal(disk(&c, 1)->queues, 1);
	assert_int_equal(disk(&c, 1)->size, GiB(4));

	/* In the order of the classes, whatever the file's order is. */
	dev = c.devices;
	assert_string_equal(dev->where, "a.cfg:7");
	dev = dev->next;
	assert_string_equal(dev->where, "a.cfg:8");
	dev = dev->next;
	assert_ptr_equal(dev->cls, &class_rng);
	assert_string_equal(((struct rng_conf *)dev->conf)->source, "r");
	dev = dev->next;
	assert_ptr_equal(dev->cls, &class_watchdog);
	assert_null(dev->next);
	config_free(&c);
}

static void test_paths(void **state)
{
	struct vm_config c;
	char path[256];

	(void)state;
	assert_int_equal(mkdir("sub", 0700), 0);
	write_file("sub/b.cfg", "kernel = \"k\"; initrd = \"../i\"; console = \"unix:sock\";\n"
				"disks = ( { path = \"d\"; log = \"file:l\"; serial = \"s\"; } );");
	expect_ok(&c, "sub/b.cfg", TEXTS("disks.+.path=e"));
	assert_string_equal(c.name, "b");
	assert_string_equal(c.kernel, "sub/k");
	assert_string_equal(c.initrd, "sub/../i");
	assert_string_equal(c.console, "unix:sub/sock");
	assert_string_equal(disk(&c, 0)->path, "sub/d");
	assert_string_equal(disk(&c, 0)->log, "file:sub/l");
	assert_string_equal(disk(&c, 0)->serial, "s");
	assert_string_equal(disk(&c, 1)->path, "e");
	config_free(&c);

	/* A default path is the class's own: not moved into the file's folder. */
	expect_ok(&c, "sub/b.cfg", TEXTS("rng=true", "kernel=k2", "console=file:x"));
	assert_string_equal(c.kernel, "k2");
	assert_string_equal(c.console, "file:x");
	config_free(&c);

	snprintf(path, sizeof(path), "%s/sub/b.cfg", (char *)*state);
	expect_ok(&c, path, NULL);
	snprintf(path, sizeof(path), "%s/sub/k", (char *)*state);
	assert_string_equal(c.kernel, path);
	config_free(&c);
}

static void test_pipe(void **state)
{
	struct vm_config c;
	char path[32];
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "kernel = \"k\";", 13), 13);
	close(fds[1]);
	snprintf(path, sizeof(path), "/dev/fd/%d", fds[0]);
	expect_ok(&c, path, NULL);
	close(fds[0]);
	assert_string_equal(c.kernel, "k");
	assert_string_equal(c.name, "guest");
	config_free(&c);
}

static void test_name_from_file(void **state)
{
	static const struct {
		const char *file, *name;
	} rows[] = {
		{ "my guest.cfg", "my-guest" },
		{ "x", "x" },
		{ "_.cfg", "guest" },
		{ ".cfg", "guest" },
		{ "a.b.cfg", "a.b" },
		{ "\303\244.cfg", "guest" },
		{ "a-very-long-name-of-a-configuration-file-that-goes-on-and-on-and-on.cfg",
		  "a-very-long-name-of-a-configuration-file-that-goes-on-and-on-and" },
	};
	struct vm_config c;
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		write_file(rows[i].file, "kernel = \"k\";");
		expect_ok(&c, rows[i].file, NULL);
		assert_string_equal(c.name, rows[i].name);
		config_free(&c);
	}
}

static void test_overrides(void **state)
{
	struct vm_config c;

	(void)state;
	write_file("o.cfg",
		   FILE_TEXT "initrd = \"i\"; rng = { source = \"r\"; };\n"
			     "disks = ( { path = \"a\"; queues = 3; }, { path = \"b\"; } );");
	/* Also over a value that would be refused. */
	expect_ok(&c, "o.cfg",
		  TEXTS("disks.0.queues=4", "disks.1.readonly=Yes", "disks.2.path=c",
			"disks.+.path=d", "disks.-1.serial=last", "disks.3.cache=all",
			"initrd=", "vcpus=2", "vcpus=3", "memory=1g", "rng=true", "cmdline=a=b c=d",
			"name=x", "watchdog=off"));
	assert_int_equal(count(&c, &class_disk), 4);
	assert_int_equal(disk(&c, 0)->queues, 4);
	assert_string_equal(disk(&c, 1)->path, "b");
	assert_true(disk(&c, 1)->readonly);
	assert_string_equal(disk(&c, 2)->path, "c");
	assert_string_equal(disk(&c, 3)->path, "d");
	assert_string_equal(disk(&c, 3)->serial, "last");
	assert_int_equal(disk(&c, 3)->cache, 2);
	assert_null(c.initrd);
	assert_int_equal(c.vcpus, 3);
	assert_int_equal(c.memory, GiB(1));
	assert_string_equal(c.cmdline, "a=b c=d");
	assert_string_equal(c.name, "x");
	assert_int_equal(count(&c, &class_watchdog), 0);
	assert_int_equal(count(&c, &class_rng), 1);
	config_free(&c);

	expect_ok(&c, "o.cfg", TEXTS("disks.0.queues=1", "rng=false"));
	assert_int_equal(count(&c, &class_rng), 0);
	config_free(&c);
	expect_ok(&c, NULL, TEXTS("kernel=k", "rng=no", "rng.source=x", "disks.0.path=y"));
	assert_int_equal(count(&c, &class_rng), 1);
	assert_string_equal(disk(&c, 0)->path, "y");
	config_free(&c);
}

static void test_override_refusals(void **state)
{
	static const struct {
		const char *text, *sentence;
	} rows[] = {
		{ "vcpus", "it must be key=value, for example vcpus=2" },
		{ "=2", "it must be key=value, for example vcpus=2" },
		{ "vcpu=2", "there is no key \"vcpu\"; did you mean \"vcpus\"?" },
		{ "vcpus.0=2", "vcpus is a single value; write vcpus=..." },
		{ "vcpus=two", "vcpus is \"two\"; it must be a whole number, for example vcpus=1" },
		{ "vcpus= 2", "vcpus is \" 2\"; it must be a whole number, for example vcpus=1" },
		{ "vcpus=99999999999999999999",
		  "vcpus is \"99999999999999999999\"; it must be a whole number, for example "
		  "vcpus=1" },
		{ "pit=maybe", "pit is \"maybe\"; it must be true or false, for example pit=true" },
		{ "disks=x",
		  "disks is a list; name a value of one element, for example disks.0.path=..." },
		{ "disks.0=x",
		  "disks is a list; name a value of one element, for example disks.0.path=..." },
		{ "disks.1.path=x",
		  "disks has 0 elements, so \"1\" is none; disks.0.path appends one" },
		{ "disks.-1.path=x",
		  "disks has 0 elements, so \"-1\" is none; disks.0.path appends one" },
		{ "disks.x.path=x",
		  "disks has 0 elements, so \"x\" is none; disks.0.path appends one" },
		{ "disks..path=x",
		  "disks has 0 elements, so \"\" is none; disks.0.path appends one" },
		{ "disks.0.pat=x", "there is no key \"pat\" in disks; did you mean \"path\"?" },
		{ "disks.0.path.x=x", "the key has too many parts; it looks like disks.0.path" },
		{ "disks.0.queues=2",
		  "disks.0 has no path, which is required (image file or block device)" },
		{ "rng=x", "rng is \"x\"; it must be true or false" },
		{ "rng.0.source=x", "rng is no list; the key looks like rng.source" },
		{ "rng.sauce=x", "there is no key \"sauce\" in rng; did you mean \"source\"?" },
		{ "kernel=", "kernel is empty; it is required (bzImage or ELF x86-64 kernel)" },
		{ "name=", "name is \"\"; it must begin with a letter or a digit and go on with "
			   "letters, digits, \"_\", \".\" or \"-\"" },
	};
	char sentence[400];
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		snprintf(sentence, sizeof(sentence), "-o %s: %s", rows[i].text, rows[i].sentence);
		expect_fail(NULL, -EINVAL, sentence, TEXTS("kernel=k", rows[i].text));
	}
	expect_fail(NULL, -EINVAL,
		    "there is no kernel to run; name one with -k FILE, or a configuration file",
		    NULL);
	write_file("s.cfg", "kernel = \"k\";\ndisks = ( 5 );");
	expect_fail("s.cfg", -EINVAL,
		    "s.cfg:2: disks.0 is a number; it must be a group in a list: "
		    "disks = ( { path = ...; } );",
		    TEXTS("disks.0.path=x"));
	write_file("s.cfg", "kernel = \"k\";\ndisks = 5;");
	expect_fail("s.cfg", -EINVAL,
		    "s.cfg:2: disks is a number; it must be a list of groups: "
		    "disks = ( { path = ...; } );",
		    TEXTS("disks.0.path=x"));
}

/* The switch's own words in the message, cut when they are long. */
static void test_what(void **state)
{
	struct config_override over = { .text = "memory=1X", .what = "-m 1X" };
	struct vm_config c;
	struct diag d = { "" };
	char text[3000] = "memory=", sentence[512];

	(void)state;
	assert_int_equal(config_load(&c, NULL, &over, 1, NULL, 0, &d), -EINVAL);
	assert_string_equal(d.text, "-m 1X: memory is \"1X\"; it must be a size, for example "
				    "memory=512M");
	memset(text + 7, 'x', 2000);
	snprintf(sentence, sizeof(sentence),
		 "-o %.100s...: memory is \"%.60s...\"; it must be a size, for example memory=512M",
		 text, text + 7);
	expect_fail(NULL, -EINVAL, sentence, TEXTS(text));
	/* A key longer than any. */
	memset(text, 'k', 200);
	text[200] = '=';
	snprintf(sentence, sizeof(sentence),
		 "-o %.100s...: there is no key \"%.60s...\"; "
		 "\"unvmm run -o help\" lists the keys",
		 text, text);
	expect_fail(NULL, -EINVAL, sentence, TEXTS(text));
}

/* A machine whose guest arrives needs no kernel, but then a reset is its end. */
static void test_incoming(void **state)
{
	const struct config_override none[] = { { .text = "memory=64M" } };
	const struct config_override kernel[] = { { .text = "kernel=k" } };
	struct vm_config c;
	struct diag d = { "" };

	(void)state;
	assert_int_equal(config_load_incoming(&c, NULL, none, 1, NULL, 0, &d), 0);
	assert_null(c.kernel);
	assert_true(c.incoming);
	assert_int_equal(c.on_reboot, ON_REBOOT_EXIT);
	config_free(&c);
	assert_int_equal(config_load_incoming(&c, NULL, kernel, 1, NULL, 0, &d), 0);
	assert_string_equal(c.kernel, "k");
	assert_int_equal(c.on_reboot, ON_REBOOT_RESTART);
	config_free(&c);
	assert_int_equal(config_load(&c, NULL, kernel, 1, NULL, 0, &d), 0);
	assert_false(c.incoming);
	config_free(&c);
}

static void test_file_refusals(void **state)
{
	char big[1100], sentence[1200];

	(void)state;
	expect_fail("none.cfg", -ENOENT,
		    "cannot open the configuration file none.cfg: No such file or directory", NULL);
	expect_fail(".", -EISDIR, ". is a folder; name the configuration file in it", NULL);
	expect_fail("/dev/zero", -EFBIG,
		    "/dev/zero is larger than 1 MiB; a configuration is a short text", NULL);
	write_file("empty.cfg", "");
	expect_fail("empty.cfg", -EINVAL,
		    "empty.cfg: there is no kernel to run; add kernel = "
		    "\"vmlinuz\"; or use -k FILE",
		    NULL);
	memset(big, 'a', sizeof(big));
	memcpy(big, "kernel=\"k\";name=\"", 17);
	strcpy(big + 90, "\";");
	write_file("long.cfg", big);
	snprintf(sentence, sizeof(sentence),
		 "long.cfg:1: name is 73 bytes long; it must be at most "
		 "64");
	expect_fail("long.cfg", -EINVAL, sentence, NULL);
}

/* Errors that only a text in memory can have. */
static void expect_text(const char *text, size_t len, const char *sentence)
{
	struct vm_config c;
	struct diag d = { "" };
	struct config_loader l = { .c = &c,
				   .file = "t",
				   .classes = config_test_classes,
				   .nclasses = CONFIG_TEST_NCLASSES,
				   .d = &d };
	char *exact = malloc(len); /* so that a sanitizer sees a read behind the end */

	assert_non_null(exact);
	memcpy(exact, text, len);
	assert_int_equal(config_defaults(&c), 0);
	assert_int_equal(config_load_text(&l, exact, len, NULL, 0), -EINVAL);
	assert_string_equal(d.text, sentence);
	config_free(&c);
	free(exact);
}

#define EXPECT_TEXT(text, sentence) expect_text(text, sizeof(text) - 1, sentence)

static void test_text_refusals(void **state)
{
	static char deep[20000];

	(void)state;
	EXPECT_TEXT("\n\n\0kernel", "t:3: there is a NUL byte; the file must be text");
	EXPECT_TEXT("name=\"a\\x00b\";", "t:1: a text may not contain \\x00");
	EXPECT_TEXT("#\n /* \n */ \n  @include \"x\"",
		    "t:4: @include is not supported; put everything into this file");
	EXPECT_TEXT("a=\n5368709120",
		    "t:2: 5368709120 is more than a plain number of the file "
		    "format holds; append an L (5368709120L) or use a unit in quotes (\"6G\")");
	EXPECT_TEXT("a=0x8000000000000000",
		    "t:1: the number 0x8000000000000000 does not fit 64 bits");
	EXPECT_TEXT("a=9223372036854775808L",
		    "t:1: the number 9223372036854775808 does not fit 64 bits");
	EXPECT_TEXT("vcpus=2147483647", "t:1: vcpus is 2147483647; it must be 1 to 64");
	EXPECT_TEXT("vcpus=2147483648",
		    "t:1: 2147483648 is more than a plain number of the file format holds; append "
		    "an L (2147483648L) or use a unit in quotes (\"6G\")");
	/* Not numbers: in comments, texts and names. */
	EXPECT_TEXT("// 5368709120\n# 5368709120\n/* 5368709120 \" */\na5368709120=\"5368709120\"",
		    "t:4: there is no key \"a5368709120\"; \"unvmm run -o help\" lists the keys");
	EXPECT_TEXT("vcpus=5368709120.5", "t:1: vcpus is a number with a point or an exponent; it "
					  "must be a whole number, for example vcpus = 1;");
	EXPECT_TEXT("a={\n", "t:2: the file ends in the middle of a setting; a value or a bracket "
			     "is missing above");
	memset(deep, '(', sizeof(deep));
	memcpy(deep, "a=", 2);
	expect_text(deep, sizeof(deep), "t:1: lists or groups are nested too deeply");
	EXPECT_TEXT("a=1;\n/* \n ", "t:2: the comment that begins here is not closed by */");
	EXPECT_TEXT("a=1;/*/", "t:1: the comment that begins here is not closed by */");
#define NO_QUOTE                                                                      \
	"a text has no closing quote on its line; a long one is written as \"one \" " \
	"\"two\", a line's end as \\n"
	EXPECT_TEXT("a=1;\nb=\"x;\nc=\"y\";", "t:2: " NO_QUOTE);
	EXPECT_TEXT("b=\"x", "t:1: " NO_QUOTE);
	EXPECT_TEXT("b=\"x\\", "t:1: " NO_QUOTE);
	EXPECT_TEXT("b=\"x\\\"", "t:1: " NO_QUOTE);
	EXPECT_TEXT("b=\"x\\\ny\"", "t:1: " NO_QUOTE);
}

static void test_too_many_devices(void **state)
{
	const char *texts[MAX_OVER];
	char path[MAX_OVER][32];
	struct vm_config c;
	unsigned int i;

	(void)state;
	texts[0] = "kernel=k";
	for (i = 0; i < 31; i++) {
		snprintf(path[i], sizeof(path[i]), "disks.%u.path=d", i);
		texts[i + 1] = path[i];
	}
	texts[32] = NULL;
	expect_ok(&c, NULL, texts); /* the watchdog takes no slot */
	assert_int_equal(count(&c, &class_disk), 31);
	config_free(&c);
	texts[32] = "rng=true";
	texts[33] = NULL;
	expect_fail(NULL, -EINVAL,
		    "-o rng=true: rng is one device too many; a machine takes at "
		    "most 31 PCI devices",
		    texts);
}

static void test_console_limits(void **state)
{
	char text[200], sentence[300];
	struct vm_config c;

	(void)state;
	memset(text, 'p', sizeof(text));
	memcpy(text, "console=unix:", 13);
	text[13 + 107] = '\0';
	expect_ok(&c, NULL, TEXTS("kernel=k", text));
	config_free(&c);
	text[13 + 107] = 'p';
	text[13 + 108] = '\0';
	snprintf(sentence, sizeof(sentence),
		 "-o %.100s...: the socket path of console is 108 bytes "
		 "long; a UNIX socket takes at most 107",
		 text);
	expect_fail(NULL, -EINVAL, sentence, TEXTS("kernel=k", text));
	expect_fail(NULL, -EINVAL,
		    "-o console=tty: console is \"tty\"; it must be \"stdio\", "
		    "\"none\", \"file:PATH\", \"unix:PATH\", \"pty\" or \"pty:PATH\"",
		    TEXTS("kernel=k", "console=tty"));
}

static void test_cmdline_limit(void **state)
{
	static char text[70000];
	char sentence[300];
	struct vm_config c;

	(void)state;
	memcpy(text, "cmdline=", 8);
	memset(text + 8, 'c', 65535);
	expect_ok(&c, NULL, TEXTS("kernel=k", text));
	assert_int_equal(strlen(c.cmdline), 65535);
	config_free(&c);
	text[8 + 65535] = 'c';
	snprintf(sentence, sizeof(sentence),
		 "-o %.100s...: cmdline is 65536 bytes long; it must be "
		 "at most 65535",
		 text);
	expect_fail(NULL, -EINVAL, sentence, TEXTS("kernel=k", text));
}

/* Every key of every table is in the help, with the literals of init_conf(). */
static void test_print_keys(void **state)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	unsigned int i;

	(void)state;
	assert_non_null(f);
	config_print_keys(f, config_test_classes, CONFIG_TEST_NCLASSES);
	fclose(f);
	for (i = 0; i < config_machine_nopts; i++)
		assert_non_null(strstr(text, config_machine_opts[i].name));
	for (i = 0; i < ARRAY_SIZE(disk_opts); i++)
		assert_non_null(strstr(text, disk_opts[i].help));
	assert_non_null(strstr(text, "memory: guest RAM, a multiple of 4K "
				     "(size 16M to 1T; default 256M)"));
	assert_non_null(strstr(text, "disks.N.path: image file or block device (path; required)"));
	assert_non_null(strstr(text, "rng.source: where the bytes come from "
				     "(path; default /dev/urandom)"));
	assert_non_null(
		strstr(text, "watchdog: one watchdog device (true or false; default true)"));
	assert_null(strstr(text, "serial device"));
	free(text);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, enter_folder, leave_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_size),
		cmocka_unit_test(test_defaults),
		TEST(test_file),
		TEST(test_paths),
		TEST(test_pipe),
		TEST(test_name_from_file),
		TEST(test_overrides),
		TEST(test_override_refusals),
		TEST(test_what),
		cmocka_unit_test(test_incoming),
		TEST(test_file_refusals),
		cmocka_unit_test(test_text_refusals),
		TEST(test_too_many_devices),
		cmocka_unit_test(test_console_limits),
		cmocka_unit_test(test_cmdline_limit),
		cmocka_unit_test(test_print_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
