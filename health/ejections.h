/*
 * ejections.h - what the workers' experience does to a node: it is taken out, tried, and let in
 * again slot by slot.
 *
 * The workers note how requests fare (shm/facts/outcomes.h).  ejections_look() reads that ten
 * times a second, judges by policy/fault/ejection.h, and gives the event that the node's
 * verdict is to get.  A node that refuses, or answers with nothing, is measured by its peers
 * (policy/fault/odd.h).  No ejection leaves less than half of a model's nodes UP: then the node
 * is kept, which its reason, a log line and a metric say.  The same rule ends an ejection early
 * when other nodes fail meanwhile.
 */
#ifndef DROVER_HEALTH_EJECTIONS_H
#define DROVER_HEALTH_EJECTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "policy/fault/ejection.h"
#include "policy/fault/node_state.h"

#define EJECTIONS_LOOK_US UINT64_C(100000) /* between two looks */

struct config;
struct scoreboard;

struct ejections_rules {
    struct ejection_limits limits;
    uint64_t advance_us; /* a node whose count of work grew within this time does not stand */
    uint64_t ramp_us;    /* until all slots are open again */
};
struct ejections_rules ejections_rules_of(const struct config *config);

/* Of one node. */
struct ejections {
    struct ejection ejection;
    uint64_t until_mono_us;    /* ejected: when it may be tried */
    uint64_t share_mono_us;    /* when the share of its models' nodes is looked at again */
    uint64_t odd_mono_us;      /* when its peers are looked at again */
    bool odd;                  /* ... and what that showed last */
    uint64_t ramp_mono_us;     /* when its slots began to open one by one; 0 = all are open */
    uint64_t progress;         /* by its last load report */
    uint64_t progress_mono_us; /* when that last changed; 0 = never */
};

/* A node that was just met or taken over; `ejected`: it was out then. */
void ejections_init(struct ejections *ejections, const struct scoreboard *board,
                    unsigned node_id, const struct ejections_rules *rules, bool ejected,
                    uint64_t now_mono_us);

/* A node that an earlier health process left in `state` with `slots_open` of its `slots`: what
 * that one had begun goes on.  After ejections_init(), before others see a change. */
void ejections_take_over(struct ejections *ejections, struct scoreboard *board,
                         unsigned node_id, const struct ejections_rules *rules,
                         enum node_state state, uint32_t slots_open, uint32_t slots,
                         uint64_t now_mono_us);

/* Its state has changed from `before` to `now`.  Call before others can see it. */
void ejections_turned(struct ejections *ejections, struct scoreboard *board, unsigned node_id,
                      enum node_state before, enum node_state now, uint64_t now_mono_us);

/* Its load report says that so much work was done in all. */
void ejections_progress(struct ejections *ejections, uint64_t progress, uint64_t now_mono_us);

/* The number of open slots out of `slots`, by the state and the ramp. */
uint32_t ejections_slots(struct ejections *ejections, const struct ejections_rules *rules,
                         enum node_state state, uint32_t slots, uint64_t now_mono_us);

/* A node as ejections_look() sees it. */
struct ejections_node {
    const char *name;
    unsigned node_id;
    const struct verdict *verdict;
    /* Would each of its models keep half of its nodes without this one? */
    bool (*may_be_out)(const void *data);
    /* Its best peer: odd_better() over the nodes that share a model with it. */
    struct odd_counts (*best_peer)(const void *data);
    const void *data;
};

struct ejections_event {
    enum node_event event; /* NODE_EVENT_NONE: nothing happens */
    enum node_reason why;
};

/* Looks at one node: EJECT, KEEP, PROBATION, CLEAR or nothing; an ejection is counted and
 * logged.
 */
struct ejections_event ejections_look(struct ejections *ejections, struct scoreboard *board,
                                      const struct ejections_rules *rules,
                                      const struct ejections_node *node, uint64_t now_mono_us);

#endif
