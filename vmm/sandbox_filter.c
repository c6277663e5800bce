/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox_filter.c - which thread may make which system call, and why; and the seccomp filters that
 * are made of this table. Each thread installs its own when everything is open and no guest has
 * run.
 *
 * What it is for: a guest, a function or a peer that found a hole in unvmm and runs code of its own
 * in one of its threads. Without a way to open, to connect, to execute, to start a thread, to make
 * memory executable or to reach into another process, that code has the descriptors that are open:
 * the guest's own disks, its cables, its console, the control socket. (User and capabilities, which
 * go at the same time, are sandbox.c's.)
 *
 * - A filter is a list of what is allowed. ioctl is allowed by request, fcntl by command, mmap only
 *   without PROT_EXEC; signals go only to this process itself; nothing is opened, neither a file
 * nor a socket (accept4 aside), and no thread or process is started.
 * - io_uring passes by seccomp. So the rings are restricted when they are made (loop.c) and no new
 *   one can be made: io_uring_setup is in no filter.
 * - Threads share memory, so who owns one can have another do what its filter allows: read the
 *   filters together for the process as a whole. That they differ costs the attacker that detour.
 * - What is not allowed traps (SECCOMP_RET_TRAP): the call is not made, and a SIGSYS that can be
 *   neither blocked nor handled otherwise (rt_sigaction is in no filter) ends the process; its
 *   handler says first which thread made which call. Another architecture's calls kill at once.
 * - The calls are those of the libraries and compilers this was built with. A new glibc that makes
 *   others shows in tests/boot/sandbox; sandbox = false runs a guest until that is mended.
 *
 * The generator is here and not libseccomp's: three filters took that 0.4 ms and 84 KiB of each
 * guest's memory to build, against 3 us and a page of stack. To install one takes the kernel 0.1
 * ms, and a call passes it in 50 ns.
 *
 * Rows of one call stand together, and frequent calls first: a filter is read from its beginning.
 */
#include "sandbox_filter.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define M   (1u << SANDBOX_MAIN)
#define V   (1u << SANDBOX_VCPU)
#define I   (1u << SANDBOX_IO)
#define F   (1u << SANDBOX_VF)
#define K   (1u << SANDBOX_KEEPER)
#define G   (1u << SANDBOX_MIGRATION)
#define T   (1u << SANDBOX_TLS)
#define VM  (M | V | I | F | G)
#define ALL (VM | K | T)

#define ALLOW(call, kinds, reason)                                \
	{                                                         \
		__NR_##call, (kinds), SANDBOX_ANY, 0, 0, (reason) \
	}
#define WHEN(call, kinds, arg, test, value, reason)                                      \
	{                                                                                \
		__NR_##call, (kinds), SANDBOX_##test, (arg), (uint32_t)(value), (reason) \
	}
#define IOCTL(request, kinds, reason) WHEN(ioctl, kinds, 1, EQUAL, request, reason)

