/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk.c - virtio-blk, every byte verified: pattern written in random order, sizes and segments at
 * several depths over all queues, read back; then the requests that change ranges, the ones that
 * must be refused, and unusual framing. Or a benchmark.
 *
 * Options: features=LIST (see lib/blk.c; default all), sectors=N, queues=N, qsize=N, seed=N,
 * serial=TEXT, ro; bench=read|write depth=D bs=BYTES count=N.
 */
#include "lib/blk.h"

#include "lib/guest.h"
#include "lib/io.h"

#define CHUNK_SECTORS	64u    /* of the random order */
#define SECTORS_DEFAULT 65536u /* of a larger disk: its first and last half of this */
#define WORDS		(BLK_SECTOR / 8)
#define SERIAL_BYTES	VIRTIO_BLK_ID_BYTES

static struct blk blk;
static struct rnd rnd;
static uint64_t test_sectors; /* logical sectors 0 to this are spread by place() */

/* Logical test sectors lie at both ends of the disk. */
static uint64_t place(uint64_t logical)
{
	uint64_t half = test_sectors / CHUNK_SECTORS / 2 * CHUNK_SECTORS;

	return logical < half ? logical : blk.capacity - test_sectors + logical;
}

static uint64_t word_at(uint64_t sector, unsigned int word, uint64_t generation)
{
	return rnd_hash(sector * WORDS + word + (generation << 48));
}

static void pattern_fill(uint8_t *data, uint64_t sector, uint32_t len, uint64_t generation)
{
	uint64_t *w = (uint64_t *)data;

	for (uint32_t i = 0; i < len / 8; i++)
		w[i] = word_at(sector + i / WORDS, i % WORDS, generation);
}

static bool pattern_ok(const uint8_t *data, uint64_t sector, uint32_t len, uint64_t generation)
{
	const uint64_t *w = (const uint64_t *)data;

	for (uint32_t i = 0; i < len / 8; i++) {
		uint64_t want = word_at(sector + i / WORDS, i % WORDS, generation);

		if (w[i] != want)
			return test_check(false, "sector %llu word %u: 0x%llx, not 0x%llx",
					  (unsigned long long)sector + i / WORDS, i % WORDS,
					  (unsigned long long)w[i], (unsigned long long)want);
	}
	return true;
}

static bool all_zero(const uint8_t *data, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++) {
		if (data[i])
			return false;
	}
	return true;
}

/* --- the sweep: all test sectors, in random order --------------------------------------------- */

struct sweep {
	uint32_t type;
	uint64_t generation;
	uint64_t chunks, chunk, stride, shift; /* chunk n of the order is (n * stride + shift) */
	uint32_t at;			       /* sector inside the chunk */
	uint64_t done;			       /* sectors */
};

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t t = a % b;

		a = b;
		b = t;
	}
	return a;
}

static void sweep_init(struct sweep *s, uint32_t type, uint64_t generation)
{
	*s = (struct sweep){ .type = type, .generation = generation };
	s->chunks = (test_sectors + CHUNK_SECTORS - 1) / CHUNK_SECTORS;
	s->shift = rnd_below(&rnd, s->chunks);
	do {
		s->stride = 1 + rnd_below(&rnd, s->chunks);
	} while (gcd(s->stride, s->chunks) != 1);
}

/* The next piece, of 1 sector to a whole chunk. False: all have been given out. */
static bool sweep_next(struct sweep *s, uint64_t *sector, uint32_t *count)
{
	uint64_t first, left;

	if (s->chunk == s->chunks)
		return false;
	first = (s->chunk * s->stride + s->shift) % s->chunks * CHUNK_SECTORS;
	left = test_sectors - first < CHUNK_SECTORS ? test_sectors - first : CHUNK_SECTORS;
	*sector = place(first + s->at);
	*count = (uint32_t)(1 + rnd_below(&rnd, left - s->at));
	s->at += *count;
	if (s->at == left) {
		s->at = 0;
		s->chunk++;
	}
	return true;
}

static void sweep_complete(struct sweep *s, const struct blk_req *r)
{
	uint64_t sector = r->hdr.sector;

	s->done += r->len / BLK_SECTOR;
	if (!test_check(r->status == VIRTIO_BLK_S_OK,
			"type %u of %u bytes at sector %llu: status %u", r->hdr.type, r->len,
			(unsigned long long)sector, r->status))
		return;
	if (s->type == VIRTIO_BLK_T_IN)
		pattern_ok(r->data, sector, r->len, s->generation);
}

