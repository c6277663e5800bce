/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_console.h - what the files of the virtio console share. Private to devices/.
 *
 * The queues belong to the io thread, the chardev to whoever holds the control lock (the main
 * loop); between them lie two small rings of bytes, under con->lock, the innermost lock. Each side
 * wakes the other by a call into its loop, so neither ever waits:
 *
 *   guest -> transmit queue -> to_host  -> chardev     full: the queue is held until there is room
 *   guest <- receive queue  <- to_guest <- chardev     full: the chardev keeps the bytes
 */
#ifndef UNVMM_DEVICES_VIRTIO_CONSOLE_H
#define UNVMM_DEVICES_VIRTIO_CONSOLE_H

#include <pthread.h>

#include <linux/virtio_console.h>

#include <unvmm/chardev.h>
#include <unvmm/offer.h>
#include <unvmm/softq.h>

#define CONSOLE_RING   4096u
#define CONSOLE_NAME   64 /* bytes of a port's name, with its NUL */
#define CONSOLE_IOVECS OFFER_CONSOLE_QUEUE_SIZE

/* With one port, which is port 0 (virtio 1.2, 5.3.2). The control queues exist with MULTIPORT. */
enum { CONSOLE_RX, CONSOLE_TX, CONSOLE_CTRL_RX, CONSOLE_CTRL_TX, CONSOLE_QUEUES };

/* Control messages that wait for a buffer; each has a fixed content when it is sent (5.3.6.2). */
enum { CONSOLE_SEND_ADD = 1, CONSOLE_SEND_NAME = 2, CONSOLE_SEND_OPEN = 4, CONSOLE_SEND_ALL = 7 };

struct console_ring {
	size_t head, len;
	uint8_t data[CONSOLE_RING];
};

/* What the driver knows of a port with a name. */
struct console_ctrl {
	bool ready;	 /* the driver has made the port */
	bool guest_open; /* a program in the guest has opened it */
	bool told_open;	 /* the last PORT_OPEN that the driver was sent */
	uint8_t send;	 /* CONSOLE_SEND_* */
};

struct virtio_console {
	struct vdev vdev;
	struct softq sq;
	struct chardev *chardev;
	uint8_t name[CONSOLE_NAME]; /* "": a console, else the name of a generic port */
	uint16_t cols, rows;	    /* control lock */
	struct loop_work io_work;   /* on the io loop: bytes, room or a message for the queues */
	struct loop_work main_work; /* on the main loop: bytes or room for the chardev */

	pthread_mutex_t lock; /* protects what follows */
	struct console_ring to_guest, to_host;
	bool tx_held; /* the transmit queue waits for room in to_host */
	bool host_open;
	struct console_ctrl ctrl;

	uint32_t tx_done; /* bytes of the next transmit chain that to_host has; the io thread */
	struct log_limit limit;
	struct state_ref state[VIRTIO_PCI_STATES + 1];
};

static inline struct virtio_console *console_of_vdev(struct vdev *v)
{
	return container_of(v, struct virtio_console, vdev);
}

/* --- virtio_console.c ------------------------------------------------------------------------- */

/* As many bytes as there is room for, or as there are. con->lock held. */
size_t console_ring_put(struct console_ring *r, const uint8_t *buf, size_t len);
size_t console_ring_take(struct console_ring *r, uint8_t *buf, size_t len);

/* The softq's handler. */
void console_handle(struct softq *sq, unsigned int q);
/* Does somebody in the guest take input now? con->lock held. */
bool console_listens(const struct virtio_console *con);
/* As a reset leaves what the driver has said. The queues are stopped. */
void console_reset_ctrl(struct virtio_console *con);

extern const struct state_desc console_state; /* of struct virtio_console */

#endif
