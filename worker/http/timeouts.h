/* timeouts.h - time limits of connections and the limit of memory.  Inside worker/http only. */
#ifndef DROVER_WORKER_HTTP_TIMEOUTS_H
#define DROVER_WORKER_HTTP_TIMEOUTS_H

#include <stdbool.h>
#include <stddef.h>

struct http_server;

void timeouts_init(struct http_server *server);
void timeouts_finish(struct http_server *server);
/* Would `more` bytes of request take the process over limits.worker_memory_bytes? */
bool timeouts_memory_short(const struct http_server *server, size_t more);

#endif
