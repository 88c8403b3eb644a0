/* peer.c - which client a connection and a request are of, where proxies are between. */
#include "worker/http/entry/peer.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "base/config/config.h"
#include "base/error.h"
#include "base/log.h"
#include "worker/http/client_request.h"
#include "worker/http/entry/shares.h"
#include "worker/http/framing/forwarded.h"
#include "worker/http/framing/proxy_line.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

int peer_init(struct http_server *server, struct error *err)
{
    const struct config_api *api = &server->config->api;
    int rc;

    if (api->trusted_proxies_count == 0)
        return 0;
    server->proxies = calloc(api->trusted_proxies_count, sizeof(*server->proxies));
    if (server->proxies == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    for (unsigned i = 0; i < api->trusted_proxies_count; i++) {
        rc = proxy_net_parse(&server->proxies[i], api->trusted_proxies[i], err);
        if (rc != 0)
            return error_wrap(err, rc, "api.trusted_proxies");
        server->proxies_count++;
    }
    return 0;
}

void peer_finish(struct http_server *server)
{
    free(server->proxies);
    server->proxies = NULL;
    server->proxies_count = 0;
}

uint64_t peer_of_newcomer(const struct http_server *server, int fd,
                          const struct peer_address *peer)
{
    char bytes[4096];
    struct peer_address client;
    size_t len;
    ssize_t n;

    if (!proxies_have(server->proxies, server->proxies_count, peer))
        return peer_address_key(peer);
    n = recv(fd, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT);
    if (n > 0 && proxy_line_parse(&client, &len, bytes, (size_t)n) == PROXY_LINE_CLIENT)
        return peer_address_key(&client);
    return peer_address_key(peer);
}

void peer_set(struct client_connection *conn, const struct peer_address *address)
{
    const struct http_server *server = conn->server;

    conn->peer = *address;
    peer_address_text(conn->client, address);
    conn->proxied = proxies_have(server->proxies, server->proxies_count, address);
    if (conn->share != NULL)
        shares_leave(conn);
    shares_join(conn, peer_address_key(address));
}

enum peer_line peer_take_line(struct client_connection *conn)
{
    static struct log_limit limit;
    h2o_buffer_t **input = &conn->sock->input;
    struct peer_address client;
    uint32_t missed;
    size_t len;

    switch (proxy_line_parse(&client, &len, (*input)->bytes, (*input)->size)) {
    case PROXY_LINE_NONE:
        return PEER_LINE_NONE;
    case PROXY_LINE_MORE:
        return PEER_LINE_MORE;
    case PROXY_LINE_OWN:
        h2o_buffer_consume(input, len);
        conn->proxied = false; /* whose headers they are it does not know */
        return PEER_LINE_NONE;
    case PROXY_LINE_CLIENT:
        h2o_buffer_consume(input, len);
        peer_set(conn, &client);
        return PEER_LINE_CLIENT;
    case PROXY_LINE_BAD:
        break;
    }
    if (log_limit_ok(&limit, 1, &missed))
        log_warn("event=proxy_line_refused proxy=%s missed=%u", conn->client, missed);
    return PEER_LINE_BAD;
}

void peer_of_request(struct client_request *request, h2o_req_t *req)
{
    const struct client_connection *conn = request->responder->conn;
    const struct http_server *server = conn->server;
    struct peer_address hop = conn->peer;
    bool more = conn->proxied;
    char *text;

    request->client = conn->client; /* outlives the request */
    request->address = conn->address;
    if (!more)
        return;
    for (size_t i = req->headers.size; more && i > 0; i--) {
        const h2o_header_t *header = &req->headers.entries[i - 1];

        if (h2o_memis(header->name->base, header->name->len, H2O_STRLIT("x-forwarded-for")))
            more = forwarded_walk(&hop, header->value.base, header->value.len, server->proxies,
                                  server->proxies_count);
    }
    text = h2o_mem_alloc_pool(&req->pool, PEER_TEXT_BYTES);
    peer_address_text(text, &hop);
    request->client = text;
    request->address = peer_address_key(&hop);
}
