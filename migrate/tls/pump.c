/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pump.c - both directions between a VMM's socket and TLS, see pump.h. One thread.
 */
#include "pump.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct way {
	uint8_t *buf;
	size_t off, len;
	bool ended; /* its source has, or nobody wants what comes from it */
	bool told;  /* ... and its sink has been told */
};

struct pump {
	int local;
	const struct pump_tls *tls;
	struct way out, in; /* to the peer, to the VMM */
	bool gone;	    /* the VMM's end is closed: nobody is there to read */
	uint64_t until;	    /* ms; what is left once it is */
	unsigned int linger_ms;
	int err; /* of the encrypted side, the first one */
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* What is left to be sent and heard has its time. */
static void vmm_gone(struct pump *p)
{
	if (!p->gone)
		p->until = now_ms() + p->linger_ms;
	p->gone = true;
}

/* The peer hears nothing any more. What it has said may still be on its way. */
static bool out_failed(struct pump *p, int err, struct diag *d)
{
	if (!p->err)
		p->err = p->tls->explain(p->tls->arg, err, d);
	p->out.len = 0;
	p->out.ended = p->out.told = true;
	(void)shutdown(p->local, SHUT_RD); /* the VMM is not to wait for room */
	return true;
}

/* No more comes, and nobody is there who would read what we send. */
static bool in_failed(struct pump *p, int err, struct diag *d)
{
	p->in.ended = true;
	return out_failed(p, err, d);
}

static void taken(struct way *w, ssize_t n)
{
	w->off += (size_t)n;
	w->len -= (size_t)n;
}

/* From the VMM to the peer; true if anything changed. */
static bool step_out(struct pump *p, struct diag *d)
{
	struct way *w = &p->out;
	bool moved = false;
	ssize_t n;

	if (!w->len && !w->ended) {
		n = recv(p->local, w->buf, PUMP_BUF, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return false;
		if (n < 0) /* ECONNRESET: it closed with something unread */
			vmm_gone(p);
		w->off = 0;
		w->len = n > 0 ? (size_t)n : 0;
		w->ended = n <= 0;
		moved = true;
	}
	while (w->len) {
		n = p->tls->send(p->tls->arg, w->buf + w->off, w->len);
		if (n == -EAGAIN)
			return moved;
		if (n < 0)
			return out_failed(p, (int)n, d);
		taken(w, n);
		moved = true;
	}
	if (!w->ended)
		return moved;
	if (w->told)
		return false;
	n = p->tls->bye(p->tls->arg);
	if (n == -EAGAIN)
		return false;
	if (n < 0)
		return out_failed(p, (int)n, d);
	w->told = true;
	return true;
}

/* As much as there is, into the empty buffer; false: nothing. */
static bool decrypt(struct pump *p, struct diag *d)
{
	struct way *w = &p->in;
	ssize_t n;

	w->off = 0;
	while (!w->ended && PUMP_BUF - w->len >= PUMP_RECORD) {
		n = p->tls->recv(p->tls->arg, w->buf + w->len, PUMP_BUF - w->len);
		if (n == -EAGAIN)
			return w->len > 0;
		if (n < 0)
			return in_failed(p, (int)n, d);
		w->len += (size_t)n;
		w->ended = n == 0;
	}
	return true;
}

/*
 * From the peer to the VMM. It is read also when nobody wants it: a TCP connection that is closed
 * with something unread is reset, and the last thing that we sent may be lost with it.
 */
static bool step_in(struct pump *p, struct diag *d)
{
	struct way *w = &p->in;
	ssize_t n;

	if (!w->len && !w->ended && !decrypt(p, d))
		return false;
	if (w->len) {
		n = send(p->local, w->buf + w->off, w->len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return false;
		if (n < 0)
			vmm_gone(p);
		taken(w, n < 0 ? (ssize_t)w->len : n); /* read, and dropped */
		return true;
	}
	if (!w->ended || w->told)
		return false;
	(void)shutdown(p->local, SHUT_WR);
	w->told = true;
	return true;
}

static void wait_for_work(struct pump *p)
{
	const struct way *out = &p->out, *in = &p->in;
	struct pollfd pfd[2] = { { .fd = p->gone ? -1 : p->local }, { .fd = p->tls->fd } };
	uint64_t now = now_ms();
	int ms = p->gone ? (int)(p->until > now ? p->until - now : 0) : -1;

	if (!out->len && !out->ended)
		pfd[0].events |= POLLIN;
	if (in->len)
		pfd[0].events |= POLLOUT;
	if (!in->len && !in->ended)
		pfd[1].events |= p->tls->recv_sends(p->tls->arg) ? POLLIN | POLLOUT : POLLIN;
	if (out->len || (out->ended && !out->told))
		pfd[1].events |= POLLOUT;
	if (!pfd[1].events) /* its errors are of no interest, and would not let us wait */
		pfd[1].fd = -1;
	if (poll(pfd, ARRAY_SIZE(pfd), ms) > 0 && pfd[0].revents & (POLLHUP | POLLERR))
		vmm_gone(p);
}

static int run(struct pump *p, struct diag *d)
{
	while (!(p->out.told && p->in.told)) {
		bool out = step_out(p, d), in = step_in(p, d);

		if (!out && !in)
			wait_for_work(p);
		if (!p->gone || now_ms() < p->until)
			continue;
		if (p->out.told || p->err) /* it was told all, but does not close */
			break;
		return diag_set(d, -ETIMEDOUT,
				"the peer took nothing for %g s: the end of what was sent did not "
				"arrive",
				p->linger_ms / 1000.0);
	}
	return p->err;
}

int pump_run(int local, const struct pump_tls *tls, unsigned int linger_ms, struct diag *d)
{
	struct pump p = { .local = local,
			  .tls = tls,
			  .linger_ms = linger_ms,
			  .out.buf = malloc(PUMP_BUF),
			  .in.buf = malloc(PUMP_BUF) };
	int err;

	if (p.out.buf && p.in.buf)
		err = run(&p, d);
	else
		err = diag_set(d, -ENOMEM, "out of memory");
	free(p.out.buf);
	free(p.in.buf);
	return err;
}
