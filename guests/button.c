/* SPDX-License-Identifier: Apache-2.0 */
/*
 * button.c - a guest for the control socket's tests: prints "start", then "tick N" again and again,
 * and powers off when the power button is pressed.
 *
 * Options: deaf (it ignores the button), ticks=N (ends after N).
 */
#include <unvmm/platform.h>

#include "lib/guest.h"
#include "lib/io.h"

/* ACPI 6.4, 4.8.3: PM1 status bit 8; PM1 control SLP_EN and SLP_TYP. */
#define PM1_PWRBTN 0x0100
#define PM1_S5	   (1u << 13 | PLAT_S5_SLP_TYP << 10)
#define POLLS	   200 /* of the button, per tick */

void guest_main(const struct boot_info *boot)
{
	uint64_t ticks = opt_number("ticks", 0);
	bool deaf = opt_flag("deaf");

	(void)boot;
	test_check(!(io_in16(PLAT_PM1_EVT_PORT) & PM1_PWRBTN), "the button is not pressed yet");
	print("start\n");
	for (uint64_t tick = 1; !ticks || tick <= ticks; tick++) {
		for (unsigned int i = 0; i < POLLS; i++) {
			if (!deaf && io_in16(PLAT_PM1_EVT_PORT) & PM1_PWRBTN) {
				print("button\n");
				io_out16(PLAT_PM1_CNT_PORT, PM1_S5);
			}
			for (unsigned int k = 0; k < 1000; k++)
				io_relax();
		}
		print("tick %llu\n", (unsigned long long)tick);
	}
}
