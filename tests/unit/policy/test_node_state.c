/* test_node_state.c - every edge of a node's state machine, and that there are no others. */
#include <criterion/criterion.h>

#include "base/attrs.h"
#include "policy/fault/node_state.h"

static struct verdict in_state(enum node_state state, enum node_reason reason)
{
    struct verdict v;

    node_state_init(&v, 2, 3);
    v.state = state;
    v.reason = reason;
    return v;
}

static bool step(struct verdict *v, enum node_event event)
{
    return node_state_step(v, event, NODE_REASON_NONE);
}

Test(verdict, a_new_node_is_joining_because_it_is_new)
{
    struct verdict v;

    node_state_init(&v, 0, 0);
    cr_assert_eq(v.state, NODE_JOINING);
    cr_assert_eq(v.reason, NODE_REASON_NEW);
    cr_assert_eq(v.rise, 1, "a rise of 0 would let nobody in");
    cr_assert_eq(v.fall, 1);
}

Test(verdict, joining_goes_up_after_rise_passes_in_a_row)
{
    struct verdict v = in_state(NODE_JOINING, NODE_REASON_NEW);

    cr_assert_not(step(&v, NODE_EVENT_PASS));
    cr_assert(node_state_in_doubt(&v));
    cr_assert(step(&v, NODE_EVENT_PASS));
    cr_assert_eq(v.state, NODE_UP);
    cr_assert_eq(v.reason, NODE_REASON_PROBES_PASS);
    cr_assert_not(node_state_in_doubt(&v));
}

Test(verdict, a_failure_between_passes_starts_the_count_again)
{
    struct verdict v = in_state(NODE_JOINING, NODE_REASON_NEW);

    (void)step(&v, NODE_EVENT_PASS);
    cr_assert(node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_PROBE_TIMEOUT));
    cr_assert_eq(v.state, NODE_JOINING);
    cr_assert_eq(v.reason, NODE_REASON_PROBE_TIMEOUT, "it says why it is not in yet");
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_JOINING);
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_UP);
}

Test(verdict, up_goes_down_after_fall_failures_in_a_row)
{
    struct verdict v = in_state(NODE_UP, NODE_REASON_PROBES_PASS);

    cr_assert_not(node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_CONNECT_FAILED));
    cr_assert(node_state_in_doubt(&v));
    cr_assert_not(node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_CONNECT_FAILED));
    cr_assert_eq(v.state, NODE_UP);
    cr_assert(node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_PROBE_TIMEOUT));
    cr_assert_eq(v.state, NODE_DOWN);
    cr_assert_eq(v.reason, NODE_REASON_PROBE_TIMEOUT);
}

Test(verdict, a_pass_between_failures_starts_the_count_again)
{
    struct verdict v = in_state(NODE_UP, NODE_REASON_PROBES_PASS);

    for (int round = 0; round < 4; round++) {
        (void)node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_PROBE_TIMEOUT);
        (void)node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_PROBE_TIMEOUT);
        (void)step(&v, NODE_EVENT_PASS);
        cr_assert_eq(v.state, NODE_UP);
    }
}

Test(verdict, up_goes_down_at_once_when_the_node_itself_says_it_cannot_serve)
{
    struct verdict v = in_state(NODE_UP, NODE_REASON_PROBES_PASS);

    cr_assert(node_state_step(&v, NODE_EVENT_REFUSED, NODE_REASON_ENGINE_DOWN));
    cr_assert_eq(v.state, NODE_DOWN);
    cr_assert_eq(v.reason, NODE_REASON_ENGINE_DOWN);
}

Test(verdict, up_and_joining_go_down_at_once_when_the_lease_is_lost)
{
    enum node_state from[] = {NODE_UP, NODE_JOINING};

    for (size_t i = 0; i < ARRAY_LEN(from); i++) {
        struct verdict v = in_state(from[i], NODE_REASON_NEW);

        cr_assert(step(&v, NODE_EVENT_LEASE_LOST));
        cr_assert_eq(v.state, NODE_DOWN);
        cr_assert_eq(v.reason, NODE_REASON_LEASE_LOST);
    }
}

Test(verdict, down_goes_up_after_rise_passes)
{
    struct verdict v = in_state(NODE_DOWN, NODE_REASON_CONNECT_FAILED);

    cr_assert_not(step(&v, NODE_EVENT_PASS));
    cr_assert(step(&v, NODE_EVENT_PASS));
    cr_assert_eq(v.state, NODE_UP);
}

