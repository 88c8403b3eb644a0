/*
 * passive.h - what the workers' experience does to a node: it is taken out, tried, and let in
 * again slot by slot.
 *
 * The workers note how requests fare (shm/outcomes.h); here this is looked at ten times a
 * second, judged by policy/fault/ejection.h, and told to the node's verdict.  No ejection
 * leaves less than half of a model's nodes UP: then the node is spared, which its reason, a log
 * line and a metric say.  The same rule ends an ejection early when other nodes fail meanwhile.
 */
#ifndef DROVER_HEALTH_PASSIVE_H
#define DROVER_HEALTH_PASSIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "policy/fault/ejection.h"

struct member;
struct table;

/* Of one member. */
struct passive {
    struct eject eject;
    uint64_t until_mono_us;    /* ejected: when it may be tried */
    uint64_t share_mono_us;    /* when the share of its models' nodes is looked at again */
    uint64_t ramp_mono_us;     /* when its slots began to open one by one; 0 = all are open */
    uint64_t progress;         /* by its last load report */
    uint64_t progress_mono_us; /* when that last grew; 0 = never */
};

/* Starts to look at all members, and stops. */
void passive_start(struct table *table);
void passive_stop(struct table *table);

/* A member that was just made or taken over. */
void passive_init(struct member *member);

/* Its state has changed from `before`. */
void passive_turned(struct member *member, enum node_state before);

/* Its load report says that so much work was done in all. */
void passive_progress(struct member *member, uint64_t progress);

/* Publishes how many of its slots are open: as the state and the ramp have it. */
void passive_open_slots(struct member *member);

#endif
