/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_create.c - an assigned virtio function as a device: its options, how it is put together and
 * taken apart, and what it tells the operator. Main thread, which has the vf thread make the calls
 * to the function and waits for them.
 */
#include "vf_dev.h"
#include "vf_standin.h"
#include "vfio_info.h"

#include <endian.h>
#include <errno.h>
#include <linux/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <unvmm/offer.h>

#define PAIRS_MAX 0x7fffu

struct vf_conf {
	char *pci, *socket;
	struct vf_standin_conf standin; /* instead of a function, or behind it */
	int offer, doorbells;		/* enum vf_offer_kind; 0 native, 1 portable */
	int64_t queues;
	bool unsafe_no_access_platform;
};

static bool given(const char *text)
{
	return text && *text;
}

static bool has_function(const struct vf_conf *conf)
{
	return given(conf->pci) || given(conf->socket);
}

/* --- putting it together: on the vf thread ---------------------------------------------------- */

/* The control queue is one of two, as the guest will negotiate: its ring must fit both. */
static int probe_ctrl(struct vf_dev *vd, struct diag *d)
{
	uint16_t at[] = { 2, (uint16_t)(2 * vd->fn_pairs) };
	struct vf_fn_queue q;

	vd->fn_ctrl_size = VF_RING_SIZE_MAX;
	for (unsigned int i = 0; i < (vd->offer.npairs > 1 ? 2 : 1); i++) {
		int err =
			at[i] < vd->fn.nqueues ? vf_function_queue(&vd->fn, at[i], &q, d) : -ENOENT;

		if (err == -ENOENT || (!err && q.size_max < 2))
			return diag_set(
				d, -EINVAL,
				"it has %u pairs of queues and %u queues: its control queue "
				"(%u) is not there",
				vd->fn_pairs, vd->fn.nqueues, at[i]);
		if (err)
			return err;
		if (q.size_max < vd->fn_ctrl_size)
			vd->fn_ctrl_size = q.size_max;
	}
	return 0;
}

/* What the function is, and what of it the guest will see. */
static int probe(struct vf_dev *vd, struct diag *d)
{
	struct vf_function *fn = &vd->fn;
	int err = vf_function_probe(fn, d);

	if (!err)
		err = vf_config_read(fn, &vd->own, d);
	if (err)
		return vf_function_blame(fn, err, d);
	vd->fn_pairs = vf_config_queues(fn, &vd->own);
	/* Behind them comes the control queue, whose number has 16 bits (virtio 1.2, 5.1.2). */
	if (fn->caps.device_id == VIRTIO_ID_NET && vd->fn_pairs > PAIRS_MAX)
		return diag_set(d, -EINVAL, "it has %u pairs of queues; %u are possible",
				vd->fn_pairs, PAIRS_MAX);
	err = vf_offer_make(&vd->offer, fn, vd->fn_pairs, &vd->wish, d);
	if (!err)
		err = vf_config_adopt(fn, &vd->offer, &vd->own, d);
	if (!err && vd->offer.guest & VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ) &&
	    fn->caps.device_id == VIRTIO_ID_NET)
		err = probe_ctrl(vd, d);
	err = vf_function_blame(fn, err, d);
	return err ? err : vf_function_reset(fn, d);
}

/* The function's last calls from this thread, but for close(): it is stopped, or lost. */
static void let_go(struct vf_dev *vd)
{
	struct vf *vf = vd->fn.vf;

	vf->lost = NULL;
	vf->request = NULL;
	vf_opaque_let_go(vd);
	if (vf->ops->irq_set(vf, NULL, 0) && !vd->lost && !vf_gone(vf))
		log_warn("%s: the interrupts of function %s cannot be switched off", vd->vdev.id,
			 vf->name);
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++)
		vf_doorbell_unmap(&vd->doorbells[q]);
	vf_cvq_unmap(&vd->cvq);
	vf_relays_unmap(vd);
}

/*
 * The host asks for the function (somebody unbinds it) and waits until it is closed, so that comes
 * before what the guest thinks of it.
 */
