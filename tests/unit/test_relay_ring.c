/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_relay_ring.c - the relay of one queue between a guest and a function that are played here:
 * indexes, order, suppression on both sides, dirty pages, the boundary, and what either side can do
 * wrong. test_relay.c has the device around it, test_relay_races.c the threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vf_relay.h"
#include "vq_driver.h"

#define EVENT_IDX VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define BASE	  MiB(1)

struct play {
	struct gmem mem;
	struct vq_driver d; /* the guest */
	struct relay r;
	void *window;
	uint16_t taken, used; /* the function */
};

static void set_index(struct play *p, uint16_t index)
{
	p->d.avail_idx = p->d.last_used = index;
	p->d.avail->idx = p->d.used->idx = index;
}

static void begin(struct play *p, uint16_t size, uint64_t features, bool fn_event_idx,
		  uint16_t index)
{
	struct diag d = { "" };

	memset(p, 0, sizeof(*p));
	assert_int_equal(gmem_create(&p->mem, MiB(16), GMEM_PRIVATE, &d), 0);
	vqd_init(&p->d, &p->mem, BASE, MiB(4), size, features);
	set_index(p, index);
	assert_int_equal(posix_memalign(&p->window, PAGE_SIZE_4K, RELAY_BYTES), 0);
	assert_int_equal(relay_start(&p->r, &p->mem, &p->d.layout, features, fn_event_idx, index,
				     p->window),
			 0);
}

static void end(struct play *p)
{
	free(p->window);
	gmem_destroy(&p->mem);
}

/* Behind the used ring (2.7.8). */
static uint16_t *avail_event(struct vring_used *used, unsigned int size)
{
	void *at = &used->ring[size];

	return at;
}

/* --- the function ----------------------------------------------------------------------------- */

static unsigned int fn_waiting(const struct play *p)
{
	return (uint16_t)(p->r.fn_avail->idx - p->taken);
}

static uint16_t fn_take(struct play *p)
{
	assert_true(fn_waiting(p) > 0);
	return p->r.fn_avail->ring[p->taken++ & (p->d.layout.size - 1)];
}

static void fn_put(struct play *p, uint32_t head, uint32_t len)
{
	p->r.fn_used->ring[p->used++ & (p->d.layout.size - 1)] =
		(struct vring_used_elem){ .id = head, .len = len };
}

static void fn_show(struct play *p)
{
	p->r.fn_used->idx = p->used;
}

static uint16_t post(struct play *p, bool writable)
{
	struct vqd_buf buf = { vqd_alloc(&p->d, 512, 512), 512, writable };
	uint16_t head = vqd_post(&p->d, &buf, 1);

	(void)vqd_show(&p->d);
	return head;
}

/* --- indexes and order ------------------------------------------------------------------------ */

/* Twice around the 16-bit index, from everywhere, a few at a time. */
static void runs_from(uint16_t index, uint16_t size, uint64_t features)
{
	struct play p;
	struct vring_used_elem e;
	unsigned int done = 0;

	begin(&p, size, features, features & EVENT_IDX, index);
	for (unsigned int turn = 0; done < 140000; turn++) {
		unsigned int n = 1 + turn % size;
		uint16_t heads[256];
		struct vqd_buf buf = { BASE + MiB(3), 64, true };

		for (unsigned int i = 0; i < n; i++)
			heads[i] = vqd_post(&p.d, &buf, 1);
		(void)vqd_show(&p.d);
		assert_int_equal(relay_forward(&p.r), n);
		assert_int_equal(fn_waiting(&p), n);
		for (unsigned int i = 0; i < n; i++) {
			assert_int_equal(fn_take(&p), heads[i]);
			fn_put(&p, heads[i], i + 1);
		}
		fn_show(&p);
		assert_int_equal(relay_complete(&p.r), n);
		for (unsigned int i = 0; i < n; i++) {
			assert_true(vqd_take(&p.d, &e));
			assert_int_equal(e.id, heads[i]);
			assert_int_equal(e.len, i + 1);
		}
		assert_false(vqd_take(&p.d, &e));
		done += n;
	}
	assert_int_equal(p.r.completed, (uint16_t)(index + done));
	assert_int_equal(p.r.nout, 0);
	end(&p);
}

