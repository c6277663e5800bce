/* SPDX-License-Identifier: Apache-2.0 */
/*
 * precopy.c - rounds of RAM while the guest runs, until what it writes meanwhile is little enough
 * to be sent while it stands; the bandwidth limit, and what is done about a guest that writes too
 * fast. The migration thread.
 */
#include "engine.h"
#include "source.h"

#include <unvmm/track.h>
#include <unvmm/vm.h>

#include <errno.h>

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

#define SLICE_NS (10 * NS_PER_MS)
/* Fewer pages say more about latency than about the link. */
#define RATE_MIN_PAGES 256u
/* What the target may have left to do with pages when a round is over; those of zeroes count. */
#define BEHIND_MAX_PAGES 64u
/* Between rounds whose number is of no help, because what is waited for is not RAM. */
#define ROUND_PAUSE_NS (20 * NS_PER_MS)

/* Bytes of pages per second, as long as none has been sent. */
#define RATE_GUESS MiB(500)

/* As QEMU's defaults: 20 % at first, 10 % more each time. Each gets a while to show its effect. */
#define THROTTLE_FIRST	 20u
#define THROTTLE_STEP	 10u
#define THROTTLE_MAX	 99u
#define THROTTLE_STEP_NS (100 * NS_PER_MS)
#define SLOW_ROUNDS	 2u

/* What has been written since a page was last read, by whomever. */
int precopy_fetch(struct migration *m, struct diag *d)
{
	int err = vm_track_sync(m->vm, d);

	return err ? err : ram_fetch(&m->ram, d);
}

/* Keeps to the bandwidth: the next section goes when the link has carried the last one. */
static int limit(struct migration *m, uint64_t sent, struct diag *d)
{
	uint64_t bandwidth = engine_params(m).bandwidth, now = stream_now();
	int err = 0;

	if (!bandwidth) {
		m->limit_until = 0;
		return 0;
	}
	if (m->limit_until < now)
		m->limit_until = now;
	m->limit_until += sent * NS_PER_S / bandwidth;
	while (!err && (now = stream_now()) < m->limit_until) {
		uint64_t rest = m->limit_until - now;

		err = stream_sleep(&m->stream, rest < SLICE_NS ? rest : SLICE_NS, d);
		if (!err)
			err = source_attend(m, d);
	}
	return err;
}

/* The pre-copy's time is up: 0 if it is to be forced. */
static int check_timeout(struct migration *m, struct diag *d)
{
	struct migration_params p = engine_params(m);

	if (m->forced || !p.timeout_ms || stream_now() - m->started < p.timeout_ms * NS_PER_MS)
		return 0;
	if (p.on_timeout == MIGRATION_TIMEOUT_CANCEL)
		return diag_set(
			d, -ETIME,
			"the guest writes faster than it can be moved: no downtime of %u ms "
			"within %.3g s",
			p.downtime_ms, p.timeout_ms / 1000.0);
	m->forced = true;
	return 0;
}

/*
 * How fast pages go: by the sections that are full of them, with waits for the link, and without
 * those for the bandwidth limit and the search through zero pages.
 */
static void time_section(struct migration *m, uint64_t start, uint64_t pages_before)
{
	uint64_t pages = m->ram.pages - pages_before;

	if (pages < RAM_PAGES / 2)
		return;
	m->timed_pages += pages;
	m->timed_ns += stream_now() - start;
}

/* Sends what is pending. Ends early when the switch is to be forced. */
int precopy_send_round(struct migration *m, struct diag *d)
{
	int len, err = 0;

	while (!err && !(m->forced && !m->held && m->state == PROTO_PREPARED)) {
		uint64_t start = stream_now(), pages = m->ram.pages;

		len = ram_fill(&m->ram, stream_payload(&m->stream), d);
		if (len <= 0)
			return len;
		err = engine_send(m, MSG_RAM, NULL, (size_t)len, d);
		time_section(m, start, pages);
		if (err || m->held)
			continue; /* nothing counts but speed */
		err = limit(m, STREAM_HEADER + (uint64_t)len, d);
		if (!err)
			err = source_attend(m, d);
		if (!err)
			err = check_timeout(m, d);
		engine_count(m);
	}
	return err;
}

/* What the guest's writing has no part in. */
static uint64_t fixed_downtime(const struct migration *m)
{
	return m->stop_ns + m->state_ns + 2 * m->rtt;
}

/* The limit is not kept to at the switch, but what goes then is to be no more than it lets go. */
static uint64_t expected_downtime(struct migration *m)
{
	uint64_t rate = m->rate ? m->rate : RATE_GUESS, bandwidth = engine_params(m).bandwidth;

	if (bandwidth && rate > bandwidth)
		rate = bandwidth;
	return fixed_downtime(m) + m->ram.npending * PAGE_SIZE_4K * 1000 / (rate / 1000000 + 1);
}