static void give_back(struct vf *vf)
{
	struct vf_dev *vd = vf->owner;

	if (vd->lost)
		return;
	vf_abandon(vd, "its host asks to have it back");
	let_go(vd);
	vd->given_back = true;
	loop_call(&vd->vdev.vm->main_loop, &vd->close_work);
}

/* Main: nobody else knows the function any more. */
static void close_function(struct vf_dev *vd)
{
	struct vf *vf = vd->fn.vf;

	vd->fn.vf = NULL;
	if (!vf)
		return;
	vf_unmap_ram(vf, &vd->vdev.vm->mem);
	vf->ops->close(vf);
}

static void close_work(struct loop_work *w)
{
	close_function(container_of(w, struct vf_dev, close_work));
}

/* Everything that a start needs and that can fail. */
static int attach(struct vf_dev *vd, struct diag *d)
{
	bool ctrl = vf_cvq_queue(vd, vd->vdev.offered) >= 0;
	int err;

	vd->fn.vf->lost = vf_lost;
	vd->fn.vf->request = give_back;
	vf_opaque_find(vd);
	vd->config_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vd->config_fd < 0)
		return diag_errno(d, -errno, "cannot create an eventfd");
	err = loop_add_eventfd(vd->loop, &vd->config_watch, vd->config_fd, vf_config_ready);
	for (unsigned int q = 0; q < vd->vdev.nqueues && !err; q++)
		err = vf_doorbell_init(&vd->doorbells[q], vd, q);
	if (err)
		return diag_errno(d, err, "its descriptors cannot be watched");
	if (ctrl)
		err = vf_cvq_init(&vd->cvq, d);
	if (!err && ctrl)
		err = vf_cvq_map(&vd->cvq, d);
	if (!err)
		err = vf_relays_init(vd, d);
	if (!err)
		err = vf_relays_wire(vd, d);
	if (!err)
		vf_disk_identify(vd);
	return vf_function_blame(&vd->fn, err, d);
}

/* Of whatever there is. */
static int detach(struct vf_dev *vd, struct diag *d)
{
	(void)d;
	if (vd->fn.vf)
		let_go(vd);
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++)
		vf_doorbell_fini(&vd->doorbells[q]);
	vf_cvq_fini(&vd->cvq);
	vf_relays_fini(vd);
	vf_opaque_fini(vd);
	loop_uncall(vd->loop, &vd->fault_work);
	loop_del(&vd->config_watch);
	if (vd->config_fd >= 0)
		close(vd->config_fd);
	return 0;
}

/* --- main ------------------------------------------------------------------------------------ */

static void fill_vdev(struct vf_dev *vd)
{
	const struct vf_caps *caps = &vd->fn.caps;
	struct vdev *v = &vd->vdev;

	v->ops = &vf_vdev_ops;
	v->device_id = caps->device_id;
	v->class_code = caps->device_id == VIRTIO_ID_NET ? 0x020000 : 0x018000;
	v->nqueues = vd->offer.nqueues;
	v->config_size = vf_config_size(caps->device_id);
	v->offered = vd->offer.guest;
	for (unsigned int q = 0; q < v->nqueues; q++) {
		v->queues[q].size_max = vd->offer.queue_size;
		v->queues[q].doorbell_offset =
			vf_doorbell_guest_offset(caps, vd->fn.queues[q].notify_off,
						 vd->native_doorbells);
	}
	vd->config = vd->own;
}

static struct vf_dev *vf_alloc(struct vm *vm, struct device *dev, const struct vf_conf *conf)
{
	struct vf_dev *vd = calloc(1, sizeof(*vd));

	if (!vd)
		return NULL;
	vd->dev = dev;
	vd->vdev.vm = vm;
	vd->vdev.id = dev->id;
	vd->wish = (struct vf_wish){ .kind = (enum vf_offer_kind)conf->offer,
				     .queues = (uint16_t)conf->queues,
				     .physical_addresses = conf->unsafe_no_access_platform };
	vd->native_doorbells = conf->doorbells == 0;
	if (given(conf->standin.serial)) /* its owner knows better */
		memcpy(vd->serial, conf->standin.serial,
		       strnlen(conf->standin.serial, sizeof(vd->serial)));
	vd->config_fd = -1;
	vd->cvq.vd = vd;
	vd->cvq.window_fd = vd->cvq.answer_fd = vd->cvq.deadline_fd = -1;
	for (unsigned int q = 0; q < VDEV_QUEUES_MAX; q++)
		vd->doorbells[q].kick_fd = vd->doorbells[q].forward_fd =
			vd->relays.queues[q].answer_fd = -1;
	vd->relays.window_fd = vd->relays.timer_fd = vd->relays.settled_fd = -1;
	vf_init_works(vd);
	vd->close_work.fn = close_work;
	return vd;
}

