/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_program.c - the journal into the function: one table of register writes in the order in which
 * virtio 1.2, 3.1.1 has a driver initialise a device. It is walked at every DRIVER_OK of the guest,
 * and to replay the journal: after bus mastering came back, on a destination, after a migration
 * that failed. The vf thread.
 */
#include "vf_dev.h"

#include <errno.h>

#define S_DRIVER      (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)
#define S_FEATURES_OK (S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK)
#define S_DRIVER_OK   (S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)

enum step_kind {
	STEP_WRITE,
	STEP_CHECK, /* written, and must read back the same */
	STEP_RESET, /* status 0, until it reads 0 */
	STEP_NOTE,  /* only read, into the plan */
	STEP_BEGIN, /* where the queue begins, of functions that can be told */
};

struct step {
	const char *name;
	uint8_t offset, size;
	enum step_kind kind;
	bool per_queue; /* a run of these is walked once for every queue of the plan */
	uint32_t value; /* if there is no function */
	uint32_t (*of)(const struct vf_plan *p, const struct vf_plan_queue *q);
	const char *wrong; /* STEP_CHECK: what it means if it reads differently */
};

#define PLAN_VALUE(name, expr)                                                       \
	static uint32_t name(const struct vf_plan *p, const struct vf_plan_queue *q) \
	{                                                                            \
		(void)p;                                                             \
		(void)q;                                                             \
		return (uint32_t)(expr);                                             \
	}

PLAN_VALUE(features_low, p->features)
PLAN_VALUE(features_high, p->features >> 32)
PLAN_VALUE(queue_index, q->index)
PLAN_VALUE(queue_size, q->size)
PLAN_VALUE(queue_vector, q->vector)
PLAN_VALUE(desc_low, q->desc)
PLAN_VALUE(desc_high, q->desc >> 32)
PLAN_VALUE(driver_low, q->driver)
PLAN_VALUE(driver_high, q->driver >> 32)
PLAN_VALUE(device_low, q->device)
PLAN_VALUE(device_high, q->device >> 32)

#define REG(r, sz)   .offset = VIRTIO_PCI_COMMON_##r, .size = (sz)
#define QUEUE(r, sz) REG(r, sz), .per_queue = true

/* clang-format off */
static const struct step steps[] = {
	{ "reset",             REG(STATUS, 1), .kind = STEP_RESET },
	{ "ACKNOWLEDGE",       REG(STATUS, 1), .value = VIRTIO_CONFIG_S_ACKNOWLEDGE },
	{ "DRIVER",            REG(STATUS, 1), .value = S_DRIVER },
	{ "feature word",      REG(GFSELECT, 4), .value = 0 },
	{ "features 0-31",     REG(GF, 4), .of = features_low },
	{ "feature word",      REG(GFSELECT, 4), .value = 1 },
	{ "features 32-63",    REG(GF, 4), .of = features_high },
	{ "FEATURES_OK",       REG(STATUS, 1), .value = S_FEATURES_OK, .kind = STEP_CHECK,
	  .wrong = "it does not accept these features together" },
	{ "config vector",     REG(MSIX, 2), .value = 0, .kind = STEP_CHECK,
	  .wrong = "it has no vector for configuration changes" },
	{ "select",            QUEUE(Q_SELECT, 2), .of = queue_index },
	{ "size",              QUEUE(Q_SIZE, 2), .of = queue_size, .kind = STEP_CHECK,
	  .wrong = "it cannot have that many entries" },
	{ "vector",            QUEUE(Q_MSIX, 2), .of = queue_vector, .kind = STEP_CHECK,
	  .wrong = "it has no vector for the queue" },
	{ "doorbell",          QUEUE(Q_NOFF, 2), .kind = STEP_NOTE },
	{ "descriptors, low",  QUEUE(Q_DESCLO, 4), .of = desc_low },
	{ "descriptors, high", QUEUE(Q_DESCHI, 4), .of = desc_high },
	{ "driver area, low",  QUEUE(Q_AVAILLO, 4), .of = driver_low },
	{ "driver area, high", QUEUE(Q_AVAILHI, 4), .of = driver_high },
	{ "device area, low",  QUEUE(Q_USEDLO, 4), .of = device_low },
	{ "device area, high", QUEUE(Q_USEDHI, 4), .of = device_high },
	{ "ring index",        .per_queue = true, .kind = STEP_BEGIN },
	{ "enable",            QUEUE(Q_ENABLE, 2), .value = 1, .kind = STEP_CHECK,
	  .wrong = "it does not enable the queue" },
	{ "DRIVER_OK",         REG(STATUS, 1), .value = S_DRIVER_OK, .kind = STEP_CHECK,
	  .wrong = "it does not start" },
};
/* clang-format on */

