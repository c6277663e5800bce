/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_user.h - what the files of the vfio-user client share: the connection and one request on it.
 * The contract of the backend is unvmm/vf.h, the protocol is unvmm/vfio_user.h.
 *
 * Thread: any; a lock is held from a request to its answer, and while a server's command is served.
 */
#ifndef VF_USER_H
#define VF_USER_H

#include <pthread.h>
#include <sys/uio.h>

#include <unvmm/loop.h>
#include <unvmm/vf.h>
#include <unvmm/vfio_user.h>

#include "vf_events.h"

/* What the client says that it can do. A DMA_READ's answer must fit into VFIO_USER_SEND_MAX. */
#define VF_USER_MSG_FDS	  64
#define VF_USER_DATA_XFER 16384

#define VF_USER_FDS_MAX	      253 /* what one SCM_RIGHTS can carry (SCM_MAX_FD of the kernel) */
#define VF_USER_DOORBELLS_MAX 4096
#define VF_USER_MAPS_MAX      1024 /* of ours: RAM regions and windows, a handful */

/* Guest memory, or a window of ours, as the server's DMA_READ and DMA_WRITE reach it. */
struct vf_user_map {
	uint64_t iova, size;
	uint8_t *hva;
};

/* A doorbell of the server's that has been handed out. */
struct vf_user_doorbell {
	unsigned int region, len;
	uint32_t value;
	int fd;
	uint64_t off;
};

struct vf_user {
	struct vf vf;
	pthread_mutex_t lock; /* one request at a time; protects what follows */
	int sock;
	uint16_t id;	    /* of the last request */
	bool logging;	    /* DMA logging has been started */
	unsigned int wired; /* vectors */
	struct vf_user_map *maps;
	unsigned int nmaps;
	struct vf_user_doorbell *doorbells; /* of the vf thread */
	unsigned int ndoorbells;

	/* Constant after open. */
	unsigned int max_fds;	/* of the server: descriptors per message */
	uint64_t max_xfer;	/* ... bytes of data per message */
	uint64_t max_maps;	/* ... mappings */
	uint32_t nirqs;		/* kinds of interrupts that it knows */
	struct vf_mig_caps mig; /* all zero: it cannot migrate */
	int sink; /* an eventfd that nobody reads: vectors that are wired to nothing */
	struct {
		int fd;		 /* what mmap() of the region takes, or -1 */
		uint64_t offset; /* of the region in it */
	} regions[VF_REGIONS];

	struct vf_user_watch *watch; /* NULL: without a loop */
	struct vf_events *events;    /* likewise */
};

/*
 * The socket in the vf thread's loop. It outlives the function: close() takes the function out
 * under the lock, and the loop's thread frees the rest on its next turn.
 */
struct vf_user_watch {
	pthread_mutex_t lock; /* before vf_user.lock */
	struct vf_user *u;    /* NULL: closed */
	struct loop *loop;
	struct loop_fd fd;
	struct loop_work attach, lost, detach;
};

static inline struct vf_user *vf_user_of(struct vf *vf)
{
	return container_of(vf, struct vf_user, vf);
}

/* A request and its answer. What is not set is none. */
struct vf_user_call {
	uint16_t cmd;
	unsigned int ms;     /* deadline; 0: VF_CALL_MS */
	struct iovec out[2]; /* the body */
	const int *fds;	     /* that go along; they stay the caller's */
	unsigned int nfds;
	void *in; /* the answer's body: at least in_min and at most in_max bytes */
	size_t in_min, in_max;
	size_t in_len; /* out: how many came */
	int *in_fds;   /* out: descriptors, then the caller's; surplus ones are closed */
	unsigned int in_fds_max, in_nfds;
};

/*
 * 0, or the server's -errno (its error answers carry no body that anybody wants), or -ETIMEDOUT,
 * -EPROTO, -ECONNRESET: the function is lost then; -ENODEV if it was before.
 */
int vf_user_call(struct vf_user *u, struct vf_user_call *c) must_check;

/* The function is lost, for the reason that follows. err is returned. Lock held. */
int vf_user_lost(struct vf_user *u, int err, const char *fmt, ...) printf_like(3, 4);

/* There is something to read and no request under way: serves the server's command. */
void vf_user_idle(struct vf_user *u);

/*
 * vf_user_open() behind connect(): takes over the descriptor. `name` is for sentences. Tests and
 * fuzzers come in here with a socketpair.
 */
int vf_user_attach(struct loop *loop, int sock, const char *name, struct vf **vf,
		   struct diag *d) must_check;

/* VERSION to the first RESET: fills info and what is constant. (vf_user_open.c) */
int vf_user_negotiate(struct vf_user *u, struct diag *d) must_check;

/* The sentence about a request of vf_user_open() that failed. Returns err. (vf_user_open.c) */
int vf_user_refused(struct vf_user *u, struct diag *d, int err, const char *what);

/* One struct in, one out, sizes fixed: what most of the requests are. */
int vf_user_simple(struct vf_user *u, uint16_t cmd, const void *out, size_t out_len, void *in,
		   size_t in_len) must_check;

/* PCI command: memory decoding on, bus mastering off. */
int vf_user_quiet(struct vf_user *u) must_check;

/* Of struct vf_ops, what is not in vf_user.c: vf_user_event.c ... */
int vf_user_check(const struct vf_user *u, unsigned int region, uint64_t off,
		  unsigned int len) must_check;
int vf_user_doorbell_fd(struct vf *vf, unsigned int region, uint64_t off, unsigned int len,
			uint32_t value, int *fd);
int vf_user_irq_set(struct vf *vf, const int *fds, unsigned int n);
/* Error and request events. */
extern const struct vf_events_ops vf_user_events;

/* ... and vf_user_mig.c. */
void vf_user_mig_probe(struct vf_user *u);
int vf_user_mig_caps(struct vf *vf, struct vf_mig_caps *caps);
int vf_user_mig_state(struct vf *vf, uint32_t state);
int vf_user_mig_state_get(struct vf *vf, uint32_t *state);
int vf_user_mig_read(struct vf *vf, void *buf, size_t cap, size_t *len);
int vf_user_mig_write(struct vf *vf, const void *buf, size_t len);
int vf_user_log_start(struct vf *vf, const struct vf_range *ranges, unsigned int n);
int vf_user_log_stop(struct vf *vf);
int vf_user_log_report(struct vf *vf, uint64_t iova, uint64_t size, uint64_t *bitmap);

#endif
