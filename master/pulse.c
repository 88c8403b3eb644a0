/* pulse.c - for how long has a child not turned its loop?  Pure. */
#include "master/pulse.h"

bool pulse_due(struct pulse *pulse, uint64_t now_mono_us)
{
    uint64_t since_us = now_mono_us - pulse->looked_mono_us;

    if (pulse->looked_mono_us != 0 && since_us < PULSE_LOOK_US)
        return false;
    if (since_us > PULSE_GAP_US)
        pulse->trusted_mono_us = now_mono_us;
    pulse->looked_mono_us = now_mono_us;
    return true;
}

uint64_t pulse_silent_us(const struct pulse *pulse, uint64_t heartbeat_mono_us,
                         uint64_t now_mono_us)
{
    uint64_t from_mono_us =
        heartbeat_mono_us > pulse->trusted_mono_us ? heartbeat_mono_us : pulse->trusted_mono_us;

    return from_mono_us < now_mono_us ? now_mono_us - from_mono_us : 0;
}
