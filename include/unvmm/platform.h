/* SPDX-License-Identifier: Apache-2.0 */
/*
 * platform.h - the address map of machine type "unvmm-1": one place for every address and
 * interrupt that a guest can see. It is machine ABI: a migrated guest keeps what it was born with.
 *
 * Included by C, by the ASL of devices/dsdt.asl (preprocessed) and by the micro-guests, so it
 * holds nothing but plain numbers.
 *
 *   guest physical memory                              port I/O
 *   0x0000_0000  RAM (boot structures below 1 MiB)     0x0060-0x0064 i8042 (reset only)
 *   0x000e_0000  ACPI tables                           0x0070-0x0071 CMOS RTC
 *   0x0010_0000  RAM up to 3 GiB                       0x00f4        exit-status port
 *   0xc000_0000  PCI memory window, 512 MiB            0x03f8-0x03ff 16550 serial
 *   0xe000_0000  PCI ECAM, bus 0, 1 MiB                0x0505        pvpanic
 *   0xfec0_0000  I/O APIC                              0x0600-0x0605 ACPI PM1 event and control
 *   0xfee0_0000  local APIC, MSI window                0x0cf8-0x0cff PCI configuration, reset
 *   0x1_0000_0000 RAM above 3 GiB
 */
#ifndef UNVMM_PLATFORM_H
#define UNVMM_PLATFORM_H

/* Guest RAM: low part up to the hole, the rest from 4 GiB. */
#define PLAT_RAM_LOW_MAX   0xc0000000
#define PLAT_RAM_HIGH_BASE 0x100000000

/* PCI memory window for 32-bit and 64-bit BARs alike: assigned by us, kept by Linux. */
#define PLAT_PCI_MEM_BASE 0xc0000000
#define PLAT_PCI_MEM_SIZE 0x20000000
#define PLAT_PCI_MEM_LAST 0xdfffffff /* spelled out: iasl takes no sums in resources */
#define PLAT_ECAM_BASE	  0xe0000000
#define PLAT_ECAM_SIZE	  0x00100000 /* one bus: 32 devices x 8 functions x 4 KiB */

#define PLAT_IOAPIC_BASE 0xfec00000
#define PLAT_LAPIC_BASE	 0xfee00000

/* KVM's private pages on Intel (never guest RAM): TSS (3 pages) and identity map. */
#define PLAT_KVM_IDENTITY_MAP 0xfeffc000
#define PLAT_KVM_TSS	      0xfeffd000

/* Below 1 MiB. The e820 map gives the guest [0, PLAT_EBDA) and reserves [0xe0000, 1 MiB). */
#define PLAT_GDT	 0x00000500
#define PLAT_PVH_INFO	 0x00006000
#define PLAT_ZERO_PAGE	 0x00007000
#define PLAT_PAGE_TABLES 0x00009000 /* PML4, PDPT, four PDs: 6 pages, identity map of 4 GiB */
#define PLAT_BOOT_STACK	 0x0001fff0
#define PLAT_CMDLINE	 0x00020000
#define PLAT_CMDLINE_MAX 0x00010000 /* bytes, with the NUL */
#define PLAT_EBDA	 0x0009fc00
#define PLAT_ACPI_BASE	 0x000e0000
#define PLAT_ACPI_SIZE	 0x00020000
#define PLAT_VMGENID	 0x000ff000 /* 16 bytes, in a page of their own behind the tables */
#define PLAT_KERNEL_MIN	 0x00100000 /* lowest load address of a kernel */

/* Port I/O. */
#define PLAT_I8042_DATA	    0x0060
#define PLAT_I8042_CMD	    0x0064
#define PLAT_RTC_PORT	    0x0070
#define PLAT_EXIT_PORT	    0x00f4
#define PLAT_SERIAL_PORT    0x03f8
#define PLAT_PVPANIC_PORT   0x0505
#define PLAT_PM1_EVT_PORT   0x0600 /* status, enable: 2 bytes each */
#define PLAT_PM1_CNT_PORT   0x0604 /* 2 bytes */
#define PLAT_PCI_CFG_ADDR   0x0cf8
#define PLAT_PCI_RESET_PORT 0x0cf9
#define PLAT_PCI_CFG_DATA   0x0cfc

/* Port space around the configuration ports, as the host bridge's _CRS gives it. */
#define PLAT_PIO_LOW_LAST  0x0cf7
#define PLAT_PIO_LOW_SIZE  0x0cf8
#define PLAT_PIO_HIGH_BASE 0x0d00
#define PLAT_PIO_HIGH_SIZE 0xf300

/* Global system interrupts on the I/O APIC (24 pins); MSI routes start above them. */
#define PLAT_GSI_SERIAL	   4
#define PLAT_GSI_RTC	   8
#define PLAT_GSI_SCI	   9
#define PLAT_GSI_GED	   16 /* edge: the VM generation id is another one; not on the PICs */
#define PLAT_GSI_MSI_FIRST 24

/* ACPI S5 sleep type as the DSDT's _S5_ gives it. */
#define PLAT_S5_SLP_TYP 5

/* Limits. */
#define PLAT_VCPUS_MAX	     64
#define PLAT_RAM_MIN	     0x01000000 /* 16 MiB */
#define PLAT_PCI_DEVICES_MAX 31		/* slot 0 is the host bridge */

#endif
