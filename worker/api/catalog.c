/* catalog.c - the models of all nodes, added up. */
#include "worker/api/catalog.h"

#include <stdlib.h>
#include <string.h>

#include "base/attrs.h"
#include "base/config/config.h"
#include "base/model_name.h"
#include "base/text/buf.h"
#include "proto/drover_common.pb-c.h"
#include "shm/scoreboard.h"

/* Of an alias with many models. */
#define NAMES_SAID 3u

void catalog_finish(struct catalog *catalog)
{
    free(catalog->models);
    *catalog = (struct catalog){0};
}

static void add(struct catalog *catalog, const struct catalog_model *model)
{
    if (catalog->count == catalog->cap) {
        size_t cap = catalog->cap == 0 ? 16 : catalog->cap * 2;
        struct catalog_model *grown = reallocarray(catalog->models, cap, sizeof(*grown));

        if (grown == NULL)
            return;
        catalog->models = grown;
        catalog->cap = cap;
    }
    catalog->models[catalog->count++] = *model;
}

/* A node that is down may be back in a moment, and a model that vanishes from the list makes
 * clients drop it for good; a node that has left, or has never answered, does not count. */
static bool is_listed(enum node_state state)
{
    return state == NODE_UP || state == NODE_EJECTED || state == NODE_PROBATION ||
           state == NODE_DOWN || state == NODE_DRAINING;
}

/* Ollama takes "NAME" for "NAME:latest". */
static bool is_implied(const struct node_info *info, const struct node_model *model)
{
    const char *of;

    if (model->alias_of == 0 || model->alias_of > info->models_count)
        return false;
    of = info->models[model->alias_of - 1].id;
    return strlen(model->id) < strlen(of) && model_name_equal(of, model->id);
}

static void add_node(struct catalog *catalog, const struct node_info *info,
                     enum node_state state)
{
    bool able = state == NODE_UP || state == NODE_PROBATION;

    for (uint32_t i = 0; i < info->models_count; i++) {
        const struct node_model *from = &info->models[i];
        struct catalog_model model = {
            .max_context = from->max_context,
            .has = from->has,
            .lacks = from->lacks,
            .able = able,
            .loaded = able && from->state == DROVER__V1__MODEL_STATE__MODEL_STATE_READY,
            .simulated = info->engine == DROVER__V1__ENGINE_KIND__ENGINE_KIND_SIMULATED,
            .ollama = info->engine == DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA,
            .operations = from->operations,
            .about = from->about,
            .alias = from->alias_of != 0,
            .implied = is_implied(info, from),
        };

        if (!able) { /* what it has in memory is not known */
            model.about.memory_bytes = 0;
            model.about.vram_bytes = 0;
            model.about.expires_at[0] = '\0';
        }
        if (from->id[0] == '\0' || from->state == DROVER__V1__MODEL_STATE__MODEL_STATE_FAILED)
            continue;
        (void)strlcpy(model.id, from->id, sizeof(model.id));
        add(catalog, &model);
    }
}

static int by_id(const void *a, const void *b)
{
    const struct catalog_model *x = a, *y = b;

    return strcmp(x->id, y->id);
}

/* The file of the newest kind that a node says, and the memory of all. */
static void merge_about(struct catalog_model *into, const struct catalog_model *more)
{
    uint64_t memory = into->about.memory_bytes + more->about.memory_bytes;
    uint64_t vram = into->about.vram_bytes + more->about.vram_bytes;
    bool later = strcmp(more->about.expires_at, into->about.expires_at) > 0;
    char expires[MODEL_INSTANT_BYTES];

    (void)strlcpy(expires, later ? more->about.expires_at : into->about.expires_at,
                  sizeof(expires));
    if (strcmp(more->about.modified_at, into->about.modified_at) > 0)
        into->about = more->about;
    into->about.memory_bytes = memory;
    into->about.vram_bytes = vram;
    (void)strlcpy(into->about.expires_at, expires, sizeof(into->about.expires_at));
}

/* `more` is the same model on another node. */
static void merge(struct catalog_model *into, const struct catalog_model *more)
{
    /* A request goes to a node that has what it needs, so the model can what any of them can.
     */
    if (more->max_context > into->max_context)
        into->max_context = more->max_context;
    into->operations |= more->operations;
    merge_about(into, more);
    into->has |= more->has;
    into->lacks &= more->lacks;
    into->able |= more->able;
    into->loaded |= more->loaded;
    into->simulated &= more->simulated;
    into->ollama &= more->ollama;
    into->alias &= more->alias;
    into->implied &= more->implied;
}

static void sort_and_merge(struct catalog *catalog)
{
    size_t kept = 0;

    if (catalog->count == 0)
        return;
    qsort(catalog->models, catalog->count, sizeof(catalog->models[0]), by_id);
    for (size_t i = 1; i < catalog->count; i++) {
        if (by_id(&catalog->models[kept], &catalog->models[i]) == 0)
            merge(&catalog->models[kept], &catalog->models[i]);
        else
            catalog->models[++kept] = catalog->models[i];
    }
    catalog->count = kept + 1;
}

/* Are the names the same but for a ":latest" at their ends? */
static bool differ_by_tag(const char *a, const char *b)
{
    size_t n = model_name_untagged_len(a);

    return n == model_name_untagged_len(b) && memcmp(a, b, n) == 0;
}

