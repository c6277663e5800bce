/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lazy.c - memory that comes when it is touched; see lazy.h. Noted by the migration thread; from
 * lazy_serve() on all of it is the thread "lazy"'s.
 */
#include "ram.h"

#include "crc32c.h"
#include "lazy.h"

#include <unvmm/log.h>
#include <unvmm/sandbox.h>
#include <unvmm/thread.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define USERFAULTFD_PATH "/dev/userfaultfd"

/* Where a page comes from: the number of a section, or one of these. */
#define FROM_NOWHERE UINT32_MAX	      /* no section has had it */
#define FROM_ZERO    (UINT32_MAX - 1) /* it is all zero */
#define FROM_GIVEN   (UINT32_MAX - 2) /* it is there */
#define SECTIONS_MAX (UINT32_MAX - 3)

/*
 * Zero pages that are given at once, if they are side by side and in one part of memory of this
 * size: the kernel fills no two mappings at once, and gmem's has parts that begin at multiples of
 * 2 MiB.
 */
#define ZEROES_MAX 64u
#define MSGS_MAX   16

/* A RAM section in the file. */
struct place {
	uint64_t at; /* of its header */
	uint32_t len, crc;
	uint32_t left; /* pages that come from it and are not there yet */
};

enum lazy_state { LAZY_ASLEEP, LAZY_SERVING, LAZY_CLOSING, LAZY_OVER };

struct lazy {
	struct gmem *mem;
	const struct sandbox *sandbox;
	void (*lost)(void *arg, const char *why);
	void *arg;
	pthread_t thread;
	bool started;
	int wake_fd;	/* eventfd: the state has changed */
	int uffd, fd;	/* -1: none */
	uint32_t state; /* enum lazy_state; atomic */
	bool missing;	/* what is not there is missing: uffd has been told */

	uint64_t npages;
	uint32_t *from; /* per page of the mapping */
	struct place *places;
	uint32_t nplaces, max, next; /* next: of the background */
	uint8_t *buf;		     /* a section */
	uint64_t faults;
};

/* --- what is where ---------------------------------------------------------------------------- */

bool lazy_suits(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISREG(st.st_mode);
}

static int add_place(struct lazy *l, const struct section *s, struct diag *d)
{
	struct place *p = l->places;

	if (l->nplaces == l->max) {
		l->max = l->max ? 2 * l->max : 1024;
		p = l->nplaces < SECTIONS_MAX / 2 ? realloc(p, l->max * sizeof(*p)) : NULL;
		if (!p)
			return diag_set(d, -ENOMEM, "out of memory for the list of the file's RAM");
		l->places = p;
	}
	p[l->nplaces++] = (struct place){ .at = s->at, .len = s->len, .crc = s->crc };
	return 0;
}

int lazy_note(struct lazy *l, const struct section *s, struct diag *d)
{
	struct ram_section r;
	uint64_t page;
	int err = ram_parse(l->mem, s->payload, s->got, s->len, &r, d);

	if (!err && r.npages)
		err = add_place(l, s, d);
	if (err)
		return err;
	page = (uint64_t)(r.to - l->mem->base) / PAGE_SIZE_4K;
	for (unsigned int i = 0; i < r.n; i++) {
		uint32_t *from = &l->from[page + i];

		if (!ram_has(r.data, i) && !ram_has(r.zero, i))
			continue;
		if (*from < SECTIONS_MAX)
			l->places[*from].left--;
		*from = FROM_ZERO;
		if (ram_has(r.data, i)) {
			*from = l->nplaces - 1;
			l->places[*from].left++;
		}
	}
	return 0;
}

int lazy_complete(const struct lazy *l, uint64_t *pages, uint64_t *zero_pages, struct diag *d)
{
	*pages = *zero_pages = 0;
	for (uint64_t i = 0; i < l->npages; i++) {
		if (l->from[i] == FROM_NOWHERE)
			return diag_set(d, -EPROTO, "the file lacks a page of the guest's memory");
		*pages += l->from[i] != FROM_ZERO;
		*zero_pages += l->from[i] == FROM_ZERO;
	}
	return 0;
}

/* --- out of the file -------------------------------------------------------------------------- */

