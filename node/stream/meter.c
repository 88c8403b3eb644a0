/* meter.c - reads along in a streamed answer, one function for each format. */
#include "node/stream/meter.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "node/body/output.h"
#include "node/body/reported.h"
#include "node/stream/sse.h"
#include "proto/drover_common.pb-c.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

void meter_init(struct stream_meter *o, int operation, bool want_text)
{
    memset(o, 0, sizeof(*o));
    o->operation = operation;
    o->want_text = want_text;
    o->plain = true;
    choices_init(&o->choices);
}

void meter_finish(struct stream_meter *o)
{
    buf_finish(&o->text);
    choices_finish(&o->choices);
}

bool meter_is_ndjson(int operation)
{
    return operation == OP(OLLAMA_CHAT) || operation == OP(OLLAMA_GENERATE);
}

bool meter_streams(int operation)
{
    return operation == OP(CHAT_COMPLETIONS) || operation == OP(COMPLETIONS) ||
           operation == OP(RESPONSES) || operation == OP(MESSAGES) ||
           meter_is_ndjson(operation);
}

/* ---- small readers --------------------------------------------------------------------- */

/* A string with at least one character: what counts as output. */
static bool has_text(const struct json_value *v)
{
    return v->type == JSON_STRING && v->len > 2;
}

static bool type_is(const struct json_value *type, const char *name)
{
    return type->type == JSON_STRING && json_equal(type, name);
}

/* Reads a count if it is one. */
static bool take_count(const struct json_value *v, uint32_t *out)
{
    uint64_t n;

    if (!json_uint(&n, v, UINT32_MAX))
        return false;
    *out = (uint32_t)n;
    return true;
}

static bool get_count(const struct json_value *object, const char *name, uint32_t *out)
{
    struct json_value v = json_get(object, name);

    return take_count(&v, out);
}

static void note_text(struct stream_meter *o, const struct json_value *text)
{
    if (o->want_text && o->plain)
        json_decode(&o->text, text);
}

/* Does the string say "none", in whatever case, or nothing but blanks? */
static bool is_no_reason(const struct json_value *reason)
{
    const char *text = reason->text + 1;
    size_t n = reason->len - 2;

    while (n != 0 && *text == ' ') {
        text++;
        n--;
    }
    return n == 0 ||
           (n == 4 && (strncasecmp(text, "null", n) == 0 || strncasecmp(text, "none", n) == 0));
}

bool meter_reason_ends(const struct json_value *reason)
{
    if (reason->type == JSON_OBJECT)
        return json_has_items(reason); /* {"type":"stop"} */
    return reason->type == JSON_STRING && !is_no_reason(reason);
}

static void note_reason(struct stream_meter *o, const struct json_value *reason)
{
    if (!meter_reason_ends(reason))
        return;
    o->finished = true;
    o->reasoned = true;
    output_take_reason(o->reason, reason);
}

static void note_identity(struct stream_meter *o, const struct json_value *object)
{
    struct json_value v;

    if (o->response_id[0] == '\0') {
        v = json_get(object, "id");
        if (!json_name(o->response_id, sizeof(o->response_id), &v))
            o->response_id[0] = '\0';
    }
    if (o->created == 0) {
        v = json_get(object, "created");
        if (v.type == JSON_NONE)
            v = json_get(object, "created_at");
        if (!json_uint(&o->created, &v, INT64_MAX))
            o->created = 0;
    }
}

/* OpenAI's two spellings: prompt_tokens (chat, completions) and input_tokens (responses).
 * False when there is no usage. */
static bool note_openai_usage(struct token_usage *out, const struct json_value *usage)
{
    struct json_value details;

    if (usage->type != JSON_OBJECT)
        return false;
    if (!get_count(usage, "prompt_tokens", &out->prompt_tokens))
        (void)get_count(usage, "input_tokens", &out->prompt_tokens);
    if (!get_count(usage, "completion_tokens", &out->output_tokens))
        (void)get_count(usage, "output_tokens", &out->output_tokens);
    details = json_get(usage, "prompt_tokens_details");
    if (details.type != JSON_OBJECT)
        details = json_get(usage, "input_tokens_details");
    (void)get_count(&details, "cached_tokens", &out->cached_prompt_tokens);
    return true;
}

/* Anthropic counts the prompt's cached tokens apart from its other ones, and sends parts of the
 * usage twice; a field missing the second time keeps its value. */
