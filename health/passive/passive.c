/* passive.c - what the workers' experience does to a node. */
#include "health/passive/passive.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/log.h"
#include "policy/fault/ramp.h"
#include "shm/outcomes.h"

#define SHARE_US US_PER_S /* between two looks at the share of nodes */

static const struct passive_event nothing = {VERDICT_NONE, NODE_REASON_NONE};

struct passive_rules passive_rules_of(const struct config *config)
{
    const struct config_health *health = &config->health;
    const struct config_limits *limits = &config->limits;
    uint32_t silence_ms = limits->first_token_ms < limits->idle_token_ms
                              ? limits->first_token_ms
                              : limits->idle_token_ms;

    return (struct passive_rules){
        .limits = {.failures = health->eject_failures,
                   .success_pct = health->eject_success_pct,
                   .min_requests = health->eject_min_requests,
                   .window_us = health->eject_window_ms * US_PER_MS,
                   .backoff_us = health->eject_backoff_ms * US_PER_MS,
                   .backoff_max_us = health->eject_backoff_max_ms * US_PER_MS},
        .advance_us = silence_ms / 4 * US_PER_MS,
        .ramp_us = health->ramp_ms * US_PER_MS,
    };
}

/* The workers' record of the node, in both forms. */
static struct eject_counts read_counts(const struct scoreboard *board, unsigned slot,
                                       struct outcomes *seen)
{
    outcomes_read(board, slot, seen);
    return (struct eject_counts){
        .ok = seen->total[OUTCOME_OK],
        .failed = seen->total[OUTCOME_FAILED],
        .stalled = seen->total[OUTCOME_STALLED],
        .trial_ok = seen->total[OUTCOME_TRIAL_OK],
        .trial_failed = seen->total[OUTCOME_TRIAL_FAILED],
        .run = seen->run,
    };
}

static uint64_t random64(void)
{
    return (uint64_t)arc4random() << 32 | arc4random();
}

/* ---- out, and in again ----------------------------------------------------------------- */

static struct passive_event take_out(struct passive *p, const struct passive_rules *rules,
                                     const struct passive_node *node, enum node_reason why,
                                     uint64_t now)
{
    uint64_t out_us = eject_begin(&p->eject, &rules->limits, random64());

    p->until_mono_us = now + out_us;
    p->share_mono_us = 0;
    log_warn("event=node_ejected node=%s reason=%s failures_in_a_row=%u times=%u out_ms=%llu",
             log_quote(node->name), node_reason_name(why), p->eject.last.run, p->eject.times,
             (unsigned long long)(out_us / US_PER_MS));
    return (struct passive_event){VERDICT_EJECT, why};
}

/* A node that is UP and fails. */
static struct passive_event judge(struct passive *p, const struct passive_rules *rules,
                                  const struct passive_node *node, enum node_reason why,
                                  uint64_t now)
{
    bool spared = node->verdict->reason == NODE_REASON_SPARED;

    if (spared && now < p->share_mono_us)
        return nothing;
    p->share_mono_us = now + SHARE_US;
    if (node->may_be_out(node->data))
        return take_out(p, rules, node, why, now);
    if (spared)
        return nothing;
    log_warn("event=node_spared node=%s reason=%s failures_in_a_row=%u "
             "hint=\"its requests fail, but without it less than half of a model's nodes "
             "would be left\"",
             log_quote(node->name), node_reason_name(why), p->eject.last.run);
    return (struct passive_event){VERDICT_SPARE, why};
}

static struct passive_event look_at_up(struct passive *p, const struct passive_rules *rules,
                                       const struct passive_node *node,
                                       const struct eject_counts *counts, uint64_t now)
{
    bool advances = p->progress_mono_us != 0 && now - p->progress_mono_us < rules->advance_us;
    enum node_reason why = eject_look(&p->eject, &rules->limits, counts, advances, now);

    if (why != NODE_REASON_NONE)
        return judge(p, rules, node, why, now);
    if (node->verdict->reason == NODE_REASON_SPARED)
        return (struct passive_event){VERDICT_ABSOLVE, NODE_REASON_NONE};
    return nothing;
}

