/*
 * assemble.c - makes the answer that an engine gives without streaming from the one it streams.
 *
 * One answer is a set of top-level members plus up to MAX_PARTS parts: the choices of OpenAI's
 * formats, the content blocks of Anthropic's.  Ollama's answer is one object whose text grows;
 * the Responses API repeats the whole answer in its last event.
 */
#include "node/stream/assemble.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "node/body/fields.h"
#include "node/stream/meter.h"
#include "proto/drover_common.pb-c.h"

#define OP(name)  DROVER__V1__OPERATION__OPERATION_##name
#define MAX_PARTS 128
#define MAX_CALLS 128

/* A tool call of a chat choice: {"id","type","function":{"name","arguments"}}. */
struct tool_call {
    struct fields members;
    struct fields function;
};

/* A choice or a content block. */
struct part {
    bool used;
    struct fields members; /* of the choice or block itself */
    struct fields message; /* chat: of the choice's message */
    struct fields logprobs;
    bool has_logprobs;
    struct tool_call *calls; /* owned */
    size_t calls_count;
    struct buf input; /* Anthropic tool_use: the JSON text of its input, decoded */
};

struct assembler {
    int operation;
    size_t bytes; /* of all events so far */
    bool started;
    struct fields top;
    struct fields usage;   /* Anthropic: merged from message_start and message_delta */
    struct fields message; /* Ollama chat */
    struct part *parts;    /* owned */
    size_t parts_count;
};

struct assembler *assembler_create(int operation)
{
    struct assembler *a = calloc(1, sizeof(*a));

    if (a != NULL)
        a->operation = operation;
    return a;
}

void assembler_destroy(struct assembler *a)
{
    if (a == NULL)
        return;
    for (size_t i = 0; i < a->parts_count; i++) {
        struct part *part = &a->parts[i];

        for (size_t c = 0; c < part->calls_count; c++) {
            fields_finish(&part->calls[c].members);
            fields_finish(&part->calls[c].function);
        }
        free(part->calls);
        fields_finish(&part->members);
        fields_finish(&part->message);
        fields_finish(&part->logprobs);
        buf_finish(&part->input);
    }
    free(a->parts);
    fields_finish(&a->top);
    fields_finish(&a->usage);
    fields_finish(&a->message);
    free(a);
}

/* Grows an array of zeroed elements so that element `index` exists. */
static int grow(void **list, size_t *count, size_t size, size_t index, size_t max)
{
    char *grown;

    if (index < *count)
        return 0;
    if (index >= max)
        return DRV_EINVAL;
    grown = realloc(*list, (index + 1) * size);
    if (grown == NULL)
        return DRV_ENOMEM;
    memset(grown + *count * size, 0, (index + 1 - *count) * size);
    *list = grown;
    *count = index + 1;
    return 0;
}

/* The part that an event's "index" names (0 when it has none). */
static int part_of(struct assembler *a, const struct json_value *object, struct part **out)
{
    struct json_value v = json_get(object, "index");
    uint64_t index = 0;
    void *list = a->parts;
    int rc;

    if (v.type != JSON_NONE && !json_uint(&index, &v, MAX_PARTS - 1))
        return DRV_EINVAL;
    rc = grow(&list, &a->parts_count, sizeof(*a->parts), (size_t)index, MAX_PARTS);
    a->parts = list;
    if (rc != 0)
        return rc;
    *out = &a->parts[index];
    (*out)->used = true;
    return 0;
}

/* Strings grow, arrays grow, anything else replaces; null only fills a gap. */
static void grow_member(struct fields *f, const struct json_value *key,
                        const struct json_value *value)
{
    if (value->type == JSON_STRING)
        fields_append(f, key, value);
    else if (value->type == JSON_ARRAY)
        fields_extend(f, key, value);
    else if (value->type != JSON_NULL || fields_find(f, key) == NULL)
        fields_set(f, key, value);
}

static void keep_member(struct fields *f, const struct json_value *key,
                        const struct json_value *value)
{
    if (value->type != JSON_NULL || fields_find(f, key) == NULL)
        fields_set(f, key, value);
}

/* ---- chat completions and completions -------------------------------------------------- */

