/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bus.c - finds who answers a trapped access: a sorted array of regions. Control lock held.
 */
#include <unvmm/bus.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void bus_init(struct bus *b)
{
	*b = (struct bus){ 0 };
}

void bus_fini(struct bus *b)
{
	free(b->regions);
	*b = (struct bus){ 0 };
}

/* Index of the first region that ends behind addr. */
static unsigned int bus_lower(const struct bus *b, uint64_t addr)
{
	unsigned int lo = 0, hi = b->n;

	while (lo < hi) {
		unsigned int mid = (lo + hi) / 2;

		if (b->regions[mid].base + (b->regions[mid].size - 1) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int bus_add(struct bus *b, uint64_t base, uint64_t size, const struct bus_ops *ops, void *dev,
	    const char *name)
{
	unsigned int i;

	if (!size || base + (size - 1) < base)
		return -EINVAL;
	i = bus_lower(b, base);
	if (i < b->n && b->regions[i].base <= base + (size - 1))
		return -EEXIST;
	if (b->n == b->cap) {
		unsigned int cap = b->cap ? b->cap * 2 : 16;
		struct bus_region *r = reallocarray(b->regions, cap, sizeof(*r));

		if (!r)
			return -ENOMEM;
		b->regions = r;
		b->cap = cap;
	}
	memmove(&b->regions[i + 1], &b->regions[i], (b->n - i) * sizeof(*b->regions));
	b->regions[i] = (struct bus_region){
		.base = base, .size = size, .ops = ops, .dev = dev, .name = name
	};
	b->n++;
	return 0;
}

void bus_remove(struct bus *b, uint64_t base)
{
	unsigned int i = bus_lower(b, base);

	if (i == b->n || b->regions[i].base != base)
		return;
	b->n--;
	memmove(&b->regions[i], &b->regions[i + 1], (b->n - i) * sizeof(*b->regions));
}

/* By value: the handler may add or remove regions. */
static bool bus_find(const struct bus *b, uint64_t addr, unsigned int len, struct bus_region *out)
{
	unsigned int i = bus_lower(b, addr);

	if (i == b->n || !range_within(addr, len, b->regions[i].base, b->regions[i].size))
		return false;
	*out = b->regions[i];
	return true;
}

static uint64_t ones(unsigned int len)
{
	return len >= 8 ? UINT64_MAX : (1ull << (8 * len)) - 1;
}

uint64_t bus_read(struct bus *b, uint64_t addr, unsigned int len)
{
	struct bus_region r;

	if (!bus_find(b, addr, len, &r))
		return ones(len);
	return r.ops->read(r.dev, addr - r.base, len) & ones(len);
}

void bus_write(struct bus *b, uint64_t addr, unsigned int len, uint64_t value)
{
	struct bus_region r;

	if (bus_find(b, addr, len, &r))
		r.ops->write(r.dev, addr - r.base, len, value & ones(len));
}
