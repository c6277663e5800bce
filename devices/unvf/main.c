/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - unvf: software virtio functions in a process of their own, which speaks vfio-user. Puts
 * the functions together, runs the main loop until a signal ends it, and takes them apart.
 *
 *   main thread: sockets, messages, registers     poll thread (engine.c): doorbells, rings
 */
#include "options.h"
#include "server.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define MAIN_ENTRIES 1024

struct unvf {
	struct loop loop; /* main's */
	struct loop_fd signals;
	struct engine engine;
	struct function *functions[ENGINE_FUNCTIONS_MAX];
	struct server servers[ENGINE_FUNCTIONS_MAX];
	unsigned int n;
};

/* One line of JSON on stdout: each function, by its name, with its counters. */
static void print_report(struct unvf *u)
{
	struct report r;
	struct json_object *root = report_begin(&r);

	if (!root)
		return;
	for (unsigned int i = 0; i < u->n; i++) {
		const struct device *dev = &u->functions[i]->dev;

		report_group(&r, dev->id);
		dev->cls->info(dev, &r);
		dev->cls->stats(dev, &r);
		report_close(&r);
	}
	printf("%s\n", json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN));
	fflush(stdout);
	json_object_put(root);
}

/* Clients are to give their functions back, and may take their time. */
static void ask_back(struct unvf *u)
{
	for (unsigned int i = 0; i < u->n; i++)
		function_event(u->functions[i], VFIO_PCI_REQ_IRQ_INDEX);
}

static void on_signal(struct loop_fd *lf, uint32_t revents)
{
	struct unvf *u = container_of(lf, struct unvf, signals);
	struct signalfd_siginfo info;

	(void)revents;
	while (read(lf->fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGUSR1)
			print_report(u);
		else if (info.ssi_signo == SIGUSR2)
			ask_back(u);
		else
			loop_quit(lf->loop);
	}
}

static int watch_signals(struct unvf *u, struct diag *d)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return diag_errno(d, -errno, "cannot watch signals");
	if (loop_add(&u->loop, &u->signals, fd, POLLIN, on_signal))
		return diag_set(d, -ENOMEM, "cannot watch signals");
	return 0;
}

static int add_function(struct unvf *u, const struct unvf_group *g, struct diag *d)
{
	struct function *f;
	char id[24];
	int err;

	snprintf(id, sizeof(id), "%s%u", g->cls->id, u->n);
	err = function_create(&f, id, g->cls, g->conf, &g->fn, &u->engine, &u->loop, d);
	if (err)
		return err;
	err = server_init(&u->servers[u->n], f, &u->loop, g->socket, d);
	if (err) {
		u->engine.nfunctions--;
		function_destroy(f);
		return err;
	}
	u->functions[u->n++] = f;
	return 0;
}

/* The poll thread lets go of everything first; what hangs in the host's storage is left to exit. */
static void take_apart(struct unvf *u)
{
	bool stuck = false;

	for (unsigned int i = 0; i < u->n; i++) {
		server_close(&u->servers[i]);
		if (u->engine.started && virtio_pci_reset(u->functions[i]->v)) {
			log_error("%s: requests hang in the host's storage",
				  u->functions[i]->dev.id);
			stuck = true;
		}
	}
	if (stuck)
		return;
	engine_stop(&u->engine);
	for (unsigned int i = 0; i < u->n; i++) {
		server_fini(&u->servers[i]);
		function_destroy(u->functions[i]);
	}
	engine_fini(&u->engine);
	if (u->signals.loop)
		close(u->signals.fd);
	loop_fini(&u->loop);
}

static int run(struct unvf *u, const struct unvf_options *o, struct diag *d)
{
	int err = loop_init(&u->loop, MAIN_ENTRIES, d);

	if (err)
		return err;
	err = engine_init(&u->engine, d);
	if (err) {
		loop_fini(&u->loop);
		return err;
	}
	err = watch_signals(u, d);
	if (!err && o->ngroups > ENGINE_FUNCTIONS_MAX)
		err = diag_set(d, -EINVAL, "one process has at most %u functions",
			       ENGINE_FUNCTIONS_MAX);
	for (unsigned int i = 0; i < o->ngroups && !err; i++)
		err = add_function(u, &o->groups[i], d);
	if (!err)
		err = guard_install(&u->engine, d);
	if (!err)
		err = engine_start(&u->engine, d);
	if (!err) {
		printf("ready\n");
		fflush(stdout);
		err = loop_run(&u->loop);
		if (err)
			diag_errno(d, err, "the main loop failed");
	}
	take_apart(u);
	return err;
}

int main(int argc, char **argv)
{
	struct unvf_options options;
	struct diag d = { 0 };
	struct unvf *u;
	int err;

	log_set_name("unvf");
	if (options_parse(&options, argc, argv, &d)) {
		fprintf(stderr, "unvf: %s\n", d.text);
		return 2;
	}
	if (options.help || options.version) {
		printf("%s", options.help ? options_usage : "unvf " UNVMM_VERSION "\n");
		options_free(&options);
		return 0;
	}
	if (options.verbose)
		log_set_level(LOG_DEBUG);
	u = calloc(1, sizeof(*u));
	err = u ? run(u, &options, &d) : diag_errno(&d, -ENOMEM, "unvf");
	if (err)
		fprintf(stderr, "unvf: %s\n", d.text);
	free(u);
	options_free(&options);
	return err ? 2 : 0;
}
