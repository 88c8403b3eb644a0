/* times.c - the time constants of routing. */
#include "policy/route/times.h"

struct route_times route_times(uint32_t speedup)
{
    uint32_t n = speedup == 0 ? 1 : speedup;

    return (struct route_times){
        .guess_tokens_per_s = 1000.0 * n,
        .silence_us = 1e6 / n,
        .failure_least_s = 1.0 / n,
        .event_us = UINT64_C(1000000) / n,
        .trial_idle_us = UINT64_C(10000000) / n,
        .trial_busy_us = UINT64_C(60000000) / n,
        .trial_gap_us = UINT64_C(300000000) / n,
        .regret_s = 0.1 / n,
        .default_class_us = UINT64_C(5000000) / n,
        .bulk_class_us = UINT64_C(20000000) / n,
        .most_prefill_us = 5e6 / n,
        .overcommit_us = UINT64_C(5000000) / n,
        .better_s = 0.1 / n,
        .overdue_us = UINT64_C(1000000) / n,
        .look_us = UINT64_C(100000) / n,
    };
}
