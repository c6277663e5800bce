/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migration.c - one migration as main sees it: it is started, asked, cancelled and tells of its
 * end; and the thread that does it. The two sides themselves are source.c and target.c.
 */
#include "engine.h"

#include <unvmm/log.h>
#include <unvmm/machine_state.h>
#include <unvmm/sandbox.h>
#include <unvmm/thread.h>
#include <unvmm/vcpu.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DOWNTIME_MS	300
#define PEER_TIMEOUT_MS 10000

/* --- names and parameters --------------------------------------------------------------------- */

const char *migration_phase_name(enum migration_phase phase)
{
	static const char *const names[] = {
		[MIGRATION_IDLE] = "none",	     [MIGRATION_SETUP] = "setup",
		[MIGRATION_PRECOPY] = "precopy",     [MIGRATION_SWITCH] = "switch",
		[MIGRATION_COMMITTED] = "committed", [MIGRATION_CANCELLING] = "cancelling",
		[MIGRATION_INCOMING] = "incoming",   [MIGRATION_RECEIVING] = "receiving",
		[MIGRATION_LOADING] = "loading",     [MIGRATION_STARTING] = "starting",
		[MIGRATION_COMPLETED] = "completed", [MIGRATION_FAILED] = "failed",
		[MIGRATION_CANCELLED] = "cancelled", [MIGRATION_HANDED_OVER] = "handed-over",
	};

	return names[phase];
}

bool migration_phase_over(enum migration_phase phase)
{
	return phase >= MIGRATION_COMPLETED;
}

void migration_params_init(struct migration_params *p)
{
	const char *verify = getenv("UNVMM_VERIFY");

	*p = (struct migration_params){ .downtime_ms = DOWNTIME_MS,
					.peer_timeout_ms = PEER_TIMEOUT_MS,
					.throttle = true,
					.verify = verify && !strcmp(verify, "1") };
}

int migration_params_check(const struct migration_params *p, struct diag *d)
{
	if (!p->downtime_ms || p->downtime_ms > 2000000)
		return diag_set(d, -EINVAL, "downtime: %u ms is not between 1 and 2000000",
				p->downtime_ms);
	if (p->bandwidth && p->bandwidth < KiB(64))
		return diag_set(d, -EINVAL,
				"bandwidth: %" PRIu64
				" bytes per second are less than 64K; no guest "
				"gets anywhere with that",
				p->bandwidth);
	if (p->peer_timeout_ms < 100 || p->peer_timeout_ms > 3600000)
		return diag_set(d, -EINVAL, "peer timeout: %u ms is not between 100 and 3600000",
				p->peer_timeout_ms);
	return 0;
}

struct migration_params engine_params(struct migration *m)
{
	struct migration_params p;

	pthread_mutex_lock(&m->lock);
	p = m->params;
	pthread_mutex_unlock(&m->lock);
	return p;
}

/* --- the thread asks main ------------------------------------------------------------------------
 */

