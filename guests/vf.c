/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf.c - the lives of assigned disks: several at once, drivers that come and go, a machine that is
 * reset, a kernel that starts another one, a function that fails under load; its interrupts; and
 * what of it a guest can see. tests/boot/vf runs it and knows what is to come of each mode.
 *
 * Options: mode=disks|restart|reboot|kexec|load|lose|hang|vectors|windows|card-windows, disks=N,
 * queues=N, count=N, depth=N; windows: mapped=N (doorbells that are pages of the function);
 * card-windows: the same of a network card, disks=0; load: lost (the function is to ask for a
 * reset, and to be gone), irq (queue 0 interrupts; nobody takes it). stay: it does not end.
 */
#include "lib/blk.h"

#include "lib/guest.h"
#include "lib/io.h"
#include "lib/net.h"

#define DISKS_MAX     8
#define WORDS	      (BLK_SECTOR / 8)
#define SILENCE_S     3	 /* so long without a completion: a driver asks for the status */
#define PATIENCE_S    30 /* until what must happen counts as not happening */
#define SHORTLY_MS    100
#define CYCLES_PER_MS 3000000ull /* of a fast machine */

static struct blk disks[DISKS_MAX];
static struct net card;
static unsigned int ndisks;
static uint64_t count;

static void pause_ms(uint64_t ms)
{
	uint64_t start = io_tsc();

	while (io_tsc() - start < ms * CYCLES_PER_MS)
		io_relax();
}

