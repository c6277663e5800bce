/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_vf_user.c - a vfio-user server that may say anything, against the client: all of its
 * messages lie in the socket before the client asks for the first, and then its end closes.
 *
 * Input: which message a memfd comes with, which an eventfd, whether the client looks at the socket
 * between two calls (bit 0) and whether it reads guest memory that is a mapping or nothing (bit 1);
 * then the messages, cut where their headers say.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vf_user.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX 65536 /* what a socket takes without anybody reading */
#define RAM_IOVA  0x10000
#define RAM_SIZE  0x2000

static void check(bool promise)
{
	if (!promise)
		abort();
}

static void send_message(int sock, const uint8_t *data, size_t len, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { (void *)(uintptr_t)data, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c;

	if (fd >= 0) {
		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	check(sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len);
}

/* All that the server will ever say. */
static void speak(int sock, const uint8_t *control, const uint8_t *data, size_t size)
{
	int file = memfd_create("fuzz", MFD_CLOEXEC), event = eventfd(0, EFD_CLOEXEC);
	struct vfio_user_header h;

	check(file >= 0 && event >= 0 && !ftruncate(file, 0x4000));
	for (unsigned int i = 0; size; i++) {
		size_t len = size;

		if (size >= sizeof(h)) {
			memcpy(&h, data, sizeof(h));
			if (h.size && h.size < size)
				len = h.size;
		}
		send_message(sock, data, len,
			     i == control[0]   ? file
			     : i == control[1] ? event
					       : -1);
		data += len;
		size -= len;
	}
	shutdown(sock, SHUT_WR);
	close(file);
	close(event);
}

static void map_areas(struct vf *vf)
{
	for (unsigned int r = 0; r < VF_REGIONS; r++)
		for (unsigned int i = 0; i < vf->info.regions[r].nareas; i++) {
			const struct vf_area *a = &vf->info.regions[r].areas[i];
			void *at;

			check(range_within(a->offset, a->size, 0, vf->info.regions[r].size));
			if (!vf->ops->region_mmap(vf, r, a->offset, a->size, &at))
				munmap(at, a->size);
		}
}

static void registers_and_events(struct vf *vf)
{
	const int none[3] = { -1, -1, -1 };
	uint8_t buf[64];
	int fd = -1;

	(void)vf->ops->region_read(vf, VFIO_PCI_CONFIG_REGION_INDEX, 0, buf, sizeof(buf));
	(void)vf->ops->region_write(vf, 0, 0, buf, 4);
	(void)vf->ops->irq_set(vf, none, vf->info.nvectors < 3 ? vf->info.nvectors : 3);
	if (!vf->ops->doorbell_fd(vf, 0, 0x2000, 2, 0, &fd))
		check(fcntl(fd, F_GETFD) >= 0);
	else
		check(fd == -1);
}

static void migrate(struct vf *vf)
{
	struct vf_range range = { RAM_IOVA, RAM_SIZE };
	uint64_t bits[1] = { 0 };
	uint8_t buf[256];
	uint32_t state;
	size_t len = 0;

	(void)vf->ops->mig_state_get(vf, &state);
	(void)vf->ops->mig_state(vf, VFIO_DEVICE_STATE_STOP_COPY);
	if (!vf->ops->mig_read(vf, buf, sizeof(buf), &len))
		check(len <= sizeof(buf));
	(void)vf->ops->mig_write(vf, buf, len);
	if (!vf->ops->log_start(vf, &range, 1))
		(void)vf->ops->log_report(vf, RAM_IOVA, RAM_SIZE, bits);
	(void)vf->ops->log_stop(vf);
	check(!(bits[0] & ~3ull));
}

/* ram is as long as the mapping, so that the address sanitizer sees what goes beyond. */
static void use(struct vf *vf, const uint8_t *control, uint8_t *ram)
{
	(void)vf->ops->dma_map(vf, RAM_IOVA, RAM_SIZE, ram, -1, 0, NULL);
	if (control[2] & 1)
		vf_user_idle(vf_user_of(vf));
	if (control[2] & 2)
		(void)vf->ops->dma_unmap(vf, RAM_IOVA, RAM_SIZE);
	registers_and_events(vf);
	map_areas(vf);
	migrate(vf);
	(void)vf->ops->reset(vf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int pair[2], first = dup(0), last;
	struct diag d = { "" };
	uint8_t *ram;
	struct vf *vf;

	close(first);
	if (size < 3 || size > INPUT_MAX)
		return 0;
	ram = aligned_alloc(PAGE_SIZE_4K, RAM_SIZE);
	check(ram && !socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	memset(ram, 0, RAM_SIZE);
	speak(pair[1], data, data + 3, size - 3);
	if (vf_user_attach(NULL, pair[0], "fuzz", &vf, &d)) {
		check(d.text[0]);
	} else {
		use(vf, data, ram);
		vf->ops->close(vf);
	}
	close(pair[1]);
	free(ram);
	/* Nothing is left open. */
	last = dup(0);
	check(last == first);
	close(last);
	return 0;
}
