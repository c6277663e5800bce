/* SPDX-License-Identifier: Apache-2.0 */
/*
 * track.c - has every device say what it writes to guest memory. Main; vm_track_sync() any thread.
 */
#include <unvmm/device.h>
#include <unvmm/track.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <string.h>

static void end_before(struct vm *vm, const struct device *end)
{
	for (struct device *dev = vm->devices; dev != end; dev = dev->next)
		if (dev->cls->track_begin)
			dev->cls->track_end(dev);
}

/* 1: the machine has to be held once. */
static int begin(struct vm *vm, struct diag *d)
{
	int err, hold = 0;

	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		err = dev->cls->track_begin ? dev->cls->track_begin(dev, d) : 0;
		if (err < 0) {
			end_before(vm, dev);
			return err;
		}
		hold |= err;
	}
	return hold;
}

/* A machine that stands still already is told alone; its devices go on with it. */
static int hold_once(struct vm *vm, struct diag *d)
{
	int err;

	if (!vm->paused && !vm->held) {
		err = vm_hold(vm, d);
		if (!err)
			vm_release(vm);
		return err;
	}
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		err = dev->cls->track_begin && dev->cls->quiesce ? dev->cls->quiesce(dev) : 0;
		if (err)
			return diag_errno(d, err, "%s does not finish what is under way", dev->id);
	}
	return 0;
}

static void collect(struct vm *vm, struct track_pause *p)
{
	memset(p, 0, sizeof(*p));
	for (struct device *dev = vm->devices; dev; dev = dev->next)
		if (dev->cls->track_pause)
			dev->cls->track_pause(dev, p);
}

/* Functions are started again behind the back of main, and after the vcpus perhaps. */
static void measure(struct vm *vm, struct track_pause *p)
{
	uint64_t parts;

	collect(vm, p);
	parts = p->drain + p->stop + p->program + p->start;
	p->total = vm->held_ns;
	if (p->end > vm->hold_since && p->end - vm->hold_since > p->total)
		p->total = p->end - vm->hold_since;
	/* Of several functions one may be programmed while another replays. */
	if (p->total < parts)
		p->total = parts;
	p->park = p->total - parts;
}

void vm_track_stopped(struct vm *vm, struct track_pause *p)
{
	collect(vm, p);
}

int vm_track_begin(struct vm *vm, struct track_pause *pause, struct diag *d)
{
	bool stands = vm->paused || vm->held;
	int err = begin(vm, d), held = err > 0;

	memset(pause, 0, sizeof(*pause));
	if (err < 0)
		return err;
	if (err)
		err = hold_once(vm, d);
	for (struct device *dev = vm->devices; dev && !err; dev = dev->next)
		err = dev->cls->track_wait ? dev->cls->track_wait(dev, d) : 0;
	if (err)
		end_before(vm, NULL);
	else if (held && !stands)
		measure(vm, pause);
	return err;
}

int vm_track_sync(struct vm *vm, struct diag *d)
{
	int err = 0;

	for (struct device *dev = vm->devices; dev && !err; dev = dev->next)
		err = dev->cls->track_sync ? dev->cls->track_sync(dev, d) : 0;
	return err;
}

void vm_track_end(struct vm *vm)
{
	end_before(vm, NULL);
}
