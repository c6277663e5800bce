/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_migrate.c - `unvmm migrate`: opens the connection (or file) that a guest shall go to, hands
 * it to the guest's process, and shows and steers what that does. Main thread.
 *
 * This process may be killed at any time: the guest's process and the destination's settle between
 * them where the guest runs, as long as their connection stands; ssh ends with this process, what
 * encrypts TCP does not.
 */
#include "cmd_migrate.h"
#include "cmd.h"
#include "cmd_client.h"
#include "migrate_tls.h"
#include "migrate_transport.h"

#include <unvmm/config.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define POLL_MS	     50
#define CONTROL_MS   30000
#define SECONDS_MAX  86400.0
#define SSH_END_MS   5000
#define EXIT_UNKNOWN 3 /* nobody here knows where the guest runs */

struct options {
	const char *name, *to;
	struct migrate_tls tls;
	char **remote; /* arguments of `unvmm receive` there; NULL ends it */
	bool json, cancel, insecure, keep_running, force;
	uint64_t bandwidth;
	unsigned int downtime_ms, timeout_ms;
};

struct migrate {
	struct options o;
	struct migrate_address to;
	struct client_link link;
	struct show show;
	int fd;		/* of the connection or file; -1: handed over */
	pid_t ssh;	/* 0: none */
	int tls;	/* ends with the helper that encrypts; -1: none */
	char *partial;	/* file: what it is called until it is complete */
	bool cancelled; /* asked for by ^C */
};

/* ^C; written by the handler. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted++;
}

/* --- the command line ------------------------------------------------------------------------ */

enum {
	OPT_TO = 256,
	OPT_DOWNTIME,
	OPT_BANDWIDTH,
	OPT_TIMEOUT,
	OPT_ON_TIMEOUT,
	OPT_CANCEL,
	OPT_JSON,
	OPT_INSECURE,
	OPT_TLS_CREDS,
	OPT_TLS_PEER,
	OPT_KEEP
};

static void usage(void)
{
	puts("usage: unvmm migrate [NAME] --to WHERE [OPTIONS] [-- RECEIVE-OPTIONS]\n"
	     "       unvmm migrate [NAME] --cancel\n"
	     "Moves a running guest to another host, or into a file. WHERE is\n"
	     "  ssh://[USER@]HOST[:PORT]  \"unvmm receive --stdio RECEIVE-OPTIONS\" is run there\n"
	     "  HOST[:PORT]               \"unvmm receive --listen\" waits there "
	     "(port " MIGRATE_PORT ")\n"
	     "  unix:PATH  fd:N           the same, through a UNIX socket or an open one\n"
	     "  file:PATH                 a file, for \"unvmm receive --from file:PATH\"\n\n"
	     "      --downtime MS        how long the guest may stand still (300)\n"
	     "      --bandwidth SIZE     bytes per second at most, or with K, M, G\n"
	     "      --timeout SECONDS    how long its memory may be copied while it runs\n"
	     "      --on-timeout WHAT    then: \"cancel\", or \"force\" (whatever the downtime)\n"
	     "      --keep-running       file: the guest goes on; without it its process ends\n"
	     "      --tls-creds FOLDER   certificates for TCP (" MIGRATE_TLS_FOLDER ")\n"
	     "      --tls-peer NAME      whose certificate HOST has, if not HOST's own\n"
	     "      --insecure           unencrypted TCP: for networks that are trusted\n"
	     "      --cancel             end a migration that is under way; the guest goes on\n"
	     "      --json               print JSON, a line per second and one at the end\n"
	     "  -h, --help               this text\n\n"
	     "NAME may be left out when one guest is running. ^C cancels.\n\n"
	     "exit status: 0 it is there, 1 it is not and goes on here, 2 wrong usage, no such\n"
	     "guest or no connection, 3 it stands still here and may run there");
}

static bool parse_ms(const char *text, double unit, unsigned int *ms)
{
	char *end;
	double v = strtod(text, &end);

	if ((!isdigit((unsigned char)*text) && *text != '.') || *end || !(v > 0) ||
	    v * unit > SECONDS_MAX * 1000)
		return false;
	*ms = (unsigned int)(v * unit + 0.5);
	return *ms > 0;
}

static int bad_value(const char *name, const char *value, const char *right, struct diag *d)
{
	return diag_set(d, -EINVAL, "--%s %.60s: it must be %s", name, value, right);
}

