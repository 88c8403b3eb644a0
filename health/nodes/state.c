/* state.c - one node: its verdict, the pace of its probe, its row. */
#include "health/nodes/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/log.h"
#include "policy/fault/noise.h"
#include "shm/facts/stats.h"
#include "shm/scoreboard.h"

#define EAGER_PROBES 20u

/* ---- life -------------------------------------------------------------------------------- */

static void read_sample(const struct node *node)
{
    const struct scoreboard *board = node->home->board;
    struct recent_stats_sample *sample = node->home->sample;

    stats_read_histogram(board, node->node_id, STATS_TTFT, &sample->ttft);
    stats_read_histogram(board, node->node_id, STATS_TPOT, &sample->tpot);
    for (unsigned c = 0; c < STATS_COUNTERS; c++)
        sample->counter[c] = stats_read_counter(board, node->node_id, (enum stats_counter)c);
}

/* For a new node, and for one that an earlier health process left. */
static struct node *make_member(const struct node_home *home, unsigned node_id)
{
    struct node *node = calloc(1, sizeof(*node));

    if (node == NULL)
        return NULL;
    node->recent_stats = calloc(1, sizeof(*node->recent_stats));
    if (node->recent_stats == NULL) {
        free(node);
        return NULL;
    }
    node->home = home;
    node->node_id = node_id;
    node->leave_by_mono_us = UINT64_MAX;
    node->eager_left = EAGER_PROBES;
    return node;
}

static void begin_records(struct node *node, uint64_t now_mono_us)
{
    struct ejections_rules rules = ejections_rules_of(node->home->config);

    read_sample(node);
    recent_stats_init(node->recent_stats, node->home->sample, now_mono_us);
    ejections_init(&node->ejections, node->home->board, node->node_id, &rules,
                   node->verdict.ejected != NODE_REASON_NONE, now_mono_us);
}

static bool has_model(const struct node_info *info, const char *model)
{
    for (uint32_t i = 0; info != NULL && i < info->models_count; i++)
        if (strcmp(info->models[i].id, model) == 0)
            return true;
    return false;
}

/* Says which models of `info` clients cannot ask for, as an alias has their name, unless that
 * was so with the `before_config` and the `before`, NULL = it had none. */
static void warn_of_hidden(const struct node *node, const struct config *before_config,
                           const struct node_info *before, const struct node_info *info)
{
    const struct config *config = node->home->config;

    for (uint32_t i = 0; i < info->models_count && config->aliases_count != 0; i++) {
        const char *model = info->models[i].id;

        if (!config_alias_hides(config, model) ||
            (has_model(before, model) && config_alias_hides(before_config, model)))
            continue;
        if (node_speaks(node))
            log_warn(
                "event=alias_hides_model model=%s node=%s hint=\"no client can ask for this "
                "model: rename the alias, or list the model in it\"",
                log_quote(model), log_quote(info->name));
    }
}

void node_config_changed(const struct node *node, const struct config *before)
{
    warn_of_hidden(node, before, &node->info, &node->info);
}

bool node_speaks(const struct node *node)
{
    uint32_t missed;

    if (!noise_allows(node->home->noise, node->info.name, clock_mono_us(), &missed))
        return false;
    if (missed != 0)
        log_warn("event=node_noisy node=%s lines_left_out=%u", log_quote(node->info.name),
                 missed);
    return true;
}

struct node *node_create(const struct node_home *home, const struct node_info *info)
{
    uint64_t now = clock_mono_us();
    int old = nodes_find(home->board, info->name);
    struct node_status status;
    struct node *node;
    int node_id;

    /* The row of an earlier node of this name: one name, one row. */
    if (old != -1)
        nodes_release(home->board, (unsigned)old);
    node_id = nodes_claim(home->board, now);
    if (node_id == -1)
        return NULL;
    node = make_member(home, (unsigned)node_id);
    if (node == NULL) {
        nodes_release(home->board, (unsigned)node_id);
        return NULL;
    }
    node->generation =
        nodes_status(home->board, node->node_id, &status) ? status.generation : 0;
    node->met_mono_us = now;
    node_state_init(&node->verdict, home->config->health.rise, home->config->health.fall);
    begin_records(node, now);
    node_publish(node, info);
    if (node_speaks(node))
        log_info("event=node_known node=%s origin=%s address=%s node_id=%u generation=%u",
                 log_quote(info->name),
                 info->origin == NODE_ORIGIN_STATIC ? "static" : "registry",
                 log_quote(info->address), node->node_id, node->generation);
    return node;
}

struct node *node_adopt(const struct node_home *home, unsigned node_id,
                        const struct node_info *info, const struct node_status *status)
{
    struct node *node = make_member(home, node_id);
    struct ejections_rules rules = ejections_rules_of(home->config);
    uint64_t now = clock_mono_us();

    if (node == NULL)
        return NULL;
    node->generation = info->generation;
    node_info_copy(&node->info, info);
    node->models_in_row = info->models_count;
    node->adopted = true;
    warn_of_hidden(node, home->config, NULL, info);
    node_state_adopt(&node->verdict, status->state, status->reason, status->drain_wanted,
                     home->config->health.rise, home->config->health.fall);
    begin_records(node, now);
    ejections_take_over(&node->ejections, home->board, node_id, &rules, status->state,
                        status->slots_now, info->slots, now);
    return node;
}

