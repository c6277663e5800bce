/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio.c - what a careless or hostile driver does to the registers of every virtio function:
 * configuration space, common configuration, MSI-X table, BARs. After each group a reset must bring
 * back a device that works. virtio_rings.c does the same to the rings.
 *
 * Options: strict (what unvmm promises beyond the specification), fuzz=N, seed=N.
 */
#include "virtio.h"

#include "lib/blk.h"
#include "lib/guest.h"
#include "lib/io.h"

#define MSIX_ENTRY   PCI_MSIX_ENTRY_SIZE
#define FUZZ_DEFAULT 500

static struct subject subject;
static bool strict;

/* --- the subject ------------------------------------------------------------------------------ */

bool subject_start(struct subject *s, uint64_t features)
{
	if (!vio_negotiate(&s->vio, features) || !vq_setup(&s->vq, &s->vio, 0, 16))
		return false;
	vio_driver_ok(&s->vio);
	return true;
}

#define GUARD_BYTES 1024
#define GUARD_VALUE 0xc3

static struct {
	uint8_t before[GUARD_BYTES];
	struct virtio_blk_outhdr hdr;
	uint8_t data[64];
	uint8_t status;
	uint8_t after[GUARD_BYTES];
} request __attribute__((aligned(16)));

unsigned int subject_request(const struct subject *s, struct vq_seg *segs)
{
	memset(&request, 0, sizeof(request));
	memset(request.before, GUARD_VALUE, GUARD_BYTES);
	memset(request.after, GUARD_VALUE, GUARD_BYTES);
	request.status = 0xff;
	if (s->type != VIRTIO_ID_BLOCK) {
		segs[0] = (struct vq_seg){ (uintptr_t)request.data, sizeof(request.data), true };
		return 1;
	}
	request.hdr.type = VIRTIO_BLK_T_GET_ID;
	segs[0] = (struct vq_seg){ (uintptr_t)&request.hdr, sizeof(request.hdr), false };
	segs[1] = (struct vq_seg){ (uintptr_t)request.data, VIRTIO_BLK_ID_BYTES, true };
	segs[2] = (struct vq_seg){ (uintptr_t)&request.status, 1, true };
	return 3;
}

void subject_guards(const char *what)
{
	const volatile uint8_t *before = request.before, *after = request.after;

	for (unsigned int i = 0; i < GUARD_BYTES; i++) {
		if (!test_check(before[i] == GUARD_VALUE && after[i] == GUARD_VALUE,
				"memory beside the buffers overwritten by: %s", what))
			return;
	}
}

void subject_works(struct subject *s, const char *what)
{
	struct vq_seg segs[VQ_SEGS_MAX];
	uint32_t len = 0;
	int head;

	if (!subject_start(s, ~0ull)) {
		test_check(false, "cannot be started again after: %s", what);
		return;
	}
	head = vq_add(&s->vq, segs, subject_request(s, segs));
	vq_kick(&s->vq);
	test_check(vq_wait(&s->vq, &len) == head, "no service after: %s", what);
	test_check(len, "nothing written after: %s", what);
	if (s->type == VIRTIO_ID_BLOCK)
		test_check(*(volatile uint8_t *)&request.status == VIRTIO_BLK_S_OK,
			   "status %u after: %s", request.status, what);
}

/* --- configuration space ---------------------------------------------------------------------- */

static void check_absent(void)
{
	test_group("absent functions");
	for (unsigned int slot = 0; slot < PCI_SLOTS; slot++) {
		struct pci_fn fn = { .slot = (uint8_t)slot, .access = PCI_BY_PORT };

		if (pci_read16(&fn, PCI_VENDOR_ID) != 0xffff)
			continue;
		for (int ecam = 0; ecam <= pci_has_ecam(); ecam++) {
			fn.access = ecam ? PCI_BY_ECAM : PCI_BY_PORT;
			test_check(pci_read32(&fn, 0) == 0xffffffff &&
					   pci_read16(&fn, PCI_COMMAND) == 0xffff &&
					   pci_read8(&fn, PCI_HEADER_TYPE) == 0xff,
				   "slot %u, which is empty, does not read all ones", slot);
		}
		pci_write(&fn, PCI_COMMAND, 2, 7); /* goes nowhere */
	}
}

