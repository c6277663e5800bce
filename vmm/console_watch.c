/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_watch.c - the script behind --expect and --input. Output is fed by the thread that writes
 * to the console (a vcpu), silence is noticed on the main loop; the control lock protects both.
 *
 * Silence costs one timer, armed when a line stands unfinished and no timer runs, never per byte:
 * when it fires and bytes came meanwhile it is armed again. An idle guest has none.
 */
#include <errno.h>
#include <poll.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unvmm/chardev.h>
#include <unvmm/console_watch.h>
#include <unvmm/log.h>
#include <unvmm/timer.h>
#include <unvmm/vm.h>

/* An operating system command longer than this is not one: the guest printed garbage. */
#define OSC_MAX 256

enum filter { FILTER_TEXT, FILTER_ESC, FILTER_CSI, FILTER_OSC, FILTER_OSC_ESC };

struct step {
	struct step *next;
	bool expect;
	char *text; /* the pattern, or what to send */
	regex_t re; /* if expect */
};

struct console_watch {
	struct step *first, **tail;
	struct step *current; /* the expect step that is waited for; NULL: all done */
	struct vm *vm;
	struct chardev *chardev;
	void (*on_done)(void *opaque);
	void *opaque;

	enum filter filter;
	unsigned int osc_len;
	char window[CONSOLE_WATCH_WINDOW];
	size_t len;    /* bytes in the window */
	bool at_start; /* the window starts where a line starts */

	int timer_fd;
	struct loop_fd timer;
	bool armed;    /* the timer runs */
	bool unseen;   /* bytes came that no pattern was tried on */
	bool restless; /* bytes came since the timer was armed */
};

struct console_watch *console_watch_new(void)
{
	struct console_watch *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->tail = &w->first;
	w->timer_fd = -1;
	w->at_start = true;
	return w;
}

static void step_free(struct step *s)
{
	if (s->expect)
		regfree(&s->re);
	free(s->text);
	free(s);
}

void console_watch_free(struct console_watch *w)
{
	struct step *s, *next;

	if (!w)
		return;
	if (w->vm) {
		/* A vcpu may still be printing. */
		vm_lock(w->vm);
		chardev_watch(w->chardev, NULL, NULL);
		vm_unlock(w->vm);
	}
	loop_del(&w->timer);
	if (w->timer_fd >= 0)
		close(w->timer_fd);
	for (s = w->first; s; s = next) {
		next = s->next;
		step_free(s);
	}
	free(w);
}

static struct step *step_new(const char *text, struct diag *d)
{
	struct step *s = calloc(1, sizeof(*s));

	if (s)
		s->text = strdup(text);
	if (!s || !s->text) {
		diag_set(d, -ENOMEM, "no memory for the console's script");
		free(s);
		return NULL;
	}
	return s;
}

static void step_append(struct console_watch *w, struct step *s)
{
	*w->tail = s;
	w->tail = &s->next;
}

int console_watch_expect(struct console_watch *w, const char *pattern, struct diag *d)
{
	struct step *s = step_new(pattern, d);
	char why[128];
	int err;

	if (!s)
		return -ENOMEM;
	err = regcomp(&s->re, pattern, REG_EXTENDED | REG_NEWLINE);
	if (err) {
		regerror(err, &s->re, why, sizeof(why));
		step_free(s);
		return diag_set(
			d, -EINVAL,
			"--expect \"%s\": %s; a POSIX extended regular expression is needed",
			pattern, why);
	}
	s->expect = true;
	if (regexec(&s->re, "", 0, NULL, 0) == 0) {
		step_free(s);
		return diag_set(
			d, -EINVAL,
			"--expect \"%s\": matches the empty text, so it would be seen before "
			"the guest prints anything; it must ask for at least one character",
			pattern);
	}
	step_append(w, s);
	return 0;
}

int console_watch_send(struct console_watch *w, const char *text, struct diag *d)
{
	struct step *s = step_new(text, d);

	if (!s)
		return -ENOMEM;
	step_append(w, s);
	return 0;
}

/* Carries out the send steps up to the next expect step, which is waited for from now on. */
static void watch_advance(struct console_watch *w, struct step *s)
{
	while (s && !s->expect) {
		if (chardev_inject(w->chardev, (const uint8_t *)s->text, strlen(s->text)))
			log_error("--input: the guest does not read its console, text was lost");
		s = s->next;
	}
	w->current = s;
	if (!s)
		w->on_done(w->opaque);
}

