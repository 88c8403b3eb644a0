/* kind.c - which kind of engine answers. */
#include "node/engine/kinds/kind.h"

#include <string.h>

#include "base/text/json.h"
#include "node/engine/kinds/metrics.h"

/* The owners that engines write into their lists of models. */
static const struct owner {
    const char *name;
    uint32_t kind;
    enum kind_page page;
} owners[] = {
    {"llamacpp", KIND(LLAMA_SERVER), KIND_PAGE_NONE},
    {"vllm", KIND(VLLM), KIND_PAGE_NONE},
    {"sglang", KIND(SGLANG), KIND_PAGE_NONE},
    {"library", KIND(OLLAMA), KIND_PAGE_NONE},
    {"drover-sim", KIND(SIMULATED), KIND_PAGE_NONE},
    {"llama-swap", KIND(OPENAI), KIND_PAGE_NONE},
    {"tabbyAPI", KIND(OPENAI), KIND_PAGE_TABBY},
    {"organization_owner", KIND(OPENAI), KIND_PAGE_LM_STUDIO},
    {"koboldcpp", KIND(OPENAI), KIND_PAGE_NONE},
};

static const struct owner *find_owner(const struct json_value *data)
{
    struct json_value key, model, owner;
    struct json_iter it;

    json_iter_init(&it, data);
    while (json_iter_next(&it, &key, &model)) {
        owner = json_get(&model, "owned_by");
        for (size_t i = 0; owner.type == JSON_STRING && i < ARRAY_LEN(owners); i++)
            if (json_equal(&owner, owners[i].name))
                return &owners[i];
    }
    return NULL;
}

/* TGI's only model owns itself. */
static bool owns_itself(const struct json_value *data)
{
    struct json_value key, model, id, owner;
    struct json_iter it;
    bool same = false;

    json_iter_init(&it, data);
    for (unsigned count = 0; json_iter_next(&it, &key, &model); count++) {
        id = json_get(&model, "id");
        owner = json_get(&model, "owned_by");
        same = count == 0 && id.type == JSON_STRING && owner.type == JSON_STRING &&
               id.len == owner.len && memcmp(id.text, owner.text, id.len) == 0;
    }
    return same;
}

enum kind_page kind_page_of(const struct json_value *data)
{
    const struct owner *owner = find_owner(data);

    if (owner != NULL)
        return owner->page;
    return owns_itself(data) ? KIND_PAGE_TGI : KIND_PAGE_NONE;
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
    const struct owner *owner = find_owner(data);

    return owner != NULL ? owner->kind : kind_of_server(server);
}
