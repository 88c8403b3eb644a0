/* checks.c - what a node's probe and its reports say of it, as events for the table. */
#include "health/nodes/checks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/kinds.h"
#include "base/log.h"
#include "base/text/text.h"
#include "health/nodes/table.h"
#include "health/registry/identity.h"
#include "policy/fault/flap.h"

#define LOAD_FRESH_US (5 * US_PER_S)

/* ---- what the node says ------------------------------------------------------------------ */

static const struct config_node *configured(const struct node *node)
{
    const struct config *config = node->home->config;
    uint32_t index = node->info.config_index;

    if (node->info.origin != NODE_ORIGIN_STATIC || index == 0 || index > config->nodes_count ||
        node->config_name == NULL ||
        strcmp(config->nodes[index - 1].name, node->config_name) != 0)
        return NULL;
    return &config->nodes[index - 1];
}

/* The slots of a node that learns them change with its load. */
static void note_capacity(struct node *node, const Drover__V1__Capacity *capacity)
{
    const struct config_node *config = configured(node);
    struct node_info *next = malloc(sizeof(*next));

    if (next == NULL)
        return; /* the row stays as it was until the next report */
    node_info_copy(next, &node->info);
    identity_capacity(next, capacity);
    if (config != NULL)
        identity_override(next, config->slots, config->queue);
    node_publish(node, next);
    free(next);
}

/* Takes the node's words about its engine.  True: they are new. */
static bool take_detail(struct node *node, const char *detail)
{
    if (!text_is_label(detail, NODE_DETAIL_BYTES - 1))
        detail = "";
    if (strcmp(node->load_detail, detail) == 0)
        return false;
    (void)snprintf(node->load_detail, sizeof(node->load_detail), "%s", detail);
    return true;
}

void checks_load(struct node *node, const Drover__V1__LoadReport *load)
{
    enum node_reason bad = identity_load_reason(load, node->info.models_count);
    enum node_reason before = node->load_bad;
    uint32_t missed = 0;
    bool news;

    if (load->seq != 0 && load->seq <= node->load_seq)
        return;
    node->load_seq = load->seq;
    node->load_mono_us = clock_mono_us();
    node->load_bad = bad;
    news = take_detail(node, load->engine_detail);
    if (bad != NODE_REASON_NONE || news)
        node_set_detail(node, node->load_detail);
    if (load->capacity != NULL)
        note_capacity(node, load->capacity);
    ejections_progress(&node->ejections, load->progress, node->load_mono_us);
    nodes_set_load(node->home->board, node->node_id, load->running, load->queued,
                   load->kv_used_fraction, node->load_mono_us);
    if (bad != NODE_REASON_NONE) {
        bool unasked = bad == NODE_REASON_ENGINE_DOWN && node->load_detail[0] == '\0';

        /* A node that has only just started has not asked its engine yet. */
        if (!unasked &&
            (news || (bad != before && log_once_allows(&node->said_load, node->verdict.state,
                                                       bad, node->load_mono_us, &missed))) &&
            node_speaks(node))
            log_info("event=node_cannot_serve node=%s reason=%s detail=%s missed=%u",
                     log_quote(node->info.name), node_reason_name(bad),
                     log_quote(node->load_detail), missed);
        node_table_event(node, NODE_EVENT_REFUSED, bad);
    } else if (before != NODE_REASON_NONE) {
        node_hurry(node);
    }
}

/* The stream of its lease reports the rest.  The check here is that its address leads to the
 * process that proved the token; and the engine, which a node may detect only after it has
 * joined. */
static enum node_reason describe_registry(struct node *node,
                                          const Drover__V1__DescribeResponse *said)
{
    struct node_info next;

    node_info_copy(&next, &node->info);
    if (memcmp(next.instance_id, said->instance_id.data, sizeof(next.instance_id)) != 0 ||
        strcmp(said->node_id, next.name) != 0)
        return NODE_REASON_PROTOCOL;
    if (identity_versions(&next, said->engine, said->engine_version, said->agent_version,
                          NULL) != 0)
        return NODE_REASON_PROTOCOL;
    node_publish(node, &next);
    return NODE_REASON_NONE;
}

static enum node_reason on_describe(const Drover__V1__DescribeResponse *said, void *data)
{
    struct node *node = data;
    const struct config_node *config = configured(node);
    struct node_info *next;
    struct error err = {0};
    bool other = memcmp(node->info.instance_id, said->instance_id.data,
                        sizeof(node->info.instance_id)) != 0;
    uint32_t missed;
    int rc;

