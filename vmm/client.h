/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client.h - the other end of the control socket: finds running guests and asks them, each request
 * with a deadline. What a guest's process answers is not trusted more than the guest.
 *
 * Thread: main, of a command that runs no guest.
 */
#ifndef UNVMM_VMM_CLIENT_H
#define UNVMM_VMM_CLIENT_H

#include <sys/types.h>

#include <unvmm/diag.h>

#define CLIENT_ANSWER_MAX MiB(1)
#define CLIENT_TIMEOUT_MS 30000 /* a pause waits for slow disks, up to their deadlines */

struct json_object;

struct client_link {
	int fd;
	char *name; /* of the guest, or the socket's path as the user gave it; owned */
	pid_t pid;  /* who listens; 0: not known */
	int pidfd;  /* of that process; -1: another PID namespace, or an old kernel */
	char *buf;  /* bytes that are not a line yet */
	size_t len, cap;
};

/*
 * Connects and negotiates. name NULL: the only guest that runs; a name with a slash is the path of
 * a socket. -ENOENT: there is no such guest, or not just one; -ETIMEDOUT: it gives no answer.
 */
int client_open(struct client_link *l, const char *name, unsigned int timeout_ms,
		struct diag *d) must_check;
void client_close(struct client_link *l);

/*
 * Runs a command without arguments. *result is the caller's to put (may be NULL: not wanted).
 * -EREMOTEIO: refused, with the guest's sentence; -EPIPE: it has ended.
 */
int client_call(struct client_link *l, const char *command, unsigned int timeout_ms,
		struct json_object **result, struct diag *d) must_check;

/*
 * The same with arguments, which it takes over (may be NULL), and a descriptor for getfd (or -1).
 */
int client_command(struct client_link *l, const char *command, struct json_object *args, int fd,
		   unsigned int timeout_ms, struct json_object **result, struct diag *d) must_check;

/* Waits until the guest's process has ended: -ETIMEDOUT. */
int client_wait_end(struct client_link *l, unsigned int timeout_ms) must_check;

/*
 * The names of the sockets in this user's folder, sorted; whether somebody listens there is not
 * known yet. No folder is no guest. The list is freed by client_free_names().
 */
int client_names(char ***names, unsigned int *n, struct diag *d) must_check;
void client_free_names(char **names, unsigned int n);
/* Removes the socket of a guest that died. */
void client_forget(const char *name);

#endif
