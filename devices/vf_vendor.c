/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_vendor.c - what some functions have beside virtio: registers that say where a queue stands,
 * and that tell it where to begin. Those of Intel's IFCVF functions, in BAR 4: a word per queue,
 * the index in the available ring in its low half, that in the used ring in its high half. The vf
 * thread.
 *
 * The word is true only when queue_enable has been cleared and reads back 0, which virtio itself
 * does not allow a driver (1.2, 4.1.4.3.2): to these functions, and to no other, it is done.
 */
#include "vf_dev.h"

#include <endian.h>
#include <errno.h>
#include <time.h>

#define VENDOR_INTEL 0x8086
#define IFCVF_CARD   0x001a /* 1af4:1041 */
#define IFCVF_DISK   0x0002 /* 1af4:1042 */

#define INDEX_BAR   4
#define WORDS_AT    0x20
#define WORDS_BYTES 8

/*
 * Drivers of other people's agree on where the words of the first two queues are, and disagree
 * about those behind: a function whose guest may use more of them goes without.
 */
#define CARD_QUEUES 2u
#define DISK_QUEUES 1u

/* 100 ms in all, as drivers of other people's give it. */
#define DISABLE_TRIES 200
#define DISABLE_NS    500000

bool vf_vendor_find(const struct vf_function *fn)
{
	const struct vf_caps *c = &fn->caps;
	const struct vf_region *bar = &fn->vf->info.regions[INDEX_BAR];
	uint16_t wanted = c->device_id == VIRTIO_ID_NET ? IFCVF_CARD : IFCVF_DISK;

	if (c->subvendor != VENDOR_INTEL || c->subdevice != wanted || !bar->readable ||
	    !bar->writable || bar->size < WORDS_AT + WORDS_BYTES)
		return false;
	for (unsigned int i = 0; i < c->nplaces; i++)
		if (c->places[i].bar == INDEX_BAR &&
		    ranges_overlap(c->places[i].offset, c->places[i].length, WORDS_AT, WORDS_BYTES))
			return false;
	return true;
}

bool vf_vendor_usable(const struct vf_dev *vd)
{
	bool card = vd->vdev.device_id == VIRTIO_ID_NET;
	unsigned int data = card ? 2u * vd->offer.npairs : vd->offer.nqueues;

	return vd->fn.ring_index && data <= (card ? CARD_QUEUES : DISK_QUEUES);
}

static uint64_t word_at(uint16_t index)
{
	return WORDS_AT + (uint64_t)index * sizeof(uint32_t);
}

int vf_vendor_begin(struct vf_function *fn, uint16_t index, uint16_t begin, struct diag *d)
{
	uint32_t word = htole32(begin | (uint32_t)begin << 16);
	int err = fn->vf->ops->region_write(fn->vf, INDEX_BAR, word_at(index), &word, sizeof(word));

	return err ? diag_errno(d, err, "where queue %u begins cannot be written", index) : 0;
}

static int disable(struct vf_function *fn, uint16_t index, struct diag *d)
{
	const struct timespec pause = { .tv_nsec = DISABLE_NS };
	uint32_t enabled = 1;
	int err = vf_reg_write(fn, VIRTIO_PCI_COMMON_Q_SELECT, 2, index, d);

	if (!err)
		err = vf_reg_write(fn, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0, d);
	for (unsigned int i = 0; i < DISABLE_TRIES && !err && enabled; i++) {
		if (i)
			nanosleep(&pause, NULL);
		err = vf_reg_read(fn, VIRTIO_PCI_COMMON_Q_ENABLE, 2, &enabled, d);
	}
	if (!err && enabled)
		err = diag_set(d, -ETIMEDOUT, "it does not disable queue %u", index);
	return err;
}

static int ask(struct vf_function *fn, uint16_t index, uint16_t *stands, struct diag *d)
{
	uint32_t word;
	int err = disable(fn, index, d);

	if (!err)
		err = fn->vf->ops->region_read(fn->vf, INDEX_BAR, word_at(index), &word,
					       sizeof(word));
	if (err)
		return diag_errno(d, err, "where queue %u stands cannot be read", index);
	/* What was fetched and not used is fetched again: the used index counts. */
	*stands = (uint16_t)(le32toh(word) >> 16);
	return 0;
}

void vf_vendor_take(struct vf_dev *vd)
{
	struct diag d = { "" };

	vd->known = 0;
	for (unsigned int q = 0; q < vd->vdev.nqueues && vf_vendor_usable(vd); q++) {
		if (vd->relays.queues[q].path != VF_PATH_DIRECT)
			continue;
		if (ask(&vd->fn, (uint16_t)q, &vd->stands[q], &d)) {
			log_warn("%s: function %s: %s", vd->vdev.id, vd->name, d.text);
			return;
		}
		vd->known |= 1ull << q;
	}
}
