/* static_node.c - a node that the configuration names: what its entry says of it. */
#include "health/nodes/static_node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/config.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/log.h"
#include "health/nodes/table.h"
#include "health/registry/identity.h"
#include "proto/rpc/h2/tls.h"

int static_node_index(const struct config *config, const char *name)
{
    for (unsigned i = 0; i < config->nodes_count; i++) {
        if (strcmp(config->nodes[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

bool static_node_same_peer(const struct config_node *a, const struct config_node *b)
{
    return strcmp(a->address, b->address) == 0 && a->tls.enabled == b->tls.enabled &&
           same_text(a->tls.ca, b->tls.ca) && same_text(a->tls.cert, b->tls.cert) &&
           same_text(a->tls.key, b->tls.key) &&
           same_text(a->tls.server_name, b->tls.server_name);
}

void static_node_renew_tls(SSL_CTX **tls, const struct config_tls *config, const char *whose)
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

static void set_tls(struct node *node, const struct config_node *entry)
{
    struct error err = {0};
    char host[256];
    uint16_t port;

    SSL_CTX_free(node->tls);
    node->tls = NULL;
    free(node->tls_name);
    node->tls_name = NULL;
    if (!entry->tls.enabled)
        return;
    if (tls_client_context(&node->tls, &entry->tls, &err) != 0) {
        log_error("event=node_tls_bad node=%s why=%s", log_quote(entry->name),
                  log_quote(err.text));
        return;
    }
    if (entry->tls.server_name != NULL)
        node->tls_name = strdup(entry->tls.server_name);
    else if (net_split(entry->address, host, sizeof(host), &port, NULL) == 0)
        node->tls_name = strdup(host);
}

/* The configuration overrides the known facts. */
static void apply_config(struct node_info *info, const struct config *config, unsigned index)
{
    const struct config_node *node = &config->nodes[index];

    info->origin = NODE_ORIGIN_STATIC;
    info->weight = node->weight;
    info->tls = node->tls.enabled;
    info->config_index = index + 1;
}

struct node *static_node_add(struct node_table *table, unsigned index, const char *name)
{
    const struct config_node *entry = &table->home.config->nodes[index];
    struct node_info *info = calloc(1, sizeof(*info));
    struct node *node = NULL;

    if (info != NULL) {
        (void)snprintf(info->name, sizeof(info->name), "%s", name);
        identity_capacity(info, NULL);
        identity_override(info, entry->slots, entry->queue);
        apply_config(info, table->home.config, index);
        node = table_add(table, info);
        free(info);
    }
    if (node != NULL)
        node->config_name = strdup(entry->name);
    if (node == NULL)
        return NULL;
    if (node->config_name == NULL) {
        table_remove(node, true);
        return NULL;
    }
    set_tls(node, entry);
    return node;
}

void static_node_update(struct node *node, const struct config_node *before, unsigned index)
{
    const struct config *config = node->home->config;
    const struct config_node *entry = &config->nodes[index];
    struct node_info next;

    node_info_copy(&next, &node->info);
    apply_config(&next, config, index);
    if (entry->tls.enabled)
        static_node_renew_tls(&node->tls, &entry->tls, entry->name);
    if (before->slots == entry->slots && before->queue == entry->queue) {
        node_publish(node, &next);
        return;
    }
    /* The old override hides what the node reported: set the new one, and let
     * the next description restore the values without one. */
    identity_override(&next, entry->slots, entry->queue);
    node_publish(node, &next);
    if (node->probe != NULL)
        probe_describe(node->probe);
}

bool static_node_take_over(struct node *node, unsigned index)
{
    const struct config *config = node->home->config;
    struct node_info next;

    node->config_name = strdup(config->nodes[index].name);
    if (node->config_name == NULL)
        return false;
    node_info_copy(&next, &node->info);
    apply_config(&next, config, index);
    node_publish(node, &next);
    set_tls(node, &config->nodes[index]);
    return true;
}
