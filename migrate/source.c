/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source.c - the side that has the guest. Reads top to bottom in the order of events: rounds of RAM
 * while the guest runs, the switch, and what becomes of a failure. The migration thread, but for
 * the functions named main_*, which main runs for it.
 */
#include "engine.h"

#include <unvmm/device.h>
#include <unvmm/log.h>
#include <unvmm/machine_state.h>
#include <unvmm/vcpu.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

#define PING_NS	 NS_PER_S
#define SLICE_NS (10 * NS_PER_MS)
/* After a round that moved less the guest is given a while to write something. */
#define ROUND_MIN_PAGES 256u
#define ROUND_PAUSE_NS	(20 * NS_PER_MS)

/* What the parts of the switch are taken to cost until one has been measured. */
#define STOP_GUESS  (2 * NS_PER_MS)
#define STATE_GUESS (4 * NS_PER_MS)
#define RATE_GUESS  MiB(500)

/* As QEMU's defaults: 20 % at first, 10 % more each time, the vcpus run for 10 ms in between. */
#define THROTTLE_FIRST 20u
#define THROTTLE_STEP  10u
#define THROTTLE_MAX   99u
#define THROTTLE_RUN   (10 * NS_PER_MS)
#define SLOW_ROUNDS    2u

/* --- while it waits or works
 * ---------------------------------------------------------------------- */

/* The vcpus sleep for their share of each period. */
static void throttle(struct migration *m)
{
	uint64_t now = stream_now(), nap;
	uint32_t percent = m->status.throttle; /* written by this thread only */

	if (!percent || m->held || now < m->next_nap || !m->vm->vcpus)
		return;
	nap = THROTTLE_RUN * percent / (100 - percent);
	vcpus_nap(m->vm->vcpus, nap);
	m->next_nap = now + nap + THROTTLE_RUN;
}

static int source_tick(void *arg, struct diag *d)
{
	struct migration *m = arg;

	throttle(m);
	/* From COMMIT on only the target can say who has the guest; but main need not wait. */
	if (m->state == PROTO_COMMITTED) {
		bool closing;

		pthread_mutex_lock(&m->lock);
		closing = m->closing;
		pthread_mutex_unlock(&m->lock);
		return closing ? diag_set(d, -ECANCELED, "unvmm ends here") : 0;
	}
	return engine_cancelled(m, d);
}

static int pong(struct migration *m, struct diag *d)
{
	uint64_t number;
	int err = proto_get_number(&m->section, &number, d);

	if (err)
		return err;
	if (!m->ping_sent || number != m->ping_number)
		return diag_set(d, -EPROTO, "the target answers a ping that was not sent");
	m->rtt = stream_now() - m->ping_sent;
	m->ping_sent = 0;
	return 0;
}

/* Receives one message and does what it says. */
static int hear(struct migration *m, struct diag *d)
{
	char reason[PROTO_REASON_MAX + 1];
	uint16_t version;
	int err = engine_recv(m, d);

	if (err)
		return err;
	switch (m->section.type) {
	case MSG_ACCEPT:
		return proto_get_accept(&m->section, &version, d);
	case MSG_PONG:
		return pong(m, d);
	case MSG_REFUSE:
		proto_get_reason(&m->section, reason, sizeof(reason));
		return diag_set(d, -EREMOTEIO, "the target refuses: %s", reason);
	case MSG_ABORTED:
		proto_get_reason(&m->section, reason, sizeof(reason));
		return diag_set(d, -EREMOTEIO, "the target gave up: %s", reason);
	case MSG_READY:
		return proto_get_number(&m->section, &m->downtime.target_load, d);
	case MSG_RUNNING:
		return proto_get_number(&m->section, &m->downtime.target_start, d);
	default:
		return 0;
	}
}

/* What has come, without waiting; and a ping now and then, so that silence means something. */
static int attend(struct migration *m, struct diag *d)
{
	uint64_t now = stream_now();
	uint8_t payload[8];
	int err = 0;

	if (m->file)
		return source_tick(m, d);
	while (!err && stream_readable(&m->stream))
		err = hear(m, d);
	if (err || m->state > PROTO_PREPARED)
		return err;
	if (m->ping_sent && now - m->ping_sent > m->stream.silence_ms * NS_PER_MS)
		return diag_set(d, -ETIMEDOUT, "the target answers nothing for %.3g s",
				m->stream.silence_ms / 1000.0);
	if (m->ping_sent || now - m->last_ping < PING_NS)
		return 0;
	m->ping_sent = m->last_ping = now;
	return engine_send(m, MSG_PING, payload, proto_put_number(payload, ++m->ping_number), d);
}

