/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migration.c - a function that can be moved: the states of VFIO's migration protocol v2
 * (linux/vfio.h), its state as a stream, and the log of its DMA. Main thread.
 *
 * The stream is one blob of state_io.h: the table below, then the device's own. It is taken in
 * STOP_COPY and put into place when RESUMING ends; it came from a peer and is checked before.
 */
#include "server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <unvmm/state_io.h>

#define LOG_PAGES_MAX (SERVER_DATA_MAX * 8u)

/* --- what travels ----------------------------------------------------------------------------- */

static const struct state_field queue_fields[] = {
	STATE_SCALAR_CHECK(STATE_U16, struct vdev_queue, size_max),
	STATE_SCALAR(STATE_U16, struct vdev_queue, size),
	STATE_SCALAR(STATE_U16, struct vdev_queue, vector),
	STATE_SCALAR(STATE_BOOL, struct vdev_queue, enabled),
	STATE_SCALAR(STATE_U64, struct vdev_queue, desc),
	STATE_SCALAR(STATE_U64, struct vdev_queue, driver),
	STATE_SCALAR(STATE_U64, struct vdev_queue, device),
	STATE_SCALAR(STATE_U16, struct vdev_queue, index),
};

static const struct state_desc queue_state = {
	.name = "queue",
	.version = 1,
	.obj_size = sizeof(struct vdev_queue),
	.fields = queue_fields,
	.nfields = ARRAY_SIZE(queue_fields),
};

/* A copy of what the registers and the journal hold. */
struct fn_state {
	uint16_t device_id, nqueues;
	uint64_t offered, driver_features, rung;
	uint8_t status, generation, isr;
	uint16_t config_vector;
	struct vdev_queue queues[VDEV_QUEUES_MAX];
	unsigned int nvectors;
	/* Of this function, for validate() and post_load(). */
	struct function *f;
};

static int state_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct fn_state *s = scratch, *l = live;

	if (s->driver_features & ~l->offered)
		return diag_set(d, -EINVAL, "features 0x%llx, of which some are not offered here",
				(unsigned long long)s->driver_features);
	for (unsigned int i = 0; i < VDEV_QUEUES_MAX; i++) {
		const struct vdev_queue *q = &s->queues[i];

		if (i >= l->nqueues && (q->enabled || q->size))
			return diag_set(d, -EINVAL, "queue %u, of which there is none", i);
		if (i < l->nqueues && (!is_power_of_2(q->size) || q->size > q->size_max))
			return diag_set(d, -EINVAL, "queue %u has a size of %u", i, q->size);
		if (q->vector != VIRTIO_MSI_NO_VECTOR && q->vector >= l->nvectors)
			return diag_set(d, -EINVAL, "queue %u has vector %u", i, q->vector);
	}
	if (s->config_vector != VIRTIO_MSI_NO_VECTOR && s->config_vector >= l->nvectors)
		return diag_set(d, -EINVAL, "configuration has vector %u", s->config_vector);
	return 0;
}

static int state_post_load(void *obj, struct diag *d)
{
	struct fn_state *s = obj;
	struct function *f = s->f;

	(void)d;
	f->driver_features = s->driver_features;
	f->v->negotiated =
		s->status & VIRTIO_CONFIG_S_FEATURES_OK ? s->driver_features & f->v->offered : 0;
	f->v->status = s->status;
	f->generation = s->generation;
	f->isr = s->isr;
	f->config_vector = s->config_vector;
	f->rung = s->rung;
	for (unsigned int i = 0; i < f->v->nqueues; i++) {
		int irq_fd = f->v->queues[i].irq_fd;

		f->v->queues[i] = s->queues[i];
		f->v->queues[i].irq_fd = irq_fd;
	}
	return 0;
}

static const struct state_field fn_fields[] = {
	STATE_SCALAR_CHECK(STATE_U16, struct fn_state, device_id),
	STATE_SCALAR_CHECK(STATE_U16, struct fn_state, nqueues),
	STATE_SCALAR(STATE_U64, struct fn_state, driver_features),
	STATE_SCALAR(STATE_U64, struct fn_state, rung),
	STATE_SCALAR(STATE_U8, struct fn_state, status),
	STATE_SCALAR(STATE_U8, struct fn_state, generation),
	STATE_SCALAR(STATE_U8, struct fn_state, isr),
	STATE_SCALAR(STATE_U16, struct fn_state, config_vector),
	STATE_ARRAY(struct fn_state, queues, queue_state),
};

static const struct state_desc fn_state = {
	.name = "function",
	.version = 1,
	.obj_size = sizeof(struct fn_state),
	.fields = fn_fields,
	.nfields = ARRAY_SIZE(fn_fields),
	.validate = state_validate,
	.post_load = state_post_load,
};

