/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serial.c - a 16550A UART with 16-byte FIFOs, wired as COM1 of a PC. Source: National
 * Semiconductor PC16550D data sheet; section numbers in comments are its.
 *
 * The line is infinitely fast: a byte written to THR has left before the guest can look, so the
 * transmitter reads as empty, and received bytes that stay below the trigger level time out at
 * once. Only when the console's other end has to be waited for is the transmitter full; there is
 * room then for more than a FIFO behind it, so it needs none of its own. Thread: control lock held
 * (vcpus trap, the main loop delivers input).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/serial_reg.h>

#include <unvmm/chardev.h>
#include <unvmm/platform.h>
#include <unvmm/vm.h>

#define SERIAL_PORTS 8u
#define SERIAL_FIFO  16u

#define IER_BITS	 (UART_IER_MSI | UART_IER_RLSI | UART_IER_THRI | UART_IER_RDI)
#define MCR_BITS	 (UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_OUT1 | UART_MCR_RTS | UART_MCR_DTR)
#define IIR_FIFO_ENABLED 0xc0 /* 8.6: both bits set while FCR bit 0 is */

/* The peer is always there: carrier, ready, clear to send. */
#define MSR_PEER (UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS)

/*
 * So many reads of LSR with no other access between them mean that the guest waits for input by
 * polling, if the transmitter is empty and so not what it waits for.
 */
#define POLLING_READS 16

struct serial {
	struct vm *vm;
	uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
	bool overrun;	   /* LSR bit 1, until LSR is read */
	bool thre_pending; /* the transmitter ran empty and the guest was not told yet */
	bool tx_full;	   /* until the console's other end has room again */
	uint8_t rx[SERIAL_FIFO];
	uint8_t rx_head, rx_count;
	uint8_t lsr_reads; /* in a row; see POLLING_READS */
	bool line;	   /* level of the interrupt, so that only changes cost a system call */
};

static bool serial_fifo_on(const struct serial *s)
{
	return s->fcr & UART_FCR_ENABLE_FIFO;
}

static unsigned int serial_depth(const struct serial *s)
{
	return serial_fifo_on(s) ? SERIAL_FIFO : 1;
}

static unsigned int serial_trigger(const struct serial *s)
{
	static const uint8_t levels[] = { 1, 4, 8, 14 }; /* 8.5, FCR bits 6 and 7 */

	return serial_fifo_on(s) ? levels[s->fcr >> 6] : 1;
}

/* The highest pending and enabled interrupt as IIR bits 0 to 3 give it (8.6, table IV). */
static uint8_t serial_iir(const struct serial *s)
{
	if ((s->ier & UART_IER_RLSI) && s->overrun)
		return UART_IIR_RLSI;
	if ((s->ier & UART_IER_RDI) && s->rx_count)
		return s->rx_count >= serial_trigger(s) ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT;
	if ((s->ier & UART_IER_THRI) && s->thre_pending)
		return UART_IIR_THRI;
	if ((s->ier & UART_IER_MSI) && (s->msr & UART_MSR_ANY_DELTA))
		return UART_IIR_MSI;
	return UART_IIR_NO_INT;
}

/* On a PC the OUT2 pin gates the interrupt, and loopback forces the pin off (8.7). */
static void serial_update_irq(struct serial *s)
{
	bool wired = (s->mcr & (UART_MCR_OUT2 | UART_MCR_LOOP)) == UART_MCR_OUT2;
	bool level = wired && serial_iir(s) != UART_IIR_NO_INT;

	if (level == s->line)
		return;
	s->line = level;
	irq_line(&s->vm->irq, PLAT_GSI_SERIAL, level);
}

static void serial_rx_push(struct serial *s, uint8_t byte)
{
	unsigned int depth = serial_depth(s);

	if (s->rx_count < depth) {
		s->rx[(s->rx_head + s->rx_count++) % SERIAL_FIFO] = byte;
		return;
	}
	/* 8.4, overrun: with FIFOs the new byte is lost, without them the old one. */
	s->overrun = true;
	if (!serial_fifo_on(s))
		s->rx[s->rx_head] = byte;
}

