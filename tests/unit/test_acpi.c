/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_acpi.c - reads the tables back as a guest would: from the RSDP down, by the byte offsets of
 * the specification (ACPI 6.5), not by the structures of acpi.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include <unvmm/acpi.h>
#include <unvmm/platform.h>

struct table {
	gpa_t gpa;
	uint32_t len;
	uint8_t bytes[4096];
};

struct tables {
	struct gmem mem;
	unsigned int vcpus;
	gpa_t rsdp;
	struct table xsdt, fadt, madt, mcfg, facs, dsdt;
};

static uint64_t field(const struct table *t, size_t offset, size_t size)
{
	uint64_t v = 0;

	assert_true(offset + size <= t->len);
	memcpy(&v, t->bytes + offset, size);
	return v;
}

static uint8_t sum(const void *p, size_t len)
{
	const uint8_t *b = p;
	uint8_t s = 0;

	while (len--)
		s += *b++;
	return s;
}

/* The FACS alone has no checksum. */
static void read_table(struct tables *t, struct table *out, gpa_t gpa, const char *signature)
{
	out->gpa = gpa;
	assert_true(range_within(gpa, 8, PLAT_ACPI_BASE, PLAT_ACPI_SIZE));
	assert_int_equal(gmem_read(&t->mem, gpa, out->bytes, 8), 0);
	assert_memory_equal(out->bytes, signature, 4);
	memcpy(&out->len, out->bytes + 4, 4);
	assert_true(out->len <= sizeof(out->bytes));
	assert_true(range_within(gpa, out->len, PLAT_ACPI_BASE, PLAT_ACPI_SIZE));
	assert_int_equal(gmem_read(&t->mem, gpa, out->bytes, out->len), 0);
	if (memcmp(signature, "FACS", 4) != 0)
		assert_int_equal(sum(out->bytes, out->len), 0);
}

static void build(struct tables *t, unsigned int vcpus)
{
	struct diag d = { "" };
	uint8_t rsdp[36];
	uint64_t xsdt;

	memset(t, 0, sizeof(*t));
	t->vcpus = vcpus;
	assert_int_equal(gmem_create(&t->mem, PLAT_RAM_MIN, false, &d), 0);
	assert_int_equal(acpi_build(&t->mem, vcpus, &t->rsdp, &d), 0);
	assert_string_equal(d.text, "");

	/* 5.2.5.1: where a BIOS area scan looks. */
	assert_true(t->rsdp >= 0xe0000 && t->rsdp <= 0xfffff - 36 && t->rsdp % 16 == 0);
	assert_int_equal(gmem_read(&t->mem, t->rsdp, rsdp, sizeof(rsdp)), 0);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	assert_int_equal(rsdp[15], 2);
	assert_int_equal(rsdp[20], 36);
	memcpy(&xsdt, rsdp + 24, 8);

	read_table(t, &t->xsdt, xsdt, "XSDT");
	assert_int_equal(t->xsdt.len, 36 + 3 * 8);
	read_table(t, &t->fadt, field(&t->xsdt, 36, 8), "FACP");
	read_table(t, &t->madt, field(&t->xsdt, 44, 8), "APIC");
	read_table(t, &t->mcfg, field(&t->xsdt, 52, 8), "MCFG");
	read_table(t, &t->facs, field(&t->fadt, 36, 4), "FACS");
	read_table(t, &t->dsdt, field(&t->fadt, 140, 8), "DSDT");
}

static void no_overlap(void **state)
{
	struct tables t;

	(void)state;
	build(&t, PLAT_VCPUS_MAX);
	{
		const struct table rsdp = { .gpa = t.rsdp, .len = 36 };
		const struct table *all[] = { &rsdp,   &t.xsdt, &t.fadt, &t.madt,
					      &t.mcfg, &t.facs, &t.dsdt };

		for (unsigned int i = 0; i < ARRAY_SIZE(all); i++)
			for (unsigned int j = 0; j < i; j++)
				assert_false(ranges_overlap(all[i]->gpa, all[i]->len, all[j]->gpa,
							    all[j]->len));
	}
	gmem_destroy(&t.mem);
}

