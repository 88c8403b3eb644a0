/* order.c - the order of waiting requests. */
#include "policy/route/order.h"

#include <stdbool.h>

#define DEFAULT_CLASS_US UINT64_C(5000000)
#define BULK_CLASS_US    UINT64_C(20000000)

#define PREFILL_TIMES   10.0
#define MOST_PREFILL_US 5000000.0

static uint64_t class_cost_us(enum request_priority priority)
{
    switch (priority) {
    case REQUEST_PRIORITY_INTERACTIVE:
        return 0;
    case REQUEST_PRIORITY_DEFAULT:
        return DEFAULT_CLASS_US;
    case REQUEST_PRIORITY_BULK:
        return BULK_CLASS_US;
    }
    return DEFAULT_CLASS_US;
}

uint64_t order_key_us(uint64_t arrival_mono_us, enum request_priority priority,
                      double prefill_s)
{
    double size_us = prefill_s * 1e6 * PREFILL_TIMES;
    bool bounded = size_us >= 0 && size_us < MOST_PREFILL_US;

    return arrival_mono_us + class_cost_us(priority) +
           (uint64_t)(bounded ? size_us : MOST_PREFILL_US);
}