static uint8_t serial_rx_pop(struct serial *s)
{
	uint8_t byte = s->rx[s->rx_head];

	if (!s->rx_count)
		return 0;
	s->rx_head = (s->rx_head + 1) % SERIAL_FIFO;
	s->rx_count--;
	return byte;
}

/*
 * Input waits outside until the guest listens, by interrupt or by polling. Bytes that came earlier
 * would be thrown away when the guest's driver clears the FIFOs, and with them the beginning of
 * what was piped in.
 */
static size_t serial_room(void *dev)
{
	struct serial *s = dev;

	if (s->mcr & UART_MCR_LOOP)
		return 0;
	if (!(s->ier & UART_IER_RDI) && s->lsr_reads < POLLING_READS)
		return 0;
	return serial_depth(s) - s->rx_count;
}

static void serial_receive(void *dev, const uint8_t *buf, size_t len)
{
	struct serial *s = dev;

	for (size_t i = 0; i < len; i++)
		serial_rx_push(s, buf[i]);
	serial_update_irq(s);
}

static void serial_writable(void *dev)
{
	struct serial *s = dev;

	if (!s->tx_full)
		return;
	s->tx_full = false;
	s->thre_pending = true;
	serial_update_irq(s);
}

static uint8_t serial_read_lsr(struct serial *s)
{
	uint8_t v = s->tx_full ? 0 : UART_LSR_THRE | UART_LSR_TEMT;

	if (v && s->lsr_reads < POLLING_READS && ++s->lsr_reads == POLLING_READS)
		chardev_poll_input(s->vm->console);
	if (s->rx_count)
		v |= UART_LSR_DR;
	if (s->overrun)
		v |= UART_LSR_OE;
	s->overrun = false;
	return v;
}

static uint8_t serial_read_rbr(struct serial *s)
{
	uint8_t v = serial_rx_pop(s);

	/* A guest that polls reads LSR, then RBR: it goes on listening. */
	if (!s->rx_count)
		chardev_poll_input(s->vm->console);
	return v;
}

static uint8_t serial_read_iir(struct serial *s)
{
	uint8_t v = serial_iir(s);

	if (v == UART_IIR_THRI)
		s->thre_pending = false;
	return v | (serial_fifo_on(s) ? IIR_FIFO_ENABLED : 0);
}

static uint64_t serial_read(void *dev, uint64_t offset, unsigned int len)
{
	struct serial *s = dev;
	bool dlab = s->lcr & UART_LCR_DLAB;
	uint8_t v;

	if (len != 1)
		return UINT64_MAX;
	if (offset == UART_LSR) {
		v = serial_read_lsr(s);
		serial_update_irq(s);
		return v;
	}

	switch (offset) {
	case UART_RX:
		v = dlab ? s->dll : serial_read_rbr(s);
		break;
	case UART_IER:
		v = dlab ? s->dlm : s->ier;
		break;
	case UART_IIR:
		v = serial_read_iir(s);
		break;
	case UART_LCR:
		v = s->lcr;
		break;
	case UART_MCR:
		v = s->mcr;
		break;
	case UART_MSR:
		v = s->msr;
		s->msr &= ~UART_MSR_ANY_DELTA;
		break;
	default:
		v = s->scr;
		break;
	}
	/* Any other access ends a row of LSR reads, except taking the byte that was waited for. */
	if (offset != UART_RX || dlab)
		s->lsr_reads = 0;
	serial_update_irq(s);
	return v;
}

static void serial_write_thr(struct serial *s, uint8_t byte)
{
	if (s->mcr & UART_MCR_LOOP) {
		serial_rx_push(s, byte);
	} else {
		chardev_write(s->vm->console, &byte, 1);
		s->tx_full = !chardev_room(s->vm->console);
	}
	s->thre_pending = !s->tx_full;
}

static void serial_write_ier(struct serial *s, uint8_t v)
{
	uint8_t on = v & ~s->ier;

	s->ier = v & IER_BITS;
	/*
	 * Enabling the interrupt while THR is empty raises it at once, each time: drivers use it.
	 */
	if (on & UART_IER_THRI)
		s->thre_pending = !s->tx_full;
	if (on & UART_IER_RDI)
		chardev_poll_input(s->vm->console);
}

