/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_vfio.h - the kernel's VFIO for unit tests of devices/vf_vfio.c: /dev and /sys are files
 * below a folder, a memfd is each device's file, the ioctls are answered as Linux 6.1 would, or
 * fail where a test wants it. Two functions are in IOMMU group 7, one in group 8. The test's
 * thread, one machine.
 */
#ifndef UNVMM_TESTS_FAKE_VFIO_H
#define UNVMM_TESTS_FAKE_VFIO_H

#include "vfio_container.h"

#define FAKE_VFIO_VECTORS   5
#define FAKE_VFIO_REGION_AT 20 /* a region begins at its index << this */
#define FAKE_VFIO_BAR	    4  /* the only one */
#define FAKE_VFIO_BAR_SIZE  0x4000
#define FAKE_VFIO_A	    "0000:03:00.2"
#define FAKE_VFIO_A2	    "0000:03:00.3" /* in the same group */
#define FAKE_VFIO_B	    "0000:04:00.0"

extern struct fake_vfio {

	struct vfio_kernel k;
	char root[64];
	unsigned int calls, fail_at; /* the fail_at-th ioctl answers fail_with; 0: none */
	unsigned long fail_request;  /* ... or each one of this number */
	int fail_with;
	unsigned long failed; /* the request that did */
	bool not_viable, can_reset, migrates;
	unsigned int groups_set, maps, unmaps, set_irqs;
	int vectors[FAKE_VFIO_VECTORS]; /* dup()s of what is wired */
	unsigned int nvectors;
	int error_fd, request_fd;
	unsigned int doorbells;
	uint64_t doorbell_at, doorbell_value;
	unsigned int resets;
	uint32_t mig_state;
	int mig_pipe[2];
	bool logging;
} fake_vfio;

/* A new kernel with its folder; 0 or -1. The end of it: all descriptors that it was given closed.
 */
int fake_vfio_start(void);
int fake_vfio_end(void);

/* Runs a shell command in the folder, which must succeed. */
void fake_vfio_shell(const char *command);

/* The kernel closes what it was given (eventfds of interrupts and events). */
void fake_vfio_drop_events(void);

#endif
