/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_console_dev.c - the virtio console as a device: its options, how it is put together and
 * taken apart, and its host's side: the chardev and the device configuration. Main thread; what the
 * chardev and the guest's registers call has the control lock.
 */
#include "virtio_console.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <unvmm/device.h>
#include <unvmm/vm.h>

struct console_conf {
	char *chardev, *name;
};

/* --- the chardev ------------------------------------------------------------------------------ */

/*
 * Passes output on: as far as there is room for it, or all, though it may be lost then. At most as
 * much as the ring holds: a guest that refills it as fast as it is emptied must not keep the
 * control lock. What is left is for the loop's next turn.
 */
static void pass_output(struct virtio_console *con, bool all)
{
	uint8_t buf[1024];
	size_t n, room, left = CONSOLE_RING;
	bool wake;

	do {
		room = all ? sizeof(buf) : chardev_room(con->chardev);
		pthread_mutex_lock(&con->lock);
		n = console_ring_take(&con->to_host, buf, room < sizeof(buf) ? room : sizeof(buf));
		pthread_mutex_unlock(&con->lock);
		if (n)
			chardev_write(con->chardev, buf, n);
		left -= n < left ? n : left;
	} while (n && left);
	if (n)
		loop_call(&con->vdev.vm->main_loop, &con->main_work);
	pthread_mutex_lock(&con->lock);
	wake = con->tx_held && con->to_host.len <= CONSOLE_RING / 2;
	if (wake)
		con->tx_held = false;
	pthread_mutex_unlock(&con->lock);
	if (wake)
		loop_call(con->sq.loop, &con->io_work);
}

static void main_work(struct loop_work *w)
{
	struct virtio_console *con = container_of(w, struct virtio_console, main_work);

	vm_lock(con->vdev.vm);
	pass_output(con, false);
	chardev_poll_input(con->chardev);
	vm_unlock(con->vdev.vm);
}

/* The queues are looked at again: there is input or room, or something to tell the driver. */
static void io_work(struct loop_work *w)
{
	struct virtio_console *con = container_of(w, struct virtio_console, io_work);

	for (unsigned int q = 0; q < con->vdev.nqueues; q++)
		if (q != CONSOLE_CTRL_TX)
			softq_serve(&con->sq, q);
}

static size_t console_room(void *dev)
{
	struct virtio_console *con = dev;
	size_t n;

	pthread_mutex_lock(&con->lock);
	n = console_listens(con) ? CONSOLE_RING - con->to_guest.len : 0;
	pthread_mutex_unlock(&con->lock);
	return n;
}

static void console_receive(void *dev, const uint8_t *buf, size_t len)
{
	struct virtio_console *con = dev;

	pthread_mutex_lock(&con->lock);
	(void)console_ring_put(&con->to_guest, buf, len);
	pthread_mutex_unlock(&con->lock);
	loop_call(con->sq.loop, &con->io_work);
}

static void console_writable(void *dev)
{
	pass_output(dev, false);
}

static void console_connected(void *dev)
{
	struct virtio_console *con = dev;

	pthread_mutex_lock(&con->lock);
	con->host_open = chardev_connected(con->chardev);
	if (con->ctrl.ready)
		con->ctrl.send |= CONSOLE_SEND_OPEN;
	pthread_mutex_unlock(&con->lock);
	loop_call(con->sq.loop, &con->io_work);
}

static void console_resized(void *dev)
{
	struct virtio_console *con = dev;
	uint16_t cols, rows;

	chardev_window(con->chardev, &cols, &rows);
	if (cols == con->cols && rows == con->rows)
		return;
	con->cols = cols;
	con->rows = rows;
	if (vdev_has(&con->vdev, VIRTIO_CONSOLE_F_SIZE))
		vdev_config_changed(&con->vdev);
}

/* --- the vdev --------------------------------------------------------------------------------- */

static void console_config_read(struct vdev *v, unsigned int off, void *buf, unsigned int len)
{
	struct virtio_console *con = console_of_vdev(v);
	struct virtio_console_config config = { .cols = htole16(con->cols),
						.rows = htole16(con->rows),
						.max_nr_ports = htole32(1) };

	memcpy(buf, (const uint8_t *)&config + off, len);
}

