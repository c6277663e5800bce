/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine_state_desc.c - what a machine is, apart from what it does: the description that two hosts
 * compare before a guest moves, and the sentence that says why it cannot. Main thread, control lock
 * held. The description is a devicetree as state_io.h's, of the tables' CHECK fields:
 *
 *	/ {
 *		device = "machine";
 *		machine { type = [..]; memory = <..>; vcpus = <..>; ... };
 *		devices {
 *			blk0 { class = "virtio-blk"; <nodes of its tables> };
 *		};
 *	};
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <libfdt.h>

#include <unvmm/machine_state.h>
#include <unvmm/state_io.h>
#include <unvmm/vcpu_migrate.h>
#include <unvmm/vm.h>

#include "state_internal.h"

#define TYPE_MAX     16
#define CPUID_MAX    320
#define CPUID_WORDS  7 /* of an entry: function, index, flags, eax, ebx, ecx, edx */
#define PART_NAME    "machine"
#define DEVICES_NAME "devices"
#define CLASS_PROP   "class"

struct description {
	const struct vm *vm;
	char type[TYPE_MAX];
	uint64_t memory;
	uint32_t vcpus, tsc_khz, xsave_size;
	bool pit, kvm_clock;
	uint32_t cpuid_words;
	uint32_t cpuid[CPUID_MAX * CPUID_WORDS]; /* as vcpu 0 has it */
};

static uint32_t cpuid_used(const void *obj)
{
	return ((const struct description *)obj)->cpuid_words;
}

static const struct state_field machine_fields[] = {
	STATE_RAW(struct description, type),
	STATE_SCALAR(STATE_U64, struct description, memory),
	STATE_SCALAR(STATE_U32, struct description, vcpus),
	STATE_SCALAR(STATE_U32, struct description, tsc_khz),
	STATE_SCALAR(STATE_U32, struct description, xsave_size),
	STATE_SCALAR(STATE_BOOL, struct description, pit),
	STATE_SCALAR(STATE_BOOL, struct description, kvm_clock),
	STATE_SCALAR(STATE_U32, struct description, cpuid_words),
	{ .name = "cpuid",
	  .kind = STATE_U32,
	  .offset = offsetof(struct description, cpuid),
	  .size = 4,
	  .count = CPUID_MAX * CPUID_WORDS,
	  .used = cpuid_used },
};

/* --- the reasons -------------------------------------------------------------------------------
 */

static const uint32_t *cpuid_find(const struct description *m, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i + CPUID_WORDS <= m->cpuid_words; i += CPUID_WORDS)
		if (m->cpuid[i] == function && m->cpuid[i + 1] == index)
			return &m->cpuid[i];
	return NULL;
}

/* Everything that the guest has seen must stay as it is: it decides by it what it executes. */
static int check_cpuid(const struct description *guest, const struct description *own,
		       struct diag *d)
{
	static const char *const regs[] = { "eax", "ebx", "ecx", "edx" };

	if (guest->cpuid_words % CPUID_WORDS)
		return diag_set(d, -EINVAL, "cpuid_words is %u, must be a multiple of %d",
				guest->cpuid_words, CPUID_WORDS);
	for (uint32_t i = 0; i < guest->cpuid_words; i += CPUID_WORDS) {
		const uint32_t *g = &guest->cpuid[i], *o = cpuid_find(own, g[0], g[1]);

		for (unsigned int r = 0; r < ARRAY_SIZE(regs); r++) {
			uint32_t here = o ? o[3 + r] : 0;

			if (g[3 + r] != here)
				return diag_set(d, -ENOTSUP,
						"the guest's processor has 0x%08x in %s of CPUID "
						"leaf 0x%x.%u, this host's 0x%08x: they must be "
						"the same model",
						g[3 + r], regs[r], g[0], g[1], here);
		}
	}
	for (uint32_t i = 0; i < own->cpuid_words; i += CPUID_WORDS) {
		const uint32_t *o = &own->cpuid[i];

		if (!cpuid_find(guest, o[0], o[1]) && (o[3] | o[4] | o[5] | o[6]))
			return diag_set(d, -ENOTSUP,
					"this host's processor has CPUID leaf 0x%x.%u, the guest's "
					"has not: they must be the same model",
					o[0], o[1]);
	}
	return 0;
}