static void note_anthropic_usage(struct stream_meter *o, const struct json_value *usage)
{
    uint32_t fresh = o->usage.prompt_tokens - o->usage.cached_prompt_tokens;
    uint32_t read = o->usage.cached_prompt_tokens;
    uint32_t created = 0;
    bool has_input;

    if (usage->type != JSON_OBJECT)
        return;
    has_input = get_count(usage, "input_tokens", &fresh);
    if (get_count(usage, "cache_creation_input_tokens", &created) && has_input)
        fresh += created;
    (void)get_count(usage, "cache_read_input_tokens", &read);
    (void)get_count(usage, "output_tokens", &o->usage.output_tokens);
    o->usage.prompt_tokens = fresh + read;
    o->usage.cached_prompt_tokens = read;
}

static void note_ollama_usage(struct stream_meter *o, const struct json_value *root)
{
    (void)get_count(root, "prompt_eval_count", &o->usage.prompt_tokens);
    (void)get_count(root, "eval_count", &o->usage.output_tokens);
}

/* ---- one function a format ------------------------------------------------------------- */

/* Each looks its members up in one walk: events are many, and most have nothing else. */

static bool delta_has_output(struct stream_meter *o, const struct json_value *delta)
{
    enum { CONTENT, OTHERS, ALL = OTHERS + 10 };
    static const char *const names[ALL] = {
        "content",    "reasoning_content", "reasoning", "refusal",
        "tool_calls", "function_call",     "audio",     "reasoning_details",
        "thinking",   "thinking_blocks",   "images"};
    struct json_value v[ALL];
    bool some, other;

    json_pick(delta, names, v, ALL);
    some = has_text(&v[CONTENT]);
    other = v[CONTENT].type == JSON_ARRAY && json_has_items(&v[CONTENT]);
    for (size_t i = OTHERS; i < ALL; i++)
        other |= has_text(&v[i]) || json_has_items(&v[i]);
    if (other)
        o->plain = false;
    if (some)
        note_text(o, &v[CONTENT]);
    return some || other;
}

/* A choice's message, in pieces or, of some engines, whole. */
static bool message_has_output(struct stream_meter *o, const struct json_value *delta,
                               const struct json_value *message)
{
    if (delta->type == JSON_OBJECT)
        return delta_has_output(o, delta);
    if (message->type != JSON_OBJECT)
        return false;
    o->plain = false;
    return delta_has_output(o, message);
}

/* A choice's part of an event.  True when it carries output.  *doubtful: it may have failed. */
static bool see_choice(struct stream_meter *o, const struct json_value *choice, uint32_t *index,
                       bool *doubtful)
{
    enum { INDEX, DELTA, MESSAGE, TEXT, LOGPROBS, REASON, FAULT, ALL };
    static const char *const names[ALL] = {"index",    "delta",         "message", "text",
                                           "logprobs", "finish_reason", "error"};
    struct json_value v[ALL];
    bool some, ends;

    json_pick(choice, names, v, ALL);
    *index = 0;
    (void)take_count(&v[INDEX], index);
    if (*index != 0 || v[LOGPROBS].type == JSON_OBJECT)
        o->plain = false;
    ends = meter_reason_ends(&v[REASON]);
    some = message_has_output(o, &v[DELTA], &v[MESSAGE]);
    if (has_text(&v[TEXT])) {
        note_text(o, &v[TEXT]);
        some = true;
    }
    if (!some && !o->aside)
        o->aside = output_in_message(&v[DELTA]) || output_in_message(&v[MESSAGE]);
    choices_note(&o->choices, *index, ends, some);
    if (ends)
        o->calls_follow =
            type_is(&v[REASON], "tool_calls") || type_is(&v[REASON], "function_call");
    note_reason(o, &v[REASON]);
    *doubtful = ends || v[FAULT].type != JSON_NONE;
    return some;
}

/* Chat completions and completions. */
static enum seen_kind see_openai(struct stream_meter *o, const struct json_value *root,
                                 struct seen *seen)
{
    enum { CHOICES, USAGE, ALL };
    static const char *const names[ALL] = {"choices", "usage"};
    struct json_value v[ALL];
    struct token_usage counts = {0};
    uint32_t ended = o->choices.ended;
    struct json_value key, choice;
    struct json_iter it;
    bool some = false, any = false, doubtful, has_usage;
    uint32_t index = 0;

