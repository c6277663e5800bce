/* SPDX-License-Identifier: Apache-2.0 */
/*
 * echo.c - a console that answers: prints each byte that it reads in hex, and each line when it is
 * complete. Some lines are commands, one for each way in which a machine can end:
 *
 *   exit N    the byte N to the exit-status port       off      ACPI S5
 *   panic     the pvpanic port                         reset    port 0xcf9
 *   print N   N lines, for tests of slow readers       kbd      the i8042's reset
 *
 * Option: fault (a triple fault, at once and so after each reset).
 */
#include <misc/pvpanic.h>

#include <unvmm/platform.h>

#include "lib/guest.h"
#include "lib/io.h"

#define LSR_DATA 0x01
#define LINE_MAX 256
#define PM1_S5	 (1u << 13 | PLAT_S5_SLP_TYP << 10) /* ACPI 6.4, 4.8.3.2.1: SLP_EN, SLP_TYP */

static uint8_t read_byte(void)
{
	while (!(io_in8(PLAT_SERIAL_PORT + 5) & LSR_DATA))
		io_relax();
	return io_in8(PLAT_SERIAL_PORT);
}

/* The text behind "word " or "word"; NULL if the line is another one. */
static const char *argument(const char *line, const char *word)
{
	size_t n = strlen(word);

	if (memcmp(line, word, n) || (line[n] && line[n] != ' '))
		return NULL;
	return line[n] ? line + n + 1 : line + n;
}

static unsigned int number(const char *s)
{
	unsigned int v = 0;

	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (unsigned int)(*s - '0');
	return v;
}

static void obey(const char *line)
{
	const char *arg;

	if ((arg = argument(line, "exit")))
		guest_exit((uint8_t)number(arg));
	if (argument(line, "off"))
		io_out16(PLAT_PM1_CNT_PORT, PM1_S5);
	if (argument(line, "panic"))
		io_out8(PLAT_PVPANIC_PORT, PVPANIC_PANICKED);
	if (argument(line, "reset")) {
		io_out8(PLAT_PCI_RESET_PORT, 0x02); /* the next edge of bit 2 resets hard */
		io_out8(PLAT_PCI_RESET_PORT, 0x06);
	}
	if (argument(line, "kbd"))
		io_out8(PLAT_I8042_CMD, 0xfe);
	if ((arg = argument(line, "print")))
		for (unsigned int i = 0, n = number(arg); i < n; i++)
			print("%u of %u\r\n", i + 1, n);
}

/* An exception without a gate to go to, and none for the double fault that follows. */
static void triple_fault(void)
{
	struct {
		uint16_t limit;
		uintptr_t base;
	} __attribute__((packed)) idt;

	__asm__ volatile("sidt %0" : "=m"(idt));
	memset((void *)idt.base, 0, idt.limit + 1u);
	io_fence();
	__asm__ volatile("ud2");
}

void guest_main(const struct boot_info *boot)
{
	static char line[LINE_MAX];
	size_t len = 0;

	(void)boot;
	print("ready\r\n");
	if (opt_flag("fault"))
		triple_fault();
	for (;;) {
		uint8_t c = read_byte();

		print("[%02x]", c);
		if (c != '\r' && c != '\n') {
			if (len < LINE_MAX - 1)
				line[len++] = (char)c;
			continue;
		}
		line[len] = '\0';
		print("\r\nline: %s\r\n", line);
		obey(line);
		memset(line, 0, sizeof(line));
		len = 0;
	}
}
