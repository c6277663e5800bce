/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_unvf_function.c - a function of unvf as a driver and a vfio-user client find it: messages,
 * configuration space, common configuration, resets of the function and of one queue, vectors,
 * faults. The test's thread is the client.
 */
#include "unvf_env.h"

#include <linux/pci_regs.h>
#include <sys/eventfd.h>

#define CONFIG	   VFIO_PCI_CONFIG_REGION_INDEX
#define RING_RESET VIRTIO_BIT(40)
#define Q_RESET	   58

static struct client *driven(struct env *e, uint64_t more, unsigned int queues)
{
	struct client *c = env_client(e, 0);

	unvf_client_open(c);
	unvf_client_drive(c, (BLK_FEATURES | more) & unvf_client_offered(c), queues, 64);
	return c;
}

static int blk_read(struct client *c, unsigned int q)
{
	uint8_t buf[512];

	return unvf_client_blk(c, q, VIRTIO_BLK_T_IN, 0, buf, sizeof(buf));
}

/* --- messages --------------------------------------------------------------------------------- */

static void test_version(void **state)
{
	static const char *const texts[] = { "", "{}", "{\"capabilities\":{}}", "{", "[]", "x" };
	struct env *e = env_new("--type blk --image IMAGE --state");

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(texts); i++)
		for (uint16_t minor = 0; minor < 4; minor++) {
			struct client *c = env_client(e, 0);
			struct {
				struct vfio_user_version v;
				char text[64];
			} msg = { .v = { .major = 0, .minor = minor } };
			size_t len = strlen(texts[i]);
			int ret;

			strcpy(msg.text, texts[i]);
			ret = unvf_client_call(c, VFIO_USER_VERSION, &msg,
					       sizeof(msg.v) + (len ? len + 1 : 0), NULL, 0);
			assert_int_equal(ret, i < 3 ? 0 : -EINVAL);
			if (i < 3) {
				const struct vfio_user_version *v = (const void *)c->body;

				assert_int_equal(v->minor, minor < 2 ? minor : 2);
				assert_in_range(c->len, 5, VFIO_USER_QEMU_VERSION_REPLY - 16);
				assert_int_equal(c->body[c->len - 1], 0);
				/* Twice is an error, but not the end. */
				assert_int_equal(unvf_client_version(c), -EINVAL);
				assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_NUMQ, 2), 1);
			} else {
				assert_int_equal(unvf_client_recv(c), 1); /* it hung up */
			}
			env_drop(c);
			env_wait_free(e, 0);
		}
	env_free(e);
}

static void test_bad_messages(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = env_client(e, 0);
	uint8_t body[8192] = { 0 };
	int fds[2] = { STDIN_FILENO, STDOUT_FILENO };

	(void)state;
	/* Nothing before VERSION. */
	assert_int_equal(unvf_client_call(c, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0), 1);
	env_drop(c);
	env_wait_free(e, 0);
	c = env_client(e, 0);
	assert_int_equal(unvf_client_version(c), 0);
	/* No request is shorter than its struct, and zeroes are none, but for an empty DMA log. */
	for (uint16_t cmd = 2; cmd < 40; cmd++)
		for (size_t len = 0; len < 48; len += 4) {
			int ret = unvf_client_call(c, cmd, body, len, NULL, 0);

			if (cmd != VFIO_USER_DEVICE_RESET)
				assert_true(ret < 0);
		}
	/* Stray descriptors are closed, and long bodies are read. */
	*(uint32_t *)body = sizeof(body);
	for (unsigned int i = 0; i < 2000; i++)
		assert_int_equal(unvf_client_call(c, VFIO_USER_DEVICE_GET_INFO, body, sizeof(body),
						  fds, 2),
				 0);
	assert_int_equal(c->len, sizeof(struct vfio_user_device_info));
	env_drop(c);
	env_free(e);
}

