/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_stats.c - `unvmm stats`: the counters of a running guest since its start. Main thread.
 */
#include "cmd.h"
#include "cmd_client.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#define ANSWER_MS 10000

/* Only what has happened: most of KVM's counters stay 0 on most hosts. */
static void put_kvm(const char *title, struct json_object *counters)
{
	if (!json_object_is_type(counters, json_type_object))
		return;
	puts(title);
	json_object_object_foreach(counters, key, value)
	{
		if (!json_object_get_uint64(value))
			continue;
		printf("  ");
		cmd_put_text(key, 30);
		printf(" %16llu\n", (unsigned long long)json_object_get_uint64(value));
	}
}

static void put_vcpus(struct json_object *stats)
{
	struct json_object *vcpus = cmd_list_of(stats, "vcpus"), *c;

	puts("vcpus                        thread       user exits");
	for (size_t i = 0; (c = cmd_item(vcpus, i)); i++)
		printf("  %-22llu %10llu %16llu\n", (unsigned long long)cmd_number(c, "index"),
		       (unsigned long long)cmd_number(c, "thread-id"),
		       (unsigned long long)cmd_number(c, "user-exits"));
}

static void put_queues(struct json_object *stats)
{
	struct json_object *devices = cmd_list_of(stats, "devices"), *dev, *q;

	puts("queues         requests        kicks      trapped   interrupts");
	for (size_t i = 0; (dev = cmd_item(devices, i)); i++) {
		struct json_object *queues = cmd_list_of(dev, "queues");

		for (size_t k = 0; (q = cmd_item(queues, k)); k++) {
			char name[64];

			snprintf(name, sizeof(name), "%.40s/%llu", cmd_text(dev, "id"),
				 (unsigned long long)cmd_number(q, "index"));
			printf("  ");
			cmd_put_text(name, 8);
			printf(" %12llu %12llu %12llu %12llu\n",
			       (unsigned long long)cmd_number(q, "requests"),
			       (unsigned long long)cmd_number(q, "kicks"),
			       (unsigned long long)cmd_number(q, "trapped-kicks"),
			       (unsigned long long)cmd_number(q, "interrupts"));
		}
	}
}

static void put_consoles(struct json_object *stats)
{
	struct json_object *devices = cmd_list_of(stats, "devices"), *dev;

	puts("consoles       bytes in    bytes out   bytes lost");
	for (size_t i = 0; (dev = cmd_item(devices, i)); i++) {
		if (!json_object_object_get_ex(dev, "bytes-lost", NULL))
			continue;
		printf("  ");
		cmd_put_text(cmd_text(dev, "id"), 8);
		printf(" %12llu %12llu %12llu\n", (unsigned long long)cmd_number(dev, "bytes-in"),
		       (unsigned long long)cmd_number(dev, "bytes-out"),
		       (unsigned long long)cmd_number(dev, "bytes-lost"));
	}
}

static void put_stats(struct json_object *stats)
{
	struct json_object *kvm = NULL, *vm = NULL;
	char up[24], cpu[24];

	printf("uptime %s, CPU time %s\n", cmd_time(cmd_number(stats, "uptime-ns"), up),
	       cmd_time(cmd_number(stats, "cpu-ns"), cpu));
	put_vcpus(stats);
	put_queues(stats);
	put_consoles(stats);
	json_object_object_get_ex(stats, "kvm-vcpus", &kvm);
	json_object_object_get_ex(stats, "kvm", &vm);
	put_kvm("KVM, sum of the vcpus", kvm);
	put_kvm("KVM, virtual machine", vm);
}

int cmd_stats(int argc, char **argv)
{
	struct cmd_args a = { 0 };
	struct json_object *stats = NULL;
	struct client_link l;
	struct diag d = { "" };
	int status, err;

	if (!cmd_args_parse(&a, argc, argv, CMD_JSON | CMD_NAME,
			    "Shows the counters of a running guest since its start.", &status))
		return status;
	err = client_open(&l, a.name, ANSWER_MS, &d);
	if (!err)
		err = client_call(&l, "x-unvmm-stats", ANSWER_MS, &stats, &d);
	client_close(&l);
	if (err)
		return cmd_failed(err, &d);
	if (a.json)
		cmd_put_json(stats);
	else
		put_stats(stats);
	json_object_put(stats);
	return 0;
}
