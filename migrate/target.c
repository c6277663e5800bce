/* SPDX-License-Identifier: Apache-2.0 */
/*
 * target.c - the side that is given the guest: into a machine that was built and never ran. The
 * guest's first instruction here comes after COMMIT and in no other case. The migration thread, but
 * for the functions named main_*, which main runs for it.
 */
#include "engine.h"

#include <unvmm/device.h>
#include <unvmm/log.h>
#include <unvmm/machine_state.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- what takes time is done while RAM comes -------------------------------------------------- */

static void prepare_work(struct loop_work *w)
{
	struct migration *m = container_of(w, struct migration, prepare);
	struct diag d = { 0 };
	uint64_t one = 1;
	int err = 0;

	for (struct device *dev = m->vm->devices; dev && !err; dev = dev->next)
		err = dev->cls->prepare ? dev->cls->prepare(dev, &d) : 0;
	vm_lock(m->vm);
	if (!err && !m->file) /* nobody waits less for a guest out of a file */
		err = machine_rehearse_load(m->vm, &d);
	vm_unlock(m->vm);
	pthread_mutex_lock(&m->lock);
	m->prepared = true;
	m->prepare_err = err;
	m->prepare_diag = d;
	pthread_mutex_unlock(&m->lock);
	if (write(m->wake_fd, &one, sizeof(one)) < 0)
		log_warn("migration: %s", strerror(errno));
	if (!err && m->events.prepared)
		m->events.prepared(m->events.arg);
}

/* Says so, between two sections of the source; sending does not disturb the reading. */
static int tell_prepared(struct migration *m, struct diag *d)
{
	bool prepared;
	int err;

	if (m->state != PROTO_RAM)
		return 0;
	pthread_mutex_lock(&m->lock);
	prepared = m->prepared;
	err = prepared ? m->prepare_err : 0;
	if (err)
		diag_set(d, err, "%s", m->prepare_diag.text);
	pthread_mutex_unlock(&m->lock);
	if (err || !prepared)
		return err;
	m->state = PROTO_PREPARED; /* first: sending waits, and waiting comes here */
	return m->file ? 0 : stream_send(&m->stream, MSG_PREPARED, NULL, 0, d);
}

static int target_tick(void *arg, struct diag *d)
{
	struct migration *m = arg;
	int err = 0;

	/* The guest is here: nothing but running it is left. */
	if (m->state < PROTO_COMMITTED)
		err = engine_cancelled(m, d);
	return err ? err : tell_prepared(m, d);
}

/* --- HELLO ------------------------------------------------------------------------------------ */

static int main_check(struct migration *m, struct diag *d)
{
	int err;

	vm_lock(m->vm);
	err = machine_state_supported(m->vm, d);
	if (!err)
		err = machine_description_check(m->vm, m->description, m->description_len, d);
	vm_unlock(m->vm);
	return err;
}

static int check_hello(struct migration *m, const struct proto_hello *h, struct diag *d)
{
	int version = proto_choose(h, d), err;

	if (version < 0)
		return version;
	if (m->file != !!(h->flags & PROTO_HELLO_FILE))
		return diag_set(d, -EPROTO,
				m->file ? "this is the recording of a migration, not a "
					  "snapshot"
					: "this is a snapshot: restore it from a file");
	if (h->ram_size != m->vm->mem.size)
		return diag_set(d, -EINVAL,
				"memory: the guest has %" PRIu64 " MiB, this machine %" PRIu64
				" MiB; they must be equal",
				h->ram_size >> 20, m->vm->mem.size >> 20);
	free(m->description);
	m->description_len = h->description_len;
	m->description = malloc(h->description_len); /* aligned, which the payload's is not */
	if (!m->description)
		return diag_set(d, -ENOMEM, "out of memory for the machine's description");
	memcpy(m->description, h->description, h->description_len);
	err = engine_call(m, main_check, d);
	return err ? err : version;
}

static int refuse(struct migration *m, int err, const struct diag *why)
{
	struct diag ignored = { 0 };

	if (engine_send(m, MSG_REFUSE, NULL,
			proto_put_reason(stream_payload(&m->stream), why->text), &ignored))
		log_warn("migration: the refusal does not reach the source: %s", ignored.text);
	return err;
}

