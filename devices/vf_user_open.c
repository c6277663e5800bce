/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_user_open.c - what the vfio-user client asks before the first use of a function: VERSION, the
 * regions with what of them can be mapped, the vectors, migration. Main thread, at open. Whatever
 * does not make sense for PCI is refused with one sentence.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>
#include <linux/pci_regs.h>

#include "vf_user.h"

#define VERSION_REPLY_MAX 8192
#define REGION_REPLY_MAX  4096
#define REGION_SIZE_MAX	  GiB(1024)
#define JSON_DEPTH	  8

int vf_user_refused(struct vf_user *u, struct diag *d, int err, const char *what)
{
	if (vf_gone(&u->vf))
		return diag_set(d, err,
				"%s: the vfio-user server is unusable: %s; look at its log, and "
				"whether another client is connected to it",
				u->vf.name, u->vf.why);
	return diag_set(d, err, "%s: the vfio-user server refuses %s: %s; look at its log",
			u->vf.name, what, strerror(-err));
}

static int nonsense(struct vf_user *u, struct diag *d, const char *what)
{
	return diag_set(d, -EPROTO, "%s: the vfio-user server %s: it has a bug", u->vf.name, what);
}

/* --- VERSION --------------------------------------------------------------------------------- */

/* A capability that is a number from 1 up; `missing` if it is not given. */
static bool number(struct json_object *caps, const char *key, uint64_t missing, uint64_t *value)
{
	struct json_object *o;
	int64_t n;

	*value = missing;
	if (!caps || !json_object_object_get_ex(caps, key, &o))
		return true;
	n = json_object_get_int64(o);
	*value = (uint64_t)n;
	return json_object_is_type(o, json_type_int) && n > 0;
}

static int take_capabilities(struct vf_user *u, struct json_object *root, struct diag *d)
{
	struct json_object *caps = NULL;
	uint64_t fds, pgsizes;

	if (root)
		json_object_object_get_ex(root, "capabilities", &caps);
	if ((caps && !json_object_is_type(caps, json_type_object)) ||
	    !number(caps, "max_msg_fds", VFIO_USER_DEFAULT_MSG_FDS, &fds) ||
	    !number(caps, "max_data_xfer_size", VFIO_USER_DEFAULT_DATA_XFER, &u->max_xfer) ||
	    !number(caps, "max_dma_maps", VFIO_USER_DEFAULT_DMA_MAPS, &u->max_maps) ||
	    !number(caps, "pgsizes", VFIO_USER_DEFAULT_PGSIZES, &pgsizes))
		return diag_set(d, -EPROTO,
				"%s: the vfio-user server's capabilities are not the numbers that "
				"they should be: it has a bug",
				u->vf.name);
	u->max_fds = fds < VF_USER_MSG_FDS ? (unsigned int)fds : VF_USER_MSG_FDS;
	if (u->max_xfer < PAGE_SIZE_4K)
		return diag_set(d, -EOPNOTSUPP,
				"%s: the vfio-user server transfers %llu bytes at once, but a page "
				"(4096) is needed: raise its max_data_xfer_size",
				u->vf.name, (unsigned long long)u->max_xfer);
	if (!(pgsizes & PAGE_SIZE_4K))
		return diag_set(d, -EOPNOTSUPP,
				"%s: the vfio-user server maps no pages of 4096 bytes (its pgsizes "
				"are %#llx), which x86 guests have",
				u->vf.name, (unsigned long long)pgsizes);
	return 0;
}

/* text is NUL-terminated within len. */
static int parse_capabilities(struct vf_user *u, const char *text, size_t len, struct diag *d)
{
	struct json_tokener *tok = json_tokener_new_ex(JSON_DEPTH);
	struct json_object *root;
	int err;

	if (!tok)
		return diag_set(d, -ENOMEM, "%s: out of memory", u->vf.name);
	root = json_tokener_parse_ex(tok, text, (int)len);
	if (json_tokener_get_error(tok) != json_tokener_success ||
	    !json_object_is_type(root, json_type_object))
		err = diag_set(d, -EPROTO,
			       "%s: the vfio-user server's VERSION does not end in a JSON object: "
			       "it has a bug, or is no vfio-user server",
			       u->vf.name);
	else
		err = take_capabilities(u, root, d);
	json_object_put(root);
	json_tokener_free(tok);
	return err;
}

