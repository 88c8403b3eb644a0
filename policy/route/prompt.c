/*
 * prompt.c - a request's prompt as a chain of prefix hashes.
 *
 * Text is decoded piece by piece; what does not fill a window waits in the one buffer that
 * there is.  Nothing is allocated.
 */
#include "policy/route/prompt.h"

#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* the size of a state */
#include <xxhash.h>

#include "base/attrs.h"
#include "base/text/json.h"

#define MAX_WINDOW_BYTES 65536
/* A picture or a sound takes about a thousand tokens, however many bytes its base64 has. */
#define PICTURE_BYTES 4096
/* A longer one is known by its size and so many samples of it. */
#define SAMPLED_BYTES ((size_t)256 * 1024)
#define SAMPLES       32
#define SAMPLE_BYTES  ((size_t)4 * 1024)
/* A longer value keeps its white space. */
#define COMPACT_BYTES ((size_t)256 * 1024)
/* Members, messages and parts that are looked at; of what follows only the size counts. */
#define MAX_ITEMS 100000
/* Bytes per token. */
#define RATIO_LEAST_ALPHA 0.1
#define RATIO_MOST_ALPHA  0.5
#define RATIO_TOKENS      2000.0 /* a prompt of so many would count in full */
#define RATIO_MIN         1.0
#define RATIO_MAX         16.0

struct prompt_reader {
    struct prompt *out;
    uint32_t window_bytes;
    uint32_t used; /* bytes in `window` */
    uint64_t chain;
    uint64_t attachments;
    XXH64_state_t *digest;            /* takes the bytes instead of the windows; NULL = none */
    bool nested;                      /* in the content of a tool's result */
    uint32_t items;                   /* looked at by now */
    uint8_t window[MAX_WINDOW_BYTES]; /* the beginning of the next one */
};

static void end_window(struct prompt_reader *r, const uint8_t *window)
{
    r->chain = XXH64(window, r->window_bytes, r->chain);
    r->out->hash[r->out->count++] = r->chain;
    r->used = 0;
}

static void feed(struct prompt_reader *r, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;

    if (r->digest != NULL) {
        (void)XXH64_update(r->digest, bytes, n);
        return;
    }
    r->out->bytes += n;
    while (n != 0 && r->out->count < PROMPT_MAX_WINDOWS) {
        size_t room = r->window_bytes - r->used;
        size_t take = n < room ? n : room;

        if (take == r->window_bytes) {
            end_window(r, p);
        } else {
            memcpy(r->window + r->used, p, take);
            r->used += (uint32_t)take;
            if (r->used == r->window_bytes)
                end_window(r, r->window);
        }
        p += take;
        n -= take;
    }
}

static void feed_string(struct prompt_reader *r, const struct json_value *string)
{
    struct json_pieces it;
    const char *piece;
    size_t n;

    json_pieces_init(&it, string);
    while (r->out->count < PROMPT_MAX_WINDOWS && json_pieces_next(&it, &piece, &n))
        feed(r, piece, n);
    r->out->bytes += (uint64_t)(it.end - it.at); /* no window is left for it: about so much */
}

/* The values of these members, as json_pick() has them. */
static void pick(struct prompt_reader *r, const struct json_value *object,
                 const char *const *names, struct json_value *out, size_t n)
{
    struct json_value key, value;
    struct json_iter it;

    memset(out, 0, n * sizeof(*out));
    if (object->type != JSON_OBJECT)
        return;
    json_iter_init(&it, object);
    while (r->items < MAX_ITEMS && json_iter_next(&it, &key, &value)) {
        r->items++;
        for (size_t i = 0; i < n; i++) {
            if (json_equal(&key, names[i]))
                out[i] = value;
        }
    }
}

/* The next message or part.  Beyond MAX_ITEMS the rest counts by its size, and that is the end.
 */
static bool next_item(struct prompt_reader *r, struct json_iter *it, struct json_value *item)
{
    struct json_value key;

    if (r->items < MAX_ITEMS) {
        r->items++;
        return json_iter_next(it, &key, item);
    }
    if (it->at != NULL)
        r->out->bytes += (uint64_t)(it->end - it->at);
    return false;
}

