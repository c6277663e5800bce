/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf-io.c - one function on the kernel's VFIO backend, without a guest: opens it, holds it to what
 * vf.h promises, then is its driver: a block function writes and reads a sector, a net function
 * sends a frame, with each way to ring a doorbell, and MSI-X interrupts are waited for. That proves
 * DMA and interrupts of the host under test. Usage: vf-io ADDRESS   Exit status: 0, or 1 with a
 * line that says what was wrong. One thread, and the loop's.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <unvmm/kvm.h>
#include <unvmm/vf.h>
#include <unvmm/vm.h>

#define CONFIG	 VFIO_PCI_CONFIG_REGION_INDEX
#define IOVA	 0x100000
#define MEM	 0x10000
#define RING	 8 /* entries */
#define WAIT_MS	 5000
#define SECTOR	 512
#define PATTERN	 0xa5
#define FRAME	 60
#define MSI_ADDR 0xfee00000 /* x86: writes here are interrupts, never memory */

#define wants(cond)                                                               \
	do {                                                                      \
		if (!(cond)) {                                                    \
			printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #cond); \
			exit(1);                                                  \
		}                                                                 \
	} while (0)

struct cap {
	bool there;
	uint8_t bar;
	uint32_t offset, length;
};

static struct vf *vf;
static struct cap caps[VIRTIO_PCI_CAP_PCI_CFG + 1];
static uint32_t multiplier;

/* In the function's sight at IOVA. */
static struct shared {
	struct vring_desc desc[RING];
	struct {
		uint16_t flags, idx, ring[RING], used_event;
	} avail;
	struct {
		uint16_t flags, idx;
		struct vring_used_elem ring[RING];
	} used __attribute__((aligned(8)));
	struct virtio_blk_outhdr header;
	uint8_t status;
	uint8_t data[SECTOR];
} * mem;

static uint64_t get(unsigned int region, uint64_t off, unsigned int len)
{
	uint64_t v = 0;

	wants(!vf->ops->region_read(vf, region, off, &v, len));
	return v;
}

static void set(unsigned int region, uint64_t off, unsigned int len, uint64_t v)
{
	wants(!vf->ops->region_write(vf, region, off, &v, len));
}

#define common(field)                                                  \
	caps[VIRTIO_PCI_CAP_COMMON_CFG].bar,                           \
		caps[VIRTIO_PCI_CAP_COMMON_CFG].offset +               \
			offsetof(struct virtio_pci_common_cfg, field), \
		sizeof(((struct virtio_pci_common_cfg *)NULL)->field)

static void find_caps(void)
{
	unsigned int at = (unsigned int)get(CONFIG, PCI_CAPABILITY_LIST, 1);

	for (int i = 0; at && i < 48; i++, at = (unsigned int)get(CONFIG, at + 1, 1)) {
		unsigned int type = (unsigned int)get(CONFIG, at + 3, 1);

		if (get(CONFIG, at, 1) != PCI_CAP_ID_VNDR || type > VIRTIO_PCI_CAP_PCI_CFG)
			continue;
		caps[type] = (struct cap){ .there = true,
					   .bar = (uint8_t)get(CONFIG, at + 4, 1),
					   .offset = (uint32_t)get(CONFIG, at + 8, 4),
					   .length = (uint32_t)get(CONFIG, at + 12, 4) };
		if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
			multiplier = (uint32_t)get(CONFIG, at + 16, 4);
	}
	wants(caps[VIRTIO_PCI_CAP_COMMON_CFG].there && caps[VIRTIO_PCI_CAP_NOTIFY_CFG].there);
}

