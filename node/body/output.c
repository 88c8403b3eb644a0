/* output.c - has an answer any output, and why did it end? */
#include "node/body/output.h"

#include <string.h>

#include "base/attrs.h"
#include "base/text/json.h"
#include "proto/drover_common.pb-c.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

static bool is_one_of(const struct json_value *name, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (json_equal(name, names[i]))
            return true;
    return false;
}

static bool has_text(const struct json_value *v)
{
    return v->type == JSON_STRING && v->len > 2;
}

bool output_in_type(const struct json_value *type)
{
    static const char *const plain[] = {"text", "output_text", "message", "thinking"};

    return type->type == JSON_STRING && !is_one_of(type, plain, ARRAY_LEN(plain));
}

/* A part of a message: of an unknown type it is output whatever is in it. */
static bool output_in_part(const struct json_value *part)
{
    static const char *const names[] = {"type", "text", "thinking", "refusal", "signature"};
    struct json_value v[ARRAY_LEN(names)];

    json_pick(part, names, v, ARRAY_LEN(names));
    for (size_t i = 1; i < ARRAY_LEN(names); i++)
        if (has_text(&v[i]))
            return true;
    return output_in_type(&v[0]) || part->type == JSON_STRING;
}

static bool output_in_parts(const struct json_value *parts)
{
    struct json_value key, part;
    struct json_iter it;

    json_iter_init(&it, parts);
    while (parts->type == JSON_ARRAY && json_iter_next(&it, &key, &part))
        if (output_in_part(&part))
            return true;
    return false;
}

bool output_in_message(const struct json_value *message)
{
    static const char *const labels[] = {"role", "name", "id", "type", "status", "object"};
    struct json_value key, value;
    struct json_iter it;

    if (message->type != JSON_OBJECT)
        return false;
    json_iter_init(&it, message);
    while (json_iter_next(&it, &key, &value)) {
        if (is_one_of(&key, labels, ARRAY_LEN(labels)))
            continue;
        if (json_equal(&key, "content") && value.type == JSON_ARRAY
                ? output_in_parts(&value)
                : has_text(&value) || json_has_items(&value))
            return true;
    }
    return false;
}

static bool output_in_choices(const struct json_value *choices)
{
    static const char *const names[] = {"message", "delta", "text"};
    struct json_value v[ARRAY_LEN(names)], key, choice;
    struct json_iter it;

    json_iter_init(&it, choices);
    while (json_iter_next(&it, &key, &choice)) {
        json_pick(&choice, names, v, ARRAY_LEN(names));
        if (output_in_message(&v[0]) || output_in_message(&v[1]) || has_text(&v[2]))
            return true;
    }
    return false;
}

/* The items of a response: a message, whose parts may be empty, or anything else. */
static bool output_in_items(const struct json_value *items)
{
    struct json_value key, item, type, content;
    struct json_iter it;

    json_iter_init(&it, items);
    while (items->type == JSON_ARRAY && json_iter_next(&it, &key, &item)) {
        type = json_get(&item, "type");
        content = json_get(&item, "content");
        if (output_in_type(&type) || has_text(&content) || output_in_parts(&content))
            return true;
    }
    return false;
}

static bool output_of_ollama(const struct json_value *root)
{
    static const char *const names[] = {"message", "response", "thinking", "image", "images"};
    struct json_value v[ARRAY_LEN(names)];

    json_pick(root, names, v, ARRAY_LEN(names));
    for (size_t i = 1; i < ARRAY_LEN(names); i++)
        if (has_text(&v[i]) || json_has_items(&v[i]))
            return true;
    return output_in_message(&v[0]);
}

bool output_in_answer(int operation, const struct json_value *root)
{
    struct json_value part;

    switch (operation) {
    case OP(CHAT_COMPLETIONS):
    case OP(COMPLETIONS):
        part = json_get(root, "choices");
        return output_in_choices(&part);
    case OP(MESSAGES):
        part = json_get(root, "content");
        return output_in_parts(&part);
    case OP(RESPONSES):
        part = json_get(root, "output");
        return output_in_items(&part);
    case OP(OLLAMA_CHAT):
    case OP(OLLAMA_GENERATE):
        return output_of_ollama(root);
    default: /* an int from the wire: none of the others is looked at */
        return true;
    }
}

void output_take_reason(char *out, const struct json_value *reason)
{
    char word[OUTPUT_REASON_BYTES];

    if (json_name(word, sizeof(word), reason) && word[0] != '\0')
        (void)strlcpy(out, word, OUTPUT_REASON_BYTES);
}

void output_reason(char *out, int operation, const struct json_value *root)
{
    static const char *const names[] = {"stop_reason", "status", "done_reason"};
    struct json_value choices = json_get(root, "choices"), key, choice, reason;
    struct json_iter it;

    out[0] = '\0';
    if (operation == OP(CHAT_COMPLETIONS) || operation == OP(COMPLETIONS)) {
        json_iter_init(&it, &choices);
        while (json_iter_next(&it, &key, &choice)) {
            reason = json_get(&choice, "finish_reason");
            output_take_reason(out, &reason);
        }
        return;
    }
    reason = json_get(root, names[operation == OP(MESSAGES)    ? 0
                                  : operation == OP(RESPONSES) ? 1
                                                               : 2]);
    output_take_reason(out, &reason);
}