/* A value that is not plain text, without the white space between its tokens. */
static void feed_compact(struct prompt_reader *r, const struct json_value *value)
{
    const char *p = value->text, *end = p + value->len, *from = p;
    bool in_string = false;

    if (value->len > COMPACT_BYTES) {
        feed(r, value->text, value->len);
        return;
    }
    for (; p < end; p++) {
        if (in_string) {
            if (*p == '\\')
                p++;
            else if (*p == '"')
                in_string = false;
        } else if (*p == '"') {
            in_string = true;
        } else if (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r') {
            feed(r, from, (size_t)(p - from));
            from = p + 1;
        }
    }
    if (from < end)
        feed(r, from, (size_t)(end - from));
}

/* Marks where one part ends, so that "ab" + "c" differs from "a" + "bc". */
static void feed_mark(struct prompt_reader *r, char kind)
{
    const char mark[2] = {'\x1e', kind};

    feed(r, mark, sizeof(mark));
}

/* A picture or a sound, which takes so many tokens whatever its size: so many bytes that follow
 * from a hash of it, so that its windows are worth what its tokens are. */
static void feed_attachment(struct prompt_reader *r, const struct json_value *part)
{
    uint64_t bytes[PICTURE_BYTES / sizeof(uint64_t)];
    XXH64_state_t digest;

    (void)XXH64_reset(&digest, part->len > SAMPLED_BYTES ? part->len : 0);
    r->digest = &digest;
    if (part->len > SAMPLED_BYTES) {
        for (size_t i = 0; i < SAMPLES; i++)
            feed(r, part->text + (part->len - SAMPLE_BYTES) / (SAMPLES - 1) * i, SAMPLE_BYTES);
    } else {
        feed_compact(r, part);
    }
    r->digest = NULL;
    bytes[0] = XXH64_digest(&digest);
    for (size_t i = 1; i < ARRAY_LEN(bytes); i++)
        bytes[i] = bytes[i - 1];
    feed(r, bytes, sizeof(bytes));
    r->attachments++;
}

/* By the "type" of a part or an item. */
static bool is_attachment(struct prompt_reader *r, const struct json_value *type)
{
    static const char *const pictures[] = {"image_url", "image", "input_image", "video_url",
                                           "computer_screenshot"};
    static const char *const sounds[] = {"input_audio", "audio", "audio_url"};
    static const char *const others[] = {"document", "file", "input_file"};

    for (size_t i = 0; i < ARRAY_LEN(pictures); i++) {
        if (json_equal(type, pictures[i]))
            return r->out->pictures = true;
    }
    for (size_t i = 0; i < ARRAY_LEN(sounds); i++) {
        if (json_equal(type, sounds[i]))
            return r->out->sounds = true;
    }
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        if (json_equal(type, others[i]))
            return true;
    }
    return false;
}

static void feed_content(struct prompt_reader *r, const struct json_value *content);

/* One part of a content: text, an attachment, a tool's call, or its result, which has content.
 */
static void feed_part(struct prompt_reader *r, const struct json_value *part)
{
    enum { TEXT, TYPE, CONTENT, ALL };
    static const char *const names[ALL] = {"text", "type", "content"};
    struct json_value value[ALL];

    pick(r, part, names, value, ALL);
    if (value[TEXT].type == JSON_STRING) {
        feed_string(r, &value[TEXT]);
        return;
    }
    if (is_attachment(r, &value[TYPE])) {
        feed_attachment(r, part);
        return;
    }
    feed_mark(r, 'p');
    if (r->nested || value[CONTENT].type == JSON_NONE) {
        feed_compact(r, part);
        return;
    }
    r->nested = true;
    feed_content(r, &value[CONTENT]);
    r->nested = false;
}

/* Message content: a string, or parts of which the text ones count as their text. */
static void feed_content(struct prompt_reader *r, const struct json_value *content)
{
    struct json_iter it;
    struct json_value part;

    if (content->type == JSON_STRING) {
        feed_string(r, content);
        return;
    }
    if (content->type != JSON_ARRAY) {
        if (content->type != JSON_NONE && content->type != JSON_NULL)
            feed_compact(r, content);
        return;
    }
    json_iter_init(&it, content);
    while (next_item(r, &it, &part)) {
        feed_part(r, &part);
    }
}

/* Ollama's: base64 without a word of their type. */
static void feed_images(struct prompt_reader *r, const struct json_value *images)
{
    struct json_value image;
    struct json_iter it;

    json_iter_init(&it, images);
    while (next_item(r, &it, &image)) {
        r->out->pictures = true;
        feed_attachment(r, &image);
    }
}

/* A tool's result in Responses: a text, parts, or a part without a list, as of a screenshot. */
static void feed_output(struct prompt_reader *r, const struct json_value *output)
{
    if (output->type == JSON_OBJECT)
        feed_part(r, output);
    else
        feed_content(r, output);
}