    json_pick(root, names, v, ALL);
    note_identity(o, root);
    has_usage = note_openai_usage(&counts, &v[USAGE]);
    if (has_usage)
        o->usage = counts;
    json_iter_init(&it, &v[CHOICES]);
    while (json_iter_next(&it, &key, &choice)) {
        any = true;
        some |= see_choice(o, &choice, &index, &doubtful);
        if (doubtful && reported_in_choice(&choice, some || o->tokens != 0, seen->error_text,
                                           sizeof(seen->error_text), &seen->error_status))
            return SEEN_ERROR;
    }
    if (has_usage && any)
        choices_usage(&o->choices, index, &counts);
    else if (has_usage)
        choices_usage_apart(&o->choices, &counts);
    seen->usage_only = !any && has_usage;
    seen->ends = o->choices.ended != ended;
    /* With several choices the answer is whole only when each has ended. */
    o->finished = o->done || choices_all_ended(&o->choices);
    return some ? SEEN_CONTENT : SEEN_NOTHING;
}

static bool ends_with(const struct json_value *type, const char *end)
{
    size_t n = strlen(end);

    return type->type == JSON_STRING && type->len >= n + 2 &&
           memcmp(type->text + type->len - 1 - n, end, n) == 0;
}

static void end_response(struct stream_meter *o, const struct json_value *response)
{
    struct json_value usage = json_get(response, "usage");

    note_identity(o, response);
    (void)note_openai_usage(&o->usage, &usage);
    o->aside |= output_in_answer(o->operation, response);
    output_reason(o->reason, o->operation, response);
    o->finished = true;
    o->reasoned = true;
    o->done = true;
}

/* The id of the message, for as long as the answer is one message with one open text. */
static void note_item(struct stream_meter *o, const struct json_value *item,
                      const struct json_value *item_id, const struct json_value *type)
{
    struct json_value kind = json_get(item, "type");
    struct json_value id = item->type == JSON_OBJECT ? json_get(item, "id") : *item_id;

    if (ends_with(type, ".done") || (item->type == JSON_OBJECT && !type_is(&kind, "message")))
        o->plain = false;
    o->aside |= output_in_type(&kind);
    if (o->item_id[0] == '\0' && !json_name(o->item_id, sizeof(o->item_id), &id))
        o->item_id[0] = '\0';
}

static enum seen_kind see_responses(struct stream_meter *o, const struct json_value *root,
                                    struct seen *seen)
{
    enum { TYPE, RESPONSE, DELTA, LOGPROBS, SEQUENCE, INDEX, ITEM, ITEM_ID, ALL };
    static const char *const names[ALL] = {"type",     "response",        "delta",
                                           "logprobs", "sequence_number", "output_index",
                                           "item",     "item_id"};
    struct json_value v[ALL];
    uint32_t index = 0, sequence;

    json_pick(root, names, v, ALL);
    o->next_sequence++;
    if (take_count(&v[SEQUENCE], &sequence))
        o->next_sequence = sequence + 1;
    if (v[RESPONSE].type == JSON_OBJECT)
        note_identity(o, &v[RESPONSE]);
    if (type_is(&v[TYPE], "response.failed") || type_is(&v[TYPE], "response.cancelled")) {
        if (!reported_in(&v[RESPONSE], seen->error_text, sizeof(seen->error_text),
                         &seen->error_status))
            (void)snprintf(seen->error_text, sizeof(seen->error_text),
                           "the engine ended the response without a reason");
        return SEEN_ERROR;
    }
    if (type_is(&v[TYPE], "response.completed") || type_is(&v[TYPE], "response.incomplete")) {
        end_response(o, &v[RESPONSE]);
        return SEEN_DONE;
    }
    note_item(o, &v[ITEM], &v[ITEM_ID], &v[TYPE]);
    if (!ends_with(&v[TYPE], ".delta") || !(has_text(&v[DELTA]) || json_has_items(&v[DELTA])))
        return SEEN_NOTHING;
    (void)take_count(&v[INDEX], &index);
    if (!type_is(&v[TYPE], "response.output_text.delta") || index != 0 ||
        json_has_items(&v[LOGPROBS]))
        o->plain = false;
    else
        note_text(o, &v[DELTA]);
    return SEEN_CONTENT;
}

/* The delta of a content block. */
static enum seen_kind see_block_delta(struct stream_meter *o, const struct json_value *delta)
{
    enum { TEXT, ALL = TEXT + 4 };
    static const char *const names[ALL] = {"text", "thinking", "partial_json", "signature"};
    struct json_value v[ALL];

    json_pick(delta, names, v, ALL);
    for (size_t i = 0; i < ALL; i++) {
        if (!has_text(&v[i]))
            continue;
        if (i == TEXT)
            note_text(o, &v[i]);
        else
            o->plain = false;
        return SEEN_CONTENT;
    }
    return SEEN_NOTHING;
}

