/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_blob.c - the check that makes a state blob safe to read. Runs on any thread; the bytes are
 * hostile.
 */
#include <errno.h>

#include <libfdt.h>

#include <unvmm/state_io.h>

#include "state_internal.h"

#define STATE_FDT_VERSION 17 /* Devicetree Specification 0.4, 5.2 */

int state_blob_check(const void *blob, size_t len, struct diag *d)
{
	int ret;

	if (len < sizeof(struct fdt_header) || len > STATE_BLOB_MAX)
		return diag_set(d, -EINVAL, "the state has %zu bytes, must have %zu to %llu", len,
				sizeof(struct fdt_header), (unsigned long long)STATE_BLOB_MAX);
	/* Before anything else: libfdt 1.6.1 does not survive a root without a name (version < 16).
	 */
	if (fdt_magic(blob) != FDT_MAGIC || fdt_version(blob) != STATE_FDT_VERSION)
		return diag_set(d, -EINVAL, "the state is no devicetree of version %d",
				STATE_FDT_VERSION);
	ret = fdt_check_full(blob, len);
	if (ret)
		return diag_set(d, -EINVAL, "the state is no valid devicetree: %s",
				fdt_strerror(ret));
	if (fdt_totalsize(blob) != len || fdt_num_mem_rsv(blob) != 0)
		return diag_set(d, -EINVAL,
				"the state must be a devicetree without memory reservations and "
				"nothing after it");
	return 0;
}
