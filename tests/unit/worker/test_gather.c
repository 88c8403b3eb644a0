/* test_gather.c - from the scoreboard to a place on a node, with the numbers worked out. */
#include <math.h>

#include "gather_rig.h"
#include "policy/route/estimate.h"
#include "shm/facts/decisions.h"
#include "shm/facts/outcomes.h"
#include "shm/facts/procs.h"
#include "shm/queue/plans.h"
#include "shm/share/loads.h"
#include "shm/share/prefix.h"

Test(gather, a_candidate_has_what_the_scoreboard_says)
{
    const uint64_t windows[] = {UINT64_C(1) << 60, UINT64_C(2) << 60, UINT64_C(3) << 60};

    set_up(2);
    learn(1, 500);
    hold_places(0, 1, 1);
    hold_places(2, 1, 2);
    prefix_note(s.board, 1, 1, windows, 2, NOW);
    prefix_session_set(s.board, 5, 1, 1, NOW);
    s.request.windows = windows;
    s.request.windows_count = 3;
    s.request.tokens_per_window = 300;
    s.request.session_hash = 5;
    gather();
    cr_assert_eq(all.count, 2);
    cr_assert(all.any_usable && !all.any_failed);
    cr_assert_eq(all.of[0].inflight, 0);
    cr_assert_eq(all.of[0].matched_tokens, 0);
    cr_assert_not(all.of[0].same_session);
    cr_assert_eq(all.of[1].id, 1);
    cr_assert_eq(all.of[1].inflight, 3);
    cr_assert_float_eq(all.of[1].backlog_s, 0.3, 1e-9, "three of 0.1 s each");
    cr_assert_float_eq(all.of[1].slowdown, 1, 1e-9);
    cr_assert_eq(all.of[1].slots, 4);
    cr_assert_eq(all.of[1].cap, 6, "4 slots and 2 places beyond");
    cr_assert_eq(all.of[1].matched_tokens, 600, "2 windows of 300 tokens");
    cr_assert_float_eq(all.of[1].prefill_tokens_per_s, 500, 1e-9);
    cr_assert_float_eq(all.of[1].hold_s, 8, 1e-9);
    cr_assert(all.of[1].same_session);
    tear_down();
}

Test(gather, a_node_on_trial_has_one_place_and_none_once_it_has_a_result)
{
    struct eligible_place place;
    struct outcomes judged;

    set_up(1);
    nodes_set_state(s.board, 0, NODE_PROBATION, NODE_REASON_FAILURES, NOW);
    gather();
    cr_assert(all.on_probation[0]);
    cr_assert_eq(all.of[0].slots, 4, "a share of these, to policies that compare shares");
    cr_assert_eq(all.of[0].cap, 1);
    cr_assert_eq(claim(&place), 0);
    gather();
    cr_assert_eq(claim(&place), -1, "one at a time");
    gauges_release(s.board, 0, 0, 1, place.terms.uncached_tokens);
    outcomes_note(s.board, 0, 1, OUTCOME_PROBATION_FAILED);
    gather();
    cr_assert_eq(all.of[0].cap, 0);
    cr_assert_eq(claim(&place), -1, "the health process has not yet seen the result");
    outcomes_read(s.board, 0, &judged);
    outcomes_begin_probation(s.board, 0, &judged);
    gather();
    cr_assert_eq(claim(&place), 0, "another trial");
    tear_down();
}

Test(gather, nothing_waits_at_a_node_whose_slots_are_not_all_open)
{
    set_up(1);
    nodes_set_slots_now(s.board, 0, 3);
    gather();
    cr_assert_eq(all.of[0].slots, 3);
    cr_assert_eq(all.of[0].cap, 3, "3 of 4 are open");
    nodes_set_slots_now(s.board, 0, 4);
    gather();
    cr_assert_eq(all.of[0].cap, 6, "4 and 2 beyond");
    tear_down();
}

Test(gather, a_node_that_is_silent_for_longer_than_its_charge_is_slower)
{
    set_up(1);
    learn(0, 500);
    hold_places(1, 0, 1);
    speeds_note_work(s.board, 0, 1, NOW - 5 * US_PER_S);
    gather();
    cr_assert_float_eq(all.of[0].slowdown, 5, 1e-6, "5 s, where one may say nothing");
    tear_down();
}

