/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_rings.c - rings as no driver should write them (virtio 1.2, 2.7). A device may ask for a
 * reset, complete what it can, or do nothing; it must not write outside the buffers it was given,
 * must not bring down the machine, and must work after a reset. What unvmm promises beyond that
 * (NEEDS_RESET for what cannot be served) is asked for by `strict`.
 */
#include "virtio.h"

#include "lib/guest.h"
#include "lib/io.h"

#include <unvmm/platform.h>

enum outcome { NEEDS_RESET = 1, COMPLETED = 2, IGNORED = 4, ANY = 7 };

/* A case changes a ring that holds one good request at head 0; run() then publishes and rings. */
struct ring_case {
	const char *name;
	void (*spoil)(struct vq *q, unsigned int n); /* n: descriptors of the request */
	unsigned int strict;			     /* outcomes that unvmm promises */
	bool indirect;				     /* the request is an indirect one */
};

static const uint64_t far_away = 0x3fff000000000000;

/* --- what can be wrong with a chain ----------------------------------------------------------- */

static void head_out_of_range(struct vq *q, unsigned int n)
{
	(void)n;
	q->avail->ring[0] = 0xffff;
}

static void head_just_out_of_range(struct vq *q, unsigned int n)
{
	(void)n;
	q->avail->ring[0] = q->size;
}

static void next_out_of_range(struct vq *q, unsigned int n)
{
	q->desc[n - 1].flags |= VRING_DESC_F_NEXT;
	q->desc[n - 1].next = q->size;
}

static void loop_to_self(struct vq *q, unsigned int n)
{
	q->desc[n - 1].flags |= VRING_DESC_F_NEXT;
	q->desc[n - 1].next = (uint16_t)(n - 1);
}

static void loop_to_head(struct vq *q, unsigned int n)
{
	q->desc[n - 1].flags |= VRING_DESC_F_NEXT;
	q->desc[n - 1].next = 0;
}

static void address_far(struct vq *q, unsigned int n)
{
	q->desc[n - 1].addr = far_away;
}

static void address_in_hole(struct vq *q, unsigned int n)
{
	q->desc[n - 1].addr = PLAT_LAPIC_BASE + 0x300;
}

static void address_of_doorbell(struct vq *q, unsigned int n)
{
	q->desc[n - 1].addr = q->doorbell;
}

static void address_wraps(struct vq *q, unsigned int n)
{
	q->desc[n - 1].addr = ~0ull - 15;
	q->desc[n - 1].len = 0x1000;
}

static void length_huge(struct vq *q, unsigned int n)
{
	q->desc[n - 1].len = 0xffffffff;
}

static void head_address_far(struct vq *q, unsigned int n)
{
	(void)n;
	q->desc[0].addr = far_away;
}

static void length_zero(struct vq *q, unsigned int n)
{
	q->desc[n - 1].len = 0;
}

static void head_length_zero(struct vq *q, unsigned int n)
{
	(void)n;
	q->desc[0].len = 0;
}

static void all_readable(struct vq *q, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		q->desc[i].flags &= (uint16_t)~VRING_DESC_F_WRITE;
}

static void all_writable(struct vq *q, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		q->desc[i].flags |= VRING_DESC_F_WRITE;
}

static void cut_short(struct vq *q, unsigned int n)
{
	(void)n;
	q->desc[0].flags &= (uint16_t)~VRING_DESC_F_NEXT;
}

/* --- indices ---------------------------------------------------------------------------------- */

static void index_jumps(struct vq *q, unsigned int n)
{
	(void)n;
	q->avail_idx = (uint16_t)(q->size + 1);
}

static void index_jumps_far(struct vq *q, unsigned int n)
{
	(void)n;
	q->avail_idx = 0x8000;
}

static void index_backwards(struct vq *q, unsigned int n)
{
	(void)n;
	q->avail_idx = 0xffff;
}

/* The same chain in every slot of the ring: legal only once it has come back. */
static void head_many_times(struct vq *q, unsigned int n)
{
	(void)n;
	for (uint16_t i = 0; i < q->size; i++)
		q->avail->ring[i] = 0;
	q->avail_idx = q->size;
}

/* --- indirect descriptors --------------------------------------------------------------------- */

