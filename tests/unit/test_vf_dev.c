/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_dev.c - the assigned function as a device: start, stop, reset, doorbells, changes, loss,
 * and a failure at every call to the function.
 */
#include <endian.h>

#include "vf_env.h"

#include <sys/mman.h>
#include <unvmm/state_io.h>

#include "state_check.h"

static void begin(struct env *e, uint16_t id, uint16_t nqueues)
{
	struct diag d = { "" };

	env_begin(e, id, nqueues);
	if (env_create(e, &d))
		fail_msg("%s", d.text);
}

static void runs_and_stops(uint16_t id, uint16_t nqueues)
{
	struct env e;

	begin(&e, id, nqueues);
	guest_drive(&e, e.vd->vdev.offered, nqueues);
	assert_true(wait_until(&e, is_up));
	assert_int_equal(mock->status, 0xf);
	assert_true(mock->pci[PCI_COMMAND] & PCI_COMMAND_MASTER);
	assert_true(mock->acknowledged & VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM));
	env_barrier(&e);
	/* What was rung before it was up is not lost: each queue has been kicked once. */
	assert_int_equal(mock->queues[0].kicks, 1);
	assert_int_equal(mock->queues[0].desc, e.d[0].layout.desc);
	guest_reset(&e);
	assert_int_equal(mock->status, 0);
	assert_false(mock->pci[PCI_COMMAND] & PCI_COMMAND_MASTER);
	/* And again, as after a reload of the driver. */
	guest_drive(&e, e.vd->vdev.offered, nqueues);
	assert_true(wait_until(&e, is_up));
	env_end(&e);
}

static void test_disk(void **state)
{
	(void)state;
	runs_and_stops(VIRTIO_ID_BLOCK, 1);
}

static void test_card(void **state)
{
	(void)state;
	runs_and_stops(VIRTIO_ID_NET, 3);
}

/* The guest's registers and configuration are ours, whatever the function is. */
static void test_guest_sees_a_software_device(void **state)
{
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 4);
	assert_int_equal(e.vd->vdev.nqueues, 1);
	assert_false(e.vd->vdev.offered & VIRTIO_BIT(VIRTIO_BLK_F_MQ));
	assert_false(e.vd->vdev.offered & VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM));
	assert_int_equal(e.vd->vdev.config_size, offsetof(struct virtio_blk_config, unused1));
	guest_command(&e, PCI_COMMAND_MEMORY);
	assert_int_equal(guest_read(&e, VP_DEVICE, 4), 0x45678900);
	assert_int_equal(guest_read(&e, VP_DEVICE + 34, 2), 0);
	env_end(&e);
}

static void test_doorbell_is_mapped(void **state)
{
	struct env e;
	uint64_t at;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 1);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	env_barrier(&e);
	at = guest_bar(&e, VP_BAR) + VP_DOORBELLS;
	assert_non_null(fake_kvm_slot_at(at));
	mock->bar[VM_NOTIFY] = 0xee;
	fake_kvm_store(&e.f->vm, at, 0);
	assert_int_equal(mock->bar[VM_NOTIFY], 0);
	guest_reset(&e);
	assert_null(fake_kvm_slot_at(at));
	env_end(&e);
}

/* Without a page: our eventfd, and a register access by the vf thread. */
static void test_doorbell_by_register(void **state)
{
	struct env e;
	struct diag d = { "" };

	(void)state;
	env_begin(&e, VIRTIO_ID_BLOCK, 1);
	vf_mock_lay_out(mock, false);
	assert_int_equal(env_create(&e, &d), 0);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	env_barrier(&e);
	guest_kick(&e, 0);
	for (unsigned int i = 0; i < WAIT_MS && vf_mock_kicks(mock, 0) < 2; i++)
		usleep(1000);
	assert_int_equal(vf_mock_kicks(mock, 0), 2);
	env_end(&e);
}

