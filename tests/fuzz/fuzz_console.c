/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_console.c - the queues of the virtio console as a guest may fill them, control messages of
 * a port among them, while the host reads and types. Whatever comes: output arrives whole and in
 * order, input too, and what waits is bounded.
 *
 * Input: one byte (bit 0: a port with a name), then steps: what, cut (where a chain is cut in two),
 * length (2 bytes, little endian), and for what the guest or the host writes as many bytes.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include <unvmm/vm.h>

#include "fake_transport.h"
#include "virtio_console.h"
#include "vq_driver.h"

#define STEPS	   64
#define LENGTH_MAX 6000u
#define SIZE	   16
#define STEP	   MiB(1) /* from one queue's memory to the next */

enum { PRINT, CONTROL, GIVE, GIVE_CONTROL, TYPE, TAKE, OPEN, WHATS };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct stream {
	uint8_t bytes[STEPS * LENGTH_MAX];
	size_t in, out;
};

struct machine {
	struct vm vm;
	struct loop io;
	struct softq_queue queues[CONSOLE_QUEUES];
	struct vq_driver d[CONSOLE_QUEUES];
	struct stream printed, typed;
	gpa_t given[SIZE]; /* of input buffers, by head */
	bool broken;
	struct virtio_console con;
};

/* Nobody runs it: it takes the calls. */
static void start_loop(struct loop *l, int wake_fd)
{
	pthread_mutex_init(&l->lock, NULL);
	l->works.tail = &l->works.head;
	l->tail.tail = &l->tail.head;
	l->wake_fd = wake_fd;
}

static void ignore_work(struct loop_work *w)
{
	(void)w;
}

static void start(struct machine *m, bool port)
{
	static int wake_fd = -1;
	struct virtio_console *con = &m->con;

	if (wake_fd < 0)
		wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	log_set_level(LOG_ERROR);
	/* What is recorded keeps its old bytes, and is not looked at. */
	m->printed.in = m->printed.out = m->typed.in = m->typed.out = 0;
	memset(&m->vm, 0, sizeof(m->vm));
	memset(&m->io, 0, sizeof(m->io));
	memset(m->queues, 0, sizeof(m->queues));
	memset(con, 0, sizeof(*con));
	m->broken = false;
	if (gmem_create(&m->vm.mem, MiB(16), false, NULL))
		abort();
	start_loop(&m->vm.main_loop, wake_fd);
	start_loop(&m->io, wake_fd);
	pthread_mutex_init(&con->lock, NULL);
	con->vdev.vm = &m->vm;
	con->vdev.id = "console0";
	con->vdev.nqueues = port ? CONSOLE_QUEUES : CONSOLE_TX + 1;
	con->vdev.negotiated = port ? VIRTIO_BIT(VIRTIO_CONSOLE_F_MULTIPORT) : 0;
	if (port)
		memcpy(con->name, "port", 4);
	con->io_work.fn = con->main_work.fn = ignore_work;
	con->sq.vdev = &con->vdev;
	con->sq.loop = &m->io;
	con->sq.queues = m->queues;
	for (unsigned int q = 0; q < con->vdev.nqueues; q++) {
		m->queues[q].sq = &con->sq;
		vqd_init(&m->d[q], &m->vm.mem, q * STEP, STEP - KiB(64), SIZE, 0);
		if (vq_start(&m->queues[q].vq, &m->vm.mem, &m->d[q].layout, 0, 0))
			abort();
	}
}

static void stop(struct machine *m)
{
	pthread_mutex_destroy(&m->con.lock);
	gmem_destroy(&m->vm.mem);
}

/* --- steps ------------------------------------------------------------------------------------ */

/* Input that was put into a buffer of the guest is what was typed, in order. */
static void check_input(struct machine *m, const struct vring_used_elem *e)
{
	const uint8_t *p = vqd_at(&m->d[CONSOLE_RX], m->given[e->id], e->len ? e->len : 1);

	if (e->len > m->typed.in - m->typed.out ||
	    memcmp(p, m->typed.bytes + m->typed.out, e->len) != 0)
		abort();
	m->typed.out += e->len;
}