/* Emergency write (5.3.4): one character, also from a driver that has not set anything up. */
static void console_config_write(struct vdev *v, unsigned int off, const void *buf,
				 unsigned int len)
{
	struct virtio_console *con = console_of_vdev(v);

	if (off != offsetof(struct virtio_console_config, emerg_wr) || !len)
		return;
	pass_output(con, false);
	chardev_write(con->chardev, buf, 1);
}

static void console_vdev_reset(struct vdev *v)
{
	console_reset_ctrl(console_of_vdev(v));
}

static int console_start(struct vdev *v)
{
	return softq_start(&console_of_vdev(v)->sq);
}

static void console_stop(struct vdev *v)
{
	softq_stop(&console_of_vdev(v)->sq);
}

static void console_doorbell(struct vdev *v, unsigned int q, struct vdev_doorbell *db)
{
	softq_doorbell(&console_of_vdev(v)->sq, q, db);
}

static void console_kick(struct vdev *v, unsigned int q)
{
	softq_kick(&console_of_vdev(v)->sq, q);
}

static const struct vdev_ops console_ops = {
	.reset = console_vdev_reset,
	.start = console_start,
	.stop = console_stop,
	.doorbell = console_doorbell,
	.kick = console_kick,
	.config_read = console_config_read,
	.config_write = console_config_write,
};

/* --- the device ------------------------------------------------------------------------------- */

/* What the queues have given is the host's: it does not wait for the guest to run again. */
static void pass_rest(struct virtio_console *con)
{
	vm_lock(con->vdev.vm);
	pass_output(con, false);
	vm_unlock(con->vdev.vm);
}

/* At the end: until the other end takes nothing for a while. */
static void pass_all(struct virtio_console *con)
{
	vm_lock(con->vdev.vm);
	do
		pass_output(con, false);
	while (con->to_host.len && chardev_flush(con->chardev));
	pass_output(con, true);
	vm_unlock(con->vdev.vm);
}

static int console_reset(struct device *dev, struct diag *d)
{
	struct virtio_console *con = dev->priv;
	int err = virtio_pci_reset(&con->vdev);

	if (err)
		return diag_errno(d, err, "%s: cannot be reset", dev->id);
	pass_rest(con);
	return 0;
}

static int console_quiesce(struct device *dev)
{
	struct virtio_console *con = dev->priv;
	int err = virtio_pci_quiesce(&con->vdev);

	if (!err)
		pass_rest(con);
	return err;
}

static void console_resume(struct device *dev)
{
	struct virtio_console *con = dev->priv;

	virtio_pci_resume(&con->vdev);
}

static void console_moved(struct device *dev)
{
	struct virtio_console *con = dev->priv;

	virtio_pci_moved(&con->vdev);
}

static void console_info(const struct device *dev, struct report *r)
{
	const struct virtio_console *con = dev->priv;

	chardev_info(con->chardev, r);
	if (con->name[0])
		report_text(r, "name", "%s", (const char *)con->name);
	if (con->cols)
		report_text(r, "window", "%u x %u", con->cols, con->rows);
	virtio_pci_info(dev, r);
}

static void console_stats(const struct device *dev, struct report *r)
{
	const struct virtio_console *con = dev->priv;

	chardev_stats(con->chardev, r);
	virtio_pci_stats(dev, r);
}

static void console_free(struct virtio_console *con)
{
	struct vm *vm = con->vdev.vm;

	if (vm->attended == con->chardev)
		vm->attended = vm->console;
	loop_uncall(&vm->main_loop, &con->main_work);
	chardev_close(con->chardev);
	pthread_mutex_destroy(&con->lock);
	free(con);
}

static void console_destroy(struct device *dev)
{
	struct virtio_console *con = dev->priv;
	const struct chardev_user none = { 0 };

	chardev_attach(con->chardev, &none);
	softq_fini(&con->sq); /* behind it no work of ours is left on the io loop */
	con->tx_held = false;
	pass_all(con);
	virtio_pci_destroy(&con->vdev);
	console_free(con);
}

static void fill_vdev(struct virtio_console *con, const char *id)
{
	struct vdev *v = &con->vdev;

	v->ops = &console_ops;
	v->id = id;
	v->device_id = VIRTIO_ID_CONSOLE;
	v->class_code = 0x078000; /* communication controller, other */
	v->nqueues = con->name[0] ? CONSOLE_QUEUES : CONSOLE_TX + 1;
	v->config_size = sizeof(struct virtio_console_config);
	v->offered = offer_features(VIRTIO_ID_CONSOLE,
				    con->name[0] ? VIRTIO_BIT(VIRTIO_CONSOLE_F_MULTIPORT)
						 : VIRTIO_BIT(VIRTIO_CONSOLE_F_SIZE));
	for (unsigned int q = 0; q < v->nqueues; q++)
		v->queues[q].size_max = offer_queue_size(VIRTIO_ID_CONSOLE);
}

