/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_vfio_mig.c - VFIO's migration protocol v2 and DMA log, where the
 * function's driver has them (VFIO_DEVICE_FEATURE in linux/vfio.h). Runs on the
 * vf thread.
 */
#include "vf_vfio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The log's ranges: as many as the kernel promises to take, what fits one page.
 */
#define LOG_RANGES_MAX (PAGE_SIZE_4K / sizeof(struct vfio_device_feature_dma_logging_range))

/* struct vfio_device_feature with the data of those features that are used
 * here. */
struct feature {
	uint32_t argsz, flags;
	union {
		struct vfio_device_feature_migration migration;
		struct vfio_device_feature_mig_state state;
		struct vfio_device_feature_dma_logging_control control;
		struct vfio_device_feature_dma_logging_report report;
	} data;
};

_Static_assert(offsetof(struct feature, data) == sizeof(struct vfio_device_feature),
	       "a feature's data follows its header");

static int do_feature(struct vf_vfio *f, struct feature *ft, uint32_t flags, size_t data)
{
	int err;

	ft->argsz = (uint32_t)(offsetof(struct feature, data) + data);
	ft->flags = flags;
	err = vf_vfio_ioctl(f, VFIO_DEVICE_FEATURE, ft);
	return err == -ENOTTY ? -EOPNOTSUPP : err < 0 ? err : 0;
}

int vf_vfio_mig_caps(struct vf *vf, struct vf_mig_caps *caps)
{
	struct vf_vfio *f = of_vf(vf);
	struct feature ft = { 0 };
	int err = do_feature(f, &ft, VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET,
			     sizeof(ft.data.migration));

	*caps = (struct vf_mig_caps){ 0 };
	if (!err)
		caps->flags = ft.data.migration.flags;
	else if (err != -EOPNOTSUPP)
		return err;
	err = do_feature(f, &ft,
			 VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET |
				 VFIO_DEVICE_FEATURE_PROBE,
			 0);
	caps->dma_log = !err;
	return err == -EOPNOTSUPP ? 0 : err;
}

static void end_data(struct vf_vfio *f)
{
	if (f->mig_fd >= 0)
		close(f->mig_fd);
	f->mig_fd = -1;
}

/* Some steps on the way open a transfer, and every other step ends the one
 * before. */
int vf_vfio_mig_state(struct vf *vf, uint32_t state)
{
	struct vf_vfio *f = of_vf(vf);
	struct feature ft = { .data.state = { .device_state = state, .data_fd = -1 } };
	uint32_t now;
	int err = do_feature(f, &ft, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET,
			     sizeof(ft.data.state));

	if (!err && ft.data.state.data_fd >= 0) {
		end_data(f);
		f->mig_fd = ft.data.state.data_fd;
	} else if (!err && !vf_vfio_mig_state_get(vf, &now) &&
		   (now == VFIO_DEVICE_STATE_RUNNING || now == VFIO_DEVICE_STATE_STOP)) {
		end_data(f);
	}
	return err;
}

int vf_vfio_mig_state_get(struct vf *vf, uint32_t *state)
{
	struct feature ft = { 0 };
	int err = do_feature(of_vf(vf), &ft,
			     VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_GET,
			     sizeof(ft.data.state));

	if (!err)
		*state = ft.data.state.device_state;
	return err;
}

int vf_vfio_mig_read(struct vf *vf, void *buf, size_t cap, size_t *len)
{
	struct vf_vfio *f = of_vf(vf);
	ssize_t n;

	if (f->mig_fd < 0)
		return -EINVAL;
	n = read(f->mig_fd, buf, cap);
	/* ENOMSG: in PRE_COPY there is nothing now, but the end has not come. */
	if (n < 0 && errno != ENOMSG)
		return -errno;
	*len = n < 0 ? 0 : (size_t)n;
	return 0;
}

int vf_vfio_mig_write(struct vf *vf, const void *buf, size_t len)
{
	struct vf_vfio *f = of_vf(vf);
	const char *p = buf;

	if (f->mig_fd < 0)
		return -EINVAL;
	while (len) {
		ssize_t n = write(f->mig_fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

/* --- the DMA log
 * ------------------------------------------------------------------------------
 */

int vf_vfio_log_start(struct vf *vf, const struct vf_range *ranges, unsigned int n)
{
	struct vfio_device_feature_dma_logging_range list[LOG_RANGES_MAX];
	struct vf_vfio *f = of_vf(vf);
	struct feature ft = { .data.control = { .page_size = PAGE_SIZE_4K,
						.num_ranges = n,
						.ranges = (uintptr_t)list } };
	int err;

	if (f->logging)
		return 0;
	if (!n || n > LOG_RANGES_MAX)
		return -EINVAL;
	for (unsigned int i = 0; i < n; i++)
		list[i] =
			(struct vfio_device_feature_dma_logging_range){ .iova = ranges[i].iova,
									.length = ranges[i].size };
	err = do_feature(f, &ft, VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET,
			 sizeof(ft.data.control));
	f->logging = !err;
	return err;
}

int vf_vfio_log_stop(struct vf *vf)
{
	struct vf_vfio *f = of_vf(vf);
	struct feature ft = { 0 };

	if (!f->logging)
		return 0;
	f->logging = false;
	return do_feature(f, &ft, VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET,
			  0);
}

int vf_vfio_log_report(struct vf *vf, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	struct vf_vfio *f = of_vf(vf);
	struct feature ft = { .data.report = { .iova = iova,
					       .length = size,
					       .page_size = PAGE_SIZE_4K,
					       .bitmap = (uintptr_t)bitmap } };

	if (!f->logging)
		return -EINVAL;
	return do_feature(f, &ft, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET,
			  sizeof(ft.data.report));
}
