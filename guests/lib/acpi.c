/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acpi.c - walks RSDP, XSDT (or RSDT) to MCFG and MADT (ACPI 6.5, 5.2.5 to 5.2.12), checking
 * every length and checksum on the way: a table that is there must be right.
 */
#include "guest.h"

struct acpi_rsdp {
	char signature[8];
	uint8_t checksum;
	char oem[6];
	uint8_t revision;
	uint32_t rsdt, length;
	uint64_t xsdt;
	uint8_t checksum_all, reserved[3];
} __attribute__((packed));

#define RSDP_V1_SIZE 20

struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem[6], oem_table[8];
	uint32_t oem_revision;
	char creator[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct acpi_mcfg {
	struct acpi_header h;
	uint64_t reserved, base;
	uint16_t segment;
	uint8_t first_bus, last_bus;
	uint32_t reserved2;
} __attribute__((packed));

#define MADT_ENTRIES	 44 /* offset of the first entry */
#define MADT_LAPIC	 0
#define MADT_X2APIC	 9
#define MADT_ENABLED	 1
#define TABLE_LENGTH_MAX 0x100000

static uint8_t sum(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint8_t s = 0;

	while (n--)
		s = (uint8_t)(s + *b++);
	return s;
}

/* A table at addr, if its length and checksum are right; each that is wrong is a failed check. */
static const struct acpi_header *table_at(uint64_t addr)
{
	const struct acpi_header *h = (const void *)addr;

	if (!test_check(h->length >= sizeof(*h) && h->length <= TABLE_LENGTH_MAX,
			"ACPI table at 0x%llx: length %u", (unsigned long long)addr, h->length))
		return NULL;
	if (!test_check(!sum(h, h->length), "ACPI table at 0x%llx: checksum",
			(unsigned long long)addr))
		return NULL;
	return h;
}

static const struct acpi_header *find(uint64_t rsdp_addr, const char *signature)
{
	const struct acpi_rsdp *rsdp = (const void *)rsdp_addr;
	const struct acpi_header *root;
	size_t width;

	if (!rsdp_addr)
		return NULL;
	if (!test_check(!memcmp(rsdp->signature, "RSD PTR ", 8), "RSDP signature") ||
	    !test_check(!sum(rsdp, RSDP_V1_SIZE), "RSDP checksum"))
		return NULL;
	width = rsdp->revision >= 2 ? 8 : 4;
	if (width == 8 && !test_check(!sum(rsdp, sizeof(*rsdp)), "RSDP extended checksum"))
		return NULL;
	root = table_at(width == 8 ? rsdp->xsdt : rsdp->rsdt);
	if (!root)
		return NULL;
	for (size_t at = sizeof(*root); at + width <= root->length; at += width) {
		const struct acpi_header *h;
		uint64_t addr = 0;

		memcpy(&addr, (const char *)root + at, width);
		h = table_at(addr);
		if (h && !memcmp(h->signature, signature, 4))
			return h;
	}
	return NULL;
}

uint64_t acpi_ecam(uint64_t rsdp)
{
	const struct acpi_mcfg *m = (const void *)find(rsdp, "MCFG");

	if (!m || !test_check(m->h.length >= sizeof(*m), "MCFG: length %u", m->h.length))
		return 0;
	test_check(!m->segment && !m->first_bus, "MCFG: segment %u, first bus %u", m->segment,
		   m->first_bus);
	return m->base;
}

unsigned int acpi_cpus(uint64_t rsdp, uint32_t *ids, unsigned int max)
{
	const struct acpi_header *madt = find(rsdp, "APIC");
	const uint8_t *b = (const void *)madt;
	unsigned int n = 0;

	if (!madt)
		return 0;
	for (uint32_t at = MADT_ENTRIES; at + 2 <= madt->length; at += b[at + 1]) {
		uint32_t id, flags;

		if (!test_check(b[at + 1] >= 2 && at + b[at + 1] <= madt->length,
				"MADT: entry at %u has length %u", at, b[at + 1]))
			break;
		if (b[at] == MADT_LAPIC && b[at + 1] >= 8) {
			id = b[at + 3];
			memcpy(&flags, b + at + 4, 4);
		} else if (b[at] == MADT_X2APIC && b[at + 1] >= 16) {
			memcpy(&id, b + at + 4, 4);
			memcpy(&flags, b + at + 8, 4);
		} else {
			continue;
		}
		if (flags & MADT_ENABLED && n < max)
			ids[n++] = id;
	}
	return n;
}
