/* operations.c - the one table of what each operation of the wire is. */
#include "proto/operations.h"

#include <stddef.h>

#include "base/attrs.h"
#include "proto/drover_common.pb-c.h"

#define ROW(operation, text, kind)       \
    [DROVER__V1__OPERATION__OPERATION_## \
        operation] = {.name = (text), .op_class = OP_CLASS_##kind}

static const struct row {
    const char *name; /* NULL: no such operation */
    enum op_class op_class;
} rows[] = {
    ROW(CHAT_COMPLETIONS, "chat_completions", GENERATION),
    ROW(COMPLETIONS, "completions", GENERATION),
    ROW(EMBEDDINGS, "embeddings", EMBEDDING),
    ROW(RESPONSES, "responses", GENERATION),
    ROW(RERANK, "rerank", EMBEDDING),
    ROW(MESSAGES, "messages", GENERATION),
    ROW(COUNT_TOKENS, "count_tokens", QUESTION),
    ROW(TRANSCRIPTIONS, "transcriptions", EMBEDDING),
    ROW(OLLAMA_CHAT, "ollama_chat", GENERATION),
    ROW(OLLAMA_GENERATE, "ollama_generate", GENERATION),
    ROW(OLLAMA_EMBED, "ollama_embed", EMBEDDING),
    ROW(OLLAMA_EMBEDDINGS, "ollama_embeddings", EMBEDDING),
    ROW(OLLAMA_SHOW, "ollama_show", QUESTION),
};

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
