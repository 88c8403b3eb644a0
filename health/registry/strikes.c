/* strikes.c - addresses that failed too often of late. */
#include "health/registry/strikes.h"

/* A bucket is kept as the instant at which it will be full again: `allowed` strikes lie between
 * that and now. */
void strikes_note(struct strikes *strikes, uint64_t key, uint64_t now_mono_us)
{
    struct strikes_place *at = &strikes->place[0];

    if (key == 0)
        return;
    for (unsigned i = 0; i < STRIKES_PLACES; i++) {
        struct strikes_place *place = &strikes->place[i];

        if (place->key == key) {
            at = place;
            break;
        }
        if (place->clear_mono_us < at->clear_mono_us)
            at = place;
    }
    if (at->key != key || at->clear_mono_us < now_mono_us) {
        at->key = key;
        at->clear_mono_us = now_mono_us;
    }
    at->clear_mono_us += STRIKES_REFILL_US;
    if (at->clear_mono_us > now_mono_us + STRIKES_ALLOWED * STRIKES_REFILL_US)
        at->clear_mono_us = now_mono_us + STRIKES_ALLOWED * STRIKES_REFILL_US;
}

bool strikes_blocked(const struct strikes *strikes, uint64_t key, uint64_t now_mono_us)
{
    if (key == 0)
        return false;
    for (unsigned i = 0; i < STRIKES_PLACES; i++) {
        const struct strikes_place *place = &strikes->place[i];

        if (place->key == key)
            return place->clear_mono_us >
                   now_mono_us + (STRIKES_ALLOWED - 1) * STRIKES_REFILL_US;
    }
    return false;
}