/* Takes what has completed on a queue. */
static unsigned int sweep_reap(struct sweep *s, unsigned int qi)
{
	unsigned int n = 0;
	struct blk_req *r;

	while ((r = blk_reap(&blk, qi))) {
		sweep_complete(s, r);
		blk_put(&blk, qi, r);
		n++;
	}
	return n;
}

/* Descriptors for the longest chain that blk_send() may make. */
static bool has_room(const struct vq *q)
{
	unsigned int need = q->indirect ? 1 : BLK_SEGS_MAX;

	return q->nfree >= (need < q->size ? need : q->size);
}

/* Fills a queue up to the depth. False when the sweep has nothing more to give. */
static bool sweep_fill(struct sweep *s, unsigned int qi)
{
	struct blk_req *r;
	bool more = true;

	while (has_room(&blk.q[qi].vq) && (r = blk_get(&blk, qi))) {
		uint64_t sector;
		uint32_t count;

		more = sweep_next(s, &sector, &count);
		if (!more) {
			blk_put(&blk, qi, r);
			break;
		}
		if (s->type == VIRTIO_BLK_T_OUT)
			pattern_fill(r->data, sector, count * BLK_SECTOR, s->generation);
		else
			memset(r->data, 0xa5, count * BLK_SECTOR);
		if (!blk_send(&blk, qi, r, s->type, sector, count * BLK_SECTOR))
			test_abort("queue %u: no descriptors", qi);
	}
	blk_kick(&blk, qi);
	return more;
}

static void sweep(uint32_t type, uint64_t generation, unsigned int depth)
{
	uint64_t start = 0, inflight;
	struct sweep s;
	bool more = true;

	sweep_init(&s, type, generation);
	blk.depth = depth;
	do {
		inflight = 0;
		for (unsigned int qi = 0; qi < blk.nqueues; qi++) {
			if (sweep_reap(&s, qi))
				start = 0;
			if (more && blk.q[qi].inflight < depth)
				more = sweep_fill(&s, qi);
			inflight += blk.q[qi].inflight;
		}
		if (!vio_within(&start, 30))
			test_abort("%llu requests do not complete", (unsigned long long)inflight);
	} while (more || inflight);
	test_check(s.done == test_sectors, "%llu of %llu sectors done", (unsigned long long)s.done,
		   (unsigned long long)test_sectors);
	blk.depth = 1;
}

/* --- test groups ------------------------------------------------------------------------------ */

static void check_identity(void)
{
	char want[SERIAL_BYTES + 1] = "", got[SERIAL_BYTES + 1] = "";

	test_group("identity");
	test_check(blk.capacity, "capacity is 0");
	test_check(blk_do(&blk, VIRTIO_BLK_T_GET_ID, 0, got, SERIAL_BYTES) == VIRTIO_BLK_S_OK,
		   "GET_ID fails");
	print("    %llu sectors, %u queues of %u, serial \"%s\"\r\n",
	      (unsigned long long)blk.capacity, blk.nqueues, blk.q[0].vq.size, got);
	if (opt_string("serial", want, sizeof(want)))
		test_check(!memcmp(got, want, SERIAL_BYTES), "serial is not \"%s\"", want);
}

static void check_pattern(void)
{
	static const unsigned int depths[] = { 1, 4, BLK_REQS_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(depths); i++) {
		test_group("write and verify");
		print("    depth %u\r\n", depths[i]);
		sweep(VIRTIO_BLK_T_OUT, i + 1, depths[i]);
		if (blk_feature(&blk, VIRTIO_BLK_F_FLUSH))
			test_check(blk_do(&blk, VIRTIO_BLK_T_FLUSH, 0, NULL, 0) == VIRTIO_BLK_S_OK,
				   "flush fails");
		sweep(VIRTIO_BLK_T_IN, i + 1, depths[ARRAY_SIZE(depths) - 1 - i]);
	}
}

