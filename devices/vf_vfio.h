/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_vfio.h - a function that the kernel's VFIO assigns: what its source files
 * share. Private to the VFIO backend. Threads as in vf.h.
 */
#ifndef UNVMM_VF_VFIO_H
#define UNVMM_VF_VFIO_H

#include <unvmm/loop.h>
#include <unvmm/vf.h>

#include "vf_events.h"
#include "vfio_container.h"

/* A doorbell that the kernel rings: signals of fd become writes of value. */
struct vfio_doorbell {
	uint64_t at; /* in the device's file */
	uint32_t value;
	unsigned int len;
	int fd;
	bool ours;
};

struct vf_vfio {
	struct vf vf;
	const struct vfio_kernel *kernel;
	struct vfio *container;
	struct vfio_group *group;
	unsigned int slot; /* in the container */
	int fd;
	uint64_t offsets[VF_REGIONS];
	struct vf_events *events;
	/* Of the vf thread: */
	int *irq_fds;	     /* info.nvectors of them, as the kernel has them */
	unsigned int nwired; /* vectors that the kernel has enabled; 0: MSI-X is off */
	struct vfio_doorbell *doorbells;
	unsigned int ndoorbells;
	int mig_fd;   /* the data of a migration; -1: none under way */
	bool logging; /* the DMA log is on */
};

static inline struct vf_vfio *of_vf(struct vf *vf)
{
	return container_of(vf, struct vf_vfio, vf);
}

/* An ioctl of the device: 0 or more, or -errno; -ENODEV when the function is
 * lost. */
int vf_vfio_ioctl(struct vf_vfio *f, unsigned long request, void *arg) must_check;

/* vf_vfio_irq.c: MSI-X vectors, the kernel's doorbells, error and request
 * events. */
int vf_vfio_irq_set(struct vf *vf, const int *fds, unsigned int n) must_check;
int vf_vfio_doorbell_fd(struct vf *vf, unsigned int region, uint64_t off, unsigned int len,
			uint32_t value, int *fd) must_check;
extern const struct vf_events_ops vf_vfio_events;
void vf_vfio_irq_close(struct vf_vfio *f);

/* vf_vfio_mig.c: VFIO's migration protocol and DMA log. */
int vf_vfio_mig_caps(struct vf *vf, struct vf_mig_caps *caps) must_check;
int vf_vfio_mig_state(struct vf *vf, uint32_t state) must_check;
int vf_vfio_mig_state_get(struct vf *vf, uint32_t *state) must_check;
int vf_vfio_mig_read(struct vf *vf, void *buf, size_t cap, size_t *len) must_check;
int vf_vfio_mig_write(struct vf *vf, const void *buf, size_t len) must_check;
int vf_vfio_log_start(struct vf *vf, const struct vf_range *ranges, unsigned int n) must_check;
int vf_vfio_log_stop(struct vf *vf) must_check;
int vf_vfio_log_report(struct vf *vf, uint64_t iova, uint64_t size, uint64_t *bitmap) must_check;

/* vf_vfio_open() on a kernel of the caller's choice. */
int vf_vfio_open_on(const struct vfio_kernel *kernel, struct vm *vm, struct loop *loop,
		    const char *pci_address, struct vf **vf, struct diag *d) must_check;

#endif
