/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor.h - what `unvmm doctor` knows of a host: one line per need. The checks read files below a
 * root folder and the answers of a few system calls, which doctor_probe_host() collects; both can
 * be made up, so each line is tested both ways. Main thread of the command.
 */
#ifndef UNVMM_VMM_DOCTOR_H
#define UNVMM_VMM_DOCTOR_H

#include <sys/types.h>

#include <unvmm/diag.h>

enum doctor_level {
	DOCTOR_OK,
	DOCTOR_WARN,	/* guests run, but without what the line tells of */
	DOCTOR_MISSING, /* no guest runs until this is mended */
};

struct doctor_need {
	enum doctor_level level;
	const char *name;
	char found[256];
	char mend[256]; /* a command where there is one; "": nothing to mend */
};

enum doctor_kvm {
	DOCTOR_KVM_NONE,
	DOCTOR_KVM_SOFTWARE, /* page-table based: the guest's kernel is interpreted */
	DOCTOR_KVM_HARDWARE,
};

/* What system calls answer. Errors are 0 or -errno; why is unvmm's own sentence for it. */
struct doctor_probe {
	struct {
		int err;
		struct diag why;
		unsigned int max_vcpus, max_slots;
		bool has_stats, has_tsc_deadline;
		/* Instructions per second of a guest's kernel mode; 0: none ran. */
		uint64_t rate;
	} kvm;
	struct {
		int err;
		struct diag why;
	} ring, folder; /* an io_uring as unvmm uses it; the folder for control sockets */
	char folder_path[128];
	int seccomp_err; /* of asking for the action that the sandbox uses */
	int vfio_err;	 /* of opening /dev/vfio/vfio */
	bool vfio_type1;
	int tun_err;  /* of opening /dev/net/tun */
	int uffd_err; /* of making a userfaultfd that serves the kernel's accesses, too */
	uid_t uid;
	const char *path; /* where programs are looked for, as PATH has it */
};

#define DOCTOR_NEEDS  24
#define DOCTOR_SUITES 3

struct doctor {
	int root;
	const struct doctor_probe *probe;
	enum doctor_kvm kvm;
	unsigned int n;
	struct doctor_need needs[DOCTOR_NEEDS];
};

/* Opens what a guest would need, runs a loop of a few thousand instructions in one; < 2.5 s. */
void doctor_probe_host(struct doctor_probe *p);

/* All lines, in the order in which they are worth mending. */
void doctor_examine(struct doctor *doc, int root, const struct doctor_probe *p);
/* True when a guest can run: nothing is missing. */
bool doctor_can_run(const struct doctor *doc);
/* The i-th suite of `make check` that needs something of the host: can it run, and why (not). */
bool doctor_suite(const struct doctor *doc, unsigned int i, const char **name, const char **why);

/* --- for the checks (doctor_*.c) -------------------------------------------------------------- */

void doctor_add(struct doctor *doc, enum doctor_level level, const char *name, const char *fmt, ...)
	printf_like(4, 5);
/* What mends the line added last. */
void doctor_mend(struct doctor *doc, const char *fmt, ...) printf_like(2, 3);

/* CPU flags of /proc/cpuinfo; a capability of this process (linux/capability.h). */
bool doctor_cpu_has(const struct doctor *doc, const char *flag);
bool doctor_capable(const struct doctor *doc, unsigned int cap);

/* doctor_cpu.c: kernel, kvm, kvm-api, nested, tsc */
void doctor_check_cpu(struct doctor *doc);
/* doctor_process.c: io_uring, seccomp, user, namespaces, runtime, thp, hugepages, userfaultfd, tap,
 * passt, tls */
void doctor_check_process(struct doctor *doc);
/* doctor_assign.c: iommu, irq-remapping, vfio, no-iommu, functions, memlock */
void doctor_check_assign(struct doctor *doc);

#endif
