/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traffic.c - verified I/O without end on disks and network cards, for guests that are moved under
 * it. A sector says which of its writes it holds, and every read is compared with the last one that
 * completed; frames are numbered and come back by the host's loopback. A frame may be lost or come
 * twice where a card is stopped, and is counted then; anything else that is not as it was is a
 * failure. Ends when the power button is pressed: what is under way completes, all that was ever
 * written is read again.
 *
 * Five times a second one line: "io N gap G us lost L again A"; the gap is the longest time without
 * a completion since the line before, by the guest's clock.
 *
 * A queue that gives nothing back for SILENCE_S is slow, or a doorbell of it was lost, or what
 * serves it has stopped. The console says which: a slow one goes on by itself; after LOST_S it is
 * rung, wanted or not, and if it goes on then, that is a failure, as it is if it does not.
 *
 * Options: disks=N, cards=N, queues=N, qsize=N, depth=N (requests per queue), window=N (frames per
 * pair), sectors=N, max=N (sectors of a request), commands (on the control queue, too),
 * features=LIST, seed=N, quiet.
 */
#include <unvmm/platform.h>

#include "lib/blk.h"
#include "lib/guest.h"
#include "lib/io.h"
#include "lib/net.h"

#define DISKS_MAX     4u
#define CARDS_MAX     2u
#define WORDS	      (BLK_SECTOR / 8)
#define TYPE	      0x88b5 /* for local experiments (IEEE 802) */
#define FRAME_MIN     (NET_ETH + 24u)
#define FRAME_MAX     1514u
#define SILENCE_S     10 /* then it is said, */
#define LOST_S	      20 /* and then rung by hand: does that help? */
#define STUCK_S	      30
#define RESET_S	      2		   /* so often disks are asked whether they want one */
#define LOST_CYCLES   300000000ull /* a frame that has not come then is lost */
#define LINES_PER_S   5
#define BUTTON_EVERY  256u /* rounds: asking is an exit */
#define COMMAND_EVERY 2048u
#define PM1_PWRBTN    0x0100 /* ACPI 6.4, 4.8.3 */

/* A queue that has something to do, since it last gave something back. */
struct life {
	uint64_t since; /* vio_within() */
	unsigned int asked;
	bool told, rung;
};

struct disk {
	struct blk blk;
	struct life life[BLK_QUEUES_MAX];
	uint16_t *writes; /* of each sector; 0: never */
	bool *busy;	  /* part of a request under way */
};

struct flow { /* of frames on a pair of queues */
	uint64_t sent, next;
	uint64_t last; /* when one came */
	struct life life;
};

struct card {
	struct net net;
	struct flow flow[NET_PAIRS_MAX];
};

static struct disk disks[DISKS_MAX];
static struct card cards[CARDS_MAX];
static unsigned int ndisks, ncards, window;
static uint64_t nsectors, req_sectors;
static struct rnd rnd;
static uint64_t done, lost, again, gap, last_done;
static bool ending, commands;

static void completed(void)
{
	uint64_t now = io_tsc();

	if (now - last_done > gap)
		gap = now - last_done;
	last_done = now;
	done++;
}

static void lives(struct life *l)
{
	if (l->rung)
		test_abort("a doorbell was lost: it went on when it was rung by hand");
	if (l->told)
		print("it was slow\r\n");
	*l = (struct life){ 0 };
}

static void tell_queue(const struct vq *q)
{
	print("queue %u: avail %u used %u taken %u kicked %u flags 0x%x event %u, rung %llu times, "
	      "not rung %llu times\r\n",
	      q->index, q->avail_idx, q->used->idx, q->used_idx, q->kicked_idx, q->used->flags,
	      q->event_idx ? *q->avail_event : 0, (unsigned long long)q->kicks,
	      (unsigned long long)q->kicks_saved);
}

/* True once: its queues are to be rung by hand now. */
static bool silent_too_long(struct life *l, struct vio *v, const char *what)
{
	if (vio_within(&l->since, SILENCE_S))
		return false;
	if (!l->told) {
		l->told = true;
		print("%s: nothing comes back for %u s, status 0x%x\r\n", what, SILENCE_S,
		      vio_get8(v, VIRTIO_PCI_COMMON_STATUS));
	}
	if (!vio_within(&l->since, STUCK_S))
		test_abort("%s: nothing comes back, though its doorbells are rung by hand", what);
	if (l->rung || vio_within(&l->since, LOST_S))
		return false;
	return l->rung = true;
}

/* --- disks ------------------------------------------------------------------------------------ */

static uint64_t word_of(const struct disk *d, uint64_t sector, uint16_t nth, unsigned int word)
{
	return rnd_hash((sector * WORDS + word) ^ (uint64_t)nth << 40 ^
			(uint64_t)(d - disks) << 60);
}

