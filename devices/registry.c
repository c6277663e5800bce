/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.c - the list of device classes, made from registry.def. Constant data.
 */
#include <unvmm/device.h>

#define DEVICE(x) extern const struct device_class x##_class;
#include "registry.def"
#undef DEVICE

#define DEVICE(x) &x##_class,
const struct device_class *const device_classes[] = {
#include "registry.def"
};
#undef DEVICE

const unsigned int device_class_count = ARRAY_SIZE(device_classes);