/* What arrives in pieces is put together; what is too large ends the connection. */
static void test_framing(void **state)
{
	struct vfio_user_header h = { .id = 2, .cmd = VFIO_USER_DEVICE_GET_INFO, .size = 32 };
	struct vfio_user_device_info info = { .argsz = 16 };
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = env_client(e, 0);
	uint8_t bytes[32];

	(void)state;
	assert_int_equal(unvf_client_version(c), 0);
	memcpy(bytes, &h, 16);
	memcpy(bytes + 16, &info, 16);
	for (unsigned int i = 0; i < sizeof(bytes); i++) {
		assert_int_equal(send(c->fd, bytes + i, 1, 0), 1);
		usleep(200);
	}
	c->id = h.id;
	assert_int_equal(unvf_client_recv(c), 0);
	h.size = SERVER_MSG_MAX + 1;
	assert_int_equal(send(c->fd, &h, sizeof(h), 0), sizeof(h));
	assert_int_equal(unvf_client_recv(c), 1);
	env_drop(c);
	env_free(e);
}

static void test_region_info(void **state)
{
	struct vfio_region_info info = { .argsz = 32, .index = CLIENT_BAR }, out;
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = env_client(e, 0);

	(void)state;
	assert_int_equal(unvf_client_version(c), 0);
	/* Without room: the flag and the size, no capability, no descriptor. */
	assert_int_equal(unvf_client_call(c, VFIO_USER_DEVICE_GET_REGION_INFO, &info, 32, NULL, 0),
			 0);
	memcpy(&out, c->body, sizeof(out));
	assert_int_equal(c->len, 32);
	assert_int_equal(c->nfds, 0);
	assert_true(out.flags & VFIO_REGION_INFO_FLAG_MMAP);
	assert_false(out.flags & VFIO_REGION_INFO_FLAG_CAPS);
	info.argsz = out.argsz;
	assert_int_equal(unvf_client_call(c, VFIO_USER_DEVICE_GET_REGION_INFO, &info, 32, NULL, 0),
			 0);
	assert_int_equal(c->len, out.argsz);
	assert_int_equal(c->nfds, 1);
	info.index = VFIO_PCI_NUM_REGIONS;
	assert_int_equal(unvf_client_call(c, VFIO_USER_DEVICE_GET_REGION_INFO, &info, 32, NULL, 0),
			 -EINVAL);
	env_drop(c);
	env_free(e);
}

/* --- registers -------------------------------------------------------------------------------- */

static void test_config_space(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --page-per-vq --queues 2");
	struct client *c = env_client(e, 0);
	unsigned int at, seen = 0;
	uint64_t v;

	(void)state;
	assert_int_equal(unvf_client_version(c), 0);
	assert_int_equal(unvf_client_read(c, CONFIG, 0, 4), 0x10421af4);
	assert_int_equal(unvf_client_read(c, CONFIG, PCI_INTERRUPT_PIN, 1), 0);
	for (at = (unsigned int)unvf_client_read(c, CONFIG, PCI_CAPABILITY_LIST, 1); at;
	     at = (unsigned int)unvf_client_read(c, CONFIG, at + 1, 1)) {
		v = unvf_client_read(c, CONFIG, at, 4);
		if ((v & 0xff) == PCI_CAP_ID_MSIX)
			assert_int_equal(v >> 16, 2); /* three vectors */
		else
			seen |= 1u << (v >> 24);
	}
	assert_int_equal(seen, 0x3e); /* capabilities 1 to 5 */
	/* BARs are sized as on a bus. */
	unvf_client_write(c, CONFIG, PCI_BASE_ADDRESS_4, 8, UINT64_MAX);
	v = unvf_client_read(c, CONFIG, PCI_BASE_ADDRESS_4, 8);
	assert_int_equal(~(v & ~0xfull) + 1, e->f[0]->bar_size);
	assert_int_equal(v & 0xf, PCI_BASE_ADDRESS_MEM_TYPE_64);
	/* Nothing else changes. */
	unvf_client_write(c, CONFIG, 0, 4, 0);
	assert_int_equal(unvf_client_read(c, CONFIG, 0, 4), 0x10421af4);
	env_drop(c);
	env_free(e);
}

