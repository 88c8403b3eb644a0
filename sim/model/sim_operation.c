/* sim_operation.c - what can be asked of the simulated engine, and at which path. */
#include "sim/model/sim_operation.h"

#include <stdbool.h>
#include <string.h>

static const char *const PATHS[SIM_OP_COUNT] = {
    [SIM_OP_NONE] = "",
    [SIM_OP_CHAT_COMPLETIONS] = "/v1/chat/completions",
    [SIM_OP_COMPLETIONS] = "/v1/completions",
    [SIM_OP_EMBEDDINGS] = "/v1/embeddings",
    [SIM_OP_RESPONSES] = "/v1/responses",
    [SIM_OP_RERANK] = "/v1/rerank",
    [SIM_OP_MESSAGES] = "/v1/messages",
    [SIM_OP_COUNT_TOKENS] = "/v1/messages/count_tokens",
    [SIM_OP_TRANSCRIPTIONS] = "/v1/audio/transcriptions",
    [SIM_OP_OLLAMA_CHAT] = "/api/chat",
    [SIM_OP_OLLAMA_GENERATE] = "/api/generate",
    [SIM_OP_OLLAMA_EMBED] = "/api/embed",
    [SIM_OP_OLLAMA_EMBEDDINGS] = "/api/embeddings",
    [SIM_OP_OLLAMA_SHOW] = "/api/show",
};

static bool is(const char *path, size_t len, const char *wanted)
{
    return strlen(wanted) == len && memcmp(path, wanted, len) == 0;
}

enum sim_operation sim_operation_of(const char *path, size_t len)
{
    unsigned i;

    for (i = 1; i < SIM_OP_COUNT; i++)
        if (is(path, len, PATHS[i]) ||
            (strncmp(PATHS[i], "/v1/", 4) == 0 && is(path, len, PATHS[i] + 3)))
            return (enum sim_operation)i;
    return SIM_OP_NONE;
}
