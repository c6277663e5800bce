/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_qmp.c - the protocol without sockets: framing, negotiation, ids, errors, limits, events.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "fake_vm.h"
#include "qmp.h"

struct fixture {
	struct fake_vm *f;
	struct qmp qmp;
	struct qmp_session s;
	char out[1 << 20];
	size_t len;
	unsigned int ended; /* on_event calls */
	unsigned int pressed;
};

static void capture(struct qmp_session *s, const char *text, size_t len)
{
	struct fixture *x = container_of(s, struct fixture, s);

	assert_true(len > 2 && x->len + len < sizeof(x->out));
	assert_memory_equal(text + len - 2, "\r\n", 2);
	for (size_t i = 0; i < len; i++)
		assert_true((unsigned char)text[i] < 0x80);
	memcpy(x->out + x->len, text, len);
	x->len += len;
	x->out[x->len] = '\0';
}

static void press(void *arg)
{
	((struct fixture *)arg)->pressed++;
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	assert_non_null(x);
	x->f = fake_vm_new("none");
	x->f->vm.power_button = press;
	x->f->vm.power_button_arg = x;
	x->qmp = (struct qmp){ .vm = &x->f->vm, .name = "web", .path = "/x/web.sock" };
	x->s.send = capture;
	qmp_open(&x->s, &x->qmp);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	qmp_close(&x->s);
	assert_null(x->qmp.sessions);
	assert_int_equal(x->s.nfds, 0);
	fake_vm_free(x->f);
	free(x);
	return 0;
}

static void feed(struct fixture *x, const char *text, size_t len)
{
	while (len) {
		size_t n = qmp_input(&x->s, text, len);

		assert_in_range(n, 1, len);
		text += n;
		len -= n;
	}
}

/* What is answered to text, all of it. */
static const char *say(struct fixture *x, const char *text)
{
	x->len = 0;
	x->out[0] = '\0';
	feed(x, text, strlen(text));
	return x->out;
}

static void expect(struct fixture *x, const char *text, const char *answer)
{
	assert_string_equal(say(x, text), answer);
}

static void expect_error(struct fixture *x, const char *text, const char *class, const char *part)
{
	const char *out = say(x, text);

	if (strncmp(out, "{\"error\":{\"class\":\"", 19) != 0 || !strstr(out, class) ||
	    !strstr(out, part))
		fail_msg("%.200s is answered by %.300s", text, out);
	assert_ptr_equal(strchr(out, '\n'), out + strlen(out) - 1); /* one error only */
}

static void negotiate(struct fixture *x)
{
	expect(x, "{\"execute\":\"qmp_capabilities\"}", "{\"return\":{}}\r\n");
}

static void test_greeting_and_negotiation(void **state)
{
	struct fixture *x = *state;

	assert_non_null(strstr(x->out, "{\"QMP\":{\"version\":{\"qemu\":{\"major\":"));
	assert_non_null(strstr(x->out, "\"capabilities\":[]}}\r\n"));
	expect_error(x, "{\"execute\":\"query-status\"}", "CommandNotFound", "qmp_capabilities");
	expect_error(x, "{\"execute\":\"nonsense\"}", "CommandNotFound", "qmp_capabilities");
	expect_error(x, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}",
		     "GenericError", "offered");
	qmp_event(&x->qmp, "STOP", NULL);
	assert_null(strstr(x->out, "STOP")); /* no events before negotiation */
	expect(x, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}",
	       "{\"return\":{}}\r\n");
	expect_error(x, "{\"execute\":\"qmp_capabilities\"}", "CommandNotFound", "already");
	expect(x, "{\"execute\":\"query-status\"}",
	       "{\"return\":{\"status\":\"running\",\"running\":true}}\r\n");
}

static void test_ids(void **state)
{
	struct fixture *x = *state;

	negotiate(x);
	expect(x, "{\"id\":7,\"execute\":\"query-name\"}",
	       "{\"return\":{\"name\":\"web\"},\"id\":7}\r\n");
	expect(x, "{\"execute\":\"query-name\",\"id\":null}",
	       "{\"return\":{\"name\":\"web\"},\"id\":null}\r\n");
	expect(x, "{\"execute\":\"cont\",\"id\":{\"a\":[1,true,\"x\"]}}",
	       "{\"return\":{},\"id\":{\"a\":[1,true,\"x\"]}}\r\n");
	/* UTF-8 comes back as ASCII, beyond the BMP as a pair. */
	expect(x, "{\"execute\":\"cont\",\"id\":\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"}",
	       "{\"return\":{},\"id\":\"\\u00e9\\u20ac\\ud83d\\ude00\"}\r\n");
	assert_non_null(strstr(say(x, "{\"execute\":\"nix\",\"id\":1.5}"), "\"id\":1.5}"));
	expect_error(x, "{\"execute\":\"cont\",\"id\":NaN}", "GenericError", "number");
	expect_error(x, "{\"execute\":\"cont\",\"id\":[{\"a\":1e999}]}", "GenericError", "number");
}

