/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c - the names of the faults that a function of unvf can be given. Main, at the start.
 */
#include "fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	uint32_t n; /* when none is given */
} kinds[FAULT_KINDS] = {
	[FAULT_LOST_DOORBELL] = { "lost-doorbell", 16 },
	[FAULT_SLOW_DISABLE] = { "slow-disable", 500 },
	[FAULT_ALL_ONES] = { "all-ones", 1 },
	[FAULT_OUT_OF_ORDER] = { "out-of-order", 4 },
	[FAULT_MASKED_IRQ] = { "masked-irq", 16 },
	[FAULT_HANG_REQUEST] = { "hang-request", 8 },
	[FAULT_MERGED_USED] = { "merged-used", 4 },
	[FAULT_DISCONNECT] = { "disconnect", 1 },
	[FAULT_ERROR] = { "error", 1 },
};

static int parse_n(const char *text, uint32_t *n)
{
	unsigned long v;
	char *end;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno || *end || !v || v > 1000000000)
		return -EINVAL;
	*n = (uint32_t)v;
	return 0;
}

int fault_parse(struct faults *f, const char *text, struct diag *d)
{
	size_t len = strcspn(text, "@");

	for (unsigned int k = 0; k < FAULT_KINDS; k++) {
		if (strlen(kinds[k].name) != len || strncmp(text, kinds[k].name, len))
			continue;
		f->n[k] = kinds[k].n;
		if (text[len] && parse_n(text + len + 1, &f->n[k]))
			return diag_set(d, -EINVAL,
					"--fault %s: behind @ stands a number from 1 to 1000000000",
					text);
		return 0;
	}
	return diag_set(
		d, -EINVAL,
		"--fault %s: is none of lost-doorbell, slow-disable, all-ones, out-of-order, "
		"masked-irq, hang-request, merged-used, disconnect and error",
		text);
}
