/* noise.c - which nodes may have another line in the log. */
#include "policy/fault/noise.h"

#include <string.h>

/* The place of the name, or else the one that has been clear for longest. */
static struct noise_place *find(struct noise *noise, const char *name)
{
    struct noise_place *oldest = &noise->place[0];

    for (unsigned i = 0; i < NOISE_PLACES; i++) {
        struct noise_place *place = &noise->place[i];

        if (place->clear_mono_us != 0 &&
            strncmp(place->name, name, sizeof(place->name) - 1) == 0)
            return place;
        if (place->clear_mono_us < oldest->clear_mono_us)
            oldest = place;
    }
    return oldest;
}

bool noise_allows(struct noise *noise, const char *name, uint64_t now_mono_us, uint32_t *missed)
{
    struct noise_place *place = find(noise, name);

    *missed = 0;
    if (place->clear_mono_us == 0 || strncmp(place->name, name, sizeof(place->name) - 1) != 0) {
        if (place->clear_mono_us > now_mono_us)
            return false;
        memset(place, 0, sizeof(*place));
        (void)strlcpy(place->name, name, sizeof(place->name));
    }
    if (place->clear_mono_us < now_mono_us)
        place->clear_mono_us = now_mono_us;
    if (place->clear_mono_us + NOISE_REFILL_US > now_mono_us + NOISE_BURST * NOISE_REFILL_US) {
        place->missed++;
        return false;
    }
    place->clear_mono_us += NOISE_REFILL_US;
    *missed = place->missed;
    place->missed = 0;
    return true;
}
