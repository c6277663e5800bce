/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unvf_env.h - a running unvf without its process, for unit tests: options as on the command line,
 * a main loop on a thread of its own, the poll thread, and for each function a client on a
 * socketpair. Included once by each test program. The test's thread is the client.
 */
#ifndef UNVMM_TESTS_UNVF_ENV_H
#define UNVMM_TESTS_UNVF_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "options.h"
#include "server.h"
#include "unvf_client.h"

#define ENV_FUNCTIONS 4
#define IMAGE_SIZE    MiB(4)

#define BASE_FEATURES                                                            \
	(VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM) | \
	 VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC))
#define BLK_FEATURES                                                                         \
	(BASE_FEATURES | VIRTIO_BIT(VIRTIO_BLK_F_FLUSH) | VIRTIO_BIT(VIRTIO_BLK_F_DISCARD) | \
	 VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES))

struct env {
	struct loop loop;
	pthread_t main;
	struct engine engine;
	struct unvf_options options;
	struct function *f[ENV_FUNCTIONS];
	struct server s[ENV_FUNCTIONS];
	unsigned int n;
	char image[64];
	struct attach {
		struct loop_work work;
		struct server *s;
		int fd;
	} attach[ENV_FUNCTIONS];
};

static inline void *env_main(void *arg)
{
	struct env *e = arg;

	assert_int_equal(loop_run(&e->loop), 0);
	return NULL;
}

static inline void attach_work(struct loop_work *w)
{
	struct attach *a = container_of(w, struct attach, work);

	assert_int_equal(server_attach(a->s, a->fd), 0);
}

/* `line`: options without --socket, IMAGE stands for a fresh image; a "/" begins another function.
 */
static inline struct env *env_new(const char *line)
{
	struct env *e = calloc(1, sizeof(*e));
	char *argv[64] = { "unvf", "--socket", "none" }, *text = strdup(line), *save = NULL;
	struct diag d = { 0 };
	int argc = 3, fd;

	snprintf(e->image, sizeof(e->image), "/tmp/unvf-test-XXXXXX");
	fd = mkstemp(e->image);
	assert_true(fd >= 0 && ftruncate(fd, IMAGE_SIZE) == 0);
	close(fd);
	for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		if (!strcmp(w, "/")) {
			argv[argc++] = "--socket";
			argv[argc++] = "none";
		} else {
			argv[argc++] = strcmp(w, "IMAGE") ? w : e->image;
		}
	}
	if (options_parse(&e->options, argc, argv, &d))
		fail_msg("%s", d.text);
	assert_int_equal(loop_init(&e->loop, 64, &d), 0);
	assert_int_equal(engine_init(&e->engine, &d), 0);
	for (unsigned int i = 0; i < e->options.ngroups; i++) {
		const struct unvf_group *g = &e->options.groups[i];
		char id[24];

		snprintf(id, sizeof(id), "fn%u", i);
		if (function_create(&e->f[i], id, g->cls, g->conf, &g->fn, &e->engine, &e->loop,
				    &d))
			fail_msg("%s", d.text);
		assert_int_equal(server_init(&e->s[i], e->f[i], &e->loop, NULL, &d), 0);
		e->n++;
	}
	free(text);
	assert_int_equal(guard_install(&e->engine, &d), 0);
	assert_int_equal(engine_start(&e->engine, &d), 0);
	assert_int_equal(pthread_create(&e->main, NULL, env_main, e), 0);
	return e;
}

/* Gives function i a client. */
static inline struct client *env_client(struct env *e, unsigned int i)
{
	struct client *c = malloc(sizeof(*c));
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	unvf_client_init(c, fds[0]);
	e->attach[i] = (struct attach){ .work.fn = attach_work, .s = &e->s[i], .fd = fds[1] };
	loop_call(&e->loop, &e->attach[i].work);
	return c;
}

static inline void env_drop(struct client *c)
{
	unvf_client_close(c);
	free(c);
}

struct query {
	struct loop_work work;
	struct server *s;
	sem_t answered;
	bool free;
};

static inline void query_work(struct loop_work *w)
{
	struct query *q = container_of(w, struct query, work);

	q->free = q->s->fd < 0 && !q->s->step;
	sem_post(&q->answered);
}

/* Waits until function i has seen that its client is gone, and has let go of its memory. */
static inline void env_wait_free(struct env *e, unsigned int i)
{
	struct query q = { .work.fn = query_work, .s = &e->s[i] };

	sem_init(&q.answered, 0, 0);
	for (int t = 0; t < 5000 && !q.free; t++) {
		loop_call(&e->loop, &q.work);
		sem_wait(&q.answered);
		usleep(1000);
	}
	sem_destroy(&q.answered);
	assert_true(q.free);
}

static inline void env_free(struct env *e)
{
	loop_quit(&e->loop);
	pthread_join(e->main, NULL);
	for (unsigned int i = 0; i < e->n; i++) {
		server_close(&e->s[i]);
		assert_int_equal(virtio_pci_reset(e->f[i]->v), 0);
	}
	engine_stop(&e->engine);
	for (unsigned int i = 0; i < e->n; i++) {
		server_fini(&e->s[i]);
		function_destroy(e->f[i]);
	}
	engine_fini(&e->engine);
	loop_fini(&e->loop);
	options_free(&e->options);
	unlink(e->image);
	free(e);
}

#endif