/* BAR 4 through the window in configuration space (4.1.4.9). */
static void test_config_window(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --queues 3");
	struct client *c = env_client(e, 0);
	unsigned int cap;

	(void)state;
	assert_int_equal(unvf_client_version(c), 0);
	cap = e->f[0]->cfg_cap;
	unvf_client_write(c, CONFIG, cap + 4, 1, CLIENT_BAR);
	unvf_client_write(c, CONFIG, cap + 8, 4, VIRTIO_PCI_COMMON_NUMQ);
	unvf_client_write(c, CONFIG, cap + 12, 4, 2);
	assert_int_equal(unvf_client_read(c, CONFIG, cap + 16, 2), 3);
	unvf_client_write(c, CONFIG, cap + 8, 4, VIRTIO_PCI_COMMON_STATUS);
	unvf_client_write(c, CONFIG, cap + 12, 4, 1);
	unvf_client_write(c, CONFIG, cap + 16, 1, 1);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1), 1);
	/* Windows that make no sense reach nothing. */
	unvf_client_write(c, CONFIG, cap + 8, 4, 0xfffffffe);
	unvf_client_write(c, CONFIG, cap + 12, 4, 4);
	(void)unvf_client_read(c, CONFIG, cap + 16, 4);
	unvf_client_write(c, CONFIG, cap + 12, 4, 3);
	unvf_client_write(c, CONFIG, cap + 16, 4, 0);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1), 1);
	env_drop(c);
	env_free(e);
}

static void test_features(void **state)
{
	static const struct {
		const char *line;
		bool platform, ring_reset;
	} cases[] = {
		{ "--type blk --image IMAGE", true, false },
		{ "--type blk --image IMAGE --no-access-platform --ring-reset", false, true },
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct env *e = env_new(cases[i].line);
		struct client *c = env_client(e, 0);
		uint64_t offered, platform = VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM);

		assert_int_equal(unvf_client_version(c), 0);
		offered = unvf_client_offered(c);
		assert_int_equal(!!(offered & platform), cases[i].platform);
		assert_int_equal(!!(offered & RING_RESET), cases[i].ring_reset);
		assert_true(unvf_client_negotiate(c, offered));
		assert_false(unvf_client_negotiate(c, offered & ~VIRTIO_BIT(VIRTIO_F_VERSION_1)));
		assert_false(unvf_client_negotiate(c, offered | VIRTIO_BIT(63)));
		assert_int_equal(unvf_client_negotiate(c, offered & ~platform), !cases[i].platform);
		env_drop(c);
		env_free(e);
	}
}

static void test_queue_registers(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --queues 2 --queue-size 128");
	struct client *c = env_client(e, 0);

	(void)state;
	assert_int_equal(unvf_client_version(c), 0);
	assert_true(unvf_client_negotiate(c, BASE_FEATURES));
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_SIZE, 2), 128);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_NOFF, 2), 1);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SIZE, 2, 256);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SIZE, 2, 65);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_SIZE, 2), 128);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_MSIX, 2, 3);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_MSIX, 2), 2);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, 2);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0xffff);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_true(unvf_client_reset(c));
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	env_drop(c);
	env_free(e);
}

/* Every byte that is nothing holds the pattern, in the page that is mapped, too; else nothing. */
static void test_pattern(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --pattern");
	struct client *c = env_client(e, 0);
	uint64_t pattern;

	(void)state;
	memcpy(&pattern, FN_PATTERN, 8);
	unvf_client_open(c);
	assert_true(unvf_client_read(c, CLIENT_BAR, 0x800, 8) == pattern);
	assert_true(unvf_client_read(c, CLIENT_BAR, 0x1008, 8) == pattern);
	assert_true(unvf_client_read(c, CLIENT_BAR, 0x2800, 8) == pattern);
	assert_memory_equal(c->doorbells + 8, FN_PATTERN, 8);
	assert_memory_equal(c->doorbells + 4088, FN_PATTERN, 8);
	assert_int_equal(*(uint16_t *)c->doorbells, FN_CELL_EMPTY);
	env_drop(c);
	env_free(e);
}

