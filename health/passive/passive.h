/*
 * passive.h - what the workers' experience does to a node: it is taken out, tried, and let in
 * again slot by slot.
 *
 * The workers note how requests fare (shm/outcomes.h).  passive_look() reads that ten times a
 * second, judges by policy/fault/ejection.h, and gives the event that the node's verdict is to
 * get.  No ejection leaves less than half of a model's nodes UP: then the node is spared, which
 * its reason, a log line and a metric say.  The same rule ends an ejection early when other
 * nodes fail meanwhile.
 */
#ifndef DROVER_HEALTH_PASSIVE_H
#define DROVER_HEALTH_PASSIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "policy/fault/ejection.h"
#include "policy/fault/node_state.h"

#define PASSIVE_LOOK_US UINT64_C(100000) /* between two looks */

struct config;
struct scoreboard;

struct passive_rules {
    struct eject_limits limits;
    uint64_t advance_us; /* a node whose count of work grew within this time does not stand */
    uint64_t ramp_us;    /* until all slots are open again */
};
struct passive_rules passive_rules_of(const struct config *config);

/* Of one node. */
struct passive {
    struct eject eject;
    uint64_t until_mono_us;    /* ejected: when it may be tried */
    uint64_t share_mono_us;    /* when the share of its models' nodes is looked at again */
    uint64_t ramp_mono_us;     /* when its slots began to open one by one; 0 = all are open */
    uint64_t progress;         /* by its last load report */
    uint64_t progress_mono_us; /* when that last grew; 0 = never */
};

/* A node that was just met or taken over; `ejected`: it was out then. */
void passive_init(struct passive *passive, const struct scoreboard *board, unsigned slot,
                  const struct passive_rules *rules, bool ejected, uint64_t now_mono_us);

/* Its state has changed from `before` to `now`.  Call before others can see it. */
void passive_turned(struct passive *passive, struct scoreboard *board, unsigned slot,
                    enum node_state before, enum node_state now, uint64_t now_mono_us);

/* Its load report says that so much work was done in all. */
void passive_progress(struct passive *passive, uint64_t progress, uint64_t now_mono_us);

/* How many of `slots` are open, as the state and the ramp have it. */
uint32_t passive_slots(struct passive *passive, const struct passive_rules *rules,
                       enum node_state state, uint32_t slots, uint64_t now_mono_us);

/* A node as passive_look() sees it. */
struct passive_node {
    const char *name;
    unsigned slot;
    const struct verdict *verdict;
    /* Would each of its models keep half of its nodes without this one? */
    bool (*may_be_out)(const void *data);
    const void *data;
};

struct passive_event {
    enum verdict_event event; /* VERDICT_NONE: nothing happens */
    enum node_reason why;
};

/* Looks at one node: EJECT, SPARE, TRY, ABSOLVE or nothing; an ejection is counted and logged.
 */
struct passive_event passive_look(struct passive *passive, const struct scoreboard *board,
                                  const struct passive_rules *rules,
                                  const struct passive_node *node, uint64_t now_mono_us);

#endif