static void fill(const struct disk *d, uint64_t *data, uint64_t sector, uint16_t nth)
{
	for (unsigned int i = 0; i < WORDS; i++)
		data[i] = word_of(d, sector, nth, i);
}

static void verify(const struct disk *d, const uint64_t *data, uint64_t sector)
{
	for (unsigned int i = 0; i < WORDS; i++)
		if (!test_check(data[i] == word_of(d, sector, d->writes[sector], i),
				"disk %u, sector %llu: word %u is not that of write %u",
				(unsigned int)(d - disks), (unsigned long long)sector, i,
				d->writes[sector]))
			return;
}

static void take_back(struct disk *d, const struct blk_req *r)
{
	uint64_t first = r->hdr.sector, n = r->len / BLK_SECTOR;

	test_check(r->status == VIRTIO_BLK_S_OK, "disk %u, sector %llu: status %u",
		   (unsigned int)(d - disks), (unsigned long long)first, r->status);
	for (uint64_t s = 0; s < n; s++) {
		if (r->hdr.type == VIRTIO_BLK_T_OUT)
			d->writes[first + s]++;
		else
			verify(d, (const uint64_t *)r->data + s * WORDS, first + s);
		d->busy[first + s] = false;
	}
	completed();
}

/* Sectors that no request under way has; of a read, that were written before. 0: none this time. */
static uint32_t choose(const struct disk *d, bool write, uint64_t *first)
{
	uint32_t n = 0, max = 1 + (uint32_t)rnd_below(&rnd, req_sectors);

	*first = rnd_below(&rnd, nsectors);
	while (n < max && *first + n < nsectors && !d->busy[*first + n] &&
	       (write || d->writes[*first + n]))
		n++;
	return n;
}

static void send(struct disk *d, unsigned int q, struct blk_req *r)
{
	bool write = rnd_below(&rnd, 2);
	uint64_t first;
	uint32_t n = choose(d, write, &first);

	if (!n) {
		blk_put(&d->blk, q, r);
		return;
	}
	for (uint32_t s = 0; s < n; s++) {
		d->busy[first + s] = true;
		if (write)
			fill(d, (uint64_t *)r->data + s * WORDS, first + s,
			     (uint16_t)(d->writes[first + s] + 1));
	}
	if (!write)
		memset(r->data, 0xa5, n * BLK_SECTOR);
	if (!blk_send(&d->blk, q, r, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, first,
		      n * BLK_SECTOR))
		test_abort("disk %u, queue %u: no descriptors", (unsigned int)(d - disks), q);
}

static bool start_disk(struct disk *d)
{
	return blk_start(&d->blk, blk_wanted(), (unsigned int)opt_number("queues", 1),
			 (uint16_t)opt_number("qsize", 0));
}

/*
 * What was under way is lost with the device: whether a write of it was carried out is not known,
 * so its sectors are as if never written.
 */
static void recover(struct disk *d)
{
	print("needs reset\r\n");
	for (uint64_t s = 0; s < nsectors; s++) {
		if (d->busy[s])
			d->writes[s] = 0;
		d->busy[s] = false;
	}
	if (!start_disk(d))
		test_abort("disk %u cannot be started again", (unsigned int)(d - disks));
}