static void test_framing(void **state)
{
	struct fixture *x = *state;
	static const char one[] = "{\"execute\":\"cont\",\"id\":\"} \\\" ] {\"}";

	negotiate(x);
	/* Cut anywhere. */
	for (size_t cut = 0; cut <= strlen(one); cut++) {
		x->len = 0;
		feed(x, one, cut);
		if (cut < strlen(one))
			assert_int_equal(x->len, 0);
		feed(x, one + cut, strlen(one) - cut);
		assert_string_equal(x->out, "{\"return\":{},\"id\":\"} \\\" ] {\"}\r\n");
	}
	/* Several in one piece, one over several lines, single quotes as the specification allows.
	 */
	expect(x, " {\"execute\":\"cont\"}{\n\"execute\"\r\n:\t\"cont\",'id':'a'}\n\n",
	       "{\"return\":{}}\r\n{\"return\":{},\"id\":\"a\"}\r\n");
}

static void test_garbage(void **state)
{
	static const char *const bad[] = {
		"hello\n",
		"\xff\xff\n",
		"12\n",
		"\"text\"\n",
		"[]\n",
		"{}\n",
		"{\"execute\":}\n",
		"{\"execute\":\"cont\"]\n",
		"{\"execute\":\"cont\" \"id\":1}\n",
		"{\"execute\":\"co\nnt\"}\n\n",
		"{\"execute\":\"\x01\"}\n",
		"{\"execute\":\"\xc3(\"}\n",
		"{\"execute\":7}\n",
		"{\"execute\":null}\n",
		"{\"exec-oob\":\"cont\"}\n",
		"{\"execute\":\"cont\",\"arguments\":[]}\n",
		"{\"execute\":\"cont\",\"arguments\":{\"a\":1}}\n",
		"{\"execute\":\"cont\",\"x\":1}\n",
		"{\"execute\":\"getfd\"}\n",
		"{\"execute\":\"getfd\",\"arguments\":{\"fdname\":7}}\n",
		"{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a\\u0000b\"}}\n",
	};
	struct fixture *x = *state;

	negotiate(x);
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		/* A control character ends a message: its rest is one more line of garbage. */
		if (strstr(bad[i], "co\nnt"))
			assert_non_null(strstr(say(x, bad[i]), "control characters"));
		else
			expect_error(x, bad[i], "GenericError", "");
		expect(x, "{\"execute\":\"cont\"}", "{\"return\":{}}\r\n");
	}
	expect_error(x, "{\"execute\":\"cont\\u0000x\"}", "GenericError", "NUL");
	x->len = 0;
	feed(x, "{\"a\0\":1}\n", 9);
	assert_non_null(strstr(x->out, "control characters"));
	expect_error(x, "{\"execute\":\"no-such\",\"id\":3}", "CommandNotFound", "no-such");
	assert_non_null(strstr(x->out, "\"id\":3"));
}

static void test_limits(void **state)
{
	struct fixture *x = *state;
	static char big[QMP_MESSAGE_MAX + 64];
	size_t head = strlen("{\"execute\":\"cont\",\"id\":\"");

	negotiate(x);
	/* As large as allowed, and one byte more. */
	strcpy(big, "{\"execute\":\"cont\",\"id\":\"");
	memset(big + head, 'a', sizeof(big) - head - 1);
	strcpy(big + QMP_MESSAGE_MAX - 2, "\"}");
	assert_int_equal(strlen(big), QMP_MESSAGE_MAX);
	assert_memory_equal(say(x, big), "{\"return\"", 9);
	strcpy(big + QMP_MESSAGE_MAX - 1, "\"}\n");
	big[QMP_MESSAGE_MAX - 2] = 'a';
	expect_error(x, big, "GenericError", "64 KiB");
	/* Depth. */
	memset(big, '[', QMP_DEPTH_MAX);
	memset(big + QMP_DEPTH_MAX, ']', QMP_DEPTH_MAX);
	big[2 * QMP_DEPTH_MAX] = '\0';
	expect_error(x, big, "GenericError", "JSON object");
	memset(big, '[', QMP_DEPTH_MAX + 1);
	strcpy(big + QMP_DEPTH_MAX + 1, "\n");
	expect_error(x, big, "GenericError", "nested");
	/* A flood without a line's end is one error and no memory. */
	memset(big, 'x', sizeof(big) - 1);
	expect_error(x, big, "GenericError", "");
	for (unsigned int i = 0; i < 100; i++)
		assert_string_equal(say(x, big), "");
	assert_null(x->s.buf);
	expect(x, "\n{\"execute\":\"cont\"}", "{\"return\":{}}\r\n");
}

