/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mem.c - a bump allocator over the RAM behind the image, and the four functions that the compiler
 * may call by itself in a freestanding program.
 */
#include "guest.h"

#include <unvmm/platform.h>

static uintptr_t heap_next, heap_end;

void mem_init(const struct boot_info *boot)
{
	heap_next = (uintptr_t)image_end;
	for (unsigned int i = 0; i < boot->nranges; i++) {
		const struct mem_range *r = &boot->range[i];

		if (r->ram && r->base <= heap_next && r->base + r->size > heap_next)
			heap_end = r->base + r->size;
	}
	if (!heap_end)
		test_abort("the memory map does not contain the image");
	if (heap_end > PLAT_RAM_LOW_MAX)
		heap_end = PLAT_RAM_LOW_MAX;
}

void *mem_try_alloc(size_t size, size_t align)
{
	uintptr_t start = (heap_next + align - 1) & ~(uintptr_t)(align - 1);

	if (start > heap_end || size > heap_end - start)
		return NULL;
	heap_next = start + size;
	return memset((void *)start, 0, size);
}

void *mem_alloc(size_t size, size_t align)
{
	void *p = mem_try_alloc(size, align);

	if (!p)
		test_abort("no memory for %zu bytes", size);
	return p;
}

void *memset(void *dst, int c, size_t n)
{
	void *d = dst;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return dst;
}

void *memcpy(void *restrict dst, const void *restrict src, size_t n)
{
	void *d = dst;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
	return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const unsigned char *x = a, *y = b;

	for (size_t i = 0; i < n; i++) {
		if (x[i] != y[i])
			return x[i] - y[i];
	}
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}
