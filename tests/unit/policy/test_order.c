/* test_order.c - the key of a request that waits, with the numbers worked out by hand. */
#include <criterion/criterion.h>
#include <math.h>

#include "policy/queue/order.h"

#define SECOND UINT64_C(1000000)

static const struct route_times real = {
    .default_class_us = 5 * SECOND, .bulk_class_us = 20 * SECOND, .most_prefill_us = 5e6};

static uint64_t key(uint64_t arrival_s, enum request_priority priority, double prefill_s)
{
    return order_key_us(arrival_s * SECOND, priority, prefill_s, &real);
}

Test(order, a_key_is_arrival_and_class_and_ten_times_the_prefill)
{
    cr_assert_eq(key(100, REQUEST_PRIORITY_INTERACTIVE, 0), 100 * SECOND);
    cr_assert_eq(key(100, REQUEST_PRIORITY_DEFAULT, 0), 105 * SECOND);
    cr_assert_eq(key(100, REQUEST_PRIORITY_BULK, 0), 120 * SECOND);
    cr_assert_eq(key(100, REQUEST_PRIORITY_INTERACTIVE, 0.2), 102 * SECOND);
}

Test(order, a_long_prompt_is_overtaken_for_five_seconds_and_no_longer)
{
    cr_assert_eq(key(100, REQUEST_PRIORITY_INTERACTIVE, 0.5), 105 * SECOND);
    cr_assert_eq(key(100, REQUEST_PRIORITY_INTERACTIVE, 60), 105 * SECOND);
    cr_assert_lt(key(100, REQUEST_PRIORITY_DEFAULT, 60), key(106, REQUEST_PRIORITY_DEFAULT, 0));
    cr_assert_gt(key(100, REQUEST_PRIORITY_DEFAULT, 60), key(104, REQUEST_PRIORITY_DEFAULT, 0));
}

Test(order, a_long_interactive_prompt_goes_before_short_bulk_ones)
{
    cr_assert_lt(key(100, REQUEST_PRIORITY_INTERACTIVE, 60), key(90, REQUEST_PRIORITY_BULK, 0));
}

Test(order, a_size_that_is_none_counts_as_the_greatest)
{
    const double bad[] = {NAN, INFINITY, -1};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_assert_eq(key(100, REQUEST_PRIORITY_INTERACTIVE, bad[i]), 105 * SECOND);
}