static int read_at(int fd, uint8_t *to, size_t len, uint64_t at, struct diag *d)
{
	while (len) {
		ssize_t n = pread(fd, to, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return diag_errno(d, -errno,
					  "the snapshot's file cannot be read at %" PRIu64, at);
		if (!n)
			return diag_set(d, -ENODATA,
					"the snapshot's file has become shorter: it ends at "
					"%" PRIu64,
					at);
		to += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* The very section that was noted: the checksum is that of then. */
static int read_place(struct lazy *l, const struct place *p, struct ram_section *r, struct diag *d)
{
	const uint8_t *payload = l->buf + STREAM_HEADER;
	int err = read_at(l->fd, l->buf, STREAM_HEADER + p->len, p->at, d);

	if (err)
		return err;
	if (stream_crc(l->buf, p->len < RAM_HEAD ? p->len : RAM_HEAD) != p->crc)
		return diag_set(d, -EBADMSG,
				"the snapshot's file is damaged, or was changed while the guest "
				"was read from it: the checksum of %u bytes at %" PRIu64
				" is wrong",
				p->len, p->at);
	err = ram_parse(l->mem, payload, p->len, p->len, r, d);
	if (err)
		diag_prefix(d, "the snapshot's file, at %" PRIu64, p->at);
	return err;
}

static int move_in(struct lazy *l, uint8_t *to, const uint8_t *from, size_t len, struct diag *d)
{
	struct uffdio_copy c = { .dst = (uintptr_t)to, .src = (uintptr_t)from, .len = len };

	if (!l->missing) {
		memcpy(to, from, len);
		return 0;
	}
	while (ioctl(l->uffd, UFFDIO_COPY, &c)) {
		if (errno != EAGAIN)
			return diag_errno(d, -errno, "guest memory cannot be filled in");
		if (c.copy > 0) {
			c.dst += (uint64_t)c.copy;
			c.src += (uint64_t)c.copy;
			c.len -= (uint64_t)c.copy;
		}
		c.copy = 0;
	}
	return 0;
}

/* All pages that come from this section; those that a later one has are left to that. */
static int give_place(struct lazy *l, uint32_t number, struct diag *d)
{
	struct ram_section r;
	const uint8_t *from;
	uint32_t *page;
	int err = read_place(l, &l->places[number], &r, d);

	if (err)
		return err;
	l->places[number].left = 0;
	from = r.contents;
	page = &l->from[(uint64_t)(r.to - l->mem->base) / PAGE_SIZE_4K];
	for (unsigned int i = 0, run; i < r.n && !err; i += run) {
		for (run = 0; i + run < r.n && ram_has(r.data, i + run) && page[i + run] == number;
		     run++)
			page[i + run] = FROM_GIVEN;
		if (run) {
			err = move_in(l, r.to + i * PAGE_SIZE_4K, from, run * PAGE_SIZE_4K, d);
			from += run * PAGE_SIZE_4K;
		} else {
			from += ram_has(r.data, i) ? PAGE_SIZE_4K : 0;
			run = 1;
		}
	}
	return err;
}

/* The next section that still has something to give; false: there is none. */
static bool next_place(struct lazy *l, uint32_t *number)
{
	while (l->next < l->nplaces && !l->places[l->next].left)
		l->next++;
	*number = l->next;
	return l->next < l->nplaces;
}

int lazy_read_all(struct lazy *l, int fd, struct diag *d)
{
	uint32_t number;
	int err = 0;

	l->fd = fd;
	while (!err && next_place(l, &number))
		err = give_place(l, number, d);
	l->fd = -1; /* the caller's */
	return err;
}

/* --- to who touches it ------------------------------------------------------------------------ */

static int give_zeroes(struct lazy *l, uint64_t page, struct diag *d)
{
	struct uffdio_zeropage z = { .range.start = (uintptr_t)l->mem->base + page * PAGE_SIZE_4K };
	uint64_t end = page;

	do
		l->from[end++] = FROM_GIVEN;
	while (end % ZEROES_MAX && end < l->npages && l->from[end] == FROM_ZERO);
	z.range.len = (end - page) * PAGE_SIZE_4K;
	while (ioctl(l->uffd, UFFDIO_ZEROPAGE, &z)) {
		if (errno != EAGAIN)
			return diag_errno(d, -errno, "guest memory cannot be filled in");
		if (z.zeropage > 0) {
			z.range.start += (uint64_t)z.zeropage;
			z.range.len -= (uint64_t)z.zeropage;
		}
		z.zeropage = 0;
	}
	return 0;
}

/* Somebody waits for a page that has been given since: it may not have been woken by that. */
static int wake_page(struct lazy *l, uint64_t page, struct diag *d)
{
	struct uffdio_range r = { .start = (uintptr_t)l->mem->base + page * PAGE_SIZE_4K,
				  .len = PAGE_SIZE_4K };

	return ioctl(l->uffd, UFFDIO_WAKE, &r)
		       ? diag_errno(d, -errno, "who waits for guest memory cannot be woken")
		       : 0;
}

static int serve_fault(struct lazy *l, const struct uffd_msg *msg, struct diag *d)
{
	uint64_t page = (msg->arg.pagefault.address - (uintptr_t)l->mem->base) / PAGE_SIZE_4K;

	if (msg->event != UFFD_EVENT_PAGEFAULT || page >= l->npages)
		return 0;
	l->faults++;
	switch (l->from[page]) {
	case FROM_GIVEN:
		return wake_page(l, page, d);
	case FROM_ZERO:
		return give_zeroes(l, page, d);
	default:
		return give_place(l, l->from[page], d);
	}
}

static int serve_faults(struct lazy *l, struct diag *d)
{
	struct uffd_msg msgs[MSGS_MAX];
	int err = 0;

	while (!err) {
		ssize_t n = read(l->uffd, msgs, sizeof(msgs));

		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno != EINTR)
			return diag_errno(d, -errno, "who waits for guest memory is not known");
		for (ssize_t i = 0; i < n / (ssize_t)sizeof(msgs[0]) && !err; i++)
			err = serve_fault(l, &msgs[i], d);
	}
	return err;
}

/* Only zero pages are left, and those are what memory has that was never touched. */
static int leave_rest(struct lazy *l, struct diag *d)
{
	struct uffdio_range r = { .start = (uintptr_t)l->mem->base, .len = l->mem->size };

	return ioctl(l->uffd, UFFDIO_UNREGISTER, &r)
		       ? diag_errno(d, -errno, "guest memory cannot be let go of")
		       : 0;
}

static enum lazy_state state_of(const struct lazy *l)
{
	return (enum lazy_state)__atomic_load_n(&l->state, __ATOMIC_ACQUIRE);
}

/* Those who wait first, then one section of the rest, and so on. */
static int serve(struct lazy *l, struct diag *d)
{
	uint32_t number;
	int err = 0;

	while (!err && state_of(l) == LAZY_SERVING) {
		err = serve_faults(l, d);
		if (err)
			break;
		if (!next_place(l, &number)) {
			err = leave_rest(l, d);
			break;
		}
		err = give_place(l, number, d);
	}
	return err;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* What only a guest with missing pages needs. */
static void release(struct lazy *l)
{
	close_fd(&l->uffd);
	close_fd(&l->fd);
	free(l->from);
	free(l->places);
	free(l->buf);
	l->from = NULL;
	l->places = NULL;
	l->buf = NULL;
}

static void *lazy_thread(void *arg)
{
	struct lazy *l = arg;
	uint32_t serving = LAZY_SERVING;
	struct pollfd wake = { .fd = l->wake_fd, .events = POLLIN };
	struct diag d = { 0 };
	int err = sandbox_enter(l->sandbox, SANDBOX_MIGRATION, &d);

	while (!err && state_of(l) == LAZY_ASLEEP)
		if (poll(&wake, 1, -1) < 0 && errno != EINTR)
			err = diag_errno(&d, -errno, "the guest's memory cannot be waited for");
	if (!err && state_of(l) == LAZY_SERVING)
		err = serve(l, &d);
	if (err)
		l->lost(l->arg, d.text); /* does not return */
	if (!__atomic_compare_exchange_n(&l->state, &serving, LAZY_OVER, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return NULL;
	log_info("all of the guest's memory has been read; %" PRIu64
		 " times somebody waited for a part of it",
		 l->faults);
	release(l);
	return NULL;
}

static void set_state(struct lazy *l, enum lazy_state from, enum lazy_state to)
{
	uint32_t was = from;
	uint64_t one = 1;

	__atomic_compare_exchange_n(&l->state, &was, to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
	/* Fails only if the counter is full, and then it is signalled. */
	if (write(l->wake_fd, &one, sizeof(one)) < 0)
		return;
}

bool lazy_over(const struct lazy *l)
{
	return !l || state_of(l) != LAZY_SERVING;
}

void lazy_finish(struct lazy *l)
{
	pthread_join(l->thread, NULL);
	l->started = false;
}

int lazy_serve(struct lazy *l, int fd, struct diag *d)
{
	struct uffdio_register r = { .range = { .start = (uintptr_t)l->mem->base,
						.len = l->mem->size },
				     .mode = UFFDIO_REGISTER_MODE_MISSING };
	const uint64_t need = 1ull << _UFFDIO_COPY | 1ull << _UFFDIO_ZEROPAGE;

	l->fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (l->fd < 0)
		return diag_errno(d, -errno, "the snapshot's file cannot be kept open");
	/* Whatever was put there before the guest came is not the guest's. */
	if (madvise(l->mem->base, l->mem->size, MADV_DONTNEED) ||
	    ioctl(l->uffd, UFFDIO_REGISTER, &r))
		return diag_errno(d, -errno, "guest memory cannot be filled in when it is touched");
	if ((r.ioctls & need) != need)
		return diag_set(d, -EOPNOTSUPP,
				"this kernel does not fill in guest memory when it is touched; "
				"--eager reads it before the guest runs");
	l->missing = true;
	set_state(l, LAZY_ASLEEP, LAZY_SERVING);
	return 0;
}

/* --- main ------------------------------------------------------------------------------------- */

/*
 * One that also works for the kernel itself, which touches guest memory in KVM and for disks: that
 * takes CAP_SYS_PTRACE, or the device node, or vm.unprivileged_userfaultfd = 1.
 */
static int open_uffd(struct lazy *l, struct diag *d)
{
	struct uffdio_api api = { .api = UFFD_API };
	int node;

	l->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	node = l->uffd < 0 ? open(USERFAULTFD_PATH, O_RDWR | O_CLOEXEC) : -1;
	if (node >= 0) {
		l->uffd = ioctl(node, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(node);
	}
	if (l->uffd < 0)
		return diag_set(d, -EPERM,
				"this user may not use userfaultfd: no access to %s and no "
				"CAP_SYS_PTRACE",
				USERFAULTFD_PATH);
	return ioctl(l->uffd, UFFDIO_API, &api) ? diag_errno(d, -errno, "userfaultfd") : 0;
}

int lazy_create(struct gmem *mem, const struct sandbox *sandbox,
		void (*lost)(void *arg, const char *why), void *arg, struct lazy **out,
		struct diag *d)
{
	struct lazy *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return diag_set(d, -ENOMEM, "out of memory");
	*l = (struct lazy){ .mem = mem,
			    .sandbox = sandbox,
			    .lost = lost,
			    .arg = arg,
			    .uffd = -1,
			    .fd = -1,
			    .wake_fd = -1,
			    .npages = mem->size / PAGE_SIZE_4K };
	err = open_uffd(l, d);
	if (!err) {
		l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		l->from = malloc(l->npages * sizeof(*l->from));
		l->buf = malloc(STREAM_HEADER + STREAM_PAYLOAD_MAX);
		if (l->wake_fd < 0 || !l->from || !l->buf)
			err = diag_set(d, -ENOMEM, "out of memory or descriptors");
	}
	if (!err) {
		memset(l->from, 0xff, l->npages * sizeof(*l->from)); /* FROM_NOWHERE */
		err = thread_start(&l->thread, "lazy", 0, lazy_thread, l, d);
		l->started = !err;
	}
	if (err)
		lazy_destroy(l);
	else
		*out = l;
	return err;
}

void lazy_destroy(struct lazy *l)
{
	if (!l)
		return;
	if (l->started) {
		set_state(l, LAZY_ASLEEP, LAZY_CLOSING);
		set_state(l, LAZY_SERVING, LAZY_CLOSING);
		pthread_join(l->thread, NULL);
	}
	release(l);
	close_fd(&l->wake_fd);
	free(l);
}