static int take_option(struct options *o, int opt, const char *arg, struct diag *d)
{
	switch (opt) {
	case OPT_TO:
		o->to = arg;
		return 0;
	case OPT_DOWNTIME:
		return parse_ms(arg, 1, &o->downtime_ms)
			       ? 0
			       : bad_value("downtime", arg, "a number of milliseconds above 0", d);
	case OPT_BANDWIDTH:
		return !config_parse_size(arg, &o->bandwidth) && o->bandwidth
			       ? 0
			       : bad_value("bandwidth", arg, "bytes per second, as in 100M", d);
	case OPT_TIMEOUT:
		return parse_ms(arg, 1000, &o->timeout_ms)
			       ? 0
			       : bad_value("timeout", arg, "a number of seconds above 0", d);
	case OPT_ON_TIMEOUT:
		o->force = !strcmp(arg, "force");
		return o->force || !strcmp(arg, "cancel")
			       ? 0
			       : bad_value("on-timeout", arg, "\"cancel\" or \"force\"", d);
	case OPT_CANCEL:
		o->cancel = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	case OPT_INSECURE:
		o->insecure = true;
		return 0;
	case OPT_TLS_CREDS:
		o->tls.folder = arg;
		return 0;
	case OPT_TLS_PEER:
		o->tls.peer = arg;
		return 0;
	case OPT_KEEP:
		o->keep_running = true;
		return 0;
	default:
		return -EINVAL;
	}
}

/* What stands behind "--", and is not for us. */
static int split_remote(struct options *o, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--")) {
			o->remote = argv + i + 1;
			argv[i] = NULL;
			return i;
		}
	return argc;
}

static int check_options(const struct options *o, struct diag *d)
{
	if (o->cancel && o->to)
		return diag_set(d, -EINVAL, "--cancel goes without --to");
	if (!o->cancel && !o->to)
		return diag_set(d, -EINVAL, "say where it shall go: --to HOST");
	return 0;
}

