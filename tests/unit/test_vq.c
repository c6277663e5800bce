/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vq.c - the device side of a split ring against a driver that behaves, and against one that
 * breaks each rule of virtio 1.2, section 2.7, once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vq_driver.h"

#define SIZE	 8
#define BASE	 0x100000
#define HEAP	 0x40000
#define RAM	 MiB(16)
#define EVENT	 (1ull << VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT (1ull << VIRTIO_RING_F_INDIRECT_DESC)

static struct gmem mem;

struct fixture {
	struct vq_driver d;
	struct vq q;
	struct iovec iov[SIZE];
	gpa_t gpa[SIZE];
	struct vq_chain c;
};

static void set_up(struct fixture *f, uint64_t features, uint16_t index)
{
	memset(f, 0, sizeof(*f));
	vqd_init(&f->d, &mem, BASE, HEAP, SIZE, features);
	f->d.avail_idx = f->d.last_used = index;
	f->d.avail->idx = f->d.used->idx = index;
	assert_int_equal(vq_start(&f->q, &mem, &f->d.layout, features, index), 0);
	f->c = (struct vq_chain){ .cap = SIZE, .iov = f->iov, .gpa = f->gpa };
}

/* --- a driver that behaves ------------------------------------------------------------------- */

static void round_trip(uint64_t features, uint16_t index, bool indirect)
{
	struct fixture f;
	struct vring_used_elem e;

	set_up(&f, features, index);
	assert_int_equal(vq_pop(&f.q, &f.c), 0);
	for (int i = 0; i < 3 * SIZE; i++) {
		gpa_t out = vqd_alloc(&f.d, 64, 1), gap = vqd_alloc(&f.d, 1, 1);
		gpa_t in = vqd_alloc(&f.d, 128, 1);
		const struct vqd_buf bufs[] = { { out, 64, false }, { in, 128, true } };
		uint16_t head =
			indirect ? vqd_post_indirect(&f.d, bufs, 2) : vqd_post(&f.d, bufs, 2);

		(void)gap;
		vqd_show(&f.d);
		vq_begin(&f.q);
		assert_int_equal(vq_pop(&f.q, &f.c), 1);
		assert_int_equal(f.c.head, head);
		assert_int_equal(f.c.nout, 1);
		assert_int_equal(f.c.nin, 1);
		assert_int_equal(f.c.out_len, 64);
		assert_int_equal(f.c.in_len, 128);
		assert_ptr_equal(f.iov[0].iov_base, gmem_ptr(&mem, out, 64));
		assert_ptr_equal(f.iov[1].iov_base, gmem_ptr(&mem, in, 128));
		assert_int_equal(f.gpa[1], in);
		vq_push(&f.q, head, (uint32_t)i);
		assert_false(vqd_take(&f.d, &e)); /* not before it is published */
		(void)!vq_publish(&f.q);
		assert_true(vqd_take(&f.d, &e));
		assert_int_equal(e.id, head);
		assert_int_equal(e.len, i);
	}
	assert_int_equal(vq_pop(&f.q, &f.c), 0);
	assert_int_equal(f.q.outstanding, 0);
	vq_stop(&f.q);
}

static void chains_come_and_go(void **state)
{
	(void)state;
	round_trip(0, 0, false);
	round_trip(INDIRECT | EVENT, 0, true);
	round_trip(EVENT, 65530, false); /* the indexes wrap */
}

static void many_at_once_out_of_order(void **state)
{
	struct fixture f;
	struct vring_used_elem e;
	uint16_t heads[SIZE];

	(void)state;
	set_up(&f, 0, 0);
	for (int i = 0; i < SIZE; i++) {
		const struct vqd_buf b = { vqd_alloc(&f.d, 16, 1), 16, true };

		vqd_post(&f.d, &b, 1);
	}
	vqd_show(&f.d);
	for (int i = 0; i < SIZE; i++) {
		assert_int_equal(vq_pop(&f.q, &f.c), 1);
		heads[i] = f.c.head;
	}
	assert_int_equal(vq_pop(&f.q, &f.c), 0);
	for (int i = SIZE; i-- > 0;)
		vq_push(&f.q, heads[i], 1);
	assert_true(vq_publish(&f.q));
	assert_false(vq_publish(&f.q)); /* nothing new */
	for (int i = SIZE; i-- > 0;) {
		assert_true(vqd_take(&f.d, &e));
		assert_int_equal(e.id, heads[i]);
	}
}

