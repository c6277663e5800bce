/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_standin.c - a software disk or network card that is configured in the place of an assigned
 * function. To the guest they are the same device, and in a stream, too: the same id, class and
 * tables (vf_state.c), so a guest goes from a function to a stand-in and back. What a software
 * device is beside that it stays: its class is copied, with another name and another end.
 * Main thread.
 *
 * The tables are of a struct vf_dev, so there is one, without a function: only what vf_state.c
 * names is used, filled from the software device before it is saved and put into it when loaded.
 */
#include "vf_dev.h"
#include "vf_standin.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct device_class vf_class, virtio_blk_class, virtio_net_class;

struct standin {
	struct vf_dev journal;
	struct device_class cls; /* of this instance */
	const struct device_class *software;
	struct device *spare; /* owned; NULL: it was made for the machine's own */
	struct vdev *v;	      /* the software device's */
	struct vdev_ops ops;  /* ... and what it does, but for its configuration */
	void (*software_config)(struct vdev *v, unsigned int off, void *buf, unsigned int len);
	struct state_ref state[VIRTIO_PCI_STATES + 2];
};

static bool given(const char *text)
{
	return text && *text;
}

unsigned int vf_standin_named(const struct vf_standin_conf *c)
{
	return (unsigned int)given(c->disk) + given(c->tap) + c->passt + c->loopback;
}

/* --- what the guest sees -----------------------------------------------------------------------
 */

static struct standin *standin_of(const struct device *dev)
{
	return container_of(dev->state[VIRTIO_PCI_STATES].obj, struct standin, journal);
}

static struct standin *standin_of_vdev(const struct vdev *v)
{
	struct device *dev = v->vm->devices;

	while (dev->priv != v)
		dev = dev->next;
	return standin_of(dev);
}

/*
 * A guest that came from a function goes on with what that showed (vf_config.c says what may
 * differ); what changes while a device runs is the software device's.
 */
static void follow(struct standin *s)
{
	struct vf_dev *vd = &s->journal;
	union vf_config fresh = { 0 };

	s->software_config(s->v, 0, fresh.bytes, s->v->config_size);
	(void)vf_config_follow(s->v->device_id, &vd->config, &fresh);
	if (s->v->device_id == VIRTIO_ID_NET)
		memcpy(vd->config.net.mac, fresh.net.mac, ETH_ALEN);
}

static void config_read(struct vdev *v, unsigned int off, void *buf, unsigned int len)
{
	struct standin *s = standin_of_vdev(v);

	follow(s);
	memcpy(buf, s->journal.config.bytes + off, len);
}

/* --- state -------------------------------------------------------------------------------------
 */

void vf_standin_save(struct vf_dev *vd)
{
	struct standin *s = container_of(vd, struct standin, journal);

	follow(s);
	if (s->v->device_id != VIRTIO_ID_NET)
		return;
	/* Announcing is a matter of the command's journal, here as there. */
	vd->config.net.status &= htole16(VIRTIO_NET_S_LINK_UP);
	vd->cvq.ctrl = net_of_vdev(s->v)->ctrl;
}

void vf_standin_load(struct vf_dev *vd)
{
	struct standin *s = container_of(vd, struct standin, journal);
	struct virtio_net *net;

	if (s->v->device_id != VIRTIO_ID_NET)
		return;
	net = net_of_vdev(s->v);
	pthread_mutex_lock(&net->lock);
	net->ctrl = vd->cvq.ctrl;
	pthread_mutex_unlock(&net->lock);
}

/* --- putting it together -----------------------------------------------------------------------
 */

static void *option(const struct device_class *cls, void *conf, const char *name)
{
	for (unsigned int i = 0; i < cls->nopts; i++)
		if (!strcmp(cls->opts[i].name, name))
			return (uint8_t *)conf + cls->opts[i].offset;
	return NULL;
}

/* -EINVAL with the sentence of the software device's own checks. */
static int fill_conf(const struct device_class *cls, void *conf, const struct vf_standin_conf *c,
		     struct diag *d)
{
	const struct {
		const char *name;
		enum opt_type type;
		const void *value;
	} values[] = {
		{ "path", OPT_STRING, c->disk },	{ "serial", OPT_STRING, c->serial },
		{ "tap", OPT_STRING, c->tap },		{ "mac", OPT_STRING, c->mac },
		{ "shared", OPT_BOOL, &c->shared },	{ "passt", OPT_BOOL, &c->passt },
		{ "loopback", OPT_BOOL, &c->loopback },
	};

