/* as_stream.c - makes the events that an engine streams from its answer in one document. */
#include "node/answer/as_stream.h"

#include <stdio.h>
#include <string.h>

#include "base/attrs.h"
#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "node/stream/choices.h"
#include "node/stream/meter.h"
#include "proto/drover_common.pb-c.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* So many choices, blocks, items and their parts: each has events of its own, however short. */
#define MAX_PARTS CHOICES_MAX
/* Clients read both numbers. */
#define NO_USAGE "{\"input_tokens\":0,\"output_tokens\":0}"
/* An item's id is in each event of the item. */
#define MAX_ID_BYTES 256

/* ---- small writers --------------------------------------------------------------------- */

static void add_value(struct buf *out, const struct json_value *v)
{
    buf_add(out, v->text, v->len);
}

/* Appends `"name":value` and a comma, if there is a value. */
static void add_member(struct buf *out, const char *name, const struct json_value *v)
{
    if (v->type == JSON_NONE)
        return;
    buf_printf(out, "\"%s\":", name);
    add_value(out, v);
    buf_add(out, ",", 1);
}

static bool has_text(const struct json_value *v)
{
    return v->type == JSON_STRING && v->len > 2;
}

static bool type_is(const struct json_value *type, const char *name)
{
    return type->type == JSON_STRING && json_equal(type, name);
}

/* Appends the object with its members changed; what is no object, as it is. */
static void add_edited(struct buf *out, const struct json_value *object,
                       const struct json_edit *edits, size_t count)
{
    if (object->type != JSON_OBJECT)
        add_value(out, object);
    else if (json_edit(out, object, edits, count) != 0)
        out->failed = true;
}

/* Appends the object with one member more, however long, in front; `edits` removes others of
 * its name, which may be many. */
static void add_with(struct buf *out, const char *name, const struct buf *value,
                     const struct json_value *object, const struct json_edit *edits,
                     size_t count)
{
    struct buf rest = BUF_INIT;
    size_t at = 1;

    add_edited(&rest, object, edits, count);
    while (at < buf_size(&rest) && strchr(" \t\r\n", buf_head(&rest)[at]) != NULL)
        at++;
    buf_printf(out, "{\"%s\":", name);
    buf_add(out, buf_head(value), buf_size(value));
    if (at < buf_size(&rest)) {
        buf_str(out, buf_head(&rest)[at] == '}' ? "" : ",");
        buf_add(out, buf_head(&rest) + at, buf_size(&rest) - at);
    }
    out->failed |= value->failed || rest.failed;
    buf_finish(&rest);
}

/* Are all elements objects, and is there room for as many? */
static bool take_room(size_t *room, const struct json_value *list)
{
    struct json_value key, item;
    struct json_iter it;

    json_iter_init(&it, list);
    while (json_iter_next(&it, &key, &item)) {
        if (item.type != JSON_OBJECT || *room == 0)
            return false;
        (*room)--;
    }
    return true;
}

/* A member becomes `value` if it is there. */
static void change(struct json_edit *edits, size_t *count, const struct json_value *object,
                   const char *name, const char *value)
{
    if (json_get(object, name).type != JSON_NONE)
        edits[(*count)++] = (struct json_edit){.name = name, .value = value};
}

/* Begins an event, and returns where it does. */
static size_t begin(struct buf *out, const char *name)
{
    size_t from = buf_size(out);

    if (name != NULL)
        buf_printf(out, "event: %s\n", name);
    buf_str(out, "data: ");
    return from + (name == NULL ? 0 : strlen(name) + 8);
}

/* Between the members of JSON a line end is white space, but to an event it is an end. */
static void make_one_line(struct buf *out, size_t from)
{
    uint8_t *bytes = buf_head(out);

    for (size_t i = from; i < buf_size(out); i++)
        if (bytes[i] == '\n' || bytes[i] == '\r')
            bytes[i] = ' ';
}

static void end(struct buf *out, size_t from)
{
    make_one_line(out, from);
    buf_str(out, "\n\n");
}

/* ---- chat completions and completions -------------------------------------------------- */