Test(gather, a_node_that_cannot_serve_is_no_candidate)
{
    set_up(7);
    s.server[0].operations = 0;
    s.server[1].state = DROVER__V1__MODEL_STATE__MODEL_STATE_LOADING;
    s.server[2].state = DROVER__V1__MODEL_STATE__MODEL_STATE_FAILED;
    s.node[3].reachable = false;
    nodes_set_state(s.board, 4, NODE_DRAINING, NODE_REASON_OPERATOR, NOW);
    s.server[5].generation = 9; /* the slot has another node than the one we know */
    gather();
    cr_assert_eq(all.count, 1);
    cr_assert_eq(all.of[0].id, 6);
    tear_down();
}

Test(gather, a_full_node_is_left_out_for_its_pause_and_a_failed_one_for_good)
{
    const struct excluded_node excluded[] = {
        {.node = 0, .generation = 1, .until_mono_us = UINT64_MAX},
        {.node = 1, .generation = 1, .until_mono_us = NOW + 1},
        {.node = 2, .generation = 1, .until_mono_us = NOW},        /* over */
        {.node = 3, .generation = 2, .until_mono_us = UINT64_MAX}, /* another node */
    };

    set_up(4);
    s.request.excluded = excluded;
    s.request.excluded_count = 4;
    gather();
    cr_assert_eq(all.count, 2);
    cr_assert_eq(all.of[0].id, 2);
    cr_assert_eq(all.of[1].id, 3);
    s.model.servers_count = 2;
    gather();
    cr_assert_eq(all.count, 0);
    cr_assert(all.any_usable, "n1 is only full");
    s.model.servers_count = 1;
    gather();
    cr_assert(!all.any_usable && all.any_failed);
    tear_down();
}

Test(gather, a_node_that_is_away_counts_as_failed_and_some_seconds_later_does_not)
{
    struct excluded_node excluded = {.node = 0, .generation = 1, .away = true};
    struct abilities_need need = {.prompt_tokens = 1000, .output_tokens = 1000};

    set_up(2);
    s.server[0].known.context_tokens = 65536;
    s.server[1].known.context_tokens = 1500; /* it may cut the answer */
    s.request.need = &need;
    excluded.until_mono_us = NOW + 1;
    s.request.excluded = &excluded;
    s.request.excluded_count = 1;
    s.request.most_score = gather_least_score(s.board, &s.model, &s.request);
    gather();
    cr_assert_eq(all.count, 1);
    cr_assert_eq(all.of[0].id, 1, "it does not wait for n0");
    s.model.servers_count = 1;
    gather();
    cr_assert(!all.any_usable && all.any_failed, "there is none to wait for");
    s.model.servers_count = 2;
    excluded.until_mono_us = NOW;
    s.request.most_score = gather_least_score(s.board, &s.model, &s.request);
    gather();
    cr_assert_eq(all.count, 1);
    cr_assert_eq(all.of[0].id, 0);
    tear_down();
}

/* 1000 tokens and at most 32000 of output: n0 and n1 hold it, n2 has room for a usual answer.
 */
static void set_up_contexts(struct abilities_need *need)
{
    set_up(3);
    abilities_prompt(need, 4000, 1000);
    need->output_tokens = 32000;
    s.server[0].known.context_tokens = s.server[1].known.context_tokens = 65536;
    s.server[2].known.context_tokens = 16384;
    s.server[2].prefill_tokens_per_s = 100000; /* it would be the first choice */
    s.request.need = need;
    s.request.most_score = ABILITIES_SCORE(ABILITIES_TIGHT);
}

Test(gather, a_context_that_may_cut_a_long_answer_is_spared_while_another_has_a_slot)
{
    struct abilities_need need = {0};
    struct eligible_place place;

    set_up_contexts(&need);
    hold_places(1, 0, 4);
    gather();
    cr_assert_eq(all.count, 3);
    cr_assert_eq(all.exclusions[2], DECISION_EXCLUDED_CONTEXT);
    cr_assert_eq(claim(&place), 1);
    hold_places(1, 1, 3);
    gather();
    cr_assert_eq(all.exclusions[2], 0, "4 of 4, and 4 of 4");
    cr_assert_eq(claim(&place), 2);
    tear_down();
}

Test(gather, a_slot_that_is_for_another_request_does_not_spare_it)
{
    struct abilities_need need = {0};
    struct queue_rights rights = {0};
    struct eligible_place place;

    set_up_contexts(&need);
    node_set_add(&rights.slots, 2);
    s.request.rights = &rights;
    gather();
    cr_assert_eq(claim(&place), 2);
    node_set_add(&rights.slots, 0);
    gather();
    cr_assert_eq(claim(&place), 0);
    tear_down();
}

