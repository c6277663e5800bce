/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_relay_races.c - a relay between a guest and a function that sleep whenever they may and are
 * woken only if the rules of suppression say so: a notification that is lost leaves all three
 * asleep, and the test notices. Three threads; run under the thread sanitizer too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vf_relay.h"

#define SIZE	 2u /* so small that what is missed is missed for good */
#define REQUESTS 20000u
#define PATIENCE 60 /* seconds */

#define LOAD(p)	    __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define STORE(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)

struct stage {
	struct gmem mem;
	struct vring_avail *avail;
	struct vring_used *used;
	struct relay r;
	void *window;
	bool guest_event, fn_event;
	sem_t wake_guest, wake_relay, wake_fn;
	bool over, stuck; /* atomic */
	unsigned int interrupts, kicks;
};

static uint16_t *avail_event(struct vring_used *used)
{
	void *at = &used->ring[SIZE];

	return at;
}

/* Now and then somebody is slow, just where it matters. */
static void dawdle(unsigned int *seed)
{
	unsigned int n = (unsigned int)rand_r(seed) % 64;

	if (!n)
		sched_yield();
	for (; n > 32; n--)
		__asm__ volatile("pause");
}

/* False: nobody came. */
static bool nap(struct stage *s, sem_t *sem)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE;
	if (!sem_timedwait(sem, &until))
		return !LOAD(&s->stuck);
	STORE(&s->stuck, true);
	return false;
}

/* --- a driver (2.7.13, 2.7.14) -----------------------------------------------------------------
 */

static void guest_post(struct stage *s, uint16_t *avail, uint16_t n)
{
	uint16_t old = *avail;
	bool kick;

	for (uint16_t i = 0; i < n; i++, ++*avail)
		__atomic_store_n(&s->avail->ring[*avail % SIZE], *avail % SIZE, __ATOMIC_RELAXED);
	STORE(&s->avail->idx, *avail);
	kick = s->guest_event ? vring_need_event(LOAD(avail_event(s->used)), *avail, old)
			      : !(LOAD(&s->used->flags) & VRING_USED_F_NO_NOTIFY);
	if (kick)
		sem_post(&s->wake_relay);
}

/* Asks for an interrupt; true: there is something already. */
static bool guest_arm(struct stage *s, uint16_t seen, bool on)
{
	if (s->guest_event)
		STORE(&s->avail->ring[SIZE], on ? seen : (uint16_t)(seen - 1));
	else
		STORE(&s->avail->flags, on ? 0 : VRING_AVAIL_F_NO_INTERRUPT);
	return LOAD(&s->used->idx) != seen;
}

static void *guest(void *opaque)
{
	struct stage *s = opaque;
	uint16_t avail = 0, seen = 0;
	unsigned int posted = 0, done = 0, seed = 1;

	while (done < REQUESTS) {
		uint16_t room = (uint16_t)(SIZE - (uint16_t)(avail - seen));
		uint16_t n = (uint16_t)(rand_r(&seed) % (room + 1u));

		if (n > REQUESTS - posted)
			n = (uint16_t)(REQUESTS - posted);
		dawdle(&seed);
		if (n)
			guest_post(s, &avail, n);
		posted += n;
		if (avail != seen && !guest_arm(s, seen, true) && !nap(s, &s->wake_guest))
			break;
		(void)guest_arm(s, seen, false);
		done += (uint16_t)(LOAD(&s->used->idx) - seen);
		seen = LOAD(&s->used->idx);
	}
	STORE(&s->over, true);
	sem_post(&s->wake_relay);
	sem_post(&s->wake_fn);
	return NULL;
}

/* --- a function ------------------------------------------------------------------------------- */

static bool fn_arm(struct stage *s, uint16_t taken, bool on)
{
	if (s->fn_event)
		STORE(avail_event(s->r.fn_used), on ? taken : (uint16_t)(taken - 1));
	else
		STORE(&s->r.fn_used->flags, on ? 0 : VRING_USED_F_NO_NOTIFY);
	return LOAD(&s->r.fn_avail->idx) != taken;
}