static void check_config_space(const struct vio *v)
{
	struct pci_fn port = v->fn;
	uint32_t id = pci_read32(&v->fn, PCI_VENDOR_ID),
		 class = pci_read32(&v->fn, PCI_CLASS_REVISION);
	uint32_t ext;

	test_group("configuration space");
	pci_write(&v->fn, PCI_VENDOR_ID, 4, ~id);
	pci_write(&v->fn, PCI_CLASS_REVISION, 4, ~class);
	test_check(pci_read32(&v->fn, PCI_VENDOR_ID) == id &&
			   pci_read32(&v->fn, PCI_CLASS_REVISION) == class,
		   "identification can be written");
	/* 4.1.2.1: a device that is not transitional has a revision of 1 or more. */
	test_check((class & 0xff) >= 1, "revision %u", class & 0xff);
	test_check(!(pci_read8(&v->fn, PCI_HEADER_TYPE) & 0x7f), "header type");

	port.access = PCI_BY_PORT;
	for (unsigned int at = 0; at < 256; at += 4)
		test_check(pci_read32(&v->fn, at) == pci_read32(&port, at),
			   "ECAM and ports differ at 0x%x", at);
	if (v->fn.access != PCI_BY_ECAM) {
		test_skip("no ECAM: extended configuration space");
		return;
	}
	/* An empty extended list is one of zeroes (PCIe 7.9.2) or a function without any. */
	ext = pci_read32(&v->fn, 0x100);
	test_check(!ext || ext == 0xffffffff || (ext >> 20 & 3) == 0, "extended list 0x%x", ext);
	for (unsigned int at = 0x40; at < 0x1000; at++) {
		if (at < 256 && !(at & 3))
			pci_read32(&v->fn, at);
		if (at >= 0xf00)
			pci_write(&v->fn, at, 1, 0x5a);
		pci_read8(&v->fn, at);
	}
}

/* Nobody decodes this address: all ones on a real bus; some hosts give zeroes. */
static bool nothing_at(const struct vio *v, uintptr_t common)
{
	uint16_t n = mmio_read16(common + VIRTIO_PCI_COMMON_NUMQ);

	return strict ? n == 0xffff : n != v->nqueues;
}

