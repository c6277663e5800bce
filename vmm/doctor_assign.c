/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor_assign.c - what a guest with an assigned function needs: an IOMMU, VFIO, functions, and
 * memory that may be pinned. Nothing here keeps other guests from running. Main thread.
 */
#include "doctor.h"
#include "sysfs.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VENDOR_VIRTIO 0x1af4 /* virtio 1.2, 4.1.2: device IDs 0x1000 to 0x107f */
#define DEVICE_FIRST  0x1000
#define DEVICE_LAST   0x107f

static unsigned int iommu_groups(const struct doctor *doc)
{
	struct sysfs_names groups;
	unsigned int n;

	sysfs_list(doc->root, &groups, "sys/kernel/iommu_groups");
	n = groups.n;
	sysfs_names_free(&groups);
	return n;
}

static void check_iommu(struct doctor *doc)
{
	struct sysfs_names units;
	unsigned int groups = iommu_groups(doc);
	bool intel = doctor_cpu_has(doc, "vmx");
	char cmdline[4096];

	sysfs_list(doc->root, &units, "sys/class/iommu");
	sysfs_text(doc->root, cmdline, sizeof(cmdline), "proc/cmdline");
	if (units.n && groups) {
		doctor_add(doc, DOCTOR_OK, "iommu", "%s, %u groups", units.name[0], groups);
	} else if (groups) {
		doctor_add(doc, DOCTOR_WARN, "iommu",
			   "%u groups, but no IOMMU unit: they are of VFIO's no-IOMMU mode",
			   groups);
	} else {
		doctor_add(doc, DOCTOR_WARN, "iommu", "no IOMMU: functions cannot be assigned");
	}
	sysfs_names_free(&units);
	if (doc->needs[doc->n - 1].level == DOCTOR_OK)
		return;
	if (strstr(cmdline, "intel_iommu=on") || strstr(cmdline, "amd_iommu=on") || !intel)
		doctor_mend(doc, "switch the IOMMU (AMD-Vi, VT-d) on in the firmware");
	else
		doctor_mend(doc,
			    "put intel_iommu=on on the kernel command line, and VT-d on in the "
			    "firmware");
}

