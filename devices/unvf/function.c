/* SPDX-License-Identifier: Apache-2.0 */
/*
 * function.c - one virtio function: how it is put together, what it does when the driver or the
 * client wants it to run, rest or be reset, and its interrupts. Also this program's virtio.h, the
 * side of the transport. Main thread, but for the notes and interrupts of the poll thread.
 */
#include "function.h"

#include <errno.h>
#include <linux/vfio.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define STOP_TIMEOUT_S 10

/* --- notes ------------------------------------------------------------------------------------ */

void function_note(struct function *f, uint32_t bits)
{
	pthread_mutex_lock(&f->lock);
	__atomic_fetch_or(&f->notes, bits, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&f->noted);
	pthread_mutex_unlock(&f->lock);
	loop_call(f->main_loop, &f->settle);
}

static void finish_reset(struct function *f)
{
	f->reset_pending = false;
	f->ring_resets = f->disables = 0;
	__atomic_store_n(&f->reset_done, 0, __ATOMIC_RELAXED);
	fn_regs_reset(f);
	pthread_mutex_lock(&f->irq_lock);
	for (unsigned int v = 0; v < FN_VECTORS_MAX; v++)
		f->vectors[v].pending = false;
	pthread_mutex_unlock(&f->irq_lock);
	if (f->v->ops->reset)
		f->v->ops->reset(f->v);
}

static void finish_ring_resets(struct function *f)
{
	uint64_t done = __atomic_exchange_n(&f->reset_done, 0, __ATOMIC_ACQUIRE);

	for (unsigned int q = 0; q < f->v->nqueues; q++) {
		if (!(done & f->ring_resets & 1ull << q))
			continue;
		f->ring_resets &= ~(1ull << q);
		if (f->disables & 1ull << q) {
			fn_index_stopped(f, q);
		} else {
			fn_queue_default(&f->v->queues[q]);
			f->ring_words[q] = 0;
		}
		f->disables &= ~(1ull << q);
	}
}

static void config_changed(struct function *f)
{
	f->generation++;
	f->isr |= VIRTIO_PCI_ISR_CONFIG;
	if (f->config_vector < f->nvectors)
		function_interrupt(f, f->config_vector);
}

void function_settle(struct function *f)
{
	uint32_t notes = __atomic_exchange_n(&f->notes, 0, __ATOMIC_ACQUIRE);

	if (notes & FN_NOTE_STOPPED) {
		f->run = FN_OFF;
		f->moving = false;
	}
	if (notes & FN_NOTE_PAUSED) {
		f->run = FN_PAUSED;
		f->moving = false;
	}
	if (notes & FN_NOTE_RING_RESET)
		finish_ring_resets(f);
	if (notes & FN_NOTE_MEMORY)
		f->memory_changed = true;
	if (notes & FN_NOTE_LOST)
		f->lost = true;
	if (notes & FN_NOTE_NEEDS_RESET && f->v->status & VIRTIO_CONFIG_S_DRIVER_OK) {
		f->v->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
		config_changed(f);
	}
	if (notes & FN_NOTE_CONFIG)
		config_changed(f);
	function_update(f);
}

static void settle_work(struct loop_work *w)
{
	struct function *f = container_of(w, struct function, settle);

	function_settle(f);
	if (f->settled)
		f->settled(f->owner);
}

/* --- running, resting ------------------------------------------------------------------------- */

