/* kind.c - which kind of engine answers, and the operations of each kind. */
#include "node/engine/kinds/kind.h"

#include <string.h>

#include "base/text/json.h"

#define OPS_OPENAI                                                                  \
    (OPERATION(CHAT_COMPLETIONS) | OPERATION(COMPLETIONS) | OPERATION(EMBEDDINGS) | \
     OPERATION(RESPONSES))
#define OPS_LLAMA \
    (OPS_OPENAI | OPERATION(RERANK) | OPERATION(MESSAGES) | OPERATION(COUNT_TOKENS))
#define OPS_VLLM \
    (OPS_OPENAI | OPERATION(RERANK) | OPERATION(MESSAGES) | OPERATION(TRANSCRIPTIONS))
#define OPS_OLLAMA                                                                            \
    (OPS_OPENAI | OPERATION(MESSAGES) | OPERATION(OLLAMA_CHAT) | OPERATION(OLLAMA_GENERATE) | \
     OPERATION(OLLAMA_EMBED) | OPERATION(OLLAMA_EMBEDDINGS) | OPERATION(OLLAMA_SHOW))

#define OPS_SIM (OPS_LLAMA | OPS_OLLAMA | OPERATION(TRANSCRIPTIONS))

static uint32_t kind_by_owner(const struct json_value *data)
{
    struct json_value key, model, owner;
    struct json_iter it;

    json_iter_init(&it, data);
    while (json_iter_next(&it, &key, &model)) {
        owner = json_get(&model, "owned_by");
        if (owner.type != JSON_STRING)
            continue;
        if (json_equal(&owner, "llamacpp"))
            return KIND(LLAMA_SERVER);
        if (json_equal(&owner, "vllm"))
            return KIND(VLLM);
        if (json_equal(&owner, "sglang"))
            return KIND(SGLANG);
        if (json_equal(&owner, "library"))
            return KIND(OLLAMA);
        if (json_equal(&owner, "drover-sim"))
            return KIND(SIMULATED);
    }
    return KIND(UNSPECIFIED);
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

uint32_t kind_operations(uint32_t kind)
{
    switch ((Drover__V1__EngineKind)kind) {
    case KIND(LLAMA_SERVER):
        return OPS_LLAMA;
    case KIND(OLLAMA):
        return OPS_OLLAMA;
    case KIND(VLLM):
        return OPS_VLLM;
    case KIND(SGLANG):
        return OPS_OPENAI | OPERATION(RERANK) | OPERATION(MESSAGES);
    case KIND(SIMULATED):
        return OPS_SIM;
    case KIND(UNSPECIFIED):
    case KIND(OPENAI):
    case _DROVER__V1__ENGINE_KIND_IS_INT_SIZE:
        break;
    }
    return OPS_OPENAI;
}
