/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_options.c - the command lines of `unvmm run` and `unvmm receive`: one table of switches, from
 * which the parsers and the usage texts are made. Runs on main.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "run_options.h"

#define SHUTDOWN_DEFAULT_MS 30000
#define SECONDS_MAX	    31536000.0 /* a year */
#define EXPECT_MAX	    4096
#define INPUT_MAX	    KiB(64) /* what a console takes at once */

/* getopt's value for a long switch; a short one has its letter. */
#define LONG_BASE 256

enum action {
	SET_KEY,   /* -m 1G is memory=1G */
	CLEAR_KEY, /* --no-sandbox is sandbox=false */
	SET_OPTION,
	ADD_DISK,
	ADD_EXPECT,
	ADD_INPUT,
	SET_TIMEOUT,
	SET_SHUTDOWN,
	SET_DRY_RUN,
	SET_TEXT,
	SET_FLAG,
	SET_FILE,
	MORE_LOG,
	LESS_LOG,
	SHOW_HELP,
};

struct switch_row {
	char letter; /* 0: long form only */
	const char *name;
	const char *arg; /* NULL: takes none */
	enum action action;
	const char *key; /* SET_KEY */
	const char *help;
	bool receives; /* `receive` only */
	size_t offset; /* SET_TEXT, SET_FLAG: in struct run_options */
};

#define RECEIVE(field) .receives = true, .offset = offsetof(struct run_options, field)

static const struct switch_row switches[] = {
	{ 0, "listen", "ADDRESS", SET_TEXT, NULL,
	  "wait there for a guest: HOST[:PORT] or unix:PATH", RECEIVE(listen) },
	{ 0, "stdio", NULL, SET_FLAG, NULL, "on standard input; then go to the background",
	  RECEIVE(stdio) },
	{ 0, "from", "file:PATH", SET_TEXT, NULL, "it is in a file of \"unvmm migrate\"",
	  RECEIVE(from) },
	{ 0, "eager", NULL, SET_FLAG, NULL, "read all of that file before the guest runs",
	  RECEIVE(eager) },
	{ 0, "config", "FILE", SET_FILE, NULL, "the same as guest.cfg at the end",
	  .receives = true },
	{ 0, "tls-creds", "FOLDER", SET_TEXT, NULL, "certificates for TCP (/etc/pki/unvmm)",
	  RECEIVE(tls_folder) },
	{ 0, "tls-peer", "NAME,...", SET_TEXT, NULL,
	  "who may send a guest (all whom the CA signed)", RECEIVE(tls_peer) },
	{ 0, "insecure", NULL, SET_FLAG, NULL, "unencrypted TCP: for networks that are trusted",
	  RECEIVE(insecure) },
	{ 'k', "kernel", "FILE", SET_KEY, "kernel", .help = "bzImage or ELF x86-64 kernel" },
	{ 'i', "initrd", "FILE", SET_KEY, "initrd", .help = "initial RAM disk" },
	{ 'a', "append", "TEXT", SET_KEY, "cmdline", .help = "kernel command line" },
	{ 'm', "memory", "SIZE", SET_KEY, "memory",
	  .help = "guest RAM: bytes, or with K, M, G, T" },
	{ 'c', "vcpus", "N", SET_KEY, "vcpus", .help = "virtual CPUs, 1 to 64" },
	{ 'd', "disk", "FILE[,KEY=VALUE]...", ADD_DISK, NULL,
	  .help = "append a disk; KEY alone means KEY=true" },
	{ 0, "name", "NAME", SET_KEY, "name", .help = "name of the guest in messages" },
	{ 0, "console", "WHERE", SET_KEY, "console",
	  .help = "stdio, none, file:PATH, unix:PATH or pty" },
	{ 0, "control", "WHERE", SET_KEY, "control", .help = "QMP socket: unix:PATH or none" },
	{ 0, "user", "USER[:GROUP]", SET_KEY, "user",
	  .help = "become this user (default for root: nobody)" },
	{ 0, "no-sandbox", NULL, CLEAR_KEY, "sandbox",
	  .help = "keep user and system calls, for debugging" },
	{ 'o', "option", "KEY=VALUE", SET_OPTION, NULL,
	  .help = "any key of the file; \"-o help\" lists them" },
	{ 'n', "dry-run", NULL, SET_DRY_RUN, NULL, .help = "check the configuration and stop" },
	{ 0, "timeout", "SECONDS", SET_TIMEOUT, NULL,
	  .help = "end the guest then, exit status 124" },
	{ 0, "expect", "REGEX", ADD_EXPECT, NULL,
	  .help = "wait for console output; after the last one exit 0" },
	{ 0, "input", "TEXT", ADD_INPUT, NULL,
	  .help = "type TEXT once the --expect before it was seen" },
	{ 0, "shutdown-timeout", "SECONDS", SET_SHUTDOWN, NULL,
	  .help = "how long a guest may take to power off on SIGTERM (30)" },
	{ 'v', "verbose", NULL, MORE_LOG, NULL, .help = "say more; twice: debug" },
	{ 'q', "quiet", NULL, LESS_LOG, NULL, .help = "errors only" },
	{ 'h', "help", NULL, SHOW_HELP, NULL, .help = "this text" },
};

