/* framing.c - what the body of an answer is, by its first bytes. */
#include "node/stream/framing.h"

#include <string.h>
#include <strings.h>

#include "base/text/json.h"
#include "node/body/reported.h"
#include "node/stream/meter.h"
#include "proto/drover_common.pb-c.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* A first line longer than this is not waited for, nor a second one after so many blanks. */
#define LINE_MAX_BYTES  (1024 * 1024)
#define BLANK_MAX_BYTES 64

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

const char *framing_trim(const void *bytes, size_t *n)
{
    const char *text = bytes;
    size_t len = *n;

    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        len -= 3;
    }
    while (len != 0 && is_space(text[0])) {
        text++;
        len--;
    }
    while (len != 0 && is_space(text[len - 1]))
        len--;
    *n = len;
    return text;
}

static bool starts(const char *text, const char *with)
{
    return strncasecmp(text, with, strlen(with)) == 0;
}

enum framing framing_claimed(const char *content_type)
{
    if (starts(content_type, "text/event-stream"))
        return FRAMING_EVENTS;
    if (starts(content_type, "application/x-ndjson") ||
        starts(content_type, "application/jsonl") || starts(content_type, "application/ndjson"))
        return FRAMING_LINES;
    return FRAMING_UNDECIDED;
}

/* ---- documents ------------------------------------------------------------------------- */

static bool is_array(const struct json_value *root, const char *name)
{
    return json_get(root, name).type == JSON_ARRAY;
}

/* Engines have several names for what they ranked. */
static bool has_an_array(const struct json_value *root)
{
    struct json_value key, value;
    struct json_iter it;

    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &value)) {
        if (value.type == JSON_ARRAY)
            return true;
    }
    return false;
}

bool framing_is_answer(int operation, const struct json_value *root)
{
    struct json_value choices = json_get(root, "choices");
    struct json_value content = json_get(root, "content");
    struct json_value message = json_get(root, "message");

    switch (operation) {
    case OP(CHAT_COMPLETIONS):
    case OP(COMPLETIONS):
        return choices.type == JSON_ARRAY && json_has_items(&choices);
    case OP(MESSAGES):
        return content.type == JSON_ARRAY;
    case OP(RESPONSES):
        return json_get(root, "output").type == JSON_ARRAY ||
               (json_get(root, "status").type == JSON_STRING &&
                json_get(root, "id").type == JSON_STRING);
    case OP(OLLAMA_CHAT):
        return message.type == JSON_OBJECT || json_get(root, "done").type == JSON_TRUE;
    case OP(OLLAMA_GENERATE):
        return json_get(root, "response").type == JSON_STRING ||
               json_get(root, "done").type == JSON_TRUE;
    case OP(EMBEDDINGS):
    case OP(OLLAMA_EMBED):
    case OP(OLLAMA_EMBEDDINGS):
        return root->type == JSON_ARRAY || is_array(root, "data") ||
               is_array(root, "embeddings") || is_array(root, "embedding");
    case OP(RERANK):
        return root->type == JSON_ARRAY || has_an_array(root);
    case OP(COUNT_TOKENS):
    case OP(INPUT_TOKENS):
        return json_get(root, "input_tokens").type == JSON_NUMBER;
    default: /* an int from the wire: transcriptions, and what a model is */
        return root->type == JSON_OBJECT || root->type == JSON_ARRAY;
    }
}

bool framing_is_whole(int operation, const struct json_value *root)
{
    char words[8];
    uint32_t status;

    return framing_is_answer(operation, root) ||
           reported_in(root, words, sizeof(words), &status);
}

/* ---- framing --------------------------------------------------------------------------- */

/* Do the bytes begin with the name of a field of an event, or a comment?  UNDECIDED: they end
 * inside what may be one. */
static enum framing look_for_field(const char *text, size_t n)
{
    static const char *const fields[] = {":", "data:", "event:", "id:", "retry:", "error:"};

    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        size_t len = strlen(fields[i]);

