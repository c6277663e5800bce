/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_config.c - a configuration file and overrides, hostile both. The input is the file's text;
 * lines behind a line "%%" are overrides. @include is refused before libconfig sees it, so no file
 * is ever opened.
 *
 * What is accepted must hold what the tables promise: that is checked here again, by hand.
 */
#include <stdlib.h>
#include <string.h>

#include <unvmm/platform.h>

#include "config_classes.h"
#include "config_internal.h"

#define TEXT_MAX KiB(16)
#define OVER_MAX 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libconfig 1.5 loses the text that it holds when it meets a syntax error. */
const char *__lsan_default_suppressions(void)
{
	return "leak:libconfig\n";
}

static void check(bool promise)
{
	if (!promise)
		abort();
}

static void check_config(const struct vm_config *c)
{
	const struct device_config *dev;
	unsigned int pci = 0;

	check(c->kernel && *c->kernel && *c->name && strlen(c->name) <= 64);
	check(c->vcpus >= 1 && c->vcpus <= PLAT_VCPUS_MAX);
	check(c->memory >= PLAT_RAM_MIN && c->memory <= GiB(1024));
	check(c->memory % (c->hugepages ? MiB(2) : PAGE_SIZE_4K) == 0);
	check(strlen(c->cmdline) < PLAT_CMDLINE_MAX);
	for (dev = c->devices; dev; dev = dev->next) {
		const struct disk_conf *disk = dev->conf;

		pci += dev->cls->pci;
		if (dev->cls == &class_disk)
			check(disk->path && *disk->path && disk->queues >= 1 &&
			      disk->queues <= 16 && disk->cache >= 0 && disk->cache <= 2 &&
			      strlen(disk->serial) <= 20);
	}
	check(pci <= PLAT_PCI_DEVICES_MAX);
}

/* Cuts the lines behind "\n%%\n" off the text and makes them overrides. */
static unsigned int split(char *text, struct config_override *over)
{
	char *line = strstr(text, "\n%%\n"), *save;
	unsigned int n = 0;

	if (!line)
		return 0;
	*line = '\0';
	for (line = strtok_r(line + 4, "\n", &save); line && n < OVER_MAX;
	     line = strtok_r(NULL, "\n", &save))
		over[n++].text = line;
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config_override over[OVER_MAX] = { { 0 } };
	struct vm_config c;
	struct diag d = { "" };
	struct config_loader l = {
		.c = &c,
		.file = "fuzz.cfg",
		.classes = config_test_classes,
		.nclasses = CONFIG_TEST_NCLASSES,
		.d = &d,
	};
	unsigned int nover;
	char *text;
	int err;

	if (size > TEXT_MAX || config_defaults(&c))
		return 0;
	text = strndup((const char *)data, size);
	if (!text)
		abort();
	nover = split(text, over);
	/* Without overrides the text goes in as it is: NUL bytes, and no NUL behind it. */
	if (nover)
		err = config_load_text(&l, text, strlen(text), over, nover);
	else
		err = config_load_text(&l, (const char *)data, size, NULL, 0);
	if (!err)
		check_config(&c);
	else
		check(err < 0 && d.text[0]); /* a refusal has its sentence */
	config_free(&c);
	free(text);
	return 0;
}
