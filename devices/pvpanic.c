/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pvpanic.c - the port by which a guest kernel says that it has panicked. Source: QEMU's
 * docs/specs/pvpanic.txt, with the event bits of <misc/pvpanic.h>. Thread: control lock held.
 */
#include <errno.h>
#include <stdlib.h>

#include <misc/pvpanic.h>

#include <unvmm/log.h>
#include <unvmm/platform.h>
#include <unvmm/vm.h>

struct pvpanic {
	struct vm *vm;
	struct state_ref state;
	struct log_limit limit;
};

/* A read returns the events that the device knows. */
static uint64_t pvpanic_read(void *dev, uint64_t offset, unsigned int len)
{
	(void)dev;
	(void)offset;
	(void)len;
	return PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
}

static void pvpanic_write(void *dev, uint64_t offset, unsigned int len, uint64_t value)
{
	struct pvpanic *p = dev;

	(void)offset;
	(void)len;
	/*
	 * With a crash kernel loaded the guest deals with its panic itself and must go on running.
	 */
	if (value & PVPANIC_PANICKED)
		vm_request(p->vm, VM_EVENT_PANIC, 0);
	else if (value & PVPANIC_CRASH_LOADED)
		log_limited(&p->limit, LOG_WARN,
			    "the guest has panicked and is starting its crash kernel");
}

static const struct bus_ops pvpanic_ops = { .read = pvpanic_read, .write = pvpanic_write };

/* Nothing to carry, said by an empty table. */
static const struct state_desc pvpanic_desc = { .name = "pvpanic", .version = 1 };

static int pvpanic_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	struct pvpanic *p = calloc(1, sizeof(*p));
	int ret;

	(void)conf;
	if (!p)
		return diag_set(d, -ENOMEM, "no memory for the pvpanic port");
	ret = bus_add(&vm->pio, PLAT_PVPANIC_PORT, 1, &pvpanic_ops, p, "pvpanic");
	if (ret) {
		free(p);
		return diag_errno(d, ret, "pvpanic port at %#x", PLAT_PVPANIC_PORT);
	}
	p->vm = vm;
	p->state = (struct state_ref){ .desc = &pvpanic_desc, .obj = p };
	dev->priv = p;
	dev->state = &p->state;
	dev->nstate = 1;
	return 0;
}

static int pvpanic_reset(struct device *dev, struct diag *d)
{
	(void)dev;
	(void)d;
	return 0;
}

static void pvpanic_destroy(struct device *dev)
{
	struct pvpanic *p = dev->priv;

	bus_remove(&p->vm->pio, PLAT_PVPANIC_PORT);
	free(p);
}

const struct device_class pvpanic_class = {
	.name = "pvpanic",
	.id = "pvpanic",
	.create = pvpanic_create,
	.reset = pvpanic_reset,
	.destroy = pvpanic_destroy,
};