static void check_command(struct subject *s)
{
	struct vio *v = &s->vio;
	unsigned int index = v->common.bar;
	struct pci_bar *bar = &v->bar[index];
	uint64_t old = bar->base, moved = pci_alloc(bar->size);

	test_group("memory decoding and moved BARs");
	pci_command(&v->fn, 0, PCI_COMMAND_MEMORY);
	test_check(!(pci_read16(&v->fn, PCI_COMMAND) & PCI_COMMAND_MEMORY), "decoding stays on");
	test_check(nothing_at(v, v->common.addr), "registers answer while decoding is off");
	pci_bar_set(&v->fn, index, bar, moved);
	bar->base = moved;
	vio_map(v);
	pci_command(&v->fn, PCI_COMMAND_MEMORY, 0);
	test_check(vio_get16(v, VIRTIO_PCI_COMMON_NUMQ) == v->nqueues,
		   "not seen where it was moved");
	test_check(nothing_at(v, old + v->common.offset), "still seen where it was");
	subject_works(s, "a moved BAR");

	/* Back, while the device runs: queues stay as they are. */
	pci_command(&v->fn, 0, PCI_COMMAND_MEMORY);
	pci_bar_set(&v->fn, index, bar, old);
	bar->base = old;
	vio_map(v);
	pci_command(&v->fn, PCI_COMMAND_MEMORY, 0);
	test_check(vio_get8(v, VIRTIO_PCI_COMMON_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK,
		   "moving a BAR changes the status");
	subject_works(s, "the BAR moved back");
}

/* 4.1.4.9: registers through configuration space. */
static void check_window(const struct vio *v)
{
	unsigned int at = v->pci_cfg_cap;

	test_group("PCI configuration access");
	if (!at)
		return;
	pci_write(&v->fn, at + VIRTIO_PCI_CAP_BAR, 1, v->common.bar);
	pci_write(&v->fn, at + VIRTIO_PCI_CAP_OFFSET, 4, v->common.offset + VIRTIO_PCI_COMMON_NUMQ);
	pci_write(&v->fn, at + VIRTIO_PCI_CAP_LENGTH, 4, 2);
	test_check(pci_read16(&v->fn, at + sizeof(struct virtio_pci_cap)) == v->nqueues,
		   "num_queues reads 0x%x", pci_read16(&v->fn, at + sizeof(struct virtio_pci_cap)));
	/* Outside of everything: no harm. */
	pci_write(&v->fn, at + VIRTIO_PCI_CAP_BAR, 1, 5);
	pci_write(&v->fn, at + VIRTIO_PCI_CAP_OFFSET, 4, 0xfffffffc);
	pci_write(&v->fn, at + VIRTIO_PCI_CAP_LENGTH, 4, 4);
	pci_read32(&v->fn, at + sizeof(struct virtio_pci_cap));
	pci_write(&v->fn, at + sizeof(struct virtio_pci_cap), 4, 0);
}

/* --- common configuration --------------------------------------------------------------------- */

static void check_after_reset(struct vio *v)
{
	test_group("state after reset");
	test_check(vio_reset(v), "no reset");
	test_check(vio_get16(v, VIRTIO_PCI_COMMON_MSIX) == VIRTIO_MSI_NO_VECTOR, "config vector");
	for (uint16_t i = 0; i < v->nqueues; i++) {
		vio_set16(v, VIRTIO_PCI_COMMON_Q_SELECT, i);
		test_check(!vio_get16(v, VIRTIO_PCI_COMMON_Q_ENABLE), "queue %u enabled", i);
		test_check(vio_get16(v, VIRTIO_PCI_COMMON_Q_MSIX) == VIRTIO_MSI_NO_VECTOR,
			   "queue %u has a vector", i);
		test_check(vio_get16(v, VIRTIO_PCI_COMMON_Q_SIZE), "queue %u has no size", i);
	}
}

static void check_read_only(struct vio *v)
{
	uint64_t features = vio_device_features(v);
	uint8_t generation = vio_get8(v, VIRTIO_PCI_COMMON_CFGGENERATION);
	uint16_t off;

	test_group("read-only registers");
	vio_set16(v, VIRTIO_PCI_COMMON_Q_SELECT, 0);
	off = vio_get16(v, VIRTIO_PCI_COMMON_Q_NOFF);
	vio_set32(v, VIRTIO_PCI_COMMON_DF, 0x5a5a5a5a);
	vio_set16(v, VIRTIO_PCI_COMMON_NUMQ, 0x5a5a);
	vio_set8(v, VIRTIO_PCI_COMMON_CFGGENERATION, 0x5a);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_NOFF, 0x5a5a);
	test_check(vio_device_features(v) == features, "device_feature can be written");
	test_check(vio_get16(v, VIRTIO_PCI_COMMON_NUMQ) == v->nqueues, "num_queues");
	test_check(vio_get8(v, VIRTIO_PCI_COMMON_CFGGENERATION) == generation, "config_generation");
	test_check(vio_get16(v, VIRTIO_PCI_COMMON_Q_NOFF) == off, "queue_notify_off");
}

