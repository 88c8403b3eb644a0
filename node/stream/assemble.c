/*
 * assemble.c - makes the answer that an engine gives without streaming from the one it streams.
 *
 * One answer is a set of top-level members plus up to MAX_PARTS parts: the choices of OpenAI's
 * formats, the content blocks of Anthropic's.  Ollama's answer is one object whose text grows;
 * the Responses API repeats the whole answer in its last event.
 */
#include "node/stream/assemble.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "node/body/fields.h"
#include "node/stream/calls.h"
#include "node/stream/choices.h"
#include "node/stream/meter.h"
#include "proto/drover_common.pb-c.h"

#define OP(name)  DROVER__V1__OPERATION__OPERATION_##name
#define MAX_PARTS CHOICES_MAX

/* A choice or a content block. */
struct part {
    bool used;
    uint64_t index;        /* as the engine counts */
    struct fields members; /* of the choice or block itself */
    struct fields message; /* chat: of the choice's message */
    struct fields logprobs;
    bool has_logprobs;
    bool has_delta;              /* chat: its message comes in pieces */
    struct calls calls;          /* chat */
    struct fields function_call; /* chat: of the API before tools; empty when there is none */
    struct fields audio;         /* chat: likewise */
    struct buf input;            /* Anthropic tool_use: the JSON text of its input, decoded */
};

struct assembler {
    int operation;
    size_t bytes; /* of all events so far */
    bool started;
    struct fields top;
    struct fields usage;   /* Anthropic: merged from message_start and message_delta */
    struct fields message; /* Ollama chat */
    struct part *parts;    /* owned; a choice is at its index, blocks are in their order */
    size_t parts_count, parts_cap;
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

        calls_finish(&part->calls);
        fields_finish(&part->function_call);
        fields_finish(&part->audio);
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

/* Makes parts up to `index`, empty.  DRV_EINVAL: too many; DRV_ENOMEM. */
static int grow_parts(struct assembler *a, size_t index)
{
    struct part *grown;
    size_t cap;

    if (index < a->parts_count)
        return 0;
    if (index >= MAX_PARTS)
        return DRV_EINVAL;
    if (index >= a->parts_cap) {
        cap = index < 4 ? 4 : index * 2;
        grown = realloc(a->parts, cap * sizeof(*grown));
        if (grown == NULL)
            return DRV_ENOMEM;
        memset(grown + a->parts_cap, 0, (cap - a->parts_cap) * sizeof(*grown));
        a->parts = grown;
        a->parts_cap = cap;
    }
    a->parts_count = index + 1;
    return 0;
}

/* An event's "index"; 0 when it has none, or one that counts nothing.  DRV_EINVAL: too many. */
static int index_in(const struct json_value *object, uint64_t *index)
{
    struct json_value v = json_get(object, "index");

    if (!json_uint(index, &v, UINT64_MAX))
        *index = 0;
    return *index < MAX_PARTS ? 0 : DRV_EINVAL;
}

static int choice_of(struct assembler *a, const struct json_value *object, struct part **out)
{
    uint64_t index;
    int rc = index_in(object, &index);

    if (rc == 0)
        rc = grow_parts(a, (size_t)index);
    if (rc != 0)
        return rc;
    *out = &a->parts[index];
    (*out)->used = true;
    return 0;
}

/* The content block that an event names, the last one of that index; or a new one. */
static int block_of(struct assembler *a, const struct json_value *object, bool begins,
                    struct part **out)
{
    uint64_t index;
    int rc = index_in(object, &index);

    if (rc != 0)
        return rc;
    for (size_t i = a->parts_count; i-- > 0 && !begins;) {
        if (a->parts[i].index == index) {
            *out = &a->parts[i];
            return 0;
        }
    }
    rc = grow_parts(a, a->parts_count);
    if (rc != 0)
        return rc;
    *out = &a->parts[a->parts_count - 1];
    (*out)->used = true;
    (*out)->index = index;
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

/* Audio comes in pieces of base64 and of its transcript. */
static int add_audio(struct fields *audio, const struct json_value *delta)
{
    struct json_value key, value;
    struct json_iter it;

    json_iter_init(&it, delta);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "data") || json_equal(&key, "transcript"))
            grow_member(audio, &key, &value);
        else
            keep_member(audio, &key, &value);
    }
    return audio->failed ? DRV_ENOMEM : 0;
}

