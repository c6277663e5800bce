/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpuid.c - turns the host's KVM_GET_SUPPORTED_CPUID into the guest's: topology, hypervisor bit,
 * no nested virtualization. Source: Intel SDM vol. 2A CPUID, AMD APM vol. 3 appendix E.
 */
#include "cpuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Leaf 1. */
#define ECX1_VMX	  (1u << 5)
#define ECX1_TSC_DEADLINE (1u << 24)
#define ECX1_HYPERVISOR	  (1u << 31)
#define EDX1_HTT	  (1u << 28)
/* Leaf 0x80000001. */
#define ECX_EXT_CMP_LEGACY (1u << 1)
#define ECX_EXT_SVM	   (1u << 2)

#define LEAF_FEATURES	  0x1u
#define LEAF_CACHES	  0x4u
#define LEAF_TOPOLOGY	  0xbu
#define LEAF_TOPOLOGY_V2  0x1fu
#define LEAF_EXT_FEATURES 0x80000001u
#define LEAF_EXT_SIZES	  0x80000008u
#define LEAF_EXT_SVM	  0x8000000au
#define LEAF_EXT_CACHES	  0x8000001du
#define LEAF_EXT_TOPOLOGY 0x8000001eu

/* Level types of leaf 0xb. */
#define TOPO_SMT    (1u << 8)
#define TOPO_CORE   (2u << 8)
#define TOPO_LEVELS 2

static unsigned int id_bits(unsigned int n)
{
	unsigned int bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

/* Leaf 0xb has two levels here (one thread per core, ncpus cores) and an empty third. */
static void set_topology(struct kvm_cpuid_entry2 *e, unsigned int ncpus)
{
	e->eax = e->ebx = 0;
	e->ecx = e->index;
	if (e->index == 0) {
		e->ebx = 1;
		e->ecx |= TOPO_SMT;
	} else if (e->index == 1) {
		e->eax = id_bits(ncpus);
		e->ebx = ncpus;
		e->ecx |= TOPO_CORE;
	}
}

/*
 * Leaf 4 and AMD's twin: levels 1 and 2 are shared by nobody, level 3 by all; Intel's also has the
 * number of core IDs in the package.
 */
static void set_cache(struct kvm_cpuid_entry2 *e, unsigned int ncpus)
{
	uint32_t ids = (1u << id_bits(ncpus)) - 1;

	if (!(e->eax & 0x1f)) /* the entry that ends the list */
		return;
	e->eax &= ~0xffffc000u;
	if (e->function == LEAF_CACHES)
		e->eax |= ids << 26;
	if (((e->eax >> 5) & 7) == 3)
		e->eax |= ids << 14;
}

static void set_entry(const struct kvm *k, struct kvm_cpuid_entry2 *e, unsigned int ncpus)
{
	switch (e->function) {
	case LEAF_FEATURES:
		e->ecx &= ~ECX1_VMX;
		e->ecx |= ECX1_HYPERVISOR | (k->has_tsc_deadline ? ECX1_TSC_DEADLINE : 0);
		e->ebx = (e->ebx & 0xffff) | ncpus << 16;
		if (ncpus > 1)
			e->edx |= EDX1_HTT;
		else
			e->edx &= ~EDX1_HTT;
		break;
	case LEAF_CACHES:
	case LEAF_EXT_CACHES:
		set_cache(e, ncpus);
		break;
	case LEAF_TOPOLOGY:
		set_topology(e, ncpus);
		break;
	case LEAF_TOPOLOGY_V2:
		e->eax = e->ebx = e->ecx = e->edx = 0;
		break;
	case LEAF_EXT_FEATURES:
		e->ecx &= ~(ECX_EXT_SVM | ECX_EXT_CMP_LEGACY);
		if (ncpus > 1)
			e->ecx |= ECX_EXT_CMP_LEGACY;
		break;
	case LEAF_EXT_SIZES:
		e->ecx = (e->ecx & ~0xf0ffu) | id_bits(ncpus) << 12 | (ncpus - 1);
		break;
	case LEAF_EXT_SVM:
		e->eax = e->ebx = e->ecx = e->edx = 0;
		break;
	}
}

static bool has_entry(const struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
	for (unsigned int i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return true;
	return false;
}

/*
 * KVM leaves the levels of leaf 0xb to us: its list has at most the first (cpuid.c of Linux 6.1).
 */
static void add_topology(struct kvm_cpuid2 *c)
{
	bool known = false;

	for (unsigned int i = 0; i < c->nent; i++)
		if (c->entries[i].function == 0)
			known = c->entries[i].eax >= LEAF_TOPOLOGY;
	for (uint32_t level = 0; level < TOPO_LEVELS && known; level++)
		if (!has_entry(c, LEAF_TOPOLOGY, level))
			c->entries[c->nent++] = (struct kvm_cpuid_entry2){
				.function = LEAF_TOPOLOGY,
				.index = level,
				.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			};
}

int cpuid_build(const struct kvm *k, unsigned int ncpus, struct kvm_cpuid2 **out)
{
	size_t entries = (k->cpuid->nent + TOPO_LEVELS) * sizeof(k->cpuid->entries[0]);
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + entries);

	if (!c)
		return -ENOMEM;
	c->nent = k->cpuid->nent;
	memcpy(c->entries, k->cpuid->entries, c->nent * sizeof(c->entries[0]));
	add_topology(c);
	for (unsigned int i = 0; i < c->nent; i++)
		set_entry(k, &c->entries[i], ncpus);
	*out = c;
	return 0;
}

void cpuid_set_vcpu(struct kvm_cpuid2 *c, unsigned int id)
{
	for (unsigned int i = 0; i < c->nent; i++) {
		struct kvm_cpuid_entry2 *e = &c->entries[i];

		switch (e->function) {
		case LEAF_FEATURES:
			e->ebx = (e->ebx & 0x00ffffff) | id << 24;
			break;
		case LEAF_TOPOLOGY:
			e->edx = id;
			break;
		case LEAF_EXT_TOPOLOGY:
			e->eax = id;
			e->ebx = id & 0xff; /* one thread per core */
			e->ecx = 0;
			break;
		}
	}
}