void node_destroy(struct node *node, bool empty)
{
    const struct node_home *home = node->home;
    struct node_status status;

    probe_destroy(node->probe);
    timer_stop(home->loop, &node->idle_timer);
    timer_stop(home->loop, &node->lease_timer);
    loop_undefer(home->loop, &node->free_later);
    SSL_CTX_free(node->tls);
    free(node->tls_name);
    free(node->config_name);
    free(node->recent_stats);
    /* A GONE row may have got another node in the turn before it is freed. */
    if (empty && nodes_status(home->board, node->node_id, &status) &&
        status.generation == node->generation)
        nodes_release(home->board, node->node_id);
    free(node);
}

/* ---- the probe's pace -------------------------------------------------------------------- */

void node_begin_eager(struct node *node)
{
    node->eager_left = EAGER_PROBES;
    node_set_pace(node);
}

void node_hurry(struct node *node)
{
    node->eager_left = EAGER_PROBES;
    if (node->probe == NULL)
        return;
    probe_set_pace(node->probe, PROBE_EAGER);
    probe_now(node->probe);
}

void node_set_pace(struct node *node)
{
    const struct verdict *verdict = &node->verdict;
    enum probe_pace pace = PROBE_STEADY;

    if (verdict->state == NODE_UP || verdict->state == NODE_DRAINING)
        node->eager_left = 0;
    if (node->eager_left != 0) {
        node->eager_left--;
        pace = PROBE_EAGER;
    } else if (node_state_in_doubt(verdict)) {
        pace = PROBE_DOUBTING;
    }
    probe_set_pace(node->probe, pace);
}

/* ---- state and row ----------------------------------------------------------------------- */

bool node_step(struct node *node, enum node_event event, enum node_reason why)
{
    struct scoreboard *board = node->home->board;
    enum node_state before = node->verdict.state;
    uint64_t now_mono_us = clock_mono_us();
    enum node_state now;

    if (!node_state_step(&node->verdict, event, why))
        return false;
    now = node->verdict.state;
    if (now != before) { /* before others can see it UP or on PROBATION */
        ejections_turned(&node->ejections, board, node->node_id, before, now, now_mono_us);
        node_open_slots(node);
    }
    nodes_set_state(board, node->node_id, now, node->verdict.reason, now_mono_us);
    if (now != before && node_speaks(node))
        log_info("event=node_state node=%s from=%s to=%s reason=%s by=%s",
                 log_quote(node->info.name), node_state_name(before), node_state_name(now),
                 node_reason_name(node->verdict.reason), node_event_name(event));
    return true;
}

/* Writes node->info to the row.  Without room there for more models the row keeps as many as it
 * had, says so, and gets the others when there is room: node_advance_window() tries. */
static void write_row(struct node *node)
{
    struct node_info row;
    struct error err;
    uint32_t missed;

    node_info_copy(&row, &node->info);
    node->short_of_room = scoreboard_room_for_models(node->home->board, node->node_id,
                                                     row.models_count, &err) != 0;
    if (!node->short_of_room) {
        node->models_in_row = row.models_count;
    } else {
        if (row.models_count > node->models_in_row)
            row.models_count = node->models_in_row;
        (void)strlcpy(row.detail, err.text, sizeof(row.detail));
        if (log_limit_minute(&node->room_limit, &missed))
            log_error("event=models_left_out node=%s models=%u of=%u error=%s missed=%u",
                      log_quote(row.name), row.models_count, node->info.models_count,
                      log_quote(err.text), missed);
    }
    nodes_publish(node->home->board, node->node_id, &row);
}

void node_publish(struct node *node, const struct node_info *info)
{
    struct node_info next;

    node_info_copy(&next, info);
    next.generation = node->generation;
    if (node_info_equal(&next, &node->info))
        return;
    warn_of_hidden(node, node->home->config, &node->info, &next);
    node_info_copy(&node->info, &next);
    write_row(node);
    node_open_slots(node);
}

void node_set_detail(struct node *node, const char *detail)
{
    if (strcmp(node->info.detail, detail) == 0)
        return;
    (void)snprintf(node->info.detail, sizeof(node->info.detail), "%s", detail);
    write_row(node);
}

void node_open_slots(struct node *node)
{
    struct ejections_rules rules = ejections_rules_of(node->home->config);

    nodes_set_slots_now(node->home->board, node->node_id,
                        ejections_slots(&node->ejections, &rules, node->verdict.state,
                                        node->info.slots, clock_mono_us()));
}

void node_advance_window(struct node *node)
{
    struct node_status figures = {0};

    read_sample(node);
    recent_stats_advance(node->recent_stats, node->home->sample, clock_mono_us());
    recent_stats_figures(node->recent_stats, &figures);
    nodes_set_window(node->home->board, node->node_id, &figures);
    if (node->short_of_room)
        write_row(node);
}
