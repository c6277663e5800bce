/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start.S - from either boot entry to ring 3.
 *
 *   _start     64-bit entry of the Linux boot protocol: paging on, %rsi = boot_params
 *   pvh_start  32-bit entry of PVH: paging off, %ebx = hvm_start_info
 *
 * Both come to boot_setup(protocol, info) in ring 0, which fills the tables of cpu.c; then those
 * are loaded and boot_main() runs in ring 3. Ring 0 keeps to plain instructions, for hosts whose
 * KVM interprets it.
 */
#include "cpu.h"
#include "pvh.h"

#define BOOT_LINUX64	1
#define BOOT_PVH	2

#define PTE_TABLE	0x7	/* present, writable, user */
#define PTE_2M		0x87

	PVH_NOTE pvh_start

	.section .text.start, "ax", @progbits
	.code64
	.globl	_start
_start:
	cli
	cld
	movl	$stack0_top, %esp
	movl	$BOOT_LINUX64, %edi
	jmp	common

	.code32
	.globl	pvh_start
pvh_start:
	cli
	cld
	movl	$stack0_top, %esp
	movl	$boot_pml4, %eax
	movl	%eax, %cr3
	call	enter_long_mode
	lgdt	cpu_gdt_ptr
	ljmp	$CPU_CODE0, $1f
	.code64
1:	movl	$CPU_DATA0, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	%ebx, %esi
	movl	$BOOT_PVH, %edi

common:	/* %edi = protocol, %rsi = its structure */
	xorl	%ebp, %ebp
	call	boot_setup
	movl	$boot_main, %edi
	xorl	%esi, %esi
	movl	$stack3_top, %edx
	movl	$CPU_TSS, %ecx

/* Loads the final tables and goes to ring 3: %rdi(%rsi) on stack %rdx, TSS selector %ecx. */
	.globl	enter_ring3
enter_ring3:
	movl	$cpu_pml4, %eax
	movq	%rax, %cr3
	lgdt	cpu_gdt_ptr
	lidt	cpu_idt_ptr
	movl	$CPU_DATA3, %eax
	movl	%eax, %ds
	movl	%eax, %es
	ltr	%cx
	movq	%rdi, %rbx
	movq	%rsi, %rdi
	pushq	$CPU_DATA3
	pushq	%rdx
	pushq	$CPU_RFLAGS3
	pushq	$CPU_CODE3
	pushq	$1f
	iretq
1:	xorl	%ebp, %ebp
	call	*%rbx
2:	pause		/* a processor that has nothing more to do; hlt is for ring 0 */
	jmp	2b

/* PAE, long mode, paging with write protection, on the tables that %cr3 already holds. */
	.code32
	.globl	enter_long_mode
enter_long_mode:
	movl	$CPU_CR4_PAE, %eax
	movl	%eax, %cr4
	movl	$CPU_MSR_EFER, %ecx
	xorl	%edx, %edx
	movl	$CPU_EFER_LME, %eax
	wrmsr
	movl	$CPU_CR0_LONG, %eax
	movl	%eax, %cr0
	ret
	.code64

/*
 * One stub per exception, CPU_STUB_SIZE bytes apart, for the IDT that cpu.c builds: they level the
 * frames by pushing a zero where the processor pushes no error code.
 */
	.text
	.balign	CPU_STUB_SIZE
	.globl	cpu_stubs
cpu_stubs:
	vector = 0
	.rept	CPU_VECTORS
	.balign	CPU_STUB_SIZE
	.if	((CPU_HAS_ERROR >> vector) & 1) == 0
	pushq	$0
	.endif
	pushq	$vector
	jmp	trap
	vector = vector + 1
	.endr

trap:
	movq	%rsp, %rdi
	movq	%cr2, %rsi
	andq	$-16, %rsp
	call	cpu_exception

/* The first GiB, for the way from PVH's unpaged mode to cpu.c's tables. Built by the assembler. */
	.data
	.balign	4096
boot_pml4:
	.quad	boot_pdpt + PTE_TABLE
	.fill	511, 8, 0
boot_pdpt:
	.quad	boot_pd + PTE_TABLE
	.fill	511, 8, 0
boot_pd:
	page = 0
	.rept	512
	.quad	page + PTE_2M
	page = page + 0x200000
	.endr

	.globl	cpu_gdt_ptr, cpu_idt_ptr
	.balign	8
	.word	0
cpu_gdt_ptr:
	.word	CPU_GDT_BYTES - 1
	.quad	cpu_gdt
	.balign	8
	.word	0
cpu_idt_ptr:
	.word	CPU_VECTORS * 16 - 1
	.quad	cpu_idt

	.bss
	.balign	16
	.skip	8192
stack0_top:
	.globl	trap_stack_top
	.skip	8192
trap_stack_top:
	.skip	65536
stack3_top:

	.section .note.GNU-stack, "", @progbits
