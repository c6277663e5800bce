/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp_migrate.c - migrate, query-migrate and their kin, with the names and units of QEMU's QMP
 * reference manual, chapter "Migration". Main thread, without the control lock.
 */
#include "qmp_migrate.h"

#include <unvmm/vm.h>

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PAGE KiB(4)

/* --- where it stands ------------------------------------------------------------------------- */

/* MigrationStatus. What it does not know is "failed": the guest must not be taken to be there. */
static const char *status_name(enum migration_phase phase)
{
	switch (phase) {
	case MIGRATION_IDLE:
		return "none";
	case MIGRATION_SETUP:
	case MIGRATION_INCOMING:
		return "setup";
	case MIGRATION_PRECOPY:
	case MIGRATION_RECEIVING:
		return "active";
	case MIGRATION_SWITCH:
	case MIGRATION_COMMITTED:
	case MIGRATION_LOADING:
	case MIGRATION_STARTING:
		return "device";
	case MIGRATION_CANCELLING:
		return "cancelling";
	case MIGRATION_COMPLETED:
		return "completed";
	case MIGRATION_CANCELLED:
		return "cancelled";
	case MIGRATION_FAILED:
	case MIGRATION_HANDED_OVER:
		break;
	}
	return "failed";
}

static struct json_object *number(uint64_t v)
{
	return json_object_new_uint64(v);
}

static void add(struct json_object *o, const char *key, struct json_object *value)
{
	if (json_object_object_add(o, key, value))
		json_object_put(value);
}

static struct json_object *ram(const struct migration_status *s)
{
	struct json_object *o = json_object_new_object();

	if (!o)
		return NULL;
	add(o, "total", number(s->ram_total));
	add(o, "transferred", number(s->transferred));
	add(o, "remaining", number(s->remaining));
	add(o, "normal", number(s->pages));
	add(o, "normal-bytes", number(s->pages * PAGE));
	add(o, "duplicate", number(s->zero_pages));
	add(o, "dirty-sync-count", number(s->rounds));
	add(o, "dirty-pages-rate", number(s->dirty_rate / PAGE));
	add(o, "mbps", json_object_new_double((double)s->rate * 8 / 1e6));
	add(o, "page-size", number(PAGE));
	return o;
}

/* Of the switch: parts that sum to "total", and the target's shares of two of them. */
static struct json_object *parts(const struct migration_downtime *t)
{
	struct json_object *o = json_object_new_object();

	if (!o)
		return NULL;
	add(o, "park-ns", number(t->park));
	add(o, "drain-ns", number(t->drain));
	add(o, "stop-ns", number(t->stop));
	add(o, "sync-ns", number(t->sync));
	add(o, "save-ns", number(t->save));
	add(o, "ram-ns", number(t->ram));
	add(o, "state-ns", number(t->state));
	add(o, "device-start-ns", number(t->arm));
	add(o, "start-ns", number(t->start));
	add(o, "total-ns", number(t->total));
	add(o, "target-load-ns", number(t->target_load));
	add(o, "target-start-ns", number(t->target_start));
	return o;
}

/* Of the pause in which queues of assigned functions became relayed. */
static struct json_object *entry(const struct track_pause *p)
{
	struct json_object *o = json_object_new_object();

	if (!o)
		return NULL;
	add(o, "park-ns", number(p->park));
	add(o, "drain-ns", number(p->drain));
	add(o, "stop-ns", number(p->stop));
	add(o, "program-ns", number(p->program));
	add(o, "start-ns", number(p->start));
	add(o, "total-ns", number(p->total));
	return o;
}

static uint64_t to_ms(uint64_t ns)
{
	return (ns + 500000) / 1000000;
}

static struct json_object *describe(const struct qmp_migration *m)
{
	struct json_object *o = json_object_new_object();
	struct migration_status s;

	if (!o)
		return NULL;
	m->ops->status(m->engine, &s);
	if (s.phase == MIGRATION_IDLE)
		return o; /* as QEMU: no status before the first migration */
	add(o, "status", json_object_new_string(status_name(s.phase)));
	add(o, "x-unvmm-phase", json_object_new_string(m->ops->phase_name(s.phase)));
	add(o, "total-time", number(to_ms(s.elapsed_ns)));
	add(o, "setup-time", number(to_ms(s.setup_ns)));
	if (s.entry.total)
		add(o, "x-unvmm-entry", entry(&s.entry));
	if (s.downtime.total) {
		add(o, "downtime", number(to_ms(s.downtime.total)));
		add(o, "x-unvmm-downtime", parts(&s.downtime));
	} else if (s.outgoing && !s.file) {
		add(o, "expected-downtime", number(to_ms(s.expected_downtime_ns)));
	}
	if (s.outgoing)
		add(o, "cpu-throttle-percentage", number(s.throttle));
	if (s.outgoing && m->destination[0])
		add(o, "x-unvmm-destination", json_object_new_string(m->destination));
	if (s.error[0])
		add(o, "error-desc", json_object_new_string(s.error));
	add(o, "ram", ram(&s));
	return o;
}

