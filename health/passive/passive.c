/* passive.c - what the workers' experience does to a node. */
#include "health/passive/passive.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/log.h"
#include "health/table.h"
#include "policy/fault/ramp.h"
#include "shm/outcomes.h"
#include "shm/scoreboard.h"

#define LOOK_US  (100 * US_PER_MS)
#define SHARE_US US_PER_S /* between two looks at the share of nodes */

static struct eject_limits limits_of(const struct table *table)
{
    const struct config_health *config = &table->config->health;

    return (struct eject_limits){
        .failures = config->eject_failures,
        .success_pct = config->eject_success_pct,
        .min_requests = config->eject_min_requests,
        .window_us = config->eject_window_ms * US_PER_MS,
        .backoff_us = config->eject_backoff_ms * US_PER_MS,
        .backoff_max_us = config->eject_backoff_max_ms * US_PER_MS,
    };
}

/* What the workers noted of the node, in both forms. */
static struct eject_counts read_counts(const struct member *member, struct outcomes *seen)
{
    outcomes_read(member->table->board, member->slot, seen);
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

/* ---- the share of a model's nodes ------------------------------------------------------ */

static bool serves(const struct member *member, const char *model)
{
    for (uint32_t i = 0; i < member->info.models_count; i++) {
        if (strcmp(member->info.models[i].id, model) == 0)
            return true;
    }
    return false;
}

/* Would each model keep half of its nodes without this one?  What drains or has not yet joined
 * is no node of a model here. */
static bool may_be_out(const struct member *member)
{
    const struct table *table = member->table;

    for (uint32_t i = 0; i < member->info.models_count; i++) {
        const struct node_model *model = &member->info.models[i];
        uint32_t serving = 1, total = 1; /* this one */

        if (model->alias_of != 0)
            continue; /* another name of one that is looked at */
        for (const struct member *m = table->members.next; m != &table->members; m = m->next) {
            enum node_state state = m->verdict.state;

            if (m == member || (state != NODE_UP && state != NODE_TRIAL &&
                                state != NODE_EJECTED && state != NODE_DOWN))
                continue;
            if (!serves(m, model->id))
                continue;
            total++;
            serving += state == NODE_UP;
        }
        if (!eject_allowed(serving, total))
            return false;
    }
    return true;
}

/* ---- out, and in again ----------------------------------------------------------------- */

static void take_out(struct member *member, enum node_reason why)
{
    struct table *table = member->table;
    struct passive *p = &member->passive;
    struct eject_limits limits = limits_of(table);
    uint64_t out_us = eject_begin(&p->eject, &limits, random64());

    p->until_mono_us = clock_mono_us() + out_us;
    p->share_mono_us = 0;
    table->ejections++;
    log_warn("event=node_ejected node=%s reason=%s failures_in_a_row=%u times=%u out_ms=%llu",
             log_quote(member->info.name), node_reason_name(why), p->eject.last.run,
             p->eject.times, (unsigned long long)(out_us / US_PER_MS));
    member_event(member, VERDICT_EJECT, why);
}

static void judge(struct member *member, enum node_reason why, uint64_t now)
{
    struct passive *p = &member->passive;
    bool spared = member->verdict.reason == NODE_REASON_SPARED;

    if (spared && now < p->share_mono_us)
        return;
    p->share_mono_us = now + SHARE_US;
    if (may_be_out(member)) {
        take_out(member, why);
    } else if (!spared) {
        member->table->spared++;
        log_warn("event=node_spared node=%s reason=%s failures_in_a_row=%u "
                 "hint=\"its requests fail, but without it less than half of a model's nodes "
                 "would be left\"",
                 log_quote(member->info.name), node_reason_name(why), p->eject.last.run);
        member_event(member, VERDICT_SPARE, why);
    }
}

/* Has the node's own count of work grown within a fraction of the time in which silence becomes
 * a failure? */
static bool advances(const struct member *member, uint64_t now)
{
    const struct config_limits *limits = &member->table->config->limits;
    uint32_t ms = limits->first_token_ms < limits->idle_token_ms ? limits->first_token_ms
                                                                 : limits->idle_token_ms;
    const struct passive *p = &member->passive;

    return p->progress_mono_us != 0 && now - p->progress_mono_us < ms / 4 * US_PER_MS;
}

static void look_at_up(struct member *member, const struct eject_counts *counts, uint64_t now)
{
    struct passive *p = &member->passive;
    struct eject_limits limits = limits_of(member->table);
    enum node_reason why = eject_look(&p->eject, &limits, counts, advances(member, now), now);

    if (why != NODE_REASON_NONE)
        judge(member, why, now);
    else if (member->verdict.reason == NODE_REASON_SPARED)
        member_event(member, VERDICT_ABSOLVE, NODE_REASON_NONE);
}

static void look_at_trial(struct member *member, const struct eject_counts *counts)
{
    switch ((int)eject_trial(&member->passive.eject, counts)) {
    case NODE_REASON_FAILURES:
        take_out(member, NODE_REASON_FAILURES);
        break;
    case NODE_REASON_PROBES_PASS:
        member_event(member, VERDICT_ABSOLVE, NODE_REASON_NONE);
        break;
    default: /* no request has ended */
        break;
    }
}

/* Its time is up, or it is needed more than it is feared. */
static bool may_be_tried(struct member *member, uint64_t now)
{
    struct passive *p = &member->passive;

    if (now >= p->until_mono_us)
        return true;
    if (now < p->share_mono_us)
        return false;
    p->share_mono_us = now + SHARE_US;
    if (may_be_out(member))
        return false;
    log_warn("event=ejection_cut_short node=%s hint=\"too few nodes of its models are up\"",
             log_quote(member->info.name));
    return true;
}

static void look(struct member *member, uint64_t now)
{
    const struct verdict *verdict = &member->verdict;
    struct outcomes seen;
    struct eject_counts counts = read_counts(member, &seen);

    switch (verdict->state) {
    case NODE_UP:
        look_at_up(member, &counts, now);
        break;
    case NODE_TRIAL:
        look_at_trial(member, &counts);
        break;
    case NODE_EJECTED:
    case NODE_DOWN:
    case NODE_JOINING:
    case NODE_DRAINING:
        if (verdict->ejected != NODE_REASON_NONE && !verdict->trial &&
            may_be_tried(member, now))
            member_event(member, VERDICT_TRY, NODE_REASON_NONE);
        break;
    case NODE_NONE:
    case NODE_GONE:
        return;
    }
    if (member->passive.ramp_mono_us != 0)
        passive_open_slots(member);
}

static void on_look(struct timer *timer)
{
    struct table *table = CONTAINER_OF(timer, struct table, passive_timer);
    uint64_t now = clock_mono_us();
    struct member *next;

    for (struct member *m = table->members.next; m != &table->members; m = next) {
        next = m->next;
        look(m, now);
    }
    timer_start(table->loop, timer, LOOK_US, on_look);
}

void passive_start(struct table *table)
{
    timer_start(table->loop, &table->passive_timer, LOOK_US, on_look);
}

void passive_stop(struct table *table)
{
    timer_stop(table->loop, &table->passive_timer);
}

/* ---- what happens to the member -------------------------------------------------------- */

void passive_init(struct member *member)
{
    struct passive *p = &member->passive;
    struct eject_limits limits = limits_of(member->table);
    struct outcomes seen;
    struct eject_counts counts = read_counts(member, &seen);
    uint64_t now = clock_mono_us();

    eject_init(&p->eject, &counts, now);
    /* Taken over while it was out: for how long it was to stay so, nobody knows any more. */
    if (member->verdict.ejected != NODE_REASON_NONE)
        p->until_mono_us = now + eject_begin(&p->eject, &limits, random64());
}

void passive_turned(struct member *member, enum node_state before)
{
    struct passive *p = &member->passive;
    uint64_t now = clock_mono_us();

    if (member->verdict.state == before)
        return;
    p->ramp_mono_us = 0;
    if (member->verdict.state == NODE_UP || member->verdict.state == NODE_TRIAL) {
        struct outcomes seen;
        struct eject_counts counts = read_counts(member, &seen);

        eject_restart(&p->eject, &counts, now);
        outcomes_begin_trial(member->table->board, member->slot, &seen);
    }
    if (member->verdict.state == NODE_UP && before != NODE_JOINING)
        p->ramp_mono_us = now;
    passive_open_slots(member);
}

void passive_progress(struct member *member, uint64_t progress)
{
    struct passive *p = &member->passive;

    if (progress > p->progress)
        p->progress_mono_us = clock_mono_us();
    p->progress = progress;
}

void passive_open_slots(struct member *member)
{
    struct table *table = member->table;
    struct passive *p = &member->passive;
    uint32_t slots = member->info.slots;
    uint32_t open = slots;

    if (member->verdict.state == NODE_TRIAL) {
        open = 1;
    } else if (p->ramp_mono_us != 0) {
        open = ramp_slots(slots, clock_mono_us() - p->ramp_mono_us,
                          table->config->health.ramp_ms * US_PER_MS);
        if (open == slots)
            p->ramp_mono_us = 0;
    }
    nodes_set_slots_now(table->board, member->slot, open);
}
