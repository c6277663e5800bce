/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_host.c - files below a temporary folder, and a thread that plays the kernel: it reads pipes
 * that stand for the write-only files of the PCI bus.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_host.h"

#define DEVICES "sys/bus/pci/devices"
#define DRIVERS "sys/bus/pci/drivers"

static const char *const drivers[] = { "vfio-pci", "virtio-pci" };

void fake_host_init(struct fake_host *h)
{
	*h = (struct fake_host){ .path = "/tmp/unvmm-host.XXXXXX", .stop = -1 };
	assert_non_null(mkdtemp(h->path));
	h->root = open(h->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(h->root >= 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void fake_host_fini(struct fake_host *h)
{
	if (h->stop >= 0) {
		assert_int_equal(eventfd_write(h->stop, 1), 0);
		pthread_join(h->kernel, NULL);
		close(h->stop);
		close(h->probe_fd);
		close(h->unbind_fd[0]);
		close(h->unbind_fd[1]);
	}
	close(h->root);
	nftw(h->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void make_folders(const struct fake_host *h, const char *path)
{
	char part[PATH_MAX];

	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		snprintf(part, sizeof(part), "%.*s", (int)(p - path), path);
		assert_true(!mkdirat(h->root, part, 0755) || errno == EEXIST);
	}
}

#define BUILD_PATH(path, fmt)                                \
	do {                                                 \
		va_list ap_;                                 \
		va_start(ap_, fmt);                          \
		vsnprintf((path), sizeof(path), (fmt), ap_); \
		va_end(ap_);                                 \
	} while (0)

void fake_host_bytes(struct fake_host *h, const void *bytes, size_t n, const char *path)
{
	int fd;

	make_folders(h, path);
	fd = openat(h->root, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), n);
	close(fd);
}

void fake_host_file(struct fake_host *h, const char *text, const char *fmt, ...)
{
	char path[PATH_MAX];

	BUILD_PATH(path, fmt);
	fake_host_bytes(h, text, strlen(text), path);
}

void fake_host_link(struct fake_host *h, const char *target, const char *fmt, ...)
{
	char path[PATH_MAX];

	BUILD_PATH(path, fmt);
	make_folders(h, path);
	unlinkat(h->root, path, 0);
	assert_int_equal(symlinkat(target, h->root, path), 0);
}

void fake_host_remove(struct fake_host *h, const char *fmt, ...)
{
	char path[PATH_MAX], whole[PATH_MAX + 70];

	BUILD_PATH(path, fmt);
	snprintf(whole, sizeof(whole), "%s/%s", h->path, path);
	nftw(whole, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void set_driver(struct fake_host *h, const char *address, const char *driver)
{
	char target[128];

	snprintf(target, sizeof(target), "../../drivers/%s", driver);
	fake_host_link(h, target, DEVICES "/%s/driver", address);
}

void fake_host_function(struct fake_host *h, const char *address, unsigned int vendor,
			unsigned int device, int group, const char *driver)
{
	char text[64];

	snprintf(text, sizeof(text), "0x%04x\n", vendor);
	fake_host_file(h, text, DEVICES "/%s/vendor", address);
	snprintf(text, sizeof(text), "0x%04x\n", device);
	fake_host_file(h, text, DEVICES "/%s/device", address);
	fake_host_file(h, "(null)\n", DEVICES "/%s/driver_override", address);
	if (driver)
		set_driver(h, address, driver);
	if (group < 0)
		return;
	fake_host_file(h, "", "sys/kernel/iommu_groups/%d/devices/%s", group, address);
	snprintf(text, sizeof(text), "../../../../kernel/iommu_groups/%d", group);
	fake_host_link(h, text, DEVICES "/%s/iommu_group", address);
}

/* --- the kernel ------------------------------------------------------------------------------ */

static void read_text(struct fake_host *h, char *buf, size_t size, const char *path)
{
	int fd = openat(h->root, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n < 0 ? 0 : n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
}

static void kernel_probe(struct fake_host *h, const char *address)
{
	char path[128], wants[64], link[128], node[32];
	ssize_t n;

	snprintf(path, sizeof(path), DEVICES "/%s/driver", address);
	if (!faccessat(h->root, path, F_OK, AT_SYMLINK_NOFOLLOW))
		return;
	snprintf(path, sizeof(path), DEVICES "/%s/driver_override", address);
	read_text(h, wants, sizeof(wants), path);
	if (strcmp(wants, "vfio-pci")) {
		if (!h->without_virtio)
			set_driver(h, address, "virtio-pci");
		return;
	}
	if (h->refuses_vfio)
		return;
	set_driver(h, address, "vfio-pci");
	snprintf(path, sizeof(path), DEVICES "/%s/iommu_group", address);
	n = readlinkat(h->root, path, link, sizeof(link) - 1);
	if (n > 0 && !h->without_nodes) {
		link[n] = '\0';
		snprintf(node, sizeof(node), "dev/vfio/%.16s", strrchr(link, '/') + 1);
		fake_host_file(h, "", "%s", node);
	}
}

/* Each write is one address: they are sent one at a time. */
static bool kernel_reads(int fd, char *address, size_t size)
{
	ssize_t n = read(fd, address, size - 1);

	address[n < 0 ? 0 : n] = '\0';
	return n > 0;
}

static void *kernel(void *arg)
{
	struct fake_host *h = arg;
	struct pollfd p[] = { { h->stop, POLLIN, 0 },
			      { h->unbind_fd[0], POLLIN, 0 },
			      { h->unbind_fd[1], POLLIN, 0 },
			      { h->probe_fd, POLLIN, 0 } };
	char address[32];

	while (poll(p, ARRAY_SIZE(p), -1) >= 0 && !p[0].revents) {
		for (unsigned int i = 1; i < 3; i++)
			if (p[i].revents && kernel_reads(p[i].fd, address, sizeof(address)) &&
			    !h->keeps_driver)
				fake_host_remove(h, DEVICES "/%s/driver", address);
		if (p[3].revents && kernel_reads(p[3].fd, address, sizeof(address)))
			kernel_probe(h, address);
	}
	return NULL;
}

static int make_pipe(struct fake_host *h, const char *path)
{
	int fd;

	make_folders(h, path);
	assert_int_equal(mkfifoat(h->root, path, 0644), 0);
	/* Both ways, so that it never ends. */
	fd = openat(h->root, path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

void fake_host_start_kernel(struct fake_host *h)
{
	char path[64];

	for (unsigned int i = 0; i < ARRAY_SIZE(drivers); i++) {
		snprintf(path, sizeof(path), DRIVERS "/%s/unbind", drivers[i]);
		h->unbind_fd[i] = make_pipe(h, path);
	}
	h->probe_fd = make_pipe(h, "sys/bus/pci/drivers_probe");
	h->stop = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(pthread_create(&h->kernel, NULL, kernel, h), 0);
}