static void test_machine(void **state)
{
	struct fixture *x = *state;

	negotiate(x);
	say(x, "{\"execute\":\"stop\"}");
	assert_non_null(strstr(x->out, "\"event\":\"STOP\"}\r\n{\"return\":{}}\r\n"));
	assert_non_null(strstr(x->out, "\"timestamp\":{\"seconds\":"));
	assert_true(x->f->vm.paused);
	expect(x, "{\"execute\":\"stop\"}", "{\"return\":{}}\r\n"); /* no second event */
	expect(x, "{\"execute\":\"query-status\"}",
	       "{\"return\":{\"status\":\"paused\",\"running\":false}}\r\n");
	assert_non_null(strstr(say(x, "{\"execute\":\"cont\"}"), "\"event\":\"RESUME\""));
	expect(x, "{\"execute\":\"cont\"}", "{\"return\":{}}\r\n");
	assert_false(x->f->vm.paused);
	assert_non_null(strstr(say(x, "{\"execute\":\"system_powerdown\"}"), "\"POWERDOWN\""));
	assert_int_equal(x->pressed, 1);
	x->f->vm.power_button = NULL;
	expect_error(x, "{\"execute\":\"system_powerdown\"}", "GenericError", "power button");
	expect(x, "{\"execute\":\"system_reset\"}", "{\"return\":{}}\r\n");
	assert_int_equal(x->f->vm.event, VM_EVENT_REBOOT);
	assert_true(x->qmp.asked_reset);
	expect(x, "{\"execute\":\"quit\"}", "{\"return\":{}}\r\n");
	assert_int_equal(x->f->vm.event, VM_EVENT_QUIT);
	expect(x, "{\"execute\":\"query-status\"}",
	       "{\"return\":{\"status\":\"shutdown\",\"running\":false}}\r\n");
}

/* Every command without required arguments answers; the list names them all. */
static void test_table(void **state)
{
	struct fixture *x = *state;
	char text[128];

	negotiate(x);
	for (unsigned int i = 0; i < qmp_ncommands; i++) {
		const struct qmp_command *c = &qmp_commands[i];

		assert_ptr_equal(qmp_command_find(c->name), c);
		snprintf(text, sizeof(text), "{\"name\":\"%s\"}", c->name);
		assert_non_null(strstr(say(x, "{\"execute\":\"query-commands\"}"), text));
		if (c->negotiates || (c->args[0].name && !c->args[0].optional))
			continue;
		snprintf(text, sizeof(text), "{\"execute\":\"%s\"}", c->name);
		assert_non_null(strstr(say(x, text), "{\"return\":"));
	}
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static unsigned int open_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += is_open(fd);
	return n;
}

static void test_fds(void **state)
{
	struct fixture *x = *state;
	unsigned int before = open_fds();
	char text[160];
	int fds[QMP_FDS_MAX + 2];

	negotiate(x);
	expect_error(x, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a\"}}", "GenericError",
		     "SCM_RIGHTS");
	for (unsigned int i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = dup(STDERR_FILENO);
	qmp_receive_fds(&x->s, fds, ARRAY_SIZE(fds));
	assert_true(is_open(fds[QMP_FDS_MAX - 1]));
	assert_false(is_open(fds[QMP_FDS_MAX]));
	expect_error(x, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"1\"}}", "GenericError",
		     "digit");
	expect(x, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a\"}}",
	       "{\"return\":{}}\r\n");
	/* The same name again: the first one is closed. */
	expect(x, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a\"}}",
	       "{\"return\":{}}\r\n");
	assert_false(is_open(fds[0]));
	assert_true(is_open(fds[1]));
	expect_error(x, "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"b\"}}",
		     "GenericError", "named 'b'");
	expect(x, "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"a\"}}",
	       "{\"return\":{}}\r\n");
	assert_false(is_open(fds[1]));
	/* Those that come with later bytes replace what nobody asked for. */
	assert_int_equal(open_fds(), before + QMP_FDS_MAX - 2);
	for (unsigned int i = 0; i <= QMP_NAMED_MAX; i++) {
		int fd = dup(STDERR_FILENO);

		qmp_receive_fds(&x->s, &fd, 1);
		snprintf(text, sizeof(text),
			 "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"n%u\"}}", i);
		if (i < QMP_NAMED_MAX)
			expect(x, text, "{\"return\":{}}\r\n");
		else
			expect_error(x, text, "GenericError", "close one");
	}
	assert_int_equal(open_fds(), before + QMP_NAMED_MAX + 1);
}

/* Values that QMP clients look for, as JSON. */
static void test_info(void **state)
{
	struct fixture *x = *state;
	struct json_object *m, *o, *v;

	negotiate(x);
	x->f->config.memory = MiB(64);
	m = json_tokener_parse(say(x, "{\"execute\":\"x-unvmm-info\"}"));
	assert_true(json_object_object_get_ex(m, "return", &o));
	assert_true(json_object_object_get_ex(o, "memory", &v));
	assert_int_equal(json_object_get_uint64(v), MiB(64));
	assert_true(json_object_object_get_ex(o, "devices", &v));
	json_object_put(m);
	m = json_tokener_parse(say(x, "{\"execute\":\"x-unvmm-stats\"}"));
	assert_true(json_object_object_get_ex(m, "return", &o));
	assert_true(json_object_object_get_ex(o, "cpu-ns", &v));
	assert_true(json_object_get_uint64(v) > 0);
	json_object_put(m);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_greeting_and_negotiation),
		T(test_ids),
		T(test_framing),
		T(test_garbage),
		T(test_limits),
		T(test_machine),
		T(test_table),
		T(test_fds),
		T(test_info),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