/* Sectors [first, first + n) must read as generation g, or as zeroes if g is 0. */
static void expect(uint64_t first, uint32_t n, uint64_t g, const char *what)
{
	static uint8_t data[CHUNK_SECTORS * BLK_SECTOR];

	memset(data, 0xa5, sizeof(data));
	if (!test_check(blk_do(&blk, VIRTIO_BLK_T_IN, first, data, n * BLK_SECTOR) ==
				VIRTIO_BLK_S_OK,
			"%s: cannot be read", what))
		return;
	if (g)
		pattern_ok(data, first, n * BLK_SECTOR, g);
	else
		test_check(all_zero(data, n * BLK_SECTOR), "%s: not zero", what);
}

static void write_pattern(uint64_t first, uint32_t n, uint64_t g)
{
	static uint8_t data[CHUNK_SECTORS * BLK_SECTOR];

	pattern_fill(data, first, n * BLK_SECTOR, g);
	test_check(blk_do(&blk, VIRTIO_BLK_T_OUT, first, data, n * BLK_SECTOR) == VIRTIO_BLK_S_OK,
		   "write fails");
}

/* discard or write zeroes: the range, its neighbours, several ranges, and what must be refused. */
static void check_ranges(uint32_t type, const char *name)
{
	struct virtio_blk_discard_write_zeroes r[2] = { { .sector = 8, .num_sectors = 8 },
							{ .sector = 32, .num_sectors = 16 } };
	bool zeroes = type == VIRTIO_BLK_T_WRITE_ZEROES;
	size_t max_seg = zeroes ? offsetof(struct virtio_blk_config, max_write_zeroes_seg)
				: offsetof(struct virtio_blk_config, max_discard_seg);
	uint32_t nseg = blk_config32(&blk, max_seg) >= 2 ? 2 : 1;

	test_group(name);
	write_pattern(0, CHUNK_SECTORS, 7);
	test_check(blk_do(&blk, type, 0, r, nseg * (uint32_t)sizeof(r[0])) == VIRTIO_BLK_S_OK,
		   "%u ranges refused", nseg);
	expect(0, 8, 7, "before the range");
	expect(16, 16, 7, "between the ranges");
	expect(48, 16, 7, "behind the ranges");
	/* A discarded range may read as anything (5.2.6.2); as its old self or zero at least. */
	if (zeroes) {
		expect(8, 8, 0, "first range");
		if (nseg == 2)
			expect(32, 16, 0, "second range");
	} else {
		static uint8_t data[8 * BLK_SECTOR];

		test_check(blk_do(&blk, VIRTIO_BLK_T_IN, 8, data, sizeof(data)) == VIRTIO_BLK_S_OK,
			   "a discarded range cannot be read");
	}

	r[0].sector = blk.capacity;
	test_check(blk_do(&blk, type, 0, r, sizeof(r[0])) == VIRTIO_BLK_S_IOERR,
		   "range behind the end accepted");
	r[0].sector = ~0ull - 3;
	test_check(blk_do(&blk, type, 0, r, sizeof(r[0])) == VIRTIO_BLK_S_IOERR,
		   "range that wraps accepted");
	r[0].sector = 0;
	r[0].flags = 0x80000000; /* unknown */
	test_check(blk_do(&blk, type, 0, r, sizeof(r[0])) == VIRTIO_BLK_S_UNSUPP,
		   "unknown flag accepted");
	if (!zeroes) {
		r[0].flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP; /* 5.2.6.2: not with discard */
		test_check(blk_do(&blk, type, 0, r, sizeof(r[0])) == VIRTIO_BLK_S_UNSUPP,
			   "discard with the unmap flag accepted");
	}
	expect(0, 8, 7, "after refused requests");
}

