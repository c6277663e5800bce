/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sysfs_bind.c - gives a PCI function to vfio-pci and back: driver_override, unbind, drivers_probe
 * (Documentation/ABI/testing/sysfs-bus-pci). The caller's thread; each wait ends after wait_ms.
 */
#include "sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DEVICES	 "sys/bus/pci/devices"
#define VFIO	 "vfio-pci"
#define STEP_MS	 10
#define PROBE_MS 1000 /* for a driver that is loaded to take a function */

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = STEP_MS * 1000000l }, NULL);
}

static void read_driver(int root, struct sysfs_pci *f)
{
	sysfs_link(root, f->driver, sizeof(f->driver), DEVICES "/%s/driver", f->address);
}

/* Until the function has that driver; "": none. */
static bool await_driver(int root, struct sysfs_pci *f, const char *driver, int wait_ms)
{
	for (int ms = 0; ms < wait_ms; ms += STEP_MS) {
		read_driver(root, f);
		if (!strcmp(f->driver, driver))
			return true;
		nap();
	}
	return false;
}

/* One write, with a sentence when the kernel refuses it. */
static int tell(int root, const char *text, const char *path, struct diag *d)
{
	int err = sysfs_write(root, text, "%s", path);

	if (err == -EACCES || err == -EPERM)
		return diag_set(d, err, "/%s may not be written: run this as root", path);
	if (err == -EROFS)
		return diag_set(d, err,
				"/%s is read-only here: run this on the host, outside of the "
				"container",
				path);
	return err ? diag_errno(d, err, "\"%.32s\" cannot be written to /%s", text, path) : 0;
}

static int set_override(int root, const struct sysfs_pci *f, const char *driver, struct diag *d)
{
	char path[128];

	snprintf(path, sizeof(path), DEVICES "/%s/driver_override", f->address);
	return tell(root, *driver ? driver : "\n", path, d);
}

/* Takes the function from the driver that it has. */
static int detach(int root, struct sysfs_pci *f, int wait_ms, struct diag *d)
{
	char path[128];
	int err;

	if (!*f->driver)
		return 0;
	snprintf(path, sizeof(path), DEVICES "/%s/driver/unbind", f->address);
	err = tell(root, f->address, path, d);
	if (err)
		return err;
	return await_driver(root, f, "", wait_ms)
		       ? 0
		       : diag_set(d, -ETIMEDOUT, "the driver %s has not given it back after %d ms",
				  f->driver, wait_ms);
}

static int probe(int root, const struct sysfs_pci *f, struct diag *d)
{
	return tell(root, f->address, "sys/bus/pci/drivers_probe", d);
}

/*
 * The group's node comes with the first function of the group that vfio-pci has; devtmpfs makes it
 * at once, udev a little later.
 */
static int await_group(int root, const struct sysfs_pci *f, int wait_ms, struct diag *d)
{
	for (int ms = 0; ms < wait_ms; ms += STEP_MS) {
		if (sysfs_exists(root, "dev/vfio/%d", f->group))
			return 0;
		nap();
	}
	return diag_set(d, -ETIMEDOUT,
			"vfio-pci has it, but /dev/vfio/%d has not come: in a container, pass "
			"/dev/vfio to it",
			f->group);
}

/* A process that has the group open would make the kernel wait for it, however long that takes. */
static int check_idle(int root, const struct sysfs_pci *f, struct diag *d)
{
	char node[64];
	int fd;

	if (f->group < 0)
		return 0;
	snprintf(node, sizeof(node), "dev/vfio/%d", f->group);
	fd = openat(root, node, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	else if (errno == EBUSY)
		return diag_set(d, -EBUSY,
				"a process has its group open (/%s): end the guest that uses it "
				"first",
				node);
	return 0;
}

static int hand_over(int root, struct sysfs_pci *f, int wait_ms, struct diag *d)
{
	int err = set_override(root, f, VFIO, d);

	if (!err)
		err = detach(root, f, wait_ms, d);
	if (!err)
		err = probe(root, f, d);
	if (!err && !await_driver(root, f, VFIO, wait_ms))
		err = diag_set(d, -ENODEV,
			       "vfio-pci did not take it; the kernel's log ('dmesg') says why");
	return err ? err : await_group(root, f, wait_ms, d);
}

int sysfs_pci_can_bind(int root, const struct sysfs_pci *f, struct diag *d)
{
	if (f->group < 0)
		return diag_set(
			d, -ENODEV,
			"it is in no IOMMU group; switch the IOMMU on in the firmware, and for "
			"Intel with intel_iommu=on on the kernel command line");
	if (!sysfs_exists(root, "sys/bus/pci/drivers/" VFIO))
		return diag_set(d, -ENODEV,
				"the driver vfio-pci is not loaded; 'modprobe vfio-pci' loads it");
	return 0;
}

int sysfs_pci_bind(int root, struct sysfs_pci *f, int wait_ms, struct diag *d)
{
	int err;

	if (sysfs_pci_has_vfio(f)) {
		err = await_group(root, f, wait_ms, d);
		return err ? err : 1;
	}
	err = sysfs_pci_can_bind(root, f, d);
	if (err)
		return err;
	err = hand_over(root, f, wait_ms, d);
	if (err && err != -EACCES && err != -EPERM && err != -EROFS) {
		/* Back to where it was, as far as that goes; the first error is what counts. */
		if (!set_override(root, f, "", NULL) && !detach(root, f, wait_ms, NULL))
			probe(root, f, NULL);
	}
	return err;
}

int sysfs_pci_unbind(int root, struct sysfs_pci *f, int wait_ms, struct diag *d)
{
	bool had = sysfs_pci_has_vfio(f);
	int err;

	if (!had && strcmp(f->override, VFIO))
		return 1;
	err = had ? check_idle(root, f, d) : 0;
	if (!err)
		err = set_override(root, f, "", d);
	if (!err && had)
		err = detach(root, f, wait_ms, d);
	if (!err && !*f->driver)
		err = probe(root, f, d);
	if (err)
		return err;
	f->override[0] = '\0';
	for (int ms = 0; ms < PROBE_MS && !*f->driver; ms += STEP_MS) {
		nap();
		read_driver(root, f);
	}
	return 0;
}
