/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_doctor.c - each line of `unvmm doctor` on a made-up host: first one that has everything,
 * then one thing less at a time. One thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doctor.h"
#include "fake_host.h"

#define THP   "sys/kernel/mm/transparent_hugepage/"
#define HUGE  "sys/kernel/mm/hugepages/hugepages-2048kB/"
#define CLOCK "sys/devices/system/clocksource/clocksource0/"

struct world {
	struct fake_host host;
	struct doctor_probe probe;
	struct doctor doc;
};

/* A host that lacks nothing. */
static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct fake_host *h = &w->host;

	assert_non_null(w);
	fake_host_init(h);
	fake_host_file(h, "6.1.0-18-amd64\n", "proc/sys/kernel/osrelease");
	fake_host_file(h, "processor\t: 0\nflags\t\t: fpu svm constant_tsc nonstop_tsc\n",
		       "proc/cpuinfo");
	fake_host_file(h, "CapEff:\t000001ffffffffff\n", "proc/self/status");
	fake_host_file(h, "0 0 4294967295\n", "proc/self/uid_map");
	fake_host_file(h, "1000\n", "proc/sys/user/max_user_namespaces");
	fake_host_file(h, "always [madvise] never\n", THP "enabled");
	fake_host_file(h, "always within_size [advise] never deny force\n", THP "shmem_enabled");
	fake_host_file(h, "512\n", HUGE "nr_hugepages");
	fake_host_file(h, "12\n", HUGE "free_hugepages");
	fake_host_file(h, "tsc\n", CLOCK "current_clocksource");
	fake_host_file(h, "tsc hpet acpi_pm\n", CLOCK "available_clocksource");
	fake_host_file(h, "", "usr/bin/passt");
	fake_host_file(h, "", "etc/pki/unvmm/ca-cert.pem");
	fake_host_file(h, "", "etc/pki/unvmm/client-cert.pem");
	fake_host_file(h, "", "etc/pki/unvmm/client-key.pem");
	fake_host_file(h, "", "sys/class/iommu/ivhd0");
	fake_host_file(h, " 24:  1  IR-PCI-MSIX-0000:00:01.0  0-edge  x\n", "proc/interrupts");
	fake_host_file(h, "", "sys/bus/pci/drivers/vfio-pci/bind");
	fake_host_function(h, "0000:03:00.2", 0x1af4, 0x1041, 7, "vfio-pci");
	fake_host_file(h, "Max locked memory         unlimited            unlimited   bytes\n",
		       "proc/self/limits");
	fake_host_file(h, "MemTotal:       16000000 kB\n", "proc/meminfo");
	w->probe = (struct doctor_probe){
		.kvm = { .max_vcpus = 64, .max_slots = 500, .has_stats = true, .rate = 2000000000 },
		.folder_path = "/run/unvmm",
		.vfio_type1 = true,
		.path = "relative:/bin:/usr/bin",
	};
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	fake_host_fini(&w->host);
	free(w);
	return 0;
}

static const struct doctor_need *line(struct world *w, const char *name)
{
	doctor_examine(&w->doc, w->host.root, &w->probe);
	for (unsigned int i = 0; i < w->doc.n; i++)
		if (!strcmp(w->doc.needs[i].name, name))
			return &w->doc.needs[i];
	fail_msg("there is no line %s", name);
	return NULL;
}

static void expect(struct world *w, const char *name, enum doctor_level level, const char *found,
		   const char *mend)
{
	const struct doctor_need *n = line(w, name);

	if (n->level != level || !strstr(n->found, found) || !strstr(n->mend, mend) ||
	    (!*mend && *n->mend))
		fail_msg("%s: level %d, \"%s\" -> \"%s\"", name, n->level, n->found, n->mend);
}