/* Waits until the target has brought us to `state`. In a file it is there at once. */
static int wait_for_state(struct migration *m, enum proto_state state, enum proto_msg msg,
			  struct diag *d)
{
	int err = 0;

	if (m->file)
		engine_assume(m, PROTO_RECV, msg);
	while (!err && m->state != state)
		err = hear(m, d);
	return err;
}

/* --- set-up ---------------------------------------------------------------------------------- */

static int say_hello(struct migration *m, struct diag *d)
{
	struct proto_hello h = { .oldest = PROTO_OLDEST,
				 .newest = PROTO_NEWEST,
				 .flags = m->file ? PROTO_HELLO_FILE : 0,
				 .ram_size = m->vm->mem.size,
				 .description = m->description,
				 .description_len = m->description_len };
	size_t len = proto_put_hello(stream_payload(&m->stream), &h);
	int err = engine_send(m, MSG_HELLO, NULL, len, d);

	if (!err)
		err = wait_for_state(m, PROTO_RAM, MSG_ACCEPT, d);
	if (!err && m->file)
		engine_assume(m, PROTO_RECV, MSG_PREPARED);
	return err;
}

/* --- rounds of RAM --------------------------------------------------------------------------- */

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
			err = attend(m, d);
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

/* Sends what is pending. Ends early when the switch is to be forced. */
static int send_round(struct migration *m, struct diag *d)
{
	int len, err = 0;

	while (!err && !(m->forced && !m->held && m->state == PROTO_PREPARED)) {
		len = ram_fill(&m->ram, stream_payload(&m->stream), d);
		if (len <= 0)
			return len;
		err = engine_send(m, MSG_RAM, NULL, (size_t)len, d);
		if (err || m->held)
			continue; /* nothing counts but speed */
		err = limit(m, STREAM_HEADER + (uint64_t)len, d);
		if (!err)
			err = attend(m, d);
		if (!err)
			err = check_timeout(m, d);
		engine_count(m);
	}
	return err;
}

static uint64_t expected_downtime(const struct migration *m)
{
	uint64_t rate = m->rate ? m->rate : RATE_GUESS;

	return m->stop_ns + m->state_ns + 2 * m->rtt +
	       m->ram.npending * PAGE_SIZE_4K * 1000 / (rate / 1000000 + 1);
}

/* A round has been sent and the next one's pages are known. */
static void measure(struct migration *m, uint64_t start, uint64_t sent_before,
		    uint64_t pages_before)
{
	uint64_t ns = stream_now() - start + 1, pages = m->ram.pages - pages_before;
	uint64_t sent = m->stream.sent - sent_before;

	/* A small round says more about latency than about the link. */
	if (pages >= ROUND_MIN_PAGES || !m->rate)
		m->rate = pages ? pages * PAGE_SIZE_4K * 1000 / (ns / 1000000 + 1) : m->rate;
	pthread_mutex_lock(&m->lock);
	m->status.rate = sent * 1000 / (ns / 1000000 + 1);
	m->status.dirty_rate = m->ram.npending * PAGE_SIZE_4K * 1000 / (ns / 1000000 + 1);
	m->status.expected_downtime_ns = expected_downtime(m);
	pthread_mutex_unlock(&m->lock);
}

/* The guest writes more than half of what was sent, again and again: it is to have less time. */
static void adapt_throttle(struct migration *m, uint64_t pages_sent)
{
	uint32_t percent;

	if (!engine_params(m).throttle || m->ram.npending < ROUND_MIN_PAGES ||
	    m->ram.npending * 2 < pages_sent) {
		m->slow_rounds = 0;
		return;
	}
	if (++m->slow_rounds < SLOW_ROUNDS)
		return;
	m->slow_rounds = 0;
	percent = m->status.throttle ? m->status.throttle + THROTTLE_STEP : THROTTLE_FIRST;
	pthread_mutex_lock(&m->lock);
	m->status.throttle = percent < THROTTLE_MAX ? percent : THROTTLE_MAX;
	pthread_mutex_unlock(&m->lock);
	m->stream.tick_ms = 5;
}

static bool fits(struct migration *m)
{
	return m->state == PROTO_PREPARED &&
	       (m->forced || expected_downtime(m) <= engine_params(m).downtime_ms * NS_PER_MS);
}

