/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp_commands.c - what a client can ask for: one function and one row of the table each. The names
 * and results are those of QEMU's QMP reference manual; what is ours alone begins with x-unvmm-.
 * Main thread, without the control lock.
 */
#include "qmp.h"
#include "qmp_migrate.h"

#include <unvmm/track.h>
#include <unvmm/vcpu.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *qmp_text(const struct qmp_call *c, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(c->args, name, &value) ? json_object_get_string(value)
								: NULL;
}

static int give(struct qmp_call *c, struct json_object *result)
{
	c->result = result;
	return result ? 0 : diag_set(&c->diag, -ENOMEM, "out of memory");
}

static int give_text(struct qmp_call *c, const char *key, const char *text)
{
	struct json_object *o = json_object_new_object();

	if (o)
		json_object_object_add(o, key, json_object_new_string(text));
	return give(c, o);
}

/* --- the session ----------------------------------------------------------------------------- */

static int run_capabilities(struct qmp_call *c)
{
	struct json_object *enable;

	if (json_object_object_get_ex(c->args, "enable", &enable) &&
	    json_object_array_length(enable))
		return diag_set(&c->diag, -EINVAL,
				"none of these capabilities was offered in the greeting");
	c->session->negotiated = true;
	return 0;
}

/* Clients look for the "qemu" member; the version in it is unvmm's own, as "package" says. */
struct json_object *qmp_version(void)
{
	struct json_object *o = json_object_new_object(), *v = json_object_new_object();
	int major = 0, minor = 0, micro = 0;

	if (!o || !v || sscanf(UNVMM_VERSION, "%d.%d.%d", &major, &minor, &micro) < 1) {
		json_object_put(o);
		json_object_put(v);
		return NULL;
	}
	json_object_object_add(v, "major", json_object_new_int(major));
	json_object_object_add(v, "minor", json_object_new_int(minor));
	json_object_object_add(v, "micro", json_object_new_int(micro));
	json_object_object_add(o, "qemu", v);
	json_object_object_add(o, "package", json_object_new_string("unvmm " UNVMM_VERSION));
	return o;
}

static int run_version(struct qmp_call *c)
{
	return give(c, qmp_version());
}

static void add_names(struct json_object *list, const struct qmp_command *commands, unsigned int n)
{
	for (unsigned int i = 0; list && i < n; i++) {
		struct json_object *o = json_object_new_object();

		if (!o ||
		    json_object_object_add(o, "name", json_object_new_string(commands[i].name)) ||
		    json_object_array_add(list, o))
			json_object_put(o);
	}
}

static int run_commands(struct qmp_call *c)
{
	struct json_object *list = json_object_new_array();

	add_names(list, qmp_commands, qmp_ncommands);
	add_names(list, qmp_migrate_commands, qmp_nmigrate_commands);
	return give(c, list);
}

static struct qmp_fd *find_fd(struct qmp_session *s, const char *name)
{
	for (unsigned int i = 0; s->named && i < QMP_NAMED_MAX; i++)
		if (name ? s->named[i].fd >= 0 && !strcmp(s->named[i].name, name)
			 : s->named[i].fd < 0)
			return &s->named[i];
	return NULL;
}

static int make_names(struct qmp_session *s)
{
	if (s->named)
		return 0;
	s->named = calloc(QMP_NAMED_MAX, sizeof(*s->named));
	for (unsigned int i = 0; s->named && i < QMP_NAMED_MAX; i++)
		s->named[i].fd = -1;
	return s->named ? 0 : -ENOMEM;
}

