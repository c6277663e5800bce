/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opt.c - options of a micro-guest: words of the kernel command line, "flag" or "key=value"; and
 * the repeatable random numbers whose seed is one of them.
 */
#include "guest.h"

static const char *cmdline = "";

void opt_init(const char *text)
{
	cmdline = text;
}

static bool is_end(char c)
{
	return !c || c == ' ' || c == '\t' || c == '\n';
}

/* The text behind "key=", or behind a bare "key"; NULL if key is not there. */
static const char *find(const char *key)
{
	size_t n = strlen(key);

	for (const char *p = cmdline; *p;) {
		if (!memcmp(p, key, n) && p[n] == '=')
			return p + n + 1;
		if (!memcmp(p, key, n) && is_end(p[n]))
			return p + n;
		while (!is_end(*p))
			p++;
		while (*p && is_end(*p))
			p++;
	}
	return NULL;
}

uint64_t opt_number(const char *key, uint64_t dflt)
{
	const char *p = find(key);
	unsigned int base = 10;
	uint64_t v = 0;

	if (!p || is_end(*p))
		return dflt;
	if (p[0] == '0' && p[1] == 'x') {
		base = 16;
		p += 2;
	}
	for (; !is_end(*p); p++) {
		unsigned int c = (unsigned char)*p, d;

		d = c >= 'a' ? c - 'a' + 10 : c - '0';
		if (d >= base)
			test_abort("option %s: not a number", key);
		v = v * base + d;
	}
	return v;
}

bool opt_flag(const char *key)
{
	return find(key) && opt_number(key, 1);
}

bool opt_string(const char *key, char *out, size_t size)
{
	const char *p = find(key);
	size_t n = 0;

	if (!p)
		return false;
	for (; !is_end(*p) && n < size - 1; p++)
		out[n++] = *p;
	out[n] = 0;
	return true;
}

bool opt_has(const char *key, const char *item)
{
	const char *p = find(key);
	size_t n = strlen(item);

	while (p && !is_end(*p)) {
		if (!memcmp(p, item, n) && (p[n] == ',' || is_end(p[n])))
			return true;
		while (!is_end(*p) && *p != ',')
			p++;
		if (*p == ',')
			p++;
	}
	return false;
}

uint64_t rnd_hash(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

uint64_t rnd_next(struct rnd *r)
{
	r->state += 0x9e3779b97f4a7c15;
	return rnd_hash(r->state);
}

uint64_t rnd_below(struct rnd *r, uint64_t n)
{
	return rnd_next(r) % n;
}