/* What vf.h promises of any function, before it is used. */
static void keeps_its_promises(void)
{
	const struct vf_info *info = &vf->info;
	const unsigned int bar = caps[VIRTIO_PCI_CAP_COMMON_CFG].bar;
	struct vf_mig_caps mig;
	struct vf_range range = { .iova = IOVA, .size = MEM };
	const uint16_t command = (uint16_t)get(CONFIG, PCI_COMMAND, 2);
	int fds[VF_VECTORS_MAX] = { 0 };
	uint32_t v;
	void *p;

	wants(command & PCI_COMMAND_MEMORY && !(command & PCI_COMMAND_MASTER));
	wants(info->nvectors >= 2 && info->niova && info->regions[bar].nareas);
	wants(vf->ops->region_read(vf, bar, info->regions[bar].size, &v, 4) == -EINVAL);
	wants(vf->ops->region_read(vf, bar, info->regions[bar].size - 2, &v, 4) == -EINVAL);
	wants(vf->ops->region_write(vf, VF_REGIONS, 0, &v, 4) == -EINVAL);
	wants(vf->ops->region_mmap(vf, bar, info->regions[bar].size, 4096, &p) == -EINVAL);
	wants(vf->ops->region_mmap(vf, CONFIG, 0, 4096, &p) == -EINVAL);
	wants(vf->ops->irq_set(vf, fds, info->nvectors + 1) == -EINVAL);
	wants(vf->ops->dma_unmap(vf, IOVA + MEM, MEM) == -ENOENT);
	wants(vf->ops->dma_map(vf, MSI_ADDR, 4096, mem, -1, 0, NULL) == -EINVAL);
	wants(vf->ops->dma_map(vf, IOVA + 1, 4096, mem, -1, 0, NULL) == -EINVAL);
	wants(vf->ops->dma_map(vf, IOVA, MEM, mem, -1, 0, NULL) == -EEXIST);
	wants(vf->ops->dma_map(vf, IOVA + 4096, 4096, mem, -1, 0, NULL) == -EEXIST);
	wants(vf->ops->dma_unmap(vf, IOVA, 4096) == -ENOENT);
	wants(vf->ops->reset(vf) == (info->can_reset ? 0 : -EOPNOTSUPP));
	wants(!vf->ops->mig_caps(vf, &mig));
	if (!mig.flags)
		wants(vf->ops->mig_state(vf, VFIO_DEVICE_STATE_STOP) == -EOPNOTSUPP);
	if (!mig.dma_log)
		wants(vf->ops->log_start(vf, &range, 1) == -EOPNOTSUPP);
	wants(!vf->ops->log_stop(vf));
}

