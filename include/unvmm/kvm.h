/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm.h - the KVM API as unvmm uses it. vmm/kvm.c is the only file that calls KVM's ioctls, so it
 * can be read as the list of what is asked of the host, and replaced.
 *
 * Source: Documentation/virt/kvm/api.rst. Every function returns 0 (or a count / descriptor where
 * it says so) or -errno and never retries silently; the ones that take a diag say which step of
 * the set-up was refused. Thread: set-up by main; the vcpu calls by that vcpu's own thread unless
 * it is known to be stopped; irq calls by any thread.
 */
#ifndef UNVMM_KVM_H
#define UNVMM_KVM_H

#include <linux/kvm.h>

#include <unvmm/diag.h>

struct gmem;

struct kvm {
	int fd; /* /dev/kvm */
	int vm_fd;
	int stats_fd;	   /* the VM's statistics; -1: none */
	int vfio_fd;	   /* the VM's kvm-vfio device; -1: not made yet */
	size_t run_size;   /* bytes of a vcpu's kvm_run mapping */
	size_t xsave_size; /* bytes that KVM_GET_XSAVE2 returns */
	unsigned int max_vcpus;
	unsigned int max_slots;
	bool has_split_irqchip; /* capabilities that decide something later */
	bool has_tsc_deadline;
	bool has_kvmclock_ctrl;
	bool has_xcrs;
	bool has_any_length_ioeventfd;
	bool has_sregs2; /* PAE's page directory pointers travel, too */
	bool has_tsc_scaling;
	bool has_clock;		   /* kvm-clock can be read and set */
	bool has_manual_log;	   /* the dirty log is cleared by kvm_log_clear() only */
	struct kvm_cpuid2 *cpuid;  /* what the host's KVM supports; owned */
	struct kvm_msr_list *msrs; /* MSRs that make up a vcpu's state; owned */
};

/* Opens /dev/kvm (or `path`), checks version and capabilities, creates the VM. */
int kvm_open(struct kvm *k, const char *path, struct diag *d) must_check;
void kvm_close(struct kvm *k);

/*
 * Memory slots. `flags`: KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY. size 0 deletes the slot.
 * Deleting makes KVM drop every shadow entry of the VM, so they are done in batches.
 */
int kvm_set_slot(struct kvm *k, unsigned int slot, uint64_t gpa, uint64_t size, void *hva,
		 uint32_t flags) must_check;
/* Sets all RAM of g as slots 0..n-1. Before kvm_create_irqchip(): slots after it cost 4 to 13 ms on
 * some kernels. */
int kvm_add_ram(struct kvm *k, const struct gmem *g, struct diag *d) must_check;

/*
 * The log of the pages of RAM that vcpus and KVM wrote, one bitmap per slot (api.rst, 4.8, 4.117).
 * A ring per vcpu is the other way that KVM has. To collect and clear what was written of 256 MiB
 * took, with 16, 256 and 4096 pages, 5, 9 and 45 us by the bitmap, 1, 11 and 133 us by the ring:
 * nothing of a downtime either way. But a ring must be decided on before the first vcpu is made,
 * and a full one makes the guest exit.
 *
 * With has_manual_log a started log has every bit set and write-protects nothing: that is done by
 * kvm_log_clear() for the pages that are about to be read, so that a page that is written again
 * before its turn costs nothing. Without, kvm_log_get() clears all that it reports.
 *
 * bits: one per page of the slot, in whole words; kvm_log_get() overwrites them. kvm_log_clear():
 * `first` is a multiple of 64, and so is npages unless the slot ends there. Any thread.
 */
int kvm_log_start(struct kvm *k, const struct gmem *g) must_check;
void kvm_log_stop(struct kvm *k, const struct gmem *g);
int kvm_log_get(struct kvm *k, unsigned int slot, uint64_t *bits) must_check;
int kvm_log_clear(struct kvm *k, unsigned int slot, uint64_t first, uint32_t npages,
		  const uint64_t *bits) must_check;

/* In-kernel PICs, I/O APIC and local APICs, 24 GSIs; then the PIT if asked for. */
int kvm_create_irqchip(struct kvm *k, bool pit, struct diag *d) must_check;

/* Level or edge line of the I/O APIC and PIC. */
int kvm_irq_line(struct kvm *k, unsigned int gsi, bool level) must_check;
/* Replaces the whole routing table. */
int kvm_set_routes(struct kvm *k, const struct kvm_irq_routing *table) must_check;
/* eventfd -> gsi; assign = false takes it away. The caller keeps the descriptor. */
int kvm_irqfd(struct kvm *k, int eventfd, unsigned int gsi, bool assign) must_check;

/*
 * Guest write -> eventfd, without an exit to user space. `len` 0 means any width (needs KVM's
 * ioeventfd-any-length; where it is missing 2 is tried); value is not compared.
 */
int kvm_ioeventfd(struct kvm *k, int eventfd, uint64_t addr, unsigned int len, bool pio,
		  bool assign) must_check;