static int add_tool_call(struct part *part, const struct json_value *delta)
{
    struct json_value v = json_get(delta, "index");
    struct json_value key, value, fkey, fvalue;
    struct json_iter it, fit;
    uint64_t index = part->calls_count;
    void *list = part->calls;
    struct tool_call *call;
    int rc;

    if (v.type != JSON_NONE && !json_uint(&index, &v, MAX_CALLS - 1))
        return DRV_EINVAL;
    rc = grow(&list, &part->calls_count, sizeof(*part->calls), (size_t)index, MAX_CALLS);
    part->calls = list;
    if (rc != 0)
        return rc;
    call = &part->calls[index];
    json_iter_init(&it, delta);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "index"))
            continue;
        if (!json_equal(&key, "function") || value.type != JSON_OBJECT) {
            if (value.type != JSON_STRING || value.len > 2)
                keep_member(&call->members, &key, &value);
            continue;
        }
        json_iter_init(&fit, &value);
        while (json_iter_next(&fit, &fkey, &fvalue)) {
            if (json_equal(&fkey, "arguments") && fvalue.type == JSON_STRING)
                fields_append(&call->function, &fkey, &fvalue);
            else if (fvalue.type != JSON_STRING || fvalue.len > 2)
                keep_member(&call->function, &fkey, &fvalue);
        }
    }
    return call->members.failed || call->function.failed ? DRV_ENOMEM : 0;
}

static int add_delta(struct part *part, const struct json_value *delta)
{
    struct json_value key, value, item_key, item;
    struct json_iter it, items;
    int rc;

    json_iter_init(&it, delta);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "role")) {
            keep_member(&part->message, &key, &value);
        } else if (json_equal(&key, "tool_calls")) {
            json_iter_init(&items, &value);
            while (json_iter_next(&items, &item_key, &item)) {
                rc = add_tool_call(part, &item);
                if (rc != 0)
                    return rc;
            }
        } else {
            grow_member(&part->message, &key, &value);
        }
    }
    return part->message.failed ? DRV_ENOMEM : 0;
}

static int add_choice(struct assembler *a, const struct json_value *choice)
{
    struct json_value key, value, lkey, lvalue;
    struct json_iter it, lit;
    struct part *part;
    int rc = part_of(a, choice, &part);

    if (rc != 0)
        return rc;
    json_iter_init(&it, choice);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "delta")) {
            rc = add_delta(part, &value);
            if (rc != 0)
                return rc;
        } else if (json_equal(&key, "logprobs") && value.type == JSON_OBJECT) {
            part->has_logprobs = true;
            json_iter_init(&lit, &value);
            while (json_iter_next(&lit, &lkey, &lvalue))
                grow_member(&part->logprobs, &lkey, &lvalue);
        } else if (json_equal(&key, "text") || value.type == JSON_ARRAY) {
            grow_member(&part->members, &key, &value);
        } else {
            keep_member(&part->members, &key, &value);
        }
    }
    return part->members.failed || part->logprobs.failed ? DRV_ENOMEM : 0;
}

static int add_openai(struct assembler *a, const struct json_value *root)
{
    struct json_value key, value, item_key, choice;
    struct json_iter it, items;
    int rc;

    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "choices")) {
            json_iter_init(&items, &value);
            while (json_iter_next(&items, &item_key, &choice)) {
                rc = add_choice(a, &choice);
                if (rc != 0)
                    return rc;
                a->started = true;
            }
        } else if (json_equal(&key, "object") && json_equal(&value, "chat.completion.chunk")) {
            fields_set_str(&a->top, "object", "\"chat.completion\"");
        } else if (!json_equal(&key, "prompt_progress")) {
            keep_member(&a->top, &key, &value); /* prompt_progress is about streaming itself */
        }
    }
    return 0;
}

static void write_message(const struct part *part, struct buf *out)
{
    const struct field *content = fields_find_str(&part->message, "content");

    buf_str(out, "\"message\":{");
    if (fields_find_str(&part->message, "role") == NULL)
        buf_str(out, "\"role\":\"assistant\",");
    if (fields_write(&part->message, out, "content"))
        buf_add(out, ",", 1);
    if (content != NULL && content->kind != FIELD_RAW && buf_size(&content->value) != 0)
        field_write(content, out);
    else
        buf_str(out,
                part->calls_count != 0 || fields_find_str(&part->message, "refusal") != NULL
                    ? "\"content\":null"
                    : "\"content\":\"\"");
    if (part->calls_count != 0) {
        bool first = true;

        buf_str(out, ",\"tool_calls\":[");
        for (size_t c = 0; c < part->calls_count; c++) {
            const struct tool_call *call = &part->calls[c];

            if (call->members.count == 0 && call->function.count == 0)
                continue; /* a gap in the engine's numbering */
            buf_str(out, first ? "{" : ",{");
            first = false;
            if (fields_find_str(&call->members, "type") == NULL)
                buf_str(out, "\"type\":\"function\",");
            if (fields_write(&call->members, out, NULL))
                buf_add(out, ",", 1);
            buf_str(out, "\"function\":{");
            (void)fields_write(&call->function, out, NULL);
            buf_str(out, "}}");
        }
        buf_str(out, "]");
    }
    buf_str(out, "}");
}

