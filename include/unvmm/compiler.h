/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compiler.h - the few language helpers that every file may use.
 * No state, no functions with side effects; any thread.
 */
#ifndef UNVMM_COMPILER_H
#define UNVMM_COMPILER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define must_check	  __attribute__((warn_unused_result))
#define printf_like(f, a) __attribute__((format(printf, f, a)))
#define noreturn_fn	  __attribute__((noreturn))

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define KiB(n) ((uint64_t)(n) << 10)
#define MiB(n) ((uint64_t)(n) << 20)
#define GiB(n) ((uint64_t)(n) << 30)

#define PAGE_SIZE_4K 4096u

/* Both need a power of two as their second argument; align_up overflows silently near the top. */
#define align_down(x, a) ((x) & ~((__typeof__(x))(a)-1))
#define align_up(x, a)	 align_down((x) + ((__typeof__(x))(a)-1), a)

static inline bool is_power_of_2(uint64_t x)
{
	return x != 0 && (x & (x - 1)) == 0;
}

/* True when [addr, addr + len) neither wraps nor leaves [base, base + size). len 0 is inside. */
static inline bool range_within(uint64_t addr, uint64_t len, uint64_t base, uint64_t size)
{
	return addr >= base && len <= size && addr - base <= size - len;
}

/* True when the two ranges share a byte. Neither may wrap. */
static inline bool ranges_overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return alen && blen && a < b + blen && b < a + alen;
}

#endif