static void *function(void *opaque)
{
	struct stage *s = opaque;
	uint16_t taken = 0, old;
	unsigned int seed = 2;

	while (!LOAD(&s->over)) {
		uint16_t n = (uint16_t)(LOAD(&s->r.fn_avail->idx) - taken);

		if (!n) {
			if (!fn_arm(s, taken, true) && !LOAD(&s->over) && !nap(s, &s->wake_fn))
				break;
			(void)fn_arm(s, taken, false);
			continue;
		}
		dawdle(&seed);
		n = (uint16_t)(1 + rand_r(&seed) % n);
		old = taken;
		for (uint16_t i = 0; i < n; i++, taken++) {
			struct vring_used_elem *e = &s->r.fn_used->ring[taken % SIZE];

			__atomic_store_n(&e->id, s->r.fn_avail->ring[taken % SIZE],
					 __ATOMIC_RELAXED);
			__atomic_store_n(&e->len, 0, __ATOMIC_RELAXED);
		}
		STORE(&s->r.fn_used->idx, taken);
		if (s->fn_event ? vring_need_event(LOAD(&s->r.fn_avail->ring[SIZE]), taken, old)
				: !(LOAD(&s->r.fn_avail->flags) & VRING_AVAIL_F_NO_INTERRUPT))
			sem_post(&s->wake_relay);
	}
	return NULL;
}

/* --- the relay, as relay.c turns it ------------------------------------------------------------
 */

static void *relay(void *opaque)
{
	struct stage *s = opaque;
	struct relay *r = &s->r;
	unsigned int seed = 3;

	while (!LOAD(&s->over)) {
		int given, back;

		relay_wake(r);
		given = relay_forward(r);
		if (given >= 0 && relay_wants_kick(r)) {
			s->kicks++;
			sem_post(&s->wake_fn);
		}
		back = given < 0 ? given : relay_complete(r);
		if (back < 0) {
			STORE(&s->stuck, true);
			break;
		}
		if (relay_wants_interrupt(r)) {
			s->interrupts++;
			sem_post(&s->wake_guest);
		}
		dawdle(&seed);
		if (!given && !back && !relay_sleep(r) && !LOAD(&s->over) &&
		    !nap(s, &s->wake_relay))
			break;
	}
	sem_post(&s->wake_guest);
	return NULL;
}

static void race(bool guest_event, bool fn_event)
{
	const struct vq_layout layout = {
		.size = SIZE, .desc = MiB(1), .avail = MiB(1) + 0x1000, .used = MiB(1) + 0x2000
	};
	void *(*const parts[])(void *) = { guest, relay, function };
	static struct stage s;
	pthread_t threads[3];
	struct diag d = { "" };

	memset(&s, 0, sizeof(s));
	s.guest_event = guest_event;
	s.fn_event = fn_event;
	assert_int_equal(gmem_create(&s.mem, MiB(16), GMEM_PRIVATE, &d), 0);
	s.avail = gmem_ptr(&s.mem, layout.avail, 64);
	s.used = gmem_ptr(&s.mem, layout.used, 128);
	assert_int_equal(posix_memalign(&s.window, PAGE_SIZE_4K, RELAY_BYTES), 0);
	assert_int_equal(relay_start(&s.r, &s.mem, &layout,
				     guest_event ? VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX) : 0,
				     fn_event, 0, s.window),
			 0);
	sem_init(&s.wake_guest, 0, 0);
	sem_init(&s.wake_relay, 0, 0);
	sem_init(&s.wake_fn, 0, 0);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, parts[i], &s), 0);
	for (unsigned int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_false(s.stuck);
	assert_int_equal(s.used->idx, REQUESTS % 65536);
	/* Not by telling everybody of everything. */
	assert_true(s.interrupts && s.kicks);
	free(s.window);
	gmem_destroy(&s.mem);
}

static void test_flags(void **state)
{
	(void)state;
	race(false, false);
}

static void test_event_index(void **state)
{
	(void)state;
	race(true, true);
}

static void test_mixed(void **state)
{
	(void)state;
	race(true, false);
	race(false, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_event_index),
		cmocka_unit_test(test_mixed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