static void check_selectors(struct vio *v)
{
	static const uint32_t pages[] = { 2, 3, 0x80000000, 0xffffffff };
	uint32_t queues[] = { v->nqueues, v->nqueues + 1, 0x7fff, 0xffff };

	test_group("selectors out of range");
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		vio_set32(v, VIRTIO_PCI_COMMON_DFSELECT, pages[i]);
		test_check(!vio_get32(v, VIRTIO_PCI_COMMON_DF), "features of page 0x%x", pages[i]);
		vio_set32(v, VIRTIO_PCI_COMMON_GFSELECT, pages[i]);
		vio_set32(v, VIRTIO_PCI_COMMON_GF, 0xffffffff);
	}
	for (size_t i = 0; i < ARRAY_SIZE(queues); i++) {
		vio_set16(v, VIRTIO_PCI_COMMON_Q_SELECT, (uint16_t)queues[i]);
		test_check(!vio_get16(v, VIRTIO_PCI_COMMON_Q_SIZE), "queue %u has a size",
			   queues[i]);
		vio_set16(v, VIRTIO_PCI_COMMON_Q_SIZE, 16);
		vio_set32(v, VIRTIO_PCI_COMMON_Q_DESCLO, 0xfffffff0);
		vio_set16(v, VIRTIO_PCI_COMMON_Q_ENABLE, 1);
		vio_get16(v, VIRTIO_PCI_COMMON_Q_ENABLE);
		vio_get16(v, VIRTIO_PCI_COMMON_Q_NOFF);
	}
}

/* FEATURES_OK with these driver features: what status reads then. */
static uint8_t try_features(struct vio *v, uint64_t features)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	vio_reset(v);
	vio_set8(v, VIRTIO_PCI_COMMON_STATUS, status);
	vio_driver_features(v, features);
	vio_set8(v, VIRTIO_PCI_COMMON_STATUS, status | VIRTIO_CONFIG_S_FEATURES_OK);
	return vio_get8(v, VIRTIO_PCI_COMMON_STATUS);
}

static void check_features(struct vio *v)
{
	uint64_t offered = vio_device_features(v), version = VIO_BIT(VIRTIO_F_VERSION_1);

	test_group("feature negotiation");
	test_check(offered & version, "VERSION_1 is not offered");
	test_check(try_features(v, offered) & VIRTIO_CONFIG_S_FEATURES_OK, "the offer is refused");
	if (!strict)
		return;
	for (unsigned int bit = 0; bit < 64; bit++) {
		if (!(offered & VIO_BIT(bit)))
			test_check(!(try_features(v, version | VIO_BIT(bit)) &
				     VIRTIO_CONFIG_S_FEATURES_OK),
				   "bit %u, which is not offered, is accepted", bit);
	}
	test_check(!(try_features(v, 0) & VIRTIO_CONFIG_S_FEATURES_OK),
		   "a driver without VERSION_1 is accepted");
}

static void check_widths(struct vio *v)
{
	uint64_t features = vio_device_features(v);

	test_group("odd widths and offsets");
	for (unsigned int at = 0; at < v->common.length && at < 128; at++) {
		uintptr_t addr = v->common.addr + at;

		mmio_read8(addr);
		mmio_read16(addr);
		mmio_read32(addr);
		mmio_read64(addr);
		/* Not status, where any value is a legal request, nor queue_enable. */
		if (at + 8 <= VIRTIO_PCI_COMMON_STATUS || at > VIRTIO_PCI_COMMON_Q_ENABLE + 1) {
			mmio_write64(addr, 0xa5a5a5a5a5a5a5a5);
			mmio_write32(addr, 0x5a5a5a5a);
			mmio_write16(addr, 0xa5a5);
			mmio_write8(addr, 0x5a);
		}
	}
	for (uint32_t at = 0; at < v->bar[v->common.bar].size; at += 509)
		mmio_read32(v->bar[v->common.bar].base + (at & ~3u));
	for (unsigned int at = 0; v->device.length && at < v->device.length + 8; at++) {
		mmio_read8(v->device.addr + at);
		mmio_read64(v->device.addr + at);
	}
	test_check(!vio_get8(v, VIRTIO_PCI_COMMON_STATUS), "status has changed");
	test_check(vio_device_features(v) == features, "features have changed");
	test_check(vio_get16(v, VIRTIO_PCI_COMMON_NUMQ) == v->nqueues, "num_queues has changed");
}