static void fadt(void **state)
{
	static const struct {
		size_t offset, size;
		uint64_t value;
	} want[] = {
		{ 8, 1, 6 },
		{ 131, 1, 5 }, /* revision 6.5 */
		{ 45, 1, 4 },  /* enterprise server */
		{ 46, 2, 9 },  /* SCI_INT */
		{ 48, 4, 0 },  /* no SMI command port */
		{ 56, 4, 0x600 },
		{ 88, 1, 4 }, /* PM1a event block */
		{ 64, 4, 0x604 },
		{ 89, 1, 2 }, /* PM1a control block */
		{ 60, 4, 0 },
		{ 68, 4, 0 }, /* no PM1b */
		{ 72, 4, 0 },
		{ 90, 1, 0 }, /* no PM2 */
		{ 76, 4, 0 },
		{ 91, 1, 0 }, /* no PM timer */
		{ 208, 4, 0 },
		{ 212, 8, 0 }, /* nor an extended one */
		{ 80, 4, 0 },
		{ 84, 4, 0 }, /* no GPE */
		{ 92, 1, 0 },
		{ 93, 1, 0 },
		{ 109, 2, 0x0005 }, /* legacy devices, no VGA; no 8042 */
		{ 112, 4, 0x0465 }, /* fixed power button, reset register... */
		{ 116, 4, 0x01000801 },
		{ 120, 8, 0xcf9 },
		{ 128, 1, 6 },
		{ 132, 8, 0 }, /* X_FIRMWARE_CTRL */
		{ 148, 4, 0x02002001 },
		{ 152, 8, 0x600 },
		{ 172, 4, 0x02001001 },
		{ 176, 8, 0x604 },
		{ 244, 8, 0 },
		{ 256, 8, 0 }, /* sleep registers: hardware-reduced only */
	};
	struct tables t;

	(void)state;
	build(&t, 1);
	assert_int_equal(t.fadt.len, 276);
	for (unsigned int i = 0; i < ARRAY_SIZE(want); i++)
		if (field(&t.fadt, want[i].offset, want[i].size) != want[i].value)
			fail_msg("byte %zu of the FADT: 0x%llx, want 0x%llx", want[i].offset,
				 (unsigned long long)field(&t.fadt, want[i].offset, want[i].size),
				 (unsigned long long)want[i].value);
	assert_int_equal(field(&t.fadt, 40, 4), t.dsdt.gpa);
	assert_int_equal(t.facs.len, 64);
	assert_int_equal(t.facs.gpa % 64, 0);
	assert_int_equal(field(&t.facs, 32, 1), 2);
	gmem_destroy(&t.mem);
}

/* Walks the MADT's structures by their length bytes and ticks off what must be there. */
static void check_madt(unsigned int vcpus)
{
	static const uint8_t ioapic[] = { 1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0 };
	static const uint8_t pit[] = { 2, 10, 0, 0, 2, 0, 0, 0, 0, 0 };
	static const uint8_t sci[] = { 2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0 };
	static const uint8_t nmi[] = { 4, 6, 0xff, 0, 0, 1 };
	static const struct {
		const uint8_t *bytes;
		size_t len;
	} rest[] = { { ioapic, 12 }, { pit, 10 }, { sci, 10 }, { nmi, 6 } };
	unsigned int lapics = 0, others = 0;
	struct tables t;

	build(&t, vcpus);
	assert_int_equal(field(&t.madt, 36, 4), PLAT_LAPIC_BASE);
	assert_int_equal(field(&t.madt, 40, 4), 1);
	for (uint32_t at = 44; at < t.madt.len; at += t.madt.bytes[at + 1]) {
		const uint8_t *p = t.madt.bytes + at;

		assert_true(at + 2 <= t.madt.len && p[1] >= 2 && at + p[1] <= t.madt.len);
		if (p[0] == 0) {
			const uint8_t want[] = {
				0, 8, (uint8_t)lapics, (uint8_t)lapics, 1, 0, 0, 0
			};

			assert_memory_equal(p, want, sizeof(want));
			lapics++;
			continue;
		}
		assert_true(others < ARRAY_SIZE(rest));
		assert_int_equal(p[1], rest[others].len);
		assert_memory_equal(p, rest[others].bytes, rest[others].len);
		others++;
	}
	assert_int_equal(lapics, vcpus);
	assert_int_equal(others, ARRAY_SIZE(rest));
	gmem_destroy(&t.mem);
}