/* Section 2.7.5.3.1: direct descriptors may come before the indirect one, which ends the chain. */
static void direct_then_indirect(void **state)
{
	struct fixture f;
	gpa_t table;
	struct vring_desc *t;

	(void)state;
	set_up(&f, INDIRECT, 0);
	table = vqd_alloc(&f.d, 32, 16);
	t = vqd_at(&f.d, table, 32);
	t[0] = (struct vring_desc){
		.addr = 0x2000, .len = 8, .flags = VRING_DESC_F_NEXT, .next = 1
	};
	t[1] = (struct vring_desc){ .addr = 0x3000, .len = 9, .flags = VRING_DESC_F_WRITE };
	f.d.desc[5] = (struct vring_desc){
		.addr = 0x1000, .len = 7, .flags = VRING_DESC_F_NEXT, .next = 6
	};
	/* The write flag of the indirect descriptor itself means nothing. */
	f.d.desc[6] = (struct vring_desc){ .addr = table,
					   .len = 32,
					   .flags = VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE };
	vqd_post_head(&f.d, 5);
	vqd_show(&f.d);
	assert_int_equal(vq_pop(&f.q, &f.c), 1);
	assert_int_equal(f.c.nout, 2);
	assert_int_equal(f.c.nin, 1);
	assert_int_equal(f.c.out_len, 15);
	assert_int_equal(f.c.in_len, 9);
}

static void empty_buffers_are_skipped_and_adjacent_ones_joined(void **state)
{
	const struct vqd_buf bufs[] = {
		{ 0x1000, 16, false }, { 0x5000, 0, false }, { 0x1010, 16, false },
		{ 0x1020, 8, true },   { 0x1028, 8, true },  { 0x1031, 1, true },
	};
	struct fixture f;

	(void)state;
	set_up(&f, 0, 0);
	vqd_post(&f.d, bufs, 6);
	vqd_show(&f.d);
	assert_int_equal(vq_pop(&f.q, &f.c), 1);
	assert_int_equal(f.c.nout, 1);
	assert_int_equal(f.iov[0].iov_len, 32);
	assert_int_equal(f.c.nin, 2); /* never joined across the direction */
	assert_int_equal(f.iov[1].iov_len, 16);
	assert_int_equal(f.iov[2].iov_len, 1);
}

/* --- notifications --------------------------------------------------------------------------- */

static void post_one(struct fixture *f)
{
	const struct vqd_buf b = { 0x1000, 16, true };

	vqd_post(&f->d, &b, 1);
}

/* One request through the device; returns whether the driver is to be interrupted. */
static bool serve_one(struct fixture *f)
{
	struct vring_used_elem e;
	bool irq;

	assert_int_equal(vq_pop(&f->q, &f->c), 1);
	vq_push(&f->q, f->c.head, 0);
	irq = vq_publish(&f->q);
	assert_true(vqd_take(&f->d, &e));
	return irq;
}

static void kicks_are_suppressed_while_busy(uint64_t features)
{
	struct fixture f;

	set_up(&f, features, 0);
	assert_true(vq_enable_kicks(&f.q));
	post_one(&f);
	assert_true(vqd_show(&f.d));
	vq_disable_kicks(&f.q);
	serve_one(&f);
	post_one(&f);
	assert_false(vqd_show(&f.d));	     /* busy: no kick */
	assert_false(vq_enable_kicks(&f.q)); /* so it must be noticed here */
	serve_one(&f);
	assert_true(vq_enable_kicks(&f.q));
	post_one(&f);
	assert_true(vqd_show(&f.d));
}

