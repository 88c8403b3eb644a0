/* configured.c - the nodes that the configuration names: at the start, and when it changes. */
#include "health/nodes/configured.h"

#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/log.h"
#include "base/net.h"
#include "health/names/addresses.h"
#include "health/names/names.h"
#include "health/nodes/checks.h"
#include "health/nodes/static_node.h"
#include "health/table.h"

/* At its address, if the configuration has that; else see names.h. */
static void add_static(struct table *table, unsigned index)
{
    const struct config_node *node = &table->home.config->nodes[index];
    struct net_addr addr = {0};
    struct member *member;

    if (net_parse(&addr, node->address, NULL) != 0) {
        names_add(table, index);
        return;
    }
    member = static_node_add(table, index, node->name);
    if (member != NULL)
        checks_start(member, &addr);
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
        table->home.attach_ops->superseded(member->attach, false);
    table_remove(member, true);
    if (names_find(table, table->home.config->nodes[index].name) == NULL)
        add_static(table, index);
    if (drained)
        (void)!table_drain(table, table->home.config->nodes[index].name,
                           true); /* no room: no wish */
}

/* Ends those whose entry is no longer there, or names another peer. */
static void forget_sources(struct table *table, const struct config *config,
                           const struct config *before)
{
    struct source *next;

    for (struct source *s = table->sources; s != NULL; s = next) {
        int index = static_node_index(config, names_name(s));
        int old = before == NULL ? -1 : static_node_index(before, names_name(s));

        next = names_next(s);
        if (index == -1 ||
            (old != -1 && !static_node_same_peer(&before->nodes[old], &config->nodes[index])))
            names_forget(s);
    }
}

static void renew_timing(struct member *member)
{
    const struct config *config = member->home->config;

    member->verdict.rise = config->health.rise;
    member->verdict.fall = config->health.fall;
    if (member->probe == NULL)
        return;
    probe_set_timing(member->probe, config->health.interval_ms * US_PER_MS,
                     config->health.timeout_ms * US_PER_MS);
    probe_set_tokens(member->probe, config->tokens);
}

/* The entry of a static node is the one of number `index`; it was `before`. */
static void keep_static(struct member *member, const struct config_node *before, unsigned index)
{
    struct net_addr addr;

    static_node_update(member, before, index);
    /* The bad certificate that kept it from being probed may be mended. */
    if (member->probe == NULL &&
        net_parse(&addr, member->home->config->nodes[index].address, NULL) == 0)
        checks_start(member, &addr);
}

/* Applies the configuration to one node.  `before`: until now; NULL at the start. */
static void follow_config(struct member *member, const struct config *before)
{
    const struct config *config = member->home->config;
    const char *name = member->config_name == NULL ? member->info.name : member->config_name;
    int index = static_node_index(config, name);
    int old = before == NULL ? -1 : static_node_index(before, name);
    bool moved = index != -1 && old != -1 &&
                 !static_node_same_peer(&before->nodes[old], &config->nodes[index]);

    if (member->info.origin == NODE_ORIGIN_REGISTRY)
        member->replaced = index != -1; /* the configuration has taken its name */
    else if (moved && strcmp(name, member->info.name) == 0)
        member->replaced = true;
    /* Another machine under the same name.  Which of a host name's nodes that is, the next
     * look-up will tell. */
    else if ((index == -1 || moved) && member->verdict.leaving == NODE_REASON_NONE)
        table_leave(member, NODE_REASON_REMOVED, UINT64_MAX);
    else if (index != -1 && !moved && old != -1)
        keep_static(member, &before->nodes[old], (unsigned)index);
}

/* Entries without a node, and those whose node gives way to another. */
static void add_missing(struct table *table)
{
    const struct config *config = table->home.config;

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

static void take_config(struct table *table, const struct config *before)
{
    struct member *next;

    for (struct member *m = table->members.next; m != &table->members; m = next) {
        next = m->next;
        if (m->verdict.state == NODE_GONE)
            continue;
        renew_timing(m);
        follow_config(m, before);
    }
    forget_sources(table, table->home.config, before);
    add_missing(table);
}

void configured_reload(struct table *table, const struct config *config)
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

static void take_over(struct member *member)
{
    const struct config *config = member->home->config;
    int index = adopted_index(config, &member->info);
    struct net_addr addr;

    if (index == -1) {
        /* It was to be removed, and still is. */
        table_leave(member, NODE_REASON_REMOVED, UINT64_MAX);
        return;
    }
    if (member->verdict.leaving != NODE_REASON_NONE)
        table_event(member, VERDICT_STAY, NODE_REASON_NONE);
    if (!static_node_take_over(member, (unsigned)index)) {
        table_remove(member, true);
        return;
    }
    if (net_parse(&addr, config->nodes[index].address, NULL) == 0)
        checks_start(member, &addr);
    else
        names_adopt(member, (unsigned)index);
}

void configured_start(struct table *table)
{
    struct member *next;

    for (struct member *m = table->members.next; m != &table->members; m = next) {
        next = m->next;
        if (m->info.origin == NODE_ORIGIN_STATIC)
            take_over(m);
    }
    take_config(table, NULL);
}

void configured_stop(struct table *table)
{
    while (table != NULL && table->sources != NULL)
        names_forget(table->sources);
}
