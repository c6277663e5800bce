/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp.c - the protocol: cuts a client's bytes into messages, checks each, runs its command, and
 * words answers and events. Main thread.
 */
#include "qmp.h"

#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* --- what the server says -------------------------------------------------------------------- */

/* The bytes of the UTF-8 sequence at p and its code point; what is no UTF-8 is U+FFFD, one byte. */
static unsigned int decode_utf8(const unsigned char *p, uint32_t *code)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	unsigned int n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;

	*code = p[0] & (0x7fu >> n);
	for (unsigned int i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			goto bad;
		*code = *code << 6 | (p[i] & 0x3f);
	}
	if (p[0] >= 0xc0 && p[0] < 0xf8 && *code >= least[n] && *code <= 0x10ffff &&
	    (*code < 0xd800 || *code > 0xdfff))
		return n;
bad:
	*code = 0xfffd;
	return 1;
}

/* JSON in ASCII with CRLF, as all of the server's messages. Bytes beyond ASCII are in strings. */
static char *to_line(const char *json, size_t *len)
{
	char *line = malloc(6 * strlen(json) + 3), *out = line;
	const unsigned char *p = (const unsigned char *)json;

	while (line && *p) {
		uint32_t code;

		if (*p < 0x80) {
			*out++ = (char)*p++;
			continue;
		}
		p += decode_utf8(p, &code);
		if (code >= 0x10000) {
			code -= 0x10000;
			out += sprintf(out, "\\u%04x", 0xd800 + (code >> 10));
			code = 0xdc00 + (code & 0x3ff);
		}
		out += sprintf(out, "\\u%04x", code);
	}
	if (line) {
		memcpy(out, "\r\n", 2);
		*len = (size_t)(out - line) + 2;
	}
	return line;
}

/* Takes the message. NULL stands for one that memory did not suffice for. */
static void say(struct qmp_session *s, struct json_object *message)
{
	static const char none[] =
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"out of memory\"}}\r\n";
	const char *json =
		message ? json_object_to_json_string_ext(message, JSON_C_TO_STRING_NOSLASHESCAPE)
			: NULL;
	size_t len = sizeof(none) - 1;
	char *line = json ? to_line(json, &len) : NULL;

	s->send(s, line ? line : none, len);
	free(line);
	json_object_put(message);
}

/* Adds a member that the message owns from here on. */
static void add(struct json_object *to, const char *key, struct json_object *value)
{
	if (!to || json_object_object_add(to, key, value))
		json_object_put(value);
}

/* Answers carry the id of their request, if it had one, a null included. */
static void echo_id(struct json_object *m, struct json_object *request)
{
	struct json_object *id;

	if (json_object_object_get_ex(request, "id", &id))
		add(m, "id", json_object_get(id));
}

static void say_return(struct qmp_session *s, struct json_object *result,
		       struct json_object *request)
{
	struct json_object *m = json_object_new_object();

	add(m, "return", result ? result : json_object_new_object());
	echo_id(m, request);
	say(s, m);
}

/* request: NULL when there is none to speak of. */
static void say_error(struct qmp_session *s, const char *class, const char *desc,
		      struct json_object *request)
{
	struct json_object *m = json_object_new_object(), *error = json_object_new_object();

	add(error, "class", json_object_new_string(class));
	add(error, "desc", json_object_new_string(desc));
	add(m, "error", error);
	echo_id(m, request);
	say(s, m);
}

void qmp_event(struct qmp *q, const char *name, struct json_object *data)
{
	struct qmp_session *s;
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	for (s = q->sessions; s; s = s->next) {
		struct json_object *m, *when;

		if (!s->negotiated)
			continue;
		m = json_object_new_object();
		when = json_object_new_object();
		add(when, "seconds", json_object_new_int64(ts.tv_sec));
		add(when, "microseconds", json_object_new_int64(ts.tv_nsec / 1000));
		add(m, "timestamp", when);
		add(m, "event", json_object_new_string(name));
		if (data)
			add(m, "data", json_object_get(data));
		say(s, m);
	}
	json_object_put(data);
}

/* --- what a client says ---------------------------------------------------------------------- */

static const char *type_name(enum json_type type)
{
	switch (type) {
	case json_type_object:
		return "an object";
	case json_type_array:
		return "an array";
	case json_type_string:
		return "a string";
	case json_type_boolean:
		return "true or false";
	case json_type_int:
		return "a whole number";
	default:
		return "something else";
	}
}

/* A NUL inside would end a C string early, and with it every comparison. */
static bool has_nul(struct json_object *text)
{
	return strlen(json_object_get_string(text)) != (size_t)json_object_get_string_len(text);
}

static int check_type(struct json_object *value, const char *what, enum json_type type,
		      struct diag *d)
{
	if (json_object_get_type(value) != type)
		return diag_set(d, -EINVAL, "'%.60s' must be %s", what, type_name(type));
	if (type == json_type_string && has_nul(value))
		return diag_set(d, -EINVAL, "'%.60s' must not contain a NUL character", what);
	return 0;
}