static void negotiate(uint16_t queue)
{
	uint64_t features;

	set(common(device_status), 0);
	while (get(common(device_status)))
		;
	set(common(device_status), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	set(common(device_feature_select), 1);
	features = get(common(device_feature)) << 32;
	wants(features & 1ULL << VIRTIO_F_VERSION_1);
	wants(features & 1ULL << VIRTIO_F_ACCESS_PLATFORM);
	set(common(guest_feature_select), 1);
	set(common(guest_feature),
	    (1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_F_ACCESS_PLATFORM) >> 32);
	set(common(guest_feature_select), 0);
	set(common(guest_feature), 0);
	set(common(device_status),
	    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
	wants(get(common(device_status)) & VIRTIO_CONFIG_S_FEATURES_OK);
	set(common(msix_config), 0);
	set(common(queue_select), queue);
	set(common(queue_size), RING);
	set(common(queue_msix_vector), 1);
	wants(get(common(queue_msix_vector)) == 1);
	set(common(queue_desc_lo), IOVA + offsetof(struct shared, desc));
	set(common(queue_desc_hi), 0);
	set(common(queue_avail_lo), IOVA + offsetof(struct shared, avail));
	set(common(queue_avail_hi), 0);
	set(common(queue_used_lo), IOVA + offsetof(struct shared, used));
	set(common(queue_used_hi), 0);
	set(common(queue_enable), 1);
	set(CONFIG, PCI_COMMAND, 2, get(CONFIG, PCI_COMMAND, 2) | PCI_COMMAND_MASTER);
	set(common(device_status), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
					   VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

static uint64_t iova_of(const void *p)
{
	return IOVA + (uint64_t)((const char *)p - (const char *)mem);
}

/* The ways to ring: 0 a trapped write, 1 a store to the mapped page, 2 an eventfd of the kernel. */
static void ring_doorbell(unsigned int way, uint64_t at, uint16_t queue)
{
	const unsigned int bar = caps[VIRTIO_PCI_CAP_NOTIFY_CFG].bar;
	const uint64_t page = align_down(at, (uint64_t)4096);
	const uint64_t one = 1;
	int fd = -1, again = -1;
	void *p;

	switch (way) {
	case 0:
		set(bar, at, 2, queue);
		break;
	case 1:
		wants(!vf->ops->region_mmap(vf, bar, page, 4096, &p));
		*(volatile uint16_t *)((char *)p + (at - page)) = queue;
		wants(!munmap(p, 4096));
		break;
	case 2:
		wants(!vf->ops->doorbell_fd(vf, bar, at, 2, queue, &fd) && fd >= 0);
		wants(!vf->ops->doorbell_fd(vf, bar, at, 2, queue, &again) && again == fd);
		wants(write(fd, &one, sizeof(one)) == sizeof(one));
		break;
	}
}

/* One chain through the ring, with an interrupt at its end. */
static void do_chain(unsigned int way, uint16_t queue, uint64_t doorbell, int irq)
{
	struct pollfd p = { .fd = irq, .events = POLLIN };
	const uint16_t was = __atomic_load_n(&mem->used.idx, __ATOMIC_ACQUIRE);
	uint64_t n;

	mem->avail.ring[mem->avail.idx % RING] = 0;
	__atomic_store_n(&mem->avail.idx, mem->avail.idx + 1, __ATOMIC_RELEASE);
	ring_doorbell(way, doorbell, queue);
	if (poll(&p, 1, WAIT_MS) != 1) {
		printf("no interrupt within %d ms (way %u, used index %u -> %u)\n", WAIT_MS, way,
		       was, mem->used.idx);
		exit(1);
	}
	wants(read(irq, &n, sizeof(n)) == sizeof(n));
	wants(__atomic_load_n(&mem->used.idx, __ATOMIC_ACQUIRE) == (uint16_t)(was + 1));
}

static void do_block(unsigned int way, uint64_t doorbell, int irq)
{
	for (uint32_t type = VIRTIO_BLK_T_OUT + 1; type-- > 0;) { /* write, then read */
		mem->header = (struct virtio_blk_outhdr){ .type = type, .sector = 8 + way };
		memset(mem->data, type ? PATTERN + (int)way : 0, SECTOR);
		mem->status = 0xff;
		mem->desc[0] = (struct vring_desc){ iova_of(&mem->header), sizeof(mem->header),
						    VRING_DESC_F_NEXT, 1 };
		mem->desc[1] = (struct vring_desc){
			iova_of(mem->data), SECTOR,
			(uint16_t)(VRING_DESC_F_NEXT | (type ? 0 : VRING_DESC_F_WRITE)), 2
		};
		mem->desc[2] =
			(struct vring_desc){ iova_of(&mem->status), 1, VRING_DESC_F_WRITE, 0 };
		do_chain(way, 0, doorbell, irq);
		wants(mem->status == VIRTIO_BLK_S_OK);
	}
	for (unsigned int i = 0; i < SECTOR; i++)
		wants(mem->data[i] == (uint8_t)(PATTERN + way));
}

/* A broadcast frame of an experimental EtherType, behind a virtio_net_hdr of zeroes. */
static void do_net(unsigned int way, uint64_t doorbell, int irq)
{
	memset(mem->data, 0, 12 + FRAME);
	memset(mem->data + 12, 0xff, 6);
	mem->data[12 + 12] = 0x88;
	mem->data[12 + 13] = 0xb5;
	mem->desc[0] = (struct vring_desc){ iova_of(mem->data), 12 + FRAME, 0, 0 };
	do_chain(way, 1, doorbell, irq);
}

static void do_io(bool net, int irq)
{
	const struct cap *notify = &caps[VIRTIO_PCI_CAP_NOTIFY_CFG];
	const uint16_t queue = net ? 1 : 0;

	for (unsigned int way = 0; way < 3; way++) {
		uint64_t doorbell;

		memset(mem, 0, sizeof(*mem));
		negotiate(queue);
		doorbell = notify->offset + get(common(queue_notify_off)) * multiplier;
		for (int i = 0; i < 3; i++)
			(net ? do_net : do_block)(way, doorbell, irq);
		set(common(device_status), 0);
	}
}

int main(int argc, char **argv)
{
	const struct vm_config config = { .name = (char *)"vf-io" };
	struct diag d = { 0 };
	struct io_thread io = { 0 };
	struct timespec t0, t1;
	struct vm vm;
	int fds[VF_VECTORS_MAX], err;
	bool net;

	if (argc != 2)
		return 2;
	if (vm_init(&vm, &config, &d) || kvm_open(&vm.kvm, NULL, &d) ||
	    io_thread_start(&io, "vf-io", &d)) {
		puts(d.text);
		return 1;
	}
	mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	wants(mem != MAP_FAILED);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	err = vf_vfio_open(&vm, &io.loop, argv[1], &vf, &d);
	if (!err)
		err = vf->ops->dma_map(vf, IOVA, MEM, mem, -1, 0, &d);
	if (err) {
		puts(d.text);
		return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &t1);
	find_caps();
	net = get(CONFIG, PCI_DEVICE_ID, 2) == 0x1040 + VIRTIO_ID_NET;
	printf("%s: %s, %u vectors, doorbells at %u+0x%x, one per %u bytes; opened in %ld us\n",
	       vf->name, net ? "net" : "block", vf->info.nvectors,
	       caps[VIRTIO_PCI_CAP_NOTIFY_CFG].bar, caps[VIRTIO_PCI_CAP_NOTIFY_CFG].offset,
	       multiplier, (t1.tv_sec - t0.tv_sec) * 1000000 + (t1.tv_nsec - t0.tv_nsec) / 1000);
	for (unsigned int i = 0; i < vf->info.niova; i++)
		printf("  IOVA 0x%llx-0x%llx\n", (unsigned long long)vf->info.iova[i].first,
		       (unsigned long long)vf->info.iova[i].last);
	keeps_its_promises();
	for (unsigned int i = 0; i < vf->info.nvectors; i++)
		fds[i] = eventfd(0, EFD_NONBLOCK);
	wants(!vf->ops->irq_set(vf, fds, vf->info.nvectors));
	do_io(net, fds[1]);
	/* One vector to another descriptor and back, the others as they are. */
	close(fds[1]);
	fds[1] = -1;
	wants(!vf->ops->irq_set(vf, fds, vf->info.nvectors));
	fds[1] = eventfd(0, EFD_NONBLOCK);
	wants(!vf->ops->irq_set(vf, fds, vf->info.nvectors));
	do_io(net, fds[1]);
	/* All off and on again, fewer than there are. */
	wants(!vf->ops->irq_set(vf, fds, 0));
	wants(!vf->ops->irq_set(vf, fds, 2));
	do_io(net, fds[1]);
	wants(!vf->ops->dma_unmap(vf, IOVA, MEM));
	vf->ops->close(vf);
	wants(!vm.vfio);
	/* It can be had again at once, mapped or not. */
	wants(!vf_vfio_open(&vm, &io.loop, argv[1], &vf, &d));
	wants(!vf->ops->dma_map(vf, IOVA, MEM, mem, -1, 0, &d));
	vf->ops->close(vf);
	io_thread_stop(&io);
	vm_fini(&vm);
	printf("%s: all of it worked\n", argv[1]);
	return 0;
}
