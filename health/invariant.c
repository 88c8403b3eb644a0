/* invariant.c - do the gauges agree with the request tables? */
#include "health/invariant.h"

bool invariant_step(struct invariant *invariant, const struct invariant_look *look)
{
    const struct invariant_look *last = &invariant->last;
    bool stable = last->generation == look->generation && last->generation != 0 &&
                  last->gauge == look->gauge && last->open == look->open &&
                  last->traffic == look->traffic;
    bool fresh = false;

    if (stable && look->gauge != look->open) {
        fresh = !invariant->violated;
        invariant->violated = true;
    } else if (look->gauge == look->open || look->generation != last->generation) {
        invariant->violated = false;
    }
    invariant->last = *look;
    return fresh;
}
