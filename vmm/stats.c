/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.c - what the machine tells of itself: its make-up (x-unvmm-info) and its counters
 * (x-unvmm-stats) - KVM's binary statistics, the vcpus' exits to user space, and the devices' own.
 * Main thread; takes the control lock for the devices.
 */
#include "qmp.h"

#include <unvmm/report.h>
#include <unvmm/vcpu.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* --- KVM's binary statistics (Documentation/virt/kvm/api.rst, 4.133) ------------------------- */

/* More than any kernel has, to bound what is read. */
#define STATS_MAX      512
#define STATS_NAME_MAX 256
#define STATS_DATA_MAX KiB(64)

struct stats_file {
	struct kvm_stats_header header;
	size_t desc_size;
	char *descs; /* header.num_desc of desc_size bytes */
	char *data;
	size_t data_size;
};

static bool read_at(int fd, void *buf, size_t len, uint64_t off)
{
	return pread(fd, buf, len, (off_t)off) == (ssize_t)len;
}

static struct kvm_stats_desc stats_desc(const struct stats_file *f, unsigned int i)
{
	struct kvm_stats_desc desc;

	memcpy(&desc, f->descs + i * f->desc_size, sizeof(desc));
	return desc;
}

static void free_stats(struct stats_file *f)
{
	free(f->descs);
	free(f->data);
}

static bool read_stats(struct stats_file *f, int fd)
{
	const struct kvm_stats_header *h = &f->header;

	*f = (struct stats_file){ 0 };
	if (!read_at(fd, &f->header, sizeof(f->header), 0) || h->num_desc > STATS_MAX ||
	    !h->name_size || h->name_size > STATS_NAME_MAX)
		return false;
	f->desc_size = sizeof(struct kvm_stats_desc) + h->name_size;
	f->descs = calloc(h->num_desc + 1, f->desc_size);
	if (!f->descs || !read_at(fd, f->descs, h->num_desc * f->desc_size, h->desc_offset))
		goto fail;
	for (unsigned int i = 0; i < h->num_desc; i++) {
		struct kvm_stats_desc desc = stats_desc(f, i);
		size_t end = desc.offset + (size_t)desc.size * sizeof(uint64_t);

		if (end > f->data_size)
			f->data_size = end;
	}
	f->data = f->data_size <= STATS_DATA_MAX ? malloc(f->data_size + 1) : NULL;
	if (f->data && read_at(fd, f->data, f->data_size, h->data_offset))
		return true;
fail:
	free_stats(f);
	return false;
}

/* The i-th counter, if it is a single value: histograms are left out. */
static bool stats_value(const struct stats_file *f, unsigned int i, char name[STATS_NAME_MAX],
			uint64_t *value)
{
	struct kvm_stats_desc desc = stats_desc(f, i);

	if (desc.size != 1)
		return false;
	memcpy(name, f->descs + i * f->desc_size + sizeof(desc), f->header.name_size);
	name[f->header.name_size - 1] = '\0';
	memcpy(value, f->data + desc.offset, sizeof(*value));
	return true;
}

/* Sums of the counters over some vcpus, in the order of the first one's. */
struct stats_sum {
	unsigned int n;
	struct {
		char name[STATS_NAME_MAX];
		uint64_t value;
	} rows[STATS_MAX];
};

/* Every vcpu has the same counters in the same order: one kernel wrote them. */
static void add_stats(struct stats_sum *sum, int fd)
{
	char name[STATS_NAME_MAX];
	struct stats_file f;
	unsigned int row = 0;
	uint64_t value;

	if (fd < 0 || !read_stats(&f, fd))
		return;
	for (unsigned int i = 0; i < f.header.num_desc; i++) {
		if (!stats_value(&f, i, name, &value))
			continue;
		if (row == sum->n && sum->n < STATS_MAX)
			memcpy(sum->rows[sum->n++].name, name, sizeof(name));
		if (row < sum->n && !strcmp(sum->rows[row].name, name))
			sum->rows[row].value += value;
		row++;
	}
	free_stats(&f);
}

