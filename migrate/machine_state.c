/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine_state.c - the parts of a paused machine as blobs, and back: its devices in the order of
 * creation, "cpu0" and on, "chips". Main thread, vcpus parked, devices quiesced, control lock held.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <unvmm/chips_state.h>
#include <unvmm/machine_state.h>
#include <unvmm/state_io.h>
#include <unvmm/vcpu_migrate.h>
#include <unvmm/vm.h>

#define PART_ID_MAX 24 /* as a device's */

/* --- what belongs to no device and no chip ---------------------------------------------------- */

/* Travels with the chips. */
struct pending {
	bool reboot; /* the guest has asked for it, and was stopped before it came to that */
};

static const struct state_field pending_fields[] = {
	STATE_SCALAR(STATE_BOOL, struct pending, reboot),
};

static const struct state_desc pending_desc = {
	.name = "pending",
	.version = 1,
	.obj_size = sizeof(struct pending),
	.fields = pending_fields,
	.nfields = ARRAY_SIZE(pending_fields),
};

struct common {
	struct chips chips;
	struct pending pending;
};

#define COMMON_REFS 2

static void common_refs(struct common *c, struct state_ref refs[COMMON_REFS])
{
	refs[0] = (struct state_ref){ .desc = &chips_desc, .obj = &c->chips };
	refs[1] = (struct state_ref){ .desc = &pending_desc, .obj = &c->pending };
}

/* --- out of the machine ------------------------------------------------------------------------
 */

int machine_state_supported(struct vm *vm, struct diag *d)
{
	for (const struct device *dev = vm->devices; dev; dev = dev->next)
		if (!dev->nstate)
			return diag_set(d, -ENOTSUP,
					"%s: a device of class %s has no state table, so it cannot "
					"be moved or saved",
					dev->id, dev->cls->name);
	return 0;
}

struct emit {
	int (*fn)(void *arg, const char *id, const void *blob, size_t len, struct diag *d);
	void *arg;
};

static int emit_part(const struct emit *e, const char *id, const struct state_ref *refs,
		     unsigned int n, struct diag *d)
{
	void *blob;
	size_t len;
	int err = state_save(id, refs, n, &blob, &len, d);

	if (err)
		return err;
	err = e->fn(e->arg, id, blob, len, d);
	free(blob);
	return err;
}

static int emit_vcpus(const struct emit *e, struct vm *vm, struct diag *d)
{
	struct vcpu_image *img = malloc(sizeof(*img));
	struct state_ref refs[VCPU_IMAGE_REFS];
	char id[PART_ID_MAX];
	int err = 0;

	if (!img)
		return diag_set(d, -ENOMEM, "no memory for the state of the vcpus");
	vcpu_image_refs(img, refs);
	for (unsigned int i = 0; i < vm->vcpus->n && !err; i++) {
		snprintf(id, sizeof(id), "cpu%u", i);
		err = vcpu_image_save(img, &vm->vcpus->cpus[i], d);
		if (!err)
			err = emit_part(e, id, refs, VCPU_IMAGE_REFS, d);
	}
	free(img);
	return err;
}

static int emit_common(const struct emit *e, struct vm *vm, struct diag *d)
{
	struct common c = { .pending = { .reboot = vm->event == VM_EVENT_REBOOT } };
	struct state_ref refs[COMMON_REFS];
	int err = chips_read(vm, &c.chips, d);

	common_refs(&c, refs);
	return err ? err : emit_part(e, "chips", refs, COMMON_REFS, d);
}

/* Of what KVM keeps. */
static int emit_kvm(const struct emit *e, struct vm *vm, struct diag *d)
{
	int err = emit_vcpus(e, vm, d);

	return err ? err : emit_common(e, vm, d);
}

int machine_state_save(struct vm *vm,
		       int (*emit)(void *arg, const char *id, const void *blob, size_t len,
				   struct diag *d),
		       void *arg, struct diag *d)
{
	struct emit e = { .fn = emit, .arg = arg };
	int err = 0;

	for (const struct device *dev = vm->devices; dev && !err; dev = dev->next)
		err = emit_part(&e, dev->id, dev->state, dev->nstate, d);
	return err ? err : emit_kvm(&e, vm, d);
}

static int forget_part(void *arg, const char *id, const void *blob, size_t len, struct diag *d)
{
	(void)arg, (void)id, (void)blob, (void)len, (void)d;
	return 0;
}

int machine_rehearse_save(struct vm *vm, struct diag *d)
{
	const struct emit e = { .fn = forget_part };

	return emit_kvm(&e, vm, d);
}

/* --- into a machine ----------------------------------------------------------------------------
 */

struct part {
	char id[PART_ID_MAX];
	const struct state_ref *refs;
	unsigned int nrefs;
	struct state_load *load; /* parsed */
};

struct vcpu_part {
	struct vcpu_image image;
	struct state_ref refs[VCPU_IMAGE_REFS];
};

struct machine_load {
	struct vm *vm;
	struct common common;
	struct state_ref common_refs[COMMON_REFS];
	struct vcpu_part *vcpus;
	unsigned int ndevices, nparts;
	struct part parts[]; /* devices, vcpus, chips */
};

static void add_part(struct machine_load *l, const char *id, const struct state_ref *refs,
		     unsigned int nrefs)
{
	struct part *p = &l->parts[l->nparts++];

	*p = (struct part){ .refs = refs, .nrefs = nrefs };
	snprintf(p->id, sizeof(p->id), "%s", id);
}

struct machine_load *machine_load_begin(struct vm *vm)
{
	unsigned int ncpus = vm->vcpus->n, ndevices = 0;
	struct machine_load *l;
	char id[PART_ID_MAX];

