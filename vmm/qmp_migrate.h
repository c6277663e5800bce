/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp_migrate.h - the control socket's commands about migration. The engine lies above this layer:
 * whoever composes the machine connects the two by a struct qmp_migration, tests one of their own.
 *
 * Thread: main, without the control lock.
 */
#ifndef UNVMM_VMM_QMP_MIGRATE_H
#define UNVMM_VMM_QMP_MIGRATE_H

#include <unvmm/migration.h>

#include "qmp.h"

#define QMP_DESTINATION_MAX 256

/* The functions of migration.h that are needed. */
struct qmp_migration_ops {
	int (*start)(struct migration *m, int fd, const struct migration_params *p, struct diag *d);
	int (*save)(struct migration *m, int fd, bool stay_paused, const struct migration_params *p,
		    struct diag *d);
	int (*check)(const struct migration_params *p, struct diag *d);
	int (*set_params)(struct migration *m, const struct migration_params *p, struct diag *d);
	int (*cancel)(struct migration *m, struct diag *d);
	int (*resume_source)(struct migration *m, struct diag *d);
	void (*status)(struct migration *m, struct migration_status *s);
	const char *(*phase_name)(enum migration_phase phase);
};

/* One per machine. */
struct qmp_migration {
	const struct qmp_migration_ops *ops;
	struct migration *engine;
	struct migration_params params;	       /* of the next one; migrate-set-parameters */
	char destination[QMP_DESTINATION_MAX]; /* as the client calls it; "": it did not say */
	bool stay_paused;		       /* the last one was a save that stays so */
};

extern const struct qmp_command qmp_migrate_commands[];
extern const unsigned int qmp_nmigrate_commands;

/* Event MIGRATION, with where it stands. */
void qmp_migrate_event(struct qmp *q, enum migration_phase phase);

/* QMP's RunState of a machine that a migration holds. */
const char *qmp_migrate_run_state(const struct qmp *q);
/*
 * `stop` and `cont`: -EBUSY while the guest is between two hosts, when what is said here would be
 * lost if it goes on there.
 */
int qmp_migrate_settled(struct qmp *q, struct diag *d) must_check;
/*
 * `cont` after a save that left the guest stopped: 1 if it goes on now, 0 if there was no such
 * save; -EBUSY: another has taken its disks.
 */
int qmp_migrate_continue(struct qmp *q, struct diag *d) must_check;

/* Takes the descriptor that getfd named: the caller's, or -1. (qmp_commands.c) */
int qmp_take_fd(struct qmp_session *s, const char *name);

#endif
