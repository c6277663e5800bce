/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_user.c - the vfio-user client against the independent server of tests/peers: doorbells,
 * DMA and interrupts in every way that there is, and what a broken or hostile server brings about:
 * one sentence, inside the deadline, once, and nothing left over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include <unvmm/platform.h>

#include "vf_contract.h"
#include "vf_peer.h"
#include "vf_user.h"

#define CFG	VFIO_PCI_CONFIG_REGION_INDEX
#define NOTIFY	0x4000
#define VECTORS 5

/* One function with its server and its loop. */
struct env {
	struct io_thread t;
	struct vf_peer peer;
	struct vf *vf;
	struct gmem ram;
	struct diag diag;
	unsigned int fds; /* of the process, before */
	uint64_t started; /* ms, of the last thing that has a deadline */
	int lost;	  /* how often, atomic */
	char why[256];
	sem_t told;
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void on_lost(struct vf *vf, const char *why)
{
	struct env *e = vf->owner;

	e->lost++;
	snprintf(e->why, sizeof(e->why), "%s", why);
	sem_post(&e->told);
}

static int attach(struct env *e, const char *const *args)
{
	int err;

	memset(e, 0, sizeof(*e));
	e->fds = vf_contract_fds();
	sem_init(&e->told, 0, 0);
	assert_int_equal(io_thread_start(&e->t, "test-vf", &e->diag), 0);
	assert_int_equal(gmem_create(&e->ram, PLAT_RAM_MIN, GMEM_SHARED, &e->diag), 0);
	assert_true(vf_peer_start(&e->peer, args));
	e->started = now_ms();
	err = vf_user_attach(&e->t.loop, e->peer.sock, "a-server", &e->vf, &e->diag);
	if (!err) {
		e->vf->owner = e;
		e->vf->lost = on_lost;
	}
	return err;
}

static void detach(struct env *e)
{
	if (e->vf)
		e->vf->ops->close(e->vf);
	assert_true(vf_peer_stop(&e->peer));
	io_thread_stop(&e->t);
	gmem_destroy(&e->ram);
	sem_destroy(&e->told);
	assert_int_equal(vf_contract_fds(), e->fds);
}

static void wait_told(struct env *e)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 30;
	assert_int_equal(sem_timedwait(&e->told, &until), 0);
}

static int read_vendor(struct env *e)
{
	uint16_t vendor = 0;
	int err = e->vf->ops->region_read(e->vf, CFG, PCI_VENDOR_ID, &vendor, 2);

	if (!err)
		assert_int_equal(vendor, 0x1af4);
	return err;
}

static void put(struct env *e, unsigned int region, uint64_t off, uint64_t v, unsigned int len)
{
	assert_int_equal(e->vf->ops->region_write(e->vf, region, off, &v, len), 0);
}

/* --- the echo -------------------------------------------------------------------------------- */

