/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio_container.h - the VFIO container of a VM: one I/O address space for all
 * functions that the kernel assigns to it, so that guest memory is pinned and
 * mapped once. Private to the VFIO backend.
 *
 * vm->vfio is the container; it comes with the first function and goes with the
 * last. Each function has a slot in it, and a mapping stays as long as one of
 * the functions that asked for it.
 *
 * Thread: get, put and groups by main; maps by main or the vf thread (a lock of
 * its own). Blocks on kernel calls: mapping pins memory, which takes seconds
 * for many GiB.
 */
#ifndef UNVMM_VFIO_CONTAINER_H
#define UNVMM_VFIO_CONTAINER_H

#include <pthread.h>

#include <unvmm/vf.h>

#include "vfio_info.h"

#define VFIO_SLOTS_MAX 64 /* functions of one VM: a bit each in vfio_map.users */

/* The kernel as this backend reaches it: a test puts another one in its place.
 */
struct vfio_kernel {
	const char *root; /* stands before /dev and /sys */
	/* 0 or more, or -errno. */
	int (*ioctl)(const struct vfio_kernel *k, int fd, unsigned long request, void *arg);
};

extern const struct vfio_kernel vfio_real_kernel;

struct vfio_group {
	unsigned int id;
	int fd;
	unsigned int refs; /* functions */
	bool kvm_knows;
	struct vfio_group *next;
};

struct vfio_map {
	uint64_t iova, size;
	void *hva;
	uint64_t users; /* slots */
};

struct vfio {
	struct vm *vm;
	const struct vfio_kernel *kernel;
	int fd;
	uint64_t slots;					 /* taken */
	char addresses[VFIO_SLOTS_MAX][PCI_ADDRESS_LEN]; /* of the functions in them */
	struct vfio_group *groups;
	bool coherent;
	uint64_t memlock;	 /* RLIMIT_MEMLOCK; a sandbox answers no questions later */
	pthread_mutex_t lock;	 /* protects what follows */
	struct vfio_iommu iommu; /* of the groups so far */
	struct vfio_map *maps;
	unsigned int nmaps;
	uint64_t locked; /* bytes in maps */
};

/*
 * Takes a slot in the VM's container for the function at `address`, makes the
 * container if there is none, and puts the function's IOMMU group into it.
 * -errno with a sentence.
 */
int vfio_join(struct vm *vm, const struct vfio_kernel *kernel, const char *address,
	      struct vfio **vfio, struct vfio_group **group, unsigned int *slot,
	      struct diag *d) must_check;
/* Unmaps what only this function mapped and leaves; its device descriptor is
 * closed. */
void vfio_leave(struct vfio *v, struct vfio_group *group, unsigned int slot);

/* dma_map and dma_unmap of struct vf_ops. */
int vfio_map(struct vfio *v, unsigned int slot, const char *name, uint64_t iova, uint64_t size,
	     void *hva, struct diag *d) must_check;
int vfio_unmap(struct vfio *v, unsigned int slot, uint64_t iova, uint64_t size) must_check;

/*
 * An INFO ioctl whose answer has capabilities: *info (freed by the caller) is
 * all of it, `fixed` bytes of which were filled in as the question; *len its
 * length.
 */
int vfio_get_info(const struct vfio_kernel *k, int fd, unsigned long request, const void *question,
		  size_t fixed, void **info, size_t *len) must_check;

#endif