/* Bus mastering off is a stop, and on is a start: as long as the rings stand at 0. */
static void test_bus_master(void **state)
{
	struct env e;
	uint16_t index = 7;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 1);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	guest_command(&e, PCI_COMMAND_MEMORY);
	env_barrier(&e);
	assert_int_equal(mock->status, 0);
	guest_command(&e, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(wait_until(&e, is_up));
	assert_int_equal(mock->status, 0xf);
	/* The function has used something: it cannot go on from there. */
	e.d[0].used->idx = index;
	guest_command(&e, PCI_COMMAND_MEMORY);
	env_barrier(&e);
	guest_command(&e, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(wait_until(&e, needs_reset));
	assert_int_equal(e.vd->vdev.queues[0].index, index);
	assert_int_equal(mock->status, 0);
	/* A reset mends it. */
	guest_reset(&e);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	env_end(&e);
}

struct delay {
	struct loop_work work;
	unsigned int ms;
	bool done;
};

static void delay_work(struct loop_work *w)
{
	struct delay *y = container_of(w, struct delay, work);

	usleep(y->ms * 1000);
	__atomic_store_n(&y->done, true, __ATOMIC_RELEASE);
}

/* How long it takes a vcpu to take bus mastering away, when the vf thread is busy for so long. */
static unsigned int master_off_takes(struct env *e, struct delay *y)
{
	struct timespec from, to;

	y->work.fn = delay_work;
	loop_call(e->vd->loop, &y->work);
	clock_gettime(CLOCK_MONOTONIC, &from);
	guest_command(e, PCI_COMMAND_MEMORY);
	clock_gettime(CLOCK_MONOTONIC, &to);
	return (unsigned int)((to.tv_sec - from.tv_sec) * 1000 +
			      (to.tv_nsec - from.tv_nsec) / 1000000);
}

/* When the write returns there is no DMA any more; but a vcpu does not wait for ever for that. */
static void test_bus_master_off_waits(void **state)
{
	struct delay soon = { .ms = 100 }, late = { .ms = 5000 };
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 1);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	(void)master_off_takes(&e, &soon);
	assert_int_equal(mock->status, 0);
	assert_false(mock->pci[PCI_COMMAND] & PCI_COMMAND_MASTER);
	guest_command(&e, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(wait_until(&e, is_up));
	assert_in_range(master_off_takes(&e, &late), 900, 4500);
	assert_false(__atomic_load_n(&late.done, __ATOMIC_ACQUIRE));
	env_barrier(&e);
	assert_int_equal(mock->status, 0);
	env_end(&e);
}

static void test_rings_outside_of_memory(void **state)
{
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 1);
	guest_command(&e, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	guest_set_status(&e, S_DRIVER);
	guest_write(&e, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
	guest_write(&e, VIRTIO_PCI_COMMON_GF, 4, 1);
	guest_set_status(&e, S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
	guest_queue(&e, 0, 256, 0);
	e.vd->vdev.queues[0].device = MiB(512);
	guest_set_status(&e, 0xf);
	assert_true(wait_until(&e, needs_reset));
	assert_int_equal(mock->status, 0);
	env_end(&e);
}

/* --- changes ---------------------------------------------------------------------------------- */

static bool link_is_down(struct env *e)
{
	return !(guest_read(e, VP_DEVICE + 6, 2) & VIRTIO_NET_S_LINK_UP);
}

static void test_link_goes_down(void **state)
{
	struct env e;
	uint16_t down = 0, announce = VIRTIO_NET_S_ANNOUNCE;
	uint8_t other[ETH_ALEN] = { 2, 1, 1, 1, 1, 1 }, generation;

	(void)state;
	begin(&e, VIRTIO_ID_NET, 3);
	guest_drive(&e, e.vd->vdev.offered, 3);
	assert_true(wait_until(&e, is_up));
	generation = (uint8_t)guest_read(&e, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	assert_false(link_is_down(&e));
	vf_mock_config_set(mock, 6, &down, 2);
	assert_true(wait_until(&e, link_is_down));
	assert_int_not_equal(guest_read(&e, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
	/* Other fields stay what the guest knows, and announcing is not the function's to ask. */
	vf_mock_config_set(mock, 0, other, sizeof(other));
	vf_mock_config_set(mock, 6, &announce, 2);
	env_barrier(&e);
	env_barrier(&e);
	assert_int_equal(guest_read(&e, VP_DEVICE, 4), 0x00005452);
	assert_int_equal(guest_read(&e, VP_DEVICE + 6, 2), 0);
	env_end(&e);
}

static void test_config_never_holds_still(void **state)
{
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_NET, 3);
	guest_drive(&e, e.vd->vdev.offered, 3);
	assert_true(wait_until(&e, is_up));
	MOCK_SET(generation_runs, true);
	vf_mock_interrupt(mock, 0);
	assert_true(wait_until(&e, needs_reset));
	env_end(&e);
}

static void test_function_asks_for_a_reset(void **state)
{
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 1);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	MOCK_SET(status, mock->status | VIRTIO_CONFIG_S_NEEDS_RESET);
	vf_mock_interrupt(mock, 0);
	assert_true(wait_until(&e, needs_reset));
	guest_reset(&e);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	env_end(&e);
}

/* --- trouble ---------------------------------------------------------------------------------- */

static void lose_work(struct loop_work *w)
{
	vf_mock_lose(mock, "it was unplugged");
	barrier_work(w);
}

static void lose(struct env *e)
{
	struct barrier b = { .work.fn = lose_work };

	loop_call(e->vd->loop, &b.work);
	while (!__atomic_load_n(&b.done, __ATOMIC_ACQUIRE))
		usleep(1000);
}

static void test_lost(void **state)
{
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_NET, 3);
	guest_drive(&e, e.vd->vdev.offered, 3);
	assert_true(wait_until(&e, is_up));
	lose(&e);
	assert_true(wait_until(&e, needs_reset));
	assert_null(fake_kvm_slot_at(guest_bar(&e, VP_BAR) + VP_DOORBELLS));
	/* The guest may try as often as it likes. */
	for (unsigned int i = 0; i < 3; i++) {
		guest_reset(&e);
		guest_drive(&e, e.vd->vdev.offered, 3);
		assert_true(wait_until(&e, needs_reset));
	}
	mock->nmaps = mock->nirq = 0; /* went with the function */
	env_end(&e);
}

static void test_all_ones(void **state)
{
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 1);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	env_barrier(&e);
	MOCK_SET(all_ones_from, mock->calls);
	vf_mock_interrupt(mock, 0);
	assert_true(wait_until(&e, needs_reset));
	guest_reset(&e);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, needs_reset));
	/* If it comes back it is used again. */
	MOCK_SET(all_ones_from, 0);
	guest_reset(&e);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	env_end(&e);
}

