/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor_probe.c - asks the kernel by system calls what files do not tell: whether what a guest
 * needs can be opened, and how fast a guest's kernel mode is. Main thread; everything is closed
 * again.
 */
#include "doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <unvmm/control.h>
#include <unvmm/kvm.h>
#include <unvmm/loop.h>

#define LOOP_ADDRESS 0x1000u
#define LOOP_ROUNDS  10000u
#define LOOP_TRIES   4 /* the first one also takes the page faults */
#define LOOP_MS	     2000

#define CR0_PE	 1u
#define NS_PER_S 1000000000ull

/* mov ecx, LOOP_ROUNDS; 1: dec ecx; jnz 1b; out 0x80, al - in 32-bit protected mode. */
static const uint8_t loop_code[] = {
	0xb9, LOOP_ROUNDS & 0xff, LOOP_ROUNDS >> 8, 0, 0, 0x49, 0x75, 0xfd, 0xe6, 0x80,
};

static void on_alarm(int sig)
{
	(void)sig; /* KVM_RUN ends with EINTR: that is all */
}

/* Kicks KVM_RUN again and again from LOOP_MS on; what was in force before goes into old. */
static void alarm_start(struct sigaction *old)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct itimerval every = { .it_value = { .tv_sec = LOOP_MS / 1000 },
				   .it_interval = { .tv_usec = 100000 } };

	sigaction(SIGALRM, &sa, old);
	setitimer(ITIMER_REAL, &every, NULL);
}

static void alarm_stop(const struct sigaction *old)
{
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	sigaction(SIGALRM, old, NULL);
}

static int enter_loop(int fd)
{
	struct kvm_segment code = { .limit = 0xffffffff,
				    .selector = 8,
				    .type = 11,
				    .present = 1,
				    .s = 1,
				    .db = 1,
				    .g = 1 };
	struct kvm_segment data = code;
	struct kvm_regs regs = { .rip = LOOP_ADDRESS, .rflags = 2 };
	struct kvm_sregs s;
	int err = kvm_vcpu_get_sregs(fd, &s);

	if (err)
		return err;
	data.selector = 16;
	data.type = 3;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 |= CR0_PE;
	err = kvm_vcpu_set_sregs(fd, &s);
	return err ? err : kvm_vcpu_set_regs(fd, &regs);
}

/* Nanoseconds that the loop took, 0 when it did not come to its end. */
static uint64_t time_loop(int fd, const struct kvm_run *run, struct diag *d)
{
	int err = enter_loop(fd);
	uint64_t start = loop_now();

	if (!err)
		err = kvm_vcpu_run(fd);
	if (err) {
		diag_errno(d, err, "KVM_RUN fails");
		return 0;
	}
	if (run->exit_reason != KVM_EXIT_IO) {
		diag_set(d, -EIO, "KVM_RUN ends with exit reason %u", run->exit_reason);
		return 0;
	}
	return loop_now() - start + 1;
}

/* The best of a few tries: what else the machine does can only make it slower. */
static uint64_t measure(struct kvm *k, struct diag *d)
{
	uint8_t *page = mmap(NULL, PAGE_SIZE_4K, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t best = 0, ns;
	struct sigaction old;
	struct kvm_run *run;
	int fd;

	if (page == MAP_FAILED)
		return 0;
	memcpy(page, loop_code, sizeof(loop_code));
	fd = kvm_set_slot(k, 0, LOOP_ADDRESS, PAGE_SIZE_4K, page, 0);
	if (fd >= 0)
		fd = kvm_create_vcpu(k, 0, &run, d);
	if (fd >= 0) {
		alarm_start(&old);
		for (int i = 0; i < LOOP_TRIES; i++) {
			ns = time_loop(fd, run, d);
			if (!ns)
				break;
			if (!best || ns < best)
				best = ns;
		}
		alarm_stop(&old);
		kvm_destroy_vcpu(k, fd, run);
	}
	kvm_close(k);
	munmap(page, PAGE_SIZE_4K);
	return best ? 2 * LOOP_ROUNDS * NS_PER_S / best : 0;
}

static void probe_kvm(struct doctor_probe *p)
{
	struct kvm k;

	p->kvm.err = kvm_open(&k, NULL, &p->kvm.why);
	if (p->kvm.err)
		return;
	p->kvm.max_vcpus = k.max_vcpus;
	p->kvm.max_slots = k.max_slots;
	p->kvm.has_stats = k.stats_fd >= 0;
	p->kvm.has_tsc_deadline = k.has_tsc_deadline;
	p->kvm.rate = measure(&k, &p->kvm.why);
}

static void probe_vfio(struct doctor_probe *p)
{
	int fd = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);

	p->vfio_err = fd < 0 ? -errno : 0;
	if (fd < 0)
		return;
	p->vfio_type1 = ioctl(fd, VFIO_GET_API_VERSION) == VFIO_API_VERSION &&
			ioctl(fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) > 0;
	close(fd);
}

static void probe_tun(struct doctor_probe *p)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	p->tun_err = fd < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
}

/* As migrate/lazy.c makes it, which has the reasons. */
static void probe_uffd(struct doctor_probe *p)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), node = -1;

	p->uffd_err = fd < 0 ? -errno : 0;
	if (fd < 0)
		node = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (node >= 0) {
		fd = ioctl(node, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		p->uffd_err = fd < 0 ? -errno : 0;
		close(node);
	}
	if (fd >= 0)
		close(fd);
}

void doctor_probe_host(struct doctor_probe *p)
{
	struct loop loop;

	*p = (struct doctor_probe){ .uid = geteuid(), .path = getenv("PATH") };
	probe_kvm(p);
	p->ring.err = loop_init(&loop, 8, &p->ring.why);
	if (!p->ring.err)
		loop_fini(&loop);
	p->folder.err =
		control_folder(p->folder_path, sizeof(p->folder_path), false, &p->folder.why);
	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &(uint32_t){ SECCOMP_RET_TRAP }) < 0)
		p->seccomp_err = -errno;
	probe_vfio(p);
	probe_tun(p);
	probe_uffd(p);
}