static const struct qmp_arg *find_arg(const struct qmp_command *cmd, const char *name)
{
	for (unsigned int i = 0; i < QMP_ARGS_MAX && cmd->args[i].name; i++)
		if (!strcmp(cmd->args[i].name, name))
			return &cmd->args[i];
	return NULL;
}

static int check_args(const struct qmp_command *cmd, struct json_object *args, struct diag *d)
{
	int err = 0;

	if (args) {
		json_object_object_foreach(args, key, value)
		{
			const struct qmp_arg *a = find_arg(cmd, key);

			err = a ? check_type(value, key, a->type, d)
				: diag_set(d, -EINVAL, "%s has no argument '%.60s'", cmd->name,
					   key);
			if (err)
				return err;
		}
	}
	for (unsigned int i = 0; i < QMP_ARGS_MAX && cmd->args[i].name; i++)
		if (!cmd->args[i].optional &&
		    !json_object_object_get_ex(args, cmd->args[i].name, NULL))
			return diag_set(d, -EINVAL, "%s needs the argument '%s'", cmd->name,
					cmd->args[i].name);
	return 0;
}

static void run_command(struct qmp_session *s, const char *name, struct json_object *args,
			struct json_object *request)
{
	const struct qmp_command *cmd = qmp_command_find(name);
	struct qmp_call call = { .session = s, .qmp = s->qmp, .args = args };
	char desc[160];

	if (!s->negotiated && (!cmd || !cmd->negotiates)) {
		say_error(s, "CommandNotFound",
			  "negotiation comes first: send qmp_capabilities before other commands",
			  request);
	} else if (!cmd) {
		snprintf(desc, sizeof(desc), "the command '%.60s' is not known", name);
		say_error(s, "CommandNotFound", desc, request);
	} else if (s->negotiated && cmd->negotiates) {
		say_error(s, "CommandNotFound", "capabilities have been negotiated already",
			  request);
	} else if (check_args(cmd, args, &call.diag) || cmd->run(&call)) {
		json_object_put(call.result);
		say_error(s, "GenericError", call.diag.text, request);
	} else {
		say_return(s, call.result, request);
	}
}

/*
 * json-c reads NaN, Infinity and numbers that do not fit a double; none may come back in an id, for
 * what the server says is JSON. No deeper than QMP_DEPTH_MAX.
 */
static bool is_finite(struct json_object *v)
{
	bool ok = true;

	if (json_object_is_type(v, json_type_double))
		return isfinite(json_object_get_double(v));
	if (json_object_is_type(v, json_type_object)) {
		json_object_object_foreach(v, key, value)
		{
			(void)key;
			ok = ok && is_finite(value);
		}
	}
	if (json_object_is_type(v, json_type_array))
		for (size_t i = 0; i < json_object_array_length(v); i++)
			ok = ok && is_finite(json_object_array_get_idx(v, i));
	return ok;
}

static int check_message(struct json_object *m, struct diag *d)
{
	bool execute = false;

	json_object_object_foreach(m, key, value)
	{
		int err = 0;

		if (!strcmp(key, "execute")) {
			execute = true;
			err = check_type(value, key, json_type_string, d);
		} else if (!strcmp(key, "arguments")) {
			err = check_type(value, key, json_type_object, d);
		} else if (strcmp(key, "id") != 0) {
			err = diag_set(d, -EINVAL, "a message has no member '%.60s'", key);
		}
		if (err)
			return err;
	}
	return execute ? 0 : diag_set(d, -EINVAL, "the member 'execute' is missing");
}

static void run_message(struct qmp_session *s, struct json_object *m)
{
	struct json_object *name = NULL, *args = NULL;
	struct diag d = { "" };

	if (!json_object_is_type(m, json_type_object)) {
		say_error(s, "GenericError", "a message must be a JSON object", NULL);
	} else if (!is_finite(m)) {
		say_error(s, "GenericError", "a message must not contain a number without limit",
			  NULL);
	} else if (check_message(m, &d)) {
		say_error(s, "GenericError", d.text, m);
	} else {
		json_object_object_get_ex(m, "execute", &name);
		json_object_object_get_ex(m, "arguments", &args);
		run_command(s, json_object_get_string(name), args, m);
	}
}

