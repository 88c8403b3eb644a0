/* ejection.c - decides whether, and for how long, a failing node is ejected. */
#include "policy/fault/ejection.h"

#include <string.h>

void ejection_init(struct ejection *ejection, const struct ejection_counts *now,
                   uint64_t now_mono_us)
{
    ejection->times = 0;
    ejection_restart(ejection, now, now_mono_us);
}

void ejection_restart(struct ejection *ejection, const struct ejection_counts *now,
                      uint64_t now_mono_us)
{
    memset(ejection->step, 0, sizeof(ejection->step));
    ejection->last = *now;
    ejection->failed_then = now->failed;
    ejection->now = 0;
    ejection->step_mono_us = now_mono_us;
    ejection->since_mono_us = now_mono_us;
}

static uint64_t grown(uint64_t before, uint64_t now)
{
    return now > before ? now - before : 0;
}

/* Moves the window to the present. */
static void advance(struct ejection *ejection, uint64_t window_us, uint64_t now_mono_us)
{
    uint64_t length_us = window_us / EJECTION_STEPS == 0 ? 1 : window_us / EJECTION_STEPS;

    if (now_mono_us - ejection->step_mono_us >= window_us) {
        memset(ejection->step, 0, sizeof(ejection->step));
        ejection->step_mono_us = now_mono_us;
        return;
    }
    while (now_mono_us - ejection->step_mono_us >= length_us) {
        ejection->now = (ejection->now + 1) % EJECTION_STEPS;
        ejection->step[ejection->now] = (struct ejection_step){0};
        ejection->step_mono_us += length_us;
    }
}

static bool too_few_succeed(const struct ejection *ejection,
                            const struct ejection_limits *limits)
{
    uint64_t ok = 0, failed = 0;

    for (unsigned i = 0; i < EJECTION_STEPS; i++) {
        ok += ejection->step[i].ok;
        failed += ejection->step[i].failed;
    }
    return limits->success_pct != 0 && failed != 0 && ok + failed >= limits->min_requests &&
           ok * 100 < limits->success_pct * (ok + failed);
}

/* Failures in a row, without those from before. */
static uint64_t run_of(const struct ejection *ejection, const struct ejection_counts *now)
{
    uint64_t since = now->failed - ejection->failed_then;

    return now->run < since ? now->run : since;
}

enum node_reason ejection_look(struct ejection *ejection, const struct ejection_limits *limits,
                               const struct ejection_counts *now, bool advances,
                               uint64_t now_mono_us)
{
    bool stalled = grown(ejection->last.stalled, now->stalled) != 0;
    struct ejection_step *step;

    advance(ejection, limits->window_us, now_mono_us);
    step = &ejection->step[ejection->now];
    step->ok += (uint32_t)grown(ejection->last.ok, now->ok);
    step->failed += (uint32_t)grown(ejection->last.failed, now->failed);
    step->contradicted += (uint32_t)grown(ejection->last.contradicted, now->contradicted);
    step->answered_clients |= now->answered_clients;
    step->contradicted_clients |= now->contradicted_clients;
    ejection->last = *now;
    if (now_mono_us - ejection->since_mono_us >= limits->backoff_max_us)
        ejection->times = 0;
    if (limits->failures != 0 && stalled && !advances)
        return NODE_REASON_NO_PROGRESS;
    if (limits->failures != 0 && run_of(ejection, now) >= limits->failures)
        return NODE_REASON_FAILURES;
    if (too_few_succeed(ejection, limits))
        return NODE_REASON_SUCCESS_RATE;
    return NODE_REASON_NONE;
}

struct odd_counts ejection_odd_counts(const struct ejection *ejection)
{
    struct odd_counts counts = {0};

    for (unsigned i = 0; i < EJECTION_STEPS; i++) {
        counts.answered += ejection->step[i].ok;
        counts.contradicted += ejection->step[i].contradicted;
        counts.answered_clients |= ejection->step[i].answered_clients;
        counts.contradicted_clients |= ejection->step[i].contradicted_clients;
    }
    return counts;
}

uint64_t ejection_begin(struct ejection *ejection, const struct ejection_limits *limits,
                        uint64_t random)
{
    uint64_t us = limits->backoff_us;

    for (uint32_t i = 0; i < ejection->times && us < limits->backoff_max_us; i++)
        us *= 2;
    if (us > limits->backoff_max_us)
        us = limits->backoff_max_us;
    ejection->times++;
    return us / 2 + random % (us - us / 2 + 1);
}

enum node_reason ejection_probation(struct ejection *ejection,
                                    const struct ejection_counts *now)
{
    bool failed = grown(ejection->last.probation_failed, now->probation_failed) != 0;
    bool ok = grown(ejection->last.probation_ok, now->probation_ok) != 0;

    ejection->last = *now;
    if (failed)
        return NODE_REASON_FAILURES;
    return ok ? NODE_REASON_PROBES_PASS : NODE_REASON_NONE;
}

bool ejection_allowed(uint32_t serving, uint32_t total)
{
    return serving != 0 && 2 * (uint64_t)(serving - 1) >= total;
}