static enum seen_kind see_messages(struct stream_meter *o, const struct json_value *root)
{
    enum { TYPE, INDEX, DELTA, MESSAGE, USAGE, BLOCK, ALL };
    static const char *const names[ALL] = {"type",    "index", "delta",
                                           "message", "usage", "content_block"};
    struct json_value v[ALL], inner;
    uint32_t index = 0;

    json_pick(root, names, v, ALL);
    (void)take_count(&v[INDEX], &index);
    if (type_is(&v[TYPE], "message_start")) {
        inner = json_get(&v[MESSAGE], "usage");
        note_identity(o, &v[MESSAGE]);
        note_anthropic_usage(o, &inner);
    } else if (type_is(&v[TYPE], "message_delta")) {
        inner = json_get(&v[DELTA], "stop_reason");
        note_reason(o, &inner);
        note_anthropic_usage(o, &v[USAGE]);
    } else if (type_is(&v[TYPE], "message_stop")) {
        o->finished = true;
        o->done = true;
        return SEEN_DONE;
    } else if (type_is(&v[TYPE], "content_block_start")) {
        inner = json_get(&v[BLOCK], "type");
        if (index != 0 || !type_is(&inner, "text"))
            o->plain = false;
        o->aside |= output_in_type(&inner);
        if (type_is(&inner, "tool_use")) /* its name is model output */
            return SEEN_CONTENT;
        inner = json_get(&v[BLOCK], "text");
        if (has_text(&inner)) {
            note_text(o, &inner);
            return SEEN_CONTENT;
        }
    } else if (type_is(&v[TYPE], "content_block_delta")) {
        return see_block_delta(o, &v[DELTA]);
    }
    return SEEN_NOTHING;
}

static enum seen_kind see_ollama(struct stream_meter *o, const struct json_value *root)
{
    enum { TEXT, THINKING, CALLS, PARTS };
    static const char *const parts[PARTS] = {"content", "thinking", "tool_calls"};
    enum { RESPONSE, ASIDE, MESSAGE, DONE, ALL };
    static const char *const names[ALL] = {"response", "thinking", "message", "done"};
    struct json_value v[ALL], part[PARTS] = {0};
    bool some;

    json_pick(root, names, v, ALL);
    if (v[MESSAGE].type == JSON_OBJECT) {
        json_pick(&v[MESSAGE], parts, part, PARTS);
    } else {
        part[TEXT] = v[RESPONSE];
        part[THINKING] = v[ASIDE];
    }
    if (has_text(&part[THINKING]) || json_has_items(&part[CALLS]))
        o->plain = false;
    some = has_text(&part[TEXT]) || has_text(&part[THINKING]) || json_has_items(&part[CALLS]);
    if (has_text(&part[TEXT]))
        note_text(o, &part[TEXT]);
    if (v[DONE].type == JSON_TRUE) {
        o->reasoned = true; /* `done_reason` is younger than `done` */
        o->aside |= output_in_answer(o->operation, root);
        output_reason(o->reason, o->operation, root);
        note_ollama_usage(o, root);
        o->finished = true;
        o->done = true;
    }
    if (some)
        return SEEN_CONTENT;
    return o->done ? SEEN_DONE : SEEN_NOTHING;
}

static enum seen_kind see_object(struct stream_meter *o, const struct json_value *root,
                                 struct seen *seen)
{
    if (reported_in(root, seen->error_text, sizeof(seen->error_text), &seen->error_status))
        return SEEN_ERROR;
    switch (o->operation) {
    case OP(RESPONSES):
        return see_responses(o, root, seen);
    case OP(MESSAGES):
        return see_messages(o, root);
    case OP(OLLAMA_CHAT):
    case OP(OLLAMA_GENERATE):
        return see_ollama(o, root);
    default: /* an int from the wire: chat completions, completions, and anything like them */
        return see_openai(o, root, seen);
    }
}

/* A list of events in one.  Its kind is that of the gravest. */
static enum seen_kind see_list(struct stream_meter *o, struct seen *seen)
{
    struct json_value key, item;
    struct json_iter it;

    json_iter_init(&it, &seen->root);
    while (json_iter_next(&it, &key, &item)) {
        enum seen_kind kind =
            item.type == JSON_OBJECT ? see_object(o, &item, seen) : SEEN_NOTHING;

        if (kind == SEEN_ERROR)
            return kind;
        if (kind > seen->kind)
            seen->kind = kind;
    }
    seen->usage_only = false;
    if (seen->kind == SEEN_CONTENT)
        o->plain = false; /* what goes on elsewhere is changed event by event */
    return seen->kind;
}

