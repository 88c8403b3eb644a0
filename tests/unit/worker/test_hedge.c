/* test_hedge.c - when a request is slow enough for a second attempt. */
#include <criterion/criterion.h>

#include "base/config/config.h"
#include "base/histogram.h"
#include "worker/request/hedge.h"

static const struct config_hedge on = {
    .enabled = true, .budget_pct = 5, .floor_ms = 50, .min_samples = 40};

static void took(struct histogram *h, uint64_t us, uint64_t times)
{
    h->bucket[histogram_bucket(us)] += times;
    h->count += times;
    h->sum_us += us * times;
}

/* Of 40 first tokens the 38th decides.  100 ms lies in the bucket of 99.2 to 102.4 ms, 1 s in
 * that of 972.8 to 1024 ms; a quantile is the middle. */
Test(hedge, is_due_when_95_of_100_first_tokens_have_come)
{
    struct histogram rare = {0}, often = {0};

    took(&rare, 100000, 38);
    took(&rare, 1000000, 2);
    cr_assert_eq(hedge_delay_us(&on, &rare, 1), 100800);
    took(&often, 100000, 37);
    took(&often, 1000000, 3);
    cr_assert_eq(hedge_delay_us(&on, &often, 1), 998400);
}

Test(hedge, is_never_due_before_the_floor)
{
    struct histogram quick = {0};
    struct config_hedge config = on;

    took(&quick, 1000, 100);
    cr_assert_eq(hedge_delay_us(&config, &quick, 1), 50000);
    config.floor_ms = 1;
    cr_assert_eq(hedge_delay_us(&config, &quick, 1), 1025, "1 ms is in 1.00 to 1.05 ms");
}

Test(hedge, needs_as_many_samples_as_configured)
{
    struct histogram few = {0};

    cr_assert_eq(hedge_delay_us(&on, &few, 1), 0);
    took(&few, 100000, 39);
    cr_assert_eq(hedge_delay_us(&on, &few, 1), 0);
    took(&few, 100000, 1);
    cr_assert_eq(hedge_delay_us(&on, &few, 1), 100800);
}

Test(hedge, is_off_unless_switched_on)
{
    struct histogram many = {0};
    struct config_hedge off = on;

    took(&many, 100000, 1000);
    off.enabled = false;
    cr_assert_eq(hedge_delay_us(&off, &many, 1), 0);
}

Test(hedge, is_never_due_for_a_request_that_has_had_its_attempts)
{
    struct histogram many = {0};

    took(&many, 100000, 1000);
    cr_assert_eq(hedge_delay_us(&on, &many, 0), 0);
    cr_assert_neq(hedge_delay_us(&on, &many, 1), 0);
}
