/*
 * member.c - one node: its verdict, its probe, its row.
 *
 * Who may end a member: member_event() when the verdict is GONE (by way of the burial at the
 * end of the turn), and lease.c and table.c when another takes its place, which happens in no
 * event of its probe.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/log.h"
#include "health/registry/identity.h"
#include "health/registry/registry.h"
#include "health/table.h"
#include "policy/fault/flap.h"
#include "shm/routing/gauges.h"
#include "shm/scoreboard.h"

#define EAGER_PROBES  20u
#define IDLE_LOOK_US  (20 * US_PER_MS)
#define IDLE_LOOKS    5u /* a worker may be about to send what it decided just before */
#define LOAD_FRESH_US (5 * US_PER_S)

/* ---- life -------------------------------------------------------------------------------- */

_Static_assert(FLAP_NAME_BYTES == NODE_NAME_BYTES, "a name is a name everywhere");

static void bury(struct deferred *deferred)
{
    struct member *member = CONTAINER_OF(deferred, struct member, burial);

    member_destroy(member, member->info.origin == NODE_ORIGIN_STATIC);
}

static struct member *link_member(struct table *table, unsigned slot)
{
    struct member *member = calloc(1, sizeof(*member));

    if (member == NULL)
        return NULL;
    member->window = calloc(1, sizeof(*member->window));
    if (member->window == NULL) {
        free(member);
        return NULL;
    }
    member->table = table;
    member->slot = slot;
    member->leave_by_mono_us = UINT64_MAX;
    member->eager_left = EAGER_PROBES;
    member->prev = table->members.prev;
    member->next = &table->members;
    table->members.prev->next = member;
    table->members.prev = member;
    table->count++;
    return member;
}

struct member *member_create(struct table *table, const struct node_info *info)
{
    uint64_t now = clock_mono_us();
    int old = nodes_find(table->board, info->name);
    struct node_status status;
    struct member *member;
    int slot;

    /* The row of someone of this name who has gone: one name, one row. */
    if (old != -1)
        nodes_release(table->board, (unsigned)old);
    slot = nodes_claim(table->board, now);
    if (slot == -1)
        return NULL;
    member = link_member(table, (unsigned)slot);
    if (member == NULL) {
        nodes_release(table->board, (unsigned)slot);
        return NULL;
    }
    member->generation =
        nodes_status(table->board, member->slot, &status) ? status.generation : 0;
    member->met_mono_us = now;
    verdict_init(&member->verdict, table->config->health.rise, table->config->health.fall);
    memset(table->sample, 0, sizeof(*table->sample));
    window_init(member->window, table->sample, now);
    passive_init(member);
    member_publish(member, info);
    log_info("event=node_known node=%s origin=%s address=%s slot=%u generation=%u",
             log_quote(info->name), info->origin == NODE_ORIGIN_STATIC ? "static" : "registry",
             log_quote(info->address), member->slot, member->generation);
    return member;
}

struct member *member_adopt(struct table *table, unsigned slot, const struct node_info *info,
                            const struct node_status *status)
{
    struct member *member = link_member(table, slot);

    if (member == NULL)
        return NULL;
    member->generation = info->generation;
    member->info = *info;
    member->adopted = true;
    verdict_adopt(&member->verdict, status->state, status->reason, status->drain_wish,
                  table->config->health.rise, table->config->health.fall);
    table_sample(table, slot);
    window_init(member->window, table->sample, clock_mono_us());
    passive_init(member);
    return member;
}

void member_destroy(struct member *member, bool empty)
{
    struct table *table = member->table;
    struct node_status status;

    probe_destroy(member->probe);
    timer_stop(table->loop, &member->idle_timer);
    timer_stop(table->loop, &member->lease_timer);
    loop_undefer(table->loop, &member->burial);
    SSL_CTX_free(member->tls);
    free(member->tls_name);
    free(member->config_name);
    free(member->window);
    /* A GONE row may have got another tenant in the turn that it had to wait for its burial. */
    if (empty && nodes_status(table->board, member->slot, &status) &&
        status.generation == member->generation)
        nodes_release(table->board, member->slot);
    member->prev->next = member->next;
    member->next->prev = member->prev;
    table->count--;
    free(member);
}

