/*
 * backoff.h - when to start a child again that ended on its own.  Pure.
 *
 * The first end is forgiven at once; from then on 100 ms, doubled each time, 5 s at most.  A
 * child that stayed up for a minute has earned a clean record.
 */
#ifndef DROVER_BASE_BACKOFF_H
#define DROVER_BASE_BACKOFF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

#define BACKOFF_FIRST_US UINT64_C(100000)
#define BACKOFF_MAX_US   UINT64_C(5000000)
#define BACKOFF_RESET_US UINT64_C(60000000)

struct backoff {
    unsigned ends; /* in a row, none of them after a minute up */
};

/* Notes an end after `up_us` of life; returns how long to wait before the next start. */
MUST_CHECK uint64_t backoff_next_us(struct backoff *backoff, uint64_t up_us);

/* Ends per minute, over all children. */
struct crash_meter {
    uint64_t window_mono_us; /* when the present minute began */
    unsigned count;          /* ends in it */
    bool said;               /* the alarm of this minute is out */
};
#define CRASH_ALARM_COUNT 10

/* Notes an end.  True once in a minute: when it is the first beyond CRASH_ALARM_COUNT. */
MUST_CHECK bool crash_meter_note(struct crash_meter *meter, uint64_t now_mono_us);

#endif
