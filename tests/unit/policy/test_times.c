/* test_times.c - routing before engines that are faster than real ones. */
#include <criterion/criterion.h>
#include <math.h>

#include "policy/queue/order.h"
#include "policy/route/estimate.h"

#define NEAR(a, b) (fabs((double)(a) - (double)(b)) < 1e-6 * fmax(1, fabs((double)(b))))
#define SECOND     UINT64_C(1000000)
#define SPEEDUP    20u

static struct estimate_speed speed(float tokens, float seconds)
{
    return (struct estimate_speed){.tokens = tokens, .seconds = seconds};
}

Test(times, engines_are_real_unless_it_is_said_otherwise)
{
    struct route_times none = route_times(0), one = route_times(1);

    cr_assert(NEAR(none.silence_us, 1e6) && NEAR(one.silence_us, 1e6));
    cr_assert_eq(none.trial_idle_us, 10 * SECOND);
    cr_assert_eq(none.trial_gap_us, 300 * SECOND);
    cr_assert_eq(route_times(SPEEDUP).trial_gap_us, 15 * SECOND);
    cr_assert_eq(one.default_class_us, 5 * SECOND);
    cr_assert_eq(one.overcommit_us, 5 * SECOND);
}

/* In each test the second line is the first one, twenty times as fast. */

Test(times, a_silence_shows_as_soon_as_it_would_with_a_real_engine)
{
    struct route_times real = route_times(1), fast = route_times(SPEEDUP);
    struct estimate_backlog then =
        estimate_backlog(SECOND / 100, 96 * SECOND, 100 * SECOND, &real);
    struct estimate_backlog now = estimate_backlog(
        SECOND / 100 / SPEEDUP, 100 * SECOND - 4 * SECOND / SPEEDUP, 100 * SECOND, &fast);

    cr_assert(NEAR(then.slowdown, 4) && NEAR(now.slowdown, 4));
    cr_assert(NEAR(now.left_s * SPEEDUP, then.left_s));
}

Test(times, a_trial_comes_as_often_and_costs_as_much_of_the_answer)
{
    struct route_times real = route_times(1), fast = route_times(SPEEDUP);
    double then = estimate_regret_s(SECOND, false, 61 * SECOND, &real);

    cr_assert(NEAR(then, 0.35));
    cr_assert(NEAR(estimate_regret_s(SECOND, false, 4 * SECOND, &fast) * SPEEDUP, then));
    cr_assert(estimate_regret_s(SECOND, false, SECOND + 10 * SECOND / SPEEDUP - 1, &fast) < 0);
    cr_assert(estimate_regret_s(SECOND, false, SECOND + 10 * SECOND / SPEEDUP, &fast) >= 0);
}

Test(times, a_failure_and_a_first_guess_scale_with_the_engines)
{
    struct route_times fast = route_times(SPEEDUP);

    cr_assert(NEAR(estimate_failure(speed(0, 0), speed(500, 0.001f), &fast).seconds, 0.05));
    cr_assert(NEAR(estimate_tokens_per_s(speed(0, 0), 0, &fast), 20000));
    cr_assert_eq(fast.event_us, SECOND / SPEEDUP);
}

Test(times, keys_keep_their_order)
{
    struct route_times fast = route_times(SPEEDUP);

    cr_assert_eq(order_key_us(SECOND, REQUEST_PRIORITY_INTERACTIVE, 0.01, &fast),
                 SECOND + 100000);
    cr_assert_eq(order_key_us(SECOND, REQUEST_PRIORITY_INTERACTIVE, 9, &fast), SECOND + 250000);
    cr_assert_eq(order_key_us(SECOND, REQUEST_PRIORITY_DEFAULT, 0, &fast), SECOND + 250000);
    cr_assert_eq(order_key_us(SECOND, REQUEST_PRIORITY_BULK, 0, &fast), 2 * SECOND);
    cr_assert_eq(fast.overcommit_us, SECOND / 4);
}

Test(times, plans_move_for_the_same_part_of_an_answer)
{
    struct route_times fast = route_times(SPEEDUP);

    cr_assert(NEAR(fast.better_s, 0.005));
    cr_assert_eq(fast.overdue_us, SECOND / SPEEDUP);
    cr_assert_eq(fast.look_us, SECOND / 10 / SPEEDUP);
}
