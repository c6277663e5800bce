/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_override.c - writes one `-o key=value` into libconfig's tree, as a text whose hook points
 * to the override; the tree walk then types and checks it. Runs on main, before the machine exists.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config_internal.h"

/* Longer than any key path there is. */
#define KEY_PATH_MAX 96

/* `disks.0.path` in its parts, and the value behind the `=`. */
struct request {
	struct config_loader *l;
	config_setting_t at; /* stands for the override in messages */
	char key[KEY_PATH_MAX];
	const char *part[3];
	unsigned int nparts;
	const char *value;
	void *hook;
};

static int out_of_memory(struct request *r)
{
	return diag_set(r->l->d, -ENOMEM, "out of memory");
}

/* Fields of the tree's groups are only added here, so they carry the hook. */
static config_setting_t *add(struct request *r, config_setting_t *parent, const char *name,
			     int type)
{
	config_setting_t *s = config_setting_add(parent, name, type);

	if (s)
		config_setting_set_hook(s, r->hook);
	return s;
}

static int put(struct request *r, config_setting_t *group, const char *name)
{
	config_setting_t *s;

	if (config_setting_get_member(group, name))
		config_setting_remove(group, name);
	s = add(r, group, name, CONFIG_TYPE_STRING);
	if (!s || !config_setting_set_string(s, r->value))
		return out_of_memory(r);
	return 0;
}

static int parse_request(struct request *r, const char *text)
{
	const char *eq = strchr(text, '=');
	char *p = r->key;

	if (!eq || eq == text)
		return config_fail(r->l, &r->at, -EINVAL,
				   "it must be key=value, for example vcpus=2");
	if ((size_t)(eq - text) >= sizeof(r->key))
		return config_unknown_key(r->l, &r->at, text, NULL);
	memcpy(r->key, text, (size_t)(eq - text));
	r->value = eq + 1;
	while (p && r->nparts < ARRAY_SIZE(r->part)) {
		r->part[r->nparts++] = p;
		p = strchr(p, '.');
		if (p)
			*p++ = '\0';
	}
	if (p)
		return config_fail(r->l, &r->at, -EINVAL,
				   "the key has too many parts; it looks like disks.0.path");
	return 0;
}

/* The list's element that the key names, appended when it is "+" or the next number. */
static int find_element(struct request *r, config_setting_t *list, config_setting_t **out)
{
	const char *index = r->part[1];
	int n = config_setting_length(list), i = n;
	char *end;

	if (!strcmp(index, "-1") && n > 0) {
		i = n - 1;
	} else if (strcmp(index, "+")) {
		unsigned long number = strtoul(index, &end, 10);

		if (*index < '0' || *index > '9' || *end || number > (unsigned long)n)
			return config_fail(r->l, &r->at, -EINVAL,
					   "%s has %d element%s, so \"%.20s\" "
					   "is none; %s.%d.%s appends one",
					   r->part[0], n, n == 1 ? "" : "s", index, r->part[0], n,
					   r->part[2]);
		i = (int)number;
	}
	*out = i < n ? config_setting_get_elem(list, (unsigned int)i)
		     : add(r, list, NULL, CONFIG_TYPE_GROUP);
	return *out ? 0 : out_of_memory(r);
}

static int put_in_list(struct request *r, const struct device_class *cls)
{
	config_setting_t *root = config_root_setting(&r->l->tree);
	config_setting_t *list = config_setting_get_member(root, cls->key), *group;
	char key[KEY_PATH_MAX];
	int err;

	if (r->nparts != 3)
		return config_fail(r->l, &r->at, -EINVAL,
				   "%s is a list; name a value of one "
				   "element, for example %s.0.%s=...",
				   cls->key, cls->key, cls->nopts ? cls->opts[0].name : "key");
	if (!config_opt_find(cls->opts, cls->nopts, r->part[2]))
		return config_unknown_key(r->l, &r->at, r->part[2], cls);
	if (!list)
		list = add(r, root, cls->key, CONFIG_TYPE_LIST);
	if (!list)
		return out_of_memory(r);
	if (!config_setting_is_list(list))
		return config_wrong_shape(r->l, list, cls->key, cls);
	err = find_element(r, list, &group);
	if (err)
		return err;
	if (!config_setting_is_group(group)) {
		snprintf(key, sizeof(key), "%s.%d", cls->key, config_setting_index(group));
		return config_wrong_shape(r->l, group, key, cls);
	}
	return put(r, group, r->part[2]);
}

static int put_in_single(struct request *r, const struct device_class *cls)
{
	config_setting_t *root = config_root_setting(&r->l->tree);
	config_setting_t *s = config_setting_get_member(root, cls->key);
	bool on;

	if (r->nparts == 1) {
		/* `rng=true` keeps the group that the file has for it. */
		if (s && config_setting_is_group(s) && !config_value_bool(r->value, &on) && on)
			return 0;
		return put(r, root, cls->key);
	}
	if (r->nparts != 2)
		return config_fail(r->l, &r->at, -EINVAL, "%s is no list; the key looks like %s.%s",
				   cls->key, cls->key, cls->nopts ? cls->opts[0].name : "key");
	if (!config_opt_find(cls->opts, cls->nopts, r->part[1]))
		return config_unknown_key(r->l, &r->at, r->part[1], cls);
	if (s && !config_setting_is_group(s)) {
		config_setting_remove(root, cls->key);
		s = NULL;
	}
	if (!s)
		s = add(r, root, cls->key, CONFIG_TYPE_GROUP);
	return s ? put(r, s, r->part[1]) : out_of_memory(r);
}

int config_override_apply(struct config_loader *l, const struct config_override *over)
{
	/* libconfig's hook is not const; nothing writes through it. */
	union {
		const void *from;
		void *to;
	} hook = { .from = over };
	struct request r = { .l = l, .at.hook = hook.to, .hook = hook.to };
	const struct device_class *cls;
	int err = parse_request(&r, over->text);

	if (err)
		return err;
	cls = config_class_find(l, r.part[0]);
	if (cls)
		return cls->list ? put_in_list(&r, cls) : put_in_single(&r, cls);
	if (!config_opt_find(config_machine_opts, config_machine_nopts, r.part[0]))
		return config_unknown_key(l, &r.at, r.part[0], NULL);
	if (r.nparts != 1)
		return config_fail(l, &r.at, -EINVAL, "%s is a single value; write %s=...",
				   r.part[0], r.part[0]);
	return put(&r, config_root_setting(&l->tree), r.part[0]);
}