static void serve(struct machine *m, unsigned int q)
{
	struct vq *vq = &m->queues[q].vq;
	struct vring_used_elem e;

	if (m->broken)
		return;
	vq_begin(vq);
	console_handle(&m->con.sq, q);
	if (vq_publish(vq) && !vq->running)
		abort();
	m->broken = m->queues[q].broken;
	while (vqd_take(&m->d[q], &e))
		if (q == CONSOLE_RX)
			check_input(m, &e);
}

static void serve_all(struct machine *m)
{
	for (unsigned int q = 0; q < m->con.vdev.nqueues; q++)
		serve(m, q);
}

static void post(struct machine *m, unsigned int q, uint8_t cut, const uint8_t *bytes, size_t len)
{
	struct vq_driver *d = &m->d[q];
	size_t first = cut < len ? cut : len;
	gpa_t at;
	uint16_t head;

	if (q >= m->con.vdev.nqueues || d->nfree < 2 || m->broken)
		return;
	at = vqd_alloc(d, len + 2, 1);
	if (bytes) {
		/* A gap between the pieces, or they would be joined again. */
		struct vqd_buf b[2] = { { at, (uint32_t)first, false },
					{ at + first + 1, (uint32_t)(len - first), false } };

		memcpy(vqd_at(d, at, first + 1), bytes, first);
		memcpy(vqd_at(d, at + first + 1, len - first + 1), bytes + first, len - first);
		vqd_post(d, b, 2);
		if (q == CONSOLE_TX) {
			memcpy(m->printed.bytes + m->printed.in, bytes, len);
			m->printed.in += len;
		}
	} else {
		struct vqd_buf b = { at, (uint32_t)len, true };

		head = vqd_post(d, &b, 1);
		if (q == CONSOLE_RX)
			m->given[head] = at;
	}
	(void)vqd_show(d);
	serve(m, q);
}

/* The host takes output: it is what was printed, in order. */
static void take(struct machine *m, size_t len)
{
	uint8_t buf[LENGTH_MAX];
	size_t n = console_ring_take(&m->con.to_host, buf, len);

	if (n > m->printed.in - m->printed.out ||
	    memcmp(buf, m->printed.bytes + m->printed.out, n) != 0)
		abort();
	m->printed.out += n;
	serve_all(m);
}

static void type(struct machine *m, const uint8_t *bytes, size_t len)
{
	size_t n = console_ring_put(&m->con.to_guest, bytes, len);

	memcpy(m->typed.bytes + m->typed.in, bytes, n);
	m->typed.in += n;
	serve_all(m);
}

static void check_invariants(const struct virtio_console *con)
{
	if (con->to_guest.len > CONSOLE_RING || con->to_host.len > CONSOLE_RING ||
	    con->ctrl.send & ~CONSOLE_SEND_ALL || con->sq.inflight)
		abort();
}

static void step(struct machine *m, uint8_t what, uint8_t cut, const uint8_t *bytes, size_t len)
{
	switch (what % WHATS) {
	case PRINT:
		post(m, CONSOLE_TX, cut, bytes, len);
		break;
	case CONTROL:
		post(m, CONSOLE_CTRL_TX, cut, bytes, len);
		serve_all(m);
		break;
	case GIVE:
		post(m, CONSOLE_RX, 0, NULL, len);
		break;
	case GIVE_CONTROL:
		post(m, CONSOLE_CTRL_RX, 0, NULL, len);
		break;
	case TYPE:
		type(m, bytes, len);
		break;
	case TAKE:
		take(m, len);
		break;
	default:
		m->con.host_open = len & 1;
		if (m->con.ctrl.ready)
			m->con.ctrl.send |= CONSOLE_SEND_OPEN;
		serve_all(m);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct machine m;

	if (!size)
		return 0;
	start(&m, data[0] & 1);
	data++;
	size--;
	for (unsigned int i = 0; i < STEPS && size >= 4 && !m.broken; i++) {
		uint8_t what = data[0] % WHATS, cut = data[1];
		size_t len = (size_t)data[2] | (size_t)data[3] << 8;

		data += 4;
		size -= 4;
		if (len > LENGTH_MAX)
			len = LENGTH_MAX;
		if ((what == PRINT || what == CONTROL || what == TYPE) && len > size)
			len = size;
		step(&m, what, cut, data, len);
		if (what == PRINT || what == CONTROL || what == TYPE) {
			data += len;
			size -= len;
		}
		check_invariants(&m.con);
	}
	stop(&m);
	return 0;
}
