/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox.c - gives up power before the guest's first instruction: user, groups, capabilities, new
 * privileges, and all system calls but those of sandbox_filter.c. Decided by main; each thread then
 * gives up its own.
 */
#include "sandbox_filter.h"

#include <unvmm/log.h>
#include <unvmm/sandbox.h>

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NOBODY	  65534 /* the kernel's own name for it (overflowuid), the same everywhere */
#define ID_MAX	  (UINT32_MAX - 1)
#define NAMES_MAX 4096 /* the entry of one user */
#define ENTER_S	  30

#ifndef SYS_SECCOMP /* si_code of a filter's SIGSYS; the C library has no name for it */
#define SYS_SECCOMP 1
#endif

/* A sanitizer makes system calls of its own at any time, and looks into the process at its end. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZER true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZER true
#endif
#endif
#ifndef SANITIZER
#define SANITIZER false
#endif

/* --- who to become --------------------------------------------------------------------------- */

static bool parse_id(const char *text, uint32_t *id)
{
	unsigned long long v;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (*end || errno || v > ID_MAX)
		return false;
	*id = (uint32_t)v;
	return true;
}

bool sandbox_user_valid(const char *user)
{
	const char *colon = strchr(user, ':');
	size_t len = colon ? (size_t)(colon - user) : strlen(user);

	return len && !strpbrk(user, " \t\n/,") &&
	       (!colon || (colon[1] && !strchr(colon + 1, ':')));
}

/* "UID" has no group of its own unless the host knows the user: then the GID is the UID. */
static int find_user(struct sandbox *s, const char *name, struct diag *d)
{
	struct passwd room, *pw = NULL;
	char names[NAMES_MAX];
	uint32_t id = 0;
	bool number = parse_id(name, &id);
	int err = number ? getpwuid_r(id, &room, names, sizeof(names), &pw)
			 : getpwnam_r(name, &room, names, sizeof(names), &pw);

	if (pw) {
		s->uid = pw->pw_uid;
		s->gid = pw->pw_gid;
	} else if (number) {
		s->uid = s->gid = id;
	} else if (strspn(name, "0123456789") == strlen(name)) {
		return diag_set(d, -EINVAL, "user: %.60s is above %u, the largest user number",
				name, ID_MAX);
	} else if (err) {
		return diag_errno(d, -err, "the user \"%.60s\" cannot be looked up", name);
	} else {
		return diag_set(d, -ENOENT,
				"there is no user \"%.60s\" on this host; \"useradd --system "
				"%.60s\" makes one, and a number needs no name",
				name, name);
	}
	return 0;
}

static int find_group(struct sandbox *s, const char *name, struct diag *d)
{
	struct group room, *gr = NULL;
	char names[NAMES_MAX];
	int err;

	if (parse_id(name, &s->gid))
		return 0;
	err = getgrnam_r(name, &room, names, sizeof(names), &gr);
	if (!gr && err && err != ERANGE)
		return diag_errno(d, -err, "the group \"%.60s\" cannot be looked up", name);
	if (!gr && err != ERANGE)
		return diag_set(d, -ENOENT, "there is no group \"%.60s\" on this host", name);
	if (!gr)
		return diag_set(d, -ERANGE,
				"the group \"%.60s\" has too many members; give its number", name);
	s->gid = gr->gr_gid;
	return 0;
}

static int find(struct sandbox *s, const char *user, struct diag *d)
{
	char *name = strdup(user), *group;
	int err;

	if (!name)
		return diag_set(d, -ENOMEM, "out of memory");
	group = strchr(name, ':');
	if (group)
		*group++ = '\0';
	err = find_user(s, name, d);
	if (!err && group)
		err = find_group(s, group, d);
	free(name);
	return err;
}

/* Does this user namespace have such an ID? Without /proc the attempt will tell. */
static bool id_exists(const char *map, uint32_t id)
{
	uint64_t first, outside, count;
	FILE *f = fopen(map, "re");
	bool found = !f;

	while (!found &&
	       fscanf(f, "%" SCNu64 " %" SCNu64 " %" SCNu64, &first, &outside, &count) == 3)
		found = id >= first && id - first < count;
	if (f)
		fclose(f);
	return found;
}

static bool has_capability(unsigned int cap)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return syscall(SYS_capget, &header, data) == 0 &&
	       (data[CAP_TO_INDEX(cap)].effective & CAP_TO_MASK(cap));
}

/* Nobody asked for another user, so a host that has none is no reason to refuse the guest. */
static void choose_nobody(struct sandbox *s)
{
	s->uid = s->gid = NOBODY;
	if (!has_capability(CAP_SETUID) || !has_capability(CAP_SETGID)) {
		log_warn("the guest runs as root: this process has no CAP_SETUID and CAP_SETGID to "
			 "become another user; user = \"root\" says that this is meant");
		return;
	}
	s->drop =
		id_exists("/proc/self/uid_map", NOBODY) && id_exists("/proc/self/gid_map", NOBODY);
	if (!s->drop)
		log_info("the guest runs as this user namespace's root, which has no user nobody");
}

static int choose_user(struct sandbox *s, const char *user, struct diag *d)
{
	int err = find(s, user, d);
	bool able;

	if (err)
		return err;
	able = has_capability(CAP_SETUID) && has_capability(CAP_SETGID);
	if (s->uid == geteuid() && s->gid == getegid() && (s->uid != 0 || !able))
		return 0; /* we are that user; root has groups to give up, if it can */
	if (!able)
		return diag_set(d, -EPERM,
				"user: no permission to become \"%.60s\"; only root can become "
				"another user, so start unvmm as root or as that user",
				user);
	if (!id_exists("/proc/self/uid_map", s->uid) || !id_exists("/proc/self/gid_map", s->gid))
		return diag_set(d, -EINVAL,
				"user: \"%.60s\" (%u:%u) does not exist in this user namespace",
				user, s->uid, s->gid);
	s->drop = true;
	return 0;
}