Test(gather, a_node_that_a_retry_may_not_use_spares_no_small_context)
{
    struct abilities_need need = {0};
    struct eligible_place place;

    set_up_contexts(&need);
    s.request.spare_probation = true;
    nodes_set_state(s.board, 0, NODE_PROBATION, NODE_REASON_FAILURES, NOW);
    gather();
    cr_assert_eq(all.exclusions[2], DECISION_EXCLUDED_CONTEXT, "n1 has a slot");
    cr_assert_eq(claim(&place), 1);
    nodes_set_state(s.board, 1, NODE_DOWN, NODE_REASON_ENGINE_DOWN, NOW);
    gather();
    cr_assert_eq(claim(&place), 2);
    nodes_set_state(s.board, 2, NODE_DOWN, NODE_REASON_ENGINE_DOWN, NOW);
    gather();
    cr_assert_eq(claim(&place), 0, "nothing else is left");
    tear_down();
}

Test(gather, a_node_that_a_hedge_may_not_use_spares_no_small_context)
{
    struct abilities_need need = {0};
    struct eligible_place place;

    set_up_contexts(&need);
    s.request.is_hedge = s.request.spare_probation = true;
    s.request.hold_us = US_PER_S;
    gather();
    cr_assert_eq(claim(&place), 1, "not n0, which has the first attempt");
    hold_places(1, 1, 3);
    gather();
    cr_assert_eq(claim(&place), 2, "n1 is full, and has places beyond its slots");
    gauges_release(s.board, 1, 1, 1, 0);
    cr_assert(gauges_claim(s.board, 1, 1, 1, 2 * US_PER_S, 99));
    gauges_release(s.board, 1, 1, 1, 0);
    gather();
    cr_assert_eq(claim(&place), 2, "n1 has a slot, and its window is closed");
    nodes_set_state(s.board, 1, NODE_PROBATION, NODE_REASON_FAILURES, NOW);
    nodes_set_state(s.board, 2, NODE_DOWN, NODE_REASON_ENGINE_DOWN, NOW);
    gather();
    cr_assert_eq(claim(&place), -1, "no hedge is spent on a probation");
    tear_down();
}

Test(gather, a_node_that_has_to_load_spares_no_small_context_that_is_ready)
{
    struct abilities_need need = {0};
    struct eligible_place place;

    set_up_contexts(&need);
    s.server[0].state = s.server[1].state = DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE;
    gather();
    cr_assert_eq(all.exclusions[2], 0);
    cr_assert_eq(claim(&place), 2);
    s.server[2].state = DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE;
    s.server[2].load_ms = 1;
    gather();
    cr_assert_eq(all.exclusions[2], DECISION_EXCLUDED_CONTEXT, "it would have to load, too");
    s.server[1].state = DROVER__V1__MODEL_STATE__MODEL_STATE_READY;
    s.server[2].state = DROVER__V1__MODEL_STATE__MODEL_STATE_READY;
    gather();
    cr_assert_eq(claim(&place), 1);
    tear_down();
}

Test(gather, a_closed_window_leaves_the_slot_to_a_plan)
{
    struct abilities_need need = {0};
    struct queue_rights rights = {0};

    set_up_contexts(&need);
    for (unsigned node = 0; node < 3; node++)
        node_set_add(&rights.slots, node);
    cr_assert(gauges_claim(s.board, 1, 0, 1, 5 * US_PER_S, 99));
    cr_assert(gauges_claim(s.board, 1, 1, 1, 5 * US_PER_S, 99));
    s.request.hold_us = US_PER_S;
    s.request.may_plan = true;
    s.request.rights = &rights;
    gather();
    cr_assert_eq(all.exclusions[0], DECISION_EXCLUDED_HOLD);
    cr_assert_eq(all.exclusions[2], DECISION_EXCLUDED_CONTEXT);
    tear_down();
}

Test(gather, a_speed_is_that_of_the_model_and_the_class)
{
    set_up(1);
    learn(0, 4000);
    gather();
    cr_assert_float_eq(all.of[0].prefill_tokens_per_s, 4000, 1e-3);
    s.request.op_class = OP_CLASS_EMBEDDING;
    gather();
    cr_assert_float_eq(all.of[0].prefill_tokens_per_s, 1000, 1e-3, "as it reports");
    s.request.op_class = OP_CLASS_GENERATION;
    s.request.model_hash = MODEL + 1;
    gather();
    cr_assert_float_eq(all.of[0].prefill_tokens_per_s, 1000, 1e-3);
    tear_down();
}

