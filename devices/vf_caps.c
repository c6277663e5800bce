/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_caps.c - finds and checks the capabilities of a virtio function. Pure functions over bytes
 * that the function, or whoever plays it, has chosen; any thread.
 */
#include <unvmm/vf_caps.h>

#include <endian.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <string.h>

#define CONFIG_BYTES	   256
#define CAP_FIRST	   0x40
#define VIRTIO_VENDOR	   0x1af4
#define TRANSITIONAL_FIRST 0x1000
#define MODERN_FIRST	   0x1040
#define MODERN_LAST	   0x107f

/* Shortest structures that can be driven: up to queue_used_hi, a 16-bit doorbell, one byte. */
#define COMMON_MIN VIRTIO_PCI_COMMON_Q_NDATA
#define NOTIFY_MIN 2
#define ISR_MIN	   1

struct finder {
	const struct vf_caps_source *src;
	struct vf_caps *caps;
	struct diag *d;
	uint8_t config[CONFIG_BYTES];
	bool io_bar; /* a structure was passed over because it lies in an I/O BAR */
};

static uint16_t get16(const struct finder *f, unsigned int off)
{
	uint16_t v;

	memcpy(&v, f->config + off, sizeof(v));
	return le16toh(v);
}

static uint32_t get32(const struct finder *f, unsigned int off)
{
	uint32_t v;

	memcpy(&v, f->config + off, sizeof(v));
	return le32toh(v);
}

/* --- places ---------------------------------------------------------------------------------- */

static const char *place_name(const struct vf_place *p)
{
	switch (p->type) {
	case VIRTIO_PCI_CAP_COMMON_CFG:
		return "common configuration";
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		return "notify structure";
	case VIRTIO_PCI_CAP_ISR_CFG:
		return "ISR status";
	case VIRTIO_PCI_CAP_DEVICE_CFG:
		return "device configuration";
	case VIRTIO_PCI_CAP_SHARED_MEMORY_CFG:
		return "shared memory";
	case 0:
		return "MSI-X structure";
	default:
		return "structure of an unknown type";
	}
}

static int check_place(const struct finder *f, const struct vf_place *p)
{
	uint64_t size = p->bar < VF_BARS ? f->src->bar_size[p->bar] : 0;

	if (!size)
		return diag_set(f->d, -EINVAL, "its %s lies in BAR %u, which it does not have",
				place_name(p), p->bar);
#ifdef FUZZ_PLANT /* a bug for the fuzzer to find: the sum of two 32-bit numbers wraps */
	if ((uint32_t)p->offset + (uint32_t)p->length > size)
#else
	if (!range_within(p->offset, p->length, 0, size))
#endif
		return diag_set(f->d, -EINVAL,
				"its %s, 0x%llx bytes at 0x%llx, leaves BAR %u of 0x%llx bytes",
				place_name(p), (unsigned long long)p->length,
				(unsigned long long)p->offset, p->bar, (unsigned long long)size);
	return 0;
}

static bool places_overlap(const struct vf_place *a, const struct vf_place *b)
{
	return a->bar == b->bar && ranges_overlap(a->offset, a->length, b->offset, b->length);
}

static bool in_io_bar(const struct finder *f, unsigned int bar)
{
	return bar < VF_BARS && get32(f, PCI_BASE_ADDRESS_0 + 4 * bar) & PCI_BASE_ADDRESS_SPACE_IO;
}

/* --- virtio capabilities --------------------------------------------------------------------- */

/* Where a type is kept and how much of it is needed; NULL: it is not used. */
static struct vf_place *slot_of(struct vf_caps *c, uint8_t type, uint64_t *min)
{
	switch (type) {
	case VIRTIO_PCI_CAP_COMMON_CFG:
		*min = COMMON_MIN;
		return &c->common;
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		*min = NOTIFY_MIN;
		return &c->notify;
	case VIRTIO_PCI_CAP_ISR_CFG:
		*min = ISR_MIN;
		return &c->isr;
	case VIRTIO_PCI_CAP_DEVICE_CFG:
		*min = 0;
		return &c->config;
	default:
		return NULL;
	}
}

/* A multiplier is 0 or an even power of two (4.1.4.4.1). */
static int take_multiplier(struct finder *f, unsigned int at)
{
	uint32_t mult = get32(f, at + VIRTIO_PCI_NOTIFY_CAP_MULT);

	if (mult && (!is_power_of_2(mult) || mult == 1))
		return diag_set(f->d, -EINVAL,
				"its doorbells are 0x%x bytes apart, which is not an even power of "
				"two",
				mult);
	f->caps->notify_multiplier = mult;
	return 0;
}

