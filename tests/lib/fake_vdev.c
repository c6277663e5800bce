/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_vdev.c - records and checks what the virtio-PCI transport does to a vdev. Test's thread.
 */
#include "fake_vdev.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <unvmm/platform.h>

extern const struct device_class pci_host_class;

struct fake_vm *fake_vm_with_pci(void)
{
	struct fake_vm *f = fake_vm_new("none");
	struct diag d = { 0 };

	if (gmem_create(&f->vm.mem, PLAT_RAM_MIN, GMEM_SHARED, &d) ||
	    irq_init(&f->vm.irq, NULL, &d))
		fail_msg("%s", d.text);
	fake_vm_add(f, &pci_host_class, NULL);
	return f;
}

/* The transport broke its contract: also fuzzers must see that, so no assertion of cmocka's. */
static void promise(bool kept, const char *what)
{
	if (kept)
		return;
	fprintf(stderr, "the transport broke the contract of virtio.h: %s\n", what);
	abort();
}

static struct fake_vdev *fake_of(struct vdev *v)
{
	return container_of(v, struct fake_vdev, vdev);
}

static bool fake_accept_features(const struct vdev *v, uint64_t features)
{
	promise(!(features & ~v->offered), "accept_features() sees only what was offered");
	return !(features & container_of(v, const struct fake_vdev, vdev)->unwelcome);
}

static int fake_start(struct vdev *v)
{
	struct fake_vdev *fv = fake_of(v);

	promise(!fv->running && !fv->stopping, "start() only after the stop was answered");
	promise(v->status & VIRTIO_CONFIG_S_DRIVER_OK, "start() only with DRIVER_OK");
	promise(v->status & VIRTIO_CONFIG_S_FEATURES_OK, "start() only with FEATURES_OK");
	promise(!(v->status & VIRTIO_CONFIG_S_NEEDS_RESET), "start() not in NEEDS_RESET");
	promise(v->negotiated & VIRTIO_BIT(VIRTIO_F_VERSION_1), "start() only with VERSION_1");
	promise(!(v->negotiated & (~v->offered | fv->unwelcome)), "only acceptable features");
	promise(pci_bus_master(&v->transport->pci), "start() only with bus mastering");
	for (unsigned int q = 0; q < VDEV_QUEUES_MAX; q++) {
		const struct vdev_queue *vq = &v->queues[q];

		promise(q < v->nqueues || !vq->enabled, "only queues that exist are enabled");
		promise(!vq->enabled || (is_power_of_2(vq->size) && vq->size <= vq->size_max),
			"queue sizes are powers of two, as offered at most");
		fv->started_at[q] = vq->index;
	}
	fv->running = true;
	fv->starts++;
	return fv->start_error;
}

static void fake_stop(struct vdev *v)
{
	struct fake_vdev *fv = fake_of(v);

	promise(!fv->stopping, "a stop is not repeated");
	promise(fv->running, "only what runs is stopped");
	fv->running = false;
	fv->stops++;
	__atomic_store_n(&fv->stopping, true, __ATOMIC_RELEASE);
	if (!fv->slow_stop)
		fake_vdev_stop_now(fv);
}

void fake_vdev_stop_now(struct fake_vdev *fv)
{
	if (!__atomic_load_n(&fv->stopping, __ATOMIC_ACQUIRE))
		return;
	for (unsigned int q = 0; q < fv->vdev.nqueues; q++)
		if (fv->vdev.queues[q].enabled)
			fv->vdev.queues[q].index = fv->stop_index;
	__atomic_store_n(&fv->stopping, false, __ATOMIC_RELEASE);
	vdev_stopped(&fv->vdev);
}

static void fake_kick(struct vdev *v, unsigned int q)
{
	promise(fake_of(v)->running, "kicks only while it runs");
	promise(q < v->nqueues && v->queues[q].enabled, "kicks only for enabled queues");
	fake_of(v)->kicks[q]++;
}