/* Calls are counted in a stream, and nowhere else. */
static void add_calls(struct buf *out, const struct json_value *calls)
{
    struct json_value key, call;
    struct json_iter it;
    unsigned count = 0;

    buf_add(out, "[", 1);
    json_iter_init(&it, calls);
    while (json_iter_next(&it, &key, &call)) {
        struct buf index = BUF_INIT;
        struct json_edit edit = {.name = "index"};

        if (count != 0)
            buf_add(out, ",", 1);
        buf_printf(&index, "%u", count++);
        edit.value = buf_cstr(&index);
        add_edited(out, &call, &edit, json_get(&call, "index").type == JSON_NUMBER ? 0 : 1);
        out->failed |= index.failed;
        buf_finish(&index);
    }
    buf_add(out, "]", 1);
}

static void add_delta(struct buf *out, const struct json_value *message)
{
    struct json_value calls = json_get(message, "tool_calls");
    const struct json_edit edit = {.name = "tool_calls", .value = NULL};
    struct buf list = BUF_INIT;

    if (message->type != JSON_OBJECT) {
        buf_str(out, "{}");
        return;
    }
    if (calls.type != JSON_ARRAY) {
        add_value(out, message);
        return;
    }
    add_calls(&list, &calls);
    add_with(out, "tool_calls", &list, message, &edit, 1);
    buf_finish(&list);
}

/* A choice with its output, and without the reason of its end.  Clients put the events of a
 * choice together by its index. */
static void add_choice(struct buf *out, int operation, const struct json_value *choice,
                       unsigned at)
{
    struct json_edit edits[4] = {{.name = "finish_reason", .value = "null"}};
    struct json_value message = json_get(choice, "message");
    struct buf delta = BUF_INIT;
    char index[16];
    size_t count = 1;

    if (json_get(choice, "index").type != JSON_NUMBER) {
        (void)snprintf(index, sizeof(index), "%u", at);
        edits[count++] = (struct json_edit){.name = "index", .value = index};
    }
    if (operation != OP(CHAT_COMPLETIONS)) {
        add_edited(out, choice, edits, count);
        return;
    }
    edits[count++] = (struct json_edit){.name = "message", .value = NULL};
    edits[count++] = (struct json_edit){.name = "delta", .value = NULL};
    add_delta(&delta, &message);
    add_with(out, "delta", &delta, choice, edits, count);
    buf_finish(&delta);
}

/* A choice with the reason of its end: its own, or else the usual one. */
static void add_choice_end(struct buf *out, int operation, const struct json_value *choice,
                           unsigned at)
{
    struct json_value index = json_get(choice, "index");
    struct json_value reason = json_get(choice, "finish_reason");
    struct json_value message = json_get(choice, "message");
    struct json_value calls = json_get(&message, "tool_calls");

    buf_str(out, "{");
    if (index.type == JSON_NUMBER)
        add_member(out, "index", &index);
    else
        buf_printf(out, "\"index\":%u,", at);
    buf_str(out, operation == OP(CHAT_COMPLETIONS) ? "\"delta\":{},"
                                                   : "\"text\":\"\",\"logprobs\":null,");
    buf_str(out, "\"finish_reason\":");
    if (meter_reason_ends(&reason))
        add_value(out, &reason);
    else
        buf_str(out, json_has_items(&calls) ? "\"tool_calls\"" : "\"stop\"");
    buf_str(out, "}");
}

/* Begins an event that has no more of the document than what every event has. */
static size_t begin_openai(struct buf *out, int operation, const struct json_value *root)
{
    static const char *const names[] = {"id", "created", "model", "system_fingerprint",
                                        "service_tier"};
    size_t from = begin(out, NULL);

    buf_str(out, "{");
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct json_value v = json_get(root, names[i]);

        add_member(out, names[i], &v);
    }
    buf_printf(out, "\"object\":\"%s\",\"choices\":[",
               operation == OP(CHAT_COMPLETIONS) ? "chat.completion.chunk" : "text_completion");
    return from;
}

