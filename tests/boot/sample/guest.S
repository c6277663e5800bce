/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.S - reads the sample device's port and ends with what it read as the exit status. Runs the
 * same in 32-bit (PVH) and in 64-bit mode.
 */
#include <unvmm/platform.h>
#include "lib/pvh.h"

	PVH_NOTE _start

	.text
	.code32
	.globl _start
_start:
	movl	$0x5f0, %edx
	inb	%dx, %al
	movl	$PLAT_EXIT_PORT, %edx
	outb	%al, %dx
stop:
	jmp	stop

	.section .note.GNU-stack, "", @progbits