static void test_nothing_is_missing(void **state)
{
	struct world *w = *state;
	const char *name, *why;

	doctor_examine(&w->doc, w->host.root, &w->probe);
	for (unsigned int i = 0; i < w->doc.n; i++)
		if (w->doc.needs[i].level != DOCTOR_OK || *w->doc.needs[i].mend)
			fail_msg("%s: %s", w->doc.needs[i].name, w->doc.needs[i].found);
	assert_int_equal(w->doc.n, 22);
	assert_int_equal(w->doc.kvm, DOCTOR_KVM_HARDWARE);
	assert_true(doctor_can_run(&w->doc));
	for (unsigned int i = 0; i < DOCTOR_SUITES; i++)
		assert_true(doctor_suite(&w->doc, i, &name, &why));
	expect(w, "functions", DOCTOR_OK, "1 virtio functions, 1 bound", "");
	expect(w, "nested", DOCTOR_OK, "no hypervisor", "");
	expect(w, "iommu", DOCTOR_OK, "ivhd0, 1 groups", "");
}

static void test_kernel(void **state)
{
	struct world *w = *state;

	fake_host_file(&w->host, "5.10.0\n", "proc/sys/kernel/osrelease");
	expect(w, "kernel", DOCTOR_OK, "5.10.0", "");
	fake_host_file(&w->host, "5.9.16\n", "proc/sys/kernel/osrelease");
	expect(w, "kernel", DOCTOR_MISSING, "needs 5.10", "newer kernel");
	assert_false(doctor_can_run(&w->doc));
	fake_host_remove(&w->host, "proc/sys/kernel/osrelease");
	expect(w, "kernel", DOCTOR_MISSING, "unknown version", "newer kernel");
}

/* Hardware, software and none; what is measured counts more than what things are called. */
static void test_kinds_of_kvm(void **state)
{
	struct world *w = *state;
	const char *name, *why;

	expect(w, "kvm", DOCTOR_OK, "hardware KVM (AMD-V)", "");
	fake_host_file(&w->host, "flags : vmx\n", "proc/cpuinfo");
	expect(w, "kvm", DOCTOR_OK, "hardware KVM (VT-x)", "");

	w->probe.kvm.rate = 1600000;
	expect(w, "kvm", DOCTOR_WARN, "1.6 million", "modprobe kvm_intel");
	assert_int_equal(w->doc.kvm, DOCTOR_KVM_SOFTWARE);
	fake_host_file(&w->host, "flags : svmx hypervisor\n", "proc/cpuinfo");
	expect(w, "kvm", DOCTOR_WARN, "software KVM: guest", "testbed");
	fake_host_file(&w->host, "", "sys/module/kvm_pvm/refcnt");
	expect(w, "kvm", DOCTOR_WARN, "software KVM (kvm_pvm", "testbed");
	assert_true(doctor_can_run(&w->doc));
	assert_true(doctor_suite(&w->doc, 0, &name, &why));
	assert_false(doctor_suite(&w->doc, 1, &name, &why));
	assert_true(doctor_suite(&w->doc, 2, &name, &why));
	expect(w, "nested", DOCTOR_OK, "a guest itself", "");

	/* Fast, but by whatever means: nobody promises that Linux boots. */
	w->probe.kvm.rate = 500000000;
	expect(w, "kvm", DOCTOR_WARN, "neither svm nor vmx", "testbed");
	fake_host_file(&w->host, "flags : vmx\n", "proc/cpuinfo");
	expect(w, "kvm", DOCTOR_WARN, "(kvm_pvm)", "testbed");
	assert_false(doctor_suite(&w->doc, 1, &name, &why));

	w->probe.kvm.rate = 0;
	diag_set(&w->probe.kvm.why, -EIO, "KVM_RUN ends with exit reason 17");
	expect(w, "kvm", DOCTOR_MISSING, "exit reason 17", "dmesg");
	assert_false(doctor_can_run(&w->doc));
}

static void test_no_kvm(void **state)
{
	struct world *w = *state;
	const char *name, *why;

	w->probe.kvm.err = -ENOENT;
	diag_set(&w->probe.kvm.why, -ENOENT, "/dev/kvm is missing");
	expect(w, "kvm", DOCTOR_MISSING, "/dev/kvm is missing", "modprobe kvm_amd");
	assert_int_equal(w->doc.kvm, DOCTOR_KVM_NONE);
	expect(w, "kvm-api", DOCTOR_MISSING, "no KVM to ask", "");
	assert_false(doctor_suite(&w->doc, 0, &name, &why));
	assert_false(doctor_suite(&w->doc, 1, &name, &why));
	assert_true(doctor_suite(&w->doc, 2, &name, &why));
	fake_host_file(&w->host, "flags : vmx\n", "proc/cpuinfo");
	expect(w, "kvm", DOCTOR_MISSING, "", "modprobe kvm_intel");
	fake_host_file(&w->host, "flags : hypervisor\n", "proc/cpuinfo");
	expect(w, "kvm", DOCTOR_MISSING, "", "nested virtualization");
	fake_host_file(&w->host, "flags : fpu\n", "proc/cpuinfo");
	expect(w, "kvm", DOCTOR_MISSING, "", "firmware");
	w->probe.kvm.err = -EACCES;
	expect(w, "kvm", DOCTOR_MISSING, "", "usermod -aG kvm");
}

