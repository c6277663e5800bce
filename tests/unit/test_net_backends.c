/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_net_backends.c - taps in a network namespace of the test's own, with a packet socket on the
 * host's side; passt, played by this program itself under that name; the loopback.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exactly.h"
#include "net_backend.h"

#define BUF (NET_HDR + NET_FRAME_MAX)

static const struct virtio_net_hdr_v1 none;

/* --- a card that counts ----------------------------------------------------------------------- */

static struct {
	struct io_thread io;
	struct net_backend *b;
	unsigned int rx_ready[NET_PAIRS_MAX], tx_ready, link_changes;
	struct loop_work work;
	void (*fn)(void *arg);
	void *arg;
	sem_t done;
} card;

static void on_rx_ready(struct net_backend *b, unsigned int q)
{
	__atomic_fetch_add(&card.rx_ready[q], 1, __ATOMIC_SEQ_CST);
	b->ops->want_rx(b, q, false);
}

static void on_tx_ready(struct net_backend *b)
{
	(void)b;
	__atomic_fetch_add(&card.tx_ready, 1, __ATOMIC_SEQ_CST);
}

static void on_link_changed(struct net_backend *b)
{
	(void)b;
	__atomic_fetch_add(&card.link_changes, 1, __ATOMIC_SEQ_CST);
}

static unsigned int link_changes(void)
{
	return __atomic_load_n(&card.link_changes, __ATOMIC_SEQ_CST);
}

static const struct net_events events = { on_rx_ready, on_tx_ready, on_link_changed };

static void run_work(struct loop_work *w)
{
	(void)w;
	card.fn(card.arg);
	sem_post(&card.done);
}

static void on_loop(void (*fn)(void *arg), void *arg)
{
	card.fn = fn;
	card.arg = arg;
	card.work.fn = run_work;
	loop_call(&card.io.loop, &card.work);
	while (sem_wait(&card.done) < 0 && errno == EINTR)
		;
}

static bool soon(const unsigned int *count, unsigned int value)
{
	for (unsigned int i = 0; i < 15000; i++) {
		if (__atomic_load_n(count, __ATOMIC_SEQ_CST) >= value)
			return true;
		usleep(2000);
	}
	return false;
}

static void do_attach(void *arg)
{
	(void)arg;
	card.b->ops->attach(card.b);
}

static void do_detach(void *arg)
{
	(void)arg;
	card.b->ops->detach(card.b);
}

static void plug(struct net_backend *b)
{
	struct diag d = { "" };

	memset(&card, 0, sizeof(card));
	sem_init(&card.done, 0, 0);
	card.b = b;
	if (io_thread_start(&card.io, "net", &d))
		fail_msg("%s", d.text);
	b->events = &events;
	b->loop = &card.io.loop;
	on_loop(do_attach, NULL);
}

static void unplug(void)
{
	on_loop(do_detach, NULL);
	io_thread_stop(&card.io);
	card.b->ops->close(card.b);
}

struct job {
	unsigned int q;
	uint8_t *bytes;
	unsigned int len;
	ssize_t result;
};

static void do_tx(void *arg)
{
	struct job *j = arg;
	struct virtio_net_hdr_v1 hdr = none;
	struct iovec v[3] = { { &hdr, sizeof(hdr) },
			      { j->bytes, j->len / 3 },
			      { j->bytes + j->len / 3, j->len - j->len / 3 } };

	j->result = card.b->ops->tx(card.b, j->q, v, 3);
}

static void do_rx(void *arg)
{
	struct job *j = arg;
	struct iovec v[2] = { { j->bytes, 20 }, { j->bytes + 20, BUF - 20 } };

	j->result = card.b->ops->rx(card.b, j->q, v, 2);
}

static void do_want(void *arg)
{
	struct job *j = arg;

	card.b->ops->want_rx(card.b, j->q, true);
}

static uint8_t pattern(unsigned int i, unsigned int seed)
{
	return (uint8_t)(i * 13 + (i >> 8) + seed * 29);
}

