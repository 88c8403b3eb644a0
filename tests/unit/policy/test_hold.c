/* test_hold.c - each rule of hold.h, with the numbers worked out by hand. */
#include "policy/route/hold.h"

#include <criterion/criterion.h>
#include <math.h>

#include "policy/route/times.h"

#define S   UINT64_C(1000000)
#define NOW (1000 * S)

/* Two nodes of 4 slots.  The fast one takes in 1000 tokens/s, the slow one 500. */
enum { FAST, SLOW, NODES };

static struct balance_candidate nodes[NODES];
static struct hold_choice choice;
static struct route_times times;

static void begin(void)
{
    times = route_times(1);
    for (int i = 0; i < NODES; i++)
        nodes[i] = (struct balance_candidate){.id = (uint32_t)i,
                                              .cap = 6,
                                              .slots = 4,
                                              .weight = 100,
                                              .plan_cap = 6,
                                              .prefill_tokens_per_s = i == FAST ? 1000 : 500,
                                              .slowdown = 1,
                                              .hold_s = 2,
                                              .regret_s = -1};
}

TestSuite(hold, .init = begin);

/* The verdict on a prompt of so many tokens. */
static enum hold_verdict choose(uint32_t tokens, int own, uint64_t promised_mono_us)
{
    const struct balance_request request = {.tokens = tokens};

    hold_choose(&choice, nodes, NODES, &request, own, promised_mono_us, 7, NULL, NOW, &times);
    return choice.verdict;
}

/* No more is sent there now: the window is closed, or another request goes first. */
static void close_window(int node)
{
    nodes[node].cap = 0;
}

#define NEAR(a, b) (fabs((a) - (b)) < 1e-9)

/* ---- H2: the window ---- */

Test(hold, a_window_is_open_below_so_much_work)
{
    cr_assert(hold_window_open(0, 1 * S));
    cr_assert(hold_window_open(0.999999, 1 * S));
    cr_assert_not(hold_window_open(1.0, 1 * S));
    cr_assert_not(hold_window_open(50, 1 * S));
}

Test(hold, without_hold_every_window_is_open)
{
    cr_assert(hold_window_open(1e9, 0));
}

/* A tenth of 1 s. */
Test(hold, a_request_of_little_work_is_not_held)
{
    cr_assert(hold_is_short(0.1, 1 * S));
    cr_assert_not(hold_is_short(0.1001, 1 * S));
}

/* ---- H3: where it is planned ---- */

/* Fast: (3 + 1000/1000) * (1 + 1/4) = 5; slow: 1000/500 = 2. */
Test(hold, a_request_is_sent_where_the_policy_sends_it_while_the_window_is_open)
{
    nodes[FAST].inflight = 1;
    nodes[FAST].backlog_s = 3;
    cr_assert_eq(choose(1000, -1, 0), HOLD_SEND);
    cr_assert_eq(choice.at, SLOW);
    cr_assert(NEAR(choice.terms.cost_s, 2), "%f", choice.terms.cost_s);
}

/* Fast: (1.5 + 2000/1000) * (1 + 0/4) = 3.5; slow, where it could be sent: 2000/500 = 4. */
Test(hold, it_is_planned_where_it_would_have_been_sent)
{
    nodes[FAST].backlog_s = 1.5;
    close_window(FAST);
    cr_assert_eq(choose(2000, -1, 0), HOLD_PLAN);
    cr_assert_eq(choice.at, FAST);
    cr_assert(NEAR(choice.terms.cost_s, 3.5), "%f", choice.terms.cost_s);
}

/* Fast: 1 sent and 3 planned are as many as it has slots.  Slow: 1000/500 = 2. */
Test(hold, plans_take_slots_from_those_that_are_planned_later)
{
    nodes[FAST].inflight = 1;
    nodes[FAST].planned = 3;
    close_window(FAST);
    cr_assert_eq(choose(1000, -1, 0), HOLD_SEND);
    cr_assert_eq(choice.at, SLOW);
}

Test(hold, with_every_slot_sent_or_planned_it_waits_for_any_node)
{
    for (int i = 0; i < NODES; i++) {
        nodes[i].inflight = 1;
        nodes[i].planned = 3;
        close_window(i);
    }
    cr_assert_eq(choose(1000, -1, 0), HOLD_NOWHERE);
}

/* Fast: wait (4 - 4 + 1) * 2 / 4 = 0.5, (1 + 1) * (1 + 4/4) = 4, together 4.5. */
Test(hold, plans_do_not_keep_a_slot_from_the_one_that_may_be_sent)
{
    nodes[FAST].inflight = 1;
    nodes[FAST].planned = 3;
    nodes[FAST].backlog_s = 1;
    nodes[SLOW].cap = 0;
    nodes[SLOW].plan_cap = 0;
    cr_assert_eq(choose(1000, -1, 0), HOLD_SEND);
    cr_assert_eq(choice.at, FAST);
    cr_assert(NEAR(choice.terms.cost_s, 4.5), "%f", choice.terms.cost_s);
}

Test(hold, no_plan_is_made_where_none_may_be)
{
    close_window(FAST);
    nodes[FAST].plan_cap = 0;
    close_window(SLOW);
    nodes[SLOW].plan_cap = 0;
    cr_assert_eq(choose(1000, -1, 0), HOLD_NOWHERE);
}

