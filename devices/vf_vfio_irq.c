/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_vfio_irq.c - eventfds of an assigned function: its MSI-X vectors,
 * doorbells that the kernel rings, and VFIO's error and request events. Runs on
 * the vf thread; opened and closed by main.
 */
#include "vf_vfio.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* --- vectors
 * ----------------------------------------------------------------------------------
 */

/* Binds the vectors [start, start + n) of an interrupt index to eventfds. */
static int set_eventfds(struct vf_vfio *f, uint32_t index, uint32_t start, uint32_t n,
			const int *fds)
{
	const size_t size = sizeof(struct vfio_irq_set) + n * sizeof(*fds);
	struct vfio_irq_set *set = calloc(1, size);
	int err;

	if (!set)
		return -ENOMEM;
	set->argsz = (uint32_t)size;
	set->flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
	set->index = index;
	set->start = start;
	set->count = n;
	memcpy(set->data, fds, n * sizeof(*fds));
	err = vf_vfio_ioctl(f, VFIO_DEVICE_SET_IRQS, set);
	free(set);
	return err;
}

static int disable_index(struct vf_vfio *f, uint32_t index)
{
	struct vfio_irq_set set = {
		.argsz = sizeof(set),
		.flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
		.index = index,
	};
	int err = vf_vfio_ioctl(f, VFIO_DEVICE_SET_IRQS, &set);

	return err < 0 ? err : 0;
}

static int disable_vectors(struct vf_vfio *f)
{
	int err = f->nwired ? disable_index(f, VFIO_PCI_MSIX_IRQ_INDEX) : 0;

	if (!err)
		f->nwired = 0;
	return err;
}

/*
 * All vectors of the function at once, those beyond n wired to nothing: before
 * Linux 6.5 none can be added to a set without taking it down, which loses
 * interrupts. A host that runs out of interrupts answers with the number that
 * it has: then it is n that have to do.
 */
static int enable_vectors(struct vf_vfio *f, const int *fds, unsigned int n)
{
	const unsigned int all = f->vf.info.nvectors;
	unsigned int count = all;
	int err;

	for (unsigned int i = 0; i < all; i++)
		f->irq_fds[i] = i < n && fds[i] >= 0 ? fds[i] : -1;
	err = set_eventfds(f, VFIO_PCI_MSIX_IRQ_INDEX, 0, count, f->irq_fds);
	if ((err > 0 || err == -ENOSPC) && n < all) {
		count = n;
		err = set_eventfds(f, VFIO_PCI_MSIX_IRQ_INDEX, 0, count, f->irq_fds);
	}
	if (err)
		return err > 0 ? -ENOSPC : err;
	f->nwired = count;
	return 0;
}

static int wanted_fd(const int *fds, unsigned int n, unsigned int vector)
{
	return vector < n && fds[vector] >= 0 ? fds[vector] : -1;
}

/* Only vectors that change are told to the kernel: the others keep what is
 * pending. */
static int change_vectors(struct vf_vfio *f, const int *fds, unsigned int n)
{
	unsigned int end;

	for (unsigned int i = 0; i < f->nwired; i = end) {
		int err;

		for (end = i; end < f->nwired && f->irq_fds[end] != wanted_fd(fds, n, end); end++)
			f->irq_fds[end] = wanted_fd(fds, n, end);
		if (end == i) {
			end++;
			continue;
		}
		err = set_eventfds(f, VFIO_PCI_MSIX_IRQ_INDEX, i, end - i, f->irq_fds + i);
		if (!err)
			continue;
		/* Which of them are wired now only the kernel knows: none is a state to go
		 * on from.
		 */
		memset(f->irq_fds + i, 0xff, (end - i) * sizeof(*fds));
		if (set_eventfds(f, VFIO_PCI_MSIX_IRQ_INDEX, i, end - i, f->irq_fds + i))
			return disable_vectors(f) ? -EIO : err;
		return err;
	}
	return 0;
}

int vf_vfio_irq_set(struct vf *vf, const int *fds, unsigned int n)
{
	struct vf_vfio *f = of_vf(vf);
	int err = 0;

	if (n > vf->info.nvectors)
		return -EINVAL;
	if (!n)
		return disable_vectors(f);
	if (f->nwired >= n)
		return change_vectors(f, fds, n);
	err = disable_vectors(f);
	return err ? err : enable_vectors(f, fds, n);
}

/* --- doorbells
 * --------------------------------------------------------------------------------
 */

