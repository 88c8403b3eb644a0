/* ejection.c - has a node failed often enough to be taken out, for how long, and may it be? */
#include "policy/fault/ejection.h"

#include <string.h>

void eject_init(struct eject *eject, const struct eject_counts *now, uint64_t now_mono_us)
{
    eject->times = 0;
    eject_restart(eject, now, now_mono_us);
}

void eject_restart(struct eject *eject, const struct eject_counts *now, uint64_t now_mono_us)
{
    memset(eject->step, 0, sizeof(eject->step));
    eject->last = *now;
    eject->failed_then = now->failed;
    eject->now = 0;
    eject->step_mono_us = now_mono_us;
    eject->since_mono_us = now_mono_us;
}

static uint64_t grown(uint64_t before, uint64_t now)
{
    return now > before ? now - before : 0;
}

/* Moves the window to the present. */
static void advance(struct eject *eject, uint64_t window_us, uint64_t now_mono_us)
{
    uint64_t length_us = window_us / EJECT_STEPS == 0 ? 1 : window_us / EJECT_STEPS;

    if (now_mono_us - eject->step_mono_us >= window_us) {
        memset(eject->step, 0, sizeof(eject->step));
        eject->step_mono_us = now_mono_us;
        return;
    }
    while (now_mono_us - eject->step_mono_us >= length_us) {
        eject->now = (eject->now + 1) % EJECT_STEPS;
        eject->step[eject->now] = (struct eject_step){0};
        eject->step_mono_us += length_us;
    }
}

static bool too_few_succeed(const struct eject *eject, const struct eject_limits *limits)
{
    uint64_t ok = 0, failed = 0;

    for (unsigned i = 0; i < EJECT_STEPS; i++) {
        ok += eject->step[i].ok;
        failed += eject->step[i].failed;
    }
    return limits->success_pct != 0 && failed != 0 && ok + failed >= limits->min_requests &&
           ok * 100 < limits->success_pct * (ok + failed);
}

/* Failures in a row, without those from before. */
static uint64_t run_of(const struct eject *eject, const struct eject_counts *now)
{
    uint64_t since = now->failed - eject->failed_then;

    return now->run < since ? now->run : since;
}

enum node_reason eject_look(struct eject *eject, const struct eject_limits *limits,
                            const struct eject_counts *now, bool advances, uint64_t now_mono_us)
{
    bool stalled = grown(eject->last.stalled, now->stalled) != 0;
    struct eject_step *step;

    advance(eject, limits->window_us, now_mono_us);
    step = &eject->step[eject->now];
    step->ok += (uint32_t)grown(eject->last.ok, now->ok);
    step->failed += (uint32_t)grown(eject->last.failed, now->failed);
    eject->last = *now;
    if (now_mono_us - eject->since_mono_us >= limits->backoff_max_us)
        eject->times = 0;
    if (limits->failures != 0 && stalled && !advances)
        return NODE_REASON_NO_PROGRESS;
    if (limits->failures != 0 && run_of(eject, now) >= limits->failures)
        return NODE_REASON_FAILURES;
    if (too_few_succeed(eject, limits))
        return NODE_REASON_SUCCESS_RATE;
    return NODE_REASON_NONE;
}

uint64_t eject_begin(struct eject *eject, const struct eject_limits *limits, uint64_t random)
{
    uint64_t us = limits->backoff_us;

    for (uint32_t i = 0; i < eject->times && us < limits->backoff_max_us; i++)
        us *= 2;
    if (us > limits->backoff_max_us)
        us = limits->backoff_max_us;
    eject->times++;
    return us / 2 + random % (us - us / 2 + 1);
}

enum node_reason eject_trial(struct eject *eject, const struct eject_counts *now)
{
    bool failed = grown(eject->last.trial_failed, now->trial_failed) != 0;
    bool ok = grown(eject->last.trial_ok, now->trial_ok) != 0;

    eject->last = *now;
    if (failed)
        return NODE_REASON_FAILURES;
    return ok ? NODE_REASON_PROBES_PASS : NODE_REASON_NONE;
}

bool eject_allowed(uint32_t serving, uint32_t total)
{
    return serving != 0 && 2 * (uint64_t)(serving - 1) >= total;
}
