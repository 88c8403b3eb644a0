/* reject_private.h - what reject.c does for server.c with libh2o's types. */
#ifndef DROVER_WORKER_HTTP_REJECT_PRIVATE_H
#define DROVER_WORKER_HTTP_REJECT_PRIVATE_H

#include <h2o.h>
#include <stdbool.h>

#include "base/kinds.h"

struct config;
struct http_server;

/* Keeps libh2o's encoder out. */
void reject_init(h2o_pathconf_t *path);
/* The path of the request's target, without the query; in the pool.  *for_codex (NULL: not
 * asked) is set where the query says `client_version`, as Codex' does when it lists models. */
h2o_iovec_t request_path(h2o_req_t *req, bool *for_codex);
/* The query behind it, which stays where it is; "" = none. */
h2o_iovec_t request_query_part(const h2o_req_t *req);
/* How urgent it is, by its headers, or by the configuration where it has none of them. */
enum request_priority find_priority(h2o_req_t *req, const struct config *config,
                                    const char *model);
/* A new id; in the pool. */
const char *execution_id(h2o_req_t *req);
/* The client's x-request-id, in the pool; NULL when there is none, or it is not fit. */
const char *client_id(h2o_req_t *req);
/* The origin of the web page that the request comes from, when api.cors_origins has it: in the
 * pool.  NULL: from no page, or from one that is not listed, and then `*stranger` is set. */
const char *page_origin(h2o_req_t *req, const struct http_server *server, bool *stranger);

#endif
