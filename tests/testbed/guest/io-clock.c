/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io-clock.c - in a test guest: writes a number that grows by one into the first block of a disk,
 * one write at a time, past the page cache. Who looks at the image from outside sees when the
 * guest's I/O goes on and when it stands, by a clock that does not stop with the guest. Without a C
 * library, as kexec-run.c.
 * Usage: io-clock DEVICE   Ends with the first error only; exit status: its errno.
 */
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <sys/syscall.h>

#define BLOCK 4096

static long call(long n, long a, const void *b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return r;
}

static long start(long argc, char **argv)
{
	static unsigned long block[BLOCK / sizeof(long)] __attribute__((aligned(BLOCK)));
	long fd, r;

	if (argc != 2)
		return EINVAL;
	fd = call(SYS_open, (long)argv[1], (const void *)(O_WRONLY | O_DIRECT), 0, 0);
	if (fd < 0)
		return -fd;
	do {
		block[0]++;
		r = call(SYS_pwrite64, fd, block, BLOCK, 0);
	} while (r == BLOCK);
	return r < 0 ? -r : EIO;
}

/* The stack as the kernel leaves it: argc, argv[]. */
void _start(void);
__asm__(".globl _start\n_start: pop %rdi\n mov %rsp, %rsi\n and $-16, %rsp\n call run\n");
void run(long argc, char **argv);
void run(long argc, char **argv)
{
	call(SYS_exit_group, start(argc, argv), 0, 0, 0);
	__builtin_unreachable();
}