/* All 4 slots sent or planned; 3000 of 4000 tokens are cached there, which saves 3 s, and a
 * slot comes free in (4 - 4 + 1) * 2 / 4 = 0.5 s. */
Test(hold, a_cache_match_is_planned_beyond_the_slots)
{
    nodes[FAST].inflight = 2;
    nodes[FAST].planned = 2;
    nodes[FAST].matched_tokens = 3000;
    close_window(FAST);
    nodes[SLOW].cap = 0;
    nodes[SLOW].plan_cap = 0;
    cr_assert_eq(choose(4000, -1, 0), HOLD_PLAN);
    cr_assert_eq(choice.at, FAST);
    nodes[FAST].planned = 4; /* 6 of 6 */
    cr_assert_eq(choose(4000, -1, 0), HOLD_NOWHERE);
}

/* ---- H4: when a plan moves ---- */

Test(hold, a_promise_is_the_cost_from_now)
{
    cr_assert_eq(hold_promise(2.5, NOW), NOW + 2500000);
    cr_assert_eq(hold_promise(INFINITY, NOW), NOW + 86400 * S);
    cr_assert_eq(hold_promise(NAN, NOW), NOW + 86400 * S);
}

/* 2 s remain.  A tenth better is below 1.8 s. */
Test(hold, a_plan_moves_for_a_tenth)
{
    cr_assert(hold_moves(NOW + 2 * S, INFINITY, 1.79, NOW, &times));
    cr_assert_not(hold_moves(NOW + 2 * S, INFINITY, 1.81, NOW, &times));
}

/* 0.5 s remain.  A tenth better is below 0.45 s, and 100 ms below 0.4. */
Test(hold, and_for_a_tenth_of_a_second)
{
    cr_assert(hold_moves(NOW + S / 2, INFINITY, 0.39, NOW, &times));
    cr_assert_not(hold_moves(NOW + S / 2, INFINITY, 0.41, NOW, &times));
}

Test(hold, a_node_that_got_on_faster_than_promised_keeps_its_plans)
{
    /* 5 s were promised; it would take 1 s now. */
    cr_assert_not(hold_moves(NOW + 5 * S, 1, 0.95, NOW, &times));
    cr_assert(hold_moves(NOW + 5 * S, 1, 0.85, NOW, &times));
}

Test(hold, a_plan_that_is_due_does_not_move)
{
    cr_assert_not(hold_moves(NOW, INFINITY, 0, NOW, &times));
    cr_assert_not(hold_moves(NOW - S, INFINITY, 0, NOW, &times));
}

Test(hold, a_second_after_its_instant_a_plan_is_overdue)
{
    cr_assert_not(hold_is_overdue(NOW + 1, NOW, &times));
    cr_assert_not(hold_is_overdue(NOW - S + 1, NOW, &times));
    cr_assert(hold_is_overdue(NOW - S, NOW, &times));
}

/* Planned on fast for 3 s from now, where it would cost (9 + 1) * 1 = 10 with all that was
 * planned after it.  Slow would cost 1000/500 = 2.9 with 0.9 s before it: not 0.3 s better. */
Test(hold, a_later_plan_does_not_move_a_plan)
{
    nodes[FAST].backlog_s = 9;
    close_window(FAST);
    nodes[SLOW].backlog_s = 0.9;
    cr_assert_eq(choose(1000, FAST, NOW + 3 * S), HOLD_STAY);
    cr_assert_eq(choice.at, FAST);
}

/* The same with slow idle: 2 s, against 3. */
Test(hold, it_moves_to_a_node_that_has_become_better)
{
    nodes[FAST].backlog_s = 9;
    close_window(FAST);
    cr_assert_eq(choose(1000, FAST, NOW + 3 * S), HOLD_SEND);
    cr_assert_eq(choice.at, SLOW);
    close_window(SLOW);
    cr_assert_eq(choose(1000, FAST, NOW + 3 * S), HOLD_PLAN);
    cr_assert_eq(choice.at, SLOW);
}

Test(hold, it_is_sent_when_the_window_of_its_node_opens)
{
    cr_assert_eq(choose(1000, SLOW, NOW + 2 * S), HOLD_SEND);
    cr_assert_eq(choice.at, FAST, "1 s against 2");
    nodes[FAST].backlog_s = 0.9;
    cr_assert_eq(choose(1000, SLOW, NOW + 2 * S), HOLD_SEND);
    cr_assert_eq(choice.at, SLOW, "1.9 s against 2: not a tenth better");
}

Test(hold, an_overdue_plan_chooses_anew_and_may_choose_the_same_node)
{
    close_window(FAST);
    nodes[SLOW].backlog_s = 10;
    close_window(SLOW);
    cr_assert_eq(choose(1000, FAST, NOW - S), HOLD_PLAN);
    cr_assert_eq(choice.at, FAST);
    nodes[FAST].plan_cap = 0;
    nodes[SLOW].plan_cap = 0;
    cr_assert_eq(choose(1000, FAST, NOW - S), HOLD_NOWHERE, "it is unbound then");
    cr_assert_eq(choose(1000, FAST, NOW - S + 1), HOLD_STAY, "and not before");
}

Test(hold, the_candidates_are_as_before_afterwards)
{
    struct balance_candidate before[NODES];

    memcpy(before, nodes, sizeof(before));
    (void)choose(1000, FAST, NOW + S);
    cr_assert_eq(memcmp(before, nodes, sizeof(before)), 0);
}
