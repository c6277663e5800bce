/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_value.c - one value: from libconfig's tree or an override's text, checked by its row of an
 * option table, into a field of a conf struct. Runs on main, before the machine exists.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "config_internal.h"

/* Longest part of a user's text that a message repeats. */
#define QUOTE_MAX 60

/* A value before it is known to be right. */
union value {
	bool b;
	int64_t i;
	uint64_t u;
	int choice;
	const char *s;
};

void config_where(const struct config_loader *l, const config_setting_t *s, char *buf, size_t size)
{
	const struct config_override *over = s ? s->hook : NULL;
	const char *file = l->file ? l->file : "command line";
	unsigned int line = s ? config_setting_source_line(s) : 0;
	size_t len = strlen(file);
	const char *dots = "";

	if (over && over->what) {
		snprintf(buf, size, "%.*s%s", 100, over->what,
			 strlen(over->what) > 100 ? "..." : "");
	} else if (over) {
		snprintf(buf, size, "-o %.*s%s", 100, over->text,
			 strlen(over->text) > 100 ? "..." : "");
	} else {
		if (len > 120) { /* the end of a path says more than its beginning */
			file += len - 120;
			dots = "...";
		}
		if (line)
			snprintf(buf, size, "%s%s:%u", dots, file, line);
		else
			snprintf(buf, size, "%s%s", dots, file);
	}
}

int config_fail(struct config_loader *l, const config_setting_t *s, int err, const char *fmt, ...)
{
	char where[CONFIG_WHERE_MAX];
	char text[sizeof(((struct diag *)0)->text)];
	va_list ap;

	config_where(l, s, where, sizeof(where));
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return diag_set(l->d, err, "%s: %s", where, text);
}

int config_parse_size(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	unsigned int shift = 0;
	uint64_t n = 0;
	const char *p = text, *unit;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n))
			return -EINVAL;
	if (p == text)
		return -EINVAL;
	if (*p) {
		unit = strchr(units, *p & ~0x20); /* the lower case letter does as well */
		if (!unit || !*unit || p[1])
			return -EINVAL;
		shift = 10 * (unsigned int)(unit - units + 1);
	}
	if (n > UINT64_MAX >> shift)
		return -EINVAL;
	*bytes = n << shift;
	return 0;
}

const char *config_value_size(uint64_t bytes, char buf[static 24])
{
	static const char units[] = "\0KMGT";
	unsigned int i = 0;

	while (i < 4 && bytes && bytes % 1024 == 0) {
		bytes /= 1024;
		i++;
	}
	snprintf(buf, 24, "%llu%.1s", (unsigned long long)bytes, &units[i]);
	return buf;
}

