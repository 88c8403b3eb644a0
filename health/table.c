/*
 * table.c - the nodes this process looks after, and the one place that takes events about them.
 *
 * A member ends in table_event() when its verdict is GONE (at the end of the turn), and by
 * table_remove() when another takes its place, which happens in no event of its probe.
 */
#include "health/table.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/log.h"
#include "health/registry/fence.h"
#include "policy/fault/flap.h"
#include "proto/rpc/h2/tls.h"
#include "shm/routing/gauges.h"
#include "shm/routing/requests.h"
#include "shm/scoreboard.h"
#include "shm/stats.h"

#define INVARIANT_US US_PER_S
#define IDLE_LOOK_US (20 * US_PER_MS)
#define IDLE_LOOKS   5u /* a worker may be about to send what it decided just before */

_Static_assert(FLAP_NAME_BYTES == NODE_NAME_BYTES, "a name is a name everywhere");

/* ---- the list ---------------------------------------------------------------------------- */

struct member *table_find(const struct table *table, const char *name)
{
    for (struct member *m = table->members.next; m != &table->members; m = m->next) {
        if (m->verdict.state != NODE_GONE && strcmp(m->info.name, name) == 0)
            return m;
    }
    return NULL;
}

static struct member *link_member(struct table *table, struct member *member)
{
    if (member == NULL)
        return NULL;
    member->table = table;
    member->prev = table->members.prev;
    member->next = &table->members;
    table->members.prev->next = member;
    table->members.prev = member;
    table->count++;
    return member;
}

struct member *table_add(struct table *table, const struct node_info *info)
{
    return link_member(table, member_create(&table->home, info));
}

void table_remove(struct member *member, bool empty)
{
    member->prev->next = member->next;
    member->next->prev = member->prev;
    member->table->count--;
    member->table->shares_known = false;
    member_destroy(member, empty);
}

/* ---- events ------------------------------------------------------------------------------ */

static void bury(struct deferred *deferred)
{
    struct member *member = CONTAINER_OF(deferred, struct member, burial);

    table_remove(member, member->info.origin == NODE_ORIGIN_STATIC);
}

static void end(struct member *member)
{
    const struct member_home *home = member->home;

    timer_stop(home->loop, &member->idle_timer);
    timer_stop(home->loop, &member->lease_timer);
    if (member->attach != NULL) {
        home->attach_ops->left(member->attach);
        member->attach = NULL;
    }
    loop_defer(home->loop, &member->burial, bury);
}

/* Acts on a verdict that has moved. */
static void follow(struct member *member, enum node_state before)
{
    struct table *table = member->table;
    enum node_state now = member->verdict.state;

    if (table->shares_known)
        model_shares_move(&table->shares, &member->info, before, now);
    if (member->verdict.leaving == NODE_REASON_NONE)
        timer_stop(table->home.loop, &member->idle_timer);
    if (now == NODE_DOWN && before != NODE_DOWN && before != NODE_JOINING)
        flap_lost(table->flap, member->info.name,
                  table->home.config->health.flap_wait_ms * US_PER_MS, clock_mono_us());
    if (now == NODE_GONE)
        end(member);
    else if (now == NODE_JOINING && before != NODE_JOINING)
        member_hurry(member);
}

void table_event(struct member *member, enum verdict_event event, enum node_reason why)
{
    enum node_state before = member->verdict.state;

    if (member_step(member, event, why))
        follow(member, before);
    else if (event == VERDICT_LEASE_BACK)
        member_hurry(member);
}

static void on_idle_look(struct timer *timer)
{
    struct member *member = CONTAINER_OF(timer, struct member, idle_timer);
    const struct member_home *home = member->home;
    struct gauge open = gauges_sum(home->board, member->slot, member->generation);

    member->idle_looks = open.inflight == 0 ? member->idle_looks + 1 : 0;
    if (member->idle_looks >= IDLE_LOOKS || clock_mono_us() >= member->leave_by_mono_us) {
        if (open.inflight != 0)
            log_warn("event=node_left_busy node=%s open=%u", log_quote(member->info.name),
                     open.inflight);
        table_event(member, VERDICT_IDLE, NODE_REASON_NONE);
        return;
    }
    timer_start(home->loop, timer, IDLE_LOOK_US, on_idle_look);
}

void table_leave(struct member *member, enum node_reason why, uint64_t limit_us)
{
    member->idle_looks = 0;
    member->leave_by_mono_us = limit_us == UINT64_MAX ? UINT64_MAX : clock_mono_us() + limit_us;
    table_event(member, VERDICT_LEAVE, why);
    timer_start(member->home->loop, &member->idle_timer, IDLE_LOOK_US, on_idle_look);
}

int table_drain(struct table *table, const char *name, bool drain)
{
    struct member *member = table_find(table, name);

    if (member == NULL)
        return DRV_ENOENT;
    log_info("event=node_drain_wish node=%s drain=%s", log_quote(name), drain ? "yes" : "no");
    nodes_set_drain_wish(table->home.board, member->slot, drain);
    table_event(member, drain ? VERDICT_DRAIN : VERDICT_UNDRAIN, NODE_REASON_OPERATOR);
    if (member->attach != NULL)
        table->home.attach_ops->drain(member->attach, drain);
    return 0;
}

