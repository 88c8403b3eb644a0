/* operations.c - the one table of what each operation of the wire is. */
#include "proto/operations.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "base/attrs.h"
#include "proto/drover_common.pb-c.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

static const struct row {
    const char *name; /* NULL: no such operation */
    enum op_class op_class;
} rows[] = {
    [OP(CHAT_COMPLETIONS)] = {"chat_completions", OP_CLASS_GENERATION},
    [OP(COMPLETIONS)] = {"completions", OP_CLASS_GENERATION},
    [OP(EMBEDDINGS)] = {"embeddings", OP_CLASS_EMBEDDING},
    [OP(RESPONSES)] = {"responses", OP_CLASS_GENERATION},
    [OP(RERANK)] = {"rerank", OP_CLASS_EMBEDDING},
    [OP(MESSAGES)] = {"messages", OP_CLASS_GENERATION},
    [OP(COUNT_TOKENS)] = {"count_tokens", OP_CLASS_QUESTION},
    [OP(TRANSCRIPTIONS)] = {"transcriptions", OP_CLASS_EMBEDDING},
    [OP(OLLAMA_CHAT)] = {"ollama_chat", OP_CLASS_GENERATION},
    [OP(OLLAMA_GENERATE)] = {"ollama_generate", OP_CLASS_GENERATION},
    [OP(OLLAMA_EMBED)] = {"ollama_embed", OP_CLASS_EMBEDDING},
    [OP(OLLAMA_EMBEDDINGS)] = {"ollama_embeddings", OP_CLASS_EMBEDDING},
    [OP(OLLAMA_SHOW)] = {"ollama_show", OP_CLASS_QUESTION},
};

static_assert((int)DROVER__V1__ABILITY__ABILITY_CONTEXT == (int)ABILITY_CONTEXT &&
                  (int)DROVER__V1__ABILITY__ABILITY_GRAMMAR == (int)ABILITY_GRAMMAR &&
                  (int)DROVER__V1__ABILITY__ABILITY_ACCESS == (int)ABILITY_ACCESS,
              "abilities have one number each");

static const struct row *find(int operation)
{
    static const struct row unknown = {.name = NULL, .op_class = OP_CLASS_GENERATION};

    return operation > 0 && (size_t)operation < ARRAY_LEN(rows) ? &rows[operation] : &unknown;
}

enum op_class operation_class(int operation)
{
    return find(operation)->op_class;
}

bool operation_is_question(int operation)
{
    return operation_class(operation) == OP_CLASS_QUESTION;
}

const char *operation_name(int operation)
{
    return find(operation)->name;
}

int operation_find(const char *name, size_t n)
{
    for (size_t i = 1; i < ARRAY_LEN(rows); i++)
        if (rows[i].name != NULL && strlen(rows[i].name) == n &&
            memcmp(rows[i].name, name, n) == 0)
            return (int)i;
    return 0;
}