static void test_indexes(void **state)
{
	static const uint16_t from[] = { 0, 1, 255, 65530, 65535, 32768 };

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(from); i++) {
		runs_from(from[i], 8, 0);
		runs_from(from[i], 256, EVENT_IDX);
	}
	runs_from(7, 1, 0);
}

static void test_out_of_order(void **state)
{
	struct play p;
	struct vring_used_elem e;
	uint16_t h[4];

	(void)state;
	begin(&p, 8, 0, false, 65534);
	for (unsigned int i = 0; i < 4; i++)
		h[i] = post(&p, true);
	assert_int_equal(relay_forward(&p.r), 4);
	fn_put(&p, h[3], 1);
	fn_put(&p, h[1], 2);
	fn_show(&p);
	assert_int_equal(relay_complete(&p.r), 2);
	assert_true(vqd_take(&p.d, &e));
	assert_int_equal(e.id, h[3]);
	assert_true(vqd_take(&p.d, &e));
	assert_int_equal(e.id, h[1]);
	/* Their descriptors are the guest's again, while older ones are still out. */
	(void)post(&p, true);
	assert_int_equal(relay_forward(&p.r), 1);
	fn_put(&p, h[0], 3);
	fn_put(&p, h[2], 4);
	fn_show(&p);
	assert_int_equal(relay_complete(&p.r), 2);
	assert_int_equal(p.r.nout, 1);
	assert_int_equal(p.d.used->idx, 2);
	end(&p);
}

/* --- suppression ------------------------------------------------------------------------------ */

static void guest_wants(struct play *p, bool event_idx, bool want)
{
	if (event_idx)
		p->d.avail->ring[p->d.layout.size] =
			(uint16_t)(p->d.last_used + (want ? 0 : 0x8000));
	else
		p->d.avail->flags = want ? 0 : VRING_AVAIL_F_NO_INTERRUPT;
}

static void fn_wants(struct play *p, bool event_idx, bool want)
{
	if (event_idx)
		*avail_event(p->r.fn_used, p->d.layout.size) =
			(uint16_t)(p->taken + (want ? 0 : 0x8000));
	else
		p->r.fn_used->flags = want ? 0 : VRING_USED_F_NO_NOTIFY;
}

static void one_request(struct play *p)
{
	struct vring_used_elem e;

	(void)post(p, true);
	assert_int_equal(relay_forward(&p->r), 1);
	fn_put(p, fn_take(p), 0);
	fn_show(p);
	assert_int_equal(relay_complete(&p->r), 1);
	assert_true(vqd_take(&p->d, &e));
}

static void suppression(bool guest_event, bool fn_event)
{
	struct play p;

	begin(&p, 16, guest_event ? EVENT_IDX : 0, fn_event, 65530);
	/* Nobody knows what the last owner of the rings said: the first time both are told. */
	guest_wants(&p, guest_event, true);
	one_request(&p);
	assert_true(relay_wants_kick(&p.r));
	assert_true(relay_wants_interrupt(&p.r));
	assert_false(relay_wants_kick(&p.r));
	assert_false(relay_wants_interrupt(&p.r));
	for (unsigned int i = 0; i < 32; i++) {
		bool want_kick = i & 1, want_interrupt = i & 2;

		guest_wants(&p, guest_event, want_interrupt);
		fn_wants(&p, fn_event, want_kick);
		one_request(&p);
		assert_int_equal(relay_wants_kick(&p.r), want_kick);
		assert_int_equal(relay_wants_interrupt(&p.r), want_interrupt);
	}
	/* The wish is read after the index was published: what changes until then counts. */
	guest_wants(&p, guest_event, false);
	(void)post(&p, true);
	assert_int_equal(relay_forward(&p.r), 1);
	fn_put(&p, fn_take(&p), 0);
	fn_show(&p);
	assert_int_equal(relay_complete(&p.r), 1);
	guest_wants(&p, guest_event, true);
	assert_true(relay_wants_interrupt(&p.r));
	end(&p);
}