static void report_kvm(struct report *r, const char *key, const int *fds, unsigned int n)
{
	struct stats_sum *sum = calloc(1, sizeof(*sum));

	for (unsigned int i = 0; sum && i < n; i++)
		add_stats(sum, fds[i]);
	if (sum && sum->n) {
		report_group(r, key);
		for (unsigned int i = 0; i < sum->n; i++)
			report_number(r, sum->rows[i].name, sum->rows[i].value);
		report_close(r);
	}
	free(sum);
}

/* --- counters -------------------------------------------------------------------------------- */

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void report_vcpus(struct report *r, const struct vcpu_set *set)
{
	report_list(r, "vcpus");
	for (unsigned int i = 0; set && i < set->n; i++) {
		const struct vcpu *c = &set->cpus[i];

		report_group(r, NULL);
		report_number(r, "index", c->id);
		report_number(r, "thread-id", (uint64_t)__atomic_load_n(&c->tid, __ATOMIC_RELAXED));
		report_number(r, "user-exits", __atomic_load_n(&c->exits, __ATOMIC_RELAXED));
		report_close(r);
	}
	report_close(r);
}

static void report_vcpu_kvm(struct report *r, const struct vcpu_set *set)
{
	int *fds = set ? calloc(set->n, sizeof(*fds)) : NULL;

	for (unsigned int i = 0; fds && i < set->n; i++)
		fds[i] = set->cpus[i].stats_fd;
	if (fds)
		report_kvm(r, "kvm-vcpus", fds, set->n);
	free(fds);
}

struct json_object *stats_counters(struct qmp *q)
{
	struct vm *vm = q->vm;
	struct report r;
	struct json_object *root = report_begin(&r);

	if (!root)
		return NULL;
	report_number(&r, "uptime-ns", now_ns(CLOCK_MONOTONIC) - q->started_ns);
	report_number(&r, "cpu-ns", now_ns(CLOCK_PROCESS_CPUTIME_ID));
	report_vcpus(&r, vm->vcpus);
	report_vcpu_kvm(&r, vm->vcpus);
	report_kvm(&r, "kvm", &vm->kvm.stats_fd, 1);
	report_list(&r, "devices");
	vm_lock(vm);
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (!dev->cls->stats)
			continue;
		report_group(&r, NULL);
		report_text(&r, "id", "%s", dev->id);
		dev->cls->stats(dev, &r);
		report_close(&r);
	}
	vm_unlock(vm);
	report_close(&r);
	return root;
}

/* --- make-up --------------------------------------------------------------------------------- */

static void report_machine(struct report *r, const struct qmp *q)
{
	const struct vm_config *c = q->vm->config;

	report_text(r, "name", "%s", q->name);
	report_number(r, "pid", (uint64_t)getpid());
	report_text(r, "version", "%s", UNVMM_VERSION);
	report_text(r, "status", "%s", qmp_run_state(q));
	report_number(r, "uptime-ns", now_ns(CLOCK_MONOTONIC) - q->started_ns);
	report_text(r, "machine", "%s", c->machine ? c->machine : "");
	report_number(r, "vcpus", (uint64_t)c->vcpus);
	report_number(r, "memory", c->memory);
	report_flag(r, "hugepages", c->hugepages);
	report_text(r, "kernel", "%s", c->kernel ? c->kernel : "");
	if (c->initrd)
		report_text(r, "initrd", "%s", c->initrd);
	report_text(r, "cmdline", "%s", c->cmdline ? c->cmdline : "");
	report_text(r, "console", "%s", c->console ? c->console : "");
	report_text(r, "control", "unix:%s", q->path);
	report_text(r, "on-reboot", "%s", c->on_reboot == ON_REBOOT_EXIT ? "exit" : "restart");
}

struct json_object *stats_info(struct qmp *q)
{
	struct vm *vm = q->vm;
	struct report r;
	struct json_object *root = report_begin(&r);

	if (!root)
		return NULL;
	report_machine(&r, q);
	report_list(&r, "devices");
	vm_lock(vm);
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		report_group(&r, NULL);
		report_text(&r, "id", "%s", dev->id);
		report_text(&r, "class", "%s", dev->cls->name);
		if (dev->cls->info)
			dev->cls->info(dev, &r);
		report_close(&r);
	}
	vm_unlock(vm);
	report_close(&r);
	return root;
}
