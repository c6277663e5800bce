/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - the command line of unvf: a group of options for each function, begun by --socket.
 * Main, at the start.
 */
#ifndef UNVF_OPTIONS_H
#define UNVF_OPTIONS_H

#include <unvmm/device.h>

#include "function.h"

struct unvf_group {
	const char *socket;
	const struct device_class *cls;
	void *conf;	/* of the class; owned */
	bool connected; /* a network card: to something */
	struct fn_options fn;
};

struct unvf_options {
	struct unvf_group *groups; /* owned */
	unsigned int ngroups;
	bool help, version, verbose;
};

/* The texts of argv are kept. -EINVAL with a sentence. */
int options_parse(struct unvf_options *o, int argc, char **argv, struct diag *d) must_check;
void options_free(struct unvf_options *o);

extern const char options_usage[];

#endif