Test(verdict, down_keeps_saying_the_latest_reason)
{
    struct verdict v = in_state(NODE_DOWN, NODE_REASON_CONNECT_FAILED);

    cr_assert(node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_ENGINE_LOADING));
    cr_assert_eq(v.state, NODE_DOWN);
    cr_assert_eq(v.reason, NODE_REASON_ENGINE_LOADING);
    cr_assert_not(node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_ENGINE_LOADING));
}

Test(verdict, without_a_lease_passing_probes_do_not_bring_a_node_up)
{
    struct verdict v = in_state(NODE_UP, NODE_REASON_PROBES_PASS);

    (void)step(&v, NODE_EVENT_LEASE_LOST);
    for (int i = 0; i < 5; i++)
        (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_DOWN);
    (void)node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_CONNECT_FAILED);
    cr_assert_eq(v.reason, NODE_REASON_LEASE_LOST, "the lease is the first trouble");
    cr_assert_not(step(&v, NODE_EVENT_LEASE_BACK));
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_DOWN);
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_UP);
}

Test(verdict,
     any_live_state_drains_at_the_operators_command_and_joins_anew_when_it_is_taken_back)
{
    enum node_state from[] = {NODE_JOINING, NODE_UP, NODE_EJECTED, NODE_PROBATION, NODE_DOWN};

    for (size_t i = 0; i < ARRAY_LEN(from); i++) {
        struct verdict v = in_state(from[i], NODE_REASON_NEW);

        cr_assert(step(&v, NODE_EVENT_DRAIN));
        cr_assert_eq(v.state, NODE_DRAINING);
        cr_assert_eq(v.reason, NODE_REASON_OPERATOR);
        cr_assert(v.drain_wanted);
        (void)step(&v, NODE_EVENT_PASS);
        (void)step(&v, NODE_EVENT_PASS);
        cr_assert_eq(v.state, NODE_DRAINING, "probes do not overrule the operator");
        cr_assert(step(&v, NODE_EVENT_UNDRAIN));
        cr_assert_eq(v.state, NODE_JOINING);
        cr_assert_not(v.drain_wanted);
        (void)step(&v, NODE_EVENT_PASS);
        cr_assert_eq(v.state, NODE_JOINING, "passes from before do not count");
    }
}

Test(verdict, any_live_state_drains_when_the_node_leaves_and_is_gone_once_idle)
{
    enum node_state from[] = {NODE_JOINING,   NODE_UP,   NODE_EJECTED,
                              NODE_PROBATION, NODE_DOWN, NODE_DRAINING};

    for (size_t i = 0; i < ARRAY_LEN(from); i++) {
        struct verdict v = in_state(from[i], NODE_REASON_NEW);

        cr_assert(node_state_step(&v, NODE_EVENT_LEAVE, NODE_REASON_LEAVING));
        cr_assert_eq(v.state, NODE_DRAINING);
        cr_assert_eq(v.reason, NODE_REASON_LEAVING);
        cr_assert(step(&v, NODE_EVENT_IDLE));
        cr_assert_eq(v.state, NODE_GONE);
        cr_assert_eq(v.reason, NODE_REASON_LEAVING);
    }
}

Test(verdict, a_node_drained_by_the_operator_is_not_gone_when_idle)
{
    struct verdict v = in_state(NODE_UP, NODE_REASON_PROBES_PASS);

    (void)step(&v, NODE_EVENT_DRAIN);
    cr_assert_not(step(&v, NODE_EVENT_IDLE));
    cr_assert_eq(v.state, NODE_DRAINING);
}

Test(verdict, undrain_does_not_keep_a_leaving_node)
{
    struct verdict v = in_state(NODE_UP, NODE_REASON_PROBES_PASS);

    (void)step(&v, NODE_EVENT_DRAIN);
    (void)node_state_step(&v, NODE_EVENT_LEAVE, NODE_REASON_LEAVING);
    cr_assert_not(step(&v, NODE_EVENT_UNDRAIN));
    cr_assert_eq(v.state, NODE_DRAINING);
    cr_assert_eq(v.reason, NODE_REASON_LEAVING);
}

Test(verdict, a_node_that_stays_after_all_obeys_the_operators_command)
{
    struct verdict v = in_state(NODE_UP, NODE_REASON_PROBES_PASS);

    (void)node_state_step(&v, NODE_EVENT_LEAVE, NODE_REASON_REMOVED);
    cr_assert(step(&v, NODE_EVENT_STAY));
    cr_assert_eq(v.state, NODE_JOINING);
    (void)node_state_step(&v, NODE_EVENT_LEAVE, NODE_REASON_REMOVED);
    (void)step(&v, NODE_EVENT_DRAIN);
    cr_assert_eq(v.reason, NODE_REASON_REMOVED);
    cr_assert(step(&v, NODE_EVENT_STAY));
    cr_assert_eq(v.state, NODE_DRAINING);
    cr_assert_eq(v.reason, NODE_REASON_OPERATOR);
}

