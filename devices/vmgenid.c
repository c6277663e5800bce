/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmgenid.c - the VM generation id: 128 random bits in guest memory that change when the guest
 * becomes a copy of itself, so that it does not go on with random numbers, leases and identities
 * that another copy has, too. A move keeps them. Source: Microsoft, "Virtual Machine Generation
 * ID" (2012); the guest finds them by the DSDT's VGEN, and hears of a change by GED0.
 * Thread: main; the id is written while no vcpu runs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <unvmm/platform.h>
#include <unvmm/vm.h>

#define GENERATION_BYTES 16

struct vmgenid {
	uint8_t id[GENERATION_BYTES];
};

struct vmgenid_dev {
	struct vmgenid gen;
	/* Drawn by this process: its own guest's first id, or that of a copy that comes to it. */
	uint8_t own[GENERATION_BYTES];
	struct vm *vm;
	struct state_ref state;
};

static const struct state_field vmgenid_fields[] = {
	STATE_RAW(struct vmgenid, id),
};

static const struct state_desc vmgenid_desc = {
	.name = "vmgenid",
	.version = 1,
	.obj_size = sizeof(struct vmgenid),
	.fields = vmgenid_fields,
	.nfields = ARRAY_SIZE(vmgenid_fields),
};

static int vmgenid_publish(struct vmgenid_dev *g)
{
	return gmem_write(&g->vm->mem, PLAT_VMGENID, g->gen.id, sizeof(g->gen.id));
}

/* The same machine boots again; whoever ran in it may have written over the id. */
static int vmgenid_reset(struct device *dev, struct diag *d)
{
	int err = vmgenid_publish(dev->priv);

	return err ? diag_errno(d, err, "VM generation id at %#x", PLAT_VMGENID) : 0;
}

static void vmgenid_cloned(struct device *dev)
{
	struct vmgenid_dev *g = dev->priv;

	memcpy(g->gen.id, g->own, sizeof(g->gen.id));
	/* Where it lies was checked by create(). */
	if (vmgenid_publish(g))
		return;
	/* An edge, as GED0 has it: the guest hears of it once. */
	irq_line(&g->vm->irq, PLAT_GSI_GED, true);
	irq_line(&g->vm->irq, PLAT_GSI_GED, false);
}

static void vmgenid_info(const struct device *dev, struct report *r)
{
	const struct vmgenid_dev *g = dev->priv;
	char text[2 * GENERATION_BYTES + 1];

	for (unsigned int i = 0; i < GENERATION_BYTES; i++)
		snprintf(text + 2 * i, 3, "%02x", g->gen.id[i]);
	report_text(r, "generation", "%s", text);
}

static int vmgenid_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	struct vmgenid_dev *g = calloc(1, sizeof(*g));
	int err = 0;

	(void)conf;
	if (!g)
		return diag_set(d, -ENOMEM, "no memory for the VM generation id");
	g->vm = vm;
	if (getrandom(g->own, sizeof(g->own), 0) != (ssize_t)sizeof(g->own))
		err = diag_errno(d, -errno, "VM generation id: the host gives no random numbers");
	memcpy(g->gen.id, g->own, sizeof(g->gen.id));
	if (!err && !gmem_ptr(&vm->mem, PLAT_VMGENID, sizeof(g->gen.id)))
		err = diag_set(d, -EFAULT, "VM generation id: %#x is no guest memory",
			       PLAT_VMGENID);
	/* The memory of a guest that is yet to come stays untouched. */
	if (!err && !vm->config->incoming && vmgenid_publish(g))
		err = diag_set(d, -EFAULT, "VM generation id at %#x", PLAT_VMGENID);
	if (err) {
		free(g);
		return err;
	}
	g->state = (struct state_ref){ .desc = &vmgenid_desc, .obj = &g->gen };
	dev->priv = g;
	dev->state = &g->state;
	dev->nstate = 1;
	return 0;
}

static void vmgenid_destroy(struct device *dev)
{
	free(dev->priv);
}

const struct device_class vmgenid_class = {
	.name = "vmgenid",
	.id = "vmgenid",
	.create = vmgenid_create,
	.reset = vmgenid_reset,
	.cloned = vmgenid_cloned,
	.info = vmgenid_info,
	.destroy = vmgenid_destroy,
};
