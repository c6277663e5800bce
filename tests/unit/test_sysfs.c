/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_sysfs.c - PCI functions of a made-up host: addresses, groups, who uses them, and the way to
 * vfio-pci and back with a made-up kernel (tests/lib/fake_host.h). Main thread and that kernel's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_host.h"
#include "sysfs.h"

#define BLK	 "0000:00:03.0"
#define NET	 "0000:00:04.0"
#define DISK	 "sys/bus/pci/devices/" BLK "/virtio1/block/vda"
#define WAIT_MS	 30000 /* for what comes */
#define NEVER_MS 1000  /* for what does not */
#define DEVICES	 "sys/bus/pci/devices"
#define VIRTIO	 "virtio-pci"
#define VFIO_PCI "vfio-pci"

static int setup(void **state)
{
	struct fake_host *h = calloc(1, sizeof(*h));

	assert_non_null(h);
	fake_host_init(h);
	fake_host_function(h, BLK, 0x1af4, 0x1042, 3, VIRTIO);
	fake_host_function(h, NET, 0x1af4, 0x1041, 4, VIRTIO);
	*state = h;
	return 0;
}

static int teardown(void **state)
{
	fake_host_fini(*state);
	free(*state);
	return 0;
}

static struct sysfs_pci look(struct fake_host *h, const char *address)
{
	struct sysfs_pci f;
	struct diag d = { "" };

	assert_int_equal(sysfs_pci_read(h->root, &f, address, &d), 0);
	return f;
}

static void test_addresses(void **state)
{
	static const char *const wrong[] = { "",
					     "3",
					     "03:00",
					     "03.0",
					     "00:20.0",
					     "00:00.8",
					     "100:00.0",
					     "0000:00:00.0x",
					     "0000:00:000",
					     "::.",
					     "0000:00:00.",
					     "g:0.0",
					     "0:0:0:0.0",
					     "../../etc",
					     "-1:0.0",
					     "00:00.0 " };
	static const struct {
		const char *text, *means;
	} right[] = { { "3:0.2", "0000:03:00.2" },
		      { "0000:03:00.2", "0000:03:00.2" },
		      { "10000:ff:1f.7", "10000:ff:1f.7" },
		      { "FF:1F.7", "0000:ff:1f.7" },
		      { "ffffffff:ff:1f.7", "ffffffff:ff:1f.7" } };
	char a[SYSFS_PCI_ADDRESS];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		if (sysfs_pci_address(wrong[i], a))
			fail_msg("\"%s\" is taken for %s", wrong[i], a);
	for (size_t i = 0; i < ARRAY_SIZE(right); i++) {
		assert_true(sysfs_pci_address(right[i].text, a));
		assert_string_equal(a, right[i].means);
	}
}

static void test_files(void **state)
{
	struct fake_host *h = *state;
	char text[8], name[8];
	uint64_t n;
	char *all;

	fake_host_file(h, "a long first line\nsecond\n", "proc/x");
	assert_int_equal(sysfs_text(h->root, text, sizeof(text), "proc/%s", "x"), 0);
	assert_string_equal(text, "a long ");
	all = sysfs_file(h->root, "proc/x");
	assert_string_equal(all, "a long first line\nsecond\n");
	free(all);
	assert_int_equal(sysfs_text(h->root, text, sizeof(text), "proc/y"), -ENOENT);
	assert_string_equal(text, "");
	fake_host_file(h, "0x1f\n", "proc/n");
	assert_int_equal(sysfs_number(h->root, &n, "proc/n"), 0);
	assert_int_equal(n, 0x1f);
	assert_int_equal(sysfs_number(h->root, &n, "proc/x"), -EINVAL);
	assert_int_equal(n, 0);
	fake_host_link(h, "../a/much-too-long", "proc/link");
	assert_int_equal(sysfs_link(h->root, name, sizeof(name), "proc/link"), -ENAMETOOLONG);
	assert_string_equal(name, "");
	assert_int_equal(sysfs_write(h->root, "1", "proc/none"), -ENOENT);
	fake_host_file(h, "longer\n", "proc/w");
	assert_int_equal(sysfs_write(h->root, "2", "proc/w"), 0);
	sysfs_text(h->root, text, sizeof(text), "proc/w");
	assert_string_equal(text, "2");
}