static int greet(struct migration *m, struct diag *d)
{
	struct proto_hello h;
	int err, version;

	err = engine_recv(m, d);
	if (!err)
		err = proto_get_hello(&m->section, &h, d);
	if (err)
		return err;
	version = check_hello(m, &h, d);
	if (version < 0)
		return refuse(m, version, d);
	err = engine_send(m, MSG_ACCEPT, NULL,
			  proto_put_accept(stream_payload(&m->stream), (uint16_t)version), d);
	if (err)
		return err;
	if (m->vm->mem.fd < 0 && !m->vm->vfio && !m->lazily)
		ram_load_empty(&m->loaded, &m->vm->mem);
	engine_phase(m, MIGRATION_RECEIVING);
	m->prepare.fn = prepare_work;
	loop_call(&m->vm->main_loop, &m->prepare);
	while (!err && m->file && m->state == PROTO_RAM) /* a file has no time to lose */
		err = stream_sleep(&m->stream, 1000000000, d);
	return err;
}

/* --- RAM and state -----------------------------------------------------------------------------
 */

static int answer_ping(struct migration *m, struct diag *d)
{
	uint64_t number;
	uint8_t payload[8];
	int err = proto_get_number(&m->section, &number, d);

	return err ? err : engine_send(m, MSG_PONG, payload, proto_put_number(payload, number), d);
}

static int too_late(const struct migration *m, struct diag *d)
{
	return diag_set(d, -EPROTO, "%s comes after RAM that was to be the last",
			proto_msg_name(m->section.type));
}

static int receive_part(struct migration *m, struct diag *d)
{
	struct proto_state_part part;
	int err = proto_get_state(&m->section, &part, d);

	if (!err && m->loading)
		return too_late(m, d);
	return err ? err : parts_add(&m->parts, part.id, part.blob, part.len, d);
}

/* All parts are parsed before the first is committed. */
static int load_parts(struct migration *m, struct diag *d)
{
	struct machine_load *l;
	int err = 0;

	vm_lock(m->vm);
	l = machine_load_begin(m->vm);
	if (!l)
		err = diag_set(d, -ENOMEM, "out of memory for the machine's state");
	for (unsigned int i = 0; i < m->parts.n && !err; i++) {
		const struct proto_state_part *p = &m->parts.part[i].head;

		err = machine_load_parse(l, p->id, p->blob, p->len, d);
	}
	if (!err)
		err = machine_load_complete(l, d);
	if (!err)
		err = machine_load_commit(l, d);
	machine_load_free(l);
	vm_unlock(m->vm);
	if (!err)
		opaque_hand_out(m);
	return err;
}

/* Functions take their queues over, empty: what could go wrong goes wrong now. */
static int arm(struct migration *m, struct diag *d)
{
	int err = 0;

	for (struct device *dev = m->vm->devices; dev && !err; dev = dev->next)
		err = dev->cls->arm ? dev->cls->arm(dev, d) : 0;
	return err;
}

/*
 * The parts may be loaded while the last pages come, if nobody reads memory for it: functions are
 * shown their rings, and a KVM that is not told the page directory pointers looks for them itself.
 */
static bool loads_early(const struct vm *vm)
{
	bool early = vm->kvm.has_sregs2;

	for (const struct device *dev = vm->devices; dev && early; dev = dev->next)
		early = !dev->cls->arm;
	return early;
}

static int begin_loading(struct migration *m, struct diag *d)
{
	int err;

	if (m->state != PROTO_STATE || m->loading || m->file || !loads_early(m->vm))
		return 0;
	err = engine_begin(m, load_parts, d);
	m->loading = !err;
	return err;
}

/* Also before the thread gives up what main works on. */
static int end_loading(struct migration *m, struct diag *d)
{
	if (!m->loading)
		return 0;
	m->loading = false;
	return engine_end(m, d);
}

static int main_load(struct migration *m, struct diag *d)
{
	uint64_t start;
	int err = load_parts(m, d);

	if (err)
		return err;
	start = stream_now();
	err = arm(m, d);
	m->downtime.arm = stream_now() - start;
	return err;
}

/* All of the file has been looked at. From here on memory is there, or comes when it is touched. */
static int end_of_ram(struct migration *m, struct diag *d)
{
	int err;

	if (!m->lazily)
		return 0;
	err = lazy_complete(m->lazy, &m->loaded.pages, &m->loaded.zero_pages, d);
	if (err)
		return err;
	return m->end.flags & PROTO_END_HASH ? lazy_read_all(m->lazy, m->fd, d)
					     : lazy_serve(m->lazy, m->fd, d);
}

