/* test_balance.c - each rule of balance.h, with the numbers worked out by hand. */
#include <criterion/criterion.h>
#include <math.h>

#include "policy/route/balance.h"

/* A node of 4 slots, idle, that takes in 1000 tokens/s and holds a slot for 2 s. */
static struct balance_candidate idle(void)
{
    return (struct balance_candidate){.cap = 6,
                                      .slots = 4,
                                      .weight = 100,
                                      .prefill_tokens_per_s = 1000,
                                      .slowdown = 1,
                                      .hold_s = 2,
                                      .regret_s = -1};
}

static struct balance_candidate busy(uint32_t inflight, uint32_t slots, uint16_t weight)
{
    struct balance_candidate c = idle();

    c.inflight = inflight;
    c.slots = slots;
    c.cap = slots + slots / 2;
    c.weight = weight;
    return c;
}

static int pick(enum policy_kind kind, const struct balance_candidate *c, size_t n,
                uint32_t tokens, uint64_t random)
{
    const struct balance_request request = {.tokens = tokens, .key = 7};
    uint32_t cursor = 0;

    return balance_choose(kind, c, n, &request, &cursor, random, NULL);
}

#define NEAR(a, b) (fabs((a) - (b)) < 1e-9)

/* ---- fastest ---- */

Test(fastest, an_idle_node_costs_its_prefill)
{
    const struct balance_candidate c = idle();
    const struct balance_request request = {.tokens = 500};
    struct balance_terms t;

    balance_terms(&t, &c, &request);
    /* (0 + 500 / 1000) * (1 + 0 / 4) */
    cr_assert_eq(t.uncached_tokens, 500);
    cr_assert(NEAR(t.wait_s, 0) && NEAR(t.prefill_s, 0.5) && NEAR(t.cost_s, 0.5));
    cr_assert(t.eligible);
}

Test(fastest, every_term_of_a_full_node_is_charged)
{
    struct balance_candidate c = busy(5, 4, 50);
    const struct balance_request request = {.tokens = 1000};
    struct balance_terms t;

    c.backlog_s = 0.6;
    c.matched_tokens = 800;
    c.load_s = 3;
    balance_terms(&t, &c, &request);
    /* u = 200; wait = (5 - 4 + 1) * 2 / 4 = 1; prefill = (0.6 + 200 / 1000) * (1 + 5 / 4)
     * = 1.8; weight 50: (1 + 1.8) * 2 = 5.6; + 3 of load. */
    cr_assert_eq(t.uncached_tokens, 200);
    cr_assert(NEAR(t.wait_s, 1), "%f", t.wait_s);
    cr_assert(NEAR(t.prefill_s, 1.8), "%f", t.prefill_s);
    cr_assert(NEAR(t.cost_s, 8.6), "%f", t.cost_s);
}

Test(fastest, a_prompt_that_is_cached_whole_still_counts_one_token)
{
    struct balance_candidate c = idle();
    const struct balance_request request = {.tokens = 100};
    struct balance_terms t;

    c.matched_tokens = 100;
    balance_terms(&t, &c, &request);
    cr_assert_eq(t.uncached_tokens, 1);
    c.matched_tokens = 4000;
    balance_terms(&t, &c, &request);
    cr_assert_eq(t.uncached_tokens, 1);
}

Test(fastest, the_faster_of_two_idle_nodes_wins)
{
    struct balance_candidate c[2] = {idle(), idle()};

    c[1].prefill_tokens_per_s = 1100;
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 500, 1), 1);
}

Test(fastest, a_cached_prefix_beats_a_faster_node_when_it_saves_more)
{
    struct balance_candidate c[2] = {idle(), idle()};

    /* 1000 / 1000 = 1.0 s against 1000 / 4000 = 0.25 s ... */
    c[1].prefill_tokens_per_s = 4000;
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 1000, 1), 1);
    /* ... and 200 / 1000 = 0.2 s once 800 tokens are cached. */
    c[0].matched_tokens = 800;
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 1000, 1), 0);
}

Test(fastest, a_backlog_counts_like_own_tokens)
{
    struct balance_candidate c[2] = {idle(), idle()};

    /* 0.9 + 100 / 1000 = 1.0 s against 100 / 200 = 0.5 s. */
    c[0].backlog_s = 0.9;
    c[1].prefill_tokens_per_s = 200;
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 100, 1), 1);
}

