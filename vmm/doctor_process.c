/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor_process.c - what the process of a guest needs: rings, a sandbox, a folder, pages, and a
 * network. Main thread.
 */
#include "doctor.h"
#include "migrate_tls.h"
#include "sysfs.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOBODY 65534u

static void check_ring(struct doctor *doc)
{
	const struct doctor_probe *p = doc->probe;
	uint64_t disabled;

	sysfs_number(doc->root, &disabled, "proc/sys/kernel/io_uring_disabled");
	if (!p->ring.err) {
		doctor_add(doc, DOCTOR_OK, "io_uring", "restricted rings can be made");
		return;
	}
	doctor_add(doc, DOCTOR_MISSING, "io_uring", "%s", p->ring.why.text);
	if (disabled)
		doctor_mend(doc, "sysctl kernel.io_uring_disabled=0");
	else if (p->ring.err == -EPERM || p->ring.err == -EACCES || p->ring.err == -ENOSYS)
		doctor_mend(doc, "let the container's seccomp profile pass io_uring_setup, "
				 "io_uring_enter and io_uring_register");
	else if (p->ring.err == -ENOMEM)
		doctor_mend(doc, "ulimit -l unlimited");
}

static void check_seccomp(struct doctor *doc)
{
	if (!doc->probe->seccomp_err) {
		doctor_add(doc, DOCTOR_OK, "seccomp", "filters can be installed");
		return;
	}
	doctor_add(doc, DOCTOR_MISSING, "seccomp",
		   "this host refuses seccomp filters (%s); guests run with --no-sandbox only",
		   strerror(-doc->probe->seccomp_err));
	doctor_mend(doc, "a kernel with CONFIG_SECCOMP_FILTER; in a container, a profile that "
			 "passes seccomp");
}

/* Whether this user namespace has that user: lines "FIRST OUTSIDE COUNT" of uid_map. */
static bool has_user(const struct doctor *doc, unsigned long uid)
{
	char *text = sysfs_file(doc->root, "proc/self/uid_map");
	bool has = false;

	for (const char *p = text; p && *p && !has; p = strchr(p, '\n')) {
		unsigned long first, outside, count;

		p += *p == '\n';
		has = sscanf(p, "%lu %lu %lu", &first, &outside, &count) == 3 && uid >= first &&
		      uid - first < count;
	}
	free(text);
	return has;
}

/* root gives its rights up to "nobody"; passt isolates itself in a user namespace. */
static void check_user(struct doctor *doc)
{
	const struct doctor_probe *p = doc->probe;
	uint64_t namespaces;

	if (p->uid) {
		doctor_add(doc, DOCTOR_OK, "user",
			   "user %u: guests run with the rights of this user", p->uid);
	} else if (!has_user(doc, NOBODY) || !doctor_capable(doc, CAP_SETUID) ||
		   !doctor_capable(doc, CAP_SETGID)) {
		doctor_add(doc, DOCTOR_WARN, "user",
			   "root, and cannot become nobody (%u) here: guests run as root", NOBODY);
		doctor_mend(doc, "give the container CAP_SETUID and CAP_SETGID, or start unvmm as "
				 "another user");
	} else {
		doctor_add(doc, DOCTOR_OK, "user", "root; guests run as nobody");
	}
	if (sysfs_number(doc->root, &namespaces, "proc/sys/user/max_user_namespaces") ||
	    !namespaces) {
		doctor_add(doc, DOCTOR_WARN, "namespaces",
			   "no user namespaces: passt refuses to start");
		doctor_mend(doc, "sysctl user.max_user_namespaces=65536");
	} else {
		doctor_add(doc, DOCTOR_OK, "namespaces", "user namespaces are there, for passt");
	}
}

static void check_folder(struct doctor *doc)
{
	const struct doctor_probe *p = doc->probe;

	if (!p->folder.err || p->folder.err == -ENOENT) {
		if (*p->folder_path) {
			doctor_add(doc, DOCTOR_OK, "runtime", "control sockets in %s%s",
				   p->folder_path,
				   p->folder.err ? ", which the first guest makes" : "");
			return;
		}
	}
	doctor_add(doc, DOCTOR_WARN, "runtime", "guests get no control socket: %s",
		   p->folder.why.text);
	if (!*p->folder_path)
		doctor_mend(doc, "export UNVMM_RUNTIME_DIR=FOLDER");
	else
		doctor_mend(doc, "chown %u %s && chmod 700 %s", p->uid, p->folder_path,
			    p->folder_path);
}

