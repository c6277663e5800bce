/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_client.h - what the commands that ask running guests share: options, and printing for people.
 * Texts that come from a guest's process are printed without control characters. Main thread.
 */
#ifndef UNVMM_VMM_CMD_CLIENT_H
#define UNVMM_VMM_CMD_CLIENT_H

#include "client.h"

/* What a command understands besides --help. */
#define CMD_JSON    1u	/* --json */
#define CMD_NAME    2u	/* [NAME] */
#define CMD_TIMEOUT 4u	/* --timeout SECONDS */
#define CMD_NOW	    8u	/* --now */
#define CMD_BATCH   16u /* -b, -n COUNT, -d SECONDS */
#define CMD_DEAD    32u /* --destination-is-dead */

struct cmd_args {
	const char *name; /* NULL: the only guest */
	bool json, now, batch, dead;
	unsigned int timeout_ms, delay_ms;
	unsigned int count; /* 0: for ever */
};

/*
 * Fills a, which holds the defaults. False: the command ends with *status, and has said why. about:
 * one line for --help.
 */
bool cmd_args_parse(struct cmd_args *a, int argc, char **argv, unsigned int understands,
		    const char *about, int *status) must_check;

/* Prints the sentence; the status for it: 2 when there is no such guest, else 1. */
int cmd_failed(int err, const struct diag *d);

/* Members of an answer; "" and 0 if they are missing or of another type. */
const char *cmd_text(struct json_object *o, const char *key);
uint64_t cmd_number(struct json_object *o, const char *key);
/* A list; NULL if it is none. cmd_item() is NULL behind the end. */
struct json_object *cmd_list_of(struct json_object *o, const char *key);
struct json_object *cmd_item(struct json_object *list, size_t i);

/* At least `width` columns, left aligned; control characters become "?". */
void cmd_put_text(const char *text, int width);
void cmd_put_json(struct json_object *o);
/* 1073741824 -> "1G", 3661 s -> "1h01m". */
const char *cmd_size(uint64_t bytes, char buf[static 24]);
const char *cmd_time(uint64_t ns, char buf[static 24]);

#endif
