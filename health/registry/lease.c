/* lease.c - the life of nodes that join by themselves. */
#include "health/registry/lease.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/log.h"
#include "health/nodes/checks.h"
#include "health/nodes/static_node.h"
#include "health/nodes/table.h"
#include "health/registry/fence.h"
#include "shm/scoreboard.h"

#define GAP_US           (2 * US_PER_S)
#define DEFAULT_DRAIN_MS 30000u
#define MAX_DRAIN_MS     3600000u
#define MAX_SPREAD_MS    2000u

static void on_lease(struct timer *timer);

static uint64_t lease_us(const struct node_table *table)
{
    return table->home.config->registry.lease_ms * US_PER_MS;
}

/* Silence after which an attached node counts as lost: two heartbeats and a half. */
static uint64_t silence_us(const struct node_table *table)
{
    uint64_t us = table->home.config->registry.heartbeat_ms * US_PER_MS * 5 / 2;
    uint64_t most = lease_us(table) * 3 / 4;

    return us < most ? us : most;
}

static void arm(struct node *node, uint64_t now_mono_us)
{
    uint64_t silent = now_mono_us - node->heard_mono_us;
    uint64_t limit = lease_us(node->table);

    if (node->stream != NULL && !node->verdict.lease_lost && silent < silence_us(node->table))
        limit = silence_us(node->table);
    timer_start(node->home->loop, &node->lease_timer, limit > silent ? limit - silent : 0,
                on_lease);
}

static void on_lease(struct timer *timer)
{
    struct node *node = CONTAINER_OF(timer, struct node, lease_timer);
    struct node_table *table = node->table;
    uint64_t now = clock_mono_us();
    uint64_t silent;

    if (table->leases_held)
        return; /* probes go on telling how it is */
    lease_check_gap(table);
    silent = now > node->heard_mono_us ? now - node->heard_mono_us : 0;
    if (silent >= lease_us(table)) {
        if (node->stream != NULL) {
            table->home.node_stream_ops->expired(node->stream);
            node->stream = NULL;
        }
        fence_lost(table->fence, node->info.name, node->info.instance_id);
        node_table_event(node, NODE_EVENT_LEASE_END, NODE_REASON_LEASE_LOST);
        return;
    }
    if (node->stream != NULL && silent >= silence_us(table) && !node->verdict.lease_lost) {
        if (node_speaks(node))
            log_warn("event=node_silent node=%s silent_ms=%llu", node->info.name,
                     (unsigned long long)(silent / US_PER_MS));
        node_table_event(node, NODE_EVENT_LEASE_LOST, NODE_REASON_LEASE_LOST);
    }
    arm(node, now);
}

void lease_check_gap(struct node_table *table)
{
    uint64_t now = clock_mono_us();
    uint64_t gap = now - table->alive_mono_us;

    table->alive_mono_us = now;
    if (gap <= GAP_US)
        return;
    log_warn("event=loop_stood_still gap_ms=%llu", (unsigned long long)(gap / US_PER_MS));
    for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL; m = TAILQ_NEXT(m, link)) {
        if (m->info.origin != NODE_ORIGIN_REGISTRY || m->verdict.state == NODE_GONE)
            continue;
        /* Not into the future: messages before the gap was noticed have been counted already.
         */
        m->heard_mono_us = m->heard_mono_us + gap < now ? m->heard_mono_us + gap : now;
        arm(m, now);
    }
}

static bool is_instance(const struct node *node, const struct node_info *info)
{
    return memcmp(node->info.instance_id, info->instance_id, sizeof(info->instance_id)) == 0;
}

static void begin_lease(struct node *node, const struct net_addr *addr,
                        struct node_stream *stream)
{
    node->stream = stream;
    node->heard_mono_us = clock_mono_us();
    checks_start(node, addr);
    arm(node, node->heard_mono_us);
}

/* The same process is back on another stream. */
static void resume(struct node *node, const struct node_info *info, const struct net_addr *addr,
                   struct node_stream *stream)
{
    struct node_info merged;

    node_info_copy(&merged, info);
    merged.weight = node->info.weight;
    node->adopted = false;
    node_publish(node, &merged);
    node_table_event(node, NODE_EVENT_LEASE_BACK, NODE_REASON_NONE);
    if (node->verdict.leaving != NODE_REASON_NONE)
        node_table_event(node, NODE_EVENT_STAY, NODE_REASON_NONE);
    begin_lease(node, addr, stream);
}