static bool is_receive(const char *command)
{
	return !strcmp(command, "receive");
}

void run_options_usage(FILE *out, const char *command)
{
	bool receives = is_receive(command);
	unsigned int i;

	if (receives)
		fputs("usage: unvmm receive --listen ADDRESS | --stdio | --from file:PATH\n"
		      "                     [OPTIONS] [guest.cfg]\n"
		      "Builds the machine that guest.cfg and the options describe, waits for a "
		      "guest that\n"
		      "\"unvmm migrate\" sends, and runs it.\n\n",
		      out);
	else
		fputs("usage: unvmm run [OPTIONS] [guest.cfg]\n"
		      "Boots the guest that guest.cfg and the options describe, in the "
		      "foreground.\n\n",
		      out);
	for (i = 0; i < ARRAY_SIZE(switches); i++) {
		const struct switch_row *r = &switches[i];
		char left[48];
		int n;

		if (r->receives && !receives)
			continue;
		n = r->letter ? snprintf(left, sizeof(left), "  -%c, --%s", r->letter, r->name)
			      : snprintf(left, sizeof(left), "      --%s", r->name);
		if (r->arg)
			n += snprintf(left + n, sizeof(left) - (size_t)n, " %s", r->arg);
		/* A long left column gets a line of its own. */
		fprintf(out, "%s%s%*s%s\n", left, n > 33 ? "\n" : "", n > 33 ? 35 : 35 - n, "",
			r->help);
	}
	fputs("\nexit status: 0 power-off or all --expect seen, 1 the guest failed, 2 wrong usage "
	      "or\n"
	      "host error, 124 timeout; a byte written to port 0xf4 is the status itself\n",
	      out);
}

static int out_of_memory(struct diag *d)
{
	return diag_set(d, -ENOMEM, "out of memory");
}

/* How the user typed it: "-m 1X" or "--memory 1X". */
static char *typed(const struct switch_row *r, int val, const char *arg)
{
	char *what;
	int n = val < LONG_BASE ? asprintf(&what, "-%c %s", r->letter, arg)
				: asprintf(&what, "--%s %s", r->name, arg);

	return n < 0 ? NULL : what;
}

/* Takes both texts. */
static int add_override(struct run_options *o, char *text, char *what, struct diag *d)
{
	struct config_override *over;

	over = text && what ? reallocarray(o->over, o->nover + 1, sizeof(*over)) : NULL;
	if (!over) {
		free(text);
		free(what);
		return out_of_memory(d);
	}
	o->over = over;
	over[o->nover++] = (struct config_override){ .text = text, .what = what };
	return 0;
}

static int add_key(struct run_options *o, const char *key, const char *value, const char *what,
		   struct diag *d)
{
	char *text;

	if (asprintf(&text, "%s=%s", key, value) < 0)
		text = NULL;
	return add_override(o, text, strdup(what), d);
}

/* Cuts the text at the next single comma; two commas stand for one. NULL: that was the last. */
static char *next_part(char *part)
{
	char *out = part;

	for (; *part; part++) {
		if (*part == ',' && *++part != ',') {
			*out = '\0';
			return part;
		}
		*out++ = *part;
	}
	*out = '\0';
	return NULL;
}

/* root.img,readonly,serial=x: disks.+.path=root.img, disks.-1.readonly=true, ... */
static int add_disk(struct run_options *o, const char *arg, const char *what, struct diag *d)
{
	char *copy = strdup(arg), *rest, *part;
	int err;

	if (!copy)
		return out_of_memory(d);
	rest = next_part(copy);
	err = add_key(o, "disks.+.path", copy, what, d);
	while (!err && (part = rest)) {
		char *key, *eq;

		rest = next_part(part);
		eq = strchr(part, '=');
		if (!*part || eq == part) {
			err = diag_set(d, -EINVAL,
				       "%.100s: a KEY is empty; it looks like "
				       "root.img,readonly,serial=x",
				       what);
			break;
		}
		if (eq)
			*eq = '\0';
		if (asprintf(&key, "disks.-1.%s", part) < 0) {
			err = out_of_memory(d);
			break;
		}
		err = add_key(o, key, eq ? eq + 1 : "true", what, d);
		free(key);
	}
	free(copy);
	return err;
}

