/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_migrate_options.c - the command line of `unvmm migrate`. Main thread.
 */
#include "cmd_migrate.h"
#include "migrate_address.h"
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <unvmm/config.h>

#define SECONDS_MAX 86400.0
#define DOWNTIME_MS 300 /* usage() says so */

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
	     "      --to WHERE           one of these\n"
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

static int bad_value(const char *name, const char *value, const char *right, struct diag *d)
{
	return diag_set(d, -EINVAL, "--%s %.60s: it must be %s", name, value, right);
}

static int take_option(struct migrate_options *o, int opt, const char *arg, struct diag *d)
{
	static const struct options_time downtime = { .name = "downtime",
						      .milliseconds = true,
						      .max = SECONDS_MAX * 1000 };
	static const struct options_time timeout = { .name = "timeout", .max = SECONDS_MAX };

	switch (opt) {
	case OPT_TO:
		o->to = arg;
		return 0;
	case OPT_DOWNTIME:
		return options_short_time(&downtime, arg, &o->downtime_ms, d);
	case OPT_BANDWIDTH:
		return !config_parse_size(arg, &o->bandwidth) && o->bandwidth
			       ? 0
			       : bad_value("bandwidth", arg, "bytes per second, as in 100M", d);
	case OPT_TIMEOUT:
		return options_short_time(&timeout, arg, &o->timeout_ms, d);
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
	default: /* OPT_KEEP */
		o->keep_running = true;
		return 0;
	}
}

/* What stands behind "--", and is not for us. */
static int split_remote(struct migrate_options *o, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--")) {
			o->remote = argv + i + 1;
			argv[i] = NULL;
			return i;
		}
	return argc;
}

static int check_options(const struct migrate_options *o, struct diag *d)
{
	if (o->cancel && o->to)
		return diag_set(d, -EINVAL, "--cancel goes without --to");
	if (!o->cancel && !o->to)
		return diag_set(d, -EINVAL, "say where it shall go: --to HOST");
	return 0;
}

int migrate_options_parse(struct migrate_options *o, int argc, char **argv, struct diag *d)
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
	int opt, err = 0, n;

	*o = (struct migrate_options){ .downtime_ms = DOWNTIME_MS };
	n = split_remote(o, argc, argv);
	opterr = 0;
	while (!err && (opt = getopt_long(n, argv, ":h", longs, NULL)) >= 0) {
		if (opt == 'h') {
			usage();
			return 1;
		}
		err = opt == '?' || opt == ':' ? options_refused(opt, argv, longs, d)
					       : take_option(o, opt, optarg, d);
	}
	if (!err && n - optind > 1)
		err = diag_set(d, -EINVAL, "\"%.60s\" is one argument too many", argv[n - 1]);
	if (!err)
		o->name = optind < n ? argv[optind] : NULL;
	return err ? err : check_options(o, d);
}
