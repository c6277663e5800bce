/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_migration.c - a hostile source: its bytes against the engine's target side, from HELLO to
 * COMMIT. The machine's state is not here (fuzz_state has it): every part is taken as it comes.
 *
 * Input: sections as { type u8, length u16, payload }; number and checksum are filled in, for no
 * fuzzer guesses them. Type 0xff instead sends the bytes of its payload as they are, 0xfe makes a
 * RAM section { first page u16, pages u8, contents u8, zero u8 } whose length fits.
 *
 * Planted bug (FUZZ_PLANT): ram_load() looks only whether a section's first page is RAM.
 * Threads: the fuzzer's, as main, and the engine's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <unvmm/device.h>
#include <unvmm/migration.h>
#include <unvmm/vm.h>

#include "crc32c.h"
#include "fake_machine.h"
#include "proto.h"
#include "ram.h"

#define INPUT_MAX KiB(32)
#define RAM_SIZE  MiB(16)
#define TURNS	  2000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- the machine that it is to come into ------------------------------------------------------ */

/* Reads all of it, so that the sanitizer sees what is not there. */
static int parse_part(const char *id, const void *blob, size_t len, struct diag *d)
{
	const uint8_t *p = blob;
	uint8_t sum = (uint8_t)strlen(id);

	for (size_t i = 0; i < len; i++)
		sum ^= p[i];
	return sum == 0x5a ? diag_set(d, -EINVAL, "%s: refused", id) : 0;
}

static int check_description(const void *description, size_t len, struct diag *d)
{
	return len && *(const uint8_t *)description == 'X' ? diag_set(d, -EINVAL, "another machine")
							   : 0;
}

static const struct fake_machine fake_machine = { .state = "-",
						  .parse = parse_part,
						  .check = check_description };

/* A device with bytes of its own: it reads all of them. */
static void opaque_put(struct device *dev, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum ^= p[i];
	*(volatile uint8_t *)dev->priv = sum;
}

static const struct device_class opaque_class = { .name = "vf", .opaque_put = opaque_put };
static uint8_t opaque_sum;
static struct device opaque_device = { .id = "vf0", .cls = &opaque_class, .priv = &opaque_sum };

/* --- the hostile source ----------------------------------------------------------------------- */

struct wire {
	uint8_t *bytes;
	size_t len, max, first; /* first: the end of the first section */
	uint32_t number;
};

static void put_raw(struct wire *w, const void *p, size_t len)
{
	if (len > w->max - w->len)
		len = w->max - w->len;
	memcpy(w->bytes + w->len, p, len);
	w->len += len;
}

static void put_section(struct wire *w, uint8_t type, const uint8_t *payload, size_t len)
{
	uint8_t h[STREAM_HEADER] = { 0 };

	put_le16(h, type);
	put_le32(h + 4, (uint32_t)len);
	put_le32(h + 8, w->number++);
	put_le32(h + 12, crc32c(crc32c(0, h, 12), payload,
				type == MSG_RAM && len > RAM_HEAD ? RAM_HEAD : len));
	put_raw(w, h, sizeof(h));
	put_raw(w, payload, len);
}

/* Up to eight pages with a bitmap each of contents and zeroes. */
static void put_ram(struct wire *w, const uint8_t *p, size_t len)
{
	static uint8_t payload[RAM_FIXED + 16 + 8 * PAGE_SIZE_4K];
	unsigned int contents;

	if (len < 5)
		return;
	contents = (unsigned int)__builtin_popcount(p[3]);
	memset(payload, 0, RAM_FIXED + 16);
	memset(payload + RAM_FIXED + 16, 0x77, contents * PAGE_SIZE_4K);
	put_le64(payload, (uint64_t)get_le16(p) * PAGE_SIZE_4K);
	put_le32(payload + 8, p[2]);
	payload[RAM_FIXED] = p[3];
	payload[RAM_FIXED + 8] = p[4];
	put_le64(payload + 16, ram_sum(payload + RAM_FIXED + 16, contents));
	put_section(w, MSG_RAM, payload, RAM_FIXED + 16 + contents * PAGE_SIZE_4K);
}

