/*
 * model_table.h - the models that nodes serve, by name.
 *
 * Private to upstreams.c, which fills it from the node table.
 */
#ifndef DROVER_WORKER_UPSTREAMS_MODEL_TABLE_H
#define DROVER_WORKER_UPSTREAMS_MODEL_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "worker/upstreams/model.h"

struct config;

/* The models by number, and their numbers by name.  All zero: empty. */
struct model_table {
    struct upstream_model *at; /* owned, with their `servers` */
    size_t count, cap;
    uint32_t *index;  /* owned: 1 + number, at the hash of its id or after; 0 = none */
    size_t index_cap; /* 0 or a power of two, at least twice `cap` */
};

void model_table_free(struct model_table *models);

/* The model of this very name, or NULL. */
struct upstream_model *model_table_find(const struct model_table *models, const char *id);
/* ... or the one that upstreams_settle_name() takes the name for. */
const struct upstream_model *model_table_find_spelled(const struct model_table *models,
                                                      const char *id);

/* The same, made if there is none yet.  Moves the others.  NULL: out of memory. */
struct upstream_model *model_table_add(struct model_table *models, const char *id);

/* Adds *server, the last of model->servers afterwards.  False: out of memory. */
MUST_CHECK bool model_table_serve(struct upstream_model *model,
                                  const struct upstream_server *server);

/* When each node's models are there: gives a name also the nodes that have the model under
 * another, by a ":latest" or by an alias with several models. */
void model_table_join(struct model_table *models, const struct config *config);

#endif
