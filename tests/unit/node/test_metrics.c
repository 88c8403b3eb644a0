/* test_metrics.c - Prometheus' text format. */
#include <criterion/criterion.h>

#include "node/engine/kinds/metrics.h"

Test(metrics, a_metric_is_found_by_its_whole_name)
{
    static const char text[] = "a_total 5\na 1\na{x=\"1\"} 2\nb 1e3";
    double v;

    cr_assert(metrics_sum(text, sizeof(text) - 1, "a", &v));
    cr_assert_float_eq(v, 3, 1e-9);
    cr_assert(metrics_sum(text, sizeof(text) - 1, "b", &v));
    cr_assert_float_eq(v, 1000, 1e-9);
    cr_assert_not(metrics_sum(text, sizeof(text) - 1, "c", &v));
}

Test(metrics, the_largest_sample_of_a_metric_is_found)
{
    static const char text[] = "a{x=\"0\"} 0.25\na{x=\"1\"} 0.75\na{x=\"2\"} 0.5\nb -2";
    double v;

    cr_assert(metrics_largest(text, sizeof(text) - 1, "a", &v));
    cr_assert_float_eq(v, 0.75, 1e-9);
    cr_assert(metrics_largest(text, sizeof(text) - 1, "b", &v));
    cr_assert_float_eq(v, -2, 1e-9);
    cr_assert_not(metrics_largest(text, sizeof(text) - 1, "c", &v));
}