static void check_device_config(struct subject *s)
{
	struct vio *v = &s->vio;
	uint64_t capacity;

	if (s->type != VIRTIO_ID_BLOCK)
		return;
	test_group("device configuration");
	capacity = mmio_read32(v->device.addr);
	for (unsigned int at = 0; at < 8; at += 4)
		mmio_write32(v->device.addr + at, 0x5a5a5a5a);
	test_check(mmio_read32(v->device.addr) == (uint32_t)capacity, "capacity can be written");
	mmio_read8(v->isr.addr);
	test_check(!mmio_read8(v->isr.addr), "ISR is not cleared by reading it");
}

/* --- MSI-X ------------------------------------------------------------------------------------ */

static void check_vectors(struct vio *v, unsigned int n)
{
	vio_set16(v, VIRTIO_PCI_COMMON_Q_SELECT, 0);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_MSIX, 0);
	test_check(vio_get16(v, VIRTIO_PCI_COMMON_Q_MSIX) == 0, "vector 0 is refused");
	vio_set16(v, VIRTIO_PCI_COMMON_Q_MSIX, (uint16_t)n);
	test_check(vio_get16(v, VIRTIO_PCI_COMMON_Q_MSIX) == VIRTIO_MSI_NO_VECTOR,
		   "queue takes vector %u of %u", n, n);
	vio_set16(v, VIRTIO_PCI_COMMON_MSIX, (uint16_t)(n - 1));
	test_check(vio_get16(v, VIRTIO_PCI_COMMON_MSIX) == n - 1, "vector %u is refused", n - 1);
	vio_set16(v, VIRTIO_PCI_COMMON_MSIX, 0xfffe);
	test_check(vio_get16(v, VIRTIO_PCI_COMMON_MSIX) == VIRTIO_MSI_NO_VECTOR,
		   "config takes vector 0xfffe");
	vio_reset(v);
}

