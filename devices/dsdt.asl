/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DSDT of machine type "unvmm-1": what a guest can find by no other means. Preprocessed with
 * cpp (the numbers are platform.h's), compiled by iasl at build time. Processors are in the MADT;
 * there are no interrupt links, since PCI functions have MSI-X only; no device is here for show,
 * each costs boot time.
 */
#include <unvmm/platform.h>

DefinitionBlock ("", "DSDT", 2, "UNVMM ", "UNVMM1  ", 1)
{
	Scope (\_SB)
	{
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_UID, Zero)
			Name (_SEG, Zero)
			Name (_BBN, Zero)
			Name (_CRS, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0, 0, 0, 0, 1)
				IO (Decode16, PLAT_PCI_CFG_ADDR, PLAT_PCI_CFG_ADDR, 1, 8)
				/* All of port space but the configuration ports: the ISA devices. */
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0, PLAT_PIO_LOW_LAST, 0, PLAT_PIO_LOW_SIZE)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, PLAT_PIO_HIGH_BASE, 0xffff, 0, PLAT_PIO_HIGH_SIZE)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					NonCacheable, ReadWrite, 0, PLAT_PCI_MEM_BASE,
					PLAT_PCI_MEM_LAST, 0, PLAT_PCI_MEM_SIZE)
			})
		}

		/* Linux believes the MCFG only if the range is reserved (PCI Firmware 3.2, 4.1.2). */
		Device (ECAM)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, PLAT_ECAM_BASE, PLAT_ECAM_SIZE)
			})
		}

		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, One)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, PLAT_SERIAL_PORT, PLAT_SERIAL_PORT, 1, 8)
				IRQNoFlags () { PLAT_GSI_SERIAL }
			})
		}

		Device (RTC0)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, PLAT_RTC_PORT, PLAT_RTC_PORT, 1, 2)
				IRQNoFlags () { PLAT_GSI_RTC }
			})
		}

		/* The id and the one-byte port that pvpanic drivers bind to. */
		Device (PEVT)
		{
			Name (_HID, "QEMU0001")
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, PLAT_PVPANIC_PORT, PLAT_PVPANIC_PORT, 1, 1)
			})
		}

		/* VM generation id: ADDR is where it lies, in two halves (Microsoft, 2012). */
		Device (VGEN)
		{
			Name (_HID, "UNVM0001")
			Name (_CID, Package () { "VM_Gen_Counter", "VMGENCTR" })
			Name (_DDN, "VM_Gen_Counter")
			Name (ADDR, Package () { PLAT_VMGENID, Zero })
		}

		/* The generic event device (ACPI 6.5, 5.6.9): its one interrupt says that it changed. */
		Device (GED0)
		{
			Name (_HID, "ACPI0013")
			Name (_UID, Zero)
			Name (_CRS, ResourceTemplate ()
			{
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { PLAT_GSI_GED }
			})
			Method (_EVT, 1, Serialized)
			{
				Notify (\_SB.VGEN, 0x80)
			}
		}
	}

	Name (\_S5, Package () { PLAT_S5_SLP_TYP, Zero, Zero, Zero })
}