static void test_doorbell_page_is_gone(void **state)
{
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 1);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	env_barrier(&e);
	MOCK_SET(all_ones_from, mock->calls);
	vm_lock(&e.f->vm);
	e.vd->vdev.ops->doorbell_fault(&e.vd->vdev);
	vm_unlock(&e.f->vm);
	assert_true(wait_until(&e, needs_reset));
	MOCK_SET(all_ones_from, 0);
	env_end(&e);
}

static void request_work(struct loop_work *w)
{
	mock->vf.request(&mock->vf);
	barrier_work(w);
}

static bool is_closed(void *arg)
{
	(void)arg;
	return mock->closed;
}

/* Somebody unbinds the function: it is closed at once, and the guest has a device that is broken.
 */
static void test_host_wants_it_back(void **state)
{
	struct env e;
	struct barrier b = { .work.fn = request_work };

	(void)state;
	begin(&e, VIRTIO_ID_NET, 3);
	guest_drive(&e, e.vd->vdev.offered, 3);
	assert_true(wait_until(&e, is_up));
	assert_non_null(fake_kvm_slot_at(guest_bar(&e, VP_BAR) + VP_DOORBELLS));
	loop_call(e.vd->loop, &b.work);
	assert_true(fake_vm_run(e.f, is_closed, NULL, WAIT_MS));
	assert_int_equal(mock->status, 0);
	assert_int_equal(mock->nmaps, 0);
	assert_int_equal(mock->nirq, 0);
	assert_null(fake_kvm_slot_at(guest_bar(&e, VP_BAR) + VP_DOORBELLS));
	for (unsigned int i = 0; i < 2; i++) {
		assert_true(wait_until(&e, needs_reset));
		guest_kick(&e, 0);
		guest_reset(&e);
		guest_drive(&e, e.vd->vdev.offered, 3);
	}
	env_end(&e);
}