static void fake_doorbell(struct vdev *v, unsigned int q, struct vdev_doorbell *db)
{
	const struct fake_vdev *fv = fake_of(v);

	promise(q < v->nqueues && v->queues[q].enabled, "doorbell() only for enabled queues");
	promise(v->transport->run == VP_RUNNING, "doorbell() only while it runs or is to");
	promise(db->kind == DOORBELL_TRAP && db->fd == -1 && !db->page && !db->why,
		"doorbell() is given a trap");
	db->kind = fv->way[q];
	db->fd = fv->doorbell_fds[q];
	db->page = fv->pages + (size_t)q * VP_DOORBELL_PAGE;
	db->why = db->kind == DOORBELL_MAPPED ? NULL : "the test says so";
}

static void fake_doorbell_fault(struct vdev *v)
{
	fake_of(v)->faults++;
	if (fake_of(v)->rewires_on_fault)
		virtio_pci_rewire(v);
}

static void fake_config_read(struct vdev *v, unsigned int off, void *buf, unsigned int len)
{
	promise(range_within(off, len, 0, v->config_size), "config_read() inside config_size");
	memcpy(buf, fake_of(v)->config + off, len);
}

static void fake_config_write(struct vdev *v, unsigned int off, const void *buf, unsigned int len)
{
	promise(range_within(off, len, 0, v->config_size), "config_write() inside config_size");
	memcpy(fake_of(v)->config + off, buf, len);
	fake_of(v)->config_writes++;
}

static const struct vdev_ops fake_ops = {
	.accept_features = fake_accept_features,
	.start = fake_start,
	.stop = fake_stop,
	.doorbell = fake_doorbell,
	.kick = fake_kick,
	.doorbell_fault = fake_doorbell_fault,
	.config_read = fake_config_read,
	.config_write = fake_config_write,
};

struct fake_vdev *fake_vdev_new(struct vm *vm, uint16_t nqueues, uint64_t offered, struct diag *d)
{
	struct fake_vdev *fv = calloc(1, sizeof(*fv));

	if (!fv)
		abort();
	fv->own_pages = aligned_alloc(VP_DOORBELL_PAGE, (nqueues + 1u) * VP_DOORBELL_PAGE);
	if (!fv->own_pages)
		abort();
	fv->pages = fv->own_pages;
	memset(fv->pages, 0, (nqueues + 1u) * VP_DOORBELL_PAGE);
	for (unsigned int i = 0; i < FAKE_VDEV_CONFIG; i++)
		fv->config[i] = (uint8_t)(0xa0 + i);
	fv->vdev = (struct vdev){ .vm = vm,
				  .ops = &fake_ops,
				  .id = "fake0",
				  .device_id = VIRTIO_ID_BLOCK,
				  .class_code = 0x018000,
				  .nqueues = nqueues,
				  .config_size = FAKE_VDEV_CONFIG,
				  .offered = offered };
	for (unsigned int q = 0; q < nqueues && q < VDEV_QUEUES_MAX; q++) {
		fv->vdev.queues[q].size_max = 256;
		fv->vdev.queues[q].doorbell_offset = (uint16_t)(4 * (q % 3));
		fv->doorbell_fds[q] = FAKE_DOORBELL_FD + (int)q;
	}
	if (virtio_pci_create(&fv->vdev, d)) {
		free(fv->own_pages);
		free(fv);
		return NULL;
	}
	virtio_pci_state(&fv->vdev, fv->state);
	return fv;
}

void fake_vdev_free(struct fake_vdev *fv)
{
	virtio_pci_destroy(&fv->vdev);
	free(fv->own_pages);
	free(fv);
}

/* --- the guest's side ------------------------------------------------------------------------ */

uint64_t fake_ecam_read(struct vm *vm, unsigned int slot, unsigned int off, unsigned int len)
{
	return bus_read(&vm->mmio, PLAT_ECAM_BASE + ((uint64_t)slot << 15) + off, len);
}

