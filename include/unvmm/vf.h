/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf.h - a virtual function as unvmm reaches it, whoever stands behind it: the kernel's VFIO
 * (devices/vf_vfio.c), a vfio-user server (devices/vf_user.c), or the mock of the tests. One
 * contract suite runs over all of them (tests/lib/vf_contract.c).
 *
 * The function is hostile. A backend checks that what it is told about the function makes sense
 * for PCI (sizes, offsets, counts); what the bytes mean for virtio is devices/vf_caps.c's business.
 *
 * Thread: open, dma_map() of guest memory and close by main, before any vcpu runs or when none does
 * any more; everything else by the vf thread (vm_vf_loop()), one call at a time. Calls block: on a
 * kernel call, or on the server's answer for VF_CALL_MS at most (VF_RESET_MS for reset). No caller
 * holds the control lock. A call that ran out of time, or a server that broke the protocol, makes
 * the function lost: lost() is called once, and every later call is -ENODEV.
 *
 * Errors: 0 or -errno. What a backend or a function does not have is -EOPNOTSUPP, never a silent
 * success. Sources: linux/vfio.h; the vfio-user protocol as QEMU's docs/interop/vfio-user.rst has
 * it and as libvfio-user speaks it.
 */
#ifndef UNVMM_VF_H
#define UNVMM_VF_H

#include <linux/vfio.h>

#include <unvmm/diag.h>
#include <unvmm/gmem.h>

struct loop;
struct vm;

#define VF_CALL_MS  2000
#define VF_RESET_MS 10000

#define VF_REGIONS     VFIO_PCI_NUM_REGIONS /* BARs 0..5, ROM, configuration space, VGA */
#define VF_AREAS_MAX   16
#define VF_IOVA_MAX    32
#define VF_VECTORS_MAX 2048 /* what MSI-X can have (PCI 3.0, 6.8.2.3) */
#define VF_NAME_MAX    108  /* a socket's path with its NUL */

/* [offset, offset + size) of a region: page aligned, inside the region. */
struct vf_area {
	uint64_t offset, size;
};

struct vf_region {
	uint64_t size; /* bytes; 0: not there */
	bool readable, writable;
	bool lasts;	     /* what is mapped of it stays: an access of unvmm's own is no SIGBUS */
	unsigned int nareas; /* that can be mapped; sorted, no overlaps; 0: none */
	struct vf_area areas[VF_AREAS_MAX];
};

/* I/O virtual addresses that the function's IOMMU can translate: [first, last], sorted. */
struct vf_iova {
	uint64_t first, last;
};

struct vf_info {
	struct vf_region regions[VF_REGIONS];
	unsigned int nvectors; /* MSI-X vectors; 0: no MSI-X */
	bool can_reset;	       /* reset() resets the whole function */
	bool coherent;	       /* DMA sees the caches (VFIO_DMA_CC_IOMMU; a process always does) */
	bool needs_shared_ram; /* the server maps guest memory: it must be a memfd */
	unsigned int niova;
	struct vf_iova iova[VF_IOVA_MAX];
};

/* Not in the headers of every kernel that unvmm is built with. */
#define VF_MIGRATION_PRE_COPY (1ull << 2)
#define VF_STATE_PRE_COPY     6u
#define VF_STATE_PRE_COPY_P2P 7u

/* What the function can do for a migration (VFIO migration v2). */
struct vf_mig_caps {
	uint64_t flags; /* VFIO_MIGRATION_STOP_COPY, _P2P, VF_MIGRATION_PRE_COPY; 0: it cannot
			   migrate */
	bool dma_log;	/* DMA logging: log_start() and log_report() */
};

/* One range of IOVAs for the DMA log. */
struct vf_range {
	uint64_t iova, size;
};

struct vf_ops;

struct vf {
	const struct vf_ops *ops;
	char name[VF_NAME_MAX]; /* "0000:03:00.2" or the socket's path: for sentences */
	struct vf_info info;	/* constant after open */
	struct gmem *ram; /* what vf_map_ram() mapped, or NULL: for dirty pages of message DMA */
	bool gone; /* atomic: every call is -ENODEV, and lost() has been called or is about to be */
	char why[256]; /* ... the sentence for it; constant then */
	bool hangs;    /* gone because of an error, no answer or a wrong one: it may write to memory
			  yet */
	/*
	 * The function is gone (unplugged, server ended, protocol broken): once, on the vf thread,
	 * out of its loop and never from inside a call. A backend without a loop tells nobody.
	 * `request`: its host asks to have it back (VFIO's request event); it still works. May be
	 * called again then. Both are set by the owner after open; NULL: nobody wants to know.
	 */
	void (*lost)(struct vf *vf, const char *why);
	void (*request)(struct vf *vf);
	void *owner;
};

static inline bool vf_gone(const struct vf *vf)
{
	return __atomic_load_n(&vf->gone, __ATOMIC_ACQUIRE);
}

struct vf_ops {
	const char *kind; /* "vfio", "vfio-user" */

