/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_machine_refusals.c - blobs that a machine must not take, and descriptions of machines that
 * a guest cannot run on: one sentence each, and nothing is touched.
 */
#include "machine_state_env.h"

/* --- refusals ----------------------------------------------------------------------------------
 */

/* A part of a, with one cell of it changed, is refused by b; b stays as it was. */
static void refuses(struct box *b, struct parts *ps, const char *id, const char *path,
		    const char *prop, unsigned int cell, uint32_t value, const char *says)
{
	struct parts before = { 0 }, now = { 0 };
	struct machine_load *l = machine_load_begin(&b->f->vm);
	struct diag d = { 0 };
	unsigned int i = 0;
	uint32_t *p;
	void *blob;
	int node;

	assert_non_null(l);
	while (strcmp(ps->p[i].id, id) != 0)
		assert_true(++i < ps->n);
	blob = malloc(ps->p[i].len);
	assert_non_null(blob);
	memcpy(blob, ps->p[i].blob, ps->p[i].len);
	node = fdt_path_offset(blob, path);
	assert_true(node >= 0);
	p = fdt_getprop_w(blob, node, prop, NULL);
	assert_non_null(p);
	p[cell] = cpu_to_fdt32(value);
	save(b, &before);
	vm_lock(&b->f->vm);
	assert_int_not_equal(machine_load_parse(l, id, blob, ps->p[i].len, &d), 0);
	vm_unlock(&b->f->vm);
	if (!strstr(d.text, says))
		fail_msg("\"%s\" does not say \"%s\"", d.text, says);
	save(b, &now);
	for (i = 0; i < now.n; i++)
		if (strncmp(now.p[i].id, "cpu", 3) != 0 && strcmp(now.p[i].id, "chips") != 0)
			assert_int_equal(state_equal(before.p[i].blob, before.p[i].len,
						     now.p[i].blob, now.p[i].len, NULL),
					 0);
	parts_free(&before);
	parts_free(&now);
	free(blob);
	machine_load_free(l);
}

static void test_refusals(void **state)
{
	struct parts ps = { 0 };
	struct machine_load *l;
	struct diag d = { 0 };
	struct device *dev;
	struct box *a, *b;

	(void)state;
	need_kvm();
	a = box_new(&usual);
	b = box_new(&usual);
	save(a, &ps);
	refuses(b, &ps, "cpu1", "/run", "mp_state", 0, 99, "cpu1/run: mp_state is 99");
	refuses(b, &ps, "cpu0", "/run", "tsc_khz", 0, 1000000, "cannot be scaled");
	refuses(b, &ps, "cpu0", "/run", "tsc_khz", 0, 0, "0 kHz");
	refuses(b, &ps, "cpu0", "/fpu", "xsave_size", 0, 64, "cpu0/fpu/xsave_size: is 0x40");
	refuses(b, &ps, "cpu0", "/msrs", "n", 0, 513, "513 elements");
	refuses(b, &ps, "cpu0", "/msrs", "n", 0, 3, "bytes instead of 12");
	refuses(b, &ps, "cpu0", "/msrs", "index", 1, 0, "out of order");
	refuses(b, &ps, "cpu0", "/msrs", "index", 1, 0x1b, "MSR 0x1b is none that travels");
	refuses(b, &ps, "chips", "/chips", "has_pit", 0, 0, "chips/chips/has_pit: is 0");
	refuses(b, &ps, "chips", "/chips", "ioapic_base", 0, 0, "must be equal");
	refuses(b, &ps, "chips", "/pending", "reboot", 0, 2, "too large");
	refuses(b, &ps, "rtc0", "/rtc", "index", 0, 200, "must be below 128");

	l = machine_load_begin(&b->f->vm);
	assert_non_null(l);
	assert_int_equal(machine_load_parse(l, "blk7", ps.p[0].blob, ps.p[0].len, &d), -EINVAL);
	assert_string_equal(d.text, "blk7: the guest has it, this machine has not");
	d = (struct diag){ 0 };
	for (unsigned int i = 0; i + 1 < ps.n; i++)
		assert_int_equal(machine_load_parse(l, ps.p[i].id, ps.p[i].blob, ps.p[i].len, &d),
				 0);
	assert_int_equal(machine_load_complete(l, &d), -EINVAL);
	assert_string_equal(d.text, "chips: this machine has it, the guest has not");
	d = (struct diag){ 0 };
	assert_int_equal(machine_load_parse(l, "cpu0", ps.p[0].blob, ps.p[0].len, &d), -EINVAL);
	assert_string_equal(d.text, "cpu0: its state came twice");
	d = (struct diag){ 0 };
	machine_load_free(l);

	dev = calloc(1, sizeof(*dev));
	assert_non_null(dev);
	*dev = (struct device){ .id = "odd0", .cls = &stateless_class, .next = a->f->vm.devices };
	a->f->vm.devices = dev;
	assert_int_equal(machine_state_supported(&a->f->vm, &d), -ENOTSUP);
	assert_string_equal(d.text, "odd0: a device of class stateless has no state table, so it "
				    "cannot be moved or saved");
	a->f->vm.devices = dev->next;
	free(dev);
	parts_free(&ps);
	box_free(a);
	box_free(b);
}

