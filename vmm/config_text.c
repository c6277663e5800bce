/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_text.c - the text of a configuration file before libconfig sees it, and libconfig's syntax
 * errors as sentences. Runs on main, before the machine exists.
 *
 * libconfig 1.5 cuts plain integers to 32 bits without a word (memory = 5368709120 would be 1 GiB),
 * ends texts at "\x00", opens whatever file @include names, and looks for a forgotten quote up to
 * the end of the file. A scan of the same tokens (comments, texts, names, numbers) comes first.
 */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config_internal.h"

struct scan {
	struct config_loader *l;
	const char *p, *end;
	unsigned int line;
};

static int scan_fail(struct scan *s, const char *fmt, ...) printf_like(2, 3);
static int scan_fail(struct scan *s, const char *fmt, ...)
{
	config_setting_t at = { .line = s->line };
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return config_fail(s->l, &at, -EINVAL, "%s", text);
}

static bool starts_with(const struct scan *s, const char *word)
{
	size_t n = strlen(word);

	return (size_t)(s->end - s->p) >= n && !memcmp(s->p, word, n);
}

static char at(const struct scan *s)
{
	return s->p < s->end ? *s->p : '\0';
}

static int skip_comment(struct scan *s)
{
	struct scan begin = *s;

	for (s->p += 2; s->p < s->end; s->p++) {
		if (starts_with(s, "*/")) {
			s->p += 2;
			return 0;
		}
		s->line += *s->p == '\n';
	}
	return scan_fail(&begin, "the comment that begins here is not closed by */");
}

/* Texts may not go over a line's end, so that a missing quote is found on its own line. */
static int skip_quoted(struct scan *s)
{
	for (s->p++; at(s) != '"'; s->p++) {
		if (s->p == s->end || *s->p == '\n')
			return scan_fail(s,
					 "a text has no closing quote on its line; a long one is "
					 "written as \"one \" \"two\", a line's end as \\n");
		if (starts_with(s, "\\x00") || starts_with(s, "\\X00"))
			return scan_fail(s, "a text may not contain \\x00");
		if (*s->p == '\\' && s->p + 1 < s->end && s->p[1] != '\n')
			s->p++;
	}
	s->p++;
	return 0;
}

static int check_number(struct scan *s)
{
	bool hex = starts_with(s, "0x") || starts_with(s, "0X");
	const char *first = s->p;
	uint64_t n = 0;
	bool huge = false, wide;

	for (s->p += hex ? 2 : 0; hex ? isxdigit((unsigned char)at(s)) : isdigit(at(s)); s->p++) {
		unsigned int digit = isdigit(at(s)) ? (unsigned int)(at(s) - '0')
						    : (unsigned int)((at(s) & ~0x20) - 'A' + 10);

		huge |= __builtin_mul_overflow(n, hex ? 16 : 10, &n) ||
			__builtin_add_overflow(n, digit, &n);
	}
	wide = at(s) == 'L';
	if (!hex && (at(s) == '.' || (at(s) & ~0x20) == 'E')) {
		/* A floating-point number: no key takes one, the tree walk says so. */
		for (s->p++; isdigit(at(s)) || at(s) == '-' || at(s) == '+';)
			s->p++;
		return 0;
	}
	if (huge || n > INT64_MAX)
		return scan_fail(s, "the number %.*s does not fit 64 bits",
				 s->p - first > 40 ? 40 : (int)(s->p - first), first);
	if (!wide && n > INT32_MAX)
		return scan_fail(s,
				 "%.*s is more than a plain number of the file format holds; "
				 "append an L (%.*sL) or use a unit in quotes (\"6G\")",
				 (int)(s->p - first), first, (int)(s->p - first), first);
	return 0;
}

static int check_line_start(struct scan *s)
{
	while (at(s) == ' ' || at(s) == '\t')
		s->p++;
	if (starts_with(s, "@include"))
		return scan_fail(s, "@include is not supported; put everything into this file");
	return 0;
}

static int check_token(struct scan *s)
{
	if (*s->p == '\n') {
		s->line++;
		s->p++;
		return check_line_start(s);
	}
	if (*s->p == '#' || starts_with(s, "//")) {
		while (s->p < s->end && *s->p != '\n')
			s->p++;
		return 0;
	}
	if (starts_with(s, "/*"))
		return skip_comment(s);
	if (*s->p == '"')
		return skip_quoted(s);
	if (isdigit((unsigned char)*s->p))
		return check_number(s);
	if (isalpha((unsigned char)*s->p) || *s->p == '*') {
		while (isalnum((unsigned char)at(s)) || (at(s) && strchr("-_*", at(s))))
			s->p++;
		return 0;
	}
	s->p++;
	return 0;
}

int config_text_check(struct config_loader *l, const char *text, size_t len)
{
	struct scan s = { .l = l, .p = text, .end = text + len, .line = 1 };
	const char *nul = memchr(text, '\0', len);
	int err;

	if (nul) {
		for (; s.p < nul; s.p++)
			s.line += *s.p == '\n';
		return scan_fail(&s, "there is a NUL byte; the file must be text");
	}
	if (len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
		return scan_fail(&s, "the file begins with a byte order mark; save it without one");
	err = check_line_start(&s);
	while (!err && s.p < s.end)
		err = check_token(&s);
	return err;
}

/* Line `line` of the text without the blanks around it. */
static const char *find_line(const char *text, size_t len, unsigned int line, size_t *out_len)
{
	const char *end = text + len, *nl;

	while (--line && (nl = memchr(text, '\n', (size_t)(end - text))))
		text = nl + 1;
	nl = memchr(text, '\n', (size_t)(end - text));
	if (nl)
		end = nl;
	while (text < end && isspace((unsigned char)*text))
		text++;
	while (text < end && isspace((unsigned char)end[-1]))
		end--;
	*out_len = (size_t)(end - text);
	return text;
}

int config_text_refused(struct config_loader *l, const char *text, size_t len)
{
	const char *why = config_error_text(&l->tree);
	config_setting_t at = { .line = (unsigned int)config_error_line(&l->tree) };
	const char *line;
	size_t n;

	if (at.line == 0)
		at.line = 1;
	if (why && strstr(why, "duplicate"))
		return config_fail(l, &at, -EINVAL,
				   "this key was set before in the same group; "
				   "keep one of the two");
	if (why && strstr(why, "memory exhausted"))
		return config_fail(l, &at, -EINVAL, "lists or groups are nested too deeply");
	if (why && strstr(why, "mismatched"))
		return config_fail(l, &at, -EINVAL,
				   "the elements of an array differ in type; no "
				   "key takes an array, lists are written in ( )");
	line = find_line(text, len, at.line, &n);
	if (!n)
		return config_fail(l, &at, -EINVAL,
				   "the file ends in the middle of a setting; a "
				   "value or a bracket is missing above");
	return config_fail(l, &at, -EINVAL,
			   "syntax error in or before '%.*s%s'; a setting looks "
			   "like kernel = \"vmlinuz\";",
			   n > 60 ? 60 : (int)n, line, n > 60 ? "..." : "");
}
