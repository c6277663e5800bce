/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_softq_races.c - a driver and the thread of a software device, which sleep whenever they may
 * and are woken only if the rules of suppression say so: a doorbell or an interrupt that is lost
 * leaves both asleep, and the test notices. Two threads; run under the thread sanitizer too.
 */
#include "fake_transport.h"

#include <sched.h>
#include <stdlib.h>

#include <unvmm/softq.h>
#include <unvmm/vm.h>

#include "vq_driver.h"

#define SIZE	 4u /* so small that what is missed is missed for good */
#define REQUESTS 15000u

/* How the device answers: at once, by an operation of the loop, or after it has let some wait. */
enum manner { AT_ONCE, LATER, HOLDING };

struct request {
	struct loop_op op;
	uint16_t head;
};

static struct stage {
	struct vm vm;
	struct vdev v;
	struct softq sq;
	struct io_thread io;
	struct vq_driver d;
	enum manner manner;
	unsigned int seed; /* the loop's thread */
	struct request requests[SIZE];
	struct loop_work go_on;
} stage;

/* Now and then somebody is slow, just where it matters. */
static void dawdle(unsigned int *seed)
{
	unsigned int n = (unsigned int)rand_r(seed) % 64;

	if (!n)
		sched_yield();
	for (; n > 32; n--)
		__asm__ volatile("pause");
}

/* --- the device ------------------------------------------------------------------------------- */

static void request_done(struct loop_op *op, int res, uint32_t flags)
{
	struct request *r = container_of(op, struct request, op);

	(void)res;
	(void)flags;
	softq_complete(&stage.sq, 0, r->head, 0);
}

static void go_on(struct loop_work *w)
{
	(void)w;
	if (stage.sq.queues[0].held)
		softq_serve(&stage.sq, 0);
}

static void answer(struct softq *sq, uint16_t head)
{
	struct request *r = &stage.requests[head];
	struct io_uring_sqe *sqe;

	softq_begin(sq);
	if (stage.manner != LATER) {
		softq_complete(sq, 0, head, 0);
		return;
	}
	*r = (struct request){ .op.done = request_done, .head = head };
	sqe = loop_sqe(sq->loop, &r->op);
	if (!sqe)
		abort();
	io_uring_prep_nop(sqe);
}

static void handle(struct softq *sq, unsigned int q)
{
	struct iovec iov[SIZE];
	gpa_t gpa[SIZE];

	for (;;) {
		struct vq_chain c = { .cap = SIZE, .iov = iov, .gpa = gpa };
		int got = vq_pop(&sq->queues[q].vq, &c);

		dawdle(&stage.seed);
		if (got < 0)
			softq_broken(sq, q, sq->queues[q].vq.why);
		if (got <= 0)
			return;
		if (stage.manner == HOLDING && rand_r(&stage.seed) % 4 == 0) {
			vq_unpop(&sq->queues[q].vq, 1);
			softq_hold(sq, q);
			loop_next(sq->loop, &stage.go_on);
			return;
		}
		answer(sq, c.head);
	}
}

/* --- a driver (2.7.13, 2.7.14) ---------------------------------------------------------------- */

static void post(struct stage *s, unsigned int n, gpa_t gpa)
{
	struct vqd_buf buf = { .gpa = gpa, .len = 64 };

	while (n--)
		vqd_post(&s->d, &buf, 1);
	if (vqd_show(&s->d))
		softq_kick(&s->sq, 0); /* as KVM does for the guest: one write to an eventfd */
}

static unsigned int take_all(struct stage *s)
{
	struct vring_used_elem e;
	unsigned int n = 0;

	while (vqd_take(&s->d, &e))
		n++;
	return n;
}

static void drive(struct stage *s)
{
	gpa_t gpa = vqd_alloc(&s->d, 64, 16);
	unsigned int posted = 0, done = 0, seed = 1;

	while (done < REQUESTS) {
		unsigned int n = (unsigned int)rand_r(&seed) % (s->d.nfree + 1u);

		if (n > REQUESTS - posted)
			n = REQUESTS - posted;
		dawdle(&seed);
		if (n)
			post(s, n, gpa);
		posted += n;
		vqd_want_interrupt(&s->d, true);
		n = take_all(s);
		done += n;
		if (!n && posted != done && wait_for(&host.irq))
			fail_msg("asleep: %u of %u are done, the device has taken %u and given "
				 "back %u",
				 done, posted, s->sq.queues[0].vq.next_avail,
				 s->sq.queues[0].vq.published);
		vqd_want_interrupt(&s->d, false);
	}
}

static void race(enum manner manner, bool event_idx)
{
	struct stage *s = &stage;
	struct diag d = { "" };

	memset(s, 0, sizeof(*s));
	clear_transport();
	s->manner = manner;
	s->seed = 2;
	s->go_on.fn = go_on;
	assert_int_equal(gmem_create(&s->vm.mem, MiB(16), GMEM_PRIVATE, &d), 0);
	assert_int_equal(io_thread_start(&s->io, "softq", &d), 0);
	s->v = (struct vdev){ .vm = &s->vm, .id = "races", .nqueues = 1 };
	s->v.negotiated = event_idx ? VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX) : 0;
	vqd_init(&s->d, &s->vm.mem, MiB(1), KiB(64), SIZE, s->v.negotiated);
	s->v.queues[0] = (struct vdev_queue){ .size = SIZE,
					      .enabled = true,
					      .desc = s->d.layout.desc,
					      .driver = s->d.layout.avail,
					      .device = s->d.layout.used };
	assert_int_equal(softq_init(&s->sq, &s->v, &s->io.loop, handle, &d), 0);
	assert_int_equal(softq_start(&s->sq), 0);
	drive(s);
	softq_stop(&s->sq);
	assert_int_equal(wait_for(&host.stopped), 0);
	assert_int_equal(s->v.queues[0].index, REQUESTS % 65536);
	/* Not by telling everybody of everything. */
	assert_in_range(s->v.counters[0].kicks, 1, REQUESTS - 1);
	assert_in_range(s->v.counters[0].interrupts, 1, REQUESTS - 1);
	softq_fini(&s->sq);
	io_thread_stop(&s->io);
	gmem_destroy(&s->vm.mem);
}

static void test_flags(void **state)
{
	(void)state;
	race(AT_ONCE, false);
	race(LATER, false);
}

static void test_event_index(void **state)
{
	(void)state;
	race(AT_ONCE, true);
	race(LATER, true);
}

static void test_holding(void **state)
{
	(void)state;
	race(HOLDING, false);
	race(HOLDING, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_event_index),
		cmocka_unit_test(test_holding),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