static void check_thp(struct doctor *doc)
{
	char on[96], shmem[96];

	sysfs_text(doc->root, on, sizeof(on), "sys/kernel/mm/transparent_hugepage/enabled");
	sysfs_text(doc->root, shmem, sizeof(shmem),
		   "sys/kernel/mm/transparent_hugepage/shmem_enabled");
	if (!*on || strstr(on, "[never]")) {
		doctor_add(
			doc, DOCTOR_WARN, "thp",
			"transparent huge pages are %s; guests' memory accesses take longer walks",
			*on ? "off" : "not in this kernel");
		if (*on)
			doctor_mend(doc,
				    "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
	} else if (!*shmem || strstr(shmem, "[never]") || strstr(shmem, "[deny]")) {
		doctor_add(
			doc, DOCTOR_WARN, "thp",
			"for guests' memory, but not where another process shares it (vfio-user)");
		doctor_mend(doc, "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled");
	} else {
		doctor_add(doc, DOCTOR_OK, "thp", "transparent huge pages, shared memory included");
	}
}

static void check_hugepages(struct doctor *doc)
{
	uint64_t all, left;

	sysfs_number(doc->root, &all, "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
	sysfs_number(doc->root, &left, "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
	if (!all) {
		doctor_add(doc, DOCTOR_WARN, "hugepages",
			   "none reserved; guests with 'hugepages = true' do not start");
		doctor_mend(doc, "sysctl vm.nr_hugepages=512   # 1 GiB");
	} else if (!left) {
		doctor_add(doc, DOCTOR_WARN, "hugepages", "all %" PRIu64 " of 2 MiB are in use",
			   all);
		doctor_mend(doc, "sysctl vm.nr_hugepages=%" PRIu64, all + 512);
	} else {
		doctor_add(doc, DOCTOR_OK, "hugepages",
			   "%" PRIu64 " of %" PRIu64 " free, 2 MiB each", left, all);
	}
}

/* Snapshots of guests whose memory nobody shares start before they are read. */
static void check_uffd(struct doctor *doc)
{
	int err = doc->probe->uffd_err;

	if (!err) {
		doctor_add(doc, DOCTOR_OK, "userfaultfd",
			   "snapshots start before their memory is read");
		return;
	}
	doctor_add(doc, DOCTOR_WARN, "userfaultfd",
		   "not for this user (%s): snapshots start when all of their memory is read",
		   strerror(-err));
	if (err == -ENOSYS)
		doctor_mend(doc, "a kernel with CONFIG_USERFAULTFD");
	else if (sysfs_exists(doc->root, "dev/userfaultfd"))
		doctor_mend(doc, "chgrp kvm /dev/userfaultfd && chmod 660 /dev/userfaultfd");
	else
		doctor_mend(doc, "sysctl vm.unprivileged_userfaultfd=1");
}

static void check_tap(struct doctor *doc)
{
	int err = doc->probe->tun_err;

	if (err == -EACCES || err == -EPERM) {
		doctor_add(doc, DOCTOR_WARN, "tap", "/dev/net/tun may not be opened: no taps");
		doctor_mend(doc, "chmod 666 /dev/net/tun   # each tap is guarded by its owner");
	} else if (err) {
		doctor_add(doc, DOCTOR_WARN, "tap", "/dev/net/tun does not open (%s): no taps",
			   strerror(-err));
		doctor_mend(doc, "modprobe tun");
	} else if (!doctor_capable(doc, CAP_NET_ADMIN)) {
		doctor_add(doc, DOCTOR_WARN, "tap",
			   "only taps that were made for this user (CAP_NET_ADMIN is missing)");
		doctor_mend(doc, "as root: ip tuntap add dev tap0 mode tap user %u",
			    doc->probe->uid);
	} else {
		doctor_add(doc, DOCTOR_OK, "tap", "/dev/net/tun opens, taps can be made");
	}
}

static void check_passt(struct doctor *doc)
{
	const char *p = doc->probe->path ? doc->probe->path : "";

	while (*p) {
		int len = (int)strcspn(p, ":");

		/* Below the root: a path that begins with "/" would leave it. */
		if (len > 1 && *p == '/' && sysfs_exists(doc->root, "%.*s/passt", len - 1, p + 1)) {
			doctor_add(doc, DOCTOR_OK, "passt", "%.*s/passt", len, p);
			return;
		}
		p += len;
		p += *p == ':';
	}
	doctor_add(doc, DOCTOR_WARN, "passt", "not found: no network without privileges");
	doctor_mend(doc, "apt-get install passt");
}

static bool has_certificate(const struct doctor *doc, const char *role)
{
	const char *folder = &MIGRATE_TLS_FOLDER[1]; /* below the root */

	return sysfs_exists(doc->root, "%s/ca-cert.pem", folder) &&
	       sysfs_exists(doc->root, "%s/%s-cert.pem", folder, role) &&
	       sysfs_exists(doc->root, "%s/%s-key.pem", folder, role);
}

static void check_tls(struct doctor *doc)
{
	bool leave = has_certificate(doc, "client"), arrive = has_certificate(doc, "server");

	if (leave || arrive) {
		doctor_add(doc, DOCTOR_OK, "tls", "guests can %s by TLS: certificates in %s",
			   !arrive  ? "leave"
			   : !leave ? "arrive"
				    : "leave and arrive",
			   MIGRATE_TLS_FOLDER);
		return;
	}
	doctor_add(doc, DOCTOR_WARN, "tls", "no certificates in %s: guests move through ssh",
		   MIGRATE_TLS_FOLDER);
	doctor_mend(doc, "man unvmm-tls   # how to make them");
}

void doctor_check_process(struct doctor *doc)
{
	check_ring(doc);
	check_seccomp(doc);
	check_user(doc);
	check_folder(doc);
	check_thp(doc);
	check_hugepages(doc);
	check_uffd(doc);
	check_tap(doc);
	check_passt(doc);
	check_tls(doc);
}
