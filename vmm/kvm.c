/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm.c - every ioctl that unvmm asks of KVM, and nothing else: the list of what the host must be
 * able to do. Set-up by main, vcpu calls by their own thread, interrupt calls by any thread.
 */
#include <unvmm/gmem.h>
#include <unvmm/kvm.h>
#include <unvmm/platform.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CPUID_MAX 256
#define MSRS_MAX  512

static int xioctl(int fd, unsigned long req, unsigned long arg)
{
	int r = ioctl(fd, req, arg);

	return r < 0 ? -errno : r;
}

#define kioctl(fd, req, arg) xioctl((fd), (req), (unsigned long)(arg))

static int kvm_cap(const struct kvm *k, unsigned long cap)
{
	int fd = k->vm_fd >= 0 ? k->vm_fd : k->fd;
	int r = kioctl(fd, KVM_CHECK_EXTENSION, cap);

	return r < 0 ? 0 : r;
}

static int kvm_open_device(struct kvm *k, const char *path, struct diag *d)
{
	int version;

	k->fd = open(path, O_RDWR | O_CLOEXEC);
	if (k->fd < 0) {
		int err = -errno;

		if (err == -ENOENT)
			return diag_set(
				d, err,
				"%s is missing: load the kvm_intel or kvm_amd module, or switch "
				"virtualization on in the firmware",
				path);
		if (err == -EACCES || err == -EPERM)
			return diag_set(d, err,
					"%s may not be opened (%s): run as root or join the group "
					"'kvm'",
					path, strerror(-err));
		return diag_errno(d, err, "%s cannot be opened", path);
	}
	version = kioctl(k->fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return diag_set(d, -ENODEV, "%s speaks KVM API version %d instead of %d", path,
				version, KVM_API_VERSION);
	return 0;
}

/* Lists that the kernel sizes: ask with the largest that we accept. */
static int kvm_get_lists(struct kvm *k, struct diag *d)
{
	int err;

	k->cpuid = calloc(1, sizeof(*k->cpuid) + CPUID_MAX * sizeof(k->cpuid->entries[0]));
	k->msrs = calloc(1, sizeof(*k->msrs) + MSRS_MAX * sizeof(k->msrs->indices[0]));
	if (!k->cpuid || !k->msrs)
		return diag_set(d, -ENOMEM, "out of memory for the CPUID and MSR lists");
	k->cpuid->nent = CPUID_MAX;
	err = kioctl(k->fd, KVM_GET_SUPPORTED_CPUID, k->cpuid);
	if (err < 0)
		return diag_errno(d, err, "KVM does not say which CPUID leaves it supports");
	k->msrs->nmsrs = MSRS_MAX;
	err = kioctl(k->fd, KVM_GET_MSR_INDEX_LIST, k->msrs);
	if (err < 0)
		return diag_errno(d, err, "KVM does not say which MSRs it keeps");
	return 0;
}

/* Without these nothing works; each has a name that a user can look up. */
static int kvm_check_required(const struct kvm *k, struct diag *d)
{
	static const struct {
		unsigned long cap;
		const char *name;
	} required[] = {
		{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
		{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
		{ KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING" },
		{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
		{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
		{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
		{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
		{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
		{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(required); i++)
		if (!kvm_cap(k, required[i].cap))
			return diag_set(
				d, -ENOTSUP,
				"this host's KVM lacks %s, which unvmm needs (Linux 5.10 or "
				"later has it)",
				required[i].name);
	return 0;
}

static int kvm_create_vm(struct kvm *k, struct diag *d)
{
	do {
		k->vm_fd = kioctl(k->fd, KVM_CREATE_VM, 0);
	} while (k->vm_fd == -EINTR);
	if (k->vm_fd < 0) {
		int err = k->vm_fd;

		k->vm_fd = -1;
		return diag_errno(d, err, "KVM cannot create a virtual machine");
	}
	return 0;
}

/* Before the first log is started. Not there before Linux 5.5: then a log is the old kind. */
static bool enable_manual_log(struct kvm *k)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 };
	uint64_t wanted = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;

	if (((uint64_t)kvm_cap(k, cap.cap) & wanted) != wanted)
		return false;
	cap.args[0] = wanted;
	return kioctl(k->vm_fd, KVM_ENABLE_CAP, &cap) == 0;
}

int kvm_open(struct kvm *k, const char *path, struct diag *d)
{
	int err;

	*k = (struct kvm){ .fd = -1, .vm_fd = -1, .stats_fd = -1, .vfio_fd = -1 };
	err = kvm_open_device(k, path ? path : "/dev/kvm", d);
	if (!err)
		err = kvm_create_vm(k, d);
	if (!err)
		err = kvm_check_required(k, d);
	if (!err)
		err = kvm_get_lists(k, d);
	if (!err) {
		int size = kioctl(k->fd, KVM_GET_VCPU_MMAP_SIZE, 0);

		if (size < (int)sizeof(struct kvm_run))
			err = diag_set(d, -ENODEV, "KVM gives no kvm_run area");
		else
			k->run_size = (size_t)size;
	}
	if (err) {
		kvm_close(k);
		return err;
	}
	k->max_vcpus = (unsigned int)kvm_cap(k, KVM_CAP_MAX_VCPUS);
	k->max_slots = (unsigned int)kvm_cap(k, KVM_CAP_NR_MEMSLOTS);
	k->xsave_size = (size_t)kvm_cap(k, KVM_CAP_XSAVE2);
	if (k->xsave_size < sizeof(struct kvm_xsave))
		k->xsave_size = sizeof(struct kvm_xsave);
	k->has_xcrs = kvm_cap(k, KVM_CAP_XCRS);
	k->has_sregs2 = kvm_cap(k, KVM_CAP_SREGS2);
	k->has_tsc_scaling = kvm_cap(k, KVM_CAP_TSC_CONTROL);
	k->has_clock = kvm_cap(k, KVM_CAP_ADJUST_CLOCK);
	k->has_split_irqchip = kvm_cap(k, KVM_CAP_SPLIT_IRQCHIP);
	k->has_tsc_deadline = kvm_cap(k, KVM_CAP_TSC_DEADLINE_TIMER);
	k->has_kvmclock_ctrl = kvm_cap(k, KVM_CAP_KVMCLOCK_CTRL);
	k->stats_fd = kvm_stats_open(k->vm_fd);
	k->has_any_length_ioeventfd = kvm_cap(k, KVM_CAP_IOEVENTFD_ANY_LENGTH);
	k->has_manual_log = enable_manual_log(k);
	return 0;
}

void kvm_close(struct kvm *k)
{
	if (k->vfio_fd >= 0)
		close(k->vfio_fd);
	if (k->stats_fd >= 0)
		close(k->stats_fd);
	if (k->vm_fd >= 0)
		close(k->vm_fd);
	if (k->fd >= 0)
		close(k->fd);
	free(k->cpuid);
	free(k->msrs);
	*k = (struct kvm){ .fd = -1, .vm_fd = -1, .stats_fd = -1, .vfio_fd = -1 };
}

int kvm_set_slot(struct kvm *k, unsigned int slot, uint64_t gpa, uint64_t size, void *hva,
		 uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)hva,
	};

	return kioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &r);
}

int kvm_add_ram(struct kvm *k, const struct gmem *g, struct diag *d)
{
	for (unsigned int i = 0; i < g->nregions; i++) {
		const struct gmem_region *r = &g->regions[i];
		int err = kvm_set_slot(k, i, r->gpa, r->size, r->hva, 0);

		if (err)
			return diag_errno(d, err, "KVM refuses guest memory at 0x%llx",
					  (unsigned long long)r->gpa);
	}
	return 0;
}

static int kvm_flag_ram(struct kvm *k, const struct gmem *g, uint32_t flags)
{
	int err = 0;

	for (unsigned int i = 0; i < g->nregions && !err; i++)
		err = kvm_set_slot(k, i, g->regions[i].gpa, g->regions[i].size, g->regions[i].hva,
				   flags);
	return err;
}

int kvm_log_start(struct kvm *k, const struct gmem *g)
{
	int err = kvm_flag_ram(k, g, KVM_MEM_LOG_DIRTY_PAGES);

	if (err)
		kvm_log_stop(k, g);
	return err;
}

void kvm_log_stop(struct kvm *k, const struct gmem *g)
{
	/* Nothing to be done about a failure: the log goes on, and costs time. */
	(void)kvm_flag_ram(k, g, 0);
}

int kvm_log_get(struct kvm *k, unsigned int slot, uint64_t *bits)
{
	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = bits };

	return kioctl(k->vm_fd, KVM_GET_DIRTY_LOG, &log);
}

int kvm_log_clear(struct kvm *k, unsigned int slot, uint64_t first, uint32_t npages,
		  const uint64_t *bits)
{
	struct kvm_clear_dirty_log log = { .slot = slot,
					   .num_pages = npages,
					   .first_page = first,
					   .dirty_bitmap = (uint64_t *)(uintptr_t)bits };

	return k->has_manual_log ? kioctl(k->vm_fd, KVM_CLEAR_DIRTY_LOG, &log) : 0;
}

int kvm_create_irqchip(struct kvm *k, bool pit, struct diag *d)
{
	uint64_t identity = PLAT_KVM_IDENTITY_MAP;
	int err;

	/* Intel without unrestricted guest needs both; AMD accepts and ignores them. */
	err = kioctl(k->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	if (err < 0 && err != -EINVAL && err != -ENOTTY)
		return diag_errno(d, err, "KVM refuses the identity map address");
	err = kioctl(k->vm_fd, KVM_SET_TSS_ADDR, PLAT_KVM_TSS);
	if (err < 0 && err != -ENOTTY)
		return diag_errno(d, err, "KVM refuses the TSS address");
	err = kioctl(k->vm_fd, KVM_CREATE_IRQCHIP, 0);
	if (err < 0)
		return diag_errno(d, err, "KVM cannot create the interrupt controllers");
	if (pit) {
		struct kvm_pit_config config = { .flags = KVM_PIT_SPEAKER_DUMMY };

		err = kioctl(k->vm_fd, KVM_CREATE_PIT2, &config);
		if (err < 0)
			return diag_errno(d, err, "KVM cannot create the interval timer (PIT)");
	}
	return 0;
}

int kvm_irq_line(struct kvm *k, unsigned int gsi, bool level)
{
	struct kvm_irq_level l = { .irq = gsi, .level = level };

	return kioctl(k->vm_fd, KVM_IRQ_LINE, &l);
}

int kvm_set_routes(struct kvm *k, const struct kvm_irq_routing *table)
{
	return kioctl(k->vm_fd, KVM_SET_GSI_ROUTING, table);
}

int kvm_irqfd(struct kvm *k, int eventfd, unsigned int gsi, bool assign)
{
	struct kvm_irqfd f = { .fd = (uint32_t)eventfd,
			       .gsi = gsi,
			       .flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN };

	return kioctl(k->vm_fd, KVM_IRQFD, &f);
}

int kvm_ioeventfd(struct kvm *k, int eventfd, uint64_t addr, unsigned int len, bool pio,
		  bool assign)
{
	struct kvm_ioeventfd f = {
		.addr = addr,
		.len = len || k->has_any_length_ioeventfd ? len : 2,
		.fd = eventfd,
		.flags = (pio ? KVM_IOEVENTFD_FLAG_PIO : 0) |
			 (assign ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	return kioctl(k->vm_fd, KVM_IOEVENTFD, &f);
}

int kvm_create_vcpu(struct kvm *k, unsigned int id, struct kvm_run **run, struct diag *d)
{
	int fd = kioctl(k->vm_fd, KVM_CREATE_VCPU, id), err;
	void *p;

	if (fd < 0)
		return diag_errno(d, fd, "KVM cannot create vcpu %u", id);
	p = mmap(NULL, k->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		err = -errno;
		close(fd);
		return diag_errno(d, err, "cannot map the run area of vcpu %u", id);
	}
	*run = p;
	return fd;
}

void kvm_destroy_vcpu(struct kvm *k, int vcpu_fd, struct kvm_run *run)
{
	munmap(run, k->run_size);
	close(vcpu_fd);
}

int kvm_vcpu_set_cpuid(int vcpu_fd, const struct kvm_cpuid2 *cpuid)
{
	return kioctl(vcpu_fd, KVM_SET_CPUID2, cpuid);
}

int kvm_vcpu_set_msrs(int vcpu_fd, const struct kvm_msr_entry *msrs, unsigned int n,
		      uint32_t *refused, unsigned int nrefused)
{
	int count = 0;

	for (unsigned int i = 0; i < n; i++) {
		union {
			struct kvm_msrs m;
			uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
		} one = { .m = { .nmsrs = 1 } };
		int r;

		memcpy(one.room + sizeof(one.m), &msrs[i], sizeof(msrs[i]));
		r = kioctl(vcpu_fd, KVM_SET_MSRS, &one);
		if (r < 0)
			return r;
		if (r == 1)
			continue;
		if ((unsigned int)count < nrefused)
			refused[count] = msrs[i].index;
		count++;
	}
	return count;
}

int kvm_vcpu_get_msrs(int vcpu_fd, struct kvm_msr_entry *msrs, unsigned int n)
{
	struct kvm_msrs *m = calloc(1, sizeof(*m) + n * sizeof(*msrs));
	int r;

	if (!m)
		return -ENOMEM;
	m->nmsrs = n;
	memcpy(m->entries, msrs, n * sizeof(*msrs));
	r = kioctl(vcpu_fd, KVM_GET_MSRS, m);
	if (r > 0)
		memcpy(msrs, m->entries, (size_t)r * sizeof(*msrs));
	free(m);
	return r;
}

int kvm_vcpu_get_regs(int vcpu_fd, struct kvm_regs *regs)
{
	return kioctl(vcpu_fd, KVM_GET_REGS, regs);
}

int kvm_vcpu_set_regs(int vcpu_fd, const struct kvm_regs *regs)
{
	return kioctl(vcpu_fd, KVM_SET_REGS, regs);
}

int kvm_vcpu_get_sregs(int vcpu_fd, struct kvm_sregs *sregs)
{
	return kioctl(vcpu_fd, KVM_GET_SREGS, sregs);
}

int kvm_vcpu_set_sregs(int vcpu_fd, const struct kvm_sregs *sregs)
{
	return kioctl(vcpu_fd, KVM_SET_SREGS, sregs);
}

int kvm_vcpu_get_sregs2(int vcpu_fd, struct kvm_sregs2 *sregs)
{
	return kioctl(vcpu_fd, KVM_GET_SREGS2, sregs);
}

int kvm_vcpu_set_sregs2(int vcpu_fd, const struct kvm_sregs2 *sregs)
{
	return kioctl(vcpu_fd, KVM_SET_SREGS2, sregs);
}

int kvm_vcpu_get_xsave(const struct kvm *k, int vcpu_fd, struct kvm_xsave *xsave)
{
	/*
	 * The older call knows only the size that xsave_size has at least (api.rst, 4.42, 4.134).
	 */
	return kioctl(vcpu_fd,
		      k->xsave_size > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
		      xsave);
}

int kvm_vcpu_set_xsave(int vcpu_fd, const struct kvm_xsave *xsave)
{
	return kioctl(vcpu_fd, KVM_SET_XSAVE, xsave);
}

int kvm_vcpu_get_xcrs(int vcpu_fd, struct kvm_xcrs *xcrs)
{
	return kioctl(vcpu_fd, KVM_GET_XCRS, xcrs);
}

int kvm_vcpu_set_xcrs(int vcpu_fd, const struct kvm_xcrs *xcrs)
{
	return kioctl(vcpu_fd, KVM_SET_XCRS, xcrs);
}

int kvm_vcpu_get_debugregs(int vcpu_fd, struct kvm_debugregs *regs)
{
	return kioctl(vcpu_fd, KVM_GET_DEBUGREGS, regs);
}

int kvm_vcpu_set_debugregs(int vcpu_fd, const struct kvm_debugregs *regs)
{
	return kioctl(vcpu_fd, KVM_SET_DEBUGREGS, regs);
}

int kvm_vcpu_get_lapic(int vcpu_fd, struct kvm_lapic_state *lapic)
{
	return kioctl(vcpu_fd, KVM_GET_LAPIC, lapic);
}

int kvm_vcpu_set_lapic(int vcpu_fd, const struct kvm_lapic_state *lapic)
{
	return kioctl(vcpu_fd, KVM_SET_LAPIC, lapic);
}

int kvm_vcpu_get_mp_state(int vcpu_fd, uint32_t *state)
{
	struct kvm_mp_state mp;
	int err = kioctl(vcpu_fd, KVM_GET_MP_STATE, &mp);

	if (!err)
		*state = mp.mp_state;
	return err;
}

int kvm_vcpu_set_mp_state(int vcpu_fd, uint32_t state)
{
	struct kvm_mp_state mp = { .mp_state = state };

	return kioctl(vcpu_fd, KVM_SET_MP_STATE, &mp);
}

int kvm_vcpu_get_events(int vcpu_fd, struct kvm_vcpu_events *ev)
{
	return kioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, ev);
}

int kvm_vcpu_set_events(int vcpu_fd, const struct kvm_vcpu_events *ev)
{
	return kioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, ev);
}

int kvm_stats_open(int vm_or_vcpu_fd)
{
	return kioctl(vm_or_vcpu_fd, KVM_GET_STATS_FD, 0);
}

int kvm_vcpu_get_tsc_khz(int vcpu_fd, uint32_t *khz)
{
	int r = kioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0);

	if (r < 0)
		return r;
	*khz = (uint32_t)r;
	return 0;
}

int kvm_vcpu_set_tsc_khz(int vcpu_fd, uint32_t khz)
{
	return kioctl(vcpu_fd, KVM_SET_TSC_KHZ, (unsigned long)khz);
}

int kvm_get_clock(struct kvm *k, uint64_t *ns)
{
	struct kvm_clock_data data = { 0 };
	int err = kioctl(k->vm_fd, KVM_GET_CLOCK, &data);

	if (!err)
		*ns = data.clock;
	return err;
}

int kvm_set_clock(struct kvm *k, uint64_t ns)
{
	/* Without KVM_CLOCK_REALTIME: it goes on where it stood. */
	struct kvm_clock_data data = { .clock = ns };

	return kioctl(k->vm_fd, KVM_SET_CLOCK, &data);
}

int kvm_vcpu_was_paused(int vcpu_fd)
{
	return kioctl(vcpu_fd, KVM_KVMCLOCK_CTRL, 0);
}

int kvm_get_irqchip(struct kvm *k, struct kvm_irqchip *chip)
{
	return kioctl(k->vm_fd, KVM_GET_IRQCHIP, chip);
}

int kvm_set_irqchip(struct kvm *k, const struct kvm_irqchip *chip)
{
	return kioctl(k->vm_fd, KVM_SET_IRQCHIP, chip);
}

int kvm_get_pit(struct kvm *k, struct kvm_pit_state2 *pit)
{
	return kioctl(k->vm_fd, KVM_GET_PIT2, pit);
}

int kvm_set_pit(struct kvm *k, const struct kvm_pit_state2 *pit)
{
	return kioctl(k->vm_fd, KVM_SET_PIT2, pit);
}

static int kvm_vfio_attr(struct kvm *k, uint64_t what, int group_fd)
{
	int32_t fd = group_fd;
	struct kvm_device_attr attr = { .group = KVM_DEV_VFIO_GROUP,
					.attr = what,
					.addr = (uintptr_t)&fd };

	return kioctl(k->vfio_fd, KVM_SET_DEVICE_ATTR, &attr);
}

int kvm_vfio_add(struct kvm *k, int group_fd)
{
	if (k->vfio_fd < 0) {
		struct kvm_create_device create = { .type = KVM_DEV_TYPE_VFIO };
		int err = kioctl(k->vm_fd, KVM_CREATE_DEVICE, &create);

		if (err)
			return err;
		k->vfio_fd = (int)create.fd;
	}
	return kvm_vfio_attr(k, KVM_DEV_VFIO_GROUP_ADD, group_fd);
}

int kvm_vfio_del(struct kvm *k, int group_fd)
{
	return k->vfio_fd < 0 ? -ENOENT : kvm_vfio_attr(k, KVM_DEV_VFIO_GROUP_DEL, group_fd);
}

int kvm_vcpu_run(int vcpu_fd)
{
	return kioctl(vcpu_fd, KVM_RUN, 0);
}
