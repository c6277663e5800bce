/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.c - virtio-net, every frame verified: numbered frames of random length and framing from one
 * card to the next one over whatever joins them (two taps on a bridge), or back to itself; the
 * receive filter; segmentation and checksums by the host. Or a benchmark.
 *
 * Options: features=LIST (see lib/net.c; default all), cards=N, queues=N, qsize=N, bufsize=N,
 * frames=N, size=MAX, window=N, commands=N, seed=N; bench count=N window=N size=N.
 */
#include "lib/net.h"

#include "lib/guest.h"
#include "lib/io.h"

#define TYPE	     0x88b5 /* for local experiments (IEEE 802) */
#define MIN_FRAME    (NET_ETH + 16u)
#define WAIT_SECONDS 10
#define WINDOW	     32u /* frames under way: fewer than the queues on the path hold */

static struct net cards[2];
static struct rnd rnd;
static uint8_t out[NET_FRAME_MAX], in[NET_FRAME_MAX];

static void put16(uint8_t *p, unsigned int v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static unsigned int get16(const uint8_t *p)
{
	return (unsigned int)p[0] << 8 | p[1];
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* --- numbered frames -------------------------------------------------------------------------- */

static uint8_t pattern(uint64_t seq, uint32_t i)
{
	return (uint8_t)(rnd_hash(seq << 20 | i / 8) >> (8 * (i % 8)));
}

static void build(const uint8_t *to, const uint8_t *from, uint64_t seq, uint32_t len)
{
	memcpy(out, to, 6);
	memcpy(out + 6, from, 6);
	put16(out + 12, TYPE);
	put32(out + 14, (uint32_t)(seq >> 32));
	put32(out + 18, (uint32_t)seq);
	put32(out + 22, len);
	put32(out + 26, 0x756e766d);
	for (uint32_t i = MIN_FRAME; i < len; i++)
		out[i] = pattern(seq, i);
}

/* True if the frame is the one with this number; others than ours are passed over. */
static bool is_frame(uint32_t len, uint64_t seq)
{
	uint64_t got;

	if (len < MIN_FRAME || get16(in + 12) != TYPE)
		return false;
	got = (uint64_t)get32(in + 14) << 32 | get32(in + 18);
	test_check(got == seq, "frame %llu came instead of %llu", (unsigned long long)got,
		   (unsigned long long)seq);
	test_check(get32(in + 22) == len, "frame %llu has %u bytes instead of %u",
		   (unsigned long long)got, len, get32(in + 22));
	for (uint32_t i = MIN_FRAME; i < len; i++) {
		if (!test_check(in[i] == pattern(got, i), "frame %llu of %u bytes: byte %u",
				(unsigned long long)got, len, i))
			break;
	}
	return true;
}

/* `count` frames from a to b, at most `window` under way; all must come, once and in order. */
static void exchange(struct net *a, struct net *b, uint64_t count, uint32_t max,
		     unsigned int window)
{
	static const struct virtio_net_hdr_v1 none;
	struct virtio_net_hdr_v1 hdr;
	uint64_t sent = 0, got = 0, start = 0;

	while (got < count) {
		unsigned int pair = a->npairs > 1 ? (unsigned int)(sent / 64 % a->npairs) : 0;
		uint32_t len;

		while (sent < count && sent - got < window) {
			len = MIN_FRAME + (uint32_t)rnd_below(&rnd, max - MIN_FRAME + 1);
			build(b->mac, a->mac, sent, len);
			if (!net_send(a, pair, &none, out, len))
				break;
			sent++;
			/* Of several pairs only one at a time: between queues there is no order. */
			if (a->npairs > 1 && sent % 64 == 0)
				break;
		}
		net_kick(a, pair);
		do {
			len = net_receive(b, &hdr, in);
			if (len && is_frame(len, got)) {
				test_check(!hdr.gso_type, "frame of type %u", hdr.gso_type);
				got++;
				start = 0;
			}
		} while (len || (a->npairs > 1 && sent % 64 == 0 && got < sent &&
				 vio_within(&start, WAIT_SECONDS)));
		if (!vio_within(&start, WAIT_SECONDS))
			test_abort("%llu of %llu frames have come", (unsigned long long)got,
				   (unsigned long long)sent);
	}
}

/* --- the receive filter ----------------------------------------------------------------------- */

static void send_to(struct net *a, const uint8_t *to, uint64_t seq)
{
	static const struct virtio_net_hdr_v1 none;

	build(to, a->mac, seq, 100);
	if (!net_send(a, 0, &none, out, 100))
		test_abort("a frame cannot be sent");
	net_kick(a, 0);
}

static void expect_frame(struct net *b, uint64_t seq)
{
	struct virtio_net_hdr_v1 hdr;
	uint64_t start = 0;
	uint32_t len;

	do {
		len = net_receive(b, &hdr, in);
		if (len && is_frame(len, seq))
			return;
	} while (vio_within(&start, WAIT_SECONDS));
	test_check(false, "frame %llu does not come", (unsigned long long)seq);
}

static void check_filter(struct net *a, struct net *b)
{
	uint8_t stranger[6] = { 2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee },
		group[6] = { 1, 0, 0x5e, 9, 9, 9 }, off = 0, on = 1;

	if (!net_feature(b, VIRTIO_NET_F_CTRL_RX))
		return;
	test_group("receive filter");
	test_check(net_command(b, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1) ==
			   VIRTIO_NET_OK,
		   "promiscuous mode cannot be left");
	send_to(a, stranger, 1);
	send_to(a, group, 2);
	send_to(a, b->mac, 3);
	expect_frame(b, 3); /* and not one of the others */
	test_check(net_command(b, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1) ==
			   VIRTIO_NET_OK,
		   "promiscuous mode cannot be entered");
	send_to(a, stranger, 4);
	expect_frame(b, 4);
	test_check(net_command(b, 77, 1, &on, 1) == VIRTIO_NET_ERR, "command 77 is accepted");
}

/* Commands with frames under way, each waited for: no doorbell of either kind may be lost. */
static void check_commands(struct net *a, struct net *b, uint64_t count)
{
	static const struct virtio_net_hdr_v1 none;
	struct virtio_net_hdr_v1 hdr;

	if (!count || !net_feature(b, VIRTIO_NET_F_CTRL_RX))
		return;
	test_group("commands between frames");
	for (uint64_t i = 0; i < count; i++) {
		uint8_t on = i & 1;

		if (rnd_below(&rnd, 2)) {
			build(b->mac, a->mac, i, 100);
			if (net_send(a, 0, &none, out, 100))
				net_kick(a, 0);
		}
		if (net_command(b, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &on, 1) !=
		    VIRTIO_NET_OK)
			test_abort("command %llu gets no answer", (unsigned long long)i);
		while (net_receive(b, &hdr, in))
			;
		for (uint64_t n = rnd_below(&rnd, 20000); n; n--)
			io_relax();
	}
	test_check(true, "commands");
}

/* --- segmentation and checksums --------------------------------------------------------------- */

#define IP   (NET_ETH)
#define TCP  (IP + 20u)
#define DATA (TCP + 20u)
#define MSS  1000u

static uint32_t sum(const uint8_t *p, uint32_t len, uint32_t start)
{
	for (uint32_t i = 0; i + 1 < len; i += 2)
		start += get16(p + i);
	if (len & 1)
		start += (uint32_t)p[len - 1] << 8;
	while (start >> 16)
		start = (start & 0xffff) + (start >> 16);
	return start;
}

static uint32_t pseudo_sum(const uint8_t *ip, uint32_t tcp_len)
{
	return sum(ip + 12, 8, 6 + tcp_len); /* addresses, protocol, length */
}

static void build_tcp(const struct net *a, const struct net *b, uint32_t data)
{
	memset(out, 0, DATA);
	memcpy(out, b->mac, 6);
	memcpy(out + 6, a->mac, 6);
	put16(out + 12, 0x0800);
	out[IP] = 0x45;
	put16(out + IP + 2, 40 + data);
	out[IP + 8] = 64;
	out[IP + 9] = 6;
	put32(out + IP + 12, 0x0a000001);
	put32(out + IP + 16, 0x0a000002);
	put16(out + IP + 10, ~sum(out + IP, 20, 0));
	put16(out + TCP, 7);
	put16(out + TCP + 2, 7);
	out[TCP + 12] = 0x50;
	out[TCP + 13] = 0x10;
	/* The sum of the pseudo header, to which the host adds the rest (5.1.6.2). */
	put16(out + TCP + 16, pseudo_sum(out + IP, 20 + data));
	for (uint32_t i = 0; i < data; i++)
		out[DATA + i] = pattern(99, i);
}

/* One packet of the stream: its bytes of data, or 0 if it is none. */
static uint32_t check_tcp(const struct net *b, const struct virtio_net_hdr_v1 *hdr, uint32_t len,
			  uint32_t at)
{
	uint32_t ip_len = get16(in + IP + 2), data = ip_len - 40;

	if (len < DATA || get16(in + 12) != 0x0800 || in[IP + 9] != 6)
		return 0;
	test_check(len == NET_ETH + ip_len, "packet of %u bytes in a frame of %u", ip_len, len);
	test_check(sum(in + IP, 20, 0) == 0xffff, "IP checksum is wrong");
	test_check(get32(in + TCP + 4) == at, "sequence number %u instead of %u",
		   get32(in + TCP + 4), at);
	if (hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		test_check(net_feature(b, VIRTIO_NET_F_GUEST_CSUM), "partial checksum unasked for");
		test_check(hdr->csum_start == TCP && hdr->csum_offset == 16, "checksum at %u + %u",
			   hdr->csum_start, hdr->csum_offset);
	} else {
		test_check(sum(in + TCP, 20 + data, pseudo_sum(in + IP, 20 + data)) == 0xffff,
			   "TCP checksum of the data at %u is wrong", at);
	}
	if (hdr->gso_type)
		test_check(net_feature(b, VIRTIO_NET_F_GUEST_TSO4) && hdr->gso_size == MSS,
			   "segments of type %u and %u bytes", hdr->gso_type, hdr->gso_size);
	else
		test_check(data <= MSS, "segment of %u bytes", data);
	for (uint32_t i = 0; i < data; i++) {
		if (!test_check(in[DATA + i] == pattern(99, at + i), "byte %u", at + i))
			break;
	}
	return data;
}

static void check_segmentation(struct net *a, struct net *b)
{
	static const uint32_t sizes[] = { 1, 999, 1000, 1001, 40000, 65495 };
	struct virtio_net_hdr_v1 hdr;

	if (!net_feature(a, VIRTIO_NET_F_CSUM))
		return;
	test_group("segmentation and checksums");
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint32_t size = sizes[i], got = 0, len;
		uint64_t start = 0;

		if (size > MSS && !net_feature(a, VIRTIO_NET_F_HOST_TSO4))
			break;
		hdr = (struct virtio_net_hdr_v1){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
						  .csum_start = TCP,
						  .csum_offset = 16 };
		if (size > MSS) {
			hdr.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
			hdr.gso_size = MSS;
			hdr.hdr_len = DATA;
		}
		build_tcp(a, b, size);
		if (!net_send(a, 0, &hdr, out, DATA + size))
			test_abort("a packet cannot be sent");
		net_kick(a, 0);
		while (got < size && vio_within(&start, WAIT_SECONDS)) {
			len = net_receive(b, &hdr, in);
			if (len)
				got += check_tcp(b, &hdr, len, got);
		}
		test_check(got == size, "%u of %u bytes have come", got, size);
	}
}

/* --- all of it -------------------------------------------------------------------------------- */

static void bench(const struct boot_info *boot, struct net *a, struct net *b)
{
	static const struct virtio_net_hdr_v1 none;
	uint64_t count = opt_number("count", 10000), window = opt_number("window", 32), sent = 0,
		 got = 0, start = 0, cycles, per;
	uint32_t size = (uint32_t)opt_number("size", 64), len;
	struct virtio_net_hdr_v1 hdr;

	if (!count || !window || size < MIN_FRAME || size > NET_FRAME_MAX)
		test_abort("bench: count and window above 0, size %u to %u", MIN_FRAME,
			   NET_FRAME_MAX);
	build(b->mac, a->mac, 0, size);
	cycles = io_tsc();
	while (got < count) {
		uint64_t before = sent;

		while (sent < count && sent - got < window && net_send(a, 0, &none, out, size))
			sent++;
		if (sent != before)
			net_kick(a, 0);
		while ((len = net_receive(b, &hdr, in))) {
			got += len == size && get16(in + 12) == TYPE;
			start = 0;
		}
		if (!vio_within(&start, WAIT_SECONDS))
			test_abort("%llu of %llu frames have come", (unsigned long long)got,
				   (unsigned long long)sent);
	}
	cycles = io_tsc() - cycles;
	per = cycles / count;
	test_check(got == count, "%llu frames", (unsigned long long)got);
	print("BENCH size=%u window=%llu count=%llu frames_per_s=%llu cycles_per_frame=%llu "
	      "tsc_khz=%llu kicks=%llu kicks_saved=%llu\r\n",
	      size, (unsigned long long)window, (unsigned long long)count,
	      (unsigned long long)(per ? boot->tsc_khz * 1000 / per : 0), (unsigned long long)per,
	      (unsigned long long)boot->tsc_khz, (unsigned long long)a->pair[0].tx.kicks,
	      (unsigned long long)a->pair[0].tx.kicks_saved);
}

static void open_card(struct net *n, unsigned int nth)
{
	unsigned int queues = (unsigned int)opt_number("queues", NET_PAIRS_MAX);
	uint32_t bufsize = (uint32_t)opt_number("bufsize", 2048);
	struct pci_fn fn;

	if (!pci_find(VIO_VENDOR, VIO_DEVICE + VIRTIO_ID_NET, nth, &fn))
		test_abort("there is no virtio-net function %u on bus 0", nth);
	if (!vio_open(&n->vio, &fn) ||
	    !net_start(n, net_wanted(), queues, (uint16_t)opt_number("qsize", 0), bufsize))
		test_abort("the function cannot be used");
	test_check(!(n->mac[0] & 1), "its address is a multicast address");
	test_check(net_link_up(n), "the link is down");
	print("    slot %u, offered 0x%llx, negotiated 0x%llx, %u pairs\r\n", fn.slot,
	      (unsigned long long)n->vio.offered, (unsigned long long)n->vio.features, n->npairs);
}

void guest_main(const struct boot_info *boot)
{
	unsigned int ncards = (unsigned int)opt_number("cards", 1);
	uint64_t frames = opt_number("frames", 2000);
	uint32_t size = (uint32_t)opt_number("size", 1514);
	struct net *a = &cards[0], *b = &cards[ncards > 1];

	rnd.state = opt_number("seed", 1);
	test_group("virtio-net function");
	pci_init(boot->rsdp);
	for (unsigned int i = 0; i < ncards && i < ARRAY_SIZE(cards); i++)
		open_card(&cards[i], i);
	if (opt_flag("bench")) {
		bench(boot, a, b);
		return;
	}
	a->rnd = b->rnd = &rnd;
	test_group("numbered frames");
	exchange(a, b, frames, size, (unsigned int)opt_number("window", WINDOW));
	exchange(b, a, frames, size, 1);
	check_filter(a, b);
	check_commands(a, b, opt_number("commands", 1000));
	a->rnd = NULL;
	check_segmentation(a, b);
	for (unsigned int i = 0; i < ncards && i < ARRAY_SIZE(cards); i++)
		test_check(!(vio_get8(&cards[i].vio, VIRTIO_PCI_COMMON_STATUS) &
			     VIRTIO_CONFIG_S_NEEDS_RESET),
			   "card %u needs a reset", i);
}
