/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_registry.c - what holds for every device class, present and future: its option table is
 * sound, its instances can be made, reset and destroyed, and their state survives being saved,
 * perturbed, loaded and compared. A new device is covered by its line in registry.def.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_vm.h"
#include "state_check.h"

static char image[] = "/tmp/unvmm-registry-XXXXXX";

static int make_image(void **state)
{
	int fd = mkstemp(image);

	(void)state;
	if (fd < 0 || ftruncate(fd, 1 << 20) < 0)
		return -1;
	return close(fd);
}

static int remove_image(void **state)
{
	(void)state;
	return unlink(image);
}

static bool has_opt(const struct device_class *cls, const char *name)
{
	for (unsigned int i = 0; i < cls->nopts; i++)
		if (!strcmp(cls->opts[i].name, name))
			return true;
	return false;
}

/* A configuration with one instance of every class that has a key. */
static void full_config(struct vm_config *c)
{
	struct config_override over[64];
	char text[64][256];
	struct diag d = { 0 };
	unsigned int n = 0;

	snprintf(text[n++], sizeof(text[0]), "kernel=/dev/null");
	for (unsigned int i = 0; i < device_class_count; i++) {
		const struct device_class *cls = device_classes[i];

		/* A function has to be there first: test_vf_dev.c gives it one. */
		if (!cls->key || !strcmp(cls->key, "vfs"))
			continue;
		assert_true(n < 63);
		if (!cls->list)
			snprintf(text[n++], sizeof(text[0]), "%s=true", cls->key);
		else if (has_opt(cls, "loopback")) /* a card that needs nothing of the host */
			snprintf(text[n++], sizeof(text[0]), "%s.0.loopback=true", cls->key);
		else if (has_opt(cls, "chardev"))
			snprintf(text[n++], sizeof(text[0]), "%s.0.chardev=none", cls->key);
		else
			snprintf(text[n++], sizeof(text[0]), "%s.0.path=%s", cls->key, image);
	}
	for (unsigned int i = 0; i < n; i++)
		over[i] = (struct config_override){ .text = text[i] };
	if (config_load(c, NULL, over, n, device_classes, device_class_count, &d))
		fail_msg("%s", d.text);
}

static const void *conf_of(const struct vm_config *c, const struct device_class *cls)
{
	for (const struct device_config *dc = c->devices; dc; dc = dc->next)
		if (dc->cls == cls)
			return dc->conf;
	return NULL;
}

static void test_classes_are_sound(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < device_class_count; i++) {
		const struct device_class *cls = device_classes[i];

		assert_non_null(cls->name);
		assert_non_null(cls->id);
		assert_non_null(cls->create);
		assert_true(strlen(cls->id) < 16);
		for (unsigned int j = 0; j < i; j++) {
			assert_string_not_equal(cls->name, device_classes[j]->name);
			assert_string_not_equal(cls->id, device_classes[j]->id);
		}
		for (unsigned int o = 0; o < cls->nopts; o++) {
			assert_non_null(cls->opts[o].name);
			assert_non_null(cls->opts[o].help);
			assert_true(cls->opts[o].offset < cls->conf_size);
		}
	}
}

static void test_every_device_lives_and_travels(void **state)
{
	struct fake_vm *f = fake_vm_new("none");
	struct vm_config c;
	struct diag d = { 0 };
	struct gmem mem;

	(void)state;
	full_config(&c);
	assert_int_equal(gmem_create(&f->vm.mem, MiB(16), GMEM_PRIVATE, &d), 0);
	mem = f->vm.mem;
	for (unsigned int i = 0; i < device_class_count; i++) {
		const struct device_class *cls = device_classes[i];
		struct device *dev;

		if (cls->key && !conf_of(&c, cls))
			continue;
		dev = fake_vm_add(f, cls, conf_of(&c, cls));
		/* Without a table migration is refused by name; ours all have one. */
		if (!dev->nstate)
			fail_msg("%s has no state table", dev->id);
		state_check_roundtrip(dev->id, dev->state, dev->nstate);
		if (cls->quiesce)
			assert_int_equal(cls->quiesce(dev), 0);
		if (cls->resume)
			cls->resume(dev);
		if (cls->reset && cls->reset(dev, &d))
			fail_msg("%s: %s", dev->id, d.text);
		state_check_roundtrip(dev->id, dev->state, dev->nstate);
	}
	fake_vm_free(f);
	gmem_destroy(&mem);
	config_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_classes_are_sound),
		cmocka_unit_test(test_every_device_lives_and_travels),
	};

	return cmocka_run_group_tests(tests, make_image, remove_image);
}
