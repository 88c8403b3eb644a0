/* config.c - questions to a configuration. */
#include "base/config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/model_name.h"

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

const char *config_resolve_alias(const struct config *config, const char *name)
{
    for (unsigned i = 0; i < config->aliases_count; i++) {
        if (strcmp(config->aliases[i].name, name) == 0)
            return config->aliases[i].model;
    }
    return name;
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

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

const char *config_not_reloadable(const struct config *now, const struct config *next)
{
    if (!same_text(now->runtime_dir, next->runtime_dir))
        return "runtime_dir";
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
