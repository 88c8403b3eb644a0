/*
 * descriptors.h - the process's limit of open files.
 *
 * The soft limit is often 1024 for the sake of select(2), which nothing here uses.
 */
#ifndef DROVER_BASE_DESCRIPTORS_H
#define DROVER_BASE_DESCRIPTORS_H

#include <stdint.h>

/* For a program that does not know its need. */
#define DESCRIPTORS_MANY UINT64_C(65536)

/* Raises the soft limit to `wanted`, or as far as the hard limit allows; never lowers it.
 * Returns what it is then; UINT64_MAX: not known. */
uint64_t descriptors_raise(uint64_t wanted);

#endif
