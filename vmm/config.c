/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.c - the machine's own keys, and config_load(): read the file, let libconfig parse it,
 * apply the overrides, walk the tree, compare the values. Runs on main, before the machine exists.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <unvmm/platform.h>
#include <unvmm/sandbox.h>

#include "config_internal.h"

#define MACHINE_TYPE   "unvmm-1"
#define NAME_LEN_MAX   64
#define MEMORY_MAX     GiB(1024)
#define MEMORY_DEFAULT MiB(256)

static bool name_char(char ch, bool first)
{
	return isascii(ch) && (isalnum(ch) || (!first && ch && strchr("_.-", ch)));
}

static int check_name(const void *conf, struct diag *d)
{
	const char *name = ((const struct vm_config *)conf)->name, *p;
	bool good = true;

	for (p = name; *p; p++)
		good = good && name_char(*p, p == name);
	if (good && p > name)
		return 0;
	return diag_set(d, -EINVAL,
			"is \"%s\"; it must begin with a letter or a digit and go on "
			"with letters, digits, \"_\", \".\" or \"-\"",
			name);
}

static int check_machine(const void *conf, struct diag *d)
{
	const char *machine = ((const struct vm_config *)conf)->machine;

	if (!strcmp(machine, MACHINE_TYPE))
		return 0;
	return diag_set(d, -EINVAL, "is \"%.60s\"; the only machine type is \"%s\"", machine,
			MACHINE_TYPE);
}

static int check_memory(const void *conf, struct diag *d)
{
	uint64_t memory = ((const struct vm_config *)conf)->memory;

	if (memory % PAGE_SIZE_4K == 0)
		return 0;
	return diag_set(d, -EINVAL, "is %llu bytes; it must be a multiple of 4K",
			(unsigned long long)memory);
}

static int check_user(const void *conf, struct diag *d)
{
	const char *user = ((const struct vm_config *)conf)->user;

	if (sandbox_user_valid(user))
		return 0;
	return diag_set(d, -EINVAL,
			"is \"%s\"; it must be a user, by name or number, or user:group", user);
}

static const char *const reboot_choices[] = {
	[ON_REBOOT_RESTART] = "restart",
	[ON_REBOOT_EXIT] = "exit",
	NULL,
};

#define FIELD(f) .name = #f, .offset = offsetof(struct vm_config, f)

const struct opt config_machine_opts[] = {
	{ FIELD(name), .type = OPT_STRING, .max = NAME_LEN_MAX, .check = check_name,
	  .help = "name of the guest in messages" },
	{ FIELD(machine), .type = OPT_STRING, .check = check_machine,
	  .help = "machine type: what the guest sees, the same in every release" },
	{ FIELD(kernel), .type = OPT_PATH, .required = true,
	  .help = "bzImage or ELF x86-64 kernel" },
	{ FIELD(initrd), .type = OPT_PATH, .help = "initial RAM disk" },
	{ FIELD(cmdline), .type = OPT_STRING, .max = PLAT_CMDLINE_MAX - 1,
	  .help = "kernel command line" },
	{ FIELD(vcpus), .type = OPT_INT, .min = 1, .max = PLAT_VCPUS_MAX, .help = "virtual CPUs" },
	{ FIELD(memory), .type = OPT_SIZE, .min = PLAT_RAM_MIN, .max = (int64_t)MEMORY_MAX,
	  .check = check_memory, .help = "guest RAM, a multiple of 4K" },
	{ FIELD(shared), .type = OPT_BOOL, .help = "guest RAM that other processes can be given" },
	{ FIELD(hugepages), .type = OPT_BOOL, .help = "back guest RAM with 2M pages of the host" },
	{ FIELD(console), .type = OPT_CHARDEV, .help = "other end of the serial port" },
	{ FIELD(control), .type = OPT_SOCKET,
	  .help = "QMP socket; by default one that unvmm list finds" },
	{ FIELD(on_reboot), .type = OPT_CHOICE, .choices = reboot_choices,
	  .help = "what a guest's reset does" },
	{ FIELD(user), .type = OPT_STRING, .max = 64, .check = check_user,
	  .help = "user[:group] that the process becomes (default for root: nobody)" },
	{ FIELD(sandbox), .type = OPT_BOOL,
	  .help = "give up all system calls that a running guest does not need" },
	{ FIELD(pit), .type = OPT_BOOL, .help = "8254 timer, which Linux wants at boot" },
};
const unsigned int config_machine_nopts = ARRAY_SIZE(config_machine_opts);