Test(gather, the_backlog_is_worked_off_while_time_passes)
{
    set_up(1);
    learn(0, 4000);
    cr_assert(gauges_claim(s.board, 0, 0, 1, 4 * US_PER_S, 99));
    speeds_note_work(s.board, 0, 1, NOW - 3 * US_PER_S);
    gather();
    cr_assert_float_eq(all.of[0].backlog_s, 1, 1e-6, "4 s were sent 3 s ago");
    speeds_note_work(s.board, 0, 1, NOW - US_PER_S);
    gather();
    cr_assert_float_eq(all.of[0].backlog_s, 3, 1e-6, "another one was finished 1 s ago");
    tear_down();
}

Test(gather, an_idle_node_may_be_tried_after_ten_seconds)
{
    set_up(3);
    s.server[2].prefill_tokens_per_s = 0;
    learn(0, 4000);
    learn(1, 50);
    gather();
    cr_assert_lt(all.of[1].regret_s, 0, "it has had a request just now");
    cr_assert(isinf(all.of[2].regret_s), "nothing is known of it");
    s.request.now_mono_us = NOW + 10 * US_PER_S;
    gather();
    cr_assert_geq(all.of[1].regret_s, 0.1f);
    cr_assert_float_eq(all.of[1].prefill_tokens_per_s, 50, 1e-9, "what it is known for");
    hold_places(1, 1, 1);
    gather();
    cr_assert_lt(all.of[1].regret_s, 0, "it has a request already");
    tear_down();
}

/* Else a node whose failures made it slow would be on probation for as long as others are idle.
 */
Test(gather, a_node_on_probation_is_tried_however_slow_it_was)
{
    struct eligible_place place = {0};
    bool tried = false;

    set_up(2);
    learn(0, 4000);
    learn(1, 1);
    nodes_set_state(s.board, 1, NODE_PROBATION, NODE_REASON_FAILURES, NOW);
    s.request.now_mono_us = NOW + 10 * US_PER_S;
    for (int i = 0; i < 100 && !tried; i++) {
        gather();
        tried = claim(&place) == 1;
        gauges_release(s.board, 0, tried, 1, place.terms.uncached_tokens);
    }
    cr_expect(tried);
    tear_down();
}

/* 0.1 s and 5 minutes at 0.25 s a minute: of a night only that counts. */
Test(gather, time_in_which_no_request_came_at_all_is_no_reason_to_try_a_slow_node)
{
    const float regret_s = 1.35f;

    set_up(2);
    learn(0, 4000);
    learn(1, 50);
    s.request.now_mono_us = NOW + 8 * 3600 * US_PER_S;
    gather();
    cr_assert_float_eq(all.of[1].regret_s, regret_s, 1e-4f, "%f", (double)all.of[1].regret_s);
    s.request.model_hash = MODEL + 5; /* never sent anywhere; the nodes say how fast they are */
    gather();
    cr_assert_float_eq(all.of[1].regret_s, regret_s, 1e-4f, "%f", (double)all.of[1].regret_s);
    tear_down();
}

/* 50 long prompts a day are one every 28.8 minutes, of which 5 count: 1.25 s each. */
Test(gather, a_few_requests_a_day_find_a_node_that_has_recovered)
{
    uint32_t row;

    set_up(2);
    row = speeds_find(s.board, MODEL, OP_CLASS_GENERATION);
    learn(0, 4000);
    learn(1, 50);
    for (unsigned i = 1; i <= 24; i++) {
        s.request.now_mono_us = NOW + i * 1728 * US_PER_S;
        speeds_note_sent(s.board, row, 0, 1, s.request.now_mono_us, s.times.trial_gap_us);
    }
    gather();
    cr_assert_float_eq(all.of[1].regret_s, 30.1f, 1e-3f, "%f", (double)all.of[1].regret_s);
    tear_down();
}

/* A request of so many tokens comes after so many seconds, is served before the next one comes,
 * and is measured: the node takes `speed` tokens/s.  The node that it was sent to. */
static unsigned serve(uint64_t after_s, uint32_t tokens, const double *speed)
{
    uint32_t row = speeds_find(s.board, MODEL, OP_CLASS_GENERATION);
    struct eligible_place place;
    struct speed seen;
    struct estimate_speed next;
    int node;

    s.request.now_mono_us += after_s * US_PER_S;
    s.request.policy.tokens = tokens;
    gather();
    node = claim(&place);
    cr_assert_geq(node, 0);
    speeds_note_sent(s.board, row, (unsigned)node, 1, s.request.now_mono_us,
                     s.times.trial_gap_us);
    gauges_release(s.board, 0, (unsigned)node, 1, place.charge_us);
    seen = speeds_read(s.board, row, (unsigned)node);
    next =
        estimate_learn((struct estimate_speed){.tokens = seen.tokens, .seconds = seen.seconds},
                       estimate_sample(tokens, 0, 1, tokens / speed[node]));
    cr_assert(speeds_swap(s.board, row, (unsigned)node, 1, &seen,
                          (struct speed){.tokens = next.tokens, .seconds = next.seconds}));
    return (unsigned)node;
}

