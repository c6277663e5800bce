/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.h - the description of a machine, from guest.cfg (libconfig), -o key=value and switches.
 *
 * Files and texts come from the operator, who makes mistakes: an unknown key, a wrong type or an
 * impossible value is one sentence with file:line (or the -o text) that says what would be right.
 * Device keys come from the device classes' own option tables, so this module knows no device.
 *
 * Thread: main, before the machine exists.
 */
#ifndef UNVMM_CONFIG_H
#define UNVMM_CONFIG_H

#include <stdio.h>

#include <unvmm/device.h>

enum on_reboot { ON_REBOOT_RESTART, ON_REBOOT_EXIT };

/* One device that the configuration asks for. */
struct device_config {
	const struct device_class *cls;
	void *conf;	 /* cls->conf_size bytes, strings inside it owned by the vm_config */
	char where[160]; /* "guest.cfg:12" or "-o disks.0.path=x": for messages at creation */
	struct device_config *next;
};

struct vm_config {
	char *name;	 /* default: the configuration file's base name, or "guest" */
	bool named;	 /* the name was given, not made up */
	char *machine;	 /* machine type: "unvmm-1" */
	char *kernel;	 /* paths: relative ones count from the configuration file's folder */
	char *initrd;	 /* may be NULL */
	char *cmdline;	 /* default "" */
	char *control;	 /* "unix:PATH" | "none"; NULL: where `unvmm list` looks (control.h) */
	char *console;	 /* as chardev.h has it: "stdio" | "pty" | "none" | "file:PATH" ... */
	int64_t vcpus;	 /* 1..64, default 1 */
	uint64_t memory; /* bytes, default 256 MiB, from 16 MiB, in steps of 4 KiB (huge: 2 MiB) */
	bool hugepages;	 /* RAM from the host's pool of 2 MiB pages */
	bool shared;	 /* RAM from a memfd, which other processes can be given */
	bool incoming;	 /* the guest comes from elsewhere: config_load_incoming() */
	bool pit;	 /* in-kernel 8254, default true */
	bool sandbox;	 /* system calls are filtered (sandbox.h), default true */
	char *user;	 /* "NAME|UID[:GROUP|GID]" to become; NULL: nobody for root */
	enum on_reboot on_reboot;
	/* In the order of the classes, then of the lists. Devices without a key are not in it. */
	struct device_config *devices;
};

/* A machine with the defaults and no devices. (libconfig owns the name config_init.) */
int config_defaults(struct vm_config *c) must_check;
void config_free(struct vm_config *c);

/* One `-o key=value` (or a switch that stands for one). key is a path: "vcpus", "disks.0.path". */
struct config_override {
	const char *text; /* "key=value" */
	const char *what; /* how messages call it: "-m 1X"; NULL: "-o key=value" */
};

/*
 * Reads path (NULL: no file), applies the overrides in order, fills in defaults and checks every
 * value by itself; then the values against each other (a kernel is there...). Files named in it are
 * not opened here: the machine builder does that. -EINVAL, -ENOENT... with a sentence.
 *
 * c is written in full: on success the caller owes it a config_free(), on failure it is empty.
 *
 * Relative paths in the file count from the file's folder, or from the current one when it is read
 * from /dev (/dev/stdin, a shell's process substitution); in overrides from the current one. The
 * file has at most 1 MiB; it may be a pipe. @include is refused: one guest, one text.
 *
 * Values in overrides need no quotes: the option's type decides. `disks.0.path=/x` changes or, when
 * 0 is the length of the list, appends an element; `disks.+.path=/x` always appends; `disks.-1.`
 * is the last element. An optional text is removed by an empty value: `initrd=`.
 */
int config_load(struct vm_config *c, const char *path, const struct config_override *over,
		unsigned int nover, const struct device_class *const *classes,
		unsigned int nclasses, struct diag *d) must_check;

/*
 * The same for a machine that receives its guest. It need not have a kernel; without one it cannot
 * boot again, so a reset ends it (on_reboot is ON_REBOOT_EXIT).
 */
int config_load_incoming(struct vm_config *c, const char *path, const struct config_override *over,
			 unsigned int nover, const struct device_class *const *classes,
			 unsigned int nclasses, struct diag *d) must_check;

/* Every key of the machine and of the classes with its range and default: `-o help`. */
void config_print_keys(FILE *out, const struct device_class *const *classes, unsigned int nclasses);

/* "512M" -> bytes. -EINVAL when it is not a number with an optional K, M, G or T, or too large. */
int config_parse_size(const char *text, uint64_t *bytes) must_check;

#endif