static void check_refusals(void)
{
	static uint8_t data[2 * BLK_SECTOR];
	/* Even and below 2^31: some devices take the other bits for old request flags. */
	static const uint32_t unknown[] = { 6, 76, 0x1000, 0x7ffffffe };

	test_group("refusals");
	test_check(blk_do(&blk, VIRTIO_BLK_T_IN, blk.capacity, data, BLK_SECTOR) ==
			   VIRTIO_BLK_S_IOERR,
		   "read behind the end accepted");
	test_check(blk_do(&blk, VIRTIO_BLK_T_IN, blk.capacity - 1, data, sizeof(data)) ==
			   VIRTIO_BLK_S_IOERR,
		   "read across the end accepted");
	test_check(blk_do(&blk, VIRTIO_BLK_T_OUT, blk.capacity - 1, data, sizeof(data)) ==
			   VIRTIO_BLK_S_IOERR,
		   "write across the end accepted");
	for (unsigned int shift = 54; shift < 64; shift++)
		test_check(blk_do(&blk, VIRTIO_BLK_T_IN, 1ull << shift, data, BLK_SECTOR) ==
				   VIRTIO_BLK_S_IOERR,
			   "read at sector 2^%u accepted", shift);
	test_check(blk_do(&blk, VIRTIO_BLK_T_IN, ~0ull, data, BLK_SECTOR) == VIRTIO_BLK_S_IOERR,
		   "read at the last sector number accepted");
	test_check(blk_do(&blk, VIRTIO_BLK_T_IN, 0, data, 100) == VIRTIO_BLK_S_IOERR,
		   "read of 100 bytes accepted");
	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++)
		test_check(blk_do(&blk, unknown[i], 0, NULL, 0) == VIRTIO_BLK_S_UNSUPP,
			   "request type 0x%x is not unsupported", unknown[i]);
}

/* 2.7.4.1: the device must not care how a request is cut, nor where its buffers lie. */
static void check_framing(void)
{
	uint8_t *page = mem_alloc(4 * 4096, 4096);
	struct virtio_blk_outhdr *hdr = (void *)page;
	uint8_t *data = page + sizeof(*hdr), *status = page + sizeof(*hdr) + BLK_SECTOR;
	uint64_t at = (uintptr_t)page, len = sizeof(*hdr) + BLK_SECTOR;
	uint32_t used;
	struct vq_seg write[] = { { at, (uint32_t)len, false }, { at + len, 1, true } };
	struct vq_seg read[] = { { at, 5, false },
				 { at + 5, 11, false },
				 { at + 16, 303, true },
				 { at + 319, 210, true } };

	test_group("framing");
	*hdr = (struct virtio_blk_outhdr){ .type = VIRTIO_BLK_T_OUT, .sector = 1 };
	pattern_fill(data, 1, BLK_SECTOR, 9);
	*status = 0xff;
	test_check(blk_raw(&blk, write, ARRAY_SIZE(write), &used) && !*(volatile uint8_t *)status,
		   "header and data in one descriptor: status %u", *status);
	expect(1, 1, 9, "written from one descriptor");

	hdr->type = VIRTIO_BLK_T_IN;
	memset(data, 0, BLK_SECTOR);
	*status = 0xff;
	test_check(blk_raw(&blk, read, ARRAY_SIZE(read), &used) && !*(volatile uint8_t *)status,
		   "header, and data with status, in two descriptors each: status %u", *status);
	test_check(used == BLK_SECTOR + 1, "used length %u", used);
	pattern_ok(data, 1, BLK_SECTOR, 9);
}

static void check_read_only(void)
{
	static uint8_t before[BLK_SECTOR], after[BLK_SECTOR], other[BLK_SECTOR];

	test_group("read-only");
	test_check(blk_feature(&blk, VIRTIO_BLK_F_RO), "RO is not offered");
	test_check(blk_do(&blk, VIRTIO_BLK_T_IN, 0, before, BLK_SECTOR) == VIRTIO_BLK_S_OK,
		   "cannot be read");
	for (unsigned int i = 0; i < BLK_SECTOR; i++)
		other[i] = (uint8_t)~before[i];
	test_check(blk_do(&blk, VIRTIO_BLK_T_OUT, 0, other, BLK_SECTOR) == VIRTIO_BLK_S_IOERR,
		   "write accepted");
	test_check(blk_do(&blk, VIRTIO_BLK_T_IN, 0, after, BLK_SECTOR) == VIRTIO_BLK_S_OK &&
			   !memcmp(before, after, BLK_SECTOR),
		   "a refused write has changed the disk");
}

/* --- benchmark -------------------------------------------------------------------------------- */

