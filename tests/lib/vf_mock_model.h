/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_mock_model.h - between the mock's backend and the function that it plays. The mock's lock is
 * held.
 */
#ifndef UNVMM_TESTS_VF_MOCK_MODEL_H
#define UNVMM_TESTS_VF_MOCK_MODEL_H

#include "vf_mock.h"

/* Registers of the common configuration; NULL: no access of that size belongs to one. */
const char *vf_model_register(uint64_t off, unsigned int len);
uint32_t vf_model_read(struct vf_mock *m, uint64_t off);
void vf_model_write(struct vf_mock *m, uint64_t off, uint32_t v);
/* A doorbell, `off` bytes into the notify structure. */
void vf_model_notify(struct vf_mock *m, uint64_t off, uint32_t v);
void vf_model_reset(struct vf_mock *m);

/* What a function that stands answers to anything else: nothing. */
bool vf_model_stands(const struct vf_mock *m);

/* A call: takes the lock, counts, fails when it is its turn; and its end. */
int vf_mock_enter(struct vf_mock *m);
int vf_mock_leave(struct vf_mock *m, int err);

/* vf_mock_mig.c: the backend's ops. */
int vf_mock_mig_caps(struct vf *vf, struct vf_mig_caps *caps);
int vf_mock_mig_state(struct vf *vf, uint32_t state);
int vf_mock_mig_state_get(struct vf *vf, uint32_t *state);
int vf_mock_mig_read(struct vf *vf, void *buf, size_t cap, size_t *len);
int vf_mock_mig_write(struct vf *vf, const void *buf, size_t len);
int vf_mock_log_start(struct vf *vf, const struct vf_range *ranges, unsigned int n);
int vf_mock_log_stop(struct vf *vf);
int vf_mock_log_report(struct vf *vf, uint64_t iova, uint64_t size, uint64_t *bitmap);

/* The mock's: one line into the log; a vector's eventfd. */
void vf_mock_note(struct vf_mock *m, const char *fmt, ...) printf_like(2, 3);
void vf_mock_signal(struct vf_mock *m, unsigned int vector);

#endif
