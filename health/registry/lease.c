/* lease.c - the life of nodes that join by themselves. */
#include "health/registry/lease.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/log.h"
#include "health/nodes/checks.h"
#include "health/nodes/static_node.h"
#include "health/registry/fence.h"
#include "health/table.h"
#include "shm/scoreboard.h"

#define GAP_US           (2 * US_PER_S)
#define DEFAULT_DRAIN_MS 30000u
#define MAX_DRAIN_MS     3600000u
#define MAX_SPREAD_MS    2000u

static void on_lease(struct timer *timer);

static uint64_t lease_us(const struct table *table)
{
    return table->home.config->registry.lease_ms * US_PER_MS;
}

/* Silence after which an attached node counts as lost: two heartbeats and a half. */
static uint64_t silence_us(const struct table *table)
{
    uint64_t us = table->home.config->registry.heartbeat_ms * US_PER_MS * 5 / 2;
    uint64_t most = lease_us(table) * 3 / 4;

    return us < most ? us : most;
}

static void arm(struct member *member, uint64_t now_mono_us)
{
    uint64_t silent = now_mono_us - member->heard_mono_us;
    uint64_t limit = lease_us(member->table);

    if (member->attach != NULL && !member->verdict.lease_lost &&
        silent < silence_us(member->table))
        limit = silence_us(member->table);
    timer_start(member->home->loop, &member->lease_timer, limit > silent ? limit - silent : 0,
                on_lease);
}

static void on_lease(struct timer *timer)
{
    struct member *member = CONTAINER_OF(timer, struct member, lease_timer);
    struct table *table = member->table;
    uint64_t now = clock_mono_us();
    uint64_t silent;

    if (table->leases_held)
        return; /* probes go on telling how it is */
    lease_check_gap(table);
    silent = now > member->heard_mono_us ? now - member->heard_mono_us : 0;
    if (silent >= lease_us(table)) {
        if (member->attach != NULL) {
            table->home.attach_ops->expired(member->attach);
            member->attach = NULL;
        }
        fence_lost(table->fence, member->info.name, member->info.instance_id);
        table_event(member, VERDICT_LEASE_END, NODE_REASON_LEASE_LOST);
        return;
    }
    if (member->attach != NULL && silent >= silence_us(table) && !member->verdict.lease_lost) {
        log_warn("event=node_silent node=%s silent_ms=%llu", member->info.name,
                 (unsigned long long)(silent / US_PER_MS));
        table_event(member, VERDICT_LEASE_LOST, NODE_REASON_LEASE_LOST);
    }
    arm(member, now);
}

void lease_check_gap(struct table *table)
{
    uint64_t now = clock_mono_us();
    uint64_t gap = now - table->alive_mono_us;

    table->alive_mono_us = now;
    if (gap <= GAP_US)
        return;
    log_warn("event=loop_stood_still gap_ms=%llu", (unsigned long long)(gap / US_PER_MS));
    for (struct member *m = table->members.next; m != &table->members; m = m->next) {
        if (m->info.origin != NODE_ORIGIN_REGISTRY || m->verdict.state == NODE_GONE)
            continue;
        /* Not into the future: what came before the gap was noticed has been heard already. */
        m->heard_mono_us = m->heard_mono_us + gap < now ? m->heard_mono_us + gap : now;
        arm(m, now);
    }
}

static bool is_instance(const struct member *member, const struct node_info *info)
{
    return memcmp(member->info.instance_id, info->instance_id, sizeof(info->instance_id)) == 0;
}

static void begin_lease(struct member *member, const struct net_addr *addr,
                        struct attach *attach)
{
    member->attach = attach;
    member->heard_mono_us = clock_mono_us();
    checks_start(member, addr);
    arm(member, member->heard_mono_us);
}

/* The same process is back on another stream. */
static void resume(struct member *member, const struct node_info *info,
                   const struct net_addr *addr, struct attach *attach)
{
    struct node_info merged = *info;

    merged.weight = member->info.weight;
    member->adopted = false;
    member_publish(member, &merged);
    table_event(member, VERDICT_LEASE_BACK, NODE_REASON_NONE);
    if (member->verdict.leaving != NODE_REASON_NONE)
        table_event(member, VERDICT_STAY, NODE_REASON_NONE);
    begin_lease(member, addr, attach);
}

