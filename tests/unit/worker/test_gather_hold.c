/* test_gather_hold.c - requests that are planned on a node instead of being sent there. */
#include "gather_rig.h"
#include "shm/facts/decisions.h"
#include "shm/facts/procs.h"
#include "shm/queue/plans.h"

/* Node 0, twice as fast as node 1, has `left_us` of prefill before it; hold_ms is 1000. */
static void set_up_hold(uint32_t left_us)
{
    set_up(2);
    learn(0, 2000);
    learn(1, 1000);
    for (unsigned w = 0; w < 3; w++)
        procs_heartbeat(s.board, w, NOW);
    if (left_us != 0)
        cr_assert(gauges_claim(s.board, 1, 0, 1, left_us, 4));
    s.request.hold_us = 1 * US_PER_S;
    s.request.may_plan = true;
    s.request.policy.tokens = 8000; /* 4 s on node 0, 8 s on node 1 */
}

static enum select_place look(struct eligible_place *place)
{
    uint32_t cursor = 0;

    gather();
    return select_claim(&all, s.board, 0, POLICY_FASTEST, &s.request, &cursor, &s.random,
                        place);
}

static const struct queue_rights all_rights = {.slots = {.word = {3}}, .beyond = {.word = {3}}};

Test(gather_hold, a_request_is_sent_while_the_window_is_open_and_planned_when_it_is_closed)
{
    struct eligible_place place;

    set_up_hold(999999);
    cr_assert_eq(look(&place), SELECT_PLACE_CLAIMED);
    cr_assert_eq(place.at, 0);
    tear_down();
    set_up_hold(1000000);
    cr_assert_eq(look(&place), SELECT_PLACE_PLAN, "and nothing waits anywhere");
    cr_assert_eq(place.at, 0);
    cr_assert_eq(place.charge_us, 4000000);
    cr_assert_eq(gauges_sum(s.board, 0, 1).inflight, 1, "a plan is no claim");
    s.request.rights = &all_rights;
    cr_assert_eq(look(&place), SELECT_PLACE_PLAN, "while others wait");
    cr_assert_eq(place.at, 0);
    tear_down();
}

Test(gather_hold, without_hold_it_is_sent)
{
    struct eligible_place place;

    set_up_hold(1000000);
    s.request.hold_us = 0;
    s.request.may_plan = false;
    cr_assert_eq(look(&place), SELECT_PLACE_CLAIMED);
    cr_assert_eq(place.at, 0);
    tear_down();
}

/* Two plans of 3 s each, one of them its own: b = 2 + 3, n = 1 + 1. */
Test(gather_hold, costs_count_the_plans_of_others_and_not_its_own)
{
    const struct request_plan plan = {
        .node = 0, .generation = 1, .charge_us = 3000000, .promised_mono_us = NOW + US_PER_S};
    struct eligible_place place;

    set_up_hold(2000000);
    plans_add(s.board, 0, 0, 1, 3000000);
    plans_add(s.board, 2, 0, 1, 3000000);
    s.request.rights = &all_rights;
    s.request.plan = &plan;
    cr_assert_eq(look(&place), SELECT_PLACE_KEPT);
    cr_assert_eq(place.at, 0);
    cr_assert_eq(all.of[0].inflight, 1);
    cr_assert_eq(all.of[0].planned, 1);
    cr_assert_float_eq(all.of[0].backlog_s, 5, 1e-9);
    cr_assert_float_eq(place.left_s, 2, 1e-9, "plans are no work of the engine yet");
    s.request.plan = NULL;
    gather();
    cr_assert_eq(all.of[0].planned, 2);
    cr_assert_float_eq(all.of[0].backlog_s, 8, 1e-9);
    tear_down();
}

Test(gather_hold, a_slot_is_not_kept_for_a_plan)
{
    struct eligible_place place;

    set_up_hold(0);
    for (int i = 0; i < 4; i++) {
        plans_add(s.board, 2, 0, 1, 1);
        plans_add(s.board, 2, 1, 1, 1);
    }
    s.request.rights = &all_rights;
    cr_assert_eq(look(&place), SELECT_PLACE_CLAIMED, "all is planned, nothing is sent");
    tear_down();
}

Test(gather_hold, with_every_slot_sent_or_planned_there_is_no_plan_for_a_request_without_rights)
{
    const struct queue_rights none = {0};
    struct eligible_place place;

    set_up_hold(0);
    s.request.rights = &none;
    cr_assert_eq(look(&place), SELECT_PLACE_PLAN, "a plan needs no right");
    for (int i = 0; i < 4; i++) {
        plans_add(s.board, 2, 0, 1, 1);
        plans_add(s.board, 2, 1, 1, 1);
    }
    cr_assert_eq(look(&place), SELECT_PLACE_NONE);
    cr_assert_eq(all.exclusions[0], DECISION_EXCLUDED_WAITED_FOR);
    tear_down();
}

Test(gather_hold, no_plan_is_made_on_probation_nor_where_a_model_is_to_be_loaded)
{
    struct eligible_place place;

    set_up_hold(1000000);
    s.model.servers_count = 1;
    nodes_set_state(s.board, 0, NODE_PROBATION, NODE_REASON_FAILURES, NOW);
    cr_assert_eq(look(&place), SELECT_PLACE_NONE, "its one place is taken");
    s.request.rights = &all_rights;
    cr_assert_eq(look(&place), SELECT_PLACE_NONE);
    nodes_set_state(s.board, 0, NODE_UP, NODE_REASON_NONE, NOW);
    s.server[0].state = DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE;
    cr_assert_eq(look(&place), SELECT_PLACE_NONE, "the window is closed");
    cr_assert_eq(all.exclusions[0], DECISION_EXCLUDED_HOLD);
    tear_down();
}

Test(gather_hold, a_request_that_may_make_no_plan_waits_for_a_window)
{
    struct eligible_place place;

    set_up_hold(1000000);
    s.request.rights = &all_rights;
    s.request.may_plan = false;
    cr_assert_eq(look(&place), SELECT_PLACE_CLAIMED);
    cr_assert_eq(place.at, 1, "whose window is open");
    cr_assert_eq(all.exclusions[0], DECISION_EXCLUDED_HOLD);
    tear_down();
}

/* 100 tokens take 0.05 s on node 0. */
Test(gather_hold, a_short_request_is_sent_whatever_the_window)
{
    struct eligible_place place;

    set_up_hold(5000000);
    s.model.servers_count = 1;
    s.request.policy.tokens = 100;
    cr_assert_eq(look(&place), SELECT_PLACE_CLAIMED, "nothing waits");
    s.request.rights = &all_rights;
    plans_add(s.board, 2, 0, 1, 1000000);
    cr_assert_eq(look(&place), SELECT_PLACE_CLAIMED, "others wait");
    tear_down();
    set_up_hold(5000000);
    s.model.servers_count = 1;
    s.request.policy.tokens = 300;
    cr_assert_eq(look(&place), SELECT_PLACE_PLAN);
    tear_down();
}
