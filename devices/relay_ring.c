/* SPDX-License-Identifier: Apache-2.0 */
/*
 * relay_ring.c - the relay of one queue: the device of the guest's rings and the driver of the
 * function's. vf_relay.h has the contract and says why nothing is lost. The vf thread.
 *
 * Source: virtio 1.2, section 2.7. x86-64 only, so little-endian fields are used as they are.
 */
#include "vf_relay.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#define LOAD(p)	    __atomic_load_n(p, __ATOMIC_RELAXED)
#define ACQUIRE(p)  __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define STORE(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
/* A store, then a look at the other side: with both sequentially consistent one sees the other. */
#define STORE_MB(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define LOAD_MB(p)     __atomic_load_n(p, __ATOMIC_SEQ_CST)

/* Where the event fields lie, behind the rings (2.7.6, 2.7.8). */
static uint16_t *used_event(const struct relay *r, struct vring_avail *avail)
{
	return &avail->ring[r->guest.size];
}

static uint16_t *avail_event(const struct relay *r, struct vring_used *used)
{
	return (uint16_t *)&used->ring[r->guest.size];
}

static unsigned int slot(const struct relay *r, uint16_t index)
{
	return index & (r->guest.size - 1u);
}

static int broken(struct relay *r, const char *why)
{
	r->why = why;
	return -EPROTO;
}

/* --- heads that are out ---------------------------------------------------------------------- */

static bool is_out(const struct relay *r, uint32_t head)
{
	return r->out[head / 64] >> (head % 64) & 1;
}

static void put_out(struct relay *r, uint32_t head)
{
	r->out[head / 64] |= 1ull << (head % 64);
	STORE(&r->nout, r->nout + 1);
}

static void take_back(struct relay *r, uint32_t head)
{
	r->out[head / 64] &= ~(1ull << (head % 64));
	STORE(&r->nout, r->nout - 1);
}

/* --- start ----------------------------------------------------------------------------------- */

int relay_start(struct relay *r, struct gmem *mem, const struct vq_layout *guest,
		uint64_t guest_features, bool fn_event_idx, uint16_t index, void *window)
{
	struct vq rings;
	int err = vq_start(&rings, mem, guest, guest_features, index);

	if (err)
		return err;
	memset(window, 0, RELAY_BYTES);
	*r = (struct relay){ .mem = mem,
			     .guest = *guest,
			     .event_idx = rings.event_idx,
			     .fn_event_idx = fn_event_idx,
			     .indirect = rings.indirect,
			     .desc = rings.desc_ring,
			     .avail = rings.avail_ring,
			     .used = rings.used_ring,
			     .fn_avail = window,
			     .fn_used = (void *)((uint8_t *)window + RELAY_USED_AT),
			     .offset = index,
			     .forwarded = index,
			     .completed = index,
			     .kicked = index,
			     .shown = index,
			     .left = RELAY_NO_LIMIT };
	return 0;
}

void relay_aim(struct relay *r, bool beyond)
{
	STORE(&r->left, r->forwarded || beyond ? 0x10000u - r->forwarded : 0);
}

/* --- to the function ------------------------------------------------------------------------- */

int relay_forward(struct relay *r)
{
	uint16_t waiting = ACQUIRE(&r->avail->idx) - r->forwarded;
	int n = 0;

	if (r->closed)
		return 0;
	if (waiting > r->guest.size)
		return broken(r, "the driver's available index is too far ahead");
	for (; n < waiting && r->left; n++) {
		uint16_t head = LOAD(&r->avail->ring[slot(r, r->forwarded)]);

		if (head >= r->guest.size)
			return broken(r, "the driver made a descriptor beyond the table available");
		if (is_out(r, head))
			return broken(r, "the driver made a descriptor available twice");
		put_out(r, head);
		STORE(&r->fn_avail->ring[slot(r, r->forwarded - r->offset)], head);
		r->forwarded++;
		if (r->left != RELAY_NO_LIMIT)
			STORE(&r->left, r->left - 1);
	}
	/* A release: the entries, and the descriptors that the guest wrote, before the index. */
	if (n)
		STORE_MB(&r->fn_avail->idx, (uint16_t)(r->forwarded - r->offset));
	return n;
}