        if (memcmp(text, fields[i], n < len ? n : len) == 0)
            return n < len ? FRAMING_UNDECIDED : FRAMING_EVENTS;
    }
    return FRAMING_DOCUMENT;
}

static bool text_starts(const struct json_value *v, const char *with)
{
    size_t n = strlen(with);

    return v->type == JSON_STRING && v->len >= n + 2 && memcmp(v->text + 1, with, n) == 0;
}

static bool text_ends(const struct json_value *v, const char *with)
{
    size_t n = strlen(with);

    return v->type == JSON_STRING && v->len >= n + 2 &&
           memcmp(v->text + v->len - 1 - n, with, n) == 0;
}

/* Is it a piece of a streamed answer, and not a whole one? */
static bool is_piece(int operation, const struct json_value *root, enum framing claimed)
{
    struct json_value type = json_get(root, "type");
    struct json_value object = json_get(root, "object");
    struct json_value done = json_get(root, "done");
    struct json_value choices = json_get(root, "choices");
    struct json_value key, choice = {0};
    struct json_iter it;

    if (meter_is_ndjson(operation))
        return done.type == JSON_FALSE;
    if (operation == OP(RESPONSES))
        return text_starts(&type, "response.");
    if (operation == OP(MESSAGES))
        return text_starts(&type, "message_") || text_starts(&type, "content_block_");
    json_iter_init(&it, &choices);
    if (json_iter_next(&it, &key, &choice) &&
        (json_get(&choice, "delta").type == JSON_OBJECT ||
         (claimed == FRAMING_LINES && json_get(&choice, "finish_reason").type == JSON_NULL)))
        return true;
    return text_ends(&object, ".chunk");
}

/* A JSON value begins: the first line shows whether it is one of several. */
static enum framing look_at_line(int operation, const char *text, size_t n, bool whole,
                                 enum framing claimed)
{
    const char *end = memchr(text, '\n', n);
    size_t line_len = end == NULL ? n : (size_t)(end - text);
    size_t left = n - line_len, rest_len = left;
    const char *rest = framing_trim(text + line_len, &rest_len);
    struct json_value root;

    if (end == NULL && !whole)
        return n > LINE_MAX_BYTES ? FRAMING_DOCUMENT : FRAMING_UNDECIDED;
    if (!json_check_lenient(&root, text, line_len))
        return FRAMING_DOCUMENT; /* the lines of a document that is written for people */
    if (is_piece(operation, &root, claimed) ||
        (rest_len != 0 && (rest[0] == '{' || rest[0] == '[')))
        return FRAMING_LINES;
    if (rest_len != 0 || whole || left > BLANK_MAX_BYTES || framing_is_whole(operation, &root))
        return FRAMING_DOCUMENT;
    /* {"status":"loading"}: before the answer's lines? */
    return claimed == FRAMING_LINES ? FRAMING_LINES : FRAMING_UNDECIDED;
}

enum framing framing_of(int operation, const void *bytes, size_t n, bool whole,
                        enum framing claimed)
{
    size_t len = n;
    const char *text = framing_trim(bytes, &len);
    enum framing framing;

    n -= (size_t)(text - (const char *)bytes); /* with the white space at the end */
    if (len == 0 || (len < 3 && memcmp(text, "\xef\xbb\xbf", len) == 0))
        return whole ? FRAMING_DOCUMENT : FRAMING_UNDECIDED;
    if (text[0] == '<')
        return FRAMING_PAGE;
    if (text[0] == '{' || text[0] == '[')
        return look_at_line(operation, text, n, whole, claimed);
    framing = look_for_field(text, n);
    if (framing == FRAMING_DOCUMENT || (framing == FRAMING_UNDECIDED && whole))
        return claimed == FRAMING_EVENTS ? FRAMING_EVENTS : FRAMING_DOCUMENT;
    return framing;
}
