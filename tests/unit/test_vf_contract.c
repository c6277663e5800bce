/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_contract.c - the contract of unvmm/vf.h over every backend: the mock, the vfio-user
 * client against the independent server of tests/peers in its shapes, and against unvf. As a
 * program with arguments, for the testbed: `--vfio ADDRESS` (a function bound to vfio-pci) or
 * `--socket PATH`.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/virtio_ids.h>

#include <unvmm/vm.h>

#include "vf_contract.h"
#include "vf_mock.h"
#include "vf_peer.h"
#include "vf_user.h"

static struct diag diag;

static void raise_at_mock(void *arg, uint32_t index)
{
	struct vf_mock *m = arg;

	if (index == VFIO_PCI_REQ_IRQ_INDEX)
		m->vf.request(&m->vf);
	else
		vf_mock_lose(m, "its link has failed");
}

static void test_mock(void **state)
{
	struct vf_mock *m = vf_mock_new(VIRTIO_ID_NET, 3);
	unsigned int failed;

	(void)state;
	assert_non_null(m);
	failed = vf_contract_run(&m->vf, &(struct vf_contract_events){ raise_at_mock, m }, "mock");
	vf_mock_free(m);
	assert_int_equal(failed, 0);
}

static void test_mock_that_moves(void **state)
{
	struct vf_mock *m = vf_mock_new(VIRTIO_ID_NET, 3);
	unsigned int failed;

	(void)state;
	assert_non_null(m);
	m->mig_flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VF_MIGRATION_PRE_COPY;
	m->mig_log = true;
	failed = vf_contract_run(&m->vf, NULL, "mock-mig");
	vf_mock_free(m);
	assert_int_equal(failed, 0);
}

/* --- against the independent server ---------------------------------------------------------- */

static void raise_at_server(void *arg, uint32_t index)
{
	const struct vf_peer *peer = arg;

	kill(peer->pid, index == VFIO_PCI_REQ_IRQ_INDEX ? SIGUSR1 : SIGUSR2);
}

static void over_server(const char *name, const char *const *args, bool with_loop)
{
	unsigned int before = vf_contract_fds(), failed;
	struct io_thread t = { .started = false };
	struct vf_peer peer;
	const struct vf_contract_events events = { raise_at_server, &peer };
	struct vf *vf;

	diag.text[0] = 0;
	if (with_loop)
		assert_int_equal(io_thread_start(&t, "test-vf", &diag), 0);
	assert_true(vf_peer_start(&peer, args));
	if (vf_user_attach(with_loop ? &t.loop : NULL, peer.sock, name, &vf, &diag))
		fail_msg("%s", diag.text);
	failed = vf_contract_run(vf, with_loop ? &events : NULL, name);
	vf->ops->close(vf);
	assert_true(vf_peer_stop(&peer));
	if (with_loop)
		io_thread_stop(&t);
	assert_int_equal(failed, 0);
	assert_int_equal(vf_contract_fds(), before);
}

static void test_server(void **state)
{
	(void)state;
	over_server("server", (const char *[]){ "--io-fds", NULL }, true);
}

static void test_server_without_loop(void **state)
{
	(void)state;
	over_server("server-no-loop", (const char *[]){ "--io-fds", "--stride", "40", NULL },
		    false);
}

/* As little as the protocol allows. */
static void test_server_minimal(void **state)
{
	(void)state;
	over_server("server-minimal",
		    (const char *[]){ "--no-caps", "--minor", "0", "--max-fds", "1", "--no-reset",
				      "--no-migration", NULL },
		    true);
}

/* --- against unvf ---------------------------------------------------------------------------- */

#define UNVF "build/unvf"
/* Its error comes at a register access with this number: more than the other checks make. */
#define ERROR_AT "8000"

struct unvf {
	pid_t pid;
	struct vf *vf;
};

static void raise_at_unvf(void *arg, uint32_t index)
{
	const struct unvf *u = arg;
	uint16_t v;

	if (index == VFIO_PCI_REQ_IRQ_INDEX)
		kill(u->pid, SIGUSR2);
	else
		while (!u->vf->ops->region_read(u->vf, VFIO_PCI_CONFIG_REGION_INDEX, 0, &v, 2))
			;
}

