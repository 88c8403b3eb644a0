/* log_once.c - which complaints about one node are worth a line of the log. */
#include "health/nodes/log_once.h"

bool log_once_allows(struct log_once *once, enum node_state state, enum node_reason reason,
                     uint64_t now_mono_us, uint32_t *missed)
{
    uint32_t bit = UINT32_C(1) << ((uint32_t)reason % 32);

    if (once->state != state || now_mono_us - once->since_mono_us >= LOG_ONCE_AGAIN_US) {
        once->state = state;
        once->reported = 0;
        once->since_mono_us = now_mono_us;
    }
    if ((once->reported & bit) != 0) {
        once->missed++;
        return false;
    }
    once->reported |= bit;
    *missed = once->missed;
    once->missed = 0;
    return true;
}