/* 1: the command ends with status 0. */
static int parse(struct options *o, int argc, char **argv, struct diag *d)
{
	static const struct option longs[] = {
		{ "to", required_argument, NULL, OPT_TO },
		{ "downtime", required_argument, NULL, OPT_DOWNTIME },
		{ "bandwidth", required_argument, NULL, OPT_BANDWIDTH },
		{ "timeout", required_argument, NULL, OPT_TIMEOUT },
		{ "on-timeout", required_argument, NULL, OPT_ON_TIMEOUT },
		{ "cancel", no_argument, NULL, OPT_CANCEL },
		{ "json", no_argument, NULL, OPT_JSON },
		{ "insecure", no_argument, NULL, OPT_INSECURE },
		{ "tls-creds", required_argument, NULL, OPT_TLS_CREDS },
		{ "tls-peer", required_argument, NULL, OPT_TLS_PEER },
		{ "keep-running", no_argument, NULL, OPT_KEEP },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int opt, err = 0, n = split_remote(o, argc, argv);

	opterr = 0;
	while (!err && (opt = getopt_long(n, argv, "h", longs, NULL)) >= 0) {
		if (opt == 'h') {
			usage();
			return 1;
		}
		err = take_option(o, opt, optarg, d);
		if (err)
			diag_set(d, err,
				 "\"%.60s\" is no switch of migrate, or has not the value that it "
				 "needs",
				 argv[optind - 1]);
	}
	if (!err && n - optind > 1)
		err = diag_set(d, -EINVAL, "\"%.60s\" is one argument too many", argv[n - 1]);
	if (!err)
		o->name = optind < n ? argv[optind] : NULL;
	return err ? err : check_options(o, d);
}

static int check_target(const struct migrate *m, struct diag *d)
{
	const struct options *o = &m->o;

	if (o->remote && m->to.kind != MIGRATE_SSH)
		return diag_set(d, -EINVAL, "what stands behind -- is for ssh://HOST only");
	if (o->keep_running && m->to.kind != MIGRATE_FILE)
		return diag_set(d, -EINVAL, "--keep-running is for file:PATH only");
	if (m->to.kind == MIGRATE_TCP && !m->to.host[0])
		return diag_set(d, -EINVAL, "--to %.60s names no host", o->to);
	if ((o->tls.folder || o->tls.peer) && (m->to.kind != MIGRATE_TCP || o->insecure))
		return diag_set(d, -EINVAL,
				"--tls-creds and --tls-peer are for --to HOST[:PORT], without "
				"--insecure");
	return 0;
}

/* --- opening --------------------------------------------------------------------------------- */

/* "unvmm receive --stdio ..." for the shell of the other host; to be freed. */
static char *remote_command(char **args)
{
	char *command = strdup("unvmm receive --stdio");

	for (; command && args && *args; args++) {
		char *word = migrate_quote(*args), *longer = NULL;

		if (word && asprintf(&longer, "%s %s", command, word) < 0)
			longer = NULL;
		free(word);
		free(command);
		command = longer;
	}
	return command;
}

/* A name of its own until it is complete: what was there before stays whole. */
static int open_file(struct migrate *m, struct diag *d)
{
	if (asprintf(&m->partial, "%s.XXXXXX", m->to.path) < 0) {
		m->partial = NULL;
		return diag_set(d, -ENOMEM, "out of memory");
	}
	m->fd = mkostemp(m->partial, O_CLOEXEC);
	if (m->fd >= 0)
		return 0;
	free(m->partial);
	m->partial = NULL;
	return diag_errno(d, -errno, "%.200s cannot be made", m->to.path);
}

/* The connection's place is taken by a socket of the helper that has it now. */
static int encrypt(struct migrate *m, struct diag *d)
{
	struct migrate_tls t = m->o.tls;

	if (!t.peer)
		t.peer = m->to.host;
	return migrate_tls_connect(&t, m->fd, &m->tls, d);
}

static int open_target(struct migrate *m, struct diag *d)
{
	char *command;

	if (m->to.kind == MIGRATE_FILE)
		return open_file(m, d);
	command = remote_command(m->o.remote);
	if (!command)
		return diag_set(d, -ENOMEM, "out of memory");
	m->fd = migrate_connect(&m->to, command, &m->ssh, d);
	free(command);
	if (m->fd >= 0 && m->to.kind == MIGRATE_TCP && !m->o.insecure)
		m->fd = encrypt(m, d);
	return m->fd < 0 ? m->fd : 0;
}

/* Puts the complete file in its place, for good. */
static int keep_file(struct migrate *m, struct diag *d)
{
	char *copy = strdup(m->to.path), *slash = copy ? strrchr(copy, '/') : NULL;
	const char *folder = !slash ? "." : slash == copy ? "/" : copy;
	int fd, err = 0;

	if (slash && slash != copy)
		*slash = '\0';
	if (rename(m->partial, m->to.path) < 0)
		err = diag_errno(d, -errno, "%.200s cannot be put in place", m->to.path);
	fd = err ? -1 : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		(void)fsync(fd); /* not every file system can */
		close(fd);
	}
	free(copy);
	if (!err) {
		free(m->partial);
		m->partial = NULL;
	}
	return err;
}

/* --- asking the guest's process -------------------------------------------------------------- */

static struct json_object *arguments(void)
{
	return json_object_new_object();
}

static void add(struct json_object *o, const char *key, struct json_object *v)
{
	if (json_object_object_add(o, key, v))
		json_object_put(v);
}

static int set_parameters(struct migrate *m, struct diag *d)
{
	struct json_object *a = arguments();

	add(a, "downtime-limit", json_object_new_int64(m->o.downtime_ms));
	add(a, "max-bandwidth", json_object_new_int64((int64_t)m->o.bandwidth));
	add(a, "x-unvmm-timeout", json_object_new_int64(m->o.timeout_ms));
	add(a, "x-unvmm-on-timeout", json_object_new_string(m->o.force ? "force" : "cancel"));
	return client_command(&m->link, "migrate-set-parameters", a, -1, CONTROL_MS, NULL, d);
}

/* The descriptor goes along, and is not ours any more. */
static int hand_over(struct migrate *m, struct diag *d)
{
	struct json_object *a = arguments();
	int err;

	add(a, "fdname", json_object_new_string("migrate"));
	err = client_command(&m->link, "getfd", a, m->fd, CONTROL_MS, NULL, d);
	close(m->fd);
	m->fd = -1;
	return err;
}