/* Ethernet of a local experiment, so that nobody answers it. */
static int send_frame(unsigned int q, unsigned int len, unsigned int seed)
{
	struct job j = { .q = q, .bytes = malloc(len + 14), .len = len };

	for (unsigned int i = 0; i < len; i++)
		j.bytes[i] = pattern(i, seed);
	j.bytes[0] = 2;
	j.bytes[6] = 2;
	j.bytes[12] = 0x88;
	j.bytes[13] = 0xb5;
	on_loop(do_tx, &j);
	free(j.bytes);
	return (int)j.result;
}

/* The host's own multicast comes by a tap, too. */
static bool is_ours(const uint8_t *bytes, ssize_t len)
{
	return len >= (ssize_t)NET_HDR + 14 && bytes[NET_HDR + 12] == 0x88 &&
	       bytes[NET_HDR + 13] == 0xb5;
}

/* The next frame, waited for; 0: it never came. */
static unsigned int receive_frame(unsigned int q, uint8_t *bytes)
{
	struct job j = { .q = q, .bytes = bytes };

	for (;;) {
		unsigned int before = __atomic_load_n(&card.rx_ready[q], __ATOMIC_SEQ_CST);

		on_loop(do_rx, &j);
		if (j.result > 0 && !is_ours(bytes, j.result))
			continue;
		if (j.result > 0)
			return (unsigned int)j.result - NET_HDR;
		if (j.result != -EAGAIN)
			return 0;
		on_loop(do_want, &j);
		if (!soon(&card.rx_ready[q], before + 1))
			return 0;
	}
}

static void expect_frame(unsigned int q, unsigned int len, unsigned int seed)
{
	uint8_t *bytes = malloc(BUF);

	assert_int_equal(receive_frame(q, bytes), len);
	for (unsigned int i = 14; i < len; i++)
		if (bytes[NET_HDR + i] != pattern(i, seed))
			fail_msg("byte %u of a frame of %u", i, len);
	free(bytes);
}

static void note_turns(void *turns)
{
	*(uint64_t *)turns = card.io.loop.turns;
}

/* The card's thread sleeps for this long, once it has done what there is to do. */
static void expect_rest(unsigned int us)
{
	uint64_t before, after = 0;

	for (unsigned int i = 0; i < 20; i++) {
		on_loop(note_turns, &before);
		usleep(us);
		on_loop(note_turns, &after);
		if (after == before + 1) /* the turn that looks */
			return;
	}
	assert_int_equal(after, before + 1);
}

/* --- taps ------------------------------------------------------------------------------------- */

static int host_socket(const char *name)
{
	struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_protocol = htons(0x88b5) };
	struct timeval timeout = { .tv_sec = 30 };
	struct ifreq ifr = { 0 };
	int fd = socket(AF_PACKET, SOCK_RAW, htons(0x88b5));

	assert_true(fd >= 0);
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	assert_int_equal(ioctl(fd, SIOCGIFINDEX, &ifr), 0);
	addr.sll_ifindex = ifr.ifr_ifindex;
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)), 0);
	return fd;
}

static void set_up_down(const char *name, bool up)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq ifr = { 0 };

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &ifr), 0);
	ifr.ifr_flags = (short)(up ? ifr.ifr_flags | IFF_UP : ifr.ifr_flags & ~IFF_UP);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	close(fd);
}

static void open_tap(const char *name, unsigned int pairs, unsigned int mtu)
{
	struct net_backend *b;
	struct diag d = { "" };

	if (net_tap_open(&b, "net0", name, pairs, mtu, &d))
		fail_msg("%s", d.text);
	plug(b);
}

static void refuse_tap(const char *name, unsigned int pairs, unsigned int mtu, const char *says)
{
	struct net_backend *b;
	struct diag d = { "" };

	assert_int_not_equal(net_tap_open(&b, "net0", name, pairs, mtu, &d), 0);
	if (!strstr(d.text, says))
		fail_msg("\"%s\" instead of \"%s\"", d.text, says);
}

static void note_link(void *link)
{
	*(bool *)link = card.b->link;
}