	/*
	 * [off, off + len) of a region, len 1..4096 (1, 2, 4 and 8 aligned bytes are one access of
	 * that width). Registers in the order of the calls. -EINVAL outside of the region.
	 */
	int (*region_read)(struct vf *vf, unsigned int region, uint64_t off, void *buf,
			   unsigned int len);
	int (*region_write)(struct vf *vf, unsigned int region, uint64_t off, const void *buf,
			    unsigned int len);
	/*
	 * Maps pages of an area of the region, shared, readable and writable. Unless the region
	 * lasts, nothing of unvmm's own touches the mapping (a function that went away would be
	 * SIGBUS): it is for a KVM slot, where that is -EFAULT. Released with munmap() by the
	 * caller. -EINVAL outside of areas.
	 */
	int (*region_mmap)(struct vf *vf, unsigned int region, uint64_t off, uint64_t len,
			   void **at);
	/*
	 * An eventfd whose signals write `value` (len 2 or 4 bytes) at region+off without a thread
	 * of unvmm: for doorbells that cannot be mapped. fd belongs to the backend if it was
	 * returned; *fd is -1 on entry to have the backend choose one. -EOPNOTSUPP: the caller
	 * listens itself and uses region_write().
	 */
	int (*doorbell_fd)(struct vf *vf, unsigned int region, uint64_t off, unsigned int len,
			   uint32_t value, int *fd);
	/*
	 * Wires MSI-X vectors [0, n) to eventfds, all at once; fds[i] < 0: that vector to nothing.
	 * The descriptors stay the caller's. n 0: MSI-X off. n above info.nvectors: -EINVAL.
	 * While vectors are wired a change of single descriptors with the same n keeps the others'
	 * pending interrupts: it is by their numbers that a change is seen, so a descriptor that
	 * was closed is passed as -1 once before its number means another one.
	 */
	int (*irq_set)(struct vf *vf, const int *fds, unsigned int n);
	/*
	 * Lets the function reach [iova, iova + size) = hva.. (page aligned; fd and offset name the
	 * same memory, fd -1 if it is private). -EEXIST if it overlaps a mapping, -EINVAL outside
	 * of info.iova; -ENOMEM with RLIMIT_MEMLOCK too low. unmap: exactly what was mapped, else
	 * -ENOENT; when it returns the function cannot reach the memory any more. Functions in one
	 * IOMMU domain share mappings: mapping the same again for another function counts.
	 */
	int (*dma_map)(struct vf *vf, uint64_t iova, uint64_t size, void *hva, int fd,
		       uint64_t offset, struct diag *d);
	int (*dma_unmap)(struct vf *vf, uint64_t iova, uint64_t size);
	/* Function-level reset; -EOPNOTSUPP unless info.can_reset. Vectors stay wired. */
	int (*reset)(struct vf *vf);

	/*
	 * VFIO migration v2. state: enum vfio_device_mig_state. mig_read: the next bytes of the
	 * function's state in STOP_COPY or PRE_COPY, *len of them, 0 at the end; mig_write in
	 * RESUMING. After an error of mig_state() the function is in VFIO_DEVICE_STATE_ERROR or
	 * where it was: mig_state_get() tells.
	 */
	int (*mig_caps)(struct vf *vf, struct vf_mig_caps *caps);
	int (*mig_state)(struct vf *vf, uint32_t state);
	int (*mig_state_get)(struct vf *vf, uint32_t *state);
	int (*mig_read)(struct vf *vf, void *buf, size_t cap, size_t *len);
	int (*mig_write)(struct vf *vf, const void *buf, size_t len);
	/*
	 * DMA log. start: ranges sorted, page aligned, not overlapping; starting what is started,
	 * and stopping what is not, does nothing. report: ORs one bit per 4 KiB page of
	 * [iova, iova + size) that was written since the last report into bitmap, and clears it.
	 */
	int (*log_start)(struct vf *vf, const struct vf_range *ranges, unsigned int n);
	int (*log_stop)(struct vf *vf);
	int (*log_report)(struct vf *vf, uint64_t iova, uint64_t size, uint64_t *bitmap);

	/* Wires nothing any more, unmaps what it mapped, releases the function. */
	void (*close)(struct vf *vf);
};

/*
 * Opens a function: it is reset as far as it can be, memory decoding is on, bus mastering off, no
 * vectors are wired. `loop` is the vf thread's, and runs; NULL for a short look (no lost(), no DMA
 * by message between calls). -errno with one sentence that names the function, what is wrong and
 * what mends it.
 */
int vf_vfio_open(struct vm *vm, struct loop *loop, const char *pci_address, struct vf **vf,
		 struct diag *d) must_check;
int vf_user_open(struct loop *loop, const char *socket, struct vf **vf, struct diag *d) must_check;

/*
 * Maps all of g's RAM, IOVA = guest-physical address. On failure nothing stays mapped. (vf_mem.c)
 */
int vf_map_ram(struct vf *vf, struct gmem *g, struct diag *d) must_check;
void vf_unmap_ram(struct vf *vf, const struct gmem *g);

/* True if [iova, iova + size) can be translated. */
bool vf_iova_usable(const struct vf_info *info, uint64_t iova, uint64_t size);

#endif