int config_defaults(struct vm_config *c)
{
	char name[] = "guest", machine[] = MACHINE_TYPE, cmdline[] = "", console[] = "stdio";
	int err;

	*c = (struct vm_config){
		.name = name,
		.machine = machine,
		.cmdline = cmdline,
		.console = console,
		.vcpus = 1,
		.memory = MEMORY_DEFAULT,
		.pit = true,
		.sandbox = true,
		.on_reboot = ON_REBOOT_RESTART,
	};
	err = config_value_own(config_machine_opts, config_machine_nopts, c);
	if (err)
		config_free(c);
	return err;
}

void config_free(struct vm_config *c)
{
	struct device_config *dev;

	while ((dev = c->devices)) {
		c->devices = dev->next;
		config_value_free(dev->cls->opts, dev->cls->nopts, dev->conf);
		free(dev->conf);
		free(dev);
	}
	config_value_free(config_machine_opts, config_machine_nopts, c);
}

/* "guests/my web.cfg" -> "my-web"; stays "guest" when nothing usable is left. */
static int name_from_file(struct vm_config *c, const char *file)
{
	const char *slash = strrchr(file, '/');
	char name[NAME_LEN_MAX + 1];
	size_t i, len;

	file = slash ? slash + 1 : file;
	len = strlen(file);
	if (len > 4 && !strcmp(file + len - 4, ".cfg"))
		len -= 4;
	if (len > NAME_LEN_MAX)
		len = NAME_LEN_MAX;
	if (!len || !name_char(file[0], true))
		return 0;
	for (i = 0; i < len; i++)
		name[i] = name_char(file[i], false) ? file[i] : '-';
	name[len] = '\0';
	free(c->name);
	c->name = strdup(name);
	return c->name ? 0 : -ENOMEM;
}

static bool wants_stdio(const struct device_config *dc)
{
	const struct opt *o = dc->cls->opts;

	for (unsigned int i = 0; i < dc->cls->nopts; i++) {
		const char *text =
			o[i].type == OPT_CHARDEV ? config_value_text(&o[i], dc->conf) : NULL;

		if (text && !strcmp(text, "stdio"))
			return true;
	}
	return false;
}

/*
 * stdio has one owner. The serial port's claim to it, if nobody made it, gives way to a device's.
 */
static int check_stdio(struct config_loader *l, const config_setting_t *console)
{
	const struct device_config *owner = NULL;

	for (const struct device_config *dc = l->c->devices; dc; dc = dc->next) {
		if (!wants_stdio(dc))
			continue;
		if (owner)
			return diag_set(l->d, -EINVAL,
					"%s: stdio is taken by the console of %s; connect one of "
					"them to \"pty\" or to another end",
					dc->where, owner->where);
		owner = dc;
	}
	if (!owner || strcmp(l->c->console, "stdio"))
		return 0;
	if (console)
		return config_fail(l, console, -EINVAL,
				   "console is \"stdio\", which the console of %s has taken; "
				   "connect one of them to \"pty\" or to another end",
				   owner->where);
	free(l->c->console);
	l->c->console = strdup("none");
	return l->c->console ? 0 : diag_set(l->d, -ENOMEM, "out of memory");
}

/* What no value says by itself. */
static int check_together(struct config_loader *l)
{
	const config_setting_t *root = config_root_setting(&l->tree);
	const config_setting_t *memory = config_setting_get_member(root, "memory");
	char size[24];

	l->c->named = config_setting_get_member(root, "name");
	if (!l->c->kernel && l->c->incoming)
		l->c->on_reboot = ON_REBOOT_EXIT;
	else if (!l->c->kernel && !l->file)
		return diag_set(l->d, -EINVAL,
				"there is no kernel to run; name one with -k FILE, "
				"or a configuration file");
	else if (!l->c->kernel)
		return config_fail(l, NULL, -EINVAL,
				   "there is no kernel to run; add kernel = "
				   "\"vmlinuz\"; or use -k FILE");
	if (l->c->hugepages && l->c->memory % MiB(2))
		return config_fail(l, memory, -EINVAL,
				   "memory is %s; with hugepages it must be a "
				   "multiple of 2M",
				   config_value_size(l->c->memory, size));
	return check_stdio(l, config_setting_get_member(root, "console"));
}

