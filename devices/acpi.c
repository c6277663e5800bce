/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acpi.c - the static ACPI tables, built in one buffer and written to guest memory at once. The
 * hardware behind them (PM1 registers, reset port) is in other files. Sections are ACPI 6.5's.
 * Thread: main, before vcpus run.
 */
#include <errno.h>
#include <string.h>

#include <unvmm/acpi.h>
#include <unvmm/platform.h>

#include "dsdt.h" /* made from dsdt.asl by the Makefile */

/* What the DSDT spells out because iasl takes no sums. */
_Static_assert(PLAT_PCI_MEM_LAST == PLAT_PCI_MEM_BASE + PLAT_PCI_MEM_SIZE - 1, "PCI window");
_Static_assert(PLAT_PIO_LOW_LAST + 1 == PLAT_PCI_CFG_ADDR, "low I/O window");
_Static_assert(PLAT_PIO_LOW_SIZE == PLAT_PIO_LOW_LAST + 1, "low I/O window");
_Static_assert(PLAT_PIO_HIGH_BASE == PLAT_PCI_CFG_ADDR + 8, "high I/O window");
_Static_assert(PLAT_PIO_HIGH_BASE + PLAT_PIO_HIGH_SIZE == 0x10000, "high I/O window");

#define ACPI_BUF_SIZE 8192u
#define ACPI_OEM_ID   "UNVMM " /* 6 bytes, also in dsdt.asl */
#define ACPI_TABLE_ID "UNVMM1  "

_Static_assert(sizeof(dsdt_aml_code) <= ACPI_BUF_SIZE / 2, "the DSDT leaves room for the others");
_Static_assert(ACPI_BUF_SIZE <= PLAT_ACPI_SIZE, "the tables fit their area");
/* 5.2.5.1: found by scanning, too, if it is 16-byte aligned in [0xe0000, 1 MiB). */
_Static_assert(PLAT_ACPI_BASE >= 0xe0000 && PLAT_ACPI_BASE % 64 == 0, "the RSDP can be found");

/* 5.2.6: every table but the RSDP and the FACS. */
struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

/* 5.2.5.3 */
struct acpi_rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} __attribute__((packed));

/* 5.2.8: the FADT, the MADT and the MCFG (the DSDT and the FACS hang off the FADT). */
#define ACPI_XSDT_ENTRIES 3

struct acpi_xsdt {
	struct acpi_header h;
	uint64_t entry[ACPI_XSDT_ENTRIES];
} __attribute__((packed));

/* 5.2.3.2, Generic Address Structure */
struct acpi_gas {
	uint8_t space; /* 1: port I/O */
	uint8_t width; /* bits */
	uint8_t offset;
	uint8_t access; /* 1: byte, 2: word */
	uint64_t address;
} __attribute__((packed));

#define ACPI_SPACE_IO	 1
#define ACPI_ACCESS_BYTE 1
#define ACPI_ACCESS_WORD 2

/* 5.2.9 */
struct acpi_fadt {
	struct acpi_header h;
	uint32_t firmware_ctrl;
	uint32_t dsdt;
	uint8_t reserved0;
	uint8_t preferred_pm_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk;
	uint32_t pm2_cnt_blk, pm_tmr_blk, gpe0_blk, gpe1_blk;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len;
	uint8_t gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
	uint16_t iapc_boot_arch;
	uint8_t reserved1;
	uint32_t flags;
	struct acpi_gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_firmware_ctrl;
	uint64_t x_dsdt;
	struct acpi_gas x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk;
	struct acpi_gas x_pm2_cnt_blk, x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
	struct acpi_gas sleep_control_reg, sleep_status_reg;
	uint64_t hypervisor_vendor;
} __attribute__((packed));

_Static_assert(sizeof(struct acpi_fadt) == 276, "FADT of revision 6");

#define FADT_PROFILE_ENTERPRISE_SERVER 4

