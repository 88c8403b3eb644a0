/* splice.c - makes the events of a continued answer fit the stream that the client reads. */
#include "node/stream/splice.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/text/json.h"
#include "node/stream/meter.h"
#include "node/stream/sse.h"
#include "proto/drover_common.pb-c.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* From so many tokens on, a first event that begins with all of the given text repeats it: by
 * chance a model says the same four tokens again, but not in one event. */
#define REPEAT_MIN_TOKENS 4

#define MAX_SPLICES 8

/* Bytes of the event's JSON and what stands there instead. */
struct patch {
    const char *at;
    size_t len;
    const struct buf *with; /* borrowed from the struct splice */
};

struct patches {
    struct patch list[MAX_SPLICES]; /* in the order of `at` */
    size_t count;
};

int splice_init(struct splice *r, const struct splice_config *config)
{
    memset(r, 0, sizeof(*r));
    r->operation = config->operation;
    r->tokens = config->tokens;
    r->repeats = config->repeats;
    r->compared = config->text_len == 0;
    buf_add(&r->text, config->text, config->text_len);
    if (config->id[0] != '\0')
        json_quote_str(&r->id, config->id);
    if (config->item_id != NULL && config->item_id[0] != '\0')
        json_quote_str(&r->item_id, config->item_id);
    r->next_sequence = config->next_sequence;
    if (config->created != 0)
        buf_printf(&r->created, "%llu", (unsigned long long)config->created);
    return r->text.failed || r->id.failed || r->item_id.failed || r->created.failed ? DRV_ENOMEM
                                                                                    : 0;
}

void splice_finish(struct splice *r)
{
    buf_finish(&r->id);
    buf_finish(&r->item_id);
    buf_finish(&r->number);
    buf_finish(&r->full);
    buf_finish(&r->created);
    buf_finish(&r->text);
    buf_finish(&r->usage);
    buf_finish(&r->inner);
    buf_finish(&r->piece);
    buf_finish(&r->out);
    buf_finish(&r->joined);
}

/* ---- splices --------------------------------------------------------------------------- */

static void replace(struct patches *s, const struct json_value *old, const struct buf *with)
{
    size_t i = s->count++;

    for (; i > 0 && s->list[i - 1].at > old->text; i--)
        s->list[i] = s->list[i - 1];
    s->list[i] = (struct patch){.at = old->text, .len = old->len, .with = with};
}

static void apply(struct buf *out, const struct patches *s, const char *text, size_t n)
{
    const char *at = text;

    for (size_t i = 0; i < s->count; i++) {
        const struct patch *patch = &s->list[i];

        buf_add(out, at, (size_t)(patch->at - at));
        buf_add(out, buf_head(patch->with), buf_size(patch->with));
        out->failed |= patch->with->failed;
        at = patch->at + patch->len;
    }
    buf_add(out, at, (size_t)(text + n - at));
}

/* ---- usage ----------------------------------------------------------------------------- */

void splice_less(uint32_t tokens, uint64_t *fresh, uint64_t *cached)
{
    uint64_t from_fresh = tokens < *fresh ? tokens : *fresh;
    uint64_t rest = tokens - from_fresh;

    *fresh -= from_fresh;
    *cached -= rest < *cached ? rest : *cached;
}

#define MAX_COUNTS 5

struct counts {
    struct json_edit edits[MAX_COUNTS];
    char digits[MAX_COUNTS][24];
    size_t count;
};

/* A count as it stands; false when there is none. */
static bool get_count(const struct json_value *object, const char *name, uint64_t *out)
{
    struct json_value v = json_get(object, name);

    *out = 0;
    return json_uint(out, &v, UINT32_MAX);
}

static void set_count(struct counts *counts, const char *name, uint64_t n)
{
    char *digits = counts->digits[counts->count];

    (void)snprintf(digits, sizeof(counts->digits[0]), "%llu", (unsigned long long)n);
    counts->edits[counts->count++] = (struct json_edit){.name = name, .value = digits};
}

/* The object with its counts changed, in `out`. */
static void write_counts(struct buf *out, const struct json_value *object,
                         const struct counts *counts)
{
    buf_reset(out);
    if (json_edit(out, object, counts->edits, counts->count) != 0)
        out->failed = true;
}

