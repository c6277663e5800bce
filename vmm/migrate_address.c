/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_address.c - parses where a guest is moved to; see migrate_address.h. Any thread.
 */
#include "migrate_address.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PORT_MAX 65535

/* Digits only, no sign or blank: -1 if it is anything else or above max. */
static long parse_number(const char *text, long max)
{
	char *end;
	long v;

	if (!isdigit((unsigned char)*text))
		return -1;
	errno = 0;
	v = strtol(text, &end, 10);
	return *end || errno || v > max ? -1 : v;
}

static int bad_port(const char *text, const char *port, struct diag *d)
{
	return diag_set(d, -EINVAL, "\"%.100s\": \"%.20s\" is no port; it must be 0 to %d", text,
			port, PORT_MAX);
}

/* What ends up in a command line or a name lookup: nothing that looks like a switch or a blank. */
static bool host_valid(const char *host, size_t len)
{
	if (len > MIGRATE_HOST_MAX || (len && *host == '-'))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isgraph((unsigned char)host[i]) || strchr("/[]\"'\\", host[i]))
			return false;
	return true;
}

/* "host", "host:port", "[v6]", "[v6]:port"; `text` is all of what the operator wrote. */
static int parse_host(struct migrate_address *a, const char *at, const char *text, struct diag *d)
{
	const char *user = strrchr(at, '@'), *name = user ? user + 1 : at, *end, *port = NULL;
	size_t head = (size_t)(name - at), len;

	if (*name == '[') {
		end = strchr(++name, ']');
		if (!end || end == name || (end[1] && end[1] != ':'))
			return diag_set(d, -EINVAL,
					"\"%.100s\": an IPv6 address looks like [::1] or [::1]:%s",
					text, MIGRATE_PORT);
		port = end[1] ? end + 2 : NULL;
	} else {
		end = strchr(name, ':');
		if (end && strchr(end + 1, ':'))
			return diag_set(d, -EINVAL,
					"\"%.100s\": an IPv6 address is written in brackets, as in "
					"[::1]:%s",
					text, MIGRATE_PORT);
		port = end ? end + 1 : NULL;
		end = end ? end : name + strlen(name);
	}
	len = (size_t)(end - name);
	if (port && parse_number(port, PORT_MAX) < 0)
		return bad_port(text, port, d);
	if (head + len > MIGRATE_HOST_MAX || !host_valid(at, head) || !host_valid(name, len))
		return diag_set(d, -EINVAL, "\"%.100s\" has no valid host name in it", text);
	memcpy(a->host, at, head);
	memcpy(a->host + head, name, len);
	if (port)
		snprintf(a->port, sizeof(a->port), "%ld", parse_number(port, PORT_MAX));
	return 0;
}

static int parse_path(struct migrate_address *a, const char *path, const char *text, struct diag *d)
{
	a->path = path;
	if (*path && strlen(path) < PATH_MAX)
		return 0;
	return diag_set(d, -EINVAL, "\"%.100s\": the path must have 1 to %d characters", text,
			PATH_MAX - 1);
}

static int parse_fd(struct migrate_address *a, const char *number, const char *text, struct diag *d)
{
	long fd = parse_number(number, INT_MAX);

	if (fd < 0)
		return diag_set(d, -EINVAL,
				"\"%.100s\": \"%.20s\" is no descriptor; it must be a number, "
				"for example fd:3",
				text, number);
	a->fd = (int)fd;
	return 0;
}

static int parse_ssh(struct migrate_address *a, const char *rest, const char *text, struct diag *d)
{
	size_t len = strlen(rest);
	char copy[MIGRATE_HOST_MAX + 16];
	int err;

	if (len && rest[len - 1] == '/')
		len--;
	if (len >= sizeof(copy))
		return diag_set(d, -EINVAL, "\"%.100s\" has no valid host name in it", text);
	memcpy(copy, rest, len);
	copy[len] = '\0';
	err = parse_host(a, copy, text, d);
	if (!err && (!a->host[0] || a->host[strlen(a->host) - 1] == '@' || a->host[0] == '@'))
		err = diag_set(d, -EINVAL, "\"%.100s\" names no host; ssh://[USER@]HOST does",
			       text);
	return err;
}

static const struct {
	const char *prefix;
	enum migrate_kind kind;
	int (*parse)(struct migrate_address *a, const char *rest, const char *text, struct diag *d);
} forms[] = {
	{ "unix:", MIGRATE_UNIX, parse_path }, { "file:", MIGRATE_FILE, parse_path },
	{ "fd:", MIGRATE_FD, parse_fd },       { "ssh://", MIGRATE_SSH, parse_ssh },
	{ "tcp:", MIGRATE_TCP, parse_host },   { "", MIGRATE_TCP, parse_host },
};

int migrate_address_parse(struct migrate_address *a, const char *text, struct diag *d)
{
	unsigned int i = 0;
	int err;

	*a = (struct migrate_address){ .fd = -1 };
	while (strncmp(text, forms[i].prefix, strlen(forms[i].prefix)) != 0)
		i++; /* the last one fits all */
	a->kind = forms[i].kind;
	err = forms[i].parse(a, text + strlen(forms[i].prefix), text, d);
	if (!err && a->kind == MIGRATE_TCP && strchr(a->host, '@'))
		err = diag_set(d, -EINVAL,
			       "\"%.100s\": a user goes with ssh, as in ssh://USER@HOST", text);
	if (!err && a->kind == MIGRATE_TCP && !*text)
		err = diag_set(d, -EINVAL, "the address is empty; it looks like HOST[:PORT]");
	if (!err && a->kind == MIGRATE_TCP && !a->port[0])
		strcpy(a->port, MIGRATE_PORT);
	return err;
}
