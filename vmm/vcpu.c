/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu.c - one thread per virtual CPU: waits until it may run, enters the guest, and hands what
 * the guest trapped on to the buses. Parking and resets are asked for by main.
 */
#include <unvmm/boot.h>
#include <unvmm/log.h>
#include <unvmm/platform.h>
#include <unvmm/sandbox.h>
#include <unvmm/thread.h>
#include <unvmm/vcpu.h>
#include <unvmm/vm.h>

#include "cpuid.h"
#include "vcpu_state.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PARK_TIMEOUT_S 10

/* Any signal with a handler makes KVM_RUN return; this one means nothing else. */
#define KICK_SIGNAL SIGRTMIN

static void kicked(int sig)
{
	(void)sig;
}

/* --- exits ---------------------------------------------------------------------------------- */

static void exit_io(struct vcpu *c)
{
	struct kvm_run *run = c->run;
	uint8_t *p = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, p += run->io.size) {
		uint64_t value = 0;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, p, run->io.size);
			bus_write(&c->vm->pio, run->io.port, run->io.size, value);
		} else {
			value = bus_read(&c->vm->pio, run->io.port, run->io.size);
			memcpy(p, &value, run->io.size);
		}
	}
}

static void exit_mmio(struct vcpu *c)
{
	struct kvm_run *run = c->run;
	uint64_t value = 0;

	if (run->mmio.is_write) {
		memcpy(&value, run->mmio.data, run->mmio.len);
		bus_write(&c->vm->mmio, run->mmio.phys_addr, run->mmio.len, value);
	} else {
		value = bus_read(&c->vm->mmio, run->mmio.phys_addr, run->mmio.len);
		memcpy(run->mmio.data, &value, run->mmio.len);
	}
}

/* KVM could not go on. Says where, with the bytes of the instruction if KVM gave them. */
static void exit_failed(struct vcpu *c)
{
	struct kvm_run *run = c->run;
	struct kvm_regs regs = { 0 };
	char code[3 * 16 + 1] = "";

	if (kvm_vcpu_get_regs(c->fd, &regs) < 0)
		regs.rip = 0;
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
	    run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->internal.ndata >= 1 &&
	    (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
		unsigned int n = run->emulation_failure.insn_size;

		for (unsigned int i = 0; i < n && i < 15; i++)
			snprintf(code + 3 * i, 4, " %02x", run->emulation_failure.insn_bytes[i]);
	}
	switch (run->exit_reason) {
	case KVM_EXIT_INTERNAL_ERROR:
		vm_fail(c->vm,
			"vcpu %u: KVM internal error %u at rip 0x%llx%s%s: the guest executed what "
			"this host's KVM cannot",
			c->id, run->internal.suberror, regs.rip, code[0] ? ", instruction" : "",
			code);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		vm_fail(c->vm, "vcpu %u: the processor refused to enter the guest (reason 0x%llx)",
			c->id, run->fail_entry.hardware_entry_failure_reason);
		break;
	default:
		vm_fail(c->vm, "vcpu %u: KVM exit %u, which unvmm does not know, at rip 0x%llx",
			c->id, run->exit_reason, regs.rip);
	}
}

static void handle_exit(struct vcpu *c)
{
	vm_lock(c->vm);
	switch (c->run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(c);
		break;
	case KVM_EXIT_MMIO:
		exit_mmio(c);
		break;
	case KVM_EXIT_SHUTDOWN: /* a PC resets; where it was is lost (AMD APM vol. 2, 15.14.3) */
		log_limited(&c->set->faults, LOG_WARN, "vcpu %u: triple fault: the guest resets",
			    c->id);
		vm_request(c->vm, VM_EVENT_REBOOT, 0);
		break;
	case KVM_EXIT_INTR:
		break;
	default:
		exit_failed(c);
	}
	vm_end_access(c->vm);
}

/* --- the thread ----------------------------------------------------------------------------- */

/* Waits until the set runs; false when the thread shall end. */
static bool wait_until_wanted(struct vcpu *c)
{
	struct vcpu_set *s = c->set;
	bool go;

	pthread_mutex_lock(&s->park_lock);
	c->state = VCPU_PARKED;
	pthread_cond_broadcast(&s->changed);
	while (!s->run_wanted && !s->stop_wanted)
		pthread_cond_wait(&s->changed, &s->park_lock);
	go = !s->stop_wanted;
	c->state = go ? VCPU_RUNNING : VCPU_STOPPED;
	if (go)
		c->run->immediate_exit = 0;
	pthread_mutex_unlock(&s->park_lock);
	return go;
}