static void bench(const struct boot_info *boot, bool write)
{
	uint64_t bs = opt_number("bs", 4096), count = opt_number("count", 10000), sent = 0,
		 done = 0;
	uint32_t type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
	uint64_t start, cycles, kicks = 0, saved = 0, per_io;

	blk.depth = (unsigned int)opt_number("depth", 1);
	blk.rnd = NULL;
	if (!bs || bs % BLK_SECTOR || bs > BLK_REQ_BYTES || bs / BLK_SECTOR > blk.capacity ||
	    !blk.depth || blk.depth > BLK_REQS_MAX || !count)
		test_abort("bench: bs 512 to %u and no more than the disk, depth 1 to %u, count",
			   BLK_REQ_BYTES, BLK_REQS_MAX);
	start = io_tsc();
	while (done < count) {
		for (unsigned int qi = 0; qi < blk.nqueues; qi++) {
			uint64_t slots = blk.capacity / (bs / BLK_SECTOR), before = sent;
			struct blk_req *r;

			while ((r = blk_reap(&blk, qi))) {
				test_check(r->status == VIRTIO_BLK_S_OK, "status %u", r->status);
				blk_put(&blk, qi, r);
				done++;
			}
			while (sent < count && has_room(&blk.q[qi].vq) && (r = blk_get(&blk, qi))) {
				if (write && !r->data[0])
					memset(r->data, 0x5a, bs);
				if (!blk_send(&blk, qi, r, type,
					      rnd_below(&rnd, slots) * (bs / BLK_SECTOR),
					      (uint32_t)bs))
					test_abort("no descriptors");
				sent++;
			}
			if (sent != before)
				blk_kick(&blk, qi);
		}
	}
	cycles = io_tsc() - start;
	for (unsigned int qi = 0; qi < blk.nqueues; qi++) {
		kicks += blk.q[qi].vq.kicks;
		saved += blk.q[qi].vq.kicks_saved;
	}
	per_io = cycles / count;
	print("BENCH op=%s bs=%llu depth=%u queues=%u count=%llu iops=%llu cycles_per_io=%llu "
	      "tsc_khz=%llu kicks=%llu kicks_saved=%llu\r\n",
	      write ? "write" : "read", (unsigned long long)bs, blk.depth, blk.nqueues,
	      (unsigned long long)count,
	      (unsigned long long)(per_io ? boot->tsc_khz * 1000 / per_io : 0),
	      (unsigned long long)per_io, (unsigned long long)boot->tsc_khz,
	      (unsigned long long)kicks, (unsigned long long)saved);
}

static void run_tests(void)
{
	check_identity();
	if (opt_flag("ro")) {
		check_read_only();
		return;
	}
	test_sectors = opt_number("sectors", SECTORS_DEFAULT);
	if (test_sectors > blk.capacity)
		test_sectors = blk.capacity;
	if (test_sectors < CHUNK_SECTORS)
		test_abort("a disk of %u sectors is needed", CHUNK_SECTORS);
	blk.rnd = &rnd;
	check_pattern();
	blk.rnd = NULL;
	check_framing();
	check_refusals();
	if (blk_feature(&blk, VIRTIO_BLK_F_WRITE_ZEROES))
		check_ranges(VIRTIO_BLK_T_WRITE_ZEROES, "write zeroes");
	if (blk_feature(&blk, VIRTIO_BLK_F_DISCARD))
		check_ranges(VIRTIO_BLK_T_DISCARD, "discard");
	test_check(!(vio_get8(&blk.vio, VIRTIO_PCI_COMMON_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET),
		   "the device needs a reset");
}

void guest_main(const struct boot_info *boot)
{
	unsigned int queues = (unsigned int)opt_number("queues", BLK_QUEUES_MAX);
	uint16_t qsize = (uint16_t)opt_number("qsize", 0);
	struct pci_fn fn;
	char mode[8];

	rnd.state = opt_number("seed", 1);
	test_group("virtio-blk function");
	pci_init(boot->rsdp);
	if (!pci_find(VIO_VENDOR, VIO_DEVICE + VIRTIO_ID_BLOCK, 0, &fn))
		test_abort("no virtio-blk function on bus 0");
	if (!vio_open(&blk.vio, &fn) || !blk_start(&blk, blk_wanted(), queues, qsize))
		test_abort("the function cannot be used");
	print("    slot %u by %s, offered 0x%llx, negotiated 0x%llx\r\n", fn.slot,
	      fn.access == PCI_BY_ECAM ? "ECAM" : "ports", (unsigned long long)blk.vio.offered,
	      (unsigned long long)blk.vio.features);
	if (opt_string("bench", mode, sizeof(mode)))
		bench(boot, mode[0] == 'w');
	else
		run_tests();
}
