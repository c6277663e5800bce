/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source.c - the side that has the guest. Reads top to bottom in the order of events: HELLO, the
 * pre-copy (precopy.c), the switch, and what becomes of a failure. The migration thread, but for
 * the functions named main_*, which main runs for it.
 */
#include "engine.h"
#include "source.h"

#include <unvmm/device.h>
#include <unvmm/log.h>
#include <unvmm/machine_state.h>
#include <unvmm/track.h>
#include <unvmm/vcpu.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

#define PING_NS NS_PER_S
/* What the parts of the switch are taken to cost until one has been measured. */
#define STOP_GUESS  (2 * NS_PER_MS)
#define STATE_GUESS (4 * NS_PER_MS)

/* A vcpu that is slowed down runs for so long between two naps. */
#define THROTTLE_RUN (10 * NS_PER_MS)

/* --- while it waits or works ------------------------------------------------------------------ */

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
	uint64_t number, took;
	int err = proto_get_number(&m->section, &number, d);

	if (err)
		return err;
	if (!m->ping_sent || number != m->ping_number)
		return diag_set(d, -EPROTO, "the target answers a ping that was not sent");
	/* The shortest one says how far the target is; the others waited behind pages. */
	took = stream_now() - m->ping_sent;
	if (!m->rtt || took < m->rtt)
		m->rtt = took;
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
		return proto_get_ready(&m->section, &m->downtime.target_load, &m->downtime.arm, d);
	case MSG_RUNNING:
		return proto_get_number(&m->section, &m->downtime.target_start, d);
	default:
		return 0;
	}
}

/* What has come, without waiting; and a ping now and then, so that silence means something. */
int source_attend(struct migration *m, struct diag *d)
{
	uint64_t now = stream_now(), since = now - m->attended;
	uint8_t payload[8];
	int err = 0;

	if (m->file)
		return source_tick(m, d);
	m->attended = now;
	if (since > PING_NS) /* we slept ourselves: stream.c */
		m->ping_deaf += since - PING_NS;
	while (!err && stream_readable(&m->stream))
		err = hear(m, d);
	if (err || m->state > PROTO_PREPARED)
		return err;
	if (m->ping_sent && now - m->ping_sent > m->stream.silence_ms * NS_PER_MS + m->ping_deaf)
		return diag_set(d, -ETIMEDOUT, "the target answers nothing for %.3g s",
				m->stream.silence_ms / 1000.0);
	if (m->ping_sent || now - m->last_ping < PING_NS)
		return 0;
	m->ping_sent = m->last_ping = now;
	m->ping_deaf = 0;
	return engine_send(m, MSG_PING, payload, proto_put_number(payload, ++m->ping_number), d);
}

/* Until a ping that was sent has come back. */
static int wait_pong(struct migration *m, struct diag *d)
{
	int err = 0;

	while (!err && m->ping_sent) {
		err = stream_sleep(&m->stream, PING_NS, d);
		if (!err)
			err = source_attend(m, d);
	}
	return err;
}