static int check_back(struct vf_function *fn, const struct step *s, uint32_t wrote, struct diag *d)
{
	uint32_t got;
	int err = vf_reg_read(fn, s->offset, s->size, &got, d);

	if (err || got == wrote)
		return err;
	err = diag_set(d, -EPROTO, "%s: 0x%x was written and 0x%x is read", s->wrong, wrote, got);
	return vf_function_blame(fn, err, d);
}

static int note_doorbell(struct vf_function *fn, const struct step *s, struct vf_plan_queue *q,
			 struct diag *d)
{
	uint32_t v;
	int err = vf_reg_read(fn, s->offset, s->size, &v, d);

	if (!err)
		q->notify_off = (uint16_t)v;
	return err;
}

static int take_step(struct vf_function *fn, const struct step *s, const struct vf_plan *p,
		     struct vf_plan_queue *q, struct diag *d)
{
	uint32_t value = s->of ? s->of(p, q) : s->value;
	int err;

	if (__atomic_load_n(&fn->cancel, __ATOMIC_RELAXED))
		err = diag_set(d, -ECANCELED, "it is not wanted any more");
	else if (s->kind == STEP_RESET)
		err = vf_function_reset(fn, d);
	else if (s->kind == STEP_NOTE)
		err = note_doorbell(fn, s, q, d);
	else if (s->kind == STEP_BEGIN)
		err = p->ring_words ? vf_vendor_begin(fn, q->index, q->begin, d) : 0;
	else
		err = vf_reg_write(fn, s->offset, s->size, value, d);
	if (!err && s->kind == STEP_CHECK)
		err = check_back(fn, s, value, d);
	/* Of one that is gone the step says nothing. */
	if (err == -ENODEV)
		return err;
	if (err && s->per_queue)
		diag_prefix(d, "step \"%s\" of queue %u", s->name, q->index);
	else if (err)
		diag_prefix(d, "step \"%s\"", s->name);
	return err;
}

static int walk(struct vf_function *fn, struct vf_plan *p, struct diag *d)
{
	const struct step *s = steps, *end = steps + ARRAY_SIZE(steps), *run;
	int err = 0;

	while (s < end && !err) {
		if (!s->per_queue) {
			err = take_step(fn, s++, p, NULL, d);
			continue;
		}
		run = s;
		for (unsigned int q = 0; q < p->nqueues && !err; q++)
			for (s = run; s->per_queue && !err; s++)
				err = take_step(fn, s, p, &p->queues[q], d);
		while (s->per_queue)
			s++;
	}
	return err;
}

int vf_program_start(struct vf_function *fn, struct vf_plan *plan, struct diag *d)
{
	struct diag ignored = { "" };
	int err = vf_bus_master(fn, true, d);

	if (!err)
		err = walk(fn, plan, d);
	/* Half a driver is none. If even that fails the first sentence is the one to be told. */
	if (err && err != -ENODEV && vf_program_stop(fn, &ignored))
		diag_prefix(d, "it does not stop either");
	return err;
}

/* One queue anew, after a reset of its own (2.6.1): all but the last step, or just that. */
int vf_program_queue(struct vf_function *fn, const struct vf_plan *plan, struct vf_plan_queue *q,
		     bool enable, struct diag *d)
{
	int err = 0;

	for (const struct step *s = steps; s < steps + ARRAY_SIZE(steps) && !err; s++)
		if (s->per_queue && (s->offset == VIRTIO_PCI_COMMON_Q_ENABLE) == enable)
			err = take_step(fn, s, plan, q, d);
	return err;
}

/*
 * Status 0 is a request; only when it reads back has the function let go of memory (2.4.2). One
 * that does not answer is cut off from memory by its command register, and by a reset of the
 * function.
 */
int vf_program_stop(struct vf_function *fn, struct diag *d)
{
	bool cancel = __atomic_exchange_n(&fn->cancel, false, __ATOMIC_RELAXED);
	struct vf *vf = fn->vf;
	int err = vf_function_reset(fn, d), off;

	off = err == -ENODEV ? 0 : vf_bus_master(fn, false, d);
	if (err && err != -ENODEV && vf->info.can_reset && !vf->ops->reset(vf))
		err = 0;
	__atomic_store_n(&fn->cancel, cancel, __ATOMIC_RELAXED);
	return err ? err : off;
}