static void check_msix(struct vio *v)
{
	unsigned int cap = pci_cap_next(&v->fn, 0, PCI_CAP_ID_MSIX), n;
	uint32_t table, pba;
	uintptr_t at;

	test_group("MSI-X");
	if (!test_check(cap, "no MSI-X capability"))
		return;
	pci_write(&v->fn, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_MASKALL | PCI_MSIX_FLAGS_QSIZE);
	n = (pci_read16(&v->fn, cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1u;
	test_check(pci_read16(&v->fn, cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_MASKALL,
		   "the function mask cannot be set");
	table = pci_read32(&v->fn, cap + PCI_MSIX_TABLE);
	pba = pci_read32(&v->fn, cap + PCI_MSIX_PBA);
	print("    %u vectors\r\n", n);
	if (!test_check((table & 7) < PCI_BARS &&
				(table & ~7u) + (uint64_t)n * MSIX_ENTRY <= v->bar[table & 7].size,
			"table 0x%x lies outside its BAR", table) ||
	    !test_check((pba & 7) < PCI_BARS && (pba & ~7u) + 8 <= v->bar[pba & 7].size,
			"PBA 0x%x lies outside its BAR", pba))
		return;
	at = v->bar[table & 7].base + (table & ~7u);
	for (unsigned int i = 0; i < n; i++, at += MSIX_ENTRY) {
		test_check(mmio_read32(at + PCI_MSIX_ENTRY_VECTOR_CTRL) &
				   PCI_MSIX_ENTRY_CTRL_MASKBIT,
			   "vector %u is not masked", i);
		mmio_write32(at + PCI_MSIX_ENTRY_LOWER_ADDR, 0xfee01000 + 16 * i);
		mmio_write32(at + PCI_MSIX_ENTRY_UPPER_ADDR, i);
		mmio_write32(at + PCI_MSIX_ENTRY_DATA, 0x40 + i);
	}
	at = v->bar[table & 7].base + (table & ~7u);
	for (unsigned int i = 0; i < n; i++, at += MSIX_ENTRY) {
		test_check(mmio_read32(at + PCI_MSIX_ENTRY_LOWER_ADDR) == 0xfee01000 + 16 * i &&
				   mmio_read32(at + PCI_MSIX_ENTRY_UPPER_ADDR) == i &&
				   mmio_read32(at + PCI_MSIX_ENTRY_DATA) == 0x40 + i,
			   "vector %u does not read back", i);
		test_check(mmio_read64(at) == ((0xfee01000 + 16 * i) | (uint64_t)i << 32),
			   "vector %u: 64-bit read", i);
	}
	for (unsigned int i = 0; i < n; i += 64)
		test_check(!mmio_read32(v->bar[pba & 7].base + (pba & ~7u) + i / 8),
			   "vector %u is pending", i);
	check_vectors(v, n);
	pci_write(&v->fn, cap + PCI_MSIX_FLAGS, 2, 0);
}

/* --- fuzz ------------------------------------------------------------------------------------- */

/* Random accesses anywhere in the structures, but no queue is ever enabled: rings are memory. */
static void check_fuzz(struct subject *s)
{
	struct rnd rnd = { .state = opt_number("seed", 1) };
	struct vio *v = &s->vio;
	const struct vio_region *all[] = { &v->common, &v->common, &v->isr, &v->device,
					   &v->notify };
	uint64_t count = opt_number("fuzz", FUZZ_DEFAULT);

	test_group("random accesses");
	for (uint64_t i = 0; i < count; i++) {
		const struct vio_region *r = all[rnd_below(&rnd, ARRAY_SIZE(all))];
		uint64_t value = rnd_next(&rnd);
		unsigned int width = 1u << rnd_below(&rnd, 4), at;

		if (!r->length)
			continue;
		at = (unsigned int)rnd_below(&rnd, r == &v->common ? 64 : r->length);
		if (at + width > r->length)
			continue;
		if (r == &v->common && at < VIRTIO_PCI_COMMON_Q_ENABLE + 2 &&
		    at + width > VIRTIO_PCI_COMMON_Q_ENABLE)
			value = 0;
		switch (rnd_below(&rnd, 2) ? width : width * 16) {
		case 1:
			mmio_write8(r->addr + at, (uint8_t)value);
			break;
		case 2:
			mmio_write16(r->addr + at, (uint16_t)value);
			break;
		case 4:
			mmio_write32(r->addr + at, (uint32_t)value);
			break;
		case 8:
			mmio_write64(r->addr + at, value);
			break;
		case 16:
			mmio_read8(r->addr + at);
			break;
		case 32:
			mmio_read16(r->addr + at);
			break;
		case 64:
			mmio_read32(r->addr + at);
			break;
		default:
			mmio_read64(r->addr + at);
		}
		if (i % 100 == 99)
			subject_works(s, "random accesses");
	}
}

static void check_subject(struct subject *s)
{
	struct vio *v = &s->vio;

	test_group("bring-up");
	subject_works(s, "bring-up");
	check_config_space(v);
	check_after_reset(v);
	check_read_only(v);
	check_selectors(v);
	subject_works(s, "selectors out of range");
	check_features(v);
	vio_reset(v);
	check_widths(v);
	subject_works(s, "odd widths");
	check_device_config(s);
	check_msix(v);
	check_window(v);
	check_command(s);
	check_fuzz(s);
	subject_works(s, "random accesses");
	rings_check(s, strict);
	test_group("end");
	subject_works(s, "everything");
}

void guest_main(const struct boot_info *boot)
{
	static const struct {
		const char *name;
		uint16_t type;
	} types[] = { { "virtio-blk", VIRTIO_ID_BLOCK }, { "virtio-rng", VIRTIO_ID_RNG } };
	bool found = false;
	struct pci_fn fn;

	strict = opt_flag("strict");
	test_group("PCI");
	pci_init(boot->rsdp);
	check_absent();
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (!pci_find(VIO_VENDOR, (uint16_t)(VIO_DEVICE + types[i].type), 0, &fn))
			continue;
		found = true;
		subject = (struct subject){ .name = types[i].name, .type = types[i].type };
		print("%s in slot %u\r\n", subject.name, fn.slot);
		test_group("capabilities");
		if (vio_open(&subject.vio, &fn))
			check_subject(&subject);
	}
	test_check(found, "no virtio function that this test knows");
}
