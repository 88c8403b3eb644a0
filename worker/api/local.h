/* local.h - answers that need no node: health, versions, and lists of models. */
#ifndef DROVER_WORKER_API_LOCAL_H
#define DROVER_WORKER_API_LOCAL_H

#include <stdbool.h>
#include <stddef.h>

struct catalog;
struct config;
struct reply;
struct route;
struct scoreboard;

/* The facts that the replies report. */
struct local_facts {
    const struct config *config;
    const struct scoreboard *board;
    struct catalog *catalog; /* renewed where it is needed */
    bool for_codex;          /* it asks what it calls models */
    const void *body;        /* of ROUTE_PULL; NULL = none */
    size_t body_len;
    const char *not_ready;              /* why no request can be served now; NULL = it can */
    bool (*models_unknown)(void *data); /* see upstreams.h */
    bool (*models_awaited)(void *data);
    void *data;
};

/* Makes the reply for any route but ROUTE_INFER, ROUTE_UNKNOWN and ROUTE_BAD_METHOD.  `out` is
 * REPLY_INIT; `request_id` goes into an error's body. */
void local_reply(struct reply *out, const struct route *route, const char *request_id,
                 const struct local_facts *facts);

#endif