/* 10,000 tokens take 0.2 s on one and 2 s on the other, 200 tokens 4 ms and 40 ms: these cost
 * less than the regret of a trial, so they are the trials, and no long prompt is. */
Test(gather, short_prompts_try_a_slow_node_so_that_no_long_one_has_to)
{
    double speed[] = {50000, 5000};
    unsigned trials = 0, longs = 0, minutes = 0;

    set_up(2);
    learn(0, speed[0]);
    learn(1, speed[1]);
    for (unsigned i = 0; i < 3600 / 4; i++) {
        trials += serve(3, 200, speed);
        longs += i % 15 == 0 && serve(1, 10000, speed) == 1;
    }
    cr_assert_eq(longs, 0, "%u of 60", longs);
    cr_assert_gt(trials, 3600 / 20, "%u", trials);
    speed[1] = 100000; /* it is faster now than the other ever was */
    for (longs = 0; longs < 3 && minutes < 15; minutes++) {
        for (unsigned i = 0; i < 19; i++)
            (void)serve(3, 200, speed);
        longs += serve(3, 10000, speed) == 1;
    }
    cr_assert_lt(minutes, 15, "a node that has recovered was not found");
    tear_down();
}

Test(gather, a_node_that_is_busy_with_one_model_is_tried_again_with_another)
{
    struct eligible_place place;

    set_up(2);
    learn(0, 4000);
    learn(1, 50); /* a bad first sample of this model */
    s.request.policy.tokens = 6;
    s.request.now_mono_us = NOW + 61 * US_PER_S;
    hold_places(1, 0, 3);
    hold_places(1, 1, 2);
    for (unsigned node = 0; node < 2; node++) /* the other model, all the time */
        speeds_note_sent(s.board, speeds_take(s.board, MODEL + 1, OP_CLASS_GENERATION), node, 1,
                         NOW + 61 * US_PER_S, 10 * US_PER_S);
    for (unsigned i = 1; i <= 6; i++)
        speeds_note_sent(s.board, speeds_find(s.board, MODEL, OP_CLASS_GENERATION), 0, 1,
                         NOW + i * 10 * US_PER_S, 10 * US_PER_S);
    gather();
    cr_assert_lt(all.of[1].regret_s, 0, "prompts there have no first token yet");
    for (unsigned n = 0; n < 3; n++)
        gauges_prefill_done(s.board, 1, 0, 1, 100 * US_PER_MS);
    for (unsigned n = 0; n < 2; n++)
        gauges_prefill_done(s.board, 1, 1, 1, 100 * US_PER_MS);
    gather();
    cr_assert_geq(all.of[1].regret_s, 0.1f);
    cr_assert_eq(claim(&place), 1);
    cr_assert(place.trial);
    tear_down();
}

Test(gather, one_worker_tries_a_node_and_the_others_do_not)
{
    struct eligible_place place;

    set_up(2);
    s.server[1].prefill_tokens_per_s = 0;
    learn(0, 4000);
    hold_places(1, 0, 1); /* so that an idle node as fast is better */
    gather();
    cr_assert(speeds_take_trial(s.board, speeds_find(s.board, MODEL, OP_CLASS_GENERATION), 1, 1,
                                10 * US_PER_S, 10 * US_PER_S + 1),
              "another worker, meanwhile");
    cr_assert_eq(claim(&place), 0);
    cr_assert_not(place.trial);
    gather();
    cr_assert_eq(claim(&place), 1);
    cr_assert(place.trial);
    tear_down();
}

Test(gather, a_model_on_disk_costs_its_load_and_is_loaded_once)
{
    struct eligible_place place;

    set_up(2);
    s.server[0].state = s.server[1].state = DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE;
    s.server[0].load_ms = 3000;
    gather();
    cr_assert_float_eq(all.of[0].load_s, 3, 1e-9);
    cr_assert_float_eq(all.of[1].load_s, 10, 1e-9, "nobody said how long");
    cr_assert_eq(claim(&place), 0);
    cr_assert(place.loads_model);
    gather();
    cr_assert_eq(all.of[0].cap, 0, "it is being loaded there");
    cr_assert_eq(all.exclusions[0], DECISION_EXCLUDED_LOADING);
    cr_assert_eq(claim(&place), 1);
    gather();
    cr_assert_eq(claim(&place), -1);
    cr_assert(all.any_usable);
    loads_done(s.board, 0, 0, 1, MODEL);
    gather();
    cr_assert_eq(all.of[0].cap, 6);
    tear_down();
}

