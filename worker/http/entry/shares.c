/* shares.c - whose a connection is, and what its client holds. */
#include "worker/http/entry/shares.h"

#include "base/config/config.h"
#include "base/hash.h"
#include "worker/http/client_request.h"
#include "worker/http/server_state.h"

void shares_join(struct client_connection *conn, uint64_t address)
{
    conn->address = address;
    conn->share = client_join(&conn->server->shares, address);
}

void shares_leave(struct client_connection *conn)
{
    client_leave(&conn->server->shares, conn->share);
    conn->share = NULL;
}

void shares_know(struct client_connection *conn, struct client_request *request)
{
    uint64_t key = request->key_name != NULL ? hash_text(request->key_name) : request->address;
    struct client_share *old = conn->share;

    request->caller = key;
    if (old->key == key)
        return;
    conn->share = client_join(&conn->server->shares, key);
    client_leave(&conn->server->shares, old);
}

void shares_hold(struct client_connection *conn, size_t n)
{
    conn->server->body_bytes += n;
    client_hold(&conn->server->shares, conn->share, n);
}

void shares_release(struct client_connection *conn, size_t n)
{
    conn->server->body_bytes -= n;
    client_release(&conn->server->shares, conn->share, n);
}

enum share_verdict shares_judge(const struct client_connection *conn, size_t one, size_t n)
{
    const struct http_server *server = conn->server;
    struct share_facts facts = {
        .limit = server->config->limits.max_body_total_bytes,
        .held = server->body_bytes,
        .clients = server->shares.holders,
        .mine = conn->share->bytes,
        .one = one,
        .n = n,
    };

    return share_judge(&facts);
}
