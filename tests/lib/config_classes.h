/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_classes.h - device classes with every kind of option, for the tests and the fuzz target of
 * the configuration: they must not change when a real device does. Data only; any thread.
 */
#ifndef CONFIG_CLASSES_H
#define CONFIG_CLASSES_H

#include <unvmm/device.h>

struct disk_conf {
	char *path;
	bool readonly;
	char *serial;
	int64_t queues;
	uint64_t size;
	int cache;
	char *log;
};

static const char *const disk_caches[] = { "none", "write", "all", NULL };

static int disk_check_queues(const void *conf, struct diag *d)
{
	int64_t n = ((const struct disk_conf *)conf)->queues;

	if (n > 0 && is_power_of_2((uint64_t)n))
		return 0;
	return diag_set(d, -22, "is %lld; it must be a power of two", (long long)n);
}

static const struct opt disk_opts[] = {
	{ .name = "path",
	  .type = OPT_PATH,
	  .offset = offsetof(struct disk_conf, path),
	  .required = true,
	  .help = "image file or block device" },
	{ .name = "readonly",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct disk_conf, readonly),
	  .help = "refuse writes" },
	{ .name = "serial",
	  .type = OPT_STRING,
	  .offset = offsetof(struct disk_conf, serial),
	  .max = 20,
	  .help = "serial number" },
	{ .name = "queues",
	  .type = OPT_INT,
	  .offset = offsetof(struct disk_conf, queues),
	  .min = 1,
	  .max = 16,
	  .check = disk_check_queues,
	  .help = "request queues" },
	{ .name = "size",
	  .type = OPT_SIZE,
	  .offset = offsetof(struct disk_conf, size),
	  .min = 512,
	  .max = (int64_t)GiB(4),
	  .help = "capacity" },
	{ .name = "cache",
	  .type = OPT_CHOICE,
	  .offset = offsetof(struct disk_conf, cache),
	  .choices = disk_caches,
	  .help = "host cache" },
	{ .name = "log",
	  .type = OPT_CHARDEV,
	  .offset = offsetof(struct disk_conf, log),
	  .help = "trace output" },
};

static void disk_init_conf(void *conf)
{
	static char serial[] = "none";

	((struct disk_conf *)conf)->serial = serial;
	((struct disk_conf *)conf)->queues = 1;
	((struct disk_conf *)conf)->size = MiB(1);
}

struct rng_conf {
	const char *source;
};

static const struct opt rng_opts[] = {
	{ .name = "source",
	  .type = OPT_PATH,
	  .offset = offsetof(struct rng_conf, source),
	  .help = "where the bytes come from" },
};

static void rng_init_conf(void *conf)
{
	((struct rng_conf *)conf)->source = "/dev/urandom";
}

static const struct device_class class_serial = { .name = "serial", .id = "serial" };
static const struct device_class class_disk = {
	.name = "virtio-blk",
	.id = "blk",
	.key = "disks",
	.list = true,
	.pci = true,
	.conf_size = sizeof(struct disk_conf),
	.init_conf = disk_init_conf,
	.opts = disk_opts,
	.nopts = ARRAY_SIZE(disk_opts),
};
static const struct device_class class_rng = {
	.name = "virtio-rng",
	.id = "rng",
	.key = "rng",
	.pci = true,
	.conf_size = sizeof(struct rng_conf),
	.init_conf = rng_init_conf,
	.opts = rng_opts,
	.nopts = ARRAY_SIZE(rng_opts),
};
static const struct device_class class_watchdog = {
	.name = "watchdog",
	.id = "watchdog",
	.key = "watchdog",
	.by_default = true,
};

static const struct device_class *const config_test_classes[] = {
	&class_serial,
	&class_disk,
	&class_rng,
	&class_watchdog,
};
#define CONFIG_TEST_NCLASSES ((unsigned int)ARRAY_SIZE(config_test_classes))

#endif
