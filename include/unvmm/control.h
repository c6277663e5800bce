/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h - the control socket of a running guest: QMP (qmp.h in vmm/ is the protocol's manual)
 * for up to CONTROL_CLIENTS clients at a time.
 *
 * The socket is private to the user who started the guest: mode 0600, by default NAME.sock in
 *   $UNVMM_RUNTIME_DIR, else /run/unvmm for root, else $XDG_RUNTIME_DIR/unvmm.
 * A client that sends garbage gets an error for it; one that takes no answers is not listened to
 * until it does, and is cut off when it has left too many events unread. With no client there is
 * one idle descriptor and no other memory.
 *
 * Thread: main; control_open() before the loop runs, control_close() after.
 */
#ifndef UNVMM_CONTROL_H
#define UNVMM_CONTROL_H

#include <unvmm/diag.h>

#define CONTROL_CLIENTS 16

struct control;
struct qmp_migration;
struct vm;

/*
 * Makes the socket that vm->config asks for. NULL in *c without an error: it asks for none, or for
 * the default one and this user has no place for it (a warning, unless that is plain normal). A
 * name that was not given but made up gets "-PID" when another guest has it.
 */
int control_open(struct control **c, struct vm *vm, struct diag *d) must_check;
/* Says good-bye to all clients and removes the socket. NULL does nothing. */
void control_close(struct control *c);

/* What the clients are told of. */
enum control_event {
	CONTROL_STOP,	   /* vm_pause() */
	CONTROL_RESUME,	   /* vm_resume() */
	CONTROL_POWERDOWN, /* the power button was pressed */
	CONTROL_RESET,	   /* the machine has been reset */
	CONTROL_END,	   /* the machine ends: vm->event says why */
};

/* Without the control lock. NULL does nothing. */
void control_event(struct control *c, enum control_event event);

/* What stands behind the migration commands (qmp_migrate.h); it outlives c. NULL does nothing. */
void control_set_migration(struct control *c, struct qmp_migration *m);
/* Tells of a phase of it (migration.h). NULL does nothing. */
void control_migration_event(struct control *c, unsigned int phase);

/*
 * The folder of the default sockets. With `make` it is created, mode 0700, if it is not there.
 * -ENXIO: this user has none (XDG_RUNTIME_DIR is not set); -EPERM: it is not only this user's;
 * -ENOENT: it is not there.
 */
int control_folder(char *path, size_t size, bool make, struct diag *d) must_check;

#endif
