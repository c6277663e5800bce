/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring_index.c - registers in which a function says where each of its queues stands, and is told
 * where to begin (--ring-index): as some vendors' cards have them in BAR 4, of which none of virtio
 * knows. One word per queue, the index in the available ring in its low half and that in the used
 * ring in its high half. Main thread.
 *
 * As with those cards a word is true only while the queue is disabled: for that the driver clears
 * queue_enable and waits until it reads 0. Of a queue that is enabled the word says where it began.
 */
#include "function.h"

#define WORDS_AT    0x20
#define PAIR_STRIDE 0x40

/* Pairs of a card share a block; each queue of a disk has one. */
static uint64_t place(const struct function *f, unsigned int q)
{
	if (f->v->device_id == VIRTIO_ID_NET)
		return WORDS_AT + q / 2 * PAIR_STRIDE + q % 2 * sizeof(uint32_t);
	return WORDS_AT + (uint64_t)q * PAIR_STRIDE;
}

/* The queue whose word this is; nqueues: none's. */
static unsigned int queue_at(const struct function *f, uint64_t off, unsigned int len)
{
	unsigned int q = 0;

	while (q < f->v->nqueues && (len != sizeof(uint32_t) || place(f, q) != off))
		q++;
	return q;
}

uint32_t fn_index_read(const struct function *f, uint64_t off, unsigned int len)
{
	unsigned int q = queue_at(f, off, len);

	return q < f->v->nqueues ? f->ring_words[q] : 0;
}

void fn_index_write(struct function *f, uint64_t off, unsigned int len, uint32_t value)
{
	unsigned int q = queue_at(f, off, len);

	if (q < f->v->nqueues && !f->v->queues[q].enabled)
		f->ring_words[q] = value;
}

/* What was taken has been given back, or is in no ring any more: both indexes are one. */
void fn_index_stopped(struct function *f, unsigned int q)
{
	struct vdev_queue *queue = &f->v->queues[q];

	queue->enabled = false;
	f->ring_words[q] = queue->index | (uint32_t)queue->index << 16;
}

bool fn_index_start(struct function *f, unsigned int q)
{
	uint32_t word = f->ring_words[q];

	if (word >> 16 != (word & 0xffff))
		return false;
	f->v->queues[q].index = (uint16_t)word;
	return true;
}