int config_load_text(struct config_loader *l, const char *text, size_t len,
		     const struct config_override *over, unsigned int nover)
{
	unsigned int i;
	char *copy;
	int err;

	err = config_text_check(l, text, len);
	if (err)
		return err;
	copy = strndup(text, len); /* libconfig wants the NUL */
	if (!copy)
		return diag_set(l->d, -ENOMEM, "out of memory");
	config_init(&l->tree);
	if (!config_read_string(&l->tree, copy))
		err = config_text_refused(l, text, len);
	free(copy);
	for (i = 0; !err && i < nover; i++)
		err = config_override_apply(l, &over[i]);
	if (!err)
		err = config_tree_read(l);
	if (!err)
		err = check_together(l);
	config_destroy(&l->tree);
	return err;
}

/* All of a file or pipe, at most CONFIG_TEXT_MAX bytes. */
static int read_all(int fd, const char *path, char **text, size_t *len, struct diag *d)
{
	size_t size = KiB(4);
	char *buf = NULL, *bigger;
	ssize_t n = 1;

	for (*len = 0; n > 0; *len += (size_t)n) {
		if (!buf || *len == size) {
			size = buf ? 2 * size : size;
			bigger = realloc(buf, size);
			if (!bigger) {
				free(buf);
				return diag_set(d, -ENOMEM, "out of memory");
			}
			buf = bigger;
		}
		do
			n = read(fd, buf + *len, size - *len);
		while (n < 0 && errno == EINTR);
		if (n < 0) {
			int err = -errno;

			free(buf);
			return diag_errno(d, err, "cannot read %s", path);
		}
		if (*len + (size_t)n > CONFIG_TEXT_MAX) {
			free(buf);
			return diag_set(d, -EFBIG,
					"%s is larger than 1 MiB; a configuration is a "
					"short text",
					path);
		}
	}
	*text = buf;
	return 0;
}

static int read_file(const char *path, char **text, size_t *len, struct diag *d)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	struct stat st;
	int err;

	if (fd < 0)
		return diag_errno(d, -errno, "cannot open the configuration file %s", path);
	if (!fstat(fd, &st) && S_ISDIR(st.st_mode))
		err = diag_set(d, -EISDIR, "%s is a folder; name the configuration file in it",
			       path);
	else
		err = read_all(fd, path, text, len, d);
	close(fd);
	return err;
}

/* The file's folder, "" for /. NULL in *base: relative paths count from the current folder. */
static int set_base(struct config_loader *l, const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash || !strncmp(path, "/dev/", 5))
		return 0;
	l->base = strndup(path, (size_t)(slash - path));
	return l->base ? 0 : -ENOMEM;
}

/* incoming: the guest comes from elsewhere, and may have no kernel here. */
static int load(struct vm_config *c, bool incoming, const char *path,
		const struct config_override *over, unsigned int nover,
		const struct device_class *const *classes, unsigned int nclasses, struct diag *d)
{
	struct config_loader l = {
		.c = c,
		.file = path,
		.classes = classes,
		.nclasses = nclasses,
		.d = d,
	};
	int err = config_defaults(c);
	char *text = NULL;
	size_t len = 0;

	c->incoming = incoming;
	if (!err && path)
		err = set_base(&l, path);
	if (!err && path && strncmp(path, "/dev/", 5))
		err = name_from_file(c, path);
	if (err)
		diag_set(d, err, "out of memory");
	if (!err && path)
		err = read_file(path, &text, &len, d);
	if (!err)
		err = config_load_text(&l, text ? text : "", len, over, nover);
	if (err)
		config_free(c);
	free(text);
	free(l.base);
	return err;
}

int config_load(struct vm_config *c, const char *path, const struct config_override *over,
		unsigned int nover, const struct device_class *const *classes,
		unsigned int nclasses, struct diag *d)
{
	return load(c, false, path, over, nover, classes, nclasses, d);
}

int config_load_incoming(struct vm_config *c, const char *path, const struct config_override *over,
			 unsigned int nover, const struct device_class *const *classes,
			 unsigned int nclasses, struct diag *d)
{
	return load(c, true, path, over, nover, classes, nclasses, d);
}
