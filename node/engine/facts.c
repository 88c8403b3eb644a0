/* facts.c - the facts about an engine: its kind, its load and its models. */
#include "node/engine/facts.h"

#include <stddef.h>
#include <string.h>

#include "base/model_name.h"
#include "proto/drover_common.pb-c.h"

const struct engine_model *facts_model(const struct engine_facts *facts, const char *id)
{
    for (uint32_t i = 0; i < facts->models_count; i++)
        if (strcmp(facts->models[i].id, id) == 0)
            return &facts->models[i];
    return NULL;
}

void facts_copy(struct engine_facts *to, const struct engine_facts *from)
{
    memcpy(to, from,
           offsetof(struct engine_facts, models) +
               from->models_count * sizeof(from->models[0]));
}

void facts_clear_models(struct engine_facts *facts)
{
    facts->models_count = 0;
    facts->left_out = 0;
}

struct engine_model *facts_find_model(struct engine_facts *facts, const char *id)
{
    return (struct engine_model *)(uintptr_t)facts_model(facts, id);
}

struct engine_model *facts_named(struct engine_facts *facts, const char *id)
{
    struct engine_model *found = facts_find_model(facts, id);

    if (facts->kind != DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA)
        return found;
    for (uint32_t i = 0; i < facts->models_count && found == NULL; i++)
        if (model_name_equal(facts->models[i].id, id))
            found = &facts->models[i];
    return found;
}

struct engine_model *facts_add_model(struct engine_facts *facts, const char *id, uint32_t ops)
{
    struct engine_model *model;

    if (id[0] == '\0' || facts_find_model(facts, id) != NULL)
        return NULL;
    if (facts->models_count == ENGINE_MAX_MODELS) {
        facts->left_out++;
        return NULL;
    }
    model = &facts->models[facts->models_count++];
    memset(model, 0, sizeof(*model));
    (void)strlcpy(model->id, id, sizeof(model->id));
    model->offered = ops;
    model->operations = ops;
    model->state = DROVER__V1__MODEL_STATE__MODEL_STATE_READY;
    return model;
}

static uint32_t aliases_of(const struct engine_facts *facts, uint32_t of)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < facts->models_count; i++)
        count += facts->models[i].alias_of == of + 1;
    return count;
}

void facts_add_alias(struct engine_facts *facts, uint32_t of, const char *id)
{
    struct engine_model *alias;

    if (id[0] == '\0' || facts_find_model(facts, id) != NULL)
        return;
    if (aliases_of(facts, of) == ENGINE_MAX_ALIASES) {
        facts->left_out++;
        return;
    }
    alias = facts_add_model(facts, id, facts->models[of].offered);
    if (alias == NULL)
        return;
    alias->alias_of = of + 1;
    alias->state = facts->models[of].state;
    alias->max_context = facts->models[of].max_context;
    alias->largest_context = facts->models[of].largest_context;
    alias->has = facts->models[of].has;
    alias->lacks = facts->models[of].lacks;
    alias->vocabulary = facts->models[of].vocabulary;
    alias->about = facts->models[of].about;
}

static void keep_model(struct engine_model *model, const struct engine_model *old, bool states)
{
    if (model->max_context == 0)
        model->max_context = old->max_context;
    if ((model->has | model->lacks) == 0) {
        model->has = old->has;
        model->lacks = old->lacks;
    }
    if (states)
        model->state = old->state;
    model->offered = old->offered;
}

void facts_keep(struct engine_facts *facts, const struct engine_facts *old, bool states)
{
    const struct engine_model *known;

    for (uint32_t i = 0; i < facts->models_count; i++) {
        known = facts_model(old, facts->models[i].id);
        if (known != NULL)
            keep_model(&facts->models[i], known, states);
    }
}

void facts_offer(struct engine_facts *facts, const struct engine_offer *offer, uint32_t ops)
{
    struct engine_model kept[ENGINE_OFFER_MODELS], *known;
    uint32_t count = 0;

    for (size_t i = 0; i < offer->models_count && count < ENGINE_OFFER_MODELS; i++) {
        known = facts_named(facts, offer->models[i]);
        if (known == NULL) {
            memset(&kept[count], 0, sizeof(kept[count]));
            (void)strlcpy(kept[count].id, offer->models[i], sizeof(kept[count].id));
            kept[count].offered = ops;
            kept[count].state = DROVER__V1__MODEL_STATE__MODEL_STATE_READY;
        } else {
            kept[count] = *known;
            (void)strlcpy(kept[count].id, offer->models[i], sizeof(kept[count].id));
            kept[count].alias_of = 0;
        }
        count++;
    }
    memcpy(facts->models, kept, count * sizeof(kept[0]));
    facts->models_count = count;
    facts->left_out = 0;
}
