/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_internal.h - what the config_*.c files share.
 *
 * Overrides are written into libconfig's tree as texts whose hook points to the override; then one
 * walk turns the tree into a struct vm_config. So a value from the file and one from a switch pass
 * the same tables and the same checks, and each message can say where its value came from.
 *
 * Thread: main, before the machine exists.
 */
#ifndef CONFIG_INTERNAL_H
#define CONFIG_INTERNAL_H

#include <libconfig.h>

#include <unvmm/config.h>

#define CONFIG_TEXT_MAX	 MiB(1)
#define CONFIG_WHERE_MAX sizeof(((struct device_config *)0)->where)

struct config_loader {
	struct vm_config *c;
	config_t tree;
	const char *file; /* as the user named it; NULL: switches only */
	char *base;	  /* folder that relative paths of the file count from; NULL: current one */
	const struct device_class *const *classes;
	unsigned int nclasses;
	unsigned int npci; /* devices so far that take a PCI slot */
	struct diag *d;
};

/* config.c */
extern const struct opt config_machine_opts[];
extern const unsigned int config_machine_nopts;
/* The whole of config_load() on a text in memory, which need not end in NUL. */
int config_load_text(struct config_loader *l, const char *text, size_t len,
		     const struct config_override *over, unsigned int nover) must_check;

/* config_text.c: what libconfig would misread, before it reads the text. */
int config_text_check(struct config_loader *l, const char *text, size_t len) must_check;
/* The sentence for libconfig's own refusal. */
int config_text_refused(struct config_loader *l, const char *text, size_t len) must_check;

/* config_override.c */
int config_override_apply(struct config_loader *l, const struct config_override *over) must_check;

/* config_tree.c: the finished tree -> l->c. */
int config_tree_read(struct config_loader *l) must_check;
const struct opt *config_opt_find(const struct opt *opts, unsigned int nopts, const char *name);
const struct device_class *config_class_find(const struct config_loader *l, const char *key);
/* "there is no key ...; did you mean ...?" cls NULL: among the machine's and the classes' keys. */
int config_unknown_key(struct config_loader *l, const config_setting_t *at, const char *name,
		       const struct device_class *cls);
/* `disks = 5`: what a class's setting has to look like. */
int config_wrong_shape(struct config_loader *l, const config_setting_t *s, const char *key,
		       const struct device_class *cls);

/* config_value.c */
/* Stores s into conf as o says. key is the whole path, "disks.0.path", for messages. */
int config_value_store(struct config_loader *l, const config_setting_t *s, const char *key,
		       const struct opt *o, void *conf) must_check;
bool config_value_is_text(enum opt_type type);
char *config_value_text(const struct opt *o, const void *conf);
/* The defaults that a class or config_defaults() set as literals become owned copies. */
int config_value_own(const struct opt *opts, unsigned int nopts, void *conf) must_check;
void config_value_free(const struct opt *opts, unsigned int nopts, void *conf);
int config_value_bool(const char *text, bool *value) must_check;
/* 536870912 -> "512M"; a number that is no multiple of 1024 stays as it is. */
const char *config_value_size(uint64_t bytes, char buf[static 24]);
/* "disks.0 = 5" -> "a number": what a setting of the file is, in words. */
const char *config_value_kind(const config_setting_t *s);

/* "guest.cfg:12", or how the user typed the override. */
void config_where(const struct config_loader *l, const config_setting_t *s, char *buf, size_t size);
/* diag_set() with the place before the sentence. s NULL: the file as a whole. */
int config_fail(struct config_loader *l, const config_setting_t *s, int err, const char *fmt, ...)
	printf_like(4, 5);

#endif