static int add_tool_calls(struct part *part, const struct json_value *list)
{
    struct json_value key, item;
    struct json_iter it;
    int rc = 0;

    json_iter_init(&it, list);
    while (rc == 0 && json_iter_next(&it, &key, &item))
        rc = calls_add(&part->calls, &item);
    return rc;
}

static int add_delta(struct part *part, const struct json_value *delta)
{
    struct json_value key, value;
    struct json_iter it;
    int rc = 0;

    json_iter_init(&it, delta);
    while (rc == 0 && json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "role"))
            keep_member(&part->message, &key, &value);
        else if (json_equal(&key, "tool_calls"))
            rc = add_tool_calls(part, &value);
        else if (json_equal(&key, "function_call"))
            rc = calls_add_function(&part->function_call, &value);
        else if (json_equal(&key, "audio") && value.type == JSON_OBJECT)
            rc = add_audio(&part->audio, &value);
        else
            grow_member(&part->message, &key, &value);
    }
    return rc == 0 && part->message.failed ? DRV_ENOMEM : rc;
}

/* A whole message where a piece of one is usual.  Engines that send pieces as well repeat in it
 * what they have said. */
static int take_message(struct part *part, const struct json_value *message)
{
    if (part->has_delta)
        return 0;
    fields_finish(&part->message);
    fields_finish(&part->function_call);
    fields_finish(&part->audio);
    calls_finish(&part->calls);
    return add_delta(part, message);
}

static int add_choice(struct assembler *a, const struct json_value *choice)
{
    struct json_value delta = json_get(choice, "delta");
    struct json_value key, value, lkey, lvalue;
    struct json_iter it, lit;
    struct part *part;
    int rc = choice_of(a, choice, &part);

    if (rc == 0 && delta.type == JSON_OBJECT) {
        part->has_delta = true;
        rc = add_delta(part, &delta);
    }
    if (rc != 0)
        return rc;
    json_iter_init(&it, choice);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "delta"))
            continue;
        if (json_equal(&key, "message") && value.type == JSON_OBJECT) {
            rc = take_message(part, &value);
            if (rc != 0)
                return rc;
        } else if (json_equal(&key, "logprobs") && value.type == JSON_OBJECT) {
            part->has_logprobs = true;
            json_iter_init(&lit, &value);
            while (json_iter_next(&lit, &lkey, &lvalue))
                grow_member(&part->logprobs, &lkey, &lvalue);
        } else if (json_equal(&key, "finish_reason")) {
            if (meter_reason_ends(&value))
                fields_set(&part->members, &key, &value);
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

    if (json_get(root, "choices").type == JSON_NONE &&
        json_get(root, "usage").type == JSON_NONE)
        return 0; /* {"status":"loading"}: it is about the stream */
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

/* Appends `,"name":{...}` unless the object is empty. */
static void write_object(const struct fields *object, const char *name, struct buf *out)
{
    if (object->count == 0)
        return;
    buf_printf(out, ",\"%s\":{", name);
    (void)fields_write(object, out, NULL);
    buf_str(out, "}");
}

/* Has the message something else than text? */
static bool has_other(const struct part *part)
{
    return part->calls.count != 0 || part->function_call.count != 0 || part->audio.count != 0 ||
           fields_find_str(&part->message, "refusal") != NULL;
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
        buf_str(out, has_other(part) ? "\"content\":null" : "\"content\":\"\"");
    if (part->calls.count != 0) {
        buf_str(out, ",\"tool_calls\":");
        calls_write(&part->calls, out);
    }
    write_object(&part->function_call, "function_call", out);
    write_object(&part->audio, "audio", out);
    buf_str(out, "}");
}

/* The reason that the engine gave; else, as the engine did say its end, the usual one. */
static void write_reason(const struct part *part, struct buf *out)
{
    if (fields_find_str(&part->members, "finish_reason") != NULL)
        return;
    buf_printf(out, "\"finish_reason\":\"%s\",",
               part->calls.count != 0           ? "tool_calls"
               : part->function_call.count != 0 ? "function_call"
                                                : "stop");
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
        write_reason(part, out);
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

/* drover-sim marks each event, beside the message: the answer bears the marks of the first. */
static void keep_marks(struct fields *top, const struct json_value *root)
{
    struct json_value key, value;
    struct json_iter it;

    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "type") || json_equal(&key, "message") ||
            json_equal(&key, "content") || json_equal(&key, "usage"))
            continue;
        if (value.type != JSON_NULL && fields_find(top, &key) == NULL)
            fields_set(top, &key, &value);
    }
}

