/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bus.h - who answers a trapped access. One struct bus for port I/O, one for memory.
 *
 * Thread: everything is called with the control lock held (vm.h). Handlers run on the vcpu thread
 * that trapped, must not block on anything a guest, peer or device can delay, and may add or remove
 * regions, their own included (a moved BAR).
 */
#ifndef UNVMM_BUS_H
#define UNVMM_BUS_H

#include <unvmm/diag.h>

/*
 * `offset` counts from the region's base; len is 1, 2, 4 or 8; [offset, offset + len) lies inside
 * the region. Values are in the low `len` bytes, the rest is zero (writes) or ignored (reads).
 * The guest chose offset, len and value: reject what makes no sense by all-ones and doing nothing.
 */
struct bus_ops {
	uint64_t (*read)(void *dev, uint64_t offset, unsigned int len);
	void (*write)(void *dev, uint64_t offset, unsigned int len, uint64_t value);
};

struct bus_region {
	uint64_t base;
	uint64_t size;
	const struct bus_ops *ops;
	void *dev;
	const char *name; /* static */
};

struct bus {
	struct bus_region *regions; /* sorted by base, no overlaps; owned */
	unsigned int n, cap;
};

void bus_init(struct bus *b);
void bus_fini(struct bus *b);

/* -EEXIST if it overlaps a region, -EINVAL for an empty or wrapping one, -ENOMEM. */
int bus_add(struct bus *b, uint64_t base, uint64_t size, const struct bus_ops *ops, void *dev,
	    const char *name) must_check;

/* Removes the region that starts at base; nothing happens if there is none. */
void bus_remove(struct bus *b, uint64_t base);

/* One access. An access that no region holds whole reads all-ones and writes nothing. */
uint64_t bus_read(struct bus *b, uint64_t addr, unsigned int len);
void bus_write(struct bus *b, uint64_t addr, unsigned int len, uint64_t value);

#endif