/* ---- how requests go there --------------------------------------------------------------- */

static bool may_be_out(const void *data)
{
    const struct member *member = data;
    struct table *table = member->table;

    if (!table->shares_known) {
        model_shares_clear(&table->shares);
        for (const struct member *m = table->members.next; m != &table->members; m = m->next)
            model_shares_add(&table->shares, &m->info, m->verdict.state);
        table->shares_known = true;
    }
    return model_shares_allow(&table->shares, &member->info, member->verdict.state);
}

static void look_at_record(struct member *member, const struct passive_rules *rules,
                           uint64_t now_mono_us)
{
    struct passive_node node = {.name = member->info.name,
                                .slot = member->slot,
                                .verdict = &member->verdict,
                                .may_be_out = may_be_out,
                                .data = member};
    struct passive_event found =
        passive_look(&member->passive, member->home->board, rules, &node, now_mono_us);

    member->table->ejections += found.event == VERDICT_EJECT;
    member->table->spared += found.event == VERDICT_SPARE;
    if (found.event != VERDICT_NONE)
        table_event(member, found.event, found.why);
    if (member->passive.ramp_mono_us != 0)
        member_open_slots(member);
}

static void on_passive(struct timer *timer)
{
    struct table *table = CONTAINER_OF(timer, struct table, passive_timer);
    struct passive_rules rules = passive_rules_of(table->home.config);
    uint64_t now_mono_us = clock_mono_us();

    for (struct member *m = table->members.next; m != &table->members; m = m->next)
        look_at_record(m, &rules, now_mono_us); /* ends none */
    table->shares_known = false;
    timer_start(table->home.loop, timer, PASSIVE_LOOK_US, on_passive);
}

static void on_window(struct timer *timer)
{
    struct table *table = CONTAINER_OF(timer, struct table, window_timer);

    for (struct member *m = table->members.next; m != &table->members; m = m->next)
        member_advance_window(m);
    timer_start(table->home.loop, timer, WINDOW_STEP_US, on_window);
}

/* ---- do the gauges agree with the requests? ---------------------------------------------- */

struct open_on_node {
    uint32_t count;
    uint32_t ending;
    uint64_t oldest_mono_us;
};

/* Counts the open requests of each node, by the workers' tables.  False: a table is full, so
 * there are requests that have no row. */
static bool count_open(const struct table *table, struct open_on_node *open)
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

static uint64_t traffic(const struct table *table, unsigned slot)
{
    uint64_t sum = 0;

    for (int c = STATS_DISPATCHED; c <= STATS_CONNECT_FAILED; c++)
        sum += stats_read_counter(table->home.board, slot, (enum stats_counter)c);
    return sum;
}

static void look(struct member *member, const struct open_on_node *open)
{
    struct table *table = member->table;
    struct gauge gauge = gauges_sum(table->home.board, member->slot, member->generation);
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
    unsigned n = scoreboard_max_nodes(table->home.board);
    struct open_on_node *open = malloc(n * sizeof(*open));

    if (open != NULL) {
        for (unsigned i = 0; i < n; i++)
            open[i] = (struct open_on_node){.oldest_mono_us = UINT64_MAX};
        if (count_open(table, open)) {
            for (struct member *m = table->members.next; m != &table->members; m = m->next)
                look(m, &open[m->slot]);
        }
        free(open);
    }
    timer_start(table->home.loop, timer, INVARIANT_US, on_invariant);
}

/* ---- life -------------------------------------------------------------------------------- */

static void adopt(struct table *table, unsigned slot)
{
    struct node_info *info = malloc(sizeof(*info));
    struct node_status status;
    struct member *member = NULL;

    if (info != NULL && nodes_read(table->home.board, slot, info) &&
        nodes_status(table->home.board, slot, &status))
        member = link_member(table, member_adopt(&table->home, slot, info, &status));
    free(info);
    if (member == NULL) {
        nodes_release(table->home.board, slot);
        return;
    }
    log_info("event=node_taken_over node=%s state=%s reason=%s", log_quote(member->info.name),
             node_state_name(status.state), node_reason_name(status.reason));
}

/* Frees a table without members, timers or TLS.  NULL is allowed. */
static void release(struct table *table)
{
    if (table == NULL)
        return;
    model_shares_finish(&table->shares);
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
    table->home = (struct member_home){
        .loop = loop, .board = board, .config = config, .sample = table->sample};
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
    timer_start(loop, &table->window_timer, WINDOW_STEP_US, on_window);
    timer_start(loop, &table->invariant_timer, INVARIANT_US, on_invariant);
    timer_start(loop, &table->passive_timer, PASSIVE_LOOK_US, on_passive);
    *out = table;
    return 0;
}

void table_destroy(struct table *table)
{
    if (table == NULL)
        return;
    while (table->members.next != &table->members)
        table_remove(table->members.next, false);
    timer_stop(table->home.loop, &table->window_timer);
    timer_stop(table->home.loop, &table->invariant_timer);
    timer_stop(table->home.loop, &table->passive_timer);
    SSL_CTX_free(table->registry_tls);
    release(table);
}
