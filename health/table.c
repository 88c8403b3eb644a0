/*
 * table.c - the nodes this process looks after.
 *
 * Here: which nodes there are (the configuration, and what an earlier health process left),
 * their addresses, and what is computed over all of them from time to time.
 */
#include "health/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/log.h"
#include "health/names/addresses.h"
#include "health/names/names.h"
#include "health/registry/fence.h"
#include "health/registry/identity.h"
#include "health/registry/lease.h"
#include "health/registry/registry.h"
#include "policy/fault/flap.h"
#include "proto/rpc/h2/tls.h"
#include "shm/procs.h"
#include "shm/routing/gauges.h"
#include "shm/routing/requests.h"
#include "shm/scoreboard.h"

#define INVARIANT_US US_PER_S

struct member *table_find(const struct table *table, const char *name)
{
    for (struct member *m = table->members.next; m != &table->members; m = m->next) {
        if (m->verdict.state != NODE_GONE && strcmp(m->info.name, name) == 0)
            return m;
    }
    return NULL;
}

int table_drain(struct table *table, const char *name, bool drain)
{
    struct member *member = table_find(table, name);

    if (member == NULL)
        return DRV_ENOENT;
    log_info("event=node_drain_wish node=%s drain=%s", log_quote(name), drain ? "yes" : "no");
    nodes_set_drain_wish(table->board, member->slot, drain);
    member_event(member, drain ? VERDICT_DRAIN : VERDICT_UNDRAIN, NODE_REASON_OPERATOR);
    if (member->attach != NULL)
        attach_drain_order(member->attach, drain);
    return 0;
}

/* ---- static nodes ------------------------------------------------------------------------ */

static void set_tls(struct member *member, const struct config_node *node)
{
    struct error err = {0};
    char host[256];
    uint16_t port;

    SSL_CTX_free(member->tls);
    member->tls = NULL;
    free(member->tls_name);
    member->tls_name = NULL;
    if (!node->tls.enabled)
        return;
    if (tls_client_context(&member->tls, &node->tls, &err) != 0) {
        log_error("event=node_tls_bad node=%s why=%s", log_quote(node->name),
                  log_quote(err.text));
        return;
    }
    if (node->tls.server_name != NULL)
        member->tls_name = strdup(node->tls.server_name);
    else if (net_split(node->address, host, sizeof(host), &port, NULL) == 0)
        member->tls_name = strdup(host);
}

/* Puts what the configuration says over what is known. */
static void apply_config(struct node_info *info, const struct config *config, unsigned index)
{
    const struct config_node *node = &config->nodes[index];

    info->origin = NODE_ORIGIN_STATIC;
    info->weight = node->weight;
    info->tls = node->tls.enabled;
    info->config_index = index + 1;
}

struct member *table_add_static(struct table *table, unsigned index, const char *name)
{
    const struct config_node *node = &table->config->nodes[index];
    struct node_info *info = calloc(1, sizeof(*info));
    struct member *member = NULL;

    if (info != NULL) {
        (void)snprintf(info->name, sizeof(info->name), "%s", name);
        identity_capacity(info, NULL);
        identity_override(info, node->slots, node->queue);
        apply_config(info, table->config, index);
        member = member_create(table, info);
        free(info);
    }
    if (member != NULL)
        member->config_name = strdup(node->name);
    if (member == NULL)
        return NULL;
    if (member->config_name == NULL) {
        member_destroy(member, true);
        return NULL;
    }
    set_tls(member, node);
    return member;
}

/* At its address, if the configuration has that; else see names.h. */
static void add_static(struct table *table, unsigned index)
{
    const struct config_node *node = &table->config->nodes[index];
    struct net_addr addr = {0};
    struct member *member;

    if (net_parse(&addr, node->address, NULL) != 0) {
        names_add(table, index);
        return;
    }
    member = table_add_static(table, index, node->name);
    if (member != NULL)
        member_probe(member, &addr);
    else
        log_error("event=node_not_added node=%s why=\"no room in the node table\"",
                  log_quote(node->name));
}

/* Another member takes the name of one that ends here: what an operator wished of it goes on,
 * for the wish is about what the name stands for, not about one entry in a list. */
