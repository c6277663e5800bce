/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acpi_pm.c - the ACPI PM1 event and control registers: power-off by S5, and the power button as
 * an SCI. No PM timer, no SMI: ACPI mode is always on. Source: ACPI 6.5, section 4.8.3.
 * Thread: control lock held (vcpus trap, main presses the button).
 */
#include <errno.h>
#include <stdlib.h>

#include <unvmm/platform.h>
#include <unvmm/vm.h>

/* PM1 status and enable (tables 4.11 and 4.12): the same bit stands for the same event. */
#define PM1_PWRBTN   0x0100
#define PM1_WAK_STS  0x8000
#define PM1_STS_BITS (PM1_PWRBTN | PM1_WAK_STS)
/* Timer, global lock, power button, sleep button, RTC: drivers read back what they enable. */
#define PM1_EN_BITS 0x0721

/* PM1 control (table 4.13). */
#define PM1_SCI_EN	 0x0001
#define PM1_CNT_BITS	 0x1c02 /* SLP_TYP, BM_RLD */
#define PM1_SLP_TYP(cnt) (((cnt) >> 10) & 7)
#define PM1_SLP_EN	 0x2000

enum { PM1_STS, PM1_EN, PM1_CNT, PM1_REGS };

struct acpi_pm {
	struct vm *vm;
	uint16_t sts, en, cnt;
	bool sci; /* level of the line */
};

struct acpi_pm_dev {
	struct acpi_pm pm;
	struct state_ref state;
	struct vm *vm;
};

static void acpi_pm_update_sci(struct acpi_pm *pm)
{
	bool level = pm->sts & pm->en & PM1_PWRBTN;

	if (level == pm->sci)
		return;
	pm->sci = level;
	irq_line(&pm->vm->irq, PLAT_GSI_SCI, level);
}

/* Accesses are taken byte by byte: the specification allows 8, 16 and 32 bits (4.8.3). */
static uint64_t acpi_pm_read(void *dev, uint64_t offset, unsigned int len)
{
	const struct acpi_pm *pm = dev;
	const uint16_t regs[PM1_REGS] = {
		[PM1_STS] = pm->sts,
		[PM1_EN] = pm->en,
		[PM1_CNT] = pm->cnt | PM1_SCI_EN,
	};
	uint64_t v = 0;

	for (unsigned int i = 0; i < len; i++) {
		uint64_t at = offset + i;

		v |= (uint64_t)(uint8_t)(regs[at / 2] >> (at % 2 * 8)) << (i * 8);
	}
	return v;
}

static void acpi_pm_write_cnt(struct acpi_pm *pm, uint16_t mask, uint16_t v)
{
	pm->cnt = ((pm->cnt & ~mask) | v) & PM1_CNT_BITS;
	if ((v & PM1_SLP_EN) && PM1_SLP_TYP(pm->cnt) == PLAT_S5_SLP_TYP)
		vm_request(pm->vm, VM_EVENT_POWEROFF, 0);
}

static void acpi_pm_write(void *dev, uint64_t offset, unsigned int len, uint64_t value)
{
	struct acpi_pm *pm = dev;

	for (unsigned int i = 0; i < len; i++) {
		uint64_t at = offset + i;
		uint16_t mask = (uint16_t)(0xff << (at % 2 * 8));
		uint16_t v = (uint16_t)((uint8_t)(value >> (i * 8)) << (at % 2 * 8));

		switch (at / 2) {
		case PM1_STS: /* write one to clear */
			pm->sts &= ~v;
			break;
		case PM1_EN:
			pm->en = ((pm->en & ~mask) | v) & PM1_EN_BITS;
			break;
		default:
			acpi_pm_write_cnt(pm, mask, v);
			break;
		}
	}
	acpi_pm_update_sci(pm);
}

static const struct bus_ops acpi_pm_ops = { .read = acpi_pm_read, .write = acpi_pm_write };

static const struct state_field acpi_pm_fields[] = {
	STATE_SCALAR(STATE_U16, struct acpi_pm, sts),
	STATE_SCALAR(STATE_U16, struct acpi_pm, en),
	STATE_SCALAR(STATE_U16, struct acpi_pm, cnt),
	STATE_SCALAR(STATE_BOOL, struct acpi_pm, sci),
};

static int acpi_pm_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct acpi_pm *pm = scratch;

	(void)live;
	if ((pm->sts & ~PM1_STS_BITS) || (pm->en & ~PM1_EN_BITS) || (pm->cnt & ~PM1_CNT_BITS))
		return diag_set(d, -EINVAL, "sts, en or cnt has bits that PM1 does not have");
	return 0;
}

static const struct state_desc acpi_pm_desc = {
	.name = "acpi-pm",
	.version = 1,
	.obj_size = sizeof(struct acpi_pm),
	.fields = acpi_pm_fields,
	.nfields = ARRAY_SIZE(acpi_pm_fields),
	.validate = acpi_pm_validate,
};

static int acpi_pm_reset(struct device *dev, struct diag *d)
{
	struct acpi_pm_dev *ad = dev->priv;

	(void)d;
	ad->pm = (struct acpi_pm){ .vm = ad->vm };
	irq_line(&ad->vm->irq, PLAT_GSI_SCI, false);
	return 0;
}

static void acpi_pm_power_button(void *arg)
{
	struct acpi_pm *pm = arg;

	pm->sts |= PM1_PWRBTN;
	acpi_pm_update_sci(pm);
}

static int acpi_pm_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	struct acpi_pm_dev *ad = calloc(1, sizeof(*ad));
	int ret;

	(void)conf;
	if (!ad)
		return diag_set(d, -ENOMEM, "no memory for the ACPI PM1 registers");
	ad->vm = ad->pm.vm = vm;
	ret = bus_add(&vm->pio, PLAT_PM1_EVT_PORT, 2 * PM1_REGS, &acpi_pm_ops, &ad->pm, "acpi pm1");
	if (ret) {
		free(ad);
		return diag_errno(d, ret, "ACPI PM1 registers at %#x", PLAT_PM1_EVT_PORT);
	}
	ad->state = (struct state_ref){ .desc = &acpi_pm_desc, .obj = &ad->pm };
	dev->priv = ad;
	dev->state = &ad->state;
	dev->nstate = 1;
	vm->power_button = acpi_pm_power_button;
	vm->power_button_arg = &ad->pm;
	return 0;
}

static void acpi_pm_destroy(struct device *dev)
{
	struct acpi_pm_dev *ad = dev->priv;

	ad->vm->power_button = NULL;
	bus_remove(&ad->vm->pio, PLAT_PM1_EVT_PORT);
	free(ad);
}

const struct device_class acpi_pm_class = {
	.name = "acpi-pm",
	.id = "pm",
	.create = acpi_pm_create,
	.reset = acpi_pm_reset,
	.destroy = acpi_pm_destroy,
};