static int version(struct vf_user *u, struct diag *d)
{
	static const char caps[] = "{\"capabilities\":{\"max_msg_fds\":64,"
				   "\"max_data_xfer_size\":16384}}";
	const struct vfio_user_version mine = { VFIO_USER_MAJOR, VFIO_USER_MINOR };
	struct {
		struct vfio_user_version v;
		char text[VERSION_REPLY_MAX];
	} reply;
	struct vf_user_call c = { .cmd = VFIO_USER_VERSION,
				  .out = { { (void *)(uintptr_t)&mine, sizeof(mine) },
					   { (void *)(uintptr_t)caps, sizeof(caps) } },
				  .in = &reply,
				  .in_min = sizeof(reply.v),
				  .in_max = sizeof(reply) };
	size_t len;
	int err;

	_Static_assert(VF_USER_MSG_FDS == 64 && VF_USER_DATA_XFER == 16384, "say the same");
	err = vf_user_call(u, &c);
	if (err)
		return vf_user_refused(u, d, err, "VERSION 0.2");
	if (reply.v.major != VFIO_USER_MAJOR || reply.v.minor > VFIO_USER_MINOR)
		return diag_set(
			d, -EPROTO,
			"%s: the vfio-user server speaks version %u.%u, unvmm %u.%u: one of "
			"them has to be updated",
			u->vf.name, reply.v.major, reply.v.minor, VFIO_USER_MAJOR, VFIO_USER_MINOR);
	len = c.in_len - sizeof(reply.v);
	if (!len)
		return take_capabilities(u, NULL, d);
	if (reply.text[len - 1])
		return diag_set(
			d, -EPROTO,
			"%s: the vfio-user server's VERSION does not end with a NUL: it has "
			"a bug",
			u->vf.name);
	return parse_capabilities(u, reply.text, len, d);
}

/* --- regions --------------------------------------------------------------------------------- */

struct region_reply {
	struct vfio_region_info info;
	uint8_t caps[REGION_REPLY_MAX - sizeof(struct vfio_region_info)];
};

