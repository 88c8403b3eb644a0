/*
 * verdict.h - one node's state machine.  Pure: events go in, state and reason come out.
 *
 * Three questions are kept apart and answered by different people: whether the node can serve
 * (probes and its lease), whether the operator wants it out (drain_wish), and whether it is on
 * its way out for good (leaving: it said so, or the configuration no longer names it).  The
 * state is what follows from the three.
 *
 * The table; an event that is not listed for a state leaves the state alone:
 *
 *   JOINING  -> UP        PASS, `rise` in a row, while the lease holds
 *   JOINING  -> DOWN      LEASE_LOST
 *   UP       -> DOWN      FAIL, `fall` in a row; REFUSED and LEASE_LOST at once
 *   DOWN     -> UP        PASS, `rise` in a row, while the lease holds
 *   any      -> DRAINING  DRAIN, LEAVE
 *   DRAINING -> JOINING   UNDRAIN when not leaving; STAY when not wished to drain
 *   DRAINING -> GONE      IDLE when leaving
 *   any      -> GONE      LEASE_END
 *
 * where "any" is JOINING, UP, EJECTED, TRIAL, DOWN and DRAINING.  GONE and NONE are final: a
 * node that comes back gets a new verdict.
 */
#ifndef DROVER_HEALTH_VERDICT_H
#define DROVER_HEALTH_VERDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/nodes.h"

enum verdict_event {
    VERDICT_NONE = 0,
    VERDICT_PASS,       /* a probe passed */
    VERDICT_FAIL,       /* a probe failed; `why` says how */
    VERDICT_REFUSED,    /* the node itself reports that it cannot serve: no second opinion */
    VERDICT_LEASE_LOST, /* its registry stream broke or fell silent */
    VERDICT_LEASE_BACK, /* the same instance is attached again; probes decide the rest */
    VERDICT_LEASE_END,  /* it did not come back in time */
    VERDICT_DRAIN,      /* the operator wants it drained */
    VERDICT_UNDRAIN,    /* ... and no longer */
    VERDICT_LEAVE,      /* it goes for good; `why` is LEAVING or REMOVED */
    VERDICT_STAY,       /* ... after all not */
    VERDICT_IDLE,       /* nothing is open there any more, or its time for that is up */
    VERDICT_EVENTS
};
const char *verdict_event_name(enum verdict_event event); /* "lease_lost" */

struct verdict {
    enum node_state state;
    enum node_reason reason;
    bool drain_wish;
    bool lease_lost;
    enum node_reason leaving; /* NODE_REASON_NONE, or why it leaves */
    uint32_t passes;          /* in a row; 0 unless the last probe passed */
    uint32_t failures;        /* in a row; 0 unless the last probe failed */
    uint32_t rise, fall;      /* at least 1 */
};

/* A node just met: JOINING / NEW. */
void verdict_init(struct verdict *verdict, uint32_t rise, uint32_t fall);

/* A node that an earlier health process knew: goes on from what the scoreboard says. */
void verdict_adopt(struct verdict *verdict, const struct node_status *status, uint32_t rise,
                   uint32_t fall);

/* Takes one event.  `why` counts for FAIL, REFUSED and LEAVE.  True: state or reason changed.
 */
bool verdict_step(struct verdict *verdict, enum verdict_event event, enum node_reason why);

/* Is the present run of probes likely to change the state with a few more like the last? */
bool verdict_in_doubt(const struct verdict *verdict);

#endif
