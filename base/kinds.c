/* kinds.c - names of the kinds. */
#include "base/kinds.h"

#include <stddef.h>

#include "base/attrs.h"

const char *ability_name(unsigned ability)
{
    static const char *const names[ABILITIES] = {
        [ABILITY_CONTEXT] = "context",
        [ABILITY_VISION] = "vision",
        [ABILITY_AUDIO] = "audio",
        [ABILITY_TOOLS] = "tools",
        [ABILITY_GRAMMAR] = "grammar",
        [ABILITY_OPERATION] = "operation",
        [ABILITY_MESSAGE_BYTES] = "message_bytes",
        [ABILITY_ACCESS] = "access",
        [ABILITY_STATE] = "state",
        [ABILITY_MODEL] = "model",
    };

    return ability < ABILITIES ? names[ability] : NULL;
}

const char *engine_kind_name(uint32_t kind)
{
    static const char *const names[] = {"unknown", "llama-server", "ollama",   "vllm",
                                        "sglang",  "openai",       "simulated"};

    return kind < ARRAY_LEN(names) ? names[kind] : "unknown";
}

const char *model_state_name(uint32_t state)
{
    static const char *const names[] = {"unknown", "ready", "loadable", "loading", "failed"};

    return state < ARRAY_LEN(names) ? names[state] : "unknown";
}

const char *operation_name(int operation)
{
    static const char *const names[] = {NULL,
                                        "chat_completions",
                                        "completions",
                                        "embeddings",
                                        "responses",
                                        "rerank",
                                        "messages",
                                        "count_tokens",
                                        "transcriptions",
                                        "ollama_chat",
                                        "ollama_generate",
                                        "ollama_embed",
                                        "ollama_embeddings",
                                        "ollama_show",
                                        "input_tokens",
                                        "tokenize",
                                        "detokenize",
                                        "apply_template",
                                        "completion",
                                        "infill",
                                        "props",
                                        "lora_adapters",
                                        "speech",
                                        "translations",
                                        "images_generations",
                                        "images_edits",
                                        "images_variations",
                                        "moderations",
                                        "score",
                                        "classify",
                                        "pooling",
                                        "state"};

    return operation > 0 && (size_t)operation < ARRAY_LEN(names) ? names[operation] : NULL;
}

const char *policy_name(enum policy_kind kind)
{
    switch (kind) {
    case POLICY_FASTEST:
        return "fastest";
    case POLICY_LEAST_CONN:
        return "least_conn";
    case POLICY_ROUND_ROBIN:
        return "round_robin";
    case POLICY_RANDOM2:
        return "random2";
    case POLICY_PREFIX_HASH:
        return "prefix_hash";
    }
    return "unknown";
}
