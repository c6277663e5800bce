/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sysfs.c - reads and writes the kernel's files below a root folder. Nothing is cached. The
 * caller's thread.
 */
#include "sysfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX  MiB(1)
#define NAMES_MAX 65536u

/* The kernel's paths are short; one that is not cannot be meant. */
#define BUILD_PATH(path, fmt)                                          \
	do {                                                           \
		va_list ap_;                                           \
		int len_;                                              \
                                                                       \
		va_start(ap_, fmt);                                    \
		len_ = vsnprintf((path), sizeof(path), (fmt), ap_);    \
		va_end(ap_);                                           \
		if (len_ < 0 || (size_t)len_ >= sizeof(path))          \
			(path)[0] = '\0'; /* which cannot be opened */ \
	} while (0)

int sysfs_open_root(const char *path, struct diag *d)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? diag_errno(d, -errno, "%s", path) : fd;
}

static int read_up_to(int root, const char *path, void *buf, size_t size)
{
	int fd = openat(root, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	size_t have = 0;
	ssize_t got;
	int err = 0;

	if (fd < 0)
		return -errno;
	do {
		got = read(fd, (char *)buf + have, size - have);
		if (got < 0 && errno != EINTR)
			err = -errno;
		if (got > 0)
			have += (size_t)got;
	} while (!err && got && have < size);
	close(fd);
	return err && !have ? err : (int)have;
}

int sysfs_read(int root, void *buf, size_t size, const char *fmt, ...)
{
	char path[PATH_MAX];

	BUILD_PATH(path, fmt);
	return read_up_to(root, path, buf, size);
}

static int text_of(int root, char *buf, size_t size, const char *path)
{
	int n = read_up_to(root, path, buf, size - 1);

	buf[n < 0 ? 0 : n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return n < 0 ? n : 0;
}

int sysfs_text(int root, char *buf, size_t size, const char *fmt, ...)
{
	char path[PATH_MAX];

	BUILD_PATH(path, fmt);
	return text_of(root, buf, size, path);
}

char *sysfs_file(int root, const char *fmt, ...)
{
	char path[PATH_MAX];
	char *text = malloc(FILE_MAX + 1), *fit;
	int n;

	BUILD_PATH(path, fmt);
	if (!text)
		return NULL;
	n = read_up_to(root, path, text, FILE_MAX);
	if (n < 0) {
		free(text);
		return NULL;
	}
	text[n] = '\0';
	fit = realloc(text, (size_t)n + 1);
	return fit ? fit : text;
}

int sysfs_number(int root, uint64_t *n, const char *fmt, ...)
{
	char path[PATH_MAX], text[32], *end;
	int err;

	BUILD_PATH(path, fmt);
	*n = 0;
	err = text_of(root, text, sizeof(text), path);
	if (err)
		return err;
	errno = 0;
	*n = strtoull(text, &end, 0);
	if (end == text || *end || errno) {
		*n = 0;
		return -EINVAL;
	}
	return 0;
}

int sysfs_write(int root, const char *text, const char *fmt, ...)
{
	char path[PATH_MAX];
	ssize_t n;
	int fd, err;

	BUILD_PATH(path, fmt);
	fd = openat(root, path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* One write: the kernel takes each as a whole. */
	do
		n = write(fd, text, strlen(text));
	while (n < 0 && errno == EINTR);
	err = n < 0 ? -errno : 0;
	close(fd);
	return err;
}

int sysfs_link(int root, char *name, size_t size, const char *fmt, ...)
{
	char path[PATH_MAX], target[PATH_MAX];
	const char *last;
	ssize_t n;

	BUILD_PATH(path, fmt);
	name[0] = '\0';
	n = readlinkat(root, path, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	last = strrchr(target, '/');
	last = last ? last + 1 : target;
	if (strlen(last) >= size)
		return -ENAMETOOLONG;
	strcpy(name, last);
	return 0;
}

bool sysfs_exists(int root, const char *fmt, ...)
{
	char path[PATH_MAX];

	BUILD_PATH(path, fmt);
	return !faccessat(root, path, F_OK, 0);
}

static int compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

void sysfs_list(int root, struct sysfs_names *names, const char *fmt, ...)
{
	char path[PATH_MAX];
	struct dirent *e;
	DIR *dir;
	int fd;

	BUILD_PATH(path, fmt);
	*names = (struct sysfs_names){ 0 };
	fd = openat(root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((e = readdir(dir)) && names->n < NAMES_MAX) {
		char(*more)[SYSFS_NAME];

		if (e->d_name[0] == '.' || strlen(e->d_name) >= SYSFS_NAME)
			continue;
		more = reallocarray(names->name, names->n + 1, sizeof(*more));
		if (!more)
			break;
		names->name = more;
		strcpy(names->name[names->n++], e->d_name);
	}
	closedir(dir);
	if (names->n)
		qsort(names->name, names->n, SYSFS_NAME, compare);
}

void sysfs_names_free(struct sysfs_names *names)
{
	free(names->name);
	*names = (struct sysfs_names){ 0 };
}