/* A message, or an item of Responses. */
static void feed_message(struct prompt_reader *r, const struct json_value *message)
{
    enum { TYPE, ROLE, CONTENT, IMAGES, OUTPUT, OTHERS, ALL = OTHERS + 4 };
    static const char *const names[ALL] = {"type",         "role",   "content",
                                           "images",       "output", "tool_calls",
                                           "tool_call_id", "name",   "arguments"};
    struct json_value value[ALL];

    pick(r, message, names, value, ALL);
    if (is_attachment(r, &value[TYPE])) {
        feed_attachment(r, message);
        return;
    }
    feed_mark(r, 'm');
    if (value[ROLE].type == JSON_STRING)
        feed_string(r, &value[ROLE]);
    feed_mark(r, 'c');
    feed_content(r, &value[CONTENT]);
    feed_images(r, &value[IMAGES]);
    if (value[OUTPUT].type != JSON_NONE && value[OUTPUT].type != JSON_NULL) {
        feed_mark(r, 'o');
        feed_output(r, &value[OUTPUT]);
    }
    for (size_t i = OTHERS; i < ALL; i++) {
        if (value[i].type != JSON_NONE && value[i].type != JSON_NULL) {
            feed_mark(r, 'o');
            feed_compact(r, &value[i]);
        }
    }
}

/* A field that is part of the prompt as a whole: tools, a system text, a plain prompt. */
static void feed_member(struct prompt_reader *r, const struct json_value *value, char kind)
{
    if (value->type == JSON_NONE || value->type == JSON_NULL)
        return;
    feed_mark(r, kind);
    feed_content(r, value);
}

static void feed_messages(struct prompt_reader *r, const struct json_value *messages)
{
    struct json_iter it;
    struct json_value message;

    if (messages->type == JSON_STRING) {
        feed_mark(r, 'i');
        feed_string(r, messages);
        return;
    }
    if (messages->type != JSON_ARRAY)
        return;
    json_iter_init(&it, messages);
    while (next_item(r, &it, &message)) {
        if (message.type == JSON_OBJECT) {
            feed_message(r, &message);
        } else {
            feed_mark(r, 'i');
            feed_content(r, &message);
        }
    }
}

void prompt_read(struct prompt *out, const char *model, const struct json_value *body,
                 uint32_t window_bytes)
{
    enum { TOOLS, SYSTEM, INSTRUCTIONS, MESSAGES, INPUT, PROMPT, IMAGES, ALL };
    static const char *const names[ALL] = {"tools",
                                           "system" /* Anthropic, Ollama */,
                                           "instructions" /* OpenAI responses */,
                                           "messages",
                                           "input",
                                           "prompt",
                                           "images"};
    static struct prompt_reader r; /* one thread; the window is too large for the stack */
    struct json_value value[ALL];

    out->bytes = 0;
    out->count = 0;
    out->pictures = out->sounds = false;
    r.out = out;
    r.attachments = 0;
    r.nested = false;
    r.items = 0;
    r.digest = NULL;
    r.window_bytes = window_bytes < 64                 ? 64
                     : window_bytes > MAX_WINDOW_BYTES ? MAX_WINDOW_BYTES
                                                       : window_bytes;
    r.used = 0;
    r.chain = XXH64(model, strlen(model), 0);
    pick(&r, body, names, value, ALL);
    feed_member(&r, &value[TOOLS], 't');
    feed_member(&r, &value[SYSTEM], 's');
    feed_member(&r, &value[INSTRUCTIONS], 's');
    feed_messages(&r, &value[value[MESSAGES].type == JSON_NONE ? INPUT : MESSAGES]);
    feed_member(&r, &value[PROMPT], 'q');
    feed_images(&r, &value[IMAGES]);
    out->text_bytes = out->bytes - r.attachments * PICTURE_BYTES;
}

double prompt_learn_ratio(double bytes_per_token, uint64_t bytes, uint32_t tokens)
{
    double ratio = (double)bytes / tokens, alpha = tokens / RATIO_TOKENS;

    if (ratio < RATIO_MIN)
        ratio = RATIO_MIN;
    if (ratio > RATIO_MAX)
        ratio = RATIO_MAX;
    if (alpha < RATIO_LEAST_ALPHA)
        alpha = RATIO_LEAST_ALPHA;
    if (alpha > RATIO_MOST_ALPHA)
        alpha = RATIO_MOST_ALPHA;
    return bytes_per_token + alpha * (ratio - bytes_per_token);
}