static int write_openai(struct buf *out, int operation, const struct json_value *root,
                        bool with_usage)
{
    static const struct json_edit edits[] = {
        {.name = "choices", .value = NULL},
        {.name = "usage", .value = NULL},
        {.name = "object", .value = "\"chat.completion.chunk\""}};
    struct json_value choices = json_get(root, "choices");
    struct json_value usage = json_get(root, "usage");
    struct json_value key, choice;
    struct json_iter it;
    struct buf list = BUF_INIT;
    size_t from, room = MAX_PARTS;
    unsigned at = 0;

    if (!take_room(&room, &choices))
        return DRV_EINVAL;
    from = begin(out, NULL);
    json_iter_init(&it, &choices);
    while (json_iter_next(&it, &key, &choice)) {
        buf_str(&list, buf_size(&list) == 0 ? "[" : ",");
        add_choice(&list, operation, &choice, at++);
    }
    buf_str(&list, "]");
    add_with(out, "choices", &list, root, edits, operation == OP(CHAT_COMPLETIONS) ? 3 : 2);
    buf_finish(&list);
    end(out, from);

    from = begin_openai(out, operation, root);
    at = 0;
    json_iter_init(&it, &choices);
    while (json_iter_next(&it, &key, &choice)) {
        if (at != 0)
            buf_add(out, ",", 1);
        add_choice_end(out, operation, &choice, at++);
    }
    buf_str(out, "]}");
    end(out, from);

    if (with_usage && usage.type == JSON_OBJECT) {
        from = begin_openai(out, operation, root);
        buf_str(out, "],\"usage\":");
        add_value(out, &usage);
        buf_str(out, "}");
        end(out, from);
    }
    buf_str(out, "data: [DONE]\n\n");
    return 0;
}

/* ---- Anthropic messages ---------------------------------------------------------------- */

static void add_block_delta(struct buf *out, unsigned index, const char *type, const char *name,
                            const struct json_value *v)
{
    size_t from;

    if (!has_text(v) && v->type != JSON_OBJECT)
        return;
    from = begin(out, "content_block_delta");
    buf_printf(out,
               "{\"type\":\"content_block_delta\",\"index\":%u,\"delta\":{\"type\":\"%s\","
               "\"%s\":",
               index, type, name);
    if (v->type == JSON_OBJECT)
        json_quote(out, v->text, v->len);
    else
        add_value(out, v);
    buf_str(out, "}}");
    end(out, from);
}

/* A block: what grows in a stream comes as a delta, and what is left as its beginning. */
static void write_block(struct buf *out, unsigned index, const struct json_value *block)
{
    struct json_value type = json_get(block, "type");
    struct json_value text = {0}, thinking = {0}, signature = {0}, input = {0};
    struct json_edit edits[4];
    size_t count = 0, from;

    if (type_is(&type, "text"))
        text = json_get(block, "text");
    if (type_is(&type, "thinking")) {
        thinking = json_get(block, "thinking");
        signature = json_get(block, "signature");
    }
    if (json_get(block, "input").type == JSON_OBJECT)
        input = json_get(block, "input");
    if (text.type == JSON_STRING)
        change(edits, &count, block, "text", "\"\"");
    if (thinking.type == JSON_STRING)
        change(edits, &count, block, "thinking", "\"\"");
    if (signature.type == JSON_STRING)
        change(edits, &count, block, "signature", "\"\"");
    if (input.type == JSON_OBJECT)
        change(edits, &count, block, "input", "{}");

    from = begin(out, "content_block_start");
    buf_printf(out, "{\"type\":\"content_block_start\",\"index\":%u,\"content_block\":", index);
    add_edited(out, block, edits, count);
    buf_str(out, "}");
    end(out, from);
    add_block_delta(out, index, "text_delta", "text", &text);
    add_block_delta(out, index, "thinking_delta", "thinking", &thinking);
    add_block_delta(out, index, "signature_delta", "signature", &signature);
    add_block_delta(out, index, "input_json_delta", "partial_json", &input);
    from = begin(out, "content_block_stop");
    buf_printf(out, "{\"type\":\"content_block_stop\",\"index\":%u}", index);
    end(out, from);
}