static void test_suppression(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 4; i++)
		suppression(i & 1, i & 2);
}

/* Several elements at once: the index jumps over the one that was asked for. */
static void test_merged(void **state)
{
	struct play p;

	(void)state;
	begin(&p, 16, EVENT_IDX, true, 65533);
	guest_wants(&p, true, true);
	one_request(&p);
	assert_true(relay_wants_interrupt(&p.r));
	p.d.avail->ring[16] = (uint16_t)(p.r.completed + 2);
	for (unsigned int i = 0; i < 5; i++)
		(void)post(&p, true);
	assert_int_equal(relay_forward(&p.r), 5);
	for (unsigned int i = 0; i < 5; i++)
		fn_put(&p, fn_take(&p), 100);
	fn_show(&p);
	assert_int_equal(relay_complete(&p.r), 5);
	assert_true(relay_wants_interrupt(&p.r));
	end(&p);
}

/* Asleep, both sides have been asked; what came just then is seen. */
static void sleeping(bool guest_event, bool fn_event)
{
	struct play p;
	uint16_t taken;

	begin(&p, 16, guest_event ? EVENT_IDX : 0, fn_event, 100);
	relay_wake(&p.r);
	if (!guest_event)
		assert_int_equal(p.d.used->flags, VRING_USED_F_NO_NOTIFY);
	if (!fn_event)
		assert_int_equal(p.r.fn_avail->flags, VRING_AVAIL_F_NO_INTERRUPT);
	assert_false(relay_sleep(&p.r));
	assert_int_equal(p.d.used->flags, 0);
	assert_int_equal(p.r.fn_avail->flags, 0);
	if (guest_event)
		assert_int_equal(*avail_event(p.d.used, 16), 100);
	if (fn_event)
		assert_int_equal(p.r.fn_avail->ring[16], 0);
	(void)post(&p, true);
	assert_true(relay_sleep(&p.r));
	assert_int_equal(relay_forward(&p.r), 1);
	assert_false(relay_sleep(&p.r));
	if (guest_event)
		assert_int_equal(*avail_event(p.d.used, 16), 101);
	taken = fn_take(&p);
	fn_put(&p, taken, 0);
	fn_show(&p);
	assert_true(relay_sleep(&p.r));
	assert_int_equal(relay_complete(&p.r), 1);
	assert_false(relay_sleep(&p.r));
	if (fn_event)
		assert_int_equal(p.r.fn_avail->ring[16], 1);
	end(&p);
}

static void test_sleep(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 4; i++)
		sleeping(i & 1, i & 2);
}

/* --- dirty pages ------------------------------------------------------------------------------ */

static bool dirty(struct play *p, gpa_t gpa)
{
	static uint64_t bits[MiB(16) / PAGE_SIZE_4K / 64];

	gmem_log_fetch(&p->mem, bits);
	return bits[gpa / PAGE_SIZE_4K / 64] >> (gpa / PAGE_SIZE_4K % 64) & 1;
}

static void forget(struct play *p)
{
	uint64_t bits[MiB(16) / PAGE_SIZE_4K / 64];

	gmem_log_fetch(&p->mem, bits);
}

static void chain_of_four(struct vqd_buf *bufs)
{
	bufs[0] = (struct vqd_buf){ BASE + MiB(6), 16, false };
	bufs[1] = (struct vqd_buf){ BASE + MiB(7) + 4000, 200, true };
	bufs[2] = (struct vqd_buf){ BASE + MiB(8), 3 * PAGE_SIZE_4K, true };
	bufs[3] = (struct vqd_buf){ BASE + MiB(9), 1, true };
}

static bool was_dirty(const uint64_t *bits, gpa_t gpa)
{
	return bits[gpa / PAGE_SIZE_4K / 64] >> (gpa / PAGE_SIZE_4K % 64) & 1;
}