static void interrupts_as_asked(uint64_t features)
{
	struct fixture f;

	set_up(&f, features, 0);
	for (int i = 0; i < 6; i++)
		post_one(&f);
	vqd_show(&f.d);
	vqd_want_interrupt(&f.d, true);
	assert_true(serve_one(&f));
	vqd_want_interrupt(&f.d, false);
	assert_false(serve_one(&f));
	assert_false(serve_one(&f));
	vqd_want_interrupt(&f.d, true);
	assert_true(serve_one(&f));
}

static void notifications(void **state)
{
	(void)state;
	kicks_are_suppressed_while_busy(0);
	kicks_are_suppressed_while_busy(EVENT);
	interrupts_as_asked(0);
	interrupts_as_asked(EVENT);
}

/* A batch that passes the driver's event index is one interrupt, wherever in the batch it lies. */
static void event_index_inside_a_batch(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, EVENT, 0);
	for (int i = 0; i < 6; i++)
		post_one(&f);
	vqd_show(&f.d);
	serve_one(&f);		   /* the first publish interrupts in any case */
	f.d.avail->ring[SIZE] = 3; /* used_event: when index 3 has been used */
	for (int i = 1; i < 3; i++)
		assert_false(serve_one(&f));
	for (int i = 3; i < 6; i++) {
		assert_int_equal(vq_pop(&f.q, &f.c), 1);
		vq_push(&f.q, f.c.head, 0);
	}
	assert_true(vq_publish(&f.q));
}

/* --- dirty pages ----------------------------------------------------------------------------- */

static bool dirty(gpa_t gpa)
{
	return mem.dirty[(gpa >> 12) / 64] >> ((gpa >> 12) % 64) & 1;
}

static void writes_are_marked(void **state)
{
	const struct vqd_buf bufs[] = { { 0x3000, 16, false },
					{ 0x5ff0, 32, true },
					{ 0x9000, 4096, true } };
	struct fixture f;

	(void)state;
	set_up(&f, 0, 0);
	assert_int_equal(gmem_log_start(&mem), 0);
	vqd_post(&f.d, bufs, 3);
	vqd_show(&f.d);
	assert_int_equal(vq_pop(&f.q, &f.c), 1);
	vq_mark_written(&f.q, &f.c, 32);
	assert_true(dirty(0x5000) && dirty(0x6000));
	assert_false(dirty(0x9000) || dirty(0x3000) || dirty(f.d.layout.used));
	vq_push(&f.q, f.c.head, 32);
	(void)!vq_publish(&f.q);
	assert_true(dirty(f.d.layout.used));
	gmem_log_stop(&mem);
}

/* --- cursors --------------------------------------------------------------------------------- */

static void cursors(void **state)
{
	const struct vqd_buf bufs[] = {
		{ 0x1000, 3, false }, { 0x2000, 5, false }, { 0x3000, 4, true }, { 0x4000, 4, true }
	};
	struct fixture f;
	struct vq_bytes out, in;
	char buf[8];

	(void)state;
	set_up(&f, 0, 0);
	memcpy(vqd_at(&f.d, 0x1000, 3), "abc", 3);
	memcpy(vqd_at(&f.d, 0x2000, 5), "defgh", 5);
	memset(vqd_at(&f.d, 0x3000, 8), '.', 8);
	memset(vqd_at(&f.d, 0x4000, 8), '.', 8);
	vqd_post(&f.d, bufs, 4);
	vqd_show(&f.d);
	assert_int_equal(vq_pop(&f.q, &f.c), 1);
	out = vq_out(&f.c);
	in = vq_in(&f.c);
	assert_false(vq_read(&out, buf, 9));
	assert_true(vq_read(&out, buf, 4));
	assert_memory_equal(buf, "abcd", 4);
	assert_int_equal(out.n, 1);
	assert_int_equal(*out.gpa, 0x2001);
	vq_skip(&out, 2);
	assert_true(vq_read(&out, buf, 2));
	assert_memory_equal(buf, "gh", 2);
	assert_int_equal(out.n, 0);
	assert_int_equal(out.len, 0);
	vq_trim(&in, 2);
	assert_int_equal(in.len, 6);
	assert_false(vq_write(&f.q, &in, "0123456", 7));
	assert_true(vq_write(&f.q, &in, "012345", 6));
	assert_memory_equal(vqd_at(&f.d, 0x3000, 8), "0123....", 8);
	assert_memory_equal(vqd_at(&f.d, 0x4000, 8), "45......", 8);
}

