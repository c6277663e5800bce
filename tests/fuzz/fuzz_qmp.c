/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_qmp.c - a control client that may send anything: the bytes of the input, in pieces as they
 * would come from a socket (the first byte says how long the pieces are). Byte 0xfe stands for a
 * descriptor that comes along. The machine behind has no vcpus.
 *
 * Whatever comes in, what goes out is JSON, one object a line, ASCII.
 */
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unvmm/vm.h>

#include "qmp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool promise)
{
	if (!promise)
		abort();
}

static void check_line(struct qmp_session *s, const char *text, size_t len)
{
	struct json_tokener *tok = json_tokener_new();
	struct json_object *o;

	(void)s;
	check(len > 2 && !memcmp(text + len - 2, "\r\n", 2));
	for (size_t i = 0; i < len - 2; i++)
		check(text[i] >= 0x20 && text[i] < 0x7f);
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT);
	o = json_tokener_parse_ex(tok, text, (int)len - 2);
	check(json_object_is_type(o, json_type_object));
	json_object_put(o);
	json_tokener_free(tok);
}

static void input(struct qmp_session *s, const char *text, size_t len)
{
	while (len) {
		size_t n = qmp_input(s, text, len);

		check(n && n <= len);
		check(s->len <= QMP_MESSAGE_MAX && s->len <= s->cap);
		text += n;
		len -= n;
	}
}

static void on_event(struct vm *vm)
{
	(void)vm;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vm_config config;
	static struct vm vm;
	static bool ready;
	struct qmp q = { .vm = &vm, .name = "fuzz", .path = "fuzz.sock" };
	struct qmp_session s = { .send = check_line };
	size_t piece, n;
	int fd;

	if (!ready) {
		check(!vm_init(&vm, &config, NULL));
		vm.on_event = on_event;
		ready = true;
	}
	if (!size)
		return 0;
	piece = (size_t)*data++ + 1;
	size--;
	qmp_open(&s, &q);
	for (; size; data += n, size -= n) {
		n = size < piece ? size : piece;
		if (*data == 0xfe) {
			fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
			check(fd >= 0);
			qmp_receive_fds(&s, &fd, 1);
			n = 1;
		} else {
			input(&s, (const char *)data, n);
		}
	}
	qmp_close(&s);
	vm_resume(&vm);
	vm.event = VM_EVENT_NONE;
	return 0;
}
