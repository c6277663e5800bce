/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_pci.c - configuration space, BARs and the host bridge, as firmware and operating systems use
 * them (PCI 3.0, 6.1 and 6.2.5) and as a hostile guest does. One thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <unvmm/platform.h>

#include "fake_vdev.h"
#include "pci_host.h"
#include "state_check.h"

#define WINDOW_END (PLAT_PCI_MEM_BASE + (uint64_t)PLAT_PCI_MEM_SIZE)
#define BAR0	   PCI_BASE_ADDRESS_0
#define BAR2	   PCI_BASE_ADDRESS_2
#define SIZE0	   KiB(64)
#define SIZE1	   KiB(4)

/* A function with two BARs that answer with their name. */
struct toy {
	struct pci_dev pci;
	unsigned int mapped, unmapped; /* calls of bar_changed() */
	unsigned int written;	       /* calls of config_written() */
	uint64_t last_write;
};

struct fixture {
	struct fake_vm *f;
	struct vm *vm;
	struct toy toy[2];
};

static uint64_t answer_a(void *dev, uint64_t off, unsigned int len)
{
	(void)dev;
	(void)len;
	return 0xa000 + off;
}

static uint64_t answer_b(void *dev, uint64_t off, unsigned int len)
{
	(void)dev;
	(void)len;
	return 0xb000 + off;
}

static void take_write(void *dev, uint64_t off, unsigned int len, uint64_t value)
{
	struct toy *t = dev;

	(void)len;
	t->last_write = off << 32 | value;
}

static const struct bus_ops ops_a = { .read = answer_a, .write = take_write };
static const struct bus_ops ops_b = { .read = answer_b, .write = take_write };

static void toy_bar_changed(struct pci_dev *p, unsigned int bar, bool mapped)
{
	struct toy *t = container_of(p, struct toy, pci);

	assert_true(bar < 2 && p->bars[bar].mapped);
	if (mapped)
		t->mapped++;
	else
		t->unmapped++;
}

static void toy_config_written(struct pci_dev *p, unsigned int off, unsigned int len)
{
	assert_true(off + len <= PCI_CONFIG_SIZE);
	container_of(p, struct toy, pci)->written++;
}

static void toy_plug(struct fixture *x, struct toy *t)
{
	static const struct pci_ids ids = { .vendor = 0x1234,
					    .device = 0x5678,
					    .subvendor = 0x9abc,
					    .subdevice = 0xdef0,
					    .revision = 7,
					    .class_code = 0x0c0330 };
	struct diag d = { 0 };

	memset(t, 0, sizeof(*t));
	t->pci.vm = x->vm;
	t->pci.id = "toy";
	t->pci.bar_changed = toy_bar_changed;
	t->pci.config_written = toy_config_written;
	pci_dev_init(&t->pci, &ids);
	pci_add_bar(&t->pci, 0, SIZE0, &ops_a, t, "toy-a");
	pci_add_bar(&t->pci, 1, SIZE1, &ops_b, t, "toy-b");
	if (pci_plug(x->vm, &t->pci, &d))
		fail_msg("%s", d.text);
}

static int setup(void **state)
{
	static struct fixture x;

	x.f = fake_vm_with_pci();
	x.vm = &x.f->vm;
	toy_plug(&x, &x.toy[0]);
	toy_plug(&x, &x.toy[1]);
	*state = &x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	pci_unplug(&x->toy[0].pci);
	pci_unplug(&x->toy[1].pci);
	fake_vm_free(x->f);
	return 0;
}

static uint32_t get(struct toy *t, unsigned int off, unsigned int len)
{
	return (uint32_t)fake_ecam_read(t->pci.vm, t->pci.slot, off, len);
}

static void set(struct toy *t, unsigned int off, unsigned int len, uint32_t v)
{
	fake_ecam_write(t->pci.vm, t->pci.slot, off, len, v);
}

static uint64_t bar(struct toy *t, unsigned int reg)
{
	return (get(t, reg, 4) & PCI_BASE_ADDRESS_MEM_MASK) | (uint64_t)get(t, reg + 4, 4) << 32;
}

static void set_bar(struct toy *t, unsigned int reg, uint64_t base)
{
	set(t, reg, 4, (uint32_t)base);
	set(t, reg + 4, 4, (uint32_t)(base >> 32));
}

static void decode(struct toy *t, bool on)
{
	set(t, PCI_COMMAND, 2, on ? PCI_COMMAND_MEMORY : 0);
}