static void check_four(struct play *p, bool published)
{
	uint64_t bits[MiB(16) / PAGE_SIZE_4K / 64] = { 0 };

	gmem_log_fetch(&p->mem, bits);
	assert_false(was_dirty(bits, BASE + MiB(6)));
	assert_true(was_dirty(bits, BASE + MiB(7)));
	assert_true(was_dirty(bits, BASE + MiB(7) + PAGE_SIZE_4K));
	for (unsigned int i = 0; i < 3; i++)
		assert_true(was_dirty(bits, BASE + MiB(8) + i * PAGE_SIZE_4K));
	assert_false(was_dirty(bits, BASE + MiB(8) + 3 * PAGE_SIZE_4K));
	assert_true(was_dirty(bits, BASE + MiB(9)));
	assert_int_equal(was_dirty(bits, p->d.layout.used), published);
}

/* All that a function may have written, whatever length it claims; and our own writes. */
static void marks(bool indirect)
{
	struct play p;
	struct vqd_buf bufs[4];

	begin(&p, 64, indirect ? INDIRECT : 0, false, 9);
	assert_int_equal(gmem_log_start(&p.mem), 0);
	chain_of_four(bufs);
	(void)(indirect ? vqd_post_indirect(&p.d, bufs, 4) : vqd_post(&p.d, bufs, 4));
	(void)vqd_show(&p.d);
	assert_int_equal(relay_forward(&p.r), 1);
	forget(&p);
	/* Out, and the function stopped: half written perhaps. */
	relay_settle(&p.r);
	check_four(&p, false);
	fn_put(&p, fn_take(&p), 1);
	fn_show(&p);
	assert_int_equal(relay_complete(&p.r), 1);
	check_four(&p, true);
	gmem_log_stop(&p.mem);
	end(&p);
}

static void test_dirty(void **state)
{
	(void)state;
	marks(false);
	marks(true);
}

/* Of a used ring that has several pages those with an element of ours, and that of the index. */
static void marks_elements(uint16_t index, unsigned int n, bool breaks)
{
	uint64_t bits[MiB(16) / PAGE_SIZE_4K / 64] = { 0 };
	bool wanted[4] = { false };
	struct play p;
	gpa_t used;

	begin(&p, 1024, 0, false, index);
	used = p.d.layout.used;
	wanted[0] = !breaks; /* what is written is marked, also if it is not shown */
	for (unsigned int i = 0; i < n - breaks; i++) {
		gpa_t at = used + 4 + ((index + i) % 1024u) * 8;

		wanted[at / PAGE_SIZE_4K - used / PAGE_SIZE_4K] = true;
		wanted[(at + 7) / PAGE_SIZE_4K - used / PAGE_SIZE_4K] = true;
	}
	assert_int_equal(gmem_log_start(&p.mem), 0);
	for (unsigned int i = 0; i < n; i++)
		(void)post(&p, false);
	assert_int_equal(relay_forward(&p.r), n);
	forget(&p);
	for (unsigned int i = 0; i < n; i++)
		fn_put(&p, breaks && i == n - 1 ? 1024 : fn_take(&p), 0);
	fn_show(&p);
	assert_int_equal(relay_complete(&p.r) == (int)n, !breaks);
	gmem_log_fetch(&p.mem, bits);
	for (unsigned int i = 0; i < ARRAY_SIZE(wanted); i++)
		assert_int_equal(was_dirty(bits, used + i * PAGE_SIZE_4K), wanted[i]);
	gmem_log_stop(&p.mem);
	end(&p);
}

static void test_dirty_elements(void **state)
{
	(void)state;
	for (unsigned int index = 0; index < 1024; index += 5) {
		marks_elements((uint16_t)index, 9, false);
		marks_elements((uint16_t)index, 2, true);
	}
	marks_elements(700, 1, true);
}

