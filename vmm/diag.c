/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diag.c - builds the one sentence that a failed cold path reports. No state; any thread.
 */
#include <unvmm/diag.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void diag_clean(char *text)
{
	for (unsigned char *p = (unsigned char *)text; *p; p++) {
		bool c1 = *p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0;

		if (*p < 0x20 || *p == 0x7f || c1)
			*p = '?';
		if (c1)
			*++p = '?';
	}
}

int diag_set(struct diag *d, int err, const char *fmt, ...)
{
	va_list ap;

	if (!d || d->text[0])
		return err;
	va_start(ap, fmt);
	vsnprintf(d->text, sizeof(d->text), fmt, ap);
	va_end(ap);
	diag_clean(d->text);
	return err;
}

int diag_errno(struct diag *d, int err, const char *fmt, ...)
{
	size_t used;
	va_list ap;

	if (!d || d->text[0])
		return err;
	va_start(ap, fmt);
	vsnprintf(d->text, sizeof(d->text), fmt, ap);
	va_end(ap);
	used = strlen(d->text);
	snprintf(d->text + used, sizeof(d->text) - used, ": %s%s", strerror(-err),
		 err == -EMFILE ? " (\"ulimit -n\" tells how many, and raises it)" : "");
	diag_clean(d->text);
	return err;
}

void diag_prefix(struct diag *d, const char *fmt, ...)
{
	char old[sizeof(d->text)];
	size_t used;
	va_list ap;

	if (!d)
		return;
	memcpy(old, d->text, sizeof(old));
	va_start(ap, fmt);
	vsnprintf(d->text, sizeof(d->text), fmt, ap);
	va_end(ap);
	used = strlen(d->text);
	snprintf(d->text + used, sizeof(d->text) - used, ": %.*s", (int)(sizeof(old) - 1), old);
	diag_clean(d->text);
}
