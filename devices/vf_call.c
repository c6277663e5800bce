/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_call.c - has the vf thread do something, and waits for it: for creation and destruction of an
 * assigned function, when nobody holds the control lock. Main thread.
 */
#include "vf_dev.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

/* Each register access has a deadline of its own; these are some hundred of them. */
#define CALL_S 60

struct vf_call {
	struct loop_work work;
	struct vf_dev *vd;
	int (*fn)(struct vf_dev *vd, struct diag *d);
	struct diag d;
	int err;
	pthread_mutex_t lock;
	pthread_cond_t returned;
	bool done; /* under the lock */
};

static void call_work(struct loop_work *w)
{
	struct vf_call *c = container_of(w, struct vf_call, work);

	c->err = c->fn(c->vd, &c->d);
	pthread_mutex_lock(&c->lock);
	c->done = true;
	pthread_cond_signal(&c->returned);
	pthread_mutex_unlock(&c->lock);
}

static struct vf_call *call_new(struct vf_dev *vd, int (*fn)(struct vf_dev *vd, struct diag *d))
{
	struct vf_call *c = calloc(1, sizeof(*c));
	pthread_condattr_t attr;

	if (!c)
		return NULL;
	c->work.fn = call_work;
	c->vd = vd;
	c->fn = fn;
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->returned, &attr);
	pthread_condattr_destroy(&attr);
	return c;
}

int vf_call(struct vf_dev *vd, int (*fn)(struct vf_dev *vd, struct diag *d), struct diag *d)
{
	struct vf_call *c = call_new(vd, fn);
	struct timespec until;
	int err = 0;
	bool done;

	if (!c)
		return diag_errno(d, -ENOMEM, "%s", vd->vdev.id);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += CALL_S;
	loop_call(vd->loop, &c->work);
	pthread_mutex_lock(&c->lock);
	while (!c->done && !err)
		err = -pthread_cond_timedwait(&c->returned, &c->lock, &until);
	done = c->done;
	pthread_mutex_unlock(&c->lock);
	/* The call itself is left to the thread, which may come to it yet. */
	if (!done)
		return diag_set(d, -ETIMEDOUT, "the thread of assigned functions gives no answer");
	err = c->err;
	if (err && d)
		diag_set(d, err, "%s", c->d.text);
	pthread_cond_destroy(&c->returned);
	pthread_mutex_destroy(&c->lock);
	free(c);
	return err;
}
