/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor_cpu.c - the kernel, its KVM, the clock. Which kind of KVM there is decides a measurement
 * first and names second: a page-table based one interprets the guest's kernel mode. Main thread.
 */
#include "doctor.h"
#include "sysfs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define KERNEL_MAJOR 5u /* what unvmm needs: restricted io_urings, 5.10 */
#define KERNEL_MINOR 10u
/*
 * Instructions per second of a guest's kernel mode. Interpreters do 1 to 2 million; an emulated CPU
 * with nested virtualization more than 50 million, a real one 1000 million.
 */
#define INTERPRETED_BELOW 10000000u

static void check_kernel(struct doctor *doc)
{
	unsigned int major = 0, minor = 0;
	char release[96];

	sysfs_text(doc->root, release, sizeof(release), "proc/sys/kernel/osrelease");
	if (sscanf(release, "%u.%u", &major, &minor) == 2 &&
	    (major > KERNEL_MAJOR || (major == KERNEL_MAJOR && minor >= KERNEL_MINOR))) {
		doctor_add(doc, DOCTOR_OK, "kernel", "Linux %s", release);
		return;
	}
	doctor_add(doc, DOCTOR_MISSING, "kernel", "Linux %s; unvmm needs %u.%u or later",
		   *release ? release : "of an unknown version", KERNEL_MAJOR, KERNEL_MINOR);
	doctor_mend(doc, "install a newer kernel (Debian 12 has 6.1)");
}

/* "kvm_amd", "kvm_intel" or "" by what the CPU can do. */
static const char *module_for_cpu(const struct doctor *doc)
{
	return doctor_cpu_has(doc, "svm")   ? "kvm_amd"
	       : doctor_cpu_has(doc, "vmx") ? "kvm_intel"
					    : "";
}

static void kvm_does_not_open(struct doctor *doc)
{
	const char *module = module_for_cpu(doc);
	int err = doc->probe->kvm.err;

	doctor_add(doc, DOCTOR_MISSING, "kvm", "%s", doc->probe->kvm.why.text);
	if (err == -EACCES || err == -EPERM)
		doctor_mend(doc, "usermod -aG kvm USER, and log in again");
	else if (*module)
		doctor_mend(doc, "modprobe %s", module);
	else if (doctor_cpu_has(doc, "hypervisor"))
		doctor_mend(doc,
			    "this machine is a guest itself: switch nested virtualization on for "
			    "it, or use tests/testbed/run");
	else
		doctor_mend(doc, "switch virtualization (AMD-V, VT-x) on in the firmware, or use "
				 "tests/testbed/run");
}

static void software_kvm(struct doctor *doc)
{
	const struct doctor_probe *p = doc->probe;

	doc->kvm = DOCTOR_KVM_SOFTWARE;
	doctor_add(doc, DOCTOR_WARN, "kvm",
		   "software KVM%s: guest kernels are interpreted, %.1f million instructions per "
		   "second%s; stock Linux does not boot",
		   sysfs_exists(doc->root, "sys/module/kvm_pvm") ? " (kvm_pvm, page-table based)"
								 : "",
		   (double)p->kvm.rate / 1e6,
		   *module_for_cpu(doc) ? " although the CPU has hardware virtualization" : "");
	if (*module_for_cpu(doc))
		doctor_mend(doc, "modprobe %s", module_for_cpu(doc));
	else
		doctor_mend(doc, "a machine with svm or vmx, or the testbed: tests/testbed/run");
}