	for (const struct device *dev = vm->devices; dev; dev = dev->next)
		ndevices++;
	l = calloc(1, sizeof(*l) + (ndevices + ncpus + 1) * sizeof(l->parts[0]));
	if (!l)
		return NULL;
	l->vm = vm;
	l->ndevices = ndevices;
	l->vcpus = calloc(ncpus, sizeof(*l->vcpus));
	if (!l->vcpus) {
		free(l);
		return NULL;
	}
	for (const struct device *dev = vm->devices; dev; dev = dev->next)
		add_part(l, dev->id, dev->state, dev->nstate);
	for (unsigned int i = 0; i < ncpus; i++) {
		vcpu_image_refs(&l->vcpus[i].image, l->vcpus[i].refs);
		snprintf(id, sizeof(id), "cpu%u", i);
		add_part(l, id, l->vcpus[i].refs, VCPU_IMAGE_REFS);
	}
	common_refs(&l->common, l->common_refs);
	add_part(l, "chips", l->common_refs, COMMON_REFS);
	return l;
}

/* Fills in what must equal: a device has that always. */
static int prepare_part(struct machine_load *l, unsigned int i, struct diag *d)
{
	if (i < l->ndevices)
		return 0;
	i -= l->ndevices;
	if (i < l->vm->vcpus->n)
		return vcpu_image_init(&l->vcpus[i].image, &l->vm->vcpus->cpus[i], d);
	return chips_read(l->vm, &l->common.chips, d);
}

int machine_load_parse(struct machine_load *l, const char *id, const void *blob, size_t len,
		       struct diag *d)
{
	unsigned int i = 0;
	struct part *p;
	int err;

	while (i < l->nparts && strcmp(l->parts[i].id, id) != 0)
		i++;
	if (i == l->nparts)
		return diag_set(d, -EINVAL, "%s: the guest has it, this machine has not", id);
	p = &l->parts[i];
	if (p->load)
		return diag_set(d, -EINVAL, "%s: its state came twice", id);
	err = prepare_part(l, i, d);
	return err ? err : state_parse(id, blob, len, p->refs, p->nrefs, &p->load, d);
}

int machine_load_complete(struct machine_load *l, struct diag *d)
{
	for (unsigned int i = 0; i < l->nparts; i++)
		if (!l->parts[i].load)
			return diag_set(d, -EINVAL, "%s: this machine has it, the guest has not",
					l->parts[i].id);
	return 0;
}

static int commit_parts(struct machine_load *l, unsigned int first, unsigned int n, struct diag *d)
{
	int err = 0;

	for (unsigned int i = first; i < first + n && !err; i++)
		err = state_commit(l->parts[i].load, d);
	return err;
}

/*
 * The clock before the vcpus, which have KVM tell it to the guest; the chips after the local APICs,
 * to which they pass on what is pending; the devices last, whose pending interrupts need all of it.
 */
static int commit_kvm(struct machine_load *l, struct diag *d)
{
	struct vm *vm = l->vm;
	unsigned int ncpus = vm->vcpus->n;
	int err = commit_parts(l, l->ndevices, ncpus + 1, d); /* into the images */

	if (!err)
		err = chips_write_clock(vm, &l->common.chips, d);
	for (unsigned int i = 0; i < ncpus && !err; i++)
		err = vcpu_image_load(&l->vcpus[i].image, &vm->vcpus->cpus[i], d);
	return err ? err : chips_write(vm, &l->common.chips, d);
}

/* Those that have been parsed. KVM waits for a grace period when it is given routes: once is
 * enough. */
static int commit_devices(struct machine_load *l, struct diag *d)
{
	struct irq *irq = &l->vm->irq;
	int err = 0, routed;

	irq_collect(irq);
	for (unsigned int i = 0; i < l->ndevices && !err; i++)
		if (l->parts[i].load)
			err = state_commit(l->parts[i].load, d);
	routed = irq_apply(irq);
	if (!err && routed)
		err = diag_errno(d, routed, "KVM refuses the routes of the guest's interrupts");
	return err;
}

int machine_load_commit(struct machine_load *l, struct diag *d)
{
	int err = commit_kvm(l, d);

	if (!err)
		err = commit_devices(l, d);
	if (!err && l->common.pending.reboot)
		vm_request(l->vm, VM_EVENT_REBOOT, 0);
	return err;
}

static int parse_own(void *arg, const char *id, const void *blob, size_t len, struct diag *d)
{
	return machine_load_parse(arg, id, blob, len, d);
}

int machine_rehearse_load(struct vm *vm, struct diag *d)
{
	struct machine_load *l = machine_load_begin(vm);
	const struct emit e = { .fn = parse_own, .arg = l };
	int err = l ? 0 : diag_set(d, -ENOMEM, "out of memory for the machine's state");

	/* Functions are asked for theirs when they have been stopped, and these have not begun. */
	for (const struct device *dev = vm->devices; dev && !err; dev = dev->next)
		if (!dev->cls->arm)
			err = emit_part(&e, dev->id, dev->state, dev->nstate, d);
	if (!err)
		err = emit_kvm(&e, vm, d);
	if (!err)
		err = commit_kvm(l, d);
	if (!err)
		err = commit_devices(l, d);
	machine_load_free(l);
	return err;
}

void machine_load_free(struct machine_load *l)
{
	if (!l)
		return;
	for (unsigned int i = 0; i < l->nparts; i++)
		state_load_free(l->parts[i].load);
	free(l->vcpus);
	free(l);
}
