/* names.c - static nodes that are configured by host name. */
#include "health/names/names.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/io/resolve.h"
#include "base/log.h"
#include "health/names/addresses.h"
#include "health/nodes/checks.h"
#include "health/nodes/static_node.h"
#include "health/nodes/table.h"

#define RETRY_US (10 * US_PER_S) /* after a failure, if the interval is longer */

struct dns_source {
    struct dns_source *next;  /* in table->sources */
    struct node_table *table; /* borrowed */
    char *name;               /* owned; of the entry in the configuration */
    char *address;            /* owned; HOST:PORT of the entry */
    struct resolve *resolve;  /* owned; NULL = no question under way */
    struct timer timer;       /* until the next question */
    bool failing;             /* the last question got no answer: said once */
    struct addresses outside; /* those of the last answer that could not be added: said once */
};

static void ask(struct dns_source *source);

struct dns_source *names_find(const struct node_table *table, const char *name)
{
    struct dns_source *source = table->sources;

    while (source != NULL && strcmp(source->name, name) != 0)
        source = source->next;
    return source;
}

struct dns_source *names_next(const struct dns_source *source)
{
    return source->next;
}

const char *names_name(const struct dns_source *source)
{
    return source->name;
}

/* ---- what the resolver says ------------------------------------------------------------ */

/* Has this node an address, a place to go on with? */
static bool is_placed(const struct node *node)
{
    return node->probe != NULL;
}

static bool is_wanted(const struct dns_source *source, const struct addresses *now,
                      const struct node *node)
{
    char name[NODE_NAME_BYTES];

    for (unsigned i = 0; i < now->count; i++) {
        addresses_name(name, source->name, &now->at[i], now->count);
        if (strcmp(name, node->info.name) == 0)
            return true;
    }
    return false;
}

/* Nodes whose address is gone drain; the one without an address is removed at once. */
static void let_go(struct dns_source *source, const struct addresses *now)
{
    struct node_table *table = source->table;
    struct node *next;

    for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL; m = next) {
        next = TAILQ_NEXT(m, link);
        if (m->source != source || m->verdict.state == NODE_GONE ||
            m->verdict.leaving != NODE_REASON_NONE || is_wanted(source, now, m))
            continue;
        if (is_placed(m))
            table_leave(m, NODE_REASON_REMOVED, UINT64_MAX);
        else
            table_remove(m, true);
    }
}

/* Is, or was before it was taken out of the configuration, this node one of these? */
static bool is_of(const struct dns_source *source, const struct node *node)
{
    return node->config_name != NULL && strcmp(node->config_name, source->name) == 0;
}

/* Has an operator drained the node that is, or was, at this address?  The drain applies to
 * the machine, not to the name of its node. */
static bool is_drained(const struct dns_source *source, const struct address *address)
{
    const struct node_table *table = source->table;

    for (const struct node *m = TAILQ_FIRST(&table->nodes); m != NULL;
         m = TAILQ_NEXT(m, link)) {
        if (is_of(source, m) && m->verdict.drain_wanted &&
            strcmp(m->info.address, address->text) == 0)
            return true;
    }
    return false;
}

/* Is it a node of the configuration that is on its way out? */
static bool makes_room(const struct node *node)
{
    return node->info.origin == NODE_ORIGIN_STATIC && node->verdict.leaving != NODE_REASON_NONE;
}

/* The node at one address: new, moved there, or as it was.  Not NULL: why it could not be
 * added, with its name in `name`. */
static const char *place(char name[NODE_NAME_BYTES], struct dns_source *source, int index,
                         const struct address *address, unsigned count)
{
    struct node_table *table = source->table;
    struct node *node;
    bool drained;

    addresses_name(name, source->name, address, count);
    node = node_table_find(table, name);
    drained = is_drained(source, address);
    if (node != NULL && makes_room(node)) {
        drained = drained || node->verdict.drain_wanted;
        table_remove(node, true); /* it is back before it had gone */
        node = NULL;
    }
    if (node != NULL && node->source != source)
        return "another node has this name";
    if (node == NULL) {
        node = static_node_add(table, (unsigned)index, name);
        if (node == NULL)
            return "no room in the node table";
        node->source = source;
        if (drained)
            (void)!node_table_drain(table, name, true); /* it is there */
    }
    if (!is_placed(node) || strcmp(node->info.address, address->text) != 0)
        checks_start(node, &address->addr);
    return NULL;
}

/* All addresses of an answer.  An address that cannot be added is tried again with each answer,
 * and logged when it was not so in the one before. */
