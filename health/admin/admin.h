/*
 * admin.h - the admin listener: /livez, /readyz, /metrics, /nodes, and a page for people at /,
 * over HTTP/1.1.
 *
 * For operators and their tools, not for the Internet: it has no accounts.  GET and HEAD only;
 * one request a connection, which lives 30 s at most, so a slow or hostile peer holds little
 * and not for long.
 */
#ifndef DROVER_HEALTH_ADMIN_H
#define DROVER_HEALTH_ADMIN_H

#include <stdbool.h>

#include "base/attrs.h"

struct admin; /* opaque */
struct config;
struct error;
struct loop;
struct scoreboard;
struct snapshot_counts;

/* Takes over the listening socket.  `counts` is called for each answer that needs them.
 * DRV_ENOMEM; DRV_EINVAL: TLS files; DRV_ESYS. */
MUST_CHECK int admin_create(struct admin **out, struct loop *loop, struct scoreboard *board,
                            const struct config *config, int listen_fd,
                            void (*counts)(struct snapshot_counts *out, void *data), void *data,
                            struct error *err);

/* Reads the TLS files again; what cannot be used leaves things as they are. */
void admin_reload(struct admin *admin, const struct config *config);

/* Stops accepting and hangs up on everybody. */
void admin_stop(struct admin *admin);

/* Is no connection left?  It takes a turn or two of the loop after admin_stop(). */
MUST_CHECK bool admin_idle(const struct admin *admin);

/* After admin_stop(), once idle: libh2o cannot let go of a connection.  NULL is allowed. */
void admin_destroy(struct admin *admin);

#endif
