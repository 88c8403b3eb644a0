/*
 * verdict.h - one node's state machine.  Pure: events go in, state and reason come out.
 *
 * Four questions are kept apart and answered by different people: whether the node can serve
 * (probes and its lease), whether requests there go well (ejected: workers saw them fail),
 * whether the operator wants it out (drain_wish), and whether it is on its way out for good
 * (leaving: it said so, or the configuration no longer names it).  The state is what follows
 * from the four: an ejection outlasts DOWN and DRAINING.
 *
 * The table; an event that is not listed for a state leaves the state alone:
 *
 *   JOINING  -> UP        PASS, `rise` in a row, while the lease holds
 *   JOINING  -> DOWN      LEASE_LOST
 *   UP       -> DOWN      FAIL, `fall` in a row; REFUSED and LEASE_LOST at once
 *   UP       -> EJECTED   EJECT
 *   EJECTED  -> TRIAL     TRY
 *   EJECTED  -> DOWN      as UP -> DOWN
 *   EJECTED  -> UP        ABSOLVE
 *   TRIAL    -> UP        ABSOLVE
 *   TRIAL    -> EJECTED   EJECT
 *   TRIAL    -> DOWN      as UP -> DOWN
 *   DOWN     -> UP        PASS, `rise` in a row, while the lease holds
 *   any      -> DRAINING  DRAIN, LEAVE
 *   DRAINING -> JOINING   UNDRAIN when not leaving; STAY when not wished to drain
 *   DRAINING -> GONE      IDLE when leaving
 *   any      -> GONE      LEASE_END
 *
 * where "any" is JOINING, UP, EJECTED, TRIAL, DOWN and DRAINING, and where a node that is still
 * ejected goes to EJECTED instead of UP; or to TRIAL, if TRY came meanwhile.  GONE and NONE are
 * final: a node that comes back gets a new verdict.
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
    VERDICT_EJECT,      /* requests fail there; `why` says how */
    VERDICT_SPARE,      /* they do, but too few nodes would be left: it stays UP and says so */
    VERDICT_TRY,        /* it has been out for long enough: one request at a time again */
    VERDICT_ABSOLVE,    /* one of these went well, or what failed is no longer there */
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
    enum node_reason ejected; /* NODE_REASON_NONE, or why requests there do not go well */
    bool trial;               /* ejected, and may be tried */
    uint32_t passes;          /* in a row; 0 unless the last probe passed */
    uint32_t failures;        /* in a row; 0 unless the last probe failed */
    uint32_t rise, fall;      /* at least 1 */
};

/* A node just met: JOINING / NEW. */
void verdict_init(struct verdict *verdict, uint32_t rise, uint32_t fall);

/* A node that an earlier health process knew: goes on from what the scoreboard says. */
void verdict_adopt(struct verdict *verdict, const struct node_status *status, uint32_t rise,
                   uint32_t fall);

/* Takes one event.  `why` counts for FAIL, REFUSED, EJECT and LEAVE.  True: state or reason
 * changed. */
bool verdict_step(struct verdict *verdict, enum verdict_event event, enum node_reason why);

/* UP, EJECTED or TRIAL: its probes pass, and only its record decides how much it gets. */
bool verdict_has_traffic(const struct verdict *verdict);

/* Is the present run of probes likely to change the state with a few more like the last? */
bool verdict_in_doubt(const struct verdict *verdict);

#endif
