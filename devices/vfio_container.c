/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio_container.c - owns a VM's VFIO container: its groups, their registration
 * with KVM, and the DMA mappings that its functions share. Main while the
 * machine is built and ends; mappings on the vf thread too, under the
 * container's lock.
 */
#include "vfio_container.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <unvmm/log.h>
#include <unvmm/vm.h>

static int real_ioctl(const struct vfio_kernel *k, int fd, unsigned long request, void *arg)
{
	int r = ioctl(fd, request, arg);

	(void)k;
	return r < 0 ? -errno : r;
}

const struct vfio_kernel vfio_real_kernel = { .root = "", .ioctl = real_ioctl };

static int container_ioctl(const struct vfio *v, unsigned long request, void *arg)
{
	return v->kernel->ioctl(v->kernel, v->fd, request, arg);
}

/* Some requests take a number where others have a pointer. */
static void *number(uintptr_t n)
{
	return (void *)n;
}

static int open_node(const struct vfio_kernel *k, const char *name)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/dev/vfio/%s", k->root, name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int vfio_get_info(const struct vfio_kernel *k, int fd, unsigned long request, const void *question,
		  size_t fixed, void **info, size_t *len)
{
	uint32_t argsz = (uint32_t)fixed;

	/* All these structures begin with argsz; too small a one is answered with the
	 * right one. */
	for (int i = 0; i < 3; i++) {
		const size_t have = argsz;
		void *buf = calloc(1, have);
		int err;

		if (!buf)
			return -ENOMEM;
		memcpy(buf, question, fixed);
		memcpy(buf, &argsz, sizeof(argsz));
		err = k->ioctl(k, fd, request, buf);
		if (err < 0) {
			free(buf);
			return err;
		}
		memcpy(&argsz, buf, sizeof(argsz));
		if (argsz <= have) {
			*info = buf;
			*len = have;
			return 0;
		}
		free(buf);
		if (argsz > VFIO_INFO_MAX)
			break;
	}
	return -EPROTO;
}

/* --- groups
 * -----------------------------------------------------------------------------------
 */

static int open_group(struct vfio *v, struct vfio_group *g, const char *address, struct diag *d)
{
	char name[16];

	snprintf(name, sizeof(name), "%u", g->id);
	g->fd = open_node(v->kernel, name);
	if (g->fd >= 0)
		return 0;
	switch (g->fd) {
	case -EACCES:
	case -EPERM:
		return diag_set(d, g->fd,
				"%s: /dev/vfio/%s may not be opened; run as root, or give the file "
				"to your user: chown USER /dev/vfio/%s",
				address, name, name);
	case -EBUSY:
		return diag_set(d, g->fd,
				"%s is in use by another process, which holds /dev/vfio/%s; `fuser "
				"/dev/vfio/%s` names it",
				address, name, name);
	case -ENOENT:
		return diag_set(d, g->fd,
				"%s: there is no /dev/vfio/%s; load the module vfio-pci, then bind "
				"the function again: `unvmm vf bind %s`",
				address, name, address);
	}
	return diag_errno(d, g->fd, "%s: /dev/vfio/%s cannot be opened", address, name);
}

static int check_viable(struct vfio *v, const struct vfio_group *g, const char *address,
			struct diag *d)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	int err = v->kernel->ioctl(v->kernel, g->fd, VFIO_GROUP_GET_STATUS, &status);

	if (err < 0)
		return diag_errno(d, err, "%s: VFIO does not tell the state of group %u", address,
				  g->id);
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return vfio_group_not_viable(v->kernel->root, address, g->id, -EPERM, d);
	return 0;
}

/* What can be asked of the IOMMU is known, and may shrink, when a group is in.
 */
static int read_iommu(struct vfio *v, const char *address, struct diag *d)
{
	const struct vfio_iommu_type1_info question = { .argsz = sizeof(question) };
	struct vfio_iommu iommu;
	void *info;
	size_t len;
	int err = vfio_get_info(v->kernel, v->fd, VFIO_IOMMU_GET_INFO, &question, sizeof(question),
				&info, &len);

	if (!err) {
		err = vfio_parse_iommu(info, len, &iommu);
		free(info);
	}
	if (err)
		return diag_errno(d, err, "%s: VFIO does not tell what its IOMMU can do", address);
	if (!iommu.niova)
		return diag_set(d, -ENOTSUP,
				"%s: this kernel does not tell which addresses the IOMMU can "
				"translate; Linux 5.10 or later does",
				address);
	if (iommu.page_sizes && !(iommu.page_sizes & PAGE_SIZE_4K))
		return diag_set(d, -ENOTSUP,
				"%s: its IOMMU has no pages of 4 KiB (page sizes 0x%llx), which "
				"unvmm needs",
				address, (unsigned long long)iommu.page_sizes);
	v->iommu = iommu;
	v->coherent = container_ioctl(v, VFIO_CHECK_EXTENSION, number(VFIO_DMA_CC_IOMMU)) > 0;
	return 0;
}

