/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_qmp_migrate.c - the control socket's migration commands in front of a fake engine: what it
 * is asked, what clients are told in each phase, who owns the descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "fake_vm.h"
#include "qmp_migrate.h"

/* Records what it is asked for; refuses with `err`. */
struct migration {
	struct migration_status status;
	struct migration_params params;
	int fd, err;
	bool saved, stay_paused, set;
	unsigned int cancelled, resumed;
};

struct fixture {
	struct fake_vm *f;
	struct qmp qmp;
	struct qmp_session s;
	struct qmp_migration m;
	struct migration engine;
	char out[65536];
	size_t len;
};

static int fake_begin(struct migration *m, int fd, const struct migration_params *p, struct diag *d)
{
	m->params = *p;
	close(fd);
	m->fd = fd;
	return m->err ? diag_set(d, m->err, "disk0 cannot be moved") : 0;
}

static int fake_save(struct migration *m, int fd, bool stay_paused,
		     const struct migration_params *p, struct diag *d)
{
	m->saved = true;
	m->stay_paused = stay_paused;
	return fake_begin(m, fd, p, d);
}

static int fake_check(const struct migration_params *p, struct diag *d)
{
	return p->downtime_ms ? 0 : diag_set(d, -EINVAL, "downtime: 0 ms is too short");
}

static int fake_set(struct migration *m, const struct migration_params *p, struct diag *d)
{
	(void)d;
	m->params = *p;
	m->set = true;
	return 0;
}

static int fake_cancel(struct migration *m, struct diag *d)
{
	m->cancelled++;
	return m->err ? diag_set(d, m->err, "it is too late") : 0;
}

static int fake_resume(struct migration *m, struct diag *d)
{
	m->resumed++;
	return m->err ? diag_set(d, m->err, "it was not handed over") : 0;
}

static void fake_status(struct migration *m, struct migration_status *s)
{
	*s = m->status;
}

static const char *fake_name(enum migration_phase phase)
{
	return phase == MIGRATION_HANDED_OVER ? "handed-over" : "some phase";
}

static const struct qmp_migration_ops ops = {
	.start = fake_begin,
	.save = fake_save,
	.check = fake_check,
	.set_params = fake_set,
	.cancel = fake_cancel,
	.resume_source = fake_resume,
	.status = fake_status,
	.phase_name = fake_name,
};

static void capture(struct qmp_session *s, const char *text, size_t len)
{
	struct fixture *x = container_of(s, struct fixture, s);

	assert_true(x->len + len < sizeof(x->out));
	memcpy(x->out + x->len, text, len);
	x->len += len;
	x->out[x->len] = '\0';
}

static const char *say(struct fixture *x, const char *text)
{
	x->len = 0;
	x->out[0] = '\0';
	for (size_t len = strlen(text); len;) {
		size_t n = qmp_input(&x->s, text, len);

		text += n;
		len -= n;
	}
	return x->out;
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	assert_non_null(x);
	x->f = fake_vm_new("none");
	x->m = (struct qmp_migration){ .ops = &ops,
				       .engine = &x->engine,
				       .params = { .downtime_ms = 300, .peer_timeout_ms = 10000 } };
	x->qmp = (struct qmp){ .vm = &x->f->vm, .name = "web", .path = "/x", .migration = &x->m };
	x->s.send = capture;
	qmp_open(&x->s, &x->qmp);
	say(x, "{\"execute\":\"qmp_capabilities\"}");
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	qmp_close(&x->s);
	x->f->vm.held = false;
	fake_vm_free(x->f);
	free(x);
	return 0;
}

/* Gives the session a descriptor named "m"; returns its number. */
static int give(struct fixture *x)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	qmp_receive_fds(&x->s, &fd, 1);
	assert_string_equal(say(x, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"m\"}}"),
			    "{\"return\":{}}\r\n");
	return fd;
}

#define DONE "{\"return\":{}}\r\n"

