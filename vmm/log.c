/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.c - operator messages on stderr. The level and the name are set once by main before any
 * thread starts; they are the only mutable globals besides main.c's. Any thread.
 */
#include <unvmm/diag.h>
#include <unvmm/log.h>

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LOG_BURST   10
#define LOG_WAIT_MS 100

static enum log_level log_max = LOG_WARN;
static const char *log_name = "unvmm";

void log_set_level(enum log_level max)
{
	log_max = max;
}

void log_set_name(const char *name)
{
	log_name = name;
}

/*
 * Would a write of a line go through? The caller may hold the control lock, and the reader, often
 * the same as the console's, may have stopped. A pipe that polls as writable takes a whole line.
 */
static bool log_writable(void)
{
	static bool stuck;
	struct pollfd pfd = { .fd = STDERR_FILENO, .events = POLLOUT };
	bool was_stuck = __atomic_load_n(&stuck, __ATOMIC_RELAXED);
	bool now_stuck = poll(&pfd, 1, was_stuck ? 0 : LOG_WAIT_MS) == 0;

	if (now_stuck != was_stuck)
		__atomic_store_n(&stuck, now_stuck, __ATOMIC_RELAXED);
	return !now_stuck;
}

static void printf_like(2, 0) log_vmsg(enum log_level level, const char *fmt, va_list ap)
{
	static const char *const word[] = { "", "warning: ", "", "debug: " };
	int saved = errno, n;
	char line[1024];

	n = snprintf(line, sizeof(line), "%s: %s", log_name, word[level]);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	diag_clean(line);
	line[n++] = '\n';
	if (log_writable() && write(STDERR_FILENO, line, (size_t)n) < 0) {
		/* Nobody is left to be told. */
	}
	errno = saved;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	if (level > log_max)
		return;
	va_start(ap, fmt);
	log_vmsg(level, fmt, ap);
	va_end(ap);
}

void log_notice(const char *fmt, ...)
{
	va_list ap;

	if (log_max < LOG_WARN)
		return;
	va_start(ap, fmt);
	log_vmsg(LOG_INFO, fmt, ap);
	va_end(ap);
}

void log_limited(struct log_limit *l, enum log_level level, const char *fmt, ...)
{
	struct timespec ts;
	uint64_t now, refill;
	va_list ap;

	if (level > log_max)
		return;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
	refill = (now - l->last_ms) / 1000;
	if (refill) {
		l->tokens_used = refill >= l->tokens_used ? 0 : l->tokens_used - refill;
		l->last_ms = now;
	}
	if (l->tokens_used >= LOG_BURST) {
		l->dropped++;
		return;
	}
	l->tokens_used++;
	if (l->dropped) {
		log_msg(level, "%" PRIu64 " messages of the same kind were left out", l->dropped);
		l->dropped = 0;
	}
	va_start(ap, fmt);
	log_vmsg(level, fmt, ap);
	va_end(ap);
}