static uint64_t mem(struct toy *t, uint64_t addr)
{
	return bus_read(&t->pci.vm->mmio, addr, 4);
}

/* --- header ---------------------------------------------------------------------------------- */

static void test_header(void **state)
{
	struct fixture *x = *state;
	struct toy *t = &x->toy[0];

	assert_int_equal(t->pci.slot, 1); /* 0 is the bridge */
	assert_int_equal(get(t, PCI_VENDOR_ID, 4), 0x56781234);
	assert_int_equal(get(t, PCI_CLASS_REVISION, 4), 0x0c033007);
	assert_int_equal(get(t, PCI_SUBSYSTEM_VENDOR_ID, 4), 0xdef09abc);
	assert_int_equal(get(t, PCI_HEADER_TYPE, 1), 0);
	assert_int_equal(get(t, PCI_INTERRUPT_PIN, 1), 0);
	assert_int_equal(get(t, PCI_STATUS, 2), 0); /* no capability, no list */
	for (unsigned int off = 0; off < PCI_CONFIG_SIZE; off += 4) {
		uint32_t before = get(t, off, 4), changed;

		set(t, off, 4, ~before);
		changed = get(t, off, 4) ^ before;
		set(t, off, 4, before);
		assert_int_equal(get(t, off, 4), before);
		if (off == PCI_COMMAND)
			assert_int_equal(changed, PCI_COMMAND_IO | PCI_COMMAND_MEMORY |
							  PCI_COMMAND_MASTER |
							  PCI_COMMAND_INTX_DISABLE);
		else if (off == PCI_INTERRUPT_LINE || off == PCI_CACHE_LINE_SIZE)
			assert_int_equal(changed, 0xff);
		else if (off < BAR0 || off >= BAR0 + 16)
			assert_int_equal(changed, 0);
	}
}

static void test_odd_accesses(void **state)
{
	struct fixture *x = *state;
	struct toy *t = &x->toy[0];
	unsigned int written = t->written;

	for (unsigned int off = 0; off < 0x100; off++) {
		for (unsigned int len = 1; len <= 8; len *= 2) {
			uint64_t v = fake_ecam_read(x->vm, t->pci.slot, off, len), want = 0;

			if (len == 8 || off % len)
				want = len == 8 ? UINT64_MAX : (1ull << (8 * len)) - 1;
			else
				memcpy(&want, t->pci.config + off, len);
			assert_true(v == want);
			if (len == 8 || off % len)
				fake_ecam_write(x->vm, t->pci.slot, off, len, UINT64_MAX);
		}
	}
	assert_int_equal(t->written, written);
	/* The page of a function is 4 KiB: an access may not leave it. */
	assert_int_equal(fake_ecam_read(x->vm, t->pci.slot, 0xffe, 4), UINT32_MAX);
	assert_int_equal(fake_ecam_read(x->vm, t->pci.slot, 0xffc, 4), 0);
}

/* --- BARs ------------------------------------------------------------------------------------ */

static void test_bar_sizing(void **state)
{
	struct fixture *x = *state;
	struct toy *t = &x->toy[0];
	uint64_t base = bar(t, BAR0);

	assert_int_equal(get(t, BAR0, 1) & 0xf, PCI_BASE_ADDRESS_MEM_TYPE_64);
	decode(t, true); /* some measure without switching decode off */
	assert_int_equal(mem(t, base), 0xa000);
	set(t, BAR0, 4, UINT32_MAX);
	set(t, BAR0 + 4, 4, UINT32_MAX);
	assert_true(bar(t, BAR0) == ~(SIZE0 - 1));
	assert_int_equal(get(t, BAR0, 1) & 0xf, PCI_BASE_ADDRESS_MEM_TYPE_64);
	assert_int_equal(mem(t, base), UINT32_MAX);
	set_bar(t, BAR0, base);
	assert_true(bar(t, BAR0) == base);
	assert_int_equal(mem(t, base + 8), 0xa008);
	set_bar(t, BAR2, UINT64_MAX);
	assert_true(bar(t, BAR2) == ~(SIZE1 - 1));
	/* The pair that is not there. */
	set_bar(t, PCI_BASE_ADDRESS_4, UINT64_MAX);
	assert_true(bar(t, PCI_BASE_ADDRESS_4) == 0);
}

