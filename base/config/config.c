/* config.c - questions to a configuration. */
#include "base/config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/model_name.h"
#include "base/text/buf.h"

void config_default_runtime_dir(char *out, size_t cap)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");

    if (getuid() == 0)
        (void)snprintf(out, cap, "/run/drover");
    else if (xdg != NULL && xdg[0] == '/')
        (void)snprintf(out, cap, "%s/drover", xdg);
    else
        (void)snprintf(out, cap, "/tmp/drover-%u", (unsigned)getuid());
}

void config_default_state_dir(char *out, size_t cap)
{
    const char *given = getenv("STATE_DIRECTORY"), *xdg = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");

    out[0] = '\0';
    if (given != NULL && given[0] == '/')
        (void)snprintf(out, cap, "%.*s", (int)strcspn(given, ":"), given);
    else if (getuid() == 0)
        (void)snprintf(out, cap, "/var/lib/drover");
    else if (xdg != NULL && xdg[0] == '/')
        (void)snprintf(out, cap, "%s/drover", xdg);
    else if (home != NULL && home[0] == '/')
        (void)snprintf(out, cap, "%s/.local/state/drover", home);
}

bool config_is_wildcard(const char *name)
{
    size_t n = strlen(name);

    return n != 0 && name[n - 1] == '*';
}

/* The row of an alias, with the number of its rows. */
static const struct config_alias *alias_at(const struct config *config, unsigned first,
                                           unsigned *models)
{
    const char *name = config->aliases[first].name;

    *models = 1;
    while (first + *models < config->aliases_count &&
           strcmp(config->aliases[first + *models].name, name) == 0)
        ++*models;
    return &config->aliases[first];
}

const struct config_alias *config_find_alias(const struct config *config, const char *name,
                                             unsigned *models)
{
    size_t n = model_name_untagged_len(name);

    for (unsigned i = 0; i < config->aliases_count; i++) {
        if (strcmp(config->aliases[i].name, name) == 0)
            return alias_at(config, i, models);
    }
    for (unsigned i = 0; i < config->aliases_count; i++) {
        const char *alias = config->aliases[i].name;

        if (n == model_name_untagged_len(alias) && memcmp(alias, name, n) == 0)
            return alias_at(config, i, models);
    }
    return NULL;
}

bool config_alias_hides(const struct config *config, const char *model)
{
    bool hides = false;

    for (unsigned i = 0; i < config->aliases_count; i++) {
        if (strcmp(config->aliases[i].name, model) != 0)
            continue;
        if (strcmp(config->aliases[i].model, model) == 0)
            return false; /* it is one of the alias's own */
        hides = true;
    }
    return hides;
}

const struct config_alias *config_find_wildcard(const struct config *config, const char *name,
                                                unsigned *models)
{
    const struct config_alias *found = NULL;
    size_t longest = 0;

    for (unsigned i = 0; i < config->aliases_count; i++) {
        const char *alias = config->aliases[i].name;
        size_t n = strlen(alias);

        if (config_is_wildcard(alias) && n > longest && strncmp(alias, name, n - 1) == 0) {
            found = alias_at(config, i, models);
            longest = n;
        }
    }
    return found;
}

/* A section for the very name goes before one for another spelling of it. */
static const struct config_model *find_model(const struct config *config, const char *name)
{
    for (unsigned i = 0; i < config->models_count; i++) {
        if (strcmp(config->models[i].name, name) == 0)
            return &config->models[i];
    }
    for (unsigned i = 0; i < config->models_count; i++) {
        if (model_name_equal(config->models[i].name, name))
            return &config->models[i];
    }
    return NULL;
}

enum policy_kind config_policy_for(const struct config *config, const char *model)
{
    const struct config_model *own = find_model(config, model);

    return own == NULL ? config->policy : own->policy;
}

uint64_t config_hold_us(const struct config *config)
{
    uint32_t speedup = config->testing.speedup == 0 ? 1 : config->testing.speedup;

    if (config->policy != POLICY_FASTEST)
        return 0;
    for (unsigned i = 0; i < config->models_count; i++) {
        if (config->models[i].policy != POLICY_FASTEST)
            return 0;
    }
    return config->hold_ms * UINT64_C(1000) / speedup;
}

enum request_priority config_priority_for(const struct config *config, const char *model)
{
    const struct config_model *own = find_model(config, model);

    return own == NULL ? config->priority : own->priority;
}

const struct config_hedge *config_hedge_for(const struct config *config, const char *model)
{
    const struct config_model *own = find_model(config, model);

    return own == NULL ? &config->hedge : &own->hedge;
}

const struct config_queue *config_queue_for(const struct config *config, const char *model)
{
    const struct config_model *own = find_model(config, model);

    return own == NULL ? &config->queue : &own->queue;
}

static bool differ_by_tag(const char *a, const char *b)
{
    size_t n = model_name_untagged_len(a);

    return strcmp(a, b) != 0 && n == model_name_untagged_len(b) && memcmp(a, b, n) == 0;
}

/* Two rows of aliases. */
static void warn_of_pair(const struct config_alias *a, const struct config_alias *b,
                         struct buf *out)
{
    if (strcmp(a->name, b->name) == 0) {
        if (differ_by_tag(a->model, b->model))
            buf_printf(out, "alias '%.80s': '%.80s' and '%.80s' are one model\n", a->name,
                       a->model, b->model);
        return;
    }
    if (differ_by_tag(a->name, b->name))
        buf_printf(out, "aliases '%.80s' and '%.80s' differ by a tag that clients leave out\n",
                   a->name, b->name);
}

void config_warnings(const struct config *config, struct buf *out)
{
    for (unsigned i = 0; i < config->aliases_count; i++) {
        const struct config_alias *a = &config->aliases[i];

        for (unsigned j = i + 1; j < config->aliases_count; j++) {
            const struct config_alias *b = &config->aliases[j];

            /* Names once; models of one alias each with each. */
            if (strcmp(a->name, b->name) == 0 || (strcmp(b[-1].name, b->name) != 0 &&
                                                  (i == 0 || strcmp(a[-1].name, a->name) != 0)))
                warn_of_pair(a, b, out);
        }
    }
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

const char *config_not_reloadable(const struct config *now, const struct config *next)
{
    if (!same_text(now->runtime_dir, next->runtime_dir))
        return "runtime_dir";
    if (!same_text(now->state_dir, next->state_dir))
        return "state_dir";
    if (!same_text(now->api.address, next->api.address))
        return "api.listen";
    if (!same_text(now->admin.address, next->admin.address))
        return "admin.listen";
    if (!same_text(now->registry.listen.address, next->registry.listen.address))
        return "registry.listen";
    if (!same_text(now->user, next->user))
        return "user";
    if (!same_text(now->group, next->group))
        return "group";
    if (now->core_dumps != next->core_dumps)
        return "core_dumps";
    if (now->log_file != NULL && next->log_file == NULL)
        return "log.file"; /* standard error may be long gone */
    if (now->limits.max_nodes != next->limits.max_nodes)
        return "limits.max_nodes";
    if (now->prefix.entries != next->prefix.entries)
        return "prefix.entries";
    if (now->limits.max_connections != next->limits.max_connections)
        return "limits.max_connections";
    return NULL;
}
