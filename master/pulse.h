/*
 * pulse.h - how long a child has not turned its loop.  Pure.
 *
 * Time in which the master itself stood still (a suspended machine, a stopped process group)
 * does not count: after such a gap every child gets the whole limit again.
 */
#ifndef DROVER_MASTER_PULSE_H
#define DROVER_MASTER_PULSE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

#define PULSE_LOOK_US UINT64_C(1000000) /* between two looks */
#define PULSE_GAP_US  UINT64_C(2500000) /* between two looks: we stood still */
#define PULSE_LIMIT_US                                                                      \
    UINT64_C(5000000)                   /* of silence; then the child gets ABRT, for a core \
                                         */
#define PULSE_KILL_US UINT64_C(2000000) /* after that, KILL */

struct pulse {
    uint64_t looked_mono_us;  /* 0 = never */
    uint64_t trusted_mono_us; /* silence counts from here on */
};

/* Is it time for a look?  If so, notes it, and a gap before it. */
MUST_CHECK bool pulse_due(struct pulse *pulse, uint64_t now_mono_us);

/* Silence of a child with this heartbeat, as the child wrote it; 0 when it is ahead. */
uint64_t pulse_silent_us(const struct pulse *pulse, uint64_t heartbeat_mono_us,
                         uint64_t now_mono_us);

#endif