static int by_offset(const void *a, const void *b)
{
	const struct vf_area *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Areas that are not made of pages cannot be mapped, and more than VF_AREAS_MAX need not be. */
static int take_areas(struct vf_user *u, struct vf_region *r, const uint8_t *at, unsigned int n,
		      struct diag *d)
{
	for (unsigned int i = 0; i < n; i++) {
		struct vfio_region_sparse_mmap_area a;

		memcpy(&a, at + i * sizeof(a), sizeof(a));
		if (!range_within(a.offset, a.size, 0, r->size))
			return nonsense(u, d, "offers to map more than a region has");
		if ((a.offset | a.size) % PAGE_SIZE_4K || !a.size || r->nareas == VF_AREAS_MAX)
			continue;
		r->areas[r->nareas++] = (struct vf_area){ a.offset, a.size };
	}
	qsort(r->areas, r->nareas, sizeof(r->areas[0]), by_offset);
	for (unsigned int i = 1; i < r->nareas; i++)
		if (r->areas[i].offset - r->areas[i - 1].offset < r->areas[i - 1].size)
			return nonsense(u, d, "offers to map areas that overlap");
	return 0;
}

/* The capability chain of a region: only the sparse areas say anything to us. */
static int take_sparse(struct vf_user *u, struct vf_region *r, const struct region_reply *reply,
		       size_t len, bool *found, struct diag *d)
{
	size_t at = reply->info.cap_offset, end = sizeof(reply->info);

	while (at) {
		struct vfio_info_cap_header h;
		uint32_t n;

		/* Each one behind the last: a chain that loops ends here. */
		if (at < end || at > len || len - at < sizeof(h))
			return nonsense(u, d, "has a broken chain of region capabilities");
		memcpy(&h, (const uint8_t *)reply + at, sizeof(h));
		end = at + sizeof(h);
		if (h.id == VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
			if (len - end < 8)
				return nonsense(u, d, "has a cut list of areas to map");
			memcpy(&n, (const uint8_t *)reply + end, sizeof(n));
			end += 8;
			if (n > (len - end) / sizeof(struct vfio_region_sparse_mmap_area))
				return nonsense(u, d, "has a cut list of areas to map");
			*found = true;
			return take_areas(u, r, (const uint8_t *)reply + end, n, d);
		}
		at = h.next;
	}
	return 0;
}

/* A file that is too short would be a SIGBUS, or -EFAULT out of KVM, at the first doorbell. */
static bool file_too_short(int fd, uint64_t offset, uint64_t size)
{
	struct stat st;

	if (fstat(fd, &st))
		return true;
	return S_ISREG(st.st_mode) && !range_within(offset, size, 0, (uint64_t)st.st_size);
}

/*
 * Memory that the server has sealed against becoming shorter, of the kind whose pages come whenever
 * they are touched; those of hugetlbfs may have run out.
 */
static bool file_lasts(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct statfs fs;

	return seals >= 0 && seals & F_SEAL_SHRINK && !fstatfs(fd, &fs) && fs.f_type == TMPFS_MAGIC;
}

static int take_region(struct vf_user *u, unsigned int i, const struct region_reply *reply,
		       size_t len, int fd, struct diag *d)
{
	struct vf_region *r = &u->vf.info.regions[i];
	const struct vfio_region_info *info = &reply->info;
	bool sparse = false;
	int err = 0;

	if (info->index != i || info->size > REGION_SIZE_MAX)
		return nonsense(u, d, "describes another region, or one of more than 1 TiB");
	r->size = info->size;
	r->readable = info->flags & VFIO_REGION_INFO_FLAG_READ;
	r->writable = info->flags & VFIO_REGION_INFO_FLAG_WRITE;
	if (!(info->flags & VFIO_REGION_INFO_FLAG_MMAP) || fd < 0 || !r->size)
		return 0;
	if (info->flags & VFIO_REGION_INFO_FLAG_CAPS)
		err = take_sparse(u, r, reply, len, &sparse, d);
	if (!err && !sparse && r->size >= PAGE_SIZE_4K)
		r->areas[r->nareas++] =
			(struct vf_area){ 0, align_down(r->size, (uint64_t)PAGE_SIZE_4K) };
	u->regions[i].offset = info->offset;
	for (unsigned int a = 0; !err && a < r->nareas; a++)
		if (info->offset % PAGE_SIZE_4K || info->offset > INT64_MAX ||
		    r->areas[a].offset + r->areas[a].size > INT64_MAX - info->offset ||
		    file_too_short(fd, info->offset + r->areas[a].offset, r->areas[a].size))
			err = nonsense(u, d, "offers to map more than its file has");
	r->lasts = file_lasts(fd);
	return err;
}

/* Asked with too little room the server says how much it needs, and gives no descriptor. */
static int region(struct vf_user *u, unsigned int i, struct diag *d)
{
	struct vfio_region_info ask = { .argsz = sizeof(ask), .index = i };
	struct region_reply reply;
	struct vf_user_call c = { .cmd = VFIO_USER_DEVICE_GET_REGION_INFO,
				  .out = { { &ask, sizeof(ask) } },
				  .in = &reply,
				  .in_min = sizeof(ask),
				  .in_max = sizeof(ask),
				  .in_fds = &u->regions[i].fd,
				  .in_fds_max = 1 };
	int err = vf_user_call(u, &c);

	if (!err && reply.info.argsz > sizeof(ask)) {
		if (c.in_nfds)
			close(u->regions[i].fd);
		u->regions[i].fd = -1;
		c.in_nfds = 0;
		if (reply.info.argsz > sizeof(reply))
			return nonsense(u, d, "needs more than 4096 bytes to describe a region");
		ask.argsz = reply.info.argsz;
		c.in_max = ask.argsz;
		err = vf_user_call(u, &c);
	}
	if (err)
		return vf_user_refused(u, d, err, "DEVICE_GET_REGION_INFO");
	if (!c.in_nfds)
		u->regions[i].fd = -1;
	err = take_region(u, i, &reply, c.in_len, u->regions[i].fd, d);
	if (!u->vf.info.regions[i].nareas && u->regions[i].fd >= 0) {
		close(u->regions[i].fd);
		u->regions[i].fd = -1;
	}
	return err;
}

/* --- the rest -------------------------------------------------------------------------------- */

static int vectors(struct vf_user *u, struct diag *d)
{
	struct vfio_irq_info i = { .argsz = sizeof(i), .index = VFIO_PCI_MSIX_IRQ_INDEX };
	int err = vf_user_simple(u, VFIO_USER_DEVICE_GET_IRQ_INFO, &i, sizeof(i), &i, sizeof(i));

	if (err)
		return vf_user_refused(u, d, err, "DEVICE_GET_IRQ_INFO");
	if (i.index != VFIO_PCI_MSIX_IRQ_INDEX || i.count > VF_VECTORS_MAX)
		return nonsense(u, d, "has other vectors than MSI-X, or more than 2048 of them");
	if (i.flags & VFIO_IRQ_INFO_EVENTFD)
		u->vf.info.nvectors = i.count;
	return 0;
}

static int device_info(struct vf_user *u, unsigned int *nregions, struct diag *d)
{
	struct vfio_user_device_info i = { .argsz = sizeof(i) };
	int err = vf_user_simple(u, VFIO_USER_DEVICE_GET_INFO, &i, sizeof(i), &i, sizeof(i));

	if (err)
		return vf_user_refused(u, d, err, "DEVICE_GET_INFO");
	if (!(i.flags & VFIO_DEVICE_FLAGS_PCI) || i.num_regions <= VFIO_PCI_CONFIG_REGION_INDEX ||
	    i.num_irqs <= VFIO_PCI_MSIX_IRQ_INDEX)
		return diag_set(d, -EOPNOTSUPP,
				"%s: the vfio-user server offers no PCI function (flags %#x, %u "
				"regions, %u interrupt types): virtio functions are PCI functions",
				u->vf.name, i.flags, i.num_regions, i.num_irqs);
	u->vf.info.can_reset = i.flags & VFIO_DEVICE_FLAGS_RESET;
	u->nirqs = i.num_irqs;
	*nregions = i.num_regions < VF_REGIONS ? i.num_regions : VF_REGIONS;
	return 0;
}

int vf_user_quiet(struct vf_user *u)
{
	const struct vf_ops *ops = u->vf.ops;
	uint16_t command;
	int err;

	err = ops->region_read(&u->vf, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, &command,
			       sizeof(command));
	if (err)
		return err;
	command = (command | PCI_COMMAND_MEMORY) & ~PCI_COMMAND_MASTER;
	return ops->region_write(&u->vf, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, &command,
				 sizeof(command));
}

int vf_user_negotiate(struct vf_user *u, struct diag *d)
{
	struct vf_info *info = &u->vf.info;
	unsigned int nregions = 0;
	int err = version(u, d);

	if (!err)
		err = device_info(u, &nregions, d);
	for (unsigned int i = 0; !err && i < nregions; i++)
		err = region(u, i, d);
	if (err)
		return err;
	if (info->regions[VFIO_PCI_CONFIG_REGION_INDEX].size < PCI_CFG_SPACE_SIZE ||
	    info->regions[VFIO_PCI_CONFIG_REGION_INDEX].size > PCI_CFG_SPACE_EXP_SIZE)
		return nonsense(u, d, "has a configuration space of neither 256 nor 4096 bytes");
	err = vectors(u, d);
	if (err)
		return err;
	info->coherent = true;
	info->needs_shared_ram = true;
	info->niova = 1;
	info->iova[0] = (struct vf_iova){ 0, UINT64_MAX };
	vf_user_mig_probe(u);
	err = info->can_reset ? u->vf.ops->reset(&u->vf) : 0;
	if (err)
		return vf_user_refused(u, d, err, "DEVICE_RESET");
	err = vf_user_quiet(u);
	return err ? vf_user_refused(u, d, err, "access to the configuration space") : 0;
}
