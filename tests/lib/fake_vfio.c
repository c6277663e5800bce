/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_vfio.c - the kernel's VFIO as a unit test makes it up. Runs on the test's thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/pci_regs.h>

#include "fake_vfio.h"

#define VECTORS	  FAKE_VFIO_VECTORS
#define REGION_AT FAKE_VFIO_REGION_AT
#define REGION	  FAKE_VFIO_BAR_SIZE

struct fake_vfio fake_vfio;

static int answer_iommu(struct vfio_iommu_type1_info *info)
{
	const struct vfio_iova_range ranges[] = { { 0, 0xfedfffff }, { 0xfef00000, 0x7fffffffff } };
	const struct vfio_iommu_type1_info_cap_iova_range cap = {
		.header = { .id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, .version = 1 },
		.nr_iovas = 2,
	};
	const uint32_t had = info->argsz, fixed = sizeof(*info);

	info->argsz = (uint32_t)(fixed + sizeof(cap) + sizeof(ranges));
	info->flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
	info->iova_pgsizes = 0x40201000;
	info->cap_offset = 0;
	if (had < info->argsz)
		return 0;
	info->cap_offset = fixed;
	memcpy((uint8_t *)info + fixed, &cap, sizeof(cap));
	memcpy((uint8_t *)info + fixed + sizeof(cap), ranges, sizeof(ranges));
	return 0;
}

static int answer_region(struct vfio_region_info *info)
{
	if (info->index == VFIO_PCI_VGA_REGION_INDEX)
		return -EINVAL;
	info->offset = (uint64_t)info->index << REGION_AT;
	info->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	if (info->index == VFIO_PCI_CONFIG_REGION_INDEX)
		info->size = 4096;
	if (info->index != FAKE_VFIO_BAR)
		return 0;
	info->size = REGION;
	info->flags |= VFIO_REGION_INFO_FLAG_MMAP;
	return 0;
}

static int take_fd(int *slot, int fd)
{
	if (*slot >= 0)
		close(*slot);
	*slot = fd >= 0 ? dup(fd) : -1;
	return 0;
}

static int answer_irqs(const struct vfio_irq_set *set)
{
	int fds[VECTORS];

	fake_vfio.set_irqs++;
	if (set->flags & VFIO_IRQ_SET_DATA_NONE) {
		for (unsigned int i = 0; i < VECTORS; i++)
			take_fd(&fake_vfio.vectors[i], -1);
		fake_vfio.nvectors = 0;
		return 0;
	}
	if (set->count > VECTORS || set->argsz != sizeof(*set) + set->count * sizeof(int))
		return -EINVAL;
	memcpy(fds, set->data, set->count * sizeof(int));
	switch (set->index) {
	case VFIO_PCI_ERR_IRQ_INDEX:
		return take_fd(&fake_vfio.error_fd, fds[0]);
	case VFIO_PCI_REQ_IRQ_INDEX:
		return take_fd(&fake_vfio.request_fd, fds[0]);
	case VFIO_PCI_MSIX_IRQ_INDEX:
		/* As Linux before 6.5: the number of vectors stays while there are any. */
		if (set->start + set->count > (fake_vfio.nvectors ? fake_vfio.nvectors : VECTORS))
			return -EINVAL;
		if (!fake_vfio.nvectors)
			fake_vfio.nvectors = set->count;
		for (unsigned int i = 0; i < set->count; i++)
			take_fd(&fake_vfio.vectors[set->start + i], fds[i]);
		return 0;
	}
	return -EINVAL;
}

static int answer_feature(struct vfio_device_feature *ft)
{
	struct vfio_device_feature_mig_state *state = (void *)ft->data;
	struct vfio_device_feature_dma_logging_report *report = (void *)ft->data;
	const uint32_t what = ft->flags & VFIO_DEVICE_FEATURE_MASK;

	if (!fake_vfio.migrates)
		return -ENOTTY;
	if (ft->flags & VFIO_DEVICE_FEATURE_PROBE)
		return 0;
	switch (what) {
	case VFIO_DEVICE_FEATURE_MIGRATION:
		*(uint64_t *)(void *)ft->data = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P;
		return 0;
	case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
		if (ft->flags & VFIO_DEVICE_FEATURE_GET) {
			state->device_state = fake_vfio.mig_state;
			return 0;
		}
		fake_vfio.mig_state = state->device_state;
		state->data_fd = -1;
		if (fake_vfio.mig_state == VFIO_DEVICE_STATE_STOP_COPY)
			state->data_fd = dup(fake_vfio.mig_pipe[0]);
		if (fake_vfio.mig_state == VFIO_DEVICE_STATE_RESUMING)
			state->data_fd = dup(fake_vfio.mig_pipe[1]);
		return 0;
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
		if (fake_vfio.logging)
			return -EINVAL;
		fake_vfio.logging = true;
		return 0;
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
		fake_vfio.logging = false;
		return 0;
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
		*(uint64_t *)(uintptr_t)report->bitmap |= report->length >> 12;
		return 0;
	}
	return -ENOTTY;
}

