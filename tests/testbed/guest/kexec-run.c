/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kexec-run.c - in a test guest: loads a kernel with its RAM disk and starts it in place of the
 * running one, as kexec(8) would. Without a C library, because 700 KB are much for a small guest.
 * Usage: kexec-run KERNEL INITRD CMDLINE   Exit status: the errno of what failed.
 */
#include <linux/fcntl.h>
#include <linux/reboot.h>
#include <sys/syscall.h>

static long call(long n, long a, long b, long c, const void *d, long e)
{
	register long r10 __asm__("r10") = (long)d;
	register long r8 __asm__("r8") = e;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return r;
}

static long start(long argc, char **argv)
{
	long kernel, initrd, size = 1, r;

	if (argc != 4)
		return 2;
	while (argv[3][size - 1])
		size++;
	kernel = call(SYS_open, (long)argv[1], O_RDONLY, 0, 0, 0);
	initrd = call(SYS_open, (long)argv[2], O_RDONLY, 0, 0, 0);
	r = call(SYS_kexec_file_load, kernel, initrd, size, argv[3], 0);
	if (!r)
		r = call(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
			 LINUX_REBOOT_CMD_KEXEC, 0, 0);
	return -r;
}

/* The stack as the kernel leaves it: argc, argv[]. */
void _start(void);
__asm__(".globl _start\n_start: pop %rdi\n mov %rsp, %rsi\n and $-16, %rsp\n call run\n");
void run(long argc, char **argv);
void run(long argc, char **argv)
{
	call(SYS_exit_group, start(argc, argv), 0, 0, 0, 0);
	__builtin_unreachable();
}
