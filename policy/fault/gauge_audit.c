/* gauge_audit.c - do the gauges agree with the request tables? */
#include "policy/fault/gauge_audit.h"

static bool agrees(const struct invariant_look *look)
{
    return look->gauge >= look->open && look->gauge - look->open <= look->ending;
}

bool invariant_step(struct invariant *invariant, const struct invariant_look *look)
{
    const struct invariant_look *last = &invariant->last;
    bool stable = last->generation == look->generation && last->generation != 0 &&
                  last->gauge == look->gauge && last->open == look->open &&
                  last->ending == look->ending && last->traffic == look->traffic;
    bool fresh = false;

    if (stable && !agrees(look)) {
        fresh = !invariant->violated;
        invariant->violated = true;
    } else if (agrees(look) || look->generation != last->generation) {
        invariant->violated = false;
    }
    invariant->last = *look;
    return fresh;
}
