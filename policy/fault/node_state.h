/*
 * node_state.h - one node's state machine.  Pure: events go in, state and reason come out.
 *
 * Four facts are kept apart and have different sources: whether the node can serve (probes and
 * its lease), whether requests there go well (ejected: workers saw them fail), whether the
 * operator wants it out (drain_wanted), and whether it is on its way out for good (leaving: it
 * said so, or the configuration no longer names it).  The state is what follows from the four:
 * an ejection outlasts DOWN and DRAINING.
 *
 * The table; an event that is not listed for a state leaves the state alone:
 *
 *   JOINING  -> UP        PASS, `rise` in a row, while the lease holds
 *   JOINING  -> DOWN      LEASE_LOST
 *   UP       -> DOWN      FAIL, `fall` in a row; REFUSED and LEASE_LOST at once
 *   UP       -> EJECTED   EJECT
 *   EJECTED  -> PROBATION     PROBATION
 *   EJECTED  -> DOWN      as UP -> DOWN
 *   EJECTED  -> UP        CLEAR
 *   PROBATION    -> UP        CLEAR
 *   PROBATION    -> EJECTED   EJECT
 *   PROBATION    -> DOWN      as UP -> DOWN
 *   DOWN     -> UP        PASS, `rise` in a row, while the lease holds
 *   any      -> DRAINING  DRAIN, LEAVE
 *   DRAINING -> JOINING   UNDRAIN when not leaving; STAY when no drain is wanted
 *   DRAINING -> GONE      IDLE when leaving
 *   any      -> GONE      LEASE_END
 *
 * where "any" is JOINING, UP, EJECTED, PROBATION, DOWN and DRAINING, and where a node that is
 * still ejected goes to EJECTED instead of UP; or to PROBATION, if PROBATION came meanwhile.
 * GONE and NONE are final: a node that comes back gets a new verdict.
 */
#ifndef DROVER_POLICY_NODE_STATE_H
#define DROVER_POLICY_NODE_STATE_H

#include <stdbool.h>
#include <stdint.h>

/* The scoreboard has both by value: append, never renumber. */
enum node_state {
    NODE_NONE = 0,      /* the row is empty */
    NODE_JOINING = 1,   /* known, not yet proven; no traffic */
    NODE_UP = 2,        /* gets traffic */
    NODE_EJECTED = 3,   /* taken out because requests failed there */
    NODE_PROBATION = 4, /* gets one request at a time */
    NODE_DOWN = 5,      /* probes fail, or its lease is lost */
    NODE_DRAINING = 6,  /* takes no new work; open requests finish */
    NODE_GONE = 7,      /* left; the row stays visible until another node needs it */
};
const char *node_state_name(enum node_state state); /* "UP" */

enum node_reason {
    NODE_REASON_NONE = 0,
    NODE_REASON_NEW, /* not probed yet */
    NODE_REASON_PROBES_PASS,
    NODE_REASON_CONNECT_FAILED,
    NODE_REASON_PROBE_TIMEOUT,
    NODE_REASON_NOT_SERVING, /* it answers that it does not serve */
    NODE_REASON_ENGINE_DOWN, /* the agent runs, its engine does not answer */
    NODE_REASON_ENGINE_LOADING,
    NODE_REASON_PROTOCOL,     /* it answers nonsense */
    NODE_REASON_LEASE_LOST,   /* its registry stream broke or fell silent */
    NODE_REASON_OPERATOR,     /* droverctl drain */
    NODE_REASON_LEAVING,      /* the node asked to go */
    NODE_REASON_REMOVED,      /* no longer in the config */
    NODE_REASON_FAILURES,     /* ejected: failures in a row */
    NODE_REASON_SUCCESS_RATE, /* ejected: too many of its requests fail */
    NODE_REASON_NO_PROGRESS,  /* ejected: no request there gets a token */
    NODE_REASON_KEPT,      /* not ejected, though it should be: too few nodes would be left */
    NODE_REASON_FLAPPING,  /* came and went too often of late: it must wait */
    NODE_REASON_NO_MODELS, /* its engine has none, or is no engine */
    NODE_REASON_ODD, /* ejected: it refuses, or answers with nothing, where others answer */
    NODE_REASON_LAST = NODE_REASON_ODD,
};
const char *node_reason_name(enum node_reason reason); /* "probe_timeout" */

enum node_event {
    NODE_EVENT_NONE = 0,
    NODE_EVENT_PASS,       /* a probe passed */
    NODE_EVENT_FAIL,       /* a probe failed; `why` says how */
    NODE_EVENT_REFUSED,    /* the node itself reports that it cannot serve: no second opinion */
    NODE_EVENT_LEASE_LOST, /* its registry stream broke or fell silent */
    NODE_EVENT_LEASE_BACK, /* the same instance is registered again; probes decide the rest */
    NODE_EVENT_LEASE_END,  /* it did not come back in time */
    NODE_EVENT_EJECT,      /* requests fail there; `why` says how */
    NODE_EVENT_KEEP, /* they do, but too few nodes would be left: it stays UP and says so */
    NODE_EVENT_PROBATION, /* it has been out for long enough: one request at a time again */
    NODE_EVENT_CLEAR,     /* one of these went well, or what failed is no longer there */
    NODE_EVENT_DRAIN,     /* the operator wants it drained */
    NODE_EVENT_UNDRAIN,   /* ... and no longer */
    NODE_EVENT_LEAVE,     /* it goes for good; `why` is LEAVING or REMOVED */
    NODE_EVENT_STAY,      /* ... after all not */
    NODE_EVENT_IDLE,      /* nothing is open there any more, or its time for that is up */
    NODE_EVENT_EVENTS
};
const char *node_event_name(enum node_event event); /* "lease_lost" */

struct verdict {
    enum node_state state;
    enum node_reason reason;
    bool drain_wanted;
    bool lease_lost;
    enum node_reason leaving; /* NODE_REASON_NONE, or why it leaves */
    enum node_reason ejected; /* NODE_REASON_NONE, or why requests there do not go well */
    bool probation;           /* ejected, and may be tried */
    uint32_t passes;          /* in a row; 0 unless the last probe passed */
    uint32_t failures;        /* in a row; 0 unless the last probe failed */
    uint32_t rise, fall;      /* at least 1 */
};

/* A node just met: JOINING / NEW. */
void node_state_init(struct verdict *verdict, uint32_t rise, uint32_t fall);

/* A node that an earlier health process knew: goes on from what the scoreboard says. */
void node_state_adopt(struct verdict *verdict, enum node_state state, enum node_reason reason,
                      bool drain_wanted, uint32_t rise, uint32_t fall);

/* Takes one event.  `why` counts for FAIL, REFUSED, EJECT and LEAVE.  True: state or reason
 * changed. */
bool node_state_step(struct verdict *verdict, enum node_event event, enum node_reason why);

/* UP, EJECTED or PROBATION: its probes pass, and only its record decides how much it gets. */
bool node_state_has_traffic(const struct verdict *verdict);

/* Is the present run of probes likely to change the state with a few more like the last? */
bool node_state_in_doubt(const struct verdict *verdict);

#endif