Test(verdict, the_end_of_a_lease_makes_any_live_node_gone)
{
    for (int state = NODE_JOINING; state <= NODE_DRAINING; state++) {
        struct verdict v = in_state((enum node_state)state, NODE_REASON_NEW);

        cr_assert(step(&v, NODE_EVENT_LEASE_END));
        cr_assert_eq(v.state, NODE_GONE);
        cr_assert_eq(v.reason, NODE_REASON_LEASE_LOST);
    }
}

static bool has_traffic(enum node_state state)
{
    return state == NODE_UP || state == NODE_EJECTED || state == NODE_PROBATION;
}

/* The state after one event in a fresh state (no passes, no failures, no command),
 * with rise and fall of 2 and 3: where the header lists no edge, the state itself. */
static enum node_state expected(enum node_state state, enum node_event event)
{
    bool live = state >= NODE_JOINING && state <= NODE_DRAINING;

    if (!live)
        return state;
    if (event == NODE_EVENT_DRAIN || event == NODE_EVENT_LEAVE)
        return NODE_DRAINING;
    if (event == NODE_EVENT_LEASE_END)
        return NODE_GONE;
    if (event == NODE_EVENT_LEASE_LOST && state != NODE_DRAINING)
        return NODE_DOWN;
    if (event == NODE_EVENT_REFUSED && has_traffic(state))
        return NODE_DOWN;
    if (event == NODE_EVENT_EJECT && (state == NODE_UP || state == NODE_PROBATION))
        return NODE_EJECTED;
    if (event == NODE_EVENT_PROBATION && state == NODE_EJECTED)
        return NODE_PROBATION;
    if (event == NODE_EVENT_CLEAR && has_traffic(state))
        return NODE_UP;
    if (event == NODE_EVENT_UNDRAIN && state == NODE_DRAINING)
        return NODE_JOINING;
    return state;
}

Test(verdict, every_other_pair_of_state_and_event_leaves_the_state_alone)
{
    for (int state = NODE_NONE; state <= NODE_GONE; state++) {
        for (int event = NODE_EVENT_NONE; event < NODE_EVENT_EVENTS; event++) {
            struct verdict v = in_state((enum node_state)state, NODE_REASON_OPERATOR);

            if (state == NODE_EJECTED || state == NODE_PROBATION)
                v.ejected = NODE_REASON_FAILURES;
            (void)node_state_step(&v, (enum node_event)event, NODE_REASON_LEAVING);
            cr_assert_eq(v.state, expected((enum node_state)state, (enum node_event)event),
                         "%s + %s gave %s", node_state_name((enum node_state)state),
                         node_event_name((enum node_event)event), node_state_name(v.state));
        }
    }
}

/* The scoreboard's entry for a node. */
struct known {
    enum node_state state;
    enum node_reason reason;
    bool drain_wanted;
};

Test(verdict, an_adopted_node_goes_on_where_it_was)
{
    struct known up = {.state = NODE_UP, .reason = NODE_REASON_PROBES_PASS};
    struct known lost = {.state = NODE_DOWN, .reason = NODE_REASON_LEASE_LOST};
    struct known leaving = {.state = NODE_DRAINING, .reason = NODE_REASON_LEAVING};
    struct known wished = {
        .state = NODE_DRAINING, .reason = NODE_REASON_OPERATOR, .drain_wanted = true};
    struct verdict v;

    node_state_adopt(&v, up.state, up.reason, up.drain_wanted, 2, 2);
    cr_assert_eq(v.state, NODE_UP);
    node_state_adopt(&v, lost.state, lost.reason, lost.drain_wanted, 1, 1);
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_DOWN, "its lease is still lost");
    node_state_adopt(&v, leaving.state, leaving.reason, leaving.drain_wanted, 1, 1);
    cr_assert(step(&v, NODE_EVENT_IDLE));
    node_state_adopt(&v, wished.state, wished.reason, wished.drain_wanted, 1, 1);
    cr_assert_not(step(&v, NODE_EVENT_IDLE));
    cr_assert(step(&v, NODE_EVENT_UNDRAIN));
}

static struct verdict ejected(void)
{
    struct verdict v = in_state(NODE_UP, NODE_REASON_PROBES_PASS);

    cr_assert(node_state_step(&v, NODE_EVENT_EJECT, NODE_REASON_FAILURES));
    return v;
}