/* --- a driver that breaks the rules ---------------------------------------------------------- */

struct rule {
	const char *why; /* that the device must give */
	void (*breaks)(struct fixture *f);
};

static void put(struct fixture *f, uint16_t i, uint64_t addr, uint32_t len, uint16_t flags,
		uint16_t next)
{
	f->d.desc[i] = (struct vring_desc){ addr, len, flags, next };
}

static void head_out_of_range(struct fixture *f)
{
	vqd_post_head(&f->d, SIZE);
}

static void next_out_of_range(struct fixture *f)
{
	put(f, 0, 0x1000, 8, VRING_DESC_F_NEXT, SIZE);
	vqd_post_head(&f->d, 0);
}

static void loops(struct fixture *f)
{
	put(f, 0, 0x1000, 8, VRING_DESC_F_NEXT, 1);
	put(f, 1, 0x3000, 0, VRING_DESC_F_NEXT, 0);
	vqd_post_head(&f->d, 0);
}

static void outside_ram(struct fixture *f)
{
	put(f, 0, RAM - 7, 8, 0, 0);
	vqd_post_head(&f->d, 0);
}

static void address_wraps(struct fixture *f)
{
	put(f, 0, UINT64_MAX - 3, 8, VRING_DESC_F_WRITE, 0);
	vqd_post_head(&f->d, 0);
}