/* Queue q works at `at` and signals vector v; the bytes there are set. */
static void set_up(struct env *e, unsigned int q, uint64_t at, unsigned int v)
{
	put(e, CFG, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	put(e, 0, VIRTIO_PCI_COMMON_Q_SELECT, q, 2);
	put(e, 0, VIRTIO_PCI_COMMON_Q_DESCLO, at, 8);
	put(e, 0, VIRTIO_PCI_COMMON_Q_MSIX, v, 2);
}

static void wire(struct env *e, int *fds, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(e->vf->ops->irq_set(e->vf, fds, n), 0);
}

static void unwire(struct env *e, const int *fds, unsigned int n)
{
	assert_int_equal(e->vf->ops->irq_set(e->vf, NULL, 0), 0);
	for (unsigned int i = 0; i < n; i++)
		close(fds[i]);
}

static void expect_signal(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t n;

	assert_int_equal(poll(&p, 1, 30000), 1);
	assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
}

static void fill(struct env *e, uint64_t at, uint64_t v)
{
	memcpy(e->ram.base + at, &v, sizeof(v));
	memset(e->ram.base + at + 8, 0, 8);
}

static uint64_t echoed(struct env *e, uint64_t at)
{
	uint64_t v;

	memcpy(&v, e->ram.base + at + 8, sizeof(v));
	return v;
}

static void echo(struct env *e)
{
	int fds[VECTORS];

	if (vf_map_ram(e->vf, &e->ram, &e->diag))
		fail_msg("%s", e->diag.text);
	wire(e, fds, VECTORS);
	for (unsigned int q = 0; q < 3; q++) {
		fill(e, 0x3000 * (q + 1), 0x1122334455667788ull + q);
		set_up(e, q, 0x3000 * (q + 1), VECTORS - 1 - q);
		put(e, 0, NOTIFY + q * PAGE_SIZE_4K, q, 2);
		expect_signal(fds[VECTORS - 1 - q]);
		assert_true(echoed(e, 0x3000 * (q + 1)) == ~(0x1122334455667788ull + q));
	}
	unwire(e, fds, VECTORS);
}

static void test_echo(void **state)
{
	struct env e;

	(void)state;
	assert_int_equal(attach(&e, NULL), 0);
	assert_string_equal(e.vf->ops->kind, "vfio-user");
	assert_true(e.vf->info.needs_shared_ram && e.vf->info.coherent && e.vf->info.can_reset);
	assert_int_equal(e.vf->info.nvectors, VECTORS);
	/* The hole of queue 1 is not offered. */
	assert_int_equal(e.vf->info.regions[0].nareas, 2);
	assert_int_equal(e.vf->info.regions[0].areas[1].offset, NOTIFY + 0x2000);
	echo(&e);
	detach(&e);
}

/* Descriptors go in as many messages as the server needs. */
static void test_irqs_in_chunks(void **state)
{
	struct env e;

	(void)state;
	assert_int_equal(attach(&e, (const char *[]){ "--max-fds", "2", NULL }), 0);
	echo(&e);
	detach(&e);
	assert_int_equal(attach(&e, (const char *[]){ "--no-caps", "--max-fds", "1", NULL }), 0);
	echo(&e);
	detach(&e);
}

/* A vector that is wired to nothing is taken, and disturbs nobody. */
static void test_irq_without_fd(void **state)
{
	int fds[VECTORS];
	struct env e;

	(void)state;
	assert_int_equal(attach(&e, NULL), 0);
	assert_int_equal(vf_map_ram(e.vf, &e.ram, &e.diag), 0);
	wire(&e, fds, VECTORS);
	close(fds[3]);
	fds[3] = -1;
	assert_int_equal(e.vf->ops->irq_set(e.vf, fds, VECTORS), 0);
	set_up(&e, 0, 0x1000, 3);
	put(&e, 0, NOTIFY, 0, 2);
	set_up(&e, 0, 0x1000, 2);
	put(&e, 0, NOTIFY, 0, 2);
	expect_signal(fds[2]);
	assert_int_equal(e.vf->ops->irq_set(e.vf, NULL, 0), 0);
	put(&e, 0, NOTIFY, 0, 2);
	assert_int_equal(read(fds[2], &(uint64_t){ 0 }, 8), -1);
	for (int i = 0; i < VECTORS; i++)
		if (i != 3)
			close(fds[i]);
	detach(&e);
}

/* The server reads and writes guest memory by message, while a call waits for its answer. */
static void test_message_dma(void **state)
{
	struct env e;

	(void)state;
	assert_int_equal(attach(&e, (const char *[]){ "--message-dma", NULL }), 0);
	assert_int_equal(gmem_log_start(&e.ram), 0);
	echo(&e);
	/* The pages that the messages wrote, and no others. */
	for (unsigned int i = 0; i < 64; i++)
		assert_int_equal(e.ram.dirty[0] >> i & 1, i == 3 || i == 6 || i == 9);
	/* What is not mapped is refused, and the function goes on. */
	set_up(&e, 0, PLAT_RAM_MIN - 4, 0);
	put(&e, 0, NOTIFY, 0, 2);
	set_up(&e, 0, UINT64_MAX - 3, 0);
	put(&e, 0, NOTIFY, 0, 2);
	set_up(&e, 0, PLAT_RAM_MIN - 8, 0);
	put(&e, 0, NOTIFY, 0, 2);
	assert_int_equal(read_vendor(&e), 0);
	assert_int_equal(e.lost, 0);
	detach(&e);
}

/* The same when nobody is calling: a doorbell by eventfd, DMA by message, then the interrupt. */
static void doorbell(const char *stride)
{
	int fds[VECTORS], bell = -1, other = -1, none = -1, one;
	uint64_t ring = 1;
	struct env e;

	assert_int_equal(attach(&e, (const char *[]){ "--io-fds", "--message-dma", "--stride",
						      stride, NULL }),
			 0);
	assert_int_equal(vf_map_ram(e.vf, &e.ram, &e.diag), 0);
	wire(&e, fds, VECTORS);
	assert_int_equal(e.vf->ops->doorbell_fd(e.vf, 0, NOTIFY + 0x2000, 2, 2, &bell), 0);
	assert_int_equal(e.vf->ops->doorbell_fd(e.vf, 0, NOTIFY + 0x1000, 2, 1, &other), 0);
	assert_true(bell >= 0 && other >= 0 && bell != other);
	/* Another value, place or width is another doorbell; the server takes none of ours. */
	assert_int_equal(e.vf->ops->doorbell_fd(e.vf, 0, NOTIFY + 0x2000, 2, 1, &none),
			 -EOPNOTSUPP);
	assert_int_equal(e.vf->ops->doorbell_fd(e.vf, 0, NOTIFY + 0x2002, 2, 2, &none),
			 -EOPNOTSUPP);
	assert_int_equal(e.vf->ops->doorbell_fd(e.vf, 0, NOTIFY + 0x2000, 4, 2, &none),
			 -EOPNOTSUPP);
	assert_int_equal(none, -1);
	one = fds[0];
	assert_int_equal(e.vf->ops->doorbell_fd(e.vf, 0, NOTIFY, 2, 0, &one), -EOPNOTSUPP);
	fill(&e, 0x5000, 42);
	set_up(&e, 2, 0x5000, 1);
	assert_int_equal(write(bell, &ring, sizeof(ring)), sizeof(ring));
	expect_signal(fds[1]);
	/* A call behind it, because the thread sanitizer cannot see the order through the server.
	 */
	assert_int_equal(read_vendor(&e), 0);
	assert_true(echoed(&e, 0x5000) == ~42ull);
	unwire(&e, fds, VECTORS);
	detach(&e);
}

static void test_doorbell_fds(void **state)
{
	(void)state;
	doorbell("40");
	doorbell("48");
}

static void test_doorbell_mapped(void **state)
{
	void *page = NULL;
	uint32_t seen = 0;
	struct env e;

	(void)state;
	assert_int_equal(attach(&e, NULL), 0);
	assert_int_equal(e.vf->ops->region_mmap(e.vf, 0, NOTIFY + 0x3000, 4096, &page), 0);
	*(volatile uint32_t *)((char *)page + 0x10) = 0x12345678;
	assert_int_equal(e.vf->ops->region_read(e.vf, 0, NOTIFY + 0x3010, &seen, 4), 0);
	assert_int_equal(seen, 0x12345678);
	munmap(page, 4096);
	detach(&e);
}

/* --- the DMA log ----------------------------------------------------------------------------- */

static void test_dma_log(void **state)
{
	struct vf_range all = { 0, PLAT_RAM_MIN };
	uint64_t *bits = calloc(PLAT_RAM_MIN / PAGE_SIZE_4K / 64 + 2, 8);
	struct env e;

	(void)state;
	assert_int_equal(attach(&e, NULL), 0);
	assert_int_equal(vf_map_ram(e.vf, &e.ram, &e.diag), 0);
	assert_int_equal(e.vf->ops->log_report(e.vf, 0, PLAT_RAM_MIN, bits), -EINVAL);
	assert_int_equal(e.vf->ops->log_start(e.vf, &all, 1), 0);
	set_up(&e, 0, 0x45000, 0);
	put(&e, 0, NOTIFY, 0, 2);
	assert_int_equal(e.vf->ops->log_report(e.vf, 0, PLAT_RAM_MIN, bits), 0);
	assert_true(bits[1] == 1ull << 5);
	bits[1] = 0;
	assert_int_equal(e.vf->ops->log_report(e.vf, 0, PLAT_RAM_MIN, bits), 0);
	assert_true(bits[1] == 0);
	/* A range that begins before the mapping and goes beyond it: the bits are where they
	 * belong. */
	assert_int_equal(e.vf->ops->dma_unmap(e.vf, 0, PLAT_RAM_MIN), 0);
	assert_int_equal(e.vf->ops->dma_map(e.vf, 0x3000, 0x42000, e.ram.base, e.ram.fd, 0, NULL),
			 0);
	set_up(&e, 0, 0x43ff0, 0);
	put(&e, 0, NOTIFY, 0, 2);
	assert_int_equal(e.vf->ops->log_report(e.vf, 0x1000, 0x80000, bits), 0);
	assert_true(bits[0] == 0 && bits[1] == 1ull << (0x42 - 64));
	assert_int_equal(e.vf->ops->log_report(e.vf, 0x4000, 0x1000, bits), -EOPNOTSUPP);
	assert_int_equal(e.vf->ops->log_report(e.vf, 0x4001, 0x1000, bits), -EINVAL);
	assert_int_equal(e.vf->ops->log_report(e.vf, 0, UINT64_MAX - 4095, bits), 0);
	assert_int_equal(e.vf->ops->log_stop(e.vf), 0);
	free(bits);
	detach(&e);
}

/* --- broken servers -------------------------------------------------------------------------- */

#define CLOSED "it closed the connection instead of an answer to "

/* What is broken at which command, and what comes of it. */
struct fault {
	const char *mode, *at, *nth;
	int err;	  /* 0: it does no harm */
	const char *text; /* in the sentence */
	unsigned int ms;  /* the deadline; 0: at once */
};

/* The commands by number, as the server's options have them. */
#define AT_VERSION "1"
#define AT_MAP	   "2"
#define AT_UNMAP   "3"
#define AT_INFO	   "4"
#define AT_REGION  "5"
#define AT_IRQ	   "7"
#define AT_IRQS	   "8"
#define AT_READ	   "9"
#define AT_WRITE   "10"
#define AT_RESET   "13"
#define AT_FEATURE "16"

static const struct fault at_open[] = {
	{ "never", AT_VERSION, "1", -ETIMEDOUT, "no answer to VERSION within 2000 ms", 2000 },
	{ "short", AT_VERSION, "1", -EPROTO, "does not end with a NUL", 0 },
	{ "long", AT_VERSION, "1", -EPROTO, "it answered VERSION with ", 0 },
	{ "wrong-size", AT_VERSION, "1", -EPROTO, "a message of 8 bytes, less than a header", 0 },
	{ "wrong-id", AT_VERSION, "1", -EPROTO, "it answered VERSION (id 1) with VERSION (id 65)",
	  0 },
	{ "wrong-cmd", AT_VERSION, "1", -EPROTO, "it answered VERSION (id 1) with DMA_MAP", 0 },
	{ "wrong-type", AT_VERSION, "1", -EPROTO, "unknown type 5", 0 },
	{ "huge", AT_VERSION, "1", -EPROTO, "it answered VERSION with 2147483631 bytes", 0 },
	{ "cut", AT_VERSION, "1", -ETIMEDOUT, "no answer to VERSION within 2000 ms", 2000 },
	{ "bad-json", AT_VERSION, "1", -EPROTO, "does not end in a JSON object", 0 },
	{ "bad-caps", AT_VERSION, "1", -EPROTO, "capabilities are not the numbers", 0 },
	{ "no-nul", AT_VERSION, "1", -EPROTO, "does not end with a NUL", 0 },
	{ "major", AT_VERSION, "1", -EPROTO, "speaks version 1.0, unvmm 0.2", 0 },
	{ "error", AT_VERSION, "1", -EFAULT, "refuses VERSION 0.2: Bad address", 0 },
	{ "disconnect", AT_VERSION, "1", -ECONNRESET, CLOSED "VERSION", 0 },
	{ "short", AT_INFO, "1", -EPROTO, "it answered DEVICE_GET_INFO with 8 bytes", 0 },
	{ "disconnect", AT_INFO, "1", -ECONNRESET, CLOSED "DEVICE_GET_INFO", 0 },
	{ "error", AT_REGION, "3", -EFAULT, "refuses DEVICE_GET_REGION_INFO", 0 },
	{ "short", AT_REGION, "1", -EPROTO, "it answered DEVICE_GET_REGION_INFO with 16 bytes", 0 },
	{ "short", AT_REGION, "2", -EPROTO, "has a cut list of areas to map", 0 },
	{ "long", AT_REGION, "2", -EPROTO, "it answered DEVICE_GET_REGION_INFO with 9080", 0 },
	{ "short", AT_IRQ, "1", -EPROTO, "it answered DEVICE_GET_IRQ_INFO with 8 bytes", 0 },
	{ "error", AT_RESET, "1", -EFAULT, "refuses DEVICE_RESET", 0 },
	{ "long", AT_RESET, "1", -EPROTO, "it answered DEVICE_RESET with 9000 bytes", 0 },
	{ "error", AT_READ, "1", -EFAULT, "refuses access to the configuration space", 0 },
	{ "disconnect", AT_FEATURE, "1", -ENODEV, CLOSED "DEVICE_FEATURE", 0 },
	{ "disconnect", AT_IRQS, "2", -ECONNRESET, CLOSED "DEVICE_SET_IRQS", 0 },
	{ "error", AT_IRQ, "2", 0, NULL, 0 },
	{ "error", AT_IRQS, "1", 0, NULL, 0 },
	{ "extra-fds", AT_VERSION, "1", 0, NULL, 0 },
	{ "extra-fds", AT_REGION, "1", 0, NULL, 0 },
	{ "extra-fds", AT_IRQ, "1", 0, NULL, 0 },
};

static void check_time(const struct env *e, const struct fault *f)
{
	uint64_t took = now_ms() - e->started;

	/* What is above is for a busy host. */
	if (took + 100 < f->ms || took > f->ms + 10000)
		fail_msg("%s at %s: it took %llu ms, not %u", f->mode, f->at,
			 (unsigned long long)took, f->ms);
}

static void test_faults_at_open(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(at_open); i++) {
		const struct fault *f = &at_open[i];
		struct env e;
		int err = attach(&e, (const char *[]){ "--fault", f->mode, "--at", f->at, "--nth",
						       f->nth, NULL });

		check_time(&e, f);
		if (err != f->err || (f->text && !strstr(e.diag.text, f->text)))
			fail_msg("%s at %s: %d, \"%s\"", f->mode, f->at, err, e.diag.text);
		if (err && strncmp(e.diag.text, "a-server: the vfio-user server", 30))
			fail_msg("%s at %s: \"%s\"", f->mode, f->at, e.diag.text);
		if (!err)
			assert_int_equal(read_vendor(&e), 0);
		detach(&e);
	}
}

