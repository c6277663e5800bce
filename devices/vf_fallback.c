/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_fallback.c - a software device behind an assigned function, which takes its place when the
 * function fails. It is made with the machine, because later nothing can be opened, and the guest
 * does not find it. To the guest it is the same device: it has the same tables (vf_standin.c) and
 * is given the journal, as the device of another host would be. Main; vf_fallback_begin(): the vf
 * thread.
 *
 * Nothing may be lost. A relayed queue is known exactly, whatever the function did to it; of a
 * direct one the guest's rings say enough unless a disk has requests under way (relay.c). And the
 * function must not write to memory any more. If that is not so, if a migration relies on the
 * function, or if the state is refused, the guest is asked for a reset, as without any of this;
 * when its driver comes again it finds the software device.
 */
#include "vf_dev.h"
#include "vf_standin.h"

#include <errno.h>

/* It has confirmed that it stands, or there is nobody any more who could write. */
static bool stands(struct vf_dev *vd)
{
	struct diag ignored = { "" };
	int err;

	if (vd->given_back)
		return true;
	err = vf_program_stop(&vd->fn, &ignored);
	return (!err || err == -ENODEV) && !vd->fn.vf->hangs;
}

bool vf_fallback_begin(struct vf_dev *vd, const char *why)
{
	if (!vd->spare || vd->phase != VF_DOWN || vd->tracking || !vd->exact || !stands(vd))
		return false;
	log_warn("%s: a software device takes its place: %s", vd->vdev.id, why);
	__atomic_store_n(&vd->to_replace, true, __ATOMIC_RELEASE);
	loop_call(&vd->vdev.vm->main_loop, &vd->replace_work);
	return true;
}

/* Both are quiesced. Until the guest's state has been taken nothing is changed. */
static int replace(struct vf_dev *vd, struct diag *d)
{
	struct device *dev = vd->dev, *spare = vd->spare, old = *dev;
	struct vm *vm = vd->vdev.vm;
	int err = spare->cls->quiesce(spare);

	if (!err && spare->cls->claim)
		err = spare->cls->claim(spare, true, d);
	if (err)
		return err;
	vm_lock(vm);
	err = vm->transfer(dev, spare, false, d);
	vm_unlock(vm);
	if (err)
		return err;
	virtio_pci_step_in(spare->priv, &vd->vdev);
	vm_lock(vm);
	dev->cls = spare->cls;
	dev->priv = spare->priv;
	dev->state = spare->state;
	dev->nstate = spare->nstate;
	vm_unlock(vm);
	vd->spare = NULL;
	old.cls->destroy(&old);
	return 0;
}

static void replace_work(struct loop_work *w)
{
	struct vf_dev *vd = container_of(w, struct vf_dev, replace_work);
	struct device *dev = vd->dev;
	struct vm *vm = vd->vdev.vm;
	struct diag d = { "" };
	int err;

	if (vm->held) /* by a migration: when that lets go */
		return;
	__atomic_store_n(&vd->to_replace, false, __ATOMIC_RELEASE);
	err = vm_hold(vm, &d);
	if (!err)
		err = replace(vd, &d);
	if (err) {
		log_error("%s: its software device cannot take over: %s", dev->id, d.text);
		vdev_needs_reset(&vd->vdev, "its function failed");
	}
	vm_release(vm);
	if (err || !dev->cls->moved)
		return;
	vm_lock(vm);
	dev->cls->moved(dev);
	vm_unlock(vm);
}

void vf_fallback_resume(struct vf_dev *vd)
{
	if (__atomic_load_n(&vd->to_replace, __ATOMIC_ACQUIRE))
		loop_call(&vd->vdev.vm->main_loop, &vd->replace_work);
}

int vf_fallback_create(struct vf_dev *vd, const struct vf_standin_conf *c, struct diag *d)
{
	struct vm *vm = vd->vdev.vm;
	int err = vf_standin_spare(vm, vd->vdev.id, c, &vd->spare, d);

	if (err)
		return err;
	vd->replace_work.fn = replace_work;
	virtio_pci_hide(vd->spare->priv, &vd->vdev);
	if (!vm->transfer)
		return diag_set(d, -EOPNOTSUPP, "this machine cannot give it the state");
	vm_lock(vm);
	err = vm->transfer(vd->dev, vd->spare, true, d);
	vm_unlock(vm);
	if (err)
		diag_prefix(d, "the software device cannot take the place of function %s",
			    vd->name);
	return err;
}

void vf_fallback_destroy(struct vf_dev *vd)
{
	loop_uncall(&vd->vdev.vm->main_loop, &vd->replace_work);
	if (vd->spare)
		vd->spare->cls->destroy(vd->spare);
	vd->spare = NULL;
}
