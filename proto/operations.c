/* operations.c - what each operation of the wire is. */
#include "proto/operations.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "base/attrs.h"
#include "proto/drover_common.pb-c.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* Each operation that base/kinds.h names has a class here. */
static const enum op_class classes[] = {
    [OP(CHAT_COMPLETIONS)] = OP_CLASS_GENERATION,
    [OP(COMPLETIONS)] = OP_CLASS_GENERATION,
    [OP(EMBEDDINGS)] = OP_CLASS_EMBEDDING,
    [OP(RESPONSES)] = OP_CLASS_GENERATION,
    [OP(RERANK)] = OP_CLASS_EMBEDDING,
    [OP(MESSAGES)] = OP_CLASS_GENERATION,
    [OP(COUNT_TOKENS)] = OP_CLASS_QUESTION,
    [OP(TRANSCRIPTIONS)] = OP_CLASS_EMBEDDING,
    [OP(OLLAMA_CHAT)] = OP_CLASS_GENERATION,
    [OP(OLLAMA_GENERATE)] = OP_CLASS_GENERATION,
    [OP(OLLAMA_EMBED)] = OP_CLASS_EMBEDDING,
    [OP(OLLAMA_EMBEDDINGS)] = OP_CLASS_EMBEDDING,
    [OP(OLLAMA_SHOW)] = OP_CLASS_QUESTION,
};

static_assert((int)DROVER__V1__ABILITY__ABILITY_CONTEXT == (int)ABILITY_CONTEXT &&
                  (int)DROVER__V1__ABILITY__ABILITY_GRAMMAR == (int)ABILITY_GRAMMAR &&
                  (int)DROVER__V1__ABILITY__ABILITY_ACCESS == (int)ABILITY_ACCESS,
              "abilities have one number each");

enum op_class operation_class(int operation)
{
    return operation > 0 && (size_t)operation < ARRAY_LEN(classes) ? classes[operation]
                                                                   : OP_CLASS_GENERATION;
}

bool operation_is_question(int operation)
{
    return operation_class(operation) == OP_CLASS_QUESTION;
}

int operation_find(const char *name, size_t n)
{
    for (int op = 1; operation_name(op) != NULL; op++)
        if (strlen(operation_name(op)) == n && memcmp(operation_name(op), name, n) == 0)
            return op;
    return 0;
}
