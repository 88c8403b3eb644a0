/* configured.c - the nodes that the configuration names: at the start, and when it changes. */
#include "health/nodes/configured.h"

#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/io/net.h"
#include "base/log.h"
#include "health/names/addresses.h"
#include "health/names/names.h"
#include "health/nodes/checks.h"
#include "health/nodes/static_node.h"
#include "health/nodes/table.h"

/* At its address, if the configuration has that; else see names.h. */
static void add_static(struct node_table *table, unsigned index)
{
    const struct config_node *entry = &table->home.config->nodes[index];
    struct net_addr addr = {0};
    struct node *node;

    if (net_parse(&addr, entry->address, NULL) != 0) {
        names_add(table, index);
        return;
    }
    node = static_node_add(table, index, entry->name);
    if (node != NULL)
        checks_start(node, &addr);
    else
        log_error("event=node_not_added node=%s why=\"no room in the node table\"",
                  log_quote(entry->name));
}

/* Another node takes the name of one that ends here.  A drain stays in force: it applies to
 * the name, not to one entry in a list. */
static void replace(struct node_table *table, struct node *node, unsigned index)
{
    bool drained = node->verdict.drain_wanted;

    if (node->stream != NULL)
        table->home.node_stream_ops->superseded(node->stream, false);
    table_remove(node, true);
    if (names_find(table, table->home.config->nodes[index].name) == NULL)
        add_static(table, index);
    if (drained)
        (void)!node_table_drain(table, table->home.config->nodes[index].name,
                                true); /* no room: no drain */
}

/* Ends the sources whose entry is gone or names another peer. */
static void forget_sources(struct node_table *table, const struct config *config,
                           const struct config *before)
{
    struct dns_source *next;

    for (struct dns_source *s = table->sources; s != NULL; s = next) {
        int index = static_node_index(config, names_name(s));
        int old = before == NULL ? -1 : static_node_index(before, names_name(s));

        next = names_next(s);
        if (index == -1 ||
            (old != -1 && !static_node_same_peer(&before->nodes[old], &config->nodes[index])))
            names_forget(s);
    }
}

static void renew_timing(struct node *node)
{
    const struct config *config = node->home->config;

    node->verdict.rise = config->health.rise;
    node->verdict.fall = config->health.fall;
    if (node->probe == NULL)
        return;
    probe_set_timing(node->probe, config->health.interval_ms * US_PER_MS,
                     config->health.timeout_ms * US_PER_MS);
    probe_set_tokens(node->probe, config->tokens);
}

/* The entry of a static node is the one of number `index`; it was `before`. */
static void keep_static(struct node *node, const struct config_node *before, unsigned index)
{
    struct net_addr addr;

    static_node_update(node, before, index);
    /* The bad certificate that kept it from being probed may be mended. */
    if (node->probe == NULL &&
        net_parse(&addr, node->home->config->nodes[index].address, NULL) == 0)
        checks_start(node, &addr);
}

/* Applies the configuration to one node.  `before`: until now; NULL at the start. */
static void follow_config(struct node *node, const struct config *before)
{
    const struct config *config = node->home->config;
    const char *name = node->config_name == NULL ? node->info.name : node->config_name;
    int index = static_node_index(config, name);
    int old = before == NULL ? -1 : static_node_index(before, name);
    bool moved = index != -1 && old != -1 &&
                 !static_node_same_peer(&before->nodes[old], &config->nodes[index]);

    if (node->info.origin == NODE_ORIGIN_REGISTRY)
        node->replaced = index != -1; /* the configuration has taken its name */
    else if (moved && strcmp(name, node->info.name) == 0)
        node->replaced = true;
    /* Another machine under the same name.  For a host name the next look-up shows its
     * nodes. */
    else if ((index == -1 || moved) && node->verdict.leaving == NODE_REASON_NONE)
        table_leave(node, NODE_REASON_REMOVED, UINT64_MAX);
    else if (index != -1 && !moved && old != -1)
        keep_static(node, &before->nodes[old], (unsigned)index);
}

/* Entries without a node, and those whose node gives way to another. */
static void add_missing(struct node_table *table)
{
    const struct config *config = table->home.config;

    for (unsigned i = 0; i < config->nodes_count; i++) {
        struct node *m = node_table_find(table, config->nodes[i].name);
        bool looked_after = names_find(table, config->nodes[i].name) != NULL;

        if (m == NULL && !looked_after)
            add_static(table, i);
        /* Taken out by an earlier reload, it is back before it had gone. */
        else if (m != NULL &&
                 (m->replaced || (!looked_after && m->verdict.leaving != NODE_REASON_NONE)))
            replace(table, m, i);
    }
}

static void take_config(struct node_table *table, const struct config *before)
{
    struct node *next;

    for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL; m = next) {
        next = TAILQ_NEXT(m, link);
        if (m->verdict.state == NODE_GONE)
            continue;
        renew_timing(m);
        follow_config(m, before);
    }
    forget_sources(table, table->home.config, before);
    add_missing(table);
    TAILQ_FOREACH(next, &table->nodes, link)
        if (next->verdict.state != NODE_GONE && next->verdict.leaving == NODE_REASON_NONE)
            node_config_changed(next, before);
}

void configured_reload(struct node_table *table, const struct config *config)
{
    const struct config *before = table->home.config;

    table->home.config = config;
    if (config->registry.listen.tls.enabled)
        static_node_renew_tls(&table->registry_tls, &config->registry.listen.tls,
                              "joined nodes");
    take_config(table, before);
}

/* ---- taking over ------------------------------------------------------------------------- */

/* The entry of the configuration that the row of a static node belongs to, or -1: by name, or,
 * for one of the nodes of a host name, by where the entry was. */
static int adopted_index(const struct config *config, const struct node_info *info)
{
    int index = static_node_index(config, info->name);

    if (index != -1 || info->config_index == 0 || info->config_index > config->nodes_count)
        return index;
    index = (int)info->config_index - 1;
    return addresses_is_name(info->name, config->nodes[index].name) ? index : -1;
}

static void take_over(struct node *node)
{
    const struct config *config = node->home->config;
    int index = adopted_index(config, &node->info);
    struct net_addr addr;

    if (index == -1) {
        /* It was to be removed, and still is. */
        table_leave(node, NODE_REASON_REMOVED, UINT64_MAX);
        return;
    }
    if (node->verdict.leaving != NODE_REASON_NONE)
        node_table_event(node, NODE_EVENT_STAY, NODE_REASON_NONE);
    if (!static_node_take_over(node, (unsigned)index)) {
        table_remove(node, true);
        return;
    }
    if (net_parse(&addr, config->nodes[index].address, NULL) == 0)
        checks_start(node, &addr);
    else
        names_adopt(node, (unsigned)index);
}

void configured_start(struct node_table *table)
{
    struct node *next;

    for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL; m = next) {
        next = TAILQ_NEXT(m, link);
        if (m->info.origin == NODE_ORIGIN_STATIC)
            take_over(m);
    }
    take_config(table, NULL);
}

void configured_stop(struct node_table *table)
{
    while (table != NULL && table->sources != NULL)
        names_forget(table->sources);
}