Test(fastest, without_a_match_no_request_is_sent_beyond_the_slots)
{
    struct balance_candidate c[1] = {busy(4, 4, 100)};

    cr_assert_eq(pick(POLICY_FASTEST, c, 1, 1000, 1), -1);
}

Test(fastest, a_match_that_saves_the_wait_is_worth_a_place_beyond_the_slots)
{
    struct balance_candidate c[1] = {busy(4, 4, 100)};

    /* wait = (4 - 4 + 1) * 2 / 4 = 0.5 s, and 500 tokens take as long. */
    c[0].matched_tokens = 500;
    cr_assert_eq(pick(POLICY_FASTEST, c, 1, 1000, 1), 0);
    c[0].matched_tokens = 499;
    cr_assert_eq(pick(POLICY_FASTEST, c, 1, 1000, 1), -1);
    /* And never beyond the cap. */
    c[0].matched_tokens = 1000;
    c[0].inflight = 6;
    cr_assert_eq(pick(POLICY_FASTEST, c, 1, 1000, 1), -1);
}

Test(fastest, a_match_is_worth_no_more_than_the_prompt)
{
    struct balance_candidate c = busy(4, 4, 100);
    const struct balance_request request = {.tokens = 400};
    struct balance_terms t;

    /* A slot comes free in 0.5 s; the prompt takes 0.4 s. */
    c.matched_tokens = 100000;
    balance_terms(&t, &c, &request);
    cr_assert_not(t.eligible);
}

Test(fastest, a_session_is_a_bonus_and_never_a_veto)
{
    struct balance_candidate c[2] = {idle(), idle()};

    /* 0.5 * 0.8 = 0.40 s against 500 / 1200 = 0.417 s. */
    c[0].same_session = true;
    c[1].prefill_tokens_per_s = 1200;
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 500, 1), 0);
    /* ... against 500 / 1300 = 0.385 s. */
    c[1].prefill_tokens_per_s = 1300;
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 500, 1), 1);
}

Test(fastest, a_model_that_must_be_loaded_costs_its_load)
{
    struct balance_candidate c[2] = {idle(), busy(3, 4, 100)};

    /* 0.5 + 2 against 0.5 * (1 + 3 / 4) = 0.875. */
    c[0].load_s = 2;
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 500, 1), 1);
}

Test(fastest, ties_are_spread_evenly)
{
    const struct balance_candidate c[3] = {idle(), idle(), idle()};
    unsigned hits[3] = {0};

    for (uint64_t i = 0; i < 30000; i++)
        hits[pick(POLICY_FASTEST, c, 3, 500, i * UINT64_C(0x9e3779b97f4a7c15))]++;
    /* 10,000 each; the standard deviation is 82, so 500 is six of them. */
    for (int i = 0; i < 3; i++)
        cr_assert(hits[i] > 9500 && hits[i] < 10500, "candidate %d was chosen %u times", i,
                  hits[i]);
}

Test(fastest, a_node_that_stalls_costs_so_many_times_more)
{
    struct balance_candidate c[2] = {idle(), idle()};

    /* (0.1 + 100 / 1000) * 6 = 1.2 s against 1.1 s. */
    c[0].backlog_s = 0.1;
    c[0].slowdown = 6;
    c[1].backlog_s = 1;
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 100, 1), 1);
    c[0].slowdown = 5; /* 1.0 s */
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 100, 1), 0);
}

/* ---- trials ---- */

/* A node of 2000 tokens/s that has something to do, and an idle one of 500. */
static void fast_and_slow(struct balance_candidate *c, float regret_s)
{
    c[0] = idle();
    c[0].prefill_tokens_per_s = 2000;
    c[0].backlog_s = 0.05;
    c[1] = idle();
    c[1].prefill_tokens_per_s = 500;
    c[1].regret_s = regret_s;
}

Test(trial, a_request_that_loses_no_more_than_the_regret_tries_the_slow_node)
{
    struct balance_candidate c[2];

    /* 200 tokens: 0.05 + 200 / 2000 = 0.15 s against 200 / 500 = 0.4 s. */
    fast_and_slow(c, 0.26f);
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 200, 1), 1);
    fast_and_slow(c, 0.24f);
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 200, 1), 0);
    fast_and_slow(c, -1);
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 200, 1), 0);
}

Test(trial, a_long_prompt_never_tries_a_slow_node_for_little_regret)
{
    struct balance_candidate c[2];

    /* 10,000 tokens: 5.05 s against 20 s. */
    fast_and_slow(c, 5);
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 10000, 1), 0);
}

