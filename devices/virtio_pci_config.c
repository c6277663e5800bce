/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_pci_config.c - the configuration space of the virtio-PCI function: its capabilities
 * (virtio 1.2, 4.1.4), the window into the BAR, and what follows from the command register.
 * Control lock held.
 */
#include <unvmm/log.h>

#include "virtio_pci.h"

#include <errno.h>
#include <string.h>

#define MASTER_OFF_S 1 /* for which a vcpu waits */

static void vp_bar_changed(struct pci_dev *p, unsigned int bar, bool mapped)
{
	struct virtio_pci *t = container_of(p, struct virtio_pci, pci);

	if (bar != VP_BAR || t->run != VP_RUNNING)
		return;
	if (mapped)
		vp_doorbells_wire(t);
	else
		vp_doorbells_unwire(t);
}

/*
 * VIRTIO_PCI_CAP_PCI_CFG (4.1.4.9): a window into the BAR for those who can only do configuration
 * cycles. The capability's own bar, offset and length say where; pci_cfg_data is the access.
 */
static bool cfg_window(const struct virtio_pci *t, unsigned int off, unsigned int len,
		       uint64_t *bar_off, unsigned int *bar_len)
{
	unsigned int cap = t->cfg_cap, data = cap + sizeof(struct virtio_pci_cap);

	if (!ranges_overlap(off, len, data, 4))
		return false;
	*bar_off = pci_get32(&t->pci, cap + offsetof(struct virtio_pci_cap, offset));
	*bar_len = pci_get32(&t->pci, cap + offsetof(struct virtio_pci_cap, length));
	return off == data && t->pci.config[cap + offsetof(struct virtio_pci_cap, bar)] == VP_BAR &&
	       (*bar_len == 1 || *bar_len == 2 || *bar_len == 4) && *bar_off % *bar_len == 0 &&
	       range_within(*bar_off, *bar_len, 0, VP_BAR_SIZE);
}

static void vp_config_read(struct pci_dev *p, unsigned int off, unsigned int len)
{
	struct virtio_pci *t = container_of(p, struct virtio_pci, pci);
	uint64_t bar_off;
	unsigned int bar_len;

	if (cfg_window(t, off, len, &bar_off, &bar_len))
		pci_set32(p, off, (uint32_t)vp_bar_read(t, bar_off, bar_len));
}

/*
 * Whoever has taken bus mastering away may use the memory for something else (kexec does): the
 * access is over when no DMA follows. A vcpu does not wait for ever for that.
 */
static void wait_without_master(void *arg)
{
	struct virtio_pci *t = arg;

	vm_lock(t->v->vm);
	if (!pci_bus_master(&t->pci) && vp_wait_stopped(t, MASTER_OFF_S)) {
		pthread_mutex_lock(&t->stop_lock);
		log_limited(&t->limit, LOG_WARN,
			    "%s: has not stopped within %u s after the guest took bus mastering "
			    "away, and may still write to its memory; the guest goes on",
			    t->v->id, MASTER_OFF_S);
		pthread_mutex_unlock(&t->stop_lock);
	}
	vm_unlock(t->v->vm);
}

static void vp_config_written(struct pci_dev *p, unsigned int off, unsigned int len)
{
	struct virtio_pci *t = container_of(p, struct virtio_pci, pci);
	uint64_t bar_off;
	unsigned int bar_len;

	msix_config_written(&t->msix, off, len);
	if (ranges_overlap(off, len, PCI_COMMAND, 2)) {
		vp_settle(t);
		vp_update_run(t);
	}
	if (cfg_window(t, off, len, &bar_off, &bar_len))
		vp_bar_write(t, bar_off, bar_len, pci_get32(p, off));
	if (t->run == VP_STOPPING && !pci_bus_master(p))
		vm_end_access_with(t->v->vm, wait_without_master, t);
}

static int add_cap(struct virtio_pci *t, uint8_t type, uint32_t off, uint32_t length,
		   unsigned int extra)
{
	unsigned int len = sizeof(struct virtio_pci_cap) + extra;
	int at = pci_add_cap(&t->pci, PCI_CAP_ID_VNDR, len);

	if (at < 0)
		return at;
	t->pci.config[at + (int)offsetof(struct virtio_pci_cap, cap_len)] = (uint8_t)len;
	t->pci.config[at + (int)offsetof(struct virtio_pci_cap, cfg_type)] = type;
	t->pci.config[at + (int)offsetof(struct virtio_pci_cap, bar)] = VP_BAR;
	pci_set32(&t->pci, (unsigned int)at + offsetof(struct virtio_pci_cap, offset), off);
	pci_set32(&t->pci, (unsigned int)at + offsetof(struct virtio_pci_cap, length), length);
	return at;
}

int vp_config_init(struct virtio_pci *t)
{
	struct pci_dev *p = &t->pci;
	int at;

	p->bar_changed = vp_bar_changed;
	p->config_read = vp_config_read;
	p->config_written = vp_config_written;
	if (add_cap(t, VIRTIO_PCI_CAP_COMMON_CFG, VP_COMMON, sizeof(struct virtio_pci_common_cfg),
		    0) < 0 ||
	    add_cap(t, VIRTIO_PCI_CAP_ISR_CFG, VP_ISR, 1, 0) < 0 ||
	    (t->v->config_size &&
	     add_cap(t, VIRTIO_PCI_CAP_DEVICE_CFG, VP_DEVICE, t->v->config_size, 0) < 0))
		return -ENOSPC;
	at = add_cap(t, VIRTIO_PCI_CAP_NOTIFY_CFG, VP_DOORBELLS, t->v->nqueues * VP_DOORBELL_PAGE,
		     4);
	if (at < 0)
		return at;
	pci_set32(p, (unsigned int)at + sizeof(struct virtio_pci_cap), VP_NOTIFY_MULT);
	at = add_cap(t, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 4);
	if (at < 0)
		return at;
	t->cfg_cap = (unsigned int)at;
	p->wmask[t->cfg_cap + offsetof(struct virtio_pci_cap, bar)] = 0xff;
	memset(&p->wmask[t->cfg_cap + offsetof(struct virtio_pci_cap, offset)], 0xff, 12);
	return 0;
}
