/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_sample.c - a device that exists for its state table only. Runs on the test's thread.
 */
#include <errno.h>
#include <string.h>

#include "state_sample.h"

static int queue_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct sample_queue *q = scratch;

	(void)live;
	if (q->size > 1024)
		return diag_set(d, -EINVAL, "size is %u, must be at most 1024", q->size);
	return 0;
}

static const struct state_field queue_fields[] = {
	STATE_SCALAR(STATE_U64, struct sample_queue, addr),
	STATE_SCALAR(STATE_U16, struct sample_queue, size),
	STATE_SCALAR(STATE_BOOL, struct sample_queue, enabled),
};

static const struct state_desc queue_desc = {
	.name = "queue",
	.version = 1,
	.obj_size = sizeof(struct sample_queue),
	.fields = queue_fields,
	.nfields = ARRAY_SIZE(queue_fields),
	.validate = queue_validate,
};

static bool extra_needed(const void *obj)
{
	return ((const struct sample *)obj)->flag;
}

static int sample_pre_save(void *obj)
{
	((struct sample *)obj)->saves++;
	return 0;
}

static int sample_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct sample *s = scratch, *l = live;

	if (s->not_state || s->saves)
		return diag_set(d, -EINVAL, "the scratch object is not empty outside of the table");
	if (s->u32 > l->max_u32)
		return diag_set(d, -EINVAL, "u32 is %u, must be at most %u", s->u32, l->max_u32);
	return 0;
}

static int sample_post_load(void *obj, struct diag *d)
{
	(void)d;
	((struct sample *)obj)->loads++;
	return 0;
}

#define SAMPLE_FIELDS_HEAD                                                                        \
	STATE_SCALAR(STATE_BOOL, struct sample, flag), STATE_SCALAR(STATE_U8, struct sample, u8), \
		STATE_SCALAR(STATE_U16, struct sample, u16),                                      \
		STATE_SCALAR(STATE_U32, struct sample, u32),                                      \
		STATE_SCALAR(STATE_U64, struct sample, u64), STATE_RAW(struct sample, mem),       \
		STATE_SCALAR_CHECK(STATE_U32, struct sample, model),                              \
		STATE_FIELD_(STATE_BYTES, struct sample, key, 1, 4, STATE_CHECK),                 \
	{                                                                                         \
		.name = "extra", .kind = STATE_U32, .offset = offsetof(struct sample, extra),     \
		.size = 4, .count = 1, .needed = extra_needed                                     \
	}
#define SAMPLE_FIELD_NEWER                                                                    \
	{                                                                                     \
		.name = "newer", .kind = STATE_U64, .offset = offsetof(struct sample, newer), \
		.size = 8, .count = 1, .since = 3                                             \
	}
#define SAMPLE_FIELDS_TAIL                                                                     \
	STATE_SCALAR(STATE_U16, struct sample, tail),                                          \
		STATE_ARRAY(struct sample, queues, queue_desc),                                \
	{                                                                                      \
		.name = "last", .kind = STATE_STRUCT, .offset = offsetof(struct sample, last), \
		.size = sizeof(struct sample_queue), .count = 1, .child = &queue_desc          \
	}

static const struct state_field fields_v3[] = { SAMPLE_FIELDS_HEAD, SAMPLE_FIELD_NEWER,
						SAMPLE_FIELDS_TAIL };
static const struct state_field fields_old[] = { SAMPLE_FIELDS_HEAD, SAMPLE_FIELDS_TAIL };

#define SAMPLE_DESC(v, f)                                                             \
	{                                                                             \
		.name = "sample", .version = (v), .obj_size = sizeof(struct sample),  \
		.fields = (f), .nfields = ARRAY_SIZE(f), .pre_save = sample_pre_save, \
		.validate = sample_validate, .post_load = sample_post_load            \
	}

const struct state_desc sample_desc = SAMPLE_DESC(3, fields_v3);
const struct state_desc sample_desc_v2 = SAMPLE_DESC(2, fields_old);
const struct state_desc sample_desc_v1 = SAMPLE_DESC(1, fields_old);

void sample_init(struct sample *s)
{
	*s = (struct sample){
		.flag = true,
		.u8 = 0x81,
		.u16 = { 0x1234, 0xffff, 1 },
		.u32 = 0xdeadbe,
		.u64 = 0x0123456789abcdef,
		.model = 7,
		.key = { 1, 2, 3, 4 },
		.extra = 0x55aa55aa,
		.newer = 0xfedcba9876543210,
		.tail = { 3, 4 },
		.last = { .addr = 0x9000, .size = 9, .enabled = true },
		.max_u32 = 0xffffff,
	};
	for (unsigned int i = 0; i < sizeof(s->mem); i++)
		s->mem[i] = (uint8_t)(i * 7 + 1);
	for (unsigned int i = 0; i < ARRAY_SIZE(s->queues); i++)
		s->queues[i] = (struct sample_queue){ .addr = (i + 1) << 12,
						      .size = (uint16_t)(i + 100),
						      .enabled = i == 1 };
}