static void check_kvm(struct doctor *doc)
{
	const struct doctor_probe *p = doc->probe;
	const char *module = module_for_cpu(doc);

	if (p->kvm.err && p->kvm.err != -ENOTSUP) {
		kvm_does_not_open(doc);
	} else if (!p->kvm.rate) {
		doctor_add(doc, DOCTOR_MISSING, "kvm", "a guest of one loop does not run: %s",
			   *p->kvm.why.text ? p->kvm.why.text : "it never ended");
		doctor_mend(doc, "look into the kernel's log ('dmesg')");
	} else if (p->kvm.rate < INTERPRETED_BELOW) {
		software_kvm(doc);
	} else if (*module && !sysfs_exists(doc->root, "sys/module/kvm_pvm")) {
		doc->kvm = DOCTOR_KVM_HARDWARE;
		doctor_add(doc, DOCTOR_OK, "kvm",
			   "hardware KVM (%s), %.0f million instructions per second",
			   !strcmp(module, "kvm_amd") ? "AMD-V" : "VT-x",
			   (double)p->kvm.rate / 1e6);
	} else {
		doc->kvm = DOCTOR_KVM_SOFTWARE;
		doctor_add(doc, DOCTOR_WARN, "kvm",
			   "KVM without hardware virtualization%s; a stock Linux may not boot",
			   *module ? " (kvm_pvm)" : ": the CPU has neither svm nor vmx");
		doctor_mend(doc, "a machine with svm or vmx, or the testbed: tests/testbed/run");
	}
}

static void check_kvm_api(struct doctor *doc)
{
	const struct doctor_probe *p = doc->probe;

	if (p->kvm.err == -ENOTSUP) {
		doctor_add(doc, DOCTOR_MISSING, "kvm-api", "%s", p->kvm.why.text);
		doctor_mend(doc, "install a newer kernel (Debian 12 has 6.1)");
	} else if (p->kvm.err) {
		doctor_add(doc, DOCTOR_MISSING, "kvm-api", "not asked: there is no KVM to ask");
	} else if (!p->kvm.has_stats) {
		doctor_add(
			doc, DOCTOR_WARN, "kvm-api",
			"all that unvmm must have, up to %u vcpus; without KVM's own counters in "
			"'unvmm stats' (Linux 5.14 has them)",
			p->kvm.max_vcpus);
	} else {
		doctor_add(doc, DOCTOR_OK, "kvm-api",
			   "all capabilities; up to %u vcpus, %u memory slots", p->kvm.max_vcpus,
			   p->kvm.max_slots);
	}
}

static void check_nested(struct doctor *doc)
{
	if (doctor_cpu_has(doc, "hypervisor"))
		doctor_add(
			doc, DOCTOR_OK, "nested",
			"this machine is a guest itself: an exit costs several times what it does "
			"on hardware; measure elsewhere");
	else
		doctor_add(doc, DOCTOR_OK, "nested", "no hypervisor below this kernel");
}

static void check_tsc(struct doctor *doc)
{
	bool stable = doctor_cpu_has(doc, "constant_tsc") && doctor_cpu_has(doc, "nonstop_tsc");
	char now[48], all[256];

	sysfs_text(doc->root, now, sizeof(now),
		   "sys/devices/system/clocksource/clocksource0/current_clocksource");
	sysfs_text(doc->root, all, sizeof(all),
		   "sys/devices/system/clocksource/clocksource0/available_clocksource");
	if (!strcmp(now, "tsc") || !strcmp(now, "hyperv_clocksource_tsc_page")) {
		doctor_add(doc, DOCTOR_OK, "tsc", "the host's clock is %s%s", now,
			   stable ? ", invariant" : "");
		return;
	}
	doctor_add(doc, DOCTOR_WARN, "tsc",
		   "the host's clock is %s, so a guest's kvm-clock needs a system call for each "
		   "reading, and migration cannot compare TSCs%s",
		   *now ? now : "unknown", stable ? "" : "; the TSC is not invariant");
	if (strstr(all, "tsc"))
		doctor_mend(doc, "echo tsc > /sys/devices/system/clocksource/clocksource0/"
				 "current_clocksource");
	else
		doctor_mend(doc, "ask for an invariant TSC (constant_tsc, nonstop_tsc)");
}

void doctor_check_cpu(struct doctor *doc)
{
	check_kernel(doc);
	check_kvm(doc);
	check_kvm_api(doc);
	check_nested(doc);
	check_tsc(doc);
}
