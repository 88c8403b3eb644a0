/* token_ids.c - token ids out of a llama-server's log probabilities. */
#include "node/stream/token_ids.h"

#include <string.h>

#include "base/error.h"
#include "base/text/json.h"
#include "node/stream/sse.h"

void token_ids_init(struct token_ids *ids)
{
    memset(ids, 0, sizeof(*ids));
}

void token_ids_finish(struct token_ids *ids)
{
    buf_finish(&ids->list);
    buf_finish(&ids->out);
    buf_finish(&ids->text);
    buf_finish(&ids->bytes);
}

/* One token of "content": its id, and its bytes added to ids->bytes.  False: it has none. */
static bool take_token(struct token_ids *ids, const struct json_value *token)
{
    struct json_value id = json_get(token, "id"), bytes = json_get(token, "bytes");
    struct json_value key, item;
    struct json_iter it;
    uint64_t n;
    uint32_t number;

    if (!json_uint(&n, &id, UINT32_MAX) || bytes.type != JSON_ARRAY)
        return false;
    number = (uint32_t)n;
    json_iter_init(&it, &bytes);
    while (json_iter_next(&it, &key, &item)) {
        uint8_t byte;

        if (!json_uint(&n, &item, UINT8_MAX))
            return false;
        byte = (uint8_t)n;
        buf_add(&ids->bytes, &byte, 1);
    }
    buf_add(&ids->list, &number, sizeof(number));
    return true;
}

/* Are the tokens all of the text, and nothing but it? */
static bool take_tokens(struct token_ids *ids, const struct json_value *logprobs,
                        const struct json_value *text)
{
    struct json_value content = json_get(logprobs, "content");
    struct json_value key, token;
    struct json_iter it;

    buf_reset(&ids->text);
    buf_reset(&ids->bytes);
    if (text->type == JSON_STRING)
        json_decode(&ids->text, text);
    json_iter_init(&it, &content);
    while (json_iter_next(&it, &key, &token)) {
        if (!take_token(ids, &token))
            return false;
    }
    return buf_size(&ids->text) == buf_size(&ids->bytes) &&
           (buf_size(&ids->text) == 0 ||
            memcmp(buf_head(&ids->text), buf_head(&ids->bytes), buf_size(&ids->text)) == 0);
}

/* The event with "null" in the place of `old`, which lies inside its one data line. */
static int replace(struct token_ids *ids, const struct json_value *old,
                   const struct sse_event *in, struct sse_event *out)
{
    const char *raw = (const char *)in->raw;
    size_t data_at = (size_t)(in->data - raw), old_at = (size_t)(old->text - raw);

    buf_reset(&ids->out);
    buf_add(&ids->out, raw, old_at);
    buf_str(&ids->out, "null");
    buf_add(&ids->out, old->text + old->len, in->raw_len - old_at - old->len);
    if (ids->out.failed)
        return DRV_ENOMEM;
    out->raw = buf_head(&ids->out);
    out->raw_len = buf_size(&ids->out);
    out->data = (const char *)out->raw + data_at;
    out->data_len = in->data_len - old->len + strlen("null");
    return 0;
}

int token_ids_event(struct token_ids *ids, const struct sse_event *in, struct sse_event *out)
{
    uintptr_t raw = (uintptr_t)in->raw, data = (uintptr_t)in->data;
    struct json_value root, choices, key, choice, text, logprobs;
    struct json_iter it;

    *out = *in;
    if (in->comment || json_check(&root, in->data, in->data_len, NULL) != 0)
        return 0;
    choices = json_get(&root, "choices");
    json_iter_init(&it, &choices);
    if (!json_iter_next(&it, &key, &choice))
        return 0;
    text = json_get(&choice, "text");
    logprobs = json_get(&choice, "logprobs");
    if (!take_tokens(ids, &logprobs, &text))
        ids->lost = true;
    if (ids->list.failed || ids->text.failed || ids->bytes.failed)
        return DRV_ENOMEM;
    if (logprobs.type != JSON_OBJECT || data < raw || data + in->data_len > raw + in->raw_len)
        return 0; /* several data lines: no llama-server writes them */
    return replace(ids, &logprobs, in, out);
}

const uint32_t *token_ids_of_text(const struct token_ids *ids, size_t *count)
{
    *count = ids->lost ? 0 : buf_size(&ids->list) / sizeof(uint32_t);
    /* The list is only added to and emptied, so its head is where malloc() put it. */
    return *count == 0 ? NULL : (const uint32_t *)(const void *)buf_head(&ids->list);
}

void token_ids_taken(struct token_ids *ids)
{
    buf_reset(&ids->list);
}