static int call(struct env *e, const char *at)
{
	int fd = -1;

	if (!strcmp(at, AT_READ))
		return read_vendor(e);
	if (!strcmp(at, AT_WRITE))
		return e->vf->ops->region_write(e->vf, 0, 0, &fd, 4);
	if (!strcmp(at, AT_MAP))
		return vf_map_ram(e->vf, &e->ram, &e->diag);
	if (!strcmp(at, AT_UNMAP)) {
		assert_int_equal(vf_map_ram(e->vf, &e->ram, &e->diag), 0);
		return e->vf->ops->dma_unmap(e->vf, 0, PLAT_RAM_MIN);
	}
	if (!strcmp(at, AT_IRQS))
		return e->vf->ops->irq_set(e->vf, &fd, 1);
	return -EINVAL;
}

/* Open has read the configuration space once, written it once, and wired two events. */
static const struct fault at_call[] = {
	{ "never", AT_READ, "2", -ETIMEDOUT, "no answer to REGION_READ within 2000 ms", 2000 },
	{ "late", AT_READ, "2", -ETIMEDOUT, "no answer to REGION_READ within 2000 ms", 2000 },
	{ "cut", AT_READ, "2", -ETIMEDOUT, "no answer to REGION_READ within 2000 ms", 2000 },
	{ "flood", AT_READ, "2", -ETIMEDOUT, "no answer to REGION_READ within 2000 ms", 2000 },
	{ "short", AT_READ, "2", -EPROTO, "REGION_READ with 9 bytes, not 18", 0 },
	{ "long", AT_READ, "2", -EPROTO, "REGION_READ with 9018 bytes", 0 },
	{ "wrong-size", AT_READ, "2", -EPROTO, "less than a header", 0 },
	{ "wrong-id", AT_WRITE, "2", -EPROTO, "it answered REGION_WRITE (id ", 0 },
	{ "wrong-cmd", AT_MAP, "1", -EPROTO, "with DMA_UNMAP", 0 },
	{ "wrong-type", AT_IRQS, "3", -EPROTO, "unknown type", 0 },
	{ "huge", AT_READ, "2", -EPROTO, "with 2147483631 bytes", 0 },
	{ "disconnect", AT_READ, "2", -ECONNRESET, CLOSED "REGION_READ", 0 },
	{ "disconnect", AT_MAP, "1", -ECONNRESET, CLOSED "DMA_MAP", 0 },
	{ "disconnect", AT_UNMAP, "1", -ECONNRESET, CLOSED "DMA_UNMAP", 0 },
	{ "unasked", AT_READ, "2", 0, "it answered REGION_READ, which nobody asked", 0 },
	{ "error", AT_READ, "2", -EFAULT, NULL, 0 },
	{ "error", AT_MAP, "1", -EFAULT, NULL, 0 },
	{ "extra-fds", AT_READ, "2", 0, NULL, 0 },
	{ "extra-fds", AT_IRQS, "3", 0, NULL, 0 },
};

