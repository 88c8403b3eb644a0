/* test_ejection.c - when a node is taken out, for how long, when it may not be, and the ramp.
 */
#include <criterion/criterion.h>

#include "base/clock.h"
#include "policy/fault/ejection.h"
#include "policy/fault/ramp.h"

#define T0 (UINT64_C(1000) * US_PER_S)

static const struct ejection_limits limits = {
    .failures = 5,
    .success_pct = 80,
    .min_requests = 5,
    .window_us = 30 * US_PER_S,
    .backoff_us = 5 * US_PER_S,
    .backoff_max_us = 300 * US_PER_S,
};

/* Notes outcomes as the workers do. */
static void ok(struct ejection_counts *o, unsigned n)
{
    o->ok += n;
    o->run = 0;
}

static void failed(struct ejection_counts *o, unsigned n)
{
    o->failed += n;
    o->run += n;
}

static enum node_reason look(struct ejection *e, const struct ejection_counts *o, uint64_t at_s)
{
    return ejection_look(e, &limits, o, false, T0 + at_s * US_PER_S);
}

Test(ejection, the_fifth_failure_in_a_row_is_one_too_many)
{
    struct ejection_counts o = {0};
    struct ejection e;

    ejection_init(&e, &o, T0);
    ok(&o, 100);
    failed(&o, 4);
    cr_assert_eq(look(&e, &o, 1), NODE_REASON_NONE, "104 ended, 96 %% of them well");
    failed(&o, 1);
    cr_assert_eq(look(&e, &o, 2), NODE_REASON_FAILURES);
}

Test(ejection, a_success_between_failures_starts_the_run_again)
{
    struct ejection_counts o = {0};
    struct ejection e;

    ejection_init(&e, &o, T0);
    ok(&o, 100);
    failed(&o, 4);
    cr_assert_eq(look(&e, &o, 1), NODE_REASON_NONE);
    ok(&o, 1);
    failed(&o, 4);
    cr_assert_eq(look(&e, &o, 2), NODE_REASON_NONE, "101 of 109 is 92 %%");
}

Test(ejection, less_than_80_percent_of_the_window_is_too_little_and_80_is_not)
{
    struct ejection_counts o = {0};
    struct ejection e;

    ejection_init(&e, &o, T0);
    failed(&o, 2);
    ok(&o, 8);
    cr_assert_eq(look(&e, &o, 1), NODE_REASON_NONE, "8 of 10");
    failed(&o, 1);
    cr_assert_eq(look(&e, &o, 2), NODE_REASON_SUCCESS_RATE, "8 of 11 is 73 %%");
}

Test(ejection, the_rate_of_a_few_requests_is_no_rate)
{
    struct ejection_counts o = {0};
    struct ejection e;

    ejection_init(&e, &o, T0);
    failed(&o, 3);
    ok(&o, 1);
    cr_assert_eq(look(&e, &o, 1), NODE_REASON_NONE, "1 of 4: fewer than 5");
    ok(&o, 1);
    cr_assert_eq(look(&e, &o, 2), NODE_REASON_SUCCESS_RATE, "2 of 5");
}

Test(ejection, failures_older_than_the_window_do_not_count)
{
    struct ejection_counts o = {0};
    struct ejection e;

    ejection_init(&e, &o, T0);
    failed(&o, 3);
    ok(&o, 1);
    cr_assert_eq(look(&e, &o, 0), NODE_REASON_NONE);
    /* At 29 s it is still in: 2 of 5.  At 31 s only what came since: 2 of 2. */
    struct ejection later = e;
    ok(&o, 1);
    cr_assert_eq(look(&e, &o, 29), NODE_REASON_SUCCESS_RATE);
    cr_assert_eq(look(&later, &o, 31), NODE_REASON_NONE);
    failed(&o, 1);
    cr_assert_eq(look(&later, &o, 90), NODE_REASON_NONE, "after a pause of twice the window");
}

Test(ejection, a_stall_is_enough_unless_the_node_gets_on_with_something)
{
    struct ejection_counts o = {0};
    struct ejection e, busy;

    ejection_init(&e, &o, T0);
    ok(&o, 50);
    cr_assert_eq(look(&e, &o, 1), NODE_REASON_NONE);
    busy = e;
    o.stalled++;
    failed(&o, 1);
    cr_assert_eq(look(&e, &o, 2), NODE_REASON_NO_PROGRESS);
    cr_assert_eq(ejection_look(&busy, &limits, &o, true, T0 + 2 * US_PER_S), NODE_REASON_NONE,
                 "one failure in 51");
}

Test(ejection, each_rule_can_be_switched_off)
{
    struct ejection_limits off = limits;
    struct ejection_counts o = {0};
    struct ejection e;

    off.failures = 0;
    off.success_pct = 0;
    ejection_init(&e, &o, T0);
    failed(&o, 100);
    o.stalled++;
    cr_assert_eq(ejection_look(&e, &off, &o, false, T0 + US_PER_S), NODE_REASON_NONE);
}