/* 5.2.9, table 5.10 */
#define FADT_WBINVD	   (1u << 0)
#define FADT_PROC_C1	   (1u << 2)
#define FADT_SLP_BUTTON	   (1u << 5) /* no fixed sleep button; PWR_BUTTON clear: a fixed one */
#define FADT_FIX_RTC	   (1u << 6) /* RTC wake status is not in PM1 */
#define FADT_RESET_REG_SUP (1u << 10)

/*
 * 5.2.9.3: devices on the ISA bus (the serial port); no VGA. "8042" stays clear although port 0x64
 * can reset the machine: probing for a keyboard costs a Linux guest exits and time. "MSI not
 * supported" and "CMOS RTC not present" stay clear as well.
 */
#define FADT_LEGACY_DEVICES  (1u << 0)
#define FADT_VGA_NOT_PRESENT (1u << 2)

/* 5.2.10 */
struct acpi_facs {
	char signature[4];
	uint32_t length, hardware_signature, waking_vector, global_lock, flags;
	uint64_t x_waking_vector;
	uint8_t version;
	uint8_t reserved0[3];
	uint32_t ospm_flags;
	uint8_t reserved1[24];
} __attribute__((packed));

_Static_assert(sizeof(struct acpi_facs) == 64, "FACS");

/* 5.2.12 */
struct acpi_madt {
	struct acpi_header h;
	uint32_t lapic;
	uint32_t flags;
} __attribute__((packed));

#define MADT_PCAT_COMPAT (1u << 0) /* the in-kernel irqchip has a pair of 8259 */

struct acpi_madt_lapic {
	uint8_t type, length, uid, apic_id;
	uint32_t flags; /* 1: enabled */
} __attribute__((packed));

struct acpi_madt_ioapic {
	uint8_t type, length, id, reserved;
	uint32_t address, gsi_base;
} __attribute__((packed));

struct acpi_madt_override {
	uint8_t type, length, bus, source;
	uint32_t gsi;
	uint16_t flags;
} __attribute__((packed));

#define MADT_ISA_DEFAULT       0x0000
#define MADT_LEVEL_ACTIVE_HIGH 0x000d
#define MADT_PIT_GSI	       2 /* as on every PC: pin 0 is the 8259's */

struct acpi_madt_lapic_nmi {
	uint8_t type, length, uid;
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));

/* PCI Firmware Specification 3.2, 4.1.2 */
struct acpi_mcfg {
	struct acpi_header h;
	uint64_t reserved0;
	uint64_t base;
	uint16_t segment;
	uint8_t bus_first, bus_last;
	uint32_t reserved1;
} __attribute__((packed));

struct acpi_buf {
	uint8_t bytes[ACPI_BUF_SIZE];
	size_t used;
};

/* Room for a table at the alignment, zeroed. The sum of all tables is bounded by the vcpu limit. */
static void *acpi_alloc(struct acpi_buf *b, size_t len, size_t align, gpa_t *gpa)
{
	size_t at = align_up(b->used, align);

	b->used = at + len;
	*gpa = PLAT_ACPI_BASE + at;
	return b->bytes + at;
}

/* The byte that makes the sum of all zero. */
static uint8_t acpi_checksum(const void *table, size_t len)
{
	const uint8_t *p = table;
	uint8_t sum = 0;

	while (len--)
		sum += *p++;
	return (uint8_t)-sum;
}

static void acpi_finish(struct acpi_header *h, const char *signature, uint8_t revision, size_t len)
{
	memcpy(h->signature, signature, sizeof(h->signature));
	h->length = (uint32_t)len;
	h->revision = revision;
	memcpy(h->oem_id, ACPI_OEM_ID, sizeof(h->oem_id));
	memcpy(h->oem_table_id, ACPI_TABLE_ID, sizeof(h->oem_table_id));
	h->oem_revision = 1;
	memcpy(h->creator_id, "UNVM", sizeof(h->creator_id));
	h->creator_revision = 1;
	h->checksum = 0;
	h->checksum = acpi_checksum(h, len);
}

