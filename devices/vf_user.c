/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_user.c - a function behind a vfio-user server on a UNIX socket: struct vf_ops, from connect to
 * close. The vf thread's loop watches the socket between the calls, for the server's own commands
 * and its end. Threads as unvmm/vf.h has them; the lock makes calls of main and loop take turns.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <unvmm/log.h>

#include "vf_user.h"

/* --- regions --------------------------------------------------------------------------------- */

int vf_user_check(const struct vf_user *u, unsigned int region, uint64_t off, unsigned int len)
{
	if (region >= VF_REGIONS || !len || len > PAGE_SIZE_4K ||
	    !range_within(off, len, 0, u->vf.info.regions[region].size))
		return -EINVAL;
	return 0;
}

static int vf_user_region_read(struct vf *vf, unsigned int region, uint64_t off, void *buf,
			       unsigned int len)
{
	struct vf_user *u = vf_user_of(vf);
	struct vfio_user_region_access ask = { off, region, len };
	struct {
		struct vfio_user_region_access a;
		uint8_t data[PAGE_SIZE_4K];
	} reply;
	int err = vf_user_check(u, region, off, len);

	if (err)
		return err;
	err = vf_user_simple(u, VFIO_USER_REGION_READ, &ask, sizeof(ask), &reply,
			     sizeof(reply.a) + len);
	if (!err)
		memcpy(buf, reply.data, len);
	return err;
}

static int vf_user_region_write(struct vf *vf, unsigned int region, uint64_t off, const void *buf,
				unsigned int len)
{
	struct vf_user *u = vf_user_of(vf);
	struct vfio_user_region_access ask = { off, region, len }, reply;
	struct vf_user_call c = { .cmd = VFIO_USER_REGION_WRITE,
				  .out = { { &ask, sizeof(ask) }, { (void *)(uintptr_t)buf, len } },
				  .in = &reply,
				  .in_min = sizeof(reply),
				  .in_max = sizeof(reply) };
	int err = vf_user_check(u, region, off, len);

	return err ? err : vf_user_call(u, &c);
}

static int vf_user_region_mmap(struct vf *vf, unsigned int region, uint64_t off, uint64_t len,
			       void **at)
{
	struct vf_user *u = vf_user_of(vf);
	const struct vf_region *r = &vf->info.regions[region];
	bool inside = false;

	if (region >= VF_REGIONS || !len || (off | len) % PAGE_SIZE_4K)
		return -EINVAL;
	for (unsigned int i = 0; i < r->nareas; i++)
		inside |= range_within(off, len, r->areas[i].offset, r->areas[i].size);
	if (!inside)
		return -EINVAL;
	*at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, u->regions[region].fd,
		   (off_t)(u->regions[region].offset + off));
	return *at == MAP_FAILED ? -errno : 0;
}

/* --- memory ---------------------------------------------------------------------------------- */

/* Under the lock: the server may use the mapping before it has answered. */
static int add_map(struct vf_user *u, const struct vf_user_map *m)
{
	struct vf_user_map *maps;

	for (unsigned int i = 0; i < u->nmaps; i++)
		if (ranges_overlap(u->maps[i].iova, u->maps[i].size, m->iova, m->size))
			return -EEXIST;
	if (u->nmaps >= VF_USER_MAPS_MAX || u->nmaps >= u->max_maps)
		return -ENOSPC;
	maps = realloc(u->maps, (u->nmaps + 1) * sizeof(*maps));
	if (!maps)
		return -ENOMEM;
	u->maps = maps;
	maps[u->nmaps++] = *m;
	return 0;
}

static int find_map(const struct vf_user *u, uint64_t iova, uint64_t size)
{
	for (unsigned int i = 0; i < u->nmaps; i++)
		if (u->maps[i].iova == iova && u->maps[i].size == size)
			return (int)i;
	return -ENOENT;
}

static void remove_map(struct vf_user *u, uint64_t iova, uint64_t size)
{
	int i;

	pthread_mutex_lock(&u->lock);
	i = find_map(u, iova, size);
	if (i >= 0)
		u->maps[i] = u->maps[--u->nmaps];
	pthread_mutex_unlock(&u->lock);
}