static int start(struct migrate *m, struct diag *d)
{
	struct json_object *a;
	int err = set_parameters(m, d);

	if (!err)
		err = hand_over(m, d);
	if (err)
		return err;
	a = arguments();
	add(a, "x-unvmm-destination", json_object_new_string(m->o.to));
	if (m->to.kind == MIGRATE_FILE) {
		add(a, "fdname", json_object_new_string("migrate"));
		add(a, "stay-paused", json_object_new_boolean(!m->o.keep_running));
		return client_command(&m->link, "x-unvmm-save", a, -1, CONTROL_MS, NULL, d);
	}
	add(a, "uri", json_object_new_string("fd:migrate"));
	return client_command(&m->link, "migrate", a, -1, CONTROL_MS, NULL, d);
}

/* What cannot come along; said before it begins. */
static void warn(struct migrate *m)
{
	struct json_object *info = NULL, *devices, *dev;

	if (client_call(&m->link, "x-unvmm-info", CONTROL_MS, &info, NULL))
		return; /* what is asked next says why */
	devices = cmd_list_of(info, "devices");
	for (size_t i = 0; (dev = cmd_item(devices, i)); i++)
		if (!strcmp(cmd_text(dev, "backend"), "passt"))
			fprintf(stderr,
				"unvmm: warning: %.40s goes through passt: its open connections do "
				"not survive the move (those through a tap do)\n",
				cmd_text(dev, "id"));
	json_object_put(info);
}

static int query(struct migrate *m, struct progress *p, struct diag *d)
{
	struct json_object *answer;
	int err = client_call(&m->link, "query-migrate", CONTROL_MS, &answer, d);

	if (!err)
		progress_read(p, answer);
	return err;
}

/* --- while it goes on ------------------------------------------------------------------------ */

static void cancel_once(struct migrate *m)
{
	struct diag d = { "" };

	show_clear(&m->show);
	if (m->cancelled)
		return;
	m->cancelled = true;
	if (client_call(&m->link, "migrate_cancel", CONTROL_MS, NULL, &d))
		fprintf(stderr, "unvmm: %s\n", d.text);
	else
		fputs("unvmm: cancelling; the guest goes on here\n", stderr);
}

/* Until it is over: 0 with the last answer in *p, which is freed by the caller in any case. */
static int follow(struct migrate *m, struct progress *p, struct diag *d)
{
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000 };
	int seen = 0, err;

	for (;;) {
		progress_free(p);
		err = query(m, p, d);
		if (err)
			return err;
		show_progress(&m->show, p, p->over);
		if (p->over)
			return 0;
		if (interrupted != seen) {
			seen = interrupted;
			cancel_once(m);
		}
		nanosleep(&pause, NULL);
	}
}

/* ssh has nothing left to do; what it says last is its own. */
static void end_ssh(struct migrate *m)
{
	const struct timespec pause = { .tv_nsec = 10000000 };

	for (unsigned int ms = 0; m->ssh > 0 && ms < SSH_END_MS; ms += 10) {
		if (waitpid(m->ssh, NULL, WNOHANG) != 0)
			m->ssh = 0;
		else
			nanosleep(&pause, NULL);
	}
	if (m->ssh > 0 && !kill(m->ssh, SIGTERM))
		(void)waitpid(m->ssh, NULL, 0);
	m->ssh = 0;
}

/* The guest is there: its process here has no more to do. A file that cannot be kept is none. */
static int settle(struct migrate *m, struct diag *d)
{
	struct diag ignored = { "" };
	int err = m->partial ? keep_file(m, d) : 0;

	if (m->o.keep_running)
		return err;
	if (err) { /* the reason is what is worth a word */
		if (client_call(&m->link, "cont", CONTROL_MS, NULL, &ignored))
			diag_prefix(d, "%s", ignored.text);
		return err;
	}
	err = client_call(&m->link, "quit", CONTROL_MS, NULL, d);
	if (!err || err == -EPIPE)
		err = client_wait_end(&m->link, CONTROL_MS);
	if (err)
		fprintf(stderr, "unvmm: the process of %s does not end\n", m->link.name);
	return 0;
}