/* Rounds until the rest can be sent within the downtime. */
static int precopy(struct migration *m, struct diag *d)
{
	int err;

	do {
		uint64_t start = stream_now(), sent = m->stream.sent, pages = m->ram.pages, moved;

		pthread_mutex_lock(&m->lock);
		m->status.rounds++;
		pthread_mutex_unlock(&m->lock);
		err = send_round(m, d);
		if (!err)
			err = ram_fetch(&m->ram, d);
		if (err)
			return err;
		moved = m->ram.pages - pages;
		measure(m, start, sent, pages);
		if (!fits(m)) {
			adapt_throttle(m, moved);
			if (moved < ROUND_MIN_PAGES)
				err = stream_sleep(&m->stream, ROUND_PAUSE_NS, d);
		}
		if (!err)
			err = attend(m, d);
		if (!err)
			err = check_timeout(m, d);
	} while (!err && !fits(m));
	return err;
}

/* --- the switch ------------------------------------------------------------------------------ */

/* -EAGAIN: the guest is just resetting itself; it is to do that before it moves. */
static int main_stop(struct migration *m, struct diag *d)
{
	enum vm_event event;
	int err = vm_hold(m->vm, d);

	if (err)
		return err;
	vm_lock(m->vm);
	event = m->vm->event;
	vm_unlock(m->vm);
	m->held = event == VM_EVENT_NONE;
	if (m->held)
		return 0;
	vm_release(m->vm);
	return event == VM_EVENT_REBOOT ? -EAGAIN
					: diag_set(d, -ESHUTDOWN, "the guest has come to its end");
}

static int main_resume(struct migration *m, struct diag *d)
{
	(void)d;
	m->held = false;
	vm_release(m->vm);
	return 0;
}

static int keep_part(void *arg, const char *id, const void *blob, size_t len, struct diag *d)
{
	struct migration *m = arg;

	return parts_add(&m->parts, id, blob, len, d);
}

static int main_save(struct migration *m, struct diag *d)
{
	int err;

	vm_lock(m->vm);
	err = machine_state_save(m->vm, keep_part, m, d);
	vm_unlock(m->vm);
	return err;
}

/* What the guest was told is written must be there for whoever opens the disk next. */
static int sync_disks(struct migration *m, struct diag *d)
{
	for (struct device *dev = m->vm->devices; dev; dev = dev->next) {
		int err = dev->cls->sync ? dev->cls->sync(dev) : 0;

		if (err)
			return diag_errno(d, err, "%s: the disk cannot be synced", dev->id);
	}
	return 0;
}

/* Last of all RAM, because taking the state may have written to it. */
static int send_last_ram(struct migration *m, struct diag *d)
{
	int err;

	m->ram.stopped = true;
	err = ram_fetch(&m->ram, d);
	if (!err)
		err = send_round(m, d);
	m->end = (struct proto_state_end){ .flags = m->vm->paused ? PROTO_END_PAUSED : 0,
					   .parts = m->parts.n };
	if (!err && engine_params(m).verify) {
		m->end.flags |= PROTO_END_HASH;
		m->end.ram_hash = ram_hash(&m->vm->mem);
	}
	return err;
}

static int send_state(struct migration *m, struct diag *d)
{
	uint8_t *payload = stream_payload(&m->stream);
	size_t len;
	int err = 0;

	for (unsigned int i = 0; i < m->parts.n && !err; i++) {
		err = proto_put_state(payload, &m->parts.part[i].head, &len);
		if (err)
			return diag_errno(d, err, "%s: state", m->parts.part[i].head.id);
		err = engine_send(m, MSG_STATE, NULL, len, d);
	}
	if (!err)
		err = engine_send(m, MSG_STATE_END, NULL, proto_put_state_end(payload, &m->end), d);
	return err ? err : wait_for_state(m, PROTO_READY, MSG_READY, d);
}

/* From the first byte of COMMIT on the guest is the target's. */
static int commit(struct migration *m, struct diag *d)
{
	int err = engine_cancelled(m, d);

	if (err)
		return err;
	engine_phase(m, MIGRATION_COMMITTED);
	err = engine_send(m, MSG_COMMIT, NULL, 0, d);
	if (!err && m->file && fdatasync(m->fd) < 0 && errno != EINVAL && errno != EROFS)
		err = diag_errno(d, -errno, "the file cannot be synced");
	return err ? err : wait_for_state(m, PROTO_DONE, MSG_RUNNING, d);
}

/* The parts of the downtime, each from the end of the one before. */
static void lap(uint64_t *last, uint64_t *part)
{
	uint64_t now = stream_now();

	*part = now - *last;
	*last = now;
}