static const char *on_off(bool on)
{
	return on ? "true" : "false";
}

/* It is shown to a person. */
static bool is_name(const char type[TYPE_MAX])
{
	size_t len = strnlen(type, TYPE_MAX);

	for (size_t i = 0; i < len; i++)
		if (!isprint((unsigned char)type[i]))
			return false;
	return len > 0 && len < TYPE_MAX;
}

static int machine_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct description *g = scratch, *own = live;

	if (!is_name(g->type))
		return diag_set(d, -EINVAL, "the machine type is no name");
	if (memcmp(g->type, own->type, TYPE_MAX) != 0)
		return diag_set(d, -ENOTSUP,
				"the guest is a machine of type \"%s\", this is \"%s\"", g->type,
				own->type);
	if (g->memory != own->memory)
		return diag_set(d, -ENOTSUP,
				"the guest has %llu KiB of memory, this machine %llu KiB: set "
				"memory to the same",
				(unsigned long long)g->memory / 1024,
				(unsigned long long)own->memory / 1024);
	if (g->vcpus != own->vcpus)
		return diag_set(d, -ENOTSUP,
				"the guest has %u vcpus, this machine %u: set vcpus to the same",
				g->vcpus, own->vcpus);
	if (g->pit != own->pit)
		return diag_set(d, -ENOTSUP,
				"the guest was started with pit = %s, this machine "
				"with pit = %s",
				on_off(g->pit), on_off(own->pit));
	if (g->kvm_clock != own->kvm_clock)
		return diag_set(d, -ENOTSUP, "%s host's KVM has no kvm-clock that can be set",
				own->kvm_clock ? "the guest's" : "this");
	if (g->xsave_size != own->xsave_size)
		return diag_set(d, -ENOTSUP,
				"a vcpu's extended state has %u bytes on the guest's host, %u on "
				"this",
				g->xsave_size, own->xsave_size);
	if (check_cpuid(g, own, d))
		return -ENOTSUP;
	return vcpu_tsc_khz_check(&own->vm->vcpus->cpus[0], g->tsc_khz, d);
}

static const struct state_desc machine_desc = {
	.name = "machine",
	.version = 1,
	.obj_size = sizeof(struct description),
	.fields = machine_fields,
	.nfields = ARRAY_SIZE(machine_fields),
	.validate = machine_validate,
};

/* --- this machine ------------------------------------------------------------------------------
 */

static int describe(const struct vm *vm, struct description *m, struct diag *d)
{
	const struct kvm_cpuid2 *cpuid = vm->vcpus->cpuid;
	int err = kvm_vcpu_get_tsc_khz(vm->vcpus->cpus[0].fd, &m->tsc_khz);

	if (err)
		return diag_errno(d, err, "this host's KVM does not tell the rate of its TSC");
	if (cpuid->nent > CPUID_MAX)
		return diag_set(d, -ENOTSUP,
				"the processor has %u CPUID leaves, at most %d can be "
				"described",
				cpuid->nent, CPUID_MAX);
	m->vm = vm;
	snprintf(m->type, sizeof(m->type), "%s", vm->config->machine);
	m->memory = vm->config->memory;
	m->vcpus = vm->vcpus->n;
	m->xsave_size = (uint32_t)vm->kvm.xsave_size;
	m->pit = vm->config->pit;
	m->kvm_clock = vm->kvm.has_clock;
	m->cpuid_words = cpuid->nent * CPUID_WORDS;
	for (uint32_t i = 0; i < cpuid->nent; i++)
		memcpy(&m->cpuid[i * CPUID_WORDS], &cpuid->entries[i], CPUID_WORDS * 4);
	return 0;
}