static enum seen_kind see_json(struct stream_meter *o, struct seen *seen)
{
    if (seen->root.type == JSON_OBJECT)
        return see_object(o, &seen->root, seen);
    return seen->root.type == JSON_ARRAY ? see_list(o, seen) : SEEN_NOTHING;
}

/* Does an event of the operation's own end its answers? */
static bool has_last_event(int operation)
{
    return operation == OP(RESPONSES) || operation == OP(MESSAGES) ||
           meter_is_ndjson(operation);
}

/* Client libraries look at the beginning only. */
static bool is_end_mark(const struct sse_event *event)
{
    static const char mark[] = "[DONE]";
    const char *text = event->data, *end = event->data + event->data_len;

    while (text != end && (*text == ' ' || *text == '\t'))
        text++;
    return (size_t)(end - text) >= sizeof(mark) - 1 &&
           memcmp(text, mark, sizeof(mark) - 1) == 0;
}

static bool name_is(const struct sse_event *event, const char *name)
{
    return event->name_len == strlen(name) && memcmp(event->name, name, event->name_len) == 0;
}

/* An event that only keeps the connection alive, whatever its data. */
static bool is_ping(const struct sse_event *event)
{
    return name_is(event, "ping") || name_is(event, "heartbeat") ||
           name_is(event, "keepalive") || name_is(event, "keep-alive");
}

/* The engine has said its end: what follows is no part of the answer, but for the usage. */
static void see_late(struct stream_meter *o, const struct sse_event *event, struct seen *seen)
{
    struct json_value root, usage;
    struct token_usage counts = {0};
    char words[8];
    uint32_t status;

    if (!json_check_lenient(&root, event->data, event->data_len) || name_is(event, "error") ||
        reported_in(&root, words, sizeof(words), &status)) {
        seen->ignored = true;
        return;
    }
    usage = json_get(&root, "usage");
    if (o->operation == OP(MESSAGES) || json_get(&root, "choices").type != JSON_ARRAY ||
        !note_openai_usage(&counts, &usage))
        return;
    o->usage = counts;
    choices_usage_apart(&o->choices, &counts);
    seen->usage_only = true;
    seen->root = root;
}

void meter_event(struct stream_meter *o, const struct sse_event *event, struct seen *seen)
{
    bool is_error = name_is(event, "error");

    memset(seen, 0, sizeof(*seen));
    if (event->comment)
        return;
    if (is_end_mark(event)) {
        /* Where an event of its own ends an answer, the mark says no more than that the engine
         * has nothing more to say. */
        if (!has_last_event(o->operation))
            o->finished = o->done = true;
        seen->kind = SEEN_DONE;
        return;
    }
    if (o->done) {
        see_late(o, event, seen);
        return;
    }
    if (!json_check_lenient(&seen->root, event->data, event->data_len)) {
        seen->root.type = JSON_NONE;
        if (is_ping(event))
            return;
        seen->kind = is_error ? SEEN_ERROR : SEEN_GARBAGE;
    } else if (is_error) {
        seen->kind = SEEN_ERROR;
        reported_as_error(&seen->root, seen->error_text, sizeof(seen->error_text),
                          &seen->error_status);
    } else {
        seen->kind = see_json(o, seen);
    }
    if (seen->kind == SEEN_CONTENT)
        o->tokens++;
    if (seen->kind == SEEN_ERROR && seen->error_text[0] == '\0')
        (void)reported_text(event->data, event->data_len, seen->error_text,
                            sizeof(seen->error_text), &seen->error_status);
}

bool meter_may_end(const struct stream_meter *o)
{
    return !o->finished && choices_all_reasoned(&o->choices);
}

void meter_settle(struct stream_meter *o)
{
    o->finished |= meter_may_end(o);
}

bool meter_is_empty(const struct stream_meter *o)
{
    return o->tokens == 0 && !o->reasoned;
}

bool meter_is_blank(const struct stream_meter *o)
{
    return o->tokens == 0 && !o->aside;
}

bool meter_sum_usage(struct stream_meter *o)
{
    return choices_sum(&o->choices, &o->usage);
}

void meter_answer(struct stream_meter *o, const struct json_value *root)
{
    struct json_value usage = json_get(root, "usage");

    note_identity(o, root);
    o->aside = output_in_answer(o->operation, root);
    output_reason(o->reason, o->operation, root);
    if (o->operation == OP(MESSAGES))
        note_anthropic_usage(o, &usage);
    else if (meter_is_ndjson(o->operation) || o->operation == OP(OLLAMA_EMBED))
        note_ollama_usage(o, root);
    else
        (void)note_openai_usage(&o->usage, &usage);
}
