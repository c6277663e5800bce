/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_vfio.c - functions that the kernel's VFIO assigns (linux/vfio.h;
 * Documentation/driver-api/ vfio.rst): opening one, its regions, its memory,
 * its end. Opened and closed by main; the rest is called by the vf thread.
 */
#include "vf_vfio.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <unvmm/log.h>
#include <unvmm/vm.h>

int vf_vfio_ioctl(struct vf_vfio *f, unsigned long request, void *arg)
{
	if (vf_gone(&f->vf))
		return -ENODEV;
	return f->kernel->ioctl(f->kernel, f->fd, request, arg);
}

/* --- regions
 * ----------------------------------------------------------------------------------
 */

static int check_access(const struct vf_vfio *f, unsigned int region, uint64_t off,
			unsigned int len)
{
	if (vf_gone(&f->vf))
		return -ENODEV;
	if (region >= VF_REGIONS || !len || len > 4096 ||
	    !range_within(off, len, 0, f->vf.info.regions[region].size))
		return -EINVAL;
	return 0;
}

/*
 * The kernel makes one access of an aligned 1, 2 or 4 bytes. Of 8 it makes two
 * of 4 before Linux 6.10, which virtio allows for its 64-bit fields
 * (virtio 1.2, 4.1.3.1).
 */
static int vf_vfio_region_read(struct vf *vf, unsigned int region, uint64_t off, void *buf,
			       unsigned int len)
{
	struct vf_vfio *f = of_vf(vf);
	int err = check_access(f, region, off, len);
	ssize_t n;

	if (err)
		return err;
	n = pread(f->fd, buf, len, (off_t)(f->offsets[region] + off));
	if (n < 0)
		return -errno;
	return n == (ssize_t)len ? 0 : -EIO;
}

static int vf_vfio_region_write(struct vf *vf, unsigned int region, uint64_t off, const void *buf,
				unsigned int len)
{
	struct vf_vfio *f = of_vf(vf);
	int err = check_access(f, region, off, len);
	ssize_t n;

	if (err)
		return err;
	n = pwrite(f->fd, buf, len, (off_t)(f->offsets[region] + off));
	if (n < 0)
		return -errno;
	return n == (ssize_t)len ? 0 : -EIO;
}

static int vf_vfio_region_mmap(struct vf *vf, unsigned int region, uint64_t off, uint64_t len,
			       void **at)
{
	struct vf_vfio *f = of_vf(vf);
	const struct vf_region *r;
	void *p;

	if (vf_gone(&f->vf))
		return -ENODEV;
	if (region >= VF_REGIONS || !len || (off | len) % PAGE_SIZE_4K)
		return -EINVAL;
	r = &vf->info.regions[region];
	for (unsigned int i = 0; i < r->nareas; i++) {
		if (!range_within(off, len, r->areas[i].offset, r->areas[i].size))
			continue;
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd,
			 (off_t)(f->offsets[region] + off));
		if (p == MAP_FAILED)
			return -errno;
		*at = p;
		return 0;
	}
	return -EINVAL;
}

/* --- memory and reset
 * ------------------------------------------------------------------------- */

/* The mapping is by address: fd and offset are for backends in another process.
 */
static int vf_vfio_dma_map(struct vf *vf, uint64_t iova, uint64_t size, void *hva, int fd,
			   uint64_t offset, struct diag *d)
{
	struct vf_vfio *f = of_vf(vf);

	(void)fd;
	(void)offset;
	if (vf_gone(&f->vf))
		return diag_set(d, -ENODEV, "%s is gone", vf->name);
	return vfio_map(f->container, f->slot, vf->name, iova, size, hva, d);
}

/* Also when the function is lost: the memory has to be given back. */
static int vf_vfio_dma_unmap(struct vf *vf, uint64_t iova, uint64_t size)
{
	struct vf_vfio *f = of_vf(vf);

	return vfio_unmap(f->container, f->slot, iova, size);
}

