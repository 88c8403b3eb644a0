/*
 * table.c - the nodes this process looks after, and the one place that takes events about them.
 *
 * A node ends in node_table_event() when its verdict is GONE (at the end of the turn), and by
 * table_remove() when another takes its place, which happens in no event of its probe.
 */
#include "health/nodes/table.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/log.h"
#include "health/registry/fence.h"
#include "policy/fault/flap.h"
#include "policy/fault/noise.h"
#include "proto/rpc/h2/tls.h"
#include "shm/facts/requests.h"
#include "shm/facts/stats.h"
#include "shm/scoreboard.h"
#include "shm/share/gauges.h"

#define GAUGE_AUDIT_US US_PER_S
#define IDLE_LOOK_US   (20 * US_PER_MS)
#define IDLE_LOOKS     5u /* a worker may be about to send what it decided just before */

_Static_assert(FLAP_NAME_BYTES == NODE_NAME_BYTES, "a name is a name everywhere");

/* ---- the list ---------------------------------------------------------------------------- */

struct node *node_table_find(const struct node_table *table, const char *name)
{
    for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL; m = TAILQ_NEXT(m, link)) {
        if (m->verdict.state != NODE_GONE && strcmp(m->info.name, name) == 0)
            return m;
    }
    return NULL;
}

static struct node *link_node(struct node_table *table, struct node *node)
{
    if (node == NULL)
        return NULL;
    node->table = table;
    TAILQ_INSERT_TAIL(&table->nodes, node, link);
    table->count++;
    return node;
}

struct node *table_add(struct node_table *table, const struct node_info *info)
{
    return link_node(table, node_create(&table->home, info));
}

void table_remove(struct node *node, bool empty)
{
    TAILQ_REMOVE(&node->table->nodes, node, link);
    node->table->count--;
    node->table->shares_known = false;
    node_destroy(node, empty);
}

/* ---- events ------------------------------------------------------------------------------ */

static void free_gone(struct deferred *deferred)
{
    struct node *node = CONTAINER_OF(deferred, struct node, free_later);

    table_remove(node, node->info.origin == NODE_ORIGIN_STATIC);
}

static void end(struct node *node)
{
    const struct node_home *home = node->home;

    timer_stop(home->loop, &node->idle_timer);
    timer_stop(home->loop, &node->lease_timer);
    if (node->stream != NULL) {
        home->node_stream_ops->left(node->stream);
        node->stream = NULL;
    }
    loop_defer(home->loop, &node->free_later, free_gone);
}

/* Acts on a verdict that has moved. */
static void follow(struct node *node, enum node_state before)
{
    struct node_table *table = node->table;
    enum node_state now = node->verdict.state;

    if (table->shares_known)
        model_shares_move(&table->shares, &node->info, before, now);
    if (node->verdict.leaving == NODE_REASON_NONE)
        timer_stop(table->home.loop, &node->idle_timer);
    if (now == NODE_DOWN && before != NODE_DOWN && before != NODE_JOINING)
        flap_lost(table->flap, node->info.name,
                  table->home.config->health.flap_wait_ms * US_PER_MS, clock_mono_us());
    if (now == NODE_GONE)
        end(node);
    else if (now == NODE_JOINING && before != NODE_JOINING)
        node_hurry(node);
}

void node_table_event(struct node *node, enum node_event event, enum node_reason why)
{
    enum node_state before = node->verdict.state;

    if (node_step(node, event, why))
        follow(node, before);
    else if (event == NODE_EVENT_LEASE_BACK)
        node_hurry(node);
}

static void on_idle_look(struct timer *timer)
{
    struct node *node = CONTAINER_OF(timer, struct node, idle_timer);
    const struct node_home *home = node->home;
    struct gauge open = gauges_sum(home->board, node->node_id, node->generation);

    node->idle_looks = open.inflight == 0 ? node->idle_looks + 1 : 0;
    if (node->idle_looks >= IDLE_LOOKS || clock_mono_us() >= node->leave_by_mono_us) {
        if (open.inflight != 0 && node_speaks(node))
            log_warn("event=node_left_busy node=%s open=%u", log_quote(node->info.name),
                     open.inflight);
        node_table_event(node, NODE_EVENT_IDLE, NODE_REASON_NONE);
        return;
    }
    timer_start(home->loop, timer, IDLE_LOOK_US, on_idle_look);
}

void table_leave(struct node *node, enum node_reason why, uint64_t limit_us)
{
    node->idle_looks = 0;
    node->leave_by_mono_us = limit_us == UINT64_MAX ? UINT64_MAX : clock_mono_us() + limit_us;
    node_table_event(node, NODE_EVENT_LEAVE, why);
    timer_start(node->home->loop, &node->idle_timer, IDLE_LOOK_US, on_idle_look);
}