/* Among the first `count`, which are sorted. */
static const struct catalog_model *find(const struct catalog *catalog, size_t count,
                                        const char *id)
{
    const struct catalog_model *found = NULL;
    struct catalog_model key;

    if (count != 0 && strlcpy(key.id, id, sizeof(key.id)) < sizeof(key.id))
        found = bsearch(&key, catalog->models, count, sizeof(key), by_id);
    for (size_t i = 0; i < count && found == NULL; i++)
        if (catalog->models[i].ollama && model_name_equal(catalog->models[i].id, id))
            found = &catalog->models[i];
    for (size_t i = 0; i < count && found == NULL; i++)
        if (differ_by_tag(catalog->models[i].id, id))
            found = &catalog->models[i];
    return found;
}

/* Adds up the models of the alias in its rows [0..n).  False: no node has any. */
static bool add_up(struct catalog_model *out, const struct catalog *catalog, size_t count,
                   const struct config_alias *alias, unsigned n)
{
    bool any = false;

    for (unsigned i = 0; i < n; i++) {
        const struct catalog_model *of = find(catalog, count, alias[i].model);

        if (of == NULL)
            continue;
        if (any)
            merge(out, of);
        else
            *out = *of;
        any = true;
    }
    return any;
}

/* An alias takes the place of a model of its name. */
static void add_aliases(struct catalog *catalog, const struct config *config)
{
    size_t count = catalog->count, kept = 0; /* an alias of an alias is not followed */
    unsigned n;

    for (unsigned i = 0; i < config->aliases_count; i += n) {
        const struct config_alias *alias = &config->aliases[i];
        struct catalog_model model;

        for (n = 1; i + n < config->aliases_count && strcmp(alias[n].name, alias->name) == 0;)
            n++;
        if (!add_up(&model, catalog, count, alias, n))
            continue;
        (void)strlcpy(model.id, alias->name, sizeof(model.id));
        model.alias = true;
        model.implied = config_is_wildcard(alias->name);
        model.ollama = false;
        model.hidden = false;
        add(catalog, &model);
        for (size_t m = 0; m < count; m++)
            catalog->models[m].hidden |= strcmp(catalog->models[m].id, alias->name) == 0;
    }
    for (size_t i = 0; i < catalog->count; i++)
        if (!catalog->models[i].hidden)
            catalog->models[kept++] = catalog->models[i];
    catalog->count = kept;
}

void catalog_refresh(struct catalog *catalog, const struct scoreboard *board,
                     const struct config *config)
{
    uint64_t epoch = nodes_epoch(board);
    struct node_info info;

    if (catalog->made && catalog->epoch == epoch)
        return;
    catalog->count = 0;
    for (unsigned node = 0; node < scoreboard_max_nodes(board); node++) {
        enum node_state state = nodes_state(board, node);

        if (is_listed(state) && nodes_read(board, node, &info))
            add_node(catalog, &info, state);
    }
    sort_and_merge(catalog);
    if (config->aliases_count != 0) {
        add_aliases(catalog, config);
        sort_and_merge(catalog);
    }
    catalog->epoch = epoch;
    catalog->made = true;
}

const struct catalog_model *catalog_find(const struct catalog *catalog,
                                         const struct config *config, const char *id)
{
    unsigned models;
    const struct config_alias *alias = config_find_alias(config, id, &models);
    const struct catalog_model *found =
        find(catalog, catalog->count, alias == NULL ? id : alias->name);

    if (found == NULL && alias == NULL)
        alias = config_find_wildcard(config, id, &models);
    else
        return found;
    return alias == NULL ? NULL : find(catalog, catalog->count, alias->name);
}

const char *catalog_default(const struct catalog *catalog, const struct config *config)
{
    unsigned models, own = 0;
    const struct config_alias *any = config_find_wildcard(config, "", &models);
    const char *only = NULL;

    for (size_t i = 0; i < catalog->count; i++) {
        if (!catalog->models[i].alias) {
            only = catalog->models[i].id;
            own++;
        }
    }
    if (own == 1)
        return only;
    return any == NULL ? NULL : models == 1 ? any->model : any->name;
}

/* ---- words ------------------------------------------------------------------------------- */

static const struct config_alias *alias_of(const struct config *config, const char *id,
                                           unsigned *models)
{
    const struct config_alias *alias =
        config == NULL ? NULL : config_find_alias(config, id, models);

    if (config != NULL && alias == NULL)
        alias = config_find_wildcard(config, id, models);
    /* The model of an alias for any name is that, too. */
    for (unsigned i = 0; alias != NULL && i < *models; i++)
        if (model_name_equal(alias[i].model, id))
            return NULL;
    return alias;
}

static void say_models(struct buf *out, const struct config_alias *alias, unsigned models)
{
    if (config_is_wildcard(alias->name))
        buf_printf(out, "an alias ('%s') of", alias->name);
    else
        buf_str(out, "an alias of");
    for (unsigned i = 0; i < models && i < NAMES_SAID; i++)
        buf_printf(out, "%s '%s'", i == 0 ? "" : ",", alias[i].model);
    if (models > NAMES_SAID)
        buf_printf(out, " and %u more", models - NAMES_SAID);
}

void catalog_say_name(struct buf *out, const struct config *config, const char *id)
{
    unsigned models;
    const struct config_alias *alias = alias_of(config, id, &models);

    buf_printf(out, "'%s'", id);
    if (alias == NULL)
        return;
    buf_str(out, " (");
    say_models(out, alias, models);
    buf_str(out, ")");
}

void catalog_say_missing(struct buf *out, const struct config *config, const char *id)
{
    unsigned models;
    const struct config_alias *alias = alias_of(config, id, &models);

    if (alias == NULL) {
        buf_printf(out, "The model '%s' does not exist", id);
        return;
    }
    buf_printf(out, "'%s' is ", id);
    say_models(out, alias, models);
    buf_str(out, ", which no node has");
}