static void test_read(void **state)
{
	struct fake_host *h = *state;
	struct diag d = { "" };
	struct sysfs_pci f;

	fake_host_file(h,
		       "0x00000000febd0000 0x00000000febd3fff 0x0000000000140204\n"
		       "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
		       "0x000000000000c000 0x000000000000c01f 0x0000000000040101\n",
		       DEVICES "/" NET "/resource");
	fake_host_link(h, "../0000:00:02.0", DEVICES "/" NET "/physfn");
	f = look(h, NET);
	assert_int_equal(f.vendor, 0x1af4);
	assert_int_equal(f.device, 0x1041);
	assert_int_equal(f.group, 4);
	assert_string_equal(f.driver, VIRTIO);
	assert_string_equal(f.override, "");
	assert_string_equal(f.physfn, "0000:00:02.0");
	assert_int_equal(f.bar_size[0], 0x4000);
	assert_true(f.bar_mem[0]);
	assert_int_equal(f.bar_size[1], 0);
	assert_int_equal(f.bar_size[2], 0x20);
	assert_false(f.bar_mem[2]);
	assert_int_equal(f.config_size, 0);
	assert_int_equal(sysfs_pci_read(h->root, &f, "0000:00:09.0", &d), -ENODEV);
	assert_non_null(strstr(d.text, "0000:00:09.0: there is no such"));
}

static void test_groups(void **state)
{
	struct fake_host *h = *state;
	char text[128], except[1][SYSFS_PCI_ADDRESS] = { "0000:00:07.0" };
	struct sysfs_pci f;

	fake_host_function(h, "0000:00:05.0", 0x1af4, 0x1041, 5, NULL);
	fake_host_function(h, "0000:00:06.0", 0x8086, 1, 5, "pcieport");
	f = look(h, "0000:00:05.0");
	assert_int_equal(sysfs_pci_group_blockers(h->root, &f, NULL, 0, text, sizeof(text)), 0);
	fake_host_function(h, "0000:00:07.0", 0x8086, 2, 5, "e1000e");
	assert_int_equal(sysfs_pci_group_blockers(h->root, &f, NULL, 0, text, sizeof(text)), 1);
	assert_string_equal(text, "0000:00:07.0 (e1000e)");
	assert_int_equal(sysfs_pci_group_blockers(h->root, &f, except, 1, text, sizeof(text)), 0);
	assert_false(sysfs_pci_is_noiommu(h->root, &f));
	fake_host_function(h, "0000:00:08.0", 0x8086, 2, 5, "mlx5_vfio_pci");
	assert_int_equal(sysfs_pci_group_blockers(h->root, &f, NULL, 0, text, sizeof(text)), 1);
	f = look(h, "0000:00:08.0");
	assert_true(sysfs_pci_has_vfio(&f));
	fake_host_function(h, "0000:00:08.0", 0x8086, 2, 5, "ahci");
	f = look(h, "0000:00:08.0");
	assert_false(sysfs_pci_has_vfio(&f));
	f = look(h, "0000:00:05.0");
	assert_int_equal(sysfs_pci_group_blockers(h->root, &f, NULL, 0, text, 10), 2);
	assert_int_equal(strlen(text), 9);
}

static void expect_use(struct fake_host *h, const char *address, const char *sentence)
{
	struct sysfs_pci f = look(h, address);
	struct diag d = { "" };
	int err = sysfs_pci_in_use(h->root, &f, &d);

	if (!sentence) {
		assert_int_equal(err, 0);
		return;
	}
	assert_int_equal(err, -EBUSY);
	if (!strstr(d.text, sentence))
		fail_msg("not \"%s\" but \"%s\"", sentence, d.text);
}

static void test_use_of_interface(void **state)
{
	struct fake_host *h = *state;

	fake_host_file(h, "0x1002\n", DEVICES "/" NET "/virtio2/net/eth7/flags");
	expect_use(h, NET, NULL);
	fake_host_file(h, "0x1003\n", DEVICES "/" NET "/virtio2/net/eth7/flags");
	expect_use(h, NET, "'ip link set eth7 down'");
	fake_host_file(h, "0x1002\n", DEVICES "/" NET "/virtio2/net/eth7/flags");
	fake_host_link(h, "../../br0", DEVICES "/" NET "/virtio2/net/eth7/master");
	expect_use(h, NET, "its interface eth7 is a part of the host's br0");
}