/* A function that does not confirm a reset is cut off; the machine goes on. */
static void test_never_resets(void **state)
{
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 1);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	MOCK_SET(never_resets, true);
	guest_set_status(&e, 0);
	for (unsigned int i = 0; i < 2 && guest_status(&e); i++)
		(void)wait_until(&e, is_reset);
	assert_int_equal(guest_status(&e), 0);
	assert_false(mock->pci[PCI_COMMAND] & PCI_COMMAND_MASTER);
	assert_int_equal(mock->status, 0); /* the function was reset instead */
	env_end(&e);
}

/* The guest resets while the function is being programmed: the stop finds it in every state. */
static void test_reset_during_start(void **state)
{
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_NET, 3);
	for (unsigned int i = 0; i < 50; i++) {
		guest_drive(&e, e.vd->vdev.offered, 3);
		usleep(i * 7 % 400);
		guest_reset(&e);
		env_barrier(&e);
		assert_int_equal(mock->status, 0);
	}
	guest_drive(&e, e.vd->vdev.offered, 3);
	assert_true(wait_until(&e, is_up));
	env_end(&e);
}

static bool in_driver_ok(struct env *e)
{
	bool ok;

	(void)e;
	pthread_mutex_lock(&mock->lock);
	ok = mock->status & VIRTIO_CONFIG_S_DRIVER_OK;
	pthread_mutex_unlock(&mock->lock);
	return ok;
}

/*
 * The driver takes bus mastering away while the function is just coming up: what it makes available
 * from then on is not to be served, so no queue is kicked.
 */
static void test_bus_master_off_during_start(void **state)
{
	struct env e;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 1);
	/* The vf thread has the journal, and then waits for the function's first answer. */
	pthread_mutex_lock(&mock->lock);
	guest_drive(&e, e.vd->vdev.offered, 1);
	for (vm_lock(&e.f->vm); !e.vd->negotiated; vm_lock(&e.f->vm)) {
		vm_unlock(&e.f->vm);
		usleep(1000);
	}
	/* It programs the function, and waits for the control lock, which the vcpu has. */
	pthread_mutex_unlock(&mock->lock);
	assert_true(wait_until(&e, in_driver_ok));
	fake_ecam_write(&e.f->vm, e.vd->vdev.transport->pci.slot, PCI_COMMAND, 2,
			PCI_COMMAND_MEMORY);
	vm_unlock(&e.f->vm);
	env_barrier(&e);
	assert_int_equal(vf_mock_kicks(mock, 0), 0);
	assert_int_equal(mock->status, 0);
	env_end(&e);
}

/* --- a failure at every call ------------------------------------------------------------------ */

/* One life with the n-th call failing. True: it was never made. */
static bool life_with_failure(uint16_t id, uint16_t nqueues, unsigned int n)
{
	struct env e;
	struct diag d = { "" };
	bool done;

	env_begin(&e, id, nqueues);
	MOCK_SET(fail_at, n);
	if (env_create(&e, &d)) {
		assert_string_not_equal(d.text, "");
		assert_non_null(strstr(d.text, mock->vf.name));
		assert_true(mock->calls >= n);
		assert_true(mock->closed);
		MOCK_SET(fail_at, 0);
		mock->nirq = 0; /* switching them off may be what failed */
		mock->nmaps = 0;
		env_end(&e);
		return false;
	}
	guest_drive(&e, e.vd->vdev.offered, nqueues);
	assert_true(wait_until(&e, up_or_failed));
	env_barrier(&e);
	done = mock->calls < n;
	if (done)
		assert_true(is_up(&e) && !needs_reset(&e));
	guest_reset(&e);
	MOCK_SET(fail_at, 0);
	/* Whatever failed, the next driver finds a device. */
	guest_drive(&e, e.vd->vdev.offered, nqueues);
	assert_true(wait_until(&e, is_up));
	env_end(&e);
	return done;
}