/* ---- state ------------------------------------------------------------------------------- */

/* Asks quickly for a while: its state is about to change for the better. */
static void hurry(struct member *member)
{
    member->eager_left = EAGER_PROBES;
    if (member->probe == NULL)
        return;
    probe_set_pace(member->probe, PROBE_EAGER);
    probe_now(member->probe);
}

static void set_pace(struct member *member)
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

static void end(struct member *member)
{
    struct table *table = member->table;

    timer_stop(table->loop, &member->idle_timer);
    timer_stop(table->loop, &member->lease_timer);
    if (member->attach != NULL) {
        attach_left(member->attach);
        member->attach = NULL;
    }
    loop_defer(table->loop, &member->burial, bury);
}

void member_event(struct member *member, enum verdict_event event, enum node_reason why)
{
    struct table *table = member->table;
    enum node_state before = member->verdict.state;
    enum node_state now;

    if (!verdict_step(&member->verdict, event, why)) {
        if (event == VERDICT_LEASE_BACK)
            hurry(member);
        return;
    }
    now = member->verdict.state;
    passive_turned(member, before); /* before others can see it UP or on TRIAL */
    nodes_set_state(table->board, member->slot, now, member->verdict.reason, clock_mono_us());
    if (now != before)
        log_info("event=node_state node=%s from=%s to=%s reason=%s by=%s",
                 log_quote(member->info.name), node_state_name(before), node_state_name(now),
                 node_reason_name(member->verdict.reason), verdict_event_name(event));
    if (member->verdict.leaving == NODE_REASON_NONE)
        timer_stop(table->loop, &member->idle_timer);
    if (now == NODE_DOWN && before != NODE_DOWN && before != NODE_JOINING)
        flap_lost(table->flap, member->info.name,
                  table->config->health.flap_wait_ms * US_PER_MS, clock_mono_us());
    if (now == NODE_GONE)
        end(member);
    else if (now == NODE_JOINING && before != NODE_JOINING)
        hurry(member);
}

static void on_idle_look(struct timer *timer)
{
    struct member *member = CONTAINER_OF(timer, struct member, idle_timer);
    struct table *table = member->table;
    struct gauge open = gauges_sum(table->board, member->slot, member->generation);

    member->idle_looks = open.inflight == 0 ? member->idle_looks + 1 : 0;
    if (member->idle_looks >= IDLE_LOOKS || clock_mono_us() >= member->leave_by_mono_us) {
        if (open.inflight != 0)
            log_warn("event=node_left_busy node=%s open=%u", log_quote(member->info.name),
                     open.inflight);
        member_event(member, VERDICT_IDLE, NODE_REASON_NONE);
        return;
    }
    timer_start(table->loop, timer, IDLE_LOOK_US, on_idle_look);
}

void member_leave(struct member *member, enum node_reason why, uint64_t limit_us)
{
    member->idle_looks = 0;
    member->leave_by_mono_us = limit_us == UINT64_MAX ? UINT64_MAX : clock_mono_us() + limit_us;
    member_event(member, VERDICT_LEAVE, why);
    timer_start(member->table->loop, &member->idle_timer, IDLE_LOOK_US, on_idle_look);
}

/* ---- what the node says ------------------------------------------------------------------ */

void member_publish(struct member *member, const struct node_info *info)
{
    struct node_info next = *info;

    next.generation = member->generation;
    if (memcmp(&next, &member->info, sizeof(next)) == 0)
        return;
    member->info = next;
    nodes_publish(member->table->board, member->slot, &member->info);
    passive_open_slots(member);
}