/* A value for an MSR that this KVM does not have is refused by its index, a zero is not. */
static void test_unknown_msr(void **state)
{
	struct parts ps = { 0 };
	struct box *a;

	(void)state;
	need_kvm();
	a = box_new(&usual);
	for (uint32_t value = 0; value < 2; value++) {
		struct vcpu_image *img = malloc(sizeof(*img));
		struct state_ref refs[VCPU_IMAGE_REFS];
		struct machine_load *l = machine_load_begin(&a->f->vm);
		struct diag d = { 0 };
		void *blob;
		size_t len;

		assert_non_null(img);
		assert_non_null(l);
		assert_int_equal(vcpu_image_save(img, &a->cpus.cpus[0], &d), 0);
		img->msrs.index[img->msrs.n] = 0xfffffff0;
		img->msrs.value[img->msrs.n++] = value;
		vcpu_image_refs(img, refs);
		assert_int_equal(state_save("cpu0", refs, VCPU_IMAGE_REFS, &blob, &len, &d), 0);
		if (value) {
			assert_int_equal(machine_load_parse(l, "cpu0", blob, len, &d), -ENOTSUP);
			assert_non_null(strstr(d.text, "0x1 in MSR 0xfffffff0"));
		} else {
			assert_int_equal(machine_load_parse(l, "cpu0", blob, len, &d), 0);
		}
		machine_load_free(l);
		free(blob);
		free(img);
	}
	parts_free(&ps);
	box_free(a);
}

/* KVM has the last word: what it refuses is named with its index and value. */
static void test_refused_msr(void **state)
{
	const uint32_t features =
		0x10a; /* ARCH_CAPABILITIES: a host's KVM allows what the host has */
	struct vcpu_image *img = malloc(sizeof(*img));
	struct diag d = { 0 };
	struct box *a;
	uint32_t i = 0;
	int err;

	(void)state;
	need_kvm();
	assert_non_null(img);
	a = box_new(&usual);
	assert_int_equal(vcpu_image_save(img, &a->cpus.cpus[0], &d), 0);
	assert_int_equal(vcpu_image_load(img, &a->cpus.cpus[0], &d), 0);
	while (i < img->msrs.n && img->msrs.index[i] != features)
		i++;
	img->msrs.value[i % VCPU_IMAGE_MSRS] ^= 1ull << 62;
	err = i < img->msrs.n ? vcpu_image_load(img, &a->cpus.cpus[0], &d) : 0;
	if (err) {
		assert_int_equal(err, -ENOTSUP);
		assert_non_null(strstr(d.text, "vcpu 0: this host's KVM refuses the guest's 0x4"));
		assert_non_null(strstr(d.text, "in MSR 0x10a"));
	}
	box_free(a);
	free(img);
	if (!err)
		skip();
}

