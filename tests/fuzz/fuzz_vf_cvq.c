/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_vf_cvq.c - the control queue of an assigned card, from the guest's side: a stream of
 * commands as a driver may lay them out, in front of a function that accepts, refuses, keeps silent
 * or gives back nonsense. What the function accepted must be a state that can travel and be
 * replayed.
 *
 * Input: one byte of features, then commands: answer (0 to 3), class, command, cut (where the bytes
 * are cut in two), length (2 bytes, little endian), data.
 */
#include "../unit/vf_env.h"

#include "net_command.h"

#define COMMANDS   64
#define LENGTH_MAX 16384u
#define DATA	   MiB(2)
#define PAIRS	   4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct env *env;

static void promise(bool kept)
{
	if (!kept)
		abort();
}

/* Once: a machine whose vf thread has nothing to do, since no vector wakes it. */
static void make_machine(void)
{
	struct diag d = { "" };

	env = calloc(1, sizeof(*env));
	promise(env);
	env_begin(env, VIRTIO_ID_NET, 2 * PAIRS + 1);
	conf_number(env, "queues", PAIRS);
	promise(!env_create(env, &d));
	mock->nirq = 0;
}

static uint64_t features_of(uint8_t bits)
{
	static const uint8_t optional[] = {
		VIRTIO_NET_F_CTRL_RX,
		VIRTIO_NET_F_CTRL_VLAN,
		VIRTIO_NET_F_CTRL_MAC_ADDR,
		VIRTIO_NET_F_MQ,
		VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
		VIRTIO_NET_F_GUEST_ANNOUNCE,
		VIRTIO_RING_F_EVENT_IDX,
	};
	uint64_t features = env->vd->vdev.offered;

	for (unsigned int i = 0; i < ARRAY_SIZE(optional); i++)
		if (!(bits & 1u << i))
			features &= ~VIRTIO_BIT(optional[i]);
	return features;
}

/* What vf.c does at DRIVER_OK, as far as it concerns the control queue. */
static void start(uint64_t features)
{
	struct vf_dev *vd = env->vd;
	struct vf_cvq *c = &vd->cvq;
	struct vf_plan plan = { .features = features & vd->offer.to_function, .nqueues = 1 };

	vd->negotiated = features;
	vf_cvq_forget(c);
	vf_cvq_plan(c, &plan.queues[0]);
	plan.queues[0].index = vf_cvq_function_queue(vd, features);
	promise(!vf_program_start(&vd->fn, &plan, NULL));
	free(vf_mock_take_log(mock));
	vqd_init(&env->d[0], &env->f->vm.mem, MiB(1), KiB(64), 16, features);
	promise(!vq_start(&c->vq, &env->f->vm.mem, &env->d[0].layout, features, 0));
	c->q = (unsigned int)vf_cvq_queue(vd, features);
	c->index = plan.queues[0].index;
	c->notify_off = plan.queues[0].notify_off;
	c->busy = VF_CVQ_IDLE;
	c->running = true;
}

static void check_state(void)
{
	const struct net_ctrl *c = &env->vd->cvq.ctrl;
	struct net_limits l = { env->vd->negotiated, NET_GUEST_OFFLOADS, PAIRS };
	struct net_ctrl blank, again;
	uint8_t buf[NET_COMMAND_MAX];
	unsigned int at = 0;
	uint32_t len;

	promise(c->uni.n <= NET_MACS_MAX && c->multi.n <= NET_MACS_MAX);
	promise(c->pairs && c->pairs <= PAIRS && !(c->offloads & ~NET_GUEST_OFFLOADS));
	/* The replay is made of commands that are good, and leads to the same state. */
	net_ctrl_blank(&blank, env->vd->own.net.mac);
	again = blank;
	while ((len = net_command_replay(c, &blank, &l, &at, buf))) {
		struct iovec iov = { .iov_base = buf, .iov_len = len };
		struct vq_bytes bytes = { &iov, &(gpa_t){ 0 }, 1, len };
		uint8_t class;

		promise(len <= sizeof(buf));
		promise(net_command(&again, &l, &bytes, &class) == VIRTIO_NET_OK);
	}
	if (c->uni.overflow || c->multi.overflow)
		return; /* replayed as more than it was */
	again.announce = c->announce;
	promise(!memcmp(&again, c, sizeof(again)));
}

/* False: the queue has come to its end, as it should. */
static bool command_is_answered(enum vm_answer answer, uint8_t cut, const uint8_t *bytes,
				uint32_t len)
{
	struct vf_cvq *c = &env->vd->cvq;
	uint32_t first = cut < len ? cut : len;
	/* A gap between the pieces, or they would be joined again. */
	struct vqd_buf bufs[3] = { { DATA, first, false },
				   { DATA + KiB(64), len - first, false },
				   { DATA + KiB(128), 1, true } };
	struct vring_used_elem e;
	uint8_t *ack = vqd_at(&env->d[0], DATA + KiB(128), 1);

	memcpy(vqd_at(&env->d[0], DATA, len + 1), bytes, first);
	memcpy(vqd_at(&env->d[0], DATA + KiB(64), len + 1), bytes + first, len - first);
	*ack = 0xee;
	vqd_post(&env->d[0], bufs, 3);
	(void)vqd_show(&env->d[0]);
	mock->answer = answer;
	vf_cvq_serve(c);
	vf_cvq_answered(c);
	if (!vqd_take(&env->d[0], &e)) {
		promise(c->busy != VF_CVQ_IDLE);
		return false;
	}
	promise(e.len == 1 && (*ack == VIRTIO_NET_OK || *ack == VIRTIO_NET_ERR));
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[2 + LENGTH_MAX];
	bool goes_on = true;

	if (!size)
		return 0;
	if (!env)
		make_machine();
	start(features_of(*data++));
	size--;
	for (unsigned int i = 0; i < COMMANDS && size >= 6 && goes_on; i++) {
		uint32_t len = data[4] | (uint32_t)data[5] << 8;
		enum vm_answer answer = (enum vm_answer)(data[0] % 4);
		uint8_t cut = data[3];

		bytes[0] = data[1];
		bytes[1] = data[2];
		data += 6;
		size -= 6;
		len = len < size ? len : (uint32_t)size;
		len = len < LENGTH_MAX ? len : LENGTH_MAX;
		memcpy(bytes + 2, data, len);
		data += len;
		size -= len;
		goes_on = command_is_answered(answer, cut, bytes, 2 + len);
		check_state();
	}
	vf_cvq_stop(&env->vd->cvq);
	return 0;
}