/* The function rests, so what the poll thread knows of its queues may be read. */
static void state_take(struct function *f, struct fn_state *s)
{
	memset(s, 0, sizeof(*s));
	s->f = f;
	s->device_id = f->v->device_id;
	s->nqueues = f->v->nqueues;
	s->nvectors = f->nvectors;
	s->offered = f->offered;
	s->driver_features = f->driver_features;
	s->status = f->v->status;
	s->generation = f->generation;
	s->isr = f->isr;
	s->config_vector = f->config_vector;
	for (unsigned int i = 0; i < f->v->nqueues; i++) {
		const struct vq *vq = &f->e.sq->queues[i].vq;
		uint16_t cell = __atomic_load_n(f->e.queues[i].cell, __ATOMIC_SEQ_CST);

		s->queues[i] = f->v->queues[i];
		if (!vq->running)
			continue;
		s->queues[i].index = vq->next_avail;
		/* What was rung for and not looked at, or not taken, is not rung for again. */
		if (cell == i || vq->budget || f->e.queues[i].look)
			s->rung |= 1ull << i;
	}
}

static unsigned int state_refs(struct function *f, struct fn_state *s, struct state_ref refs[2])
{
	unsigned int n = 0;

	state_take(f, s);
	refs[n++] = (struct state_ref){ .desc = &fn_state, .obj = s };
	if (f->dev.nstate > VIRTIO_PCI_STATES)
		refs[n++] = f->dev.state[VIRTIO_PCI_STATES];
	return n;
}

static int state_save_all(struct server *s)
{
	struct state_ref refs[2];
	struct fn_state state;
	struct diag d = { 0 };
	unsigned int n = state_refs(s->f, &state, refs);
	void *blob;
	int err = state_save("function", refs, n, &blob, &s->data_len, &d);

	if (err) {
		log_error("%s: its state cannot be saved: %s", s->f->dev.id, d.text);
		return err;
	}
	s->data = blob;
	s->data_at = 0;
	return 0;
}

static int state_load_all(struct server *s)
{
	struct state_load *load = NULL;
	struct state_ref refs[2];
	struct fn_state state;
	struct diag d = { 0 };
	unsigned int n = state_refs(s->f, &state, refs);
	int err = state_parse("function", s->data, s->data_len, refs, n, &load, &d);

	if (!err)
		err = state_commit(load, &d);
	state_load_free(load);
	if (err)
		log_limited(&s->limit, LOG_WARN, "%s: a state that cannot be loaded: %s",
			    s->f->dev.id, d.text);
	return err;
}

static void drop_data(struct server *s)
{
	free(s->data);
	s->data = NULL;
	s->data_len = s->data_at = 0;
}

void server_mig_reset(struct server *s)
{
	drop_data(s);
	s->state = VFIO_DEVICE_STATE_RUNNING;
}

/* --- states ----------------------------------------------------------------------------------- */

static bool stopped_state(uint32_t state)
{
	return state == VFIO_DEVICE_STATE_STOP || state == VFIO_DEVICE_STATE_STOP_COPY ||
	       state == VFIO_DEVICE_STATE_RESUMING;
}

/* No function of unvf reaches for another one's memory, so running is running. */
static bool running_state(uint32_t state)
{
	return state == VFIO_DEVICE_STATE_RUNNING || state == VFIO_DEVICE_STATE_RUNNING_P2P;
}

/* A request that the function never completes is nothing that could travel. */
static bool hangs(const struct function *f)
{
	for (unsigned int q = 0; q < f->v->nqueues; q++)
		if (f->e.queues[q].hung)
			return true;
	return false;
}

/* One arc of the state machine, the function resting. -EINVAL: there is no such arc. */
static int take_arc(struct server *s, uint32_t to)
{
	uint32_t from = s->state;
	int err = 0;

	if (from == VFIO_DEVICE_STATE_STOP && to == VFIO_DEVICE_STATE_STOP_COPY)
		err = state_save_all(s);
	else if (from == VFIO_DEVICE_STATE_STOP && to == VFIO_DEVICE_STATE_RESUMING)
		drop_data(s);
	else if (from == VFIO_DEVICE_STATE_RESUMING && to == VFIO_DEVICE_STATE_STOP) {
		err = s->data_len ? state_load_all(s) : 0;
		drop_data(s);
		if (err)
			to = VFIO_DEVICE_STATE_ERROR;
	} else if (from == VFIO_DEVICE_STATE_STOP_COPY && to == VFIO_DEVICE_STATE_STOP)
		drop_data(s);
	else if (!(stopped_state(from) && running_state(to)) &&
		 !(running_state(from) && (to == VFIO_DEVICE_STATE_STOP || running_state(to))))
		return -EINVAL;
	s->state = to;
	return err;
}