/* Without bus mastering nothing moves; with it again, what was rung meanwhile is served. */
static void test_bus_mastering(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = driven(e, 0, 1);
	struct vring_used_elem u;

	(void)state;
	assert_int_equal(blk_read(c, 0), 0);
	unvf_client_write(c, CONFIG, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	unvf_client_blk_post(c, 0, VIRTIO_BLK_T_IN, 0, NULL, 512);
	(void)vqd_show(&c->q[0]);
	unvf_client_kick(c, 0);
	assert_false(unvf_client_take(c, 0, &u, 20));
	assert_true(unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1) & VIRTIO_CONFIG_S_DRIVER_OK);
	unvf_client_write(c, CONFIG, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(unvf_client_take(c, 0, &u, CLIENT_MS));
	assert_int_equal(blk_read(c, 0), 0);
	env_drop(c);
	env_free(e);
}

/* --- resets ----------------------------------------------------------------------------------- */

static void test_reset(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = driven(e, 0, 1);

	(void)state;
	assert_int_equal(blk_read(c, 0), 0);
	/* By the message: configuration space, too; the memory stays mapped. */
	assert_int_equal(unvf_client_call(c, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0), 0);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1), 0);
	assert_int_equal(unvf_client_read(c, CONFIG, PCI_COMMAND, 2), 0);
	unvf_client_write(c, CONFIG, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	/* Index 0 after a reset, whatever it was before. */
	unvf_client_drive(c, BLK_FEATURES, 1, 64);
	assert_int_equal(blk_read(c, 0), 0);
	unvf_client_drive(c, BLK_FEATURES, 1, 64);
	assert_int_equal(blk_read(c, 0), 0);
	env_drop(c);
	env_free(e);
}

static bool ring_reset(struct client *c, uint16_t q)
{
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
	unvf_client_set_reg(c, Q_RESET, 2, 1);
	for (int t = 0; t < 30000; t++) {
		if (!unvf_client_reg(c, Q_RESET, 2))
			return !unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2);
		usleep(500);
	}
	return false;
}

static void test_ring_reset(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --queues 2 --ring-reset");
	struct client *c = driven(e, RING_RESET, 2);

	(void)state;
	for (unsigned int i = 0; i < 20; i++) {
		assert_int_equal(blk_read(c, 0), 0);
		assert_int_equal(blk_read(c, 1), 0);
		assert_true(ring_reset(c, 1));
		assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0);
		assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_MSIX, 2),
				 VIRTIO_MSI_NO_VECTOR);
		assert_int_equal(blk_read(c, 0), 0);	  /* the other goes on */
		unvf_client_queue(c, 1, i % 2 ? 64 : 16); /* elsewhere in the same memory, from 0 */
	}
	env_drop(c);
	env_free(e);
}

/* Without the feature there is no such register, and no queue after DRIVER_OK. */
static void test_no_ring_reset(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --queues 2");
	struct client *c = driven(e, 0, 1);

	(void)state;
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	unvf_client_set_reg(c, Q_RESET, 2, 1);
	assert_int_equal(unvf_client_reg(c, Q_RESET, 2), 0);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	unvf_client_queue(c, 1, 16);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(blk_read(c, 0), 0);
	env_drop(c);
	env_free(e);
}

/* --- vectors ---------------------------------------------------------------------------------- */

static int set_irqs(struct client *c, uint32_t flags, uint32_t start, uint32_t count)
{
	struct vfio_irq_set set = { .argsz = sizeof(set),
				    .flags = flags,
				    .index = VFIO_PCI_MSIX_IRQ_INDEX,
				    .start = start,
				    .count = count };

	return unvf_client_call(c, VFIO_USER_DEVICE_SET_IRQS, &set, sizeof(set), NULL, 0);
}

