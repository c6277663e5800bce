/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_contract.h - what unvmm/vf.h promises, checked on any opened function that is a plain virtio
 * one: the same checks for every backend. The function must not be in use; it is left reset, with
 * nothing mapped and nothing wired. Thread: the vf thread's part is played by the caller, so the
 * backend's loop is another one, or none.
 */
#ifndef UNVMM_TESTS_VF_CONTRACT_H
#define UNVMM_TESTS_VF_CONTRACT_H

#include <semaphore.h>

#include <unvmm/vf.h>

/* Has the function's side raise an event: VFIO_PCI_ERR_IRQ_INDEX or VFIO_PCI_REQ_IRQ_INDEX. */
struct vf_contract_events {
	void (*raise)(void *arg, uint32_t index);
	void *arg;
};

struct vf_contract {
	struct vf *vf;
	const struct vf_contract_events *events; /* NULL: nobody can */
	sem_t told;
	unsigned int requests, losses; /* atomic */
	struct gmem ram;
	unsigned int common_bar; /* where the common configuration is; VF_REGIONS: not found */
	uint64_t common;
	unsigned int notify_bar;
	uint64_t notify;
	char why[256]; /* of the check that failed */
};

struct vf_contract_check {
	const char *name;
	bool (*run)(struct vf_contract *c); /* false: c->why */
};

/* In the order in which they are to run; ends with a NULL name. */
extern const struct vf_contract_check vf_contract_checks[];

/* False if the memory for it cannot be had. end() does not close the function. */
bool vf_contract_begin(struct vf_contract *c, struct vf *vf) must_check;
void vf_contract_end(struct vf_contract *c);

/*
 * All checks on one function, which is lost then if there are events; prints "ok PREFIX NAME" or
 * "not ok PREFIX NAME - reason" for each. How many failed.
 */
unsigned int vf_contract_run(struct vf *vf, const struct vf_contract_events *events,
			     const char *prefix);

/* Descriptors of this process: the same before open and after close. */
unsigned int vf_contract_fds(void);

#endif