/* By way of STOP, where every path that is not a single arc leads through. */
static int take_path(struct server *s, uint32_t to)
{
	int err = 0;

	if (s->state != VFIO_DEVICE_STATE_STOP && to != VFIO_DEVICE_STATE_STOP &&
	    !(running_state(s->state) && running_state(to)))
		err = take_arc(s, VFIO_DEVICE_STATE_STOP);
	if (!err && s->state != to)
		err = take_arc(s, to);
	return err;
}

static void let_run(struct server *s)
{
	if (stopped_state(s->state) || s->state == VFIO_DEVICE_STATE_ERROR)
		s->f->paused |= FN_PAUSE_STATE;
	else
		s->f->paused &= ~FN_PAUSE_STATE;
	function_update(s->f);
}

/* The state in a SET, which has been checked to be there. */
static uint32_t state_in(const struct server *s)
{
	struct vfio_device_feature_mig_state state;

	memcpy(&state, server_body(s) + sizeof(struct vfio_device_feature), sizeof(state));
	return state.device_state;
}

static int state_set(struct server *s)
{
	const size_t len =
		sizeof(struct vfio_device_feature) + sizeof(struct vfio_device_feature_mig_state);
	uint32_t to = state_in(s);
	struct function *f = s->f;
	int err;

	if (!function_rests(f))
		return -EINPROGRESS;
	/* What is to be resumed replaces whatever has been there. */
	if (to == VFIO_DEVICE_STATE_RESUMING && f->run != FN_OFF) {
		f->reset_pending = true;
		function_update(f);
		return -EINPROGRESS;
	}
	err = hangs(f) && !running_state(to) ? -EIO : take_path(s, to);
	let_run(s);
	if (!err)
		memcpy(server_reply(s, len), server_body(s), len);
	return err;
}

static int set_state(struct server *s, uint32_t to)
{
	if (s->state == VFIO_DEVICE_STATE_ERROR || (!stopped_state(to) && !running_state(to)))
		return -EINVAL;
	s->f->paused |= FN_PAUSE_STATE;
	function_update(s->f);
	s->step = state_set;
	return -EINPROGRESS;
}

/* --- the stream ------------------------------------------------------------------------------- */

int server_mig_read(struct server *s)
{
	const struct vfio_user_mig_data *in = (const void *)server_body(s);
	struct vfio_user_mig_data *out;
	size_t len;

	if (server_body_len(s) < sizeof(*in) || in->size > SERVER_DATA_MAX ||
	    s->state != VFIO_DEVICE_STATE_STOP_COPY)
		return -EINVAL;
	len = s->data_len - s->data_at < in->size ? s->data_len - s->data_at : in->size;
#ifdef FUZZ_PLANT /* a bug for the fuzzer to find: as much as was asked for */
	len = in->size;
#endif
	out = server_reply(s, sizeof(*out) + len);
	*out = (struct vfio_user_mig_data){ .argsz = (uint32_t)(sizeof(*out) + len),
					    .size = (uint32_t)len };
	memcpy(out + 1, s->data + s->data_at, len);
	s->data_at += len;
	return 0;
}

int server_mig_write(struct server *s)
{
	const struct vfio_user_mig_data *in = (const void *)server_body(s);
	uint8_t *data;

	if (server_body_len(s) < sizeof(*in) || server_body_len(s) - sizeof(*in) < in->size ||
	    s->state != VFIO_DEVICE_STATE_RESUMING)
		return -EINVAL;
	if (in->size > STATE_BLOB_MAX - s->data_len)
		return -ENOSPC;
	data = realloc(s->data, s->data_len + in->size + 1);
	if (!data)
		return -ENOMEM;
	memcpy(data + s->data_len, in + 1, in->size);
	s->data = data;
	s->data_len += in->size;
	return 0;
}

/* --- the log of DMA --------------------------------------------------------------------------- */

/* Everything that is mapped is logged, whatever ranges are asked for. */
static int log_start(struct server *s, const uint8_t *data, size_t len)
{
	const struct vfio_user_log_start *c = (const void *)data;

	if (len < sizeof(*c) || !is_power_of_2(c->page_size) || c->page_size < PAGE_SIZE_4K ||
	    c->num_ranges > SERVER_LOG_RANGES ||
	    len - sizeof(*c) < c->num_ranges * sizeof(struct vfio_device_feature_dma_logging_range))
		return -EINVAL;
	return gmem_shared_log_start(&s->f->vm.mem);
}