static int switch_over(struct migration *m, struct diag *d)
{
	struct migration_downtime *t = &m->downtime;
	uint64_t start, last;
	int err;

	/* Most of what the disks have to write they write now, while the guest runs. */
	err = sync_disks(m, d);
	if (err)
		return err;
	engine_phase(m, MIGRATION_SWITCH);
	start = last = stream_now();
	err = engine_call(m, main_stop, d);
	lap(&last, &t->stop);
	m->stop_ns = t->stop;
	if (!err)
		err = sync_disks(m, d);
	lap(&last, &t->sync);
	if (!err)
		err = engine_call(m, main_save, d);
	lap(&last, &t->save);
	if (!err)
		err = send_last_ram(m, d);
	lap(&last, &t->ram);
	if (!err)
		err = send_state(m, d);
	lap(&last, &t->state);
	if (!err)
		err = commit(m, d);
	lap(&last, &t->start);
	t->total = last - start;
	return err;
}

/* Pre-copy and switch, again if the guest was just resetting itself. */
static int move(struct migration *m, struct diag *d)
{
	int err;

	do {
		engine_phase(m, MIGRATION_PRECOPY);
		err = precopy(m, d);
		if (!err)
			err = switch_over(m, d);
	} while (err == -EAGAIN && !d->text[0]);
	return err;
}

/* --- the end --------------------------------------------------------------------------------- */

/* Best effort: a target that does not hear it finds the connection closed. */
static void tell_abort(struct migration *m, const struct diag *why)
{
	struct diag ignored = { 0 };

	if (m->file || m->stream.broken ||
	    proto_next(m->table, m->state, PROTO_SEND, MSG_ABORT) < 0)
		return;
	m->stream.tick = NULL;
	m->stream.silence_ms = 100;
	if (engine_send(m, MSG_ABORT, NULL, proto_put_reason(stream_payload(&m->stream), why->text),
			&ignored))
		return;
}

/* A target that gave up has said why before it closed; we may have found out by writing. */
static int last_words(struct migration *m, int err, struct diag *d)
{
	struct diag why = { 0 };
	int heard = 0;

	if (m->file || (err != -EPIPE && err != -ECONNRESET))
		return err;
	m->stream.tick = NULL;
	while (!heard && stream_readable(&m->stream))
		heard = hear(m, &why);
	if (heard != -EREMOTEIO)
		return err;
	*d = why;
	return heard;
}

static enum migration_phase fail(struct migration *m, int err, struct diag *d)
{
	bool cancelled = err == -ECANCELED;
	struct diag ignored = { 0 };

	err = last_words(m, err, d);
	/* Whatever became of COMMIT, it may have arrived. A file has nobody who would run it. */
	if (m->state == PROTO_COMMITTED && !m->file) {
		log_error(
			"the guest was handed over, but the target does not say that it runs: %s; "
			"if the target is dead, let it go on here with "
			"'unvmm resume --destination-is-dead'",
			d->text);
		ram_stop(&m->ram);
		return MIGRATION_HANDED_OVER;
	}
	if (cancelled)
		engine_phase(m, MIGRATION_CANCELLING);
	/* The guest first. If main does not do it any more, migration_destroy() will. */
	if (m->held && engine_call(m, main_resume, &ignored))
		log_info("migration: %s", ignored.text);
	tell_abort(m, d);
	ram_stop(&m->ram);
	return cancelled ? MIGRATION_CANCELLED : MIGRATION_FAILED;
}

enum migration_phase source_run(struct migration *m, struct diag *d)
{
	struct vm *vm = m->vm;
	int err;

	m->stream.tick = source_tick;
	m->stream.arg = m;
	m->ping_sent = m->last_ping = m->rtt = m->rate = m->limit_until = m->next_nap = 0;
	m->slow_rounds = 0;
	m->forced = false;
	m->stop_ns = STOP_GUESS;
	m->state_ns = STATE_GUESS;
	err = say_hello(m, d);
	if (!err)
		err = ram_start(&m->ram, vm->kvm.vm_fd < 0 ? NULL : &vm->kvm, &vm->mem, d);
	if (!err) {
		pthread_mutex_lock(&m->lock);
		m->status.setup_ns = stream_now() - m->started;
		pthread_mutex_unlock(&m->lock);
		err = move(m, d);
	}
	if (err)
		return fail(m, err, d);
	ram_stop(&m->ram);
	if (m->file && !m->stay_paused && engine_call(m, main_resume, d))
		log_info("migration: %s", d->text);
	return MIGRATION_COMPLETED;
}