const struct sandbox_rule sandbox_rules[] = {
	/* --- KVM --- */
	IOCTL(KVM_RUN, V, "runs the guest"),
	IOCTL(KVM_GET_REGS, M | V, "says where the guest was when KVM could not go on; it moves"),
	IOCTL(KVM_IRQ_LINE, M | V, "interrupts of the serial port, the clock, ACPI"),
	IOCTL(KVM_IRQFD, M | V | F, "a guest masks a vector; a function changes its path"),
	IOCTL(KVM_IOEVENTFD, M | V | F, "a driver enables a queue, a device is reset"),
	IOCTL(KVM_SET_GSI_ROUTING, M | V | F, "a driver writes its MSI-X table"),
	IOCTL(KVM_SET_USER_MEMORY_REGION, M | V | F | G,
	      "doorbell pages of functions come and go; the log of written pages"),
	IOCTL(KVM_GET_DIRTY_LOG, G, "which pages the guest has written"),
	IOCTL(KVM_CLEAR_DIRTY_LOG, G, "the same: they are about to be sent"),
	IOCTL(KVM_SET_REGS, M, "a reset: registers"),
	IOCTL(KVM_SET_SREGS, M, "a reset: segments and control registers"),
	IOCTL(KVM_SET_XCRS, M, "a reset: extended control registers"),
	IOCTL(KVM_SET_XSAVE, M, "a reset: floating point and vectors"),
	IOCTL(KVM_SET_DEBUGREGS, M, "a reset: debug registers"),
	IOCTL(KVM_GET_MSRS, M, "a reset: which MSRs the guest has changed"),
	IOCTL(KVM_SET_MSRS, M, "a reset: MSRs"),
	IOCTL(KVM_SET_VCPU_EVENTS, M, "a reset: pending exceptions"),
	IOCTL(KVM_SET_LAPIC, M, "a reset: local APIC"),
	IOCTL(KVM_SET_MP_STATE, M, "a reset: which vcpus wait for their start"),
	IOCTL(KVM_SET_IRQCHIP, M, "a reset: PICs and I/O APIC"),
	IOCTL(KVM_SET_PIT2, M, "a reset: timer"),
	IOCTL(KVM_GET_SREGS, M, "the guest moves: segments and control registers"),
	IOCTL(KVM_GET_SREGS2, M, "the same"),
	IOCTL(KVM_SET_SREGS2, M, "the same, there"),
	IOCTL(KVM_GET_XCRS, M, "the guest moves: extended control registers"),
	IOCTL(KVM_GET_XSAVE, M, "the guest moves: floating point and vectors"),
	IOCTL(KVM_GET_XSAVE2, M, "the same"),
	IOCTL(KVM_GET_DEBUGREGS, M, "the guest moves: debug registers"),
	IOCTL(KVM_GET_VCPU_EVENTS, M, "the guest moves: pending exceptions"),
	IOCTL(KVM_GET_LAPIC, M, "the guest moves: local APIC"),
	IOCTL(KVM_GET_MP_STATE, M, "the guest moves: which vcpus wait or halt"),
	IOCTL(KVM_GET_TSC_KHZ, M, "the guest moves: the rate of its time stamp counter"),
	IOCTL(KVM_SET_TSC_KHZ, M, "the same, there"),
	IOCTL(KVM_GET_IRQCHIP, M, "the guest moves: PICs and I/O APIC"),
	IOCTL(KVM_GET_PIT2, M, "the guest moves: timer"),
	IOCTL(KVM_GET_CLOCK, M, "the guest moves: kvm-clock"),
	IOCTL(KVM_SET_CLOCK, M, "the same, there"),
	IOCTL(KVM_KVMCLOCK_CTRL, M, "tells a guest that it was paused"),
	IOCTL(KVM_SET_DEVICE_ATTR, M | F, "the end: kvm-vfio lets go of a group"),

	/* --- a guest whose memory comes when it is touched --- */
	IOCTL(UFFDIO_COPY, G, "a page comes out of the snapshot's file"),
	IOCTL(UFFDIO_ZEROPAGE, G, "so does one that is all zero"),
	IOCTL(UFFDIO_WAKE, G, "somebody waits for a page that is there by now"),
	IOCTL(UFFDIO_REGISTER, G, "the guest begins to run: memory is missing from now on"),
	IOCTL(UFFDIO_UNREGISTER, G, "all of it is there"),

	/* --- taps, functions, terminals --- */
	IOCTL(TUNSETOFFLOAD, M | V | I, "a driver chooses offloads, a paused device goes on"),
	IOCTL(TUNSETQUEUE, M | V | I, "a driver chooses its number of queues"),
	IOCTL(SIOCGIFFLAGS, M | I, "the link of a tap"),
	IOCTL(VFIO_DEVICE_SET_IRQS, M | F, "vectors of a function"),
	IOCTL(VFIO_DEVICE_RESET, M | F, "a guest resets a function"),
	IOCTL(VFIO_DEVICE_FEATURE, F, "migration and DMA logging of a function"),
	IOCTL(VFIO_DEVICE_IOEVENTFD, F, "a doorbell that cannot be mapped"),
	IOCTL(VFIO_IOMMU_MAP_DMA, F, "the window of unvmm's own rings"),
	IOCTL(VFIO_IOMMU_UNMAP_DMA, M | F, "the same; guest memory at the end"),
	IOCTL(VFIO_GROUP_UNSET_CONTAINER, M | F, "the end: lets go of a group"),
	IOCTL(TCGETS, VM, "isatty; a terminal's modes"),
	IOCTL(TCSETS, VM, "raw mode; a thread that faults gives the terminal back"),
	IOCTL(TCSETSW, M, "gives the terminal back at the end"),
	IOCTL(TIOCGPGRP, VM, "are we in the foreground?"),
	IOCTL(TIOCGWINSZ, M, "the window of a console's terminal has another size"),

	/* --- the data path: what is open, locks, clocks --- */
	ALLOW(io_uring_enter, M | I | F, "the event loop: disks, descriptors, wake-ups"),
	ALLOW(read, ALL, "eventfds, taps, passt, console, timers, random bytes"),
	ALLOW(write, VM | T, "eventfds, console, log"),
	ALLOW(readv, I, "frames from a tap"),
	ALLOW(writev, VM, "frames to a tap; the C library's last words"),
	ALLOW(futex, VM | T, "locks and conditions; joining threads"),
	WHEN(tgkill, VM, 0, SELF, 0, "kicks a vcpu out of the guest; raise()"),
	ALLOW(poll, VM | T, "asks a descriptor before it is used; bounded waits"),
	ALLOW(ppoll, F, "bounded waits for a vfio-user server"),
	ALLOW(clock_gettime, VM | T, "where the vDSO has no clock; CPU time in statistics"),
	ALLOW(timerfd_settime, M | V | F,
	      "the RTC's alarms, --expect, --timeout; a function's control queue has a deadline"),
	ALLOW(timerfd_create, M, "a console in the background looks for the foreground"),

	/* --- peers: control clients, console clients, vfio-user servers --- */
	ALLOW(accept4, M | T, "control and console clients; who sends a guest"),
	ALLOW(recvmsg, M | F, "control messages with descriptors; vfio-user replies"),
	ALLOW(sendmsg, M | F | T, "vfio-user requests; main lets go of the server at the end"),
	ALLOW(sendto, M | V | G | T, "answers to control clients; console output; a moving guest"),
	ALLOW(recvfrom, T, "a moving guest, to be encrypted or just decrypted"),
	ALLOW(shutdown, M | F | T,
	      "the end of a control client's connection, of a vfio-user server's"),
	WHEN(fcntl, M | G, 1, EQUAL, F_DUPFD_CLOEXEC,
	     "a spare descriptor, for when there is no other; a snapshot is read on"),
	WHEN(fcntl, M | G, 1, EQUAL, F_OFD_SETLK,
	     "the lock of a disk's image moves with the guest"),

	/* --- files: those that are open --- */
	ALLOW(preadv2, M | V, "an interrupt that a reset takes back"),
	ALLOW(pread64, M | F | G,
	      "kernel and initrd at a reset, KVM's statistics; a function's registers; memory out "
	      "of a snapshot"),
	ALLOW(lseek, G, "what of a snapshot is read later, of memory never touched"),
	ALLOW(pwrite64, M | F, "a function's registers; main switches it off at the end"),
	WHEN(newfstatat, M | F | G, 3, EQUAL, AT_EMPTY_PATH,
	     "fstat: the kernel's size at a reset; what a vfio-user server sent"),
	WHEN(newfstatat, K, 3, EQUAL, AT_SYMLINK_NOFOLLOW, "does that name still lead to ours?"),
	ALLOW(unlinkat, K, "removes the names at the end"),
	ALLOW(flock, K, "keeps others from that folder meanwhile"),
	ALLOW(clock_nanosleep, K | F, "waits for that; for a function to confirm a reset"),
	ALLOW(close, M | V | F | G | T, "clients, descriptors of functions; everything at the end"),
	ALLOW(fdatasync, G, "disks before a guest moves; a snapshot"),
	ALLOW(eventfd2, M | F, "main waits for a function's reset; a doorbell of a function"),
	WHEN(io_uring_register, M, 1, EQUAL, IORING_UNREGISTER_RING_FDS,
	     "liburing takes a ring down"),

	/* --- memory --- */
	WHEN(mmap, VM | T, 2, WITHOUT, PROT_EXEC, "malloc; pages of a function's BAR"),
	ALLOW(munmap, VM | T, "free; everything at the end"),
	ALLOW(mremap, VM | T, "realloc of a large block"),
	ALLOW(brk, VM | T, "malloc"),
	WHEN(madvise, VM | T, 2, EQUAL, MADV_DONTNEED, "a thread that ends gives back its stack"),
	ALLOW(getrandom, M | T, "json-c seeds its hashes; GnuTLS's nonces"),
	ALLOW(sysinfo, M, "qsort() of a vcpu's registers asks how much memory there is"),

	/* --- a thread's own business --- */
	ALLOW(rt_sigreturn, ALL, "returns from a signal's handler"),
	ALLOW(rt_sigprocmask, VM, "raise(); a thread that ends"),
	ALLOW(restart_syscall, ALL, "a wait goes on after SIGSTOP and SIGCONT"),
	ALLOW(getpid, VM | T, "raise(), statistics; GnuTLS looks for a fork"),
	ALLOW(gettid, VM, "raise()"),
	ALLOW(getpgrp, VM, "are we in the foreground?"),
	WHEN(prctl, VM | T, 0, EQUAL, PR_GET_NAME,
	     "the thread's name in the sentence about a forbidden call"),
	ALLOW(exit, VM, "a thread ends"),
	ALLOW(exit_group, ALL, "the process ends"),
};
const unsigned int sandbox_nrules = ARRAY_SIZE(sandbox_rules);