static void place_all(struct dns_source *source, int index, const struct addresses *now)
{
    char name[NODE_NAME_BYTES];
    struct addresses outside;

    outside.count = 0;
    for (unsigned i = 0; i < now->count; i++) {
        const struct address *address = &now->at[i];
        const char *why = place(name, source, index, address, now->count);

        if (why == NULL)
            continue;
        outside.at[outside.count++] = *address;
        if (!addresses_has(&source->outside, address->text))
            log_error("event=node_not_added node=%s address=%s why=\"%s\"", log_quote(name),
                      log_quote(address->text), why);
    }
    source->outside = outside;
}

static void no_answer(struct dns_source *source, const char *why)
{
    struct node_table *table = source->table;

    if (!source->failing)
        log_warn("event=node_unresolved node=%s address=%s why=%s", log_quote(source->name),
                 log_quote(source->address), log_quote(why));
    source->failing = true;
    for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL; m = TAILQ_NEXT(m, link)) {
        if (m->source == source && !is_placed(m))
            node_table_event(m, NODE_EVENT_FAIL, NODE_REASON_CONNECT_FAILED);
    }
}

static int config_index(const struct dns_source *source)
{
    return static_node_index(source->table->home.config, source->name);
}

static void on_timer(struct timer *timer)
{
    ask(CONTAINER_OF(timer, struct dns_source, timer));
}

static void ask_later(struct dns_source *source)
{
    uint64_t us = source->table->home.config->health.resolve_ms * US_PER_MS;

    if (source->failing && us > RETRY_US)
        us = RETRY_US;
    timer_start(source->table->home.loop, &source->timer, us, on_timer);
}

static void on_resolved(int rc, const struct net_addr *list, size_t n, const char *why,
                        void *data)
{
    struct dns_source *source = data;
    int index = config_index(source);
    struct addresses now;

    source->resolve = NULL;
    if (rc != 0 || n == 0 || index == -1) {
        no_answer(source, why);
        ask_later(source);
        return;
    }
    source->failing = false;
    addresses_set(&now, list, n);
    let_go(source, &now);
    place_all(source, index, &now);
    ask_later(source);
}

static void ask(struct dns_source *source)
{
    struct error err = {0};

    if (resolve_start(&source->resolve, source->table->home.loop, source->address, on_resolved,
                      source, &err) == 0)
        return;
    no_answer(source, err.text);
    ask_later(source);
}

/* ---- life ------------------------------------------------------------------------------ */

static struct dns_source *create(struct node_table *table, unsigned index)
{
    const struct config_node *node = &table->home.config->nodes[index];
    struct dns_source *source = calloc(1, sizeof(*source));

    if (source != NULL) {
        source->table = table;
        source->name = strdup(node->name);
        source->address = strdup(node->address);
    }
    if (source == NULL || source->name == NULL || source->address == NULL) {
        log_error("event=node_not_added node=%s why=\"out of memory\"", log_quote(node->name));
        if (source != NULL) {
            free(source->name);
            free(source->address);
        }
        free(source);
        return NULL;
    }
    source->next = table->sources;
    table->sources = source;
    timer_start(table->home.loop, &source->timer, 0, on_timer);
    return source;
}

void names_add(struct node_table *table, unsigned index)
{
    struct dns_source *source = create(table, index);
    struct node *node;

    if (source == NULL)
        return;
    /* Until there is an address, so that it is seen; without room place_all() logs it. */
    node = static_node_add(table, index, source->name);
    if (node != NULL)
        node->source = source;
}

void names_adopt(struct node *node, unsigned index)
{
    struct node_table *table = node->table;
    struct dns_source *source = names_find(table, table->home.config->nodes[index].name);
    struct net_addr addr;

    if (source == NULL)
        source = create(table, index);
    node->source = source;
    if (net_parse(&addr, node->info.address, NULL) == 0)
        checks_start(node, &addr);
}

void names_forget(struct dns_source *source)
{
    struct dns_source **link;
    struct node_table *table;

    if (source == NULL)
        return;
    table = source->table;
    for (struct node *m = TAILQ_FIRST(&table->nodes); m != NULL; m = TAILQ_NEXT(m, link)) {
        if (m->source == source)
            m->source = NULL;
    }
    for (link = &table->sources; *link != source;)
        link = &(*link)->next;
    *link = source->next;
    resolve_cancel(source->resolve);
    timer_stop(table->home.loop, &source->timer);
    free(source->name);
    free(source->address);
    free(source);
}