static pid_t start_unvf(const char *socket, const char *image, const char *const *args)
{
	const char *argv[20] = { UNVF,	    "--socket", socket,	   "--type",	     "blk",
				 "--image", image,	"--fault", "error@" ERROR_AT };
	pid_t pid;

	for (int n = 9; *args; args++)
		argv[n++] = *args;
	pid = fork();
	if (!pid) {
		execv(UNVF, (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	return pid;
}

/* The server needs a moment until it listens. */
static int open_soon(struct loop *loop, const char *socket, struct vf **vf)
{
	int err = -ENOENT;

	for (int i = 0; i < 200 && (err == -ENOENT || err == -ECONNREFUSED); i++) {
		diag.text[0] = 0;
		err = vf_user_open(loop, socket, vf, &diag);
		if (err)
			usleep(20000);
	}
	return err;
}

static void over_unvf(const char *name, const char *const *args)
{
	char dir[] = "/tmp/unvmm-contract-XXXXXX", socket[64], image[64];
	unsigned int before = vf_contract_fds(), failed = 1;
	struct io_thread t = { .started = false };
	struct unvf u = { .vf = NULL };
	int err;

	if (access(UNVF, X_OK))
		fail_msg(UNVF " is missing: run make first");
	assert_non_null(mkdtemp(dir));
	snprintf(socket, sizeof(socket), "%s/s", dir);
	snprintf(image, sizeof(image), "%s/image", dir);
	fclose(fopen(image, "w"));
	assert_int_equal(truncate(image, 1 << 20), 0);
	assert_int_equal(io_thread_start(&t, "test-vf", &diag), 0);
	u.pid = start_unvf(socket, image, args);
	err = open_soon(&t.loop, socket, &u.vf);
	if (!err) {
		failed = vf_contract_run(u.vf, &(struct vf_contract_events){ raise_at_unvf, &u },
					 name);
		u.vf->ops->close(u.vf);
	}
	kill(u.pid, SIGTERM);
	waitpid(u.pid, NULL, 0);
	io_thread_stop(&t);
	unlink(socket);
	unlink(image);
	rmdir(dir);
	if (err)
		fail_msg("%s", diag.text);
	assert_int_equal(failed, 0);
	assert_int_equal(vf_contract_fds(), before);
}

static void test_unvf(void **state)
{
	(void)state;
	over_unvf("unvf", (const char *[]){ "--state", "--dirty-log", "--page-per-vq", NULL });
}

static void test_unvf_plain(void **state)
{
	(void)state;
	over_unvf("unvf-plain", (const char *[]){ "--doorbell", "ioeventfd", NULL });
}

static void test_unvf_log_alone(void **state)
{
	(void)state;
	over_unvf("unvf-log", (const char *[]){ "--dirty-log", "--ring-index", NULL });
}

static void test_unvf_messages(void **state)
{
	(void)state;
	over_unvf("unvf-messages",
		  (const char *[]){ "--doorbell", "message", "--queues", "4", NULL });
}

/* --- as a program ---------------------------------------------------------------------------- */

static int over_address(bool vfio, const char *address)
{
	static struct vm_config config;
	static struct vm vm;
	unsigned int before, failed;
	struct loop *loop;
	struct vf *vf;
	int err;

	if (vm_init(&vm, &config, &diag) || !(loop = vm_vf_loop(&vm, &diag))) {
		printf("not ok open - %s\n", diag.text);
		return 1;
	}
	before = vf_contract_fds();
	err = vfio ? vf_vfio_open(&vm, loop, address, &vf, &diag)
		   : vf_user_open(loop, address, &vf, &diag);
	if (err) {
		printf("not ok open - %s\n", diag.text);
		return 1;
	}
	failed = vf_contract_run(vf, NULL, vf->ops->kind);
	vf->ops->close(vf);
	usleep(100000); /* the loop's thread has let go of its own descriptors by then */
	if (vf_contract_fds() != before) {
		printf("not ok close - %u descriptors before open, %u after close\n", before,
		       vf_contract_fds());
		failed++;
	} else {
		printf("ok close\n");
	}
	vm_fini(&vm);
	return failed != 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mock),	       cmocka_unit_test(test_mock_that_moves),
		cmocka_unit_test(test_server),	       cmocka_unit_test(test_server_without_loop),
		cmocka_unit_test(test_server_minimal), cmocka_unit_test(test_unvf),
		cmocka_unit_test(test_unvf_plain),     cmocka_unit_test(test_unvf_messages),
		cmocka_unit_test(test_unvf_log_alone),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && (!strcmp(argv[1], "--vfio") || !strcmp(argv[1], "--socket")))
		return over_address(!strcmp(argv[1], "--vfio"), argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
