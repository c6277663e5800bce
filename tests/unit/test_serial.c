/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_serial.c - the 16550A through its ports, as a driver sees it.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/serial_reg.h>

#include <unvmm/platform.h>

#include "fake_vm.h"
#include "state_check.h"

extern const struct device_class serial_class;

static int setup(void **state)
{
	struct fake_vm *f = fake_vm_new("none");

	fake_vm_add(f, &serial_class, NULL);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fake_vm_free(*state);
	return 0;
}

static uint8_t in(struct fake_vm *f, unsigned int reg)
{
	return fake_inb(f, PLAT_SERIAL_PORT + reg);
}

static void out(struct fake_vm *f, unsigned int reg, uint8_t v)
{
	fake_outb(f, PLAT_SERIAL_PORT + reg, v);
}

static bool line(struct fake_vm *f)
{
	return fake_line(f, PLAT_GSI_SERIAL);
}

static void type(struct fake_vm *f, const char *text)
{
	assert_int_equal(chardev_inject(f->vm.console, (const uint8_t *)text, strlen(text)), 0);
	chardev_poll_input(f->vm.console);
}

/* FIFOs on with the given trigger bits, OUT2 on: as a driver leaves it. */
static void start(struct fake_vm *f, uint8_t trigger, uint8_t ier)
{
	out(f, UART_FCR, UART_FCR_ENABLE_FIFO | trigger);
	out(f, UART_MCR, UART_MCR_OUT2 | UART_MCR_DTR | UART_MCR_RTS);
	out(f, UART_IER, ier);
}