/* s->buf holds one bracketed text. */
static void parse_message(struct qmp_session *s)
{
	struct json_tokener *tok = json_tokener_new_ex(QMP_DEPTH_MAX + 1);
	struct json_object *m;
	char desc[160];

	if (!tok) {
		say(s, NULL);
		return;
	}
	json_tokener_set_flags(tok, JSON_TOKENER_VALIDATE_UTF8);
	m = json_tokener_parse_ex(tok, s->buf, (int)s->len);
	if (json_tokener_get_error(tok) == json_tokener_success &&
	    json_tokener_get_parse_end(tok) == s->len) {
		run_message(s, m);
	} else {
		snprintf(desc, sizeof(desc), "this is not JSON: %s at byte %zu",
			 json_tokener_error_desc(json_tokener_get_error(tok)),
			 json_tokener_get_parse_end(tok));
		say_error(s, "GenericError", desc, NULL);
	}
	json_object_put(m);
	json_tokener_free(tok);
}

/* --- from bytes to messages ------------------------------------------------------------------ */

static void forget_message(struct qmp_session *s)
{
	free(s->buf);
	s->buf = NULL;
	s->len = s->cap = 0;
	s->depth = 0;
	s->quote = '\0';
	s->escape = false;
}

/* One error for it, and nothing more until the line ends. */
static void refuse(struct qmp_session *s, char ch, const char *why)
{
	forget_message(s);
	s->frame = ch == '\n' ? QMP_BETWEEN : QMP_SKIP;
	say_error(s, "GenericError", why, NULL);
}

static bool keep(struct qmp_session *s, char ch)
{
#ifdef FUZZ_PLANT
	bool full = s->len > s->cap;
#else
	bool full = s->len == s->cap;
#endif

	if (!s->buf || full) {
		size_t cap = s->cap ? 2 * s->cap : 256;
		char *buf = realloc(s->buf, cap);

		if (!buf)
			return false;
		s->buf = buf;
		s->cap = cap;
	}
	s->buf[s->len++] = ch;
	return true;
}

/* Follows strings and brackets, so far as the end of the outermost one needs it. */
static void track(struct qmp_session *s, char ch)
{
	if (s->quote) {
		if (s->escape)
			s->escape = false;
		else if (ch == '\\')
			s->escape = true;
		else if (ch == s->quote)
			s->quote = '\0';
	} else if (ch == '"' || ch == '\'') {
		s->quote = ch;
	} else if (ch == '{' || ch == '[') {
		s->depth++;
	} else if (ch == '}' || ch == ']') {
		s->depth--;
	}
}

/* Returns whether a message was answered. */
static bool take_byte(struct qmp_session *s, char ch)
{
	bool space = ch == ' ' || ch == '\t' || ch == '\r' || ch == '\n';

	if (s->frame == QMP_SKIP) {
		if (ch == '\n')
			s->frame = QMP_BETWEEN;
		return false;
	}
	if (s->frame == QMP_BETWEEN && space)
		return false;
	if (s->frame == QMP_BETWEEN && ch != '{' && ch != '[') {
		refuse(s, ch, "a message must be a JSON object");
		return true;
	}
	s->frame = QMP_MESSAGE;
	if ((iscntrl((unsigned char)ch) && !space) || (s->quote && space && ch != ' ')) {
		refuse(s, ch, "a message must not contain control characters");
		return true;
	}
	track(s, ch);
	if (s->depth > QMP_DEPTH_MAX) {
		refuse(s, ch, "the message is nested too deeply; 32 levels are allowed");
		return true;
	}
	if (s->len == QMP_MESSAGE_MAX || !keep(s, ch)) {
		refuse(s, ch, "the message is too large; 64 KiB are allowed");
		return true;
	}
	if (s->depth)
		return false;
	s->frame = QMP_BETWEEN;
	parse_message(s);
	forget_message(s);
	return true;
}

size_t qmp_input(struct qmp_session *s, const char *buf, size_t len)
{
	size_t i = 0;

	while (i < len && !take_byte(s, buf[i++]))
		;
	return i;
}

/* --- clients --------------------------------------------------------------------------------- */

static void close_fds(struct qmp_session *s)
{
	while (s->nfds)
		close(s->fds[--s->nfds]);
}

void qmp_receive_fds(struct qmp_session *s, const int *fds, unsigned int n)
{
	close_fds(s);
	for (unsigned int i = 0; i < n; i++) {
		if (s->nfds < QMP_FDS_MAX)
			s->fds[s->nfds++] = fds[i];
		else
			close(fds[i]);
	}
}

void qmp_open(struct qmp_session *s, struct qmp *q)
{
	struct json_object *m = json_object_new_object(), *qmp = json_object_new_object();

	s->qmp = q;
	s->next = q->sessions;
	q->sessions = s;
	add(qmp, "version", qmp_version());
	add(qmp, "capabilities", json_object_new_array());
	add(m, "QMP", qmp);
	say(s, m);
}

void qmp_close(struct qmp_session *s)
{
	struct qmp_session **p = &s->qmp->sessions;

	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	forget_message(s);
	close_fds(s);
	for (unsigned int i = 0; s->named && i < QMP_NAMED_MAX; i++)
		if (s->named[i].fd >= 0)
			close(s->named[i].fd);
	free(s->named);
	s->named = NULL;
}