/* The names of OpenAI's two APIs. */
struct usage_names {
    const char *prompt, *output, *details;
};
static const struct usage_names CHAT_USAGE = {"prompt_tokens", "completion_tokens",
                                              "prompt_tokens_details"};
static const struct usage_names RESPONSES_USAGE = {"input_tokens", "output_tokens",
                                                   "input_tokens_details"};

/* The count of the prompt counts the cached ones too. */
static void change_openai_usage(struct splice *r, struct patches *s,
                                const struct json_value *usage, const struct usage_names *names)
{
    struct json_value details = json_get(usage, names->details);
    struct counts counts = {0}, inner = {0};
    uint64_t prompt, output, total, cached;
    bool has_prompt, has_output;

    if (usage->type != JSON_OBJECT)
        return;
    has_prompt = get_count(usage, names->prompt, &prompt);
    has_output = get_count(usage, names->output, &output);
    prompt -= r->tokens < prompt ? r->tokens : prompt;
    output += r->tokens;
    if (has_prompt)
        set_count(&counts, names->prompt, prompt);
    if (has_output)
        set_count(&counts, names->output, output);
    if (has_prompt && has_output && get_count(usage, "total_tokens", &total))
        set_count(&counts, "total_tokens", prompt + output);
    if (has_prompt && get_count(&details, "cached_tokens", &cached) && cached > prompt) {
        set_count(&inner, "cached_tokens", prompt);
        write_counts(&r->inner, &details, &inner);
        counts.edits[counts.count++] =
            (struct json_edit){.name = names->details, .value = buf_cstr(&r->inner)};
    }
    if (counts.count == 0)
        return;
    write_counts(&r->usage, usage, &counts);
    r->usage.failed |= r->inner.failed;
    replace(s, usage, &r->usage);
}

/* input_tokens does not count the cached ones. */
static void change_anthropic_usage(struct splice *r, struct patches *s,
                                   const struct json_value *usage)
{
    struct counts counts = {0};
    uint64_t fresh, cached, output;
    bool has_fresh, has_cached;

    if (usage->type != JSON_OBJECT)
        return;
    has_fresh = get_count(usage, "input_tokens", &fresh);
    has_cached = get_count(usage, "cache_read_input_tokens", &cached);
    splice_less(r->tokens, &fresh, &cached);
    if (has_fresh)
        set_count(&counts, "input_tokens", fresh);
    if (has_fresh && has_cached)
        set_count(&counts, "cache_read_input_tokens", cached);
    if (get_count(usage, "output_tokens", &output))
        set_count(&counts, "output_tokens", output + r->tokens);
    if (counts.count == 0)
        return;
    write_counts(&r->usage, usage, &counts);
    replace(s, usage, &r->usage);
}

/* ---- text ------------------------------------------------------------------------------ */

/* The first text of the answer: if it repeats the given text, `r->inner` becomes its
 * rest, quoted, and the result is true. */
static bool repeats(struct splice *r, const struct json_value *text)
{
    size_t given = buf_size(&r->text);
    bool found;

    if (r->compared || text->type != JSON_STRING || text->len == 2)
        return false;
    r->compared = true;
    if (!r->repeats && r->tokens < REPEAT_MIN_TOKENS)
        return false;
    buf_reset(&r->piece);
    json_decode(&r->piece, text);
    found = buf_size(&r->piece) >= given &&
            memcmp(buf_head(&r->piece), buf_head(&r->text), given) == 0;
    if (!found)
        return false;
    buf_reset(&r->inner);
    json_quote(&r->inner, buf_head(&r->piece) + given, buf_size(&r->piece) - given);
    r->inner.failed |= r->piece.failed;
    return true;
}

/* The delta without what the client has: its role, and the given text. */
static void change_delta(struct splice *r, struct patches *s, const struct json_value *delta)
{
    struct json_value role = json_get(delta, "role");
    struct json_value text = json_get(delta, "content");
    struct json_edit edits[2];
    size_t count = 0;

    if (delta->type != JSON_OBJECT)
        return;
    if (role.type != JSON_NONE)
        edits[count++] = (struct json_edit){.name = "role", .value = NULL};
    if (repeats(r, &text))
        edits[count++] = (struct json_edit){.name = "content", .value = buf_cstr(&r->inner)};
    if (count == 0)
        return;
    buf_reset(&r->piece);
    if (json_edit(&r->piece, delta, edits, count) != 0)
        r->piece.failed = true;
    replace(s, delta, &r->piece);
}

