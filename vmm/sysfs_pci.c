/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sysfs_pci.c - PCI functions as sysfs shows them (Documentation/ABI/testing/sysfs-bus-pci), and
 * the IOMMU groups that they are in. The caller's thread.
 */
#include "sysfs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES	     "sys/bus/pci/devices"
#define RESOURCE_MEM 0x200u /* IORESOURCE_MEM of the kernel */

/* One number in hexadecimal, 1 to `digits` digits, below max; where it ends, NULL: that is none. */
static const char *hex(const char *p, unsigned int digits, unsigned long max, unsigned long *n)
{
	unsigned int i;

	*n = 0;
	for (i = 0; i < digits && strchr("0123456789abcdefABCDEF", p[i]) && p[i]; i++) {
		unsigned int c = (unsigned char)p[i];

		*n = *n * 16 + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
	}
	return i && *n < max ? p + i : NULL;
}

bool sysfs_pci_address(const char *text, char address[static SYSFS_PCI_ADDRESS])
{
	unsigned long domain = 0, bus, slot, fn;
	const char *p = text, *colon = strchr(text, ':');

	if (colon && strchr(colon + 1, ':')) {
		p = hex(p, 8, 1ul << 32, &domain);
		if (!p || *p++ != ':')
			return false;
	}
	p = hex(p, 2, 256, &bus);
	if (!p || *p++ != ':')
		return false;
	p = hex(p, 2, 32, &slot);
	if (!p || *p++ != '.')
		return false;
	p = hex(p, 1, 8, &fn);
	if (!p || *p)
		return false;
	snprintf(address, SYSFS_PCI_ADDRESS, "%04x:%02x:%02x.%x", (unsigned int)domain,
		 (unsigned int)bus & 0xff, (unsigned int)slot & 0x1f, (unsigned int)fn & 7);
	return true;
}

void sysfs_pci_list(int root, struct sysfs_names *addresses)
{
	sysfs_list(root, addresses, DEVICES);
}

static uint64_t number(int root, const char *address, const char *file)
{
	uint64_t n;

	sysfs_number(root, &n, DEVICES "/%s/%s", address, file);
	return n;
}

/* Lines "0xFIRST 0xLAST 0xFLAGS", the BARs first. */
static void read_bars(int root, struct sysfs_pci *f)
{
	char text[2048];
	const char *p = text;
	int n = sysfs_read(root, text, sizeof(text) - 1, DEVICES "/%s/resource", f->address);

	text[n < 0 ? 0 : n] = '\0';
	for (unsigned int i = 0; i < ARRAY_SIZE(f->bar_size); i++) {
		uint64_t first, last, flags;

		if (sscanf(p, "%" SCNx64 " %" SCNx64 " %" SCNx64, &first, &last, &flags) != 3)
			return;
		if (flags && last >= first) {
			f->bar_size[i] = last - first + 1;
			f->bar_mem[i] = flags & RESOURCE_MEM;
		}
		p = strchr(p, '\n');
		if (!p)
			return;
		p++;
	}
}

int sysfs_pci_read(int root, struct sysfs_pci *f, const char *address, struct diag *d)
{
	char group[SYSFS_NAME];
	int n;

	*f = (struct sysfs_pci){ .group = -1 };
	snprintf(f->address, sizeof(f->address), "%s", address);
	if (!sysfs_exists(root, DEVICES "/%s", address))
		return diag_set(d, -ENODEV,
				"%s: there is no such PCI function; 'unvmm vf' lists the virtio "
				"functions of this host",
				address);
	f->vendor = (uint16_t)number(root, address, "vendor");
	f->device = (uint16_t)number(root, address, "device");
	f->subsystem_vendor = (uint16_t)number(root, address, "subsystem_vendor");
	f->subsystem = (uint16_t)number(root, address, "subsystem_device");
	f->revision = (uint8_t)number(root, address, "revision");
	f->class_code = (uint32_t)number(root, address, "class");
	f->nvfs = number(root, address, "sriov_numvfs");
	sysfs_link(root, f->driver, sizeof(f->driver), DEVICES "/%s/driver", address);
	sysfs_link(root, f->physfn, sizeof(f->physfn), DEVICES "/%s/physfn", address);
	sysfs_text(root, f->override, sizeof(f->override), DEVICES "/%s/driver_override", address);
	if (!strcmp(f->override, "(null)"))
		f->override[0] = '\0';
	if (!sysfs_link(root, group, sizeof(group), DEVICES "/%s/iommu_group", address))
		f->group = atoi(group);
	read_bars(root, f);
	n = sysfs_read(root, f->config, sizeof(f->config), DEVICES "/%s/config", address);
	f->config_size = n < 0 ? 0 : (unsigned int)n;
	return 0;
}

/* VFIO's own list (vfio_dev_driver_allowed in the kernel): these do no DMA for the host. */
static bool harmless_driver(const char *driver)
{
	return !*driver || strstr(driver, "vfio") || !strcmp(driver, "pci-stub") ||
	       !strcmp(driver, "pcieport");
}

bool sysfs_pci_has_vfio(const struct sysfs_pci *f)
{
	return strstr(f->driver, "vfio");
}

bool sysfs_pci_is_noiommu(int root, const struct sysfs_pci *f)
{
	char name[SYSFS_NAME];

	return !sysfs_text(root, name, sizeof(name), DEVICES "/%s/iommu_group/name", f->address) &&
	       !strncmp(name, "vfio-noiommu", strlen("vfio-noiommu"));
}

unsigned int sysfs_pci_group_blockers(int root, const struct sysfs_pci *f,
				      char (*except)[SYSFS_PCI_ADDRESS], unsigned int nexcept,
				      char *text, size_t size)
{
	struct sysfs_names members;
	unsigned int blockers = 0;
	size_t at = 0;

	text[0] = '\0';
	if (f->group < 0)
		return 0;
	sysfs_list(root, &members, DEVICES "/%s/iommu_group/devices", f->address);
	for (unsigned int i = 0; i < members.n; i++) {
		const char *m = members.name[i];
		char driver[SYSFS_NAME];
		bool skip = !strcmp(m, f->address);

		for (unsigned int j = 0; j < nexcept; j++)
			skip |= !strcmp(m, except[j]);
		sysfs_link(root, driver, sizeof(driver), DEVICES "/%s/driver", m);
		if (skip || harmless_driver(driver))
			continue;
		if (at < size)
			at += (size_t)snprintf(text + at, size - at, "%s%s (%s)",
					       blockers ? ", " : "", m, driver);
		blockers++;
	}
	sysfs_names_free(&members);
	return blockers;
}