static void indirect_unasked(struct vq *q, unsigned int n)
{
	(void)n;
	q->desc[0].flags = VRING_DESC_F_INDIRECT; /* the feature was not negotiated */
}

static void indirect_and_next(struct vq *q, unsigned int n)
{
	(void)n;
	q->desc[0].flags |= VRING_DESC_F_NEXT;
	q->desc[0].next = 1;
}

static void indirect_nested(struct vq *q, unsigned int n)
{
	(void)n;
	q->tables[0].flags = VRING_DESC_F_INDIRECT;
	q->tables[0].addr = (uintptr_t)q->tables;
	q->tables[0].len = 16;
}

static void indirect_empty(struct vq *q, unsigned int n)
{
	(void)n;
	q->desc[0].len = 0;
}

static void indirect_odd_length(struct vq *q, unsigned int n)
{
	(void)n;
	q->desc[0].len = 17;
}

static void indirect_huge(struct vq *q, unsigned int n)
{
	(void)n;
	q->desc[0].len = 0xfffffff0;
}

static void indirect_far(struct vq *q, unsigned int n)
{
	(void)n;
	q->desc[0].addr = far_away;
}

static void indirect_next_out(struct vq *q, unsigned int n)
{
	q->tables[n - 1].flags |= VRING_DESC_F_NEXT;
	q->tables[n - 1].next = 0xffff;
}

static void indirect_loop(struct vq *q, unsigned int n)
{
	q->tables[n - 1].flags |= VRING_DESC_F_NEXT;
	q->tables[n - 1].next = 0;
}

static const struct ring_case cases[] = {
	{ "head out of range", head_out_of_range, NEEDS_RESET, false },
	{ "head one out of range", head_just_out_of_range, NEEDS_RESET, false },
	{ "next out of range", next_out_of_range, NEEDS_RESET, false },
	{ "chain that loops to its end", loop_to_self, NEEDS_RESET, false },
	{ "chain that loops to its head", loop_to_head, NEEDS_RESET, false },
	{ "buffer outside of RAM", address_far, NEEDS_RESET | COMPLETED, false },
	{ "buffer in the local APIC", address_in_hole, NEEDS_RESET | COMPLETED, false },
	{ "buffer in a doorbell", address_of_doorbell, NEEDS_RESET | COMPLETED, false },
	{ "buffer that wraps", address_wraps, NEEDS_RESET | COMPLETED, false },
	{ "buffer of 4 GiB", length_huge, NEEDS_RESET | COMPLETED, false },
	{ "first buffer outside of RAM", head_address_far, NEEDS_RESET | COMPLETED, false },
	{ "last buffer empty", length_zero, NEEDS_RESET | COMPLETED, false },
	{ "first buffer empty", head_length_zero, NEEDS_RESET | COMPLETED, false },
	{ "no writable buffer", all_readable, NEEDS_RESET | COMPLETED, false },
	{ "no readable buffer", all_writable, NEEDS_RESET | COMPLETED, false },
	{ "chain cut short", cut_short, NEEDS_RESET | COMPLETED, false },
	{ "index one too far", index_jumps, NEEDS_RESET, false },
	{ "index far too far", index_jumps_far, NEEDS_RESET, false },
	{ "index backwards", index_backwards, NEEDS_RESET, false },
	{ "one head many times", head_many_times, NEEDS_RESET | COMPLETED, false },
	{ "indirect, not negotiated", indirect_unasked, NEEDS_RESET, false },
	{ "indirect with next", indirect_and_next, NEEDS_RESET, true },
	{ "indirect in indirect", indirect_nested, NEEDS_RESET, true },
	{ "indirect table empty", indirect_empty, NEEDS_RESET, true },
	{ "indirect table of 17 bytes", indirect_odd_length, NEEDS_RESET, true },
	{ "indirect table of 4 GiB", indirect_huge, NEEDS_RESET, true },
	{ "indirect table outside of RAM", indirect_far, NEEDS_RESET, true },
	{ "indirect next out of range", indirect_next_out, NEEDS_RESET, true },
	{ "indirect chain that loops", indirect_loop, NEEDS_RESET, true },
};

/* --- running a case --------------------------------------------------------------------------- */

/* How many cycles the device has to say something: some 20 ms, or seconds if it must. */
#define SHORTLY 60000000ull
#define PATIENT 15000000000ull