static void test_kvm_api(void **state)
{
	struct world *w = *state;

	w->probe.kvm.has_stats = false;
	expect(w, "kvm-api", DOCTOR_WARN, "5.14", "");
	w->probe.kvm.err = -ENOTSUP;
	w->probe.kvm.rate = 0;
	diag_set(&w->probe.kvm.why, -ENOTSUP, "this host's KVM lacks KVM_CAP_IRQFD");
	expect(w, "kvm-api", DOCTOR_MISSING, "KVM_CAP_IRQFD", "newer kernel");
}

static void test_tsc(void **state)
{
	struct world *w = *state;

	fake_host_file(&w->host, "hpet\n", CLOCK "current_clocksource");
	expect(w, "tsc", DOCTOR_WARN, "is hpet", "echo tsc >");
	fake_host_file(&w->host, "hpet acpi_pm\n", CLOCK "available_clocksource");
	fake_host_file(&w->host, "flags : svm constant_tsc\n", "proc/cpuinfo");
	expect(w, "tsc", DOCTOR_WARN, "not invariant", "invariant");
}

static void test_io_uring(void **state)
{
	struct world *w = *state;

	w->probe.ring.err = -EPERM;
	diag_set(&w->probe.ring.why, -EPERM, "no ring");
	expect(w, "io_uring", DOCTOR_MISSING, "no ring", "seccomp profile");
	assert_false(doctor_can_run(&w->doc));
	fake_host_file(&w->host, "2\n", "proc/sys/kernel/io_uring_disabled");
	expect(w, "io_uring", DOCTOR_MISSING, "no ring", "sysctl kernel.io_uring_disabled=0");
	fake_host_file(&w->host, "0\n", "proc/sys/kernel/io_uring_disabled");
	w->probe.ring.err = -ENOMEM;
	expect(w, "io_uring", DOCTOR_MISSING, "no ring", "ulimit -l");
}

static void test_sandbox(void **state)
{
	struct world *w = *state;

	expect(w, "seccomp", DOCTOR_OK, "can be installed", "");
	w->probe.seccomp_err = -ENOSYS;
	expect(w, "seccomp", DOCTOR_MISSING, "refuses seccomp filters", "CONFIG_SECCOMP_FILTER");
	assert_false(doctor_can_run(&w->doc));
	fake_host_file(&w->host, "         0       1000          1\n 5 6 65529\n",
		       "proc/self/uid_map");
	expect(w, "user", DOCTOR_WARN, "guests run as root", "CAP_SETUID");
	fake_host_file(&w->host, "0 1000 1\n1 100000 65535\n", "proc/self/uid_map");
	expect(w, "user", DOCTOR_OK, "run as nobody", "");
	fake_host_file(&w->host, "CapEff:\t00000000000000c0\n", "proc/self/status");
	expect(w, "user", DOCTOR_OK, "run as nobody", "");
	fake_host_file(&w->host, "CapEff:\t0000000000000040\n", "proc/self/status");
	expect(w, "user", DOCTOR_WARN, "guests run as root", "CAP_SETUID");
	w->probe.uid = 1000;
	expect(w, "user", DOCTOR_OK, "user 1000", "");
	fake_host_file(&w->host, "0\n", "proc/sys/user/max_user_namespaces");
	expect(w, "namespaces", DOCTOR_WARN, "passt", "sysctl user.max_user_namespaces");
}

