/* facts.c - the facts about an engine: its kind, its load and its models. */
#include "node/engine/facts.h"

#include <string.h>

#include "proto/drover_common.pb-c.h"

const struct engine_model *facts_model(const struct engine_facts *facts, const char *id)
{
    for (uint32_t i = 0; i < facts->models_count; i++)
        if (strcmp(facts->models[i].id, id) == 0)
            return &facts->models[i];
    return NULL;
}

struct engine_model *facts_find_model(struct engine_facts *facts, const char *id)
{
    for (uint32_t i = 0; i < facts->models_count; i++)
        if (strcmp(facts->models[i].id, id) == 0)
            return &facts->models[i];
    return NULL;
}

struct engine_model *facts_add_model(struct engine_facts *facts, const char *id, uint32_t ops)
{
    struct engine_model *model;

    if (id[0] == '\0' || facts->models_count == ENGINE_MAX_MODELS ||
        facts_find_model(facts, id) != NULL)
        return NULL;
    model = &facts->models[facts->models_count++];
    memset(model, 0, sizeof(*model));
    (void)strlcpy(model->id, id, sizeof(model->id));
    model->operations = ops;
    model->state = DROVER__V1__MODEL_STATE__MODEL_STATE_READY;
    return model;
}

void facts_add_alias(struct engine_facts *facts, uint32_t of, const char *id)
{
    struct engine_model *alias = facts_add_model(facts, id, facts->models[of].operations);

    if (alias == NULL)
        return;
    alias->alias_of = of + 1;
    alias->state = facts->models[of].state;
    alias->max_context = facts->models[of].max_context;
    alias->has = facts->models[of].has;
    alias->lacks = facts->models[of].lacks;
    alias->vocabulary = facts->models[of].vocabulary;
}