/* Of several structures of one type the first that can be used counts (4.1.4.1). */
static int take_place(struct finder *f, const struct vf_place *p, unsigned int at)
{
	uint64_t min, align = p->type == VIRTIO_PCI_CAP_NOTIFY_CFG ? 2 : 4;
	struct vf_place *slot = slot_of(f->caps, p->type, &min);
	int err;

	/* Those that nobody uses count too: their pages are kept from the guest. */
	if (f->caps->nplaces == VF_CAPS_PLACES || p->offset + p->length < p->offset)
		return diag_set(f->d, -EINVAL,
				"it has more than %d virtio capabilities, or one that does not end",
				VF_CAPS_PLACES);
	f->caps->places[f->caps->nplaces++] = *p;
	if (!slot || slot->length)
		return 0;
	err = check_place(f, p);
	if (err)
		return err;
	if (p->length < min)
		return diag_set(f->d, -EINVAL, "its %s has %llu bytes; %llu are needed",
				place_name(p), (unsigned long long)p->length,
				(unsigned long long)min);
	if (p->type != VIRTIO_PCI_CAP_ISR_CFG && p->offset % align)
		return diag_set(f->d, -EINVAL, "its %s at 0x%llx is not aligned to %llu",
				place_name(p), (unsigned long long)p->offset,
				(unsigned long long)align);
	*slot = *p;
	return p->type == VIRTIO_PCI_CAP_NOTIFY_CFG ? take_multiplier(f, at) : 0;
}

static int take_vendor_cap(struct finder *f, unsigned int at)
{
	struct vf_place p = { 0 };
	unsigned int len, need = sizeof(struct virtio_pci_cap);

	/* The fields read here must lie in front of the end of the 256 bytes. */
	if (at + need > CONFIG_BYTES)
		return diag_set(f->d, -EINVAL, "its capability at 0x%x does not end", at);
	p.type = f->config[at + VIRTIO_PCI_CAP_CFG_TYPE];
	p.bar = f->config[at + VIRTIO_PCI_CAP_BAR];
	len = f->config[at + VIRTIO_PCI_CAP_LEN];
	if (p.type == VIRTIO_PCI_CAP_NOTIFY_CFG)
		need = sizeof(struct virtio_pci_notify_cap);
	else if (p.type == VIRTIO_PCI_CAP_SHARED_MEMORY_CFG)
		need = sizeof(struct virtio_pci_cap64);
	if (len < need || at + len > CONFIG_BYTES)
		return diag_set(f->d, -EINVAL,
				"its capability at 0x%x is %u bytes long; %u to %u are possible",
				at, len, need, CONFIG_BYTES - at);
	/* Neither a place of its own, nor one that anybody may use (reserved, 4.1.4). */
	if (!p.type || p.type == VIRTIO_PCI_CAP_PCI_CFG || p.bar >= VF_BARS)
		return 0;
	if (in_io_bar(f, p.bar)) {
		f->io_bar = true;
		return 0;
	}
	p.offset = get32(f, at + VIRTIO_PCI_CAP_OFFSET);
	p.length = get32(f, at + VIRTIO_PCI_CAP_LENGTH);
	if (p.type == VIRTIO_PCI_CAP_SHARED_MEMORY_CFG) {
		p.offset |= (uint64_t)get32(f, at + sizeof(struct virtio_pci_cap)) << 32;
		p.length |= (uint64_t)get32(f, at + sizeof(struct virtio_pci_cap) + 4) << 32;
	}
	return take_place(f, &p, at);
}

/* --- MSI-X ----------------------------------------------------------------------------------- */

static struct vf_place msix_place(const struct finder *f, unsigned int at, uint64_t length)
{
	uint32_t v = get32(f, at);

	return (struct vf_place){ .bar = (uint8_t)(v & PCI_MSIX_TABLE_BIR),
				  .offset = v & PCI_MSIX_TABLE_OFFSET,
				  .length = length };
}