/* Each thing that two hosts must agree on, and the sentence if they do not. */
static void test_description(void **state)
{
	static const struct {
		struct shape shape;
		const char *says;
	} cases[] = {
		{ { PLAT_RAM_MIN, CPUS, true, false, false }, NULL },
		{ { 2 * PLAT_RAM_MIN, CPUS, true, false, false },
		  "machine: the guest has 16384 KiB of memory, this machine 32768 KiB: set memory "
		  "to "
		  "the same" },
		{ { PLAT_RAM_MIN, 1, true, false, false },
		  "machine: the guest has 2 vcpus, this machine 1: set vcpus to the same" },
		{ { PLAT_RAM_MIN, CPUS, false, false, false },
		  "machine: the guest was started with pit = true, this machine with pit = false" },
		{ { PLAT_RAM_MIN, CPUS, true, true, false },
		  "the guest has rtc0 (rtc) where this machine has serial0 (serial): the devices "
		  "and "
		  "their order must be the same" },
	};
	struct diag first = { 0 };
	struct box *a;
	void *blob;
	size_t len;

	(void)state;
	need_kvm();
	a = box_new(&usual);
	assert_int_equal(machine_description(&a->f->vm, &blob, &len, &first), 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct diag d = { 0 };
		struct box *b;
		int err;

		b = box_new(&cases[i].shape);
		err = machine_description_check(&b->f->vm, blob, len, &d);
		if (!cases[i].says && err)
			fail_msg("%s", d.text);
		if (cases[i].says) {
			assert_int_not_equal(err, 0);
			assert_string_equal(d.text, cases[i].says);
		}
		box_free(b);
	}
	free(blob);
	box_free(a);
}

/* The same with a description that a peer made up. */
static void describes(struct box *b, const char *path, const char *prop, unsigned int cell,
		      uint32_t value, const char *says)
{
	struct diag d = { 0 };
	uint32_t *p;
	void *blob;
	size_t len;
	int node;

	assert_int_equal(machine_description(&b->f->vm, &blob, &len, &d), 0);
	node = fdt_path_offset(blob, path);
	assert_true(node >= 0);
	p = fdt_getprop_w(blob, node, prop, NULL);
	assert_non_null(p);
	p[cell] = cpu_to_fdt32(value);
	assert_int_not_equal(machine_description_check(&b->f->vm, blob, len, &d), 0);
	if (!strstr(d.text, says))
		fail_msg("\"%s\" does not say \"%s\"", d.text, says);
	free(blob);
}

static void test_description_bytes(void **state)
{
	struct box *b;

	(void)state;
	need_kvm();
	b = box_new(&usual);
	describes(b, "/machine", "type", 0, 0x6f746865,
		  "the guest is a machine of type \"othem-1\"");
	describes(b, "/machine", "type", 0, 0x1b5b326a, "the machine type is no name");
	describes(b, "/machine", "tsc_khz", 0, 1000, "runs at 1000 kHz, this host's at");
	describes(b, "/machine", "xsave_size", 0, 1, "has 1 bytes on the guest's host");
	describes(b, "/machine", "kvm_clock", 0, !b->f->vm.kvm.has_clock, "kvm-clock");
	describes(b, "/machine", "cpuid_words", 0, 7 * 321, "elements of cpuid");
	describes(b, "/machine", "cpuid", 3, 0xdeadbeef, "0xdeadbeef in eax of CPUID leaf 0x");
	describes(b, "/machine", "cpuid", 0, 0xabcd0000, "CPUID leaf 0xabcd0000");
	describes(b, "/machine", "state-version", 0, 2, "versions 1 and 0");
	describes(b, "/devices/rtc0", "class", 0, 0x78787800, "rtc0 (xxx)");
	box_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals),	  cmocka_unit_test(test_unknown_msr),
		cmocka_unit_test(test_refused_msr),	  cmocka_unit_test(test_description),
		cmocka_unit_test(test_description_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
