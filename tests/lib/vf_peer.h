/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_peer.h - the independent vfio-user server (tests/peers/vfio_user_server.py) as a child of a
 * test, on one end of a socketpair. Run from the top of the tree, as tests/check does.
 */
#ifndef UNVMM_TESTS_VF_PEER_H
#define UNVMM_TESTS_VF_PEER_H

#include <stdbool.h>
#include <sys/types.h>

#define VF_PEER_ARGS 12

struct vf_peer {
	pid_t pid;
	int sock; /* the client's end; whoever uses it owns it */
};

/* args: options for the server, ends with NULL. False if it cannot be started. */
bool vf_peer_start(struct vf_peer *p, const char *const *args);
/* The server ends by itself when its client has gone; false if it had to be killed, or failed. */
bool vf_peer_stop(struct vf_peer *p);

#endif
