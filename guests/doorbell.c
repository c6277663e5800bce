/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doorbell.c - what a doorbell costs: reads of a virtio disk, one at a time, each with the cycles
 * of its doorbell (the store alone: how long the processor is away) and of the whole request.
 *
 * Options: count=N, bs=BYTES, pause_us=N (idle before each request); window (rings through the PCI
 * configuration access capability, so that every doorbell is an exit to user space); limit_us=N
 * (slower requests are counted as late); list (a line for each); config=N (then N reads of each
 * kind of register, and some starts of the function from reset); halt (when all is done the
 * processor is off, and the queues stay).
 */
#include "lib/blk.h"

#include "lib/guest.h"
#include "lib/io.h"

#define COUNT_MAX    65536u
#define WAIT_SECONDS 10
#define STARTS	     20

static struct blk blk;
static struct rnd rnd = { .state = 1 };
static uint64_t kick_cycles[COUNT_MAX], io_cycles[COUNT_MAX];

/* --- the ways --------------------------------------------------------------------------------- */

static void ring_bar(const struct vq *q)
{
	vq_ring(q);
}

/* 4.1.4.9: once the window is open, each write to pci_cfg_data is a write to the BAR. */
static void open_window(const struct vq *q)
{
	const struct vio *v = q->vio;
	unsigned int at = v->pci_cfg_cap;

	pci_write(&v->fn, at + VIRTIO_PCI_CAP_BAR, 1, v->notify.bar);
	pci_write(&v->fn, at + VIRTIO_PCI_CAP_OFFSET, 4,
		  (uint32_t)(q->doorbell - v->notify.addr) + v->notify.offset);
	pci_write(&v->fn, at + VIRTIO_PCI_CAP_LENGTH, 4, 2);
}

static void ring_window(const struct vq *q)
{
	const struct vio *v = q->vio;

	pci_write(&v->fn, v->pci_cfg_cap + sizeof(struct virtio_pci_cap), 2, q->index);
}

/* --- measuring -------------------------------------------------------------------------------- */

static void rest(uint64_t cycles)
{
	uint64_t start = io_tsc();

	while (io_tsc() - start < cycles)
		io_relax();
}

static void one_request(void (*ring)(const struct vq *q), uint32_t bs, uint64_t *kick, uint64_t *io)
{
	struct vq *q = &blk.q[0].vq;
	struct blk_req *r = blk_get(&blk, 0);
	uint64_t start, rung, waited = 0;

	if (!r ||
	    !blk_send(&blk, 0, r, VIRTIO_BLK_T_IN,
		      rnd_below(&rnd, blk.capacity / (bs / BLK_SECTOR)) * (bs / BLK_SECTOR), bs))
		test_abort("no room for a request");
	start = io_tsc();
	ring(q);
	rung = io_tsc();
	while (q->used->idx == q->used_idx) {
		if (!vio_within(&waited, WAIT_SECONDS))
			test_abort("a request does not complete");
	}
	*io = io_tsc() - start;
	*kick = rung - start;
	r = blk_reap(&blk, 0);
	test_check(r && r->status == VIRTIO_BLK_S_OK, "a request fails");
	if (r)
		blk_put(&blk, 0, r);
}

static void sift(uint64_t *v, size_t at, size_t n)
{
	for (size_t child; (child = 2 * at + 1) < n; at = child) {
		uint64_t t = v[at];

		if (child + 1 < n && v[child + 1] > v[child])
			child++;
		if (v[child] <= t)
			return;
		v[at] = v[child];
		v[child] = t;
	}
}

static void sort(uint64_t *v, size_t n)
{
	for (size_t i = n / 2; i--;)
		sift(v, i, n);
	for (size_t i = n; i-- > 1;) {
		uint64_t t = v[0];

		v[0] = v[i];
		v[i] = t;
		sift(v, 0, i);
	}
}

static void put_distribution(const char *name, uint64_t *v, size_t n)
{
	sort(v, n);
	print(" %s_min=%llu %s_median=%llu %s_p99=%llu %s_max=%llu", name, (unsigned long long)v[0],
	      name, (unsigned long long)v[n / 2], name, (unsigned long long)v[n - 1 - n / 100],
	      name, (unsigned long long)v[n - 1]);
}