static int open_function(struct vf_dev *vd, const struct vf_conf *conf, struct diag *d)
{
	int err = conf->pci && *conf->pci
			  ? vf_vfio_open(vd->vdev.vm, vd->loop, conf->pci, &vd->fn.vf, d)
			  : vf_user_open(vd->loop, conf->socket, &vd->fn.vf, d);

	if (err)
		return err;
	vd->fn.vf->owner = vd;
	memcpy(vd->name, vd->fn.vf->name, sizeof(vd->name));
	vd->kind = vd->fn.vf->ops->kind;
	return 0;
}

static int vf_create(struct vm *vm, struct device *dev, const void *opaque, struct diag *d)
{
	const struct vf_conf *conf = opaque;
	struct vf_standin_conf standin = conf->standin;
	char serial[VIRTIO_BLK_ID_BYTES + 1] = "";
	struct vf_dev *vd;
	int err;

	standin.queues = conf->queues;
	if (!has_function(conf))
		return vf_standin_create(vm, dev, &standin, d);
	vd = vf_alloc(vm, dev, conf);
	if (!vd)
		return diag_errno(d, -ENOMEM, "%s", dev->id);
	vd->loop = vm_vf_loop(vm, d);
	err = vd->loop ? open_function(vd, opaque, d) : -EIO;
	if (err)
		goto out_free;
	err = vf_call(vd, probe, d);
	if (err) {
		diag_prefix(d, "function %s", vd->name);
		goto out_close;
	}
	fill_vdev(vd);
	err = virtio_pci_create(&vd->vdev, d);
	if (err)
		goto out_close;
	err = vf_map_ram(vd->fn.vf, &vm->mem, d);
	if (err)
		goto out_destroy;
	err = vf_call(vd, attach, d);
	if (err) {
		diag_prefix(d, "function %s", vd->name);
		goto out_detach;
	}

	virtio_pci_state(&vd->vdev, vd->state);
	vd->state[VIRTIO_PCI_STATES] = (struct state_ref){ &vf_state, vd };
	vd->state[VIRTIO_PCI_STATES + 1] = (struct state_ref){ &vf_net_state, vd };
	dev->priv = vd;
	dev->state = vd->state;
	dev->nstate = VIRTIO_PCI_STATES + (vd->vdev.device_id == VIRTIO_ID_NET ? 2 : 1);
	if (!vf_standin_named(&standin))
		return 0;
	standin.queues = vd->offer.npairs ? vd->offer.npairs : vd->offer.nqueues;
	memcpy(serial, vd->serial, sizeof(vd->serial)); /* as configured, or the function's own */
	standin.serial = serial;
	err = vf_fallback_create(vd, &standin, d);
	if (!err)
		return 0;

out_detach:
	if (err == -ETIMEDOUT || vf_call(vd, detach, NULL) == -ETIMEDOUT)
		return err; /* it is in use for ever */
out_destroy:
	vf_fallback_destroy(vd);
	loop_uncall(&vm->main_loop, &vd->close_work);
	virtio_pci_destroy(&vd->vdev);
out_close:
	if (err == -ETIMEDOUT)
		return err;
	close_function(vd);
out_free:
	free(vd);
	return err;
}

static int vf_device_reset(struct device *dev, struct diag *d)
{
	struct vf_dev *vd = dev->priv;
	int err;

	vf_track_disarm(dev);
	err = virtio_pci_reset(&vd->vdev);
	return err ? diag_errno(d, err, "%s: function %s cannot be reset", dev->id, vd->name) : 0;
}

