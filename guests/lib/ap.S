/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ap.S - where an application processor starts: real mode, at the page that the start-up IPI names.
 * smp.c copies this code there; it goes to long mode on cpu.c's tables and on to enter_ring3 with
 * what smp.c has put into ap_start, one processor at a time.
 */
#include "cpu.h"

	.section .rodata
	.code16
	.balign	16
	.globl	ap_code, ap_code_end
ap_code:
	cli
	cld
	xorl	%eax, %eax
	movw	%ax, %ds
	lgdtl	CPU_AP_PAGE + (gdt_ptr - ap_code)
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$CPU_AP_CODE32, $CPU_AP_PAGE + (1f - ap_code)
	.code32
1:	movl	$CPU_DATA0, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	$ap_long, %eax
	jmp	*%eax
	/* Flat 32-bit code, which the GDT of long mode has no use for. */
	.balign	8
gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* CPU_CODE0 */
	.quad	0x00cf93000000ffff	/* CPU_DATA0 */
	.quad	0x00cf9b000000ffff	/* CPU_AP_CODE32 */
gdt_ptr:
	.word	gdt_ptr - gdt - 1
	.long	CPU_AP_PAGE + (gdt - ap_code)
ap_code_end:

	.text
	.code32
ap_long:
	movl	ap_stack0, %esp
	movl	$cpu_pml4, %eax
	movl	%eax, %cr3
	call	enter_long_mode
	ljmp	$CPU_CODE0, $1f
	.code64
1:	movl	ap_run, %edi
	movl	ap_arg, %esi
	movl	ap_stack3, %edx
	movl	ap_tss, %ecx
	jmp	enter_ring3

	.section .note.GNU-stack, "", @progbits