/* Wanted until it is so: the kernel tells of a carrier after a while. */
static bool link_is(bool up)
{
	bool link = !up;

	for (unsigned int i = 0; i < 15000 && link != up; i++) {
		on_loop(note_link, &link);
		if (link != up)
			usleep(2000);
	}
	return link == up;
}

static void tap_carries_frames(void **state)
{
	uint8_t buf[2048];
	int host;

	(void)state;
	open_tap("utap0", 1, 0);
	assert_true(link_is(true)); /* made by us: brought up by us */
	host = host_socket("utap0");
	assert_int_equal(send_frame(0, 1000, 1), 0);
	assert_int_equal(recv(host, buf, sizeof(buf), 0), 1000);
	for (unsigned int i = 14; i < 1000; i++)
		assert_int_equal(buf[i], pattern(i, 1));
	for (unsigned int i = 14; i < 700; i++)
		buf[i] = pattern(i, 2);
	assert_int_equal(send(host, buf, 700, 0), 700);
	assert_int_equal(send(host, buf, 300, 0), 300);
	expect_frame(0, 700, 2);
	expect_frame(0, 300, 2);
	assert_int_equal(send_frame(0, 13, 1), -EINVAL); /* the kernel's own check */
	close(host);
	unplug();
}

static void link_follows_the_interface(void **state)
{
	unsigned int changes;
	uint64_t before, after;

	(void)state;
	open_tap("utap0", 1, 0);
	assert_true(link_is(true));
	changes = link_changes();
	set_up_down("utap0", false);
	assert_true(link_is(false));
	assert_int_equal(link_changes(), changes + 1);
	assert_int_equal(send_frame(0, 100, 1), -EIO); /* lost, as without a cable */
	set_up_down("utap0", true);
	assert_true(link_is(true));
	expect_rest(20000);
	/* Another interface is none of our business. */
	on_loop(note_turns, &before);
	set_up_down("lo", true);
	set_up_down("lo", false);
	usleep(20000);
	on_loop(note_turns, &after);
	assert_int_equal(after, before + 1);
	unplug();
}

static void tap_that_is_deleted(void **state)
{
	struct job j = { 0 };

	(void)state;
	assert_int_equal(system("ip tuntap add dev utap1 mode tap && ip link set utap1 up"), 0);
	open_tap("utap1", 1, 0);
	assert_true(link_is(true));
	on_loop(do_want, &j);
	assert_int_equal(system("ip link del utap1"), 0);
	assert_true(link_is(false));
	on_loop(do_want, &j);
	assert_true(send_frame(0, 100, 1) < 0);
	usleep(20000);
	expect_rest(30000); /* no busy loop on the dead */
	unplug();
}

static int want_queues(unsigned int n)
{
	return card.b->ops->set_queues(card.b, n);
}

static void queues_of_a_tap(void **state)
{
	static uint8_t buf[BUF];
	int host;

	(void)state;
	open_tap("utap0", 3, 0);
	host = host_socket("utap0");
	assert_true(link_is(true));
	/* All go out, also those of a queue that is not in use. */
	for (unsigned int n = 1; n <= 3; n++) {
		assert_int_equal(want_queues(n), 0);
		for (unsigned int q = 0; q < 3; q++) {
			assert_int_equal(send_frame(q, 100, q), 0);
			assert_int_equal(recv(host, buf, sizeof(buf), 0), 100);
		}
	}
	/* What arrives for one that is taken out of use comes by another. */
	assert_int_equal(want_queues(1), 0);
	for (unsigned int i = 0; i < 16; i++) {
		memset(buf, (int)i, 100);
		buf[12] = 0x88;
		buf[13] = 0xb5;
		assert_int_equal(send(host, buf, 100, 0), 100);
	}
	for (unsigned int i = 0; i < 16; i++)
		assert_int_equal(receive_frame(0, buf), 100);
	assert_int_equal(card.b->ops->set_offload(card.b, 1ull << VIRTIO_NET_F_GUEST_CSUM |
								  1ull << VIRTIO_NET_F_GUEST_TSO4),
			 0);
	assert_int_equal(card.b->ops->set_offload(card.b, 0), 0);
	close(host);
	unplug();
}