int node_table_drain(struct node_table *table, const char *name, bool drain)
{
    struct node *node = node_table_find(table, name);

    if (node == NULL)
        return DRV_ENOENT;
    log_info("event=node_drain_wanted node=%s drain=%s", log_quote(name), drain ? "yes" : "no");
    nodes_set_drain_wanted(table->home.board, node->node_id, drain);
    node_table_event(node, drain ? NODE_EVENT_DRAIN : NODE_EVENT_UNDRAIN, NODE_REASON_OPERATOR);
    if (node->stream != NULL)
        table->home.node_stream_ops->drain(node->stream, drain);
    return 0;
}

/* ---- how requests go there --------------------------------------------------------------- */

static bool may_be_out(const void *data)
{
    const struct node *node = data;
    struct node_table *table = node->table;

    if (!table->shares_known) {
        model_shares_clear(&table->shares);
        for (const struct node *m = TAILQ_FIRST(&table->nodes); m != NULL;
             m = TAILQ_NEXT(m, link))
            model_shares_add(&table->shares, &m->info, m->verdict.state);
        table->shares_known = true;
    }
    return model_shares_allow(&table->shares, &node->info, node->verdict.state);
}

static bool share_model(const struct node_info *one, const struct node_info *other)
{
    for (uint32_t i = 0; i < one->models_count; i++)
        for (uint32_t j = 0; j < other->models_count; j++)
            if (strcmp(one->models[i].id, other->models[j].id) == 0)
                return true;
    return false;
}

static struct odd_counts best_peer(const void *data)
{
    const struct node *node = data;
    struct odd_counts best = {0};

    for (const struct node *m = TAILQ_FIRST(&node->table->nodes); m != NULL;
         m = TAILQ_NEXT(m, link))
        if (m != node && m->verdict.state == NODE_UP && share_model(&node->info, &m->info))
            best = odd_better(best, ejection_odd_counts(&m->ejections.ejection));
    return best;
}

static void look_at_record(struct node *node, const struct ejections_rules *rules,
                           uint64_t now_mono_us)
{
    struct ejections_node view = {.name = node->info.name,
                                  .node_id = node->node_id,
                                  .verdict = &node->verdict,
                                  .may_be_out = may_be_out,
                                  .best_peer = best_peer,
                                  .data = node};
    struct ejections_event found =
        ejections_look(&node->ejections, node->home->board, rules, &view, now_mono_us);

    node->table->ejections += found.event == NODE_EVENT_EJECT;
    node->table->kept += found.event == NODE_EVENT_KEEP;
    if (found.event != NODE_EVENT_NONE)
        node_table_event(node, found.event, found.why);
    if (node->ejections.ramp_mono_us != 0)
        node_open_slots(node);
}

static void on_ejections(struct timer *timer)
{
    struct node_table *table = CONTAINER_OF(timer, struct node_table, ejections_timer);
    struct ejections_rules rules = ejections_rules_of(table->home.config);
    uint64_t now_mono_us = clock_mono_us();

    for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL; m = TAILQ_NEXT(m, link))
        look_at_record(m, &rules, now_mono_us); /* ends none */
    table->shares_known = false;
    timer_start(table->home.loop, timer, EJECTIONS_LOOK_US, on_ejections);
}

static void on_recent_stats(struct timer *timer)
{
    struct node_table *table = CONTAINER_OF(timer, struct node_table, recent_stats_timer);

    for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL; m = TAILQ_NEXT(m, link))
        node_advance_window(m);
    timer_start(table->home.loop, timer, RECENT_STATS_STEP_US, on_recent_stats);
}

/* ---- do the gauges agree with the requests? ---------------------------------------------- */

struct open_on_node {
    uint32_t count;
    uint32_t ending;
    uint64_t oldest_mono_us;
};

/* Counts the open requests of each node, by the workers' tables.  False: a table is full, so
 * there are requests that have no row. */
static bool count_open(const struct node_table *table, struct open_on_node *open)
{
    const struct scoreboard *board = table->home.board;

    for (unsigned w = 0; w < scoreboard_max_workers(board); w++) {
        uint32_t high = 0;
        uint32_t count = requests_count(board, w, &high);

        if (count == 0)
            continue;
        if (count >= scoreboard_requests_per_worker(board))
            return false;
        for (uint32_t row = 0; row < high; row++) {
            struct request_view view;

            if (!requests_read(board, w, row, &view) ||
                view.node >= scoreboard_max_nodes(board) || view.phase == REQUEST_FREE ||
                view.phase == REQUEST_QUEUED)
                continue;
            if (view.phase == REQUEST_FLUSH)
                open[view.node].ending++;
            else
                open[view.node].count++;
            if (view.opened_mono_us < open[view.node].oldest_mono_us)
                open[view.node].oldest_mono_us = view.opened_mono_us;
        }
    }
    return true;
}

static uint64_t traffic(const struct node_table *table, unsigned node_id)
{
    uint64_t sum = 0;

    for (int c = STATS_DISPATCHED; c <= STATS_CONNECT_FAILED; c++)
        sum += stats_read_counter(table->home.board, node_id, (enum stats_counter)c);
    return sum;
}