static int load(struct migration *m, struct diag *d)
{
	uint64_t start = stream_now(), hash;
	bool loaded = m->loading;
	uint8_t payload[16];
	int err = proto_get_state_end(&m->section, &m->end, d);

	if (!err)
		err = end_loading(m, d);
	if (!err)
		err = end_of_ram(m, d);
	if (err)
		return err;
	engine_phase(m, MIGRATION_LOADING);
	if (m->end.parts != m->parts.n)
		return diag_set(d, -EPROTO, "%u parts of the state came, of %u", m->parts.n,
				m->end.parts);
	if (m->end.flags & PROTO_END_HASH && (hash = ram_hash(&m->vm->mem)) != m->end.ram_hash)
		return diag_set(d, -EBADMSG,
				"memory differs from the source's: hash %016" PRIx64
				" instead of %016" PRIx64,
				hash, m->end.ram_hash);
	err = loaded ? 0 : engine_call(m, main_load, d);
	if (err)
		return err;
	m->downtime.target_load = stream_now() - start - m->downtime.arm;
	return engine_send(m, MSG_READY, payload,
			   proto_put_ready(payload, m->downtime.target_load, m->downtime.arm), d);
}

/* Handles m->section. */
static int handle(struct migration *m, struct diag *d)
{
	char reason[PROTO_REASON_MAX + 1];
	int err;

	switch (m->section.type) {
	case MSG_RAM:
		if (m->lazily)
			return lazy_note(m->lazy, &m->section, d);
		err = begin_loading(m, d);
		if (err)
			return err;
		return ram_load(&m->vm->mem, m->section.payload, m->section.len, &m->loaded, d);
	case MSG_PING:
		return answer_ping(m, d);
	case MSG_STATE:
		return receive_part(m, d);
	case MSG_OPAQUE:
		return m->loading ? too_late(m, d) : opaque_keep(m, d);
	case MSG_STATE_END:
		return load(m, d);
	case MSG_ABORT:
		proto_get_reason(&m->section, reason, sizeof(reason));
		return diag_set(d, -EREMOTEIO, "the source keeps the guest: %s", reason);
	default:
		return 0;
	}
}

static int receive(struct migration *m, struct diag *d)
{
	struct diag ignored = { 0 };
	int err = 0;

	while (!err && m->state != PROTO_COMMITTED) {
		err = engine_recv(m, d);
		if (!err)
			err = handle(m, d);
		engine_count(m);
	}
	if (err && m->loading && end_loading(m, &ignored))
		log_debug("migration: %s", ignored.text);
	return err;
}

/* --- the guest is ours ---------------------------------------------------------------------------
 */

/* Devices serve their rings on their own when they resume; the rest tells the guest of it. */
static int main_start(struct migration *m, struct diag *d)
{
	struct vm *vm = m->vm;
	int err = vm_claim(vm, d); /* the source has given it up */

	if (!err && m->end.flags & PROTO_END_PAUSED)
		err = vm_pause(vm, d);
	if (err) {
		vm_yield(vm); /* it will have it back when it hears of that */
		return err;
	}
	vm_lock(vm);
	for (struct device *dev = vm->devices; dev && m->file; dev = dev->next)
		if (dev->cls->cloned)
			dev->cls->cloned(dev);
	vm_unlock(vm);
	vm_release(vm);
	m->downtime.target_start = stream_now() - m->committed;
	vm_lock(vm);
	for (struct device *dev = vm->devices; dev; dev = dev->next)
		if (dev->cls->moved)
			dev->cls->moved(dev);
	vm_unlock(vm);
	return 0;
}

static int take_over(struct migration *m, struct diag *d)
{
	uint8_t payload[8];
	int err;

	m->committed = stream_now();
	err = engine_begin(m, main_start, d);
	engine_phase(m, MIGRATION_STARTING);
	if (!err)
		err = engine_end(m, d);
	if (err)
		return err;
	if (engine_send(m, MSG_RUNNING, payload,
			proto_put_number(payload, m->downtime.target_start), d))
		log_warn("the guest runs here, but the source cannot be told: %s", d->text);
	return 0;
}

/* Best effort: a source that does not hear it finds the connection closed, and goes on. */
static enum migration_phase fail(struct migration *m, int err, const struct diag *d)
{
	struct diag ignored = { 0 };

	if (!m->file && !m->stream.broken &&
	    proto_next(m->table, m->state, PROTO_SEND, MSG_ABORTED) >= 0) {
		m->stream.tick = NULL;
		m->stream.silence_ms = 100;
		if (engine_send(m, MSG_ABORTED, NULL,
				proto_put_reason(stream_payload(&m->stream), d->text), &ignored))
			log_info("migration: %s", ignored.text);
	}
	return err == -ECANCELED ? MIGRATION_CANCELLED : MIGRATION_FAILED;
}

enum migration_phase target_run(struct migration *m, struct diag *d)
{
	int err;

	m->stream.tick = target_tick;
	m->stream.arg = m;
	m->lazily = m->file && m->lazy && lazy_suits(m->fd);
	m->stream.heads_only = m->lazily;
	err = greet(m, d);
	if (!err)
		err = receive(m, d);
	if (!err)
		err = take_over(m, d);
	return err ? fail(m, err, d) : MIGRATION_COMPLETED;
}
