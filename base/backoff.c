/* backoff.c - when to start a child again that ended on its own.  Pure. */
#include "base/backoff.h"

#define MINUTE_US UINT64_C(60000000)

uint64_t backoff_next_us(struct backoff *backoff, uint64_t up_us)
{
    uint64_t wait_us = BACKOFF_FIRST_US;

    if (up_us >= BACKOFF_RESET_US)
        backoff->ends = 0;
    backoff->ends++;
    if (backoff->ends == 1)
        return 0;
    for (unsigned i = 2; i < backoff->ends && wait_us < BACKOFF_MAX_US; i++)
        wait_us *= 2;
    return wait_us < BACKOFF_MAX_US ? wait_us : BACKOFF_MAX_US;
}

bool crash_meter_note(struct crash_meter *meter, uint64_t now_mono_us)
{
    if (meter->window_mono_us == 0 || now_mono_us - meter->window_mono_us >= MINUTE_US) {
        meter->window_mono_us = now_mono_us;
        meter->count = 0;
        meter->said = false;
    }
    meter->count++;
    if (meter->count <= CRASH_ALARM_COUNT || meter->said)
        return false;
    meter->said = true;
    return true;
}
