/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_mock.h - a VF backend without a function: a small model of a virtio one stands behind it. It
 * writes down every call, fails where it is told to, and keeps the promises of unvmm/vf.h (the
 * contract suite runs over it). Its queues do nothing, but the control queue of a network card,
 * which answers. Thread: any, under the mock's own lock.
 */
#ifndef UNVMM_TESTS_VF_MOCK_H
#define UNVMM_TESTS_VF_MOCK_H

#include <pthread.h>

#include <unvmm/vf.h>
#include <unvmm/virtio.h>

#define VM_QUEUES  32
#define VM_VECTORS 64
#define VM_MAPS	   32
#define VM_WRITTEN 16

/* BAR 0 of the model; BAR 2 holds MSI-X. */
#define VM_BAR_SIZE	0x20000
#define VM_COMMON	0x0000
#define VM_COMMON_BYTES 0x40 /* queue_reset is there */
#define VM_ISR		0x1000
#define VM_CONFIG	0x2000
#define VM_NOTIFY	0x4000
#define VM_CONFIG_BYTES 0x40

enum vm_answer { VM_ANSWER_OK, VM_ANSWER_ERR, VM_ANSWER_NONE, VM_ANSWER_GARBAGE };

struct vf_mock_queue {
	uint16_t size_max, size, vector, enable, notify_off;
	uint64_t desc, driver, device;
	uint16_t next; /* the next available entry that it takes */
	uint32_t word; /* of ring_index */
	bool resetting;
	unsigned int kicks;
};

struct vf_mock {
	struct vf vf; /* first */
	pthread_mutex_t lock;

	/* The model. To be changed before it is opened, or between the calls. */
	uint8_t pci[256];
	uint16_t device_id;
	uint64_t features;
	uint16_t nqueues;
	uint32_t multiplier;
	uint32_t notify_length;
	struct vf_mock_queue queues[VM_QUEUES];
	uint8_t config[VM_CONFIG_BYTES];
	uint8_t generation;
	bool generation_runs;  /* it changes at every look */
	bool forwards;	       /* doorbell_fd() is there */
	uint64_t mig_flags;    /* VFIO_MIGRATION_; 0: it cannot migrate (vf_mock_mig.c) */
	bool mig_log;	       /* DMA logging is there */
	bool ring_index;       /* words in BAR 4, for whoever disables a queue */
	enum vm_answer answer; /* of the control queue */
	char serial[20];       /* of a disk; empty: it has none */
	bool nameless;	       /* ... and gives no answer to who asks */

	/* Faults. */
	unsigned int fail_at;	    /* the call of this number (from 1) is -EIO; 0: none */
	unsigned int all_ones_from; /* from this call on, reads are all-ones; 0: never */
	int refuses;		    /* offset of the common register that keeps its value; -1 */
	bool never_resets;	    /* status stays what it is */
	bool queue_never_resets;    /* queue_reset stays 1 */
	uint32_t breaks_at;	    /* on the way to that state it goes to ERROR; 0: never */

	/* What was done to it. */
	unsigned int calls;
	char *log; /* one line per call; owned */
	size_t log_len, log_cap;
	bool log_reads;
	uint8_t status;
	uint64_t acknowledged; /* features */
	uint16_t select, config_vector;
	uint32_t feature_select[2];
	int irq[VM_VECTORS];
	unsigned int nirq;
	struct vf_mock_map {
		uint64_t iova, size;
		void *hva;
	} maps[VM_MAPS];
	unsigned int nmaps;
	uint8_t command[16384]; /* the last on the control queue */
	size_t command_len;
	unsigned int commands;
	int bar_fd;
	uint8_t *bar; /* what region_mmap() shows */
	struct {
		uint64_t off;
		int fd;
	} doorbells[VM_QUEUES];
	unsigned int ndoorbells;
	bool closed;

	uint32_t state; /* enum vfio_device_mig_state */
	uint8_t stream[4096];
	size_t stream_len, stream_at;
	unsigned int ahead; /* parts that PRE_COPY has given */
	bool logging;
	uint64_t written[VM_WRITTEN]; /* pages since the last report */
	unsigned int nwritten;
};

/*
 * A function with everything that "portable-1" asks for: a disk with nqueues queues, or a network
 * card with (nqueues - 1) / 2 pairs. Doorbells are a page apart and can be mapped. close() only
 * notes that it was called; the test frees.
 */
struct vf_mock *vf_mock_new(uint16_t device_id, uint16_t nqueues);
void vf_mock_free(struct vf_mock *m);

/* Has the registers of an IFCVF function; before it is opened. */
void vf_mock_ring_index(struct vf_mock *m);
/* After a change of multiplier or notify_length, or of whether pages can be mapped. */
void vf_mock_lay_out(struct vf_mock *m, bool mappable);

/* The function's part: signals a vector, changes its configuration, vanishes. */
void vf_mock_interrupt(struct vf_mock *m, unsigned int vector);
void vf_mock_config_set(struct vf_mock *m, unsigned int off, const void *bytes, unsigned int len);
void vf_mock_lose(struct vf_mock *m, const char *why);

/* Answers what the control queue holds (after VM_ANSWER_NONE). */
void vf_mock_serve(struct vf_mock *m, enum vm_answer answer);
/* The function's memory at an I/O virtual address, or NULL if it cannot reach it. */
void *vf_mock_dma(struct vf_mock *m, uint64_t iova, uint64_t len);

/* It writes somewhere in a page of memory: into its log, if there is one. */
void vf_mock_writes(struct vf_mock *m, uint64_t iova);
/* Does it look at its rings now? */
bool vf_mock_runs(const struct vf_mock *m);

/* A copy of the log since the last call, without the lock; the caller frees it. */
char *vf_mock_take_log(struct vf_mock *m);
unsigned int vf_mock_kicks(struct vf_mock *m, unsigned int q);

#endif