/* KVM_RUN returned an error: true if the guest can go on all the same. */
static bool run_failed(struct vcpu *c, int err, uint32_t removals)
{
	bool goes_on;

	vm_lock(c->vm);
	goes_on = err == -EFAULT && vm_memory_fault(c->vm, removals);
	if (!goes_on)
		vm_fail(c->vm, "vcpu %u: KVM cannot run the guest: %s", c->id, strerror(-err));
	vm_unlock(c->vm);
	return goes_on;
}

#define NS_PER_S 1000000000ull

/* Sleeps if it is to. A wish to park ends that, and leaves immediate_exit set. */
static void nap(struct vcpu *c)
{
	struct vcpu_set *s = c->set;
	struct timespec until;
	int err = 0;

	pthread_mutex_lock(&s->park_lock);
	if (s->run_wanted) /* whoever wanted it out has changed his mind */
		c->run->immediate_exit = 0;
	if (s->run_wanted && c->nap_ns) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		c->nap_ns += (uint64_t)until.tv_nsec;
		until.tv_sec += (time_t)(c->nap_ns / NS_PER_S);
		until.tv_nsec = (long)(c->nap_ns % NS_PER_S);
		while (s->run_wanted && !err)
			err = pthread_cond_timedwait(&s->changed, &s->park_lock, &until);
	}
	c->nap_ns = 0;
	pthread_mutex_unlock(&s->park_lock);
}

/*
 * Runs the guest until the vcpu is wanted out. An access that was being handled when the kick came
 * is completed by the KVM_RUN that then returns -EINTR, so a parked vcpu has no half instruction.
 */
static void run_guest(struct vcpu *c)
{
	for (;;) {
		uint32_t removals = slots_removals(&c->vm->slots);
		int r = kvm_vcpu_run(c->fd);

		if (r == -EINTR || r == -EAGAIN) {
			if (!__atomic_load_n(&c->set->run_wanted, __ATOMIC_ACQUIRE))
				return;
			nap(c);
			continue;
		}
		__atomic_store_n(&c->exits, c->exits + 1, __ATOMIC_RELAXED);
		if (r >= 0)
			handle_exit(c);
		else if (!run_failed(c, r, removals))
			return; /* it may never say -EINTR again: the request for the end does */
	}
}

static bool enter_sandbox(struct vcpu *c)
{
	struct diag d = { 0 };

	if (!sandbox_enter(c->vm->sandbox, SANDBOX_VCPU, &d))
		return true;
	vm_lock(c->vm);
	vm_fail(c->vm, "vcpu %u: %s", c->id, d.text);
	vm_unlock(c->vm);
	return false;
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *c = arg;

	__atomic_store_n(&c->tid, gettid(), __ATOMIC_RELAXED);
	if (!enter_sandbox(c))
		return NULL;
	while (wait_until_wanted(c))
		run_guest(c);
	return NULL;
}

/* --- the set -------------------------------------------------------------------------------- */

static int vcpu_create(struct vcpu *c, struct kvm_cpuid2 *cpuid, struct diag *d)
{
	struct kvm *k = &c->vm->kvm;
	int err;

	c->fd = kvm_create_vcpu(k, c->id, &c->run, d);
	if (c->fd < 0)
		return c->fd;
	/* Now: a vcpu that runs answers no other call. */
	c->stats_fd = kvm_stats_open(c->fd);
	cpuid_set_vcpu(cpuid, c->id);
	err = kvm_vcpu_set_cpuid(c->fd, cpuid);
	if (err)
		return diag_errno(d, err, "KVM refuses the CPUID of vcpu %u", c->id);
	return vcpu_state_power_on(c, d);
}