Test(ejection, failures_from_before_its_return_are_forgiven)
{
    struct ejection_counts o = {0};
    struct ejection e;

    ejection_init(&e, &o, T0);
    failed(&o, 7);
    cr_assert_eq(look(&e, &o, 1), NODE_REASON_FAILURES);
    ejection_restart(&e, &o, T0 + 10 * US_PER_S);
    cr_assert_eq(look(&e, &o, 11), NODE_REASON_NONE, "the run is 7, but none of it is new");
    failed(&o, 4);
    cr_assert_eq(look(&e, &o, 12), NODE_REASON_NONE, "4 in a row since; fewer than 5 ended");
    failed(&o, 1);
    cr_assert_eq(look(&e, &o, 13), NODE_REASON_FAILURES);
}

Test(ejection, the_back_off_doubles_from_5_to_300_s_and_half_of_it_is_certain)
{
    /* 5, 10, 20, 40, 80, 160, then 320 cut to 300. */
    static const uint64_t full_s[] = {5, 10, 20, 40, 80, 160, 300, 300};
    struct ejection_counts o = {0};
    struct ejection least, most;

    ejection_init(&least, &o, T0);
    ejection_init(&most, &o, T0);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t half = full_s[i] * US_PER_S / 2;

        cr_assert_eq(ejection_begin(&least, &limits, 0), half);
        cr_assert_eq(ejection_begin(&most, &limits, half), full_s[i] * US_PER_S);
    }
}

Test(ejection, a_node_that_served_for_the_longest_back_off_starts_from_the_shortest)
{
    struct ejection_counts o = {0};
    struct ejection e;

    ejection_init(&e, &o, T0);
    (void)ejection_begin(&e, &limits, 0);
    (void)ejection_begin(&e, &limits, 0);
    ejection_restart(&e, &o, T0);
    (void)look(&e, &o, 299);
    cr_assert_eq(e.times, 2);
    (void)look(&e, &o, 300);
    cr_assert_eq(e.times, 0);
    cr_assert_eq(ejection_begin(&e, &limits, 0), 5 * US_PER_S / 2);
}

Test(ejection, the_result_of_a_trial_decides_and_nothing_else)
{
    struct ejection_counts o = {0};
    struct ejection e;

    ejection_init(&e, &o, T0);
    cr_assert_eq(ejection_probation(&e, &o), NODE_REASON_NONE);
    ok(&o, 3);
    failed(&o, 6);
    cr_assert_eq(ejection_probation(&e, &o), NODE_REASON_NONE, "these were sent before");
    o.probation_ok++;
    cr_assert_eq(ejection_probation(&e, &o), NODE_REASON_PROBES_PASS);
    cr_assert_eq(ejection_probation(&e, &o), NODE_REASON_NONE, "each counts once");
    o.probation_ok++;
    o.probation_failed++;
    cr_assert_eq(ejection_probation(&e, &o), NODE_REASON_FAILURES, "in doubt, not yet");
}

Test(ejection, never_below_half_of_the_nodes)
{
    /* serving (with the one in question), total, allowed */
    static const struct {
        uint32_t serving, total;
        bool allowed;
    } cases[] = {
        {1, 1, false}, /* the only node */
        {2, 2, true},  /* 1 of 2 stays */
        {3, 3, true},  /* 2 of 3 */
        {2, 3, false}, /* 1 of 3 */
        {4, 4, true},  {3, 4, true}, {2, 4, false}, {0, 4, false},
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_eq(ejection_allowed(cases[i].serving, cases[i].total), cases[i].allowed,
                     "%u of %u", cases[i].serving, cases[i].total);
}

Test(ramp, slots_open_one_after_the_other)
{
    /* 4 slots in 30 s: the 2nd after 10 s, the 3rd after 20 s, the last at the end. */
    const uint64_t ramp = 30 * US_PER_S;

    cr_assert_eq(ramp_slots(4, 0, ramp), 1);
    cr_assert_eq(ramp_slots(4, 10 * US_PER_S - 1, ramp), 1);
    cr_assert_eq(ramp_slots(4, 10 * US_PER_S, ramp), 2);
    cr_assert_eq(ramp_slots(4, 20 * US_PER_S, ramp), 3);
    cr_assert_eq(ramp_slots(4, 30 * US_PER_S, ramp), 4);
    cr_assert_eq(ramp_slots(4, UINT64_MAX, ramp), 4);
    cr_assert_eq(ramp_slots(1, 0, ramp), 1);
    cr_assert_eq(ramp_slots(8, 0, 0), 8, "no ramp");
    cr_assert_eq(ramp_slots(16384, 15 * US_PER_S, ramp), 8192);
}
