/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_ring.c - rings as a hostile driver may write them, through vq_pop() and the cursors.
 * Whatever they hold: no iovec leaves guest memory, lengths and counts are bounded, the index never
 * runs away.
 *
 * Input: size (log2), features, start index (2 bytes, little endian), available entries, then the
 * guest's memory from address 0: descriptor table, available ring, used ring, the rest.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <unvmm/vq.h>

#define RAM	   MiB(16)
#define SIZE_MAX_2 6 /* log2: small rings, so that inputs stay small */
#define HEADER	   5
#define COPY_MAX   64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct gmem *memory(void)
{
	static struct gmem mem;

	if (!mem.base && gmem_create(&mem, RAM, false, NULL))
		abort();
	return &mem;
}

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void check_part(const struct gmem *mem, const struct vq_bytes *b)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < b->n; i++) {
		must(b->iov[i].iov_len > 0);
		must(gmem_ptr(mem, b->gpa[i], b->iov[i].iov_len) == b->iov[i].iov_base);
		sum += b->iov[i].iov_len;
	}
	must(sum == b->len);
}

/* Uses a chain as a device does: header in, payload out, a byte at the end. */
static void use_chain(struct vq *q, const struct vq_chain *c)
{
	struct vq_bytes out = vq_out(c), in = vq_in(c);
	uint8_t buf[COPY_MAX] = { 0 };
	uint64_t len;

	check_part(q->mem, &out);
	check_part(q->mem, &in);
	must(c->out_len + c->in_len <= UINT32_MAX);
	must(c->nout + c->nin <= c->cap && c->nout + c->nin > 0);
	vq_mark_written(q, c, in.len);
	len = out.len;
	must(vq_read(&out, buf, 16) == (len >= 16));
	check_part(q->mem, &out);
	vq_trim(&in, 1);
	check_part(q->mem, &in);
	len = in.len;
	must(vq_write(q, &in, buf, COPY_MAX) == (len >= COPY_MAX));
	vq_skip(&in, UINT64_MAX);
	must(in.len == 0 && in.n == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gmem *mem = memory();
	struct vq_layout layout = { 0 };
	uint64_t features = 0;
	uint16_t index, n;
	struct vq_chain c = { 0 };
	struct vq q;
	int ret;

	if (size < HEADER || size > HEADER + 65536)
		return 0;
	n = (uint16_t)(1u << data[0] % (SIZE_MAX_2 + 1));
	features |= data[1] & 1 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0;
	features |= data[1] & 2 ? 1ull << VIRTIO_RING_F_INDIRECT_DESC : 0;
	index = (uint16_t)(data[2] | data[3] << 8);
	layout.size = n;
	layout.avail = n * sizeof(struct vring_desc);
	layout.used = align_up(layout.avail + 6 + n * 2u, 4);
	memset(mem->base, 0, 65536 * 2);
	memcpy(mem->base, data + HEADER, size - HEADER);
	must(vq_start(&q, mem, &layout, features, index) == 0);
	/* Otherwise nearly every input ends with an index that is too far ahead. */
	if (data[4])
		q.avail_ring->idx = (uint16_t)(index + data[4] % (n + 2));

	/* On the heap and as long as the ring, so that a sanitizer sees one entry too many. */
	c.cap = n;
	c.iov = malloc(n * sizeof(*c.iov));
	c.gpa = malloc(n * sizeof(*c.gpa));
	must(c.iov && c.gpa);
	vq_disable_kicks(&q);
	for (unsigned int popped = 0; (ret = vq_pop(&q, &c)) == 1; popped++) {
		must(popped < 4u * n && q.outstanding <= n);
		if (popped % (unsigned int)n == (unsigned int)n - 1) { /* the pass is over */
			must(vq_pop(&q, &c) <= 0);
			vq_begin(&q);
		}
		use_chain(&q, &c);
		if (popped % 3) { /* some stay under way */
			vq_push(&q, c.head, 1);
			(void)!vq_publish(&q);
		}
		if (popped == 4u * n - 1) /* writes to the ring itself may keep it going */
			break;
	}
	must(ret == 1 || ret == 0 || q.why);
	(void)!vq_enable_kicks(&q);
	vq_stop(&q);
	free(c.iov);
	free(c.gpa);
	return 0;
}