static int vf_user_dma_map(struct vf *vf, uint64_t iova, uint64_t size, void *hva, int fd,
			   uint64_t offset, struct diag *d)
{
	struct vf_user *u = vf_user_of(vf);
	struct vf_user_map m = { iova, size, hva };
	struct vfio_user_dma_map ask = { .argsz = sizeof(ask),
					 .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
					 .offset = fd >= 0 ? offset : 0,
					 .iova = iova,
					 .size = size };
	struct vf_user_call c = { .cmd = VFIO_USER_DMA_MAP,
				  .out = { { &ask, sizeof(ask) } },
				  .fds = &fd,
				  .nfds = fd >= 0 };
	int err;

	/* The last byte of the address space stays free, so that no end wraps. */
	if (!size || (iova | size | (uintptr_t)hva | offset) % PAGE_SIZE_4K || iova + size < iova)
		return diag_set(d, -EINVAL, "%s: [%#llx, +%#llx) is not made of pages", vf->name,
				(unsigned long long)iova, (unsigned long long)size);
	pthread_mutex_lock(&u->lock);
	err = add_map(u, &m);
	pthread_mutex_unlock(&u->lock);
	if (err)
		return diag_errno(d, err, "%s: cannot map [%#llx, +%#llx) for it", vf->name,
				  (unsigned long long)iova, (unsigned long long)size);
	err = vf_user_call(u, &c);
	if (!err)
		return 0;
	remove_map(u, iova, size);
	return diag_set(d, err, "%s: the vfio-user server does not map memory at %#llx (%s): %s",
			vf->name, (unsigned long long)iova,
			vf_gone(vf) ? u->vf.why : strerror(-err), "look at its log");
}

static int vf_user_dma_unmap(struct vf *vf, uint64_t iova, uint64_t size)
{
	struct vf_user *u = vf_user_of(vf);
	struct vfio_user_dma_unmap ask = { .argsz = sizeof(ask), .iova = iova, .size = size };
	int err = find_map(u, iova, size);

	if (err < 0)
		return err;
	err = vf_user_simple(u, VFIO_USER_DMA_UNMAP, &ask, sizeof(ask), &ask, sizeof(ask));
	if (!err)
		remove_map(u, iova, size);
	return err;
}

static int vf_user_reset(struct vf *vf)
{
	struct vf_user_call c = { .cmd = VFIO_USER_DEVICE_RESET, .ms = VF_RESET_MS };

	return vf->info.can_reset ? vf_user_call(vf_user_of(vf), &c) : -EOPNOTSUPP;
}

/* --- the loop's thread ----------------------------------------------------------------------- */

static void socket_ready(struct loop_fd *lf, uint32_t revents)
{
	struct vf_user_watch *w = container_of(lf, struct vf_user_watch, fd);

	(void)revents;
	pthread_mutex_lock(&w->lock);
	if (w->u)
		vf_user_idle(w->u);
	pthread_mutex_unlock(&w->lock);
}

static void watch_attach(struct loop_work *work)
{
	struct vf_user_watch *w = container_of(work, struct vf_user_watch, attach);

	pthread_mutex_lock(&w->lock);
	if (w->u && loop_add(w->loop, &w->fd, w->u->sock, POLLIN, socket_ready)) {
		pthread_mutex_lock(&w->u->lock);
		vf_user_lost(w->u, -ENOMEM, "out of memory");
		pthread_mutex_unlock(&w->u->lock);
	}
	pthread_mutex_unlock(&w->lock);
}

static void watch_lost(struct loop_work *work)
{
	struct vf_user_watch *w = container_of(work, struct vf_user_watch, lost);

	loop_del(&w->fd);
	pthread_mutex_lock(&w->lock);
	if (w->u && w->u->vf.lost)
		w->u->vf.lost(&w->u->vf, w->u->vf.why);
	pthread_mutex_unlock(&w->lock);
}

static void watch_detach(struct loop_work *work)
{
	struct vf_user_watch *w = container_of(work, struct vf_user_watch, detach);

	loop_del(&w->fd);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static int watch_begin(struct vf_user *u, struct loop *loop)
{
	struct vf_user_watch *w;

	if (!loop)
		return 0;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct vf_user_watch){ .u = u,
				     .loop = loop,
				     .attach.fn = watch_attach,
				     .lost.fn = watch_lost,
				     .detach.fn = watch_detach };
	pthread_mutex_init(&w->lock, NULL);
	u->watch = w;
	loop_call(loop, &w->attach);
	return 0;
}

/* When it returns, the loop's thread does not know the function any more. */
static void watch_end(struct vf_user *u)
{
	struct vf_user_watch *w = u->watch;

	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->u = NULL;
	pthread_mutex_unlock(&w->lock);
	u->watch = NULL; /* nobody calls any more but who closes */
	loop_call(w->loop, &w->detach);
}

