/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hello.S - the smallest guest: its first serial byte marks the end of start-up in the boot bench.
 *
 * One entry serves both boot protocols: every instruction below has the same encoding and meaning
 * in 32-bit protected mode (PVH) and in 64-bit mode (Linux), so there is nothing to set up or to
 * tell apart. The first byte goes out after three instructions, without asking whether the
 * transmitter is ready: after a reset it is (16550D data sheet, table I).
 */
#include <unvmm/platform.h>
#include "lib/pvh.h"

#define LSR_THRE 0x20

	PVH_NOTE _start

	.text
	.code32
	.globl _start
_start:
	movl	$PLAT_SERIAL_PORT, %edx
	movb	$'h', %al
	outb	%al, %dx
	cld
	movl	$rest, %esi
next:
	lodsb
	movb	%al, %cl
	testb	%al, %al
	jz	done
	movl	$PLAT_SERIAL_PORT + 5, %edx
ready:
	inb	%dx, %al
	testb	$LSR_THRE, %al
	jz	ready
	movb	%cl, %al
	movl	$PLAT_SERIAL_PORT, %edx
	outb	%al, %dx
	jmp	next
done:
	/* %al is 0: passed. */
	movl	$PLAT_EXIT_PORT, %edx
	outb	%al, %dx
stop:
	cli
	hlt
	jmp	stop

rest:
	.asciz	"ello\r\nPASS hello\r\n"

	.section .note.GNU-stack, "", @progbits
