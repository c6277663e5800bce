/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_net_dev.c - the virtio network card as a device: its options, how it is put together and
 * taken apart. Main thread.
 */
#include "virtio_net.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unvmm/offer.h>
#include <unvmm/vm.h>

struct net_conf {
	char *tap, *mac;
	bool passt, loopback, offload;
	int64_t mtu, queues;
};

/* --- MAC addresses ---------------------------------------------------------------------------- */

static bool parse_mac(const char *text, uint8_t mac[ETH_ALEN])
{
	unsigned int b[ETH_ALEN];
	int end = 0;

	if (strlen(text) != 3 * ETH_ALEN - 1 || strspn(text, "0123456789abcdefABCDEF:") != 17 ||
	    sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
		   &end) != ETH_ALEN ||
	    end != 17)
		return false;
	for (unsigned int i = 0; i < ETH_ALEN; i++)
		mac[i] = (uint8_t)b[i];
	return true;
}

/*
 * Always the same for the same guest, so that its network configuration and its leases survive a
 * restart; locally administered. FNV-1a over the guest's name and the card's.
 */
static void made_up_mac(const char *guest, const char *card, uint8_t mac[ETH_ALEN])
{
	const char *texts[] = { guest ? guest : "", "/", card };
	uint64_t h = 0xcbf29ce484222325;

	for (unsigned int i = 0; i < ARRAY_SIZE(texts); i++)
		for (const char *p = texts[i]; *p; p++)
			h = (h ^ (uint8_t)*p) * 0x100000001b3;
	for (unsigned int i = 0; i < ETH_ALEN; i++)
		mac[i] = (uint8_t)(h >> (8 * i));
	mac[0] = (uint8_t)((mac[0] & ~1u) | 2u);
}

/* --- putting it together ---------------------------------------------------------------------- */

static int open_backend(struct virtio_net *net, const struct net_conf *conf, const char *id,
			struct diag *d)
{
	int err;

	if (conf->loopback)
		err = net_loopback_open(&net->backend, id, net->npairs, d);
	else if (conf->passt)
		err = net_passt_open(&net->backend, id, net->mtu, d);
	else
		err = net_tap_open(&net->backend, id, conf->tap, net->npairs, net->mtu, d);
	if (err)
		return err;
	net->backend->card = net;
	net->backend->events = &net_events;
	net->link = net->backend->link;
	return 0;
}

/*
 * What is offered depends on the configuration alone, so that a guest finds the same card on any
 * host: the size of frames, for example, is not the tap's but the one that was asked for.
 */
static void fill_vdev(struct virtio_net *net, bool offload)
{
	struct vdev *v = &net->vdev;
	uint64_t wanted = 0;

	v->ops = &net_vdev_ops;
	v->device_id = VIRTIO_ID_NET;
	v->class_code = 0x020000; /* Ethernet controller */
	v->nqueues = (uint16_t)(2 * net->npairs + 1);
	v->config_size = offsetof(struct virtio_net_config, speed);
	for (unsigned int q = 0; q < v->nqueues; q++)
		v->queues[q].size_max = offer_queue_size(VIRTIO_ID_NET);
	if (offload)
		wanted = NET_GUEST_OFFLOADS | VIRTIO_BIT(VIRTIO_NET_F_CSUM) |
			 VIRTIO_BIT(VIRTIO_NET_F_HOST_TSO4) | VIRTIO_BIT(VIRTIO_NET_F_HOST_TSO6) |
			 VIRTIO_BIT(VIRTIO_NET_F_HOST_ECN) |
			 VIRTIO_BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
	if (net->mtu)
		wanted |= VIRTIO_BIT(VIRTIO_NET_F_MTU);
	if (net->npairs > 1)
		wanted |= VIRTIO_BIT(VIRTIO_NET_F_MQ);
	v->offered = offer_features(VIRTIO_ID_NET, wanted);
}

static void attach_work(struct loop_work *w)
{
	struct virtio_net *net = container_of(w, struct virtio_net, attach_work);

	net->backend->ops->attach(net->backend);
}

static void detach_work(struct loop_work *w)
{
	struct virtio_net *net = container_of(w, struct virtio_net, detach_work);

	net->backend->ops->detach(net->backend);
}

static void net_free(struct virtio_net *net)
{
	if (net->backend)
		net->backend->ops->close(net->backend);
	pthread_mutex_destroy(&net->lock);
	free(net->pairs);
	free(net);
}