static void test_use_of_disk(void **state)
{
	struct fake_host *h = *state;

	fake_host_file(h, "254:0\n", DISK "/dev");
	fake_host_file(h, "1\n", DISK "/vda1/partition");
	fake_host_file(h, "254:1\n", DISK "/vda1/dev");
	fake_host_file(h, "22 1 254:16 / / rw shared:1 - ext4 /dev/vdb rw\n",
		       "proc/self/mountinfo");
	fake_host_file(h, "Filename\tType\n/dev/vda11  partition 1 0 -2\n", "proc/swaps");
	expect_use(h, BLK, NULL);
	fake_host_file(h,
		       "22 1 254:16 / / rw shared:1 - ext4 /dev/vdb rw\n"
		       "23 22 254:1 / /srv rw shared:2 - ext4 /dev/vda1 rw\n",
		       "proc/self/mountinfo");
	expect_use(h, BLK, "its disk vda1 mounted at /srv; 'umount /srv'");
	fake_host_file(h, "", "proc/self/mountinfo");
	fake_host_file(h, "Filename\tType\n/dev/vda \tpartition 1 0 -2\n", "proc/swaps");
	expect_use(h, BLK, "'swapoff /dev/vda'");
	fake_host_file(h, "", "proc/swaps");
	fake_host_file(h, "", DISK "/vda1/holders/dm-3");
	expect_use(h, BLK, "its disk vda1 is a part of the host's dm-3");
	fake_host_remove(h, DISK "/vda1/holders/dm-3");
	fake_host_link(h, "/dev/vda11", "proc/17/fd/3");
	fake_host_link(h, "socket:[1]", "proc/17/fd/4");
	expect_use(h, BLK, NULL);
	fake_host_file(h, "a-vmm\n", "proc/4711/comm");
	fake_host_link(h, "/dev/vda1", "proc/4711/fd/9");
	expect_use(h, BLK, "process 4711 (a-vmm) has its disk vda1 open");
}

static void expect_bind(struct fake_host *h, const char *address, int want, const char *sentence)
{
	struct sysfs_pci f = look(h, address);
	struct diag d = { "" };

	assert_int_equal(sysfs_pci_bind(h->root, &f, want < 0 ? NEVER_MS : WAIT_MS, &d), want);
	if (sentence && !strstr(d.text, sentence))
		fail_msg("not \"%s\" but \"%s\"", sentence, d.text);
	if (want >= 0)
		assert_string_equal(look(h, address).driver, VFIO_PCI);
}

static void test_bind_and_back(void **state)
{
	struct fake_host *h = *state;
	struct diag d = { "" };
	struct sysfs_pci f;

	fake_host_start_kernel(h);
	expect_bind(h, BLK, 0, NULL);
	assert_string_equal(look(h, BLK).override, VFIO_PCI);
	assert_true(sysfs_exists(h->root, "dev/vfio/3"));
	expect_bind(h, BLK, 1, NULL);
	f = look(h, BLK);
	assert_int_equal(sysfs_pci_unbind(h->root, &f, WAIT_MS, &d), 0);
	assert_string_equal(f.driver, VIRTIO);
	assert_string_equal(look(h, BLK).override, "");
	assert_int_equal(sysfs_pci_unbind(h->root, &f, WAIT_MS, &d), 1);
	/* A function that no driver has: bind, and back to none. */
	fake_host_remove(h, DEVICES "/" NET "/driver");
	h->without_virtio = true;
	expect_bind(h, NET, 0, NULL);
	f = look(h, NET);
	assert_int_equal(sysfs_pci_unbind(h->root, &f, WAIT_MS, &d), 0);
	assert_string_equal(f.driver, "");
}

/* What it had before, it has again. */
static void test_bind_that_fails(void **state)
{
	struct fake_host *h = *state;

	expect_bind(h, BLK, -ENODEV, "'modprobe vfio-pci'");
	fake_host_start_kernel(h);
	fake_host_function(h, "0000:00:05.0", 0x1af4, 0x1041, -1, VIRTIO);
	expect_bind(h, "0000:00:05.0", -ENODEV, "no IOMMU group");
	h->refuses_vfio = true;
	expect_bind(h, BLK, -ENODEV, "vfio-pci did not take it");
	/* The made-up kernel is a thread: it may need a moment. */
	for (int i = 0; i < 500 && strcmp(look(h, BLK).driver, VIRTIO); i++)
		poll(NULL, 0, 10);
	assert_string_equal(look(h, BLK).driver, VIRTIO);
	assert_string_equal(look(h, BLK).override, "");
}

static void test_bind_without_node(void **state)
{
	struct fake_host *h = *state;

	fake_host_start_kernel(h);
	h->without_nodes = true;
	expect_bind(h, BLK, -ETIMEDOUT, "/dev/vfio/3 has not come");
}

static void test_bind_that_waits(void **state)
{
	struct fake_host *h = *state;

	fake_host_start_kernel(h);
	h->keeps_driver = true;
	expect_bind(h, BLK, -ETIMEDOUT, "the driver virtio-pci has not given it back");
	assert_string_equal(look(h, BLK).driver, VIRTIO);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses),
		cmocka_unit_test_setup_teardown(test_files, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_groups, setup, teardown),
		cmocka_unit_test_setup_teardown(test_use_of_interface, setup, teardown),
		cmocka_unit_test_setup_teardown(test_use_of_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bind_and_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bind_that_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bind_without_node, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bind_that_waits, setup, teardown),
	};

	return cmocka_run_group_tests_name("sysfs", tests, NULL, NULL);
}
