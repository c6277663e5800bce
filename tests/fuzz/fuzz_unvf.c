/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_unvf.c - a hostile client of a vfio-user server: messages with any body and any descriptors,
 * raw bytes, memory that it writes to while the function reads it, doorbells, and the end of the
 * connection at any moment. After each input the function must have let go of everything, and must
 * answer the next client. Thread: the fuzzer's is the main loop; the poll thread runs beside it.
 *
 * The input is a sequence of records: what (a command, or one of RAW, POKE, KICK), descriptors to
 * send along, length (two bytes), so many bytes. VERSION is sent first, unless the input begins
 * with RAW.
 *
 * Planted bug (FUZZ_PLANT): MIG_DATA_READ gives as much as was asked for.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "options.h"
#include "server.h"

#define RAM   MiB(2)
#define IMAGE MiB(1)
#define TURNS 20000 /* of the main loop, until a client must be gone */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAW = 0xff, POKE = 0xfe, KICK = 0xfd };

static struct machine {
	struct loop loop;
	struct engine engine;
	struct unvf_options options;
	struct function *f;
	struct server s;
	int client, ram_fd, event_fd;
	uint8_t *ram;
	uint16_t id;
} m;

#define check(promise)                                                            \
	do {                                                                      \
		if (!(promise)) {                                                 \
			fprintf(stderr, "line %d: not %s\n", __LINE__, #promise); \
			abort();                                                  \
		}                                                                 \
	} while (0)

/* Made once: threads and files are slow to make. */
static void machine_make(void)
{
	char image[] = "/tmp/fuzz-unvf-XXXXXX";
	char *argv[] = { "unvf",     "--socket", "x",	      "--type",	     "blk",
			 "--image",  image,	 "--state",   "--dirty-log", "--ring-reset",
			 "--queues", "2",	 "--pattern", "--doorbell",  "ioeventfd" };
	struct diag d = { 0 };
	int fd = mkstemp(image);

	check(fd >= 0 && ftruncate(fd, IMAGE) == 0);
	close(fd);
	log_set_level(LOG_ERROR);
	check(options_parse(&m.options, (int)ARRAY_SIZE(argv), argv, &d) == 0);
	check(loop_init(&m.loop, 64, &d) == 0 && engine_init(&m.engine, &d) == 0);
	check(function_create(&m.f, "fn", m.options.groups[0].cls, m.options.groups[0].conf,
			      &m.options.groups[0].fn, &m.engine, &m.loop, &d) == 0);
	check(server_init(&m.s, m.f, &m.loop, NULL, &d) == 0);
	unlink(image);
	check(guard_install(&m.engine, &d) == 0 && engine_start(&m.engine, &d) == 0);
	m.ram_fd = memfd_create("ram", MFD_CLOEXEC);
	m.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	check(ftruncate(m.ram_fd, RAM) == 0);
	m.ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, m.ram_fd, 0);
	check(m.ram != MAP_FAILED);
}

static void turn(uint64_t ns)
{
	check(loop_turn(&m.loop, ns) >= 0);
}

static void transmit(const void *bytes, size_t len, const int *fds, unsigned int nfds)
{
	union {
		char buf[CMSG_SPACE(8 * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	uint8_t replies[4096];

	if (nfds) {
		struct cmsghdr *c;

		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	if (len && sendmsg(m.client, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
	turn(200000);
	while (recv(m.client, replies, sizeof(replies), MSG_DONTWAIT) > 0)
		;
}

static void message(uint8_t cmd, uint8_t what, const uint8_t *body, size_t len)
{
	static uint8_t bytes[sizeof(struct vfio_user_header) + 65536];
	const int fds[] = { m.ram_fd, m.event_fd, m.event_fd, m.event_fd };
	unsigned int first = what >> 4 & 1, nfds = what & 3;
	struct vfio_user_header h = { .id = ++m.id,
				      .cmd = cmd,
				      .size = (uint32_t)(sizeof(h) + len),
				      .flags = what & 0x80 ? VFIO_USER_NO_REPLY : 0 };

	memcpy(bytes, &h, sizeof(h));
	memcpy(bytes + sizeof(h), body, len);
	transmit(bytes, sizeof(h) + len, fds + first, nfds);
}

static void record(uint8_t cmd, uint8_t what, const uint8_t *body, size_t len)
{
	uint32_t off;

	switch (cmd) {
	case RAW:
		transmit(body, len, NULL, 0);
		break;
	case POKE:
		if (len < sizeof(off))
			break;
		memcpy(&off, body, sizeof(off));
		off %= RAM;
		len -= sizeof(off);
		memcpy(m.ram + off, body + sizeof(off), len < RAM - off ? len : RAM - off);
		break;
	case KICK:
		fn_engine_ring(m.f, what % m.f->v->nqueues);
		turn(200000);
		break;
	default:
		message(cmd, what, body, len);
	}
}

static void connect_client(void)
{
	int fds[2];

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	m.client = fds[0];
	check(server_attach(&m.s, fds[1]) == 0);
}

static void disconnect_client(void)
{
	close(m.client);
	for (int i = 0; m.s.fd >= 0 || m.s.step; i++) {
		check(i < TURNS);
		turn(1000000);
	}
	check(m.f->vm.mem.nshared == 0 && m.f->v->status == 0 && m.f->run == FN_OFF);
	for (unsigned int v = 0; v < m.f->nvectors; v++)
		check(m.f->vectors[v].fd < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t version[4];

	if (!m.f)
		machine_make();
	memset(m.ram, 0, RAM);
	connect_client();
	if (size && data[0] != RAW)
		message(VFIO_USER_VERSION, 0, version, sizeof(version));
	for (unsigned int n = 0; size >= 4 && n < 64; n++) {
		size_t len = data[2] | (size_t)data[3] << 8;

		if (len > size - 4)
			len = size - 4;
		record(data[0], data[1], data + 4, len);
		data += 4 + len;
		size -= 4 + len;
	}
	disconnect_client();
	return 0;
}