/* The descriptor came with the bytes of the command (SCM_RIGHTS). A name is given anew. */
static int run_getfd(struct qmp_call *c)
{
	struct qmp_session *s = c->session;
	const char *name = qmp_text(c, "fdname");
	struct qmp_fd *slot;

	if (!s->nfds)
		return diag_set(&c->diag, -EBADF,
				"no file descriptor came along (it is sent by SCM_RIGHTS)");
	/* A number means a descriptor of our own elsewhere in the protocol. */
	if (!*name || (*name >= '0' && *name <= '9') || strlen(name) >= QMP_NAME_MAX)
		return diag_set(&c->diag, -EINVAL,
				"'fdname' must have 1 to %d bytes and not begin with a digit",
				QMP_NAME_MAX - 1);
	if (make_names(s))
		return diag_set(&c->diag, -ENOMEM, "out of memory");
	slot = find_fd(s, name);
	if (slot)
		close(slot->fd);
	else
		slot = find_fd(s, NULL);
	if (!slot)
		return diag_set(&c->diag, -ENOSPC, "%d descriptors have a name already; close one",
				QMP_NAMED_MAX);
	snprintf(slot->name, sizeof(slot->name), "%s", name);
	slot->fd = s->fds[0];
	memmove(s->fds, s->fds + 1, --s->nfds * sizeof(s->fds[0]));
	return 0;
}

int qmp_take_fd(struct qmp_session *s, const char *name)
{
	struct qmp_fd *slot = find_fd(s, name);
	int fd = slot ? slot->fd : -1;

	if (slot)
		slot->fd = -1;
	return fd;
}

static int run_closefd(struct qmp_call *c)
{
	const char *name = qmp_text(c, "fdname");
	struct qmp_fd *slot = find_fd(c->session, name);

	if (!slot)
		return diag_set(&c->diag, -ENOENT, "there is no descriptor named '%.60s'", name);
	close(slot->fd);
	slot->fd = -1;
	return 0;
}

/* --- the machine ----------------------------------------------------------------------------- */

const char *qmp_run_state(const struct qmp *q)
{
	struct vm *vm = q->vm;

	switch (vm_requested(vm)) {
	case VM_EVENT_NONE:
	case VM_EVENT_REBOOT:
		if (vm->held)
			return qmp_migrate_run_state(q);
		return vm->paused ? "paused" : "running";
	case VM_EVENT_PANIC:
		return "guest-panicked";
	case VM_EVENT_ERROR:
		return "internal-error";
	default:
		return "shutdown";
	}
}

static int run_status(struct qmp_call *c)
{
	const char *state = qmp_run_state(c->qmp);
	int err = give_text(c, "status", state);

	if (!err)
		json_object_object_add(c->result, "running",
				       json_object_new_boolean(!strcmp(state, "running")));
	return err;
}

static int run_name(struct qmp_call *c)
{
	return give_text(c, "name", c->qmp->name);
}

static int run_kvm(struct qmp_call *c)
{
	struct json_object *o = json_object_new_object();

	if (o) {
		json_object_object_add(o, "enabled", json_object_new_boolean(true));
		json_object_object_add(o, "present", json_object_new_boolean(true));
	}
	return give(c, o);
}

static int run_cpus(struct qmp_call *c)
{
	const struct vcpu_set *set = c->qmp->vm->vcpus;
	struct json_object *list = json_object_new_array();
	char path[64];

	for (unsigned int i = 0; list && set && i < set->n; i++) {
		struct json_object *o = json_object_new_object();
		pid_t tid = __atomic_load_n(&set->cpus[i].tid, __ATOMIC_RELAXED);

		if (!o)
			break;
		snprintf(path, sizeof(path), "/machine/vcpu[%u]", i);
		json_object_object_add(o, "cpu-index", json_object_new_int((int)i));
		json_object_object_add(o, "thread-id", json_object_new_int(tid));
		json_object_object_add(o, "qom-path", json_object_new_string(path));
		json_object_object_add(o, "target", json_object_new_string("x86_64"));
		json_object_array_add(list, o);
	}
	return give(c, list);
}

static int run_stop(struct qmp_call *c)
{
	bool was = c->qmp->vm->paused;
	int err = qmp_migrate_settled(c->qmp, &c->diag);

	if (!err)
		err = vm_pause(c->qmp->vm, &c->diag);
	if (!err && !was)
		qmp_event(c->qmp, "STOP", NULL);
	return err;
}