static void test_failure_at_every_call(void **state)
{
	unsigned int n;

	(void)state;
	for (n = 1; !life_with_failure(VIRTIO_ID_BLOCK, 1, n); n++)
		assert_true(n < 1000);
	assert_true(n > 40);
	for (n = 1; !life_with_failure(VIRTIO_ID_NET, 3, n); n++)
		assert_true(n < 1000);
	assert_true(n > 80);
}

/* A register that keeps its value: the step that found it is named, and nothing is half done. */
/* So many that the number of the control queue behind them would wrap. */
static void test_too_many_pairs(void **state)
{
	const uint16_t pairs = htole16(0x8000);
	struct diag diag = { "" };
	struct env e;

	(void)state;
	env_begin(&e, VIRTIO_ID_NET, 3);
	vf_mock_config_set(mock, 8, &pairs, sizeof(pairs));
	MOCK_SET(features, mock->features | VIRTIO_BIT(VIRTIO_NET_F_MQ));
	assert_int_equal(env_create(&e, &diag), -EINVAL);
	assert_non_null(strstr(diag.text, "it has 32768 pairs of queues; 32767 are possible"));
	env_end(&e);
}

static void test_refusing_registers(void **state)
{
	static const uint8_t registers[] = {
		VIRTIO_PCI_COMMON_MSIX,
		VIRTIO_PCI_COMMON_STATUS,
		VIRTIO_PCI_COMMON_Q_MSIX,
		VIRTIO_PCI_COMMON_Q_ENABLE,
	};
	struct env e;

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(registers); i++) {
		begin(&e, VIRTIO_ID_NET, 3);
		MOCK_SET(refuses, registers[i]);
		guest_drive(&e, e.vd->vdev.offered, 3);
		assert_true(wait_until(&e, needs_reset));
		assert_false(is_up(&e));
		MOCK_SET(refuses, -1);
		env_end(&e);
	}
}

/* --- state ------------------------------------------------------------------------------------ */

static void test_state(void **state)
{
	struct diag d = { "" };
	struct env e;
	size_t len;
	void *blob;

	(void)state;
	begin(&e, VIRTIO_ID_NET, 3);
	guest_drive(&e, e.vd->vdev.offered, 3);
	assert_true(wait_until(&e, is_up));
	assert_int_equal(command(&e, 2, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD,
				 &(uint16_t){ 100 }, 2),
			 VIRTIO_NET_OK);
	/* A function that runs cannot be saved. */
	assert_int_equal(state_save("vf0", e.dev.state, e.dev.nstate, &blob, &len, &d),
			 -EOPNOTSUPP);
	assert_non_null(strstr(d.text, "vf0"));
	guest_command(&e, PCI_COMMAND_MEMORY);
	env_barrier(&e);
	state_check_roundtrip("vf0", e.dev.state, e.dev.nstate);
	/* Another function may have less than the guest goes on with. */
	state_check_refuses("vf0", e.dev.state, e.dev.nstate, "/vf-net", "cvq.ctrl.pairs", 2,
			    "pairs");
	guest_reset(&e);
	env_end(&e);
}

/*
 * KVM cannot forget a page (it has no memory to do it with): it stays what it is in this process,
 * or the guest would reach what comes to lie there next. It goes as soon as KVM can.
 */
static void test_page_that_kvm_keeps(void **state)
{
	struct env e;
	uint64_t at;
	void *page;

	(void)state;
	begin(&e, VIRTIO_ID_BLOCK, 1);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	at = guest_bar(&e, VP_BAR) + VP_DOORBELLS;
	page = fake_kvm_slot_at(at)->page;
	fake_kvm.keep_slots = true;
	guest_reset(&e);
	assert_ptr_equal(fake_kvm_slot_at(at)->page, page);
	vf_doorbell_unmap(&e.vd->doorbells[0]);
	assert_int_equal(msync(page, PAGE_SIZE_4K, MS_ASYNC), 0);
	fake_kvm.keep_slots = false;
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	guest_reset(&e);
	assert_null(fake_kvm_slot_at(at));
	env_end(&e);
}

