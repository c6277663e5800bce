/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots.c - which KVM memory slots show single pages of devices to the guest. Control lock held.
 */
#include <unvmm/gmem.h>
#include <unvmm/kvm.h>
#include <unvmm/log.h>
#include <unvmm/slots.h>

#include <errno.h>
#include <string.h>

/* The slots before it are RAM's (kvm_add_ram). */
#define SLOT_FIRST GMEM_REGIONS_MAX

void slots_init(struct slots *s, struct kvm *kvm)
{
	*s = (struct slots){ .kvm = kvm };
}

static int slot_alloc(struct slots *s)
{
	for (unsigned int w = 0; w < ARRAY_SIZE(s->used); w++) {
		unsigned int slot;

		if (s->used[w] == UINT64_MAX)
			continue;
		slot = SLOT_FIRST + w * 64 + (unsigned int)__builtin_ctzll(~s->used[w]);
		if (slot >= s->kvm->max_slots)
			break;
		s->used[w] |= s->used[w] + 1; /* its lowest zero */
		return (int)slot;
	}
	return -ENOSPC;
}

static void slot_free(struct slots *s, int slot)
{
	unsigned int n = (unsigned int)slot - SLOT_FIRST;

	s->used[n / 64] &= ~(1ull << (n % 64));
}

int slots_map(struct slots *s, uint64_t gpa, void *page)
{
	int slot = slot_alloc(s), err;

	if (slot < 0)
		return slot;
	err = kvm_set_slot(s->kvm, (unsigned int)slot, gpa, PAGE_SIZE_4K, page, 0);
	if (err) {
		slot_free(s, slot);
		return err;
	}
	return slot;
}

int slots_unmap(struct slots *s, int slot, uint64_t gpa)
{
	int err = kvm_set_slot(s->kvm, (unsigned int)slot, gpa, 0, NULL, 0);

	if (err) {
		log_error("KVM keeps the memory slot of the device page at 0x%llx: %s",
			  (unsigned long long)gpa, strerror(-err));
		return err;
	}
	slot_free(s, slot);
	__atomic_fetch_add(&s->removals, 1, __ATOMIC_RELEASE);
	return 0;
}
