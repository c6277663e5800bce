/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io.h - the instructions that C cannot say: port I/O, MMIO of an exact width, barriers, time
 * stamps.
 */
#ifndef GUESTS_IO_H
#define GUESTS_IO_H

#include <stdint.h>

static inline void io_out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t io_in8(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline void io_out16(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint16_t io_in16(uint16_t port)
{
	uint16_t v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline void io_out32(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint32_t io_in32(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

/*
 * MMIO always by a plain mov, one instruction per access: hypervisors decode nothing fancier for
 * certain, and the register tests count on the width.
 */
#define IO_MMIO(bits, suffix, reg)                                                              \
	static inline uint##bits##_t mmio_read##bits(uintptr_t addr)                            \
	{                                                                                       \
		uint##bits##_t v;                                                               \
                                                                                                \
		__asm__ volatile("mov" suffix " (%1), %0" : "=" reg(v) : "r"(addr) : "memory"); \
		return v;                                                                       \
	}                                                                                       \
	static inline void mmio_write##bits(uintptr_t addr, uint##bits##_t v)                   \
	{                                                                                       \
		__asm__ volatile("mov" suffix " %0, (%1)" : : reg(v), "r"(addr) : "memory");    \
	}

IO_MMIO(8, "b", "q")
IO_MMIO(16, "w", "r")
IO_MMIO(32, "l", "r")
IO_MMIO(64, "q", "r")

#undef IO_MMIO

/* Earlier loads and stores before later ones, stores before loads included. */
static inline void io_fence(void)
{
	/* Not mfence: a locked instruction does the same on write-back memory everywhere. */
	__asm__ volatile("lock; addl $0, (%%rsp)" : : : "memory", "cc");
}

/* x86 keeps loads in order and stores in order; only the compiler must be told. */
static inline void io_barrier(void)
{
	__asm__ volatile("" : : : "memory");
}

static inline void io_relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

static inline uint64_t io_tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

#endif