static void test_vectors(void **state)
{
	const uint32_t none = VFIO_IRQ_SET_DATA_NONE;
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = driven(e, 0, 1);
	int fds[2] = { c->irq[0], STDIN_FILENO };

	(void)state;
	assert_int_equal(blk_read(c, 0), 0);
	assert_true(unvf_client_irq(c, 0, CLIENT_MS));
	assert_false(unvf_client_irq(c, 1, 0));
	/* Masked: kept, and delivered once. */
	assert_int_equal(set_irqs(c, none | VFIO_IRQ_SET_ACTION_MASK, 0, 1), 0);
	assert_int_equal(blk_read(c, 0), 0);
	assert_int_equal(blk_read(c, 0), 0);
	assert_false(unvf_client_irq(c, 0, 10));
	assert_int_equal(set_irqs(c, none | VFIO_IRQ_SET_ACTION_UNMASK, 0, 1), 0);
	assert_true(unvf_client_irq(c, 0, CLIENT_MS));
	assert_false(unvf_client_irq(c, 0, 10));
	/* Not wired: likewise. */
	assert_int_equal(set_irqs(c, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 1),
			 0);
	assert_int_equal(blk_read(c, 0), 0);
	assert_false(unvf_client_irq(c, 0, 10));
	assert_int_equal(unvf_client_set_irqs(c, 0, 1, c->irq), 0);
	assert_true(unvf_client_irq(c, 0, CLIENT_MS));
	/* Fired by the client itself. */
	assert_int_equal(set_irqs(c, none | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 2), 0);
	assert_true(unvf_client_irq(c, 0, CLIENT_MS) && unvf_client_irq(c, 1, CLIENT_MS));
	/* What is no vector, and what is no eventfd. */
	assert_int_equal(set_irqs(c, none | VFIO_IRQ_SET_ACTION_TRIGGER, 1, 2), -EINVAL);
	assert_int_equal(set_irqs(c, none | VFIO_IRQ_SET_ACTION_TRIGGER, 0xffffffff, 2), -EINVAL);
	assert_int_equal(set_irqs(c, VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 2),
			 -EINVAL);
	assert_int_equal(unvf_client_set_irqs(c, 0, 2, fds), -EINVAL);
	/* All off. */
	assert_int_equal(set_irqs(c, none | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0), 0);
	assert_int_equal(blk_read(c, 0), 0);
	assert_false(unvf_client_irq(c, 0, 10));
	env_drop(c);
	env_free(e);
}

/* A client that makes its eventfds block holds up nobody: neither this function nor others. */
static void test_blocking_eventfds(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --doorbell ioeventfd");
	struct client *c = driven(e, 0, 1);
	struct vfio_user_io_fds ask = { .argsz = 4096, .index = CLIENT_BAR };
	const uint64_t full = UINT64_MAX - 1;
	uint64_t taken;

	(void)state;
	assert_int_equal(fcntl(c->irq[0], F_SETFL, 0), 0);
	assert_int_equal(write(c->irq[0], &full, sizeof(full)), sizeof(full));
	assert_int_equal(blk_read(c, 0), 0);
	assert_int_equal(blk_read(c, 0), 0);
	assert_int_equal(read(c->irq[0], &taken, sizeof(taken)), sizeof(taken));
	assert_int_equal(unvf_client_call(c, VFIO_USER_DEVICE_GET_REGION_IO_FDS, &ask, sizeof(ask),
					  NULL, 0),
			 0);
	assert_true(c->nfds > 0);
	assert_int_equal(fcntl(c->fds[0], F_SETFL, 0), 0);
	assert_true(unvf_client_reset(c));
	unvf_client_drive(c, BLK_FEATURES & unvf_client_offered(c), 1, 64);
	assert_int_equal(blk_read(c, 0), 0);
	env_drop(c);
	env_free(e);
}

/* --- faults ----------------------------------------------------------------------------------- */