static void vf_destroy(struct device *dev)
{
	struct vf_dev *vd = dev->priv;

	vf_track_disarm(dev);
	/* First it lets go of guest memory, then that may be freed. */
	if (virtio_pci_reset(&vd->vdev) || vf_call(vd, detach, NULL)) {
		log_error("%s: function %s gives no answer; it is not closed", dev->id, vd->name);
		return;
	}
	loop_uncall(&vd->vdev.vm->main_loop, &vd->close_work);
	vf_fallback_destroy(vd);
	virtio_pci_destroy(&vd->vdev);
	close_function(vd);
	free(vd);
}

/* --- what it tells --------------------------------------------------------------------------- */

static const char *path_name(const struct vf_dev *vd, unsigned int q)
{
	if (!vd->up || !vd->vdev.queues[q].enabled)
		return "off";
	if ((int)q == vf_cvq_queue(vd, vd->vdev.negotiated))
		return "control";
	return vd->relays.queues[q].path == VF_PATH_RELAY ? "relay" : "direct";
}

/* Completions until each relayed queue is direct again; "-": it is not on its way. */
static void relay_info(const struct vf_dev *vd, struct report *r)
{
	const struct track_pause *p = &vd->relays.pause;

	report_list(r, "completions-to-direct");
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++) {
		uint32_t left = vd->relays.queues[q].path == VF_PATH_RELAY ? vf_relay_left(vd, q)
									   : RELAY_NO_LIMIT;

		if (left == RELAY_NO_LIMIT)
			report_text(r, NULL, "%s", "-");
		else
			report_text(r, NULL, "%u", left);
	}
	report_close(r);
	if (!p->drain)
		return;
	report_number(r, "relay-drain-us", p->drain / 1000);
	report_number(r, "relay-stop-us", p->stop / 1000);
	report_number(r, "relay-program-us", p->program / 1000);
	report_number(r, "relay-start-us", p->start / 1000);
}

static void vf_info(const struct device *dev, struct report *r)
{
	const struct vf_dev *vd = dev->priv;
	const struct vf_caps *caps = &vd->fn.caps;

	report_text(r, "function", "%s", vd->name);
	report_text(r, "backend", "%s", vd->kind);
	report_text(r, "ids", "%04x:%04x (%04x:%04x)", caps->vendor, caps->device, caps->subvendor,
		    caps->subdevice);
	report_text(r, "offer", "%s", vd->wish.kind == VF_OFFER_NATIVE ? "native" : OFFER_NAME);
	report_text(r, "function-features", "0x%llx", (unsigned long long)vd->fn.features);
	report_number(r, "function-queues", vd->fn.nqueues);
	report_number(r, "function-vectors", caps->nvectors);
	if (vd->vdev.device_id == VIRTIO_ID_NET) {
		const uint8_t *mac = vd->config.net.mac;

		report_text(r, "mac", "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
			    mac[3], mac[4], mac[5]);
		report_flag(r, "link", vd->config.net.status & htole16(VIRTIO_NET_S_LINK_UP));
	}
	if (vd->serial[0])
		report_text(r, "serial", "%.*s", (int)sizeof(vd->serial), vd->serial);
	report_text(r, "dirty-tracking", "%s", vd->opaque.dma_log ? "dma-log" : VF_RUNG_RELAY);
	report_text(r, "restore", "%s",
		    vd->opaque.flags	   ? VF_RUNG_STATE
		    : vf_vendor_usable(vd) ? VF_RUNG_REGISTERS
					   : VF_RUNG_RELAY);
	if (vd->by)
		report_text(r, "restored-by", "%s", vd->by);
	report_flag(r, "fallback", vd->spare);
	report_list(r, "paths");
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++)
		report_text(r, NULL, "%s", path_name(vd, q));
	report_close(r);
	relay_info(vd, r);
	virtio_pci_info(dev, r);
}

/* --- options --------------------------------------------------------------------------------- */

static int vf_check(const void *opaque, struct diag *d)
{
	const struct vf_conf *conf = opaque;

	unsigned int software = vf_standin_named(&conf->standin);

	if (!has_function(conf) && !software)
		return diag_set(d, -EINVAL,
				"names no function; give it pci = \"0000:03:00.2\"; or socket = "
				"\"/run/vf0.sock\"; or, in software, disk or tap");
	if (given(conf->pci) && given(conf->socket))
		return diag_set(d, -EINVAL, "has both pci and socket; a function is one of them");
	if (software > 1)
		return diag_set(d, -EINVAL,
				"has several of disk, tap, passt and loopback; the software device "
				"is one of them");
	return 0;
}