void fake_ecam_write(struct vm *vm, unsigned int slot, unsigned int off, unsigned int len,
		     uint64_t value)
{
	bus_write(&vm->mmio, PLAT_ECAM_BASE + ((uint64_t)slot << 15) + off, len, value);
}

uint64_t vd_config_read(struct fake_vdev *fv, unsigned int off, unsigned int len)
{
	return fake_ecam_read(fv->vdev.vm, fv->vdev.transport->pci.slot, off, len);
}

void vd_config_write(struct fake_vdev *fv, unsigned int off, unsigned int len, uint64_t value)
{
	fake_ecam_write(fv->vdev.vm, fv->vdev.transport->pci.slot, off, len, value);
}

static uint64_t bar_base(struct fake_vdev *fv, unsigned int bar)
{
	unsigned int reg = PCI_BASE_ADDRESS_0 + 8 * bar;

	return (vd_config_read(fv, reg, 4) & PCI_BASE_ADDRESS_MEM_MASK) |
	       vd_config_read(fv, reg + 4, 4) << 32;
}

uint64_t vd_bar_read(struct fake_vdev *fv, unsigned int bar, uint64_t off, unsigned int len)
{
	return bus_read(&fv->vdev.vm->mmio, bar_base(fv, bar) + off, len);
}

void vd_bar_write(struct fake_vdev *fv, unsigned int bar, uint64_t off, unsigned int len,
		  uint64_t value)
{
	bus_write(&fv->vdev.vm->mmio, bar_base(fv, bar) + off, len, value);
}

void vd_decode(struct fake_vdev *fv)
{
	vd_config_write(fv, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

void vd_features(struct fake_vdev *fv, uint64_t features)
{
	for (unsigned int i = 0; i < 2; i++) {
		vd_write(fv, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		vd_write(fv, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(features >> (32 * i)));
	}
}

void vd_queue(struct fake_vdev *fv, uint16_t q, uint16_t size, uint16_t vector)
{
	vd_write(fv, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_MSIX, 2, vector);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0x100000 + q * 0x4000u);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_DESCHI, 4, 0);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, 0x101000 + q * 0x4000u);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 0);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_USEDLO, 4, 0x102000 + q * 0x4000u);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_USEDHI, 4, 0);
	vd_write(fv, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

void vd_drive(struct fake_vdev *fv, uint64_t features)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	vd_decode(fv);
	vd_set_status(fv, 0);
	vd_set_status(fv, status);
	vd_features(fv, features);
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	vd_set_status(fv, status);
	for (uint16_t q = 0; q < fv->vdev.nqueues; q++)
		vd_queue(fv, q, fv->vdev.queues[q].size_max, q + 1);
	vd_set_status(fv, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

void vd_kick(struct fake_vdev *fv, uint16_t q)
{
	vd_write(fv, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
	vd_bar_write(fv, VP_BAR,
		     VP_DOORBELLS + vd_read(fv, VIRTIO_PCI_COMMON_Q_NOFF, 2) * VP_NOTIFY_MULT, 2,
		     q);
}

void vd_msix_control(struct fake_vdev *fv, uint16_t flags)
{
	vd_config_write(fv, fv->vdev.transport->msix.cap + PCI_MSIX_FLAGS, 2, flags);
}

void vd_msix_vector(struct fake_vdev *fv, unsigned int v, uint64_t addr, uint32_t data, bool mask)
{
	vd_bar_write(fv, VP_MSIX_BAR, v * PCI_MSIX_ENTRY_SIZE, 8, addr);
	vd_bar_write(fv, VP_MSIX_BAR, v * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_DATA, 4, data);
	vd_bar_write(fv, VP_MSIX_BAR, v * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL, 4,
		     mask);
}

bool fake_signal_taken(int eventfd)
{
	uint64_t n;

	return read(eventfd, &n, sizeof(n)) == (ssize_t)sizeof(n);
}
