/* SPDX-License-Identifier: Apache-2.0 */
/*
 * print.c - the 16550 by polling, a small printf, and the exit-status port.
 */
#include "guest.h"

#include <stdarg.h>

#include <unvmm/platform.h>

#include "io.h"

#define LSR	 (PLAT_SERIAL_PORT + 5)
#define LSR_THRE 0x20

static void put(char c)
{
	while (!(io_in8(LSR) & LSR_THRE))
		io_relax();
	io_out8(PLAT_SERIAL_PORT, (uint8_t)c);
}

static void put_number(unsigned long long v, unsigned int base, unsigned int width, char fill)
{
	char digits[24];
	unsigned int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	for (; width > n; width--)
		put(fill);
	while (n)
		put(digits[--n]);
}

/* Length modifiers: 0 for int and below, 1 for the 64-bit ones. */
static bool length_of(const char **fmt)
{
	bool wide = false;

	for (; **fmt == 'l' || **fmt == 'z' || **fmt == 'h'; ++*fmt)
		wide = **fmt != 'h';
	return wide;
}

static void print_list(const char *fmt, va_list ap)
{
	for (; *fmt; fmt++) {
		unsigned int width = 0;
		char fill = ' ';
		bool wide;

		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		fmt++;
		if (*fmt == '0')
			fill = '0';
		for (; *fmt >= '0' && *fmt <= '9'; fmt++)
			width = width * 10 + (unsigned int)(*fmt - '0');
		wide = length_of(&fmt);
		if (*fmt == 's') {
			for (const char *s = va_arg(ap, const char *); *s; s++)
				put(*s);
		} else if (*fmt == 'c') {
			put((char)va_arg(ap, int));
		} else if (*fmt == 'd') {
			long long v = wide ? va_arg(ap, long long) : va_arg(ap, int);

			if (v < 0)
				put('-');
			put_number(v < 0 ? -(unsigned long long)v : (unsigned long long)v, 10,
				   width, fill);
		} else if (*fmt == 'u' || *fmt == 'x') {
			put_number(wide ? va_arg(ap, unsigned long long) : va_arg(ap, unsigned int),
				   *fmt == 'u' ? 10 : 16, width, fill);
		} else {
			put(*fmt);
		}
	}
}

void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	print_list(fmt, ap);
	va_end(ap);
}

void guest_exit(uint8_t status)
{
	io_out8(PLAT_EXIT_PORT, status);
	for (;;) /* a machine without that port: the caller's timeout ends it */
		io_relax();
}

/* --- verdicts ------------------------------------------------------------------------------- */

#define FAILURES_SHOWN 20

static struct {
	unsigned int checks, failures, skips;
	const char *group;
} test = { .group = "" };

static void failure(const char *fmt, va_list ap)
{
	if (test.failures++ >= FAILURES_SHOWN)
		return;
	print("FAIL %s: ", test.group);
	print_list(fmt, ap);
	print("\r\n");
}

bool test_check(bool ok, const char *fmt, ...)
{
	va_list ap;

	test.checks++;
	if (ok)
		return true;
	va_start(ap, fmt);
	failure(fmt, ap);
	va_end(ap);
	return false;
}

void test_group(const char *name)
{
	test.group = name;
	print("  %s\r\n", name);
}

void test_skip(const char *reason)
{
	test.skips++;
	print("SKIP %s: %s\r\n", test.group, reason);
}

void test_finish(void)
{
	if (test.failures) {
		print("FAIL %u of %u checks\r\n", test.failures, test.checks);
		guest_exit(1);
	}
	if (!test.checks) {
		print("FAIL nothing was checked\r\n");
		guest_exit(1);
	}
	print("PASS %u checks, %u skipped\r\n", test.checks, test.skips);
	guest_exit(0);
}

void test_abort(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	failure(fmt, ap);
	va_end(ap);
	print("FAIL gave up\r\n");
	guest_exit(1);
}