static int set_doorbell(struct vf_vfio *f, const struct vfio_doorbell *b, int fd)
{
	struct vfio_device_ioeventfd io = {
		.argsz = sizeof(io),
		.flags = b->len == 2 ? VFIO_DEVICE_IOEVENTFD_16 : VFIO_DEVICE_IOEVENTFD_32,
		.offset = b->at,
		.data = b->value,
		.fd = fd,
	};
	int err = vf_vfio_ioctl(f, VFIO_DEVICE_IOEVENTFD, &io);

	return err < 0 ? err : 0;
}

static struct vfio_doorbell *find_doorbell(struct vf_vfio *f, const struct vfio_doorbell *like)
{
	for (unsigned int i = 0; i < f->ndoorbells; i++) {
		struct vfio_doorbell *b = &f->doorbells[i];

		if (b->at == like->at && b->len == like->len && b->value == like->value)
			return b;
	}
	return NULL;
}

/* A doorbell that was wired before, for an earlier owner of the queue. */
static int rewire_doorbell(struct vf_vfio *f, struct vfio_doorbell *b, int *fd)
{
	int err;

	if (*fd < 0 || *fd == b->fd) {
		*fd = b->fd;
		return 0;
	}
	err = set_doorbell(f, b, -1);
	if (err)
		return err;
	if (b->ours)
		close(b->fd);
	b->ours = false;
	b->fd = *fd;
	err = set_doorbell(f, b, b->fd);
	if (err)
		*b = f->doorbells[--f->ndoorbells];
	return err;
}

static int new_doorbell(struct vf_vfio *f, struct vfio_doorbell *b, int *fd)
{
	struct vfio_doorbell *all =
		realloc(f->doorbells, (f->ndoorbells + 1) * sizeof(*f->doorbells));
	int err;

	if (!all)
		return -ENOMEM;
	f->doorbells = all;
	b->fd = *fd;
	if (b->fd < 0) {
		b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (b->fd < 0)
			return -errno;
		b->ours = true;
	}
	err = set_doorbell(f, b, b->fd);
	if (err) {
		if (b->ours)
			close(b->fd);
		return err;
	}
	f->doorbells[f->ndoorbells++] = *b;
	*fd = b->fd;
	return 0;
}

/*
 * The kernel writes the register itself, on the thread that signals the
 * eventfd: the vcpu, when KVM signals it for a guest's store. It can do so for
 * memory BARs, outside of the MSI-X table.
 */
int vf_vfio_doorbell_fd(struct vf *vf, unsigned int region, uint64_t off, unsigned int len,
			uint32_t value, int *fd)
{
	struct vf_vfio *f = of_vf(vf);
	struct vfio_doorbell like = { .len = len, .value = value }, *b;
	int err;

	if (region > VFIO_PCI_BAR5_REGION_INDEX || (len != 2 && len != 4) ||
	    !range_within(off, len, 0, vf->info.regions[region].size))
		return -EINVAL;
	like.at = f->offsets[region] + off;
	b = find_doorbell(f, &like);
	err = b ? rewire_doorbell(f, b, fd) : new_doorbell(f, &like, fd);
	/* -EINVAL: not this register; -ENOSPC: enough of them; -ENOTTY: a driver
	 * without any. */
	return err == -EINVAL || err == -ENOSPC || err == -ENOTTY ? -EOPNOTSUPP : err;
}

/* --- error and request events
 * ----------------------------------------------------------------- */

static void link_error(struct vf *vf, const char *why)
{
	vf->hangs = true;
	snprintf(vf->why, sizeof(vf->why), "%s", why);
	__atomic_store_n(&vf->gone, true, __ATOMIC_RELEASE);
	if (vf->lost)
		vf->lost(vf, why);
}

/* The kernel has the request event since 4.0, the error event for functions with PCI Express. */
static int wire_event(struct vf *vf, uint32_t index, int fd, struct diag *d)
{
	int err = set_eventfds(of_vf(vf), index, 0, 1, &fd);

	if (err == -EINVAL || err == -ENOTTY || err >= 0)
		return 0;
	return diag_errno(d, err, "%s: VFIO's events cannot be had", vf->name);
}

const struct vf_events_ops vf_vfio_events = { .wire = wire_event, .error = link_error };

void vf_vfio_irq_close(struct vf_vfio *f)
{
	/* The device file's end takes away all that is wired; only our own are closed here. */
	for (unsigned int i = 0; i < f->ndoorbells; i++)
		if (f->doorbells[i].ours)
			close(f->doorbells[i].fd);
	vf_events_close(f->events);
}