/* The bits of 4 KiB pages, or of larger ones that any of theirs stands for. */
static int log_report(struct server *s, const uint8_t *data, size_t len)
{
	const struct vfio_user_log_report *r = (const void *)data;
	const struct vfio_device_feature *in = (const void *)server_body(s);
	size_t bytes, head = sizeof(*in) + sizeof(*r);
	uint8_t *out;

	if (len < sizeof(*r) || r->page_size != PAGE_SIZE_4K || !r->length ||
	    r->length / PAGE_SIZE_4K > LOG_PAGES_MAX)
		return -EINVAL;
	bytes = (r->length / PAGE_SIZE_4K + 63) / 64 * 8;
	if (in->argsz < head + bytes)
		return -EINVAL;
	out = server_reply(s, head + bytes);
	memcpy(out, in, head);
	memset(out + head, 0, bytes);
	return gmem_shared_log_fetch(&s->f->vm.mem, r->iova, r->length, (uint64_t *)(out + head));
}

/* --- features --------------------------------------------------------------------------------- */

/* Which of GET and SET there are; 0: the function does not have the feature. */
static uint32_t feature_ops(const struct server *s, uint32_t feature)
{
	const struct fn_options *o = &s->f->opt;

	switch (feature) {
	case VFIO_DEVICE_FEATURE_MIGRATION:
		return o->state ? VFIO_DEVICE_FEATURE_GET : 0;
	case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
		return o->state ? VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET : 0;
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
		return o->dirty_log ? VFIO_DEVICE_FEATURE_SET : 0;
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
		return o->dirty_log ? VFIO_DEVICE_FEATURE_GET : 0;
	default:
		return 0;
	}
}

static int get_u64(struct server *s, const void *value, size_t len)
{
	const struct vfio_device_feature *in = (const void *)server_body(s);
	struct vfio_device_feature *out;

	if (in->argsz < sizeof(*in) + len)
		return -EINVAL;
	out = server_reply(s, sizeof(*out) + len);
	out->argsz = (uint32_t)(sizeof(*out) + len);
	out->flags = in->flags;
	memcpy(out->data, value, len);
	return 0;
}

static int get_feature(struct server *s, uint32_t feature, const uint8_t *data, size_t len)
{
	const struct vfio_device_feature_migration caps = { .flags = VFIO_MIGRATION_STOP_COPY |
								     VFIO_MIGRATION_P2P };
	const struct vfio_device_feature_mig_state state = { .device_state = s->state,
							     .data_fd = -1 };

	if (feature == VFIO_DEVICE_FEATURE_MIGRATION)
		return get_u64(s, &caps, sizeof(caps));
	if (feature == VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE)
		return get_u64(s, &state, sizeof(state));
	return log_report(s, data, len);
}

static int set_feature(struct server *s, uint32_t feature, const uint8_t *data, size_t len)
{
	const struct vfio_device_feature_mig_state *state = (const void *)data;
	int err = 0;

	if (feature == VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE)
		return len < sizeof(*state) ? -EINVAL : set_state(s, state->device_state);
	if (feature == VFIO_DEVICE_FEATURE_DMA_LOGGING_START)
		err = log_start(s, data, len);
	else
		gmem_shared_log_stop(&s->f->vm.mem);
	if (!err)
		memcpy(server_reply(s, server_body_len(s)), server_body(s), server_body_len(s));
	return err;
}

int server_feature(struct server *s)
{
	const struct vfio_device_feature *in = (const void *)server_body(s);
	size_t len = server_body_len(s);
	uint32_t feature, ops, wanted;

	if (len < sizeof(*in) || in->argsz < sizeof(*in))
		return -EINVAL;
	feature = in->flags & VFIO_DEVICE_FEATURE_MASK;
	wanted = in->flags & (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET);
	ops = feature_ops(s, feature);
	if (!ops)
		return -ENOTTY;
	if (wanted & ~ops || in->flags & ~(VFIO_DEVICE_FEATURE_MASK | VFIO_DEVICE_FEATURE_GET |
					   VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_PROBE))
		return -EINVAL;
	if (in->flags & VFIO_DEVICE_FEATURE_PROBE) {
		memcpy(server_reply(s, sizeof(*in)), in, sizeof(*in));
		return 0;
	}
	if (!is_power_of_2(wanted))
		return -EINVAL;
	len -= sizeof(*in);
	return wanted == VFIO_DEVICE_FEATURE_GET ? get_feature(s, feature, in->data, len)
						 : set_feature(s, feature, in->data, len);
}