static struct virtio_console *console_alloc(struct vm *vm, const char *id,
					    const struct console_conf *conf, struct diag *d)
{
	struct virtio_console *con = calloc(1, sizeof(*con));

	if (!con) {
		diag_set(d, -ENOMEM, "%s: out of memory", id);
		return NULL;
	}
	con->vdev.vm = vm;
	con->io_work.fn = io_work;
	con->main_work.fn = main_work;
	if (conf->name)
		memcpy(con->name, conf->name, strnlen(conf->name, CONSOLE_NAME - 1));
	fill_vdev(con, id);
	con->chardev = chardev_open(vm, conf->chardev, d);
	if (!con->chardev) {
		free(con);
		return NULL;
	}
	pthread_mutex_init(&con->lock, NULL);
	con->host_open = chardev_connected(con->chardev);
	chardev_window(con->chardev, &con->cols, &con->rows);
	return con;
}

/* The operator sits before the console on stdio; else before the first that leads anywhere. */
static void seat_operator(struct virtio_console *con)
{
	struct vm *vm = con->vdev.vm;

	if (con->name[0])
		return;
	if (chardev_kind(con->chardev) == CHARDEV_STDIO || !vm->attended ||
	    chardev_kind(vm->attended) == CHARDEV_NONE)
		vm->attended = con->chardev;
}

static int console_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	struct chardev_user user = { .room = console_room,
				     .receive = console_receive,
				     .writable = console_writable,
				     .connected = console_connected,
				     .resized = console_resized };
	struct loop *loop = vm_io_loop(vm, d);
	struct virtio_console *con;
	int err;

	if (!loop)
		return -EIO;
	con = console_alloc(vm, dev->id, conf, d);
	if (!con)
		return -EIO;
	err = softq_init(&con->sq, &con->vdev, loop, console_handle, d);
	if (err)
		goto fail_softq;
	err = virtio_pci_create(&con->vdev, d);
	if (err)
		goto fail_transport;
	virtio_pci_state(&con->vdev, con->state);
	con->state[VIRTIO_PCI_STATES] = (struct state_ref){ .desc = &console_state, .obj = con };
	dev->priv = con;
	dev->state = con->state;
	dev->nstate = ARRAY_SIZE(con->state);
	user.dev = con;
	chardev_attach(con->chardev, &user);
	seat_operator(con);
	return 0;

fail_transport:
	softq_fini(&con->sq);
fail_softq:
	console_free(con);
	return err;
}

/* --- options ---------------------------------------------------------------------------------- */

static int check_name(const void *opaque, struct diag *d)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789._-";
	const struct console_conf *conf = opaque;

	if (!conf->name || (*conf->name && !conf->name[strspn(conf->name, allowed)]))
		return 0;
	return diag_set(d, -EINVAL,
			"is \"%s\"; the name of a port is like org.qemu.guest_agent.0, of letters, "
			"digits, dots, dashes and underscores",
			conf->name);
}

static const struct opt console_opts[] = {
	{ .name = "chardev",
	  .type = OPT_CHARDEV,
	  .offset = offsetof(struct console_conf, chardev),
	  .required = true,
	  .help = "other end of the console" },
	{ .name = "name",
	  .type = OPT_STRING,
	  .offset = offsetof(struct console_conf, name),
	  .max = CONSOLE_NAME - 1,
	  .check = check_name,
	  .help = "makes it a port of that name for a program in the guest, no console" },
};

const struct device_class virtio_console_class = {
	.name = "virtio-console",
	.id = "console",
	.key = "consoles",
	.list = true,
	.pci = true,
	.conf_size = sizeof(struct console_conf),
	.opts = console_opts,
	.nopts = ARRAY_SIZE(console_opts),
	.create = console_create,
	.reset = console_reset,
	.quiesce = console_quiesce,
	.resume = console_resume,
	.moved = console_moved,
	.info = console_info,
	.stats = console_stats,
	.destroy = console_destroy,
};