/* The walk over what a hostile guest makes of its descriptors meanwhile ends. */
static void test_chain_changed(void **state)
{
	struct play p;
	uint16_t head;

	(void)state;
	for (unsigned int kind = 0; kind < 6; kind++) {
		struct vring_desc *desc;

		begin(&p, 8, INDIRECT, false, 0);
		assert_int_equal(gmem_log_start(&p.mem), 0);
		head = post(&p, true);
		assert_int_equal(relay_forward(&p.r), 1);
		desc = &p.d.desc[head];
		desc->flags = VRING_DESC_F_WRITE | VRING_DESC_F_NEXT;
		if (kind == 0)
			desc->next = head; /* for ever */
		else if (kind == 1)
			desc->next = 8;
		else
			desc->flags = VRING_DESC_F_INDIRECT;
		if (kind == 2)
			desc->addr = MiB(64);
		else if (kind == 3)
			desc->len = 15;
		else if (kind == 4)
			desc->addr = p.d.layout.desc + head * 16u, desc->len = 16; /* itself */
		else if (kind == 5)
			desc->addr = UINT64_MAX - 3, desc->len = UINT32_MAX;
		fn_put(&p, fn_take(&p), 1);
		fn_show(&p);
		assert_int_equal(relay_complete(&p.r), 1);
		assert_true(dirty(&p, p.d.layout.used));
		gmem_log_stop(&p.mem);
		end(&p);
	}
}

/* --- stop and boundary ------------------------------------------------------------------------ */

/* What is to be taken again is what is out, also when it came back in another order. */
static void test_settle_order(void **state)
{
	struct play p;
	uint16_t h[5];
	bool seen[16] = { false };

	(void)state;
	begin(&p, 16, 0, false, 65533);
	for (unsigned int i = 0; i < 5; i++)
		h[i] = post(&p, true);
	assert_int_equal(relay_forward(&p.r), 5);
	fn_put(&p, h[1], 1);
	fn_put(&p, h[4], 1);
	fn_show(&p);
	assert_int_equal(relay_complete(&p.r), 2);
	relay_settle(&p.r);
	for (uint16_t i = p.r.completed; i != p.r.forwarded; i++)
		seen[p.d.avail->ring[i & 15]] = true;
	assert_true(seen[h[0]] && seen[h[2]] && seen[h[3]]);
	assert_false(seen[h[1]] || seen[h[4]]);
	/* Another relay goes on from there. */
	assert_int_equal(relay_start(&p.r, &p.mem, &p.d.layout, 0, false, p.r.completed, p.window),
			 0);
	p.taken = p.used = 0;
	assert_int_equal(relay_forward(&p.r), 3);
	end(&p);
}

static void test_boundary(void **state)
{
	struct play p;
	struct vring_used_elem e;
	unsigned int n = 0;

	(void)state;
	begin(&p, 16, EVENT_IDX, true, 65530);
	for (unsigned int i = 0; i < 10; i++)
		(void)post(&p, true);
	relay_aim(&p.r, false);
	assert_int_equal(relay_forward(&p.r), 6);
	assert_true(relay_at_boundary(&p.r));
	assert_int_equal(relay_forward(&p.r), 0);
	assert_int_equal(p.r.forwarded, 0);
	assert_false(relay_sleep(&p.r)); /* what is behind it is no work */
	fn_put(&p, fn_take(&p), 7);
	fn_show(&p);
	assert_int_equal(relay_complete(&p.r), 1);
	relay_return(&p.r);
	assert_int_equal(p.r.completed, 0);
	assert_int_equal(p.d.used->idx, 0);
	while (vqd_take(&p.d, &e))
		assert_int_equal(e.len, n++ ? 0 : 7);
	assert_int_equal(n, 6);
	p.d.used->flags = VRING_USED_F_NO_NOTIFY;
	relay_leave(&p.r);
	assert_int_equal(p.d.used->flags, 0);
	assert_int_equal(*avail_event(p.d.used, 16), 0);
	/* There already, with nothing out: now; or at the next one. */
	relay_aim(&p.r, false);
	assert_true(relay_at_boundary(&p.r));
	relay_aim(&p.r, true);
	assert_int_equal(p.r.left, 65536);
	assert_int_equal(relay_forward(&p.r), 4);
	assert_int_equal(p.r.left, 65532);
	end(&p);
}