static int device_file(void)
{
	const uint16_t command = PCI_COMMAND_MASTER;
	int fd = memfd_create("device", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, (off_t)VF_REGIONS << REGION_AT), 0);
	assert_int_equal(pwrite(fd, &command, 2,
				(VFIO_PCI_CONFIG_REGION_INDEX << REGION_AT) + PCI_COMMAND),
			 2);
	return fd;
}

static int fake_ioctl(const struct vfio_kernel *k, int fd, unsigned long request, void *arg)
{
	assert_ptr_equal(k, &fake_vfio.k);
	assert_true(fd >= 0);
	if (++fake_vfio.calls == fake_vfio.fail_at || request == fake_vfio.fail_request) {
		fake_vfio.failed = request;
		return fake_vfio.fail_with;
	}
	switch (request) {
	case VFIO_GET_API_VERSION:
		return VFIO_API_VERSION;
	case VFIO_CHECK_EXTENSION:
		return 1;
	case VFIO_GROUP_GET_STATUS:
		((struct vfio_group_status *)arg)->flags =
			fake_vfio.not_viable ? 0 : VFIO_GROUP_FLAGS_VIABLE;
		return 0;
	case VFIO_GROUP_SET_CONTAINER:
		fake_vfio.groups_set++;
		return 0;
	case VFIO_SET_IOMMU:
		return 0;
	case VFIO_IOMMU_GET_INFO:
		return answer_iommu(arg);
	case VFIO_IOMMU_MAP_DMA:
		fake_vfio.maps++;
		return 0;
	case VFIO_IOMMU_UNMAP_DMA:
		fake_vfio.unmaps++;
		return 0;
	case VFIO_GROUP_GET_DEVICE_FD:
		return device_file();
	case VFIO_DEVICE_GET_INFO:
		*(struct vfio_device_info *)arg = (struct vfio_device_info){
			.argsz = sizeof(struct vfio_device_info),
			.flags = VFIO_DEVICE_FLAGS_PCI |
				 (fake_vfio.can_reset ? VFIO_DEVICE_FLAGS_RESET : 0),
			.num_regions = VFIO_PCI_NUM_REGIONS,
			.num_irqs = VFIO_PCI_NUM_IRQS,
		};
		return 0;
	case VFIO_DEVICE_GET_REGION_INFO:
		return answer_region(arg);
	case VFIO_DEVICE_GET_IRQ_INFO:
		((struct vfio_irq_info *)arg)->flags = VFIO_IRQ_INFO_EVENTFD;
		((struct vfio_irq_info *)arg)->count = VECTORS;
		return 0;
	case VFIO_DEVICE_SET_IRQS:
		return answer_irqs(arg);
	case VFIO_DEVICE_RESET:
		fake_vfio.resets++;
		return 0;
	case VFIO_DEVICE_IOEVENTFD:
		fake_vfio.doorbells += ((struct vfio_device_ioeventfd *)arg)->fd >= 0 ? 1 : -1u;
		fake_vfio.doorbell_at = ((struct vfio_device_ioeventfd *)arg)->offset;
		fake_vfio.doorbell_value = ((struct vfio_device_ioeventfd *)arg)->data;
		return 0;
	case VFIO_DEVICE_FEATURE:
		return answer_feature(arg);
	}
	return -ENOTTY;
}

void fake_vfio_shell(const char *command)
{
	char line[1024];

	snprintf(line, sizeof(line), "cd %s && %s", fake_vfio.root, command);
	assert_int_equal(system(line), 0);
}

int fake_vfio_start(void)
{
	fake_vfio = (struct fake_vfio){ .k = { .root = fake_vfio.root, .ioctl = fake_ioctl },
					.root = "/tmp/unvmm-vfio-XXXXXX",
					.error_fd = -1,
					.request_fd = -1 };
	for (int i = 0; i < VECTORS; i++)
		fake_vfio.vectors[i] = -1;
	if (!mkdtemp(fake_vfio.root) || pipe(fake_vfio.mig_pipe))
		return -1;
	fake_vfio_shell("mkdir -p dev/vfio && touch dev/vfio/vfio dev/vfio/7 dev/vfio/8");
	fake_vfio_shell(
		"for f in 03:00.2 03:00.3 04:00.0; do mkdir -p sys/bus/pci/devices/0000:$f; "
		"ln -s x/vfio-pci sys/bus/pci/devices/0000:$f/driver; done");
	fake_vfio_shell("for f in 03:00.2 03:00.3; do "
			"ln -s x/7 sys/bus/pci/devices/0000:$f/iommu_group; done");
	fake_vfio_shell("ln -s x/8 sys/bus/pci/devices/0000:04:00.0/iommu_group");
	return 0;
}

void fake_vfio_drop_events(void)
{
	for (int i = 0; i < VECTORS; i++)
		take_fd(&fake_vfio.vectors[i], -1);
	take_fd(&fake_vfio.error_fd, -1);
	take_fd(&fake_vfio.request_fd, -1);
}

int fake_vfio_end(void)
{
	fake_vfio_drop_events();
	close(fake_vfio.mig_pipe[0]);
	close(fake_vfio.mig_pipe[1]);
	fake_vfio_shell("rm -r dev sys");
	return rmdir(fake_vfio.root);
}