static void test_bar_assignment(void **state)
{
	struct fixture *x = *state;
	uint64_t b[4];

	for (unsigned int i = 0; i < 4; i++) {
		uint64_t size = i % 2 ? SIZE1 : SIZE0;

		b[i] = bar(&x->toy[i / 2], i % 2 ? BAR2 : BAR0);
		assert_true(b[i] % size == 0);
		assert_true(range_within(b[i], size, PLAT_PCI_MEM_BASE, PLAT_PCI_MEM_SIZE));
		for (unsigned int j = 0; j < i; j++)
			assert_false(ranges_overlap(b[i], size, b[j], j % 2 ? SIZE1 : SIZE0));
	}
	assert_int_equal(mem(&x->toy[0], b[0]), UINT32_MAX); /* decode is off at power-on */
}

static void test_bar_moves(void **state)
{
	struct fixture *x = *state;
	struct toy *t = &x->toy[0];
	uint64_t old = bar(t, BAR0), now = WINDOW_END - SIZE0;

	decode(t, true);
	assert_int_equal(t->mapped, 2);
	set_bar(t, BAR0, now);
	assert_int_equal(mem(t, old), UINT32_MAX);
	assert_int_equal(mem(t, now + SIZE0 - 4), 0xa000 + SIZE0 - 4);
	bus_write(&x->vm->mmio, now + 16, 4, 5);
	assert_true(t->last_write == (16ull << 32 | 5));
	decode(t, false);
	assert_int_equal(mem(t, now), UINT32_MAX);
	assert_int_equal(t->mapped, t->unmapped);
	decode(t, true);
	assert_int_equal(mem(t, now), 0xa000);
	/* The same value again is no move. */
	t->mapped = t->unmapped = 0;
	set_bar(t, BAR0, now);
	decode(t, true);
	assert_int_equal(t->mapped + t->unmapped, 0);
}

static void test_bar_outside_of_the_window(void **state)
{
	static const uint64_t places[] = {
		0,
		0x100000,
		PLAT_PCI_MEM_BASE - SIZE0,
		WINDOW_END,
		PLAT_ECAM_BASE,
		PLAT_IOAPIC_BASE,
		PLAT_LAPIC_BASE,
		PLAT_RAM_HIGH_BASE,
		PLAT_RAM_HIGH_BASE + PLAT_PCI_MEM_BASE, /* the right low half */
		~(SIZE0 - 1),
	};
	struct fixture *x = *state;
	struct toy *t = &x->toy[0];
	uint64_t base = bar(t, BAR0);

	decode(t, true);
	for (unsigned int i = 0; i < ARRAY_SIZE(places); i++) {
		set_bar(t, BAR0, places[i]);
		assert_true(bar(t, BAR0) == places[i]);
		assert_false(t->pci.bars[0].mapped);
		if (places[i] != PLAT_ECAM_BASE)
			assert_int_equal(mem(t, places[i]), UINT32_MAX);
		assert_int_equal(get(t, PCI_VENDOR_ID, 2), 0x1234);
	}
	set_bar(t, BAR0, base);
	assert_int_equal(mem(t, base), 0xa000);
}

static void test_bars_overlap(void **state)
{
	struct fixture *x = *state;
	struct toy *a = &x->toy[0], *b = &x->toy[1];
	uint64_t home = bar(a, BAR0), other = bar(b, BAR0);

	decode(a, true);
	decode(b, true);
	/* b comes over a: a goes on answering, b is nowhere. */
	set_bar(b, BAR2, home + SIZE1);
	assert_int_equal(mem(a, home + SIZE1), 0xa000 + SIZE1);
	assert_false(b->pci.bars[1].mapped);
	/* a goes away: b was in its place all the time. */
	set_bar(a, BAR0, WINDOW_END - SIZE0);
	assert_int_equal(mem(b, home + SIZE1), 0xb000);
	assert_int_equal(mem(b, other), 0xa000);
	/* The same between the BARs of one function, whichever is written first. */
	set_bar(a, BAR2, WINDOW_END - SIZE1);
	assert_false(a->pci.bars[1].mapped);
	set_bar(a, BAR0, WINDOW_END - 2 * SIZE0);
	assert_int_equal(mem(a, WINDOW_END - SIZE1), 0xb000);
	decode(b, false);
	decode(a, false);
	assert_int_equal(a->mapped, a->unmapped);
	assert_int_equal(b->mapped, b->unmapped);
}

