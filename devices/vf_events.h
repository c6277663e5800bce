/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_events.h - VFIO's error and request events of a function (linux/vfio.h: VFIO_PCI_ERR_IRQ_INDEX
 * and VFIO_PCI_REQ_IRQ_INDEX), for the backends: one cannot go on, the other is asked for by its
 * host. Private to the backends. Opened and closed by main, calls back on the loop's thread.
 */
#ifndef UNVMM_VF_EVENTS_H
#define UNVMM_VF_EVENTS_H

#include <unvmm/vf.h>

struct vf_events;

struct vf_events_ops {
	/*
	 * Binds an interrupt index to an eventfd. An event that the function has not is no error;
	 * an error has its sentence.
	 */
	int (*wire)(struct vf *vf, uint32_t index, int fd, struct diag *d);
	/* Makes the function lost, for this reason. */
	void (*error)(struct vf *vf, const char *why);
};

/* The request event calls vf->request(), as often as it comes. */
int vf_events_open(struct vf_events **e, struct vf *vf, struct loop *loop,
		   const struct vf_events_ops *ops, struct diag *d) must_check;
/* When it returns nobody is called back any more. e NULL: there are none. */
void vf_events_close(struct vf_events *e);

#endif
