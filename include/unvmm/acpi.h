/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acpi.h - the ACPI tables of the machine: RSDP, XSDT, FADT, FACS, MADT, MCFG and the DSDT that
 * iasl compiled from devices/dsdt.asl at build time. Source: ACPI 6.5. No PM timer, no HPET: each
 * read of one would be an exit.
 * Thread: main, before vcpus run.
 */
#ifndef UNVMM_ACPI_H
#define UNVMM_ACPI_H

#include <unvmm/gmem.h>

/* Writes the tables for `vcpus` processors at PLAT_ACPI_BASE; *rsdp gets the RSDP's address. */
int acpi_build(struct gmem *mem, unsigned int vcpus, gpa_t *rsdp, struct diag *d) must_check;

#endif
