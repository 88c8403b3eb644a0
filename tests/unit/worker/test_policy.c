/* test_policy.c - each rule of policy.h, with the numbers worked out by hand. */
#include <criterion/criterion.h>

#include "worker/policy.h"

static int pick(enum policy_kind kind, const struct policy_candidate *c, size_t n,
                uint64_t random)
{
    uint32_t cursor = 0;

    return policy_choose(kind, c, n, &cursor, random);
}

Test(policy, nobody_is_chosen_when_all_are_full)
{
    const struct policy_candidate c[] = {{4, 4, 4, 100}, {9, 8, 8, 100}};

    cr_assert_eq(pick(POLICY_LEAST_CONN, c, 2, 1), -1);
    cr_assert_eq(pick(POLICY_ROUND_ROBIN, c, 2, 1), -1);
    cr_assert_eq(pick(POLICY_LEAST_CONN, c, 0, 1), -1);
    cr_assert_eq(pick(POLICY_ROUND_ROBIN, c, 0, 1), -1);
}

Test(policy, a_candidate_out_of_the_question_is_never_chosen)
{
    const struct policy_candidate c[] = {{0, 0, 4, 100}, {3, 4, 4, 100}};

    cr_assert_eq(pick(POLICY_LEAST_CONN, c, 2, 1), 1);
    cr_assert_eq(pick(POLICY_ROUND_ROBIN, c, 2, 1), 1);
}

Test(policy, least_conn_compares_shares_of_slots)
{
    /* (5 + 1) / 32 = 0.19 against (1 + 1) / 8 = 0.25: the larger node, though it is busier. */
    const struct policy_candidate c[] = {{1, 8, 8, 100}, {5, 32, 32, 100}};

    cr_assert_eq(pick(POLICY_LEAST_CONN, c, 2, 1), 1);
}

Test(policy, least_conn_prefers_the_larger_of_two_idle_nodes)
{
    /* 1 / 4 against 1 / 16. */
    const struct policy_candidate c[] = {{0, 4, 4, 100}, {0, 16, 16, 100}};

    cr_assert_eq(pick(POLICY_LEAST_CONN, c, 2, 1), 1);
}

Test(policy, least_conn_honours_weights)
{
    /* (2 + 1) / (4 * 50) = 0.015 against (4 + 1) / (4 * 150) = 0.0083. */
    const struct policy_candidate c[] = {{2, 4, 4, 50}, {4, 8, 4, 150}};

    cr_assert_eq(pick(POLICY_LEAST_CONN, c, 2, 1), 1);
}

Test(policy, least_conn_spreads_ties_evenly)
{
    const struct policy_candidate c[] = {{1, 4, 4, 100}, {1, 4, 4, 100}, {1, 4, 4, 100}};
    unsigned hits[3] = {0};

    for (uint64_t i = 0; i < 30000; i++)
        hits[pick(POLICY_LEAST_CONN, c, 3, i * UINT64_C(0x9e3779b97f4a7c15))]++;
    /* 10,000 each; the standard deviation is 82, so 500 is six of them. */
    for (int i = 0; i < 3; i++)
        cr_assert(hits[i] > 9500 && hits[i] < 10500, "candidate %d was chosen %u times", i,
                  hits[i]);
}

Test(policy, round_robin_goes_on_after_the_last_one_and_skips_full_ones)
{
    struct policy_candidate c[] = {{0, 4, 4, 100}, {4, 4, 4, 100}, {0, 4, 4, 100}};
    uint32_t cursor = 0;

    cr_assert_eq(policy_choose(POLICY_ROUND_ROBIN, c, 3, &cursor, 0), 0);
    cr_assert_eq(policy_choose(POLICY_ROUND_ROBIN, c, 3, &cursor, 0), 2);
    cr_assert_eq(policy_choose(POLICY_ROUND_ROBIN, c, 3, &cursor, 0), 0);
    /* A fleet that shrank under the cursor is no trouble. */
    cursor = 7;
    cr_assert_eq(policy_choose(POLICY_ROUND_ROBIN, c, 2, &cursor, 0), 0);
}