static void taps_that_cannot_be_used(void **state)
{
	(void)state;
	assert_int_equal(system("ip tuntap add dev utap2 mode tap && ip tuntap add dev utun mode "
				"tun"),
			 0);
	refuse_tap("lo", 1, 0, "\"lo\" is a network interface, but no tap");
	refuse_tap("utun", 1, 0, "\"utun\" is a network interface, but no tap");
	refuse_tap("utap2", 2, 0, "was made for one queue and 2 are wanted; as root: ip tuntap");
	refuse_tap(
		"utap2", 1, 9000,
		"has an MTU of 1500, below the guest's 9000; as root: ip link set utap2 mtu 9000");
	open_tap("utap2", 1, 0);
	refuse_tap("utap2", 1, 0, "the tap \"utap2\" is in use by another process");
	unplug();
	open_tap("utap9", 1, 9000); /* not there: made, with this MTU */
	unplug();
}

/* --- passt ------------------------------------------------------------------------------------ */

/* What this program does when it is called passt: FAKE_PASST says how well. */
static int fake_passt(int argc, char **argv)
{
	static const uint8_t garbage[] = { 0xff, 0xff, 0xff, 0xff, 1 };
	static uint8_t buf[4 + NET_FRAME_MAX];
	const char *how = getenv("FAKE_PASST");
	uint32_t len;
	int fd = -1;

	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "-F"))
			fd = atoi(argv[i + 1]);
	if (!how || fd < 0 || fcntl(fd, F_GETFD) < 0)
		return 9;
	if (!strcmp(how, "fail")) {
		fprintf(stderr, "Some words\nNo interface to use\n");
		return 1;
	}
	if (fork()) /* ready: to the background */
		return 0;
	if (!strcmp(how, "garbage"))
		write_exactly(fd, garbage, sizeof(garbage));
	if (!strcmp(how, "sleep"))
		usleep(300000);
	while (read_exactly(fd, &len, 4) && strcmp(how, "die")) {
		memcpy(buf, &len, 4);
		len = ntohl(len);
		if (len > NET_FRAME_MAX || !read_exactly(fd, buf + 4, len) ||
		    !write_exactly(fd, buf, 4 + len))
			break;
	}
	_exit(0);
}

static char folder[] = "/tmp/unvmm-passt-XXXXXX";

static int start_passt(const char *how, struct diag *d)
{
	struct net_backend *b;
	int err;

	setenv("FAKE_PASST", how, 1);
	err = net_passt_open(&b, "net0", 1400, d);
	if (!err)
		plug(b);
	return err;
}

static void passt_carries_frames(void **state)
{
	static const unsigned int lens[] = { 60, 1514, NET_FRAME_MAX, 14, 9000 };
	struct diag d = { "" };

	(void)state;
	if (start_passt("echo", &d))
		fail_msg("%s", d.text);
	for (unsigned int i = 0; i < ARRAY_SIZE(lens); i++) {
		assert_int_equal(send_frame(0, lens[i], i), 0);
		expect_frame(0, lens[i], i);
	}
	/* Many in the stream at once. */
	for (unsigned int i = 0; i < 50; i++)
		assert_int_equal(send_frame(0, 60 + i, i), 0);
	for (unsigned int i = 0; i < 50; i++)
		expect_frame(0, 60 + i, i);
	assert_true(card.b->link);
	unplug();
}

/* A peer that does not read: frames wait in the guest, and each arrives whole when it does. */
static void passt_without_room(void **state)
{
	struct diag d = { "" };
	unsigned int sent = 0;

	(void)state;
	if (start_passt("sleep", &d))
		fail_msg("%s", d.text);
	while (sent < 1000) {
		int err = send_frame(0, 40000, sent);

		if (err == -EAGAIN)
			break;
		assert_int_equal(err, 0);
		sent++;
	}
	assert_true(sent > 0 && sent < 1000);
	assert_int_equal(send_frame(0, 100, 0), -EAGAIN);
	assert_true(soon(&card.tx_ready, 1));
	assert_int_equal(card.tx_ready, 1);
	assert_int_equal(send_frame(0, 100, 7), 0);
	for (unsigned int i = 0; i < sent; i++)
		expect_frame(0, 40000, i);
	expect_frame(0, 100, 7);
	unplug();
}