	if (cls->init_conf)
		cls->init_conf(conf);
	for (unsigned int i = 0; i < ARRAY_SIZE(values); i++) {
		void *at = option(cls, conf, values[i].name);

		if (at && values[i].type == OPT_BOOL)
			*(bool *)at = *(const bool *)values[i].value;
		else if (at && values[i].value)
			*(const char **)at = values[i].value;
	}
	if (c->queues)
		*(int64_t *)option(cls, conf, "queues") = c->queues;
	for (unsigned int i = 0; i < cls->nopts; i++) {
		const struct opt *o = &cls->opts[i];
		bool set = o->type == OPT_STRING &&
			   given(*(const char **)((uint8_t *)conf + o->offset));

		if (set && o->check && o->check(conf, d)) {
			diag_prefix(d, "%s", o->name);
			return -EINVAL;
		}
	}
	return cls->check ? cls->check(conf, d) : 0;
}

static void destroy(struct device *dev)
{
	struct standin *s = standin_of(dev);

	s->software->destroy(dev);
	free(s->spare);
	free(s);
}

/* The software device is there: what it is in a stream, and to the guest. */
static void disguise(struct standin *s, struct device *dev, uint16_t queues)
{
	struct vf_dev *vd = &s->journal;
	bool net = s->v->device_id == VIRTIO_ID_NET;

	s->software_config = s->v->ops->config_read;
	s->ops = *s->v->ops;
	s->ops.config_read = config_read;
	s->v->ops = &s->ops;
	vd->standin = true;
	vd->vdev.device_id = s->v->device_id;
	vd->offer.npairs = net ? queues : 0;
	vd->offer.nqueues = s->v->nqueues;
	vd->offer.to_function = s->v->offered;
	s->software_config(s->v, 0, vd->own.bytes, s->v->config_size);
	if (net)
		vd->own.net.max_virtqueue_pairs = htole16(queues);
	vd->config = vd->own;
	virtio_pci_state(s->v, s->state);
	s->state[VIRTIO_PCI_STATES] = (struct state_ref){ &vf_state, vd };
	s->state[VIRTIO_PCI_STATES + 1] = (struct state_ref){ &vf_net_state, vd };
	dev->state = s->state;
	dev->nstate = VIRTIO_PCI_STATES + (net ? 2 : 1);
	s->cls = *s->software;
	s->cls.name = vf_class.name;
	s->cls.destroy = destroy;
	dev->cls = &s->cls;
}

int vf_standin_create(struct vm *vm, struct device *dev, const struct vf_standin_conf *c,
		      struct diag *d)
{
	const struct device_class *software =
		given(c->disk) ? &virtio_blk_class : &virtio_net_class;
	struct standin *s = calloc(1, sizeof(*s));
	void *conf = calloc(1, software->conf_size);
	int err =
		s && conf ? fill_conf(software, conf, c, d) : diag_errno(d, -ENOMEM, "%s", dev->id);

	if (!err)
		err = software->create(vm, dev, conf, d);
	free(conf);
	if (err) {
		free(s);
		return err;
	}
	s->software = software;
	s->v = dev->priv; /* it is the first member of both */
	if (s->v->device_id == VIRTIO_ID_BLOCK) {
		const char *serial = given(c->serial) ? c->serial : dev->id;

		memcpy(s->journal.serial, serial, strnlen(serial, sizeof(s->journal.serial)));
	}
	disguise(s, dev, (uint16_t)(c->queues ? c->queues : 1));
	return 0;
}

int vf_standin_spare(struct vm *vm, const char *id, const struct vf_standin_conf *c,
		     struct device **spare, struct diag *d)
{
	struct device *dev = calloc(1, sizeof(*dev));
	int err;

	if (!dev)
		return diag_errno(d, -ENOMEM, "%s", id);
	snprintf(dev->id, sizeof(dev->id), "%s", id);
	err = vf_standin_create(vm, dev, c, d);
	if (err) {
		free(dev);
		return err;
	}
	standin_of(dev)->spare = *spare = dev;
	return 0;
}
