/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_blob.c - state blobs without their tables: the check that makes one safe to read, printing,
 * comparing. Runs on any thread; the bytes are hostile.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

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

/* For those who go as deep as the blob does; a loader only goes as deep as its table. */
static int check_depth(const void *blob, size_t len, struct diag *d)
{
	int node = 0, depth = 0, ret = state_blob_check(blob, len, d);

	while (!ret && (node = fdt_next_node(blob, node, &depth)) >= 0 && depth > 0)
		if (depth > STATE_DEPTH_MAX)
			return diag_set(d, -EINVAL, "the state is nested deeper than %d nodes",
					STATE_DEPTH_MAX);
	return ret;
}

/* Names come from the blob, and go to a terminal. */
static void print_name(FILE *out, const char *name)
{
	for (; *name; name++)
		fputc(isprint((unsigned char)*name) ? *name : '?', out);
}

static bool is_text(const char *val, int len)
{
	if (len < 2 || val[len - 1] != '\0')
		return false;
	for (int i = 0; i < len - 1; i++)
		if (!isprint((unsigned char)val[i]))
			return false;
	return true;
}

/* As dtc guesses it: text, cells, or bytes. */
static void print_value(FILE *out, const void *val, int len)
{
	const uint8_t *p = val;

	if (is_text(val, len)) {
		fprintf(out, "\"%s\"", (const char *)val);
	} else if (len % 4 == 0) {
		for (int i = 0; i < len; i += 4)
			fprintf(out, "%s0x%x", i ? " " : "<", fdt32_ld((const void *)(p + i)));
		fputs(len ? ">" : "<>", out);
	} else {
		for (int i = 0; i < len; i++)
			fprintf(out, "%s%02x", i ? " " : "[", p[i]);
		fputc(']', out);
	}
}

static void print_node(FILE *out, const void *fdt, int node, int indent)
{
	int prop, child, len;
	const char *name;
	const void *val;

	fdt_for_each_property_offset(prop, fdt, node)
	{
		val = fdt_getprop_by_offset(fdt, prop, &name, &len);
		fprintf(out, "%*s", indent, "");
		print_name(out, name);
		fputs(" = ", out);
		print_value(out, val, len);
		fputc('\n', out);
	}
	fdt_for_each_subnode(child, fdt, node)
	{
		fprintf(out, "%*s", indent, "");
		print_name(out, fdt_get_name(fdt, child, NULL));
		fputs(":\n", out);
		print_node(out, fdt, child, indent + 2);
	}
}

int state_print(FILE *out, const void *blob, size_t len, struct diag *d)
{
	int ret = check_depth(blob, len, d);

	if (ret)
		return ret;
	print_node(out, blob, 0, 0);
	return ferror(out) ? -EIO : 0;
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
