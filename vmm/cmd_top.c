/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_top.c - `unvmm top`: what all guests do, as a table that is drawn again and again. Main
 * thread. Rates are between two samples, so the first table shows the average since the start.
 */
#include "cmd.h"
#include "cmd_client.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MS	 1000
#define DELAY_DEFAULT_MS 2000

/* One guest's counters at one time. */
struct sample {
	char name[80], status[20];
	uint64_t pid, uptime_ns, cpu_ns, exits, user_exits, requests;
};

struct table {
	struct sample *rows;
	unsigned int n;
};

static uint64_t sum_of(struct json_object *list, const char *key)
{
	struct json_object *o;
	uint64_t sum = 0;

	for (size_t i = 0; (o = cmd_item(list, i)); i++)
		sum += cmd_number(o, key);
	return sum;
}

static void take_counters(struct sample *s, struct json_object *stats)
{
	struct json_object *devices = cmd_list_of(stats, "devices"), *dev, *kvm = NULL;

	s->uptime_ns = cmd_number(stats, "uptime-ns");
	s->cpu_ns = cmd_number(stats, "cpu-ns");
	s->user_exits = sum_of(cmd_list_of(stats, "vcpus"), "user-exits");
	if (json_object_object_get_ex(stats, "kvm-vcpus", &kvm))
		s->exits = cmd_number(kvm, "exits");
	for (size_t i = 0; (dev = cmd_item(devices, i)); i++)
		s->requests += sum_of(cmd_list_of(dev, "queues"), "requests");
}

/* False: it has gone. */
static bool take_sample(struct sample *s, const char *name)
{
	struct json_object *stats = NULL, *status = NULL;
	struct client_link l;
	struct diag d = { "" };
	int err = client_open(&l, name, ANSWER_MS, &d);

	*s = (struct sample){ .pid = (uint64_t)l.pid };
	snprintf(s->name, sizeof(s->name), "%s", name);
	if (!err)
		err = client_call(&l, "query-status", ANSWER_MS, &status, &d);
	if (!err)
		err = client_call(&l, "x-unvmm-stats", ANSWER_MS, &stats, &d);
	client_close(&l);
	snprintf(s->status, sizeof(s->status), "%s",
		 err ? "no answer" : cmd_text(status, "status"));
	if (!err)
		take_counters(s, stats);
	json_object_put(status);
	json_object_put(stats);
	return !err || err == -ETIMEDOUT || err == -EREMOTEIO;
}

static int take_table(struct table *t, struct diag *d)
{
	char **names;
	unsigned int n;
	int err = client_names(&names, &n, d);

	*t = (struct table){ 0 };
	if (err)
		return err;
	t->rows = calloc(n + 1, sizeof(*t->rows));
	for (unsigned int i = 0; t->rows && i < n; i++)
		if (take_sample(&t->rows[t->n], names[i]))
			t->n++;
	client_free_names(names, n);
	return t->rows ? 0 : diag_set(d, -ENOMEM, "out of memory");
}

static const struct sample *find(const struct table *t, const struct sample *s)
{
	for (unsigned int i = 0; i < t->n; i++)
		if (t->rows[i].pid == s->pid && !strcmp(t->rows[i].name, s->name) &&
		    t->rows[i].uptime_ns <= s->uptime_ns)
			return &t->rows[i];
	return NULL;
}

static double per_second(uint64_t now, uint64_t before, uint64_t ns)
{
	return ns && now >= before ? (double)(now - before) * 1e9 / (double)ns : 0;
}

struct rates {
	double cpu, exits, user_exits, requests;
};

static struct rates rates_of(const struct sample *s, const struct sample *old)
{
	static const struct sample nothing;
	const struct sample *o = old ? old : &nothing;
	uint64_t ns = s->uptime_ns - o->uptime_ns;

	return (struct rates){ .cpu = per_second(s->cpu_ns, o->cpu_ns, ns) / 1e7,
			       .exits = per_second(s->exits, o->exits, ns),
			       .user_exits = per_second(s->user_exits, o->user_exits, ns),
			       .requests = per_second(s->requests, o->requests, ns) };
}

static void put_table(const struct table *t, const struct table *before)
{
	char up[24];

	printf("%-20s %8s %-12s %7s %10s %10s %10s %9s\n", "NAME", "PID", "STATE", "CPU%",
	       "EXITS/s", "USER/s", "IOPS", "UPTIME");
	for (unsigned int i = 0; i < t->n; i++) {
		const struct sample *s = &t->rows[i];
		struct rates r = rates_of(s, find(before, s));

		cmd_put_text(s->name, 20);
		printf(" %8llu ", (unsigned long long)s->pid);
		cmd_put_text(s->status, 12);
		printf(" %7.1f %10.0f %10.0f %10.0f %9s\n", r.cpu, r.exits, r.user_exits,
		       r.requests, cmd_time(s->uptime_ns, up));
	}
}

static void put_table_json(const struct table *t, const struct table *before)
{
	struct json_object *all = json_object_new_array();

	for (unsigned int i = 0; i < t->n; i++) {
		const struct sample *s = &t->rows[i];
		struct rates r = rates_of(s, find(before, s));
		struct json_object *o = json_object_new_object();

		json_object_object_add(o, "name", json_object_new_string(s->name));
		json_object_object_add(o, "pid", json_object_new_uint64(s->pid));
		json_object_object_add(o, "status", json_object_new_string(s->status));
		json_object_object_add(o, "cpu-percent", json_object_new_double(r.cpu));
		json_object_object_add(o, "exits-per-second", json_object_new_double(r.exits));
		json_object_object_add(o, "user-exits-per-second",
				       json_object_new_double(r.user_exits));
		json_object_object_add(o, "requests-per-second",
				       json_object_new_double(r.requests));
		json_object_array_add(all, o);
	}
	/* One line per table, so that a reader knows where each ends. */
	puts(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PLAIN));
	json_object_put(all);
}

int cmd_top(int argc, char **argv)
{
	struct cmd_args a = { .delay_ms = DELAY_DEFAULT_MS };
	struct table now, before = { 0 };
	struct diag d = { "" };
	int status, err = 0;

	if (!cmd_args_parse(&a, argc, argv, CMD_JSON | CMD_BATCH,
			    "Shows what this user's guests do; Ctrl-C ends it.", &status))
		return status;
	for (unsigned int i = 0; !err && (!a.count || i < a.count); i++) {
		if (i)
			poll(NULL, 0, (int)a.delay_ms);
		err = take_table(&now, &d);
		if (err)
			break;
		/* Home, and clear what is below: no flicker. */
		if (!a.batch && !a.json && isatty(STDOUT_FILENO))
			fputs("\033[H\033[J", stdout);
		else if (i && !a.json)
			putchar('\n');
		if (a.json)
			put_table_json(&now, &before);
		else
			put_table(&now, &before);
		if (fflush(stdout)) /* nobody reads on */
			break;
		free(before.rows);
		before = now;
	}
	free(before.rows);
	return err ? cmd_failed(err, &d) : 0;
}
