/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_migrate_show.c - shows a migration under way and its result; see cmd_migrate.h. Main thread.
 */
#include "cmd_migrate.h"
#include "cmd_client.h"

#include <unvmm/timer.h>

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_WIDTH    20
#define BAR_EVERY_MS 100
#define LINE_MS	     1000
#define PAGE	     KiB(4)

/* --- an answer ------------------------------------------------------------------------------- */

static double real(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) ? json_object_get_double(v) : 0;
}

void progress_read(struct progress *p, struct json_object *answer)
{
	struct json_object *ram = NULL;

	*p = (struct progress){ .answer = answer,
				.phase = cmd_text(answer, "x-unvmm-phase"),
				.status = cmd_text(answer, "status"),
				.expected_downtime_ms = cmd_number(answer, "expected-downtime"),
				.total_ms = cmd_number(answer, "total-time"),
				.throttle = (unsigned int)cmd_number(answer,
								     "cpu-throttle-percentage") };
	json_object_object_get_ex(answer, "ram", &ram);
	if (json_object_is_type(ram, json_type_object)) {
		p->total = cmd_number(ram, "total");
		p->remaining = cmd_number(ram, "remaining");
		p->transferred = cmd_number(ram, "transferred");
		p->rounds = cmd_number(ram, "dirty-sync-count");
		p->dirty_rate = cmd_number(ram, "dirty-pages-rate") * PAGE;
		p->rate = (uint64_t)(real(ram, "mbps") * 1e6 / 8);
	}
	p->over = !strcmp(p->status, "completed") || !strcmp(p->status, "failed") ||
		  !strcmp(p->status, "cancelled");
}

void progress_free(struct progress *p)
{
	json_object_put(p->answer);
	p->answer = NULL;
}

/* Each round leaves what the guest wrote meanwhile: a geometric series. */
double progress_left(const struct progress *p)
{
	if (!p->rate || p->dirty_rate > p->rate / 5 * 4)
		return -1;
	return (double)p->remaining / (double)(p->rate - p->dirty_rate);
}

unsigned int progress_percent(const struct progress *p)
{
	if (!p->total || p->remaining >= p->total)
		return 0;
	return (unsigned int)(100 - p->remaining * 100 / p->total);
}

/* --- on a terminal, in lines, as JSON -------------------------------------------------------- */

static double mib(uint64_t bytes)
{
	return (double)bytes / (double)MiB(1);
}

/* "round 2, 61 MiB sent, 11 MiB left, 812 MiB/s, dirtied at 90 MiB/s, downtime 12 ms, 1 s left" */
static void words(const struct show *s, const struct progress *p, char *buf, size_t size)
{
	double left = progress_left(p);
	int n = snprintf(buf, size, "round %" PRIu64 ", %.0f MiB sent, %.0f left, %.0f MiB/s",
			 p->rounds, mib(p->transferred), mib(p->remaining), mib(p->rate));
	size_t at = n < 0 || (size_t)n >= size ? size : (size_t)n;

	if (!s->saves && p->rounds > 1)
		n = snprintf(buf + at, size - at, ", dirtied %.0f MiB/s, downtime %" PRIu64 " ms",
			     mib(p->dirty_rate), p->expected_downtime_ms);
	else
		n = 0;
	at = n < 0 || (size_t)n >= size - at ? size : at + (size_t)n;
	if (p->throttle)
		n = snprintf(buf + at, size - at, ", slowed %u%%", p->throttle);
	else
		n = 0;
	at = n < 0 || (size_t)n >= size - at ? size : at + (size_t)n;
	if (left >= 0 && at < size)
		snprintf(buf + at, size - at, ", %.0f s left", left);
}

static unsigned int columns(void)
{
	struct winsize w = { 0 };

	return !ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_col > 20 ? w.ws_col - 1u : 79;
}

