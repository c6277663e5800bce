/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msix.c - MSI-X of one function: table, pending bits, and which eventfds are irqfds right now.
 * Control lock held.
 */
#include <unvmm/log.h>
#include <unvmm/msix.h>

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define TABLE_OFFSET 0x000
#define PBA_OFFSET   0x800
#define BAR_SIZE     0x1000

#define CONTROL_WRITABLE (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)

static bool vector_masked(const struct msix *m, unsigned int v)
{
	return !(m->control & PCI_MSIX_FLAGS_ENABLE) || (m->control & PCI_MSIX_FLAGS_MASKALL) ||
	       (m->table[v].ctrl & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/* --- sources -------------------------------------------------------------------------------- */

static void source_detach(struct msix *m, struct msix_source *s)
{
	if (!s->attached)
		return;
	irq_detach(&m->pci->vm->irq, s->eventfd, m->gsi[s->vector]);
	s->attached = false;
}

/* The route of an unmasked vector is in KVM before any source is attached to it. */
static int vector_route(struct msix *m, unsigned int v)
{
	struct irq *irq = &m->pci->vm->irq;
	const struct msix_entry *e = &m->table[v];

	if (m->gsi[v] < 0) {
		m->gsi[v] = irq_msi_alloc(irq);
		if (m->gsi[v] < 0)
			return m->gsi[v];
	}
	irq_msi_set(irq, m->gsi[v], (uint64_t)e->addr_hi << 32 | e->addr_lo, e->data);
	return irq_commit(irq);
}

static int source_attach(struct msix *m, struct msix_source *s)
{
	int err;

	if (s->attached || s->vector == MSIX_NO_VECTOR || vector_masked(m, s->vector))
		return 0;
	err = vector_route(m, s->vector);
	if (!err)
		err = irq_attach(&m->pci->vm->irq, s->eventfd, m->gsi[s->vector]);
	s->attached = !err;
	return err;
}

/* Makes irqfds and routes agree with the masks after any of them changed. */
static void vector_update(struct msix *m, unsigned int v)
{
	bool masked = vector_masked(m, v);

	if (!masked && m->gsi[v] >= 0 && vector_route(m, v))
		log_limited(&m->limit, LOG_ERROR, "%s: KVM refuses the route of MSI-X vector %u",
			    m->pci->id, v);
	for (unsigned int i = 0; i < m->nsources; i++) {
		struct msix_source *s = &m->sources[i];

		if (s->vector != v)
			continue;
		if (masked)
			source_detach(m, s);
		else if (source_attach(m, s))
			log_limited(&m->limit, LOG_ERROR,
				    "%s: KVM refuses the irqfd of MSI-X vector %u", m->pci->id, v);
	}
}

int msix_add_source(struct msix *m, int eventfd)
{
	if (m->nsources == MSIX_SOURCES_MAX)
		return -ENOSPC;
	m->sources[m->nsources] =
		(struct msix_source){ .eventfd = eventfd, .vector = MSIX_NO_VECTOR };
	return (int)m->nsources++;
}

int msix_connect(struct msix *m, unsigned int source, uint16_t vector)
{
	struct msix_source *s = &m->sources[source];
	int err;

	if (s->vector == vector)
		return 0;
	source_detach(m, s);
	s->vector = MSIX_NO_VECTOR;
	if (vector != MSIX_NO_VECTOR && vector >= m->nvectors)
		return -EINVAL;
	s->vector = vector;
	err = source_attach(m, s);
	if (err)
		s->vector = MSIX_NO_VECTOR;
	return err;
}

/* --- pending bits: the counters of sources that are detached because of a mask ---------------- */

static bool eventfd_signalled(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void pending_update(struct msix *m)
{
	for (unsigned int i = 0; i < m->nsources; i++) {
		const struct msix_source *s = &m->sources[i];

		if (s->vector != MSIX_NO_VECTOR && !s->attached && eventfd_signalled(s->eventfd))
			m->pending[s->vector / 64] |= 1ull << (s->vector % 64);
	}
}

static uint64_t pba_read(struct msix *m, unsigned int word)
{
	memset(m->pending, 0, sizeof(m->pending));
	pending_update(m);
	return word < ARRAY_SIZE(m->pending) ? m->pending[word] : 0;
}

/* --- the BAR -------------------------------------------------------------------------------- */

/* PCI 3.0, 6.8.2: accesses are aligned and of 4 or 8 bytes; others are undefined, here: refused. */
static uint64_t bar_read(void *dev, uint64_t off, unsigned int len)
{
	struct msix *m = dev;
	uint64_t v = 0;

	if ((len != 4 && len != 8) || off % len)
		return UINT64_MAX;
	if (off + len <= TABLE_OFFSET + m->nvectors * sizeof(struct msix_entry))
		memcpy(&v, (const uint8_t *)m->table + off, len);
	else if (off >= PBA_OFFSET && off < PBA_OFFSET + sizeof(m->pending))
		v = pba_read(m, (unsigned int)(off - PBA_OFFSET) / 8) >> (off % 8 * 8);
	return v;
}

static void bar_write(void *dev, uint64_t off, unsigned int len, uint64_t value)
{
	struct msix *m = dev;
	unsigned int v = (unsigned int)(off / sizeof(struct msix_entry));

	if ((len != 4 && len != 8) || off % len ||
	    off + len > m->nvectors * sizeof(struct msix_entry))
		return;
	memcpy((uint8_t *)m->table + off, &value, len);
	m->table[v].ctrl &= PCI_MSIX_ENTRY_CTRL_MASKBIT;
	vector_update(m, v);
}

static const struct bus_ops msix_bar_ops = { .read = bar_read, .write = bar_write };

/* --- set-up, control, state ------------------------------------------------------------------ */

int msix_init(struct msix *m, struct pci_dev *p, unsigned int bar, uint16_t nvectors)
{
	int cap;

	if (!nvectors || nvectors > MSIX_VECTORS_MAX)
		return -EINVAL;
	cap = pci_add_cap(p, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);
	if (cap < 0)
		return cap;
	*m = (struct msix){ .pci = p, .cap = (unsigned int)cap, .bar = bar, .nvectors = nvectors };
	for (unsigned int v = 0; v < MSIX_VECTORS_MAX; v++) {
		m->gsi[v] = -1;
		m->table[v].ctrl = PCI_MSIX_ENTRY_CTRL_MASKBIT;
	}
	pci_set16(p, m->cap + PCI_MSIX_FLAGS, nvectors - 1);
	/* BAR numbers count 32-bit registers: a 64-bit BAR takes two. */
	pci_set32(p, m->cap + PCI_MSIX_TABLE, TABLE_OFFSET | 2 * bar);
	pci_set32(p, m->cap + PCI_MSIX_PBA, PBA_OFFSET | 2 * bar);
	p->wmask[m->cap + PCI_MSIX_FLAGS + 1] = CONTROL_WRITABLE >> 8;
	pci_add_bar(p, bar, BAR_SIZE, &msix_bar_ops, m, "msix");
	return 0;
}

void msix_fini(struct msix *m)
{
	for (unsigned int i = 0; i < m->nsources; i++)
		source_detach(m, &m->sources[i]);
	for (unsigned int v = 0; v < MSIX_VECTORS_MAX; v++)
		if (m->gsi[v] >= 0)
			irq_msi_free(&m->pci->vm->irq, m->gsi[v]);
}

static void update_all(struct msix *m)
{
	for (unsigned int v = 0; v < m->nvectors; v++)
		vector_update(m, v);
}

void msix_reset(struct msix *m)
{
	pci_set16(m->pci, m->cap + PCI_MSIX_FLAGS, m->nvectors - 1);
	m->control = 0;
	update_all(m);
	for (unsigned int v = 0; v < m->nvectors; v++)
		m->table[v] = (struct msix_entry){ .ctrl = PCI_MSIX_ENTRY_CTRL_MASKBIT };
	for (unsigned int i = 0; i < m->nsources; i++)
		m->sources[i].vector = MSIX_NO_VECTOR;
}

void msix_config_written(struct msix *m, unsigned int off, unsigned int len)
{
	uint16_t control;

	if (!ranges_overlap(off, len, m->cap + PCI_MSIX_FLAGS, 2))
		return;
	control = pci_get16(m->pci, m->cap + PCI_MSIX_FLAGS) & CONTROL_WRITABLE;
	if (control == m->control)
		return;
	m->control = control;
	update_all(m);
}

/* The eventfd counters of masked vectors travel as pending bits: nothing is lost over a move. */
static int state_pre_save(void *obj)
{
	struct msix *m = obj;

	memset(m->pending, 0, sizeof(m->pending));
	pending_update(m);
	return 0;
}

static int state_post_load(void *obj, struct diag *d)
{
	struct msix *m = obj;
	uint64_t one = 1;

	for (unsigned int v = 0; v < m->nvectors; v++)
		m->table[v].ctrl &= PCI_MSIX_ENTRY_CTRL_MASKBIT;
	m->control = pci_get16(m->pci, m->cap + PCI_MSIX_FLAGS) & CONTROL_WRITABLE;
	update_all(m);
	for (unsigned int i = 0; i < m->nsources; i++) {
		const struct msix_source *s = &m->sources[i];

		if (s->vector == MSIX_NO_VECTOR ||
		    !(m->pending[s->vector / 64] & (1ull << (s->vector % 64))))
			continue;
		if (write(s->eventfd, &one, sizeof(one)) < 0)
			return diag_errno(d, -errno, "cannot restore a pending interrupt");
	}
	return 0;
}

static const struct state_field entry_fields[] = {
	STATE_SCALAR(STATE_U32, struct msix_entry, addr_lo),
	STATE_SCALAR(STATE_U32, struct msix_entry, addr_hi),
	STATE_SCALAR(STATE_U32, struct msix_entry, data),
	STATE_SCALAR(STATE_U32, struct msix_entry, ctrl),
};

static const struct state_desc entry_state = {
	.name = "msix-entry",
	.version = 1,
	.obj_size = sizeof(struct msix_entry),
	.fields = entry_fields,
	.nfields = ARRAY_SIZE(entry_fields),
};

static uint32_t table_used(const void *obj)
{
	return ((const struct msix *)obj)->nvectors;
}

static const struct state_field msix_fields[] = {
	STATE_SCALAR_CHECK(STATE_U16, struct msix, nvectors),
	STATE_SCALAR(STATE_U64, struct msix, pending),
	STATE_ARRAY_USED(struct msix, table, entry_state, table_used),
};

const struct state_desc msix_state = {
	.name = "msix",
	.version = 1,
	.obj_size = sizeof(struct msix),
	.fields = msix_fields,
	.nfields = ARRAY_SIZE(msix_fields),
	.pre_save = state_pre_save,
	.post_load = state_post_load,
};
