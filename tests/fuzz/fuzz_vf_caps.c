/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_vf_caps.c - the capabilities of a function that may be anything. Whatever is accepted must
 * keep the promises of unvmm/vf_caps.h.
 *
 * Input: one byte for the sizes of the BARs, then configuration space, from byte 0 on; what is
 * missing is zeroes.
 */
#include <stdlib.h>
#include <string.h>

#include <unvmm/vf_caps.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_config(void *opaque, unsigned int off, void *buf, unsigned int len)
{
	memcpy(buf, (const uint8_t *)opaque + off, len);
	return 0;
}

static void promise(bool kept)
{
	if (!kept)
		abort();
}

static void check_place(const struct vf_caps_source *src, const struct vf_place *p)
{
	if (!p->length)
		return;
	promise(p->bar < VF_BARS);
	promise(range_within(p->offset, p->length, 0, src->bar_size[p->bar]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t config[256] = { 0 };
	struct vf_caps_source src = { .read = read_config, .opaque = config };
	const struct vf_place *used[6];
	struct vf_caps caps;
	struct diag d = { "" };
	uint64_t at;

	if (!size)
		return 0;
	for (unsigned int i = 0; i < VF_BARS; i++)
		src.bar_size[i] = data[0] & 1u << i ? 0x1000ull << (data[0] >> 6) * 4 : 0;
	memcpy(config, data + 1, size - 1 < sizeof(config) ? size - 1 : sizeof(config));
	if (vf_caps_find(&caps, &src, &d)) {
		promise(d.text[0]);
		return 0;
	}
	promise(!d.text[0]);
	promise(caps.nvectors && caps.common.length >= 56 && caps.notify.length >= 2);
	used[0] = &caps.common;
	used[1] = &caps.notify;
	used[2] = &caps.isr;
	used[3] = &caps.config;
	used[4] = &caps.msix_table;
	used[5] = &caps.msix_pba;
	for (unsigned int i = 0; i < 6; i++) {
		check_place(&src, used[i]);
		for (unsigned int j = 0; j < i; j++)
			promise(used[i]->bar != used[j]->bar ||
				!ranges_overlap(used[i]->offset, used[i]->length, used[j]->offset,
						used[j]->length));
	}
	for (unsigned int off = 0; off < 0x10000; off += 0x111)
		if (!vf_caps_doorbell(&caps, (uint16_t)off, &at))
			promise(range_within(at, 2, caps.notify.offset, caps.notify.length));
	return 0;
}