static bool needs_reset(const struct blk *b)
{
	return vio_get8(&b->vio, VIRTIO_PCI_COMMON_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* Without event indexes every request rings and interrupts. */
static bool start(struct blk *b)
{
	uint64_t features = blk_wanted() & ~VIO_BIT(VIRTIO_RING_F_EVENT_IDX);

	return blk_start(b, features, (unsigned int)opt_number("queues", 1), 0);
}

/* --- data: what sector s of a disk holds is known ----------------------------------------------
 */

static uint64_t word_at(const struct blk *b, uint64_t sector, unsigned int word)
{
	return rnd_hash(sector * WORDS + word) ^ rnd_hash((uint64_t)(b - disks) << 32 | count);
}

static void fill(const struct blk *b, uint64_t *data, uint64_t sector)
{
	for (unsigned int i = 0; i < WORDS; i++)
		data[i] = word_at(b, sector, i);
}

static bool holds(const struct blk *b, const uint64_t *data, uint64_t sector)
{
	for (unsigned int i = 0; i < WORDS; i++)
		if (data[i] != word_at(b, sector, i))
			return false;
	return true;
}

static void write_sector(struct blk *b, uint64_t sector)
{
	uint64_t data[WORDS];

	fill(b, data, sector);
	test_check(blk_do(b, VIRTIO_BLK_T_OUT, sector, data, BLK_SECTOR) == VIRTIO_BLK_S_OK,
		   "sector %llu cannot be written", (unsigned long long)sector);
}

static void check_sector(struct blk *b, uint64_t sector)
{
	uint64_t data[WORDS] = { 0 };

	test_check(blk_do(b, VIRTIO_BLK_T_IN, sector, data, BLK_SECTOR) == VIRTIO_BLK_S_OK &&
			   holds(b, data, sector),
		   "disk %u: sector %llu is not what was written", (unsigned int)(b - disks),
		   (unsigned long long)sector);
}

static void works(struct blk *b, const char *when)
{
	if (!start(b)) {
		test_check(false, "the function cannot be started %s", when);
		return;
	}
	for (uint64_t s = 1; s <= 8; s++) {
		write_sector(b, s);
		check_sector(b, s);
	}
}

/* --- modes ------------------------------------------------------------------------------------ */

static void mode_disks(void)
{
	for (unsigned int d = 0; d < ndisks; d++)
		if (!start(&disks[d]))
			test_abort("disk %u cannot be started", d);
	for (uint64_t s = 0; s < count; s++)
		for (unsigned int d = 0; d < ndisks; d++)
			write_sector(&disks[d], s % disks[d].capacity);
	for (uint64_t s = 0; s < count; s++)
		for (unsigned int d = 0; d < ndisks; d++)
			check_sector(&disks[d], s % disks[d].capacity);
}

/* A driver is unbound and bound, again and again. */
static void mode_restart(void)
{
	for (uint64_t i = 0; i < count; i++) {
		for (unsigned int d = 0; d < ndisks; d++)
			works(&disks[d], "again");
		if (i % 2)
			test_check(vio_reset(&disks[0].vio), "no reset");
	}
}

/* The disk tells how often the machine has been started; the function is never told of an end. */
static void mode_reboot(void)
{
	uint64_t data[WORDS] = { 0 };

	works(&disks[0], "after a start of the machine");
	test_check(blk_do(&disks[0], VIRTIO_BLK_T_IN, 0, data, BLK_SECTOR) == VIRTIO_BLK_S_OK,
		   "the number of starts cannot be read");
	print("start %llu\r\n", (unsigned long long)++data[0]);
	test_check(blk_do(&disks[0], VIRTIO_BLK_T_OUT, 0, data, BLK_SECTOR) == VIRTIO_BLK_S_OK,
		   "the number of starts cannot be written");
	if (data[0] >= count)
		return;
	io_out8(0xcf9, 0x02);
	io_out8(0xcf9, 0x06);
	test_abort("the machine is not reset");
}

static unsigned int send_reads(struct blk *b, unsigned int n)
{
	struct blk_req *r;
	unsigned int sent = 0;

	while (sent < n && (r = blk_get(b, 0))) {
		memset(r->data, 0, BLK_SECTOR);
		if (!blk_send(b, 0, r, VIRTIO_BLK_T_IN, 1 + sent % 8, BLK_SECTOR))
			test_abort("no descriptors");
		sent++;
	}
	blk_kick(b, 0);
	return sent;
}

/* Reads that were under way must not arrive once the function may not master the bus. */
static void mode_kexec(void)
{
	struct blk *b = &disks[0];
	struct blk_queue *q = &b->q[0];

	works(b, "at first");
	for (uint64_t i = 0; i < count; i++) {
		b->depth = 32;
		send_reads(b, 32);
		pci_command(&b->vio.fn, 0, PCI_COMMAND_MASTER);
		for (unsigned int k = 0; k < BLK_REQS_MAX; k++)
			if (q->req[k].data)
				memset(q->req[k].data, 0xa5, BLK_SECTOR);
		memset((void *)(uintptr_t)q->vq.used, 0xa5, 4 + 8u * q->vq.size);
		pause_ms(SHORTLY_MS);
		for (unsigned int k = 0; k < BLK_REQS_MAX; k++)
			for (unsigned int at = 0; q->req[k].data && at < BLK_SECTOR; at++)
				if (!test_check(q->req[k].data[at] == 0xa5,
						"a read arrives after the end"))
					return;
		test_check(q->vq.used->idx == 0xa5a5, "the used ring moves after the end");
		pci_command(&b->vio.fn, PCI_COMMAND_MASTER, 0);
		b->depth = 1;
		works(b, "by the next kernel");
	}
}

/*
 * Verified reads at a depth, in silence: no register is touched while they complete. True: all came
 * back; false: the function has asked for a reset instead.
 */
static bool run_load(struct blk *b, uint64_t n)
{
	uint64_t sent = 0, done = 0, silence = 0;

	while (done < n) {
		for (unsigned int qi = 0; qi < b->nqueues; qi++) {
			uint64_t before = sent;
			struct blk_req *r;

			while ((r = blk_reap(b, qi))) {
				test_check(r->status == VIRTIO_BLK_S_OK &&
						   holds(b, (uint64_t *)r->data, r->hdr.sector),
					   "sector %llu is not what was written",
					   (unsigned long long)r->hdr.sector);
				blk_put(b, qi, r);
				done++;
				silence = 0;
			}
			while (sent < n && b->q[qi].vq.nfree && (r = blk_get(b, qi))) {
				memset(r->data, 0, BLK_SECTOR);
				if (!blk_send(b, qi, r, VIRTIO_BLK_T_IN, 1 + sent % 8, BLK_SECTOR))
					test_abort("no descriptors");
				sent++;
			}
			if (sent != before)
				blk_kick(b, qi);
		}
		if (vio_within(&silence, SILENCE_S))
			continue;
		if (needs_reset(b))
			return false;
		silence = 0;
		print("silence\r\n");
		for (unsigned int qi = 0; qi < b->nqueues; qi++)
			vq_ring(&b->q[qi].vq);
	}
	return true;
}

/* There is no function any more: each driver is told so, and the machine lives. */
static void check_lost(struct blk *b)
{
	print("needs reset\r\n");
	for (unsigned int i = 0; i < 2; i++) {
		uint64_t patience = 0;

		if (!test_check(vio_reset(&b->vio), "a lost function cannot be reset") ||
		    !test_check(start(b), "a lost function has no registers"))
			return;
		while (!needs_reset(b))
			if (!vio_within(&patience, PATIENCE_S))
				test_abort("a lost function looks alive");
	}
	print("the machine lives\r\n");
}

struct msix {
	uintptr_t entry, pending;
};

static struct msix open_vector(const struct vio *v)
{
	unsigned int cap = pci_cap_next(&v->fn, 0, PCI_CAP_ID_MSIX);
	uint32_t table, pba;
	struct msix m;

	if (!cap)
		test_abort("no MSI-X");
	table = pci_read32(&v->fn, cap + PCI_MSIX_TABLE);
	pba = pci_read32(&v->fn, cap + PCI_MSIX_PBA);
	m.entry = v->bar[table & 7].base + (table & ~7u);
	m.pending = v->bar[pba & 7].base + (pba & ~7u);
	mmio_write32(m.entry + PCI_MSIX_ENTRY_LOWER_ADDR, 0xfee00000);
	mmio_write32(m.entry + PCI_MSIX_ENTRY_UPPER_ADDR, 0);
	mmio_write32(m.entry + PCI_MSIX_ENTRY_DATA, 0x40);
	mmio_write32(m.entry + PCI_MSIX_ENTRY_VECTOR_CTRL, PCI_MSIX_ENTRY_CTRL_MASKBIT);
	pci_write(&v->fn, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_SELECT, 0);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_MSIX, 0);
	test_check(!vio_get16(v, VIRTIO_PCI_COMMON_Q_MSIX), "no vector for queue 0");
	return m;
}

static void mode_load(void)
{
	struct blk *b = &disks[0];
	struct msix m;

	works(b, "at first");
	if (opt_flag("irq")) {
		m = open_vector(&b->vio);
		mmio_write32(m.entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
		b->q[0].vq.avail->flags = 0;
	}
	b->depth = (unsigned int)opt_number("depth", 1);
	print("steady\r\n");
	if (test_check(run_load(b, count) != opt_flag("lost"), "not what was to come") &&
	    opt_flag("lost"))
		check_lost(b);
}

/* The function goes while drivers come and go: at a request, or in the middle of its start. */
static void mode_lose(void)
{
	struct blk *b = &disks[0];

	for (uint64_t i = 0; i < count; i++) {
		uint64_t patience = 0;

		if (!start(b))
			return;
		send_reads(b, 1);
		while (!blk_reap(b, 0) && !needs_reset(b))
			if (!vio_within(&patience, PATIENCE_S))
				test_abort("neither a completion nor a request for a reset");
		if (needs_reset(b)) {
			check_lost(b);
			return;
		}
	}
	test_check(false, "nothing was lost");
}

/* One of the requests is never given back; the others are, and a reset gets rid of it. */
static void mode_hang(void)
{
	struct blk *b = &disks[0];
	uint64_t silence = 0;
	unsigned int left;
	struct blk_req *r;

	if (!start(b))
		test_abort("the function cannot be started");
	b->depth = 16;
	left = send_reads(b, 16);
	while (vio_within(&silence, SILENCE_S))
		while ((r = blk_reap(b, 0))) {
			blk_put(b, 0, r);
			left--;
			silence = 0;
		}
	print("hung %u\r\n", left);
	b->depth = 1;
	works(b, "after a request that hung");
}

/* --- interrupts: a masked entry keeps them in the pending bits ----------------------------------
 */

static bool interrupted(const struct msix *m)
{
	for (unsigned int ms = 0; !(mmio_read32(m->pending) & 1); ms++) {
		if (ms == 2 * SHORTLY_MS)
			return false;
		pause_ms(1);
	}
	/* Once unmasked it is the local APIC's, and pending no more. */
	mmio_write32(m->entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
	mmio_write32(m->entry + PCI_MSIX_ENTRY_VECTOR_CTRL, PCI_MSIX_ENTRY_CTRL_MASKBIT);
	return true;
}

static void mode_vectors(void)
{
	struct blk *b = &disks[0];
	unsigned int lost = 0;
	struct msix m;

	works(b, "at first");
	if (!vio_reset(&b->vio) || !start(b))
		test_abort("the function cannot be started");
	m = open_vector(&b->vio);
	b->q[0].vq.avail->flags = 0;
	/* A device may interrupt for nothing when it comes up. */
	check_sector(b, 1);
	while (interrupted(&m))
		;
	for (uint64_t i = 0; i < count; i++) {
		check_sector(b, 1 + i % 8);
		lost += !interrupted(&m);
		test_check(!(mmio_read32(m.pending) & 1),
			   "an interrupt that was delivered is pending");
	}
	print("interrupts lost %u of %llu\r\n", lost, (unsigned long long)count);
}

/* --- windows: what of the function shows -------------------------------------------------------
 */

#define PAGE   4096u
#define STRIDE 256u
#define UNVF   0x66766e75 /* "unvf", of the pattern that every byte of the function holds */
#define BAR    0x5241422d /* "-BAR" */

static bool shows_function(uintptr_t page)
{
	for (unsigned int at = 0; at < PAGE; at += STRIDE)
		if (mmio_read32(page + at) == UNVF || mmio_read32(page + at + 4) == BAR ||
		    mmio_read32(page + at + STRIDE - 8) == UNVF)
			return true;
	return false;
}

/* Doorbells of queues that a function itself serves; nothing of it may show anywhere else. */
#define BELLS_MAX (DISKS_MAX * BLK_QUEUES_MAX)
static uintptr_t bells[BELLS_MAX];
static unsigned int nbells;

static void add_bell(const struct vq *q)
{
	bells[nbells++] = q->doorbell & ~(uintptr_t)(PAGE - 1);
}

static bool is_bell(uintptr_t page)
{
	for (unsigned int i = 0; i < nbells; i++)
		if (bells[i] == page)
			return true;
	return false;
}

/* Pages that show the function in all windows of one; those elsewhere than at doorbells fail. */
static unsigned int look_at(const struct vio *v)
{
	unsigned int found = 0, pages = 0;

	for (unsigned int i = 0; i < PCI_BARS; i++) {
		for (uint64_t at = 0; at < v->bar[i].size; at += PAGE) {
			pages++;
			if (!shows_function(v->bar[i].base + at))
				continue;
			found++;
			test_check(is_bell(v->bar[i].base + at),
				   "BAR %u + 0x%llx shows the function", i, (unsigned long long)at);
		}
	}
	print("pages %u of the function %u\r\n", pages, found);
	test_check(pages > 64, "the windows have %u pages", pages);
	return found;
}

static void look_thrice(struct vio *v, void (*begin)(void))
{
	uint64_t mapped = opt_number("mapped", 0);
	unsigned int found;

	look_at(v);
	begin();
	found = look_at(v);
	test_check(found == mapped, "%u doorbell pages are the function's, not %llu", found,
		   (unsigned long long)mapped);
	nbells = 0;
	test_check(vio_reset(v), "no reset");
	look_at(v);
}

static void begin_disk(void)
{
	works(&disks[0], "at first");
	for (unsigned int q = 0; q < disks[0].nqueues; q++)
		add_bell(&disks[0].q[q].vq);
}

static void mode_windows(void)
{
	look_thrice(&disks[0].vio, begin_disk);
}

/* The control queue is unvmm's to serve: nothing of the function may show at its doorbell. */
static void begin_card(void)
{
	if (!net_start(&card, net_wanted(), (unsigned int)opt_number("queues", 1), 0, 2048))
		test_abort("the card cannot be started");
	test_check(card.ctrl.size, "there is no control queue");
	for (unsigned int i = 0; i < card.npairs; i++) {
		add_bell(&card.pair[i].rx);
		add_bell(&card.pair[i].tx);
	}
}

static void mode_card_windows(void)
{
	struct pci_fn fn;

	if (!pci_find(VIO_VENDOR, VIO_DEVICE + VIRTIO_ID_NET, 0, &fn) || !vio_open(&card.vio, &fn))
		test_abort("no network card");
	look_thrice(&card.vio, begin_card);
}

/* --- all of it -------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	void (*run)(void);
} modes[] = {
	{ "disks", mode_disks },     { "restart", mode_restart },
	{ "reboot", mode_reboot },   { "kexec", mode_kexec },
	{ "load", mode_load },	     { "lose", mode_lose },
	{ "hang", mode_hang },	     { "vectors", mode_vectors },
	{ "windows", mode_windows }, { "card-windows", mode_card_windows },
};

void guest_main(const struct boot_info *boot)
{
	unsigned int wanted = (unsigned int)opt_number("disks", 1);
	struct pci_fn fn;

	count = opt_number("count", 100);
	pci_init(boot->rsdp);
	while (ndisks < DISKS_MAX &&
	       pci_find(VIO_VENDOR, VIO_DEVICE + VIRTIO_ID_BLOCK, ndisks, &fn)) {
		if (!vio_open(&disks[ndisks].vio, &fn))
			test_abort("disk %u cannot be used", ndisks);
		ndisks++;
	}
	if (!test_check(ndisks == wanted, "%u disks, not %u", ndisks, wanted))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		if (!opt_has("mode", modes[i].name))
			continue;
		test_group(modes[i].name);
		modes[i].run();
		print("over\r\n");
		while (opt_flag("stay"))
			pause_ms(SHORTLY_MS);
		return;
	}
	test_abort("mode=");
}