static int add_messages(struct assembler *a, const struct json_value *root)
{
    struct json_value type = json_get(root, "type");
    struct json_value key, value, object;
    struct json_iter it;
    struct part *part;
    int rc;

    if (type.type != JSON_STRING)
        return 0; /* {} keeps a connection alive */
    if (json_equal(&type, "message_start")) {
        object = json_get(root, "message");
        json_iter_init(&it, &object);
        while (json_iter_next(&it, &key, &value)) {
            if (json_equal(&key, "usage"))
                fields_merge(&a->usage, &value);
            else if (!json_equal(&key, "content"))
                fields_set(&a->top, &key, &value);
        }
        keep_marks(&a->top, root);
        a->started = true;
    } else if (json_equal(&type, "message_delta")) {
        object = json_get(root, "delta");
        fields_merge(&a->top, &object);
        object = json_get(root, "usage");
        fields_merge(&a->usage, &object);
    } else if (json_equal(&type, "content_block_start") ||
               json_equal(&type, "content_block_delta")) {
        rc = block_of(a, root, json_equal(&type, "content_block_start"), &part);
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

    if (json_get(root, "done").type == JSON_NONE &&
        json_get(root, "message").type == JSON_NONE &&
        json_get(root, "response").type == JSON_NONE)
        return 0;
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

    if (type.type != JSON_STRING || response.type != JSON_OBJECT ||
        !(json_equal(&type, "response.completed") || json_equal(&type, "response.incomplete")))
        return 0;
    a->started = true;
    fields_merge(&a->top, &response);
    return 0;
}

static int add_object(struct assembler *a, const struct json_value *root)
{
    int rc;

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

int assembler_add(struct assembler *a, const struct json_value *root)
{
    struct json_value key, item;
    struct json_iter it;
    int rc = 0;

    a->bytes += root->len;
    if (a->bytes > ASSEMBLE_MAX_BYTES)
        return DRV_ETOOBIG;
    if (root->type == JSON_OBJECT)
        return add_object(a, root);
    if (root->type != JSON_ARRAY)
        return 0;
    json_iter_init(&it, root);
    while (rc == 0 && json_iter_next(&it, &key, &item))
        if (item.type == JSON_OBJECT)
            rc = add_object(a, &item);
    return rc;
}

/* Replaces the count called `name` in an object, if it is there. */
static void set_count(struct json_edit *edits, size_t *count, char digits[24],
                      const struct json_value *object, const char *name, uint64_t n)
{
    if (json_get(object, name).type == JSON_NONE)
        return;
    (void)snprintf(digits, 24, "%llu", (unsigned long long)n);
    edits[(*count)++] = (struct json_edit){.name = name, .value = digits};
}

/* The usage object `old` with other counts. */
static int write_usage(struct buf *out, const struct json_value *old,
                       const struct token_usage *usage)
{
    struct json_value details = json_get(old, "prompt_tokens_details");
    struct json_edit edits[4], inner[1];
    char digits[3][24], cached[24];
    struct buf changed = BUF_INIT;
    size_t count = 0, inner_count = 0;
    int rc = 0;

    set_count(edits, &count, digits[0], old, "prompt_tokens", usage->prompt_tokens);
    set_count(edits, &count, digits[1], old, "completion_tokens", usage->output_tokens);
    set_count(edits, &count, digits[2], old, "total_tokens",
              (uint64_t)usage->prompt_tokens + usage->output_tokens);
    if (details.type == JSON_OBJECT) {
        set_count(inner, &inner_count, cached, &details, "cached_tokens",
                  usage->cached_prompt_tokens);
        rc = json_edit(&changed, &details, inner, inner_count);
        edits[count++] =
            (struct json_edit){.name = "prompt_tokens_details", .value = buf_cstr(&changed)};
    }
    if (rc == 0)
        rc = json_edit(out, old, edits, count);
    buf_finish(&changed);
    return rc;
}

void assembler_set_usage(struct assembler *a, const struct token_usage *usage)
{
    const struct field *field = fields_find_str(&a->top, "usage");
    struct json_value old;
    struct buf text = BUF_INIT;

    if (field == NULL || field->kind != FIELD_RAW ||
        json_check(&old, buf_head(&field->value), buf_size(&field->value), NULL) != 0 ||
        old.type != JSON_OBJECT)
        return;
    if (write_usage(&text, &old, usage) == 0)
        fields_set_str(&a->top, "usage", buf_cstr(&text));
    else
        a->top.failed = true;
    buf_finish(&text);
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
    return out->failed || a->top.failed ? error_set(err, DRV_ENOMEM, "out of memory") : 0;
}