static void test_runtime(void **state)
{
	struct world *w = *state;

	w->probe.folder.err = -ENOENT;
	expect(w, "runtime", DOCTOR_OK, "/run/unvmm, which the first guest makes", "");
	w->probe.folder.err = -EPERM;
	diag_set(&w->probe.folder.why, -EPERM, "others may write to it");
	expect(w, "runtime", DOCTOR_WARN, "others may write", "chmod 700 /run/unvmm");
	w->probe.folder.err = -ENOENT;
	w->probe.folder_path[0] = '\0';
	expect(w, "runtime", DOCTOR_WARN, "no control socket", "UNVMM_RUNTIME_DIR");
	assert_true(doctor_can_run(&w->doc));
}

static void test_pages(void **state)
{
	struct world *w = *state;

	fake_host_file(&w->host, "always within_size advise [never] deny\n", THP "shmem_enabled");
	expect(w, "thp", DOCTOR_WARN, "vfio-user", "shmem_enabled");
	fake_host_file(&w->host, "always madvise [never]\n", THP "enabled");
	expect(w, "thp", DOCTOR_WARN, "are off", "echo madvise");
	fake_host_remove(&w->host, THP "enabled");
	expect(w, "thp", DOCTOR_WARN, "not in this kernel", "");
	fake_host_file(&w->host, "0\n", HUGE "free_hugepages");
	expect(w, "hugepages", DOCTOR_WARN, "all 512", "vm.nr_hugepages=1024");
	fake_host_file(&w->host, "0\n", HUGE "nr_hugepages");
	expect(w, "hugepages", DOCTOR_WARN, "none reserved", "vm.nr_hugepages=");
	w->probe.uffd_err = -EPERM;
	expect(w, "userfaultfd", DOCTOR_WARN, "not for this user", "unprivileged_userfaultfd=1");
	fake_host_file(&w->host, "", "dev/userfaultfd");
	expect(w, "userfaultfd", DOCTOR_WARN, "Operation not permitted", "chgrp kvm");
	w->probe.uffd_err = -ENOSYS;
	expect(w, "userfaultfd", DOCTOR_WARN, "not implemented", "CONFIG_USERFAULTFD");
}

static void test_network(void **state)
{
	struct world *w = *state;

	fake_host_file(&w->host, "CapEff:\t0000000000000000\n", "proc/self/status");
	expect(w, "tap", DOCTOR_WARN, "CAP_NET_ADMIN", "ip tuntap add");
	w->probe.tun_err = -EACCES;
	expect(w, "tap", DOCTOR_WARN, "may not be opened", "chmod 666 /dev/net/tun");
	w->probe.tun_err = -ENOENT;
	expect(w, "tap", DOCTOR_WARN, "does not open", "modprobe tun");
	w->probe.path = "/bin:usr/bin:/usr/bin2::/";
	expect(w, "passt", DOCTOR_WARN, "not found", "apt-get install passt");
	w->probe.path = NULL;
	expect(w, "passt", DOCTOR_WARN, "not found", "apt-get install passt");
	expect(w, "tls", DOCTOR_OK, "can leave by TLS", "");
	fake_host_file(&w->host, "", "etc/pki/unvmm/server-cert.pem");
	fake_host_file(&w->host, "", "etc/pki/unvmm/server-key.pem");
	expect(w, "tls", DOCTOR_OK, "can leave and arrive by TLS", "");
	fake_host_remove(&w->host, "etc/pki/unvmm/client-key.pem");
	expect(w, "tls", DOCTOR_OK, "can arrive by TLS", "");
	fake_host_remove(&w->host, "etc/pki/unvmm/ca-cert.pem");
	expect(w, "tls", DOCTOR_WARN, "no certificates in /etc/pki/unvmm", "unvmm-tls");
}