/* A newer instance takes the name of `old`; NULL: the name was free.  Returns NULL if no row is
 * free. */
static struct node *replace(struct node_table *table, struct node *old,
                            const struct node_info *info)
{
    /* The operator drains the machine, and not one process there. */
    bool drain = old != NULL && old->verdict.drain_wanted;
    struct node *node;

    if (old != NULL) {
        if (node_speaks(old))
            log_info("event=node_superseded node=%s", old->info.name);
        fence_lost(table->fence, old->info.name, old->info.instance_id);
        table_remove(old, true);
    }
    node = table_add(table, info);
    if (node != NULL && drain) {
        nodes_set_drain_wanted(table->home.board, node->node_id, true);
        node_table_event(node, NODE_EVENT_DRAIN, NODE_REASON_OPERATOR);
    }
    return node;
}

enum lease_answer lease_join(struct node **out, struct node_table *table,
                             const struct node_info *info, const struct net_addr *addr,
                             struct node_stream *stream)
{
    struct node *old = node_table_find(table, info->name);

    *out = NULL;
    if (old != NULL && old->info.origin == NODE_ORIGIN_STATIC)
        return LEASE_RESERVED;
    if (old != NULL && fence_is_older(table->fence, info->name, info->instance_id))
        return LEASE_OLDER;
    fence_holds(table->fence, info->name, info->instance_id);
    if (old != NULL && old->stream != NULL) {
        table->home.node_stream_ops->superseded(old->stream, is_instance(old, info));
        old->stream = NULL;
    }
    if (old != NULL && is_instance(old, info)) {
        resume(old, info, addr, stream);
        *out = old;
        return LEASE_RESUMED;
    }
    *out = replace(table, old, info);
    if (*out == NULL)
        return LEASE_FULL;
    begin_lease(*out, addr, stream);
    return LEASE_JOINED;
}

void lease_heard(struct node *node)
{
    bool lost = node->verdict.lease_lost;

    node->heard_mono_us = clock_mono_us();
    if (lost)
        node_table_event(node, NODE_EVENT_LEASE_BACK, NODE_REASON_NONE);
    /* The timer finds out by itself that silence has ended; it is only put off when the last
     * thing it was set to is the end of the lease. */
    if (lost)
        arm(node, node->heard_mono_us);
}

void lease_broken(struct node *node)
{
    node->stream = NULL;
    if (node->verdict.leaving != NODE_REASON_NONE)
        return; /* it leaves anyway; its open requests decide when */
    node_table_event(node, NODE_EVENT_LEASE_LOST, NODE_REASON_LEASE_LOST);
    arm(node, clock_mono_us());
}

void lease_leave(struct node *node, uint32_t drain_ms)
{
    uint32_t ms = drain_ms == 0 ? DEFAULT_DRAIN_MS : drain_ms;

    if (node->verdict.leaving != NODE_REASON_NONE)
        return;
    table_leave(node, NODE_REASON_LEAVING, (ms < MAX_DRAIN_MS ? ms : MAX_DRAIN_MS) * US_PER_MS);
}

static void take_over(struct node *node)
{
    const struct config *config = node->home->config;
    struct net_addr addr = {0};

    if (static_node_index(config, node->info.name) != -1 ||
        net_parse(&addr, node->info.address, NULL) != 0) {
        table_remove(node, true);
        return;
    }
    checks_start(node, &addr);
    node->heard_mono_us = clock_mono_us();
    arm(node, node->heard_mono_us);
    if (node->verdict.leaving != NODE_REASON_NONE)
        table_leave(node, node->verdict.leaving, config->shutdown_grace_ms * US_PER_MS);
}

void lease_start(struct node_table *table)
{
    struct node *next;

    for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL; m = next) {
        next = TAILQ_NEXT(m, link);
        if (m->info.origin == NODE_ORIGIN_REGISTRY)
            take_over(m);
    }
}

uint32_t lease_spread_ms(const struct node_table *table)
{
    uint32_t ms = 100 + 10 * table->count;

    return ms < MAX_SPREAD_MS ? ms : MAX_SPREAD_MS;
}
