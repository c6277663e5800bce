/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timer.h - a timer as a descriptor for a loop (loop_add() with POLLIN): CLOCK_MONOTONIC, once.
 *
 * Thread: any; who arms a timer on one thread and hears it on another has a lock for both. Nothing
 * here blocks.
 */
#ifndef UNVMM_TIMER_H
#define UNVMM_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#include <unvmm/compiler.h>

/* A timer that is not armed, close-on-exec; or -errno. */
int timer_open(void) must_check;
/* It rings ms from now, and not as it was armed before. 0: not at all. */
void timer_arm(int fd, uint64_t ms);
/* Has it rung since it was armed? True once. What the loop saw may not be true any more. */
bool timer_rang(int fd) must_check;

/* CLOCK_MONOTONIC in milliseconds; loop_now() has it in nanoseconds. */
uint64_t timer_now_ms(void);

#endif
