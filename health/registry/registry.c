/* registry.c - the service through which nodes join: its server, from start to end. */
#include "health/registry/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/error.h"
#include "base/text/text.h"
#include "health/admin/snapshot.h"
#include "health/nodes/table.h"
#include "health/registry/registry_private.h"
#include "proto/health_service.h"
#include "proto/rpc/h2/tls.h"
#include "shm/scoreboard.h"

#define MAX_MESSAGE_BYTES (1024u * 1024)
#define MAX_STREAMS       16u /* of one connection; a node needs one */

/* A newer or older node asks for what there is not: why it does not join, its operator should
 * not have to guess. */
static void on_unknown(void *data, const struct net_addr *peer, const char *path, size_t n)
{
    struct registry *registry = data;
    char text[NET_TEXT_BYTES];
    uint32_t missed;

    if (!wire_is_other_version(path, n))
        return;
    registry->refused++;
    net_format(text, sizeof(text), peer);
    if (log_limit_minute(&registry->version_limit, &missed))
        log_warn("event=join_refused peer=%s why=\"another major version of the protocol\" "
                 "asked=%s spoken=drover.v1 missed=%u",
                 log_quote(text), log_quote_n(path, n), missed);
}

static int start_server(struct registry *registry, int listen_fd, struct error *err)
{
    const struct config_tls *tls = &registry->config->registry.listen.tls;
    struct server_config config = {
        .methods = registry->methods,
        .methods_count = ARRAY_LEN(registry->methods),
        .max_connections =
            2 * scoreboard_max_nodes(registry->table->home.board) + REGISTRY_MAX_STRANGERS,
        .max_streams = MAX_STREAMS,
        .on_unknown = on_unknown,
        .data = registry,
    };
    int rc;

    if (tls->enabled) {
        rc = tls_server_context(&registry->tls, tls, TLS_PROTOCOL_H2, err);
        if (rc != 0)
            return error_wrap(err, rc, "registry.listen.tls");
        config.tls = registry->tls;
    }
    rc = health_service_create(&registry->health, err);
    if (rc != 0)
        return rc;
    health_service_set(registry->health, "", true);
    health_service_set(registry->health, "drover.v1.Registry", true);
    health_service_methods(registry->health, &registry->methods[1]);
    registry->methods[0] = (struct server_method){
        .path = "/drover.v1.Registry/Attach",
        .handler = &registry_stream_handler,
        .client_streaming = true,
        .max_message_bytes = MAX_MESSAGE_BYTES,
        .data = registry,
    };
    rc = grpc_server_create(&registry->server, registry->loop, &config, err);
    if (rc != 0)
        return rc;
    return grpc_server_listen(registry->server, listen_fd, err);
}

int registry_create(struct registry **out, struct loop *loop, struct node_table *table,
                    const struct config *config, int listen_fd, struct error *err)
{
    struct registry *registry = calloc(1, sizeof(*registry));
    char host[40] = "";
    int rc;

    *out = NULL;
    if (registry == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    registry->loop = loop;
    registry->table = table;
    registry->config = config;
    TAILQ_INIT(&registry->streams);
    wire_arena_init(&registry->arena);
    (void)gethostname(host, sizeof(host) - 1);
    (void)snprintf(registry->id, sizeof(registry->id), "%s/%d",
                   text_is_label(host, sizeof(host)) ? host : "drover", (int)getpid());
    rc = start_server(registry, listen_fd, err);
    if (rc != 0) {
        registry_destroy(registry);
        return rc;
    }
    table->home.node_stream_ops = &registry_stream_ops;
    *out = registry;
    return 0;
}

static void on_idle(struct grpc_server *server, void *data)
{
    struct registry *registry = data;

    (void)server;
    *registry->stopped = true;
}

void registry_stop(struct registry *registry, uint64_t grace_us, bool *done)
{
    struct node_stream *a, *next;

    if (registry->stopping)
        return;
    registry->stopping = true;
    registry->stopped = done;
    TAILQ_FOREACH_SAFE(a, &registry->streams, link, next) {
        if (a->node != NULL)
            a->node->stream = NULL; /* its row is left as it is */
        node_stream_shutdown(a);
    }
    grpc_server_shutdown(registry->server, grace_us, on_idle, registry);
}

void registry_destroy(struct registry *registry)
{
    struct node_stream *a;

    if (registry == NULL)
        return;
    registry->stopping = true;
    TAILQ_FOREACH(a, &registry->streams, link) {
        if (a->node != NULL)
            a->node->stream = NULL;
        a->node = NULL;
    }
    grpc_server_destroy(registry->server);
    /* Streams that were ending have no on_gone. */
    while (!TAILQ_EMPTY(&registry->streams))
        node_stream_free(TAILQ_FIRST(&registry->streams));
    health_service_destroy(registry->health);
    SSL_CTX_free(registry->tls);
    wire_arena_finish(&registry->arena);
    free(registry);
}

/* Certificates may have new contents under old names.  Files that cannot be used leave things
 * as they are. */
static void renew_tls(struct registry *registry)
{
    const struct config_tls *tls = &registry->config->registry.listen.tls;
    struct error err = {0};
    SSL_CTX *fresh = NULL;

    if (tls->enabled && tls_server_context(&fresh, tls, TLS_PROTOCOL_H2, &err) != 0) {
        log_error("event=tls_not_renewed listener=registry why=%s", log_quote(err.text));
        return;
    }
    grpc_server_set_tls(registry->server, fresh);
    SSL_CTX_free(registry->tls); /* connections have their own reference */
    registry->tls = fresh;
}

void registry_reload(struct registry *registry, const struct config *config)
{
    registry->config = config;
    renew_tls(registry);
}

void registry_counts(const struct registry *registry, struct snapshot_counts *out)
{
    out->registry_joins = registry->joins;
    out->registry_refused = registry->refused;
    out->registry_crowded = registry->crowded + grpc_server_crowded(registry->server);
    out->registry_attached = registry->joined_streams;
}