void qmp_migrate_event(struct qmp *q, enum migration_phase phase)
{
	struct json_object *o = json_object_new_object();

	if (o)
		add(o, "status", json_object_new_string(status_name(phase)));
	qmp_event(q, "MIGRATION", o);
}

const char *qmp_migrate_run_state(const struct qmp *q)
{
	struct migration_status s = { 0 };

	if (!q->migration)
		return "paused";
	q->migration->ops->status(q->migration->engine, &s);
	if (!s.outgoing)
		return "inmigrate";
	return s.phase == MIGRATION_COMPLETED || s.phase == MIGRATION_HANDED_OVER
		       ? "postmigrate"
		       : "finish-migrate";
}

int qmp_migrate_settled(struct qmp *q, struct diag *d)
{
	struct migration_status s = { 0 };

	if (!q->migration)
		return 0;
	q->migration->ops->status(q->migration->engine, &s);
	if (!s.outgoing || (s.phase != MIGRATION_SWITCH && s.phase != MIGRATION_COMMITTED))
		return 0;
	return diag_set(
		d, -EBUSY,
		"the guest is being handed over; say it again when the migration has ended");
}

int qmp_migrate_continue(struct qmp *q, struct diag *d)
{
	struct migration_status s;
	int err;

	if (!q->migration || !q->migration->stay_paused || !q->vm->held)
		return 0;
	q->migration->ops->status(q->migration->engine, &s);
	if (s.phase != MIGRATION_COMPLETED || !s.file)
		return 0;
	err = vm_claim(q->vm, d);
	if (err)
		return err;
	q->migration->stay_paused = false;
	vm_release(q->vm);
	return 1;
}

/* --- arguments ------------------------------------------------------------------------------- */

static int need(struct qmp_call *c)
{
	return c->qmp->migration
		       ? 0
		       : diag_set(&c->diag, -EOPNOTSUPP, "this machine cannot be migrated");
}

static bool get_flag(const struct qmp_call *c, const char *name)
{
	struct json_object *v;

	return json_object_object_get_ex(c->args, name, &v) && json_object_get_boolean(v);
}

/* Leaves *value alone when the argument was not given. */
static int get_number(struct qmp_call *c, const char *name, uint64_t max, uint64_t *value)
{
	struct json_object *v;
	int64_t given;

	if (!json_object_object_get_ex(c->args, name, &v))
		return 0;
	given = json_object_get_int64(v);
	if (given < 0 || (uint64_t)given > max)
		return diag_set(&c->diag, -EINVAL, "'%s' must be 0 to %llu", name,
				(unsigned long long)max);
	*value = (uint64_t)given;
	return 0;
}

static int get_number32(struct qmp_call *c, const char *name, uint32_t *value)
{
	uint64_t v = *value;
	int err = get_number(c, name, UINT32_MAX, &v);

	*value = (uint32_t)v;
	return err;
}

static int get_on_timeout(struct qmp_call *c, struct migration_params *p)
{
	const char *text = qmp_text(c, "x-unvmm-on-timeout");

	if (!text)
		return 0;
	if (strcmp(text, "cancel") != 0 && strcmp(text, "force") != 0)
		return diag_set(&c->diag, -EINVAL,
				"'x-unvmm-on-timeout' must be \"cancel\" or \"force\"");
	p->on_timeout = *text == 'f' ? MIGRATION_TIMEOUT_FORCE : MIGRATION_TIMEOUT_CANCEL;
	return 0;
}

/* The descriptor is the caller's. */
static int take_fd(struct qmp_call *c, const char *name, int *fd)
{
	const char *destination = qmp_text(c, "x-unvmm-destination");

	if (destination && strlen(destination) >= QMP_DESTINATION_MAX)
		return diag_set(&c->diag, -EINVAL,
				"'x-unvmm-destination' must have at most %d bytes",
				QMP_DESTINATION_MAX - 1);
	*fd = qmp_take_fd(c->session, name);
	if (*fd < 0)
		return diag_set(&c->diag, -ENOENT,
				"there is no descriptor named '%.60s' (getfd names one)", name);
	return 0;
}

static void remember(struct qmp_call *c, bool stay_paused)
{
	const char *destination = qmp_text(c, "x-unvmm-destination");
	struct qmp_migration *m = c->qmp->migration;

	snprintf(m->destination, sizeof(m->destination), "%s", destination ? destination : "");
	m->stay_paused = stay_paused;
}

/* --- the commands ---------------------------------------------------------------------------- */

static int run_migrate(struct qmp_call *c)
{
	const char *uri = qmp_text(c, "uri");
	struct qmp_migration *m = c->qmp->migration;
	int err = need(c), fd;

	if (!err && strncmp(uri, "fd:", 3) != 0)
		err = diag_set(&c->diag, -EINVAL,
			       "'uri' must be fd:NAME, with a NAME from getfd: a guest's process "
			       "opens no connection (\"unvmm migrate\" does)");
	if (!err)
		err = take_fd(c, uri + 3, &fd);
	if (!err)
		err = m->ops->start(m->engine, fd, &m->params, &c->diag);
	if (!err)
		remember(c, false);
	return err;
}

