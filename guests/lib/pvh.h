/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pvh.h - for assembly: the ELF note that gives the PVH entry of a kernel (Xen, public/elfnote.h).
 * Its presence tells the loader to enter in 32-bit protected mode with %ebx = hvm_start_info. An
 * image built with -DNO_PVH has no note, so that the loader must take e_entry, the 64-bit one.
 */
#ifndef GUESTS_PVH_H
#define GUESTS_PVH_H

#define XEN_ELFNOTE_PHYS32_ENTRY 18

/* This is not C. */
/* clang-format off */
.macro PVH_NOTE entry
#ifndef NO_PVH
	.section .note.Xen, "a", @note
	.balign	4
	.long	4		/* name size */
	.long	4		/* descriptor size */
	.long	XEN_ELFNOTE_PHYS32_ENTRY
	.asciz	"Xen"
	.long	\entry
#endif
.endm
/* clang-format on */

#endif
