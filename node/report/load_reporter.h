/* load_reporter.h - sends load reports: regularly, and on change at most every 50 ms. */
#ifndef DROVER_NODE_REPORT_LOAD_REPORTER_H
#define DROVER_NODE_REPORT_LOAD_REPORTER_H

#include <stdint.h>

#include "base/io/loop.h"
#include "node/agent.h"

#define LOAD_REPORTER_MIN_GAP_US (50 * UINT64_C(1000))

struct load_reporter {
    struct agent *agent; /* borrowed */
    struct agent_listener listener;
    struct timer timer;
    uint64_t interval_us;
    uint64_t sent_mono_us; /* 0 = never */
    unsigned changes;      /* since the last sending; enum agent_change */
    /* Sends; `changes` says what is new, 0: the interval is over.  May stop the reporter. */
    void (*send)(struct load_reporter *load_reporter, unsigned changes);
};

/* Begins: the first sending comes one interval from now, or on change. */
void load_reporter_start(struct load_reporter *load_reporter, struct agent *agent,
                         uint64_t interval_us,
                         void (*send)(struct load_reporter *load_reporter, unsigned changes));
void load_reporter_stop(struct load_reporter *load_reporter); /* not started is fine */

#endif
