/* attrs.h - attributes and small macros that every folder uses. */
#ifndef DROVER_BASE_ATTRS_H
#define DROVER_BASE_ATTRS_H

#include <stddef.h>

/* The caller must look at the result. */
#define MUST_CHECK __attribute__((warn_unused_result))

/* Argument `fmt` (counted from 1) is a printf format for the arguments from `first` on. */
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))

/* For what is measured to be worth it. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* The struct `type` that embeds `*ptr` as its field `member`. */
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
