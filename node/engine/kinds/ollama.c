/* ollama.c - reads Ollama's own lists. */
#include "node/engine/kinds/ollama.h"

#include <string.h>

#include "base/attrs.h"
#include "base/hash.h"
#include "base/kinds.h"
#include "base/model_name.h"
#include "base/text/json.h"
#include "node/engine/facts.h"
#include "node/engine/kinds/fields.h"
#include "node/engine/kinds/kind.h"
#include "node/engine/kinds/operations.h"

/* Ollama takes "NAME" for "NAME:latest".  Where they do not fit nothing is missing:
 * coordinators compare its names as it does. */
static void add_short_names(struct engine_facts *facts)
{
    uint32_t count = facts->models_count;
    char id[ENGINE_MODEL_BYTES];

    for (uint32_t i = 0; i < count && facts->models_count < ENGINE_MAX_MODELS; i++) {
        size_t n = model_name_untagged_len(facts->models[i].id);

        if (facts->models[i].id[n] == '\0')
            continue;
        (void)strlcpy(id, facts->models[i].id, n + 1);
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

/* Ollama goes by this list itself, so what it has not, the model lacks.  Older versions have
 * none here. */
static void read_capabilities(struct engine_model *model, const struct json_value *about)
{
    static const struct {
        const char *name;
        enum ability ability;
    } known[] = {
        {"vision", ABILITY_VISION}, {"audio", ABILITY_AUDIO}, {"tools", ABILITY_TOOLS}};
    struct json_value list = json_get(about, "capabilities");
    bool completes = fields_list_has(&list, "completion");
    bool embeds = fields_list_has(&list, "embedding");

    if (!completes && !embeds)
        return;
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        fields_say(model, known[i].ability, fields_list_has(&list, known[i].name));
    if (!completes)
        model->offered &= OPERATIONS_EMBEDDING;
}

/* One that does not fit is left out: half of it is worth nothing. */
static void read_text(char *out, size_t cap, const struct json_value *object, const char *name)
{
    struct json_value v = json_get(object, name);

    if (v.type != JSON_STRING || !json_name(out, cap, &v))
        out[0] = '\0';
}

static uint64_t read_bytes(const struct json_value *object, const char *name)
{
    struct json_value v = json_get(object, name);
    uint64_t n = 0;

    return json_uint(&n, &v, INT64_MAX) ? n : 0;
}

static void read_file(struct model_about *about, const struct json_value *model,
                      const struct json_value *details)
{
    about->size_bytes = read_bytes(model, "size");
    read_text(about->digest, sizeof(about->digest), model, "digest");
    read_text(about->modified_at, sizeof(about->modified_at), model, "modified_at");
    read_text(about->format, sizeof(about->format), details, "format");
    read_text(about->family, sizeof(about->family), details, "family");
    read_text(about->parameter_size, sizeof(about->parameter_size), details, "parameter_size");
    read_text(about->quantization, sizeof(about->quantization), details, "quantization_level");
}

static void forget_memory(struct model_about *about)
{
    about->memory_bytes = 0;
    about->vram_bytes = 0;
    about->expires_at[0] = '\0';
}

void ollama_read_tags(struct engine_facts *facts, const struct json_value *root)
{
    struct json_value models = json_get(root, "models"), key, model, name;
    struct json_iter it;
    char id[ENGINE_MODEL_BYTES];

    facts_clear_models(facts);
    json_iter_init(&it, &models);
    while (json_iter_next(&it, &key, &model)) {
        struct json_value details = json_get(&model, "details");
        struct engine_model *added;

        name = json_get(&model, "name");
        fields_model(facts, &name, id);
        added = facts_add_model(facts, id, operations_of_kind(KIND(OLLAMA)));
        if (added == NULL)
            continue;
        added->state = STATE(LOADABLE);
        read_capabilities(added, &model);
        added->largest_context = fields_count(&details, "context_length");
        read_file(&added->about, &model, &details);
    }
    add_short_names(facts);
}

/* No count of work.  But what it says of a model changes when that is loaded, or used. */
static uint64_t figure_of(uint64_t hash, const struct json_value *model)
{
    static const char *const names[] = {"name", "expires_at", "size", "size_vram"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct json_value v = json_get(model, names[i]);

        for (size_t at = 0; at < v.len; at++)
            hash = hash_mix(hash, (unsigned char)v.text[at]);
    }
    return hash;
}

void ollama_read_ps(struct engine_facts *facts, const struct json_value *root)
{
    struct json_value models = json_get(root, "models");
    struct json_value key, model;
    struct json_iter it;
    uint64_t figure = HASH_BASIS;
    char id[ENGINE_MODEL_BYTES];

    for (uint32_t i = 0; i < facts->models_count; i++) {
        facts->models[i].state = STATE(LOADABLE);
        forget_memory(&facts->models[i].about);
    }
    json_iter_init(&it, &models);
    while (json_iter_next(&it, &key, &model)) {
        struct engine_model *found;

        figure = figure_of(figure, &model);
        fields_name(&model, "name", id, sizeof(id));
        found = facts_named(facts, id);
        if (found == NULL)
            continue;
        found->state = STATE(READY);
        found->max_context = fields_count(&model, "context_length");
        found->about.memory_bytes = read_bytes(&model, "size");
        found->about.vram_bytes = read_bytes(&model, "size_vram");
        read_text(found->about.expires_at, sizeof(found->about.expires_at), &model,
                  "expires_at");
    }
    for (uint32_t i = 0; i < facts->models_count; i++) {
        uint32_t of = facts->models[i].alias_of;

        if (of == 0)
            continue;
        facts->models[i].state = facts->models[of - 1].state;
        facts->models[i].max_context = facts->models[of - 1].max_context;
        facts->models[i].about = facts->models[of - 1].about;
    }
    facts->progress = figure;
    facts->progress_mono_us = facts->looked_mono_us;
    facts->progress_counts = false;
}