/* Forgets the first n bytes of the window. */
static void window_drop(struct console_watch *w, size_t n)
{
	if (!n)
		return;
	w->at_start = w->window[n - 1] == '\n';
	memmove(w->window, w->window + n, w->len - n);
	w->len -= n;
}

/*
 * Tries the current pattern, and after a match the next ones on what follows the match. flags:
 * REG_NOTEOL when the window ends in the middle of a line.
 */
static void watch_match(struct console_watch *w, int flags)
{
	regmatch_t m;

	while (w->current) {
		m.rm_so = 0;
		m.rm_eo = (regoff_t)w->len;
		if (regexec(&w->current->re, w->window, 1, &m,
			    REG_STARTEND | flags | (w->at_start ? 0 : REG_NOTBOL)))
			return;
		window_drop(w, (size_t)m.rm_eo);
		watch_advance(w, w->current->next);
	}
}

/* Takes out what a terminal would not show. True: c is text. */
static bool filter_byte(struct console_watch *w, uint8_t c)
{
	switch (w->filter) {
	case FILTER_TEXT:
		if (c == 0x1b)
			w->filter = FILTER_ESC;
		return c != 0x1b && c != 0 && c != '\r';
	case FILTER_ESC: /* ECMA-48: intermediate bytes 2/0 to 2/15, then one final byte */
		w->osc_len = 0;
		if (c == '[')
			w->filter = FILTER_CSI;
		else if (c == ']')
			w->filter = FILTER_OSC;
		else if (c < 0x20 || c > 0x2f)
			w->filter = FILTER_TEXT;
		return false;
	case FILTER_CSI: /* parameters and intermediates, then a final byte 4/0 to 7/14 */
		if (c < 0x20 || c > 0x3f)
			w->filter = FILTER_TEXT;
		return c == '\n';
	case FILTER_OSC: /* ends with BEL or ESC \ */
		if (c == 0x1b)
			w->filter = FILTER_OSC_ESC;
		else if (c == 0x07 || ++w->osc_len > OSC_MAX)
			w->filter = FILTER_TEXT;
		return false;
	default:
		w->filter = FILTER_TEXT;
		return false;
	}
}

static void listen_for_silence(struct console_watch *w)
{
	timer_arm(w->timer_fd, CONSOLE_WATCH_QUIET_MS);
	w->armed = true;
	w->restless = false;
}

/* The guest waits, or has ended: what stands there now is a whole line. */
static void watch_silence(struct console_watch *w)
{
	w->unseen = false;
	watch_match(w, 0);
}

static void timer_ready(struct loop_fd *lf, uint32_t revents)
{
	struct console_watch *w = container_of(lf, struct console_watch, timer);

	(void)revents;
	if (!timer_rang(w->timer_fd))
		return;
	vm_lock(w->vm);
	w->armed = false;
	if (w->unseen && w->restless)
		listen_for_silence(w);
	else if (w->unseen)
		watch_silence(w);
	vm_unlock(w->vm);
}

static void watch_feed(void *opaque, const uint8_t *buf, size_t len)
{
	struct console_watch *w = opaque;

	for (size_t i = 0; i < len && w->current; i++) {
		if (!filter_byte(w, buf[i]))
			continue;
		w->window[w->len++] = (char)buf[i];
		w->restless = true;
		w->unseen = buf[i] != '\n';
		if (!w->unseen)
			watch_match(w, 0);
		else if (w->len == sizeof(w->window))
			watch_match(w, REG_NOTEOL);
		/* Half of it stays, so that a pattern may span what was and what comes. */
		if (w->len == sizeof(w->window))
			window_drop(w, sizeof(w->window) / 2);
	}
	if (w->current && w->unseen && !w->armed)
		listen_for_silence(w);
}

int console_watch_start(struct console_watch *w, struct vm *vm, struct chardev *c,
			void (*on_done)(void *opaque), void *opaque, struct diag *d)
{
	int ret;

	w->timer_fd = timer_open();
	if (w->timer_fd < 0)
		return diag_errno(d, w->timer_fd, "--expect: a timer");
	ret = loop_add(&vm->main_loop, &w->timer, w->timer_fd, POLLIN, timer_ready);
	if (ret)
		return diag_errno(d, ret, "--expect: a timer");
	w->vm = vm;
	w->chardev = c;
	w->on_done = on_done;
	w->opaque = opaque;
	chardev_watch(c, watch_feed, w);
	watch_advance(w, w->first);
	return 0;
}

void console_watch_finish(struct console_watch *w)
{
	if (w->current && w->unseen)
		watch_silence(w);
}

const char *console_watch_pending(const struct console_watch *w)
{
	return w->current ? w->current->text : NULL;
}
