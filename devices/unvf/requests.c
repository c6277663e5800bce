/* SPDX-License-Identifier: Apache-2.0 */
/*
 * requests.c - what each message of a vfio-user client asks for, and its answer. Every length,
 * index and address in it is the client's and checked here. Main thread.
 */
#include "server.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define JSON_DEPTH 8

/* The request's struct, if the body is long enough for one. Bodies may be longer. */
#define BODY(s, type) ((const type *)body_of(s, sizeof(type)))

static const void *body_of(const struct server *s, size_t len)
{
	return server_body_len(s) >= len ? server_body(s) : NULL;
}

/* --- VERSION ---------------------------------------------------------------------------------- */

/* Descriptors that the client takes in one message. -EINVAL if the text is not what it should be.
 */
static int parse_capabilities(struct server *s, const char *text, size_t len)
{
	struct json_tokener *tok;
	struct json_object *root, *caps, *fds;
	int err = -EINVAL;

	if (!len)
		return 0;
	if (text[len - 1])
		return -EINVAL;
	tok = json_tokener_new_ex(JSON_DEPTH);
	if (!tok)
		return -ENOMEM;
	root = json_tokener_parse_ex(tok, text, (int)len);
	if (json_object_is_type(root, json_type_object)) {
		err = 0;
		if (json_object_object_get_ex(root, "capabilities", &caps) &&
		    json_object_object_get_ex(caps, "max_msg_fds", &fds) &&
		    json_object_get_int(fds) > 0)
			s->client_fds = (unsigned int)json_object_get_int(fds);
	}
	json_object_put(root);
	json_tokener_free(tok);
	return err;
}

static int do_version(struct server *s)
{
	const struct vfio_user_version *v = BODY(s, struct vfio_user_version);
	const struct fn_options *opt = &s->f->opt;
	struct vfio_user_version *reply;
	char text[VFIO_USER_QEMU_VERSION_REPLY];
	int err, len;

	if (!v || s->agreed || v->major != VFIO_USER_MAJOR)
		return -EINVAL;
	err = parse_capabilities(s, (const char *)(v + 1), server_body_len(s) - sizeof(*v));
	if (err)
		return err;
	/* Short, because QEMU's client takes no more than it has sent. */
	len = snprintf(text, sizeof(text),
		       "{\"capabilities\":{\"max_msg_fds\":%u,\"max_data_xfer_size\":%u,"
		       "\"max_dma_maps\":%u,\"pgsizes\":4096%s}}",
		       SERVER_FDS_MAX, SERVER_DATA_MAX, GMEM_SHARED_MAX,
		       opt->state || opt->dirty_log ? ",\"migration\":{\"pgsize\":4096}" : "");
	reply = server_reply(s, sizeof(*reply) + (size_t)len + 1);
	reply->major = VFIO_USER_MAJOR;
	reply->minor = v->minor < VFIO_USER_MINOR ? v->minor : VFIO_USER_MINOR;
	memcpy(reply + 1, text, (size_t)len + 1);
	s->agreed = true;
	return 0;
}

/* --- DMA -------------------------------------------------------------------------------------- */

static int mapped(struct server *s)
{
	if (!s->f->memory_changed)
		return -EINPROGRESS;
	if (s->memory.err)
		gmem_region_unmap(&s->memory.region);
	return s->memory.err;
}

static int do_dma_map(struct server *s)
{
	const struct vfio_user_dma_map *m = BODY(s, struct vfio_user_dma_map);
	int err;

	/* What may be written only is not worth its own kind of region. */
	if (!m || s->nfds > 1 || m->flags & ~(VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE) ||
	    !(m->flags & VFIO_DMA_MAP_FLAG_READ))
		return -EINVAL;
	err = gmem_region_map(&s->memory.region, m->iova, m->size, s->nfds ? s->fds[0] : -1,
			      m->offset, !(m->flags & VFIO_DMA_MAP_FLAG_WRITE));
	if (err)
		return err;
	s->f->memory_changed = false;
	s->memory.change = FN_MEMORY_ADD;
	s->step = mapped;
	fn_engine_memory(s->f, &s->memory);
	return -EINPROGRESS;
}

static int unmapped(struct server *s)
{
	const struct vfio_user_dma_unmap *u = BODY(s, struct vfio_user_dma_unmap);

	if (!s->f->memory_changed)
		return -EINPROGRESS;
	if (s->memory.change == FN_MEMORY_CLEAR)
		gmem_destroy(&s->memory.all);
	else if (!s->memory.err)
		gmem_region_unmap(&s->memory.region);
	s->f->paused &= ~FN_PAUSE_UNMAP;
	function_update(s->f);
	if (!s->memory.err)
		memcpy(server_reply(s, sizeof(*u)), u, sizeof(*u));
	return s->memory.err;
}

