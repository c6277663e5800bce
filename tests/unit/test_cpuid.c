/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cpuid.c - the guest's CPUID made from what a host's KVM might support. One thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "cpuid.h"

/* A host with VMX and SVM both, 16 threads, two per core; the topology of leaf 0xb is left out. */
static const struct kvm_cpuid_entry2 host[] = {
	{ .function = 0, .eax = 0x1f, .ebx = 0x756e6547 },
	{ .function = 1,
	  .eax = 0x806f8,
	  .ebx = 0x05100800, /* APIC ID 5, 16 logical processors, 64-byte cache lines */
	  .ecx = 1u << 5 | 1u << 0,
	  .edx = 1u << 28 | 1u << 0 },
	{ .function = 4, .index = 0, .eax = 7u << 26 | 1u << 14 | 1u << 5 | 1 },  /* L1 data */
	{ .function = 4, .index = 1, .eax = 7u << 26 | 15u << 14 | 3u << 5 | 3 }, /* L3 */
	{ .function = 4, .index = 2, .eax = 0 },
	{ .function = 0xb, .index = 0, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 5 },
	{ .function = 0x1f, .index = 0, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 5 },
	{ .function = 0x80000001, .ecx = 1u << 1 | 1u << 2 | 1u << 5 },
	{ .function = 0x80000008, .eax = 0x3030, .ecx = 0x00054003 },
	{ .function = 0x8000000a, .eax = 1, .ebx = 8, .edx = 0xff },
	{ .function = 0x8000001e, .eax = 5, .ebx = 0x102, .ecx = 0x101 },
	{ .function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b },
};

static struct kvm kvm;

static int setup(void **state)
{
	(void)state;
	kvm = (struct kvm){ .cpuid = calloc(1, sizeof(struct kvm_cpuid2) + sizeof(host)) };
	kvm.cpuid->nent = sizeof(host) / sizeof(host[0]);
	memcpy(kvm.cpuid->entries, host, sizeof(host));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(kvm.cpuid);
	return 0;
}

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *c, uint32_t fn, uint32_t index)
{
	const struct kvm_cpuid_entry2 *found = NULL;

	for (unsigned int i = 0; i < c->nent; i++) {
		if (c->entries[i].function != fn || c->entries[i].index != index)
			continue;
		assert_null(found); /* none is there twice */
		found = &c->entries[i];
	}
	assert_non_null(found);
	return found;
}

static struct kvm_cpuid2 *build(unsigned int ncpus)
{
	struct kvm_cpuid2 *c;

	assert_int_equal(cpuid_build(&kvm, ncpus, &c), 0);
	assert_memory_equal(kvm.cpuid->entries, host, sizeof(host)); /* the host's stays */
	return c;
}

static void test_features(void **state)
{
	struct kvm_cpuid2 *c = build(1);

	(void)state;
	assert_int_equal(leaf(c, 1, 0)->ecx, 1u << 31 | 1u << 0); /* hypervisor, no VMX */
	assert_int_equal(leaf(c, 1, 0)->edx, 1);		  /* one processor: no HTT */
	assert_int_equal(leaf(c, 0x80000001, 0)->ecx, 1u << 5);
	assert_int_equal(leaf(c, 0x8000000a, 0)->eax | leaf(c, 0x8000000a, 0)->edx, 0);
	assert_int_equal(leaf(c, 0x40000000, 0)->ebx, 0x4b4d564b);
	free(c);
	kvm.has_tsc_deadline = true;
	c = build(4);
	assert_int_equal(leaf(c, 1, 0)->ecx, 1u << 31 | 1u << 24 | 1u << 0);
	assert_int_equal(leaf(c, 1, 0)->edx, 1u << 28 | 1);
	assert_int_equal(leaf(c, 0x80000001, 0)->ecx, 1u << 5 | 1u << 1);
	free(c);
}