bool relay_wants_kick(struct relay *r)
{
	uint16_t old = r->kicked - r->offset, now = r->forwarded - r->offset;
	bool first = !r->rung;

	if (old == now)
		return false;
	r->kicked = r->forwarded;
	r->rung = true;
	if (!r->fn_event_idx)
		return first || !(LOAD_MB(&r->fn_used->flags) & VRING_USED_F_NO_NOTIFY);
	return first || vring_need_event(LOAD_MB(avail_event(r, r->fn_used)), now, old);
}

/* --- to the guest ---------------------------------------------------------------------------- */

static struct vring_desc load_desc(const void *table, unsigned int i)
{
	struct vring_desc d;

	memcpy(&d, (const uint8_t *)table + i * sizeof(d), sizeof(d));
	__asm__ volatile("" ::: "memory");
	return d;
}

/*
 * Marks what the function may have written of a chain: all of it, whatever length it claims. The
 * function has found its way through these descriptors; what makes no sense to us ends the walk.
 */
static void mark_chain(struct relay *r, uint32_t head)
{
	const void *table = r->desc;
	uint32_t entries = r->guest.size, next = head;
	bool in_table = false;

	for (unsigned int budget = RELAY_CHAIN_MAX; budget && next < entries; budget--) {
		struct vring_desc d = load_desc(table, next);

		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (!r->indirect || in_table)
				return;
			table = gmem_ptr_read(r->mem, d.addr, d.len);
			if (!table)
				return;
			entries = d.len / sizeof(d);
			in_table = true;
			next = 0;
			continue;
		}
		if (d.flags & VRING_DESC_F_WRITE)
			gmem_mark_dirty(r->mem, d.addr, d.len);
		if (!(d.flags & VRING_DESC_F_NEXT))
			return;
		next = d.next;
	}
}

static bool logged(const struct relay *r)
{
	return __atomic_load_n(&r->mem->dirty, __ATOMIC_ACQUIRE) != NULL;
}

static void mark_used(struct relay *r, uint64_t offset, uint64_t len)
{
	gmem_mark_dirty(r->mem, r->guest.used + offset, len);
}

static void push(struct relay *r, uint32_t head, uint32_t len)
{
	unsigned int at = slot(r, r->completed);
	struct vring_used_elem *e = &r->used->ring[at];

	STORE(&e->id, head);
	STORE(&e->len, len);
	r->completed++;
}

/* All elements since `first` at once: marking each was a third of what a logged request cost. */
static void mark_elements(struct relay *r, uint16_t first)
{
	const unsigned int element = sizeof(struct vring_used_elem);
	unsigned int n = (uint16_t)(r->completed - first), at = slot(r, first);
	unsigned int to_end = r->guest.size - at, part = n < to_end ? n : to_end;

	if (!logged(r))
		return;
	mark_used(r, offsetof(struct vring_used, ring) + at * element, part * element);
	if (n > part)
		mark_used(r, offsetof(struct vring_used, ring), (n - part) * element);
}

/* A release: buffers and elements before the index; and a fence, for the guest's used_event. */
static void publish(struct relay *r, uint16_t first)
{
	STORE_MB(&r->used->idx, r->completed);
	mark_elements(r, first);
	mark_used(r, offsetof(struct vring_used, idx), sizeof(uint16_t));
}

int relay_complete(struct relay *r)
{
	uint16_t ready = ACQUIRE(&r->fn_used->idx) - (uint16_t)(r->completed - r->offset);
	uint16_t first = r->completed;
	bool mark = logged(r);

	if (ready > r->nout)
		return broken(r, "the function used more than it was given");
	for (unsigned int i = 0; i < ready; i++) {
		const struct vring_used_elem *e =
			&r->fn_used->ring[slot(r, r->completed - r->offset)];
		uint32_t head = LOAD(&e->id), len = LOAD(&e->len);

#ifdef FUZZ_PLANT /* a bug for the fuzzer to find: a head that came back already is believed */
		bool given = head < r->guest.size;
#else
		bool given = head < r->guest.size && is_out(r, head);
#endif

		if (!given) {
			mark_elements(r, first);
			return broken(r, "the function used what it was not given");
		}
		take_back(r, head);
		if (mark)
			mark_chain(r, head);
		push(r, head, len);
	}
	if (ready)
		publish(r, first);
	return ready;
}

