/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exit_port.c - the exit-status port for tests: writing byte v ends the machine, and unvmm exits
 * with status v. Thread: control lock held.
 */
#include <errno.h>
#include <stdlib.h>

#include <unvmm/platform.h>
#include <unvmm/vm.h>

struct exit_port {
	struct vm *vm;
	struct state_ref state;
};

static uint64_t exit_port_read(void *dev, uint64_t offset, unsigned int len)
{
	(void)dev;
	(void)offset;
	(void)len;
	return UINT64_MAX;
}

static void exit_port_write(void *dev, uint64_t offset, unsigned int len, uint64_t value)
{
	struct exit_port *p = dev;

	(void)offset;
	(void)len;
	vm_request(p->vm, VM_EVENT_EXIT_CODE, (uint8_t)value);
}

static const struct bus_ops exit_port_ops = { .read = exit_port_read, .write = exit_port_write };

/* Nothing to carry, said by an empty table. */
static const struct state_desc exit_port_desc = { .name = "exit-port", .version = 1 };

static int exit_port_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	struct exit_port *p = calloc(1, sizeof(*p));
	int ret;

	(void)conf;
	if (!p)
		return diag_set(d, -ENOMEM, "no memory for the exit-status port");
	ret = bus_add(&vm->pio, PLAT_EXIT_PORT, 1, &exit_port_ops, p, "exit port");
	if (ret) {
		free(p);
		return diag_errno(d, ret, "exit-status port at %#x", PLAT_EXIT_PORT);
	}
	p->vm = vm;
	p->state = (struct state_ref){ .desc = &exit_port_desc, .obj = p };
	dev->priv = p;
	dev->state = &p->state;
	dev->nstate = 1;
	return 0;
}

static int exit_port_reset(struct device *dev, struct diag *d)
{
	(void)dev;
	(void)d;
	return 0;
}

static void exit_port_destroy(struct device *dev)
{
	struct exit_port *p = dev->priv;

	bus_remove(&p->vm->pio, PLAT_EXIT_PORT);
	free(p);
}

const struct device_class exit_port_class = {
	.name = "exit-port",
	.id = "exit",
	.create = exit_port_create,
	.reset = exit_port_reset,
	.destroy = exit_port_destroy,
};