static void test_window_full(void **state)
{
	struct fixture *x = *state;
	struct toy big[3];
	static const struct pci_ids ids = { .vendor = 1, .device = 2 };
	struct diag d = { 0 };

	for (unsigned int i = 0; i < 3; i++) {
		memset(&big[i], 0, sizeof(big[i]));
		big[i].pci.vm = x->vm;
		big[i].pci.id = "big";
		pci_dev_init(&big[i].pci, &ids);
		pci_add_bar(&big[i].pci, 0, PLAT_PCI_MEM_SIZE / 2, &ops_a, &big[i], "big");
		/* The first half of the window is broken into already. */
		assert_int_equal(pci_plug(x->vm, &big[i].pci, &d), i ? -ENOSPC : 0);
	}
	assert_non_null(strstr(d.text, "window is full"));
	assert_int_equal(fake_ecam_read(x->vm, 3, PCI_VENDOR_ID, 2), 1);
	assert_int_equal(fake_ecam_read(x->vm, 4, PCI_VENDOR_ID, 2), 0xffff);
	pci_unplug(&big[0].pci);
}

static void test_slots_full(void **state)
{
	static struct toy many[PLAT_PCI_DEVICES_MAX];
	static const struct pci_ids ids = { .vendor = 1, .device = 2 };
	struct fixture *x = *state;
	struct diag d = { 0 };

	/* Two are taken by the fixture. */
	for (unsigned int i = 0; i < PLAT_PCI_DEVICES_MAX; i++) {
		memset(&many[i], 0, sizeof(many[i]));
		many[i].pci.vm = x->vm;
		many[i].pci.id = "many";
		pci_dev_init(&many[i].pci, &ids);
		assert_int_equal(pci_plug(x->vm, &many[i].pci, &d),
				 i < PLAT_PCI_DEVICES_MAX - 2 ? 0 : -ENOSPC);
	}
	assert_non_null(strstr(d.text, "slots"));
	assert_int_equal(fake_ecam_read(x->vm, 31, PCI_VENDOR_ID, 2), 1);
	for (unsigned int i = 0; i < PLAT_PCI_DEVICES_MAX - 2; i++)
		pci_unplug(&many[i].pci);
}

/* --- capabilities ---------------------------------------------------------------------------- */

