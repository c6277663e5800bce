/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_console.c - the queues of the virtio console (virtio 1.2, section 5.3): input, output, and
 * with MULTIPORT the control queues of its one port, which has a name then; its state. Runs on the
 * io thread; reset and state with the queues stopped.
 */
#include "virtio_console.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include <unvmm/vm.h>

/* --- rings ------------------------------------------------------------------------------------ */

size_t console_ring_put(struct console_ring *r, const uint8_t *buf, size_t len)
{
	size_t tail = (r->head + r->len) % CONSOLE_RING, first;

#ifndef FUZZ_PLANT /* a bug for the fuzzer to find: what is not taken yet is written over */
	if (len > CONSOLE_RING - r->len)
		len = CONSOLE_RING - r->len;
#endif
	first = len < CONSOLE_RING - tail ? len : CONSOLE_RING - tail;
	memcpy(r->data + tail, buf, first);
	memcpy(r->data, buf + first, len - first);
	r->len += len;
	return len;
}

size_t console_ring_take(struct console_ring *r, uint8_t *buf, size_t len)
{
	size_t first;

	if (len > r->len)
		len = r->len;
	first = len < CONSOLE_RING - r->head ? len : CONSOLE_RING - r->head;
	memcpy(buf, r->data + r->head, first);
	memcpy(buf + first, r->data, len - first);
	r->head = (r->head + len) % CONSOLE_RING;
	r->len -= len;
	return len;
}

bool console_listens(const struct virtio_console *con)
{
	return !vdev_has(&con->vdev, VIRTIO_CONSOLE_F_MULTIPORT) || con->ctrl.guest_open;
}

/* --- input and output ------------------------------------------------------------------------- */

static bool input_waits(struct virtio_console *con)
{
	bool waits;

	pthread_mutex_lock(&con->lock);
	waits = con->to_guest.len && console_listens(con);
	pthread_mutex_unlock(&con->lock);
	return waits;
}

/* Fills a buffer as far as there is input: how many bytes. */
static uint32_t fill(struct virtio_console *con, struct vq *vq, struct vq_bytes *in)
{
	uint8_t buf[512];
	uint32_t done = 0;
	size_t n;

	while (in->len) {
		pthread_mutex_lock(&con->lock);
		n = console_ring_take(&con->to_guest, buf,
				      in->len < sizeof(buf) ? in->len : sizeof(buf));
		pthread_mutex_unlock(&con->lock);
		if (!n || !vq_write(vq, in, buf, n))
			break;
		done += (uint32_t)n;
	}
	return done;
}

/* The handlers of queues return NULL, or why the ring is broken. */
static const char *receive(struct virtio_console *con, struct vq *vq, struct vq_chain *c)
{
	bool taken = false;
	int got = 1;

	while (got == 1 && input_waits(con)) {
		struct vq_bytes in;

		got = vq_pop(vq, c);
		if (got != 1)
			break;
		in = vq_in(c);
		if (!in.len)
			return "input buffer without room";
		softq_begin(&con->sq);
		softq_complete(&con->sq, CONSOLE_RX, c->head, fill(con, vq, &in));
		taken = true;
	}
	if (got == 1) /* buffers are of no interest until there is input */
		softq_hold(&con->sq, CONSOLE_RX);
	if (taken)
		loop_call(&con->vdev.vm->main_loop, &con->main_work);
	return got < 0 ? vq->why : NULL;
}

/* Copies output into the ring until that is full: how many bytes. */
static uint32_t spill(struct virtio_console *con, struct vq_bytes *out)
{
	uint8_t buf[512];
	uint32_t done = 0;
	size_t n = 1;

	while (out->len && n) {
		pthread_mutex_lock(&con->lock);
		n = CONSOLE_RING - con->to_host.len;
		if (n > sizeof(buf))
			n = sizeof(buf);
		if (n > out->len)
			n = (size_t)out->len;
		if (vq_read(out, buf, n))
			(void)console_ring_put(&con->to_host, buf, n);
		con->tx_held = !n;
		pthread_mutex_unlock(&con->lock);
		done += (uint32_t)n;
	}
	return done;
}

