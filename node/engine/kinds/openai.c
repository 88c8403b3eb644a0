/* openai.c - reads /v1/models, which every engine has, and the pages on which some servers of
 * the OpenAI API say more. */
#include "node/engine/kinds/openai.h"

#include "base/kinds.h"
#include "node/engine/facts.h"
#include "node/engine/kinds/fields.h"
#include "node/engine/kinds/kind.h"
#include "node/engine/kinds/llama_server.h"
#include "node/engine/kinds/operations.h"

/* drover-sim reports for each model a llama-server's facts, and its operations. */
static void read_simulated(struct engine_model *model, const struct json_value *about)
{
    struct json_value status = json_get(about, "status"), meta = json_get(about, "meta");
    struct json_value able = json_get(about, "capabilities"), key, one;
    struct json_iter it;

    model->state = llama_server_model_state(&status);
    model->load_ms = fields_count(&meta, "load_ms");
    model->offered = operations_of_kind(KIND(SIMULATED)) & OPERATIONS_EMBEDDING;
    json_iter_init(&it, &able);
    while (json_iter_next(&it, &key, &one))
        if (one.type == JSON_STRING && json_equal(&one, "completion"))
            model->offered = operations_of_kind(KIND(SIMULATED));
}

/* The length of a context as the various servers name it; 0 when none does. */
static uint32_t context_of(const struct json_value *model)
{
    static const char *const names[] = {"max_model_len", "loaded_context_length",
                                        "context_length", "context_window",
                                        "max_context_length"};
    struct json_value meta = json_get(model, "meta"), set = json_get(model, "parameters");
    uint32_t n = fields_count(&meta, "n_ctx");

    for (size_t i = 0; i < ARRAY_LEN(names) && n == 0; i++)
        n = fields_count(model, names[i]);
    return n != 0 ? n : fields_count(&set, "max_seq_len");
}

static void read_model(struct engine_facts *facts, const struct json_value *model)
{
    struct json_value meta = json_get(model, "meta"), status = json_get(model, "status");
    struct json_value name = json_get(model, "id");
    struct engine_model *added;
    char id[ENGINE_MODEL_BYTES];

    fields_model(facts, &name, id);
    added = facts_add_model(facts, id, operations_of_kind(facts->kind));
    if (added == NULL)
        return;
    if (facts->speaks_ollama)
        added->offered |= OPERATIONS_OLLAMA_API;
    added->max_context = context_of(model);
    if (facts->kind == KIND(LLAMA_SERVER) || facts->kind == KIND(SIMULATED))
        added->vocabulary = llama_server_vocabulary(&meta);
    if (facts->kind == KIND(SIMULATED))
        read_simulated(added, model);
    else
        fields_abilities(added, model);
    if (facts->kind == KIND(LLAMA_SERVER) && status.type == JSON_OBJECT)
        llama_server_read_routed(facts, added, &status);
    else if (status.type == JSON_OBJECT)
        added->state = llama_server_model_state(&status); /* llama-swap has the same member */
}

/* After all models: an alias never takes the place of a model. */
static void read_aliases(struct engine_facts *facts, const struct json_value *model)
{
    struct json_value aliases = json_get(model, "aliases"), name = json_get(model, "id");
    struct json_value key, alias;
    struct engine_model *of;
    char id[ENGINE_MODEL_BYTES];
    struct json_iter names;
    uint32_t index;

    if (!json_name(id, sizeof(id), &name))
        return;
    of = facts_find_model(facts, id);
    if (of == NULL || of->alias_of != 0)
        return;
    index = (uint32_t)(of - facts->models);
    json_iter_init(&names, &aliases);
    while (json_iter_next(&names, &key, &alias)) {
        fields_model(facts, &alias, id);
        facts_add_alias(facts, index, id);
    }
    if (facts->kind == KIND(LLAMA_SERVER)) {
        llama_server_short_name(id, of->id);
        facts_add_alias(facts, index, id);
    }
}

struct json_value openai_list(const struct json_value *root)
{
    return root->type == JSON_ARRAY ? *root : json_get(root, "data");
}

bool openai_read_models(struct engine_facts *facts, const struct json_value *root,
                        const char *server)
{
    struct json_value data = openai_list(root), key, model;
    uint32_t kind = kind_of_models(&data, server);
    struct json_iter it;

    if (kind != KIND(UNSPECIFIED))
        facts->kind = kind;
    facts->router = false;
    facts->models_in_memory = 0;
    facts->models_mono_us = facts->looked_mono_us; /* of this look, until it has ended */
    facts_clear_models(facts);
    if (facts->kind == KIND(LLAMA_SERVER)) /* a router's are those of its least model */
        facts->slots = 0;
    json_iter_init(&it, &data);
    while (json_iter_next(&it, &key, &model))
        read_model(facts, &model);
    json_iter_init(&it, &data);
    while (json_iter_next(&it, &key, &model))
        read_aliases(facts, &model);
    if (facts->router) {
        facts->has_load = false;
        facts->running = 0;
        facts->queued = 0;
    } else {
        facts->models_at_once = 0;
    }
    return data.type == JSON_ARRAY || data.type == JSON_NULL;
}

static void read_lm_studio_row(struct engine_facts *facts, const struct json_value *about,
                               const struct json_value *state)
{
    struct json_value name = json_get(about, "id"), type = json_get(about, "type");
    struct engine_model *model;
    char id[ENGINE_MODEL_BYTES];

    model = json_name(id, sizeof(id), &name) ? facts_find_model(facts, id) : NULL;
    if (model == NULL)
        return;
    if (json_equal(state, "loaded"))
        model->state = STATE(READY);
    else if (json_equal(state, "loading"))
        model->state = STATE(LOADING);
    else if (json_equal(state, "not-loaded"))
        model->state = STATE(LOADABLE);
    model->max_context = context_of(about);
    fields_abilities(model, about);
    if (json_equal(&type, "vlm") || json_equal(&type, "llm"))
        fields_say(model, ABILITY_VISION, json_equal(&type, "vlm"));
    else if (json_equal(&type, "embeddings"))
        model->offered &= OPERATIONS_EMBEDDING;
}

void openai_read_lm_studio(struct engine_facts *facts, const struct json_value *root)
{
    struct json_value data = json_get(root, "data"), key, about, state;
    struct json_iter it;

    /* A model may be there twice, in memory and on disk: the former counts. */
    for (int loaded = 0; loaded <= 1; loaded++) {
        json_iter_init(&it, &data);
        while (json_iter_next(&it, &key, &about)) {
            state = json_get(&about, "state");
            if (json_equal(&state, "loaded") == (loaded == 1))
                read_lm_studio_row(facts, &about, &state);
        }
    }
}

void openai_read_card(struct engine_facts *facts, const struct json_value *root)
{
    struct json_value name = json_get(root, "id"), set = json_get(root, "parameters");
    struct engine_model *model;
    char id[ENGINE_MODEL_BYTES];

    model = json_name(id, sizeof(id), &name) ? facts_find_model(facts, id) : NULL;
    if (model == NULL || set.type != JSON_OBJECT)
        return;
    model->max_context = context_of(root);
    fields_abilities(model, root);
    facts->slots = fields_count(&set, "max_batch_size");
}

bool openai_read_info(struct engine_facts *facts, const struct json_value *root)
{
    uint32_t context = fields_count(root, "max_total_tokens");

    if (context == 0 || fields_count(root, "max_concurrent_requests") == 0)
        return false;
    fields_name(root, "version", facts->version, sizeof(facts->version));
    for (uint32_t i = 0; i < facts->models_count; i++)
        facts->models[i].max_context = context;
    return true;
}
