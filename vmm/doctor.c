/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor.c - the list of lines, what follows from them, and what several checks ask. Main thread.
 */
#include "doctor.h"
#include "sysfs.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void doctor_add(struct doctor *doc, enum doctor_level level, const char *name, const char *fmt, ...)
{
	struct doctor_need *need = &doc->needs[doc->n];
	va_list ap;

	assert(doc->n < DOCTOR_NEEDS);
	doc->n++;
	need->level = level;
	need->name = name;
	need->mend[0] = '\0';
	va_start(ap, fmt);
	vsnprintf(need->found, sizeof(need->found), fmt, ap);
	va_end(ap);
}

void doctor_mend(struct doctor *doc, const char *fmt, ...)
{
	struct doctor_need *need = &doc->needs[doc->n - 1];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(need->mend, sizeof(need->mend), fmt, ap);
	va_end(ap);
}

/* The value of "KEY...: VALUE" in a file of such lines, or NULL. */
static const char *value_of(const char *text, const char *key)
{
	for (const char *p = text; p && *p; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (!strncmp(p, key, strlen(key))) {
			p = strchr(p, ':');
			return p ? p + 1 : NULL;
		}
	}
	return NULL;
}

bool doctor_cpu_has(const struct doctor *doc, const char *flag)
{
	char *text = sysfs_file(doc->root, "proc/cpuinfo");
	const char *p = text ? value_of(text, "flags") : NULL;
	size_t len = strlen(flag), word;
	bool has = false;

	while (p && *p && *p != '\n' && !has) {
		p += strspn(p, " \t");
		word = strcspn(p, " \t\n");
		has = word == len && !strncmp(p, flag, len);
		p += word;
	}
	free(text);
	return has;
}

bool doctor_capable(const struct doctor *doc, unsigned int cap)
{
	char *text = sysfs_file(doc->root, "proc/self/status");
	const char *p = text ? value_of(text, "CapEff") : NULL;
	uint64_t caps = p ? strtoull(p, NULL, 16) : 0;

	free(text);
	return caps >> cap & 1;
}

void doctor_examine(struct doctor *doc, int root, const struct doctor_probe *p)
{
	*doc = (struct doctor){ .root = root, .probe = p };
	doctor_check_cpu(doc);
	doctor_check_process(doc);
	doctor_check_assign(doc);
}

bool doctor_can_run(const struct doctor *doc)
{
	for (unsigned int i = 0; i < doc->n; i++)
		if (doc->needs[i].level == DOCTOR_MISSING)
			return false;
	return true;
}

bool doctor_suite(const struct doctor *doc, unsigned int i, const char **name, const char **why)
{
	bool can = doctor_can_run(doc);

	switch (i) {
	case 0:
		*name = "micro-guests on /dev/kvm";
		*why = can ? "any kind of KVM will do" : "no guest can run here, see above";
		return can;
	case 1:
		*name = "stock Linux guests on /dev/kvm";
		*why = !can ? "no guest can run here, see above"
		       : doc->kvm == DOCTOR_KVM_HARDWARE
			       ? "hardware KVM"
			       : "a software KVM does not run every instruction "
				 "of a stock kernel; the testbed does";
		return can && doc->kvm == DOCTOR_KVM_HARDWARE;
	default:
		*name = "stock Linux guests and VFIO in the testbed";
		*why = "an emulated host, which needs nothing of this one";
		return true;
	}
}
