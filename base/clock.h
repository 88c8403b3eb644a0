/*
 * clock.h - the two clocks.
 *
 * Deadlines, timeouts, ages and rates use CLOCK_MONOTONIC in microseconds (*_mono_us).  The
 * wall clock is for log lines and for `created` fields in API answers, never for a comparison.
 */
#ifndef DROVER_BASE_CLOCK_H
#define DROVER_BASE_CLOCK_H

#include <stdint.h>

#define US_PER_MS UINT64_C(1000)
#define US_PER_S  UINT64_C(1000000)

/* Now on CLOCK_MONOTONIC, in microseconds.  Never 0. */
uint64_t clock_mono_us(void);

/* Now on the wall, in milliseconds since 1970. */
uint64_t clock_wall_ms(void);

#endif