/* --- which disk it is ------------------------------------------------------------------------- */

static void serial_is(const char *says, bool nameless, const char *configured, const char *want)
{
	struct env e;
	struct diag d = { "" };

	env_begin(&e, VIRTIO_ID_BLOCK, 1);
	memcpy(mock->serial, says, strnlen(says, sizeof(mock->serial)));
	mock->nameless = nameless;
	conf_text(&e, "serial", configured);
	if (env_create(&e, &d))
		fail_msg("%s", d.text);
	assert_memory_equal(e.vd->serial, want, strnlen(want, sizeof(e.vd->serial)) + !*want);
	/* It has been reset, and the driver's start is as ever. */
	assert_int_equal(mock->status, 0);
	guest_drive(&e, e.vd->vdev.offered, 1);
	assert_true(wait_until(&e, is_up));
	env_end(&e);
}

static void test_serial(void **state)
{
	(void)state;
	serial_is("lun 7", false, NULL, "lun 7");
	serial_is("twenty bytes, no NUL", false, NULL, "twenty bytes, no NUL");
	serial_is("\x1b[2Jlun", false, NULL, "?[2Jlun");
	serial_is("lun 7", false, "as its owner says", "as its owner says");
	serial_is("", false, NULL, "");
	serial_is("", true, NULL, ""); /* no answer: that is waited for, and no more */
}

/* As between two hosts: what the guest's disk says, and what the one here does. */
static int goes_to(const char *theirs, const char *ours, struct diag *d)
{
	struct env e;
	struct vf_dev *s = calloc(1, sizeof(*s));
	struct diag ignored = { "" };
	int err;

	env_begin(&e, VIRTIO_ID_BLOCK, 1);
	strcpy(mock->serial, ours);
	if (env_create(&e, &ignored))
		fail_msg("%s", ignored.text);
	s->config = e.vd->config;
	memcpy(s->serial, theirs, strlen(theirs));
	err = vf_state.validate(s, e.vd, d);
	env_end(&e);
	free(s);
	return err;
}

static void test_another_disk(void **state)
{
	struct diag d = { "" };

	(void)state;
	assert_int_equal(goes_to("lun 7", "lun 7", &d), 0);
	assert_int_equal(goes_to("", "lun 7", &d), 0);
	assert_int_equal(goes_to("lun 7", "", &d), 0);
	assert_int_equal(goes_to("lun 7", "lun 8", &d), -EINVAL);
	assert_string_equal(
		d.text, "the guest's disk is \"lun 7\", the one here \"lun 8\" (GET_ID); if they "
			"are the same, say so by its serial in vfs");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk),
		cmocka_unit_test(test_card),
		cmocka_unit_test(test_guest_sees_a_software_device),
		cmocka_unit_test(test_doorbell_is_mapped),
		cmocka_unit_test(test_doorbell_by_register),
		cmocka_unit_test(test_bus_master),
		cmocka_unit_test(test_bus_master_off_waits),
		cmocka_unit_test(test_rings_outside_of_memory),
		cmocka_unit_test(test_link_goes_down),
		cmocka_unit_test(test_config_never_holds_still),
		cmocka_unit_test(test_function_asks_for_a_reset),
		cmocka_unit_test(test_lost),
		cmocka_unit_test(test_all_ones),
		cmocka_unit_test(test_doorbell_page_is_gone),
		cmocka_unit_test(test_page_that_kvm_keeps),
		cmocka_unit_test(test_host_wants_it_back),
		cmocka_unit_test(test_never_resets),
		cmocka_unit_test(test_reset_during_start),
		cmocka_unit_test(test_bus_master_off_during_start),
		cmocka_unit_test(test_failure_at_every_call),
		cmocka_unit_test(test_too_many_pairs),
		cmocka_unit_test(test_refusing_registers),
		cmocka_unit_test(test_state),
		cmocka_unit_test(test_serial),
		cmocka_unit_test(test_another_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
