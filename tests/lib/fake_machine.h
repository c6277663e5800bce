/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_machine.h - machine_state.h for a machine without vcpus, for programs that test the engine
 * around it: the parts and what is thought of them are theirs. Included once by each; it stands in
 * for migrate/machine_state.c and machine_state_desc.c.
 */
#ifndef UNVMM_TESTS_FAKE_MACHINE_H
#define UNVMM_TESTS_FAKE_MACHINE_H

#include <stdio.h>
#include <stdlib.h>

#include <unvmm/machine_state.h>

/* What the program has to say; its functions below return 0 or -errno with a sentence. */
static const struct fake_machine {
	unsigned int parts; /* that it saves, and wants; 0: it saves one and wants any */
	const char *state;  /* of each part */
	int (*parse)(const char *id, const void *blob, size_t len, struct diag *d);
	int (*commit)(struct diag *d);
	int (*check)(const void *description, size_t len, struct diag *d);
} fake_machine;

struct machine_load {
	unsigned int parts;
};

int machine_state_supported(struct vm *vm, struct diag *d)
{
	(void)vm;
	(void)d;
	return 0;
}

int machine_state_save(struct vm *vm,
		       int (*emit)(void *arg, const char *id, const void *blob, size_t len,
				   struct diag *d),
		       void *arg, struct diag *d)
{
	unsigned int n = fake_machine.parts ? fake_machine.parts : 1;
	char id[16];
	int err = 0;

	(void)vm;
	for (unsigned int i = 0; i < n && !err; i++) {
		snprintf(id, sizeof(id), "cpu%u", i);
		err = emit(arg, id, fake_machine.state, strlen(fake_machine.state), d);
	}
	return err;
}

struct machine_load *machine_load_begin(struct vm *vm)
{
	(void)vm;
	return calloc(1, sizeof(struct machine_load));
}

int machine_load_parse(struct machine_load *l, const char *id, const void *blob, size_t len,
		       struct diag *d)
{
	l->parts++;
	return fake_machine.parse(id, blob, len, d);
}

int machine_load_complete(struct machine_load *l, struct diag *d)
{
	bool all = fake_machine.parts ? l->parts == fake_machine.parts : l->parts > 0;

	return all ? 0 : diag_set(d, -EINVAL, "%u parts", l->parts);
}

int machine_load_commit(struct machine_load *l, struct diag *d)
{
	(void)l;
	return fake_machine.commit ? fake_machine.commit(d) : 0;
}

void machine_load_free(struct machine_load *l)
{
	free(l);
}

int machine_rehearse_save(struct vm *vm, struct diag *d)
{
	(void)vm;
	(void)d;
	return 0;
}

int machine_rehearse_load(struct vm *vm, struct diag *d)
{
	(void)vm;
	(void)d;
	return 0;
}

int machine_description(struct vm *vm, void **blob, size_t *len, struct diag *d)
{
	(void)vm;
	(void)d;
	*len = 8;
	*blob = calloc(1, 8);
	return *blob ? 0 : -ENOMEM;
}

int machine_description_check(struct vm *vm, const void *blob, size_t len, struct diag *d)
{
	(void)vm;
	return fake_machine.check(blob, len, d);
}

#endif