Test(trial, a_node_that_was_never_measured_counts_as_the_fastest)
{
    struct balance_candidate c[2];

    fast_and_slow(c, INFINITY);
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 10000, 1), 1);
    /* As fast, and no faster: 0.1 s of backlog against none. */
    c[1].backlog_s = 0.1;
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 10000, 1), 0);
}

Test(trial, a_full_node_is_not_tried)
{
    struct balance_candidate c[2];

    fast_and_slow(c, INFINITY);
    c[1].cap = 0;
    cr_assert_eq(pick(POLICY_FASTEST, c, 2, 10, 1), 0);
}

Test(trial, the_only_node_is_chosen_whatever_its_regret)
{
    struct balance_candidate c = idle();

    c.regret_s = 0.1f;
    cr_assert_eq(pick(POLICY_FASTEST, &c, 1, 100000, 1), 0);
}

/* ---- the others ---- */

Test(policy, no_node_is_chosen_when_all_are_full)
{
    static const enum policy_kind kinds[] = {POLICY_FASTEST, POLICY_LEAST_CONN,
                                             POLICY_ROUND_ROBIN, POLICY_RANDOM2,
                                             POLICY_PREFIX_HASH};
    const struct balance_candidate c[] = {busy(4, 4, 100), busy(9, 8, 100)};

    for (size_t i = 0; i < 5; i++) {
        cr_assert_eq(pick(kinds[i], c, 2, 10, 1), -1);
        cr_assert_eq(pick(kinds[i], c, 0, 10, 1), -1);
    }
}

Test(policy, a_candidate_out_of_the_question_is_never_chosen)
{
    static const enum policy_kind kinds[] = {POLICY_FASTEST, POLICY_LEAST_CONN,
                                             POLICY_ROUND_ROBIN, POLICY_RANDOM2};
    struct balance_candidate c[] = {idle(), busy(3, 4, 100)};

    c[0].cap = 0;
    for (size_t i = 0; i < 4; i++)
        cr_assert_eq(pick(kinds[i], c, 2, 10, 1), 1);
}

Test(policy, least_conn_compares_shares_of_slots)
{
    /* (5 + 1) / 32 = 0.19 against (1 + 1) / 8 = 0.25: the larger node, though it is busier. */
    const struct balance_candidate c[] = {busy(1, 8, 100), busy(5, 32, 100)};

    cr_assert_eq(pick(POLICY_LEAST_CONN, c, 2, 10, 1), 1);
}

Test(policy, least_conn_prefers_the_larger_of_two_idle_nodes)
{
    const struct balance_candidate c[] = {busy(0, 4, 100), busy(0, 16, 100)};

    cr_assert_eq(pick(POLICY_LEAST_CONN, c, 2, 10, 1), 1);
}

Test(policy, least_conn_honours_weights)
{
    /* (1 + 1) / (4 * 50) = 0.01 against (3 + 1) / (4 * 150) = 0.0067. */
    const struct balance_candidate c[] = {busy(1, 4, 50), busy(3, 4, 150)};

    cr_assert_eq(pick(POLICY_LEAST_CONN, c, 2, 10, 1), 1);
}

Test(policy, round_robin_goes_on_after_the_last_one_and_skips_full_ones)
{
    const struct balance_candidate c[] = {idle(), busy(4, 4, 100), idle()};
    const struct balance_request request = {.tokens = 10};
    uint32_t cursor = 0;

    cr_assert_eq(balance_choose(POLICY_ROUND_ROBIN, c, 3, &request, &cursor, 0, NULL), 0);
    cr_assert_eq(balance_choose(POLICY_ROUND_ROBIN, c, 3, &request, &cursor, 0, NULL), 2);
    cr_assert_eq(balance_choose(POLICY_ROUND_ROBIN, c, 3, &request, &cursor, 0, NULL), 0);
    /* The cursor may lie beyond a list that has shrunk. */
    cursor = 7;
    cr_assert_eq(balance_choose(POLICY_ROUND_ROBIN, c, 1, &request, &cursor, 0, NULL), 0);
}

Test(policy, random2_takes_the_better_of_two_different_ones)
{
    const struct balance_candidate c[] = {busy(3, 4, 100), busy(0, 4, 100), busy(1, 4, 100)};
    unsigned hits[3] = {0};

    for (uint64_t i = 0; i < 30000; i++)
        hits[pick(POLICY_RANDOM2, c, 3, 10, i * UINT64_C(0x9e3779b97f4a7c15))]++;
    /* Of the three pairs, 1 wins two and 2 wins one; 0 never wins. */
    cr_assert_eq(hits[0], 0);
    cr_assert(hits[1] > 19400 && hits[1] < 20600, "%u", hits[1]);
}

