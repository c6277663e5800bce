/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_vf.h - a virtio function of this host as `unvmm vf` tells of it: what sysfs and its
 * configuration space say (cmd_vf_look.c), and, for one that vfio-pci has and no guest uses, what
 * the function itself says (cmd_vf_ask.c). Main thread.
 */
#ifndef UNVMM_VMM_CMD_VF_H
#define UNVMM_VMM_CMD_VF_H

#include <unvmm/vf_caps.h>

#include "sysfs.h"

#define VF_ASKED_QUEUES 64 /* more have no doorbell page of their own in a guest (design) */
#define VF_ASKED_AREAS	16

/* What can be learned only by opening the function. */
struct vf_answers {
	uint64_t features;
	uint16_t queue_size;		      /* at most, of queue 0 */
	unsigned int nqueues;		      /* in all */
	uint16_t notify_off[VF_ASKED_QUEUES]; /* queue_notify_off of the first ones */
	uint64_t mig_flags;		      /* VFIO_MIGRATION_*; 0: no migration support */
	bool dma_log;
	/* Parts of the BAR of the doorbells that VFIO maps. */
	unsigned int nareas;
	struct {
		uint64_t offset, size;
	} areas[VF_ASKED_AREAS];
};

enum vf_verdict {
	VF_NO,	 /* cannot be assigned; why says why */
	VF_BIND, /* can be, once it is bound to vfio-pci */
	VF_YES,
};

struct vf_view {
	struct sysfs_pci pci;
	uint16_t device_id;
	const char *type;
	bool has_caps; /* caps: it is a sound modern function */
	struct vf_caps caps;
	bool asked;
	struct vf_answers answers;
	bool has_negotiated;
	uint64_t negotiated; /* features that the host's own driver uses */
	enum vf_verdict verdict;
	char why[512];	  /* VF_NO */
	char remark[256]; /* why some things are not known, or what a guest's file needs; or "" */
	/* "mapped", "trapped", "2 of 4" or "?"; why not all. */
	char doorbells[32];
	char doorbells_why[256];
	const char *dirty, *restore;
};

/* True for a function with virtio's IDs (virtio 1.2, 4.1.2). */
bool vf_is_virtio(const struct sysfs_pci *f);
/* "net", "block", ..., "other". */
const char *vf_type(uint16_t device_id);
uint16_t vf_device_id(const struct sysfs_pci *f);

/* ask: open it if vfio-pci has it (only where root is this host's own "/"). */
void vf_look(int root, struct vf_view *v, const struct sysfs_pci *f, bool ask);

/* -EBUSY: a guest uses it. Nothing is changed that the next open would not reset. */
int vf_ask(struct vf_answers *a, const struct sysfs_pci *f, const struct vf_caps *caps,
	   struct diag *d) must_check;

#endif
