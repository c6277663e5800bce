/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_list.c - `unvmm list`: this user's running guests, one line each. Main thread.
 */
#include "cmd.h"
#include "cmd_client.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>

#define ANSWER_MS 2000 /* one that hangs does not hold up the rest for longer */

/* What `list` tells of a guest; one that gives no answer has a name, a state and maybe a PID. */
static struct json_object *describe(const char *name, int *err)
{
	struct client_link l;
	struct json_object *info = NULL;
	struct diag d = { "" };

	*err = client_open(&l, name, ANSWER_MS, &d);
	if (!*err)
		*err = client_call(&l, "x-unvmm-info", ANSWER_MS, &info, &d);
	if (*err && *err != -ECONNREFUSED && *err != -ENOENT && *err != -EPIPE) {
		info = json_object_new_object();
		json_object_object_add(info, "name", json_object_new_string(name));
		json_object_object_add(info, "status", json_object_new_string("no answer"));
		json_object_object_add(info, "pid", json_object_new_int(l.pid));
	}
	client_close(&l);
	return info;
}

static void put_row(struct json_object *info)
{
	char size[24], uptime[24], number[24];

	cmd_put_text(cmd_text(info, "name"), 20);
	printf(" %8llu ", (unsigned long long)cmd_number(info, "pid"));
	cmd_put_text(cmd_text(info, "status"), 15);
	if (!cmd_number(info, "vcpus")) {
		puts("     -       -         -");
		return;
	}
	snprintf(number, sizeof(number), "%llu", (unsigned long long)cmd_number(info, "vcpus"));
	printf(" %5s %7s %9s\n", number, cmd_size(cmd_number(info, "memory"), size),
	       cmd_time(cmd_number(info, "uptime-ns"), uptime));
}

int cmd_list(int argc, char **argv)
{
	struct cmd_args a = { 0 };
	struct json_object *all = json_object_new_array();
	struct diag d = { "" };
	char **names;
	unsigned int n;
	int status, err;

	if (!cmd_args_parse(&a, argc, argv, CMD_JSON, "Lists this user's running guests.",
			    &status)) {
		json_object_put(all);
		return status;
	}
	err = client_names(&names, &n, &d);
	if (err) {
		json_object_put(all);
		return cmd_failed(err, &d);
	}
	if (!a.json)
		printf("%-20s %8s %-15s %5s %7s %9s\n", "NAME", "PID", "STATE", "VCPUS", "MEMORY",
		       "UPTIME");
	for (unsigned int i = 0; i < n; i++) {
		struct json_object *info = describe(names[i], &err);

		if (err == -ECONNREFUSED)
			client_forget(names[i]);
		if (!info)
			continue;
		if (!a.json)
			put_row(info);
		json_object_object_del(info, "devices");
		json_object_array_add(all, info);
	}
	if (a.json)
		cmd_put_json(all);
	json_object_put(all);
	client_free_names(names, n);
	return 0;
}
