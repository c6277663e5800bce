/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.c - groups and lists of values, kept as json-c objects. The caller's thread.
 */
#include <unvmm/report.h>

#include <assert.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct json_object *report_begin(struct report *r)
{
	r->open[0] = json_object_new_object();
	r->depth = r->open[0] ? 1 : 0;
	return r->open[0];
}

static void put(struct report *r, const char *key, struct json_object *value)
{
	struct json_object *in = r->depth ? r->open[r->depth - 1] : NULL;
	int err;

	if (!value)
		return;
	if (!in) /* its group did not come to be */
		err = -1;
	else if (key)
		err = json_object_object_add(in, key, value);
	else
		err = json_object_array_add(in, value);
	if (err)
		json_object_put(value);
}

void report_number(struct report *r, const char *key, uint64_t value)
{
	put(r, key, json_object_new_uint64(value));
}

void report_flag(struct report *r, const char *key, bool value)
{
	put(r, key, json_object_new_boolean(value));
}

void report_text(struct report *r, const char *key, const char *fmt, ...)
{
	char *text;
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (len < 0)
		return;
	put(r, key, json_object_new_string_len(text, len));
	free(text);
}

static void descend(struct report *r, const char *key, struct json_object *child)
{
	assert(r->depth < REPORT_DEPTH);
	put(r, key, json_object_get(child));
	/* Alive as long as its parent holds it; NULL if the parent could not. */
	if (child && json_object_put(child))
		child = NULL;
	r->open[r->depth++] = child;
}

void report_group(struct report *r, const char *key)
{
	descend(r, key, json_object_new_object());
}

void report_list(struct report *r, const char *key)
{
	descend(r, key, json_object_new_array());
}

void report_close(struct report *r)
{
	assert(r->depth > 1);
	r->depth--;
}
