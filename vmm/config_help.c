/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_help.c - `unvmm run -o help`: every key with its type, range, default and one line of
 * help, printed from the tables that also read and check them. Runs on main.
 */
#include <stdlib.h>
#include <string.h>

#include "config_internal.h"

static void print_type(FILE *out, const struct opt *o)
{
	char a[24], b[24];
	unsigned int i;

	switch (o->type) {
	case OPT_BOOL:
		fputs("true or false", out);
		break;
	case OPT_INT:
		fputs("number", out);
		if (o->min != o->max)
			fprintf(out, " %lld to %lld", (long long)o->min, (long long)o->max);
		break;
	case OPT_SIZE:
		fputs("size", out);
		if (o->min != o->max)
			fprintf(out, " %s to %s", config_value_size((uint64_t)o->min, a),
				config_value_size((uint64_t)o->max, b));
		break;
	case OPT_STRING:
		fputs("text", out);
		if (o->max)
			fprintf(out, " of at most %lld bytes", (long long)o->max);
		break;
	case OPT_PATH:
		fputs("path", out);
		break;
	case OPT_CHARDEV:
		fputs("stdio, none, file:PATH, unix:PATH, pty or pty:PATH", out);
		break;
	case OPT_SOCKET:
		fputs("unix:PATH or none", out);
		break;
	case OPT_CHOICE:
		for (i = 0; o->choices[i]; i++)
			fprintf(out, "%s%s",
				!i		    ? ""
				: o->choices[i + 1] ? ", "
						    : " or ",
				o->choices[i]);
		break;
	}
}

static void print_default(FILE *out, const struct opt *o, const void *conf)
{
	const char *field = (const char *)conf + o->offset, *text;
	char size[24];

	if (o->required) {
		fputs("; required", out);
		return;
	}
	switch (o->type) {
	case OPT_BOOL:
		fprintf(out, "; default %s", *(const bool *)field ? "true" : "false");
		break;
	case OPT_INT:
		fprintf(out, "; default %lld", (long long)*(const int64_t *)field);
		break;
	case OPT_SIZE:
		fprintf(out, "; default %s", config_value_size(*(const uint64_t *)field, size));
		break;
	case OPT_CHOICE:
		fprintf(out, "; default %s", o->choices[*(const int *)field]);
		break;
	case OPT_STRING:
	case OPT_PATH:
	case OPT_CHARDEV:
	case OPT_SOCKET:
		text = config_value_text(o, conf);
		if (text && *text)
			fprintf(out, "; default %s", text);
		break;
	}
}

static void print_opts(FILE *out, const char *prefix, const struct opt *opts, unsigned int nopts,
		       const void *conf)
{
	unsigned int i;

	for (i = 0; i < nopts; i++) {
		fprintf(out, "  %s%s: %s (", prefix, opts[i].name,
			opts[i].help ? opts[i].help : "");
		print_type(out, &opts[i]);
		print_default(out, &opts[i], conf);
		fputs(")\n", out);
	}
}

static void print_class(FILE *out, const struct device_class *cls)
{
	void *conf = calloc(1, cls->conf_size ? cls->conf_size : 1);
	char prefix[64];

	if (!conf)
		return;
	if (cls->init_conf)
		cls->init_conf(conf);
	snprintf(prefix, sizeof(prefix), "%s%s.", cls->key, cls->list ? ".N" : "");
	if (cls->list)
		fprintf(out,
			"\n%s: a list of %s devices; N is 0, 1, ..., + (append) or -1 (last)\n",
			cls->key, cls->name);
	else
		fprintf(out, "\n%s: one %s device (true or false; default %s)\n", cls->key,
			cls->name, cls->by_default ? "true" : "false");
	print_opts(out, prefix, cls->opts, cls->nopts, conf);
	free(conf); /* the texts in it are the class's literals */
}

void config_print_keys(FILE *out, const struct device_class *const *classes, unsigned int nclasses)
{
	struct vm_config c;
	unsigned int i;

	if (config_defaults(&c))
		return;
	fputs("Keys of a configuration file and of -o key=value:\n", out);
	print_opts(out, "", config_machine_opts, config_machine_nopts, &c);
	for (i = 0; i < nclasses; i++)
		if (classes[i]->key)
			print_class(out, classes[i]);
	config_free(&c);
}