/* --- from the table to a filter -------------------------------------------------------------- */

struct builder {
	struct sock_filter *code;
	unsigned int n, max; /* n may exceed max: then nothing more is stored */
	pid_t self;
};

static void emit(struct builder *b, struct sock_filter f)
{
	if (b->n < b->max)
		b->code[b->n] = f;
	b->n++;
}

static void load(struct builder *b, size_t offset)
{
	emit(b, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

/* If a jump of this kind does not succeed, the next instruction is left out. */
static void unless_skip(struct builder *b, uint16_t jump, uint32_t k)
{
	emit(b, (struct sock_filter)BPF_JUMP((uint16_t)(BPF_JMP | jump | BPF_K), k, 0, 1));
}

static void ret(struct builder *b, uint32_t action)
{
	emit(b, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

/* The low half (x86 is little-endian): requests, commands and PIDs have 32 bits in the kernel. */
static size_t arg_offset(unsigned int arg)
{
	return offsetof(struct seccomp_data, args) + arg * sizeof(uint64_t);
}

/* One row; the number of the call is known to be its own. Returns which argument is loaded. */
static unsigned int emit_condition(struct builder *b, const struct sandbox_rule *r,
				   unsigned int was)
{
	if (r->test != SANDBOX_ANY && r->arg != was)
		load(b, arg_offset(r->arg));
	switch (r->test) {
	case SANDBOX_ANY:
		break;
	case SANDBOX_EQUAL:
		unless_skip(b, BPF_JEQ, r->value);
		break;
	case SANDBOX_SELF:
		unless_skip(b, BPF_JEQ, (uint32_t)b->self);
		break;
	case SANDBOX_WITHOUT: /* the other way round: a bit that is set leaves the return out */
		emit(b, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, r->value, 1, 0));
		break;
	}
	ret(b, SECCOMP_RET_ALLOW);
	return r->test == SANDBOX_ANY ? was : r->arg;
}

/* All rows of one call, from `first` on; returns the row behind them. */
static unsigned int emit_call(struct builder *b, unsigned int first, unsigned int kind)
{
	unsigned int end = first, arg = UINT32_MAX, jump = b->n + 1;
	int nr = sandbox_rules[first].nr;
	bool any = false;

	for (; end < sandbox_nrules && sandbox_rules[end].nr == nr; end++)
		any |= sandbox_rules[end].kinds >> kind & 1;
	if (!any)
		return end;
	emit(b, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 1, 0));
	emit(b, (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 0)); /* to behind the rows */
	for (unsigned int i = first; i < end; i++)
		if (sandbox_rules[i].kinds >> kind & 1)
			arg = emit_condition(b, &sandbox_rules[i], arg);
	if (arg != UINT32_MAX) /* there were conditions, and none is met */
		ret(b, SECCOMP_RET_TRAP);
	if (jump < b->max)
		b->code[jump].k = b->n - jump - 1;
	return end;
}

int sandbox_filter_build(enum sandbox_kind kind, pid_t self, struct sock_filter *code,
			 unsigned int max)
{
	struct builder b = { .code = code, .max = max, .self = self };

	load(&b, offsetof(struct seccomp_data, arch));
	emit(&b, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
	ret(&b, SECCOMP_RET_KILL_PROCESS);
	load(&b, offsetof(struct seccomp_data, nr));
	for (unsigned int i = 0; i < sandbox_nrules;)
		i = emit_call(&b, i, kind);
	ret(&b, SECCOMP_RET_TRAP);
	return b.n <= max ? (int)b.n : -E2BIG;
}

int sandbox_filter_install(enum sandbox_kind kind)
{
	struct sock_filter code[SANDBOX_CODE_MAX];
	struct sock_fprog prog = { .filter = code };
	int n = sandbox_filter_build(kind, getpid(), code, ARRAY_SIZE(code));

	if (n < 0)
		return n;
	prog.len = (unsigned short)n;
	/*
	 * SPEC_ALLOW: else kernels before 5.16 run this thread without speculative store bypass,
	 * which is for code that attacks its own process by side channels; a guest has none in it.
	 * LOG: the kernel's audit log has the call, too.
	 */
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		       SECCOMP_FILTER_FLAG_SPEC_ALLOW | SECCOMP_FILTER_FLAG_LOG, &prog) < 0
		       ? -errno
		       : 0;
}