/* One package, one thread per core, as many APIC IDs as processors rounded up. */
static void test_topology(void **state)
{
	static const struct {
		unsigned int cpus, bits;
	} sizes[] = { { 1, 0 }, { 2, 1 }, { 3, 2 }, { 4, 2 }, { 5, 3 }, { 33, 6 }, { 64, 6 } };

	(void)state;
	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		unsigned int n = sizes[i].cpus, bits = sizes[i].bits;
		struct kvm_cpuid2 *c = build(n);

		assert_int_equal(leaf(c, 1, 0)->ebx >> 16 & 0xff, n);
		assert_int_equal(leaf(c, 1, 0)->ebx & 0xff00, 0x0800);
		assert_int_equal(leaf(c, 0xb, 0)->eax, 0);
		assert_int_equal(leaf(c, 0xb, 0)->ebx, 1);
		assert_int_equal(leaf(c, 0xb, 0)->ecx, 0x100);
		assert_int_equal(leaf(c, 0xb, 1)->eax, bits);
		assert_int_equal(leaf(c, 0xb, 1)->ebx, n);
		assert_int_equal(leaf(c, 0xb, 1)->ecx, 0x201);
		assert_int_equal(leaf(c, 0xb, 1)->flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
		assert_int_equal(leaf(c, 0x1f, 0)->ebx | leaf(c, 0x1f, 0)->ecx, 0);
		assert_int_equal(leaf(c, 4, 0)->eax >> 26, (1u << bits) - 1);
		assert_int_equal(leaf(c, 4, 0)->eax >> 14 & 0xfff, 0);
		assert_int_equal(leaf(c, 4, 1)->eax >> 14 & 0xfff, (1u << bits) - 1);
		assert_int_equal(leaf(c, 4, 0)->eax & 0x3fff, 1u << 5 | 1);
		assert_int_equal(leaf(c, 4, 2)->eax, 0);
		assert_int_equal(leaf(c, 0x80000008, 0)->ecx, 0x00050000 | bits << 12 | (n - 1));
		assert_int_equal(leaf(c, 0x80000008, 0)->eax, 0x3030);
		free(c);
	}
}

static void test_each_vcpu(void **state)
{
	struct kvm_cpuid2 *c = build(64);

	(void)state;
	for (unsigned int id = 0; id < 64; id += 21) {
		cpuid_set_vcpu(c, id);
		assert_int_equal(leaf(c, 1, 0)->ebx >> 24, id);
		assert_int_equal(leaf(c, 1, 0)->ebx >> 16 & 0xff, 64);
		assert_int_equal(leaf(c, 0xb, 0)->edx, id);
		assert_int_equal(leaf(c, 0xb, 1)->edx, id);
		assert_int_equal(leaf(c, 0x8000001e, 0)->eax, id);
		assert_int_equal(leaf(c, 0x8000001e, 0)->ebx, id);
		assert_int_equal(leaf(c, 0x8000001e, 0)->ecx, 0);
	}
	free(c);
}

/* A host whose leaves end before the topology gets none; one that has all levels no second ones. */
static void test_leaf_b_only_where_it_belongs(void **state)
{
	struct kvm_cpuid2 *c;

	(void)state;
	kvm.cpuid->entries[0].eax = 0xa;
	kvm.cpuid->entries[5].function = 0xa;
	assert_int_equal(cpuid_build(&kvm, 2, &c), 0);
	for (unsigned int i = 0; i < c->nent; i++)
		assert_int_not_equal(c->entries[i].function, 0xb);
	free(c);
	kvm.cpuid->entries[0].eax = 0x1f;
	kvm.cpuid->entries[5] = host[5];
	kvm.cpuid->entries[6] = host[5];
	kvm.cpuid->entries[6].index = 1;
	assert_int_equal(cpuid_build(&kvm, 2, &c), 0);
	assert_int_equal(c->nent, kvm.cpuid->nent);
	assert_int_equal(leaf(c, 0xb, 1)->ebx, 2);
	free(c);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(features),
		TEST(topology),
		TEST(each_vcpu),
		TEST(leaf_b_only_where_it_belongs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
