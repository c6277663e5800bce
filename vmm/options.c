/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.c - what the commands' command lines have in common; see options.h. Main thread.
 */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

int options_refused(int val, char **argv, const struct option *longs, struct diag *d)
{
	const char *name = NULL;

	for (; longs->name && !name; longs++)
		if (optopt && longs->val == optopt)
			name = longs->name;
	if (val == ':' && name)
		return diag_set(d, -EINVAL, "--%s needs a value", name);
	if (val == ':')
		return diag_set(d, -EINVAL, "-%c needs a value", optopt);
	if (name)
		return diag_set(d, -EINVAL, "--%s takes no value", name);
	if (optopt > 0 && optopt <= 0xff)
		return diag_set(d, -EINVAL, "there is no switch -%c", optopt);
	return diag_set(d, -EINVAL, "there is no switch %.60s", argv[optind - 1]);
}

int options_time(const struct options_time *t, const char *text, uint64_t *ms, struct diag *d)
{
	char *end;
	double v = strtod(text, &end);

	/* A digit or a point first: no blank, sign, "inf" or "nan". */
	if ((!isdigit((unsigned char)*text) && *text != '.') || *end || end == text || v > t->max ||
	    (!t->zero && v <= 0))
		return diag_set(d, -EINVAL,
				"--%s %.40s: it must be a number of %s%s, at most %.0f, for "
				"example %s",
				t->name, text, t->milliseconds ? "milliseconds" : "seconds",
				t->zero ? "" : " above 0", t->max,
				t->milliseconds ? "300" : "60 or 2.5");
	*ms = (uint64_t)(t->milliseconds ? v + 0.5 : v * 1000 + 0.5);
	if (!*ms && v > 0)
		*ms = 1; /* 0 may mean no limit */
	return 0;
}

int options_short_time(const struct options_time *t, const char *text, unsigned int *ms,
		       struct diag *d)
{
	uint64_t v;
	int err = options_time(t, text, &v, d);

	if (!err)
		*ms = (unsigned int)v;
	return err;
}
