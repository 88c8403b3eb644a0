/* operations.c - the operations of a kind of engine, and those that one turned out not to have.
 */
#include "node/engine/kinds/operations.h"

#include "base/hash.h"
#include "node/engine/kinds/kind.h"

#define OPENAI_API                                                                  \
    (OPERATION(CHAT_COMPLETIONS) | OPERATION(COMPLETIONS) | OPERATION(EMBEDDINGS) | \
     OPERATION(RESPONSES))
#define ALL_KNOW \
    (OPENAI_API | OPERATION(RERANK) | OPERATION(MESSAGES) | OPERATION(COUNT_TOKENS))
#define LLAMA_SERVER_API                                                                \
    (ALL_KNOW | OPERATION(INPUT_TOKENS) | OPERATION(TOKENIZE) | OPERATION(DETOKENIZE) | \
     OPERATION(APPLY_TEMPLATE) | OPERATION(COMPLETION) | OPERATION(INFILL) |            \
     OPERATION(PROPS) | OPERATION(LORA_ADAPTERS))
#define SIMULATED_API (ALL_KNOW | OPERATION(TRANSCRIPTIONS))
/* Not what only llama-server has. */
#define ANY_API                                                                              \
    (SIMULATED_API | OPERATION(INPUT_TOKENS) | OPERATION(TOKENIZE) | OPERATION(DETOKENIZE) | \
     OPERATION(SPEECH) | OPERATION(TRANSLATIONS) | OPERATION(IMAGES_GENERATIONS) |           \
     OPERATION(IMAGES_EDITS) | OPERATION(IMAGES_VARIATIONS) | OPERATION(MODERATIONS) |       \
     OPERATION(SCORE) | OPERATION(CLASSIFY) | OPERATION(POOLING) | OPERATION(STATE))
/* A llama-server behind a proxy, or one whose kind is not known yet, has more. */
#define PROXIED_API (ANY_API | LLAMA_SERVER_API)

uint32_t operations_of_kind(uint32_t kind)
{
    switch ((Drover__V1__EngineKind)kind) {
    case KIND(LLAMA_SERVER):
        return LLAMA_SERVER_API;
    case KIND(OLLAMA):
        return OPENAI_API | OPERATION(MESSAGES) | OPERATIONS_OLLAMA_API;
    case KIND(SIMULATED):
        return SIMULATED_API | OPERATIONS_OLLAMA_API;
    case KIND(VLLM):
    case KIND(SGLANG):
        return ANY_API;
    case KIND(OPENAI):
    case KIND(UNSPECIFIED):
    case _DROVER__V1__ENGINE_KIND_IS_INT_SIZE:
        break;
    }
    return PROXIED_API;
}

void operations_note_missing(struct operations_missing *missing, const char *model,
                             int operation, uint64_t now_mono_us)
{
    uint64_t hash = hash_text(model);
    size_t at = 0;

    if (operation <= 0 || operation >= 32)
        return;
    for (size_t i = 0; i < OPERATIONS_MISSING_ROWS; i++) {
        if (missing->rows[i].model == hash && missing->rows[i].operation == UINT32_C(1)
                                                                                << operation) {
            at = i;
            break;
        }
        if (missing->rows[i].until_mono_us < missing->rows[at].until_mono_us)
            at = i;
    }
    missing->rows[at].model = hash;
    missing->rows[at].operation = UINT32_C(1) << operation;
    missing->rows[at].until_mono_us = now_mono_us + OPERATIONS_MISSING_US;
}

uint32_t operations_missing_of(const struct operations_missing *missing, const char *model,
                               uint64_t now_mono_us)
{
    uint64_t hash = hash_text(model);
    uint32_t mask = 0;

    for (size_t i = 0; i < OPERATIONS_MISSING_ROWS; i++)
        if (missing->rows[i].model == hash && missing->rows[i].until_mono_us > now_mono_us)
            mask |= missing->rows[i].operation;
    return mask;
}
