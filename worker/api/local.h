/* local.h - answers that need no node: health, versions, and lists of models. */
#ifndef DROVER_WORKER_API_LOCAL_H
#define DROVER_WORKER_API_LOCAL_H

struct catalog;
struct config;
struct client_request;
struct route;
struct scoreboard;

/* The facts that these answers report. */
struct local_facts {
    const struct config *config;
    const struct scoreboard *board;
    struct catalog *catalog; /* renewed where it is needed */
    const char *not_ready;   /* why no request can be served now; NULL = it can */
};

/* Answers a request for any route but ROUTE_INFER, ROUTE_UNKNOWN and ROUTE_BAD_METHOD. */
void local_answer(struct client_request *request, const struct route *route,
                  const struct local_facts *facts);

#endif