static int take_msix(struct finder *f, unsigned int at)
{
	struct vf_caps *c = f->caps;
	int err;

	if (c->nvectors)
		return diag_set(f->d, -EINVAL, "it has two MSI-X capabilities");
	if (at + PCI_CAP_MSIX_SIZEOF > CONFIG_BYTES)
		return diag_set(f->d, -EINVAL, "its capability at 0x%x does not end", at);
	c->nvectors = (get16(f, at + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1;
	c->msix_table =
		msix_place(f, at + PCI_MSIX_TABLE, c->nvectors * (uint64_t)PCI_MSIX_ENTRY_SIZE);
	c->msix_pba = msix_place(f, at + PCI_MSIX_PBA, align_up(c->nvectors, 64u) / 8);
	err = check_place(f, &c->msix_table);
	return err ? err : check_place(f, &c->msix_pba);
}

/* --- all of it ------------------------------------------------------------------------------- */

static int walk(struct finder *f)
{
	uint64_t seen = 0; /* a capability begins at a multiple of 4 */
	unsigned int at;
	int err = 0;

	if (!(get16(f, PCI_STATUS) & PCI_STATUS_CAP_LIST))
		return 0;
	at = f->config[PCI_CAPABILITY_LIST] & ~3u;
	while (at && !err) {
		if (at < CAP_FIRST)
			return diag_set(f->d, -EINVAL,
					"its capability list leads to 0x%x, into the header", at);
		if (seen & 1ull << (at / 4))
			return diag_set(f->d, -EINVAL, "its capability list loops at 0x%x", at);
		seen |= 1ull << (at / 4);
		if (f->config[at] == PCI_CAP_ID_VNDR)
			err = take_vendor_cap(f, at);
		else if (f->config[at] == PCI_CAP_ID_MSIX)
			err = take_msix(f, at);
		at = f->config[at + PCI_CAP_LIST_NEXT] & ~3u;
	}
	return err;
}

static int take_ids(struct finder *f)
{
	struct vf_caps *c = f->caps;

	c->vendor = get16(f, PCI_VENDOR_ID);
	c->device = get16(f, PCI_DEVICE_ID);
	c->subvendor = get16(f, PCI_SUBSYSTEM_VENDOR_ID);
	c->subdevice = get16(f, PCI_SUBSYSTEM_ID);
	if (c->vendor == 0xffff && c->device == 0xffff)
		return diag_set(f->d, -EINVAL,
				"it answers all-ones: it is gone from its bus, or in reset; "
				"look at it with 'lspci -vv'");
	if (c->vendor != VIRTIO_VENDOR || c->device < TRANSITIONAL_FIRST || c->device > MODERN_LAST)
		return diag_set(f->d, -ENOTSUP,
				"it is a %04x:%04x and no virtio function (1af4:1041 is a network "
				"card, 1af4:1042 a disk)",
				c->vendor, c->device);
	/* A transitional device names its type in the subsystem (4.1.2.1). */
	c->device_id =
		c->device < MODERN_FIRST ? c->subdevice : (uint16_t)(c->device - MODERN_FIRST);
	return 0;
}

static int check_complete(const struct finder *f)
{
	const struct vf_caps *c = f->caps;

	if (!c->nplaces && !f->io_bar)
		return diag_set(
			f->d, -ENOTSUP,
			"it has only the legacy interface; unvmm needs virtio 1.0 or later");
	if (!c->common.length)
		return diag_set(f->d, -EINVAL, "it has no common configuration%s",
				f->io_bar ? " in a memory BAR" : "");
	if (!c->notify.length)
		return diag_set(f->d, -EINVAL, "it has no notify structure%s",
				f->io_bar ? " in a memory BAR" : "");
	if (!c->nvectors)
		return diag_set(f->d, -ENOTSUP,
				"it has no MSI-X; unvmm needs a vector for every queue");
	return 0;
}

static int check_overlaps(const struct finder *f)
{
	const struct vf_caps *c = f->caps;
	const struct vf_place *used[] = { &c->common, &c->notify,     &c->isr,
					  &c->config, &c->msix_table, &c->msix_pba };

	for (unsigned int i = 0; i < ARRAY_SIZE(used); i++)
		for (unsigned int j = i + 1; j < ARRAY_SIZE(used); j++)
			if (places_overlap(used[i], used[j]))
				return diag_set(f->d, -EINVAL,
						"its %s and its %s overlap in BAR %u",
						place_name(used[i]), place_name(used[j]),
						used[i]->bar);
	return 0;
}

int vf_caps_find(struct vf_caps *caps, const struct vf_caps_source *src, struct diag *d)
{
	struct finder f = { .src = src, .caps = caps, .d = d };
	int err;

	memset(caps, 0, sizeof(*caps));
	err = src->read(src->opaque, 0, f.config, sizeof(f.config));
	if (err)
		return diag_errno(d, err, "its configuration space cannot be read");
	err = take_ids(&f);
	if (!err)
		err = walk(&f);
	if (!err)
		err = check_complete(&f);
	return err ? err : check_overlaps(&f);
}

static bool touches(const struct vf_caps *caps, const struct vf_place *p, uint64_t page)
{
	return p->bar == caps->notify.bar &&
	       ranges_overlap(p->offset, p->length, page, PAGE_SIZE_4K);
}

static bool is_notify(const struct vf_caps *caps, const struct vf_place *p)
{
	return p->type == VIRTIO_PCI_CAP_NOTIFY_CFG && p->offset == caps->notify.offset &&
	       p->length == caps->notify.length;
}

enum vf_page vf_caps_page(const struct vf_caps *caps, uint64_t page)
{
	if (!range_within(page, PAGE_SIZE_4K, caps->notify.offset, caps->notify.length))
		return VF_PAGE_PARTLY;
	for (unsigned int i = 0; i < caps->nplaces; i++)
		if (!is_notify(caps, &caps->places[i]) && touches(caps, &caps->places[i], page))
			return VF_PAGE_REGISTERS;
	if (touches(caps, &caps->msix_table, page) || touches(caps, &caps->msix_pba, page))
		return VF_PAGE_MSIX;
	return VF_PAGE_DOORBELLS;
}

int vf_caps_doorbell(const struct vf_caps *caps, uint16_t queue_notify_off, uint64_t *offset)
{
	uint64_t at = (uint64_t)queue_notify_off * caps->notify_multiplier;

	if (!range_within(at, NOTIFY_MIN, 0, caps->notify.length))
		return -EINVAL;
	*offset = caps->notify.offset + at;
	return 0;
}
