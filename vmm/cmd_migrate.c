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
#include "migrate_transport.h"

#include <errno.h>
#include <fcntl.h>
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
#define SSH_END_MS   5000
#define EXIT_UNKNOWN 3 /* nobody here knows where the guest runs */

struct migrate {
	struct migrate_options o;
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

static int check_target(const struct migrate *m, struct diag *d)
{
	const struct migrate_options *o = &m->o;

	if (o->remote && m->to.kind != MIGRATE_SSH)
		return diag_set(d, -EINVAL, "what stands behind -- is for ssh://HOST only");
	if (o->keep_running && m->to.kind != MIGRATE_FILE)
		return diag_set(d, -EINVAL, "--keep-running is for file:PATH only");
	if (m->to.kind == MIGRATE_TCP && !strcmp(m->to.port, "0"))
		return diag_set(d, -EINVAL,
				"--to %.60s: nobody listens at port 0; \"unvmm receive\" says at "
				"which it does",
				o->to);
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

/*
 * The guest's process gives no answer any more. It may have come to the switch since it last did.
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
	struct migrate m = { .link = { .fd = -1, .pidfd = -1 }, .fd = -1, .tls = -1 };
	struct diag d = { "" };
	int status, err = migrate_options_parse(&m.o, argc, argv, &d);

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