static int unmap(struct server *s)
{
	if (!function_rests(s->f))
		return -EINPROGRESS;
	s->f->memory_changed = false;
	s->step = unmapped;
	fn_engine_memory(s->f, &s->memory);
	return -EINPROGRESS;
}

static bool is_mapped(const struct gmem *g, uint64_t iova, uint64_t size)
{
	for (unsigned int i = 0; i < g->nshared; i++)
		if (g->shared[i].gpa == iova && g->shared[i].size == size)
			return true;
	return false;
}

/* The answer says that the function does not touch the memory any more: it rests meanwhile. */
static int do_dma_unmap(struct server *s)
{
	const struct vfio_user_dma_unmap *u = BODY(s, struct vfio_user_dma_unmap);

	if (!u || u->flags & ~VFIO_DMA_UNMAP_FLAG_ALL)
		return -EINVAL;
	if (u->flags && (u->iova || u->size))
		return -EINVAL;
	if (!u->flags && !is_mapped(&s->f->vm.mem, u->iova, u->size))
		return -ENOENT;
	s->memory.err = -EINPROGRESS;
	s->memory.change = u->flags ? FN_MEMORY_CLEAR : FN_MEMORY_REMOVE;
	s->memory.region = (struct gmem_region){ .gpa = u->iova, .size = u->size };
	s->f->paused |= FN_PAUSE_UNMAP;
	function_update(s->f);
	s->step = unmap;
	return -EINPROGRESS;
}

/* --- what there is ---------------------------------------------------------------------------- */

static int do_info(struct server *s)
{
	const struct vfio_user_device_info *in = BODY(s, struct vfio_user_device_info);
	struct vfio_user_device_info *out;

	if (!in || in->argsz < sizeof(*in))
		return -EINVAL;
	out = server_reply(s, sizeof(*out));
	*out = (struct vfio_user_device_info){ .argsz = sizeof(*out),
					       .flags = VFIO_DEVICE_FLAGS_RESET |
							VFIO_DEVICE_FLAGS_PCI,
					       .num_regions = VFIO_PCI_NUM_REGIONS,
					       .num_irqs = VFIO_PCI_NUM_IRQS };
	return 0;
}

/* With struct vfio_region_info_cap_sparse_mmap and its one area. */
struct sparse_reply {
	struct vfio_region_info info;
	struct vfio_info_cap_header header;
	uint32_t nr_areas, reserved;
	struct vfio_region_sparse_mmap_area area;
};