/* A newer instance takes the name of `old`; NULL: nobody had it.  NULL: no row is free. */
static struct member *replace(struct table *table, struct member *old,
                              const struct node_info *info)
{
    /* The operator drains the machine, and not one process there. */
    bool drain = old != NULL && old->verdict.drain_wish;
    struct member *member;

    if (old != NULL) {
        log_info("event=node_superseded node=%s", old->info.name);
        fence_lost(table->fence, old->info.name, old->info.instance_id);
        table_remove(old, true);
    }
    member = table_add(table, info);
    if (member != NULL && drain) {
        nodes_set_drain_wish(table->home.board, member->slot, true);
        table_event(member, VERDICT_DRAIN, NODE_REASON_OPERATOR);
    }
    return member;
}

enum lease_answer lease_join(struct member **out, struct table *table,
                             const struct node_info *info, const struct net_addr *addr,
                             struct attach *attach)
{
    struct member *old = table_find(table, info->name);

    *out = NULL;
    if (old != NULL && old->info.origin == NODE_ORIGIN_STATIC)
        return LEASE_RESERVED;
    if (old != NULL && fence_is_older(table->fence, info->name, info->instance_id))
        return LEASE_OLDER;
    fence_holds(table->fence, info->name, info->instance_id);
    if (old != NULL && old->attach != NULL) {
        table->home.attach_ops->superseded(old->attach, is_instance(old, info));
        old->attach = NULL;
    }
    if (old != NULL && is_instance(old, info)) {
        resume(old, info, addr, attach);
        *out = old;
        return LEASE_RESUMED;
    }
    *out = replace(table, old, info);
    if (*out == NULL)
        return LEASE_FULL;
    begin_lease(*out, addr, attach);
    return LEASE_JOINED;
}

void lease_heard(struct member *member)
{
    bool lost = member->verdict.lease_lost;

    member->heard_mono_us = clock_mono_us();
    if (lost)
        table_event(member, VERDICT_LEASE_BACK, NODE_REASON_NONE);
    /* The timer finds out by itself that silence has ended; it is only put off when the last
     * thing it was set to is the end of the lease. */
    if (lost)
        arm(member, member->heard_mono_us);
}

void lease_broken(struct member *member)
{
    member->attach = NULL;
    if (member->verdict.leaving != NODE_REASON_NONE)
        return; /* it goes anyway; what is open there decides */
    table_event(member, VERDICT_LEASE_LOST, NODE_REASON_LEASE_LOST);
    arm(member, clock_mono_us());
}

void lease_leave(struct member *member, uint32_t drain_ms)
{
    uint32_t ms = drain_ms == 0 ? DEFAULT_DRAIN_MS : drain_ms;

    if (member->verdict.leaving != NODE_REASON_NONE)
        return;
    table_leave(member, NODE_REASON_LEAVING,
                (ms < MAX_DRAIN_MS ? ms : MAX_DRAIN_MS) * US_PER_MS);
}

static void take_over(struct member *member)
{
    const struct config *config = member->home->config;
    struct net_addr addr = {0};

    if (static_node_index(config, member->info.name) != -1 ||
        net_parse(&addr, member->info.address, NULL) != 0) {
        table_remove(member, true);
        return;
    }
    checks_start(member, &addr);
    member->heard_mono_us = clock_mono_us();
    arm(member, member->heard_mono_us);
    if (member->verdict.leaving != NODE_REASON_NONE)
        table_leave(member, member->verdict.leaving, config->shutdown_grace_ms * US_PER_MS);
}

void lease_start(struct table *table)
{
    struct member *next;

    for (struct member *m = table->members.next; m != &table->members; m = next) {
        next = m->next;
        if (m->info.origin == NODE_ORIGIN_REGISTRY)
            take_over(m);
    }
}

uint32_t lease_spread_ms(const struct table *table)
{
    uint32_t ms = 100 + 10 * table->count;

    return ms < MAX_SPREAD_MS ? ms : MAX_SPREAD_MS;
}