int config_value_bool(const char *text, bool *value)
{
	static const char *const yes[] = { "true", "yes", "on" };
	static const char *const no[] = { "false", "no", "off" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(yes); i++) {
		if (!strcasecmp(text, yes[i]) || !strcasecmp(text, no[i])) {
			*value = !strcasecmp(text, yes[i]);
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_int(const char *text, int64_t *value)
{
	char *end;
	long long n;

	if (!*text || strchr(" \t\n\v\f\r", *text))
		return -EINVAL;
	errno = 0;
	n = strtoll(text, &end, 10);
	if (errno || *end)
		return -EINVAL;
	*value = n;
	return 0;
}

bool config_value_is_text(enum opt_type type)
{
	return type == OPT_STRING || type == OPT_PATH || type == OPT_CHARDEV || type == OPT_SOCKET;
}

char *config_value_text(const struct opt *o, const void *conf)
{
	char *text;

	/* The field may be a const char *: copied, so that no type is read as another. */
	memcpy(&text, (const char *)conf + o->offset, sizeof(text));
	return text;
}

static void put_text(const struct opt *o, void *conf, char *text)
{
	memcpy((char *)conf + o->offset, &text, sizeof(text));
}

int config_value_own(const struct opt *opts, unsigned int nopts, void *conf)
{
	unsigned int i;
	int err = 0;

	for (i = 0; i < nopts; i++) {
		char *text, *copy = NULL;

		if (!config_value_is_text(opts[i].type))
			continue;
		text = config_value_text(&opts[i], conf);
		if (text && !err) {
			copy = strdup(text);
			if (!copy)
				err = -ENOMEM;
		}
		put_text(&opts[i], conf, copy); /* no literal stays, also after a failure */
	}
	return err;
}

void config_value_free(const struct opt *opts, unsigned int nopts, void *conf)
{
	unsigned int i;

	for (i = 0; i < nopts; i++) {
		if (!config_value_is_text(opts[i].type))
			continue;
		free(config_value_text(&opts[i], conf));
		put_text(&opts[i], conf, NULL);
	}
}

const char *config_value_kind(const config_setting_t *s)
{
	switch (config_setting_type(s)) {
	case CONFIG_TYPE_GROUP:
		return "a group";
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64:
		return "a number";
	case CONFIG_TYPE_FLOAT:
		return "a number with a point or an exponent";
	case CONFIG_TYPE_STRING:
		return "a text";
	case CONFIG_TYPE_BOOL:
		return "a true/false value";
	case CONFIG_TYPE_ARRAY:
		return "an array";
	case CONFIG_TYPE_LIST:
		return "a list";
	default:
		return "empty";
	}
}

/* "\"restart\" or \"exit\"" */
static void list_choices(const char *const *choices, char *buf, size_t size)
{
	size_t n = 0;
	unsigned int i;

	buf[0] = '\0';
	for (i = 0; choices[i] && n < size; i++)
		n += (size_t)snprintf(buf + n, size - n, "%s\"%s\"",
				      i == 0	       ? ""
				      : choices[i + 1] ? ", "
						       : " or ",
				      choices[i]);
}

/* "a whole number, for example vcpus = 1;" */
static void describe_wanted(const config_setting_t *s, const struct opt *o, char *buf, size_t size)
{
	const char *what = "", *sample = "", *quote = "";
	char number[24];

	switch (o->type) {
	case OPT_BOOL:
		what = "true or false";
		sample = "true";
		break;
	case OPT_INT:
		what = "a whole number";
		snprintf(number, sizeof(number), "%lld", (long long)o->min);
		sample = number;
		break;
	case OPT_SIZE:
		what = "a size";
		sample = "512M";
		quote = "\"";
		break;
	case OPT_STRING:
		what = "a text in quotes";
		sample = "text";
		quote = "\"";
		break;
	case OPT_PATH:
		what = "a path in quotes";
		sample = "path";
		quote = "\"";
		break;
	case OPT_SOCKET:
		snprintf(buf, size, "\"unix:PATH\" or \"none\"");
		return;
	case OPT_CHARDEV:
		snprintf(buf, size,
			 "\"stdio\", \"none\", \"file:PATH\", \"unix:PATH\", \"pty\" or "
			 "\"pty:PATH\"");
		return;
	case OPT_CHOICE:
		list_choices(o->choices, buf, size);
		return;
	}
	if (s->hook)
		snprintf(buf, size, "%s, for example %s=%s", what, o->name, sample);
	else
		snprintf(buf, size, "%s, for example %s = %s%s%s;", what, o->name, quote, sample,
			 quote);
}

/* NULL when it is no text. libconfig may keep "" as a null pointer. */
static const char *setting_text(const config_setting_t *s)
{
	const char *text = config_setting_get_string(s);

	return !text && config_setting_type(s) == CONFIG_TYPE_STRING ? "" : text;
}

static int wrong_type(struct config_loader *l, const config_setting_t *s, const char *key,
		      const struct opt *o)
{
	const char *text = setting_text(s);
	int type = config_setting_type(s);
	char wanted[240];

	describe_wanted(s, o, wanted, sizeof(wanted));
	/* In a file "2" and 2 differ: say what stands there. */
	if (text)
		return config_fail(l, s, -EINVAL, "%s is %s\"%.*s%s\"; it must be %s", key,
				   !s->hook && (o->type == OPT_INT || o->type == OPT_BOOL)
					   ? "the text "
					   : "",
				   QUOTE_MAX, text, strlen(text) > QUOTE_MAX ? "..." : "", wanted);
	if (type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64)
		return config_fail(l, s, -EINVAL, "%s is %lld; it must be %s", key,
				   config_setting_get_int64(s), wanted);
	return config_fail(l, s, -EINVAL, "%s is %s; it must be %s", key, config_value_kind(s),
			   wanted);
}

/* The override's text, or the file's value, as the table's type. -EINVAL: it is not one. */
static int parse(const config_setting_t *s, const struct opt *o, union value *v)
{
	int type = config_setting_type(s);
	bool number = type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64;
	const char *text = setting_text(s);
	unsigned int i;

	switch (o->type) {
	case OPT_BOOL:
		v->b = config_setting_get_bool(s);
		if (s->hook)
			return config_value_bool(text, &v->b);
		return type == CONFIG_TYPE_BOOL ? 0 : -EINVAL;
	case OPT_INT:
		v->i = config_setting_get_int64(s);
		if (s->hook)
			return parse_int(text, &v->i);
		return number ? 0 : -EINVAL;
	case OPT_SIZE:
		if (text)
			return config_parse_size(text, &v->u);
		v->u = (uint64_t)config_setting_get_int64(s);
		return number && v->u <= INT64_MAX ? 0 : -EINVAL; /* negative: no size */
	case OPT_STRING:
	case OPT_PATH:
	case OPT_CHARDEV:
	case OPT_SOCKET:
		v->s = text;
		return text ? 0 : -EINVAL;
	case OPT_CHOICE:
		for (i = 0; text && o->choices[i]; i++) {
			if (!strcmp(text, o->choices[i])) {
				v->choice = (int)i;
				return 0;
			}
		}
		return -EINVAL;
	}
	return -EINVAL;
}

static int check_range(struct config_loader *l, const config_setting_t *s, const char *key,
		       const struct opt *o, const union value *v)
{
	char a[24], b[24], c[24];
	size_t len;

	switch (o->type) {
	case OPT_INT:
		if (o->min == o->max || (v->i >= o->min && v->i <= o->max))
			return 0;
		return config_fail(l, s, -EINVAL, "%s is %lld; it must be %lld to %lld", key,
				   (long long)v->i, (long long)o->min, (long long)o->max);
	case OPT_SIZE:
		if (o->min == o->max || (v->u >= (uint64_t)o->min && v->u <= (uint64_t)o->max))
			return 0;
		return config_fail(l, s, -EINVAL, "%s is %s; it must be %s to %s", key,
				   config_value_size(v->u, a),
				   config_value_size((uint64_t)o->min, b),
				   config_value_size((uint64_t)o->max, c));
	case OPT_STRING:
	case OPT_PATH:
	case OPT_CHARDEV:
	case OPT_SOCKET:
		len = strlen(v->s);
		if (!o->max || len <= (uint64_t)o->max)
			return 0;
		return config_fail(l, s, -EINVAL, "%s is %zu bytes long; it must be at most %lld",
				   key, len, (long long)o->max);
	default:
		return 0;
	}
}

/* How much of a text stands before its path; -EINVAL: the text is not of that type. */
static int path_prefix(enum opt_type type, const char *text)
{
	bool chardev = type == OPT_CHARDEV;

	if (type != OPT_CHARDEV && type != OPT_SOCKET)
		return 0;
	if (!strcmp(text, "none") || (chardev && (!strcmp(text, "stdio") || !strcmp(text, "pty"))))
		return 0;
	if (chardev && !strncmp(text, "pty:", 4) && text[4])
		return 4;
	if ((!strncmp(text, "unix:", 5) || (chardev && !strncmp(text, "file:", 5))) && text[5])
		return 5;
	return -EINVAL;
}

/* A copy of the text in which a path of the file counts from the file's folder. */
static char *resolve(const struct config_loader *l, const config_setting_t *s, const char *text,
		     int prefix)
{
	const char *path = text + prefix;
	char *out;

	if (s->hook || !l->base || path[0] == '/')
		return strdup(text);
	if (asprintf(&out, "%.*s%s/%s", prefix, text, l->base, path) < 0)
		return NULL;
	return out;
}

static int store_text(struct config_loader *l, const config_setting_t *s, const char *key,
		      const struct opt *o, const char *text, void *conf)
{
	int prefix = path_prefix(o->type, text);
	size_t sock_max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
	char *copy = NULL;

	if (!text[0] && o->required)
		return config_fail(l, s, -EINVAL, "%s is empty; it is required (%s)", key, o->help);
	/* An empty text is the same as none: `-o initrd=` takes the file's initrd away. */
	if (text[0] || o->type == OPT_STRING) {
		if (prefix < 0)
			return wrong_type(l, s, key, o);
		copy = o->type == OPT_STRING ? strdup(text) : resolve(l, s, text, prefix);
		if (!copy)
			return diag_set(l->d, -ENOMEM, "out of memory");
	}
	if (copy && !strncmp(copy, "unix:", (size_t)prefix) && prefix &&
	    strlen(copy + prefix) > sock_max) {
		config_fail(l, s, -EINVAL,
			    "the socket path of %s is %zu bytes long; a UNIX socket takes at most "
			    "%zu",
			    key, strlen(copy + prefix), sock_max);
		free(copy);
		return -EINVAL;
	}
	free(config_value_text(o, conf));
	put_text(o, conf, copy);
	return 0;
}

int config_value_store(struct config_loader *l, const config_setting_t *s, const char *key,
		       const struct opt *o, void *conf)
{
	char *field = (char *)conf + o->offset;
	struct diag why = { "" };
	union value v = { 0 };
	int err;

	if (parse(s, o, &v) < 0)
		return wrong_type(l, s, key, o);
	err = check_range(l, s, key, o, &v);
	if (err)
		return err;
	switch (o->type) {
	case OPT_BOOL:
		*(bool *)field = v.b;
		break;
	case OPT_INT:
		*(int64_t *)field = v.i;
		break;
	case OPT_SIZE:
		*(uint64_t *)field = v.u;
		break;
	case OPT_CHOICE:
		*(int *)field = v.choice;
		break;
	case OPT_STRING:
	case OPT_PATH:
	case OPT_CHARDEV:
	case OPT_SOCKET:
		err = store_text(l, s, key, o, v.s, conf);
		if (err)
			return err;
		break;
	}
	err = o->check ? o->check(conf, &why) : 0;
	if (err)
		return config_fail(l, s, err, "%s %s", key, why.text);
	return 0;
}