static void madt(void **state)
{
	(void)state;
	check_madt(1);
	check_madt(2);
	check_madt(PLAT_VCPUS_MAX);
}

static void mcfg(void **state)
{
	struct tables t;

	(void)state;
	build(&t, 1);
	assert_int_equal(t.mcfg.len, 60);
	assert_int_equal(field(&t.mcfg, 36, 8), 0);
	assert_int_equal(field(&t.mcfg, 44, 8), PLAT_ECAM_BASE);
	assert_int_equal(field(&t.mcfg, 52, 4), 0); /* segment 0, buses 0 to 0 */
	assert_int_equal(field(&t.mcfg, 56, 4), 0);
	gmem_destroy(&t.mem);
}

/* Resource descriptors (ACPI 6.4) and names as AML encodes them. */
static void dsdt(void **state)
{
#define B(...)                                                                             \
	{                                                                                  \
		(const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }) \
	}
	const struct {
		const uint8_t *bytes;
		size_t len;
	} want[] = {
		/* \_S5: package of 4, SLP_TYPa 5 */
		B('_', 'S', '5', '_', 0x12, 0x07, 0x04, 0x0a, 5, 0, 0, 0),
		/* PNP0A08, PNP0A03, PNP0C02, PNP0501, PNP0B00, QEMU0001 */
		B(0x0c, 0x41, 0xd0, 0x0a, 0x08),
		B(0x0c, 0x41, 0xd0, 0x0a, 0x03),
		B(0x0c, 0x41, 0xd0, 0x0c, 0x02),
		B(0x0c, 0x41, 0xd0, 0x05, 0x01),
		B(0x0c, 0x41, 0xd0, 0x0b, 0x00),
		B(0x0d, 'Q', 'E', 'M', 'U', '0', '0', '0', '1', 0),
		/* bus 0 to 0 */
		B(0x88, 0x0d, 0x00, 2, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0),
		/* memory 0xc0000000 to 0xdfffffff */
		B(0x87, 0x17, 0x00, 0, 0x0c, 1, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff, 0xff, 0xdf,
		  0, 0, 0, 0, 0, 0, 0, 0x20),
		/* I/O 0 to 0xcf7, 0xd00 to 0xffff, and 0xcf8 by itself */
		B(0x88, 0x0d, 0x00, 1, 0x0c, 3, 0, 0, 0, 0, 0xf7, 0x0c, 0, 0, 0xf8, 0x0c),
		B(0x88, 0x0d, 0x00, 1, 0x0c, 3, 0, 0, 0x00, 0x0d, 0xff, 0xff, 0, 0, 0x00, 0xf3),
		B(0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8),
		/* ECAM */
		B(0x86, 0x09, 0x00, 1, 0, 0, 0, 0xe0, 0, 0, 0x10, 0),
		/* serial: ports and IRQ 4; RTC: ports and IRQ 8; pvpanic */
		B(0x47, 1, 0xf8, 0x03, 0xf8, 0x03, 1, 8, 0x22, 0x10, 0x00, 0x79),
		B(0x47, 1, 0x70, 0x00, 0x70, 0x00, 1, 2, 0x22, 0x00, 0x01, 0x79),
		B(0x47, 1, 0x05, 0x05, 0x05, 0x05, 1, 1, 0x79),
		/* the VM generation id, as drivers look for it, and where it is */
		B(0x0d, 'V', 'M', '_', 'G', 'e', 'n', '_', 'C', 'o', 'u', 'n', 't', 'e', 'r', 0),
		B(0x0d, 'V', 'M', 'G', 'E', 'N', 'C', 'T', 'R', 0),
		B('A', 'D', 'D', 'R', 0x12, 0x08, 0x02, 0x0c, 0x00, 0xf0, 0x0f, 0x00, 0x00),
		/* what says that it changed: edge, active high, interrupt 16; Notify (VGEN, 0x80)
		 */
		B(0x89, 0x06, 0x00, 0x03, 1, 16, 0, 0, 0),
		B('V', 'G', 'E', 'N', 0x0a, 0x80),
	};
