/* look_times.c - decides when an engine is looked at, and how thoroughly. */
#include "node/engine/look/look_times.h"

#include <string.h>

#include "base/clock.h"

#define RETRY_US            (500 * US_PER_MS)
#define REMOTE_RETRY_MAX_US (30 * US_PER_S)
#define LOADING_US          US_PER_S
#define IDLE_US             (5 * US_PER_S)
#define FULL_US             (60 * US_PER_S)
#define REMOTE_US           (300 * US_PER_S)
#define BUSY_US             (1200 * US_PER_MS)
#define SILENT_US           US_PER_S
#define AFTER_CANCEL_US     (1200 * US_PER_MS)
#define TROUBLE_GAP_US      US_PER_S
#define REMOTE_TROUBLE_US   (10 * US_PER_S)

/* After a cancelled generation: the engine notices when it sends the next token. */
#define SOON_US     (50 * US_PER_MS)
#define SOON_GAP_US (250 * US_PER_MS)
#define SOON_LOOKS  2

void look_times_init(struct look_times *t, uint64_t idle_us)
{
    memset(t, 0, sizeof(*t));
    t->idle_us = idle_us;
}

void look_times_ended(struct look_times *t, enum look_level level, bool usable,
                      uint64_t began_mono_us, uint64_t now_mono_us)
{
    t->ended_mono_us = now_mono_us;
    if (level == LOOK_LOAD) {
        t->load_mono_us = began_mono_us;
        if (t->soon > 0)
            t->soon--;
    }
    if (level != LOOK_FULL)
        return;
    t->full_mono_us = now_mono_us;
    t->failures = usable ? 0 : t->failures + 1;
    if (t->trouble_mono_us <= began_mono_us)
        t->trouble_mono_us = 0;
}

void look_times_cancelled(struct look_times *t, bool had_token, uint64_t now_mono_us)
{
    if (!had_token) {
        t->left_mono_us = now_mono_us;
        return;
    }
    t->stopped_mono_us = now_mono_us;
    t->soon = SOON_LOOKS;
}

void look_times_trouble(struct look_times *t, uint64_t now_mono_us)
{
    t->trouble_mono_us = now_mono_us;
}

static uint64_t latest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Makes `look` this one when it comes first; of two at one instant the fuller. */
static void consider(struct look_due *look, enum look_level level, uint64_t at_mono_us)
{
    if (at_mono_us < look->at_mono_us ||
        (at_mono_us == look->at_mono_us && level > look->level))
        *look = (struct look_due){.level = level, .at_mono_us = at_mono_us};
}

static uint64_t retry_us(const struct look_times *t, const struct look_facts *facts)
{
    uint64_t delay_us = RETRY_US;

    if (!facts->remote)
        return delay_us;
    for (uint32_t i = 1; i < t->failures && delay_us < REMOTE_RETRY_MAX_US; i++)
        delay_us *= 2;
    return delay_us < REMOTE_RETRY_MAX_US ? delay_us : REMOTE_RETRY_MAX_US;
}

/* Looks at an engine that does nothing for us. */
static void consider_idle(struct look_due *look, const struct look_times *t,
                          const struct look_facts *facts)
{
    uint64_t idle_us = t->idle_us != 0 ? t->idle_us : facts->remote ? REMOTE_US : IDLE_US;
    uint64_t full_us = idle_us > FULL_US ? idle_us : FULL_US;

    if (!facts->has_models)
        full_us = facts->remote ? FULL_US : LOADING_US;
    else
        consider(look, LOOK_LIGHT, t->ended_mono_us + idle_us);
    consider(look, LOOK_FULL, latest(t->full_mono_us + full_us, t->ended_mono_us + LOADING_US));
}

/* An answer to an earlier look says nothing about a run cancelled since. */
static bool is_unsettled(const struct look_times *t)
{
    return t->left_mono_us > t->load_mono_us || t->stopped_mono_us > t->load_mono_us;
}

static void consider_busy(struct look_due *look, const struct look_times *t,
                          const struct look_facts *facts)
{
    if (facts->shows_load)
        consider(look, LOOK_LOAD, t->ended_mono_us + BUSY_US);
    else if (!facts->remote && facts->runs > 0)
        consider(look, LOOK_LIGHT,
                 latest(t->ended_mono_us + BUSY_US, facts->heard_mono_us + SILENT_US));
    if (facts->shows_load && t->soon > 0 && (facts->others_run || is_unsettled(t)))
        consider(look, LOOK_LOAD,
                 latest(t->stopped_mono_us + SOON_US, t->ended_mono_us + SOON_GAP_US));
}

struct look_due look_times_next(const struct look_times *t, const struct look_facts *facts)
{
    struct look_due look = {.level = LOOK_FULL, .at_mono_us = UINT64_MAX};
    uint64_t gap_us = facts->remote ? REMOTE_TROUBLE_US : TROUBLE_GAP_US;

    if (t->full_mono_us == 0)
        return (struct look_due){.level = LOOK_FULL, .at_mono_us = 0};
    if (!facts->reachable) {
        consider(&look, LOOK_FULL, t->ended_mono_us + retry_us(t, facts));
        return look;
    }
    if (facts->loading) {
        consider(&look, LOOK_FULL, t->ended_mono_us + LOADING_US);
        return look;
    }
    consider_idle(&look, t, facts);
    if (facts->runs > 0 || (facts->shows_load && (facts->others_run || is_unsettled(t))))
        consider_busy(&look, t, facts);
    if (t->left_mono_us != 0)
        look.at_mono_us = latest(look.at_mono_us, t->left_mono_us + AFTER_CANCEL_US);
    /* Another engine may stand there since, and its answers do not always show it. */
    if (facts->any_model && facts->busy_mono_us > t->full_mono_us + IDLE_US)
        return (struct look_due){.level = LOOK_FULL, .at_mono_us = facts->busy_mono_us};
    if (t->trouble_mono_us != 0)
        consider(&look, LOOK_FULL, latest(t->trouble_mono_us, t->full_mono_us + gap_us));
    return look;
}
