/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - messages to the operator, on stderr, one line each, "unvmm: <text>".
 *
 * Any thread; each line is one write(2), so lines never mix; control characters become "?". A
 * reader of stderr that has stopped holds the caller for 0.1 s, once, and then misses lines.
 * Messages that a guest, a device or a peer can cause at will go through log_limited().
 */
#ifndef UNVMM_LOG_H
#define UNVMM_LOG_H

#include <unvmm/compiler.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Levels above it are dropped; default LOG_WARN. Set once by main before threads start. */
void log_set_level(enum log_level max);

/* Word before the colon (default "unvmm"; "unvf" for that program). The pointer is kept. */
void log_set_name(const char *name);

void log_msg(enum log_level level, const char *fmt, ...) printf_like(2, 3);

#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)

/* What the operator needs to know of a guest that is well; not with --quiet. */
void log_notice(const char *fmt, ...) printf_like(1, 2);

/* A budget for one cause: LOG_BURST lines, refilled one per second. Zero-initialised is ready. */
struct log_limit {
	uint64_t tokens_used;
	uint64_t last_ms;
	uint64_t dropped;
};

/* Logs if the budget allows it, and says how many lines were dropped before. The caller's lock
 * protects the struct. */
void log_limited(struct log_limit *l, enum log_level level, const char *fmt, ...) printf_like(3, 4);

#endif