static int attach_group(struct vfio *v, struct vfio_group *g, const char *address, struct diag *d)
{
	const bool first = !v->groups;
	int err = v->kernel->ioctl(v->kernel, g->fd, VFIO_GROUP_SET_CONTAINER, &v->fd);

	if (err < 0)
		return diag_errno(d, err,
				  first ? "%s: its IOMMU group cannot be put into a container"
					: "%s: its IOMMU does not get along with that of the "
					  "functions before it",
				  address);
	if (!first)
		return 0;
	if (container_ioctl(v, VFIO_CHECK_EXTENSION, number(VFIO_TYPE1v2_IOMMU)) <= 0)
		return diag_set(d, -ENOTSUP,
				"%s: VFIO has no type1 IOMMU here; load the module "
				"vfio_iommu_type1",
				address);
	err = container_ioctl(v, VFIO_SET_IOMMU, number(VFIO_TYPE1v2_IOMMU));
	if (err < 0)
		return diag_errno(d, err,
				  "%s: VFIO cannot set up its IOMMU (the kernel's log may know: on "
				  "some hosts interrupt remapping is off)",
				  address);
	return 0;
}

static int register_with_kvm(struct vfio *v, struct vfio_group *g, const char *address,
			     struct diag *d)
{
	int err;

	if (v->vm->kvm.vm_fd < 0)
		return 0;
	err = kvm_vfio_add(&v->vm->kvm, g->fd);
	if (err == -ENODEV)
		return 0;
	if (err)
		return diag_errno(d, err, "%s: KVM does not take its IOMMU group", address);
	g->kvm_knows = true;
	return 0;
}

static void drop_group(struct vfio *v, struct vfio_group *g)
{
	if (g->kvm_knows && kvm_vfio_del(&v->vm->kvm, g->fd))
		log_warn("KVM does not let go of IOMMU group %u", g->id);
	if (g->fd >= 0)
		close(g->fd);
	free(g);
}

static int get_group(struct vfio *v, unsigned int id, const char *address, struct vfio_group **out,
		     struct diag *d)
{
	struct vfio_group *g;
	int err;

	for (g = v->groups; g; g = g->next) {
		if (g->id == id) {
			g->refs++;
			*out = g;
			return 0;
		}
	}
	g = calloc(1, sizeof(*g));
	if (!g)
		return diag_set(d, -ENOMEM, "%s: out of memory", address);
	*g = (struct vfio_group){ .id = id, .fd = -1, .refs = 1 };
	err = open_group(v, g, address, d);
	if (!err)
		err = check_viable(v, g, address, d);
	if (!err)
		err = attach_group(v, g, address, d);
	if (!err)
		err = read_iommu(v, address, d);
	if (!err)
		err = register_with_kvm(v, g, address, d);
	if (err) {
		drop_group(v, g);
		return err;
	}
	g->next = v->groups;
	v->groups = g;
	*out = g;
	return 0;
}

static void put_group(struct vfio *v, struct vfio_group *g)
{
	struct vfio_group **p = &v->groups;

	if (--g->refs)
		return;
	while (*p != g)
		p = &(*p)->next;
	*p = g->next;
	drop_group(v, g);
}

/* --- the container
 * ----------------------------------------------------------------------------
 */

static int open_container(struct vfio *v, const char *address, struct diag *d)
{
	int version;

	v->fd = open_node(v->kernel, "vfio");
	if (v->fd == -ENOENT)
		return diag_set(d, v->fd,
				"%s: there is no /dev/vfio/vfio; load the module vfio-pci",
				address);
	if (v->fd < 0)
		return diag_errno(d, v->fd, "%s: /dev/vfio/vfio cannot be opened", address);
	version = container_ioctl(v, VFIO_GET_API_VERSION, NULL);
	if (version != VFIO_API_VERSION)
		return diag_set(d, version < 0 ? version : -ENOTSUP,
				"%s: /dev/vfio/vfio speaks VFIO API version %d instead of %d",
				address, version, VFIO_API_VERSION);
	return 0;
}

