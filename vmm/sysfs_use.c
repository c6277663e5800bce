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
#include <time.h>
#include <unistd.h>

#define DEVICES "sys/bus/pci/devices"

/* Who looks at a new disk (udev) closes it within so many tenths of a second. */
#define LOOKS_MAX 10

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
	char master[SYSFS_NAME];
	uint64_t flags;

	if (!sysfs_link(root, master, sizeof(master), "%s/master", path))
		return diag_set(
			d, -EBUSY,
			"its interface %s is a part of the host's %s; 'ip link set %s nomaster' "
			"ends that",
			name, master, name);
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

static bool has_open(int root, const char *pid, const char *want)
{
	char path[128], target[SYSFS_NAME + 8];
	struct sysfs_names fds;
	bool found = false;

	sysfs_list(root, &fds, "proc/%s/fd", pid);
	for (unsigned int i = 0; i < fds.n && !found; i++) {
		ssize_t len;

		snprintf(path, sizeof(path), "proc/%s/fd/%s", pid, fds.name[i]);
		len = readlinkat(root, path, target, sizeof(target) - 1);
		target[len < 0 ? 0 : len] = '\0';
		found = !strcmp(target, want);
	}
	sysfs_names_free(&fds);
	return found;
}

/*
 * A process that has the disk open, as a guest's VMM has: the kernel would take it from under it.
 */
static bool opened_by(int root, const char *name, char *pid, size_t size)
{
	struct sysfs_names all;
	char want[SYSFS_NAME + 8];
	bool found = false;

	snprintf(want, sizeof(want), "/dev/%s", name);
	sysfs_list(root, &all, "proc");
	for (unsigned int i = 0; i < all.n && !found; i++) {
		found = all.name[i][0] >= '1' && all.name[i][0] <= '9' &&
			has_open(root, all.name[i], want);
		if (found)
			snprintf(pid, size, "%s", all.name[i]);
	}
	sysfs_names_free(&all);
	return found;
}

static int open_for_long(int root, const char *name, struct diag *d)
{
	const struct timespec tenth = { .tv_nsec = 100000000 };
	char pid[SYSFS_NAME], comm[SYSFS_NAME];

	for (unsigned int i = 0; i < LOOKS_MAX; i++) {
		if (!opened_by(root, name, pid, sizeof(pid)))
			return 0;
		nanosleep(&tenth, NULL);
	}
	sysfs_text(root, comm, sizeof(comm), "proc/%s/comm", pid);
	return diag_set(d, -EBUSY, "process %s (%s) has its disk %s open; end that first", pid,
			comm, name);
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
	return open_for_long(root, name, d);
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