/* The kernel names an interrupt's controller "IR-..." when an IOMMU remaps it. */
static void check_remapping(struct doctor *doc)
{
	char *text = sysfs_file(doc->root, "proc/interrupts");
	bool remapped = text && strstr(text, " IR-");
	char unsafe[8];

	free(text);
	sysfs_text(doc->root, unsafe, sizeof(unsafe),
		   "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
	if (remapped) {
		doctor_add(doc, DOCTOR_OK, "irq-remapping", "interrupts are remapped");
	} else if (*unsafe == 'Y') {
		doctor_add(
			doc, DOCTOR_WARN, "irq-remapping",
			"none, and VFIO is told to do without (allow_unsafe_interrupts): a guest "
			"with a function can raise any interrupt of this host");
		doctor_mend(doc, "switch interrupt remapping (x2APIC) on in the firmware");
	} else {
		doctor_add(doc, DOCTOR_WARN, "irq-remapping",
			   "none: VFIO refuses to assign a function without it");
		doctor_mend(doc,
			    "switch interrupt remapping on in the firmware; no intremap=off on "
			    "the kernel command line");
	}
}

static void check_vfio(struct doctor *doc)
{
	const struct doctor_probe *p = doc->probe;
	bool driver = sysfs_exists(doc->root, "sys/bus/pci/drivers/vfio-pci");

	if (p->vfio_err == -EACCES || p->vfio_err == -EPERM) {
		doctor_add(doc, DOCTOR_WARN, "vfio", "/dev/vfio/vfio may not be opened");
		doctor_mend(doc, "chmod 666 /dev/vfio/vfio   # the groups are what is guarded");
	} else if (p->vfio_err || !p->vfio_type1 || !driver) {
		doctor_add(doc, DOCTOR_WARN, "vfio", "%s: functions cannot be assigned",
			   p->vfio_err	    ? "no /dev/vfio/vfio"
			   : !p->vfio_type1 ? "no type 1 IOMMU support"
					    : "the driver vfio-pci is not loaded");
		doctor_mend(doc, "modprobe -a vfio-pci vfio_iommu_type1");
	} else {
		doctor_add(doc, DOCTOR_OK, "vfio", "vfio-pci, type 1 IOMMU");
	}
}

static void check_noiommu(struct doctor *doc)
{
	char on[8];

	sysfs_text(doc->root, on, sizeof(on),
		   "sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
	if (*on != 'Y') {
		doctor_add(doc, DOCTOR_OK, "no-iommu", "VFIO's no-IOMMU mode is off");
		return;
	}
	doctor_add(
		doc, DOCTOR_WARN, "no-iommu",
		"VFIO's no-IOMMU mode is on: functions that go through it reach all of this host's "
		"memory; unvmm does not use it");
	doctor_mend(doc, "echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
}

/* Functions with virtio's own IDs, and how many of them vfio-pci has. */
static void count_functions(const struct doctor *doc, unsigned int *all, unsigned int *bound)
{
	struct sysfs_names names;

	*all = *bound = 0;
	sysfs_pci_list(doc->root, &names);
	for (unsigned int i = 0; i < names.n; i++) {
		struct sysfs_pci f;

		if (sysfs_pci_read(doc->root, &f, names.name[i], NULL) ||
		    f.vendor != VENDOR_VIRTIO || f.device < DEVICE_FIRST || f.device > DEVICE_LAST)
			continue;
		(*all)++;
		*bound += sysfs_pci_has_vfio(&f);
	}
	sysfs_names_free(&names);
}

/* The soft limit of "Max locked memory": UINT64_MAX for none. */
static uint64_t memlock_limit(const struct doctor *doc)
{
	char *text = sysfs_file(doc->root, "proc/self/limits");
	const char *p = text ? strstr(text, "Max locked memory") : NULL;
	uint64_t limit = 0;

	if (p) {
		p += strlen("Max locked memory");
		p += strspn(p, " ");
		limit = !strncmp(p, "unlimited", 9) ? UINT64_MAX : strtoull(p, NULL, 10);
	}
	free(text);
	return limit;
}

static uint64_t host_memory(const struct doctor *doc)
{
	char line[96];
	uint64_t kib = 0;

	sysfs_text(doc->root, line, sizeof(line), "proc/meminfo");
	if (sscanf(line, "MemTotal: %" SCNu64, &kib) != 1)
		return 0;
	return kib * 1024;
}

static void check_memlock(struct doctor *doc)
{
	uint64_t limit = memlock_limit(doc), memory = host_memory(doc);

	if (limit == UINT64_MAX || doctor_capable(doc, CAP_IPC_LOCK)) {
		doctor_add(doc, DOCTOR_OK, "memlock", "any amount of memory may be pinned");
	} else if (memory && limit >= memory) {
		doctor_add(doc, DOCTOR_OK, "memlock", "%" PRIu64 " MiB may be pinned, all there is",
			   limit >> 20);
	} else {
		doctor_add(doc, DOCTOR_WARN, "memlock",
			   "%" PRIu64 " MiB may be pinned; a guest with a function pins all of its "
			   "memory",
			   limit >> 20);
		doctor_mend(doc, "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity)");
	}
}

static void check_functions(struct doctor *doc)
{
	unsigned int all, bound;

	count_functions(doc, &all, &bound);
	if (!all) {
		doctor_add(doc, DOCTOR_WARN, "functions", "this host has no virtio functions");
		doctor_mend(doc,
			    "SR-IOV: echo N > /sys/bus/pci/devices/PF/sriov_numvfs; or unvf, in "
			    "software");
	} else if (!bound) {
		doctor_add(doc, DOCTOR_WARN, "functions",
			   "%u virtio functions, none bound to vfio-pci", all);
		doctor_mend(doc, "unvmm vf; unvmm vf bind ADDRESS");
	} else {
		doctor_add(doc, DOCTOR_OK, "functions", "%u virtio functions, %u bound to vfio-pci",
			   all, bound);
	}
}

void doctor_check_assign(struct doctor *doc)
{
	check_iommu(doc);
	check_remapping(doc);
	check_vfio(doc);
	check_noiommu(doc);
	check_functions(doc);
	check_memlock(doc);
}