static struct virtio_net *net_alloc(struct vm *vm, const char *id, const struct net_conf *conf)
{
	struct virtio_net *net = calloc(1, sizeof(*net));

	if (!net)
		return NULL;
	net->pairs = calloc((size_t)conf->queues, sizeof(*net->pairs));
	if (!net->pairs) {
		free(net);
		return NULL;
	}
	pthread_mutex_init(&net->lock, NULL);
	net->vdev.vm = vm;
	net->vdev.id = id;
	net->npairs = (uint16_t)conf->queues;
	net->mtu = (uint16_t)conf->mtu;
	net->attach_work.fn = attach_work;
	net->detach_work.fn = detach_work;
	net->announce_work.fn = net_announce_work;
	/* The option's check has been here: what does not parse is not given. */
	if (!conf->mac || !parse_mac(conf->mac, net->mac))
		made_up_mac(vm->config ? vm->config->name : NULL, id, net->mac);
	net_ctrl_reset(net);
	return net;
}

static int net_create(struct vm *vm, struct device *dev, const void *opaque, struct diag *d)
{
	const struct net_conf *conf = opaque;
	struct virtio_net *net = net_alloc(vm, dev->id, conf);
	struct loop *loop;
	int err;

	if (!net)
		return diag_errno(d, -ENOMEM, "%s", dev->id);
	err = open_backend(net, conf, dev->id, d);
	if (err)
		goto out_free;
	loop = vm_io_loop(vm, d);
	if (!loop) {
		err = -EIO;
		goto out_free;
	}
	net->backend->loop = loop;
	fill_vdev(net, conf->offload && net->backend->offloads);
	err = softq_init(&net->sq, &net->vdev, loop, net_handle, d);
	if (err)
		goto out_free;
	net->sq.drain = net_drain;
	err = virtio_pci_create(&net->vdev, d);
	if (err)
		goto out_softq;

	virtio_pci_state(&net->vdev, net->state);
	net->state[VIRTIO_PCI_STATES] = (struct state_ref){ .desc = &net_state, .obj = net };
	dev->priv = net;
	dev->state = net->state;
	dev->nstate = ARRAY_SIZE(net->state);
	loop_call(loop, &net->attach_work);
	return 0;

out_softq:
	softq_fini(&net->sq);
out_free:
	net_free(net);
	return err;
}

static int net_reset(struct device *dev, struct diag *d)
{
	struct virtio_net *net = dev->priv;
	int err = virtio_pci_reset(&net->vdev);

	return err ? diag_errno(d, err, "%s: cannot be reset", dev->id) : 0;
}

static int net_quiesce(struct device *dev)
{
	struct virtio_net *net = dev->priv;

	return virtio_pci_quiesce(&net->vdev);
}

static void net_resume(struct device *dev)
{
	struct virtio_net *net = dev->priv;

	virtio_pci_resume(&net->vdev);
}

static void net_moved(struct device *dev)
{
	struct virtio_net *net = dev->priv;

	virtio_pci_moved(&net->vdev);
	virtio_net_announce(dev);
}

static void net_info(const struct device *dev, struct report *r)
{
	struct virtio_net *net = dev->priv;
	uint8_t mac[ETH_ALEN];
	bool link;

	pthread_mutex_lock(&net->lock);
	memcpy(mac, net->ctrl.mac, sizeof(mac));
	link = net->link;
	pthread_mutex_unlock(&net->lock);
	report_text(r, "backend", "%s", net->backend->ops->name);
	report_text(r, "mac", "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
		    mac[4], mac[5]);
	report_flag(r, "link", link);
	virtio_pci_info(dev, r);
}

static void net_stats(const struct device *dev, struct report *r)
{
	const struct virtio_net *net = dev->priv;
	const struct {
		const char *name;
		const uint64_t *value;
	} counters[] = {
		{ "rx-packets", &net->count.rx_packets },
		{ "rx-bytes", &net->count.rx_bytes },
		{ "rx-filtered", &net->count.rx_filtered },
		{ "rx-dropped", &net->count.rx_dropped },
		{ "tx-packets", &net->count.tx_packets },
		{ "tx-bytes", &net->count.tx_bytes },
		{ "tx-dropped", &net->count.tx_dropped },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(counters); i++)
		report_number(r, counters[i].name,
			      __atomic_load_n(counters[i].value, __ATOMIC_RELAXED));
	virtio_pci_stats(dev, r);
}