static void test_iommu(void **state)
{
	struct world *w = *state;

	fake_host_remove(&w->host, "sys/class/iommu/ivhd0");
	expect(w, "iommu", DOCTOR_WARN, "no-IOMMU mode", "firmware");
	fake_host_remove(&w->host, "sys/kernel/iommu_groups");
	expect(w, "iommu", DOCTOR_WARN, "no IOMMU: functions", "AMD-Vi");
	fake_host_file(&w->host, "flags : vmx\n", "proc/cpuinfo");
	expect(w, "iommu", DOCTOR_WARN, "no IOMMU: functions", "intel_iommu=on");
	fake_host_file(&w->host, "root=/dev/sda intel_iommu=on\n", "proc/cmdline");
	expect(w, "iommu", DOCTOR_WARN, "no IOMMU: functions", "switch the IOMMU");
	fake_host_file(&w->host, " 24:  1  PCI-MSIX-0000:00:01.0  0-edge  x\n", "proc/interrupts");
	expect(w, "irq-remapping", DOCTOR_WARN, "VFIO refuses", "intremap=off");
	fake_host_file(&w->host, "Y\n",
		       "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
	expect(w, "irq-remapping", DOCTOR_WARN, "any interrupt of this host", "firmware");
	assert_true(doctor_can_run(&w->doc));
}

static void test_vfio(void **state)
{
	struct world *w = *state;

	w->probe.vfio_err = -EACCES;
	expect(w, "vfio", DOCTOR_WARN, "may not be opened", "chmod 666 /dev/vfio/vfio");
	w->probe.vfio_err = -ENOENT;
	expect(w, "vfio", DOCTOR_WARN, "no /dev/vfio/vfio", "modprobe -a vfio-pci");
	w->probe.vfio_err = 0;
	w->probe.vfio_type1 = false;
	expect(w, "vfio", DOCTOR_WARN, "no type 1", "vfio_iommu_type1");
	w->probe.vfio_type1 = true;
	fake_host_remove(&w->host, "sys/bus/pci/drivers/vfio-pci");
	expect(w, "vfio", DOCTOR_WARN, "vfio-pci is not loaded", "modprobe -a vfio-pci");
	fake_host_file(&w->host, "Y\n", "sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
	expect(w, "no-iommu", DOCTOR_WARN, "is on", "echo N >");
}

static void test_functions(void **state)
{
	struct world *w = *state;

	fake_host_remove(&w->host, "sys/bus/pci/devices/0000:03:00.2/driver");
	expect(w, "functions", DOCTOR_WARN, "none bound", "unvmm vf bind");
	fake_host_file(&w->host, "0x8086\n", "sys/bus/pci/devices/0000:03:00.2/vendor");
	expect(w, "functions", DOCTOR_WARN, "no virtio functions", "sriov_numvfs");
}

static void test_memlock(void **state)
{
	struct world *w = *state;

	fake_host_file(&w->host, "Max locked memory         8388608              8388608   bytes\n",
		       "proc/self/limits");
	expect(w, "memlock", DOCTOR_OK, "any amount", ""); /* CAP_IPC_LOCK */
	fake_host_file(&w->host, "CapEff:\t0000000000000000\n", "proc/self/status");
	expect(w, "memlock", DOCTOR_WARN, "8 MiB", "LimitMEMLOCK=infinity");
	fake_host_file(&w->host, "Max locked memory         17179869184     17179869184   bytes\n",
		       "proc/self/limits");
	expect(w, "memlock", DOCTOR_OK, "16384 MiB", "");
}

/* A host of which nothing can be read: each line says so, and none of it is an error of ours. */
static void test_empty_host(void **state)
{
	struct world *w = *state;

	fake_host_remove(&w->host, "proc");
	fake_host_remove(&w->host, "sys");
	doctor_examine(&w->doc, w->host.root, &w->probe);
	assert_int_equal(w->doc.n, 22);
	assert_false(doctor_can_run(&w->doc));
}

/* What the real host answers is taken and put away again. */
static void test_probe(void **state)
{
	struct doctor_probe p;

	(void)state;
	doctor_probe_host(&p);
	if (!p.kvm.err)
		assert_in_range(p.kvm.rate, 1000, 1000000000000);
	else
		assert_string_not_equal(p.kvm.why.text, "");
}

int main(void)
{
#define EACH(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	static const struct CMUnitTest tests[] = {
		EACH(test_nothing_is_missing),
		EACH(test_kernel),
		EACH(test_kinds_of_kvm),
		EACH(test_no_kvm),
		EACH(test_kvm_api),
		EACH(test_tsc),
		EACH(test_io_uring),
		EACH(test_sandbox),
		EACH(test_runtime),
		EACH(test_pages),
		EACH(test_network),
		EACH(test_iommu),
		EACH(test_vfio),
		EACH(test_functions),
		EACH(test_memlock),
		EACH(test_empty_host),
		cmocka_unit_test(test_probe),
	};

	return cmocka_run_group_tests_name("doctor", tests, NULL, NULL);
}
