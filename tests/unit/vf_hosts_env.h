/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_hosts_env.h - relay_env.h twice: two machines with a mock each are two hosts, between which a
 * guest is moved. Included once by each test program that uses it.
 */
#ifndef UNVMM_TESTS_VF_HOSTS_ENV_H
#define UNVMM_TESTS_VF_HOSTS_ENV_H

#include "relay_env.h"

#include <unvmm/state_io.h>

#define BOTH (VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P)

static struct diag diag;

/* --- two hosts -------------------------------------------------------------------------------- */

struct host {
	struct env e;
	struct vf_mock *m;
};

/* What is asked of the mock from here on is asked of this one's. */
static inline void at(struct host *h)
{
	mock = h->m;
}

static inline void host_begin(struct host *h, uint16_t id, uint16_t nqueues, uint64_t flags,
			      bool log)
{
	env_begin(&h->e, id, nqueues);
	h->m = mock;
	mock->features |= RING_RESET;
	mock->mig_flags = flags;
	mock->mig_log = log;
}

static inline void host_open(struct host *h)
{
	at(h);
	diag.text[0] = 0;
	if (env_create(&h->e, &diag))
		fail_msg("%s", diag.text);
	/* As the machine does. */
	h->e.dev.next = h->e.f->vm.devices;
	h->e.f->vm.devices = &h->e.dev;
}

static inline void host_end(struct host *h)
{
	at(h);
	h->e.f->vm.devices = h->e.dev.next;
	MOCK_SET(fail_at, 0);
	env_end(&h->e);
}

/* Everything up to the switch: the guest has come to `index`, and the function is drained. */
static inline void source(struct host *h, uint16_t index)
{
	drive(&h->e, 0);
	guest_stands_at(&h->e, 0, index);
	mock->queues[0].next = index;
	enter_relay(&h->e);
}

static inline int quiesce(struct host *h)
{
	at(h);
	return vf_class.quiesce(&h->e.dev);
}

/* Tables, memory and rings go over; the bytes do, too, changed by `spoil`. */
static inline void move(struct host *from, struct host *to,
			void (*spoil)(uint8_t *bytes, size_t *len))
{
	struct state_load *load = NULL;
	const void *bytes;
	uint8_t *copy;
	size_t len;
	void *blob;

	if (state_save("vf0", from->e.dev.state, from->e.dev.nstate, &blob, &len, &diag) ||
	    state_parse("vf0", blob, len, to->e.dev.state, to->e.dev.nstate, &load, &diag))
		fail_msg("%s", diag.text);
	free(blob);
	at(to);
	vm_lock(&to->e.f->vm);
	to->e.vd->vdev.transport->quiesced = true;
	if (state_commit(load, &diag))
		fail_msg("%s", diag.text);
	vm_unlock(&to->e.f->vm);
	state_load_free(load);
	memcpy(gmem_ptr(&to->e.f->vm.mem, 0, MiB(16)), gmem_ptr(&from->e.f->vm.mem, 0, MiB(16)),
	       MiB(16));
	for (unsigned int q = 0; q < to->e.vd->vdev.nqueues; q++) {
		struct vq_driver *d = &to->e.d[q];

		*d = from->e.d[q];
		d->mem = &to->e.f->vm.mem;
		d->desc = vqd_at(d, d->layout.desc, 16);
		d->avail = vqd_at(d, d->layout.avail, 4);
		d->used = vqd_at(d, d->layout.used, 4);
	}
	vf_class.opaque_get(&from->e.dev, &bytes, &len);
	copy = malloc(len + 1);
	assert_non_null(copy);
	memcpy(copy, bytes ? bytes : "", len);
	if (spoil)
		spoil(copy, &len);
	if (len)
		vf_class.opaque_put(&to->e.dev, copy, len);
	free(copy);
}

static inline void go_on(struct host *h, enum vf_path path)
{
	at(h);
	vf_class.resume(&h->e.dev);
	assert_true(wait_until(&h->e, is_up));
	env_barrier(&h->e);
	assert_int_equal(path_of(&h->e, 0), path);
	guest_post(&h->e, 0, 3);
	fn_serve(0, 3);
	assert_int_equal(guest_collect(&h->e, 0, 3, NULL), 3);
}

static inline const char *rung(struct host *h)
{
	const char *by;

	vm_lock(&h->e.f->vm);
	by = h->e.vd->by ? h->e.vd->by : "none";
	vm_unlock(&h->e.f->vm);
	return by;
}

/* The states that the function was told to go to, in that order. */
static inline void expect_states(struct host *h, const char *want)
{
	char *log = vf_mock_take_log(h->m), got[64] = "", *p = log;

	while ((p = strstr(p, "state "))) {
		if (p == log || p[-1] == '\n')
			strncat(got, p + 6, 1);
		p += 6;
	}
	free(log);
	assert_string_equal(got, want);
}

#endif