static bool vf_needs_shared_memory(const void *opaque)
{
	const struct vf_conf *conf = opaque;

	return given(conf->socket);
}

static const char *const offer_words[] = { OFFER_NAME, "native", NULL };
static const char *const doorbell_words[] = { "native", "portable", NULL };

static const struct opt vf_opts[] = {
	{ .name = "pci",
	  .type = OPT_STRING,
	  .offset = offsetof(struct vf_conf, pci),
	  .max = PCI_ADDRESS_LEN - 1,
	  .help = "address of the function, bound to vfio-pci" },
	{ .name = "socket",
	  .type = OPT_PATH,
	  .offset = offsetof(struct vf_conf, socket),
	  .max = VF_NAME_MAX - 1,
	  .help = "socket of a vfio-user server that has the function" },
	{ .name = "disk",
	  .type = OPT_PATH,
	  .offset = offsetof(struct vf_conf, standin.disk),
	  .help = "a software disk with this image: in place of a function, or for when it fails" },
	{ .name = "serial",
	  .type = OPT_STRING,
	  .offset = offsetof(struct vf_conf, standin.serial),
	  .max = VIRTIO_BLK_ID_BYTES,
	  .help = "of that disk, or the function's, at most 20 bytes (default: as it says, "
		  "vf0...)" },
	{ .name = "shared",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct vf_conf, standin.shared),
	  .help = "others have that image, too: it is not locked" },
	{ .name = "tap",
	  .type = OPT_STRING,
	  .offset = offsetof(struct vf_conf, standin.tap),
	  .max = IFNAMSIZ - 1,
	  .help = "the same of a network card, on this tap" },
	{ .name = "passt",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct vf_conf, standin.passt),
	  .help = "the same through passt" },
	{ .name = "loopback",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct vf_conf, standin.loopback),
	  .help = "the same, what the guest sends comes back, for tests" },
	{ .name = "mac",
	  .type = OPT_STRING,
	  .offset = offsetof(struct vf_conf, standin.mac),
	  .help = "address of that card" },
	{ .name = "offer",
	  .type = OPT_CHOICE,
	  .offset = offsetof(struct vf_conf, offer),
	  .choices = offer_words,
	  .help = "what the guest is offered" },
	{ .name = "doorbells",
	  .type = OPT_CHOICE,
	  .offset = offsetof(struct vf_conf, doorbells),
	  .choices = doorbell_words,
	  .help = "where in its page a doorbell lies" },
	{ .name = "queues",
	  .type = OPT_INT,
	  .offset = offsetof(struct vf_conf, queues),
	  .min = 0,
	  .max = VDEV_QUEUES_MAX,
	  .help = "queues of a disk, pairs of a network card (default 1; native: all)" },
	{ .name = "unsafe_no_access_platform",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct vf_conf, unsafe_no_access_platform),
	  .help = "take a function that may bypass the IOMMU" },
};

const struct device_class vf_class = {
	.name = "vf",
	.id = "vf",
	.key = "vfs",
	.list = true,
	.pci = true,
	.conf_size = sizeof(struct vf_conf),
	.opts = vf_opts,
	.nopts = ARRAY_SIZE(vf_opts),
	.check = vf_check,
	.needs_shared_memory = vf_needs_shared_memory,
	.create = vf_create,
	.reset = vf_device_reset,
	.quiesce = vf_quiesce,
	.resume = vf_resume,
	.sync = vf_sync,
	.moved = vf_moved,
	.track_begin = vf_track_begin,
	.track_wait = vf_track_wait,
	.track_sync = vf_track_sync,
	.track_end = vf_track_end,
	.track_pause = vf_track_pause,
	.prepare = vf_track_prepare,
	.arm = vf_track_arm,
	.opaque_get = vf_opaque_get,
	.opaque_put = vf_opaque_put,
	.info = vf_info,
	.stats = virtio_pci_stats,
	.destroy = vf_destroy,
};