Test(gather, a_request_that_looks_for_places_beyond_the_slots_gets_no_free_slot)
{
    const uint64_t windows[] = {UINT64_C(1) << 60, UINT64_C(2) << 60};
    struct queue_rights rights = {.overcommit_only = true};
    struct eligible_place place;

    node_set_add(&rights.slots, 1);
    node_set_add(&rights.beyond, 0);
    node_set_add(&rights.beyond, 1);
    set_up(2);
    learn(0, 100); /* 600 tokens take it 6 s, longer than the 2 s until a slot comes free */
    learn(1, 4000);
    hold_places(1, 0, 4);
    s.request.windows = windows;
    s.request.windows_count = 2;
    s.request.tokens_per_window = 300;
    s.request.rights = &rights;
    gather();
    cr_assert_eq(all.count, 0, "nobody has any of the prompt");
    cr_assert(all.any_usable);
    cr_assert_eq(claim(&place), -1);
    prefix_note(s.board, 0, 1, windows, 2, NOW);
    gather();
    cr_assert_eq(all.count, 2);
    cr_assert_eq(all.of[1].cap, 0, "its slots are free, and not meant");
    cr_assert_eq(claim(&place), 0);
    cr_assert_eq(gauges_sum(s.board, 0, 1).inflight, 5);
    tear_down();
}

Test(gather, a_slot_that_another_request_waits_for_is_not_taken)
{
    struct queue_rights rights = {0};
    struct eligible_place place;

    set_up(2);
    learn(0, 4000); /* the better one */
    learn(1, 1000);
    hold_places(1, 0, 1);
    node_set_add(&rights.slots, 1);
    s.request.rights = &rights;
    gather();
    cr_assert_eq(all.count, 2);
    cr_assert(all.any_usable);
    cr_assert_eq(claim(&place), 1);
    cr_assert_eq(gauges_sum(s.board, 0, 1).inflight, 1);
    tear_down();
}

static struct node_set reach(uint64_t *until_mono_us)
{
    uint32_t generation[SELECT_MAX] = {0};
    struct node_set nodes = {0};

    *until_mono_us = UINT64_MAX;
    gather_reach(s.board, &s.model, &s.request, &nodes, generation, until_mono_us);
    for (unsigned n = 0; n < NODES; n++)
        cr_assert_eq(generation[n], node_set_has(&nodes, n) ? 1 : 0);
    return nodes;
}

Test(gather, a_request_reaches_the_nodes_that_only_this_worker_could_exclude)
{
    const struct excluded_node excluded[] = {
        {.node = 1, .generation = 1, .until_mono_us = UINT64_MAX},
        {.node = 2, .generation = 1, .until_mono_us = NOW + 700},
        {.node = 3, .generation = 1, .until_mono_us = NOW},
        {.node = 4, .generation = 2, .until_mono_us = UINT64_MAX},
    };
    struct node_set nodes;
    uint64_t until;

    set_up(9);
    hold_places(1, 0, 6); /* full, but that is for all to see */
    nodes_set_state(s.board, 8, NODE_DOWN, NODE_REASON_CONNECT_FAILED, NOW); /* so is this */
    s.request.excluded = excluded;
    s.request.excluded_count = 4;
    s.server[5].operations = 0;
    s.node[6].reachable = false;
    s.node[7].full_mono_us = NOW + 500;
    nodes = reach(&until);
    cr_assert_eq(nodes.word[0], 1 << 0 | 1 << 3 | 1 << 4 | 1 << 8);
    cr_assert_eq(until, NOW + 500, "the pause that ends first");
    tear_down();
}

Test(gather, while_a_model_is_loaded_elsewhere_the_node_is_looked_at_again_soon)
{
    struct node_set nodes;
    uint64_t until;

    set_up(2);
    s.server[0].state = DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE;
    nodes = reach(&until);
    cr_assert_eq(nodes.word[0], 3);
    cr_assert_eq(until, UINT64_MAX);
    cr_assert(loads_claim(s.board, 1, 0, 1, MODEL, NOW, US_PER_S));
    nodes = reach(&until);
    cr_assert_eq(nodes.word[0], 2);
    cr_assert_gt(until, NOW);
    cr_assert_leq(until, NOW + 10 * US_PER_MS);
    tear_down();
}