static struct passive_event look_at_trial(struct passive *p, const struct passive_rules *rules,
                                          const struct passive_node *node,
                                          const struct eject_counts *counts, uint64_t now)
{
    enum node_reason result = eject_trial(&p->eject, counts);

    if (result == NODE_REASON_FAILURES)
        return take_out(p, rules, node, result, now);
    if (result == NODE_REASON_PROBES_PASS)
        return (struct passive_event){VERDICT_ABSOLVE, NODE_REASON_NONE};
    return nothing; /* no request has ended */
}

/* The back-off is over, or too few nodes of its models are left. */
static bool may_be_tried(struct passive *p, const struct passive_node *node, uint64_t now)
{
    if (now >= p->until_mono_us)
        return true;
    if (now < p->share_mono_us)
        return false;
    p->share_mono_us = now + SHARE_US;
    if (node->may_be_out(node->data))
        return false;
    log_warn("event=ejection_cut_short node=%s hint=\"too few nodes of its models are up\"",
             log_quote(node->name));
    return true;
}

struct passive_event passive_look(struct passive *passive, const struct scoreboard *board,
                                  const struct passive_rules *rules,
                                  const struct passive_node *node, uint64_t now_mono_us)
{
    const struct verdict *verdict = node->verdict;
    struct outcomes seen;
    struct eject_counts counts = read_counts(board, node->slot, &seen);

    switch (verdict->state) {
    case NODE_UP:
        return look_at_up(passive, rules, node, &counts, now_mono_us);
    case NODE_TRIAL:
        return look_at_trial(passive, rules, node, &counts, now_mono_us);
    case NODE_EJECTED:
    case NODE_DOWN:
    case NODE_JOINING:
    case NODE_DRAINING:
        if (verdict->ejected != NODE_REASON_NONE && !verdict->trial &&
            may_be_tried(passive, node, now_mono_us))
            return (struct passive_event){VERDICT_TRY, NODE_REASON_NONE};
        break;
    case NODE_NONE:
    case NODE_GONE:
        break;
    }
    return nothing;
}

/* ---- what happens to the node ---------------------------------------------------------- */

void passive_init(struct passive *passive, const struct scoreboard *board, unsigned slot,
                  const struct passive_rules *rules, bool ejected, uint64_t now_mono_us)
{
    struct outcomes seen;
    struct eject_counts counts = read_counts(board, slot, &seen);

    eject_init(&passive->eject, &counts, now_mono_us);
    /* Taken over while it was out: for how long it was to stay so, nobody knows any more. */
    if (ejected)
        passive->until_mono_us =
            now_mono_us + eject_begin(&passive->eject, &rules->limits, random64());
}

void passive_turned(struct passive *passive, struct scoreboard *board, unsigned slot,
                    enum node_state before, enum node_state now, uint64_t now_mono_us)
{
    passive->ramp_mono_us = 0;
    if (now == NODE_UP || now == NODE_TRIAL) {
        struct outcomes seen;
        struct eject_counts counts = read_counts(board, slot, &seen);

        eject_restart(&passive->eject, &counts, now_mono_us);
        outcomes_begin_trial(board, slot, &seen);
    }
    if (now == NODE_UP && before != NODE_JOINING)
        passive->ramp_mono_us = now_mono_us;
}

void passive_progress(struct passive *passive, uint64_t progress, uint64_t now_mono_us)
{
    if (progress > passive->progress)
        passive->progress_mono_us = now_mono_us;
    passive->progress = progress;
}

uint32_t passive_slots(struct passive *passive, const struct passive_rules *rules,
                       enum node_state state, uint32_t slots, uint64_t now_mono_us)
{
    uint32_t open = slots;

    if (state == NODE_TRIAL)
        return 1;
    if (passive->ramp_mono_us == 0)
        return slots;
    open = ramp_slots(slots, now_mono_us - passive->ramp_mono_us, rules->ramp_us);
    if (open == slots)
        passive->ramp_mono_us = 0;
    return open;
}
