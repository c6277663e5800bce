/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_registers.c - a guest that may touch every register of a virtio function, in any order, with
 * any size, while the vdev behind it complains, changes its configuration and stops late. The vdev
 * aborts when the transport breaks its contract (fake_vdev.c); what must hold between two accesses
 * is checked here. Thread: the fuzzer's.
 *
 * The input is a sequence of struct step, nine bytes each. If bytes are left over, the function's
 * state is saved and loaded at the end (which takes longer than all the steps). Doorbells are wired
 * in the KVM of fake_kvm.h, in every way that a vdev can ask for.
 *
 * Planted bug (FUZZ_PLANT): selected() does not compare queue_select with the number of queues.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unvmm/log.h>
#include <unvmm/platform.h>

#include <unvmm/state_io.h>

#include "fake_kvm.h"
#include "fake_vdev.h"

#define QUEUES	  3
#define OFFERED	  (VIRTIO_SOFT_RING_FEATURES | VIRTIO_BIT(5) | VIRTIO_BIT(40))
#define STEPS_MAX 400

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

extern const struct device_class pci_host_class;

enum {
	BAR_READ,
	BAR_WRITE,
	MSIX_READ,
	MSIX_WRITE,
	CONFIG_READ,
	CONFIG_WRITE,
	PORT_READ,
	PORT_WRITE,
	MEM_READ,
	MEM_WRITE,
	NOTE,
	VDEV,
	HOST,
	DOORBELL,
	KINDS
};

struct step {
	uint8_t kind;	   /* modulo KINDS */
	uint8_t len;	   /* 1 << (len % 4) bytes */
	uint8_t offset[3]; /* little endian; what is too large is cut off */
	uint8_t value[4];
};

struct machine {
	struct vm vm;
	struct device host;
	struct fake_vdev *fv;
	struct virtio_pci *t;
};