Test(gather, another_context_than_the_loaded_one_costs_a_load)
{
    struct eligible_place place;
    struct node_set nodes;
    uint64_t until;

    set_up(2);
    s.server[0].load_ms = 3000;
    s.server[0].known = (struct abilities_known){.context_tokens = 4096,
                                                 .largest_context = ABILITIES_ANY_CONTEXT};
    s.server[1].known = (struct abilities_known){.context_tokens = 8192,
                                                 .largest_context = ABILITIES_ANY_CONTEXT};
    gather();
    cr_assert_eq(all.of[0].load_s, 0);
    cr_assert_eq(all.of[1].load_s, 0);
    s.request.wanted_context = 4096;
    gather();
    cr_assert_eq(all.of[0].load_s, 0);
    cr_assert_float_eq(all.of[1].load_s, 10, 1e-9);
    cr_assert_eq(claim(&place), 0);
    cr_assert_not(place.loads_model);
    s.request.wanted_context = 16384;
    gather();
    cr_assert_float_eq(all.of[0].load_s, 3, 1e-9);
    cr_assert_eq(claim(&place), 0, "its load is shorter");
    cr_assert(place.loads_model);
    gather();
    cr_assert_eq(all.exclusions[0], DECISION_EXCLUDED_LOADING, "one load at a time");
    nodes = reach(&until);
    cr_assert_eq(nodes.word[0], 2);
    cr_assert_leq(until, NOW + 10 * US_PER_MS);
    tear_down();
}

Test(gather, a_node_that_loads_as_many_models_as_it_may_is_full_and_no_race_was_lost)
{
    struct eligible_place place;
    struct node_set nodes;
    uint64_t until;

    set_up(1);
    s.server[0].state = DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE;
    for (uint64_t m = 0; m < LOADS_PER_NODE; m++)
        cr_assert(loads_claim(s.board, 1, 0, 1, MODEL + 1 + m, NOW, US_PER_S));
    gather();
    cr_assert_lt(claim(&place), 0);
    cr_assert_not(place.lost);
    nodes = reach(&until);
    cr_assert_eq(nodes.word[0], 0);
    cr_assert_leq(until, NOW + 10 * US_PER_MS);
    loads_done(s.board, 1, 0, 1, MODEL + 1);
    gather();
    cr_assert_eq(claim(&place), 0);
    cr_assert(place.loads_model);
    tear_down();
}

Test(gather, a_load_that_another_worker_begins_meanwhile_is_no_lost_race)
{
    struct eligible_place place;

    set_up(1);
    s.server[0].state = DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE;
    gather();
    cr_assert(loads_claim(s.board, 1, 0, 1, MODEL, NOW, US_PER_S));
    cr_assert_lt(claim(&place), 0);
    cr_assert_not(place.lost);
    tear_down();
}

Test(gather, a_claim_of_a_load_lasts_as_long_as_the_load_may)
{
    struct eligible_place place;

    set_up(1);
    s.server[0].state = DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE;
    s.request.load_us = 900 * US_PER_S;
    gather();
    cr_assert_eq(claim(&place), 0);
    cr_assert(loads_blocked(s.board, 0, 1, MODEL, NOW + 900 * US_PER_S));
    cr_assert_not(loads_blocked(s.board, 0, 1, MODEL, NOW + 1000 * US_PER_S));
    tear_down();
}

Test(gather, a_retry_does_not_reach_a_node_on_probation_while_another_could_serve_it)
{
    struct node_set nodes;
    uint64_t until;

    set_up(2);
    nodes_set_state(s.board, 0, NODE_PROBATION, NODE_REASON_FAILURES, NOW);
    nodes = reach(&until);
    cr_assert_eq(nodes.word[0], 3);
    s.request.spare_probation = true;
    nodes = reach(&until);
    cr_assert_eq(nodes.word[0], 2);
    nodes_set_state(s.board, 1, NODE_DOWN, NODE_REASON_FAILURES, NOW);
    nodes = reach(&until);
    cr_assert_eq(nodes.word[0], 3, "nothing else is left");
    tear_down();
}

Test(gather, a_claim_charges_the_time_of_the_uncached_tokens_to_the_own_gauge)
{
    struct eligible_place place;

    set_up(1);
    learn(0, 1000);
    gather();
    all.of[0].matched_tokens = 400;
    cr_assert_eq(claim(&place), 0);
    cr_assert_eq(place.terms.uncached_tokens, 600);
    cr_assert_eq(board_gauge(s.board, 0, 0, 1).inflight, 1);
    cr_assert_eq(board_gauge(s.board, 0, 0, 1).charged_us, 600000);
    tear_down();
}