Test(policy, prefix_hash_keeps_a_key_where_it_is_until_the_bound)
{
    struct balance_candidate c[4];
    struct balance_request request = {.tokens = 10, .key = 12345};
    uint32_t cursor = 0;
    int home, other;

    for (uint32_t i = 0; i < 4; i++) {
        c[i] = busy(0, 16, 100);
        c[i].id = i;
    }
    home = balance_choose(POLICY_PREFIX_HASH, c, 4, &request, &cursor, 1, NULL);
    cr_assert(home >= 0);
    for (uint64_t r = 2; r < 50; r++)
        cr_assert_eq(balance_choose(POLICY_PREFIX_HASH, c, 4, &request, &cursor, r, NULL),
                     home);
    /* 8 in flight there and 8 on each other node: total 33 with this one, a fair share of 8.25,
     * and ceil(1.25 * 8.25) = 11, so it still has room. */
    for (int i = 0; i < 4; i++)
        c[i].inflight = 8;
    cr_assert_eq(balance_choose(POLICY_PREFIX_HASH, c, 4, &request, &cursor, 1, NULL), home);
    /* 11 there, 7 elsewhere: total 33 again, and a twelfth would pass 11. */
    for (int i = 0; i < 4; i++)
        c[i].inflight = i == home ? 11 : 7;
    other = balance_choose(POLICY_PREFIX_HASH, c, 4, &request, &cursor, 1, NULL);
    cr_assert(other >= 0 && other != home);
}

Test(policy, prefix_hash_leaves_no_slot_empty_where_no_node_is_within_its_bound)
{
    /* 27 with this one, of which a quarter of the capacity may have ceil(1.25 * 6.75) = 9. */
    struct balance_candidate c[2] = {busy(10, 16, 100), busy(16, 16, 300)};
    uint32_t cursor = 0;

    c[1].id = 1;
    c[1].cap = 16;
    for (uint64_t key = 0; key < 20; key++) {
        const struct balance_request request = {.tokens = 10, .key = key * 77777};

        cr_assert_eq(balance_choose(POLICY_PREFIX_HASH, c, 2, &request, &cursor, 1, NULL), 0);
    }
    c[0].inflight = 16;
    cr_assert_eq(balance_choose(POLICY_PREFIX_HASH, c, 2,
                                &(struct balance_request){.tokens = 10, .key = 5}, &cursor, 1,
                                NULL),
                 -1);
}

/* 2 at home, 1 on probation and this one are 4.  The node on probation is 1 place of 9, not 16
 * of 24, so ceil(1.25 * 4 * 4 / 9) = 3 may be at home. */
Test(policy, prefix_hash_counts_one_place_of_a_node_on_probation)
{
    struct balance_candidate c[3] = {busy(1, 16, 100), busy(0, 4, 100), busy(0, 4, 100)};
    const struct balance_request request = {.tokens = 10, .key = 12345};
    uint32_t cursor = 0;
    int home;

    c[1].id = 1;
    c[2].id = 2;
    c[0].cap = 1;
    home = balance_choose(POLICY_PREFIX_HASH, c, 3, &request, &cursor, 1, NULL);
    cr_assert(home == 1 || home == 2);
    c[home].inflight = 2;
    cr_assert_eq(balance_choose(POLICY_PREFIX_HASH, c, 3, &request, &cursor, 1, NULL), home);
}

Test(policy, prefix_hash_moves_only_the_keys_of_a_node_that_is_gone)
{
    struct balance_candidate c[4];
    uint32_t cursor = 0;

    for (uint32_t i = 0; i < 4; i++) {
        c[i] = busy(0, 16, 100);
        c[i].id = i;
    }
    for (uint64_t key = 0; key < 1000; key++) {
        const struct balance_request request = {.tokens = 10, .key = key * 77777};
        int before = balance_choose(POLICY_PREFIX_HASH, c, 4, &request, &cursor, 1, NULL);
        int after;

        c[2].cap = 0;
        after = balance_choose(POLICY_PREFIX_HASH, c, 4, &request, &cursor, 1, NULL);
        c[2].cap = 24;
        cr_assert_neq(after, 2);
        if (before != 2)
            cr_assert_eq(after, before);
    }
}