static int write_messages(struct buf *out, const struct json_value *root)
{
    static const struct json_edit edits[] = {{.name = "content", .value = "[]"},
                                             {.name = "stop_reason", .value = "null"},
                                             {.name = "stop_sequence", .value = "null"},
                                             {.name = "usage", .value = NO_USAGE}};
    struct json_value content = json_get(root, "content");
    struct json_value usage = json_get(root, "usage");
    struct json_value reason = json_get(root, "stop_reason");
    struct json_value sequence = json_get(root, "stop_sequence");
    struct json_value key, block, type;
    struct json_iter it;
    size_t from, room = MAX_PARTS;
    unsigned index = 0;
    bool calls = false;

    if (!take_room(&room, &content))
        return DRV_EINVAL;
    from = begin(out, "message_start");
    buf_str(out, "{\"type\":\"message_start\",\"message\":");
    add_edited(out, root, edits, usage.type == JSON_OBJECT ? 3 : 4);
    buf_str(out, "}");
    end(out, from);
    json_iter_init(&it, &content);
    while (json_iter_next(&it, &key, &block)) {
        type = json_get(&block, "type");
        calls |= type_is(&type, "tool_use");
        write_block(out, index++, &block);
    }

    from = begin(out, "message_delta");
    buf_str(out, "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":");
    if (has_text(&reason))
        add_value(out, &reason);
    else
        buf_str(out, calls ? "\"tool_use\"" : "\"end_turn\"");
    buf_str(out, ",\"stop_sequence\":");
    if (has_text(&sequence))
        add_value(out, &sequence);
    else
        buf_str(out, "null");
    buf_str(out, "},\"usage\":");
    if (usage.type == JSON_OBJECT)
        add_value(out, &usage);
    else
        buf_str(out, NO_USAGE);
    buf_str(out, "}");
    end(out, from);
    from = begin(out, "message_stop");
    buf_str(out, "{\"type\":\"message_stop\"}");
    end(out, from);
    return 0;
}

/* ---- responses ------------------------------------------------------------------------- */

struct response {
    struct buf *out;
    unsigned sequence;  /* of the next event */
    size_t from;        /* where the present event begins */
    size_t room;        /* for items and their parts */
    char at[64];        /* `,"output_index":0` */
    struct buf item_id; /* owned: `,"item_id":"..."` */
};

static void begin_event(struct response *r, const char *name)
{
    r->from = begin(r->out, name);
    buf_printf(r->out, "{\"type\":\"%s\",\"sequence_number\":%u", name, r->sequence++);
}

static void end_event(struct response *r)
{
    buf_str(r->out, "}");
    end(r->out, r->from);
}

/* Ends the present event with a last member, whose members are changed. */
static void end_with(struct response *r, const char *name, const struct json_value *v,
                     const struct json_edit *edits, size_t count)
{
    buf_printf(r->out, ",\"%s\":", name);
    add_edited(r->out, v, edits, count);
    end_event(r);
}

static void begin_of_item(struct response *r, const char *name, unsigned part, bool is_part)
{
    begin_event(r, name);
    buf_add(r->out, buf_head(&r->item_id), buf_size(&r->item_id));
    buf_str(r->out, r->at);
    if (is_part)
        buf_printf(r->out, ",\"content_index\":%u", part);
}

/* A text that grows in a stream: all of it as its delta, and as its end. */
static void write_text(struct response *r, const char *delta, const char *done,
                       const char *name, const struct json_value *text, unsigned part,
                       bool is_part)
{
    if (has_text(text)) {
        begin_of_item(r, delta, part, is_part);
        end_with(r, "delta", text, NULL, 0);
    }
    begin_of_item(r, done, part, is_part);
    end_with(r, name, text, NULL, 0);
}

static void write_part(struct response *r, unsigned index, const struct json_value *part)
{
    struct json_value text = json_get(part, "text");
    struct json_value refusal = json_get(part, "refusal");
    struct json_edit edits[2];
    size_t count = 0;

    change(edits, &count, part, "text", "\"\"");
    change(edits, &count, part, "refusal", "\"\"");
    begin_of_item(r, "response.content_part.added", index, true);
    end_with(r, "part", part, edits, count);
    if (text.type == JSON_STRING)
        write_text(r, "response.output_text.delta", "response.output_text.done", "text", &text,
                   index, true);
    if (refusal.type == JSON_STRING)
        write_text(r, "response.refusal.delta", "response.refusal.done", "refusal", &refusal,
                   index, true);
    begin_of_item(r, "response.content_part.done", index, true);
    end_with(r, "part", part, NULL, 0);
}

/* A message comes in its parts, and a call in its arguments; any other item is whole at once.
 */
static void write_item(struct response *r, const struct json_value *item)
{
    struct json_value type = json_get(item, "type");
    struct json_value content = json_get(item, "content");
    struct json_value arguments = json_get(item, "arguments");
    struct json_value key, part;
    struct json_iter it;
    struct json_edit edits[2];
    size_t count = 0;
    unsigned index = 0;
    bool message = type_is(&type, "message") && content.type == JSON_ARRAY;
    bool call = type_is(&type, "function_call") && arguments.type == JSON_STRING;

    if (message)
        change(edits, &count, item, "content", "[]");
    if (call)
        change(edits, &count, item, "arguments", "\"\"");
    if (message || call)
        change(edits, &count, item, "status", "\"in_progress\"");
    begin_event(r, "response.output_item.added");
    buf_str(r->out, r->at);
    end_with(r, "item", item, edits, count);
    json_iter_init(&it, &content);
    while (message && json_iter_next(&it, &key, &part))
        write_part(r, index++, &part);
    if (call)
        write_text(r, "response.function_call_arguments.delta",
                   "response.function_call_arguments.done", "arguments", &arguments, 0, false);
    begin_event(r, "response.output_item.done");
    buf_str(r->out, r->at);
    end_with(r, "item", item, NULL, 0);
}

static int write_items(struct response *r, const struct json_value *output)
{
    struct json_value key, item, id, content;
    struct json_iter it;
    unsigned index = 0;

    if (!take_room(&r->room, output))
        return DRV_EINVAL;
    json_iter_init(&it, output);
    while (json_iter_next(&it, &key, &item)) {
        id = json_get(&item, "id");
        content = json_get(&item, "content");
        if (id.len > MAX_ID_BYTES || !take_room(&r->room, &content))
            return DRV_EINVAL;
        buf_reset(&r->item_id);
        buf_str(&r->item_id, ",\"item_id\":");
        if (id.type == JSON_STRING)
            add_value(&r->item_id, &id);
        else
            buf_str(&r->item_id, "\"\"");
        (void)snprintf(r->at, sizeof(r->at), ",\"output_index\":%u", index++);
        write_item(r, &item);
    }
    return 0;
}

static int write_responses(struct buf *out, const struct json_value *root)
{
    static const struct json_edit edits[] = {{.name = "output", .value = "[]"},
                                             {.name = "status", .value = "\"in_progress\""},
                                             {.name = "usage", .value = NULL}};
    struct json_value output = json_get(root, "output");
    struct json_value status = json_get(root, "status");
    struct response r = {.out = out, .room = MAX_PARTS};
    bool incomplete = type_is(&status, "incomplete");
    int rc;

    if (status.type != JSON_NONE && !incomplete && !type_is(&status, "completed"))
        return DRV_EINVAL; /* of a response in the background, say */
    begin_event(&r, "response.created");
    end_with(&r, "response", root, edits, ARRAY_LEN(edits));
    rc = write_items(&r, &output);
    begin_event(&r, incomplete ? "response.incomplete" : "response.completed");
    end_with(&r, "response", root, NULL, 0);
    out->failed |= r.item_id.failed;
    buf_finish(&r.item_id);
    return rc;
}

/* ---- all ------------------------------------------------------------------------------- */

/* The last line of an Ollama's stream may have all of the answer. */
static void write_ollama(struct buf *out, const struct json_value *root)
{
    const struct json_edit done = {.name = "done", .value = "true"};
    size_t from = buf_size(out);

    add_edited(out, root, &done, json_get(root, "done").type == JSON_NONE ? 1 : 0);
    make_one_line(out, from);
    buf_str(out, "\n");
}

int as_stream_write(struct buf *out, int operation, const struct json_value *root, bool usage)
{
    int rc = 0;

    if (operation == OP(MESSAGES))
        rc = write_messages(out, root);
    else if (operation == OP(RESPONSES))
        rc = write_responses(out, root);
    else if (meter_is_ndjson(operation))
        write_ollama(out, root);
    else
        rc = write_openai(out, operation, root, usage);
    return rc == 0 && out->failed ? DRV_ENOMEM : rc;
}
