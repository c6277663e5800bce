/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.c - composition: from a configuration to a machine that stands at its kernel's entry.
 * Reads top to bottom in the order of construction. Main thread.
 */
#include "machine.h"

#include <unvmm/acpi.h>
#include <unvmm/chardev.h>
#include <unvmm/log.h>
#include <unvmm/machine_state.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_image(const char *what, const char *path, struct diag *d)
{
	/* Not to hang on a FIFO, which boot_load() refuses. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0 && errno == ENXIO)
		return diag_set(d, -ENXIO, "%s %s: it is a socket: it must be a regular file", what,
				path);
	return fd < 0 ? diag_errno(d, -errno, "%s \"%s\" cannot be opened", what, path) : fd;
}

static int open_boot_files(struct machine *m, struct diag *d)
{
	const struct vm_config *c = m->vm.config;

	m->boot = (struct boot_source){ .kernel_fd = -1,
					.initrd_fd = -1,
					.kernel_path = c->kernel,
					.initrd_path = c->initrd,
					.cmdline = c->cmdline };
	if (!c->kernel) /* the guest comes from elsewhere, and ends when it resets itself */
		return 0;
	m->boot.kernel_fd = open_image("kernel", c->kernel, d);
	if (m->boot.kernel_fd < 0)
		return m->boot.kernel_fd;
	if (!c->initrd)
		return 0;
	m->boot.initrd_fd = open_image("initrd", c->initrd, d);
	return m->boot.initrd_fd < 0 ? m->boot.initrd_fd : 0;
}

static bool memory_is_shared(const struct vm_config *c)
{
	for (const struct device_config *dc = c->devices; dc; dc = dc->next)
		if (dc->cls->needs_shared_memory && dc->cls->needs_shared_memory(dc->conf))
			return true;
	return c->shared;
}

static enum gmem_kind memory_kind(const struct vm_config *c)
{
	return c->hugepages ? GMEM_HUGETLB : memory_is_shared(c) ? GMEM_SHARED : GMEM_PRIVATE;
}

/*
 * RAM slots before the interrupt controllers: a slot change after KVM_CREATE_IRQCHIP waits for an
 * RCU grace period of 4 to 13 ms on some kernels.
 */
static int create_core(struct machine *m, struct diag *d)
{
	const struct vm_config *c = m->vm.config;
	struct vm *vm = &m->vm;
	int err;

	err = kvm_open(&vm->kvm, NULL, d);
	if (!err)
		err = gmem_create(&vm->mem, c->memory, memory_kind(c), d);
	if (!err)
		err = kvm_add_ram(&vm->kvm, &vm->mem, d);
	if (!err)
		err = kvm_create_irqchip(&vm->kvm, c->pit, d);
	if (!err)
		err = irq_init(&vm->irq, &vm->kvm, d);
	return err;
}

static int create_device(struct vm *vm, const struct device_class *cls, unsigned int index,
			 const void *conf, struct device **tail, struct diag *d)
{
	struct device *dev = calloc(1, sizeof(*dev));
	int err;

	if (!dev)
		return diag_set(d, -ENOMEM, "out of memory for device %s%u", cls->id, index);
	snprintf(dev->id, sizeof(dev->id), "%s%u", cls->id, index);
	dev->cls = cls;
	err = cls->create(vm, dev, conf, d);
	if (err) {
		free(dev);
		return err;
	}
	*tail = dev;
	return 0;
}

/* Every class in its order: once if it is part of every machine, else as often as configured. */
static int create_devices(struct machine *m, struct diag *d)
{
	struct device **tail = &m->vm.devices;
	int err = 0;

	for (unsigned int i = 0; i < device_class_count && !err; i++) {
		const struct device_class *cls = device_classes[i];
		unsigned int index = 0;

		if (!cls->key) {
			err = create_device(&m->vm, cls, 0, NULL, tail, d);
			tail = err ? tail : &(*tail)->next;
			continue;
		}
		for (const struct device_config *dc = m->vm.config->devices; dc && !err;
		     dc = dc->next) {
			if (dc->cls != cls)
				continue;
			err = create_device(&m->vm, cls, index++, dc->conf, tail, d);
			if (err)
				diag_prefix(d, "%s", dc->where);
			else
				tail = &(*tail)->next;
		}
	}
	return err;
}

static int load(struct machine *m, struct diag *d)
{
	struct boot_entry entry;
	int err;

	err = acpi_build(&m->vm.mem, m->vcpus.n, &m->boot.acpi_rsdp, d);
	if (!err)
		err = boot_load(&m->vm.mem, &m->boot, &entry, d);
	if (!err)
		err = vcpus_reset(&m->vcpus, &entry, d);
	return err;
}