Test(verdict, an_ejected_node_says_why_is_tried_and_comes_back_when_that_goes_well)
{
    struct verdict v = ejected();

    cr_assert_eq(v.state, NODE_EJECTED);
    cr_assert_eq(v.reason, NODE_REASON_FAILURES);
    cr_assert(step(&v, NODE_EVENT_PROBATION));
    cr_assert_eq(v.state, NODE_PROBATION);
    cr_assert_eq(v.reason, NODE_REASON_FAILURES, "it is on trial for what it did");
    cr_assert(step(&v, NODE_EVENT_CLEAR));
    cr_assert_eq(v.state, NODE_UP);
    cr_assert_eq(v.reason, NODE_REASON_PROBES_PASS);
}

Test(verdict, a_failed_trial_ejects_again_with_its_own_reason)
{
    struct verdict v = ejected();

    (void)step(&v, NODE_EVENT_PROBATION);
    cr_assert(node_state_step(&v, NODE_EVENT_EJECT, NODE_REASON_NO_PROGRESS));
    cr_assert_eq(v.state, NODE_EJECTED);
    cr_assert_eq(v.reason, NODE_REASON_NO_PROGRESS);
    (void)step(&v, NODE_EVENT_PASS);
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_EJECTED, "probes do not overrule what requests showed");
}

Test(verdict, an_ejection_outlasts_going_down)
{
    struct verdict v = ejected();

    for (int i = 0; i < 3; i++)
        (void)node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_PROBE_TIMEOUT);
    cr_assert_eq(v.state, NODE_DOWN);
    cr_assert_eq(v.reason, NODE_REASON_PROBE_TIMEOUT);
    (void)step(&v, NODE_EVENT_PASS);
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_EJECTED);
    cr_assert_eq(v.reason, NODE_REASON_FAILURES);
}

Test(verdict, time_that_runs_out_while_a_node_is_down_makes_it_come_back_on_trial)
{
    struct verdict v = ejected();

    cr_assert(node_state_step(&v, NODE_EVENT_REFUSED, NODE_REASON_ENGINE_DOWN));
    cr_assert_not(step(&v, NODE_EVENT_PROBATION));
    cr_assert_eq(v.state, NODE_DOWN);
    (void)step(&v, NODE_EVENT_PASS);
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_PROBATION);
}

Test(verdict, draining_an_ejected_node_does_not_clear_it)
{
    struct verdict v = ejected();

    (void)step(&v, NODE_EVENT_DRAIN);
    (void)step(&v, NODE_EVENT_UNDRAIN);
    (void)step(&v, NODE_EVENT_PASS);
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_EJECTED);
}

Test(verdict, a_node_that_is_cleared_while_down_comes_back_up)
{
    struct verdict v = ejected();

    (void)step(&v, NODE_EVENT_LEASE_LOST);
    cr_assert_not(step(&v, NODE_EVENT_CLEAR));
    (void)step(&v, NODE_EVENT_LEASE_BACK);
    (void)step(&v, NODE_EVENT_PASS);
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_UP);
}

Test(verdict, a_kept_node_stays_up_and_says_so_until_it_does_well)
{
    struct verdict v = in_state(NODE_UP, NODE_REASON_PROBES_PASS);

    cr_assert(step(&v, NODE_EVENT_KEEP));
    cr_assert_eq(v.state, NODE_UP);
    cr_assert_eq(v.reason, NODE_REASON_KEPT);
    cr_assert_not(step(&v, NODE_EVENT_KEEP), "said once");
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.reason, NODE_REASON_KEPT, "a probe is no request");
    cr_assert(step(&v, NODE_EVENT_CLEAR));
    cr_assert_eq(v.reason, NODE_REASON_PROBES_PASS);
}

Test(verdict, an_adopted_ejection_goes_on)
{
    struct known out = {.state = NODE_EJECTED, .reason = NODE_REASON_SUCCESS_RATE};
    struct known tried = {.state = NODE_PROBATION, .reason = NODE_REASON_FAILURES};
    struct verdict v;

    node_state_adopt(&v, out.state, out.reason, out.drain_wanted, 1, 1);
    cr_assert_eq(v.ejected, NODE_REASON_SUCCESS_RATE);
    cr_assert(step(&v, NODE_EVENT_PROBATION));
    cr_assert_eq(v.reason, NODE_REASON_SUCCESS_RATE);
    node_state_adopt(&v, tried.state, tried.reason, tried.drain_wanted, 1, 1);
    cr_assert(node_state_step(&v, NODE_EVENT_FAIL, NODE_REASON_CONNECT_FAILED));
    (void)step(&v, NODE_EVENT_PASS);
    cr_assert_eq(v.state, NODE_PROBATION);
}