static void look(struct node *node, const struct open_on_node *open)
{
    struct node_table *table = node->table;
    struct gauge gauge = gauges_sum(table->home.board, node->node_id, node->generation);
    struct gauge_audit_look at = {
        .generation = node->generation,
        .gauge = gauge.inflight,
        .open = open->count,
        .ending = open->ending,
        .traffic = traffic(table, node->node_id),
    };

    /* Rows have no generation: rows that may belong to an earlier node of
     * this id make the audit worthless. */
    if (open->oldest_mono_us < node->met_mono_us)
        at.generation = 0;
    if (!gauge_audit_step(&node->gauge_audit, &at))
        return;
    table->violations++;
    log_error("event=gauge_violation node=%s gauge=%u open_requests=%u",
              log_quote(node->info.name), at.gauge, at.open);
}

static void on_gauge_audit(struct timer *timer)
{
    struct node_table *table = CONTAINER_OF(timer, struct node_table, gauge_audit_timer);
    unsigned n = scoreboard_max_nodes(table->home.board);
    struct open_on_node *open = malloc(n * sizeof(*open));

    if (open != NULL) {
        for (unsigned i = 0; i < n; i++)
            open[i] = (struct open_on_node){.oldest_mono_us = UINT64_MAX};
        if (count_open(table, open)) {
            for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL;
                 m = TAILQ_NEXT(m, link))
                look(m, &open[m->node_id]);
        }
        free(open);
    }
    timer_start(table->home.loop, timer, GAUGE_AUDIT_US, on_gauge_audit);
}

/* ---- life -------------------------------------------------------------------------------- */

static void adopt(struct node_table *table, unsigned node_id)
{
    struct node_info *info = malloc(sizeof(*info));
    struct node_status status;
    struct node *node = NULL;

    if (info != NULL && nodes_read(table->home.board, node_id, info) &&
        nodes_status(table->home.board, node_id, &status))
        node = link_node(table, node_adopt(&table->home, node_id, info, &status));
    free(info);
    if (node == NULL) {
        nodes_release(table->home.board, node_id);
        return;
    }
    log_info("event=node_adopted node=%s state=%s reason=%s", log_quote(node->info.name),
             node_state_name(status.state), node_reason_name(status.reason));
}

/* Frees a table without nodes, timers or TLS.  NULL is allowed. */
static void release(struct node_table *table)
{
    if (table == NULL)
        return;
    model_shares_finish(&table->shares);
    free(table->sample);
    free(table->fence);
    free(table->flap);
    free(table->noise);
    free(table);
}

int node_table_create(struct node_table **out, struct loop *loop, struct scoreboard *board,
                      const struct config *config, struct error *err)
{
    const struct config_tls *join = &config->registry.listen.tls;
    struct node_table *table = calloc(1, sizeof(*table));

    *out = NULL;
    if (table != NULL) {
        table->sample = calloc(1, sizeof(*table->sample));
        table->fence = calloc(1, sizeof(*table->fence));
        table->flap = calloc(1, sizeof(*table->flap));
        table->noise = calloc(1, sizeof(*table->noise));
    }
    if (table == NULL || table->sample == NULL || table->fence == NULL || table->flap == NULL ||
        table->noise == NULL) {
        release(table);
        return error_set(err, DRV_ENOMEM, "out of memory");
    }
    table->home = (struct node_home){.loop = loop,
                                     .board = board,
                                     .config = config,
                                     .sample = table->sample,
                                     .noise = table->noise};
    TAILQ_INIT(&table->nodes);
    table->alive_mono_us = clock_mono_us();
    if (join->enabled || join->ca != NULL) {
        int rc = tls_client_context(&table->registry_tls, join, err);

        if (rc != 0) {
            node_table_destroy(table);
            return error_wrap(err, rc, "registry.tls");
        }
    }
    nodes_repair(board);
    for (unsigned i = 0; i < scoreboard_max_nodes(board); i++) {
        enum node_state state = nodes_state(board, i);

        if (state != NODE_NONE && state != NODE_GONE)
            adopt(table, i);
    }
    timer_start(loop, &table->recent_stats_timer, RECENT_STATS_STEP_US, on_recent_stats);
    timer_start(loop, &table->gauge_audit_timer, GAUGE_AUDIT_US, on_gauge_audit);
    timer_start(loop, &table->ejections_timer, EJECTIONS_LOOK_US, on_ejections);
    *out = table;
    return 0;
}

void node_table_destroy(struct node_table *table)
{
    if (table == NULL)
        return;
    while (!TAILQ_EMPTY(&table->nodes))
        table_remove(TAILQ_FIRST(&table->nodes), false);
    timer_stop(table->home.loop, &table->recent_stats_timer);
    timer_stop(table->home.loop, &table->gauge_audit_timer);
    timer_stop(table->home.loop, &table->ejections_timer);
    SSL_CTX_free(table->registry_tls);
    release(table);
}