/*
 * Tells KVM that the functions of a VFIO group are assigned to this VM, which it must know for
 * posted interrupts and for the guest's cache control. -ENODEV: this KVM has no such device.
 */
int kvm_vfio_add(struct kvm *k, int group_fd) must_check;
int kvm_vfio_del(struct kvm *k, int group_fd);

/* The state of one interrupt controller (chip->chip_id), and of the PIT. */
int kvm_get_irqchip(struct kvm *k, struct kvm_irqchip *chip) must_check;
int kvm_set_irqchip(struct kvm *k, const struct kvm_irqchip *chip) must_check;
int kvm_get_pit(struct kvm *k, struct kvm_pit_state2 *pit) must_check;
int kvm_set_pit(struct kvm *k, const struct kvm_pit_state2 *pit) must_check;

/* The guest's kvm-clock, in nanoseconds: what it reads now, and shall go on from. */
int kvm_get_clock(struct kvm *k, uint64_t *ns) must_check;
int kvm_set_clock(struct kvm *k, uint64_t ns) must_check;

/* Creates vcpu `id`, returns its descriptor and maps its kvm_run. */
int kvm_create_vcpu(struct kvm *k, unsigned int id, struct kvm_run **run,
		    struct diag *d) must_check;
void kvm_destroy_vcpu(struct kvm *k, int vcpu_fd, struct kvm_run *run);

int kvm_vcpu_set_cpuid(int vcpu_fd, const struct kvm_cpuid2 *cpuid) must_check;
/*
 * Sets MSRs one after the other. A refused one does not stop the rest: its index is put into
 * refused[] (up to nrefused of them) and counted in the return value.
 */
int kvm_vcpu_set_msrs(int vcpu_fd, const struct kvm_msr_entry *msrs, unsigned int n,
		      uint32_t *refused, unsigned int nrefused) must_check;
/* Reads MSRs until one cannot be read; returns how many were. */
int kvm_vcpu_get_msrs(int vcpu_fd, struct kvm_msr_entry *msrs, unsigned int n) must_check;
int kvm_vcpu_get_regs(int vcpu_fd, struct kvm_regs *regs) must_check;
int kvm_vcpu_set_regs(int vcpu_fd, const struct kvm_regs *regs) must_check;
int kvm_vcpu_get_sregs(int vcpu_fd, struct kvm_sregs *sregs) must_check;
int kvm_vcpu_set_sregs(int vcpu_fd, const struct kvm_sregs *sregs) must_check;
/* -ENOTTY without has_sregs2. */
int kvm_vcpu_get_sregs2(int vcpu_fd, struct kvm_sregs2 *sregs) must_check;
int kvm_vcpu_set_sregs2(int vcpu_fd, const struct kvm_sregs2 *sregs) must_check;
/* xsave has k->xsave_size bytes. */
int kvm_vcpu_get_xsave(const struct kvm *k, int vcpu_fd, struct kvm_xsave *xsave) must_check;
int kvm_vcpu_set_xsave(int vcpu_fd, const struct kvm_xsave *xsave) must_check;
int kvm_vcpu_get_xcrs(int vcpu_fd, struct kvm_xcrs *xcrs) must_check;
int kvm_vcpu_set_xcrs(int vcpu_fd, const struct kvm_xcrs *xcrs) must_check;
int kvm_vcpu_get_debugregs(int vcpu_fd, struct kvm_debugregs *regs) must_check;
int kvm_vcpu_set_debugregs(int vcpu_fd, const struct kvm_debugregs *regs) must_check;
int kvm_vcpu_get_lapic(int vcpu_fd, struct kvm_lapic_state *lapic) must_check;
int kvm_vcpu_set_lapic(int vcpu_fd, const struct kvm_lapic_state *lapic) must_check;
/* Also lets a pending INIT or SIPI take effect, which changes registers: to be read first. */
int kvm_vcpu_get_mp_state(int vcpu_fd, uint32_t *state) must_check;
int kvm_vcpu_set_mp_state(int vcpu_fd, uint32_t state) must_check;
int kvm_vcpu_get_events(int vcpu_fd, struct kvm_vcpu_events *ev) must_check;
int kvm_vcpu_set_events(int vcpu_fd, const struct kvm_vcpu_events *ev) must_check;
/*
 * The statistics of the VM or of a vcpu as a file to read (api.rst, 4.133); the caller closes it.
 * For a vcpu it waits as long as that is in the guest. -ENOTTY before Linux 5.14.
 */
int kvm_stats_open(int vm_or_vcpu_fd) must_check;
/* The rate of the guest's time stamp counter. Setting it is exact only with has_tsc_scaling. */
int kvm_vcpu_get_tsc_khz(int vcpu_fd, uint32_t *khz) must_check;
int kvm_vcpu_set_tsc_khz(int vcpu_fd, uint32_t khz) must_check;
/* Tells a guest with kvm-clock that it was paused, for its watchdogs. -EINVAL: it has none. */
int kvm_vcpu_was_paused(int vcpu_fd) must_check;
/* Enters the guest. 0 or -errno (-EINTR: kicked). */
int kvm_vcpu_run(int vcpu_fd);

#endif