static void serial_write_fcr(struct serial *s, uint8_t v)
{
	bool toggled = (v ^ s->fcr) & UART_FCR_ENABLE_FIFO;

	if (toggled || ((v & UART_FCR_ENABLE_FIFO) && (v & UART_FCR_CLEAR_RCVR)))
		s->rx_count = 0;
	if (v & UART_FCR_ENABLE_FIFO)
		s->fcr = v & (UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK);
	else
		s->fcr = 0;
	if (!s->rx_count)
		chardev_poll_input(s->vm->console);
}

/* In loopback the modem inputs are the modem outputs: DTR-DSR, RTS-CTS, OUT1-RI, OUT2-DCD (8.7). */
static uint8_t serial_modem_inputs(uint8_t mcr)
{
	if (!(mcr & UART_MCR_LOOP))
		return MSR_PEER;
	return (mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) | (mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) |
	       (mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) | (mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0);
}

static void serial_write_mcr(struct serial *s, uint8_t v)
{
	uint8_t old = s->msr & ~UART_MSR_ANY_DELTA, in = serial_modem_inputs(v);
	uint8_t changed = old ^ in, delta = 0;

	if (changed & UART_MSR_CTS)
		delta |= UART_MSR_DCTS;
	if (changed & UART_MSR_DSR)
		delta |= UART_MSR_DDSR;
	if (old & ~in & UART_MSR_RI) /* 8.8: the trailing edge only */
		delta |= UART_MSR_TERI;
	if (changed & UART_MSR_DCD)
		delta |= UART_MSR_DDCD;
	s->msr = (s->msr & UART_MSR_ANY_DELTA) | in | delta;
	s->mcr = v & MCR_BITS;
	if (!(s->mcr & UART_MCR_LOOP))
		chardev_poll_input(s->vm->console);
}

static void serial_write(void *dev, uint64_t offset, unsigned int len, uint64_t value)
{
	struct serial *s = dev;
	bool dlab = s->lcr & UART_LCR_DLAB;
	uint8_t v = (uint8_t)value;

	if (len != 1)
		return;
	s->lsr_reads = 0;
	switch (offset) {
	case UART_TX:
		if (dlab)
			s->dll = v;
		else
			serial_write_thr(s, v);
		break;
	case UART_IER:
		if (dlab)
			s->dlm = v;
		else
			serial_write_ier(s, v);
		break;
	case UART_FCR:
		serial_write_fcr(s, v);
		break;
	case UART_LCR:
		s->lcr = v;
		break;
	case UART_MCR:
		serial_write_mcr(s, v);
		break;
	case UART_SCR:
		s->scr = v;
		break;
	default: /* LSR and MSR: read-only */
		break;
	}
	serial_update_irq(s);
}

static const struct bus_ops serial_ops = { .read = serial_read, .write = serial_write };

static const struct state_field serial_fields[] = {
	STATE_SCALAR(STATE_U8, struct serial, ier),
	STATE_SCALAR(STATE_U8, struct serial, fcr),
	STATE_SCALAR(STATE_U8, struct serial, lcr),
	STATE_SCALAR(STATE_U8, struct serial, mcr),
	STATE_SCALAR(STATE_U8, struct serial, msr),
	STATE_SCALAR(STATE_U8, struct serial, scr),
	STATE_SCALAR(STATE_U8, struct serial, dll),
	STATE_SCALAR(STATE_U8, struct serial, dlm),
	STATE_SCALAR(STATE_BOOL, struct serial, overrun),
	STATE_SCALAR(STATE_BOOL, struct serial, thre_pending),
	STATE_SCALAR(STATE_BOOL, struct serial, tx_full),
	STATE_RAW(struct serial, rx),
	STATE_SCALAR(STATE_U8, struct serial, rx_head),
	STATE_SCALAR(STATE_U8, struct serial, rx_count),
	STATE_SCALAR(STATE_U8, struct serial, lsr_reads),
	STATE_SCALAR(STATE_BOOL, struct serial, line),
};

