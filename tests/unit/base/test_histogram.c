/* test_histogram.c - buckets, quantiles and their error. */
#include "base/histogram.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static void note(struct histogram *h, uint64_t us)
{
    h->bucket[histogram_bucket(us)]++;
    h->count++;
    h->sum_us += us;
}

Test(histogram, buckets_follow_each_other_without_gap_or_overlap)
{
    cr_assert_eq(histogram_lower_us(0), 0);
    for (unsigned b = 0; b + 1 < HISTOGRAM_BUCKETS; b++) {
        cr_assert_eq(histogram_upper_us(b), histogram_lower_us(b + 1));
        cr_assert_lt(histogram_lower_us(b), histogram_upper_us(b));
        cr_assert_eq(histogram_bucket(histogram_lower_us(b)), b);
        cr_assert_eq(histogram_bucket(histogram_upper_us(b) - 1), b);
    }
    cr_assert_eq(histogram_upper_us(HISTOGRAM_BUCKETS - 1), UINT64_MAX);
    cr_assert_eq(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
}

Test(histogram, known_durations_fall_where_arithmetic_says)
{
    cr_assert_eq(histogram_bucket(0), 0);
    cr_assert_eq(histogram_bucket(99), 0);
    cr_assert_eq(histogram_bucket(100), 1);
    cr_assert_eq(histogram_bucket(106), 1); /* the first ends at 106.25 */
    cr_assert_eq(histogram_bucket(107), 2);
    cr_assert_eq(histogram_bucket(199), 16);
    cr_assert_eq(histogram_bucket(200), 17);
    /* one hour = 100 us * 2^25 * 1.0729: doubling 25, second part */
    cr_assert_eq(histogram_bucket(UINT64_C(3600000000)), 1 + 25 * 16 + 1);
}

Test(histogram, the_quantile_of_equal_samples_is_at_most_5_percent_off_from_100_us_to_1_h)
{
    for (double us = 100; us <= 3.6e9; us = us * 1.01 + 1) {
        struct histogram h = {0};
        uint64_t value = (uint64_t)us;

        note(&h, value);
        for (double q = 0; q <= 1; q += 0.25) {
            double off = fabs((double)histogram_quantile_us(&h, q) - (double)value);

            cr_assert_leq(off, 0.05 * (double)value, "%llu", (unsigned long long)value);
        }
    }
}

Test(histogram, quantiles_of_a_spread_are_at_most_5_percent_off)
{
    struct histogram h = {0};

    /* 1 ms, 2 ms, ... 10 s: the q-quantile is q * 10 s */
    for (uint64_t ms = 1; ms <= 10000; ms++)
        note(&h, ms * 1000);
    for (int pct = 1; pct <= 100; pct++) {
        double exact = pct / 100.0 * 1e7;

        cr_assert_leq(fabs((double)histogram_quantile_us(&h, pct / 100.0) - exact),
                      0.05 * exact, "p%d", pct);
    }
}

Test(histogram, odd_arguments_have_sane_answers)
{
    struct histogram h = {0};

    cr_assert_eq(histogram_quantile_us(&h, 0.5), 0);
    note(&h, 1000);
    note(&h, 100000);
    cr_assert_eq(histogram_quantile_us(&h, -1), histogram_quantile_us(&h, 0));
    cr_assert_eq(histogram_quantile_us(&h, (double)NAN), histogram_quantile_us(&h, 0));
    cr_assert_eq(histogram_quantile_us(&h, 7), histogram_quantile_us(&h, 1));
    memset(&h, 0xff, sizeof(h)); /* counts whose sum does not fit */
    cr_assert_gt(histogram_quantile_us(&h, 0.99), 0);
}