#undef B
	struct tables t;

	(void)state;
	build(&t, 1);
	assert_int_equal(field(&t.dsdt, 8, 1), 2);
	for (unsigned int i = 0; i < ARRAY_SIZE(want); i++)
		if (!memmem(t.dsdt.bytes, t.dsdt.len, want[i].bytes, want[i].len))
			fail_msg("entry %u of the list is not in the DSDT", i);
	gmem_destroy(&t.mem);
}

/* Nothing outside its area, and the same again after a guest wrote over it. */
static void stays_in_its_area(void **state)
{
	struct diag d = { "" };
	struct tables t;
	uint8_t before[8192];
	uint8_t *ram;

	(void)state;
	build(&t, PLAT_VCPUS_MAX);
	assert_int_equal(gmem_read(&t.mem, PLAT_ACPI_BASE, before, sizeof(before)), 0);
	ram = gmem_ptr(&t.mem, 0, MiB(2));
	assert_non_null(ram);
	memset(ram, 0xa5, MiB(2));
	assert_int_equal(acpi_build(&t.mem, PLAT_VCPUS_MAX, &t.rsdp, &d), 0);
	for (size_t i = 0; i < MiB(2); i++)
		if (i < PLAT_ACPI_BASE || i >= PLAT_ACPI_BASE + PLAT_ACPI_SIZE)
			assert_int_equal(ram[i], 0xa5);
	assert_memory_equal(ram + t.xsdt.gpa, t.xsdt.bytes, t.xsdt.len);
	assert_memory_equal(ram + t.madt.gpa, t.madt.bytes, t.madt.len);
	assert_memory_equal(ram + PLAT_ACPI_BASE, before, t.xsdt.gpa + t.xsdt.len - PLAT_ACPI_BASE);
	gmem_destroy(&t.mem);
}

static void refusals(void **state)
{
	struct diag d = { "" };
	struct gmem mem, none = { .nregions = 0 };
	gpa_t rsdp;

	(void)state;
	assert_int_equal(gmem_create(&mem, PLAT_RAM_MIN, false, &d), 0);
	assert_int_equal(acpi_build(&mem, 0, &rsdp, &d), -EINVAL);
	assert_string_equal(d.text, "ACPI tables for 0 vcpus: must be 1 to 64");
	d.text[0] = '\0';
	assert_int_equal(acpi_build(&mem, 65, &rsdp, &d), -EINVAL);
	assert_string_equal(d.text, "ACPI tables for 65 vcpus: must be 1 to 64");
	d.text[0] = '\0';
	assert_int_equal(acpi_build(&none, 1, &rsdp, &d), -EFAULT);
	assert_non_null(strstr(d.text, "must cover the first MiB"));
	gmem_destroy(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_overlap), cmocka_unit_test(fadt),
		cmocka_unit_test(madt),	      cmocka_unit_test(mcfg),
		cmocka_unit_test(dsdt),	      cmocka_unit_test(stays_in_its_area),
		cmocka_unit_test(refusals),
	};

	return cmocka_run_group_tests_name("acpi", tests, NULL, NULL);
}
