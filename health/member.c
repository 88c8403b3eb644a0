/* member.c - one node: its verdict, the pace of its probe, its row. */
#include "health/member.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/log.h"
#include "shm/scoreboard.h"
#include "shm/stats.h"

#define EAGER_PROBES 20u

/* ---- life -------------------------------------------------------------------------------- */

static void read_sample(const struct member *member)
{
    const struct scoreboard *board = member->home->board;
    struct window_sample *sample = member->home->sample;

    stats_read_histogram(board, member->slot, STATS_TTFT, &sample->ttft);
    stats_read_histogram(board, member->slot, STATS_TPOT, &sample->tpot);
    for (unsigned c = 0; c < STATS_COUNTERS; c++)
        sample->counter[c] = stats_read_counter(board, member->slot, (enum stats_counter)c);
}

/* For a new node, and for one that an earlier health process left. */
static struct member *make_member(const struct member_home *home, unsigned slot)
{
    struct member *member = calloc(1, sizeof(*member));

    if (member == NULL)
        return NULL;
    member->window = calloc(1, sizeof(*member->window));
    if (member->window == NULL) {
        free(member);
        return NULL;
    }
    member->home = home;
    member->slot = slot;
    member->leave_by_mono_us = UINT64_MAX;
    member->eager_left = EAGER_PROBES;
    return member;
}

static void begin_records(struct member *member, uint64_t now_mono_us)
{
    struct passive_rules rules = passive_rules_of(member->home->config);

    read_sample(member);
    window_init(member->window, member->home->sample, now_mono_us);
    passive_init(&member->passive, member->home->board, member->slot, &rules,
                 member->verdict.ejected != NODE_REASON_NONE, now_mono_us);
}

struct member *member_create(const struct member_home *home, const struct node_info *info)
{
    uint64_t now = clock_mono_us();
    int old = nodes_find(home->board, info->name);
    struct node_status status;
    struct member *member;
    int slot;

    /* The row of someone of this name who has gone: one name, one row. */
    if (old != -1)
        nodes_release(home->board, (unsigned)old);
    slot = nodes_claim(home->board, now);
    if (slot == -1)
        return NULL;
    member = make_member(home, (unsigned)slot);
    if (member == NULL) {
        nodes_release(home->board, (unsigned)slot);
        return NULL;
    }
    member->generation =
        nodes_status(home->board, member->slot, &status) ? status.generation : 0;
    member->met_mono_us = now;
    verdict_init(&member->verdict, home->config->health.rise, home->config->health.fall);
    begin_records(member, now);
    member_publish(member, info);
    log_info("event=node_known node=%s origin=%s address=%s slot=%u generation=%u",
             log_quote(info->name), info->origin == NODE_ORIGIN_STATIC ? "static" : "registry",
             log_quote(info->address), member->slot, member->generation);
    return member;
}

struct member *member_adopt(const struct member_home *home, unsigned slot,
                            const struct node_info *info, const struct node_status *status)
{
    struct member *member = make_member(home, slot);

    if (member == NULL)
        return NULL;
    member->generation = info->generation;
    member->info = *info;
    member->adopted = true;
    verdict_adopt(&member->verdict, status->state, status->reason, status->drain_wish,
                  home->config->health.rise, home->config->health.fall);
    begin_records(member, clock_mono_us());
    return member;
}

void member_destroy(struct member *member, bool empty)
{
    const struct member_home *home = member->home;
    struct node_status status;

    probe_destroy(member->probe);
    timer_stop(home->loop, &member->idle_timer);
    timer_stop(home->loop, &member->lease_timer);
    loop_undefer(home->loop, &member->burial);
    SSL_CTX_free(member->tls);
    free(member->tls_name);
    free(member->config_name);
    free(member->window);
    /* A GONE row may have got another tenant in the turn that it had to wait for its burial. */
    if (empty && nodes_status(home->board, member->slot, &status) &&
        status.generation == member->generation)
        nodes_release(home->board, member->slot);
    free(member);
}

/* ---- the probe's pace -------------------------------------------------------------------- */

void member_begin_eager(struct member *member)
{
    member->eager_left = EAGER_PROBES;
    member_set_pace(member);
}

void member_hurry(struct member *member)
{
    member->eager_left = EAGER_PROBES;
    if (member->probe == NULL)
        return;
    probe_set_pace(member->probe, PROBE_EAGER);
    probe_now(member->probe);
}

void member_set_pace(struct member *member)
{
    const struct verdict *verdict = &member->verdict;
    enum probe_pace pace = PROBE_STEADY;

    if (verdict->state == NODE_UP || verdict->state == NODE_DRAINING)
        member->eager_left = 0;
    if (member->eager_left != 0) {
        member->eager_left--;
        pace = PROBE_EAGER;
    } else if (verdict_in_doubt(verdict)) {
        pace = PROBE_DOUBTING;
    }
    probe_set_pace(member->probe, pace);
}

/* ---- state and row ----------------------------------------------------------------------- */

bool member_step(struct member *member, enum verdict_event event, enum node_reason why)
{
    struct scoreboard *board = member->home->board;
    enum node_state before = member->verdict.state;
    uint64_t now_mono_us = clock_mono_us();
    enum node_state now;

    if (!verdict_step(&member->verdict, event, why))
        return false;
    now = member->verdict.state;
    if (now != before) { /* before others can see it UP or on TRIAL */
        passive_turned(&member->passive, board, member->slot, before, now, now_mono_us);
        member_open_slots(member);
    }
    nodes_set_state(board, member->slot, now, member->verdict.reason, now_mono_us);
    if (now != before)
        log_info("event=node_state node=%s from=%s to=%s reason=%s by=%s",
                 log_quote(member->info.name), node_state_name(before), node_state_name(now),
                 node_reason_name(member->verdict.reason), verdict_event_name(event));
    return true;
}

void member_publish(struct member *member, const struct node_info *info)
{
    struct node_info next = *info;

    next.generation = member->generation;
    if (memcmp(&next, &member->info, sizeof(next)) == 0)
        return;
    member->info = next;
    nodes_publish(member->home->board, member->slot, &member->info);
    member_open_slots(member);
}

void member_open_slots(struct member *member)
{
    struct passive_rules rules = passive_rules_of(member->home->config);

    nodes_set_slots_now(member->home->board, member->slot,
                        passive_slots(&member->passive, &rules, member->verdict.state,
                                      member->info.slots, clock_mono_us()));
}

void member_advance_window(struct member *member)
{
    struct node_status figures = {0};

    read_sample(member);
    window_advance(member->window, member->home->sample, clock_mono_us());
    window_figures(member->window, &figures);
    nodes_set_window(member->home->board, member->slot, &figures);
}
