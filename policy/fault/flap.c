/* flap.c - a node that comes and goes must prove itself for longer each time. */
#include "policy/fault/flap.h"

#include <string.h>

static const struct flap_place *find(const struct flap *flap, const char *name)
{
    for (unsigned i = 0; i < FLAP_PLACES; i++) {
        if (flap->place[i].losses != 0 && strcmp(flap->place[i].name, name) == 0)
            return &flap->place[i];
    }
    return NULL;
}

/* The place of this name, or the one not used for longest. */
static struct flap_place *take(struct flap *flap, const char *name)
{
    struct flap_place *oldest = &flap->place[0];

    for (unsigned i = 0; i < FLAP_PLACES; i++) {
        struct flap_place *place = &flap->place[i];

        if (place->losses != 0 && strcmp(place->name, name) == 0)
            return place;
        if (place->until_mono_us < oldest->until_mono_us)
            oldest = place;
    }
    memset(oldest, 0, sizeof(*oldest));
    (void)strlcpy(oldest->name, name, sizeof(oldest->name));
    return oldest;
}

void flap_lost(struct flap *flap, const char *name, uint64_t first_us, uint64_t now_mono_us)
{
    struct flap_place *place = take(flap, name);
    uint64_t wait_us = first_us;

    if (place->losses != 0 && now_mono_us > place->until_mono_us + FLAP_PEACE_US)
        place->losses = 0;
    place->losses++;
    for (uint32_t i = FLAP_FREE + 1; i < place->losses && wait_us < FLAP_MAX_US; i++)
        wait_us *= 2;
    if (wait_us > FLAP_MAX_US)
        wait_us = FLAP_MAX_US;
    if (place->losses <= FLAP_FREE)
        wait_us = 0;
    place->until_mono_us = now_mono_us + wait_us;
}

uint64_t flap_wait_us(const struct flap *flap, const char *name, uint64_t now_mono_us)
{
    const struct flap_place *place = find(flap, name);

    return place == NULL || place->until_mono_us <= now_mono_us
               ? 0
               : place->until_mono_us - now_mono_us;
}
