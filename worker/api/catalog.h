/*
 * catalog.h - the models, added up over all nodes.
 *
 * A private copy, made anew when the node table has changed.  Sorted by id.
 */
#ifndef DROVER_WORKER_API_CATALOG_H
#define DROVER_WORKER_API_CATALOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/facts/nodes.h"

struct buf;
struct config;
struct scoreboard;

struct catalog_model {
    char id[NODE_MODEL_BYTES];
    uint32_t max_context;     /* the largest of its nodes; 0 = unknown */
    uint32_t has, lacks;      /* bit (1 << enum ability): of any node, of all nodes */
    bool able;                /* some node can serve it now */
    bool loaded;              /* resident on such a node */
    bool simulated;           /* every node that has it stands before drover-sim */
    bool ollama;              /* every node that has it stands before Ollama */
    uint32_t operations;      /* bit (1 << drover.v1.Operation): of any node */
    struct model_about about; /* of a node whose engine says it; memory: of all */
    bool alias;               /* only another name of a model */
    /* Not listed: only a name without the ":latest" that follows from it, or an alias for all
     * names that begin so. */
    bool implied;
    bool hidden; /* private to catalog.c: an alias has its name */
};

struct catalog {
    struct catalog_model *models; /* owned */
    size_t count, cap;
    uint64_t epoch; /* of the node table when this was made */
    bool made;
};

void catalog_finish(struct catalog *catalog);

/* Looks whether the node table has changed and reads it again if so.  Out of memory: keeps what
 * fits. */
void catalog_refresh(struct catalog *catalog, const struct scoreboard *board,
                     const struct config *config);

/* The model that a chat under this name gets, as upstreams_resolve() finds it; NULL: there is
 * none. */
const struct catalog_model *catalog_find(const struct catalog *catalog,
                                         const struct config *config, const char *id);

/* The model of a request that names none: the only one of all nodes, aliases aside, or else
 * that of the alias for any name; NULL: there is neither.  It is of the catalog, or the config.
 */
const char *catalog_default(const struct catalog *catalog, const struct config *config);

/* For errors, a name as the client sent it; with `config`, which may be NULL, and what it is an
 * alias of: "'x' (an alias of 'y')". */
void catalog_say_name(struct buf *out, const struct config *config, const char *id);
/* That no node has the model; likewise. */
void catalog_say_missing(struct buf *out, const struct config *config, const char *id);

#endif
