/* node_state.c - one node's state machine. */
#include "policy/fault/node_state.h"

#include <string.h>

#include "base/attrs.h"

const char *node_state_name(enum node_state state)
{
    switch (state) {
    case NODE_NONE:
        return "NONE";
    case NODE_JOINING:
        return "JOINING";
    case NODE_UP:
        return "UP";
    case NODE_EJECTED:
        return "EJECTED";
    case NODE_PROBATION:
        return "PROBATION";
    case NODE_DOWN:
        return "DOWN";
    case NODE_DRAINING:
        return "DRAINING";
    case NODE_GONE:
        return "GONE";
    }
    return "UNKNOWN";
}

const char *node_reason_name(enum node_reason reason)
{
    switch (reason) {
    case NODE_REASON_NONE:
        return "none";
    case NODE_REASON_NEW:
        return "new";
    case NODE_REASON_PROBES_PASS:
        return "probes_pass";
    case NODE_REASON_CONNECT_FAILED:
        return "connect_failed";
    case NODE_REASON_PROBE_TIMEOUT:
        return "probe_timeout";
    case NODE_REASON_NOT_SERVING:
        return "not_serving";
    case NODE_REASON_ENGINE_DOWN:
        return "engine_down";
    case NODE_REASON_ENGINE_LOADING:
        return "engine_loading";
    case NODE_REASON_PROTOCOL:
        return "protocol";
    case NODE_REASON_LEASE_LOST:
        return "lease_lost";
    case NODE_REASON_OPERATOR:
        return "operator";
    case NODE_REASON_LEAVING:
        return "leaving";
    case NODE_REASON_REMOVED:
        return "removed";
    case NODE_REASON_FAILURES:
        return "failures";
    case NODE_REASON_SUCCESS_RATE:
        return "success_rate";
    case NODE_REASON_NO_PROGRESS:
        return "no_progress";
    case NODE_REASON_KEPT:
        return "kept";
    case NODE_REASON_FLAPPING:
        return "flapping";
    case NODE_REASON_NO_MODELS:
        return "no_models";
    case NODE_REASON_ODD:
        return "odd_answers";
    }
    return "unknown";
}

static const char *const event_names[] = {
    "none", "pass",      "fail",  "refused", "lease_lost", "lease_back", "lease_end", "eject",
    "keep", "probation", "clear", "drain",   "undrain",    "leave",      "stay",      "idle",
};
_Static_assert(ARRAY_LEN(event_names) == NODE_EVENT_EVENTS, "a name for every event");

const char *node_event_name(enum node_event event)
{
    return (size_t)event < ARRAY_LEN(event_names) ? event_names[event] : "unknown";
}

void node_state_init(struct verdict *verdict, uint32_t rise, uint32_t fall)
{
    memset(verdict, 0, sizeof(*verdict));
    verdict->state = NODE_JOINING;
    verdict->reason = NODE_REASON_NEW;
    verdict->rise = rise == 0 ? 1 : rise;
    verdict->fall = fall == 0 ? 1 : fall;
}

void node_state_adopt(struct verdict *verdict, enum node_state state, enum node_reason reason,
                      bool drain_wanted, uint32_t rise, uint32_t fall)
{
    node_state_init(verdict, rise, fall);
    verdict->state = state;
    verdict->reason = reason;
    verdict->drain_wanted = drain_wanted;
    verdict->lease_lost = state == NODE_DOWN && reason == NODE_REASON_LEASE_LOST;
    if (state == NODE_EJECTED || state == NODE_PROBATION)
        verdict->ejected = reason;
    verdict->probation = state == NODE_PROBATION;
    if (state == NODE_DRAINING && reason != NODE_REASON_OPERATOR)
        verdict->leaving = reason;
}

static void move(struct verdict *verdict, enum node_state state, enum node_reason reason)
{
    verdict->state = state;
    verdict->reason = reason;
}

/* Starts proving the node from nothing. */
static void rejoin(struct verdict *verdict)
{
    verdict->passes = 0;
    verdict->failures = 0;
    move(verdict, NODE_JOINING, NODE_REASON_NEW);
}

/* Traffic for a node whose probes pass: as much as its record allows. */
static void admit(struct verdict *verdict)
{
    if (verdict->ejected == NODE_REASON_NONE)
        move(verdict, NODE_UP, NODE_REASON_PROBES_PASS);
    else
        move(verdict, verdict->probation ? NODE_PROBATION : NODE_EJECTED, verdict->ejected);
}

static void pass(struct verdict *verdict)
{
    verdict->failures = 0;
    if (verdict->lease_lost)
        return;
    if (verdict->passes < verdict->rise)
        verdict->passes++;
    if (verdict->passes < verdict->rise)
        return;
    switch (verdict->state) {
    case NODE_JOINING:
    case NODE_DOWN:
        admit(verdict);
        break;
    case NODE_UP:
    case NODE_EJECTED:
    case NODE_PROBATION:
    case NODE_DRAINING:
    case NODE_NONE:
    case NODE_GONE:
        break;
    }
}

