/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_state.c - state blobs as a peer sends them: parse, commit, compare. What is accepted
 * must arrive: saving the object again gives the same state. Thread: the fuzzer's.
 *
 * Planted bug (FUZZ_PLANT): parse_prop() does not compare the length of a property.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "state_equal.h"
#include "state_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_arrived(const void *blob, size_t len, const struct state_ref *ref)
{
	struct diag d = { 0 };
	size_t again_len;
	void *again;

	if (state_save("dev0", ref, 1, &again, &again_len, &d))
		abort();
	/* A blob of the version before lacks a field, so only the current one is compared. */
	if (state_equal(blob, len, again, again_len, &d) && !strstr(d.text, "state-version"))
		abort();
	free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sample s;
	struct state_ref ref = { .desc = &sample_desc, .obj = &s };
	struct state_load *load;
	struct diag d = { 0 };
	void *blob;

	/* In memory of its own size, aligned, so that a read behind the end is seen. */
	blob = malloc(size ? size : 1);
	if (!blob)
		return 0;
	memcpy(blob, data, size);
	sample_init(&s);
	if (state_parse("dev0", blob, size, &ref, 1, &load, &d) == 0) {
		if (state_commit(load, &d))
			abort();
		state_load_free(load);
		check_arrived(blob, size, &ref);
	} else if (!d.text[0]) {
		abort(); /* a refusal without a sentence */
	}
	if (state_equal(blob, size, blob, size, NULL) == -EBADMSG)
		abort();
	free(blob);
	return 0;
}