    if (node->info.origin == NODE_ORIGIN_REGISTRY)
        return describe_registry(node, said);
    next = malloc(sizeof(*next));
    if (next == NULL)
        return NODE_REASON_NONE; /* the row stays as it was until the next description */
    node_info_copy(next, &node->info);
    memcpy(next->instance_id, said->instance_id.data, sizeof(next->instance_id));
    rc = identity_versions(next, said->engine, said->engine_version, said->agent_version, &err);
    if (rc == 0)
        rc = identity_models(next, said->models, said->n_models, &err);
    if (rc == 0) {
        identity_capacity(next, said->capacity);
        if (config != NULL)
            identity_override(next, config->slots, config->queue);
        if (other) {
            if (node_speaks(node))
                log_info("event=node_described node=%s engine=%s models=%u slots=%u",
                         log_quote(next->name), engine_kind_name(next->engine),
                         next->models_count, next->slots);
            node->load_seq = 0;
            node->load_bad = NODE_REASON_NONE;
            /* The failures there were another process's. */
            node_table_event(node, NODE_EVENT_CLEAR, NODE_REASON_NONE);
        }
        node_publish(node, next);
        if (said->load != NULL)
            checks_load(node, said->load);
    } else if (log_once_allows(&node->said_description, node->verdict.state,
                               NODE_REASON_PROTOCOL, clock_mono_us(), &missed) &&
               node_speaks(node)) {
        log_warn("event=node_description_bad node=%s why=%s missed=%u", log_quote(next->name),
                 log_quote(err.text), missed);
    }
    free(next);
    return rc == 0 ? NODE_REASON_NONE : NODE_REASON_PROTOCOL;
}

/* ---- what the probe says ----------------------------------------------------------------- */

static void on_result(const struct probe_result *result, void *data)
{
    struct node *node = data;
    uint64_t now = clock_mono_us();
    enum node_reason reason = result->reason;
    const char *detail = result->detail;
    uint32_t missed;

    /* A check that passes does not outweigh the node's own report that it cannot serve. */
    if (reason == NODE_REASON_NONE && node->load_bad != NODE_REASON_NONE &&
        now - node->load_mono_us < LOAD_FRESH_US) {
        reason = node->load_bad;
        detail = "by its load report";
    }
    /* Nor the record of a node that comes and goes. */
    if (reason == NODE_REASON_NONE && !node_state_has_traffic(&node->verdict) &&
        flap_wait_us(node->table->flap, node->info.name, now) != 0) {
        reason = NODE_REASON_FLAPPING;
        detail = "it came and went too often: it has to wait";
    }
    nodes_set_checked(node->home->board, node->node_id, now, result->rtt_us);
    node_set_detail(node,
                    result->reason != NODE_REASON_NONE && node->load_bad == NODE_REASON_NONE
                        ? detail
                        : node->load_detail);
    if (reason == NODE_REASON_NONE) {
        node_table_event(node, NODE_EVENT_PASS, NODE_REASON_NONE);
    } else {
        if (reason != node->verdict.reason && node->verdict.state != NODE_DRAINING &&
            log_once_allows(&node->said_probe, node->verdict.state, reason, now, &missed) &&
            node_speaks(node))
            log_info("event=probe_failed node=%s reason=%s detail=%s missed=%u",
                     log_quote(node->info.name), node_reason_name(reason), log_quote(detail),
                     missed);
        node_table_event(node, NODE_EVENT_FAIL, reason);
    }
    node_set_pace(node);
}

static void on_load(const Drover__V1__LoadReport *load, void *data)
{
    checks_load(data, load);
}

void checks_models(struct node *node)
{
    if (node->load_bad != NODE_REASON_NO_MODELS || node->info.models_count == 0)
        return;
    node->load_bad = NODE_REASON_NONE;
    node_hurry(node);
}

void checks_start(struct node *node, const struct net_addr *addr)
{
    static const struct probe_events events = {
        .on_result = on_result, .on_describe = on_describe, .on_load = on_load};
    struct node_table *table = node->table;
    const struct config *config = table->home.config;
    bool registry = node->info.origin == NODE_ORIGIN_REGISTRY;
    struct node_info next;
    struct probe_config pc = {
        .addr = *addr,
        .tls = registry ? table->registry_tls : node->tls,
        .tls_name = node->tls_name,
        .interval_us = config->health.interval_ms * US_PER_MS,
        .timeout_us = config->health.timeout_ms * US_PER_MS,
        .watch_load = !registry,
        .tokens = config->tokens,
    };
    struct error err = {0};
    char text[NET_TEXT_BYTES];
    bool moved;

    node_info_copy(&next, &node->info);
    net_format(text, sizeof(text), addr);
    moved = strcmp(text, next.address) != 0;
    if (strlcpy(next.address, text, sizeof(next.address)) >= sizeof(next.address)) {
        log_error("event=node_address_too_long node=%s", log_quote(node->info.name));
        return;
    }
    node_publish(node, &next);
    probe_destroy(node->probe);
    node->probe = NULL;
    if (!node->info.tls)
        pc.tls = NULL;
    if (node->info.tls && pc.tls == NULL) {
        /* names.c tries again at each look-up. */
        if (moved || registry)
            log_warn("event=node_tls_missing node=%s", log_quote(node->info.name));
        node_table_event(node, NODE_EVENT_FAIL, NODE_REASON_CONNECT_FAILED);
        return;
    }
    if (probe_create(&node->probe, table->home.loop, &pc, &events, node, &err) != 0) {
        log_error("event=probe_failed_to_start node=%s why=%s", log_quote(node->info.name),
                  log_quote(err.text));
        return;
    }
    node_begin_eager(node);
}
