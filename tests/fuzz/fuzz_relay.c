/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_relay.c - the relay of one queue between a hostile guest and a hostile function. The input
 * is a program: each pair of bytes changes a word of one of the rings, or has the relay do one
 * thing. What must hold whatever they do: the guest never gets a head that is not out, nor more
 * than it made available; nothing is touched outside of rings, descriptors and window.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "vf_relay.h"

#define SIZE  8u
#define DESC  MiB(1)
#define AVAIL (MiB(1) + 0x1000)
#define USED  (MiB(1) + 0x2000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct model {
	struct relay r;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	int out[SIZE]; /* heads that the relay took and has not given back */
	bool broken;
};

static void check(bool what)
{
	if (!what)
		abort();
}

static void take(struct model *m)
{
	uint16_t before = m->r.forwarded;
	int n = relay_forward(&m->r);

	m->broken |= n < 0;
	for (uint16_t i = before; i != m->r.forwarded; i++) {
		uint16_t head = m->r.fn_avail->ring[(uint16_t)(i - m->r.offset) & (SIZE - 1)];

		check(head < SIZE && !m->out[head]);
		m->out[head]++;
	}
}

static void give(struct model *m)
{
	uint16_t before = m->r.completed;
	int n = relay_complete(&m->r);

	m->broken |= n < 0;
	for (uint16_t i = before; i != m->r.completed; i++) {
		uint32_t head = m->used->ring[i & (SIZE - 1)].id;

		check(head < SIZE && m->out[head] == 1);
		m->out[head] = 0;
	}
	check(n < 0 || m->used->idx == m->r.completed || n == 0);
}

static void invariants(const struct model *m)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < SIZE; i++)
		n += (unsigned int)m->out[i];
	check(n == m->r.nout);
	check((uint16_t)(m->r.forwarded - m->r.completed) == n);
}

/* The guest's next request, as a good driver makes it; so that the fuzzer need not learn how. */
static void good_guest(struct model *m, uint8_t head)
{
	m->avail->ring[m->avail->idx & (SIZE - 1)] = head % SIZE;
	m->avail->idx++;
}

static void good_function(struct model *m, uint8_t head)
{
	m->r.fn_used->ring[m->r.fn_used->idx & (SIZE - 1)].id = head % SIZE;
	m->r.fn_used->idx++;
}

static void step(struct model *m, uint8_t what, uint8_t value)
{
	uint8_t *window = (uint8_t *)m->r.fn_avail;

	switch (what % 12) {
	case 0:
		good_guest(m, value);
		break;
	case 1:
		good_function(m, value);
		break;
	case 2:
		take(m);
		break;
	case 3:
		give(m);
		break;
	case 4:
		(void)!relay_sleep(&m->r);
		break;
	case 5:
		(void)!relay_wants_kick(&m->r);
		(void)!relay_wants_interrupt(&m->r);
		break;
	case 6:
		m->r.fn_used->idx = (uint16_t)(m->r.fn_used->idx + (int8_t)value);
		break;
	case 7: /* any byte of the function's used ring */
		window[RELAY_USED_AT + value % 76] ^= what;
		break;
	case 8:
		m->avail->idx = (uint16_t)(m->avail->idx + (int8_t)value);
		break;
	case 9:
		((uint8_t *)m->avail)[value % 22] ^= what;
		break;
	case 10:
		((uint8_t *)m->desc)[value % 128] ^= what;
		break;
	default:
		relay_aim(&m->r, value & 1);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct vq_layout layout = {
		.size = SIZE, .desc = DESC, .avail = AVAIL, .used = USED
	};
	static struct gmem mem;
	static void *window;
	uint64_t features = VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC);
	struct model m = { 0 };
	struct diag d = { "" };
	uint16_t index;

	if (len < 3)
		return 0;
	if (!mem.size && (gmem_create(&mem, MiB(16), GMEM_PRIVATE, &d) || gmem_log_start(&mem) ||
			  posix_memalign(&window, PAGE_SIZE_4K, RELAY_BYTES)))
		abort();
	m.desc = gmem_ptr(&mem, DESC, PAGE_SIZE_4K);
	m.avail = gmem_ptr(&mem, AVAIL, PAGE_SIZE_4K);
	m.used = gmem_ptr(&mem, USED, PAGE_SIZE_4K);
	memset(m.desc, 0, PAGE_SIZE_4K);
	memset(m.avail, 0, PAGE_SIZE_4K);
	memset(m.used, 0, PAGE_SIZE_4K);
	memcpy(&index, data, sizeof(index));
	m.avail->idx = m.used->idx = index;
	if (data[2] & 1)
		features |= VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX);
	if (relay_start(&m.r, &mem, &layout, features, data[2] & 2, index, window))
		abort();
	for (size_t i = 3; i + 1 < len && !m.broken; i += 2) {
		step(&m, data[i], data[i + 1]);
		invariants(&m);
	}
	give(&m);
	relay_settle(&m.r);
	if (!m.broken)
		relay_return(&m.r);
	relay_leave(&m.r);
	return 0;
}