static int run_save(struct qmp_call *c)
{
	struct qmp_migration *m = c->qmp->migration;
	bool stay_paused = get_flag(c, "stay-paused");
	int err = need(c), fd;

	if (!err)
		err = take_fd(c, qmp_text(c, "fdname"), &fd);
	if (!err)
		err = m->ops->save(m->engine, fd, stay_paused, &m->params, &c->diag);
	if (!err)
		remember(c, stay_paused);
	return err;
}

static int run_query(struct qmp_call *c)
{
	int err = need(c);

	if (err)
		return err;
	c->result = describe(c->qmp->migration);
	return c->result ? 0 : diag_set(&c->diag, -ENOMEM, "out of memory");
}

static int run_cancel(struct qmp_call *c)
{
	struct qmp_migration *m = c->qmp->migration;
	int err = need(c);

	if (!err)
		err = m->ops->cancel(m->engine, &c->diag);
	return err == -EALREADY ? 0 : err; /* as QEMU: nothing to cancel is no error */
}

static int run_set_parameters(struct qmp_call *c)
{
	struct qmp_migration *m = c->qmp->migration;
	struct migration_params p;
	struct json_object *v;
	int err = need(c);

	if (err)
		return err;
	p = m->params;
	err = get_number32(c, "downtime-limit", &p.downtime_ms);
	if (!err)
		err = get_number(c, "max-bandwidth", INT64_MAX, &p.bandwidth);
	if (!err)
		err = get_number32(c, "x-unvmm-timeout", &p.timeout_ms);
	if (!err)
		err = get_number32(c, "x-unvmm-peer-timeout", &p.peer_timeout_ms);
	if (!err)
		err = get_on_timeout(c, &p);
	if (!err && json_object_object_get_ex(c->args, "x-unvmm-throttle", &v))
		p.throttle = json_object_get_boolean(v);
	if (!err && json_object_object_get_ex(c->args, "x-unvmm-verify", &v))
		p.verify = json_object_get_boolean(v);
	if (!err)
		err = m->ops->check(&p, &c->diag);
	if (!err)
		err = m->ops->set_params(m->engine, &p, &c->diag);
	if (!err)
		m->params = p;
	return err;
}

static int run_query_parameters(struct qmp_call *c)
{
	const struct migration_params *p;
	struct json_object *o;
	int err = need(c);

	if (err)
		return err;
	p = &c->qmp->migration->params;
	o = json_object_new_object();
	if (!o)
		return diag_set(&c->diag, -ENOMEM, "out of memory");
	add(o, "downtime-limit", number(p->downtime_ms));
	add(o, "max-bandwidth", number(p->bandwidth));
	add(o, "x-unvmm-timeout", number(p->timeout_ms));
	add(o, "x-unvmm-peer-timeout", number(p->peer_timeout_ms));
	add(o, "x-unvmm-on-timeout",
	    json_object_new_string(p->on_timeout == MIGRATION_TIMEOUT_FORCE ? "force" : "cancel"));
	add(o, "x-unvmm-throttle", json_object_new_boolean(p->throttle));
	add(o, "x-unvmm-verify", json_object_new_boolean(p->verify));
	c->result = o;
	return 0;
}

static int run_resume_source(struct qmp_call *c)
{
	struct qmp_migration *m = c->qmp->migration;
	int err = need(c);

	if (!err)
		err = m->ops->resume_source(m->engine, &c->diag);
	if (!err && !c->qmp->vm->paused)
		qmp_event(c->qmp, "RESUME", NULL);
	return err;
}

const struct qmp_command qmp_migrate_commands[] = {
	{ .name = "migrate",
	  .run = run_migrate,
	  .args = { { "uri", json_type_string, false },
		    { "detach", json_type_boolean, true }, /* it always is */
		    { "x-unvmm-destination", json_type_string, true } } },
	{ .name = "migrate_cancel", .run = run_cancel },
	{ .name = "query-migrate", .run = run_query },
	{ .name = "migrate-set-parameters",
	  .run = run_set_parameters,
	  .args = { { "downtime-limit", json_type_int, true },
		    { "max-bandwidth", json_type_int, true },
		    { "x-unvmm-timeout", json_type_int, true },
		    { "x-unvmm-peer-timeout", json_type_int, true },
		    { "x-unvmm-on-timeout", json_type_string, true },
		    { "x-unvmm-throttle", json_type_boolean, true },
		    { "x-unvmm-verify", json_type_boolean, true } } },
	{ .name = "query-migrate-parameters", .run = run_query_parameters },
	{ .name = "x-unvmm-save",
	  .run = run_save,
	  .args = { { "fdname", json_type_string, false },
		    { "stay-paused", json_type_boolean, true },
		    { "x-unvmm-destination", json_type_string, true } } },
	{ .name = "x-unvmm-resume-source", .run = run_resume_source },
};
const unsigned int qmp_nmigrate_commands = ARRAY_SIZE(qmp_migrate_commands);
