/* openai.c - reads /v1/models, which every engine has. */
#include "node/engine/kinds/openai.h"

#include "base/text/json.h"
#include "node/engine/facts.h"
#include "node/engine/kinds/fields.h"
#include "node/engine/kinds/kind.h"
#include "node/engine/kinds/llama_server.h"

/* drover-sim reports for each model a llama-server's facts, and its operations. */
static void read_simulated(struct engine_model *model, const struct json_value *about)
{
    struct json_value status = json_get(about, "status"), meta = json_get(about, "meta");
    struct json_value able = json_get(about, "capabilities"), key, one;
    struct json_iter it;

    model->state = llama_server_model_state(&status);
    model->load_ms = fields_count(&meta, "load_ms");
    model->operations = KIND_EMBEDDING_OPERATIONS;
    json_iter_init(&it, &able);
    while (json_iter_next(&it, &key, &one))
        if (one.type == JSON_STRING && json_equal(&one, "completion"))
            model->operations = kind_operations(KIND(SIMULATED));
}

static void read_model(struct engine_facts *facts, const struct json_value *model)
{
    struct json_value meta = json_get(model, "meta"), status = json_get(model, "status");
    struct json_value aliases = json_get(model, "aliases"), key, alias;
    uint32_t index = facts->models_count;
    struct engine_model *added;
    char id[ENGINE_MODEL_BYTES];
    struct json_iter names;

    fields_name(model, "id", id, sizeof(id));
    added = facts_add_model(facts, id, kind_operations(facts->kind));
    if (added == NULL)
        return;
    added->max_context = fields_count(&meta, "n_ctx");
    if (added->max_context == 0)
        added->max_context = fields_count(model, "max_model_len");
    if (added->max_context == 0)
        added->max_context = fields_count(model, "context_length");
    if (facts->kind == KIND(LLAMA_SERVER) || facts->kind == KIND(SIMULATED))
        added->vocabulary = llama_server_vocabulary(&meta);
    if (facts->kind == KIND(SIMULATED))
        read_simulated(added, model);
    if (facts->kind == KIND(LLAMA_SERVER) && status.type == JSON_OBJECT)
        llama_server_read_routed(facts, added, &status);
    json_iter_init(&names, &aliases);
    while (json_iter_next(&names, &key, &alias))
        if (json_name(id, sizeof(id), &alias))
            facts_add_alias(facts, index, id);
}

void openai_read_models(struct engine_facts *facts, const struct json_value *root,
                        const char *server)
{
    struct json_value data = json_get(root, "data"), key, model;
    uint32_t kind = kind_of_models(&data, server);
    struct json_iter it;

    if (kind != KIND(UNSPECIFIED))
        facts->kind = kind;
    facts->router = false;
    if (facts->kind == KIND(OLLAMA))
        return; /* its own list, /api/tags, says more */
    facts->models_count = 0;
    if (facts->kind != KIND(SIMULATED)) /* /props has them, at a full look only */
        facts->slots = 0;
    json_iter_init(&it, &data);
    while (json_iter_next(&it, &key, &model))
        read_model(facts, &model);
    if (facts->router) {
        facts->has_load = false;
        facts->running = 0;
        facts->queued = 0;
    }
}
