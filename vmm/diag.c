/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diag.c - builds the one sentence that a failed cold path reports. No state; any thread.
 */
#include <unvmm/diag.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int diag_set(struct diag *d, int err, const char *fmt, ...)
{
	va_list ap;

	if (!d || d->text[0])
		return err;
	va_start(ap, fmt);
	vsnprintf(d->text, sizeof(d->text), fmt, ap);
	va_end(ap);
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
	snprintf(d->text + used, sizeof(d->text) - used, ": %s", strerror(-err));
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
}