static void test_fault_names(void **state)
{
	struct faults f = { 0 };
	struct diag d = { 0 };

	(void)state;
	assert_int_equal(fault_parse(&f, "lost-doorbell", &d), 0);
	assert_int_equal(f.n[FAULT_LOST_DOORBELL], 16);
	assert_int_equal(fault_parse(&f, "disconnect@7", &d), 0);
	assert_int_equal(f.n[FAULT_DISCONNECT], 7);
	assert_int_equal(fault_parse(&f, "error@12", &d), 0);
	assert_int_equal(f.n[FAULT_ERROR], 12);
	assert_int_equal(fault_parse(&f, "disconnect@0", &d), -EINVAL);
	assert_int_equal(fault_parse(&f, "disconnect@", NULL), -EINVAL);
	assert_int_equal(fault_parse(&f, "disconnect@-1", NULL), -EINVAL);
	assert_int_equal(fault_parse(&f, "disconnec", NULL), -EINVAL);
	assert_int_equal(fault_parse(&f, "", NULL), -EINVAL);
}

static void test_lost_doorbell(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --fault lost-doorbell@3");
	struct client *c = driven(e, 0, 1);
	struct vring_used_elem u;

	(void)state;
	assert_int_equal(blk_read(c, 0), 0);
	assert_int_equal(blk_read(c, 0), 0);
	unvf_client_blk_post(c, 0, VIRTIO_BLK_T_IN, 0, NULL, 512);
	(void)vqd_show(&c->q[0]);
	unvf_client_kick(c, 0);
	assert_false(unvf_client_take(c, 0, &u, 20));
	unvf_client_kick(c, 0);
	assert_true(unvf_client_take(c, 0, &u, CLIENT_MS));
	env_drop(c);
	env_free(e);
}

static void test_slow_disable(void **state)
{
	struct env *e = env_new(
		"--type blk --image IMAGE --queues 2 --ring-reset --fault slow-disable@100");
	struct client *c = driven(e, RING_RESET, 2);
	struct timespec a, b;

	(void)state;
	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_true(ring_reset(c, 0));
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_true((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 >= 99);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_not_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1), 0);
	assert_true(unvf_client_reset(c));
	env_drop(c);
	env_free(e);
}

static void test_all_ones(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --fault all-ones@200");
	struct client *c = driven(e, 0, 1);
	struct vring_used_elem u;

	(void)state;
	assert_int_equal(blk_read(c, 0), 0);
	while (unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1) != 0xff)
		;
	assert_int_equal(unvf_client_read(c, CONFIG, 0, 4), 0xffffffff);
	unvf_client_blk_post(c, 0, VIRTIO_BLK_T_IN, 0, NULL, 512);
	(void)vqd_show(&c->q[0]);
	unvf_client_kick(c, 0);
	assert_false(unvf_client_take(c, 0, &u, 20));
	env_drop(c);
	env_wait_free(e, 0);
	/* The next client finds it in order again. */
	c = driven(e, 0, 1);
	assert_int_equal(blk_read(c, 0), 0);
	env_drop(c);
	env_free(e);
}

/* Posts n reads, rings once, and notes in which order they come back. */
static unsigned int batch(struct client *c, unsigned int n, uint16_t order[])
{
	struct unvf_client_blk r[16];
	struct vring_used_elem u;
	unsigned int jumps = 0;
	uint16_t idx = c->q[0].used->idx;

	for (unsigned int i = 0; i < n; i++)
		r[i] = unvf_client_blk_post(c, 0, VIRTIO_BLK_T_IN, i, NULL, 512);
	(void)vqd_show(&c->q[0]);
	unvf_client_kick(c, 0);
	for (unsigned int i = 0; i < n; i++) {
		uint16_t now;

		assert_true(unvf_client_take(c, 0, &u, CLIENT_MS));
		for (unsigned int k = 0; k < n; k++)
			if (r[k].head == u.id)
				order[i] = (uint16_t)k;
		now = __atomic_load_n(&c->q[0].used->idx, __ATOMIC_SEQ_CST);
		jumps += (uint16_t)(now - idx) > 1;
		idx = now;
	}
	return jumps;
}