static void free_container(struct vfio *v)
{
	if (v->fd >= 0)
		close(v->fd);
	pthread_mutex_destroy(&v->lock);
	free(v->maps);
	v->vm->vfio = NULL;
	free(v);
}

/* VFIO would open a function twice for one process. */
static bool is_here(const struct vfio *v, const char *address)
{
	for (unsigned int i = 0; i < VFIO_SLOTS_MAX; i++)
		if (v->slots & 1ULL << i && !strcmp(v->addresses[i], address))
			return true;
	return false;
}

int vfio_join(struct vm *vm, const struct vfio_kernel *kernel, const char *address,
	      struct vfio **out, struct vfio_group **group, unsigned int *slot, struct diag *d)
{
	struct vfio *v = vm->vfio;
	struct rlimit lim;
	unsigned int id;
	int err = vfio_find_group(kernel->root, address, &id, d);

	if (err)
		return err;
	if (v && is_here(v, address))
		return diag_set(d, -EBUSY, "%s is given to this guest twice", address);
	if (v && v->slots == UINT64_MAX)
		return diag_set(d, -ENOSPC, "%s: more than %d functions", address, VFIO_SLOTS_MAX);
	if (!v) {
		v = calloc(1, sizeof(*v));
		if (!v)
			return diag_set(d, -ENOMEM, "%s: out of memory", address);
		*v = (struct vfio){ .vm = vm, .kernel = kernel, .fd = -1 };
		v->memlock = getrlimit(RLIMIT_MEMLOCK, &lim) ? UINT64_MAX : lim.rlim_cur;
		pthread_mutex_init(&v->lock, NULL);
		vm->vfio = v;
		err = open_container(v, address, d);
	}
	if (!err) {
		pthread_mutex_lock(&v->lock);
		err = get_group(v, id, address, group, d);
		pthread_mutex_unlock(&v->lock);
	}
	if (err) {
		if (!v->slots)
			free_container(v);
		return err;
	}
	*slot = (unsigned int)__builtin_ctzll(~v->slots);
	v->slots |= 1ULL << *slot;
	snprintf(v->addresses[*slot], PCI_ADDRESS_LEN, "%s", address);
	*out = v;
	return 0;
}

/* --- mappings
 * ---------------------------------------------------------------------------------
 */

static bool iova_usable(const struct vfio *v, uint64_t iova, uint64_t size)
{
	for (unsigned int i = 0; i < v->iommu.niova; i++) {
		const struct vf_iova *r = &v->iommu.iova[i];

		if (iova >= r->first && iova <= r->last && size - 1 <= r->last - iova)
			return true;
	}
	return false;
}

/* Lists the usable ranges: "0x0-0xfedfffff, 0xfef00000-0x7fffffffff". */
static void list_iova(const struct vfio *v, char *text, size_t cap)
{
	size_t used = 0;

	text[0] = '\0';
	for (unsigned int i = 0; i < v->iommu.niova; i++) {
		int n = snprintf(text + used, cap - used, "%s0x%llx-0x%llx", i ? ", " : "",
				 (unsigned long long)v->iommu.iova[i].first,
				 (unsigned long long)v->iommu.iova[i].last);

		if (n < 0 || (size_t)n >= cap - used)
			return;
		used += (size_t)n;
	}
}

static int map_failed(const struct vfio *v, const char *name, uint64_t iova, uint64_t size, int err,
		      struct diag *d)
{
	const uint64_t mib = (size + v->locked + MiB(1) - 1) >> 20;

	if (err == -ENOMEM && v->memlock < size + v->locked)
		return diag_set(d, err,
				"%s: %llu MiB of guest memory must be locked for its DMA, and this "
				"process may lock %llu MiB; raise the limit (`ulimit -l`, or "
				"LimitMEMLOCK= of its service)",
				name, (unsigned long long)mib,
				(unsigned long long)(v->memlock >> 20));
	if (err == -ENOSPC)
		return diag_set(d, err,
				"%s: VFIO's number of DMA mappings is used up; raise "
				"vfio_iommu_type1.dma_entry_limit",
				name);
	return diag_errno(d, err, "%s: the IOMMU does not map 0x%llx bytes at 0x%llx", name,
			  (unsigned long long)size, (unsigned long long)iova);
}