static int run_cont(struct qmp_call *c)
{
	int saved = qmp_migrate_settled(c->qmp, &c->diag);
	bool was = c->qmp->vm->paused;

	if (!saved)
		saved = qmp_migrate_continue(c->qmp, &c->diag);
	if (saved < 0)
		return saved;
	vm_resume(c->qmp->vm);
	if (was || saved)
		qmp_event(c->qmp, "RESUME", NULL);
	return 0;
}

static int run_powerdown(struct qmp_call *c)
{
	struct vm *vm = c->qmp->vm;
	bool has;

	vm_lock(vm);
	has = vm->power_button;
	if (has)
		vm->power_button(vm->power_button_arg);
	vm_unlock(vm);
	if (!has)
		return diag_set(&c->diag, -EOPNOTSUPP, "this machine has no power button");
	qmp_event(c->qmp, "POWERDOWN", NULL);
	return 0;
}

static void request(struct qmp_call *c, enum vm_event event)
{
	vm_lock(c->qmp->vm);
	vm_request(c->qmp->vm, event, 0);
	vm_unlock(c->qmp->vm);
}

/* As if the guest had reset itself: what then happens is up to on_reboot. */
static int run_reset(struct qmp_call *c)
{
	c->qmp->asked_reset = true;
	request(c, VM_EVENT_REBOOT);
	return 0;
}

static int run_quit(struct qmp_call *c)
{
	c->qmp->asked_quit = true;
	request(c, VM_EVENT_QUIT);
	return 0;
}

static int run_info(struct qmp_call *c)
{
	return give(c, stats_info(c->qmp));
}

static int run_stats(struct qmp_call *c)
{
	return give(c, stats_counters(c->qmp));
}

/* For tests: what a migration does to assigned functions, without one (and not beside one). */
static int run_relay(struct qmp_call *c)
{
	struct track_pause pause;
	struct json_object *enable;

	if (json_object_object_get_ex(c->args, "enable", &enable) &&
	    json_object_get_boolean(enable))
		return vm_track_begin(c->qmp->vm, &pause, &c->diag);
	vm_track_end(c->qmp->vm);
	return 0;
}

const struct qmp_command qmp_commands[] = {
	{ .name = "qmp_capabilities",
	  .run = run_capabilities,
	  .args = { { "enable", json_type_array, true } },
	  .negotiates = true },
	{ .name = "query-version", .run = run_version },
	{ .name = "query-commands", .run = run_commands },
	{ .name = "getfd", .run = run_getfd, .args = { { "fdname", json_type_string, false } } },
	{ .name = "closefd",
	  .run = run_closefd,
	  .args = { { "fdname", json_type_string, false } } },
	{ .name = "query-status", .run = run_status },
	{ .name = "query-name", .run = run_name },
	{ .name = "query-kvm", .run = run_kvm },
	{ .name = "query-cpus-fast", .run = run_cpus },
	{ .name = "stop", .run = run_stop },
	{ .name = "cont", .run = run_cont },
	{ .name = "system_powerdown", .run = run_powerdown },
	{ .name = "system_reset", .run = run_reset },
	{ .name = "quit", .run = run_quit },
	{ .name = "x-unvmm-info", .run = run_info },
	{ .name = "x-unvmm-stats", .run = run_stats },
	{ .name = "x-unvmm-relay",
	  .run = run_relay,
	  .args = { { "enable", json_type_boolean, false } } },
};
const unsigned int qmp_ncommands = ARRAY_SIZE(qmp_commands);

const struct qmp_command *qmp_command_find(const char *name)
{
	for (unsigned int i = 0; i < qmp_ncommands; i++)
		if (!strcmp(qmp_commands[i].name, name))
			return &qmp_commands[i];
	for (unsigned int i = 0; i < qmp_nmigrate_commands; i++)
		if (!strcmp(qmp_migrate_commands[i].name, name))
			return &qmp_migrate_commands[i];
	return NULL;
}