static void net_destroy(struct device *dev)
{
	struct virtio_net *net = dev->priv;

	loop_call(net->sq.loop, &net->detach_work);
	softq_fini(&net->sq); /* behind it no work of ours is left on the loop */
	virtio_pci_destroy(&net->vdev);
	net_free(net);
}

/* --- options ---------------------------------------------------------------------------------- */

static bool has_tap(const struct net_conf *conf)
{
	return conf->tap && *conf->tap;
}

static int check_tap(const void *opaque, struct diag *d)
{
	const struct net_conf *conf = opaque;

	/* The kernel would take %d for "any number". */
	if (!conf->tap || !strpbrk(conf->tap, "/%: \t\n"))
		return 0;
	return diag_set(d, -EINVAL,
			"is \"%s\"; an interface has a name like tap0, without /, %%, : "
			"and blanks",
			conf->tap);
}

static int check_mac(const void *opaque, struct diag *d)
{
	static const uint8_t zero[ETH_ALEN];
	const struct net_conf *conf = opaque;
	uint8_t mac[ETH_ALEN];

	if (!parse_mac(conf->mac, mac) || !memcmp(mac, zero, sizeof(mac)))
		return diag_set(d, -EINVAL,
				"is \"%.40s\"; it must be an address like 52:54:00:12:34:56",
				conf->mac);
	if (mac[0] & 1)
		return diag_set(d, -EINVAL,
				"is \"%s\", a multicast address; the second digit of a card's own "
				"is even",
				conf->mac);
	return 0;
}

static int net_check(const void *opaque, struct diag *d)
{
	const struct net_conf *conf = opaque;
	int backends = has_tap(conf) + conf->passt + conf->loopback;

	if (!backends)
		return diag_set(d, -EINVAL,
				"is connected to nothing; give it tap = \"tap0\"; or "
				"passt = true;");
	if (backends > 1)
		return diag_set(d, -EINVAL,
				"has several of tap, passt and loopback; a card has one cable");
	if (conf->passt && conf->queues > 1)
		return diag_set(d, -EINVAL, "has %" PRId64 " pairs of queues; passt serves one",
				conf->queues);
	return 0;
}

static void net_init_conf(void *opaque)
{
	struct net_conf *conf = opaque;

	conf->queues = 1;
	conf->offload = true;
}

static const struct opt net_opts[] = {
	{ .name = "tap",
	  .type = OPT_STRING,
	  .offset = offsetof(struct net_conf, tap),
	  .max = IFNAMSIZ - 1,
	  .check = check_tap,
	  .help = "tap interface of the host; made if it is not there" },
	{ .name = "passt",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct net_conf, passt),
	  .help = "network of the host's user by passt, without privileges" },
	{ .name = "loopback",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct net_conf, loopback),
	  .help = "what the guest sends comes back, for tests" },
	{ .name = "mac",
	  .type = OPT_STRING,
	  .offset = offsetof(struct net_conf, mac),
	  .check = check_mac,
	  .help = "address of the card (default: made of the guest's name)" },
	{ .name = "mtu",
	  .type = OPT_INT,
	  .offset = offsetof(struct net_conf, mtu),
	  .min = 68,
	  .max = 65521, /* a tap's */
	  .help = "largest packet, which the guest is told (default: it assumes 1500)" },
	{ .name = "queues",
	  .type = OPT_INT,
	  .offset = offsetof(struct net_conf, queues),
	  .min = 1,
	  .max = NET_PAIRS_MAX,
	  .help = "pairs of queues" },
	{ .name = "offload",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct net_conf, offload),
	  .help = "leave checksums and segmentation to the host, with a tap" },
};

const struct device_class virtio_net_class = {
	.name = "virtio-net",
	.id = "net",
	.key = "nets",
	.list = true,
	.pci = true,
	.conf_size = sizeof(struct net_conf),
	.init_conf = net_init_conf,
	.opts = net_opts,
	.nopts = ARRAY_SIZE(net_opts),
	.check = net_check,
	.create = net_create,
	.reset = net_reset,
	.quiesce = net_quiesce,
	.resume = net_resume,
	.moved = net_moved,
	.info = net_info,
	.stats = net_stats,
	.destroy = net_destroy,
};
