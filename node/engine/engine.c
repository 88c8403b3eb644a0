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
    case DROVER__V1__OPERATION__OPERATION_INPUT_TOKENS:
        return "/v1/responses/input_tokens";
    case DROVER__V1__OPERATION__OPERATION_TOKENIZE:
        return "/tokenize";
    case DROVER__V1__OPERATION__OPERATION_DETOKENIZE:
        return "/detokenize";
    case DROVER__V1__OPERATION__OPERATION_APPLY_TEMPLATE:
        return "/apply-template";
    case DROVER__V1__OPERATION__OPERATION_COMPLETION:
        return "/completion";
    case DROVER__V1__OPERATION__OPERATION_INFILL:
        return "/infill";
    case DROVER__V1__OPERATION__OPERATION_PROPS:
        return "/props";
    case DROVER__V1__OPERATION__OPERATION_LORA_ADAPTERS:
        return "/lora-adapters";
    case DROVER__V1__OPERATION__OPERATION_SPEECH:
        return "/v1/audio/speech";
    case DROVER__V1__OPERATION__OPERATION_TRANSLATIONS:
        return "/v1/audio/translations";
    case DROVER__V1__OPERATION__OPERATION_IMAGES_GENERATIONS:
        return "/v1/images/generations";
    case DROVER__V1__OPERATION__OPERATION_IMAGES_EDITS:
        return "/v1/images/edits";
    case DROVER__V1__OPERATION__OPERATION_IMAGES_VARIATIONS:
        return "/v1/images/variations";
    case DROVER__V1__OPERATION__OPERATION_MODERATIONS:
        return "/v1/moderations";
    case DROVER__V1__OPERATION__OPERATION_SCORE:
        return "/v1/score";
    case DROVER__V1__OPERATION__OPERATION_CLASSIFY:
        return "/classify";
    case DROVER__V1__OPERATION__OPERATION_POOLING:
        return "/pooling";
    case DROVER__V1__OPERATION__OPERATION_STATE:
        return "/v1/"; /* and the request's target */
    default:           /* a number from a newer peer, or UNSPECIFIED */
        return NULL;
    }
}