static void test_capability_list(void **state)
{
	struct fixture *x = *state;
	struct pci_dev *p = &x->toy[0].pci;
	unsigned int count = 0, walked = 0, at;
	int off = 0,
	    first = pci_add_cap(p, PCI_CAP_ID_VNDR, 19); /* odd length: the next is aligned */

	assert_int_equal(first, 0x40);
	assert_int_equal(get(&x->toy[0], PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
	for (count = 1; (off = pci_add_cap(p, PCI_CAP_ID_VNDR, 16)) > 0; count++)
		assert_true(off % 4 == 0 && off + 16 <= 0x100);
	assert_int_equal(off, -ENOSPC);
	assert_int_equal(pci_add_cap(p, PCI_CAP_ID_VNDR, 1), -ENOSPC);
	for (at = get(&x->toy[0], PCI_CAPABILITY_LIST, 1); at; at = get(&x->toy[0], at + 1, 1)) {
		assert_int_equal(get(&x->toy[0], at, 1), PCI_CAP_ID_VNDR);
		assert_true(++walked <= count);
	}
	assert_int_equal(walked, count);
	/* The guest cannot bend the list. */
	for (unsigned int i = 0x34; i < 0x100; i++)
		if (i != PCI_INTERRUPT_LINE)
			set(&x->toy[0], i, 1, 0x40);
	assert_int_equal(get(&x->toy[0], PCI_CAPABILITY_LIST, 1), 0x40);
	assert_int_equal(get(&x->toy[0], 0x41, 1), 0x54);
}

/* What a driver of virtio looks for (4.1.4): one of each, inside the BARs that they name. */
static void test_virtio_capabilities(void **state)
{
	struct fixture *x = *state;
	struct diag d = { 0 };
	struct fake_vdev *fv = fake_vdev_new(x->vm, 2, VIRTIO_BIT(VIRTIO_F_VERSION_1), &d);
	unsigned int seen = 0, n = 0;

	assert_non_null(fv);
	for (uint64_t at = vd_config_read(fv, PCI_CAPABILITY_LIST, 1); at;
	     at = vd_config_read(fv, (unsigned int)at + 1, 1)) {
		unsigned int c = (unsigned int)at;
		uint64_t off = vd_config_read(fv, c + 8, 4), len = vd_config_read(fv, c + 12, 4);
		uint64_t type = vd_config_read(fv, c + 3, 1);

		assert_true(c >= 0x40 && c % 4 == 0 && ++n <= 6);
		if (vd_config_read(fv, c, 1) == PCI_CAP_ID_MSIX) {
			assert_int_equal(vd_config_read(fv, c + 2, 2), 2);
			assert_int_equal(vd_config_read(fv, c + 4, 4) & 7, 2 * VP_MSIX_BAR);
			continue;
		}
		assert_int_equal(vd_config_read(fv, c, 1), PCI_CAP_ID_VNDR);
		assert_int_equal(vd_config_read(fv, c + 4, 1), 0);
		assert_true(range_within(off, len, 0, VP_BAR_SIZE));
		assert_false(seen & 1u << type);
		seen |= 1u << type;
		if (type == VIRTIO_PCI_CAP_NOTIFY_CFG) {
			assert_int_equal(vd_config_read(fv, c + 2, 1), 20);
			assert_int_equal(vd_config_read(fv, c + 16, 4), VP_NOTIFY_MULT);
			assert_int_equal(len, 2 * VP_DOORBELL_PAGE);
		} else if (type == VIRTIO_PCI_CAP_DEVICE_CFG) {
			assert_int_equal(len, FAKE_VDEV_CONFIG);
		}
	}
	assert_int_equal(seen, 1u << VIRTIO_PCI_CAP_COMMON_CFG | 1u << VIRTIO_PCI_CAP_NOTIFY_CFG |
				       1u << VIRTIO_PCI_CAP_ISR_CFG |
				       1u << VIRTIO_PCI_CAP_DEVICE_CFG |
				       1u << VIRTIO_PCI_CAP_PCI_CFG);
	fake_vdev_free(fv);
}

/* --- the ports ------------------------------------------------------------------------------- */

static void cfg_addr(struct fixture *x, uint32_t addr)
{
	bus_write(&x->vm->pio, PLAT_PCI_CFG_ADDR, 4, addr);
}

static void test_ports_and_ecam_agree(void **state)
{
	struct fixture *x = *state;

	for (unsigned int slot = 0; slot < 4; slot++) {
		for (unsigned int off = 0; off < 0x100; off++) {
			cfg_addr(x, 0x80000000 | slot << 11 | (off & 0xfc));
			for (unsigned int len = 1; len <= 4; len *= 2) {
				if (off % 4 + len > 4)
					continue;
				assert_int_equal(bus_read(&x->vm->pio, PLAT_PCI_CFG_DATA + off % 4,
							  len),
						 fake_ecam_read(x->vm, slot, off, len));
			}
		}
	}
	cfg_addr(x, 0x80000000 | 1 << 11 | PCI_INTERRUPT_LINE);
	bus_write(&x->vm->pio, PLAT_PCI_CFG_DATA, 1, 0x5c);
	assert_int_equal(get(&x->toy[0], PCI_INTERRUPT_LINE, 1), 0x5c);
	assert_int_equal(bus_read(&x->vm->pio, PLAT_PCI_CFG_ADDR, 4),
			 0x80000000 | 1 << 11 | PCI_INTERRUPT_LINE);
}

static void test_nobody_there(void **state)
{
	struct fixture *x = *state;
	static const uint32_t empty[] = {
		0x80000000 | 5 << 11,			 /* slot */
		0x80000000 | 1 << 11 | 1 << 8,		 /* function */
		0x80000000 | 1 << 16 | 1 << 11,		 /* bus */
		0x80ff0000 | 1 << 11,		1 << 11, /* not enabled */
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(empty); i++) {
		cfg_addr(x, empty[i]);
		assert_int_equal(bus_read(&x->vm->pio, PLAT_PCI_CFG_DATA, 4), UINT32_MAX);
		bus_write(&x->vm->pio, PLAT_PCI_CFG_DATA, 4, UINT32_MAX);
	}
	for (unsigned int slot = 3; slot < 32; slot++)
		for (unsigned int func = 0; func < 8; func++)
			assert_int_equal(fake_ecam_read(x->vm, slot, func << 12, 4), UINT32_MAX);
	for (unsigned int func = 1; func < 8; func++)
		assert_int_equal(fake_ecam_read(x->vm, 1, func << 12, 4), UINT32_MAX);
	/* Half an address register, and an access over both ports. */
	cfg_addr(x, 0x80000000 | 1 << 11);
	bus_write(&x->vm->pio, PLAT_PCI_CFG_ADDR, 2, 0);
	assert_int_equal(bus_read(&x->vm->pio, PLAT_PCI_CFG_ADDR, 2), 0xffff);
	assert_int_equal(bus_read(&x->vm->pio, PLAT_PCI_CFG_ADDR + 2, 4), UINT32_MAX);
	assert_int_equal(bus_read(&x->vm->pio, PLAT_PCI_CFG_DATA + 2, 4), UINT32_MAX);
	assert_int_equal(bus_read(&x->vm->pio, PLAT_PCI_CFG_ADDR, 4), 0x80000000 | 1 << 11);
}

static void test_reset_port(void **state)
{
	struct fixture *x = *state;

	bus_write(&x->vm->pio, PLAT_PCI_RESET_PORT, 1, 2);
	bus_write(&x->vm->pio, PLAT_PCI_RESET_PORT, 2, 6);
	assert_int_equal(x->vm->event, VM_EVENT_NONE);
	bus_write(&x->vm->pio, PLAT_PCI_RESET_PORT, 1, 6);
	assert_int_equal(x->vm->event, VM_EVENT_REBOOT);
}

/* --- reset and state ------------------------------------------------------------------------- */

static void test_function_reset(void **state)
{
	struct fixture *x = *state;
	struct toy *t = &x->toy[0];
	uint64_t home = bar(t, BAR0);

	decode(t, true);
	set_bar(t, BAR0, WINDOW_END - SIZE0);
	set(t, PCI_INTERRUPT_LINE, 1, 3);
	pci_reset(&t->pci);
	assert_true(bar(t, BAR0) == home);
	assert_int_equal(get(t, PCI_COMMAND, 2), 0);
	assert_int_equal(get(t, PCI_INTERRUPT_LINE, 1), 0);
	assert_int_equal(mem(t, WINDOW_END - SIZE0), UINT32_MAX);
	assert_int_equal(mem(t, home), UINT32_MAX);
	assert_int_equal(t->mapped, t->unmapped);
}

static void test_state(void **state)
{
	struct fixture *x = *state;
	struct toy *t = &x->toy[0];
	const struct state_ref ref = { &pci_dev_state, &t->pci };

	decode(t, true);
	set_bar(t, BAR0, WINDOW_END - SIZE0);
	state_check_roundtrip("toy0", &ref, 1);
	assert_int_equal(mem(t, WINDOW_END - SIZE0), 0xa000);
	state_check_refuses("toy0", &ref, 1, "/pci", "slot", 2, "slot");
}

/* A blob from somewhere else may set what the guest could have written, and nothing besides. */
static void test_state_refusals(void **state)
{
	static const unsigned int fixed[] = { PCI_VENDOR_ID, PCI_STATUS, PCI_CLASS_REVISION, BAR0,
					      PCI_CAPABILITY_LIST };
	struct fixture *x = *state;
	struct pci_dev *p = &x->toy[0].pci, before;
	const struct state_ref ref = { &pci_dev_state, p };
	struct state_load *load;
	size_t len;
	void *blob;

	for (unsigned int i = 0; i < ARRAY_SIZE(fixed); i++) {
		struct diag d = { 0 };

		before = *p;
		p->wmask[fixed[i]] |= 1;
		p->config[fixed[i]] |= 1;
		assert_int_equal(state_save("toy0", &ref, 1, &blob, &len, &d), 0);
		*p = before;
		if (state_parse("toy0", blob, len, &ref, 1, &load, &d) != -EINVAL)
			fail_msg("byte 0x%x may be changed", fixed[i]);
		assert_non_null(strstr(d.text, "configuration byte"));
		assert_memory_equal(p->config, before.config, sizeof(before.config));
		free(blob);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(header),	       TEST(odd_accesses),	  TEST(bar_sizing),
		TEST(bar_assignment),  TEST(bar_moves),		  TEST(bar_outside_of_the_window),
		TEST(bars_overlap),    TEST(window_full),	  TEST(slots_full),
		TEST(capability_list), TEST(virtio_capabilities), TEST(ports_and_ecam_agree),
		TEST(nobody_there),    TEST(reset_port),	  TEST(function_reset),
		TEST(state),	       TEST(state_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