static int add_expect(struct run_options *o, const char *pattern, struct diag *d)
{
	int err;

	if (strlen(pattern) > EXPECT_MAX)
		return diag_set(d, -EINVAL,
				"--expect: the pattern has %zu bytes; it must have at "
				"most %d",
				strlen(pattern), EXPECT_MAX);
	if (!o->watch)
		o->watch = console_watch_new();
	if (!o->watch)
		return out_of_memory(d);
	err = console_watch_expect(o->watch, pattern, d);
	if (!err)
		o->nexpect++;
	return err;
}

/* One escape sequence behind a backslash; the bytes that it took, or -EINVAL. */
static int decode_escape(const char *p, char *byte)
{
	static const char names[] = "nrte\\", values[] = "\n\r\t\033\\";
	const char *name;
	char hex[3] = { 0 };

	if (*p == 'x' && isxdigit((unsigned char)p[1]) && isxdigit((unsigned char)p[2])) {
		memcpy(hex, p + 1, 2);
		*byte = (char)strtoul(hex, NULL, 16);
		return *byte ? 3 : -EINVAL; /* a console's script is made of C strings */
	}
	name = *p ? strchr(names, *p) : NULL;
	if (!name)
		return -EINVAL;
	*byte = values[name - names];
	return 1;
}

int run_options_decode(const char *text, char **out, struct diag *d)
{
	char *buf = malloc(strlen(text) + 1), *byte = buf;
	const char *p;
	int n;

	if (!buf)
		return out_of_memory(d);
	for (p = text; *p; byte++) {
		if (*p != '\\') {
			*byte = *p++;
			continue;
		}
		n = decode_escape(++p, byte);
		if (n < 0) {
			free(buf);
			return diag_set(d, -EINVAL,
					"--input %.100s: \"\\%.3s\" is no escape; known "
					"are \\n \\r \\t \\e \\\\ and \\x01 to \\xff",
					text, p);
		}
		p += n;
	}
	*byte = '\0';
	*out = buf;
	return 0;
}

static int add_input(struct run_options *o, const char *arg, struct diag *d)
{
	char *text;
	int err = run_options_decode(arg, &text, d);

	if (err)
		return err;
	if (!*text || strlen(text) > INPUT_MAX) {
		diag_set(d, -EINVAL, "--input: the text has %zu bytes; it must have 1 to %llu",
			 strlen(text), (unsigned long long)INPUT_MAX);
		free(text);
		return -EINVAL;
	}
	if (!o->watch)
		o->watch = console_watch_new();
	err = o->watch ? console_watch_send(o->watch, text, d) : out_of_memory(d);
	free(text);
	return err;
}

static int set_option(struct run_options *o, const char *arg, struct diag *d)
{
	char *what;

	if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
		o->action = RUN_HELP_KEYS;
		return 0;
	}
	if (asprintf(&what, "-o %s", arg) < 0)
		what = NULL;
	return add_override(o, strdup(arg), what, d);
}

static int apply(struct run_options *o, const struct switch_row *r, int val, const char *arg,
		 struct diag *d)
{
	const struct options_time time = { .name = r->name,
					   .zero = r->action == SET_SHUTDOWN,
					   .max = SECONDS_MAX };
	char *what;
	int err;

	switch (r->action) {
	case SET_KEY:
	case ADD_DISK:
		what = typed(r, val, arg);
		if (!what)
			return out_of_memory(d);
		err = r->action == SET_KEY ? add_key(o, r->key, arg, what, d)
					   : add_disk(o, arg, what, d);
		free(what);
		return err;
	case CLEAR_KEY:
		if (asprintf(&what, "--%s", r->name) < 0)
			return out_of_memory(d);
		err = add_key(o, r->key, "false", what, d);
		free(what);
		return err;
	case SET_OPTION:
		return set_option(o, arg, d);
	case ADD_EXPECT:
		return add_expect(o, arg, d);
	case ADD_INPUT:
		return add_input(o, arg, d);
	case SET_TIMEOUT:
		return options_time(&time, arg, &o->timeout_ms, d);
	case SET_SHUTDOWN:
		return options_time(&time, arg, &o->shutdown_ms, d);
	case SET_DRY_RUN:
		o->action = RUN_CHECK;
		return 0;
	case SET_TEXT:
		*(const char **)(void *)((char *)o + r->offset) = arg;
		return 0;
	case SET_FLAG:
		*(bool *)((char *)o + r->offset) = true;
		return 0;
	case SET_FILE:
		o->path = arg;
		return 0;
	case MORE_LOG:
		o->log_level = o->log_level >= LOG_INFO ? LOG_DEBUG : LOG_INFO;
		return 0;
	case LESS_LOG:
		o->log_level = LOG_ERROR;
		return 0;
	case SHOW_HELP:
		o->action = RUN_HELP;
		return 0;
	}
	return 0;
}

