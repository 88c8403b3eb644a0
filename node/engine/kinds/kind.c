/* kind.c - which kind of engine answers. */
#include "node/engine/kinds/kind.h"

#include <string.h>

#include "base/text/json.h"
#include "node/engine/kinds/metrics.h"

/* The owners that engines write into their lists of models. */
static const struct owner {
    const char *name;
    uint32_t kind;
} owners[] = {
    {"llamacpp", KIND(LLAMA_SERVER)}, {"vllm", KIND(VLLM)},
    {"sglang", KIND(SGLANG)},         {"library", KIND(OLLAMA)},
    {"drover-sim", KIND(SIMULATED)},  {"llama-swap", KIND(OPENAI)},
    {"tabbyAPI", KIND(OPENAI)},       {"organization_owner", KIND(OPENAI)}, /* LM Studio */
    {"koboldcpp", KIND(OPENAI)},
};

static uint32_t kind_by_owner(const struct json_value *data)
{
    struct json_value key, model, owner;
    struct json_iter it;

    json_iter_init(&it, data);
    while (json_iter_next(&it, &key, &model)) {
        owner = json_get(&model, "owned_by");
        for (size_t i = 0; owner.type == JSON_STRING && i < ARRAY_LEN(owners); i++)
            if (json_equal(&owner, owners[i].name))
                return owners[i].kind;
    }
    return KIND(UNSPECIFIED);
}

bool kind_is_drover(const struct json_value *data, const char *server)
{
    struct json_value key, model, owner;
    struct json_iter it;

    if (strncmp(server, "drover/", 7) == 0)
        return true;
    json_iter_init(&it, data);
    if (!json_iter_next(&it, &key, &model))
        return false;
    owner = json_get(&model, "owned_by");
    return owner.type == JSON_STRING && json_equal(&owner, "drover");
}

uint32_t kind_of_metrics(const void *text, size_t n)
{
    if (metrics_any(text, n, "vllm:"))
        return KIND(VLLM);
    return metrics_any(text, n, "sglang:") ? KIND(SGLANG) : KIND(UNSPECIFIED);
}

uint32_t kind_of_server(const char *server)
{
    if (strcmp(server, "llama.cpp") == 0)
        return KIND(LLAMA_SERVER);
    return strcmp(server, "drover-sim") == 0 ? KIND(SIMULATED) : KIND(UNSPECIFIED);
}

uint32_t kind_of_models(const struct json_value *data, const char *server)
{
    uint32_t kind = kind_by_owner(data);

    return kind != KIND(UNSPECIFIED) ? kind : kind_of_server(server);
}