static enum outcome outcome_of(const struct vio *v, const struct vq *q, uint64_t cycles)
{
	uint64_t start = io_tsc();

	while (io_tsc() - start < cycles) {
		if (vio_get8(v, VIRTIO_PCI_COMMON_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET)
			return NEEDS_RESET;
		if (q->used->idx)
			return COMPLETED;
	}
	return IGNORED;
}

static const char *outcome_name(enum outcome o)
{
	return o == NEEDS_RESET ? "needs reset" : o == COMPLETED ? "completed" : "ignored";
}

static void run_case(struct subject *s, const struct ring_case *c, bool strict)
{
	uint64_t features = c->indirect ? VIO_BIT(VIRTIO_RING_F_INDIRECT_DESC) : 0;
	struct vq_seg segs[VQ_SEGS_MAX];
	unsigned int n = subject_request(s, segs);
	struct vq *q = &s->vq;
	enum outcome o;

	if (!subject_start(s, features) || (c->indirect && !q->indirect)) {
		test_check(!c->indirect || !q->indirect, "%s: cannot be started", c->name);
		return;
	}
	vq_stage(q, segs, n); /* at head 0 */
	c->spoil(q, n);
	vq_publish(q);
	vq_ring(q);
	o = outcome_of(&s->vio, q, strict && !(c->strict & IGNORED) ? PATIENT : SHORTLY);
	print("    %s: %s\r\n", c->name, outcome_name(o));
	if (strict)
		test_check(o & c->strict, "%s: %s", c->name, outcome_name(o));
	subject_guards(c->name);
	subject_works(s, c->name);
}

/* --- queues in impossible places -------------------------------------------------------------- */

static void set64(const struct vio *v, unsigned int offset, uint64_t addr)
{
	vio_set32(v, offset, (uint32_t)addr);
	vio_set32(v, offset + 4, (uint32_t)(addr >> 32));
}

static void run_place(struct subject *s, const char *name, unsigned int offset, uint64_t addr)
{
	struct vio *v = &s->vio;

	struct vq_seg segs[VQ_SEGS_MAX];

	if (!vio_negotiate(v, 0) || !vq_setup(&s->vq, v, 0, 16))
		return;
	vq_add(&s->vq, segs, subject_request(s, segs));
	/* That queue is right: so once more from reset, by hand, with one wrong address. */
	vio_negotiate(v, 0);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_SELECT, 0);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_SIZE, 16);
	set64(v, VIRTIO_PCI_COMMON_Q_DESCLO, (uintptr_t)s->vq.desc);
	set64(v, VIRTIO_PCI_COMMON_Q_AVAILLO, (uintptr_t)s->vq.avail);
	set64(v, VIRTIO_PCI_COMMON_Q_USEDLO, (uintptr_t)s->vq.used);
	set64(v, offset, addr);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_ENABLE, 1);
	vio_driver_ok(v);
	vq_ring(&s->vq);
	outcome_of(v, &s->vq, SHORTLY);
	subject_guards(name);
	subject_works(s, name);
}

static void check_places(struct subject *s)
{
	static const uint64_t places[] = {
		~0ull,		 ~0ull - 15,	 far_away,	    1ull << 63,
		PLAT_LAPIC_BASE, PLAT_ECAM_BASE, PLAT_PCI_MEM_BASE, PLAT_RAM_HIGH_BASE - 16,
	};

	test_group("queues outside of RAM");
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		run_place(s, "descriptor table outside of RAM", VIRTIO_PCI_COMMON_Q_DESCLO,
			  places[i] & ~15ull);
		run_place(s, "avail ring outside of RAM", VIRTIO_PCI_COMMON_Q_AVAILLO, places[i]);
		run_place(s, "used ring outside of RAM", VIRTIO_PCI_COMMON_Q_USEDLO, places[i]);
	}
	run_place(s, "misaligned descriptor table", VIRTIO_PCI_COMMON_Q_DESCLO,
		  (uintptr_t)s->vq.desc + 1);
	run_place(s, "misaligned avail ring", VIRTIO_PCI_COMMON_Q_AVAILLO,
		  (uintptr_t)s->vq.avail + 1);
	run_place(s, "misaligned used ring", VIRTIO_PCI_COMMON_Q_USEDLO, (uintptr_t)s->vq.used + 1);
	run_place(s, "avail and used in one place", VIRTIO_PCI_COMMON_Q_USEDLO,
		  ((uintptr_t)s->vq.avail + 3) & ~3ull);
}