static void refused(struct fixture *x, const char *text, const char *part)
{
	const char *out = say(x, text);

	if (!strstr(out, "GenericError") || !strstr(out, part))
		fail_msg("%s is answered by %s", text, out);
}

static bool gone(int fd)
{
	return fcntl(fd, F_GETFD) < 0;
}

static void test_migrate(void **state)
{
	struct fixture *x = *state;
	int fd = give(x);

	assert_string_equal(say(x, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:m\","
				   "\"detach\":true,\"x-unvmm-destination\":\"host2\"}}"),
			    DONE);
	assert_int_equal(x->engine.fd, fd);
	assert_true(gone(fd) && !x->engine.saved);
	assert_int_equal(x->engine.params.downtime_ms, 300);
	assert_string_equal(x->m.destination, "host2");
	/* The name was used up. */
	refused(x, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:m\"}}", "no descriptor");
	refused(x, "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"m\"}}", "no descriptor");
}

static void test_migrate_refused(void **state)
{
	struct fixture *x = *state;
	char text[600];
	int fd;

	refused(x, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:h:1\"}}", "fd:NAME");
	refused(x, "{\"execute\":\"migrate\"}", "uri");
	refused(x, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:m\",\"blk\":true}}",
		"blk");
	fd = give(x);
	snprintf(text, sizeof(text),
		 "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:m\","
		 "\"x-unvmm-destination\":\"%0300d\"}}",
		 0);
	refused(x, text, "at most 255 bytes");
	assert_false(gone(fd)); /* and may be used again */
	x->engine.err = -ENOTSUP;
	refused(x, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:m\"}}", "disk0");
	assert_true(gone(fd));
	assert_string_equal(x->m.destination, "");
	x->qmp.migration = NULL;
	refused(x, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:m\"}}",
		"cannot be migrated");
	refused(x, "{\"execute\":\"query-migrate\"}", "cannot be migrated");
	refused(x, "{\"execute\":\"migrate_cancel\"}", "cannot be migrated");
	refused(x, "{\"execute\":\"query-migrate-parameters\"}", "cannot be migrated");
}

static void test_save_and_continue(void **state)
{
	struct fixture *x = *state;

	give(x);
	assert_string_equal(say(x, "{\"execute\":\"x-unvmm-save\",\"arguments\":{\"fdname\":\"m\","
				   "\"stay-paused\":true}}"),
			    DONE);
	assert_true(x->engine.saved && x->engine.stay_paused);
	/* `cont` lets a guest go on that is in the file, and no other that is held. */
	x->f->vm.held = true;
	x->engine.status = (struct migration_status){ .outgoing = true,
						      .file = true,
						      .phase = MIGRATION_SWITCH };
	refused(x, "{\"execute\":\"cont\"}", "being handed over");
	refused(x, "{\"execute\":\"stop\"}", "being handed over");
	assert_true(x->f->vm.held);
	x->engine.status.phase = MIGRATION_COMPLETED;
	assert_non_null(strstr(say(x, "{\"execute\":\"cont\"}"), "RESUME"));
	assert_false(x->f->vm.held);
	/* After a move it never does. */
	give(x);
	say(x, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:m\"}}");
	x->f->vm.held = true;
	x->engine.status.file = false;
	assert_string_equal(say(x, "{\"execute\":\"cont\"}"), DONE);
	assert_true(x->f->vm.held);
}

static void phase_is(struct fixture *x, enum migration_phase phase, bool outgoing,
		     const char *status, const char *run_state)
{
	char want[64];

	x->f->vm.held = run_state;
	x->engine.status = (struct migration_status){ .phase = phase, .outgoing = outgoing };
	snprintf(want, sizeof(want), "\"status\":\"%s\"", status);
	if (!strstr(say(x, "{\"execute\":\"query-migrate\"}"), want))
		fail_msg("phase %d is %s", (int)phase, x->out);
	snprintf(want, sizeof(want), "\"status\":\"%s\"", run_state ? run_state : "running");
	if (!strstr(say(x, "{\"execute\":\"query-status\"}"), want))
		fail_msg("phase %d is %s", (int)phase, x->out);
}