int vcpus_create(struct vcpu_set *s, struct vm *vm, unsigned int n, struct diag *d)
{
	pthread_condattr_t attr;
	int err = 0;

	*s = (struct vcpu_set){ 0 };
	pthread_mutex_init(&s->park_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &attr);
	pthread_condattr_destroy(&attr);
	if (n > vm->kvm.max_vcpus)
		return diag_set(d, -EINVAL, "vcpus: this host's KVM allows %u, not %u",
				vm->kvm.max_vcpus, n);
	s->cpus = calloc(n, sizeof(*s->cpus));
	if (!s->cpus || cpuid_build(&vm->kvm, n, &s->cpuid))
		return diag_set(d, -ENOMEM, "out of memory for %u vcpus", n);
	for (unsigned int i = 0; i < n && !err; i++) {
		s->cpus[i] = (struct vcpu){ .vm = vm, .id = i, .fd = -1, .stats_fd = -1, .set = s };
		err = vcpu_create(&s->cpus[i], s->cpuid, d);
		s->n = i + 1;
	}
	cpuid_set_vcpu(s->cpuid, 0);
	return err;
}

int vcpus_reset(struct vcpu_set *s, const struct boot_entry *entry, struct diag *d)
{
	for (unsigned int i = 0; i < s->n; i++) {
		int err = vcpu_state_reset(&s->cpus[i], entry, d);

		if (err)
			return err;
	}
	return 0;
}

int vcpus_start(struct vcpu_set *s, struct diag *d)
{
	struct sigaction sa = { .sa_handler = kicked }; /* no SA_RESTART: KVM_RUN must return */

	sigaction(KICK_SIGNAL, &sa, NULL);
	for (unsigned int i = 0; i < s->n; i++) {
		struct vcpu *c = &s->cpus[i];
		char name[16];
		int err;

		snprintf(name, sizeof(name), "vcpu%u", i);
		/* Only the kick reaches a vcpu thread: everything else is main's. */
		err = thread_start(&c->thread, name, KICK_SIGNAL, vcpu_thread, c, d);
		if (err)
			return err;
		c->thread_started = true;
	}
	return 0;
}

void vcpus_unpark(struct vcpu_set *s)
{
	pthread_mutex_lock(&s->park_lock);
	__atomic_store_n(&s->run_wanted, true, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->park_lock);
}

/* park_lock held: no vcpu can be between clearing immediate_exit and believing run_wanted. */
static void kick_all(struct vcpu_set *s)
{
	for (unsigned int i = 0; i < s->n; i++) {
		struct vcpu *c = &s->cpus[i];

		if (!c->thread_started || c->state != VCPU_RUNNING)
			continue;
		c->run->immediate_exit = 1;
		if (!pthread_equal(c->thread, pthread_self()))
			pthread_kill(c->thread, KICK_SIGNAL);
	}
}

void vcpus_request_park(struct vcpu_set *s)
{
	pthread_mutex_lock(&s->park_lock);
	__atomic_store_n(&s->run_wanted, false, __ATOMIC_RELEASE);
	kick_all(s);
	pthread_cond_broadcast(&s->changed); /* who naps */
	pthread_mutex_unlock(&s->park_lock);
}

void vcpus_nap(struct vcpu_set *s, uint64_t ns)
{
	pthread_mutex_lock(&s->park_lock);
	if (s->run_wanted) {
		for (unsigned int i = 0; i < s->n; i++)
			s->cpus[i].nap_ns = ns;
		kick_all(s);
	}
	pthread_mutex_unlock(&s->park_lock);
}

static bool any_running(const struct vcpu_set *s)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (s->cpus[i].state == VCPU_RUNNING)
			return true;
	return false;
}

int vcpus_park(struct vcpu_set *s)
{
	struct timespec deadline;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += PARK_TIMEOUT_S;
	vcpus_request_park(s);
	pthread_mutex_lock(&s->park_lock);
	while (any_running(s) && !err)
		err = -pthread_cond_timedwait(&s->changed, &s->park_lock, &deadline);
	pthread_mutex_unlock(&s->park_lock);
	return err;
}

void vcpus_destroy(struct vcpu_set *s)
{
	if (!s->cpus)
		return;
	vcpus_request_park(s);
	pthread_mutex_lock(&s->park_lock);
	s->stop_wanted = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->park_lock);
	for (unsigned int i = 0; i < s->n; i++) {
		struct vcpu *c = &s->cpus[i];

		if (c->thread_started)
			pthread_join(c->thread, NULL);
		if (c->stats_fd >= 0)
			close(c->stats_fd);
		if (c->fd >= 0)
			kvm_destroy_vcpu(&c->vm->kvm, c->fd, c->run);
		free(c->power_on);
	}
	free(s->cpus);
	free(s->cpuid);
	pthread_mutex_destroy(&s->park_lock);
	pthread_cond_destroy(&s->changed);
	*s = (struct vcpu_set){ 0 };
}
