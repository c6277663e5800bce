/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crc32c.c - CRC-32C by the SSE 4.2 instruction, three streams at a time because each depends on
 * its own last result for three cycles; else by a table for four bits. Any thread, no state.
 */
#include "crc32c.h"

#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* bit-reflected */

/* Length of each of the three streams: a page's worth has almost three of them. */
#define STREAM 1344u

uint32_t crc32c_by_table(uint32_t crc, const void *buf, size_t len)
{
	const uint8_t *p = buf;
	uint32_t table[16];

	for (uint32_t i = 0; i < ARRAY_SIZE(table); i++) {
		uint32_t c = i;

		for (unsigned int bit = 0; bit < 4; bit++)
			c = c & 1 ? c >> 1 ^ POLYNOMIAL : c >> 1;
		table[i] = c;
	}
	crc = ~crc;
	while (len--) {
		crc ^= *p++;
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return ~crc;
}

#ifdef __x86_64__
/* a * b modulo the polynomial; bit 31 is the constant term. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
	uint32_t product = 0;

	for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
		if (a & bit)
			product ^= b;
		b = b & 1 ? b >> 1 ^ POLYNOMIAL : b >> 1;
	}
	return product;
}

/* x^(8 n): what `n` bytes of zeroes do to a remainder. */
static uint32_t shift_of(size_t n)
{
	uint32_t result = 1u << 31, square = 1u << 23; /* 1, x^8 */

	for (; n; n >>= 1) {
		if (n & 1)
			result = multiply(result, square);
		square = multiply(square, square);
	}
	return result;
}

static uint64_t word_at(const uint8_t *p)
{
	uint64_t w;

	memcpy(&w, p, sizeof(w));
	return w;
}

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *p,
								 size_t len)
{
	uint64_t a = (uint32_t)~crc;

	if (len >= 8 * (size_t)STREAM) {
		uint32_t once = shift_of(STREAM), twice = multiply(once, once);

		for (; len >= 3 * (size_t)STREAM; len -= 3 * STREAM, p += 3 * STREAM) {
			uint64_t b = 0, c = 0;

			for (size_t i = 0; i < STREAM; i += 8) {
				a = __builtin_ia32_crc32di(a, word_at(p + i));
				b = __builtin_ia32_crc32di(b, word_at(p + STREAM + i));
				c = __builtin_ia32_crc32di(c, word_at(p + 2 * STREAM + i));
			}
			a = multiply((uint32_t)a, twice) ^ multiply((uint32_t)b, once) ^
			    (uint32_t)c;
		}
	}
	for (; len >= 8; len -= 8, p += 8)
		a = __builtin_ia32_crc32di(a, word_at(p));
	while (len--)
		a = __builtin_ia32_crc32qi((uint32_t)a, *p++);
	return ~(uint32_t)a;
}

uint32_t crc32c(uint32_t crc, const void *buf, size_t len)
{
	return __builtin_cpu_supports("sse4.2") ? by_instruction(crc, buf, len)
						: crc32c_by_table(crc, buf, len);
}
#else
uint32_t crc32c(uint32_t crc, const void *buf, size_t len)
{
	return crc32c_by_table(crc, buf, len);
}
#endif