static void passt_that_ends(void **state)
{
	static const char *const how[] = { "die", "garbage" };
	uint8_t *buf = malloc(BUF);

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(how); i++) {
		struct diag d = { "" };

		if (start_passt(how[i], &d))
			fail_msg("%s", d.text);
		(void)send_frame(0, 100, 1);
		assert_int_equal(receive_frame(0, buf), 0);
		assert_int_equal(link_changes(), 1);
		assert_false(card.b->link);
		assert_int_equal(send_frame(0, 100, 1), -ENETDOWN);
		expect_rest(20000);
		assert_int_equal(link_changes(), 1);
		unplug();
	}
	free(buf);
}

static void passt_that_cannot_start(void **state)
{
	char *path = strdup(getenv("PATH"));
	struct diag d = { "" }, e = { "" };

	(void)state;
	assert_int_not_equal(start_passt("fail", &d), 0);
	assert_string_equal(d.text,
			    "passt cannot start: No interface to use (it needs an interface "
			    "of this host with an address and a default route)");
	setenv("PATH", "/nowhere", 1);
	assert_int_equal(start_passt("echo", &e), -ENOENT);
	assert_non_null(strstr(e.text, "there is no passt on this host"));
	setenv("PATH", path, 1);
	free(path);
}

/* --- loopback --------------------------------------------------------------------------------- */

static void loopback_gives_back(void **state)
{
	struct net_backend *b;
	unsigned int n = 0;

	(void)state;
	assert_int_equal(net_loopback_open(&b, "net0", 2, NULL), 0);
	plug(b);
	/* Round the ring several times. */
	for (unsigned int i = 0; i < 40; i++) {
		assert_int_equal(send_frame(0, 20000 + 37 * i, i), 0);
		assert_int_equal(send_frame(1, 60 + i, i + 1), 0);
		expect_frame(0, 20000 + 37 * i, i);
		expect_frame(1, 60 + i, i + 1);
	}
	while (!send_frame(0, 60000, n))
		n++;
	assert_int_equal(n, 4); /* 256 KiB */
	for (unsigned int i = 0; i < n; i++)
		expect_frame(0, 60000, i);
	unplug();
}

static int make_folder(void **state)
{
	char self[4096], link[64], path[128];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	(void)state;
	if (n < 0 || !mkdtemp(folder))
		return -1;
	self[n] = '\0';
	snprintf(link, sizeof(link), "%s/passt", folder);
	snprintf(path, sizeof(path), "%s:/usr/sbin:/usr/bin:/sbin:/bin", folder);
	return symlink(self, link) || chmod(folder, 0755) || setenv("PATH", path, 1);
}

static int remove_folder(void **state)
{
	char link[64];

	(void)state;
	snprintf(link, sizeof(link), "%s/passt", folder);
	return unlink(link) || rmdir(folder);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest passt_tests[] = {
		cmocka_unit_test(passt_carries_frames), cmocka_unit_test(passt_without_room),
		cmocka_unit_test(passt_that_ends),	cmocka_unit_test(passt_that_cannot_start),
		cmocka_unit_test(loopback_gives_back),
	};
	const struct CMUnitTest tap_tests[] = {
		cmocka_unit_test(tap_carries_frames),
		cmocka_unit_test(link_follows_the_interface),
		cmocka_unit_test(tap_that_is_deleted),
		cmocka_unit_test(queues_of_a_tap),
		cmocka_unit_test(taps_that_cannot_be_used),
	};
	int failed;

	if (!strcmp(argv[0], "passt"))
		return fake_passt(argc, argv);
	failed = cmocka_run_group_tests(passt_tests, make_folder, remove_folder);
	/* As root, or as a user's root. */
	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET)) {
		print_error("no network namespace can be made: taps cannot be tested\n");
		return 1;
	}
	return failed + cmocka_run_group_tests(tap_tests, NULL, NULL);
}
