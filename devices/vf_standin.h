/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_standin.h - a software device in the place of an assigned function, on a host that has none.
 * Private to devices/. Main thread.
 */
#ifndef UNVMM_DEVICES_VF_STANDIN_H
#define UNVMM_DEVICES_VF_STANDIN_H

#include <unvmm/diag.h>

struct device;
struct vm;

/* Of the group in vfs. Texts may be NULL or empty; they live as long as the machine. */
struct vf_standin_conf {
	char *disk, *serial;
	bool shared;
	char *tap, *mac;
	bool passt, loopback;
	int64_t queues; /* 0: one */
};

/* How many of disk, tap, passt and loopback the group has. */
unsigned int vf_standin_named(const struct vf_standin_conf *c);

/*
 * For device_class.create: makes the software device, and `dev` one of its class, which keeps the
 * name of the functions' and their state tables.
 */
int vf_standin_create(struct vm *vm, struct device *dev, const struct vf_standin_conf *c,
		      struct diag *d) must_check;
/* The same in a struct device of its own, in none of the machine's lists; its destroy() frees that.
 */
int vf_standin_spare(struct vm *vm, const char *id, const struct vf_standin_conf *c,
		     struct device **spare, struct diag *d) must_check;

#endif
