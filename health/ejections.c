/* ejections.c - what the workers' experience does to a node. */
#include "health/ejections.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/log.h"
#include "policy/fault/ramp.h"
#include "shm/facts/outcomes.h"

#define SHARE_US US_PER_S /* between two looks at the share of nodes */

static const struct ejections_event nothing = {NODE_EVENT_NONE, NODE_REASON_NONE};

struct ejections_rules ejections_rules_of(const struct config *config)
{
    const struct config_health *health = &config->health;
    const struct config_limits *limits = &config->limits;
    uint32_t silence_ms = limits->first_token_ms < limits->idle_token_ms
                              ? limits->first_token_ms
                              : limits->idle_token_ms;

    return (struct ejections_rules){
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
static struct ejection_counts read_counts(const struct scoreboard *board, unsigned node_id,
                                          struct outcomes *seen)
{
    outcomes_read(board, node_id, seen);
    return (struct ejection_counts){
        .ok = seen->total[OUTCOME_OK],
        .failed = seen->total[OUTCOME_FAILED],
        .stalled = seen->total[OUTCOME_STALLED],
        .contradicted = seen->total[OUTCOME_CONTRADICTED],
        .probation_ok = seen->total[OUTCOME_PROBATION_OK],
        .probation_failed = seen->total[OUTCOME_PROBATION_FAILED],
        .run = seen->run,
    };
}

static uint64_t random64(void)
{
    return (uint64_t)arc4random() << 32 | arc4random();
}

/* ---- out, and in again ----------------------------------------------------------------- */

static struct ejections_event take_out(struct ejections *p, const struct ejections_rules *rules,
                                       const struct ejections_node *node, enum node_reason why,
                                       uint64_t now)
{
    uint64_t out_us = ejection_begin(&p->ejection, &rules->limits, random64());

    p->until_mono_us = now + out_us;
    p->share_mono_us = 0;
    log_warn("event=node_ejected node=%s reason=%s failures_in_a_row=%u times=%u out_ms=%llu",
             log_quote(node->name), node_reason_name(why), p->ejection.last.run,
             p->ejection.times, (unsigned long long)(out_us / US_PER_MS));
    return (struct ejections_event){NODE_EVENT_EJECT, why};
}

/* A node that is UP and fails. */
static struct ejections_event fault(struct ejections *p, const struct ejections_rules *rules,
                                    const struct ejections_node *node, enum node_reason why,
                                    uint64_t now)
{
    bool kept = node->verdict->reason == NODE_REASON_KEPT;

    if (kept && now < p->share_mono_us)
        return nothing;
    p->share_mono_us = now + SHARE_US;
    if (node->may_be_out(node->data))
        return take_out(p, rules, node, why, now);
    if (kept)
        return nothing;
    log_warn("event=node_kept node=%s reason=%s failures_in_a_row=%u "
             "hint=\"its requests fail, but without it less than half of a model's nodes "
             "would be left\"",
             log_quote(node->name), node_reason_name(why), p->ejection.last.run);
    return (struct ejections_event){NODE_EVENT_KEEP, why};
}

/* Is it odd?  Looking at its peers is not cheap, so the answer holds for a while. */
static bool is_odd(struct ejections *p, const struct ejections_rules *rules,
                   const struct ejections_node *node, uint64_t now)
{
    struct odd_counts own = ejection_odd_counts(&p->ejection), peer;
    bool was = p->odd;

    if (own.contradicted < ODD_LEAST) {
        p->odd = false;
        return false;
    }
    if (now < p->odd_mono_us)
        return p->odd;
    p->odd_mono_us = now + SHARE_US;
    peer = node->best_peer(node->data);
    p->odd = odd_is(own, peer, rules->limits.success_pct);
    if (p->odd && !was)
        log_warn("event=node_odd node=%s contradicted=%u answered=%u peer_contradicted=%u "
                 "peer_answered=%u window_ms=%llu hint=\"it refuses, or answers with nothing, "
                 "what other nodes of its model answer: look at its engine\"",
                 log_quote(node->name), own.contradicted, own.answered, peer.contradicted,
                 peer.answered, (unsigned long long)(rules->limits.window_us / US_PER_MS));
    return p->odd;
}

static struct ejections_event look_at_up(struct ejections *p,
                                         const struct ejections_rules *rules,
                                         const struct ejections_node *node,
                                         const struct ejection_counts *counts, uint64_t now)
{
    bool advances = p->progress_mono_us != 0 && now - p->progress_mono_us < rules->advance_us;
    enum node_reason why = ejection_look(&p->ejection, &rules->limits, counts, advances, now);

    if (why == NODE_REASON_NONE && is_odd(p, rules, node, now))
        why = NODE_REASON_ODD;
    if (why != NODE_REASON_NONE)
        return fault(p, rules, node, why, now);
    if (node->verdict->reason == NODE_REASON_KEPT)
        return (struct ejections_event){NODE_EVENT_CLEAR, NODE_REASON_NONE};
    return nothing;
}

static struct ejections_event look_at_probation(struct ejections *p,
                                                const struct ejections_rules *rules,
                                                const struct ejections_node *node,
                                                const struct ejection_counts *counts,
                                                uint64_t now)
{
    enum node_reason result = ejection_probation(&p->ejection, counts);

    if (result == NODE_REASON_FAILURES) /* the same again, most likely */
        return take_out(p, rules, node,
                        node->verdict->ejected == NODE_REASON_ODD ? NODE_REASON_ODD : result,
                        now);
    if (result == NODE_REASON_PROBES_PASS)
        return (struct ejections_event){NODE_EVENT_CLEAR, NODE_REASON_NONE};
    return nothing; /* no request has ended */
}

/* The back-off is over, or too few nodes of its models are left. */
static bool may_be_tried(struct ejections *p, const struct ejections_node *node, uint64_t now)
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

struct ejections_event ejections_look(struct ejections *ejections, struct scoreboard *board,
                                      const struct ejections_rules *rules,
                                      const struct ejections_node *node, uint64_t now_mono_us)
{
    const struct verdict *verdict = node->verdict;
    struct outcomes seen;
    struct outcomes_clients clients = outcomes_take_clients(board, node->node_id);
    struct ejection_counts counts = read_counts(board, node->node_id, &seen);

    counts.answered_clients = clients.answered;
    counts.contradicted_clients = clients.contradicted;

    switch (verdict->state) {
    case NODE_UP:
        return look_at_up(ejections, rules, node, &counts, now_mono_us);
    case NODE_PROBATION:
        return look_at_probation(ejections, rules, node, &counts, now_mono_us);
    case NODE_EJECTED:
    case NODE_DOWN:
    case NODE_JOINING:
    case NODE_DRAINING:
        if (verdict->ejected != NODE_REASON_NONE && !verdict->probation &&
            may_be_tried(ejections, node, now_mono_us))
            return (struct ejections_event){NODE_EVENT_PROBATION, NODE_REASON_NONE};
        break;
    case NODE_NONE:
    case NODE_GONE:
        break;
    }
    return nothing;
}

/* ---- what happens to the node ---------------------------------------------------------- */

void ejections_init(struct ejections *ejections, const struct scoreboard *board,
                    unsigned node_id, const struct ejections_rules *rules, bool ejected,
                    uint64_t now_mono_us)
{
    struct outcomes seen;
    struct ejection_counts counts = read_counts(board, node_id, &seen);

    ejection_init(&ejections->ejection, &counts, now_mono_us);
    /* Adopted while it was ejected: its back-off is not known any more and begins again. */
    if (ejected)
        ejections->until_mono_us =
            now_mono_us + ejection_begin(&ejections->ejection, &rules->limits, random64());
}

void ejections_turned(struct ejections *ejections, struct scoreboard *board, unsigned node_id,
                      enum node_state before, enum node_state now, uint64_t now_mono_us)
{
    ejections->ramp_mono_us = 0;
    ejections->odd = false;
    ejections->odd_mono_us = 0;
    if (now == NODE_UP || now == NODE_PROBATION) {
        struct outcomes seen;
        struct ejection_counts counts = read_counts(board, node_id, &seen);

        ejection_restart(&ejections->ejection, &counts, now_mono_us);
        outcomes_begin_probation(board, node_id, &seen);
    }
    if (now == NODE_UP && before != NODE_JOINING)
        ejections->ramp_mono_us = now_mono_us;
}

void ejections_take_over(struct ejections *ejections, struct scoreboard *board,
                         unsigned node_id, const struct ejections_rules *rules,
                         enum node_state state, uint32_t slots_open, uint32_t slots,
                         uint64_t now_mono_us)
{
    uint64_t since_us;

    /* A result that came while no health process ran is not known any more, and it would close
     * the node for good: another request is sent. */
    if (state == NODE_PROBATION)
        ejections_turned(ejections, board, node_id, state, state, now_mono_us);
    if (state != NODE_UP || slots_open >= slots)
        return;
    since_us = ramp_since_us(slots, slots_open, rules->ramp_us);
    ejections->ramp_mono_us = now_mono_us > since_us ? now_mono_us - since_us : 1;
}

void ejections_progress(struct ejections *ejections, uint64_t progress, uint64_t now_mono_us)
{
    if (progress != ejections->progress)
        ejections->progress_mono_us = now_mono_us;
    ejections->progress = progress;
}

uint32_t ejections_slots(struct ejections *ejections, const struct ejections_rules *rules,
                         enum node_state state, uint32_t slots, uint64_t now_mono_us)
{
    uint32_t open = slots;

    if (state == NODE_PROBATION)
        return 1;
    if (ejections->ramp_mono_us == 0)
        return slots;
    open = ramp_slots(slots, now_mono_us - ejections->ramp_mono_us, rules->ramp_us);
    if (open == slots)
        ejections->ramp_mono_us = 0;
    return open;
}
