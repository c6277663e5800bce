/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_control.c - `unvmm pause`, `resume`, `reset` and `stop`: what an operator does to a running
 * guest. Main thread.
 */
#include "cmd.h"
#include "cmd_client.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#define STOP_DEFAULT_MS 30000
#define END_MS		30000 /* what a guest that is ended may need to finish its disks' writes */

static const struct {
	const char *name, *command, *about;
	unsigned int understands;
} simple[] = {
	{ "pause", "stop", "Stops a guest's processors; its devices finish what is under way.", 0 },
	{ "resume", "cont", "Lets a paused guest go on.", CMD_DEAD },
	{ "reset", "system_reset", "Resets a guest, as if it had done so itself.", 0 },
};

static void put_state(const struct client_link *l, const char *state)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "name", json_object_new_string(l->name));
	json_object_object_add(o, "status", json_object_new_string(state));
	cmd_put_json(o);
	json_object_put(o);
}

static int put_new_state(struct client_link *l, struct diag *d)
{
	struct json_object *status;
	int err = client_call(l, "query-status", CLIENT_TIMEOUT_MS, &status, d);

	if (err)
		return err;
	put_state(l, cmd_text(status, "status"));
	json_object_put(status);
	return 0;
}

int cmd_control(int argc, char **argv)
{
	struct cmd_args a = { 0 };
	struct client_link l;
	struct diag d = { "" };
	unsigned int i = 0;
	int status, err;

	while (strcmp(simple[i].name, argv[0]) != 0 && i < ARRAY_SIZE(simple) - 1)
		i++;
	if (!cmd_args_parse(&a, argc, argv, CMD_JSON | CMD_NAME | simple[i].understands,
			    simple[i].about, &status))
		return status;
	err = client_open(&l, a.name, CLIENT_TIMEOUT_MS, &d);
	if (!err)
		err = client_call(&l, a.dead ? "x-unvmm-resume-source" : simple[i].command,
				  CLIENT_TIMEOUT_MS, NULL, &d);
	if (!err && a.json)
		err = put_new_state(&l, &d);
	client_close(&l);
	return err ? cmd_failed(err, &d) : 0;
}

/* Has it power itself off: 0, -ETIMEDOUT, or an error with its sentence. */
static int power_off(struct client_link *l, unsigned int timeout_ms, struct diag *d)
{
	/* It can only do so when it runs. */
	int err = client_call(l, "cont", CLIENT_TIMEOUT_MS, NULL, d);

	if (!err)
		err = client_call(l, "system_powerdown", CLIENT_TIMEOUT_MS, NULL, d);
	return err ? err : client_wait_end(l, timeout_ms);
}

static int force(struct client_link *l, struct diag *d)
{
	int err = client_call(l, "quit", CLIENT_TIMEOUT_MS, NULL, d);

	if (err == -EPIPE) /* it was quicker */
		err = 0;
	if (!err && client_wait_end(l, END_MS))
		err = diag_set(d, -ETIMEDOUT, "%s does not end (process %d)", l->name, l->pid);
	return err;
}

int cmd_stop(int argc, char **argv)
{
	struct cmd_args a = { .timeout_ms = STOP_DEFAULT_MS };
	struct client_link l;
	struct diag d = { "" };
	bool forced = false;
	int status, err;

	if (!cmd_args_parse(&a, argc, argv, CMD_JSON | CMD_NAME | CMD_TIMEOUT | CMD_NOW,
			    "Presses a guest's power button and waits until it has powered off; "
			    "ends it\nwhen it has not in time, with exit status 1.",
			    &status))
		return status;
	err = client_open(&l, a.name, CLIENT_TIMEOUT_MS, &d);
	if (!err && a.now) {
		err = force(&l, &d);
	} else if (!err) {
		err = power_off(&l, a.timeout_ms, &d);
		if (err == -EPIPE) { /* it has ended meanwhile */
			err = 0;
		} else if (err == -ETIMEDOUT && !d.text[0]) {
			fprintf(stderr, "unvmm: %s did not power off within %.3g s; it is ended\n",
				l.name, (double)a.timeout_ms / 1000);
			forced = true;
			err = force(&l, &d);
		}
	}
	if (!err && a.json)
		put_state(&l, forced ? "ended" : "shutdown");
	client_close(&l);
	if (err)
		return cmd_failed(err, &d);
	return forced ? EXIT_GUEST_FAILED : 0;
}