static int description_new(const struct vm *vm, struct description **out, struct diag *d)
{
	struct description *m = calloc(1, sizeof(*m));
	int err;

	if (!m)
		return diag_set(d, -ENOMEM, "no memory for the machine's description");
	err = describe(vm, m, d);
	if (err)
		free(m);
	else
		*out = m;
	return err;
}

/* libfdt's errors. */
static int write_devices(void *fdt, const struct vm *vm)
{
	int ret = fdt_begin_node(fdt, DEVICES_NAME);

	for (const struct device *dev = vm->devices; dev && !ret; dev = dev->next) {
		ret = fdt_begin_node(fdt, dev->id);
		if (!ret)
			ret = fdt_property_string(fdt, CLASS_PROP, dev->cls->name);
		if (!ret)
			ret = state_write_nodes(fdt, dev->state, dev->nstate, true);
		if (!ret)
			ret = fdt_end_node(fdt);
	}
	return ret ? ret : fdt_end_node(fdt);
}

static int fill_description(void *fdt, const void *arg)
{
	const struct description *m = arg;
	const struct state_ref ref = { .desc = &machine_desc, .obj = (void *)(uintptr_t)m };
	int ret = state_write_nodes(fdt, &ref, 1, false);

	return ret ? ret : write_devices(fdt, m->vm);
}

int machine_description(struct vm *vm, void **blob, size_t *len, struct diag *d)
{
	struct description *m;
	int err = description_new(vm, &m, d);

	if (err)
		return err;
	err = state_make_blob(PART_NAME, fill_description, m, blob, len, d);
	free(m);
	return err;
}

/* --- the other's -------------------------------------------------------------------------------
 */

static const char *node_class(const void *fdt, int node)
{
	int len;
	const char *class = fdt_getprop(fdt, node, CLASS_PROP, &len);

	return class && len > 0 && !class[len - 1] ? class : "?";
}

/* One device of ours against the node at the same place. */
static int check_device(const void *fdt, int node, const struct device *dev, struct diag *d)
{
	const char *id = fdt_get_name(fdt, node, NULL);

	if (!id || strcmp(id, dev->id) != 0 || strcmp(node_class(fdt, node), dev->cls->name) != 0)
		return diag_set(d, -ENOTSUP,
				"the guest has %s (%s) where this machine has %s (%s): the devices "
				"and their order must be the same",
				id ? id : "?", node_class(fdt, node), dev->id, dev->cls->name);
	return state_match_checks(fdt, node, dev->id, dev->state, dev->nstate, d);
}

static int check_devices(const void *fdt, int devices, const struct vm *vm, struct diag *d)
{
	int node = fdt_first_subnode(fdt, devices), err = 0;

	for (const struct device *dev = vm->devices; dev && !err; dev = dev->next) {
		if (node < 0)
			return diag_set(d, -ENOTSUP, "this machine has %s (%s), the guest has not",
					dev->id, dev->cls->name);
		err = check_device(fdt, node, dev, d);
		node = fdt_next_subnode(fdt, node);
	}
	if (!err && node >= 0)
		return diag_set(d, -ENOTSUP, "the guest has %s (%s), this machine has not",
				fdt_get_name(fdt, node, NULL), node_class(fdt, node));
	return err;
}

/* The machine's own node, through the scratch copy that every load goes through. */
static int check_machine(const void *fdt, int *node, const struct vm *vm, struct diag *d)
{
	struct state_ref ref = { .desc = &machine_desc };
	struct description *m;
	int err = description_new(vm, &m, d);

	if (err)
		return err;
	ref.obj = m;
	err = state_match_node(fdt, node, &ref, d);
	free(m);
	return err;
}

int machine_description_check(struct vm *vm, const void *blob, size_t len, struct diag *d)
{
	int node, err = state_blob_check(blob, len, d);

	if (err)
		return err;
	node = fdt_first_subnode(blob, 0);
	err = check_machine(blob, &node, vm, d);
	if (err)
		return err;
	if (node < 0 || strcmp(fdt_get_name(blob, node, NULL), DEVICES_NAME) != 0)
		return diag_set(d, -EINVAL, "the description has no list of devices");
	return check_devices(blob, node, vm, d);
}
