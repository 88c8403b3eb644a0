/* ollama.c - reads Ollama's own lists. */
#include "node/engine/kinds/ollama.h"

#include <string.h>

#include "base/text/json.h"
#include "node/engine/facts.h"
#include "node/engine/kinds/fields.h"
#include "node/engine/kinds/kind.h"

void ollama_read_tags(struct engine_facts *facts, const struct json_value *root)
{
    static const char latest[] = ":latest";
    struct json_value models = json_get(root, "models");
    struct json_value key, model;
    struct json_iter it;
    char id[ENGINE_MODEL_BYTES];

    facts->models_count = 0;
    json_iter_init(&it, &models);
    while (json_iter_next(&it, &key, &model)) {
        uint32_t index = facts->models_count;
        struct engine_model *added;
        size_t n;

        fields_name(&model, "name", id, sizeof(id));
        added = facts_add_model(facts, id, kind_operations(KIND(OLLAMA)));
        if (added == NULL)
            continue;
        added->state = STATE(LOADABLE);
        n = strlen(id);
        if (n >= sizeof(latest) && strcmp(id + n - strlen(latest), latest) == 0) {
            id[n - strlen(latest)] = '\0';
            facts_add_alias(facts, index, id);
        }
    }
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