static void test_faults_at_calls(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(at_call); i++) {
		const struct fault *f = &at_call[i];
		struct env e;
		int err;

		assert_int_equal(attach(&e, (const char *[]){ "--fault", f->mode, "--at", f->at,
							      "--nth", f->nth, NULL }),
				 0);
		e.started = now_ms();
		err = call(&e, f->at);
		check_time(&e, f);
		if (err != f->err)
			fail_msg("%s at %s: %d, not %d", f->mode, f->at, err, f->err);
		if (!strcmp(f->at, AT_MAP) && err)
			assert_non_null(strstr(e.diag.text, "a-server: "));
		/* What was refused is not there: tried again it is refused for the same reason. */
		if (!strcmp(f->at, AT_MAP) && !f->text)
			assert_int_equal(call(&e, AT_MAP), err);
		if (f->text) {
			wait_told(&e);
			if (!strstr(e.why, f->text))
				fail_msg("%s at %s: \"%s\"", f->mode, f->at, e.why);
			assert_int_equal(read_vendor(&e), -ENODEV);
			assert_int_equal(call(&e, AT_IRQS), -ENODEV);
			usleep(1000);
			assert_int_equal(e.lost, 1);
		} else if (strcmp(f->mode, "error")) {
			assert_int_equal(read_vendor(&e), 0);
			assert_int_equal(e.lost, 0);
		}
		detach(&e);
	}
}