static void write_openai(const struct assembler *a, struct buf *out)
{
    bool first = true;

    buf_str(out, "{\"choices\":[");
    for (size_t i = 0; i < a->parts_count; i++) {
        const struct part *part = &a->parts[i];

        if (!part->used)
            continue;
        buf_str(out, first ? "{" : ",{");
        first = false;
        if (fields_write(&part->members, out, part->has_logprobs ? "logprobs" : NULL))
            buf_add(out, ",", 1);
        if (fields_find_str(&part->members, "index") == NULL)
            buf_printf(out, "\"index\":%zu,", i);
        if (part->has_logprobs) {
            buf_str(out, "\"logprobs\":{");
            (void)fields_write(&part->logprobs, out, NULL);
            buf_str(out, "},");
        }
        if (a->operation == OP(CHAT_COMPLETIONS))
            write_message(part, out);
        else
            out->len--; /* the comma: a text choice has no more members */
        buf_str(out, "}");
    }
    buf_str(out, "]");
    if (a->top.count != 0)
        buf_add(out, ",", 1);
    (void)fields_write(&a->top, out, NULL);
    buf_str(out, "}");
}

/* ---- Anthropic messages ---------------------------------------------------------------- */

static int add_block_delta(struct part *part, const struct json_value *delta)
{
    struct json_value type = json_get(delta, "type");
    struct json_value key, value;
    struct json_iter it;

    if (json_equal(&type, "citations_delta")) {
        struct json_value citation = json_get(delta, "citation");
        struct json_value name, list;
        struct buf text = BUF_INIT;

        buf_printf(&text, "{\"citations\":[%.*s]}", (int)citation.len, citation.text);
        if (json_check(&list, buf_head(&text), buf_size(&text), NULL) == 0) {
            json_iter_init(&it, &list);
            if (json_iter_next(&it, &name, &value))
                fields_extend(&part->members, &name, &value);
        }
        buf_finish(&text);
        return part->members.failed ? DRV_ENOMEM : 0;
    }
    json_iter_init(&it, delta);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "type"))
            continue;
        if (json_equal(&key, "partial_json") && value.type == JSON_STRING)
            json_decode(&part->input, &value);
        else if (json_equal(&key, "signature"))
            fields_set(&part->members, &key, &value);
        else
            grow_member(&part->members, &key, &value);
    }
    return part->members.failed || part->input.failed ? DRV_ENOMEM : 0;
}

static int add_messages(struct assembler *a, const struct json_value *root)
{
    struct json_value type = json_get(root, "type");
    struct json_value key, value, object;
    struct json_iter it;
    struct part *part;
    int rc;

    if (type.type != JSON_STRING)
        return DRV_EINVAL;
    if (json_equal(&type, "message_start")) {
        object = json_get(root, "message");
        json_iter_init(&it, &object);
        while (json_iter_next(&it, &key, &value)) {
            if (json_equal(&key, "usage"))
                fields_merge(&a->usage, &value);
            else if (!json_equal(&key, "content"))
                fields_set(&a->top, &key, &value);
        }
        a->started = true;
    } else if (json_equal(&type, "message_delta")) {
        object = json_get(root, "delta");
        fields_merge(&a->top, &object);
        object = json_get(root, "usage");
        fields_merge(&a->usage, &object);
    } else if (json_equal(&type, "content_block_start") ||
               json_equal(&type, "content_block_delta")) {
        rc = part_of(a, root, &part);
        if (rc != 0)
            return rc;
        if (json_equal(&type, "content_block_delta")) {
            object = json_get(root, "delta");
            return add_block_delta(part, &object);
        }
        /* The block's text may begin here: strings are set to grow. */
        object = json_get(root, "content_block");
        json_iter_init(&it, &object);
        while (json_iter_next(&it, &key, &value))
            grow_member(&part->members, &key, &value);
        if (part->members.failed)
            return DRV_ENOMEM;
    }
    return 0;
}