static uint64_t limit_ns(struct migration *m)
{
	return engine_params(m).downtime_ms * NS_PER_MS;
}

/* A round has been sent and the next one's pages are known. */
static void measure(struct migration *m, uint64_t start, uint64_t sent_before)
{
	uint64_t ns = stream_now() - start + 1, sent = m->stream.sent - sent_before, downtime;

	if (m->timed_pages >= RATE_MIN_PAGES)
		m->rate = m->timed_pages * PAGE_SIZE_4K * 1000 / (m->timed_ns / 1000000 + 1);
	m->timed_pages = m->timed_ns = 0;
	downtime = expected_downtime(m);
	pthread_mutex_lock(&m->lock);
	m->status.rate = sent * 1000 / (ns / 1000000 + 1);
	m->status.dirty_rate = m->ram.npending * PAGE_SIZE_4K * 1000 / (ns / 1000000 + 1);
	m->status.expected_downtime_ns = downtime;
	pthread_mutex_unlock(&m->lock);
}

/* The guest writes more than half of what was sent, again and again: it is to have less time. */
static void adapt_throttle(struct migration *m, uint64_t pages_sent)
{
	uint32_t percent;

	if (!engine_params(m).throttle || m->ram.npending * 2 < pages_sent) {
		m->slow_rounds = 0;
		return;
	}
	if (++m->slow_rounds < SLOW_ROUNDS || stream_now() < m->next_throttle)
		return;
	m->slow_rounds = 0;
	m->next_throttle = stream_now() + THROTTLE_STEP_NS;
	percent = m->status.throttle ? m->status.throttle + THROTTLE_STEP : THROTTLE_FIRST;
	pthread_mutex_lock(&m->lock);
	m->status.throttle = percent < THROTTLE_MAX ? percent : THROTTLE_MAX;
	pthread_mutex_unlock(&m->lock);
	m->stream.tick_ms = 5;
}

/*
 * Another round is to come. One that follows at once finds the less, the less there was to send:
 * the guest had no more time than that took. It is of no use if little is left and the downtime
 * would still be too long, or the target has other things to do.
 */
static int before_round(struct migration *m, uint64_t pages_sent, struct diag *d)
{
	bool ready = m->state == PROTO_PREPARED && fixed_downtime(m) < limit_ns(m);

	if (!ready && m->ram.npending < RATE_MIN_PAGES)
		return stream_sleep(&m->stream, ROUND_PAUSE_NS, d);
	adapt_throttle(m, pages_sent);
	return 0;
}

static bool fits(struct migration *m)
{
	return m->state == PROTO_PREPARED && (m->forced || expected_downtime(m) <= limit_ns(m));
}

/*
 * It would do, but a round is short by now. The guest stands the less the less is left, so another
 * one is worth its time as long as it leaves half of what the one before it did.
 */
static bool worth_another(struct migration *m, uint64_t *left)
{
	bool worth =
		!m->forced && m->ram.npending > BEHIND_MAX_PAGES && m->ram.npending * 2 < *left;

	*left = m->ram.npending;
	return worth;
}

static uint64_t pages_said(const struct migration *m)
{
	return m->ram.pages + m->ram.zero_pages;
}

/* Few bytes may say much: the target looks at each page that is said to be zero. */
static int catch_up(struct migration *m, uint64_t *drained, struct diag *d)
{
	if (m->forced || pages_said(m) - *drained < BEHIND_MAX_PAGES)
		return 0;
	*drained = pages_said(m);
	return source_drain(m, d);
}

/* Rounds until the rest can be sent within the downtime. */
int precopy_run(struct migration *m, struct diag *d)
{
	uint64_t drained = pages_said(m), left = m->ram.npages;
	bool again;
	int err;

	do {
		uint64_t start = stream_now(), sent = m->stream.sent, pages = m->ram.pages;

		pthread_mutex_lock(&m->lock);
		m->status.rounds++;
		pthread_mutex_unlock(&m->lock);
		err = precopy_send_round(m, d);
		if (!err)
			err = catch_up(m, &drained, d);
		if (!err)
			err = precopy_fetch(m, d);
		if (err)
			return err;
		measure(m, start, sent);
		again = !fits(m);
		if (again)
			err = before_round(m, m->ram.pages - pages, d);
		else
			again = worth_another(m, &left);
		if (!err)
			err = source_attend(m, d);
		if (!err)
			err = check_timeout(m, d);
	} while (!err && again);
	return err;
}
