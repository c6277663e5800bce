/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_user_event.c - the eventfds of a function behind a vfio-user server: doorbells that its server
 * listens to, and what it signals: interrupts, errors, requests. The vf thread; events at open,
 * main.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vf_user.h"

/* Doorbells of one region that a server may describe. */
#define IO_FDS_MAX 256

/* --- doorbells ------------------------------------------------------------------------------- */

/* True if a write of `value`, len bytes, at off is what the entry of `stride` bytes stands for. */
static bool io_fd_fits(const uint8_t *entry, size_t stride, uint64_t off, unsigned int len,
		       uint32_t value, uint32_t *fd_index)
{
	struct vfio_user_io_fd_48 e = { .fd.offset = 0 };
	uint64_t datamatch;

	memcpy(&e, entry, stride);
	/* The two layouts differ in where the value stands. */
	datamatch = stride == sizeof(e) ? e.datamatch : e.shadow_offset;
	*fd_index = e.fd.fd_index;
	return e.fd.type == VFIO_USER_IO_FD_IOEVENTFD && e.fd.offset == off &&
	       (!e.fd.size || e.fd.size == len) &&
	       (!(e.fd.flags & VFIO_USER_IO_FD_DATAMATCH) || datamatch == value);
}

/* An eventfd is an anonymous inode, without a type; a pipe or a file could block who writes. */
static bool may_be_eventfd(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && !(st.st_mode & S_IFMT);
}

/* The descriptor of the doorbell, out of fds; -1 if there is none. */
static int find_io_fd(const struct vf_user_call *c, const struct vfio_user_io_fds *reply,
		      uint64_t off, unsigned int len, uint32_t value)
{
	size_t stride = reply->count ? (c->in_len - sizeof(*reply)) / reply->count : 0;
	uint32_t index;

	if ((stride != sizeof(struct vfio_user_io_fd_40) &&
	     stride != sizeof(struct vfio_user_io_fd_48)) ||
	    c->in_len - sizeof(*reply) != stride * reply->count)
		return -1;
	for (uint32_t i = 0; i < reply->count; i++)
		if (io_fd_fits((const uint8_t *)(reply + 1) + i * stride, stride, off, len, value,
			       &index) &&
		    index < c->in_nfds && may_be_eventfd(c->in_fds[index]))
			return (int)index;
	return -1;
}

/* Asks for the doorbells of the region; the right one's descriptor, or -errno. */
static int ask_io_fds(struct vf_user *u, unsigned int region, uint64_t off, unsigned int len,
		      uint32_t value)
{
	int fds[VF_USER_MSG_FDS], found, err;
	struct {
		struct vfio_user_io_fds h;
		uint8_t entries[IO_FDS_MAX * sizeof(struct vfio_user_io_fd_48)];
	} reply;
	struct vfio_user_io_fds ask = { .argsz = sizeof(reply), .index = region };
	struct vf_user_call c = { .cmd = VFIO_USER_DEVICE_GET_REGION_IO_FDS,
				  .out = { { &ask, sizeof(ask) } },
				  .in = &reply,
				  .in_min = sizeof(reply.h),
				  .in_max = sizeof(reply),
				  .in_fds = fds,
				  .in_fds_max = VF_USER_MSG_FDS };

	err = vf_user_call(u, &c);
	if (err)
		return vf_gone(&u->vf) ? err : -EOPNOTSUPP;
	found = find_io_fd(&c, &reply.h, off, len, value);
	for (int i = 0; i < (int)c.in_nfds; i++)
		if (i != found)
			close(fds[i]);
	return found < 0 ? -EOPNOTSUPP : fds[found];
}