Test(gather, a_place_that_another_worker_took_meanwhile_is_not_taken_twice)
{
    struct eligible_place place;

    set_up(2);
    learn(0, 4000); /* the better one */
    learn(1, 1000);
    gather();
    hold_places(1, 0, 4);
    cr_assert_eq(claim(&place), 1);
    cr_assert_eq(all.exclusions[0], DECISION_EXCLUDED_LOST);
    cr_assert_eq(gauges_sum(s.board, 0, 1).inflight, 4);
    tear_down();
}

Test(gather, the_record_has_every_term_and_says_why_not)
{
    static struct decision d, read;
    struct eligible_place place;

    set_up(3);
    learn(0, 1000);
    learn(1, 1000);
    learn(2, 1000);
    hold_places(1, 1, 1); /* 0.1 s of backlog */
    hold_places(1, 2, 4);
    prefix_session_set(s.board, 5, 0, 1, NOW);
    s.request.session_hash = 5;
    gather();
    cr_assert_eq(claim(&place), 0);
    (void)strlcpy(d.id, "req-1", sizeof(d.id));
    select_record(&all, s.board, 0, &s.request, place.at, &d);
    cr_assert(board_decision(s.board, "req-1", BOARD_ANY_ATTEMPT, &read));
    cr_assert_eq(read.node, 0);
    cr_assert_str_eq(read.name, "n0");
    cr_assert_eq(read.prompt_tokens, 1000);
    cr_assert_eq(read.candidates, 3);
    cr_assert_str_eq(read.candidate[1].name, "n1");
    cr_assert_eq(read.candidate[0].exclusions, 0);
    /* n0: 1000 / 1000 * 1, a fifth less for the session. */
    cr_assert_float_eq(read.candidate[0].prefill_s, 1, 1e-5);
    cr_assert_float_eq(read.candidate[0].bonus_s, 0.2, 1e-5);
    cr_assert_float_eq(read.candidate[0].cost_s, 0.8, 1e-5);
    /* n1: (0.1 + 1000 / 1000) * (1 + 1/4). */
    cr_assert_float_eq(read.candidate[1].cost_s, 1.375, 1e-5);
    /* n2: full: a wait of 1 * 8 / 4, and (0.4 + 1000 / 1000) * (1 + 4/4). */
    cr_assert_float_eq(read.candidate[2].wait_s, 2, 1e-5);
    cr_assert_float_eq(read.candidate[2].cost_s, 4.8, 1e-5);
    cr_assert_eq(read.candidate[2].exclusions, DECISION_EXCLUDED_FULL);
    tear_down();
}

/* Of 20 nodes 16 are kept.  1000 tokens take n8 to n19 half a second, n18 a fifth of one, and
 * the others a second; n19 is full. */
static void record_of_many(enum policy_kind policy)
{
    static struct decision d, read;
    struct eligible_place place;
    bool there[NODES] = {false};

    set_up(NODES);
    for (unsigned n = 0; n < NODES; n++)
        learn(n, n == 18 ? 5000 : n < 8 ? 1000 : 2000);
    hold_places(1, 19, 4);
    gather();
    cr_assert_eq(claim(&place), 18);
    if (policy != POLICY_FASTEST) { /* which may choose any node */
        place.at = 2;
        memset(all.cost_s, 0, sizeof(all.cost_s));
    }
    d.policy = policy;
    (void)strlcpy(d.id, "req-2", sizeof(d.id));
    select_record(&all, s.board, 0, &s.request, place.at, &d);
    cr_assert(board_decision(s.board, "req-2", BOARD_ANY_ATTEMPT, &read));
    cr_assert_eq(read.candidates_total, NODES);
    cr_assert_eq(read.candidates, DECISIONS_CANDIDATES);
    for (uint32_t i = 0; i < read.candidates; i++)
        there[read.candidate[i].node] = true;
    for (unsigned n = 8; n < 19; n++)
        cr_expect(there[n], "n%u is one of the cheapest", n);
    for (unsigned n = 0; n < 5; n++)
        cr_expect(there[n], "n%u is one of the first of those that cost the same", n);
    cr_expect_not(there[7] || there[19]);
    tear_down();
}

Test(gather, of_many_the_chosen_one_and_the_cheapest_are_recorded)
{
    record_of_many(POLICY_FASTEST);
}

Test(gather, the_cheapest_are_recorded_under_every_policy)
{
    record_of_many(POLICY_ROUND_ROBIN);
}
