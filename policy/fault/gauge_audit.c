/* gauge_audit.c - do the gauges agree with the request tables? */
#include "policy/fault/gauge_audit.h"

static bool agrees(const struct gauge_audit_look *look)
{
    return look->gauge >= look->open && look->gauge - look->open <= look->ending;
}

bool gauge_audit_step(struct gauge_audit *gauge_audit, const struct gauge_audit_look *look)
{
    const struct gauge_audit_look *last = &gauge_audit->last;
    bool stable = last->generation == look->generation && last->generation != 0 &&
                  last->gauge == look->gauge && last->open == look->open &&
                  last->ending == look->ending && last->traffic == look->traffic;
    bool fresh = false;

    if (stable && !agrees(look)) {
        fresh = !gauge_audit->violated;
        gauge_audit->violated = true;
    } else if (agrees(look) || look->generation != last->generation) {
        gauge_audit->violated = false;
    }
    gauge_audit->last = *look;
    return fresh;
}