/* The input that was streamed is an object of its own now; text that is none stays a string. */
static void write_input(const struct part *part, struct buf *out)
{
    struct json_value root;

    buf_str(out, "\"input\":");
    if (json_check(&root, buf_head(&part->input), buf_size(&part->input), NULL) == 0)
        buf_add(out, root.text, root.len);
    else
        json_quote(out, buf_head(&part->input), buf_size(&part->input));
}

static void write_messages(const struct assembler *a, struct buf *out)
{
    bool first = true;

    buf_str(out, "{");
    if (fields_write(&a->top, out, NULL))
        buf_add(out, ",", 1);
    buf_str(out, "\"content\":[");
    for (size_t i = 0; i < a->parts_count; i++) {
        const struct part *part = &a->parts[i];
        bool typed = buf_size(&part->input) != 0;

        if (!part->used)
            continue;
        buf_str(out, first ? "{" : ",{");
        first = false;
        if (fields_write(&part->members, out, typed ? "input" : NULL) && typed)
            buf_add(out, ",", 1);
        if (typed)
            write_input(part, out);
        buf_str(out, "}");
    }
    buf_str(out, "],\"usage\":{");
    (void)fields_write(&a->usage, out, NULL);
    buf_str(out, "}}");
}

/* ---- Ollama ---------------------------------------------------------------------------- */

static bool grows(const struct json_value *key)
{
    return json_equal(key, "response") || json_equal(key, "content") ||
           json_equal(key, "thinking");
}

static int add_ollama(struct assembler *a, const struct json_value *root)
{
    struct json_value key, value, mkey, mvalue;
    struct json_iter it, mit;

    a->started = true;
    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "message") && value.type == JSON_OBJECT) {
            json_iter_init(&mit, &value);
            while (json_iter_next(&mit, &mkey, &mvalue)) {
                if (grows(&mkey) || mvalue.type == JSON_ARRAY)
                    grow_member(&a->message, &mkey, &mvalue);
                else
                    keep_member(&a->message, &mkey, &mvalue);
            }
        } else if (grows(&key) || json_equal(&key, "logprobs")) {
            grow_member(&a->top, &key, &value);
        } else {
            keep_member(&a->top, &key, &value);
        }
    }
    return 0;
}

static void write_ollama(const struct assembler *a, struct buf *out)
{
    buf_str(out, "{");
    if (fields_write(&a->top, out, NULL) && a->message.count != 0)
        buf_add(out, ",", 1);
    if (a->message.count != 0) {
        buf_str(out, "\"message\":{");
        (void)fields_write(&a->message, out, NULL);
        buf_str(out, "}");
    }
    buf_str(out, "}");
}

/* ---- all ------------------------------------------------------------------------------- */

/* The Responses API's last event holds the whole answer. */
static int add_responses(struct assembler *a, const struct json_value *root)
{
    struct json_value type = json_get(root, "type");
    struct json_value response = json_get(root, "response");

    if (type.type != JSON_STRING)
        return DRV_EINVAL;
    if (response.type != JSON_OBJECT ||
        !(json_equal(&type, "response.completed") || json_equal(&type, "response.incomplete")))
        return 0;
    a->started = true;
    fields_merge(&a->top, &response);
    return 0;
}

int assembler_add(struct assembler *a, const struct json_value *root)
{
    int rc;

    if (root->type != JSON_OBJECT)
        return DRV_EINVAL;
    a->bytes += root->len;
    if (a->bytes > ASSEMBLE_MAX_BYTES)
        return DRV_ETOOBIG;
    if (a->operation == OP(MESSAGES))
        rc = add_messages(a, root);
    else if (a->operation == OP(RESPONSES))
        rc = add_responses(a, root);
    else if (meter_is_ndjson(a->operation))
        rc = add_ollama(a, root);
    else
        rc = add_openai(a, root);
    if (rc == 0 && (a->top.failed || a->usage.failed || a->message.failed))
        rc = DRV_ENOMEM;
    return rc;
}

int assembler_write(const struct assembler *a, struct buf *out, struct error *err)
{
    if (!a->started)
        return error_set(err, DRV_EINVAL, "the engine's stream held no answer");
    if (a->operation == OP(MESSAGES)) {
        write_messages(a, out);
    } else if (a->operation == OP(RESPONSES)) {
        buf_str(out, "{");
        (void)fields_write(&a->top, out, NULL);
        buf_str(out, "}");
    } else if (meter_is_ndjson(a->operation)) {
        write_ollama(a, out);
    } else {
        write_openai(a, out);
    }
    return out->failed ? error_set(err, DRV_ENOMEM, "out of memory") : 0;
}
