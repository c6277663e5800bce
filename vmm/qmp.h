/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp.h - the QEMU Machine Protocol, server side, as existing clients expect it: greeting,
 * negotiation (no capabilities are offered), commands with ids, errors, events. Knows no sockets.
 * Source: QEMU's docs/interop/qmp-spec and the QMP reference manual, "Run state" and "Monitor".
 *
 * Input is hostile. A message has at most QMP_MESSAGE_MAX bytes and QMP_DEPTH_MAX levels; what is
 * no message gets one error and is skipped up to the end of its line. Members and arguments that a
 * command does not have, and types that are not theirs, are errors, found before the command runs.
 * Messages are ASCII and end with CRLF.
 *
 * Thread: main, without the control lock.
 */
#ifndef UNVMM_VMM_QMP_H
#define UNVMM_VMM_QMP_H

#include <json-c/json_types.h>

#include <unvmm/control.h>

#define QMP_MESSAGE_MAX 65536
#define QMP_DEPTH_MAX	32
#define QMP_FDS_MAX	8  /* that wait for a getfd, per client */
#define QMP_NAMED_MAX	16 /* that have got a name, per client */
#define QMP_NAME_MAX	64 /* bytes of such a name, NUL included */

struct qmp_migration;
struct vm;

/* The server: what commands act on, and who hears of events. */
struct qmp {
	struct vm *vm;
	const char *path;    /* of the socket */
	const char *name;    /* of the guest */
	uint64_t started_ns; /* CLOCK_MONOTONIC */
	bool asked_quit;     /* a client has */
	bool asked_reset;
	struct qmp_migration *migration; /* NULL: the machine cannot be migrated */
	struct qmp_session *sessions;
};

struct qmp_fd {
	int fd;
	char name[QMP_NAME_MAX];
};

enum qmp_frame { QMP_BETWEEN, QMP_MESSAGE, QMP_SKIP };

/* One client. */
struct qmp_session {
	struct qmp *qmp;
	struct qmp_session *next;
	bool negotiated;
	/* Takes a message for the client; never fails, may cut the client off later. */
	void (*send)(struct qmp_session *s, const char *text, size_t len);

	enum qmp_frame frame;
	char *buf; /* the message so far; none between messages */
	size_t len, cap;
	unsigned int depth;
	char quote; /* inside a string: its delimiter */
	bool escape;

	int fds[QMP_FDS_MAX]; /* came with the bytes last received */
	unsigned int nfds;
	struct qmp_fd *named; /* QMP_NAMED_MAX of them once there is one; fd -1: free */
};

/* Greets. s->send is set by the caller. */
void qmp_open(struct qmp_session *s, struct qmp *q);
void qmp_close(struct qmp_session *s);

/*
 * Takes bytes from the client up to the end of a message, runs that, and returns how many bytes it
 * took (at least one of len): the caller goes on with the rest when the answer has been taken.
 */
size_t qmp_input(struct qmp_session *s, const char *buf, size_t len) must_check;
/* Descriptors that came along with the bytes that follow; those not asked for before are closed. */
void qmp_receive_fds(struct qmp_session *s, const int *fds, unsigned int n);

/* Tells every client that has negotiated. data: owned by the callee, may be NULL. */
void qmp_event(struct qmp *q, const char *name, struct json_object *data);

/* --- qmp_commands.c -------------------------------------------------------------------------- */

struct qmp_call {
	struct qmp_session *session;
	struct qmp *qmp;
	struct json_object *args;   /* checked by the table; NULL: none given */
	struct json_object *result; /* NULL: an empty group */
	struct diag diag;
};

struct qmp_arg {
	const char *name;
	enum json_type type;
	bool optional;
};

#define QMP_ARGS_MAX 7

struct qmp_command {
	const char *name;
	int (*run)(struct qmp_call *c); /* error: GenericError with diag's sentence */
	struct qmp_arg args[QMP_ARGS_MAX];
	bool negotiates; /* allowed before negotiation, and only there */
};

extern const struct qmp_command qmp_commands[];
extern const unsigned int qmp_ncommands;

/* Here, or in qmp_migrate.c. */
const struct qmp_command *qmp_command_find(const char *name);
/* The argument's text, or NULL if it was not given. */
const char *qmp_text(const struct qmp_call *c, const char *name);

/* "running", "paused", ... : QMP's RunState. */
const char *qmp_run_state(const struct qmp *q);
struct json_object *qmp_version(void);

/* --- stats.c --------------------------------------------------------------------------------- */

/* x-unvmm-info and x-unvmm-stats: NULL if there is no memory. Takes the control lock. */
struct json_object *stats_info(struct qmp *q);
struct json_object *stats_counters(struct qmp *q);

#endif
