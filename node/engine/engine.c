/* engine.c - what every engine shares: the HTTP path of each operation. */
#include "node/engine/engine.h"

#include "proto/drover_common.pb-c.h"

const char *engine_path(int operation)
{
    switch (operation) {
    case DROVER__V1__OPERATION__OPERATION_CHAT_COMPLETIONS:
        return "/v1/chat/completions";
    case DROVER__V1__OPERATION__OPERATION_COMPLETIONS:
        return "/v1/completions";
    case DROVER__V1__OPERATION__OPERATION_EMBEDDINGS:
        return "/v1/embeddings";
    case DROVER__V1__OPERATION__OPERATION_RESPONSES:
        return "/v1/responses";
    case DROVER__V1__OPERATION__OPERATION_RERANK:
        return "/v1/rerank";
    case DROVER__V1__OPERATION__OPERATION_MESSAGES:
        return "/v1/messages";
    case DROVER__V1__OPERATION__OPERATION_COUNT_TOKENS:
        return "/v1/messages/count_tokens";
    case DROVER__V1__OPERATION__OPERATION_TRANSCRIPTIONS:
        return "/v1/audio/transcriptions";
    case DROVER__V1__OPERATION__OPERATION_OLLAMA_CHAT:
        return "/api/chat";
    case DROVER__V1__OPERATION__OPERATION_OLLAMA_GENERATE:
        return "/api/generate";
    case DROVER__V1__OPERATION__OPERATION_OLLAMA_EMBED:
        return "/api/embed";
    case DROVER__V1__OPERATION__OPERATION_OLLAMA_EMBEDDINGS:
        return "/api/embeddings";
    case DROVER__V1__OPERATION__OPERATION_OLLAMA_SHOW:
        return "/api/show";
    default: /* a number from a newer peer, or UNSPECIFIED */
        return NULL;
    }
}
