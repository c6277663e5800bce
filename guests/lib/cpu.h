/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu.h - selectors, table sizes and processor constants shared by start.S, ap.S and cpu.c.
 */
#ifndef GUESTS_CPU_H
#define GUESTS_CPU_H

#define CPU_MAX 64

/* GDT: null, ring 0 code and data, ring 3 data and code, one TSS descriptor per processor. */
#define CPU_CODE0     0x08
#define CPU_DATA0     0x10
#define CPU_DATA3     0x1b
#define CPU_CODE3     0x23
#define CPU_TSS	      0x28
#define CPU_GDT_WORDS (5 + 2 * CPU_MAX)
#define CPU_GDT_BYTES (CPU_GDT_WORDS * 8)

#define CPU_VECTORS   32
#define CPU_STUB_SIZE 16
/* Exceptions that push an error code: #DF, #TS to #PF, #AC, #CP. */
#define CPU_HAS_ERROR 0x00227d00

#define CPU_RFLAGS3 0x0002 /* interrupts off */

#define CPU_MSR_EFER 0xc0000080
#define CPU_EFER_LME 0x100
#define CPU_CR4_PAE  0x20
#define CPU_CR0_LONG 0x80010011 /* PG, WP, ET, PE */

/* Where ap.S's start code is copied: a start-up IPI can only name a page below 1 MiB. */
#define CPU_AP_PAGE   0x8000
#define CPU_AP_CODE32 0x18 /* in the GDT of that code */

#endif
