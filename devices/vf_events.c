/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_events.c - a function's error and request events as eventfds on the vf thread's loop. They
 * outlive the function: close takes it out under the lock, and the loop's thread frees the rest on
 * its next turn. Threads: vf_events.h.
 */
#include "vf_events.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <unvmm/loop.h>

struct vf_events {
	const struct vf_events_ops *ops;
	pthread_mutex_t lock;
	struct vf *vf; /* NULL: closed */
	struct loop *loop;
	struct loop_work attach, detach;
	struct loop_fd error, request;
	int error_fd, request_fd;
};

static void error_ready(struct loop_fd *lf, uint32_t revents)
{
	struct vf_events *e = container_of(lf, struct vf_events, error);

	(void)revents;
	pthread_mutex_lock(&e->lock);
	if (e->vf && !vf_gone(e->vf))
		e->ops->error(e->vf, "its PCI Express link reports an error that cannot be "
				     "corrected");
	pthread_mutex_unlock(&e->lock);
}

static void request_ready(struct loop_fd *lf, uint32_t revents)
{
	struct vf_events *e = container_of(lf, struct vf_events, request);

	(void)revents;
	pthread_mutex_lock(&e->lock);
	if (e->vf && e->vf->request)
		e->vf->request(e->vf);
	pthread_mutex_unlock(&e->lock);
}

static void attach_work(struct loop_work *w)
{
	struct vf_events *e = container_of(w, struct vf_events, attach);

	/* Not to be told is no reason to fail: an unbind on the host then waits for the VM's end.
	 */
	if (loop_add_eventfd(e->loop, &e->error, e->error_fd, error_ready))
		e->error.loop = NULL;
	if (loop_add_eventfd(e->loop, &e->request, e->request_fd, request_ready))
		e->request.loop = NULL;
}

static void free_events(struct vf_events *e)
{
	if (e->error_fd >= 0)
		close(e->error_fd);
	if (e->request_fd >= 0)
		close(e->request_fd);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

static void detach_work(struct loop_work *w)
{
	struct vf_events *e = container_of(w, struct vf_events, detach);

	loop_del(&e->error);
	loop_del(&e->request);
	free_events(e);
}

int vf_events_open(struct vf_events **events, struct vf *vf, struct loop *loop,
		   const struct vf_events_ops *ops, struct diag *d)
{
	struct vf_events *e = calloc(1, sizeof(*e));
	int err;

	if (!e)
		return diag_set(d, -ENOMEM, "%s: out of memory", vf->name);
	*e = (struct vf_events){ .ops = ops,
				 .vf = vf,
				 .loop = loop,
				 .attach.fn = attach_work,
				 .detach.fn = detach_work,
				 .error_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
				 .request_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	pthread_mutex_init(&e->lock, NULL);
	if (e->error_fd < 0 || e->request_fd < 0)
		err = diag_errno(d, -errno, "%s: eventfd", vf->name);
	else
		err = ops->wire(vf, VFIO_PCI_ERR_IRQ_INDEX, e->error_fd, d);
	if (!err)
		err = ops->wire(vf, VFIO_PCI_REQ_IRQ_INDEX, e->request_fd, d);
	if (err) {
		free_events(e);
		return err;
	}
	*events = e;
	loop_call(loop, &e->attach);
	return 0;
}

void vf_events_close(struct vf_events *e)
{
	if (!e)
		return;
	pthread_mutex_lock(&e->lock);
	e->vf = NULL;
	pthread_mutex_unlock(&e->lock);
	loop_call(e->loop, &e->detach);
}