static struct acpi_gas acpi_io_reg(uint16_t port, uint8_t bits, uint8_t access)
{
	return (struct acpi_gas){
		.space = ACPI_SPACE_IO, .width = bits, .access = access, .address = port
	};
}

static gpa_t acpi_add_facs(struct acpi_buf *b)
{
	gpa_t gpa;
	struct acpi_facs *f = acpi_alloc(b, sizeof(*f), 64, &gpa);

	memcpy(f->signature, "FACS", sizeof(f->signature));
	f->length = sizeof(*f);
	f->version = 2;
	return gpa;
}

static gpa_t acpi_add_dsdt(struct acpi_buf *b)
{
	gpa_t gpa;
	void *p = acpi_alloc(b, sizeof(dsdt_aml_code), 16, &gpa);

	memcpy(p, dsdt_aml_code, sizeof(dsdt_aml_code));
	return gpa;
}

static gpa_t acpi_add_fadt(struct acpi_buf *b, gpa_t facs, gpa_t dsdt)
{
	gpa_t gpa;
	struct acpi_fadt *f = acpi_alloc(b, sizeof(*f), 16, &gpa);

	/* X_FIRMWARE_CTRL stays 0: of the two only one may name the FACS when it is below 4 GiB. */
	f->firmware_ctrl = (uint32_t)facs;
	f->dsdt = (uint32_t)dsdt;
	f->x_dsdt = dsdt;
	f->preferred_pm_profile = FADT_PROFILE_ENTERPRISE_SERVER;
	f->sci_int = PLAT_GSI_SCI;
	/* SMI_CMD 0: always in ACPI mode. No PM timer and no GPE block: their fields stay 0. */
	f->pm1a_evt_blk = PLAT_PM1_EVT_PORT;
	f->pm1_evt_len = 4;
	f->x_pm1a_evt_blk = acpi_io_reg(PLAT_PM1_EVT_PORT, 32, ACPI_ACCESS_WORD);
	f->pm1a_cnt_blk = PLAT_PM1_CNT_PORT;
	f->pm1_cnt_len = 2;
	f->x_pm1a_cnt_blk = acpi_io_reg(PLAT_PM1_CNT_PORT, 16, ACPI_ACCESS_WORD);
	/* Above 100 and 1000: no C2, no C3. */
	f->p_lvl2_lat = 101;
	f->p_lvl3_lat = 1001;
	f->iapc_boot_arch = FADT_LEGACY_DEVICES | FADT_VGA_NOT_PRESENT;
	f->flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC | FADT_RESET_REG_SUP;
	f->reset_reg = acpi_io_reg(PLAT_PCI_RESET_PORT, 8, ACPI_ACCESS_BYTE);
	f->reset_value = 6;
	f->minor_version = 5;
	acpi_finish(&f->h, "FACP", 6, sizeof(*f));
	return gpa;
}