void member_load(struct member *member, const Drover__V1__LoadReport *load)
{
    enum node_reason bad = identity_load_reason(load);
    enum node_reason before = member->load_bad;
    uint32_t missed;

    if (load->seq != 0 && load->seq <= member->load_seq)
        return;
    member->load_seq = load->seq;
    member->load_mono_us = clock_mono_us();
    member->load_bad = bad;
    passive_progress(member, load->progress);
    nodes_set_load(member->table->board, member->slot, load->running, load->queued,
                   load->kv_used_fraction, member->load_mono_us);
    if (bad != NODE_REASON_NONE) {
        if (bad != before && news_tell(&member->said_load, member->verdict.state, bad,
                                       member->load_mono_us, &missed))
            log_info("event=node_cannot_serve node=%s reason=%s detail=%s missed=%u",
                     log_quote(member->info.name), node_reason_name(bad),
                     log_quote(load->engine_detail), missed);
        member_event(member, VERDICT_REFUSED, bad);
    } else if (before != NODE_REASON_NONE) {
        hurry(member);
    }
}

static const struct config_node *configured(const struct member *member)
{
    const struct config *config = member->table->config;
    uint32_t index = member->info.config_index;

    if (member->info.origin != NODE_ORIGIN_STATIC || index == 0 ||
        index > config->nodes_count || member->config_name == NULL ||
        strcmp(config->nodes[index - 1].name, member->config_name) != 0)
        return NULL;
    return &config->nodes[index - 1];
}

/* The stream of its lease tells the rest.  What counts here is that the address it gave leads
 * to the process that proved the token; and the engine, which a node may recognise only after
 * it has joined. */
static enum node_reason describe_registry(struct member *member,
                                          const Drover__V1__DescribeResponse *said)
{
    struct node_info next = member->info;

    if (memcmp(next.instance_id, said->instance_id.data, sizeof(next.instance_id)) != 0 ||
        strcmp(said->node_id, next.name) != 0)
        return NODE_REASON_PROTOCOL;
    if (identity_versions(&next, said->engine, said->engine_version, said->agent_version,
                          NULL) != 0)
        return NODE_REASON_PROTOCOL;
    member_publish(member, &next);
    return NODE_REASON_NONE;
}

static enum node_reason on_describe(const Drover__V1__DescribeResponse *said, void *data)
{
    struct member *member = data;
    const struct config_node *config = configured(member);
    struct node_info *next;
    struct error err = {0};
    bool other = memcmp(member->info.instance_id, said->instance_id.data,
                        sizeof(member->info.instance_id)) != 0;
    uint32_t missed;
    int rc;

    if (member->info.origin == NODE_ORIGIN_REGISTRY)
        return describe_registry(member, said);
    next = malloc(sizeof(*next));
    if (next == NULL)
        return NODE_REASON_NONE; /* the row stays as it was until the next description */
    *next = member->info;
    memcpy(next->instance_id, said->instance_id.data, sizeof(next->instance_id));
    rc = identity_versions(next, said->engine, said->engine_version, said->agent_version, &err);
    if (rc == 0)
        rc = identity_models(next, said->models, said->n_models, &err);
    if (rc == 0) {
        identity_capacity(next, said->capacity);
        if (config != NULL)
            identity_override(next, config->slots, config->queue);
        if (other) {
            log_info("event=node_described node=%s engine=%s models=%u slots=%u",
                     log_quote(next->name), identity_engine_name(next->engine),
                     next->models_count, next->slots);
            member->load_seq = 0;
            member->load_bad = NODE_REASON_NONE;
            /* What failed there was another process. */
            member_event(member, VERDICT_ABSOLVE, NODE_REASON_NONE);
        }
        member_publish(member, next);
        if (said->load != NULL)
            member_load(member, said->load);
    } else if (news_tell(&member->said_description, member->verdict.state, NODE_REASON_PROTOCOL,
                         clock_mono_us(), &missed)) {
        log_warn("event=node_description_bad node=%s why=%s missed=%u", log_quote(next->name),
                 log_quote(err.text), missed);
    }
    free(next);
    return rc == 0 ? NODE_REASON_NONE : NODE_REASON_PROTOCOL;
}