/* A server that ends while nobody calls is noticed at once, by the loop. */
static void test_end_while_idle(void **state)
{
	struct env e;

	(void)state;
	assert_int_equal(attach(&e, NULL), 0);
	assert_int_equal(read_vendor(&e), 0);
	shutdown(vf_user_of(e.vf)->sock, SHUT_RDWR);
	wait_told(&e);
	assert_string_equal(e.why, "it closed the connection");
	assert_int_equal(read_vendor(&e), -ENODEV);
	detach(&e);
	assert_int_equal(e.lost, 1);
}

/* --- connecting ------------------------------------------------------------------------------ */

static void test_connect(void **state)
{
	char long_path[200], dir[] = "/tmp/unvmm-vf-XXXXXX", path[64];
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	unsigned int before = vf_contract_fds();
	struct diag d = { "" };
	uint64_t start;
	struct vf *vf;
	int listener;

	(void)state;
	memset(long_path, 'x', sizeof(long_path));
	long_path[sizeof(long_path) - 1] = 0;
	assert_int_equal(vf_user_open(NULL, long_path, &vf, &d), -ENAMETOOLONG);
	assert_non_null(strstr(d.text, "at most 107 characters"));
	d.text[0] = 0;
	assert_int_equal(vf_user_open(NULL, "/nonexistent/s", &vf, &d), -ENOENT);
	assert_non_null(strstr(d.text, "/nonexistent/s: cannot connect to the vfio-user server"));

	/* Somebody listens, and never accepts: another client has the server. */
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	memcpy(addr.sun_path, path, strlen(path));
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listener, 0), 0);
	d.text[0] = 0;
	start = now_ms();
	assert_int_equal(vf_user_open(NULL, path, &vf, &d), -ETIMEDOUT);
	assert_in_range(now_ms() - start, VF_CALL_MS - 100, VF_CALL_MS + 10000);
	assert_non_null(strstr(d.text, "whether another client is connected"));
	close(listener);
	unlink(path);
	rmdir(dir);
	assert_int_equal(vf_contract_fds(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_echo),
		cmocka_unit_test(test_irqs_in_chunks),
		cmocka_unit_test(test_irq_without_fd),
		cmocka_unit_test(test_message_dma),
		cmocka_unit_test(test_doorbell_fds),
		cmocka_unit_test(test_doorbell_mapped),
		cmocka_unit_test(test_dma_log),
		cmocka_unit_test(test_faults_at_open),
		cmocka_unit_test(test_faults_at_calls),
		cmocka_unit_test(test_end_while_idle),
		cmocka_unit_test(test_connect),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
