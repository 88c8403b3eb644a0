/* model_table.c - the models that nodes serve, by name. */
#include "worker/upstreams/model_table.h"

#include <stdlib.h>
#include <string.h>

#include "base/config/config.h"
#include "base/hash.h"
#include "base/model_name.h"
#include "proto/drover_common.pb-c.h"
#include "shm/share/node_set.h"

void model_table_free(struct model_table *models)
{
    for (size_t i = 0; i < models->count; i++)
        free(models->at[i].servers);
    free(models->at);
    free(models->index);
    *models = (struct model_table){0};
}

/* Where the index has this id, or would have it.  There is an index. */
static uint32_t *index_place(const struct model_table *models, const char *id)
{
    size_t at = (size_t)hash_text(id) & (models->index_cap - 1);

    while (models->index[at] != 0 && strcmp(models->at[models->index[at] - 1].id, id) != 0)
        at = (at + 1) & (models->index_cap - 1);
    return &models->index[at];
}

struct upstream_model *model_table_find(const struct model_table *models, const char *id)
{
    uint32_t number = models->index_cap == 0 ? 0 : *index_place(models, id);

    return number == 0 ? NULL : &models->at[number - 1];
}

/* Room for twice as many models. */
static bool grow_models(struct model_table *models)
{
    size_t cap = models->cap == 0 ? 16 : 2 * models->cap;
    struct upstream_model *at = realloc(models->at, cap * sizeof(*at));
    uint32_t *index;

    if (at == NULL)
        return false;
    models->at = at;
    index = calloc(2 * cap, sizeof(*index));
    if (index == NULL)
        return false;
    free(models->index);
    models->index = index;
    models->index_cap = 2 * cap;
    models->cap = cap;
    for (size_t i = 0; i < models->count; i++)
        *index_place(models, at[i].id) = (uint32_t)i + 1;
    return true;
}

struct upstream_model *model_table_add(struct model_table *models, const char *id)
{
    struct upstream_model *model = model_table_find(models, id);

    if (model != NULL)
        return model;
    if (models->count == models->cap && !grow_models(models))
        return NULL;
    model = &models->at[models->count];
    memset(model, 0, sizeof(*model));
    (void)strlcpy(model->id, id, sizeof(model->id));
    model->bytes_per_token = UPSTREAMS_BYTES_PER_TOKEN;
    *index_place(models, id) = (uint32_t)++models->count;
    return model;
}

/* Is there room for one more?  It doubles: 0, 1, 2, 4 ... */
static bool has_room(const struct upstream_model *model)
{
    size_t n = model->servers_count;

    return n != 0 && (n & (n - 1)) != 0;
}

/* The last of model->servers afterwards.  False: out of memory. */
bool model_table_serve(struct upstream_model *model, const struct upstream_server *server)
{
    size_t n = model->servers_count;

    if (!has_room(model)) {
        struct upstream_server *grown =
            realloc(model->servers, (n == 0 ? 1 : 2 * n) * sizeof(*grown));

        if (grown == NULL)
            return false;
        model->servers = grown;
    }
    model->servers[model->servers_count++] = *server;
    model->operations |= server->operations;
    return true;
}

/* ---- one name for several -------------------------------------------------------------- */

/* Adds the servers [0..n) of another name, on nodes that have none for this one. */
static void join_servers(struct upstream_model *model, const struct upstream_server *servers,
                         size_t n)
{
    struct node_set has = {0};

    for (size_t i = 0; i < model->servers_count; i++)
        node_set_add(&has, model->servers[i].node_id);
    for (size_t i = 0; i < n; i++)
        if (!node_set_has(&has, servers[i].node_id) && !model_table_serve(model, &servers[i]))
            return;
}

/* The name with ":latest" at its end if it has none, or without.  False: it has no room. */
static bool other_tag(char out[NODE_MODEL_BYTES], const char *id)
{
    size_t n = model_name_untagged_len(id);

    (void)strlcpy(out, id, NODE_MODEL_BYTES);
    if (id[n] == '\0')
        return strlcat(out, ":latest", NODE_MODEL_BYTES) < NODE_MODEL_BYTES;
    out[n] = '\0';
    return true;
}

/* Is it Ollama on each node that has the model under this very name? */
static bool is_ollamas(const struct upstream_model *model)
{
    bool any = false;

    for (size_t i = 0; i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];

        if (strcmp(server->name, model->id) != 0)
            continue; /* joined */
        if (server->node->info.engine != DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA)
            return false;
        any = true;
    }
    return any;
}

const struct upstream_model *model_table_find_spelled(const struct model_table *models,
                                                      const char *id)
{
    const struct upstream_model *found = model_table_find(models, id);
    char other[NODE_MODEL_BYTES];

    for (size_t i = 0; i < models->count && found == NULL; i++)
        if (model_name_equal(models->at[i].id, id) && is_ollamas(&models->at[i]))
            found = &models->at[i];
    if (found == NULL && other_tag(other, id))
        found = model_table_find(models, other);
    return found;
}

/* "NAME" and "NAME:latest" are one model, whatever the engines are. */
static void join_tags(struct model_table *models)
{
    char other[NODE_MODEL_BYTES];

    for (size_t i = 0; i < models->count; i++) {
        struct upstream_model *tagged = &models->at[i], *plain;
        size_t own;

        if (tagged->id[model_name_untagged_len(tagged->id)] == '\0' ||
            !other_tag(other, tagged->id))
            continue;
        plain = model_table_find(models, other);
        if (plain == NULL)
            continue;
        own = tagged->servers_count;
        join_servers(tagged, plain->servers, plain->servers_count);
        join_servers(plain, tagged->servers, own);
    }
}

/* An alias with several models: each node has the first of them that it serves. */
static void add_pool(struct model_table *models, const struct config_alias *alias,
                     unsigned count)
{
    struct upstream_model pool = {0}, *place;

    for (unsigned i = 0; i < count; i++) {
        const struct upstream_model *of = model_table_find_spelled(models, alias[i].model);

        if (of != NULL)
            join_servers(&pool, of->servers, of->servers_count);
    }
    place = pool.servers_count == 0 ? NULL : model_table_add(models, alias->name);
    if (place == NULL) {
        free(pool.servers);
        return;
    }
    free(place->servers);
    place->servers = pool.servers;
    place->servers_count = pool.servers_count;
    place->operations = pool.operations;
}

void model_table_join(struct model_table *models, const struct config *config)
{
    unsigned count;

    join_tags(models);

    for (unsigned i = 0; i < config->aliases_count; i += count) {
        const struct config_alias *alias = &config->aliases[i];

        for (count = 1;
             i + count < config->aliases_count && strcmp(alias[count].name, alias->name) == 0;)
            count++;
        if (count > 1)
            add_pool(models, alias, count);
    }
}
