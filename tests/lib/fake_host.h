/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_host.h - a tree of files that stands for a host: what /sys, /proc and /dev would show. And a
 * kernel for it, a thread that does what is asked through driver_override, unbind and
 * drivers_probe. Folders on the way to a file are made.
 */
#ifndef UNVMM_TESTS_FAKE_HOST_H
#define UNVMM_TESTS_FAKE_HOST_H

#include <pthread.h>

#include <unvmm/compiler.h>

#define FAKE_FUNCTIONS 8

struct fake_host {
	char path[64];
	int root; /* for sysfs_*() */
	/* The kernel, once it has been started. */
	pthread_t kernel;
	int stop, probe_fd, unbind_fd[2];
	_Atomic bool refuses_vfio;   /* vfio-pci does not take functions */
	_Atomic bool keeps_driver;   /* unbinding never ends */
	_Atomic bool without_nodes;  /* /dev/vfio/N does not come */
	_Atomic bool without_virtio; /* that driver is not loaded */
};

void fake_host_init(struct fake_host *h);
void fake_host_fini(struct fake_host *h);

void fake_host_file(struct fake_host *h, const char *text, const char *fmt, ...) printf_like(3, 4);
void fake_host_bytes(struct fake_host *h, const void *bytes, size_t n, const char *path);
void fake_host_link(struct fake_host *h, const char *target, const char *fmt, ...)
	printf_like(3, 4);
void fake_host_remove(struct fake_host *h, const char *fmt, ...) printf_like(2, 3);

/* A PCI function with these IDs, in an IOMMU group (-1: none), with a driver (NULL: none). */
void fake_host_function(struct fake_host *h, const char *address, unsigned int vendor,
			unsigned int device, int group, const char *driver);

/* With the drivers vfio-pci and virtio-pci. */
void fake_host_start_kernel(struct fake_host *h);

#endif