int machine_create(struct machine *m, const struct vm_config *config, struct diag *d)
{
	int err;

	memset(m, 0, sizeof(*m));
	m->boot.kernel_fd = m->boot.initrd_fd = m->keeper.fd = -1;
	err = sandbox_init(&m->sandbox, config->user, config->sandbox, d);
	if (!err) /* first: it shall inherit nothing */
		err = keeper_start(&m->keeper, &m->sandbox, d);
	if (!err)
		err = vm_init(&m->vm, config, d);
	if (err)
		return err;
	m->vm.sandbox = &m->sandbox;
	m->vm.keeper = &m->keeper;
	m->vm.transfer = machine_state_move;
	err = open_boot_files(m, d);
	if (!err)
		err = create_core(m, d);
	if (!err)
		err = chips_read(&m->vm, &m->chips, d);
	if (!err) {
		m->vm.console = chardev_open(&m->vm, config->console, d);
		m->vm.attended = m->vm.console;
		err = m->vm.console ? 0 : -EIO;
	}
	if (!err)
		err = create_devices(m, d);
	if (!err)
		err = vcpus_create(&m->vcpus, &m->vm, (unsigned int)config->vcpus, d);
	if (!err && !config->incoming)
		err = load(m, d);
	m->vm.vcpus = &m->vcpus;
	return err;
}

/* The vcpus enter by themselves, before they run the guest. */
static int enter_sandbox(struct machine *m, struct diag *d)
{
	struct vm *vm = &m->vm;
	int err = 0;

	if (vm->io_started)
		err = sandbox_enter_loop(&m->io_entry, &m->sandbox, SANDBOX_IO, &vm->io.loop, d);
	if (!err && vm->vf_started)
		err = sandbox_enter_loop(&m->vf_entry, &m->sandbox, SANDBOX_VF, &vm->vf.loop, d);
	if (err)
		return err;
	err = loop_enable(&vm->main_loop);
	if (err)
		return diag_errno(d, err, "the event loop cannot be started");
	err = keeper_settle(&m->keeper, d);
	if (err)
		return err;
	return sandbox_enter(&m->sandbox, SANDBOX_MAIN, d);
}

int machine_start(struct machine *m, struct diag *d)
{
	int err = vcpus_start(&m->vcpus, d);

	if (!err)
		err = enter_sandbox(m, d);
	if (!err && !m->vm.paused && !m->vm.held)
		vcpus_unpark(&m->vcpus);
	return err;
}

int machine_reboot(struct machine *m, struct diag *d)
{
	int err = vcpus_park(&m->vcpus);
	bool goes_on;

	if (err)
		return diag_errno(d, err, "a vcpu does not leave the guest");
	for (struct device *dev = m->vm.devices; dev; dev = dev->next) {
		err = dev->cls->reset ? dev->cls->reset(dev, d) : 0;
		if (err)
			return err;
	}
	err = chips_write(&m->vm, &m->chips, d);
	if (!err)
		err = load(m, d);
	if (err)
		return err;
	vm_lock(&m->vm);
	/* A vcpu may have ended the machine on its way out: on_event comes for that. */
	if (m->vm.event == VM_EVENT_REBOOT)
		m->vm.event = VM_EVENT_NONE;
	goes_on = m->vm.event == VM_EVENT_NONE && !m->vm.paused && !m->vm.held;
	vm_unlock(&m->vm);
	if (goes_on)
		vcpus_unpark(&m->vcpus);
	return 0;
}

/* In reverse order of creation: the bus goes last. */
static void destroy_devices(struct device *dev)
{
	if (!dev)
		return;
	destroy_devices(dev->next);
	if (dev->cls->destroy)
		dev->cls->destroy(dev);
	free(dev);
}

void machine_destroy(struct machine *m)
{
	vcpus_destroy(&m->vcpus);
	m->vm.vcpus = NULL;
	/* Requests under way may still write guest memory: their last act, so wait for it. */
	for (struct device *dev = m->vm.devices; dev; dev = dev->next)
		if (dev->cls->quiesce && dev->cls->quiesce(dev))
			log_warn("%s: did not finish what was under way", dev->id);
	destroy_devices(m->vm.devices);
	if (m->vm.console)
		chardev_close(m->vm.console);
	vm_fini(&m->vm);
	if (m->boot.kernel_fd >= 0)
		close(m->boot.kernel_fd);
	if (m->boot.initrd_fd >= 0)
		close(m->boot.initrd_fd);
	keeper_stop(&m->keeper); /* when all of their owners are gone */
}