#define check(promise)                                                            \
	do {                                                                      \
		if (!(promise)) {                                                 \
			fprintf(stderr, "line %d: not %s\n", __LINE__, #promise); \
			abort();                                                  \
		}                                                                 \
	} while (0)

/* The main loop never runs here; its making is slow, so it is made once. */
static void machine_make(struct machine *m)
{
	struct diag d = { 0 };

	if (!m->t)
		check(loop_init(&m->vm.main_loop, 2, &d) == 0);
	m->vm.kvm.fd = m->vm.kvm.vm_fd = -1;
	slots_init(&m->vm.slots, &m->vm.kvm);
	fake_kvm_reset(&m->vm);
	pthread_mutex_init(&m->vm.lock, NULL);
	bus_init(&m->vm.pio);
	bus_init(&m->vm.mmio);
	check(irq_init(&m->vm.irq, NULL, &d) == 0);
	check(pci_host_class.create(&m->vm, &m->host, NULL, &d) == 0);
	m->fv = fake_vdev_new(&m->vm, QUEUES, OFFERED, &d);
	check(m->fv);
	m->t = m->fv->vdev.transport;
	vd_decode(m->fv);
}

static void machine_end(struct machine *m)
{
	fake_vdev_free(m->fv);
	pci_host_class.destroy(&m->host);
	check(m->vm.mmio.n == 0 && m->vm.pio.n == 0);
	check(!m->vm.main_loop.works.head);
	check(!m->vm.mappers && !fake_kvm.nslots && !fake_kvm.neventfds);
	for (unsigned int i = 0; i < ARRAY_SIZE(m->vm.irq.used); i++)
		check(m->vm.irq.used[i] == 0);
	irq_fini(&m->vm.irq);
	bus_fini(&m->vm.pio);
	bus_fini(&m->vm.mmio);
	m->vm.event = VM_EVENT_NONE;
	pthread_mutex_destroy(&m->vm.lock);
}

/* --- what always holds ----------------------------------------------------------------------- */

static void check_queues(const struct machine *m)
{
	const struct vdev *v = &m->fv->vdev;
	static const struct vdev_queue untouched = { .irq_fd = -1 };

	for (unsigned int i = 0; i < VDEV_QUEUES_MAX; i++) {
		const struct vdev_queue *q = &v->queues[i];

		if (i >= v->nqueues) {
			check(memcmp(q, &untouched, sizeof(*q)) == 0);
			continue;
		}
		check(is_power_of_2(q->size) && q->size <= q->size_max);
		check(q->vector == VIRTIO_MSI_NO_VECTOR || q->vector < m->t->msix.nvectors);
		check(q->irq_fd == (q->vector == VIRTIO_MSI_NO_VECTOR ? -1 : m->t->irq_fds[i]));
		check(m->t->msix.sources[m->t->irq_sources[i]].vector == q->vector);
	}
}

static void check_msix(const struct machine *m)
{
	const struct msix *x = &m->t->msix;
	uint16_t control = pci_get16(&m->t->pci, x->cap + PCI_MSIX_FLAGS);

	check((control & PCI_MSIX_FLAGS_QSIZE) == QUEUES);
	for (unsigned int i = 0; i < x->nsources; i++) {
		const struct msix_source *s = &x->sources[i];
		bool open = (control & PCI_MSIX_FLAGS_ENABLE) &&
			    !(control & PCI_MSIX_FLAGS_MASKALL) && s->vector != MSIX_NO_VECTOR &&
			    !(x->table[s->vector].ctrl & PCI_MSIX_ENTRY_CTRL_MASKBIT);

		check(s->attached == open);
		check(!open || x->gsi[s->vector] >= PLAT_GSI_MSI_FIRST);
	}
}

static void check_bars(const struct machine *m)
{
	const struct pci_dev *p = &m->t->pci;
	unsigned int mapped = 0;

	for (unsigned int n = 0; n < PCI_BARS; n++) {
		const struct pci_bar *b = &p->bars[n];

		if (!b->mapped)
			continue;
		mapped++;
		check(p->config[PCI_COMMAND] & PCI_COMMAND_MEMORY);
		check(range_within(b->base, b->size, PLAT_PCI_MEM_BASE, PLAT_PCI_MEM_SIZE));
		check(b->base % b->size == 0);
	}
	check(m->vm.mmio.n == 1 + mapped); /* ECAM */
	check(m->t->config_vector == VIRTIO_MSI_NO_VECTOR ||
	      m->t->config_vector < m->t->msix.nvectors);
}

static void check_run(const struct machine *m)
{
	const struct vdev *v = &m->fv->vdev;
	bool noted = m->t->notes & VP_NOTE_STOPPED;

	check(!(v->negotiated & ~v->offered));
	check(!(v->status & VIRTIO_CONFIG_S_DRIVER_OK) ||
	      (v->status & VIRTIO_CONFIG_S_FEATURES_OK));
	check((m->t->run == VP_RUNNING) == m->fv->running);
	check((m->t->run == VP_STOPPING) == (m->fv->stopping || noted));
	check(!m->t->reset_pending || m->t->run == VP_STOPPING);
}

/*
 * KVM has what the transport believes, where the BAR is, of queues that run, or will again when the
 * machine goes on, and nothing else.
 */
static void check_doorbells(const struct machine *m)
{
	const struct pci_bar *bar = &m->t->pci.bars[VP_BAR];
	unsigned int pages = 0, eventfds = 0;

	for (unsigned int q = 0; q < VDEV_QUEUES_MAX; q++) {
		const struct vp_wire *w = &m->t->wires[q];
		const struct fake_slot *slot;
		uint64_t page = bar->base + VP_DOORBELLS + q * VP_DOORBELL_PAGE;

		check(!w->page == (w->slot < 0));
		if (!w->page && w->fd < 0)
			continue;
		check(q < QUEUES && bar->mapped);
		check(m->t->run == VP_RUNNING || m->t->quiesced);
		check(m->fv->vdev.queues[q].enabled);
		check(w->at == page + m->fv->vdev.queues[q].doorbell_offset);
		pages += w->page != NULL;
		eventfds += w->fd >= 0;
		slot = fake_kvm_slot_at(w->at);
		check(w->page ? slot && slot->gpa == page && slot->page == w->page : !slot);
		check(!w->page || w->page == m->fv->pages + q * VP_DOORBELL_PAGE);
		check(w->fd < 0 || (w->fd == m->fv->doorbell_fds[q] && fake_kvm_eventfd_at(w->at)));
	}
	check(pages == fake_kvm.nslots && eventfds == fake_kvm.neventfds);
}

static void check_all(const struct machine *m)
{
	check_queues(m);
	check_doorbells(m);
	check_msix(m);
	check_bars(m);
	check_run(m);
}

/* --- the table of registers ------------------------------------------------------------------ */

static uint64_t ones(unsigned int len)
{
	return len == 8 ? UINT64_MAX : (1ull << (8 * len)) - 1;
}

static void bar_read(struct machine *m, uint64_t off, unsigned int len)
{
	uint64_t v = vd_bar_read(m->fv, VP_BAR, off, len);
	const struct vp_reg *r = off < VP_ISR ? vp_reg_find(off, len) : NULL;

	check(v <= ones(len));
	if (!m->t->pci.bars[VP_BAR].mapped)
		return; /* whoever is there now has answered */
	if ((off < VP_ISR && !r) || off >= VP_DOORBELLS) {
		check(v == ones(len));
		return;
	}
	/* A queue that is not there has no size, no address and no vector. */
	if (r && r->offset > VIRTIO_PCI_COMMON_Q_SELECT && m->t->queue_select >= QUEUES)
		check(v == (r->offset == VIRTIO_PCI_COMMON_Q_MSIX ? VIRTIO_MSI_NO_VECTOR : 0));
}

static void bar_write(struct machine *m, uint64_t off, unsigned int len, uint64_t value)
{
	const struct vp_reg *r = off < VP_ISR ? vp_reg_find(off, len) : NULL;
	struct virtio_pci t;
	struct vdev v;

	vp_settle(m->t); /* what other threads noted is no effect of the write */
	vp_settle(m->t); /* nor is the answer to a stop that the first one brought about */
	t = *m->t;
	v = m->fv->vdev;
	vd_bar_write(m->fv, VP_BAR, off, len, value);
	if ((r && r->policy != REG_READONLY) || t.notes || !t.pci.bars[VP_BAR].mapped)
		return;
	check(memcmp(&t, m->t, sizeof(t)) == 0);
	memcpy(v.counters, m->fv->vdev.counters, sizeof(v.counters)); /* doorbells are counted */
	check(memcmp(&v, &m->fv->vdev, sizeof(v)) == 0);
}

/* --- steps ----------------------------------------------------------------------------------- */

static void note(struct machine *m, uint32_t value)
{
	switch (value % 5) {
	case 0:
		vdev_needs_reset(&m->fv->vdev, "the fuzzer says so");
		break;
	case 1:
		vdev_config_changed(&m->fv->vdev);
		break;
	case 2:
		vdev_interrupt(&m->fv->vdev, value / 5 % QUEUES);
		break;
	case 3:
		fake_vdev_stop_now(m->fv);
		break;
	case 4: /* the main loop gets its turn */
		if (m->t->settle.queued)
			vp_settle(m->t);
		break;
	}
}

/* How the vdev behaves from here. */
static void behave(struct machine *m, uint32_t value)
{
	m->fv->slow_stop = value & 1;
	m->fv->start_error = value & 2 ? -14 : 0;
	m->fv->stop_index = (uint16_t)(value >> 16);
}

/* main's calls wait for a stop: it is answered first. */
static void host(struct machine *m, uint32_t value)
{
	m->fv->slow_stop = false;
	fake_vdev_stop_now(m->fv);
	switch (value % 3) {
	case 0:
		check(virtio_pci_reset(&m->fv->vdev) == 0);
		check(m->fv->vdev.status == 0 && !m->t->pci.bars[VP_BAR].mapped);
		vd_decode(m->fv);
		break;
	case 1:
		check(virtio_pci_quiesce(&m->fv->vdev) == 0);
		check(!m->fv->running && !m->t->reset_pending);
		break;
	case 2:
		virtio_pci_resume(&m->fv->vdev);
		break;
	}
}

/* The guest rings: it goes one way, or nowhere when the device does not run. */
static void ring(struct machine *m, unsigned int q)
{
	const struct pci_bar *bar = &m->t->pci.bars[VP_BAR];
	uint64_t offset = q * VP_DOORBELL_PAGE + m->fv->vdev.queues[q].doorbell_offset;
	unsigned int *signals = &fake_kvm.signals[FAKE_DOORBELL_FD + q], before;
	uint16_t stored, value = 0x5555;

	if (!bar->mapped || m->t->quiesced)
		return;
	memset(m->fv->pages + offset, 0, sizeof(value));
	before = *signals + m->fv->kicks[q];
	fake_kvm_store(&m->vm, bar->base + VP_DOORBELLS + offset, value);
	memcpy(&stored, m->fv->pages + offset, sizeof(stored));
	check(*signals + m->fv->kicks[q] - before + (stored == value) ==
	      (m->t->run == VP_RUNNING && m->fv->vdev.queues[q].enabled));
}

/* What the vdev wants for its doorbells from here, what KVM refuses, and something that happens. */
static void doorbell(struct machine *m, uint32_t value)
{
	static const enum doorbell_kind kinds[] = { DOORBELL_TRAP, DOORBELL_EVENTFD,
						    DOORBELL_MAPPED, DOORBELL_MAPPED };
	bool late = value >> 16 & 1; /* another vcpu's fault was dealt with */
	bool mapped = fake_kvm.nslots;

	for (unsigned int q = 0; q < QUEUES; q++)
		m->fv->way[q] = kinds[value >> (2 * q) & 3];
	m->fv->rewires_on_fault = value >> 6 & 1;
	fake_kvm.refuse_slots = value >> 7 & 1;
	fake_kvm.refuse_eventfds = value >> 8 & 1;
	switch (value >> 9 & 3) {
	case 0:
		virtio_pci_rewire(&m->fv->vdev);
		break;
	case 1:
		check(vm_memory_fault(&m->vm, slots_removals(&m->vm.slots) - late) ==
		      (mapped || late));
		break;
	case 2:
		ring(m, (value >> 11) % QUEUES);
		break;
	}
}

static void step(struct machine *m, const struct step *s)
{
	uint32_t off = s->offset[0] | s->offset[1] << 8 | (uint32_t)s->offset[2] << 16, value;
	unsigned int len = 1u << (s->len % 4);
	unsigned int port_len = len > 4 ? 4 : len;

	memcpy(&value, s->value, sizeof(value));
	if (m->t->quiesced && s->kind % KINDS < NOTE)
		return; /* the vcpus stand */
	switch (s->kind % KINDS) {
	case BAR_READ:
		bar_read(m, off % VP_BAR_SIZE, len);
		break;
	case BAR_WRITE:
		bar_write(m, off % VP_BAR_SIZE, len, value);
		break;
	case MSIX_READ:
		check(vd_bar_read(m->fv, VP_MSIX_BAR, off % 0x1000, len) <= ones(len));
		break;
	case MSIX_WRITE:
		vd_bar_write(m->fv, VP_MSIX_BAR, off % 0x1000, len, value);
		break;
	case CONFIG_READ:
		check(vd_config_read(m->fv, off % PCI_CONFIG_SIZE, len) <= ones(len));
		break;
	case CONFIG_WRITE:
		vd_config_write(m->fv, off % PCI_CONFIG_SIZE, len, value);
		break;
	case PORT_READ:
		check(bus_read(&m->vm.pio, PLAT_PCI_CFG_ADDR + off % 8, port_len) <=
		      ones(port_len));
		break;
	case PORT_WRITE:
		bus_write(&m->vm.pio, PLAT_PCI_CFG_ADDR + off % 8, port_len, value);
		break;
	case MEM_READ:
		bus_read(&m->vm.mmio, value + (uint64_t)off, len);
		break;
	case MEM_WRITE:
		bus_write(&m->vm.mmio, value + (uint64_t)off, len, off);
		break;
	case NOTE:
		note(m, value);
		break;
	case VDEV:
		behave(m, value);
		break;
	case HOST:
		host(m, value);
		break;
	case DOORBELL:
		doorbell(m, value);
		break;
	}
}

/* Whatever state the guest brought the function into can be saved, and is accepted again. */
static void check_state(struct machine *m)
{
	struct state_load *load;
	struct diag d = { 0 };
	size_t len;
	void *blob;

	host(m, 1);
	check(state_save("fake0", m->fv->state, VIRTIO_PCI_STATES, &blob, &len, &d) == 0);
	check(state_parse("fake0", blob, len, m->fv->state, VIRTIO_PCI_STATES, &load, &d) == 0);
	check(state_commit(load, &d) == 0);
	state_load_free(load);
	free(blob);
	check_all(m);
	host(m, 2);
	check_all(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct machine m;

	log_set_level(LOG_ERROR); /* complaints of the vdev are part of the game */
	machine_make(&m);
	for (unsigned int i = 0; i < STEPS_MAX && size >= sizeof(struct step); i++) {
		struct step s;

		memcpy(&s, data, sizeof(s));
		data += sizeof(s);
		size -= sizeof(s);
		step(&m, &s);
		check_all(&m);
	}
	if (size)
		check_state(&m);
	machine_end(&m);
	return 0;
}