static void watch_queue(struct disk *d, unsigned int q)
{
	struct life *l = &d->life[q];

	if (!d->blk.q[q].inflight) {
		*l = (struct life){ 0 };
		return;
	}
	if (!vio_within(&l->since, RESET_S * (l->asked + 1))) {
		l->asked++;
		if (vio_get8(&d->blk.vio, VIRTIO_PCI_COMMON_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) {
			recover(d);
			return;
		}
	}
	if (silent_too_long(l, &d->blk.vio, "disk")) {
		tell_queue(&d->blk.q[q].vq);
		vq_ring(&d->blk.q[q].vq);
	}
}

/* Requests that are under way. */
static unsigned int turn_disk(struct disk *d)
{
	unsigned int under_way = 0;

	for (unsigned int q = 0; q < d->blk.nqueues; q++) {
		struct vq *vq = &d->blk.q[q].vq;
		uint16_t before = vq->avail_idx;
		struct blk_req *r;

		while ((r = blk_reap(&d->blk, q))) {
			take_back(d, r);
			lives(&d->life[q]);
			blk_put(&d->blk, q, r);
		}
		for (unsigned int i = 0; i < d->blk.depth && !ending; i++) {
			r = vq->nfree >= BLK_SEGS_MAX ? blk_get(&d->blk, q) : NULL;
			if (!r)
				break;
			send(d, q, r);
		}
		if (vq->avail_idx != before)
			blk_kick(&d->blk, q);
		under_way += d->blk.q[q].inflight;
		watch_queue(d, q);
	}
	return under_way;
}

static void read_all(struct disk *d)
{
	uint64_t data[WORDS], known = 0;

	for (uint64_t s = 0; s < nsectors; s++) {
		if (!d->writes[s])
			continue;
		test_check(blk_do(&d->blk, VIRTIO_BLK_T_IN, s, data, BLK_SECTOR) == VIRTIO_BLK_S_OK,
			   "sector %llu cannot be read", (unsigned long long)s);
		verify(d, data, s);
		known++;
	}
	print("disk %u: %llu sectors\r\n", (unsigned int)(d - disks), (unsigned long long)known);
}

/* --- cards ------------------------------------------------------------------------------------ */

static void put64(uint8_t *p, uint64_t v)
{
	for (unsigned int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < 8; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

/* Addresses, type, number, pair, length, then bytes that follow from the number. */
static uint32_t build(const struct card *c, unsigned int pair, uint64_t number, uint8_t *frame)
{
	uint32_t len = FRAME_MIN + (uint32_t)rnd_below(&rnd, FRAME_MAX - FRAME_MIN + 1);

	memcpy(frame, c->net.mac, 6);
	memcpy(frame + 6, c->net.mac, 6);
	frame[12] = TYPE >> 8;
	frame[13] = TYPE & 0xff;
	put64(frame + 14, number);
	put64(frame + 22, pair);
	put64(frame + 30, len);
	for (uint32_t i = FRAME_MIN; i < len; i++)
		frame[i] = (uint8_t)(rnd_hash(number ^ i / 8) >> (8 * (i % 8)));
	return len;
}

static void look_at(struct card *c, const uint8_t *frame, uint32_t len)
{
	uint64_t number = get64(frame + 14), pair = get64(frame + 22);
	struct flow *f;

	/* The host announces a card that has moved (RARP), and that comes back, too. */
	if (frame[12] != TYPE >> 8 || frame[13] != (TYPE & 0xff))
		return;
	if (!test_check(len >= FRAME_MIN && pair < c->net.npairs && get64(frame + 30) == len,
			"a frame of %u bytes that was never sent", len))
		return;
	for (uint32_t i = FRAME_MIN; i < len; i++)
		if (!test_check(frame[i] == (uint8_t)(rnd_hash(number ^ i / 8) >> (8 * (i % 8))),
				"frame %llu of %u bytes: byte %u", (unsigned long long)number, len,
				i))
			return;
	f = &c->flow[pair];
	test_check(number < f->sent && number + 2 * NET_SLOTS_MAX >= f->next,
		   "frame %llu came when %llu was next of %llu", (unsigned long long)number,
		   (unsigned long long)f->next, (unsigned long long)f->sent);
	if (number < f->next) {
		again++;
	} else {
		lost += number - f->next;
		f->next = number + 1;
	}
	f->last = io_tsc();
	completed();
	lives(&f->life);
}

/* What it cannot send is not under way, and silence all the same. */
static void watch_pair(struct card *c, unsigned int p)
{
	struct net_pair *pair = &c->net.pair[p];

	if (!silent_too_long(&c->flow[p].life, &c->net.vio, "card"))
		return;
	tell_queue(&pair->rx);
	tell_queue(&pair->tx);
	vq_ring(&pair->rx);
	vq_ring(&pair->tx);
}

/* Frames that are under way. */
static unsigned int turn_card(struct card *c)
{
	static const struct virtio_net_hdr_v1 none;
	static uint8_t frame[NET_FRAME_MAX];
	struct virtio_net_hdr_v1 hdr;
	unsigned int under_way = 0;
	uint32_t len;

	for (unsigned int i = 0; i < NET_SLOTS_MAX && (len = net_receive(&c->net, &hdr, frame));
	     i++)
		look_at(c, frame, len);
	for (unsigned int p = 0; p < c->net.npairs; p++) {
		struct flow *f = &c->flow[p];
		uint64_t before = f->sent;

		if (f->sent != f->next && io_tsc() - f->last > LOST_CYCLES) {
			lost += f->sent - f->next;
			f->next = f->sent;
		}
		while (f->sent - f->next < window && !ending) {
			len = build(c, p, f->sent, frame);
			if (!net_send(&c->net, p, &none, frame, len))
				break;
			f->sent++;
		}
		under_way += (unsigned int)(f->sent - f->next);
		watch_pair(c, p);
		if (f->sent == before)
			continue;
		f->last = io_tsc();
		net_kick(&c->net, p);
	}
	return under_way;
}

/* Each frame that was sent has been given back, once. */
static void settle(struct card *c)
{
	for (unsigned int i = 0; i < c->net.npairs; i++) {
		struct vq *tx = &c->net.pair[i].tx;
		uint64_t start = 0;
		uint32_t len;

		while (tx->nfree != tx->size && vio_within(&start, SILENCE_S))
			(void)vq_poll(tx, &len);
		test_check(tx->nfree == tx->size, "pair %u: %u descriptors of %u come back", i,
			   tx->nfree, tx->size);
	}
}

static void command(struct card *c)
{
	static uint8_t on;

	on = !on;
	test_check(net_command(&c->net, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &on, 1) ==
			   VIRTIO_NET_OK,
		   "a command is refused");
	completed();
}

/* --- all of it -------------------------------------------------------------------------------- */

static void open_all(void)
{
	unsigned int queues = (unsigned int)opt_number("queues", 1);
	uint16_t qsize = (uint16_t)opt_number("qsize", 0);
	struct pci_fn fn;

	for (unsigned int i = 0; i < ndisks; i++) {
		struct disk *d = &disks[i];

		if (!pci_find(VIO_VENDOR, VIO_DEVICE + VIRTIO_ID_BLOCK, i, &fn) ||
		    !vio_open(&d->blk.vio, &fn) || !start_disk(d))
			test_abort("disk %u cannot be used", i);
		d->blk.depth = (unsigned int)opt_number("depth", 8);
		d->blk.rnd = &rnd;
		if (!test_check(d->blk.capacity >= nsectors, "disk %u has %llu sectors", i,
				(unsigned long long)d->blk.capacity))
			test_abort("too small");
		d->writes = mem_alloc(nsectors * sizeof(*d->writes), 8);
		d->busy = mem_alloc(nsectors * sizeof(*d->busy), 8);
	}
	for (unsigned int i = 0; i < ncards; i++)
		if (!pci_find(VIO_VENDOR, VIO_DEVICE + VIRTIO_ID_NET, i, &fn) ||
		    !vio_open(&cards[i].net.vio, &fn) ||
		    !net_start(&cards[i].net, net_wanted(), queues, qsize, 2048))
			test_abort("card %u cannot be used", i);
}

static void tell(const struct boot_info *boot)
{
	if (!opt_flag("quiet"))
		print("io %llu gap %llu us lost %llu again %llu\r\n", (unsigned long long)done,
		      (unsigned long long)(boot->tsc_khz ? gap * 1000 / boot->tsc_khz : 0),
		      (unsigned long long)lost, (unsigned long long)again);
	gap = 0;
	last_done = io_tsc(); /* the line takes its time, too */
}

/* Requests and frames that are under way. */
static unsigned int turn(uint64_t round)
{
	unsigned int under_way = 0;

	for (unsigned int i = 0; i < ndisks; i++)
		under_way += turn_disk(&disks[i]);
	for (unsigned int i = 0; i < ncards; i++)
		under_way += turn_card(&cards[i]);
	if (ncards && !ending && commands && round % COMMAND_EVERY == 0)
		command(&cards[0]);
	return under_way;
}

void guest_main(const struct boot_info *boot)
{
	uint64_t every = (boot->tsc_khz ? boot->tsc_khz : 1000000) * 1000 / LINES_PER_S, line;

	ndisks = (unsigned int)opt_number("disks", 1);
	ncards = (unsigned int)opt_number("cards", 0);
	window = (unsigned int)opt_number("window", 16);
	nsectors = opt_number("sectors", 8192);
	req_sectors = opt_number("max", 8);
	commands = opt_flag("commands");
	rnd.state = opt_number("seed", 1);
	if (ndisks > DISKS_MAX || ncards > CARDS_MAX || window > NET_SLOTS_MAX || !nsectors ||
	    !req_sectors || req_sectors > BLK_REQ_BYTES / BLK_SECTOR)
		test_abort("up to %u disks, %u cards, a window of %u", DISKS_MAX, CARDS_MAX,
			   NET_SLOTS_MAX);
	test_group("traffic");
	pci_init(boot->rsdp);
	open_all();
	print("start\r\n");
	line = last_done = io_tsc();
	for (uint64_t round = 1;; round++) {
		(void)turn(round);
		if (io_tsc() - line > every) {
			tell(boot);
			line = last_done;
		}
		if (round % BUTTON_EVERY == 0 && io_in16(PLAT_PM1_EVT_PORT) & PM1_PWRBTN)
			break;
	}
	ending = true;
	while (turn(1))
		;
	print("button\r\n");
	for (unsigned int i = 0; i < ndisks; i++)
		read_all(&disks[i]);
	for (unsigned int i = 0; i < ncards; i++)
		settle(&cards[i]);
	print("completed %llu lost %llu again %llu unused %llu\r\n", (unsigned long long)done,
	      (unsigned long long)lost, (unsigned long long)again,
	      (unsigned long long)cards[0].net.unused);
}