bool relay_wants_interrupt(struct relay *r)
{
	uint16_t old = r->shown;
	bool first = !r->interrupted;

	if (r->completed == old)
		return false;
	r->shown = r->completed;
	r->interrupted = true;
	if (!r->event_idx)
		return !(LOAD_MB(&r->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	/* What the last owner of the ring told the guest is not known: one too many does no harm.
	 */
	return first || vring_need_event(LOAD_MB(used_event(r, r->avail)), r->completed, old);
}

/* --- between --------------------------------------------------------------------------------- */

void relay_wake(struct relay *r)
{
	/* With event indexes the old ones, which lie behind, suppress by themselves. */
	if (!r->event_idx && !LOAD(&r->used->flags)) {
		STORE(&r->used->flags, VRING_USED_F_NO_NOTIFY);
		mark_used(r, offsetof(struct vring_used, flags), sizeof(uint16_t));
	}
	if (!r->fn_event_idx)
		STORE(&r->fn_avail->flags, VRING_AVAIL_F_NO_INTERRUPT);
}

/* Asks the guest to ring with the next request. */
static void want_kick(struct relay *r)
{
	if (r->event_idx) {
		STORE_MB(avail_event(r, r->used), r->forwarded);
		mark_used(r,
			  offsetof(struct vring_used, ring) +
				  r->guest.size * sizeof(struct vring_used_elem),
			  sizeof(uint16_t));
	} else if (LOAD(&r->used->flags)) {
		STORE_MB(&r->used->flags, 0);
		mark_used(r, offsetof(struct vring_used, flags), sizeof(uint16_t));
	}
}

bool relay_sleep(struct relay *r)
{
	uint16_t fn_completed = r->completed - r->offset;

	if (r->fn_event_idx)
		STORE_MB(used_event(r, r->fn_avail), fn_completed);
	else
		STORE_MB(&r->fn_avail->flags, 0);
	want_kick(r);
	if (LOAD_MB(&r->fn_used->idx) != fn_completed)
		return true;
	return !r->closed && r->left && LOAD_MB(&r->avail->idx) != r->forwarded;
}

/* --- the end --------------------------------------------------------------------------------- */

/* The heads that are out, in the order in which they were forwarded if that is still to be seen. */
static void restore_avail(struct relay *r)
{
	uint64_t out[ARRAY_SIZE(r->out)];
	uint16_t at = r->completed;
	unsigned int left = r->nout;

	memcpy(out, r->out, sizeof(out));
	while (at != r->forwarded) {
		uint16_t head = LOAD(&r->avail->ring[slot(r, at)]);

		if (head >= r->guest.size || !(out[head / 64] >> (head % 64) & 1))
			break;
		out[head / 64] &= ~(1ull << (head % 64));
		left--;
		at++;
	}
	for (uint16_t head = 0; left && head < r->guest.size; head++) {
		if (!(out[head / 64] >> (head % 64) & 1))
			continue;
		STORE(&r->avail->ring[slot(r, at)], head);
		gmem_mark_dirty(r->mem,
				r->guest.avail + offsetof(struct vring_avail, ring) +
					slot(r, at) * sizeof(uint16_t),
				sizeof(uint16_t));
		at++;
		left--;
	}
}

void relay_settle(struct relay *r)
{
	for (uint32_t head = 0; r->nout && logged(r) && head < r->guest.size; head++)
		if (is_out(r, head))
			mark_chain(r, head);
	restore_avail(r);
}

void relay_return(struct relay *r)
{
	uint16_t first = r->completed;
	bool mark = logged(r);

	if (!r->nout)
		return;
	for (uint32_t head = 0; head < r->guest.size; head++) {
		if (!is_out(r, head))
			continue;
		take_back(r, head);
		if (mark)
			mark_chain(r, head);
		push(r, head, 0);
	}
	publish(r, first);
}

void relay_leave(struct relay *r)
{
	STORE_MB(&r->used->flags, 0);
	mark_used(r, offsetof(struct vring_used, flags), sizeof(uint16_t));
	if (r->event_idx)
		want_kick(r);
}
