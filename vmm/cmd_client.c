/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_client.c - options and printing of the commands that ask running guests. Main thread.
 */
#include "cmd_client.h"
#include "cmd.h"
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECONDS_MAX 86400.0
#define COUNT_MAX   1000000000

/* getopt's value for a switch without a letter. */
enum { OPT_JSON = 256, OPT_TIMEOUT, OPT_NOW, OPT_DEAD };

static const struct {
	unsigned int needs; /* what a command must understand; 0: all do */
	struct option opt;
	const char *left, *help;
} switches[] = {
	{ CMD_JSON, { "json", no_argument, NULL, OPT_JSON }, "    --json", "print JSON" },
	{ CMD_TIMEOUT,
	  { "timeout", required_argument, NULL, OPT_TIMEOUT },
	  "    --timeout SECONDS",
	  "how long it may take to power off (30)" },
	{ CMD_NOW, { "now", no_argument, NULL, OPT_NOW }, "    --now", "end the guest at once" },
	{ CMD_DEAD,
	  { "destination-is-dead", no_argument, NULL, OPT_DEAD },
	  "    --destination-is-dead",
	  "it was being moved and does not run there: it goes on here" },
	{ CMD_BATCH,
	  { "batch", no_argument, NULL, 'b' },
	  "-b, --batch",
	  "print one table after the other, without control sequences" },
	{ CMD_BATCH,
	  { "count", required_argument, NULL, 'n' },
	  "-n, --count N",
	  "end after N tables" },
	{ CMD_BATCH,
	  { "delay", required_argument, NULL, 'd' },
	  "-d, --delay SECONDS",
	  "time between two tables (2)" },
	{ 0, { "help", no_argument, NULL, 'h' }, "-h, --help", "this text" },
};

static void usage(const char *command, unsigned int understands, const char *about)
{
	printf("usage: unvmm %s [OPTIONS]%s\n%s\n\n", command,
	       understands & CMD_NAME ? " [NAME]" : "", about);
	for (size_t i = 0; i < ARRAY_SIZE(switches); i++)
		if (!switches[i].needs || understands & switches[i].needs)
			printf("  %-26s %s\n", switches[i].left, switches[i].help);
	if (understands & CMD_NAME)
		printf("\nNAME may be left out when one guest is running; with a \"/\" it is the "
		       "path of a\ncontrol socket.\n");
	printf("\nexit status: 0 done, 1 the guest did not do it, 2 wrong usage or no such "
	       "guest\n");
}

static int parse_count(const char *text, unsigned int *n, struct diag *d)
{
	char *end;
	long v = strtol(text, &end, 10);

	if (end == text || *end || v < 1 || v > COUNT_MAX)
		return diag_set(d, -EINVAL, "--count %.40s: it must be a number from 1 to %d", text,
				COUNT_MAX);
	*n = (unsigned int)v;
	return 0;
}

static int take_switch(struct cmd_args *a, int opt, struct diag *d)
{
	static const struct options_time timeout = { .name = "timeout",
						     .zero = true,
						     .max = SECONDS_MAX };
	static const struct options_time delay = { .name = "delay", .max = SECONDS_MAX };

	switch (opt) {
	case OPT_JSON:
		a->json = true;
		return 0;
	case OPT_NOW:
		a->now = true;
		return 0;
	case OPT_DEAD:
		a->dead = true;
		return 0;
	case OPT_TIMEOUT:
		return options_short_time(&timeout, optarg, &a->timeout_ms, d);
	case 'b':
		a->batch = true;
		return 0;
	case 'n':
		return parse_count(optarg, &a->count, d);
	default: /* 'd' */
		return options_short_time(&delay, optarg, &a->delay_ms, d);
	}
}

bool cmd_args_parse(struct cmd_args *a, int argc, char **argv, unsigned int understands,
		    const char *about, int *status)
{
	struct option longs[ARRAY_SIZE(switches) + 1] = { 0 };
	struct diag d = { "" };
	int opt, err = 0, n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(switches); i++)
		if (!switches[i].needs || understands & switches[i].needs)
			longs[n++] = switches[i].opt;
	opterr = 0;
	while (!err && (opt = getopt_long(argc, argv, understands & CMD_BATCH ? ":bn:d:h" : ":h",
					  longs, NULL)) >= 0) {
		if (opt == 'h') {
			usage(argv[0], understands, about);
			*status = 0;
			return false;
		}
		err = opt == '?' || opt == ':' ? options_refused(opt, argv, longs, &d)
					       : take_switch(a, opt, &d);
	}
	if (!err && argc - optind > (understands & CMD_NAME ? 1 : 0))
		err = diag_set(&d, -EINVAL, "\"%.60s\" is one argument too many", argv[argc - 1]);
	if (err) {
		fprintf(stderr, "unvmm: %s: %s; try 'unvmm %s --help'\n", argv[0], d.text, argv[0]);
		*status = EXIT_USAGE;
		return false;
	}
	a->name = optind < argc ? argv[optind] : NULL;
	return true;
}

int cmd_failed(int err, const struct diag *d)
{
	fprintf(stderr, "unvmm: %s\n", d->text);
	return err == -EREMOTEIO || err == -ETIMEDOUT || err == -EPIPE || err == -EBADMSG ||
			       err == -EMSGSIZE
		       ? EXIT_GUEST_FAILED
		       : EXIT_USAGE;
}

const char *cmd_text(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string)
		       ? json_object_get_string(v)
		       : "";
}

uint64_t cmd_number(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_int)
		       ? json_object_get_uint64(v)
		       : 0;
}

struct json_object *cmd_list_of(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_array)
		       ? v
		       : NULL;
}

struct json_object *cmd_item(struct json_object *list, size_t i)
{
	struct json_object *v = NULL;

	if (list && i < json_object_array_length(list))
		v = json_object_array_get_idx(list, i);
	return json_object_is_type(v, json_type_object) ? v : NULL;
}

/* UTF-8 passes; C0 and C1 controls, which terminals obey, do not. */
void cmd_put_text(const char *text, int width)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		bool c1 = *p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0;

		putchar(*p < 0x20 || *p == 0x7f || c1 ? '?' : *p);
		p += c1;
		width -= (*p & 0xc0) != 0x80;
	}
	while (width-- > 0)
		putchar(' ');
}

void cmd_put_json(struct json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
						       JSON_C_TO_STRING_NOSLASHESCAPE));
}

const char *cmd_size(uint64_t bytes, char buf[static 24])
{
	static const char units[] = "\0KMGT";
	unsigned int i = 0;

	while (i < 4 && bytes && bytes % 1024 == 0) {
		bytes /= 1024;
		i++;
	}
	snprintf(buf, 24, "%" PRIu64 "%.1s", bytes, &units[i]);
	return buf;
}

const char *cmd_time(uint64_t ns, char buf[static 24])
{
	uint64_t s = ns / 1000000000, m = s / 60, h = m / 60, d = h / 24;

	if (d)
		snprintf(buf, 24, "%" PRIu64 "d%02uh", d, (unsigned int)(h % 24));
	else if (h)
		snprintf(buf, 24, "%" PRIu64 "h%02um", h, (unsigned int)(m % 60));
	else if (m)
		snprintf(buf, 24, "%" PRIu64 "m%02us", m, (unsigned int)(s % 60));
	else
		snprintf(buf, 24, "%" PRIu64 ".%us", s, (unsigned int)(ns / 100000000 % 10));
	return buf;
}
