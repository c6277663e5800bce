/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_report.c - what a virtio function tells of itself to the operator. Control lock held; the
 * counters belong to other threads.
 */
#include <unvmm/device.h>

#include "virtio_pci.h"

/* How a doorbell of q gets to the vdev now. */
static const char *doorbell_way(const struct virtio_pci *t, unsigned int q)
{
	if (t->run != VP_RUNNING || !t->v->queues[q].enabled)
		return "off";
	return t->wires[q].page ? "mapped" : t->wires[q].fd >= 0 ? "ioeventfd" : "trapped";
}

static const char *run_name(const struct virtio_pci *t)
{
	if (t->v->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return "needs-reset";
	if (t->quiesced)
		return "paused";
	return t->run == VP_RUNNING ? "running" : t->run == VP_STOPPING ? "stopping" : "off";
}

void virtio_pci_info(const struct device *dev, struct report *r)
{
	const struct vdev *v = dev->priv;
	const struct virtio_pci *t = v->transport;

	report_text(r, "slot", "00:%02x.0", t->pci.slot);
	report_number(r, "virtio-id", v->device_id);
	report_text(r, "status", "%s", run_name(t));
	report_text(r, "features-offered", "0x%llx", (unsigned long long)v->offered);
	report_text(r, "features", "0x%llx", (unsigned long long)v->negotiated);
	report_list(r, "queues");
	for (unsigned int q = 0; q < v->nqueues; q++) {
		const struct vdev_queue *queue = &v->queues[q];

		report_group(r, NULL);
		report_number(r, "index", q);
		report_number(r, "size", queue->size);
		report_flag(r, "enabled", queue->enabled);
		if (queue->vector != VIRTIO_MSI_NO_VECTOR)
			report_number(r, "vector", queue->vector);
		report_text(r, "doorbell", "%s", doorbell_way(t, q));
		if (t->wires[q].why)
			report_text(r, "doorbell-why", "%s", t->wires[q].why);
		report_close(r);
	}
	report_close(r);
}

static uint64_t get(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

void virtio_pci_stats(const struct device *dev, struct report *r)
{
	const struct vdev *v = dev->priv;

	report_number(r, "resets-asked", get(&v->resets_asked));
	report_list(r, "queues");
	for (unsigned int q = 0; q < v->nqueues; q++) {
		const struct vdev_counters *c = &v->counters[q];

		report_group(r, NULL);
		report_number(r, "index", q);
		report_number(r, "requests", get(&c->requests));
		report_number(r, "kicks", get(&c->kicks));
		report_number(r, "trapped-kicks", get(&c->traps));
		report_number(r, "interrupts", get(&c->interrupts));
		report_close(r);
	}
	report_close(r);
}