/* --- open and close -------------------------------------------------------------------------- */

static void release(struct vf_user *u)
{
	for (unsigned int i = 0; i < VF_REGIONS; i++)
		if (u->regions[i].fd >= 0)
			close(u->regions[i].fd);
	for (unsigned int i = 0; i < u->ndoorbells; i++)
		close(u->doorbells[i].fd);
	free(u->doorbells);
	if (u->sink >= 0)
		close(u->sink);
	/* The loop's ring may hold on to the socket for another turn. */
	shutdown(u->sock, SHUT_RDWR);
	close(u->sock);
	free(u->maps);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

/*
 * The server lets go of everything when the connection ends, but nobody would know when: so it is
 * asked for each thing, and what it refuses (it may have been left in a state of the migration that
 * allows nothing) is left to the end of the connection.
 */
static void vf_user_close(struct vf *vf)
{
	struct vf_user *u = vf_user_of(vf);

	vf_events_close(u->events);
	watch_end(u);
	if (vf_user_quiet(u) || vf_user_irq_set(vf, NULL, 0))
		log_debug("%s: the server refuses to be stopped", vf->name);
	for (unsigned int i = u->nmaps; i-- > 0;)
		if (vf_user_dma_unmap(vf, u->maps[i].iova, u->maps[i].size) && vf_gone(vf))
			break;
	release(u);
}

static const struct vf_ops vf_user_ops = {
	.kind = "vfio-user",
	.region_read = vf_user_region_read,
	.region_write = vf_user_region_write,
	.region_mmap = vf_user_region_mmap,
	.doorbell_fd = vf_user_doorbell_fd,
	.irq_set = vf_user_irq_set,
	.dma_map = vf_user_dma_map,
	.dma_unmap = vf_user_dma_unmap,
	.reset = vf_user_reset,
	.mig_caps = vf_user_mig_caps,
	.mig_state = vf_user_mig_state,
	.mig_state_get = vf_user_mig_state_get,
	.mig_read = vf_user_mig_read,
	.mig_write = vf_user_mig_write,
	.log_start = vf_user_log_start,
	.log_stop = vf_user_log_stop,
	.log_report = vf_user_log_report,
	.close = vf_user_close,
};

static struct vf_user *new_connection(int sock, const char *name)
{
	struct vf_user *u = calloc(1, sizeof(*u));

	if (!u)
		return NULL;
	u->vf.ops = &vf_user_ops;
	snprintf(u->vf.name, sizeof(u->vf.name), "%s", name);
	u->sock = sock;
	for (unsigned int i = 0; i < VF_REGIONS; i++)
		u->regions[i].fd = -1;
	pthread_mutex_init(&u->lock, NULL);
	u->sink = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return u;
}

int vf_user_attach(struct loop *loop, int sock, const char *name, struct vf **vf, struct diag *d)
{
	struct vf_user *u = new_connection(sock, name);
	int err;

	if (!u) {
		close(sock);
		return diag_set(d, -ENOMEM, "%s: out of memory", name);
	}
	err = u->sink >= 0 ? vf_user_negotiate(u, d) : diag_errno(d, -EMFILE, "%s: eventfd", name);
	if (!err && watch_begin(u, loop))
		err = diag_set(d, -ENOMEM, "%s: out of memory", name);
	if (!err && loop)
		err = vf_events_open(&u->events, &u->vf, loop, &vf_user_events, d);
	if (err) {
		watch_end(u);
		release(u);
		return err;
	}
	*vf = &u->vf;
	return 0;
}

int vf_user_open(struct loop *loop, const char *socket_path, struct vf **vf, struct diag *d)
{
	struct timeval limit = { .tv_sec = VF_CALL_MS / 1000 };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(socket_path) >= sizeof(addr.sun_path))
		return diag_set(d, -ENAMETOOLONG,
				"%s: a UNIX socket's path has at most %zu characters: give the "
				"vfio-user server a shorter one",
				socket_path, sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, socket_path, strlen(socket_path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return diag_errno(d, -errno, "%s: cannot make a socket", socket_path);
	/* The deadline of connect(), which waits while the server's backlog is full. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		int err = -errno;

		close(fd);
		return diag_errno(d, err,
				  "%s: cannot connect to the vfio-user server; start it with this "
				  "socket, and let this user write to it",
				  socket_path);
	}
	return vf_user_attach(loop, fd, socket_path, vf, d);
}
