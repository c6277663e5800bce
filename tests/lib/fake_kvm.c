/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_kvm.c - KVM's memory slots and ioeventfds, from memory (api.rst, 4.35 and 4.59). Test's
 * thread.
 */
#include "fake_kvm.h"

#include <errno.h>
#include <string.h>

#include <unvmm/platform.h>

int __real_kvm_set_slot(struct kvm *k, unsigned int slot, uint64_t gpa, uint64_t size, void *hva,
			uint32_t flags);
int __wrap_kvm_set_slot(struct kvm *k, unsigned int slot, uint64_t gpa, uint64_t size, void *hva,
			uint32_t flags);
int __real_kvm_ioeventfd(struct kvm *k, int eventfd, uint64_t addr, unsigned int len, bool pio,
			 bool assign);
int __wrap_kvm_ioeventfd(struct kvm *k, int eventfd, uint64_t addr, unsigned int len, bool pio,
			 bool assign);

int __real_kvm_get_irqchip(struct kvm *k, struct kvm_irqchip *chip);
int __wrap_kvm_get_irqchip(struct kvm *k, struct kvm_irqchip *chip);
int __real_kvm_vcpu_get_tsc_khz(int vcpu_fd, uint32_t *khz);
int __wrap_kvm_vcpu_get_tsc_khz(int vcpu_fd, uint32_t *khz);

struct fake_kvm fake_kvm;

void fake_kvm_reset(struct vm *vm)
{
	memset(&fake_kvm, 0, sizeof(fake_kvm));
	vm->kvm.max_slots = FAKE_KVM_MAX;
}

static void changed(char what)
{
	size_t n = strlen(fake_kvm.order);

	if (n == sizeof(fake_kvm.order) - 1)
		n = 0;
	fake_kvm.order[n] = what;
	fake_kvm.order[n + 1] = '\0';
	if (fake_kvm.changed)
		fake_kvm.changed(fake_kvm.arg);
}

struct fake_slot *fake_kvm_slot_at(uint64_t gpa)
{
	for (unsigned int i = 0; i < FAKE_KVM_MAX; i++)
		if (fake_kvm.slots[i].used && gpa - fake_kvm.slots[i].gpa < PAGE_SIZE_4K)
			return &fake_kvm.slots[i];
	return NULL;
}

struct fake_eventfd *fake_kvm_eventfd_at(uint64_t gpa)
{
	for (unsigned int i = 0; i < FAKE_KVM_MAX; i++)
		if (fake_kvm.eventfds[i].used && fake_kvm.eventfds[i].gpa == gpa)
			return &fake_kvm.eventfds[i];
	return NULL;
}

static int add_slot(unsigned int slot, uint64_t gpa, void *hva)
{
	if (fake_kvm.refuse_slots)
		return -ENOMEM;
	if (gpa % PAGE_SIZE_4K || (uintptr_t)hva % PAGE_SIZE_4K || !hva)
		return -EINVAL;
	if (fake_kvm_slot_at(gpa) || gpa < PLAT_RAM_MIN || fake_kvm.slots[slot].used)
		return -EEXIST;
	fake_kvm.slots[slot] = (struct fake_slot){ .used = true, .gpa = gpa, .page = hva };
	fake_kvm.nslots++;
	fake_kvm.added++;
	return 0;
}

static int remove_slot(unsigned int slot)
{
	if (!fake_kvm.slots[slot].used)
		return -EINVAL;
	if (fake_kvm.keep_slots)
		return -ENOMEM;
	fake_kvm.slots[slot].used = false;
	fake_kvm.nslots--;
	fake_kvm.removed++;
	return 0;
}

int __wrap_kvm_set_slot(struct kvm *k, unsigned int slot, uint64_t gpa, uint64_t size, void *hva,
			uint32_t flags)
{
	int err;

	if (k->vm_fd >= 0)
		return __real_kvm_set_slot(k, slot, gpa, size, hva, flags);
	if (slot < GMEM_REGIONS_MAX || slot >= FAKE_KVM_MAX || (size && size != PAGE_SIZE_4K))
		return -EINVAL;
	err = size ? add_slot(slot, gpa, hva) : remove_slot(slot);
	if (!err)
		changed(size ? 'M' : 'U');
	return err;
}

static int add_eventfd(int fd, uint64_t gpa)
{
	if (fake_kvm.refuse_eventfds)
		return -ENOSPC;
	if (fake_kvm_eventfd_at(gpa))
		return -EEXIST;
	for (unsigned int i = 0; i < FAKE_KVM_MAX; i++) {
		if (fake_kvm.eventfds[i].used)
			continue;
		fake_kvm.eventfds[i] = (struct fake_eventfd){ .used = true, .gpa = gpa, .fd = fd };
		fake_kvm.neventfds++;
		return 0;
	}
	return -ENOSPC;
}

static int remove_eventfd(int fd, uint64_t gpa)
{
	struct fake_eventfd *e = fake_kvm_eventfd_at(gpa);

	if (!e || e->fd != fd)
		return -ENOENT;
	e->used = false;
	fake_kvm.neventfds--;
	return 0;
}

int __wrap_kvm_ioeventfd(struct kvm *k, int eventfd, uint64_t addr, unsigned int len, bool pio,
			 bool assign)
{
	int err;

	if (k->vm_fd >= 0)
		return __real_kvm_ioeventfd(k, eventfd, addr, len, pio, assign);
	if (eventfd < 0 || (unsigned int)eventfd >= ARRAY_SIZE(fake_kvm.signals))
		return -EBADF;
	err = assign ? add_eventfd(eventfd, addr) : remove_eventfd(eventfd, addr);
	if (!err)
		changed(assign ? '+' : '-');
	return err;
}

void fake_kvm_store(struct vm *vm, uint64_t gpa, uint16_t value)
{
	const struct fake_slot *s = fake_kvm_slot_at(gpa);
	const struct fake_eventfd *e = fake_kvm_eventfd_at(gpa);

	if (s)
		memcpy(s->page + (gpa - s->gpa), &value, sizeof(value));
	else if (e)
		fake_kvm.signals[e->fd]++;
	else
		bus_write(&vm->mmio, gpa, sizeof(value), value);
}

int __wrap_kvm_get_irqchip(struct kvm *k, struct kvm_irqchip *chip)
{
	if (k->vm_fd >= 0)
		return __real_kvm_get_irqchip(k, chip);
	memset(&chip->chip, 0, sizeof(chip->chip));
	return 0;
}

int __wrap_kvm_vcpu_get_tsc_khz(int vcpu_fd, uint32_t *khz)
{
	if (vcpu_fd >= 0)
		return __real_kvm_vcpu_get_tsc_khz(vcpu_fd, khz);
	*khz = FAKE_KVM_TSC_KHZ;
	return 0;
}