static void check_sizes(struct subject *s)
{
	static const uint16_t sizes[] = { 0, 3, 257, 0x7fff, 0x8000, 0xffff };
	struct vio *v = &s->vio;
	uint16_t max;

	test_group("impossible queue sizes");
	vio_reset(v);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_SELECT, 0);
	max = vio_get16(v, VIRTIO_PCI_COMMON_Q_SIZE);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		vio_negotiate(v, 0);
		vio_set16(v, VIRTIO_PCI_COMMON_Q_SELECT, 0);
		vio_set16(v, VIRTIO_PCI_COMMON_Q_SIZE, sizes[i]);
		vio_set16(v, VIRTIO_PCI_COMMON_Q_ENABLE, 1);
		vio_driver_ok(v);
		mmio_write16(s->vq.doorbell, 0);
		vio_reset(v);
		vio_set16(v, VIRTIO_PCI_COMMON_Q_SELECT, 0);
		test_check(vio_get16(v, VIRTIO_PCI_COMMON_Q_SIZE) == max,
			   "size after reset is not the largest one");
	}
	subject_works(s, "impossible queue sizes");
}

/* --- doorbells and status at the wrong time ----------------------------------------------------
 */

static void check_doorbells(struct subject *s)
{
	struct vio *v = &s->vio;
	struct vq *q = &s->vq;
	uint32_t step = v->notify_multiplier ? v->notify_multiplier : 4;

	test_group("doorbells");
	vio_reset(v);
	vq_ring(q); /* nobody is there */
	vio_negotiate(v, 0);
	vq_setup(q, v, 0, 16);
	vq_ring(q); /* before DRIVER_OK: 3.1.1 forbids it */
	vio_driver_ok(v);
	for (unsigned int i = 0; i < 200; i++)
		vq_ring(q); /* nothing to fetch */
	mmio_write16(q->doorbell, 0xffff);
	mmio_write8(q->doorbell, 0);
	mmio_write32(q->doorbell, 0);
	mmio_write64(q->doorbell & ~7ull, 0);
	mmio_read16(q->doorbell);
	for (uint32_t at = 0; at + 2 <= v->notify.length && at < 80 * step; at += step)
		mmio_write16(v->notify.addr + at, (uint16_t)(at / step));
	test_check(!q->used->idx, "an empty ring has completions");
	test_check(!(vio_get8(v, VIRTIO_PCI_COMMON_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET),
		   "spurious doorbells break the device");
	subject_works(s, "spurious doorbells");
}

static void check_status(struct subject *s)
{
	static const uint8_t values[] = { 0x04, 0x0f, 0x80, 0xff, 0x40, 0x30 };
	struct vio *v = &s->vio;

	test_group("status values");
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		vio_reset(v);
		vio_set8(v, VIRTIO_PCI_COMMON_STATUS, values[i]);
		vq_ring(&s->vq);
		vio_get8(v, VIRTIO_PCI_COMMON_STATUS);
		subject_works(s, "a strange status");
	}
}

/* A function that may not master the bus touches no memory. */
static void check_bus_master(struct subject *s, bool strict)
{
	struct vq_seg segs[VQ_SEGS_MAX];
	struct vq *q = &s->vq;

	test_group("bus mastering off");
	if (!subject_start(s, 0))
		return;
	pci_command(&s->vio.fn, 0, PCI_COMMAND_MASTER);
	vq_add(q, segs, subject_request(s, segs));
	vq_ring(q);
	outcome_of(&s->vio, q, SHORTLY);
	if (strict)
		test_check(!q->used->idx, "memory is written all the same");
	pci_command(&s->vio.fn, PCI_COMMAND_MASTER, 0);
	subject_works(s, "bus mastering off and on");
}

void rings_check(struct subject *s, bool strict)
{
	test_group("broken rings");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		run_case(s, &cases[i], strict);
	check_places(s);
	check_sizes(s);
	check_doorbells(s);
	check_status(s);
	check_bus_master(s, strict);
}
