/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_program.c - the register accesses that take a function to DRIVER_OK and back, against the
 * sequence that was read and found right: tests/golden/vf-*.txt. With UNVMM_WRITE_GOLDEN set the
 * files are written instead.
 */
#include "vf_env.h"

#include <unvmm/offer.h>

/* The log is cut into lines; the first that differs is the one to be told. */
static void compare(const char *path, const char *got)
{
	FILE *f = fopen(path, getenv("UNVMM_WRITE_GOLDEN") ? "w+" : "r");
	unsigned int line = 0;
	char want[256];

	if (!f)
		fail_msg("%s: %s", path, strerror(errno));
	if (getenv("UNVMM_WRITE_GOLDEN")) {
		fputs(got, f);
		rewind(f);
	}
	while (fgets(want, sizeof(want), f)) {
		size_t n = strlen(want);

		line++;
		if (strncmp(got, want, n))
			fail_msg("%s:%u: expected %.*s, found %.60s", path, line, (int)n - 1, want,
				 got);
		got += n;
	}
	fclose(f);
	if (*got)
		fail_msg("%s: %u lines, and then there is %.60s", path, line, got);
}

static void golden(uint16_t id, uint16_t nqueues, unsigned int pairs, bool mq, const char *name)
{
	struct env e;
	struct diag d = { "" };
	char path[128], *log;
	uint64_t features;

	env_begin(&e, id, nqueues);
	conf_number(&e, "queues", pairs);
	if (env_create(&e, &d))
		fail_msg("%s", d.text);
	features = e.vd->vdev.offered;
	if (!mq)
		features &= ~VIRTIO_BIT(VIRTIO_NET_F_MQ);
	free(vf_mock_take_log(mock));
	mock->log_reads = true;
	guest_drive(&e, features, mq ? e.vd->vdev.nqueues : 3);
	assert_true(wait_until(&e, is_up));
	env_barrier(&e);
	log = vf_mock_take_log(mock);
	snprintf(path, sizeof(path), "tests/golden/vf-start-%s.txt", name);
	compare(path, log);
	free(log);
	guest_reset(&e);
	log = vf_mock_take_log(mock);
	compare("tests/golden/vf-stop.txt", log);
	free(log);
	env_end(&e);
}

static void test_disk(void **state)
{
	(void)state;
	golden(VIRTIO_ID_BLOCK, 2, 2, true, "blk");
}

/* The function has four pairs, the guest knows of two: its control queue is 4, the function's 8. */
static void test_card(void **state)
{
	(void)state;
	golden(VIRTIO_ID_NET, 9, 2, true, "net-mq");
}

/* The same card, and a driver without MQ: queue 2 on both sides. */
static void test_card_without_mq(void **state)
{
	(void)state;
	golden(VIRTIO_ID_NET, 9, 2, false, "net");
}

/* --- the walk by itself ----------------------------------------------------------------------- */

static struct vf_function fn;

static void begin(uint16_t id, uint16_t nqueues)
{
	struct diag d = { "" };

	mock = vf_mock_new(id, nqueues);
	memset(&fn, 0, sizeof(fn));
	fn.vf = &mock->vf;
	if (vf_function_probe(&fn, &d))
		fail_msg("%s", d.text);
}

static struct vf_plan a_plan(void)
{
	return (struct vf_plan){ .features = fn.features,
				 .nqueues = 1,
				 .queues[0] = { .size = 256,
						.vector = 1,
						.desc = 0x123456789000,
						.driver = 0x1000,
						.device = 0x2000 } };
}

static void test_probe(void **state)
{
	(void)state;
	begin(VIRTIO_ID_NET, 5);
	assert_int_equal(fn.features, mock->features);
	assert_int_equal(fn.nqueues, 5);
	assert_int_equal(fn.queues[4].size_max, 256);
	assert_int_equal(fn.queues[4].notify_off, 4);
	vf_mock_free(mock);
}

static void probe_refuses(const char *says)
{
	struct diag d = { "" };

	assert_true(vf_function_probe(&fn, &d) < 0);
	if (!strstr(d.text, says))
		fail_msg("\"%s\" does not say \"%s\"", d.text, says);
	vf_mock_free(mock);
}

