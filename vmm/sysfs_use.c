/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sysfs_use.c - whether the host itself uses a virtio function that is to be taken from it: taking
 * away the disk that it runs from, or the interface it is reached by, is no mistake to make. The
 * caller's thread.
 */
#include "sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICES "sys/bus/pci/devices"

/* Calls fn for each name in DEVICES/ADDRESS/virtioN/CLASS; stops at the first error. */
static int each(int root, const struct sysfs_pci *f, const char *class_name,
		int (*fn)(int root, const char *path, const char *name, struct diag *d),
		struct diag *d)
{
	struct sysfs_names virtio, names;
	char path[256];
	int err = 0;

	sysfs_list(root, &virtio, DEVICES "/%s", f->address);
	for (unsigned int i = 0; i < virtio.n && !err; i++) {
		if (strncmp(virtio.name[i], "virtio", 6))
			continue;
		sysfs_list(root, &names, DEVICES "/%s/%s/%s", f->address, virtio.name[i],
			   class_name);
		for (unsigned int j = 0; j < names.n && !err; j++) {
			snprintf(path, sizeof(path), DEVICES "/%s/%s/%s/%s", f->address,
				 virtio.name[i], class_name, names.name[j]);
			err = fn(root, path, names.name[j], d);
		}
		sysfs_names_free(&names);
	}
	sysfs_names_free(&virtio);
	return err;
}

static int interface_in_use(int root, const char *path, const char *name, struct diag *d)
{
	uint64_t flags;

	if (sysfs_number(root, &flags, "%s/flags", path) || !(flags & IFF_UP))
		return 0;
	return diag_set(
		d, -EBUSY,
		"the host's interface %s is on it and up; 'ip link set %s down' if the host "
		"can do without",
		name, name);
}

/* Where the disk with this number ("254:1") is mounted; false: nowhere. proc(5), mountinfo. */
static bool mounted_at(const char *mounts, const char *number, char *at, size_t size)
{
	for (const char *line = mounts; line && *line; line = strchr(line, '\n')) {
		char dev[32], point[256];

		line += *line == '\n';
		if (sscanf(line, "%*s %*s %31s %*s %255s", dev, point) == 2 &&
		    !strcmp(dev, number)) {
			snprintf(at, size, "%s", point);
			return true;
		}
	}
	return false;
}

static bool swapped_to(const char *swaps, const char *name)
{
	char want[SYSFS_NAME + 8];

	/* A line begins with the path, which ends with a blank. */
	snprintf(want, sizeof(want), "/dev/%s", name);
	for (const char *p = swaps; (p = strstr(p, want)); p++) {
		char end = p[strlen(want)];

		if ((p == swaps || p[-1] == '\n') && (end == ' ' || end == '\t'))
			return true;
	}
	return false;
}

/* A disk or one of its partitions, `name` in the folder `path`. */
static int block_in_use(int root, const char *path, const char *name, struct diag *d)
{
	char *mounts = sysfs_file(root, "proc/self/mountinfo");
	char *swaps = sysfs_file(root, "proc/swaps");
	char number[32], at[256], dev[SYSFS_NAME + 8];
	struct sysfs_names holders;
	int err = 0, fd;

	sysfs_text(root, number, sizeof(number), "%s/dev", path);
	sysfs_list(root, &holders, "%s/holders", path);
	if (mounts && mounted_at(mounts, number, at, sizeof(at)))
		err = diag_set(
			d, -EBUSY,
			"the host has its disk %s mounted at %s; 'umount %s' if the host can "
			"do without",
			name, at, at);
	else if (swaps && swapped_to(swaps, name))
		err = diag_set(d, -EBUSY,
			       "the host swaps to its disk %s; 'swapoff /dev/%s' ends that", name,
			       name);
	else if (holders.n)
		err = diag_set(d, -EBUSY, "its disk %s is a part of the host's %s", name,
			       holders.name[0]);
	sysfs_names_free(&holders);
	free(mounts);
	free(swaps);
	if (err)
		return err;
	/* The kernel's own word, which covers other mount namespaces and file systems of several
	 * disks: O_EXCL asks for a disk that nobody has claimed. */
	snprintf(dev, sizeof(dev), "dev/%s", name);
	fd = openat(root, dev, O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	else if (errno == EBUSY)
		return diag_set(d, -EBUSY,
				"its disk %s is in use on this host (a mount in another namespace, "
				"or a device built on it)",
				name);
	return 0;
}

static int disk_in_use(int root, const char *path, const char *name, struct diag *d)
{
	int err = block_in_use(root, path, name, d);
	struct sysfs_names parts;

	if (err)
		return err;
	sysfs_list(root, &parts, "%s", path);
	for (unsigned int i = 0; i < parts.n && !err; i++) {
		char part[512];

		snprintf(part, sizeof(part), "%s/%s", path, parts.name[i]);
		if (sysfs_exists(root, "%s/partition", part))
			err = block_in_use(root, part, parts.name[i], d);
	}
	sysfs_names_free(&parts);
	return err;
}

int sysfs_pci_in_use(int root, const struct sysfs_pci *f, struct diag *d)
{
	int err = each(root, f, "net", interface_in_use, d);

	return err ? err : each(root, f, "block", disk_in_use, d);
}
