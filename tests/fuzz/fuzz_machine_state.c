/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_machine_state.c - a peer's state of a vcpu, of the chips, and its machine's description. The
 * first byte says which of them the rest is. What is accepted must arrive: saving it again gives
 * the same. Thread: the fuzzer's.
 *
 * Planted bug (FUZZ_PLANT): parse_field() does not compare how many elements there are with how
 * many there can be.
 */
#include <stdlib.h>
#include <string.h>

#include <unvmm/log.h>
#include <unvmm/machine_state.h>
#include <unvmm/state_io.h>
#include <unvmm/vcpu_migrate.h>

#include "fake_kvm.h"
#include "state_equal.h"

enum { WHAT_CPU, WHAT_CHIPS, WHAT_DESCRIPTION, WHATS };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
	struct vm vm;
	struct vm_config config;
	struct vcpu_set cpus;
	struct vcpu cpu;
	struct vcpu_image image;
	/* Laid out as struct kvm_msr_list and struct kvm_cpuid2, which have no length of their own.
	 */
	uint32_t msrs[4];
	struct {
		uint32_t nent, padding;
		struct kvm_cpuid_entry2 entry;
	} cpuid;
} m;

/* One vcpu, three MSRs, one CPUID leaf, no device: each of those has its own target. */
static void machine_init(void)
{
	if (m.vm.config)
		return;
	log_set_level(LOG_ERROR);
	m.config =
		(struct vm_config){ .machine = (char *)"unvmm-1", .memory = MiB(16), .vcpus = 1 };
	memcpy(m.msrs, (const uint32_t[]){ 3, 0x10, 0x174, 0x4b564d01 }, sizeof(m.msrs));
	m.cpuid.nent = 1;
	m.cpuid.entry = (struct kvm_cpuid_entry2){ .function = 0, .eax = 1, .ebx = 0x68747541 };
	m.vm.config = &m.config;
	m.vm.vcpus = &m.cpus;
	m.vm.kvm =
		(struct kvm){ .fd = -1, .vm_fd = -1, .xsave_size = 4096, .msrs = (void *)m.msrs };
	m.cpu = (struct vcpu){ .vm = &m.vm, .fd = -1 };
	m.cpus = (struct vcpu_set){ .cpus = &m.cpu, .n = 1, .cpuid = (void *)&m.cpuid };
}

/* Through the image, and back. */
static void check_arrived(const void *blob, size_t len)
{
	struct state_ref refs[VCPU_IMAGE_REFS];
	struct state_load *load;
	struct diag d = { 0 };
	size_t again_len;
	void *again;

	vcpu_image_refs(&m.image, refs);
	if (vcpu_image_init(&m.image, &m.cpu, &d) ||
	    state_parse("cpu0", blob, len, refs, VCPU_IMAGE_REFS, &load, &d) ||
	    state_commit(load, &d) ||
	    state_save("cpu0", refs, VCPU_IMAGE_REFS, &again, &again_len, &d) ||
	    state_equal(blob, len, again, again_len, &d))
		abort();
	state_load_free(load);
	free(again);
}

static void load_part(const char *id, const void *blob, size_t len, struct diag *d)
{
	struct machine_load *l = machine_load_begin(&m.vm);
	int err;

	if (!l)
		return;
	err = machine_load_parse(l, id, blob, len, d);
	if (err && !d->text[0])
		abort(); /* a refusal without a sentence */
	if (!machine_load_complete(l, NULL))
		abort(); /* the other part has not come */
	machine_load_free(l);
	if (!err && strcmp(id, "cpu0") == 0)
		check_arrived(blob, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct diag d = { 0 };
	void *blob;

	if (!size)
		return 0;
	machine_init();
	/* In memory of its own size, aligned, so that a read behind the end is seen. */
	blob = malloc(size);
	if (!blob)
		return 0;
	size--;
	memcpy(blob, data + 1, size);
	blob = realloc(blob, size ? size : 1);
	switch (data[0] % WHATS) {
	case WHAT_CPU:
		load_part("cpu0", blob, size, &d);
		break;
	case WHAT_CHIPS:
		load_part("chips", blob, size, &d);
		break;
	default:
		if (machine_description_check(&m.vm, blob, size, &d) && !d.text[0])
			abort();
	}
	free(blob);
	return 0;
}
