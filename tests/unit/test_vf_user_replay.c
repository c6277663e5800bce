/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_user_replay.c - conversations of the vfio-user client, byte by byte, with servers as they
 * are in the field: tests/peers/conversations, written down from what is known of each server's
 * messages, not captured from it. Their lines, and comments:
 *
 *   > HEX      the client sends this (several lines are one message)
 *   < HEX      the server answers with this (several lines are one message)
 *   + memfd N  ... and with a file of N bytes, each page beginning with its number; + eventfd
 *   ! CALL     what the test does meanwhile, and what has to come of it: see do_call()
 *
 * One thread plays the server, the test's own makes the calls.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <unvmm/platform.h>

#include "vf_contract.h"
#include "vf_user.h"

#define FOLDER	    "tests/peers/conversations/"
#define LINES_MAX   400
#define MESSAGE_MAX 8192

struct replay {
	char *lines[LINES_MAX];
	unsigned int nlines;
	int server, client; /* sockets */
	char wrong[256];    /* what the server's side did not like */
	struct vf *vf;
	struct gmem ram;
};

/* --- the server's side ----------------------------------------------------------------------- */

static size_t unhex(const char *hex, uint8_t *out, size_t room)
{
	size_t n = 0;
	unsigned int byte;

	for (; n < room && sscanf(hex + 2 * n, "%2x", &byte) == 1; n++)
		out[n] = (uint8_t)byte;
	return n;
}

/* The message that begins at line *i, over the lines of the same kind. */
static size_t message(const struct replay *r, unsigned int *i, uint8_t *buf)
{
	char kind = r->lines[*i][0];
	size_t n = 0;

	for (; *i < r->nlines && r->lines[*i][0] == kind; (*i)++)
		n += unhex(r->lines[*i] + 2, buf + n, MESSAGE_MAX - n);
	return n;
}

static void client_sends(struct replay *r, unsigned int *i)
{
	static uint8_t want[MESSAGE_MAX], got[MESSAGE_MAX];
	unsigned int line = *i + 1;
	size_t n = message(r, i, want);
	ssize_t have = recv(r->server, got, n, MSG_WAITALL);

	for (size_t k = 0; !r->wrong[0] && k < n; k++)
		if (have < (ssize_t)n || got[k] != want[k])
			snprintf(r->wrong, sizeof(r->wrong),
				 "line %u: %zd bytes came, byte %zu is %02x, not %02x", line, have,
				 k, got[k], want[k]);
}

static int make_fd(const char *what)
{
	unsigned int size = 0;
	int fd;

	if (sscanf(what, "memfd %u", &size) != 1)
		return eventfd(0, EFD_CLOEXEC);
	fd = memfd_create("replay", MFD_CLOEXEC);
	if (fd >= 0 && ftruncate(fd, size)) {
		close(fd);
		return -1;
	}
	for (unsigned int page = 0; page < size / PAGE_SIZE_4K; page++)
		if (pwrite(fd, &page, 1, (off_t)page * PAGE_SIZE_4K) != 1)
			return -1;
	return fd;
}