/* The mapping that overlaps [iova, iova + size), or NULL. Lock held. */
static struct vfio_map *find_map(struct vfio *v, uint64_t iova, uint64_t size)
{
	for (unsigned int i = 0; i < v->nmaps; i++)
		if (ranges_overlap(v->maps[i].iova, v->maps[i].size, iova, size))
			return &v->maps[i];
	return NULL;
}

static int new_map(struct vfio *v, unsigned int slot, const char *name, uint64_t iova,
		   uint64_t size, void *hva, struct diag *d)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)hva,
		.iova = iova,
		.size = size,
	};
	struct vfio_map *maps = realloc(v->maps, (v->nmaps + 1) * sizeof(*maps));
	int err;

	if (!maps)
		return diag_set(d, -ENOMEM, "%s: out of memory", name);
	v->maps = maps;
	err = container_ioctl(v, VFIO_IOMMU_MAP_DMA, &map);
	if (err < 0)
		return map_failed(v, name, iova, size, err, d);
	v->maps[v->nmaps++] =
		(struct vfio_map){ .iova = iova, .size = size, .hva = hva, .users = 1ULL << slot };
	v->locked += size;
	return 0;
}

int vfio_map(struct vfio *v, unsigned int slot, const char *name, uint64_t iova, uint64_t size,
	     void *hva, struct diag *d)
{
	const uint64_t user = 1ULL << slot;
	struct vfio_map *m;
	int err = 0;

	if (!size || (iova | size | (uintptr_t)hva) % PAGE_SIZE_4K)
		return diag_set(d, -EINVAL, "%s: a DMA mapping that is not of whole pages", name);
	pthread_mutex_lock(&v->lock);
	if (!iova_usable(v, iova, size)) {
		char usable[256];

		list_iova(v, usable, sizeof(usable));
		err = diag_set(d, -EINVAL,
			       "%s: the IOMMU cannot translate all of 0x%llx-0x%llx, only %s; less "
			       "guest memory may fit",
			       name, (unsigned long long)iova,
			       (unsigned long long)(iova + size - 1), usable);
		goto out;
	}
	m = find_map(v, iova, size);
	if (!m) {
		err = new_map(v, slot, name, iova, size, hva, d);
		goto out;
	}
	if (m->iova != iova || m->size != size || m->hva != hva || m->users & user) {
		err = diag_set(d, -EEXIST, "%s: 0x%llx-0x%llx is mapped already", name,
			       (unsigned long long)iova, (unsigned long long)(iova + size - 1));
		goto out;
	}
	m->users |= user;
out:
	pthread_mutex_unlock(&v->lock);
	return err;
}

/* Takes a function off a mapping; without users it goes. Lock held. */
static int drop_map(struct vfio *v, struct vfio_map *m, uint64_t user)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap),
						    .iova = m->iova,
						    .size = m->size };
	int err;

	if (m->users != user) {
		m->users &= ~user;
		return 0;
	}
	err = container_ioctl(v, VFIO_IOMMU_UNMAP_DMA, &unmap);
	if (err < 0)
		return err;
	v->locked -= m->size;
	*m = v->maps[--v->nmaps];
	return 0;
}

int vfio_unmap(struct vfio *v, unsigned int slot, uint64_t iova, uint64_t size)
{
	const uint64_t user = 1ULL << slot;
	int err = -ENOENT;

	pthread_mutex_lock(&v->lock);
	for (unsigned int i = 0; i < v->nmaps; i++) {
		struct vfio_map *m = &v->maps[i];

		if (m->iova == iova && m->size == size && m->users & user) {
			err = drop_map(v, m, user);
			break;
		}
	}
	pthread_mutex_unlock(&v->lock);
	return err;
}

void vfio_leave(struct vfio *v, struct vfio_group *group, unsigned int slot)
{
	const uint64_t user = 1ULL << slot;

	pthread_mutex_lock(&v->lock);
	/* The last ones take each other's place; what cannot be unmapped goes with
	 * the container.
	 */
	for (unsigned int i = v->nmaps; i--;)
		if (v->maps[i].users & user && drop_map(v, &v->maps[i], user))
			v->maps[i].users &= ~user;
	put_group(v, group);
	pthread_mutex_unlock(&v->lock);
	v->slots &= ~user;
	if (!v->slots)
		free_container(v);
}
