/* order.c - the order of waiting requests. */
#include "policy/queue/order.h"

#include <stdbool.h>

#define PREFILL_TIMES 10.0

static uint64_t class_cost_us(enum request_priority priority, const struct route_times *times)
{
    switch (priority) {
    case REQUEST_PRIORITY_INTERACTIVE:
        return 0;
    case REQUEST_PRIORITY_DEFAULT:
        return times->default_class_us;
    case REQUEST_PRIORITY_BULK:
        return times->bulk_class_us;
    }
    return times->default_class_us;
}

uint64_t order_key_us(uint64_t arrival_mono_us, enum request_priority priority,
                      double prefill_s, const struct route_times *times)
{
    double size_us = prefill_s * 1e6 * PREFILL_TIMES;
    bool bounded = size_us >= 0 && size_us < times->most_prefill_us;

    return arrival_mono_us + class_cost_us(priority, times) +
           (uint64_t)(bounded ? size_us : times->most_prefill_us);
}
