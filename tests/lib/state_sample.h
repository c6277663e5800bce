/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_sample.h - a made-up device with a state table that uses everything that state.h offers,
 * for the unit test and the fuzz target of the walker. Thread: the test's.
 */
#ifndef UNVMM_TESTS_STATE_SAMPLE_H
#define UNVMM_TESTS_STATE_SAMPLE_H

#include <unvmm/state_io.h>

struct sample_queue {
	uint64_t addr;
	uint16_t size;
	bool enabled;
};

struct sample {
	void *not_state;
	bool flag;
	uint8_t u8;
	uint16_t u16[3];
	uint32_t u32;
	uint64_t u64;
	uint8_t mem[37];
	uint32_t model; /* CHECK */
	uint8_t key[4]; /* CHECK */
	uint32_t extra; /* only if flag */
	uint64_t newer; /* since version 3 */
	uint16_t tail[2];
	struct sample_queue queues[3];
	struct sample_queue last;
	uint32_t max_u32;	   /* what validate() compares u32 with; not state */
	unsigned int saves, loads; /* hooks called */
};

/* Versions 3 (current), 2 (the one before) and 1 of the same description. */
extern const struct state_desc sample_desc, sample_desc_v2, sample_desc_v1;

/* Fills in values of which no two are equal. */
void sample_init(struct sample *s);

#endif