/* The descriptors stay ours until close(): the doorbell of a queue is asked for at every start. */
int vf_user_doorbell_fd(struct vf *vf, unsigned int region, uint64_t off, unsigned int len,
			uint32_t value, int *fd)
{
	struct vf_user *u = vf_user_of(vf);
	struct vf_user_doorbell *d = u->doorbells;
	int found, err = vf_user_check(u, region, off, len);

	if (err)
		return err;
	/* The server chooses the eventfd; it takes none of ours. */
	if (*fd >= 0)
		return -EOPNOTSUPP;
	for (unsigned int i = 0; i < u->ndoorbells; i++) {
		if (d[i].region != region || d[i].off != off || d[i].len != len ||
		    d[i].value != value)
			continue;
		*fd = d[i].fd;
		return 0;
	}
	if (u->ndoorbells >= VF_USER_DOORBELLS_MAX)
		return -EOPNOTSUPP;
	d = realloc(d, (u->ndoorbells + 1) * sizeof(*d));
	if (!d)
		return -ENOMEM;
	u->doorbells = d;
	found = ask_io_fds(u, region, off, len, value);
	if (found < 0)
		return found;
	d[u->ndoorbells++] = (struct vf_user_doorbell){ region, len, value, found, off };
	*fd = found;
	return 0;
}

/* --- interrupts ------------------------------------------------------------------------------ */

static int set_irqs(struct vf_user *u, uint32_t index, uint32_t flags, unsigned int start,
		    unsigned int count, const int *fds, unsigned int nfds)
{
	struct vfio_irq_set set = { .argsz = sizeof(set),
				    .flags = flags | VFIO_IRQ_SET_ACTION_TRIGGER,
				    .index = index,
				    .start = start,
				    .count = count };
	struct vf_user_call c = { .cmd = VFIO_USER_DEVICE_SET_IRQS,
				  .out = { { &set, sizeof(set) } },
				  .fds = fds,
				  .nfds = nfds };

	return vf_user_call(u, &c);
}

/*
 * Vectors without a descriptor get the sink, because libvfio-user cannot take the descriptor away
 * from a single vector above 0.
 */
int vf_user_irq_set(struct vf *vf, const int *fds, unsigned int n)
{
	struct vf_user *u = vf_user_of(vf);
	int part[VF_USER_MSG_FDS], err = 0;

	if (n > vf->info.nvectors)
		return -EINVAL;
	if (u->wired && u->wired != n) {
		err = set_irqs(u, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE, 0, 0, NULL, 0);
		if (!err)
			u->wired = 0;
	}
	for (unsigned int at = 0, count; at < n && !err; at += count) {
		count = n - at < u->max_fds ? n - at : u->max_fds;
		for (unsigned int i = 0; i < count; i++)
			part[i] = fds[at + i] >= 0 ? fds[at + i] : u->sink;
		u->wired = n;
		err = set_irqs(u, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_IRQ_SET_DATA_EVENTFD, at, count,
			       part, count);
	}
	return err;
}

/* --- error and request events ---------------------------------------------------------------- */

static void link_error(struct vf *vf, const char *why)
{
	struct vf_user *u = vf_user_of(vf);

	pthread_mutex_lock(&u->lock);
	vf_user_lost(u, -EIO, "%s", why);
	pthread_mutex_unlock(&u->lock);
}

/* Many servers have neither event. */
static int wire_event(struct vf *vf, uint32_t index, int fd, struct diag *d)
{
	struct vf_user *u = vf_user_of(vf);
	struct vfio_irq_info i = { .argsz = sizeof(i), .index = index };
	int err;

	if (index >= u->nirqs)
		return 0;
	err = vf_user_simple(u, VFIO_USER_DEVICE_GET_IRQ_INFO, &i, sizeof(i), &i, sizeof(i));
	if (!err && i.count && i.flags & VFIO_IRQ_INFO_EVENTFD)
		err = set_irqs(u, index, VFIO_IRQ_SET_DATA_EVENTFD, 0, 1, &fd, 1);
	return vf_gone(vf) ? vf_user_refused(u, d, err, "its error and request events") : 0;
}

const struct vf_events_ops vf_user_events = { .wire = wire_event, .error = link_error };