/* ---- events ---------------------------------------------------------------------------- */

static void change_openai(struct splice *r, struct patches *s, const struct json_value *root)
{
    struct json_value id = json_get(root, "id");
    struct json_value created = json_get(root, "created");
    struct json_value usage = json_get(root, "usage");
    struct json_value choices = json_get(root, "choices");
    struct json_value key, choice, delta, text;
    struct json_iter it;

    if (id.type == JSON_STRING && buf_size(&r->id) != 0)
        replace(s, &id, &r->id);
    if (created.type == JSON_NUMBER && buf_size(&r->created) != 0)
        replace(s, &created, &r->created);
    json_iter_init(&it, &choices);
    if (choices.type == JSON_ARRAY && json_iter_next(&it, &key, &choice)) {
        delta = json_get(&choice, "delta");
        text = json_get(&choice, "text");
        change_delta(r, s, &delta);
        if (delta.type != JSON_OBJECT && repeats(r, &text)) {
            buf_reset(&r->piece);
            buf_add(&r->piece, buf_head(&r->inner), buf_size(&r->inner));
            replace(s, &text, &r->piece);
        }
    }
    change_openai_usage(r, s, &usage, &CHAT_USAGE); /* last: it uses r->inner too */
}

static void change_messages(struct splice *r, struct patches *s, const struct json_value *root)
{
    struct json_value message = json_get(root, "message");
    struct json_value delta = json_get(root, "delta");
    struct json_value usage = json_get(root, "usage");
    struct json_value text = json_get(&delta, "text");
    struct json_value id = json_get(&message, "id");

    if (message.type == JSON_OBJECT)
        usage = json_get(&message, "usage");
    if (id.type == JSON_STRING && buf_size(&r->id) != 0)
        replace(s, &id, &r->id); /* hidden, but a later node gets it too */
    change_anthropic_usage(r, s, &usage);
    if (repeats(r, &text))
        replace(s, &text, &r->inner);
}

/* A text that repeats the whole answer: engines that continue one may mean their part of it. */
static void change_full_text(struct splice *r, struct patches *s, const struct json_value *text)
{
    size_t given = buf_size(&r->text);

    if (text->type != JSON_STRING)
        return;
    buf_reset(&r->piece);
    buf_add(&r->piece, buf_head(&r->text), given);
    json_decode(&r->piece, text);
    r->piece.failed |= r->text.failed;
    if (buf_size(&r->piece) != given + r->fresh_bytes)
        return; /* it is all there, or something else */
    buf_reset(&r->full);
    json_quote(&r->full, buf_head(&r->piece), buf_size(&r->piece));
    r->full.failed |= r->piece.failed;
    replace(s, text, &r->full);
}

static struct json_value first_item(const struct json_value *object, const char *name)
{
    struct json_value list = json_get(object, name);
    struct json_value key, item = {0};
    struct json_iter it;

    json_iter_init(&it, &list);
    return json_iter_next(&it, &key, &item) ? item : (struct json_value){0};
}

/* A message: its id, and the text of its one part. */
static void change_item(struct splice *r, struct patches *s, const struct json_value *item)
{
    struct json_value id = json_get(item, "id");
    struct json_value part = first_item(item, "content");
    struct json_value text = json_get(&part, "text");

    if (id.type == JSON_STRING && buf_size(&r->item_id) != 0)
        replace(s, &id, &r->item_id);
    change_full_text(r, s, &text);
}

static void change_response(struct splice *r, struct patches *s,
                            const struct json_value *response)
{
    struct json_value id = json_get(response, "id");
    struct json_value created = json_get(response, "created_at");
    struct json_value usage = json_get(response, "usage");
    struct json_value item = first_item(response, "output");

    if (id.type == JSON_STRING && buf_size(&r->id) != 0)
        replace(s, &id, &r->id);
    if (created.type == JSON_NUMBER && buf_size(&r->created) != 0)
        replace(s, &created, &r->created);
    change_item(r, s, &item);
    change_openai_usage(r, s, &usage, &RESPONSES_USAGE);
}

