/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unvf_client.h - a vfio-user client and virtio driver for tests of unvf: one call for each
 * message, registers by name, rings by vq_driver.h in a memfd that is mapped IOVA = address. It
 * waits for answers, CLIENT_MS at most, and aborts when the server breaks the protocol. The test's
 * thread.
 */
#ifndef UNVMM_TESTS_UNVF_CLIENT_H
#define UNVMM_TESTS_UNVF_CLIENT_H

#include <linux/virtio_pci.h>

#include <unvmm/gmem.h>
#include <unvmm/vfio_user.h>

#include "vq_driver.h"

#define CLIENT_MS     30000
#define CLIENT_RAM    MiB(16)
#define CLIENT_QUEUES 20
#define CLIENT_HEAP   KiB(512) /* of each queue */

struct client {
	int fd;
	uint16_t id;
	struct gmem mem;
	/* Of the last reply. */
	uint8_t body[65536];
	size_t len;
	int fds[CLIENT_QUEUES];
	unsigned int nfds;
	unsigned int bar; /* of virtio's structures; CLIENT_BAR */
	/* The function, once it is driven. */
	uint64_t features;
	uint32_t multiplier;
	uint8_t *doorbells; /* mapped, or NULL */
	uint64_t doorbells_size;
	int irq[CLIENT_QUEUES]; /* one for each queue, then the configuration's; -1 */
	struct vq_driver q[CLIENT_QUEUES];
};

/* Connects to path; or takes a connection. */
void unvf_client_connect(struct client *c, const char *path);
void unvf_client_init(struct client *c, int fd);
/* Closes everything. */
void unvf_client_close(struct client *c);

/* A message and its reply, in c->body: 0, or the error that the server answered (-errno). */
int unvf_client_call(struct client *c, uint16_t cmd, const void *body, size_t len, const int *fds,
		     unsigned int nfds);
/* The two halves. recv: 1 if the server hung up. */
void unvf_client_send(struct client *c, uint16_t cmd, const void *body, size_t len, const int *fds,
		      unsigned int nfds);
int unvf_client_recv(struct client *c);

int unvf_client_version(struct client *c);
int unvf_client_map(struct client *c, uint64_t iova, uint64_t size, int fd, uint64_t offset);
int unvf_client_unmap(struct client *c, uint64_t iova, uint64_t size);
uint64_t unvf_client_read(struct client *c, unsigned int region, uint64_t off, unsigned int len);
void unvf_client_write(struct client *c, unsigned int region, uint64_t off, unsigned int len,
		       uint64_t value);
int unvf_client_set_irqs(struct client *c, unsigned int start, unsigned int count, const int *fds);
/* DEVICE_FEATURE; data in and, in c->body behind its header, out. */
int unvf_client_feature(struct client *c, uint32_t flags, const void *data, size_t len);
int unvf_client_state(struct client *c, uint32_t state);

/* Common configuration. */
#define CLIENT_BAR 4
uint32_t unvf_client_reg(struct client *c, unsigned int off, unsigned int len);
void unvf_client_set_reg(struct client *c, unsigned int off, unsigned int len, uint32_t value);
uint64_t unvf_client_offered(struct client *c);
/* Writes 0 and waits until it reads 0. False after CLIENT_MS. */
bool unvf_client_reset(struct client *c);

/* VERSION, memory, bus mastering, doorbell page, vectors: what comes before the driver. */
void unvf_client_open(struct client *c);
/* The driver, up to FEATURES_OK; false if the function does not take the features. */
bool unvf_client_negotiate(struct client *c, uint64_t features);
void unvf_client_queue(struct client *c, uint16_t q, uint16_t size);
/* Programs the queue as it stands in c->q[q]. */
void unvf_client_program(struct client *c, uint16_t q);
/* All of it, with queues 0 to n - 1, to DRIVER_OK. */
void unvf_client_drive(struct client *c, uint64_t features, unsigned int n, uint16_t size);
/* Rings, by a store where the page is mapped. */
void unvf_client_kick(struct client *c, uint16_t q);
/* Waits for the queue's interrupt, or for a used element. False after ms. */
bool unvf_client_irq(struct client *c, unsigned int q, int ms);
bool unvf_client_take(struct client *c, unsigned int q, struct vring_used_elem *e, int ms);

/* --- a disk
 * --------------------------------------------------------------------------------------- */

struct unvf_client_blk {
	uint16_t head;
	gpa_t data;
	volatile uint8_t *status;
};

/* Posts a request of `len` bytes of data and does not kick. */
struct unvf_client_blk unvf_client_blk_post(struct client *c, unsigned int q, uint32_t type,
					    uint64_t sector, const void *out, uint32_t len);
/* The same, kicked and waited for. Returns the status byte, or -1 after CLIENT_MS. */
int unvf_client_blk(struct client *c, unsigned int q, uint32_t type, uint64_t sector, void *data,
		    uint32_t len);

#endif
