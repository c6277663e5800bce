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

/* The mock's: one line into the log; a vector's eventfd. */
void vf_mock_note(struct vf_mock *m, const char *fmt, ...) printf_like(2, 3);
void vf_mock_signal(struct vf_mock *m, unsigned int vector);

#endif