/* A delta's text, without what the client has. */
static void change_text_delta(struct splice *r, struct patches *s,
                              const struct json_value *delta)
{
    struct buf text = BUF_INIT;

    if (delta->type != JSON_STRING)
        return;
    json_decode(&text, delta);
    r->fresh_bytes += buf_size(&text);
    buf_finish(&text);
    if (!repeats(r, delta))
        return;
    r->fresh_bytes -= buf_size(&r->text);
    replace(s, delta, &r->inner);
}

static void change_responses(struct splice *r, struct patches *s, const struct json_value *root)
{
    struct json_value response = json_get(root, "response");
    struct json_value item = json_get(root, "item");
    struct json_value item_id = json_get(root, "item_id");
    struct json_value part = json_get(root, "part");
    struct json_value text = json_get(root, "text");
    struct json_value delta = json_get(root, "delta");
    struct json_value sequence = json_get(root, "sequence_number");

    if (sequence.type == JSON_NUMBER) {
        buf_reset(&r->number);
        buf_printf(&r->number, "%u", (unsigned)r->next_sequence);
        replace(s, &sequence, &r->number);
    }
    if (item_id.type == JSON_STRING && buf_size(&r->item_id) != 0)
        replace(s, &item_id, &r->item_id);
    if (part.type == JSON_OBJECT)
        text = json_get(&part, "text");
    change_text_delta(r, s, &delta);
    if (response.type == JSON_OBJECT)
        change_response(r, s, &response);
    else if (item.type == JSON_OBJECT)
        change_item(r, s, &item);
    else
        change_full_text(r, s, &text);
}

/* Puts the changed JSON where the old one stood. */
static int rebuild(struct splice *r, const struct patches *s, const struct sse_event *in,
                   struct sse_event *out)
{
    const char *raw = (const char *)in->raw;
    uintptr_t at = (uintptr_t)in->data, from = (uintptr_t)raw;
    bool one_line = at >= from && at + in->data_len <= from + in->raw_len;
    size_t before, after;

    buf_reset(&r->out);
    if (one_line) {
        before = (size_t)(in->data - raw);
        after = in->raw_len - before - in->data_len;
        buf_add(&r->out, raw, before);
        apply(&r->out, s, in->data, in->data_len);
        if (after != 0)
            buf_add(&r->out, in->data + in->data_len, after);
    } else {
        /* Several data lines become one: between them is white space to JSON. */
        buf_reset(&r->joined);
        apply(&r->joined, s, in->data, in->data_len);
        r->out.failed |= r->joined.failed;
        for (size_t i = 0; i < buf_size(&r->joined); i++)
            if (buf_head(&r->joined)[i] == '\n')
                buf_head(&r->joined)[i] = ' ';
        if (in->name_len != 0) {
            buf_str(&r->out, "event: ");
            buf_add(&r->out, in->name, in->name_len);
            buf_str(&r->out, "\n");
        }
        buf_str(&r->out, "data: ");
        before = buf_size(&r->out);
        after = 2;
        buf_add(&r->out, buf_head(&r->joined), buf_size(&r->joined));
        buf_str(&r->out, "\n\n");
        out->cut = false;
    }
    if (r->out.failed)
        return DRV_ENOMEM;
    out->raw = buf_head(&r->out);
    out->raw_len = buf_size(&r->out);
    out->data = (const char *)out->raw + before;
    out->data_len = out->raw_len - before - after;
    return 0;
}

int splice_event(struct splice *r, const struct sse_event *in, struct sse_event *out)
{
    struct patches patches = {0};
    struct json_value root, error;

    *out = *in;
    if (in->comment || (in->name_len == 5 && memcmp(in->name, "error", 5) == 0) ||
        json_check(&root, in->data, in->data_len, NULL) != 0 || root.type != JSON_OBJECT)
        return 0;
    error = json_get(&root, "error");
    if (error.type != JSON_NONE && error.type != JSON_NULL)
        return 0;
    if (r->operation == OP(MESSAGES))
        change_messages(r, &patches, &root);
    else if (r->operation == OP(RESPONSES))
        change_responses(r, &patches, &root);
    else
        change_openai(r, &patches, &root);
    return patches.count == 0 ? 0 : rebuild(r, &patches, in, out);
}