static int vf_vfio_reset(struct vf *vf)
{
	struct vf_vfio *f = of_vf(vf);
	int err;

	if (!vf->info.can_reset)
		return -EOPNOTSUPP;
	err = vf_vfio_ioctl(f, VFIO_DEVICE_RESET, NULL);
	return err < 0 ? err : 0;
}

/* Memory decoding on (off: VFIO refuses the BARs), bus mastering off: no DMA,
 * no MSI-X. */
static int quieten(struct vf_vfio *f)
{
	uint16_t command;
	int err = vf_vfio_region_read(&f->vf, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, &command,
				      sizeof(command));

	if (err)
		return err;
	command |= PCI_COMMAND_MEMORY;
	command &= (uint16_t)~PCI_COMMAND_MASTER;
	return vf_vfio_region_write(&f->vf, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, &command,
				    sizeof(command));
}

/* --- opening
 * ----------------------------------------------------------------------------------
 */

static int read_region(struct vf_vfio *f, uint32_t index)
{
	const struct vfio_region_info question = { .argsz = sizeof(question), .index = index };
	void *info;
	size_t len;
	int err = vfio_get_info(f->kernel, f->fd, VFIO_DEVICE_GET_REGION_INFO, &question,
				sizeof(question), &info, &len);

	if (err)
		return err;
	err = vfio_parse_region(info, len, &f->vf.info.regions[index], &f->offsets[index]);
	free(info);
	return err;
}

static int read_regions(struct vf_vfio *f, uint32_t count, struct diag *d)
{
	for (uint32_t i = 0; i < count && i < VF_REGIONS; i++) {
		int err = read_region(f, i);

		/* Asking for the VGA region of what is no graphics card is an error to the
		 * kernel.
		 */
		if (err == -EINVAL && i == VFIO_PCI_VGA_REGION_INDEX)
			continue;
		if (err)
			return diag_errno(d, err, "%s: VFIO does not describe its region %u",
					  f->vf.name, i);
	}
	if (f->vf.info.regions[VFIO_PCI_CONFIG_REGION_INDEX].size < PCI_STD_HEADER_SIZEOF)
		return diag_set(d, -EPROTO, "%s: VFIO shows no PCI configuration space of it",
				f->vf.name);
	return 0;
}

static int read_vectors(struct vf_vfio *f, struct diag *d)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = VFIO_PCI_MSIX_IRQ_INDEX };
	int err = vf_vfio_ioctl(f, VFIO_DEVICE_GET_IRQ_INFO, &info);

	if (err < 0)
		return diag_errno(d, err, "%s: VFIO does not tell its interrupts", f->vf.name);
	if (info.count > VF_VECTORS_MAX)
		return diag_set(d, -EPROTO,
				"%s: VFIO tells of %u MSI-X vectors; PCI has %d at most",
				f->vf.name, info.count, VF_VECTORS_MAX);
	f->vf.info.nvectors = info.flags & VFIO_IRQ_INFO_EVENTFD ? info.count : 0;
	f->irq_fds = calloc(info.count ? info.count : 1, sizeof(*f->irq_fds));
	return f->irq_fds ? 0 : diag_set(d, -ENOMEM, "%s: out of memory", f->vf.name);
}

/* The kernel resets a function, if it can, each time that its device file is
 * opened. */
static int open_device(struct vf_vfio *f, struct diag *d)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	int err = f->kernel->ioctl(f->kernel, f->group->fd, VFIO_GROUP_GET_DEVICE_FD, f->vf.name);

	if (err < 0)
		return diag_errno(d, err,
				  "%s: VFIO does not open it (is its driver vfio-pci, and its "
				  "physical function's not?)",
				  f->vf.name);
	f->fd = err;
	err = vf_vfio_ioctl(f, VFIO_DEVICE_GET_INFO, &info);
	if (err < 0)
		return diag_errno(d, err, "%s: VFIO does not describe it", f->vf.name);
	if (!(info.flags & VFIO_DEVICE_FLAGS_PCI) ||
	    info.num_regions <= VFIO_PCI_CONFIG_REGION_INDEX ||
	    info.num_irqs <= VFIO_PCI_MSIX_IRQ_INDEX)
		return diag_set(d, -ENOTSUP, "%s is no PCI function to VFIO (flags 0x%x)",
				f->vf.name, info.flags);
	f->vf.info.can_reset = info.flags & VFIO_DEVICE_FLAGS_RESET;
	err = read_regions(f, info.num_regions, d);
	return err ? err : read_vectors(f, d);
}

