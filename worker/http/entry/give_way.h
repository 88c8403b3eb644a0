/*
 * give_way.h - which connections give way when there are too many.  Inside worker/http only.
 *
 * A connection that is idle, silent, slow or not read costs its client nothing, so a crowd of
 * them would keep others out.  policy/share/clients.h has the order.
 */
#ifndef DROVER_WORKER_HTTP_ENTRY_GIVE_WAY_H
#define DROVER_WORKER_HTTP_ENTRY_GIVE_WAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "policy/share/clients.h"

struct client_connection;
struct http_server;

#define GIVE_WAY_MAX 16

/* Those that give way first, in order; good until the next turn of the loop. */
struct give_way_list {
    struct client_connection *all[GIVE_WAY_MAX]; /* NULL = has gone */
    struct give_way_candidate as[GIVE_WAY_MAX];
    size_t count;
    bool newcomer_known; /* the last newcomer's address, and whose it counts as */
    uint64_t newcomer_address, newcomer_key;
};
/* Only those that give way as `only` says; GIVE_WAY_NEVER: any. */
void give_way_find(struct give_way_list *list, const struct http_server *server,
                   enum give_way only);
/* Makes room for a newcomer with this address.  False: its client has as much as others.  Whose
 * it is shows with its key; until then it counts as the client's of this address that has most,
 * so no key has more connections for having them counted apart. */
MUST_CHECK bool give_way_make_room(struct give_way_list *list, struct http_server *server,
                                   uint64_t address);
/* Ends those whose heads are not complete. */
void give_way_end_heads(struct http_server *server);

#endif
