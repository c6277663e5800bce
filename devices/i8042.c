/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8042.c - of the PC's keyboard controller only what a reboot needs: its output port, whose bit 0
 * is the reset line. There is no keyboard, and the FADT says so. Source: the 8042 commands of the
 * IBM PC/AT Technical Reference. Thread: control lock held.
 */
#include <errno.h>
#include <stdlib.h>

#include <unvmm/platform.h>
#include <unvmm/vm.h>

struct i8042 {
	struct vm *vm;
	struct state_ref state;
};

/* No data, input buffer empty: a driver that waits for either never waits. */
static uint64_t i8042_read(void *dev, uint64_t offset, unsigned int len)
{
	(void)dev;
	(void)offset;
	(void)len;
	return 0;
}

/* Commands 0xf0 to 0xff pulse those output lines low whose bit is clear. */
static void i8042_write_cmd(void *dev, uint64_t offset, unsigned int len, uint64_t value)
{
	struct i8042 *k = dev;

	(void)offset;
	if (len == 1 && (value & 0xf1) == 0xf0)
		vm_request(k->vm, VM_EVENT_REBOOT, 0);
}

static void i8042_write_data(void *dev, uint64_t offset, unsigned int len, uint64_t value)
{
	(void)dev;
	(void)offset;
	(void)len;
	(void)value;
}

static const struct bus_ops i8042_cmd_ops = { .read = i8042_read, .write = i8042_write_cmd };
static const struct bus_ops i8042_data_ops = { .read = i8042_read, .write = i8042_write_data };

/* Nothing to carry, said by an empty table. */
static const struct state_desc i8042_desc = { .name = "i8042", .version = 1 };

static int i8042_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	struct i8042 *k = calloc(1, sizeof(*k));
	int ret;

	(void)conf;
	if (!k)
		return diag_set(d, -ENOMEM, "no memory for the keyboard controller");
	k->vm = vm;
	k->state = (struct state_ref){ .desc = &i8042_desc, .obj = k };
	ret = bus_add(&vm->pio, PLAT_I8042_CMD, 1, &i8042_cmd_ops, k, "i8042");
	if (ret)
		goto err_free;
	ret = bus_add(&vm->pio, PLAT_I8042_DATA, 1, &i8042_data_ops, k, "i8042 data");
	if (ret)
		goto err_cmd;
	dev->priv = k;
	dev->state = &k->state;
	dev->nstate = 1;
	return 0;

err_cmd:
	bus_remove(&vm->pio, PLAT_I8042_CMD);
err_free:
	free(k);
	return diag_errno(d, ret, "I/O ports of the keyboard controller");
}

static int i8042_reset(struct device *dev, struct diag *d)
{
	(void)dev;
	(void)d;
	return 0;
}

static void i8042_destroy(struct device *dev)
{
	struct i8042 *k = dev->priv;

	bus_remove(&k->vm->pio, PLAT_I8042_CMD);
	bus_remove(&k->vm->pio, PLAT_I8042_DATA);
	free(k);
}

const struct device_class i8042_class = {
	.name = "i8042",
	.id = "i8042",
	.create = i8042_create,
	.reset = i8042_reset,
	.destroy = i8042_destroy,
};