static int serial_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct serial *s = scratch;

	(void)live;
	if (s->rx_head >= SERIAL_FIFO || s->rx_count > serial_depth(s))
		return diag_set(d, -EINVAL, "rx_head %u, rx_count %u do not fit a FIFO of %u bytes",
				s->rx_head, s->rx_count, serial_depth(s));
	if ((s->ier & ~IER_BITS) || (s->mcr & ~MCR_BITS) ||
	    (s->fcr & ~(UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK)))
		return diag_set(d, -EINVAL, "ier, mcr or fcr has bits that a 16550A does not have");
	if (s->lsr_reads > POLLING_READS)
		return diag_set(d, -EINVAL, "lsr_reads is %u, must be at most %u", s->lsr_reads,
				POLLING_READS);
	return 0;
}

/* The interrupt controller carries its own state, so the line is not raised again here. */
static int serial_post_load(void *obj, struct diag *d)
{
	struct serial *s = obj;

	(void)d;
	chardev_poll_input(s->vm->console);
	if (s->tx_full)
		chardev_await_room(s->vm->console);
	return 0;
}

static const struct state_desc serial_desc = {
	.name = "serial",
	.version = 1,
	.obj_size = sizeof(struct serial),
	.fields = serial_fields,
	.nfields = ARRAY_SIZE(serial_fields),
	.validate = serial_validate,
	.post_load = serial_post_load,
};

static void serial_power_on(struct serial *s)
{
	struct vm *vm = s->vm;

	memset(s, 0, sizeof(*s));
	s->vm = vm;
	s->msr = MSR_PEER;
	s->dll = 1; /* 115200 baud, as firmware leaves it */
}

/* The instance and what the walker needs to know of it, in one allocation. */
struct serial_dev {
	struct serial s;
	struct state_ref state;
};

static int serial_reset(struct device *dev, struct diag *d)
{
	struct serial_dev *sd = dev->priv;

	(void)d;
	serial_power_on(&sd->s);
	irq_line(&sd->s.vm->irq, PLAT_GSI_SERIAL, false);
	return 0;
}

static int serial_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	struct serial_dev *sd = calloc(1, sizeof(*sd));
	struct chardev_user user = { .room = serial_room,
				     .receive = serial_receive,
				     .writable = serial_writable };
	int ret;

	(void)conf;
	if (!sd)
		return diag_set(d, -ENOMEM, "no memory for the serial port");
	sd->s.vm = vm;
	serial_power_on(&sd->s);
	ret = bus_add(&vm->pio, PLAT_SERIAL_PORT, SERIAL_PORTS, &serial_ops, &sd->s, "serial");
	if (ret) {
		free(sd);
		return diag_errno(d, ret, "I/O ports of the serial port at %#x", PLAT_SERIAL_PORT);
	}
	sd->state = (struct state_ref){ .desc = &serial_desc, .obj = &sd->s };
	dev->priv = sd;
	dev->state = &sd->state;
	dev->nstate = 1;
	user.dev = &sd->s;
	chardev_attach(vm->console, &user);
	return 0;
}

static void serial_info(const struct device *dev, struct report *r)
{
	const struct serial_dev *sd = dev->priv;

	chardev_info(sd->s.vm->console, r);
}

static void serial_stats(const struct device *dev, struct report *r)
{
	const struct serial_dev *sd = dev->priv;

	chardev_stats(sd->s.vm->console, r);
}

static void serial_destroy(struct device *dev)
{
	struct serial_dev *sd = dev->priv;
	struct chardev_user none = { 0 };

	chardev_attach(sd->s.vm->console, &none);
	bus_remove(&sd->s.vm->pio, PLAT_SERIAL_PORT);
	free(sd);
}

const struct device_class serial_class = {
	.name = "serial",
	.id = "serial",
	.create = serial_create,
	.reset = serial_reset,
	.info = serial_info,
	.stats = serial_stats,
	.destroy = serial_destroy,
};