static const char *transmit(struct virtio_console *con, struct vq *vq, struct vq_chain *c)
{
	bool given = false;
	int got;

	while ((got = vq_pop(vq, c)) == 1) {
		struct vq_bytes out = vq_out(c);

		/* It may not be the chain of the last time: the guest can change it meanwhile. */
		vq_skip(&out, con->tx_done);
		con->tx_done += spill(con, &out);
		given = true;
		if (out.len) {
			vq_unpop(vq, 1);
			softq_hold(&con->sq, CONSOLE_TX);
			break;
		}
		con->tx_done = 0;
		softq_begin(&con->sq);
		softq_complete(&con->sq, CONSOLE_TX, c->head, 0);
	}
	if (given)
		loop_call(&con->vdev.vm->main_loop, &con->main_work);
	return got < 0 ? vq->why : NULL;
}

/* --- control messages (5.3.6.2) --------------------------------------------------------------- */

static bool messages_wait(struct virtio_console *con)
{
	bool wait;

	pthread_mutex_lock(&con->lock);
	wait = con->ctrl.send;
	pthread_mutex_unlock(&con->lock);
	return wait;
}

/* Takes the first of the messages that wait. There is one: nobody else takes any. */
static size_t next_message(struct virtio_console *con,
			   uint8_t buf[sizeof(struct virtio_console_control) + CONSOLE_NAME])
{
	struct virtio_console_control m = { 0 };
	size_t len = sizeof(m);
	uint8_t bit;

	pthread_mutex_lock(&con->lock);
	bit = (uint8_t)(con->ctrl.send & -con->ctrl.send);
	con->ctrl.send &= (uint8_t)~bit;
	if (bit == CONSOLE_SEND_ADD) {
		m.event = htole16(VIRTIO_CONSOLE_PORT_ADD);
	} else if (bit == CONSOLE_SEND_NAME) { /* without its NUL */
		size_t n = strnlen((const char *)con->name, CONSOLE_NAME);

		m.event = htole16(VIRTIO_CONSOLE_PORT_NAME);
		m.value = htole16(1);
		memcpy(buf + len, con->name, n);
		len += n;
	} else {
		m.event = htole16(VIRTIO_CONSOLE_PORT_OPEN);
		m.value = htole16(con->host_open);
		con->ctrl.told_open = con->host_open;
	}
	pthread_mutex_unlock(&con->lock);
	memcpy(buf, &m, sizeof(m));
	return len;
}

static const char *send_control(struct virtio_console *con, struct vq *vq, struct vq_chain *c)
{
	uint8_t buf[sizeof(struct virtio_console_control) + CONSOLE_NAME];
	int got = 1;

	while (got == 1 && messages_wait(con)) {
		struct vq_bytes in;
		size_t len;

		got = vq_pop(vq, c);
		if (got != 1)
			break;
		len = next_message(con, buf);
		in = vq_in(c);
		if (!vq_write(vq, &in, buf, len))
			return "control buffer without room for a message";
		softq_begin(&con->sq);
		softq_complete(&con->sq, CONSOLE_CTRL_RX, c->head, (uint32_t)len);
	}
	if (got == 1)
		softq_hold(&con->sq, CONSOLE_CTRL_RX);
	return got < 0 ? vq->why : NULL;
}

/* What the driver says. Nonsense is ignored: it harms nobody but the driver. */
static void hear(struct virtio_console *con, const struct virtio_console_control *m)
{
	struct console_ctrl *ctrl = &con->ctrl;
	unsigned int event = le16toh(m->event), value = le16toh(m->value);
	bool known = true;

	pthread_mutex_lock(&con->lock);
	if (event == VIRTIO_CONSOLE_DEVICE_READY && value)
		ctrl->send |= CONSOLE_SEND_ADD;
	else if (le32toh(m->id)) /* there is no port but port 0 */
		known = event == VIRTIO_CONSOLE_DEVICE_READY;
	else if (event == VIRTIO_CONSOLE_PORT_READY) {
		ctrl->ready = value;
		ctrl->send |= value ? CONSOLE_SEND_NAME | CONSOLE_SEND_OPEN : 0;
	} else if (event == VIRTIO_CONSOLE_PORT_OPEN)
		ctrl->guest_open = value;
	else
		known = event == VIRTIO_CONSOLE_DEVICE_READY;
	pthread_mutex_unlock(&con->lock);
	if (!known)
		log_limited(&con->limit, LOG_DEBUG, "%s: control message %u of port %u is ignored",
			    con->vdev.id, event, le32toh(m->id));
	if (event == VIRTIO_CONSOLE_DEVICE_READY && !value)
		log_limited(&con->limit, LOG_WARN, "%s: the guest's driver cannot use it",
			    con->vdev.id);
}