static void test_phases(void **state)
{
	struct fixture *x = *state;

	assert_string_equal(say(x, "{\"execute\":\"query-migrate\"}"), DONE);
	x->f->vm.held = true; /* before anybody has connected */
	assert_non_null(strstr(say(x, "{\"execute\":\"query-status\"}"), "inmigrate"));
	phase_is(x, MIGRATION_SETUP, true, "setup", NULL);
	phase_is(x, MIGRATION_PRECOPY, true, "active", NULL);
	phase_is(x, MIGRATION_SWITCH, true, "device", "finish-migrate");
	phase_is(x, MIGRATION_COMMITTED, true, "device", "finish-migrate");
	phase_is(x, MIGRATION_CANCELLING, true, "cancelling", "finish-migrate");
	phase_is(x, MIGRATION_COMPLETED, true, "completed", "postmigrate");
	phase_is(x, MIGRATION_FAILED, true, "failed", NULL);
	phase_is(x, MIGRATION_CANCELLED, true, "cancelled", NULL);
	phase_is(x, MIGRATION_HANDED_OVER, true, "failed", "postmigrate");
	phase_is(x, MIGRATION_INCOMING, false, "setup", "inmigrate");
	phase_is(x, MIGRATION_RECEIVING, false, "active", "inmigrate");
	phase_is(x, MIGRATION_LOADING, false, "device", "inmigrate");
	phase_is(x, MIGRATION_STARTING, false, "device", "inmigrate");
	phase_is(x, MIGRATION_COMPLETED, false, "completed", NULL);
	x->len = 0;
	qmp_migrate_event(&x->qmp, MIGRATION_PRECOPY);
	assert_non_null(strstr(x->out, "\"event\":\"MIGRATION\",\"data\":{\"status\":\"active\"}"));
}

static uint64_t number(struct json_object *o, const char *key)
{
	struct json_object *v;

	if (!json_object_object_get_ex(o, key, &v))
		fail_msg("no %s", key);
	return json_object_get_uint64(v);
}

static void test_query(void **state)
{
	struct fixture *x = *state;
	struct json_object *m, *r, *o;

	snprintf(x->m.destination, sizeof(x->m.destination), "host2");
	x->engine.status = (struct migration_status){
		.phase = MIGRATION_HANDED_OVER,
		.outgoing = true,
		.ram_total = MiB(64),
		.remaining = KiB(8),
		.transferred = 1ull << 40,
		.pages = 3,
		.zero_pages = 5,
		.rounds = 7,
		.dirty_rate = MiB(1),
		.rate = 125000000,
		.throttle = 20,
		.elapsed_ns = 2000000000,
		.setup_ns = 3000000,
		.downtime = { .stop = 1,
			      .sync = 2,
			      .save = 3,
			      .ram = 4,
			      .state = 5,
			      .start = 1999985,
			      .total = 2000000,
			      .target_load = 6,
			      .target_start = 7 },
		.error = "no RUNNING came",
	};
	m = json_tokener_parse(say(x, "{\"execute\":\"query-migrate\"}"));
	assert_true(json_object_object_get_ex(m, "return", &r));
	assert_int_equal(number(r, "total-time"), 2000);
	assert_int_equal(number(r, "setup-time"), 3);
	assert_int_equal(number(r, "downtime"), 2);
	assert_int_equal(number(r, "cpu-throttle-percentage"), 20);
	assert_true(json_object_object_get_ex(r, "x-unvmm-downtime", &o));
	assert_int_equal(number(o, "total-ns"), number(o, "stop-ns") + number(o, "sync-ns") +
							number(o, "save-ns") + number(o, "ram-ns") +
							number(o, "state-ns") +
							number(o, "start-ns"));
	assert_int_equal(number(o, "target-load-ns"), 6);
	assert_true(json_object_object_get_ex(r, "ram", &o));
	assert_int_equal(number(o, "transferred"), 1ull << 40);
	assert_int_equal(number(o, "normal-bytes"), 3 * 4096);
	assert_int_equal(number(o, "duplicate"), 5);
	assert_int_equal(number(o, "dirty-sync-count"), 7);
	assert_int_equal(number(o, "dirty-pages-rate"), 256);
	assert_int_equal(number(o, "mbps"), 1000);
	assert_non_null(strstr(x->out, "\"error-desc\":\"no RUNNING came\""));
	assert_non_null(strstr(x->out, "\"x-unvmm-phase\":\"handed-over\""));
	assert_non_null(strstr(x->out, "\"x-unvmm-destination\":\"host2\""));
	json_object_put(m);
}

