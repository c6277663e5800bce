/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_tree.c - walks libconfig's tree, overrides included, along the option tables: into the
 * machine's fields and one device_config per device. Runs on main, before the machine exists.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <unvmm/platform.h>

#include "config_internal.h"

/* Keys are short; a longer name is no misspelling of one. */
#define NAME_MAX_SUGGEST 31

const struct opt *config_opt_find(const struct opt *opts, unsigned int nopts, const char *name)
{
	unsigned int i;

	for (i = 0; i < nopts; i++)
		if (!strcmp(opts[i].name, name))
			return &opts[i];
	return NULL;
}

const struct device_class *config_class_find(const struct config_loader *l, const char *key)
{
	unsigned int i;

	for (i = 0; i < l->nclasses; i++)
		if (l->classes[i]->key && !strcmp(l->classes[i]->key, key))
			return l->classes[i];
	return NULL;
}

static unsigned int min_uint(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

/* Levenshtein distance with one row; a name that starts with the other counts as near. */
static unsigned int distance(const char *a, const char *b)
{
	unsigned int row[NAME_MAX_SUGGEST + 1], la, lb, i, j;

	la = (unsigned int)strlen(a);
	lb = (unsigned int)strlen(b);
#ifndef FUZZ_PLANT
	if (lb > NAME_MAX_SUGGEST)
		return UINT32_MAX;
#endif
	if (min_uint(la, lb) >= 3 && !strncmp(a, b, min_uint(la, lb)))
		return 1;
	for (j = 0; j <= lb; j++)
		row[j] = j;
	for (i = 1; i <= la; i++) {
		unsigned int diagonal = row[0];

		row[0] = i;
		for (j = 1; j <= lb; j++) {
			unsigned int change = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = min_uint(change, 1 + min_uint(row[j], row[j - 1]));
		}
	}
	return row[lb];
}

struct nearest {
	const char *wrong, *name;
	unsigned int distance;
};

static void consider(struct nearest *n, const char *name)
{
	unsigned int d = distance(name, n->wrong);

	if (d < n->distance) {
		n->distance = d;
		n->name = name;
	}
}

int config_unknown_key(struct config_loader *l, const config_setting_t *at, const char *name,
		       const struct device_class *cls)
{
	/* Two slips of the finger, in a short name one. */
	struct nearest n = { .wrong = name, .distance = strlen(name) < 5 ? 2 : 3 };
	const struct opt *opts = cls ? cls->opts : config_machine_opts;
	unsigned int i, nopts = cls ? cls->nopts : config_machine_nopts;
	char hint[120] = "\"unvmm run -o help\" lists the keys";

	for (i = 0; i < nopts; i++)
		consider(&n, opts[i].name);
	for (i = 0; !cls && i < l->nclasses; i++)
		if (l->classes[i]->key)
			consider(&n, l->classes[i]->key);
	if (n.name)
		snprintf(hint, sizeof(hint), "did you mean \"%s\"?", n.name);
	return config_fail(l, at, -EINVAL, "there is no key \"%.60s%s\"%s%s; %s", name,
			   strlen(name) > 60 ? "..." : "", cls ? " in " : "", cls ? cls->key : "",
			   hint);
}

int config_wrong_shape(struct config_loader *l, const config_setting_t *s, const char *key,
		       const struct device_class *cls)
{
	char sample[80] = "";

	if (cls->nopts)
		snprintf(sample, sizeof(sample), "%s = ...; ", cls->opts[0].name);
	if (cls->list)
		return config_fail(l, s, -EINVAL, "%s is %s; it must be %s: %s = ( { %s} );", key,
				   config_value_kind(s),
				   strcmp(key, cls->key) ? "a group in a list" : "a list of groups",
				   cls->key, sample);
	return config_fail(l, s, -EINVAL,
			   "%s is %s; it must be true, false or a group: %s = "
			   "{ %s};",
			   key, config_value_kind(s), cls->key, sample);
}

static struct device_config *add_device(struct config_loader *l, const struct device_class *cls,
					const config_setting_t *at)
{
	struct device_config **tail = &l->c->devices;
	struct device_config *dev = calloc(1, sizeof(*dev));

	if (!dev)
		return NULL;
	dev->conf = calloc(1, cls->conf_size ? cls->conf_size : 1);
	if (!dev->conf) {
		free(dev);
		return NULL;
	}
	dev->cls = cls;
	if (at)
		config_where(l, at, dev->where, sizeof(dev->where));
	else
		snprintf(dev->where, sizeof(dev->where), "%s (there by default)", cls->key);
	if (cls->init_conf)
		cls->init_conf(dev->conf);
	while (*tail)
		tail = &(*tail)->next;
	*tail = dev; /* from here on config_free() knows it, complete or not */
	if (config_value_own(cls->opts, cls->nopts, dev->conf))
		return NULL;
	return dev;
}

static int check_required(struct config_loader *l, const config_setting_t *group,
			  const config_setting_t *at, const char *key,
			  const struct device_class *cls)
{
	unsigned int i;

	for (i = 0; i < cls->nopts; i++) {
		const struct opt *o = &cls->opts[i];

		if (o->required && !(group && config_setting_get_member(group, o->name)))
			return config_fail(l, at, -EINVAL, "%s has no %s, which is required (%s)",
					   key, o->name, o->help);
	}
	return 0;
}

/* One device from its group; group NULL: with the defaults. at: what asked for it, or NULL. */
static int read_device(struct config_loader *l, const struct device_class *cls,
		       const config_setting_t *group, const config_setting_t *at, const char *key)
{
	struct device_config *dev;
	struct diag why = { "" };
	int i, err;

	if (cls->pci && ++l->npci > PLAT_PCI_DEVICES_MAX)
		return config_fail(l, at, -EINVAL,
				   "%s is one device too many; a machine takes at "
				   "most %d PCI devices",
				   key, PLAT_PCI_DEVICES_MAX);
	dev = add_device(l, cls, at);
	if (!dev)
		return diag_set(l->d, -ENOMEM, "out of memory");
	for (i = 0; group && i < config_setting_length(group); i++) {
		const config_setting_t *s = config_setting_get_elem(group, (unsigned int)i);
		const struct opt *o = config_opt_find(cls->opts, cls->nopts, s->name);
		char path[120];

		if (!o)
			return config_unknown_key(l, s, s->name, cls);
		snprintf(path, sizeof(path), "%s.%s", key, o->name);
		err = config_value_store(l, s, path, o, dev->conf);
		if (err)
			return err;
	}
	err = check_required(l, group, at, key, cls);
	if (err)
		return err;
	err = cls->check ? cls->check(dev->conf, &why) : 0;
	return err ? config_fail(l, at, err, "%s %s", key, why.text) : 0;
}

static int read_list(struct config_loader *l, const struct device_class *cls,
		     const config_setting_t *list)
{
	int i, err;

	if (!config_setting_is_list(list))
		return config_wrong_shape(l, list, cls->key, cls);
	for (i = 0; i < config_setting_length(list); i++) {
		const config_setting_t *s = config_setting_get_elem(list, (unsigned int)i);
		char key[80];

		snprintf(key, sizeof(key), "%s.%d", cls->key, i);
		if (!config_setting_is_group(s))
			return config_wrong_shape(l, s, key, cls);
		err = read_device(l, cls, s, s, key);
		if (err)
			return err;
	}
	return 0;
}

/* A class that has at most one instance: `key = true`, `key = false` or `key = { ... }`. */
static int read_single(struct config_loader *l, const struct device_class *cls,
		       const config_setting_t *s)
{
	bool on;

	if (config_setting_is_group(s))
		return read_device(l, cls, s, s, cls->key);
	if (s->hook) {
		if (config_value_bool(config_setting_get_string(s), &on))
			return config_fail(l, s, -EINVAL,
					   "%s is \"%.60s\"; it must be true or "
					   "false",
					   cls->key, config_setting_get_string(s));
	} else if (config_setting_type(s) == CONFIG_TYPE_BOOL) {
		on = config_setting_get_bool(s);
	} else {
		return config_wrong_shape(l, s, cls->key, cls);
	}
	return on ? read_device(l, cls, NULL, s, cls->key) : 0;
}

static int read_class(struct config_loader *l, const struct device_class *cls)
{
	const config_setting_t *root = config_root_setting(&l->tree);
	const config_setting_t *s;

	if (!cls->key)
		return 0; /* part of every machine */
	s = config_setting_get_member(root, cls->key);
	if (s)
		return cls->list ? read_list(l, cls, s) : read_single(l, cls, s);
	return cls->by_default ? read_device(l, cls, NULL, NULL, cls->key) : 0;
}

/* The machine's own keys; those of the classes only have to exist. */
static int read_machine(struct config_loader *l)
{
	const config_setting_t *root = config_root_setting(&l->tree);
	int i, err;

	for (i = 0; i < config_setting_length(root); i++) {
		const config_setting_t *s = config_setting_get_elem(root, (unsigned int)i);
		const struct opt *o =
			config_opt_find(config_machine_opts, config_machine_nopts, s->name);

		if (o)
			err = config_value_store(l, s, o->name, o, l->c);
		else if (config_class_find(l, s->name))
			err = 0;
		else
			err = config_unknown_key(l, s, s->name, NULL);
		if (err)
			return err;
	}
	return 0;
}

int config_tree_read(struct config_loader *l)
{
	unsigned int i;
	int err = read_machine(l);

	for (i = 0; !err && i < l->nclasses; i++)
		err = read_class(l, l->classes[i]);
	return err;
}