/* --- what the host must have ----------------------------------------------------------------- */

static int check_filters(struct diag *d)
{
	uint32_t action = SECCOMP_RET_TRAP;

	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0)
		return 0;
	return diag_set(d, -ENOSYS,
			"the sandbox needs seccomp filters, which this host refuses (%s): a kernel "
			"with CONFIG_SECCOMP_FILTER has them; --no-sandbox does without",
			strerror(errno));
}

int sandbox_init(struct sandbox *s, const char *user, bool filter, struct diag *d)
{
	int err = 0;

	*s = (struct sandbox){ .filter = filter && !SANITIZER };
	if (!filter)
		log_warn("without a sandbox: the guest's process may make every system call%s",
			 user ? "" : " and keeps its user");
	else if (SANITIZER)
		log_info("without a sandbox: this is a sanitizer's build");
	if (s->filter)
		err = check_filters(d);
	if (!err && user)
		err = choose_user(s, user, d);
	else if (!err && s->filter && geteuid() == 0)
		choose_nobody(s);
	if (err)
		return err;
	/* Now, because the C library reads the host's time zone at the first use of a date. */
	tzset();
	return 0;
}

/* --- giving up ------------------------------------------------------------------------------- */

/*
 * What root is not bound by, and the guest would be later: memory that a function reaches is
 * locked, and the kernel starts workers for a ring, which count together with those of all other
 * guests.
 */
static void lift_limits(void)
{
	static const struct rlimit none = { RLIM_INFINITY, RLIM_INFINITY };

	(void)setrlimit(RLIMIT_MEMLOCK, &none);
	(void)setrlimit(RLIMIT_NPROC, &none);
}

/*
 * The system calls themselves and not the C library's functions, which would have all threads do it
 * at this moment.
 */
static int change_user(const struct sandbox *s)
{
	lift_limits();
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			break; /* without CAP_SETPCAP; no_new_privs makes up for it */
	/* A user namespace may deny it even to its root, who then stays as it is. */
	if (syscall(SYS_setgroups, 0, NULL) < 0 && (errno != EPERM || s->uid != geteuid()))
		return -errno;
	if (syscall(SYS_setresgid, s->gid, s->gid, s->gid) < 0 ||
	    syscall(SYS_setresuid, s->uid, s->uid, s->uid) < 0)
		return -errno;
	/* Other processes of that user have no business in this one: no ptrace, no core dump. */
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -errno : 0;
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

int sandbox_enter(const struct sandbox *s, enum sandbox_kind kind, struct diag *d)
{
	int err = 0;

	if (!s || (!s->filter && !s->drop))
		return 0;
	/* The keeper stays who it is: it removes names from folders of that user. */
	if (s->drop && kind != SANDBOX_KEEPER)
		err = change_user(s);
	if (err)
		return diag_errno(d, err, "user: cannot become user %u, group %u", s->uid, s->gid);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return diag_errno(d, -errno, "sandbox: cannot give up new privileges");
	err = kind == SANDBOX_KEEPER ? 0 : drop_capabilities();
	if (err)
		return diag_errno(d, err, "sandbox: cannot give up capabilities");
	err = s->filter ? sandbox_filter_install(kind) : 0;
	if (err)
		return diag_errno(d, err, "sandbox: the kernel refuses a seccomp filter");
	return 0;
}

static void enter_work(struct loop_work *w)
{
	struct sandbox_entry *e = container_of(w, struct sandbox_entry, work);

	e->err = sandbox_enter(e->sandbox, e->kind, &e->diag);
	sem_post(&e->done);
}

int sandbox_enter_loop(struct sandbox_entry *e, const struct sandbox *s, enum sandbox_kind kind,
		       struct loop *l, struct diag *d)
{
	struct timespec until;
	int r;

	*e = (struct sandbox_entry){ .sandbox = s, .kind = kind, .work.fn = enter_work };
	sem_init(&e->done, 0, 0);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ENTER_S;
	loop_call(l, &e->work);
	do
		r = sem_clockwait(&e->done, CLOCK_MONOTONIC, &until);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return diag_set(d, -ETIMEDOUT, "sandbox: a thread does not enter it within %d s",
				ENTER_S);
	return e->err ? diag_set(d, e->err, "%s", e->diag.text) : 0;
}

/* --- the end --------------------------------------------------------------------------------- */

/* Made from the kernel's header at build time: [0] = "read", ... */
static const char *const call_names[] = {
#include <syscalls.h> /* not of the tree: the Makefile makes it */
};

bool sandbox_describe(const siginfo_t *si, char *buf, size_t size)
{
	const char *name = NULL;
	char thread[16] = "?";
	unsigned int nr = (unsigned int)si->si_syscall;

	if (si->si_signo != SIGSYS || si->si_code != SYS_SECCOMP)
		return false;
	if (nr < ARRAY_SIZE(call_names))
		name = call_names[nr];
	(void)prctl(PR_GET_NAME, thread, 0, 0, 0);
	snprintf(
		buf, size,
		"the thread \"%.15s\" made the system call %u (%s), which its sandbox forbids: the "
		"guest is ended; report this, sandbox = false runs it without",
		thread, nr, name ? name : "unknown");
	return true;
}