static int report(struct migrate *m, const struct progress *p)
{
	const char *why = cmd_text(p->answer, "error-desc");
	struct diag d = { "" };

	show_clear(&m->show);
	if (!strcmp(p->status, "completed")) {
		if (settle(m, &d)) {
			fprintf(stderr, "unvmm: %s; the guest goes on here\n", d.text);
			return EXIT_GUEST_FAILED;
		}
		show_result(&m->show, p);
		return 0;
	}
	fputs("unvmm: ", stderr);
	if (!strcmp(p->phase, "handed-over")) {
		fprintf(stderr,
			"%s may run at %s: %s\nunvmm: it stands still here. Look there; if it "
			"does not run and never will, \"unvmm resume --destination-is-dead %s\" "
			"has it go on here, else \"unvmm stop --now %s\" ends what is left here\n",
			m->link.name, m->o.to, why, m->link.name, m->link.name);
		return EXIT_UNKNOWN;
	}
	if (!strcmp(p->status, "cancelled"))
		fputs("cancelled; the guest goes on here\n", stderr);
	else
		fprintf(stderr, "%s; the guest goes on here\n", why[0] ? why : "it failed");
	return EXIT_GUEST_FAILED;
}

/* The guest's process gives no answer any more. It may have come to the switch since it last did.
 */
static int lost(struct migrate *m, const struct diag *d)
{
	bool file = m->to.kind == MIGRATE_FILE;

	show_clear(&m->show);
	fprintf(stderr, "unvmm: %s%s\n", d->text,
		file ? "" : "; the guest may run at its destination: look there");
	return file ? EXIT_GUEST_FAILED : EXIT_UNKNOWN;
}

static int migrate(struct migrate *m, struct diag *d)
{
	struct sigaction sa = { .sa_handler = on_interrupt };
	struct progress p = { .phase = "", .status = "" };
	int status;

	sigaction(SIGINT, &sa, NULL);
	m->show = (struct show){ .guest = m->link.name,
				 .to = m->o.to,
				 .json = m->o.json,
				 .saves = m->to.kind == MIGRATE_FILE,
				 .bar = isatty(STDOUT_FILENO) };
	show_begin(&m->show);
	status = follow(m, &p, d) ? lost(m, d) : report(m, &p);
	progress_free(&p);
	return status;
}

/* --- the command ----------------------------------------------------------------------------- */

static int cancel(struct migrate *m, struct diag *d)
{
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000 };
	struct progress p = { .phase = "", .status = "" };
	int err = query(m, &p, d);

	if (!err && (p.over || !p.status[0]))
		err = diag_set(d, -EREMOTEIO, "%s: no migration is under way", m->link.name);
	if (!err)
		err = client_call(&m->link, "migrate_cancel", CONTROL_MS, NULL, d);
	while (!err && !p.over) {
		nanosleep(&pause, NULL);
		progress_free(&p);
		err = query(m, &p, d);
	}
	if (!err && strcmp(p.status, "cancelled") != 0)
		err = diag_set(d, -EREMOTEIO, "%s: it was too late: the migration is %s",
			       m->link.name, p.phase);
	progress_free(&p);
	return err ? cmd_failed(err, d) : 0;
}

static int move_guest(struct migrate *m, struct diag *d)
{
	int err = migrate_address_parse(&m->to, m->o.to, d);

	if (err)
		diag_prefix(d, "--to");
	else
		err = check_target(m, d);
	if (!err)
		err = client_open(&m->link, m->o.name, CONTROL_MS, d);
	if (!err) {
		warn(m);
		err = open_target(m, d);
	}
	if (!err)
		err = start(m, d);
	return err ? cmd_failed(err, d) : migrate(m, d);
}

int cmd_migrate(int argc, char **argv)
{
	struct migrate m = {
		.o = { .downtime_ms = 300 }, .link = { .fd = -1, .pidfd = -1 }, .fd = -1, .tls = -1
	};
	struct diag d = { "" };
	int status, err = parse(&m.o, argc, argv, &d);

	if (err) {
		if (err < 0)
			fprintf(stderr, "unvmm: %s; try 'unvmm migrate --help'\n", d.text);
		return err < 0 ? EXIT_USAGE : 0;
	}
	signal(SIGPIPE, SIG_IGN);
	if (m.o.cancel) {
		err = client_open(&m.link, m.o.name, CONTROL_MS, &d);
		status = err ? cmd_failed(err, &d) : cancel(&m, &d);
	} else {
		status = move_guest(&m, &d);
	}
	if (m.fd >= 0)
		close(m.fd);
	end_ssh(&m);
	migrate_tls_end(m.tls);
	if (m.partial)
		(void)unlink(m.partial);
	free(m.partial);
	client_close(&m.link);
	return status;
}