static void read_iommu(struct vf_vfio *f)
{
	struct vf_info *info = &f->vf.info;
	struct vfio *v = f->container;

	info->coherent = v->coherent;
	info->niova = v->iommu.niova;
	memcpy(info->iova, v->iommu.iova, sizeof(info->iova));
}

static void vf_vfio_close(struct vf *vf)
{
	struct vf_vfio *f = of_vf(vf);

	if (f->fd >= 0) {
		/* It stops at the bus first; then nothing is under way in what is unmapped.
		 */
		if (f->events && !vf_gone(&f->vf) && quieten(f))
			log_warn("%s: its bus mastering cannot be switched off", vf->name);
		vf_vfio_irq_close(f);
		if (f->mig_fd >= 0)
			close(f->mig_fd);
		close(f->fd);
	}
	if (f->container)
		vfio_leave(f->container, f->group, f->slot);
	free(f->doorbells);
	free(f->irq_fds);
	free(f);
}

static const struct vf_ops vf_vfio_ops = {
	.kind = "vfio",
	.region_read = vf_vfio_region_read,
	.region_write = vf_vfio_region_write,
	.region_mmap = vf_vfio_region_mmap,
	.doorbell_fd = vf_vfio_doorbell_fd,
	.irq_set = vf_vfio_irq_set,
	.dma_map = vf_vfio_dma_map,
	.dma_unmap = vf_vfio_dma_unmap,
	.reset = vf_vfio_reset,
	.mig_caps = vf_vfio_mig_caps,
	.mig_state = vf_vfio_mig_state,
	.mig_state_get = vf_vfio_mig_state_get,
	.mig_read = vf_vfio_mig_read,
	.mig_write = vf_vfio_mig_write,
	.log_start = vf_vfio_log_start,
	.log_stop = vf_vfio_log_stop,
	.log_report = vf_vfio_log_report,
	.close = vf_vfio_close,
};

int vf_vfio_open_on(const struct vfio_kernel *kernel, struct vm *vm, struct loop *loop,
		    const char *pci_address, struct vf **vf, struct diag *d)
{
	char address[PCI_ADDRESS_LEN];
	struct vf_vfio *f;
	int err = vfio_parse_address(pci_address, address, d);

	if (err)
		return err;
	f = calloc(1, sizeof(*f));
	if (!f)
		return diag_set(d, -ENOMEM, "%s: out of memory", address);
	*f = (struct vf_vfio){
		.vf = { .ops = &vf_vfio_ops }, .kernel = kernel, .fd = -1, .mig_fd = -1
	};
	snprintf(f->vf.name, sizeof(f->vf.name), "%s", address);
	err = vfio_join(vm, kernel, address, &f->container, &f->group, &f->slot, d);
	if (!err)
		err = open_device(f, d);
	if (!err) {
		read_iommu(f);
		err = quieten(f);
		if (err)
			diag_errno(d, err, "%s: its PCI command register cannot be set", address);
	}
	if (!err)
		err = vf_events_open(&f->events, &f->vf, loop, &vf_vfio_events, d);
	if (err) {
		vf_vfio_close(&f->vf);
		return err;
	}
	*vf = &f->vf;
	return 0;
}

int vf_vfio_open(struct vm *vm, struct loop *loop, const char *pci_address, struct vf **vf,
		 struct diag *d)
{
	return vf_vfio_open_on(&vfio_real_kernel, vm, loop, pci_address, vf, d);
}