static enum fn_run wanted(const struct function *f)
{
	if (f->reset_pending || !(f->v->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return FN_OFF;
	/* Without bus mastering a function does no DMA, and so cannot even look at a ring. */
	if (f->paused || !fn_config_master(f))
		return f->run == FN_OFF ? FN_OFF : FN_PAUSED;
	return FN_ON;
}

void function_update(struct function *f)
{
	enum fn_run want = wanted(f);

	if (f->moving)
		return;
	if (want == FN_OFF && f->run != FN_OFF) {
		f->moving = true;
		f->v->ops->stop(f->v);
	} else if (want == FN_PAUSED && f->run == FN_ON) {
		f->moving = true;
		fn_engine_pause(f);
	} else if (want == FN_ON && f->run == FN_PAUSED) {
		f->run = FN_ON;
		fn_engine_resume(f);
	} else if (want == FN_ON && f->run == FN_OFF) {
		for (unsigned int q = 0; q < f->v->nqueues; q++)
			fn_engine_forget(f, q);
		if (f->v->ops->start(f->v) == 0)
			f->run = FN_ON;
		else
			f->v->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	}
	if (f->reset_pending && f->run == FN_OFF && !f->moving)
		finish_reset(f);
}

void function_reset(struct function *f)
{
	f->reset_pending = true;
	fn_config_reset(f);
	function_update(f);
}

/* --- interrupts ------------------------------------------------------------------------------- */

static void fire(struct fn_vector *v)
{
	uint64_t one = 1;
	struct pollfd p = { .fd = v->fd, .events = POLLOUT };

	v->pending = v->masked || v->fd < 0;
	/* Full, it is signalled; asked first, because the client can make it block at any time. */
	if (v->pending || poll(&p, 1, 0) != 1)
		return;
	if (write(v->fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_debug("an eventfd of the client's cannot be signalled: %s", strerror(errno));
}

void function_interrupt(struct function *f, unsigned int vector)
{
	uint32_t lose = f->opt.faults.n[FAULT_MASKED_IRQ];

	if (vector >= f->nvectors)
		return;
	pthread_mutex_lock(&f->irq_lock);
	if (lose && ++f->interrupts % lose == 0)
		f->vectors[vector].pending = true;
	else
		fire(&f->vectors[vector]);
	pthread_mutex_unlock(&f->irq_lock);
}

void function_event(struct function *f, uint32_t index)
{
	struct fn_vector *v = &f->vectors[f->nvectors + index - VFIO_PCI_ERR_IRQ_INDEX];

	pthread_mutex_lock(&f->irq_lock);
	if (v->fd >= 0)
		fire(v);
	pthread_mutex_unlock(&f->irq_lock);
}

/* What was kept back goes out as soon as it can. */
static void release(struct fn_vector *v)
{
	if (v->pending && !v->masked && v->fd >= 0)
		fire(v);
}

void function_wire(struct function *f, unsigned int v, int fd)
{
	struct fn_vector *vec = &f->vectors[v];
	int old;

	pthread_mutex_lock(&f->irq_lock);
	old = vec->fd;
	vec->fd = fd;
	release(vec);
	pthread_mutex_unlock(&f->irq_lock);
	if (old >= 0)
		close(old);
}

void function_mask(struct function *f, unsigned int v, bool masked)
{
	pthread_mutex_lock(&f->irq_lock);
	f->vectors[v].masked = masked;
	release(&f->vectors[v]);
	pthread_mutex_unlock(&f->irq_lock);
}

/* --- virtio.h --------------------------------------------------------------------------------- */

void vdev_interrupt(struct vdev *v, unsigned int q)
{
	uint16_t vector = __atomic_load_n(&v->queues[q].vector, __ATOMIC_RELAXED);

	if (vector != VIRTIO_MSI_NO_VECTOR)
		function_interrupt(function_of(v), vector);
}

void vdev_needs_reset(struct vdev *v, const char *why)
{
	log_debug("%s: needs a reset: %s", v->id, why);
	function_note(function_of(v), FN_NOTE_NEEDS_RESET);
}

void vdev_stopped(struct vdev *v)
{
	function_note(function_of(v), FN_NOTE_STOPPED);
}

void vdev_config_changed(struct vdev *v)
{
	function_note(function_of(v), FN_NOTE_CONFIG);
}

/* Waits for the answer to a transition without the main loop: at the end, and in tests. */
static int wait_settled(struct function *f)
{
	struct timespec until;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += STOP_TIMEOUT_S;
	while (!err && f->moving) {
		pthread_mutex_lock(&f->lock);
		while (!__atomic_load_n(&f->notes, __ATOMIC_ACQUIRE) && !err)
			err = -pthread_cond_timedwait(&f->noted, &f->lock, &until);
		pthread_mutex_unlock(&f->lock);
		function_settle(f);
	}
	return err;
}

int virtio_pci_reset(struct vdev *v)
{
	struct function *f = function_of(v);

	function_reset(f);
	return wait_settled(f);
}

int virtio_pci_quiesce(struct vdev *v)
{
	struct function *f = function_of(v);

	f->paused |= FN_PAUSE_STATE;
	function_update(f);
	return wait_settled(f);
}

void virtio_pci_resume(struct vdev *v)
{
	struct function *f = function_of(v);

	f->paused &= ~FN_PAUSE_STATE;
	function_update(f);
}

/* Who moves a guest repeats its interrupts by the vectors that it wired. */
void virtio_pci_moved(struct vdev *v)
{
	(void)v;
}

void virtio_pci_destroy(struct vdev *v)
{
	function_of(v)->v = NULL;
}

/* What travels is in migration.c. */
void virtio_pci_state(struct vdev *v, struct state_ref *refs)
{
	(void)v;
	memset(refs, 0, VIRTIO_PCI_STATES * sizeof(*refs));
}

void virtio_pci_info(const struct device *dev, struct report *r)
{
	const struct vdev *v = dev->priv;

	report_number(r, "virtio-id", v->device_id);
	report_text(r, "features-offered", "0x%llx", (unsigned long long)function_of(v)->offered);
}

void virtio_pci_stats(const struct device *dev, struct report *r)
{
	const struct vdev *v = dev->priv;

	report_list(r, "queues");
	for (unsigned int q = 0; q < v->nqueues; q++) {
		const struct vdev_counters *c = &v->counters[q];

		report_group(r, NULL);
		report_number(r, "kicks", __atomic_load_n(&c->kicks, __ATOMIC_RELAXED));
		report_number(r, "requests", __atomic_load_n(&c->requests, __ATOMIC_RELAXED));
		report_number(r, "interrupts", __atomic_load_n(&c->interrupts, __ATOMIC_RELAXED));
		report_close(r);
	}
	report_close(r);
}

int virtio_pci_create(struct vdev *v, struct diag *d)
{
	struct function *f = function_of(v);

	for (unsigned int q = 0; q < v->nqueues; q++)
		if (f->opt.queue_size && f->opt.queue_size < v->queues[q].size_max)
			v->queues[q].size_max = f->opt.queue_size;
	f->v = v;
	f->nvectors = v->nqueues + 1u;
	f->fn_bar = f->opt.ring_index ? FN_BAR_BESIDE : FN_BAR;
	f->offered = v->offered;
	if (!f->opt.no_access_platform)
		f->offered |= VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM);
	if (f->opt.ring_reset)
		f->offered |= VIRTIO_BIT(40); /* VIRTIO_F_RING_RESET */
	return fn_config_init(f, d);
}

/* --- putting it together ---------------------------------------------------------------------- */

/* The doorbell pages, and BAR 4 around them: a file, of which only they are ever touched. */
static int make_bar(struct function *f, struct diag *d)
{
	uint64_t pages = f->opt.page_per_vq ? f->v->nqueues : 1;

	f->multiplier = f->opt.page_per_vq ? PAGE_SIZE_4K : 4;
	f->doorbell_size = pages * PAGE_SIZE_4K;
	for (f->bar_size = FN_DOORBELLS;
	     f->bar_size < FN_DOORBELLS + f->doorbell_size || !is_power_of_2(f->bar_size);)
		f->bar_size = is_power_of_2(f->bar_size) ? f->bar_size * 2 : 0x4000;
	f->bar_fd = memfd_create("unvf-bar", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (f->bar_fd < 0 || ftruncate(f->bar_fd, (off_t)f->bar_size) < 0 ||
	    fcntl(f->bar_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return diag_errno(d, -errno, "%s: cannot make its doorbell pages", f->dev.id);
	f->bar = mmap(NULL, f->bar_size, PROT_READ | PROT_WRITE, MAP_SHARED, f->bar_fd, 0);
	if (f->bar == MAP_FAILED) {
		f->bar = NULL;
		return diag_errno(d, -errno, "%s: cannot map its doorbell pages", f->dev.id);
	}
	for (uint64_t i = 0; f->opt.pattern && i < f->doorbell_size; i++)
		f->bar[FN_DOORBELLS + i] = (uint8_t)FN_PATTERN[i % 8];
	for (unsigned int q = 0; q < f->v->nqueues; q++) {
		f->e.queues[q].cell = (uint16_t *)(f->bar + FN_DOORBELLS + q * f->multiplier);
		*f->e.queues[q].cell = FN_CELL_EMPTY;
	}
	fn_config_bars(f);
	return 0;
}

static int make_doorbell_fds(struct function *f, struct diag *d)
{
	for (unsigned int q = 0; q < f->v->nqueues; q++) {
		f->doorbell_fds[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (f->doorbell_fds[q] < 0)
			return diag_errno(d, -errno, "%s: cannot make its doorbells", f->dev.id);
	}
	return 0;
}

static void function_init(struct function *f, const struct fn_options *opt)
{
	pthread_condattr_t attr;

	f->opt = *opt;
	f->bar_fd = -1;
	f->vm.mem = GMEM_EMPTY;
	f->settle.fn = settle_work;
	for (unsigned int i = 0; i < VDEV_QUEUES_MAX; i++)
		f->doorbell_fds[i] = -1;
	for (unsigned int i = 0; i < FN_VECTORS_MAX; i++)
		f->vectors[i].fd = -1;
	pthread_mutex_init(&f->irq_lock, NULL);
	pthread_mutex_init(&f->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&f->noted, &attr);
	pthread_condattr_destroy(&attr);
}

static void function_free(struct function *f)
{
	for (unsigned int i = 0; i < VDEV_QUEUES_MAX; i++)
		if (f->doorbell_fds[i] >= 0)
			close(f->doorbell_fds[i]);
	for (unsigned int i = 0; i < FN_VECTORS_MAX; i++)
		if (f->vectors[i].fd >= 0)
			close(f->vectors[i].fd);
	if (f->bar)
		munmap(f->bar, f->bar_size);
	if (f->bar_fd >= 0)
		close(f->bar_fd);
	gmem_destroy(&f->vm.mem);
	pthread_cond_destroy(&f->noted);
	pthread_mutex_destroy(&f->lock);
	pthread_mutex_destroy(&f->irq_lock);
	free(f);
}

int function_create(struct function **out, const char *id, const struct device_class *cls,
		    const void *conf, const struct fn_options *opt, struct engine *engine,
		    struct loop *main_loop, struct diag *d)
{
	struct function *f;
	int err;

	if (engine->nfunctions == ENGINE_FUNCTIONS_MAX)
		return diag_set(d, -ENOSPC, "one process has at most %u functions",
				ENGINE_FUNCTIONS_MAX);
	f = calloc(1, sizeof(*f));
	if (!f)
		return diag_errno(d, -ENOMEM, "%s", id);
	function_init(f, opt);
	f->engine = engine;
	f->main_loop = main_loop;
	f->dev.cls = cls;
	memcpy(f->dev.id, id, strnlen(id, sizeof(f->dev.id) - 1));
	err = cls->create(&f->vm, &f->dev, conf, d);
	if (err) {
		function_free(f);
		return err;
	}
	err = opt->shared ? cls->claim(&f->dev, false, d) : 0;
	if (!err)
		err = make_bar(f, d);
	if (!err && opt->doorbell == FN_DOORBELL_IOEVENTFD)
		err = make_doorbell_fds(f, d);
	if (err) {
		function_destroy(f);
		return err;
	}
	finish_reset(f);
	engine->functions[engine->nfunctions++] = f;
	*out = f;
	return 0;
}

void function_destroy(struct function *f)
{
	f->dev.cls->destroy(&f->dev);
	loop_uncall(f->main_loop, &f->settle);
	function_free(f);
}
