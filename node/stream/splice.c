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

#define MAX_SPLICES 6

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
    if (config->created != 0)
        buf_printf(&r->created, "%llu", (unsigned long long)config->created);
    return r->text.failed || r->id.failed || r->created.failed ? DRV_ENOMEM : 0;
}

void splice_finish(struct splice *r)
{
    buf_finish(&r->id);
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

/* prompt_tokens counts the cached ones too. */
static void change_openai_usage(struct splice *r, struct patches *s,
                                const struct json_value *usage)
{
    struct json_value details = json_get(usage, "prompt_tokens_details");
    struct counts counts = {0}, inner = {0};
    uint64_t prompt, output, total, cached;
    bool has_prompt, has_output;

    if (usage->type != JSON_OBJECT)
        return;
    has_prompt = get_count(usage, "prompt_tokens", &prompt);
    has_output = get_count(usage, "completion_tokens", &output);
    prompt -= r->tokens < prompt ? r->tokens : prompt;
    output += r->tokens;
    if (has_prompt)
        set_count(&counts, "prompt_tokens", prompt);
    if (has_output)
        set_count(&counts, "completion_tokens", output);
    if (has_prompt && has_output && get_count(usage, "total_tokens", &total))
        set_count(&counts, "total_tokens", prompt + output);
    if (has_prompt && get_count(&details, "cached_tokens", &cached) && cached > prompt) {
        set_count(&inner, "cached_tokens", prompt);
        write_counts(&r->inner, &details, &inner);
        counts.edits[counts.count++] =
            (struct json_edit){.name = "prompt_tokens_details", .value = buf_cstr(&r->inner)};
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
    change_openai_usage(r, s, &usage); /* last: it uses r->inner too */
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
    return reason.type == JSON_STRING ? SPLICE_SHOW : SPLICE_HIDE;
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

enum splice_step splice_check(struct splice *r, const struct stream_meter *o,
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
        if (seen->root.type == JSON_NONE)
            return SPLICE_SHOW; /* a comment */
        return r->operation == OP(MESSAGES) ? check_messages(seen) : check_openai(seen);
    case SEEN_DONE:
    case SEEN_ERROR:
    case SEEN_GARBAGE:
        break;
    }
    return SPLICE_SHOW;
}