static gpa_t acpi_add_madt(struct acpi_buf *b, unsigned int vcpus)
{
	gpa_t gpa, unused;
	struct acpi_madt *m = acpi_alloc(b, sizeof(*m), 16, &gpa);
	struct acpi_madt_lapic *lapic;
	struct acpi_madt_ioapic *ioapic;
	struct acpi_madt_override *over;
	struct acpi_madt_lapic_nmi *nmi;

	m->lapic = PLAT_LAPIC_BASE;
	m->flags = MADT_PCAT_COMPAT;
	for (unsigned int i = 0; i < vcpus; i++) {
		lapic = acpi_alloc(b, sizeof(*lapic), 1, &unused);
		*lapic = (struct acpi_madt_lapic){ .type = 0,
						   .length = sizeof(*lapic),
						   .uid = (uint8_t)i,
						   .apic_id = (uint8_t)i,
						   .flags = 1 };
	}
	ioapic = acpi_alloc(b, sizeof(*ioapic), 1, &unused);
	*ioapic = (struct acpi_madt_ioapic){ .type = 1,
					     .length = sizeof(*ioapic),
					     .address = PLAT_IOAPIC_BASE };
	over = acpi_alloc(b, sizeof(*over), 1, &unused);
	*over = (struct acpi_madt_override){ .type = 2,
					     .length = sizeof(*over),
					     .source = 0,
					     .gsi = MADT_PIT_GSI,
					     .flags = MADT_ISA_DEFAULT };
	over = acpi_alloc(b, sizeof(*over), 1, &unused);
	*over = (struct acpi_madt_override){ .type = 2,
					     .length = sizeof(*over),
					     .source = PLAT_GSI_SCI,
					     .gsi = PLAT_GSI_SCI,
					     .flags = MADT_LEVEL_ACTIVE_HIGH };
	/* NMI on LINT1 of every processor (uid 0xff), as the in-kernel local APIC wires it. */
	nmi = acpi_alloc(b, sizeof(*nmi), 1, &unused);
	*nmi = (struct acpi_madt_lapic_nmi){
		.type = 4, .length = sizeof(*nmi), .uid = 0xff, .lint = 1
	};
	acpi_finish(&m->h, "APIC", 5, PLAT_ACPI_BASE + b->used - gpa);
	return gpa;
}

static gpa_t acpi_add_mcfg(struct acpi_buf *b)
{
	gpa_t gpa;
	struct acpi_mcfg *m = acpi_alloc(b, sizeof(*m), 16, &gpa);

	m->base = PLAT_ECAM_BASE;
	m->bus_last = PLAT_ECAM_SIZE / MiB(1) - 1;
	acpi_finish(&m->h, "MCFG", 1, sizeof(*m));
	return gpa;
}

static gpa_t acpi_add_xsdt(struct acpi_buf *b, const gpa_t entry[ACPI_XSDT_ENTRIES])
{
	gpa_t gpa;
	struct acpi_xsdt *x = acpi_alloc(b, sizeof(*x), 16, &gpa);

	for (unsigned int i = 0; i < ACPI_XSDT_ENTRIES; i++)
		x->entry[i] = entry[i];
	acpi_finish(&x->h, "XSDT", 1, sizeof(*x));
	return gpa;
}

static void acpi_fill_rsdp(struct acpi_rsdp *r, gpa_t xsdt)
{
	memcpy(r->signature, "RSD PTR ", sizeof(r->signature));
	memcpy(r->oem_id, ACPI_OEM_ID, sizeof(r->oem_id));
	r->revision = 2;
	r->length = sizeof(*r);
	r->xsdt = xsdt;
	r->checksum = acpi_checksum(r, offsetof(struct acpi_rsdp, length));
	r->extended_checksum = acpi_checksum(r, sizeof(*r));
}

int acpi_build(struct gmem *mem, unsigned int vcpus, gpa_t *rsdp, struct diag *d)
{
	struct acpi_buf b = { .used = 0 };
	gpa_t facs, dsdt, entry[ACPI_XSDT_ENTRIES];
	struct acpi_rsdp *r;

	if (vcpus < 1 || vcpus > PLAT_VCPUS_MAX)
		return diag_set(d, -EINVAL, "ACPI tables for %u vcpus: must be 1 to %u", vcpus,
				PLAT_VCPUS_MAX);
	r = acpi_alloc(&b, sizeof(*r), 16, rsdp);
	facs = acpi_add_facs(&b);
	dsdt = acpi_add_dsdt(&b);
	entry[0] = acpi_add_fadt(&b, facs, dsdt);
	entry[1] = acpi_add_madt(&b, vcpus);
	entry[2] = acpi_add_mcfg(&b);
	acpi_fill_rsdp(r, acpi_add_xsdt(&b, entry));
	if (gmem_write(mem, PLAT_ACPI_BASE, b.bytes, b.used))
		return diag_set(d, -EFAULT,
				"the ACPI tables at 0x%x lie outside guest memory: it must "
				"cover the first MiB",
				PLAT_ACPI_BASE);
	return 0;
}