static const char *receive_control(struct virtio_console *con, struct vq *vq, struct vq_chain *c)
{
	int got;

	while ((got = vq_pop(vq, c)) == 1) {
		struct virtio_console_control m;
		struct vq_bytes out = vq_out(c);

		if (vq_read(&out, &m, sizeof(m)))
			hear(con, &m);
		softq_begin(&con->sq);
		softq_complete(&con->sq, CONSOLE_CTRL_TX, c->head, 0);
	}
	/* An answer may wait, input may be wanted now, and the chardev be read again. */
	loop_call(con->sq.loop, &con->io_work);
	loop_call(&con->vdev.vm->main_loop, &con->main_work);
	return got < 0 ? vq->why : NULL;
}

/* --- the whole -------------------------------------------------------------------------------- */

void console_handle(struct softq *sq, unsigned int q)
{
	static const char *(*const handlers[CONSOLE_QUEUES])(struct virtio_console *, struct vq *,
							     struct vq_chain *) = {
		[CONSOLE_RX] = receive,
		[CONSOLE_TX] = transmit,
		[CONSOLE_CTRL_RX] = send_control,
		[CONSOLE_CTRL_TX] = receive_control,
	};
	struct virtio_console *con = container_of(sq, struct virtio_console, sq);
	struct iovec iov[CONSOLE_IOVECS];
	gpa_t gpa[CONSOLE_IOVECS];
	struct vq_chain c = { .cap = CONSOLE_IOVECS, .iov = iov, .gpa = gpa };
	const char *why = handlers[q](con, &sq->queues[q].vq, &c);

	if (why)
		softq_broken(sq, q, why);
}

void console_reset_ctrl(struct virtio_console *con)
{
	pthread_mutex_lock(&con->lock);
	con->ctrl = (struct console_ctrl){ 0 };
	con->tx_held = false;
	pthread_mutex_unlock(&con->lock);
	con->tx_done = 0;
}

static int console_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct virtio_console *s = scratch;

	(void)live;
	if (s->ctrl.send & ~CONSOLE_SEND_ALL)
		return diag_set(d, -EINVAL, "control messages 0x%x wait, 0x%x are possible",
				s->ctrl.send, CONSOLE_SEND_ALL);
	return 0;
}

/* The other end may be in another state here, and the window of another size. */
static int console_post_load(void *obj, struct diag *d)
{
	struct virtio_console *con = obj;

	(void)d;
	pthread_mutex_lock(&con->lock);
	if (con->ctrl.ready && con->ctrl.told_open != con->host_open)
		con->ctrl.send |= CONSOLE_SEND_OPEN;
	pthread_mutex_unlock(&con->lock);
	if (vdev_has(&con->vdev, VIRTIO_CONSOLE_F_SIZE))
		vdev_config_changed(&con->vdev);
	return 0;
}

#define CON_FIELD(kind, member) STATE_SCALAR(kind, struct virtio_console, member)

/*
 * Bytes in the rings belong to the ends of the host where the guest was, and are passed on there.
 */
static const struct state_field console_fields[] = {
	STATE_SCALAR_CHECK(STATE_U8, struct virtio_console, name),
	CON_FIELD(STATE_BOOL, ctrl.ready),
	CON_FIELD(STATE_BOOL, ctrl.guest_open),
	CON_FIELD(STATE_BOOL, ctrl.told_open),
	CON_FIELD(STATE_U8, ctrl.send),
	CON_FIELD(STATE_U32, tx_done),
};

const struct state_desc console_state = {
	.name = "virtio-console",
	.version = 1,
	.obj_size = sizeof(struct virtio_console),
	.fields = console_fields,
	.nfields = ARRAY_SIZE(console_fields),
	.validate = console_validate,
	.post_load = console_post_load,
};