static void call_work(struct loop_work *w)
{
	struct migration *m = container_of(w, struct migration, call);

	m->call_err = m->call_fn(m, &m->call_diag);
	pthread_mutex_lock(&m->lock);
	m->calling = false;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

int engine_begin(struct migration *m, int (*fn)(struct migration *m, struct diag *d),
		 struct diag *d)
{
	bool called;

	pthread_mutex_lock(&m->lock);
	called = !m->closing;
	if (called) {
		m->call_fn = fn;
		m->call_diag.text[0] = 0;
		m->calling = true;
		loop_call(&m->vm->main_loop, &m->call);
	}
	pthread_mutex_unlock(&m->lock);
	return called ? 0 : diag_set(d, -ECANCELED, "unvmm ends here");
}

/* How long main takes is bounded by the deadlines of the devices; until then nothing can be done.
 */
int engine_end(struct migration *m, struct diag *d)
{
	bool done;

	pthread_mutex_lock(&m->lock);
	while (m->calling && !m->closing)
		pthread_cond_wait(&m->changed, &m->lock);
	done = !m->calling; /* perhaps although main is closing now */
	pthread_mutex_unlock(&m->lock);
	if (!done)
		return diag_set(d, -ECANCELED, "unvmm ends here");
	if (m->call_diag.text[0])
		diag_set(d, m->call_err, "%s", m->call_diag.text);
	return m->call_err;
}

int engine_call(struct migration *m, int (*fn)(struct migration *m, struct diag *d), struct diag *d)
{
	int err = engine_begin(m, fn, d);

	return err ? err : engine_end(m, d);
}

/* --- and tells it ----------------------------------------------------------------------------- */

static void notify_work(struct loop_work *w)
{
	struct migration *m = container_of(w, struct migration, notify);
	enum migration_phase phases[PHASES_MAX];
	struct migration_status status;
	unsigned int n;

	pthread_mutex_lock(&m->lock);
	n = m->nphases;
	memcpy(phases, m->phases, sizeof(phases));
	m->nphases = 0;
	status = m->status;
	pthread_mutex_unlock(&m->lock);
	for (unsigned int i = 0; i < n; i++) {
		if (m->events.phase)
			m->events.phase(m->events.arg, phases[i]);
		if (migration_phase_over(phases[i]) && m->events.ended)
			m->events.ended(m->events.arg, &status);
	}
}

/* Lock held. */
static void enter_phase(struct migration *m, enum migration_phase phase)
{
	m->status.phase = phase;
	if (m->nphases < PHASES_MAX)
		m->phases[m->nphases++] = phase;
	loop_call(&m->vm->main_loop, &m->notify);
}

void engine_phase(struct migration *m, enum migration_phase phase)
{
	pthread_mutex_lock(&m->lock);
	enter_phase(m, phase);
	pthread_mutex_unlock(&m->lock);
}

void engine_count(struct migration *m)
{
	struct migration_status *s = &m->status;

	pthread_mutex_lock(&m->lock);
	s->transferred = m->outgoing ? m->stream.sent : m->stream.received;
	s->pages = m->outgoing ? m->ram.pages : m->loaded.pages;
	s->zero_pages = m->outgoing ? m->ram.zero_pages : m->loaded.zero_pages;
	s->remaining = m->ram.npending * PAGE_SIZE_4K;
	s->elapsed_ns = stream_now() - m->started;
	s->downtime = m->downtime;
	pthread_mutex_unlock(&m->lock);
}

void engine_go_on(struct vm *vm)
{
	struct diag d = { 0 };

	if (vm_claim(vm, &d)) {
		log_error("%s; so the guest stays paused here", d.text);
		vm->paused = true;
	}
	vm_release(vm);
}

/* --- messages --------------------------------------------------------------------------------- */

int engine_cancelled(struct migration *m, struct diag *d)
{
	bool cancel, closing;

	pthread_mutex_lock(&m->lock);
	cancel = m->cancel;
	closing = m->closing;
	pthread_mutex_unlock(&m->lock);
	if (closing)
		return diag_set(d, -ECANCELED, "unvmm ends here");
	return cancel ? diag_set(d, -ECANCELED, "cancelled") : 0;
}

int engine_send(struct migration *m, enum proto_msg msg, const void *payload, size_t len,
		struct diag *d)
{
	int next = proto_next(m->table, m->state, PROTO_SEND, msg), err;

	if (next < 0)
		return diag_set(d, -EPROTO, "%s cannot be sent in state %s", proto_msg_name(msg),
				proto_state_name(m->state));
	/* It may arrive whatever the error: the state is that of having sent it. */
	m->state = (enum proto_state)next;
	err = m->file && !m->outgoing ? 0 : stream_send(&m->stream, msg, payload, len, d);
	return err;
}

int engine_recv(struct migration *m, struct diag *d)
{
	int err = stream_recv(&m->stream, &m->section, d), next;

	if (err)
		return err;
	next = proto_next(m->table, m->state, PROTO_RECV, m->section.type);
	if (next < 0)
		return diag_set(d, -EPROTO, "%s sends %s in state %s", m->stream.peer,
				proto_msg_name(m->section.type), proto_state_name(m->state));
	if (m->section.len && (m->section.type == MSG_PREPARED || m->section.type == MSG_COMMIT))
		return diag_set(d, -EPROTO, "%s sends %s with a payload", m->stream.peer,
				proto_msg_name(m->section.type));
	m->state = (enum proto_state)next;
	return 0;
}

void engine_assume(struct migration *m, enum proto_dir dir, enum proto_msg msg)
{
	int next = proto_next(m->table, m->state, dir, msg);

	if (next >= 0)
		m->state = (enum proto_state)next;
}

/* --- the thread ------------------------------------------------------------------------------- */

static enum job wait_for_job(struct migration *m)
{
	enum job job;

	pthread_mutex_lock(&m->lock);
	while (m->job == JOB_NONE && !m->closing)
		pthread_cond_wait(&m->changed, &m->lock);
	job = m->closing ? JOB_NONE : m->job;
	pthread_mutex_unlock(&m->lock);
	return job;
}

static void begin(struct migration *m, enum job job)
{
	m->outgoing = job == JOB_START || job == JOB_SAVE;
	m->file = job == JOB_SAVE || job == JOB_RESTORE;
	m->table = m->outgoing ? &proto_source : &proto_target;
	m->state = PROTO_START;
	m->ram = (struct ram){ 0 };
	m->loaded = (struct ram_loaded){ 0 };
	m->downtime = (struct migration_downtime){ 0 };
	m->held = false;
	m->tracked = false;
	m->loading = false;
}

static enum migration_phase do_job(struct migration *m, struct diag *d)
{
	enum migration_phase end = MIGRATION_FAILED;

	if (!stream_init(&m->stream, m->fd, d)) {
		m->stream.cap = proto_cap;
		m->stream.head_type = MSG_RAM;
		m->stream.head_len = RAM_HEAD;
		m->stream.wake_fd = m->wake_fd;
		m->stream.silence_ms = engine_params(m).peer_timeout_ms;
		m->stream.peer = m->file ? "the file" : m->outgoing ? "the target" : "the source";
		end = m->outgoing ? source_run(m, d) : target_run(m, d);
	}
	engine_count(m);
	stream_fini(&m->stream);
	ram_load_end(&m->loaded);
	parts_free(&m->parts);
	parts_free(&m->opaque);
	free(m->description);
	m->description = NULL;
	close(m->fd);
	m->fd = -1;
	return end;
}

static void finish(struct migration *m, enum migration_phase end, const struct diag *d)
{
	pthread_mutex_lock(&m->lock);
	m->job = JOB_NONE;
	m->cancel = false;
	snprintf(m->status.error, sizeof(m->status.error), "%s",
		 end == MIGRATION_COMPLETED ? "" : d->text);
	enter_phase(m, end);
	pthread_mutex_unlock(&m->lock);
}

static void *migration_thread(void *arg)
{
	struct migration *m = arg;
	struct diag d = { 0 };
	enum job job;

	if (sandbox_enter(m->vm->sandbox, SANDBOX_MIGRATION, &d)) {
		vm_lock(m->vm);
		vm_fail(m->vm, "migration: %s", d.text);
		vm_unlock(m->vm);
		return NULL;
	}
	while ((job = wait_for_job(m)) != JOB_NONE) {
		enum migration_phase end;

		d.text[0] = 0;
		begin(m, job);
		end = do_job(m, &d);
		finish(m, end, &d);
	}
	return NULL;
}

/* --- main ------------------------------------------------------------------------------------- */

int migration_create(struct vm *vm, const struct migration_events *events, struct migration **out,
		     struct diag *d)
{
	struct migration *m = calloc(1, sizeof(*m));
	int err;

	if (!m)
		return diag_set(d, -ENOMEM, "out of memory for migrations");
	m->vm = vm;
	m->events = *events;
	m->fd = -1;
	m->notify.fn = notify_work;
	m->call.fn = call_work;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = m->wake_fd < 0 ? diag_errno(d, -errno, "cannot make an eventfd for migrations") : 0;
	if (!err)
		err = thread_start(&m->thread, "migration", 0, migration_thread, m, d);
	if (err) {
		migration_destroy(m);
		return err;
	}
	m->thread_started = true;
	*out = m;
	return 0;
}

int migration_allow_lazy(struct migration *m, struct diag *d)
{
	struct vm *vm = m->vm;

	if (vm->mem.fd >= 0)
		return diag_set(d, -EOPNOTSUPP,
				"memory that is shared, or made of hugepages, is there from the "
				"start");
	if (vm->vfio)
		return diag_set(d, -EOPNOTSUPP, "an assigned function needs all memory at once");
	return lazy_create(&vm->mem, vm->sandbox, m->events.lost, m->events.arg, &m->lazy, d);
}

static void wake(struct migration *m)
{
	uint64_t one = 1;

	/* Fails only if the counter is full, and then it is signalled. */
	if (write(m->wake_fd, &one, sizeof(one)) < 0)
		return;
}

/* Memory that has not come yet must not be seen as zeroes: nobody touches it from here on. */
static void end_lazy(struct migration *m)
{
	struct diag d = { 0 };

	if (!lazy_over(m->lazy) && vm_hold(m->vm, &d)) {
		log_warn("%s: all of its memory is read first", d.text);
		lazy_finish(m->lazy);
	}
	lazy_destroy(m->lazy);
}

void migration_destroy(struct migration *m)
{
	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	m->closing = true;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	if (m->wake_fd >= 0)
		wake(m);
	if (m->thread_started)
		pthread_join(m->thread, NULL);
	loop_uncall(&m->vm->main_loop, &m->notify);
	loop_uncall(&m->vm->main_loop, &m->call);
	loop_uncall(&m->vm->main_loop, &m->prepare);
	/* The thread could not ask for it any more. */
	if (m->held && m->status.phase != MIGRATION_HANDED_OVER &&
	    m->status.phase != MIGRATION_COMPLETED)
		engine_go_on(m->vm);
	source_track_end(m);
	end_lazy(m);
	if (m->wake_fd >= 0)
		close(m->wake_fd);
	if (m->fd >= 0)
		close(m->fd);
	free(m->description);
	pthread_cond_destroy(&m->changed);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static bool busy(struct migration *m)
{
	bool is;

	pthread_mutex_lock(&m->lock);
	is = m->job != JOB_NONE;
	pthread_mutex_unlock(&m->lock);
	return is;
}

/* The vcpus are parked for a moment: what is asked of them would wait as long as they run. */
static int describe(struct migration *m, struct diag *d)
{
	struct vm *vm = m->vm;
	bool parks = vm->vcpus && !vm->paused && !vm->held;
	int err = parks ? vcpus_park(vm->vcpus) : 0;

	if (err)
		diag_set(d, err, "a vcpu does not leave the guest");
	vm_lock(vm);
	if (!err)
		err = machine_state_supported(vm, d);
	if (!err)
		err = machine_description(vm, &m->description, &m->description_len, d);
	if (!err)
		err = machine_rehearse_save(vm, d);
	if (parks && vm->event == VM_EVENT_NONE)
		vcpus_unpark(vm->vcpus);
	vm_unlock(vm);
	return err;
}

static int start(struct migration *m, enum job job, int fd, bool stay_paused,
		 const struct migration_params *p, struct diag *d)
{
	bool outgoing = job == JOB_START || job == JOB_SAVE;
	int err = migration_params_check(p, d);

	if (!err && busy(m))
		err = diag_set(d, -EBUSY, "a migration is under way");
	if (!err && outgoing && m->vm->held)
		err = diag_set(d, -EBUSY, "this guest has been handed over to another host");
	if (!err && !outgoing && !m->vm->held)
		err = diag_set(d, -EINVAL, "this machine has run: it cannot receive a guest");
	if (!err && outgoing)
		err = describe(m, d);
	if (err) {
		close(fd);
		return err;
	}
	m->fd = fd;
	m->stay_paused = stay_paused;
	pthread_mutex_lock(&m->lock);
	m->params = *p;
	m->cancel = m->prepared = false;
	m->nphases = 0;
	m->started = stream_now();
	m->status = (struct migration_status){ .outgoing = outgoing,
					       .file = job == JOB_SAVE || job == JOB_RESTORE,
					       .ram_total = m->vm->mem.size };
	enter_phase(m, outgoing ? MIGRATION_SETUP : MIGRATION_INCOMING);
	m->job = job;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

int migration_start(struct migration *m, int fd, const struct migration_params *p, struct diag *d)
{
	return start(m, JOB_START, fd, false, p, d);
}

int migration_save(struct migration *m, int fd, bool stay_paused, const struct migration_params *p,
		   struct diag *d)
{
	return start(m, JOB_SAVE, fd, stay_paused, p, d);
}

int migration_receive(struct migration *m, int fd, const struct migration_params *p, struct diag *d)
{
	return start(m, JOB_RECEIVE, fd, false, p, d);
}

int migration_restore(struct migration *m, int fd, const struct migration_params *p, struct diag *d)
{
	return start(m, JOB_RESTORE, fd, false, p, d);
}

int migration_set_params(struct migration *m, const struct migration_params *p, struct diag *d)
{
	int err = migration_params_check(p, d);

	if (err)
		return err;
	pthread_mutex_lock(&m->lock);
	m->params.downtime_ms = p->downtime_ms;
	m->params.bandwidth = p->bandwidth;
	m->params.timeout_ms = p->timeout_ms;
	m->params.on_timeout = p->on_timeout;
	m->params.throttle = p->throttle;
	pthread_mutex_unlock(&m->lock);
	return 0;
}

int migration_cancel(struct migration *m, struct diag *d)
{
	enum migration_phase phase;
	bool active;

	pthread_mutex_lock(&m->lock);
	phase = m->status.phase;
	active = m->job != JOB_NONE;
	m->cancel |= active;
	pthread_mutex_unlock(&m->lock);
	if (!active)
		return diag_set(d, -EALREADY, "no migration is under way");
	wake(m);
	if (phase == MIGRATION_COMMITTED || phase == MIGRATION_STARTING)
		return diag_set(d, -EBUSY, "it is too late: the guest has been handed over");
	return 0;
}

int migration_resume_source(struct migration *m, struct diag *d)
{
	bool handed_over;

	pthread_mutex_lock(&m->lock);
	handed_over = m->status.phase == MIGRATION_HANDED_OVER;
	if (handed_over) /* `ended` has been called */
		m->status.phase = MIGRATION_FAILED;
	pthread_mutex_unlock(&m->lock);
	if (!handed_over)
		return diag_set(d, -EINVAL,
				"this guest has not been handed over to a target that "
				"may be dead");
	m->held = false;
	engine_go_on(m->vm);
	source_track_end(m);
	return 0;
}

void migration_status(struct migration *m, struct migration_status *s)
{
	pthread_mutex_lock(&m->lock);
	*s = m->status;
	if (m->job != JOB_NONE)
		s->elapsed_ns = stream_now() - m->started;
	pthread_mutex_unlock(&m->lock);
}