static void test_power_on(void **state)
{
	struct fake_vm *f = *state;

	assert_int_equal(in(f, UART_IER), 0);
	assert_int_equal(in(f, UART_IIR), UART_IIR_NO_INT);
	assert_int_equal(in(f, UART_LCR), 0);
	assert_int_equal(in(f, UART_MCR), 0);
	assert_int_equal(in(f, UART_LSR), UART_LSR_TEMT | UART_LSR_THRE);
	assert_int_equal(in(f, UART_MSR), UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
	assert_false(line(f));
}

static void test_output(void **state)
{
	struct fake_vm *f = *state;

	out(f, UART_TX, 'h');
	out(f, UART_TX, 'i');
	out(f, UART_LCR, UART_LCR_DLAB);
	out(f, UART_DLL, 0x55);
	out(f, UART_DLM, 0x0a);
	assert_int_equal(in(f, UART_DLL), 0x55);
	assert_int_equal(in(f, UART_DLM), 0x0a);
	out(f, UART_LCR, UART_LCR_WLEN8);
	assert_int_equal(in(f, UART_IER), 0);
	out(f, UART_TX, 0);
	assert_int_equal(f->out_len, 3);
	assert_memory_equal(f->out, "hi", 3);
}

/* What Linux' autoconfig() and autoconfig_16550a() do to find out what is there. */
static void test_is_a_16550a(void **state)
{
	struct fake_vm *f = *state;

	out(f, UART_IER, 0);
	assert_int_equal(in(f, UART_IER), 0);
	out(f, UART_IER, 0xff);
	assert_int_equal(in(f, UART_IER), 0x0f);
	out(f, UART_IER, 0);
	out(f, UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
	assert_int_equal(in(f, UART_MSR) & 0xf0, UART_MSR_DCD | UART_MSR_CTS);
	out(f, UART_MCR, 0);
	out(f, UART_FCR, UART_FCR_ENABLE_FIFO);
	assert_int_equal(in(f, UART_IIR) >> 6, 3);
	out(f, UART_LCR, UART_LCR_CONF_MODE_A);
	assert_int_not_equal(in(f, UART_EFR), 0); /* else a 16650 */
	out(f, UART_LCR, 0);
	out(f, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
	assert_int_equal(in(f, UART_IIR) >> 5, 6); /* 7: a 16750 */
	out(f, UART_FCR, 0);
	assert_int_equal(in(f, UART_IIR) >> 6, 0);
	out(f, UART_SCR, 0xa5);
	assert_int_equal(in(f, UART_SCR), 0xa5);
}

static void test_thre_interrupt(void **state)
{
	struct fake_vm *f = *state;

	start(f, 0, UART_IER_THRI);
	assert_true(line(f));
	assert_int_equal(in(f, UART_IIR) & 0x0f, UART_IIR_THRI);
	/* Reading IIR answers it. */
	assert_false(line(f));
	assert_int_equal(in(f, UART_IIR) & 0x0f, UART_IIR_NO_INT);
	out(f, UART_TX, 'x');
	assert_true(line(f));
	(void)in(f, UART_IIR);
	/* Switching it off and on raises it again; writing the same value does not. */
	out(f, UART_IER, UART_IER_THRI);
	assert_false(line(f));
	out(f, UART_IER, 0);
	out(f, UART_IER, UART_IER_THRI);
	assert_true(line(f));
	/* OUT2 is the gate to the interrupt controller. */
	out(f, UART_MCR, 0);
	assert_false(line(f));
	out(f, UART_MCR, UART_MCR_OUT2);
	assert_true(line(f));
}

static void test_priorities(void **state)
{
	struct fake_vm *f = *state;

	start(f, UART_FCR_TRIGGER_1, 0x0f);
	(void)in(f, UART_IIR);
	out(f, UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2); /* modem lines change */
	for (int i = 0; i < 17; i++) /* one too many; also leaves THRE pending */
		out(f, UART_TX, (uint8_t)i);
	out(f, UART_MCR, UART_MCR_OUT2);
	assert_int_equal(in(f, UART_IIR) & 0x0f, UART_IIR_RLSI);
	assert_true(in(f, UART_LSR) & UART_LSR_OE);
	assert_int_equal(in(f, UART_IIR) & 0x0f, UART_IIR_RDI);
	for (int i = 0; i < 16; i++)
		assert_int_equal(in(f, UART_RX), i);
	assert_int_equal(in(f, UART_IIR) & 0x0f, UART_IIR_THRI);
	assert_int_equal(in(f, UART_IIR) & 0x0f, UART_IIR_MSI);
	assert_true(line(f));
	assert_true(in(f, UART_MSR) & UART_MSR_ANY_DELTA);
	assert_int_equal(in(f, UART_IIR) & 0x0f, UART_IIR_NO_INT);
	assert_false(line(f));
}

static void test_input_keeps_order(void **state)
{
	struct fake_vm *f = *state;
	char text[1001];

	for (int i = 0; i < 1000; i++)
		text[i] = (char)('!' + i % 90);
	text[1000] = '\0';
	start(f, UART_FCR_TRIGGER_14, UART_IER_RDI);
	type(f, text);
	for (int i = 0; i < 1000; i++) {
		assert_true(line(f));
		assert_true(in(f, UART_LSR) & UART_LSR_DR);
		assert_int_equal(in(f, UART_RX), text[i]);
	}
	assert_false(line(f));
	assert_false(in(f, UART_LSR) & (UART_LSR_DR | UART_LSR_OE));
}

static void test_trigger_and_timeout(void **state)
{
	struct fake_vm *f = *state;

	start(f, UART_FCR_TRIGGER_8, UART_IER_RDI);
	type(f, "1234567");
	assert_int_equal(in(f, UART_IIR) & 0x0f, UART_IIR_RX_TIMEOUT);
	type(f, "8");
	assert_int_equal(in(f, UART_IIR) & 0x0f, UART_IIR_RDI);
	assert_int_equal(in(f, UART_RX), '1');
	assert_int_equal(in(f, UART_IIR) & 0x0f, UART_IIR_RX_TIMEOUT);
}

/* Input that comes before the driver is ready survives the driver's start. */
static void test_input_waits_for_driver(void **state)
{
	struct fake_vm *f = *state;

	type(f, "early");
	assert_false(in(f, UART_LSR) & UART_LSR_DR);
	out(f, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT);
	(void)in(f, UART_RX);
	start(f, 0, UART_IER_RDI);
	assert_true(line(f));
	for (const char *p = "early"; *p; p++)
		assert_int_equal(in(f, UART_RX), *p);
}

static void test_input_by_polling(void **state)
{
	struct fake_vm *f = *state;
	int reads = 0;

	type(f, "ab");
	while (!(in(f, UART_LSR) & UART_LSR_DR))
		assert_true(++reads < 100);
	assert_int_equal(in(f, UART_RX), 'a');
	/* From here on it listens: no FIFO, one byte after the other. */
	assert_true(in(f, UART_LSR) & UART_LSR_DR);
	assert_int_equal(in(f, UART_RX), 'b');
	assert_false(in(f, UART_LSR) & UART_LSR_DR);
}

static void test_overrun_without_fifo(void **state)
{
	struct fake_vm *f = *state;

	out(f, UART_MCR, UART_MCR_LOOP);
	out(f, UART_TX, 'a');
	assert_int_equal(in(f, UART_LSR) & (UART_LSR_DR | UART_LSR_OE), UART_LSR_DR);
	out(f, UART_TX, 'b');
	assert_true(in(f, UART_LSR) & UART_LSR_OE);
	assert_false(in(f, UART_LSR) & UART_LSR_OE);
	assert_int_equal(in(f, UART_RX), 'b');
	assert_int_equal(f->out_len, 0);
}

static void test_loopback_holds_input(void **state)
{
	struct fake_vm *f = *state;

	start(f, 0, UART_IER_RDI);
	out(f, UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2);
	type(f, "x");
	assert_false(in(f, UART_LSR) & UART_LSR_DR);
	out(f, UART_MCR, UART_MCR_OUT2);
	assert_int_equal(in(f, UART_RX), 'x');
}

static void test_fifo_clear(void **state)
{
	struct fake_vm *f = *state;

	start(f, 0, UART_IER_RDI);
	type(f, "abc");
	assert_true(line(f));
	out(f, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	assert_false(line(f));
	assert_false(in(f, UART_LSR) & UART_LSR_DR);
}

static void test_wide_access(void **state)
{
	struct fake_vm *f = *state;

	bus_write(&f->vm.pio, PLAT_SERIAL_PORT, 2, 0x4142);
	bus_write(&f->vm.pio, PLAT_SERIAL_PORT + UART_MCR, 4, 0x1f);
	assert_int_equal(f->out_len, 0);
	assert_int_equal(bus_read(&f->vm.pio, PLAT_SERIAL_PORT + UART_LCR, 4), 0xffffffff);
	assert_int_equal(in(f, UART_MCR), 0);
}

static void test_reset(void **state)
{
	struct fake_vm *f = *state;

	start(f, UART_FCR_TRIGGER_14, 0x0f);
	assert_true(line(f));
	assert_int_equal(f->vm.devices->cls->reset(f->vm.devices, NULL), 0);
	assert_false(line(f));
	test_power_on(state);
	out(f, UART_TX, 'r');
	assert_int_equal(f->out[f->out_len - 1], 'r');
}

static bool thr_empty(void *arg)
{
	return in(arg, UART_LSR) & UART_LSR_THRE;
}

/* Prints until the transmitter is full: how many bytes went. */
static size_t print_until_full(struct fake_vm *f, size_t most)
{
	size_t n = 0;

	while (n < most && thr_empty(f)) {
		/* Without looking, a driver writes as much as a FIFO holds. */
		for (int i = 0; i < 16; i++)
			out(f, UART_TX, (uint8_t)(n++ % 253));
		f->out_len = 0;
	}
	return n;
}

/* The console's reader is slow: the transmitter is full meanwhile, and nothing is lost. */
static void test_full_transmitter(void **state)
{
	char dir[] = "/tmp/unvmm-serial-XXXXXX", path[64], spec[80];
	uint8_t buf[4096];
	struct fake_vm *f;
	size_t sent, got = 0;
	ssize_t n;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/fifo", dir);
	snprintf(spec, sizeof(spec), "file:%s", path);
	assert_int_equal(mkfifo(path, 0600), 0);
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	assert_true(fd >= 0);
	f = fake_vm_new(spec);
	fake_vm_add(f, &serial_class, NULL);
	start(f, 0, UART_IER_THRI);
	sent = print_until_full(f, 1000000);
	assert_in_range(sent, 65536, 140000);
	assert_false(in(f, UART_LSR) & UART_LSR_TEMT);
	(void)in(f, UART_IIR);
	assert_int_equal(in(f, UART_IIR) & 1, 1); /* nothing pending */
	assert_false(line(f));
	/* Enabling the interrupt raises it only while the transmitter is empty. */
	out(f, UART_IER, 0);
	out(f, UART_IER, UART_IER_THRI);
	assert_false(line(f));
	/* Whoever is loaded with it full asks for himself whether there is room. */
	state_check_roundtrip("serial0", f->vm.devices->state, f->vm.devices->nstate);
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(buf[i], (got + (size_t)i) % 253);
		got += (size_t)n;
		(void)fake_vm_run(f, thr_empty, f, 4);
	}
	assert_int_equal(got, sent);
	assert_true(thr_empty(f));
	assert_true(line(f));
	assert_int_equal(in(f, UART_IIR) & 0xf, UART_IIR_THRI);
	/* It stops for good: after a second the guest goes on without it. */
	assert_in_range(print_until_full(f, 1000000), 65536, 140000);
	assert_true(fake_vm_run(f, thr_empty, f, 30000));
	assert_true(line(f));
	assert_int_equal(print_until_full(f, 200000), 200000);
	fake_vm_free(f);
	close(fd);
	unlink(path);
	rmdir(dir);
}

static void test_state(void **state)
{
	struct fake_vm *f = *state;
	const struct device *dev = f->vm.devices;

	start(f, UART_FCR_TRIGGER_8, UART_IER_RDI | UART_IER_MSI);
	out(f, UART_SCR, 0x77);
	type(f, "0123456789abcdef"); /* not more: the load asks for what waits outside */
	for (int i = 0; i < 5; i++)
		(void)in(f, UART_RX);
	state_check_roundtrip("serial0", dev->state, dev->nstate);
	for (int i = 5; i < 16; i++)
		assert_int_equal(in(f, UART_RX), "0123456789abcdef"[i]);
	state_check_refuses("serial0", dev->state, dev->nstate, "/serial", "rx_head", 16,
			    "serial0/serial: rx_head 16");
	state_check_refuses("serial0", dev->state, dev->nstate, "/serial", "rx_count", 17,
			    "rx_count 17");
	state_check_refuses("serial0", dev->state, dev->nstate, "/serial", "ier", 0x10, "ier");
	state_check_refuses("serial0", dev->state, dev->nstate, "/serial", "lsr_reads", 99,
			    "lsr_reads");
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_power_on),
		T(test_output),
		T(test_is_a_16550a),
		T(test_thre_interrupt),
		T(test_priorities),
		T(test_input_keeps_order),
		T(test_trigger_and_timeout),
		T(test_input_waits_for_driver),
		T(test_input_by_polling),
		T(test_overrun_without_fifo),
		T(test_loopback_holds_input),
		T(test_fifo_clear),
		T(test_wide_access),
		T(test_reset),
		T(test_full_transmitter),
		T(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