static const struct switch_row *find_row(int val)
{
	unsigned int i;

	if (val >= LONG_BASE && val < LONG_BASE + (int)ARRAY_SIZE(switches))
		return &switches[val - LONG_BASE];
	for (i = 0; i < ARRAY_SIZE(switches); i++)
		if (switches[i].letter && switches[i].letter == val)
			return &switches[i];
	return NULL;
}

/* What getopt_long() refused: '?' or ':' in `val`, the switch in optopt or behind optind. */
static int refused(int val, char **argv, struct diag *d)
{
	const struct switch_row *r = optopt ? find_row(optopt) : NULL;

	if (val == ':' && r)
		return diag_set(d, -EINVAL, "--%s needs a value: --%s %s", r->name, r->name,
				r->arg);
	if (r)
		return diag_set(d, -EINVAL, "--%s takes no value", r->name);
	if (optopt)
		return diag_set(d, -EINVAL, "there is no switch -%c", optopt);
	return diag_set(d, -EINVAL, "there is no switch %.60s", argv[optind - 1]);
}

/* getopt_long()'s two forms of the table. */
static void make_getopt(char *letters, struct option *longs, bool receives)
{
	unsigned int i, n = 0;

	*letters++ = ':';
	for (i = 0; i < ARRAY_SIZE(switches); i++) {
		const struct switch_row *r = &switches[i];

		if (r->receives && !receives)
			continue;
		longs[n++] = (struct option){ r->name, r->arg ? required_argument : no_argument,
					      NULL, LONG_BASE + (int)i };
		if (r->letter)
			*letters++ = r->letter;
		if (r->letter && r->arg)
			*letters++ = ':';
	}
	longs[n] = (struct option){ 0 };
	*letters = '\0';
}

static int check_source(const struct run_options *o, struct diag *d)
{
	unsigned int n = !!o->listen + !!o->from + o->stdio;

	if (n == 1)
		return 0;
	return diag_set(d, -EINVAL,
			"say where the guest comes from%s: --listen ADDRESS, --stdio or --from "
			"file:PATH",
			n ? " once" : "");
}

int run_options_parse(struct run_options *o, int argc, char **argv, struct diag *d)
{
	struct option longs[ARRAY_SIZE(switches) + 1];
	char letters[2 * ARRAY_SIZE(switches) + 2];
	int val, err = 0;

	*o = (struct run_options){ .shutdown_ms = SHUTDOWN_DEFAULT_MS, .log_level = LOG_WARN };
	make_getopt(letters, longs, is_receive(argv[0]));
	opterr = 0;
	optind = 0; /* glibc: from the beginning, also at a second call */
	while (!err && (o->action == RUN_GUEST || o->action == RUN_CHECK) &&
	       (val = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
		const struct switch_row *r = val == '?' || val == ':' ? NULL : find_row(val);

		err = r ? apply(o, r, val, optarg, d) : refused(val, argv, d);
	}
	if (!err && (o->action == RUN_GUEST || o->action == RUN_CHECK)) {
		int left = argc - optind - !o->path;

		if (left > 0)
			err = diag_set(d, -EINVAL,
				       "one configuration file is enough; \"%.60s\" is "
				       "left over",
				       argv[argc - left]);
		else if (!o->path)
			o->path = argv[optind]; /* NULL at the end */
	}
	if (!err && is_receive(argv[0]) && (o->action == RUN_GUEST || o->action == RUN_CHECK))
		err = check_source(o, d);
	if (err)
		run_options_free(o);
	return err;
}

void run_options_free(struct run_options *o)
{
	unsigned int i;

	for (i = 0; i < o->nover; i++) {
		/* Made by add_override(); const for config_load() only. */
		free((void *)(uintptr_t)o->over[i].text);
		free((void *)(uintptr_t)o->over[i].what);
	}
	console_watch_free(o->watch);
	free(o->over);
	*o = (struct run_options){ 0 };
}
