/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio_user.h - the vfio-user protocol on the wire: what the client (devices/vf_user.c) and the
 * server (devices/unvf/) agree on with the implementations of others. Facts only, no code.
 *
 * A message is a header and a body in host byte order on a UNIX stream socket; descriptors ride as
 * SCM_RIGHTS with its first byte. Sources: the protocol text (QEMU's docs/interop/vfio-user.rst);
 * where libvfio-user and QEMU differ from it, what they do. Flags and bodies that are the kernel's
 * are taken from linux/vfio.h: region, irq and feature flags, and
 *
 *	DEVICE_GET_INFO         struct vfio_user_device_info
 *	DEVICE_GET_REGION_INFO  struct vfio_region_info, then its capabilities
 *	DEVICE_GET_IRQ_INFO     struct vfio_irq_info
 *	DEVICE_SET_IRQS         struct vfio_irq_set; eventfds are not in data[] but SCM_RIGHTS
 *	DEVICE_FEATURE          struct vfio_device_feature, then the feature's struct; a bitmap that
 *				the kernel writes through a pointer follows inline instead
 */
#ifndef UNVMM_VFIO_USER_H
#define UNVMM_VFIO_USER_H

#include <linux/vfio.h>
#include <stdint.h>

/*
 * The client offers the highest minor it knows, the answer is the lower of the two; another major
 * is refused. libvfio-user: 0.1 and 0.2, QEMU's client 0.0 and nothing above.
 */
#define VFIO_USER_MAJOR 0
#define VFIO_USER_MINOR 2

enum vfio_user_cmd {
	VFIO_USER_VERSION = 1,
	VFIO_USER_DMA_MAP = 2,
	VFIO_USER_DMA_UNMAP = 3,
	VFIO_USER_DEVICE_GET_INFO = 4,
	VFIO_USER_DEVICE_GET_REGION_INFO = 5,
	VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6,
	VFIO_USER_DEVICE_GET_IRQ_INFO = 7,
	VFIO_USER_DEVICE_SET_IRQS = 8,
	VFIO_USER_REGION_READ = 9,
	VFIO_USER_REGION_WRITE = 10,
	VFIO_USER_DMA_READ = 11,  /* from the server */
	VFIO_USER_DMA_WRITE = 12, /* from the server */
	VFIO_USER_DEVICE_RESET = 13,
	VFIO_USER_DIRTY_PAGES = 14, /* removed from the protocol */
	VFIO_USER_REGION_WRITE_MULTI = 15,
	VFIO_USER_DEVICE_FEATURE = 16,
	VFIO_USER_MIG_DATA_READ = 17,
	VFIO_USER_MIG_DATA_WRITE = 18,
};

/* Header flags: a type in the low four bits, then bits. */
#define VFIO_USER_TYPE_MASK    0xfu
#define VFIO_USER_TYPE_COMMAND 0u
#define VFIO_USER_TYPE_REPLY   1u
#define VFIO_USER_NO_REPLY     (1u << 4)
#define VFIO_USER_ERROR	       (1u << 5)

struct vfio_user_header {
	uint16_t id;   /* the sender's choice; the reply repeats it */
	uint16_t cmd;  /* enum vfio_user_cmd */
	uint32_t size; /* of the message, this header included */
	uint32_t flags;
	uint32_t error; /* an errno value with VFIO_USER_ERROR */
};

/*
 * VERSION, both ways; the capabilities follow as a NUL-terminated JSON object, or nothing does:
 *   {"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"max_dma_maps":65535,
 *		      "pgsizes":4096,"write_multiple":true,"migration":{"pgsize":4096}}}
 */
struct vfio_user_version {
	uint16_t major;
	uint16_t minor;
};

/* What holds when a capability is not given. */
#define VFIO_USER_DEFAULT_MSG_FDS   1
#define VFIO_USER_DEFAULT_DATA_XFER (1024 * 1024)
#define VFIO_USER_DEFAULT_DMA_MAPS  65535
#define VFIO_USER_DEFAULT_PGSIZES   4096

/*
 * A reply to QEMU's VERSION must not be longer than its own request, and must not offer more than
 * 16 descriptors per message or more than 64 MiB per transfer.
 */
#define VFIO_USER_QEMU_VERSION_REPLY 214

/*
 * libvfio-user reads a body with one recv(), which returns at most one socket buffer: header and
 * body leave in one sendmsg(), and no message is longer than this, whatever was negotiated.
 */
#define VFIO_USER_SEND_MAX 32768

struct vfio_user_device_info {
	uint32_t argsz;
	uint32_t flags; /* VFIO_DEVICE_FLAGS_RESET, _PCI */
	uint32_t num_regions;
	uint32_t num_irqs;
};

/* With a descriptor the server maps it, without one it uses DMA_READ and DMA_WRITE. Empty reply. */
struct vfio_user_dma_map {
	uint32_t argsz;
	uint32_t flags;	 /* VFIO_DMA_MAP_FLAG_READ, _WRITE */
	uint64_t offset; /* into the descriptor */
	uint64_t iova;
	uint64_t size;
};

/* Exactly what was mapped; with VFIO_DMA_UNMAP_FLAG_ALL both zero. The reply repeats it. */
struct vfio_user_dma_unmap {
	uint32_t argsz;
	uint32_t flags;
	uint64_t iova;
	uint64_t size;
};

/* REGION_READ, REGION_WRITE: data follows in a write, and in the reply of a read. */
struct vfio_user_region_access {
	uint64_t offset;
	uint32_t region;
	uint32_t count;
};

/* DMA_READ, DMA_WRITE: data follows in a write, and in the reply of a read. */
struct vfio_user_dma_access {
	uint64_t iova;
	uint64_t count;
};

/* MIG_DATA_READ, MIG_DATA_WRITE: data follows in a write, and in the reply of a read. */
struct vfio_user_mig_data {
	uint32_t argsz;
	uint32_t size; /* in a reply of a read: what there was; less than asked for is the end */
};

/* The feature DMA_LOGGING_START: {iova, length} follow here, where the kernel has a pointer. */
struct vfio_user_log_start {
	uint64_t page_size;
	uint32_t num_ranges;
	uint32_t reserved;
};

/*
 * The feature DMA_LOGGING_REPORT: this alone in the request; in the reply the bitmap follows, one
 * bit per page from iova on, in 64-bit words. libvfio-user answers for ranges that begin where a
 * DMA_MAP does and end inside it.
 */
struct vfio_user_log_report {
	uint64_t iova;
	uint64_t length;
	uint64_t page_size;
};

/*
 * DEVICE_GET_REGION_IO_FDS: in the request argsz is the room for the reply, flags and count are 0.
 * A reply that does not fit is this struct alone with the argsz it needs.
 */
struct vfio_user_io_fds {
	uint32_t argsz;
	uint32_t flags;
	uint32_t index;
	uint32_t count;
};

#define VFIO_USER_IO_FD_IOEVENTFD  0
#define VFIO_USER_IO_FD_IOREGIONFD 1
#define VFIO_USER_IO_FD_SHADOW	   2

/* Flags as KVM's ioeventfds have them (linux/kvm.h). */
#define VFIO_USER_IO_FD_DATAMATCH (1u << 0)

/*
 * count entries follow, (argsz - 16) / count bytes each: 40 by the text, 48 by libvfio-user. Both
 * begin alike.
 */
struct vfio_user_io_fd {
	uint64_t offset;   /* in the region */
	uint64_t size;	   /* of the access; 0: any */
	uint32_t fd_index; /* in the reply's descriptors */
	uint32_t type;
	uint32_t flags;
	uint32_t shadow_fd_index; /* 48 bytes only */
};

struct vfio_user_io_fd_40 {
	struct vfio_user_io_fd fd;
	uint64_t datamatch;
};

struct vfio_user_io_fd_48 {
	struct vfio_user_io_fd fd;
	uint64_t shadow_offset;
	uint64_t datamatch;
};

_Static_assert(sizeof(struct vfio_user_header) == 16, "header");
_Static_assert(sizeof(struct vfio_user_version) == 4, "VERSION");
_Static_assert(sizeof(struct vfio_user_device_info) == 16, "DEVICE_GET_INFO");
_Static_assert(sizeof(struct vfio_region_info) == 32, "DEVICE_GET_REGION_INFO");
_Static_assert(sizeof(struct vfio_irq_info) == 16, "DEVICE_GET_IRQ_INFO");
_Static_assert(sizeof(struct vfio_irq_set) == 20, "DEVICE_SET_IRQS");
_Static_assert(sizeof(struct vfio_device_feature) == 8, "DEVICE_FEATURE");
_Static_assert(sizeof(struct vfio_user_dma_map) == 32, "DMA_MAP");
_Static_assert(sizeof(struct vfio_user_dma_unmap) == 24, "DMA_UNMAP");
_Static_assert(sizeof(struct vfio_user_region_access) == 16, "REGION_READ");
_Static_assert(sizeof(struct vfio_user_dma_access) == 16, "DMA_READ");
_Static_assert(sizeof(struct vfio_user_log_start) == 16, "DMA_LOGGING_START");
_Static_assert(sizeof(struct vfio_user_log_report) == 24, "DMA_LOGGING_REPORT");
_Static_assert(sizeof(struct vfio_user_io_fd_40) == 40, "entry of the text");
_Static_assert(sizeof(struct vfio_user_io_fd_48) == 48, "entry of libvfio-user");

#endif
