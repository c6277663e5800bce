/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idle.S - a guest that says one byte and then waits for ever: what an idle machine costs.
 * The same code serves the PVH and the 64-bit entry, see guests/hello.S.
 */
#include <unvmm/platform.h>
#include "pvh.h"

	PVH_NOTE _start

	.text
	.code32
	.globl _start
_start:
	movl	$PLAT_SERIAL_PORT, %edx
	movb	$'i', %al
	outb	%al, %dx
	cli
stop:
	hlt
	jmp	stop

	.section .note.GNU-stack, "", @progbits