static void readable_after_writable(struct fixture *f)
{
	put(f, 0, 0x1000, 8, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	put(f, 1, 0x3000, 8, 0, 0);
	vqd_post_head(&f->d, 0);
}

static void nothing_in_it(struct fixture *f)
{
	put(f, 0, 0x1000, 0, 0, 0);
	vqd_post_head(&f->d, 0);
}

static void index_too_far(struct fixture *f)
{
	f->d.avail_idx = (uint16_t)(f->d.avail->idx + SIZE + 1);
}

static void put_table(struct fixture *f, uint64_t addr, uint32_t len, uint16_t flags)
{
	put(f, 0, addr, len, VRING_DESC_F_INDIRECT | flags, 1);
	put(f, 1, 0x1000, 8, 0, 0);
	vqd_post_head(&f->d, 0);
}

static void table_and_next(struct fixture *f)
{
	put_table(f, 0x8000, 16, VRING_DESC_F_NEXT);
}

static void table_length_odd(struct fixture *f)
{
	put_table(f, 0x8000, 24, 0);
}

static void table_length_zero(struct fixture *f)
{
	put_table(f, 0x8000, 0, 0);
}

static void table_outside_ram(struct fixture *f)
{
	put_table(f, RAM - 16, 32, 0);
}

static void table_nested(struct fixture *f)
{
	struct vring_desc *t = vqd_at(&f->d, 0x8000, 16);

	*t = (struct vring_desc){ 0x8000, 16, VRING_DESC_F_INDIRECT, 0 };
	put_table(f, 0x8000, 16, 0);
}

static void table_next_out_of_range(struct fixture *f)
{
	struct vring_desc *t = vqd_at(&f->d, 0x8000, 32);

	t[0] = (struct vring_desc){ 0x1000, 16, VRING_DESC_F_NEXT, 2 };
	put_table(f, 0x8000, 32, 0);
}

static void table_loops(struct fixture *f)
{
	struct vring_desc *t = vqd_at(&f->d, 0x8000, 32);

	t[0] = (struct vring_desc){ 0x1000, 16, VRING_DESC_F_NEXT, 1 };
	t[1] = (struct vring_desc){ 0x4000, 16, VRING_DESC_F_NEXT, 0 };
	put_table(f, 0x8000, 32, 0);
}

static const struct rule rules[] = {
	{ "descriptor index beyond the table", head_out_of_range },
	{ "descriptor index beyond the table", next_out_of_range },
	{ "chain longer than the queue, or a loop", loops },
	{ "buffer outside guest memory", outside_ram },
	{ "buffer outside guest memory", address_wraps },
	{ "device-readable buffer after a device-writable one", readable_after_writable },
	{ "empty chain", nothing_in_it },
	{ "available index too far ahead", index_too_far },
	{ "descriptor both indirect and chained", table_and_next },
	{ "indirect table of a length that is no multiple of 16", table_length_odd },
	{ "indirect table of a length that is no multiple of 16", table_length_zero },
	{ "indirect table outside guest memory", table_outside_ram },
	{ "indirect table that was not agreed on or is nested", table_nested },
	{ "descriptor index beyond the table", table_next_out_of_range },
	{ "chain longer than the queue, or a loop", table_loops },
};

static void each_rule_is_enforced(void **state)
{
	struct fixture f;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
		set_up(&f, INDIRECT, 0);
		rules[i].breaks(&f);
		vqd_show(&f.d);
		assert_int_equal(vq_pop(&f.q, &f.c), -EPROTO);
		assert_string_equal(f.q.why, rules[i].why);
		assert_int_equal(f.q.next_avail, 0); /* nothing was taken */
		assert_int_equal(f.q.outstanding, 0);
	}
	/* A table that was not negotiated. */
	set_up(&f, 0, 0);
	put_table(&f, 0x8000, 16, 0);
	vqd_show(&f.d);
	assert_int_equal(vq_pop(&f.q, &f.c), -EPROTO);
	/* More buffers than the caller has room for. */
	set_up(&f, 0, 0);
	put(&f, 0, 0x1000, 8, VRING_DESC_F_NEXT, 1);
	put(&f, 1, 0x3000, 8, 0, 0);
	vqd_post_head(&f.d, 0);
	vqd_show(&f.d);
	f.c.cap = 1;
	assert_int_equal(vq_pop(&f.q, &f.c), -EPROTO);
}

/* The same heads again and again, none given back: bounded by the queue's size. */
static void never_more_requests_than_entries(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, 0, 0);
	put(&f, 0, 0x1000, 8, 0, 0);
	for (int i = 0; i < SIZE; i++) {
		vqd_post_head(&f.d, 0);
		vqd_show(&f.d);
		assert_int_equal(vq_pop(&f.q, &f.c), 1);
	}
	vqd_post_head(&f.d, 0);
	vqd_show(&f.d);
	/* A ring's worth of pops is what one pass has, whatever the ring says. */
	assert_int_equal(vq_pop(&f.q, &f.c), 0);
	assert_false(vq_enable_kicks(&f.q));
	vq_begin(&f.q);
	assert_int_equal(vq_pop(&f.q, &f.c), -EPROTO);
}

static void starts_only_in_ram(void **state)
{
	struct vq_layout good = { .size = SIZE, .desc = 0x1000, .avail = 0x2000, .used = 0x3000 };
	struct vq_layout bad[10];
	const int errs[] = { -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL,
			     -EINVAL, -EFAULT, -EFAULT, -EFAULT, -EFAULT };
	struct vq q;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		bad[i] = good;
	bad[0].size = 0;
	bad[1].size = 12;
	bad[2].size = VQ_SIZE_MAX * 2;
	bad[3].desc += 8;
	bad[4].avail += 1;
	bad[5].used += 2;
	bad[6].desc = RAM - 16;
	bad[7].avail = RAM - (4 + SIZE * 2); /* fits but for the event field */
	bad[8].used = RAM - (4 + SIZE * 8);
	bad[9].desc = ~15ull;
	assert_int_equal(vq_start(&q, &mem, &good, EVENT, 0), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(vq_start(&q, &mem, &bad[i], EVENT, 0), errs[i]);
		assert_false(q.running);
	}
	assert_int_equal(vq_start(&q, &mem, &bad[7], 0, 0), 0); /* no event field, so it fits */
}