int source_drain(struct migration *m, struct diag *d)
{
	int err = m->file ? 0 : wait_pong(m, d); /* of one that went before the pages */

	if (err || m->file)
		return err;
	m->last_ping = 0;
	err = source_attend(m, d);
	return err ? err : wait_pong(m, d);
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

/* --- set-up ----------------------------------------------------------------------------------- */

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

/*
 * Devices that write behind our back have to say what. Some can only once they have been stopped:
 * that is the first of the guest's two pauses.
 */
static int main_track(struct migration *m, struct diag *d)
{
	struct track_pause pause;
	int err = vm_track_begin(m->vm, &pause, d);

	m->tracked = !err;
	pthread_mutex_lock(&m->lock);
	m->status.entry = pause;
	pthread_mutex_unlock(&m->lock);
	return err;
}

void source_track_end(struct migration *m)
{
	if (m->tracked)
		vm_track_end(m->vm);
	m->tracked = false;
}

/* --- the switch ------------------------------------------------------------------------------- */

/* The parts of the downtime, each from the end of the one before. */
static void lap(struct migration *m, uint64_t *part)
{
	uint64_t now = stream_now();

	*part += now - m->last_lap;
	m->last_lap = now;
}

/* What of the first part was the assigned functions'. */
static void split(struct migration_downtime *t, const struct track_pause *stopped)
{
	uint64_t devices = stopped->drain + stopped->stop;

	if (devices > t->park)
		return;
	t->drain = stopped->drain;
	t->stop = stopped->stop;
	t->park -= devices;
}

/* -EAGAIN: the guest is just resetting itself; it is to do that before it moves. */
static int main_stop(struct migration *m, struct diag *d)
{
	enum vm_event event;
	int err = vm_hold(m->vm, d);

	if (err)
		return err;
	vm_track_stopped(m->vm, &m->stopped);
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
	if (m->held)
		engine_go_on(m->vm);
	m->held = false;
	source_track_end(m);
	return 0;
}

static int keep_part(void *arg, const char *id, const void *blob, size_t len, struct diag *d)
{
	struct migration *m = arg;

	return parts_add(&m->parts, id, blob, len, d);
}

static int save(struct migration *m, struct diag *d)
{
	int err;

	vm_lock(m->vm);
	err = machine_state_save(m->vm, keep_part, m, d);
	vm_unlock(m->vm);
	return err;
}

/* Both in one call: whoever is woken has to wait for a CPU. */
static int main_stop_and_save(struct migration *m, struct diag *d)
{
	struct migration_downtime *t = &m->downtime;
	int err = main_stop(m, d);

	lap(m, &t->park);
	m->stop_ns = t->park;
	split(t, &m->stopped);
	if (!err)
		err = save(m, d);
	lap(m, &t->save);
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

/* After the state was taken, which may have written to it. */
static int send_last_ram(struct migration *m, struct diag *d)
{
	int err;

	m->ram.stopped = true;
	m->stream.more = true;
	err = precopy_fetch(m, d);
	if (!err)
		err = precopy_send_round(m, d);
	m->stream.more = false;
	return err;
}

static int send_parts(struct migration *m, struct diag *d)
{
	uint8_t *payload = stream_payload(&m->stream);
	size_t len;
	int err = 0;

	for (unsigned int i = 0; i < m->parts.n && !err; i++) {
		err = proto_put_state(payload, &m->parts.part[i].head, &len);
		if (err)
			return diag_errno(d, err, "%s: state", m->parts.part[i].head.id);
		m->stream.more = i + 1 < m->parts.n;
		err = engine_send(m, MSG_STATE, NULL, len, d);
	}
	m->stream.more = false;
	return err ? err : opaque_send(m, d);
}

static int end_state(struct migration *m, struct diag *d)
{
	struct proto_state_end end = { .flags = m->vm->paused ? PROTO_END_PAUSED : 0,
				       .parts = m->parts.n };
	int err;

	if (engine_params(m).verify) {
		end.flags |= PROTO_END_HASH;
		end.ram_hash = ram_hash(&m->vm->mem);
	}
	err = engine_send(m, MSG_STATE_END, NULL,
			  proto_put_state_end(stream_payload(&m->stream), &end), d);
	return err ? err : wait_for_state(m, PROTO_READY, MSG_READY, d);
}

/* The target takes it before the guest runs there. */
static int main_yield(struct migration *m, struct diag *d)
{
	(void)d;
	vm_yield(m->vm);
	return 0;
}

/* From the first byte of COMMIT on the guest is the target's. */
static int commit(struct migration *m, struct diag *d)
{
	int err = engine_cancelled(m, d);

	/* Nobody takes it of a guest that goes on beside its snapshot. */
	if (!err && (!m->file || m->stay_paused))
		err = engine_call(m, main_yield, d);
	if (err)
		return err;
	engine_phase(m, MIGRATION_COMMITTED);
	err = engine_send(m, MSG_COMMIT, NULL, 0, d);
	if (!err && m->file && fdatasync(m->fd) < 0 && errno != EINVAL && errno != EROFS)
		err = diag_errno(d, -errno, "the file cannot be synced");
	return err ? err : wait_for_state(m, PROTO_DONE, MSG_RUNNING, d);
}

/* What of loading was. */
static void split_target(struct migration_downtime *t)
{
	if (t->arm > t->state)
		t->arm = 0;
	t->state -= t->arm;
}

/*
 * The guest runs before RUNNING is here. When, only the target can say: not before it says, and not
 * later than the way there and back after that. Returns what is no part of the downtime.
 */
static uint64_t split_start(struct migration_downtime *t, uint64_t rtt)
{
	uint64_t lap = t->start;

	if (t->target_start && lap > rtt && t->target_start < lap - rtt)
		t->start = t->target_start + rtt;
	return lap - t->start;
}

/*
 * The state before the last pages: the target loads it while they come. But loading may write to
 * memory, which is not to be seen in a hash of it.
 */
static int send_rest(struct migration *m, struct diag *d)
{
	struct migration_downtime *t = &m->downtime;
	bool ram_first = engine_params(m).verify;
	int err = 0;

	for (unsigned int i = 0; i < 2 && !err; i++) {
		bool ram = ram_first == !i;

		err = ram ? send_last_ram(m, d) : send_parts(m, d);
		lap(m, ram ? &t->ram : &t->state);
	}
	if (!err)
		err = end_state(m, d);
	lap(m, &t->state);
	return err;
}

static int switch_over(struct migration *m, struct diag *d)
{
	struct migration_downtime *t = &m->downtime;
	uint64_t start;
	int err;

	/* Most of what the disks have to write they write now, while the guest runs. */
	err = sync_disks(m, d);
	if (err)
		return err;
	*t = (struct migration_downtime){ 0 };
	start = m->last_lap = stream_now();
	err = engine_begin(m, main_stop_and_save, d);
	engine_phase(m, MIGRATION_SWITCH); /* main stops the guest, then it tells of it */
	if (!err)
		err = engine_end(m, d);
	lap(m, &t->save);
	if (!err)
		err = sync_disks(m, d);
	lap(m, &t->sync);
	if (!err)
		err = send_rest(m, d);
	split_target(t);
	if (!err)
		err = commit(m, d);
	lap(m, &t->start);
	t->total = m->last_lap - start - split_start(t, m->rtt);
	return err;
}

/* Pre-copy and switch, again if the guest was just resetting itself. */
static int move(struct migration *m, struct diag *d)
{
	int err;

	do {
		engine_phase(m, MIGRATION_PRECOPY);
		err = precopy_run(m, d);
		if (!err) /* no answer is on its way when STATE goes */
			err = wait_pong(m, d);
		if (!err)
			err = switch_over(m, d);
	} while (err == -EAGAIN && !d->text[0]);
	return err;
}

/* --- the end ---------------------------------------------------------------------------------- */

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
	if ((m->held || m->tracked) && engine_call(m, main_resume, &ignored))
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
	m->attended = stream_now();
	m->ping_deaf = 0;
	m->ping_sent = m->last_ping = m->rtt = m->rate = m->limit_until = m->next_nap = 0;
	m->next_throttle = 0;
	m->timed_pages = m->timed_ns = 0;
	m->slow_rounds = 0;
	m->forced = false;
	m->stop_ns = STOP_GUESS;
	m->state_ns = STATE_GUESS;
	err = say_hello(m, d);
	if (!err)
		err = ram_start(&m->ram, vm->kvm.vm_fd < 0 ? NULL : &vm->kvm, &vm->mem, d);
	if (!err) /* only now: what they write goes into that log */
		err = engine_call(m, main_track, d);
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