static int do_region_info(struct server *s)
{
	const struct vfio_region_info *in = BODY(s, struct vfio_region_info);
	const struct function *f = s->f;
	struct sparse_reply *out;
	bool mapped_bar;

	if (!in || in->argsz < sizeof(*in) || in->index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;
	mapped_bar = in->index == f->fn_bar && f->opt.doorbell == FN_DOORBELL_MMAP;
	out = server_reply(s, sizeof(*out));
	memset(out, 0, sizeof(*out));
	out->info.argsz = sizeof(out->info);
	out->info.index = in->index;
	out->info.size = fn_region_size(f, in->index);
	/* Where the region begins in the descriptor that comes with it. */
	out->info.offset = 0;
	if (out->info.size)
		out->info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	s->body_len = sizeof(out->info);
	if (!mapped_bar)
		return 0;
	out->info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
	out->info.argsz = sizeof(*out);
	if (in->argsz < sizeof(*out))
		return 0; /* the client asks again, with room for the capability */
	out->info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
	out->info.cap_offset = sizeof(out->info);
	out->header = (struct vfio_info_cap_header){ .id = VFIO_REGION_INFO_CAP_SPARSE_MMAP,
						     .version = 1 };
	out->nr_areas = 1;
	out->area = (struct vfio_region_sparse_mmap_area){ .offset = FN_DOORBELLS,
							   .size = f->doorbell_size };
	s->body_len = sizeof(*out);
	s->out_fds[0] = f->bar_fd;
	s->nout_fds = 1;
	return 0;
}

/* As libvfio-user has had them since 2022; a client tells by the length of an entry. */
static int do_io_fds(struct server *s)
{
	const struct vfio_user_io_fds *in = BODY(s, struct vfio_user_io_fds);
	const struct function *f = s->f;
	struct vfio_user_io_fd_48 *entry;
	struct vfio_user_io_fds *out;
	uint32_t n = 0, argsz;

	if (!in || in->argsz < sizeof(*in) || in->flags || in->count ||
	    in->index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;
	/* Doorbells that have none in the one message that there can be are rung by REGION_WRITE.
	 */
	if (in->index == f->fn_bar && f->opt.doorbell == FN_DOORBELL_IOEVENTFD)
		n = f->v->nqueues < s->client_fds ? f->v->nqueues : s->client_fds;
	argsz = (uint32_t)(sizeof(*out) + n * sizeof(*entry));
	out = server_reply(s, argsz);
	*out = (struct vfio_user_io_fds){ .argsz = argsz, .index = in->index, .count = n };
	if (in->argsz < argsz) {
		s->body_len = sizeof(*out);
		return 0;
	}
	entry = (struct vfio_user_io_fd_48 *)(out + 1);
	for (uint32_t i = 0; i < n; i++) {
		entry[i] = (struct vfio_user_io_fd_48){
			.fd = { .offset = FN_DOORBELLS + i * f->multiplier,
				.size = 2,
				.fd_index = i,
				.type = VFIO_USER_IO_FD_IOEVENTFD,
				.flags = VFIO_USER_IO_FD_DATAMATCH },
			.datamatch = i,
		};
		s->out_fds[i] = f->doorbell_fds[i];
	}
	s->nout_fds = n;
	return 0;
}

/* --- interrupts ------------------------------------------------------------------------------- */

/* How many interrupts an index has, and where they begin in function.vectors. */
static uint32_t irqs_of(const struct function *f, uint32_t index, uint32_t *first)
{
	*first =
		index == VFIO_PCI_MSIX_IRQ_INDEX ? 0 : f->nvectors + index - VFIO_PCI_ERR_IRQ_INDEX;
	if (index == VFIO_PCI_MSIX_IRQ_INDEX)
		return f->nvectors;
	return index == VFIO_PCI_ERR_IRQ_INDEX || index == VFIO_PCI_REQ_IRQ_INDEX;
}

static int do_irq_info(struct server *s)
{
	const struct vfio_irq_info *in = BODY(s, struct vfio_irq_info);
	struct vfio_irq_info *out;
	uint32_t first;

	if (!in || in->argsz < sizeof(*in) || in->index >= VFIO_PCI_NUM_IRQS)
		return -EINVAL;
	out = server_reply(s, sizeof(*out));
	*out = (struct vfio_irq_info){ .argsz = sizeof(*out), .index = in->index };
	out->count = irqs_of(s->f, in->index, &first);
	out->flags = out->count ? VFIO_IRQ_INFO_EVENTFD : 0;
	return 0;
}

/* Only an eventfd is written to: something else could make the writer wait. */
static bool is_eventfd(int fd)
{
	char path[32], link[32];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return access("/proc/self/fd", F_OK) != 0;
	link[n] = '\0';
	return !strcmp(link, "anon_inode:[eventfd]");
}

static int wire_vectors(struct server *s, uint32_t first, const struct vfio_irq_set *set)
{
	if (s->nfds && s->nfds != set->count)
		return -EINVAL;
	for (unsigned int i = 0; i < s->nfds; i++)
		if (!is_eventfd(s->fds[i]))
			return -EINVAL;
	for (uint32_t i = 0; i < set->count; i++) {
		function_wire(s->f, first + set->start + i, s->nfds ? s->fds[i] : -1);
		if (s->nfds)
			s->fds[i] = -1;
	}
	return 0;
}

static int do_set_irqs(struct server *s)
{
	const struct vfio_irq_set *set = BODY(s, struct vfio_irq_set);
	uint32_t data, action, vectors, first;

	if (!set || set->argsz < sizeof(*set) || set->index >= VFIO_PCI_NUM_IRQS)
		return -EINVAL;
	data = set->flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
	action = set->flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
	vectors = irqs_of(s->f, set->index, &first);
	if (set->flags != (data | action) || !is_power_of_2(data) || !is_power_of_2(action) ||
	    set->start > vectors || set->count > vectors - set->start)
		return -EINVAL;
	if (data == VFIO_IRQ_SET_DATA_BOOL && server_body_len(s) < sizeof(*set) + set->count)
		return -EINVAL;
	if (data == VFIO_IRQ_SET_DATA_EVENTFD)
		/* An eventfd that masks is not supported, as libvfio-user has it. */
		return action == VFIO_IRQ_SET_ACTION_TRIGGER ? wire_vectors(s, first, set) : 0;
	if (data == VFIO_IRQ_SET_DATA_NONE && action == VFIO_IRQ_SET_ACTION_TRIGGER &&
	    !set->count && !set->start) {
		for (uint32_t v = 0; v < vectors; v++)
			function_wire(s->f, first + v, -1);
		return 0;
	}
	for (uint32_t i = 0; i < set->count; i++) {
		if (data == VFIO_IRQ_SET_DATA_BOOL && !set->data[i])
			continue;
		if (action == VFIO_IRQ_SET_ACTION_TRIGGER)
			function_interrupt(s->f, first + set->start + i);
		else
			function_mask(s->f, first + set->start + i,
				      action == VFIO_IRQ_SET_ACTION_MASK);
	}
	return 0;
}

/* --- registers -------------------------------------------------------------------------------- */

static bool access_ok(const struct server *s, const struct vfio_user_region_access *a)
{
	return a && a->region < VFIO_PCI_NUM_REGIONS && a->count && a->count <= SERVER_DATA_MAX &&
	       range_within(a->offset, a->count, 0, fn_region_size(s->f, a->region));
}

static int do_region_read(struct server *s)
{
	const struct vfio_user_region_access *a = BODY(s, struct vfio_user_region_access);
	struct vfio_user_region_access *out;

	if (!access_ok(s, a))
		return -EINVAL;
	out = server_reply(s, sizeof(*out) + a->count);
	*out = *a;
	fn_region_read(s->f, a->region, a->offset, (uint8_t *)(out + 1), a->count);
	return 0;
}

static int write_done(struct server *s)
{
	const struct vfio_user_region_access *a = BODY(s, struct vfio_user_region_access);

	if (s->f->moving)
		return -EINPROGRESS;
	memcpy(server_reply(s, sizeof(*a)), a, sizeof(*a));
	return 0;
}

static int do_region_write(struct server *s)
{
	const struct vfio_user_region_access *a = BODY(s, struct vfio_user_region_access);

	if (!access_ok(s, a) || server_body_len(s) - sizeof(*a) < a->count)
		return -EINVAL;
	fn_region_write(s->f, a->region, a->offset, (const uint8_t *)(a + 1), a->count);
	/* Whoever has switched bus mastering off knows that no DMA follows. A reset is polled for.
	 */
	if (a->region == VFIO_PCI_CONFIG_REGION_INDEX && !fn_config_master(s->f)) {
		s->step = write_done;
		return -EINPROGRESS;
	}
	memcpy(server_reply(s, sizeof(*a)), a, sizeof(*a));
	return 0;
}

static int reset_done(struct server *s)
{
	return s->f->reset_pending || s->f->moving ? -EINPROGRESS : 0;
}

static int do_reset(struct server *s)
{
	/* The only way out of that state; any other stays. */
	if (s->state == VFIO_DEVICE_STATE_ERROR) {
		server_mig_reset(s);
		s->f->paused &= ~FN_PAUSE_STATE;
	}
	function_reset(s->f);
	s->step = reset_done;
	return -EINPROGRESS;
}

/* --- all of them ------------------------------------------------------------------------------ */

int server_request(struct server *s)
{
	static int (*const requests[])(struct server * s) = {
		[VFIO_USER_VERSION] = do_version,
		[VFIO_USER_DMA_MAP] = do_dma_map,
		[VFIO_USER_DMA_UNMAP] = do_dma_unmap,
		[VFIO_USER_DEVICE_GET_INFO] = do_info,
		[VFIO_USER_DEVICE_GET_REGION_INFO] = do_region_info,
		[VFIO_USER_DEVICE_GET_REGION_IO_FDS] = do_io_fds,
		[VFIO_USER_DEVICE_GET_IRQ_INFO] = do_irq_info,
		[VFIO_USER_DEVICE_SET_IRQS] = do_set_irqs,
		[VFIO_USER_REGION_READ] = do_region_read,
		[VFIO_USER_REGION_WRITE] = do_region_write,
		[VFIO_USER_DEVICE_RESET] = do_reset,
		[VFIO_USER_DEVICE_FEATURE] = server_feature,
		[VFIO_USER_MIG_DATA_READ] = server_mig_read,
		[VFIO_USER_MIG_DATA_WRITE] = server_mig_write,
	};
	uint16_t cmd = server_header(s)->cmd;

	if (cmd >= ARRAY_SIZE(requests) || !requests[cmd])
		return -EINVAL;
	return requests[cmd](s);
}
