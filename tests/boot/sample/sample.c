/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample.c - a device that exists for tests/boot/sample-device alone: a port that reads back the
 * value it was configured with. It shows the price of a new device: this file and one line.
 * Control lock held; set-up by main.
 */
#include <unvmm/device.h>
#include <unvmm/vm.h>

#include <stdlib.h>

#define SAMPLE_PORT 0x5f0

struct sample_conf {
	int64_t value;
};

struct sample {
	struct vm *vm;
	uint8_t value;
};

static uint64_t sample_read(void *dev, uint64_t off, unsigned int len)
{
	const struct sample *s = dev;

	(void)off;
	(void)len;
	return s->value;
}

static void sample_write(void *dev, uint64_t off, unsigned int len, uint64_t value)
{
	(void)dev;
	(void)off;
	(void)len;
	(void)value;
}

static const struct bus_ops sample_ops = { .read = sample_read, .write = sample_write };

static void sample_destroy(struct device *dev)
{
	struct sample *s = dev->priv;

	bus_remove(&s->vm->pio, SAMPLE_PORT);
	free(s);
}

static int sample_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	const struct sample_conf *sc = conf;
	struct sample *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return diag_set(d, -12, "out of memory for the sample device");
	*s = (struct sample){ .vm = vm, .value = (uint8_t)sc->value };
	err = bus_add(&vm->pio, SAMPLE_PORT, 1, &sample_ops, s, "sample");
	if (err) {
		free(s);
		return diag_errno(d, err, "sample: port 0x%x is taken", SAMPLE_PORT);
	}
	dev->priv = s;
	return 0;
}

static const struct opt sample_opts[] = {
	{ .name = "value",
	  .type = OPT_INT,
	  .offset = offsetof(struct sample_conf, value),
	  .min = 0,
	  .max = 255,
	  .help = "what the port reads" },
};

const struct device_class sample_class = {
	.name = "sample",
	.id = "sample",
	.key = "sample",
	.conf_size = sizeof(struct sample_conf),
	.opts = sample_opts,
	.nopts = ARRAY_SIZE(sample_opts),
	.create = sample_create,
	.destroy = sample_destroy,
};
