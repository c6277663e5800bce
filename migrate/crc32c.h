/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crc32c.h - the checksum of the stream's sections: CRC-32C (Castagnoli, RFC 3720 appendix B.4),
 * reflected, initial value and final XOR all ones. By the processor where it has the instruction.
 * Any thread.
 */
#ifndef UNVMM_MIGRATE_CRC32C_H
#define UNVMM_MIGRATE_CRC32C_H

#include <unvmm/compiler.h>

/* crc: 0, or the result for the bytes before these. */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len);
/* The same without the instruction. */
uint32_t crc32c_by_table(uint32_t crc, const void *buf, size_t len);

#endif
