/* give_way.c - which connections give way when there are too many. */
#include "worker/http/entry/give_way.h"

#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "shm/facts/procs.h"
#include "worker/http/client_request.h"
#include "worker/http/entry/heads.h"
#include "worker/http/intake.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

/* A client has so long to send what it connected for, or to read what it is sent. */
#define YOUNG_US  (US_PER_S / 4)
#define UNREAD_US US_PER_S

static enum give_way how_busy(const struct client_connection *conn, uint64_t now,
                              uint64_t *since)
{
    const struct responder *r = conn->current;

    if (intake_waits(conn, since))
        return GIVE_WAY_UPLOAD;
    if (intake_lingers(conn)) {
        *since = conn->since_mono_us;
        return GIVE_WAY_IDLE;
    }
    *since = r->flight_mono_us;
    return r->in_flight && !r->reported && now - r->flight_mono_us >= UNREAD_US
               ? GIVE_WAY_UNREAD
               : GIVE_WAY_NEVER;
}

static enum give_way how(const struct client_connection *conn, uint64_t now, uint64_t *since)
{
    if (conn->current != NULL)
        return how_busy(conn, now, since);
    *since = conn->since_mono_us;
    if (conn->sock->input != NULL && conn->sock->input->size != 0)
        return now - *since < YOUNG_US ? GIVE_WAY_NEVER : GIVE_WAY_HEAD;
    if (conn->fresh)
        return now - *since < YOUNG_US ? GIVE_WAY_NEVER : GIVE_WAY_SILENT;
    return GIVE_WAY_IDLE;
}

/* In its place by order; the last one falls out of a full list. */
static void insert(struct give_way_list *list, struct client_connection *conn,
                   const struct give_way_candidate *as)
{
    size_t at = list->count;

    if (at == GIVE_WAY_MAX && !gives_way_before(as, &list->as[at - 1]))
        return;
    if (at == GIVE_WAY_MAX)
        at--;
    else
        list->count++;
    for (; at > 0 && gives_way_before(as, &list->as[at - 1]); at--) {
        list->as[at] = list->as[at - 1];
        list->all[at] = list->all[at - 1];
    }
    list->as[at] = *as;
    list->all[at] = conn;
}

void give_way_find(struct give_way_list *list, const struct http_server *server,
                   enum give_way only)
{
    uint32_t share = server->max_connections / (server->shares.count + 1);
    uint64_t now = loop_now_us(server->loop);
    struct client_connection *conn;

    list->count = 0;
    list->newcomer_known = false;
    TAILQ_FOREACH(conn, &server->connections, link) {
        struct give_way_candidate as = {.connections = conn->share->connections,
                                        .share = share};

        as.how = how(conn, now, &as.since_mono_us);
        if (as.how != GIVE_WAY_NEVER && (only == GIVE_WAY_NEVER || as.how == only))
            insert(list, conn, &as);
    }
}

/* Its request may have come since libh2o looked. */
static bool has_unread_bytes(const struct client_connection *conn)
{
    char byte;

    return recv(h2o_socket_get_fd(conn->sock), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

static void note(const struct client_connection *conn, const struct give_way_candidate *as)
{
    static struct log_limit limit;
    const struct http_server *server = conn->server;
    uint32_t missed;

    procs_count(server->board, server->worker, PROC_CONNECTIONS_GAVE_WAY, 1);
    if (log_limit_ok(&limit, 1, &missed))
        log_warn("event=connection_gave_way client=%s how=%s clients_connections=%u "
                 "connections=%u missed=%u",
                 conn->current != NULL ? conn->current->request->client : conn->client,
                 give_way_name(as->how), (unsigned)conn->share->connections,
                 server->connections_count, missed);
}

/* False: it stays.  Some go a little later. */
static bool end(struct client_connection *conn, const struct give_way_candidate *as)
{
    if (as->how != GIVE_WAY_HEAD && conn->current == NULL && has_unread_bytes(conn))
        return false;
    note(conn, as);
    if (as->how == GIVE_WAY_UPLOAD)
        intake_give_way(conn); /* its answer is sent first */
    else if (conn->current != NULL)
        responder_lose(conn->current);
    else
        heads_close(conn);
    return true;
}

static uint64_t likely_client(struct give_way_list *list, const struct http_server *server,
                              uint64_t address)
{
    uint32_t most = client_connections(&server->shares, address);
    const struct client_connection *conn;

    if (list->newcomer_known && list->newcomer_address == address)
        return list->newcomer_key;
    list->newcomer_known = true;
    list->newcomer_address = list->newcomer_key = address;
    TAILQ_FOREACH(conn, &server->connections, link) {
        if (conn->address != address || conn->share->connections <= most)
            continue;
        most = conn->share->connections;
        list->newcomer_key = conn->share->key;
    }
    return list->newcomer_key;
}

bool give_way_make_room(struct give_way_list *list, struct http_server *server,
                        uint64_t address)
{
    uint64_t key = likely_client(list, server, address);
    uint32_t mine = client_connections(&server->shares, key);

    for (size_t i = 0; i < list->count; i++) {
        struct client_connection *conn = list->all[i];

        if (conn == NULL)
            continue;
        list->as[i].connections = conn->share->connections;
        if (!gives_way_to(&list->as[i], conn->share->key == key, mine))
            continue;
        list->all[i] = NULL;
        if (end(conn, &list->as[i]))
            return true;
    }
    return false;
}

void give_way_end_heads(struct http_server *server)
{
    struct give_way_list list;

    give_way_find(&list, server, GIVE_WAY_HEAD);
    for (size_t i = 0; i < list.count; i++) {
        note(list.all[i], &list.as[i]);
        heads_close(list.all[i]);
    }
}
