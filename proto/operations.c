/* operations.c - what each operation of the wire is. */
#include "proto/operations.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "base/attrs.h"
#include "base/text/json.h"
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
    [OP(INPUT_TOKENS)] = OP_CLASS_QUESTION,
    [OP(TOKENIZE)] = OP_CLASS_QUESTION,
    [OP(DETOKENIZE)] = OP_CLASS_QUESTION,
    [OP(APPLY_TEMPLATE)] = OP_CLASS_QUESTION,
    [OP(COMPLETION)] = OP_CLASS_EMBEDDING,
    [OP(INFILL)] = OP_CLASS_EMBEDDING,
    [OP(PROPS)] = OP_CLASS_QUESTION,
    [OP(LORA_ADAPTERS)] = OP_CLASS_QUESTION,
    [OP(SPEECH)] = OP_CLASS_EMBEDDING,
    [OP(TRANSLATIONS)] = OP_CLASS_EMBEDDING,
    [OP(IMAGES_GENERATIONS)] = OP_CLASS_EMBEDDING,
    [OP(IMAGES_EDITS)] = OP_CLASS_EMBEDDING,
    [OP(IMAGES_VARIATIONS)] = OP_CLASS_EMBEDDING,
    [OP(MODERATIONS)] = OP_CLASS_EMBEDDING,
    [OP(SCORE)] = OP_CLASS_EMBEDDING,
    [OP(CLASSIFY)] = OP_CLASS_EMBEDDING,
    [OP(POOLING)] = OP_CLASS_EMBEDDING,
    [OP(STATE)] = OP_CLASS_QUESTION,
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

bool operation_takes_form(int operation, bool is_json)
{
    switch (operation) {
    case OP(TRANSCRIPTIONS):
    case OP(TRANSLATIONS):
    case OP(IMAGES_VARIATIONS):
        return true;
    case OP(IMAGES_EDITS):
        return !is_json;
    default:
        return false;
    }
}

bool operation_takes_method(int operation, const char *method)
{
    if (operation == OP(PROPS) || operation == OP(LORA_ADAPTERS))
        return strcmp(method, "GET") == 0;
    return method[0] == '\0' || strcmp(method, "POST") == 0 ||
           (operation == OP(STATE) &&
            (strcmp(method, "GET") == 0 || strcmp(method, "DELETE") == 0));
}

static bool is_listed(char c, const char *marks)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr(marks, c) != NULL);
}

bool operation_target_ok(const char *target)
{
    size_t n = strlen(target), path = strcspn(target, "?");

    if (n > OPERATION_TARGET_BYTES ||
        (strncmp(target, "responses/", 10) != 0 &&
         (strncmp(target, "conversations", 13) != 0 || strchr("/?", target[13]) == NULL)))
        return false;
    for (size_t i = 0; i < path; i++) {
        if (!is_listed(target[i], "-_.:/"))
            return false;
        /* No part is empty, "." or "..". */
        if (target[i] == '/' && (i + 1 == path || target[i + 1] == '/' || target[i + 1] == '.'))
            return false;
    }
    for (size_t i = path + (path < n); i < n; i++)
        if (!is_listed(target[i], "-_.:~!$&'()*+,;=@/?%[]"))
            return false;
    return true;
}

/* A duration of nothing: 0, "0", "0s", "0h0m". */
static bool is_zero(const struct json_value *keep_alive)
{
    bool digits = false;
    size_t n = keep_alive->len;

    if (keep_alive->type != JSON_NUMBER && keep_alive->type != JSON_STRING)
        return false;
    for (size_t i = 0; i < n && keep_alive->text[i] != 'e' && keep_alive->text[i] != 'E'; i++) {
        char c = keep_alive->text[i];

        if (c >= '1' && c <= '9')
            return false;
        digits |= c == '0';
    }
    return digits;
}

bool operation_unloads(int operation, const struct json_value *root)
{
    struct json_value keep_alive, asks;

    if (root->type != JSON_OBJECT ||
        (operation != OP(OLLAMA_CHAT) && operation != OP(OLLAMA_GENERATE)))
        return false;
    keep_alive = json_get(root, "keep_alive");
    if (!is_zero(&keep_alive))
        return false;
    asks = json_get(root, operation == OP(OLLAMA_CHAT) ? "messages" : "prompt");
    return asks.type == JSON_NONE || asks.type == JSON_NULL ||
           (asks.type == JSON_ARRAY ? !json_has_items(&asks)
                                    : asks.type == JSON_STRING && json_equal(&asks, ""));
}

int operation_find(const char *name, size_t n)
{
    for (int op = 1; operation_name(op) != NULL; op++)
        if (strlen(operation_name(op)) == n && memcmp(operation_name(op), name, n) == 0)
            return op;
    return 0;
}
