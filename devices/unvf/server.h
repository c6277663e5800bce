/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.h - a vfio-user server for one function: a socket, one client at a time, one message at a
 * time (include/unvmm/vfio_user.h). Main thread; nothing blocks: what has to wait for the poll
 * thread is a step that is tried again behind each of its notes, and the client's next message is
 * not read before.
 */
#ifndef UNVF_SERVER_H
#define UNVF_SERVER_H

#include <unvmm/vfio_user.h>

#include "function.h"

#define SERVER_FDS_MAX	  16 /* in a message; QEMU offers no more */
#define SERVER_DATA_MAX	  VFIO_USER_DEFAULT_DATA_XFER
#define SERVER_MSG_MAX	  (SERVER_DATA_MAX + 4096)
#define SERVER_LOG_RANGES 1024

struct server {
	struct function *f;
	struct loop *loop;
	const char *path;  /* NULL: given connections only */
	int listen_fd, fd; /* -1 */
	struct loop_fd listen, conn;
	bool draining; /* the client is gone, the function still has to let go of its memory */
	struct log_limit limit;

	/* The message that is being received, header first; the descriptors are owned. */
	uint8_t *in;
	size_t in_len;
	int fds[SERVER_FDS_MAX];
	unsigned int nfds;

	/* The reply, header first: body and descriptors are filled in by the request. */
	uint8_t *out;
	size_t out_len, out_sent; /* out_len 0: none is under way */
	size_t body_len;
	int out_fds[VDEV_QUEUES_MAX]; /* not owned */
	unsigned int nout_fds;

	/* -EINPROGRESS: not yet, perhaps with another step; else the outcome of the request. */
	int (*step)(struct server *s);
	struct fn_memory memory;

	/* What was agreed on. */
	bool agreed;
	unsigned int client_fds; /* that it takes in a message */
	uint32_t messages;

	/* migration.c */
	uint32_t state; /* enum vfio_device_mig_state */
	uint8_t *data;	/* of the function's state; owned */
	size_t data_len, data_at;
};

/* Listens on path. */
int server_init(struct server *s, struct function *f, struct loop *loop, const char *path,
		struct diag *d) must_check;
/* Takes a connection, which it owns then, as if it had been accepted. */
int server_attach(struct server *s, int fd) must_check;
/* Hangs up and listens no more: the function can be reset for good. */
void server_close(struct server *s);
/* Releases everything; closed, and the engine has been stopped or has let go of the function. */
void server_fini(struct server *s);

/* requests.c: carries out s->in. As struct server.step. */
int server_request(struct server *s);
/* migration.c */
int server_feature(struct server *s);
int server_mig_read(struct server *s);
int server_mig_write(struct server *s);
void server_mig_reset(struct server *s);

/* The request's parts. */
static inline const struct vfio_user_header *server_header(const struct server *s)
{
	return (const struct vfio_user_header *)s->in;
}

static inline const uint8_t *server_body(const struct server *s)
{
	return s->in + sizeof(struct vfio_user_header);
}

static inline size_t server_body_len(const struct server *s)
{
	return s->in_len - sizeof(struct vfio_user_header);
}

/* Room for the body of the reply; `len` at most SERVER_DATA_MAX + 1024. */
static inline void *server_reply(struct server *s, size_t len)
{
	s->body_len = len;
	return s->out + sizeof(struct vfio_user_header);
}

#endif