static void test_parameters(void **state)
{
	struct fixture *x = *state;

	assert_string_equal(
		say(x,
		    "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"downtime-limit\":20,"
		    "\"max-bandwidth\":1000000,\"x-unvmm-on-timeout\":\"force\","
		    "\"x-unvmm-timeout\":5000,\"x-unvmm-throttle\":true}}"),
		DONE);
	assert_true(x->engine.set);
	assert_int_equal(x->engine.params.downtime_ms, 20);
	assert_int_equal(x->engine.params.peer_timeout_ms, 10000); /* was not named */
	assert_string_equal(say(x, "{\"execute\":\"query-migrate-parameters\"}"),
			    "{\"return\":{\"downtime-limit\":20,\"max-bandwidth\":1000000,"
			    "\"x-unvmm-timeout\":5000,\"x-unvmm-peer-timeout\":10000,"
			    "\"x-unvmm-on-timeout\":\"force\",\"x-unvmm-throttle\":true,"
			    "\"x-unvmm-verify\":false}}\r\n");
	/* What is refused changes nothing. */
	x->engine.set = false;
	refused(x, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"downtime-limit\":0}}",
		"too short");
	refused(x, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"downtime-limit\":-1}}",
		"must be 0 to 4294967295");
	refused(x,
		"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":1,"
		"\"downtime-limit\":4294967296}}",
		"must be 0 to 4294967295");
	refused(x,
		"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"x-unvmm-on-timeout\":"
		"\"\"}}",
		"cancel");
	refused(x, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"multifd\":1}}",
		"multifd");
	assert_false(x->engine.set);
	assert_int_equal(x->m.params.downtime_ms, 20);
	assert_int_equal(x->m.params.bandwidth, 1000000);
}

static void test_cancel_and_resume(void **state)
{
	struct fixture *x = *state;

	assert_string_equal(say(x, "{\"execute\":\"migrate_cancel\"}"), DONE);
	x->engine.err = -EALREADY;
	assert_string_equal(say(x, "{\"execute\":\"migrate_cancel\"}"), DONE);
	x->engine.err = -EBUSY;
	refused(x, "{\"execute\":\"migrate_cancel\"}", "too late");
	assert_int_equal(x->engine.cancelled, 3);
	refused(x, "{\"execute\":\"x-unvmm-resume-source\"}", "not handed over");
	x->engine.err = 0;
	assert_non_null(strstr(say(x, "{\"execute\":\"x-unvmm-resume-source\"}"), "RESUME"));
}

static void test_listed(void **state)
{
	struct fixture *x = *state;

	say(x, "{\"execute\":\"query-commands\"}");
	for (unsigned int i = 0; i < qmp_nmigrate_commands; i++) {
		assert_non_null(strstr(x->out, qmp_migrate_commands[i].name));
		assert_ptr_equal(qmp_command_find(qmp_migrate_commands[i].name),
				 &qmp_migrate_commands[i]);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_migrate), T(test_migrate_refused), T(test_save_and_continue), T(test_phases),
		T(test_query),	 T(test_parameters),	  T(test_cancel_and_resume), T(test_listed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
