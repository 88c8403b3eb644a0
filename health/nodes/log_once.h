/*
 * log_once.h - which complaints about one node are worth a line of the log.  Pure.
 *
 * The rule: each reason once while its state is the same, and again a minute after the first.
 * So a node that fails in two ways by turns, or passes every other probe, is not logged at
 * every probe; a change of its state has a line of its own.
 */
#ifndef DROVER_HEALTH_NODES_LOG_ONCE_H
#define DROVER_HEALTH_NODES_LOG_ONCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "shm/facts/nodes.h"

#define LOG_ONCE_AGAIN_US (60 * US_PER_S)

/* Zero-initialised by its owner: nothing is logged yet. */
struct log_once {
    enum node_state state;  /* NODE_NONE = nothing is logged yet */
    uint32_t reported;      /* bits of enum node_reason, in this state and minute */
    uint64_t since_mono_us; /* when the first of them was */
    uint32_t missed;        /* since the last that was logged */
};

/* Is a complaint about a node in this state logged?  If so *missed gets the number of those
 * left out since the last. */
bool log_once_allows(struct log_once *once, enum node_state state, enum node_reason reason,
                     uint64_t now_mono_us, uint32_t *missed);

#endif