static void put_bar(struct show *s, const struct progress *p)
{
	unsigned int percent = progress_percent(p), full = percent * BAR_WIDTH / 100;
	char bar[BAR_WIDTH + 1], text[256], line[400];
	unsigned int max = columns();

	memset(bar, ' ', BAR_WIDTH);
	memset(bar, '#', full);
	bar[BAR_WIDTH] = '\0';
	words(s, p, text, sizeof(text));
	snprintf(line, sizeof(line), "[%s] %3u%% %s", bar, percent, text);
	if (strlen(line) > max)
		line[max] = '\0';
	printf("\r%-*s", (int)s->width, line);
	s->width = (unsigned int)strlen(line);
	fflush(stdout);
}

static void put_line(const struct show *s, const struct progress *p)
{
	char text[256];

	words(s, p, text, sizeof(text));
	printf("%s: %s\n", p->phase[0] ? p->phase : p->status, text);
	fflush(stdout);
}

static void put_json(const struct progress *p)
{
	puts(json_object_to_json_string_ext(p->answer, JSON_C_TO_STRING_NOSLASHESCAPE));
	fflush(stdout);
}

void show_begin(struct show *s)
{
	s->shown_ms = s->bar ? 0 : timer_now_ms();
}

void show_progress(struct show *s, const struct progress *p, bool last)
{
	uint64_t now = timer_now_ms(), every = s->bar && !s->json ? BAR_EVERY_MS : LINE_MS;

	if (!last && now - s->shown_ms < every)
		return;
	s->shown_ms = now;
	if (s->json)
		put_json(p);
	else if (s->bar)
		put_bar(s, p);
	else if (!last)
		put_line(s, p);
}

void show_clear(struct show *s)
{
	if (s->width)
		printf("\r%*s\r", (int)s->width, "");
	s->width = 0;
	fflush(stdout);
}

static double part(struct json_object *o, const char *key)
{
	return (double)cmd_number(o, key) / 1e6;
}

/* The first of two pauses, if assigned functions had to be stopped before RAM could be sent. */
static void show_entry(struct json_object *answer)
{
	struct json_object *t = NULL;

	json_object_object_get_ex(answer, "x-unvmm-entry", &t);
	if (!json_object_is_type(t, json_type_object))
		return;
	printf("it stood still for %.2f ms before that: stop %.2f, drain %.2f, functions %.2f, "
	       "program %.2f, start %.2f\n",
	       part(t, "total-ns"), part(t, "park-ns"), part(t, "drain-ns"), part(t, "stop-ns"),
	       part(t, "program-ns"), part(t, "start-ns"));
}

void show_result(struct show *s, const struct progress *p)
{
	struct json_object *t = NULL;

	if (s->json)
		return;
	show_clear(s);
	cmd_put_text(s->guest, 0);
	printf(s->saves ? " is saved in %s" : " runs at %s now", s->to);
	printf(": %.2f s, %.1f MiB in %" PRIu64 " round%s\n", (double)p->total_ms / 1000,
	       mib(p->transferred), p->rounds, p->rounds == 1 ? "" : "s");
	show_entry(p->answer);
	json_object_object_get_ex(p->answer, "x-unvmm-downtime", &t);
	if (!json_object_is_type(t, json_type_object))
		return;
	printf("it stood still for %.2f ms: stop %.2f, ", part(t, "total-ns"), part(t, "park-ns"));
	if (part(t, "stop-ns") > 0)
		printf("drain %.2f, functions %.2f, ", part(t, "drain-ns"), part(t, "stop-ns"));
	printf("disks %.2f, state %.2f, last RAM %.2f, load there %.2f, ", part(t, "sync-ns"),
	       part(t, "save-ns"), part(t, "ram-ns"), part(t, "state-ns"));
	if (part(t, "device-start-ns") > 0)
		printf("functions there %.2f, ", part(t, "device-start-ns"));
	printf("start there %.2f\n", part(t, "start-ns"));
}
