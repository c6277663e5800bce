/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_doctor.c - `unvmm doctor`: what this host has and lacks, and what mends it. Main thread.
 */
#include "cmd.h"
#include "doctor.h"
#include "options.h"
#include "sysfs.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <unistd.h>

#include <unvmm/report.h>

#include "cmd_client.h"

#define OPT_JSON 256 /* getopt's value for a switch without a letter */

static const char *const levels[] = {
	[DOCTOR_OK] = "ok",
	[DOCTOR_WARN] = "warn",
	[DOCTOR_MISSING] = "missing",
};

static void print_lines(const struct doctor *doc)
{
	for (unsigned int i = 0; i < doc->n; i++) {
		const struct doctor_need *n = &doc->needs[i];

		printf("%-7s  %-13s  %s%s%s\n", levels[n->level], n->name, n->found,
		       *n->mend ? "  -> " : "", n->mend);
	}
	putchar('\n');
	for (unsigned int i = 0; i < DOCTOR_SUITES; i++) {
		const char *name, *why;
		bool can = doctor_suite(doc, i, &name, &why);

		printf("make check: %s %s (%s)\n", name, can ? "can run" : "cannot run", why);
	}
	printf("a guest %s run on this host\n", doctor_can_run(doc) ? "can" : "cannot");
}

static int print_json(const struct doctor *doc)
{
	struct report r;
	struct json_object *root = report_begin(&r);

	if (!root)
		return -1;
	report_flag(&r, "can-run", doctor_can_run(doc));
	report_text(&r, "kvm", "%s",
		    doc->kvm == DOCTOR_KVM_HARDWARE   ? "hardware"
		    : doc->kvm == DOCTOR_KVM_SOFTWARE ? "software"
						      : "none");
	report_list(&r, "needs");
	for (unsigned int i = 0; i < doc->n; i++) {
		report_group(&r, NULL);
		report_text(&r, "level", "%s", levels[doc->needs[i].level]);
		report_text(&r, "name", "%s", doc->needs[i].name);
		report_text(&r, "found", "%s", doc->needs[i].found);
		if (*doc->needs[i].mend)
			report_text(&r, "mend", "%s", doc->needs[i].mend);
		report_close(&r);
	}
	report_close(&r);
	report_list(&r, "suites");
	for (unsigned int i = 0; i < DOCTOR_SUITES; i++) {
		const char *name, *why;
		bool can = doctor_suite(doc, i, &name, &why);

		report_group(&r, NULL);
		report_text(&r, "name", "%s", name);
		report_flag(&r, "can-run", can);
		report_text(&r, "why", "%s", why);
		report_close(&r);
	}
	report_close(&r);
	cmd_put_json(root);
	json_object_put(root);
	return 0;
}

static void usage(void)
{
	puts("usage: unvmm doctor [--json]\n"
	     "Says what this host has of what guests need, one line each; behind \"->\" what mends "
	     "it.\n\n"
	     "  ok       is there\n"
	     "  warn     guests run, but without what the line tells of\n"
	     "  missing  no guest runs until this is mended\n\n"
	     "      --json               print JSON\n"
	     "  -h, --help               this text\n\n"
	     "exit status: 0 a guest can run, 1 none can, 2 wrong usage");
}

int cmd_doctor(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "json", no_argument, NULL, OPT_JSON },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct doctor_probe probe;
	struct diag d = { "" };
	struct doctor doc;
	bool json = false;
	int opt, root, err = 0;

	opterr = 0;
	while (!err && (opt = getopt_long(argc, argv, ":h", longs, NULL)) >= 0) {
		if (opt == 'h') {
			usage();
			return 0;
		}
		if (opt == OPT_JSON)
			json = true;
		else
			err = options_refused(opt, argv, longs, &d);
	}
	if (!err && optind < argc)
		err = diag_set(&d, -EINVAL, "\"%.60s\" is one argument too many", argv[optind]);
	if (err) {
		fprintf(stderr, "unvmm: doctor: %s; try 'unvmm doctor --help'\n", d.text);
		return EXIT_USAGE;
	}
	root = sysfs_open_root("/", &d);
	if (root < 0)
		return cmd_failed(root, &d);
	doctor_probe_host(&probe);
	doctor_examine(&doc, root, &probe);
	close(root);
	if (json && print_json(&doc))
		return EXIT_USAGE;
	if (!json)
		print_lines(&doc);
	return doctor_can_run(&doc) ? 0 : 1;
}