/* A device that looks only when it is rung for takes what was there, and asks for the next ring. */
static void looking_at_a_ring(void **state)
{
	(void)state;
	for (int event = 0; event < 2; event++) {
		struct fixture f;

		set_up(&f, event ? EVENT : 0, 0);
		post_one(&f);
		post_one(&f);
		assert_true(vqd_show(&f.d));
		assert_false(vq_look(&f.q));
		post_one(&f);
		assert_true(vqd_show(&f.d)); /* whatever has been taken, this is news */
		assert_int_equal(vq_pop(&f.q, &f.c), 1);
		assert_int_equal(vq_pop(&f.q, &f.c), 1);
		assert_int_equal(vq_pop(&f.q, &f.c), 0);
		/* What is put back may be taken again without another look. */
		vq_unpop(&f.q, 1);
		assert_int_equal(vq_pop(&f.q, &f.c), 1);
		assert_int_equal(vq_pop(&f.q, &f.c), 0);
		assert_false(vq_look(&f.q));
		assert_int_equal(vq_pop(&f.q, &f.c), 1);
		assert_int_equal(vq_pop(&f.q, &f.c), 0);
		/* An index too far ahead is found as ever. */
		f.d.avail->idx = (uint16_t)(f.d.avail->idx + SIZE + 1);
		assert_false(vq_look(&f.q));
		assert_int_equal(vq_pop(&f.q, &f.c), -EPROTO);
	}
}

static void rings_that_stand(void **state)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);
	struct gmem g = GMEM_EMPTY;
	struct vq_layout l = { .size = 16, .desc = 0, .avail = 4096, .used = 8192 };
	struct gmem_region r;
	struct vq q;

	(void)state;
	assert_int_equal(ftruncate(fd, 12288), 0);
	for (uint64_t at = 0; at < 12288; at += 4096) {
		/* The table and the available ring need only be read. */
		assert_int_equal(gmem_region_map(&r, at, 4096, fd, at, at < 8192), 0);
		assert_int_equal(gmem_share(&g, &r), 0);
	}
	assert_int_equal(vq_start(&q, &g, &l, EVENT, 0), 0);
	assert_true(vq_rings_stand(&q));
	assert_int_equal(gmem_unshare(&g, 4096, 4096, &r), 0);
	assert_false(vq_rings_stand(&q));
	assert_int_equal(gmem_share(&g, &r), 0);
	assert_true(vq_rings_stand(&q));
	l.used = 4096;
	l.avail = 8192;
	assert_int_equal(vq_start(&q, &g, &l, EVENT, 0), -EFAULT); /* not writable */
	gmem_destroy(&g);
	close(fd);
}

static int group_set_up(void **state)
{
	(void)state;
	return gmem_create(&mem, RAM, false, NULL);
}

static int group_tear_down(void **state)
{
	(void)state;
	gmem_destroy(&mem);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chains_come_and_go),
		cmocka_unit_test(many_at_once_out_of_order),
		cmocka_unit_test(direct_then_indirect),
		cmocka_unit_test(empty_buffers_are_skipped_and_adjacent_ones_joined),
		cmocka_unit_test(notifications),
		cmocka_unit_test(event_index_inside_a_batch),
		cmocka_unit_test(writes_are_marked),
		cmocka_unit_test(cursors),
		cmocka_unit_test(each_rule_is_enforced),
		cmocka_unit_test(never_more_requests_than_entries),
		cmocka_unit_test(starts_only_in_ram),
		cmocka_unit_test(looking_at_a_ring),
		cmocka_unit_test(rings_that_stand),
	};

	return cmocka_run_group_tests(tests, group_set_up, group_tear_down);
}