/* --- hostile ---------------------------------------------------------------------------------- */

static void test_hostile_function(void **state)
{
	struct play p;
	uint16_t h;

	(void)state;
	for (unsigned int kind = 0; kind < 6; kind++) {
		begin(&p, 8, 0, false, 0);
		h = post(&p, true);
		(void)post(&p, true);
		assert_int_equal(relay_forward(&p.r), 2);
		if (kind == 0) {
			p.used = 3; /* more than it was given */
		} else if (kind == 1) {
			p.used = 0xffff; /* backwards */
		} else if (kind == 2) {
			fn_put(&p, 8, 0);
		} else if (kind == 3) {
			fn_put(&p, 0x80000000u + h, 0);
		} else if (kind == 4) {
			fn_put(&p, 5, 0); /* never given */
		} else {
			fn_put(&p, h, 0);
			fn_put(&p, h, 0); /* twice */
		}
		fn_show(&p);
		assert_int_equal(relay_complete(&p.r), -EPROTO);
		assert_non_null(strstr(p.r.why, "function"));
		/* What it was not given is not the guest's. */
		assert_int_equal(p.d.used->idx, 0);
		end(&p);
	}
}

static void test_hostile_guest(void **state)
{
	struct play p;
	uint16_t h;

	(void)state;
	for (unsigned int kind = 0; kind < 4; kind++) {
		begin(&p, 8, 0, false, 0);
		h = post(&p, true);
		if (kind == 0) {
			p.d.avail->idx = 9;
		} else if (kind == 1) {
			p.d.avail->idx = 0xffff;
		} else if (kind == 2) {
			p.d.avail->ring[0] = 8;
		} else {
			assert_int_equal(relay_forward(&p.r), 1);
			vqd_post_head(&p.d, h);
			(void)vqd_show(&p.d);
		}
		assert_int_equal(relay_forward(&p.r), -EPROTO);
		assert_non_null(strstr(p.r.why, "driver"));
		end(&p);
	}
}

/* A guest can have the function write all over the window: nothing of ours is read back from it. */
static void test_window_overwritten(void **state)
{
	struct play p;

	(void)state;
	for (unsigned int byte = 0; byte < 256; byte += 51) {
		begin(&p, 256, EVENT_IDX, true, 12345);
		(void)post(&p, true);
		assert_int_equal(relay_forward(&p.r), 1);
		memset(p.window, (int)byte, RELAY_BYTES);
		if (byte)
			assert_int_equal(relay_complete(&p.r), -EPROTO);
		else
			assert_int_equal(relay_complete(&p.r), 0);
		assert_int_equal(p.r.nout, 1);
		assert_int_equal(p.d.used->idx, 12345);
		(void)post(&p, true);
		assert_int_equal(relay_forward(&p.r), 1);
		assert_int_equal(p.r.fn_avail->idx, 2);
		end(&p);
	}
}

static void test_refuses_rings(void **state)
{
	struct play p;
	struct vq_layout bad;

	(void)state;
	begin(&p, 8, 0, false, 0);
	bad = p.d.layout;
	bad.used = MiB(64);
	assert_int_equal(relay_start(&p.r, &p.mem, &bad, 0, false, 0, p.window), -EFAULT);
	bad = p.d.layout;
	bad.size = 7;
	assert_int_equal(relay_start(&p.r, &p.mem, &bad, 0, false, 0, p.window), -EINVAL);
	end(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_indexes),
		cmocka_unit_test(test_out_of_order),
		cmocka_unit_test(test_suppression),
		cmocka_unit_test(test_merged),
		cmocka_unit_test(test_sleep),
		cmocka_unit_test(test_dirty),
		cmocka_unit_test(test_dirty_elements),
		cmocka_unit_test(test_chain_changed),
		cmocka_unit_test(test_settle_order),
		cmocka_unit_test(test_boundary),
		cmocka_unit_test(test_hostile_function),
		cmocka_unit_test(test_hostile_guest),
		cmocka_unit_test(test_window_overwritten),
		cmocka_unit_test(test_refuses_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
