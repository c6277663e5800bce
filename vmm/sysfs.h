/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sysfs.h - the host's kernel as its files tell of it: /sys, /proc and /dev below a root folder,
 * "/" for this host, another one for a tree that was made or taken elsewhere. And the PCI functions
 * in it: what they are, who uses them, which driver has them.
 *
 * Thread: the caller's; commands only, a running guest has no use for this. Paths are relative to
 * the root and built as by printf. Functions return 0 (or a count where they say so) or -errno.
 */
#ifndef UNVMM_VMM_SYSFS_H
#define UNVMM_VMM_SYSFS_H

#include <unvmm/diag.h>

#define SYSFS_NAME	  64  /* of a driver, an interface, a module */
#define SYSFS_PCI_ADDRESS 20  /* "0000:03:00.2"; domains may have more digits */
#define SYSFS_PCI_CONFIG  256 /* what PCI 3.0 has; extended capabilities do not matter here */

/* --- files (sysfs.c) ------------------------------------------------------------------------- */

/* The descriptor for `root` below. */
int sysfs_open_root(const char *path, struct diag *d) must_check;

/* As many bytes as there are, at most size; how many. */
int sysfs_read(int root, void *buf, size_t size, const char *fmt, ...) printf_like(4, 5) must_check;
/* The first line, without its end; cut when it is longer. "" on failure. */
int sysfs_text(int root, char *buf, size_t size, const char *fmt, ...) printf_like(4, 5);
/* The whole of a file, at most 1 MiB, NUL at its end; NULL when it cannot be read. Caller frees. */
char *sysfs_file(int root, const char *fmt, ...) printf_like(2, 3) must_check;
/* The first line as a number, decimal or 0x; 0 on failure. */
int sysfs_number(int root, uint64_t *n, const char *fmt, ...) printf_like(3, 4);
int sysfs_write(int root, const char *text, const char *fmt, ...) printf_like(3, 4) must_check;
/* The last part of what a symbolic link names; "" on failure. */
int sysfs_link(int root, char *name, size_t size, const char *fmt, ...) printf_like(4, 5);
bool sysfs_exists(int root, const char *fmt, ...) printf_like(2, 3);

/*
 * The names in a folder, sorted, without those that begin with a dot; none if there is no folder.
 */
struct sysfs_names {
	unsigned int n;
	char (*name)[SYSFS_NAME];
};

void sysfs_list(int root, struct sysfs_names *names, const char *fmt, ...) printf_like(3, 4);
void sysfs_names_free(struct sysfs_names *names);

/* --- PCI functions (sysfs_pci.c) ------------------------------------------------------------- */

struct sysfs_pci {
	char address[SYSFS_PCI_ADDRESS];
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint8_t revision;
	uint32_t class_code;
	char driver[SYSFS_NAME];	/* "": none */
	char override[SYSFS_NAME];	/* driver_override; "": none */
	int group;			/* IOMMU group; -1: none */
	char physfn[SYSFS_PCI_ADDRESS]; /* the physical function of an SR-IOV VF; "": it is none */
	uint64_t nvfs;			/* virtual functions that this physical one shows */
	uint64_t bar_size[6];		/* 0: not there */
	bool bar_mem[6];
	unsigned int config_size; /* 64 when the kernel shows no more to this user */
	uint8_t config[SYSFS_PCI_CONFIG];
};

/* "3:0.2", "03:00.2" and "0000:03:00.2" are one address; false: that is none. */
bool sysfs_pci_address(const char *text, char address[static SYSFS_PCI_ADDRESS]) must_check;
/* Addresses of all functions. */
void sysfs_pci_list(int root, struct sysfs_names *addresses);
int sysfs_pci_read(int root, struct sysfs_pci *f, const char *address, struct diag *d) must_check;

/* vfio-pci has it, or a driver that a vendor made of that (mlx5_vfio_pci). */
bool sysfs_pci_has_vfio(const struct sysfs_pci *f);
/* There is no IOMMU before it: its group is made up (VFIO's no-IOMMU mode). */
bool sysfs_pci_is_noiommu(int root, const struct sysfs_pci *f);

/*
 * The other functions of f's IOMMU group that keep VFIO from giving it away, because a driver of
 * the host has them; those in except[] do not count. How many; text says which, and their drivers.
 */
unsigned int sysfs_pci_group_blockers(int root, const struct sysfs_pci *f,
				      char (*except)[SYSFS_PCI_ADDRESS], unsigned int nexcept,
				      char *text, size_t size);

/*
 * -EBUSY with a sentence when the host uses the function through its virtio driver: an interface
 * that is up or part of another, a disk that is mounted, swapped to, a part of another device, or
 * open in a process for a second. (sysfs_use.c)
 */
int sysfs_pci_in_use(int root, const struct sysfs_pci *f, struct diag *d) must_check;

/* --- drivers (sysfs_bind.c) ------------------------------------------------------------------ */

/* -ENODEV with a sentence: f has no IOMMU, or vfio-pci is not loaded. */
int sysfs_pci_can_bind(int root, const struct sysfs_pci *f, struct diag *d) must_check;

/*
 * Gives f to vfio-pci and waits until /dev/vfio/GROUP is there (no step longer than wait_ms); gives
 * it back to the driver that the kernel has for it. 1: there was nothing to do. When bind fails the
 * function is back where it was. unbind leaves the driver's name in f->driver, "" when the kernel
 * has none loaded.
 */
int sysfs_pci_bind(int root, struct sysfs_pci *f, int wait_ms, struct diag *d) must_check;
int sysfs_pci_unbind(int root, struct sysfs_pci *f, int wait_ms, struct diag *d) must_check;

#endif
