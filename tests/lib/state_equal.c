/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_equal.c - compares two state blobs without their tables. The test's thread.
 */
#include <errno.h>
#include <string.h>

#include <libfdt.h>

#include <unvmm/state_io.h>

#include "state_equal.h"
#include "state_internal.h"

/* This goes as deep as the blob does; a loader only goes as deep as its table. */
static int check_depth(const void *blob, size_t len, struct diag *d)
{
	int node = 0, depth = 0, ret = state_blob_check(blob, len, d);

	while (!ret && (node = fdt_next_node(blob, node, &depth)) >= 0 && depth > 0)
		if (depth > STATE_DEPTH_MAX)
			return diag_set(d, -EINVAL, "the state is nested deeper than %d nodes",
					STATE_DEPTH_MAX);
	return ret;
}

struct compare {
	const void *a, *b;
	struct state_path path;
	struct diag *d;
};

#define compare_fail(c, fmt, ...) \
	diag_set((c)->d, -EBADMSG, "%s: " fmt, path_text(&(c)->path), ##__VA_ARGS__)

/* The first byte in which two values differ; both have len bytes and do differ. */
static int differ_at(const uint8_t *a, const uint8_t *b, int len)
{
	int i = 0;

	while (i < len - 1 && a[i] == b[i])
		i++;
	return i;
}

static int compare_prop(struct compare *c, int pa, int pb)
{
	const char *name_a, *name_b;
	const void *va, *vb;
	int la, lb, at;

	va = fdt_getprop_by_offset(c->a, pa, &name_a, &la);
	vb = fdt_getprop_by_offset(c->b, pb, &name_b, &lb);
	if (strcmp(name_a, name_b) != 0)
		return compare_fail(c, "has \"%s\" in the one and \"%s\" in the other", name_a,
				    name_b);
	path_push(&c->path, name_a);
	if (la != lb)
		return compare_fail(c, "has %d and %d bytes", la, lb);
	if (la && memcmp(va, vb, (size_t)la) != 0) {
		at = differ_at(va, vb, la);
		return compare_fail(c, "byte %d is %#x and %#x", at, ((const uint8_t *)va)[at],
				    ((const uint8_t *)vb)[at]);
	}
	path_pop(&c->path);
	return 0;
}

static int compare_node(struct compare *c, int a, int b)
{
	int pa = fdt_first_property_offset(c->a, a), pb = fdt_first_property_offset(c->b, b);
	int na, nb, ret;

	for (; pa >= 0 && pb >= 0;
	     pa = fdt_next_property_offset(c->a, pa), pb = fdt_next_property_offset(c->b, pb)) {
		ret = compare_prop(c, pa, pb);
		if (ret)
			return ret;
	}
	na = fdt_first_subnode(c->a, a);
	nb = fdt_first_subnode(c->b, b);
	if ((pa >= 0) != (pb >= 0))
		return compare_fail(c, "one has more fields than the other");
	for (; na >= 0 && nb >= 0;
	     na = fdt_next_subnode(c->a, na), nb = fdt_next_subnode(c->b, nb)) {
		const char *name = fdt_get_name(c->a, na, NULL);

		if (strcmp(name, fdt_get_name(c->b, nb, NULL)) != 0)
			return compare_fail(c, "has node \"%s\" in the one and \"%s\" in the other",
					    name, fdt_get_name(c->b, nb, NULL));
		path_push(&c->path, name);
		ret = compare_node(c, na, nb);
		if (ret)
			return ret;
		path_pop(&c->path);
	}
	if ((na >= 0) != (nb >= 0))
		return compare_fail(c, "one has more nodes than the other");
	return 0;
}

int state_equal(const void *a, size_t alen, const void *b, size_t blen, struct diag *d)
{
	struct compare c = { .a = a, .b = b, .d = d };
	int ret = check_depth(a, alen, d);

	if (!ret)
		ret = check_depth(b, blen, d);
	if (ret)
		return ret;
	path_push(&c.path, "state");
	return compare_node(&c, 0, 0);
}
