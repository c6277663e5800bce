/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk.h - a polled virtio-blk driver (virtio 1.2, 5.2): requests in flight on several queues.
 */
#ifndef GUESTS_BLK_H
#define GUESTS_BLK_H

#include <linux/virtio_blk.h>

#include "virtio.h"

#define BLK_SECTOR     512u
#define BLK_QUEUES_MAX 16
#define BLK_REQ_BYTES  65536u /* room for data in each request */
#define BLK_SEGS_MAX   6      /* of one request: header, up to four pieces of data, status */
#define BLK_REQS_MAX   64     /* in flight on one queue */

struct blk_req {
	struct virtio_blk_outhdr hdr;
	uint8_t status;
	uint32_t len; /* of data */
	uint8_t *data;
	bool busy;
	uint64_t user;
};

struct blk_queue {
	struct vq vq;
	struct blk_req *req;	  /* BLK_REQS_MAX */
	struct blk_req **by_head; /* of the ring's size */
	unsigned int inflight;
};

struct blk {
	struct vio vio;
	struct blk_queue q[BLK_QUEUES_MAX];
	unsigned int nqueues, depth; /* depth: how many requests blk_get() gives at once */
	uint64_t capacity;	     /* sectors */
	struct rnd *rnd;	     /* cuts data into segments; NULL: one segment */
};

/* Feature bits that the command line wants (features=a,b; all that we know if not given). */
uint64_t blk_wanted(void);
/* Negotiates, sets up min(queues, what there is) queues of at most qsize entries, DRIVER_OK. */
bool blk_start(struct blk *b, uint64_t features, unsigned int queues, uint16_t qsize);
bool blk_feature(const struct blk *b, unsigned int bit);
uint32_t blk_config32(const struct blk *b, size_t offset);

/* A free request of queue qi, or NULL. */
struct blk_req *blk_get(struct blk *b, unsigned int qi);
/* Sends it: type and sector, with len bytes of r->data. Does not kick. */
bool blk_send(struct blk *b, unsigned int qi, struct blk_req *r, uint32_t type, uint64_t sector,
	      uint32_t len);
void blk_kick(struct blk *b, unsigned int qi);
/* A completed request (to be given back by blk_put), or NULL. */
struct blk_req *blk_reap(struct blk *b, unsigned int qi);
void blk_put(struct blk *b, unsigned int qi, struct blk_req *r);

/* One request from start to end, alone on queue 0: its status; data in and out by `data`. */
uint8_t blk_do(struct blk *b, uint32_t type, uint64_t sector, void *data, uint32_t len);
/* Raw segments, the last byte of the last one being the status. Returns false if none came. */
bool blk_raw(struct blk *b, const struct vq_seg *segs, unsigned int n, uint32_t *used_len);

#endif