/* `enough`: this failure alone, or the run it ends, takes down a node that has traffic. */
static void fail(struct verdict *verdict, bool enough, enum node_reason why)
{
    verdict->passes = 0;
    if (verdict->failures < verdict->fall)
        verdict->failures++;
    switch (verdict->state) {
    case NODE_UP:
    case NODE_EJECTED:
    case NODE_PROBATION:
        if (enough || verdict->failures >= verdict->fall)
            move(verdict, NODE_DOWN, why);
        break;
    case NODE_JOINING:
    case NODE_DOWN:
        if (!verdict->lease_lost)
            verdict->reason = why;
        break;
    case NODE_DRAINING:
    case NODE_NONE:
    case NODE_GONE:
        break;
    }
}

static void lose_lease(struct verdict *verdict)
{
    verdict->lease_lost = true;
    verdict->passes = 0;
    switch (verdict->state) {
    case NODE_JOINING:
    case NODE_UP:
    case NODE_EJECTED:
    case NODE_PROBATION:
    case NODE_DOWN:
        move(verdict, NODE_DOWN, NODE_REASON_LEASE_LOST);
        break;
    case NODE_DRAINING:
    case NODE_NONE:
    case NODE_GONE:
        break;
    }
}

static void eject(struct verdict *verdict, enum node_reason why)
{
    if (verdict->state != NODE_UP && verdict->state != NODE_PROBATION)
        return;
    verdict->ejected = why;
    verdict->probation = false;
    move(verdict, NODE_EJECTED, why);
}

static void try_again(struct verdict *verdict)
{
    if (verdict->ejected == NODE_REASON_NONE)
        return;
    verdict->probation = true;
    if (verdict->state == NODE_EJECTED)
        admit(verdict);
}

static void clear(struct verdict *verdict)
{
    verdict->ejected = NODE_REASON_NONE;
    verdict->probation = false;
    if (node_state_has_traffic(verdict))
        admit(verdict);
}

bool node_state_step(struct verdict *verdict, enum node_event event, enum node_reason why)
{
    enum node_state old_state = verdict->state;
    enum node_reason old_reason = verdict->reason;

    if (verdict->state == NODE_NONE || verdict->state == NODE_GONE)
        return false;
    switch (event) {
    case NODE_EVENT_PASS:
        pass(verdict);
        break;
    case NODE_EVENT_FAIL:
        fail(verdict, false, why);
        break;
    case NODE_EVENT_REFUSED:
        fail(verdict, true, why);
        break;
    case NODE_EVENT_LEASE_LOST:
        lose_lease(verdict);
        break;
    case NODE_EVENT_LEASE_BACK:
        verdict->lease_lost = false;
        verdict->passes = 0;
        verdict->failures = 0;
        break;
    case NODE_EVENT_LEASE_END:
        verdict->lease_lost = true;
        move(verdict, NODE_GONE, NODE_REASON_LEASE_LOST);
        break;
    case NODE_EVENT_EJECT:
        eject(verdict, why);
        break;
    case NODE_EVENT_KEEP:
        if (verdict->state == NODE_UP)
            verdict->reason = NODE_REASON_KEPT;
        break;
    case NODE_EVENT_PROBATION:
        try_again(verdict);
        break;
    case NODE_EVENT_CLEAR:
        clear(verdict);
        break;
    case NODE_EVENT_DRAIN:
        verdict->drain_wanted = true;
        if (verdict->leaving == NODE_REASON_NONE)
            move(verdict, NODE_DRAINING, NODE_REASON_OPERATOR);
        break;
    case NODE_EVENT_UNDRAIN:
        verdict->drain_wanted = false;
        if (verdict->state == NODE_DRAINING && verdict->leaving == NODE_REASON_NONE)
            rejoin(verdict);
        break;
    case NODE_EVENT_LEAVE:
        verdict->leaving = why;
        move(verdict, NODE_DRAINING, why);
        break;
    case NODE_EVENT_STAY:
        if (verdict->leaving == NODE_REASON_NONE)
            break;
        verdict->leaving = NODE_REASON_NONE;
        if (verdict->drain_wanted)
            move(verdict, NODE_DRAINING, NODE_REASON_OPERATOR);
        else
            rejoin(verdict);
        break;
    case NODE_EVENT_IDLE:
        if (verdict->state == NODE_DRAINING && verdict->leaving != NODE_REASON_NONE)
            move(verdict, NODE_GONE, verdict->leaving);
        break;
    case NODE_EVENT_NONE:
    case NODE_EVENT_EVENTS:
        break;
    }
    return verdict->state != old_state || verdict->reason != old_reason;
}

bool node_state_has_traffic(const struct verdict *verdict)
{
    return verdict->state == NODE_UP || verdict->state == NODE_EJECTED ||
           verdict->state == NODE_PROBATION;
}

bool node_state_in_doubt(const struct verdict *verdict)
{
    switch (verdict->state) {
    case NODE_JOINING:
    case NODE_DOWN:
        return verdict->passes != 0;
    case NODE_UP:
    case NODE_EJECTED:
    case NODE_PROBATION:
        return verdict->failures != 0;
    case NODE_DRAINING:
    case NODE_NONE:
    case NODE_GONE:
        return false;
    }
    return false;
}
