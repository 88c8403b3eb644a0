/*
 * pulse.h - for how long has a child not turned its loop?  Pure.
 *
 * Time in which the one who looks stood still himself (a suspended machine, a stopped process
 * group) says nothing about a child: after such a gap every child gets the whole limit again.
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

/* How long a child with this heartbeat, its own word, has been silent; 0 when it is ahead. */
uint64_t pulse_silent_us(const struct pulse *pulse, uint64_t heartbeat_mono_us,
                         uint64_t now_mono_us);

#endif
