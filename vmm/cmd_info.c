/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_info.c - `unvmm info`: what a running guest is made of. Main thread.
 */
#include "cmd.h"
#include "cmd_client.h"

#include <json-c/json.h>
#include <stdio.h>

#define ANSWER_MS 10000

static void put_line(const char *label, const char *text)
{
	printf("%-10s", label);
	cmd_put_text(text, 0);
	putchar('\n');
}

static void put_queue(struct json_object *q)
{
	struct json_object *enabled = NULL;

	json_object_object_get_ex(q, "enabled", &enabled);
	printf("    queue %-3llu size %-5llu %-8s doorbell ",
	       (unsigned long long)cmd_number(q, "index"),
	       (unsigned long long)cmd_number(q, "size"),
	       json_object_get_boolean(enabled) ? "enabled" : "off");
	cmd_put_text(cmd_text(q, "doorbell"), 10);
	if (json_object_object_get_ex(q, "vector", NULL))
		printf(" vector %llu", (unsigned long long)cmd_number(q, "vector"));
	if (*cmd_text(q, "doorbell-why")) {
		printf(" (");
		cmd_put_text(cmd_text(q, "doorbell-why"), 0);
		putchar(')');
	}
	putchar('\n');
}

/* The other end of a console. */
static void put_chardev(struct json_object *dev)
{
	if (!json_object_object_get_ex(dev, "chardev", NULL))
		return;
	printf("    chardev ");
	cmd_put_text(cmd_text(dev, "chardev"), 0);
	if (*cmd_text(dev, "pty")) {
		printf(", ");
		cmd_put_text(cmd_text(dev, "pty"), 0);
	}
	if (*cmd_text(dev, "name")) {
		printf(", port ");
		cmd_put_text(cmd_text(dev, "name"), 0);
	}
	if (*cmd_text(dev, "window")) {
		printf(", window ");
		cmd_put_text(cmd_text(dev, "window"), 0);
	}
	putchar('\n');
}

/* What stands behind an assigned device. */
static void put_function(struct json_object *dev)
{
	if (!json_object_object_get_ex(dev, "function", NULL))
		return;
	printf("    function ");
	cmd_put_text(cmd_text(dev, "function"), 0);
	printf(" by ");
	cmd_put_text(cmd_text(dev, "backend"), 0);
	printf(", offer ");
	cmd_put_text(cmd_text(dev, "offer"), 0);
	putchar('\n');
}

static void put_device(struct json_object *dev)
{
	struct json_object *queues = cmd_list_of(dev, "queues"), *q;

	printf("  ");
	cmd_put_text(cmd_text(dev, "id"), 10);
	cmd_put_text(cmd_text(dev, "class"), 14);
	cmd_put_text(cmd_text(dev, "slot"), 8);
	if (queues) {
		putchar(' ');
		cmd_put_text(cmd_text(dev, "status"), 12);
		printf("features ");
		cmd_put_text(cmd_text(dev, "features"), 0);
		printf(" of ");
		cmd_put_text(cmd_text(dev, "features-offered"), 0);
	}
	putchar('\n');
	put_chardev(dev);
	put_function(dev);
	for (size_t i = 0; (q = cmd_item(queues, i)); i++)
		put_queue(q);
}

static void put_info(struct json_object *info)
{
	struct json_object *devices = cmd_list_of(info, "devices"), *dev;
	char text[64], size[24];

	put_line("name", cmd_text(info, "name"));
	snprintf(text, sizeof(text), "%llu", (unsigned long long)cmd_number(info, "pid"));
	put_line("pid", text);
	put_line("state", cmd_text(info, "status"));
	put_line("uptime", cmd_time(cmd_number(info, "uptime-ns"), size));
	put_line("machine", cmd_text(info, "machine"));
	snprintf(text, sizeof(text), "%llu", (unsigned long long)cmd_number(info, "vcpus"));
	put_line("vcpus", text);
	put_line("memory", cmd_size(cmd_number(info, "memory"), size));
	put_line("kernel", cmd_text(info, "kernel"));
	if (*cmd_text(info, "initrd"))
		put_line("initrd", cmd_text(info, "initrd"));
	put_line("cmdline", cmd_text(info, "cmdline"));
	put_line("console", cmd_text(info, "console"));
	put_line("control", cmd_text(info, "control"));
	puts("devices");
	for (size_t i = 0; (dev = cmd_item(devices, i)); i++)
		put_device(dev);
}

int cmd_info(int argc, char **argv)
{
	struct cmd_args a = { 0 };
	struct json_object *info = NULL;
	struct client_link l;
	struct diag d = { "" };
	int status, err;

	if (!cmd_args_parse(&a, argc, argv, CMD_JSON | CMD_NAME,
			    "Shows the make-up of a running guest.", &status))
		return status;
	err = client_open(&l, a.name, ANSWER_MS, &d);
	if (!err)
		err = client_call(&l, "x-unvmm-info", ANSWER_MS, &info, &d);
	client_close(&l);
	if (err)
		return cmd_failed(err, &d);
	if (a.json)
		cmd_put_json(info);
	else
		put_info(info);
	json_object_put(info);
	return 0;
}