static void measure(const struct boot_info *boot)
{
	bool window = opt_flag("window");
	uint32_t bs = (uint32_t)opt_number("bs", BLK_SECTOR);
	uint64_t count = opt_number("count", 2000), late = 0, sum = 0;
	uint64_t idle = opt_number("pause_us", 0) * boot->tsc_khz / 1000;
	uint64_t limit = opt_number("limit_us", 2000) * boot->tsc_khz / 1000;

	if (!count || count > COUNT_MAX || !bs || bs % BLK_SECTOR || bs > BLK_REQ_BYTES)
		test_abort("count 1 to %u, bs 512 to %u", COUNT_MAX, BLK_REQ_BYTES);
	if (window)
		open_window(&blk.q[0].vq);
	for (uint64_t i = 0; i < count; i++) {
		rest(idle);
		one_request(window ? ring_window : ring_bar, bs, &kick_cycles[i], &io_cycles[i]);
		late += io_cycles[i] > limit;
		sum += io_cycles[i];
	}
	for (uint64_t i = 0; opt_flag("list") && i < count; i++)
		print("IO cycles=%llu us=%llu\r\n", (unsigned long long)io_cycles[i],
		      (unsigned long long)(io_cycles[i] * 1000 / boot->tsc_khz));
	print("BENCH count=%llu bs=%u tsc_khz=%llu iops=%llu late=%llu", (unsigned long long)count,
	      bs, (unsigned long long)boot->tsc_khz,
	      (unsigned long long)(count * boot->tsc_khz * 1000 / sum), (unsigned long long)late);
	put_distribution("kick", kick_cycles, count);
	put_distribution("io", io_cycles, count);
	print("\r\n");
}

static uint64_t wanted(void)
{
	/* Without event indexes every doorbell is wanted. */
	return blk_wanted() & ~VIO_BIT(VIRTIO_RING_F_EVENT_IDX);
}

/* --- control accesses ------------------------------------------------------------------------- */

enum { READ_PCI, READ_COMMON, READ_DEVICE, READS };

static void read_register(int kind)
{
	switch (kind) {
	case READ_PCI:
		(void)pci_read(&blk.vio.fn, PCI_VENDOR_ID, 4);
		break;
	case READ_COMMON:
		(void)vio_get8(&blk.vio, VIRTIO_PCI_COMMON_STATUS);
		break;
	default:
		(void)mmio_read32(blk.vio.device.addr);
	}
}

static void measure_config(uint64_t count)
{
	static const char *const names[READS] = { "pci", "common", "device" };

	if (count > COUNT_MAX)
		test_abort("config at most %u", COUNT_MAX);
	print("CONFIG count=%llu", (unsigned long long)count);
	for (int kind = 0; kind < READS; kind++) {
		for (uint64_t i = 0; i < count; i++) {
			uint64_t start = io_tsc();

			read_register(kind);
			kick_cycles[i] = io_tsc() - start;
		}
		put_distribution(names[kind], kick_cycles, count);
	}
	for (int i = 0; i < STARTS; i++) {
		uint64_t start = io_tsc();

		if (!vio_reset(&blk.vio) || !blk_start(&blk, wanted(), 1, 0))
			test_abort("the function does not start again");
		kick_cycles[i] = io_tsc() - start;
	}
	put_distribution("start", kick_cycles, STARTS);
	print("\r\n");
}

void guest_main(const struct boot_info *boot)
{
	struct pci_fn fn;

	pci_init(boot->rsdp);
	if (!pci_find(VIO_VENDOR, VIO_DEVICE + VIRTIO_ID_BLOCK, 0, &fn))
		test_abort("no virtio-blk function on bus 0");
	if (!vio_open(&blk.vio, &fn) || !blk_start(&blk, wanted(), 1, 0))
		test_abort("the function cannot be used");
	if (!boot->tsc_khz)
		test_abort("the frequency of the time stamp counter is not known");
	measure(boot);
	if (opt_number("config", 0))
		measure_config(opt_number("config", 0));
	if (opt_flag("halt")) {
		print("halted\r\n");
		cpu_halt();
	}
}