static void test_probe_refuses(void **state)
{
	(void)state;
	begin(VIRTIO_ID_BLOCK, 1);
	mock->nqueues = 0;
	probe_refuses("no queues");
	begin(VIRTIO_ID_BLOCK, 1);
	mock->queues[0].size_max = 100;
	probe_refuses("100 entries");
	begin(VIRTIO_ID_BLOCK, 1);
	mock->queues[0].notify_off = 1;
	probe_refuses("behind its notify structure");
	begin(VIRTIO_ID_BLOCK, 1);
	mock->status = 1;
	mock->never_resets = true;
	__atomic_store_n(&fn.cancel, true, __ATOMIC_RELAXED); /* or it takes its time */
	probe_refuses("not wanted");
	begin(VIRTIO_ID_BLOCK, 1);
	mock->vf.info.nvectors = 0;
	probe_refuses("vectors cannot be used");
	begin(VIRTIO_ID_BLOCK, 1);
	mock->all_ones_from = 1;
	probe_refuses("all-ones");
}

static void test_addresses_and_features(void **state)
{
	struct vf_plan plan;
	struct diag d = { "" };

	(void)state;
	begin(VIRTIO_ID_BLOCK, 1);
	plan = a_plan();
	assert_int_equal(vf_program_start(&fn, &plan, &d), 0);
	assert_int_equal(mock->status, 0xf);
	assert_int_equal(mock->acknowledged, fn.features);
	assert_int_equal(mock->queues[0].desc, 0x123456789000);
	assert_int_equal(mock->queues[0].vector, 1);
	assert_int_equal(vf_program_stop(&fn, &d), 0);
	assert_int_equal(mock->status, 0);
	vf_mock_free(mock);
}

/* What fails says at which step, and leaves a function that is reset and cannot reach memory. */
static void test_failure_names_the_step(void **state)
{
	struct vf_plan plan;
	struct diag d = { "" };

	(void)state;
	begin(VIRTIO_ID_BLOCK, 1);
	plan = a_plan();
	plan.queues[0].size = 512;
	assert_true(vf_program_start(&fn, &plan, &d) < 0);
	assert_string_equal(d.text, "step \"size\" of queue 0: it cannot have that many entries: "
				    "0x200 was written and 0x100 is read");
	assert_int_equal(mock->status, 0);
	assert_false(mock->pci[PCI_COMMAND] & PCI_COMMAND_MASTER);
	vf_mock_free(mock);
}

static void test_cancelled(void **state)
{
	struct vf_plan plan;
	struct diag d = { "" };

	(void)state;
	begin(VIRTIO_ID_BLOCK, 1);
	plan = a_plan();
	fn.cancel = true;
	assert_int_equal(vf_program_start(&fn, &plan, &d), -ECANCELED);
	assert_true(fn.cancel);
	assert_int_equal(mock->status, 0);
	vf_mock_free(mock);
}

/* All-ones from any access on: always "gone", never a wrong reading. */
static void test_all_ones_at_every_call(void **state)
{
	struct vf_plan plan;
	unsigned int calls;

	(void)state;
	begin(VIRTIO_ID_BLOCK, 1);
	plan = a_plan();
	calls = mock->calls;
	assert_int_equal(vf_program_start(&fn, &plan, NULL), 0);
	calls = mock->calls - calls;
	vf_mock_free(mock);
	for (unsigned int n = 1; n <= calls; n++) {
		struct diag d = { "" };

		begin(VIRTIO_ID_BLOCK, 1);
		plan = a_plan();
		mock->all_ones_from = mock->calls + n;
		assert_int_equal(vf_program_start(&fn, &plan, &d), -ENODEV);
		assert_non_null(strstr(d.text, "all-ones"));
		vf_mock_free(mock);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk),
		cmocka_unit_test(test_card),
		cmocka_unit_test(test_card_without_mq),
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_probe_refuses),
		cmocka_unit_test(test_addresses_and_features),
		cmocka_unit_test(test_failure_names_the_step),
		cmocka_unit_test(test_cancelled),
		cmocka_unit_test(test_all_ones_at_every_call),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
