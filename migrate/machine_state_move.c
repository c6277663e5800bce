/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine_state_move.c - a device's state given to another device of the same machine, which then
 * takes its place (devices/vf_fallback.c). Main thread, vcpus parked, both devices quiesced,
 * control lock held.
 */
#include <stdlib.h>

#include <unvmm/device.h>
#include <unvmm/machine_state.h>
#include <unvmm/state_io.h>

int machine_state_move(const struct device *from, const struct device *to, bool check,
		       struct diag *d)
{
	struct state_load *load = NULL;
	void *blob;
	size_t len;
	int err = state_save(from->id, from->state, from->nstate, &blob, &len, d);

	if (err)
		return err;
	err = state_parse(to->id, blob, len, to->state, to->nstate, &load, d);
	if (!err && !check)
		err = state_commit(load, d);
	state_load_free(load);
	free(blob);
	return err;
}