static void server_sends(struct replay *r, unsigned int *i, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	static uint8_t buf[MESSAGE_MAX];
	struct iovec iov = { buf, message(r, i, buf) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c;

	if (fd >= 0) {
		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	if (sendmsg(r->server, &m, MSG_NOSIGNAL) != (ssize_t)iov.iov_len && !r->wrong[0])
		snprintf(r->wrong, sizeof(r->wrong), "line %u: cannot be sent", *i);
}

static void *server_main(void *arg)
{
	struct replay *r = arg;
	int fd = -1;
	char more;

	for (unsigned int i = 0; i < r->nlines && !r->wrong[0];) {
		switch (r->lines[i][0]) {
		case '>':
			client_sends(r, &i);
			break;
		case '<':
			server_sends(r, &i, fd);
			if (fd >= 0)
				close(fd);
			fd = -1;
			break;
		case '+':
			fd = make_fd(r->lines[i] + 2);
			/* fall through */
		default:
			i++;
		}
	}
	if (!r->wrong[0] && recv(r->server, &more, 1, 0) > 0)
		snprintf(r->wrong, sizeof(r->wrong), "the client says more than is written");
	shutdown(r->server, SHUT_RDWR);
	return NULL;
}

/* --- the client's side ----------------------------------------------------------------------- */

static void do_open(struct replay *r)
{
	struct diag d = { "" };

	if (vf_user_attach(NULL, r->client, "replay", &r->vf, &d))
		fail_msg("%s (%s)", d.text, r->wrong);
}

static void do_irqs(struct replay *r, unsigned int n)
{
	int fds[8];

	for (unsigned int i = 0; i < n; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(r->vf->ops->irq_set(r->vf, fds, n), 0);
	for (unsigned int i = 0; i < n; i++)
		close(fds[i]);
}

static void do_mapped(struct replay *r, unsigned int region, uint64_t off, long byte)
{
	void *at;

	assert_int_equal(r->vf->ops->region_mmap(r->vf, region, off, PAGE_SIZE_4K, &at), 0);
	assert_int_equal(*(uint8_t *)at, byte);
	munmap(at, PAGE_SIZE_4K);
}

/*
 *   open; close; irqs N; map RESULT and unmap of all guest memory
 *   region INDEX SIZE AREAS; vectors N; migration FLAGS DMA-LOG     what is known after open
 *   read REGION OFFSET LENGTH RESULT                                the value, or -errno
 *   doorbell REGION OFFSET VALUE RESULT                             0, or -errno
 *   mapped REGION OFFSET BYTE                                       what the page begins with
 */
static void do_call(struct replay *r, const char *call)
{
	const struct vf_ops *ops = r->vf ? r->vf->ops : NULL;
	long a[4] = { 0 }, v = 0;
	struct vf_mig_caps caps;
	char name[16];
	int fd = -1, err;

	assert_true(sscanf(call, "%15s %ld %ld %ld %ld", name, &a[0], &a[1], &a[2], &a[3]) >= 1);
	if (!strcmp(name, "open")) {
		do_open(r);
	} else if (!strcmp(name, "region")) {
		assert_int_equal(r->vf->info.regions[a[0]].size, a[1]);
		assert_int_equal(r->vf->info.regions[a[0]].nareas, a[2]);
	} else if (!strcmp(name, "vectors")) {
		assert_int_equal(r->vf->info.nvectors, a[0]);
	} else if (!strcmp(name, "migration")) {
		assert_int_equal(ops->mig_caps(r->vf, &caps), 0);
		assert_int_equal(caps.flags, a[0]);
		assert_int_equal(caps.dma_log, a[1]);
	} else if (!strcmp(name, "read")) {
		err = ops->region_read(r->vf, (unsigned int)a[0], (uint64_t)a[1], &v,
				       (unsigned int)a[2]);
		assert_int_equal(err ? err : v, a[3]);
	} else if (!strcmp(name, "doorbell")) {
		err = ops->doorbell_fd(r->vf, (unsigned int)a[0], (uint64_t)a[1], 2, (uint32_t)a[2],
				       &fd);
		assert_int_equal(err, a[3]);
	} else if (!strcmp(name, "mapped")) {
		do_mapped(r, (unsigned int)a[0], (uint64_t)a[1], a[2]);
	} else if (!strcmp(name, "irqs")) {
		do_irqs(r, (unsigned int)a[0]);
	} else if (!strcmp(name, "map")) {
		assert_int_equal(vf_map_ram(r->vf, &r->ram, NULL), a[0]);
	} else if (!strcmp(name, "unmap")) {
		assert_int_equal(ops->dma_unmap(r->vf, 0, PLAT_RAM_MIN), 0);
	} else {
		assert_string_equal(name, "close");
		ops->close(r->vf);
	}
}

static void load(struct replay *r, const char *name)
{
	char path[128], *line = NULL;
	size_t room = 0;
	ssize_t n;
	FILE *f;

	snprintf(path, sizeof(path), FOLDER "%s", name);
	f = fopen(path, "r");
	assert_non_null(f);
	while ((n = getline(&line, &room, f)) > 0) {
		assert_true(r->nlines < LINES_MAX);
		line[strcspn(line, "\n")] = 0;
		r->lines[r->nlines++] = strdup(line);
	}
	free(line);
	fclose(f);
	assert_true(r->nlines > 10);
}

static void replay(const char *name)
{
	static struct replay r;
	unsigned int before = vf_contract_fds();
	pthread_t server;
	int pair[2];

	memset(&r, 0, sizeof(r));
	load(&r, name);
	assert_int_equal(gmem_create(&r.ram, PLAT_RAM_MIN, GMEM_SHARED, NULL), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	r.client = pair[0];
	r.server = pair[1];
	assert_int_equal(pthread_create(&server, NULL, server_main, &r), 0);
	for (unsigned int i = 0; i < r.nlines; i++)
		if (r.lines[i][0] == '!')
			do_call(&r, r.lines[i] + 2);
	pthread_join(server, NULL);
	close(r.server);
	gmem_destroy(&r.ram);
	for (unsigned int i = 0; i < r.nlines; i++)
		free(r.lines[i]);
	if (r.wrong[0])
		fail_msg("%s: %s", name, r.wrong);
	assert_int_equal(vf_contract_fds(), before);
}

static void test_libvfio_user_0_2(void **state)
{
	(void)state;
	replay("libvfio-user-0.2");
}

static void test_libvfio_user_0_1(void **state)
{
	(void)state;
	replay("libvfio-user-0.1");
}

static void test_text_minor_0(void **state)
{
	(void)state;
	replay("text-minor-0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_libvfio_user_0_2),
		cmocka_unit_test(test_libvfio_user_0_1),
		cmocka_unit_test(test_text_minor_0),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