static void make_wire(struct wire *w, const uint8_t *data, size_t size)
{
	while (size >= 3) {
		size_t len = get_le16(data + 1), left = size - 3;

		len = len < left ? len : left;
		if (data[0] == 0xff)
			put_raw(w, data + 3, len);
		else if (data[0] == 0xfe)
			put_ram(w, data + 3, len);
		else
			put_section(w, data[0], data + 3, len);
		data += 3 + len;
		size -= 3 + len;
		w->first = w->first ? w->first : w->len;
	}
}

/* --- one run -----------------------------------------------------------------------------------
 */

static struct fuzzed {
	struct vm vm;
	struct vm_config config;
	struct migration *migration;
	uint8_t *bytes;
	bool ended;
	struct migration_status status;
} fuzzed;

static void on_ended(void *arg, const struct migration_status *s)
{
	struct fuzzed *f = arg;

	f->status = *s;
	f->ended = true;
}

static struct fuzzed *machine(void)
{
	const struct migration_events events = { .ended = on_ended, .arg = &fuzzed };
	struct diag d = { 0 };

	if (fuzzed.migration)
		return &fuzzed;
	fuzzed.bytes = malloc(2 * INPUT_MAX + MiB(1));
	if (!fuzzed.bytes || vm_init(&fuzzed.vm, &fuzzed.config, &d) ||
	    gmem_create(&fuzzed.vm.mem, RAM_SIZE, GMEM_PRIVATE, &d) ||
	    migration_create(&fuzzed.vm, &events, &fuzzed.migration, &d))
		abort();
	fuzzed.vm.devices = &opaque_device;
	return &fuzzed;
}

#define ANSWERS	    (STREAM_HEADER + 8 + STREAM_HEADER) /* ACCEPT, PREPARED */
#define FIRST_TURNS 20

/*
 * What follows HELLO waits for PREPARED, as a source would, or for a while. The connection closes
 * when all has been said.
 */
static void deliver(struct fuzzed *f, int fd, const struct wire *w)
{
	size_t done = 0, answered = 0;
	uint8_t answers[4096];

	for (unsigned int i = 0; i < TURNS && !f->ended; i++) {
		size_t end = answered >= ANSWERS || i > FIRST_TURNS ? w->len : w->first;
		ssize_t n = done < end ? send(fd, w->bytes + done, end - done,
					      MSG_DONTWAIT | MSG_NOSIGNAL)
				       : 0;

		done += n > 0 ? (size_t)n : 0;
		if (done == w->len)
			shutdown(fd, SHUT_WR);
		while ((n = recv(fd, answers, sizeof(answers), MSG_DONTWAIT)) > 0)
			answered += (size_t)n;
		if (loop_turn(&f->vm.main_loop, 1000000) < 0)
			abort();
	}
	if (!f->ended)
		abort(); /* it hangs, and the source is long gone */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzzed *f = machine();
	struct wire w = { .bytes = f->bytes, .max = 2 * INPUT_MAX + MiB(1) };
	struct migration_params p;
	struct diag d = { 0 };
	int pair[2];

	if (size > INPUT_MAX)
		return 0;
	make_wire(&w, data, size);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return 0;
	migration_params_init(&p);
	f->vm.held = true;
	f->vm.paused = f->ended = false;
	if (migration_receive(f->migration, pair[0], &p, &d))
		abort();
	deliver(f, pair[1], &w);
	close(pair[1]);
	/* It runs, or there is a sentence why not; and it runs only if it is told so. */
	if (getenv("SHOW"))
		fprintf(stderr, "%s %s\n", migration_phase_name(f->status.phase), f->status.error);
	if (f->status.phase == MIGRATION_COMPLETED ? f->vm.held : !f->status.error[0])
		abort();
	if (f->status.phase != MIGRATION_COMPLETED && !f->vm.held)
		abort();
	return 0;
}