static void replace(struct table *table, struct member *member, unsigned index)
{
    bool drained = member->verdict.drain_wish;

    if (member->attach != NULL)
        attach_supersede(member->attach, false);
    member_destroy(member, true);
    if (names_find(table, table->config->nodes[index].name) == NULL)
        add_static(table, index);
    if (drained)
        (void)!table_drain(table, table->config->nodes[index].name,
                           true); /* no room: no wish */
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_peer(const struct config_node *a, const struct config_node *b)
{
    return strcmp(a->address, b->address) == 0 && a->tls.enabled == b->tls.enabled &&
           same_text(a->tls.ca, b->tls.ca) && same_text(a->tls.cert, b->tls.cert) &&
           same_text(a->tls.key, b->tls.key) &&
           same_text(a->tls.server_name, b->tls.server_name);
}

static int config_index(const struct config *config, const char *name)
{
    for (unsigned i = 0; i < config->nodes_count; i++) {
        if (strcmp(config->nodes[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

/* A probe keeps its context for as long as it lives: what has changed is put into that. */
static void renew_client_tls(SSL_CTX **tls, const struct config_tls *config, const char *whose)
{
    struct error err = {0};
    SSL_CTX *fresh;
    int rc = tls_client_context(&fresh, config, &err);

    if (rc == 0 && *tls == NULL) {
        *tls = fresh;
        return;
    }
    if (rc == 0) {
        rc = tls_context_take(*tls, fresh);
        SSL_CTX_free(fresh);
    }
    if (rc != 0)
        log_error("event=tls_not_renewed towards=%s why=%s", log_quote(whose),
                  log_quote(err.text));
}

/* The same node, said differently: slots, queue, weight, place in the list. */
static void update_static(struct member *member, const struct config_node *before,
                          unsigned index)
{
    const struct config *config = member->table->config;
    const struct config_node *node = &config->nodes[index];
    struct node_info next = member->info;

    apply_config(&next, config, index);
    if (node->tls.enabled)
        renew_client_tls(&member->tls, &node->tls, node->name);
    if (before->slots == node->slots && before->queue == node->queue) {
        member_publish(member, &next);
        return;
    }
    /* What the node reported is hidden under the old override: set what is said now, and let
     * the next description bring back what no longer is. */
    identity_override(&next, node->slots, node->queue);
    member_publish(member, &next);
    if (member->probe != NULL)
        probe_describe(member->probe);
}

/* Ends those whose entry is no longer there, or names another peer. */
static void forget_sources(struct table *table, const struct config *config,
                           const struct config *before)
{
    struct source *next;

    for (struct source *s = table->sources; s != NULL; s = next) {
        int index = config_index(config, names_name(s));
        int old = before == NULL ? -1 : config_index(before, names_name(s));

        next = names_next(s);
        if (index == -1 ||
            (old != -1 && !same_peer(&before->nodes[old], &config->nodes[index])))
            names_forget(s);
    }
}

static void take_config(struct table *table, const struct config *config,
                        const struct config *before)
{
    struct member *next;
    struct net_addr addr;

    for (struct member *m = table->members.next; m != &table->members; m = next) {
        const char *name = m->config_name == NULL ? m->info.name : m->config_name;
        int index = config_index(config, name);
        int old = before == NULL ? -1 : config_index(before, name);

        next = m->next;
        if (m->verdict.state == NODE_GONE)
            continue;
        m->verdict.rise = config->health.rise;
        m->verdict.fall = config->health.fall;
        if (m->probe != NULL) {
            probe_set_timing(m->probe, config->health.interval_ms * US_PER_MS,
                             config->health.timeout_ms * US_PER_MS);
            probe_set_tokens(m->probe, config->tokens);
        }
        if (m->info.origin == NODE_ORIGIN_REGISTRY) {
            m->replaced = index != -1; /* the configuration has taken its name */
        } else if (index == -1) {
            if (m->verdict.leaving == NODE_REASON_NONE)
                member_leave(m, NODE_REASON_REMOVED, UINT64_MAX);
        } else if (old != -1 && !same_peer(&before->nodes[old], &config->nodes[index])) {
            /* Another machine under the same name.  Which of a host name's nodes that is, the
             * next look-up will tell. */
            if (strcmp(name, m->info.name) == 0)
                m->replaced = true;
            else if (m->verdict.leaving == NODE_REASON_NONE)
                member_leave(m, NODE_REASON_REMOVED, UINT64_MAX);
        } else if (old != -1) {
            update_static(m, &before->nodes[old], (unsigned)index);
            /* What kept it from being probed, a bad certificate, may be mended; names.c looks
             * for itself. */
            if (m->probe == NULL && net_parse(&addr, config->nodes[index].address, NULL) == 0)
                member_probe(m, &addr);
        }
    }
    forget_sources(table, config, before);
    for (unsigned i = 0; i < config->nodes_count; i++) {
        struct member *m = table_find(table, config->nodes[i].name);
        bool looked_after = names_find(table, config->nodes[i].name) != NULL;

        if (m == NULL && !looked_after)
            add_static(table, i);
        /* Taken out by an earlier reload, it is back before it had gone. */
        else if (m != NULL &&
                 (m->replaced || (!looked_after && m->verdict.leaving != NODE_REASON_NONE)))
            replace(table, m, i);
    }
}

void table_reload(struct table *table, const struct config *config)
{
    const struct config *before = table->config;

    table->config = config;
    if (config->registry.listen.tls.enabled)
        renew_client_tls(&table->registry_tls, &config->registry.listen.tls, "joined nodes");
    take_config(table, config, before);
}

/* ---- taking over ------------------------------------------------------------------------- */

/* The entry of the configuration that the row of a static node belongs to, or -1: by name, or,
 * for one of the nodes of a host name, by where the entry was. */
static int adopted_index(const struct config *config, const struct node_info *info)
{
    int index = config_index(config, info->name);

    if (index != -1 || info->config_index == 0 || info->config_index > config->nodes_count)
        return index;
    index = (int)info->config_index - 1;
    return addresses_is_name(info->name, config->nodes[index].name) ? index : -1;
}

static void adopt_static(struct table *table, struct member *member)
{
    int index = adopted_index(table->config, &member->info);
    struct node_info next = member->info;
    const struct config_node *node;
    struct net_addr addr;

    if (index == -1) {
        /* It was to be removed, and still is. */
        member_leave(member, NODE_REASON_REMOVED, UINT64_MAX);
        return;
    }
    node = &table->config->nodes[index];
    if (member->verdict.leaving != NODE_REASON_NONE)
        member_event(member, VERDICT_STAY, NODE_REASON_NONE);
    member->config_name = strdup(node->name);
    if (member->config_name == NULL) {
        member_destroy(member, true);
        return;
    }
    apply_config(&next, table->config, (unsigned)index);
    member_publish(member, &next);
    set_tls(member, node);
    if (net_parse(&addr, node->address, NULL) == 0)
        member_probe(member, &addr);
    else
        names_adopt(member, (unsigned)index);
}

static void adopt_registry(struct table *table, struct member *member)
{
    struct net_addr addr = {0};

    if (config_index(table->config, member->info.name) != -1 ||
        net_parse(&addr, member->info.address, NULL) != 0) {
        member_destroy(member, true);
        return;
    }
    member_probe(member, &addr);
    lease_adopt(member);
    if (member->verdict.leaving != NODE_REASON_NONE)
        member_leave(member, member->verdict.leaving,
                     table->config->shutdown_grace_ms * US_PER_MS);
}

static void adopt(struct table *table, unsigned slot)
{
    struct node_info *info = malloc(sizeof(*info));
    struct node_status status;
    struct member *member = NULL;

    if (info != NULL && nodes_read(table->board, slot, info) &&
        nodes_status(table->board, slot, &status))
        member = member_adopt(table, slot, info, &status);
    free(info);
    if (member == NULL) {
        nodes_release(table->board, slot);
        return;
    }
    log_info("event=node_taken_over node=%s state=%s reason=%s", log_quote(member->info.name),
             node_state_name(status.state), node_reason_name(status.reason));
    if (member->info.origin == NODE_ORIGIN_STATIC)
        adopt_static(table, member);
    else
        adopt_registry(table, member);
}

/* ---- from time to time ------------------------------------------------------------------- */

void table_sample(struct table *table, unsigned slot)
{
    struct window_sample *sample = table->sample;

    stats_read_histogram(table->board, slot, STATS_TTFT, &sample->ttft);
    stats_read_histogram(table->board, slot, STATS_TPOT, &sample->tpot);
    for (unsigned c = 0; c < STATS_COUNTERS; c++)
        sample->counter[c] = stats_read_counter(table->board, slot, (enum stats_counter)c);
}

static void on_window(struct timer *timer)
{
    struct table *table = CONTAINER_OF(timer, struct table, window_timer);

    for (struct member *m = table->members.next; m != &table->members; m = m->next) {
        struct node_status figures = {0};

        table_sample(table, m->slot);
        window_advance(m->window, table->sample, clock_mono_us());
        window_figures(m->window, &figures);
        nodes_set_window(table->board, m->slot, &figures);
    }
    timer_start(table->loop, timer, WINDOW_STEP_US, on_window);
}

struct open_requests {
    uint32_t count;
    uint32_t ending;
    uint64_t oldest_mono_us;
};

/* Counts the open requests of each node, by the workers' tables.  False: a table is full, so
 * there are requests that have no row. */
static bool count_open(const struct table *table, struct open_requests *open)
{
    const struct scoreboard *board = table->board;

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

static uint64_t traffic(const struct table *table, unsigned slot)
{
    uint64_t sum = 0;

    for (int c = STATS_DISPATCHED; c <= STATS_CONNECT_FAILED; c++)
        sum += stats_read_counter(table->board, slot, (enum stats_counter)c);
    return sum;
}

static void look(struct member *member, const struct open_requests *open)
{
    struct table *table = member->table;
    struct gauge gauge = gauges_sum(table->board, member->slot, member->generation);
    struct invariant_look at = {
        .generation = member->generation,
        .gauge = gauge.inflight,
        .open = open->count,
        .ending = open->ending,
        .traffic = traffic(table, member->slot),
    };

    /* Rows do not tell generations apart: those that may belong to an earlier tenant of the
     * slot make this look worthless. */
    if (open->oldest_mono_us < member->met_mono_us)
        at.generation = 0;
    if (!invariant_step(&member->invariant, &at))
        return;
    table->violations++;
    log_error("event=gauge_violation node=%s gauge=%u open_requests=%u",
              log_quote(member->info.name), at.gauge, at.open);
}

static void on_invariant(struct timer *timer)
{
    struct table *table = CONTAINER_OF(timer, struct table, invariant_timer);
    unsigned n = scoreboard_max_nodes(table->board);
    struct open_requests *open = malloc(n * sizeof(*open));

    if (open != NULL) {
        for (unsigned i = 0; i < n; i++)
            open[i] = (struct open_requests){.oldest_mono_us = UINT64_MAX};
        if (count_open(table, open)) {
            for (struct member *m = table->members.next; m != &table->members; m = m->next)
                look(m, &open[m->slot]);
        }
        free(open);
    }
    timer_start(table->loop, timer, INVARIANT_US, on_invariant);
}

/* ---- life -------------------------------------------------------------------------------- */

/* Frees a table without members, timers or TLS.  NULL is allowed. */
static void release(struct table *table)
{
    if (table == NULL)
        return;
    free(table->sample);
    free(table->fence);
    free(table->flap);
    free(table);
}

int table_create(struct table **out, struct loop *loop, struct scoreboard *board,
                 const struct config *config, struct error *err)
{
    const struct config_tls *join = &config->registry.listen.tls;
    struct table *table = calloc(1, sizeof(*table));

    *out = NULL;
    if (table != NULL) {
        table->sample = calloc(1, sizeof(*table->sample));
        table->fence = calloc(1, sizeof(*table->fence));
        table->flap = calloc(1, sizeof(*table->flap));
    }
    if (table == NULL || table->sample == NULL || table->fence == NULL || table->flap == NULL) {
        release(table);
        return error_set(err, DRV_ENOMEM, "out of memory");
    }
    table->loop = loop;
    table->board = board;
    table->config = config;
    table->members.next = &table->members;
    table->members.prev = &table->members;
    table->alive_mono_us = clock_mono_us();
    if (join->enabled || join->ca != NULL) {
        int rc = tls_client_context(&table->registry_tls, join, err);

        if (rc != 0) {
            table_destroy(table);
            return error_wrap(err, rc, "registry.tls");
        }
    }
    nodes_repair(board);
    for (unsigned i = 0; i < scoreboard_max_nodes(board); i++) {
        enum node_state state = nodes_state(board, i);

        if (state != NODE_NONE && state != NODE_GONE)
            adopt(table, i);
    }
    take_config(table, config, NULL);
    timer_start(loop, &table->window_timer, WINDOW_STEP_US, on_window);
    timer_start(loop, &table->invariant_timer, INVARIANT_US, on_invariant);
    passive_start(table);
    *out = table;
    return 0;
}

void table_destroy(struct table *table)
{
    if (table == NULL)
        return;
    while (table->sources != NULL)
        names_forget(table->sources);
    while (table->members.next != &table->members)
        member_destroy(table->members.next, false);
    timer_stop(table->loop, &table->window_timer);
    timer_stop(table->loop, &table->invariant_timer);
    passive_stop(table);
    SSL_CTX_free(table->registry_tls);
    release(table);
}