/* ---- what becomes of them -------------------------------------------------------------- */

static enum splice_step check_openai(const struct seen *seen)
{
    struct json_value choices = json_get(&seen->root, "choices");
    struct json_value key, choice, reason;
    struct json_iter it;

    if (choices.type != JSON_ARRAY)
        return SPLICE_SHOW;
    json_iter_init(&it, &choices);
    if (!json_iter_next(&it, &key, &choice))
        return SPLICE_SHOW; /* usage */
    reason = json_get(&choice, "finish_reason");
    return meter_reason_ends(&reason) ? SPLICE_SHOW : SPLICE_HIDE;
}

static enum splice_step check_messages(const struct seen *seen)
{
    struct json_value type = json_get(&seen->root, "type");
    struct json_value block = json_get(&seen->root, "content_block");
    struct json_value index = json_get(&seen->root, "index");
    struct json_value kind = json_get(&block, "type");
    uint64_t n = 0;

    if (type.type != JSON_STRING)
        return SPLICE_SHOW;
    if (json_equal(&type, "message_start") || json_equal(&type, "content_block_delta"))
        return SPLICE_HIDE;
    if (!json_equal(&type, "content_block_start") || !json_uint(&n, &index, UINT32_MAX) ||
        n != 0)
        return SPLICE_SHOW;
    return kind.type == JSON_STRING && json_equal(&kind, "text") ? SPLICE_HIDE : SPLICE_ANEW;
}

static enum splice_step check_responses(const struct seen *seen)
{
    static const char *const begun[] = {"response.created", "response.in_progress",
                                        "response.queued", "response.content_part.added"};
    struct json_value type = json_get(&seen->root, "type");
    struct json_value item = json_get(&seen->root, "item");
    struct json_value kind = json_get(&item, "type");

    if (type.type != JSON_STRING)
        return SPLICE_SHOW;
    for (size_t i = 0; i < ARRAY_LEN(begun); i++)
        if (json_equal(&type, begun[i]))
            return SPLICE_HIDE;
    if (!json_equal(&type, "response.output_item.added"))
        return SPLICE_SHOW;
    return kind.type == JSON_STRING && json_equal(&kind, "message") ? SPLICE_HIDE : SPLICE_ANEW;
}

static enum splice_step check_nothing(const struct splice *r, const struct seen *seen)
{
    if (seen->root.type == JSON_NONE)
        return SPLICE_SHOW; /* a comment */
    if (seen->root.type != JSON_OBJECT)
        return SPLICE_HIDE;
    if (r->operation == OP(MESSAGES))
        return check_messages(seen);
    return r->operation == OP(RESPONSES) ? check_responses(seen) : check_openai(seen);
}

static enum splice_step check(struct splice *r, const struct stream_meter *o,
                              const struct seen *seen)
{
    struct json_value block;

    switch (seen->kind) {
    case SEEN_CONTENT:
        /* The client has one block, or one message, that is open and plain. */
        block = json_get(&seen->root, "content_block");
        if (!r->begun && (!o->plain || block.type == JSON_OBJECT))
            return SPLICE_ANEW;
        r->begun = true;
        return SPLICE_SHOW;
    case SEEN_NOTHING:
        return check_nothing(r, seen);
    case SEEN_DONE:
    case SEEN_ERROR:
    case SEEN_GARBAGE:
        break;
    }
    return SPLICE_SHOW;
}

enum splice_step splice_check(struct splice *r, struct stream_meter *o, const struct seen *seen)
{
    enum splice_step step = check(r, o, seen);

    if (r->operation != OP(RESPONSES) || seen->root.type == JSON_NONE)
        return step;
    /* An event that is hidden has no number. */
    if (step == SPLICE_SHOW)
        r->next_sequence++;
    o->next_sequence = r->next_sequence;
    return step;
}