/* ---- what the probe says ----------------------------------------------------------------- */

static void on_result(const struct probe_result *result, void *data)
{
    struct member *member = data;
    uint64_t now = clock_mono_us();
    enum node_reason reason = result->reason;
    const char *detail = result->detail;
    uint32_t missed;

    /* A check that passes does not outweigh the node's own report that it cannot serve. */
    if (reason == NODE_REASON_NONE && member->load_bad != NODE_REASON_NONE &&
        now - member->load_mono_us < LOAD_FRESH_US) {
        reason = member->load_bad;
        detail = "by its load report";
    }
    /* Nor the record of a node that comes and goes. */
    if (reason == NODE_REASON_NONE && !verdict_has_traffic(&member->verdict) &&
        flap_wait_us(member->table->flap, member->info.name, now) != 0) {
        reason = NODE_REASON_FLAPPING;
        detail = "it came and went too often: it has to wait";
    }
    nodes_set_checked(member->table->board, member->slot, now, result->rtt_us);
    if (reason == NODE_REASON_NONE) {
        member_event(member, VERDICT_PASS, NODE_REASON_NONE);
    } else {
        if (reason != member->verdict.reason && member->verdict.state != NODE_DRAINING &&
            news_tell(&member->said_probe, member->verdict.state, reason, now, &missed))
            log_info("event=probe_failed node=%s reason=%s detail=%s missed=%u",
                     log_quote(member->info.name), node_reason_name(reason), log_quote(detail),
                     missed);
        member_event(member, VERDICT_FAIL, reason);
    }
    set_pace(member);
}

static void on_load(const Drover__V1__LoadReport *load, void *data)
{
    member_load(data, load);
}

void member_probe(struct member *member, const struct net_addr *addr)
{
    static const struct probe_events events = {
        .on_result = on_result, .on_describe = on_describe, .on_load = on_load};
    struct table *table = member->table;
    const struct config *config = table->config;
    bool registry = member->info.origin == NODE_ORIGIN_REGISTRY;
    struct node_info next = member->info;
    struct probe_config pc = {
        .addr = *addr,
        .tls = registry ? table->registry_tls : member->tls,
        .tls_name = member->tls_name,
        .interval_us = config->health.interval_ms * US_PER_MS,
        .timeout_us = config->health.timeout_ms * US_PER_MS,
        .watch_load = !registry,
        .tokens = config->tokens,
    };
    struct error err = {0};
    char text[NET_TEXT_BYTES];
    bool moved;

    net_format(text, sizeof(text), addr);
    moved = strcmp(text, next.address) != 0;
    if (strlcpy(next.address, text, sizeof(next.address)) >= sizeof(next.address)) {
        log_error("event=node_address_too_long node=%s", log_quote(member->info.name));
        return;
    }
    member_publish(member, &next);
    probe_destroy(member->probe);
    member->probe = NULL;
    if (!member->info.tls)
        pc.tls = NULL;
    if (member->info.tls && pc.tls == NULL) {
        /* names.c tries again at each look-up. */
        if (moved || registry)
            log_warn("event=node_tls_missing node=%s", log_quote(member->info.name));
        member_event(member, VERDICT_FAIL, NODE_REASON_CONNECT_FAILED);
        return;
    }
    if (probe_create(&member->probe, table->loop, &pc, &events, member, &err) != 0) {
        log_error("event=probe_failed_to_start node=%s why=%s", log_quote(member->info.name),
                  log_quote(err.text));
        return;
    }
    member->eager_left = EAGER_PROBES;
    set_pace(member);
}
