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

/* How long ago that was, in milliseconds; 0 when it is not over yet. */
static inline uint64_t clock_age_ms(uint64_t now_mono_us, uint64_t then_mono_us)
{
    return now_mono_us > then_mono_us ? (now_mono_us - then_mono_us) / US_PER_MS : 0;
}

/* Now on the wall, in milliseconds since 1970. */
uint64_t clock_wall_ms(void);

#endif