static void test_out_of_order(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --fault out-of-order");
	struct client *c = driven(e, 0, 1);
	bool swapped = false;
	uint16_t order[16];

	(void)state;
	for (unsigned int i = 0; i < 10 && !swapped; i++) {
		batch(c, 8, order);
		for (unsigned int k = 1; k < 8; k++)
			swapped |= order[k] < order[k - 1];
	}
	assert_true(swapped);
	assert_int_equal(blk_read(c, 0), 0); /* one alone is not kept for ever */
	env_drop(c);
	env_free(e);
}

static void test_merged_used(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --fault merged-used@4");
	struct client *c = driven(e, 0, 1);
	unsigned int jumps = 0;
	uint16_t order[16];

	(void)state;
	for (unsigned int i = 0; i < 10 && !jumps; i++)
		jumps = batch(c, 8, order);
	assert_true(jumps);
	assert_int_equal(blk_read(c, 0), 0);
	env_drop(c);
	env_free(e);
}

static void test_masked_irq(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --fault masked-irq@2");
	struct client *c = driven(e, 0, 1);

	(void)state;
	assert_int_equal(blk_read(c, 0), 0);
	assert_true(unvf_client_irq(c, 0, CLIENT_MS));
	assert_int_equal(blk_read(c, 0), 0);
	assert_false(unvf_client_irq(c, 0, 20));
	assert_int_equal(set_irqs(c, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 0, 1), 0);
	assert_true(unvf_client_irq(c, 0, CLIENT_MS));
	env_drop(c);
	env_free(e);
}

/* The third request hangs; the others go on, and a reset gets the function out of it. */
static void test_hang_request(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --state --fault hang-request@3");
	struct client *c = driven(e, 0, 1);
	struct vring_used_elem u;

	(void)state;
	assert_int_equal(blk_read(c, 0), 0);
	assert_int_equal(blk_read(c, 0), 0);
	unvf_client_blk_post(c, 0, VIRTIO_BLK_T_IN, 0, NULL, 512);
	(void)vqd_show(&c->q[0]);
	unvf_client_kick(c, 0);
	assert_false(unvf_client_take(c, 0, &u, 20));
	assert_int_equal(blk_read(c, 0), 0);
	/* It cannot be moved so, and says it. */
	assert_int_equal(unvf_client_state(c, VFIO_DEVICE_STATE_STOP), -EIO);
	assert_int_equal(blk_read(c, 0), 0);
	unvf_client_drive(c, BLK_FEATURES, 1, 64);
	assert_int_equal(blk_read(c, 0), 0);
	env_drop(c);
	env_free(e);
}

static void test_disconnect(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --fault disconnect@3");

	(void)state;
	for (unsigned int i = 0; i < 3; i++) {
		struct client *c = env_client(e, 0);

		assert_int_equal(unvf_client_version(c), 0);
		(void)unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1);
		(void)unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1);
		assert_int_equal(unvf_client_call(c, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0), 1);
		env_drop(c);
		env_wait_free(e, 0);
	}
	env_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_version),
		cmocka_unit_test(test_bad_messages),
		cmocka_unit_test(test_framing),
		cmocka_unit_test(test_region_info),
		cmocka_unit_test(test_config_space),
		cmocka_unit_test(test_config_window),
		cmocka_unit_test(test_features),
		cmocka_unit_test(test_queue_registers),
		cmocka_unit_test(test_pattern),
		cmocka_unit_test(test_bus_mastering),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_ring_reset),
		cmocka_unit_test(test_no_ring_reset),
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_blocking_eventfds),
		cmocka_unit_test(test_fault_names),
		cmocka_unit_test(test_lost_doorbell),
		cmocka_unit_test(test_slow_disable),
		cmocka_unit_test(test_all_ones),
		cmocka_unit_test(test_out_of_order),
		cmocka_unit_test(test_merged_used),
		cmocka_unit_test(test_masked_irq),
		cmocka_unit_test(test_hang_request),
		cmocka_unit_test(test_disconnect),
	};

	return cmocka_run_group_tests_name("unvf_function", tests, NULL, NULL);
}
