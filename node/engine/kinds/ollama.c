/* ollama.c - reads Ollama's own lists. */
#include "node/engine/kinds/ollama.h"

#include <string.h>

#include "base/text/json.h"
#include "node/engine/facts.h"
#include "node/engine/kinds/fields.h"
#include "node/engine/kinds/kind.h"
#include "node/engine/kinds/operations.h"

/* Ollama takes "NAME" for "NAME:latest". */
static void add_short_names(struct engine_facts *facts)
{
    static const char latest[] = ":latest";
    uint32_t count = facts->models_count;
    char id[ENGINE_MODEL_BYTES];

    for (uint32_t i = 0; i < count; i++) {
        size_t n = strlcpy(id, facts->models[i].id, sizeof(id));

        if (n < sizeof(latest) || strcmp(id + n - strlen(latest), latest) != 0)
            continue;
        id[n - strlen(latest)] = '\0';
        facts_add_alias(facts, i, id);
    }
}

bool ollama_lists(const struct engine_facts *facts, const struct json_value *root)
{
    struct json_value models = json_get(root, "models"), key, model, name;
    struct json_iter it;
    uint32_t found = 0, own = 0;

    for (uint32_t i = 0; i < facts->models_count; i++)
        own += facts->models[i].alias_of == 0;
    json_iter_init(&it, &models);
    while (json_iter_next(&it, &key, &model)) {
        name = json_get(&model, "name");
        for (uint32_t i = 0; i < facts->models_count && name.type == JSON_STRING; i++) {
            if (facts->models[i].alias_of == 0 && json_equal(&name, facts->models[i].id)) {
                found++;
                break;
            }
        }
    }
    return models.type == JSON_ARRAY && found == own;
}

void ollama_read_tags(struct engine_facts *facts, const struct json_value *root)
{
    struct json_value models = json_get(root, "models"), key, model, name;
    struct json_iter it;
    char id[ENGINE_MODEL_BYTES];

    facts_clear_models(facts);
    json_iter_init(&it, &models);
    while (json_iter_next(&it, &key, &model)) {
        struct engine_model *added;

        name = json_get(&model, "name");
        fields_model(facts, &name, id);
        added = facts_add_model(facts, id, operations_of_kind(KIND(OLLAMA)));
        if (added != NULL)
            added->state = STATE(LOADABLE);
    }
    add_short_names(facts);
}

void ollama_read_ps(struct engine_facts *facts, const struct json_value *root)
{
    struct json_value models = json_get(root, "models");
    struct json_value key, model;
    struct json_iter it;
    char id[ENGINE_MODEL_BYTES];

    for (uint32_t i = 0; i < facts->models_count; i++)
        facts->models[i].state = STATE(LOADABLE);
    json_iter_init(&it, &models);
    while (json_iter_next(&it, &key, &model)) {
        struct engine_model *found;

        fields_name(&model, "name", id, sizeof(id));
        found = facts_find_model(facts, id);
        if (found == NULL)
            continue;
        found->state = STATE(READY);
        found->max_context = fields_count(&model, "context_length");
    }
    for (uint32_t i = 0; i < facts->models_count; i++) {
        uint32_t of = facts->models[i].alias_of;

        if (of == 0)
            continue;
        facts->models[i].state = facts->models[of - 1].state;
        facts->models[i].max_context = facts->models[of - 1].max_context;
    }
}
