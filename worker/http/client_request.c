/*
 * client_request.c - the few fields of a body that routing needs.
 *
 * The body goes to the engine as it came, so both must read the same: where two parsers could
 * differ (a duplicate, a wrong type) the request is refused.
 */
#include "worker/http/client_request.h"

#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/text/json.h"
#include "base/text/text.h"
#include "proto/drover_common.pb-c.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* RFC 2046 allows no longer one. */
#define MAX_BOUNDARY_BYTES 70

static bool can_stream(int operation)
{
    return operation == OP(CHAT_COMPLETIONS) || operation == OP(COMPLETIONS) ||
           operation == OP(RESPONSES) || operation == OP(MESSAGES) ||
           operation == OP(TRANSCRIPTIONS) || operation == OP(OLLAMA_CHAT) ||
           operation == OP(OLLAMA_GENERATE);
}

static bool streams_by_default(int operation)
{
    return operation == OP(OLLAMA_CHAT) || operation == OP(OLLAMA_GENERATE);
}

static int refuse(const char **param, const char *name, struct error *err, const char *why)
{
    *param = name;
    return error_set(err, DRV_EINVAL, "'%s' %s", name, why);
}

/* Fields of the top level, found in one pass. */
struct members {
    struct json_value model, name, stream, stream_options, cache_key, user, metadata;
    unsigned models, names, streams, stream_option_members;
    const char *folded; /* one of ours that is there in other letters */
};

/* Those beyond ASCII that are a letter of ASCII once folded: the sign of Kelvin and the long s.
 */
static uint32_t fold(uint32_t code)
{
    if (code >= 'A' && code <= 'Z')
        return code - 'A' + 'a';
    return code == 0x212A ? 'k' : code == 0x017F ? 's' : code;
}

static bool folds_to(const char *text, const char *name)
{
    size_t n = strlen(text);
    uint32_t code;

    for (size_t i = 0, step; i < n; i += step, name++) {
        step = text_utf8_sequence(text + i, n - i, &code);
        if (step == 0 || *name == '\0' || fold(code) != (unsigned char)*name)
            return false;
    }
    return *name == '\0';
}

/* Go's JSON, and so Ollama's, takes "Model" for "model", and the last of them counts.  A member
 * of ours that only some engines would read must be read by none.  Returns ours, or NULL. */
static const char *folded_name(const struct json_value *key, int operation)
{
    static const char *const names[] = {"model", "stream", "stream_options", "name"};
    char text[32];

    if (!json_name(text, sizeof(text), key))
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(names) - (operation != OP(OLLAMA_SHOW)); i++)
        if (strcmp(text, names[i]) != 0 && folds_to(text, names[i]))
            return names[i];
    return NULL;
}

static void note(struct json_value *slot, unsigned *count, const struct json_value *value)
{
    *slot = *value;
    if (count != NULL)
        ++*count;
}

static void collect(struct members *m, const struct json_value *root, int operation)
{
    struct json_value key, value;
    struct json_iter it;

    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "model"))
            note(&m->model, &m->models, &value);
        else if (json_equal(&key, "name"))
            note(&m->name, &m->names, &value);
        else if (json_equal(&key, "stream"))
            note(&m->stream, &m->streams, &value);
        else if (json_equal(&key, "stream_options"))
            note(&m->stream_options, &m->stream_option_members, &value);
        else if (json_equal(&key, "prompt_cache_key"))
            note(&m->cache_key, NULL, &value);
        else if (json_equal(&key, "user"))
            note(&m->user, NULL, &value);
        else if (json_equal(&key, "metadata"))
            note(&m->metadata, NULL, &value);
        else if (m->folded == NULL)
            m->folded = folded_name(&key, operation);
    }
}

/* The affinity key that a body carries.  Fields that only hint are never an error. */
static void read_session(struct inspected *out, const struct members *m)
{
    struct json_value metadata_user;

    if (json_name(out->session, sizeof(out->session), &m->cache_key) && out->session[0] != '\0')
        return;
    if (json_name(out->session, sizeof(out->session), &m->user) && out->session[0] != '\0')
        return;
    metadata_user = json_get(&m->metadata, "user_id"); /* Anthropic's place for it */
    if (!json_name(out->session, sizeof(out->session), &metadata_user))
        out->session[0] = '\0';
}

const char *client_request_own_model(const struct client_request *request, const char *at_node)
{
    if (at_node[0] != '\0')
        return request->aliased || strcmp(at_node, request->client_model) != 0 ? at_node : NULL;
    return request->aliased && !request->pooled ? request->model : NULL;
}

int inspect_body(struct inspected *out, int operation, const uint8_t *body, size_t n,
                 const char **param, struct error *err)
{
    static const char twice[] = "is ambiguous: it is there more than once";
    struct members m = {0};
    struct json_value include_usage;
    const char *model_member = "model";
    int rc;

    memset(out, 0, sizeof(*out));
    *param = NULL;
    if (n == 0)
        return error_set(err, DRV_EINVAL, "the request body is empty");
    rc = json_check(&out->root, body, n, err);
    if (rc != 0)
        return error_wrap(err, rc, "the request body is not valid JSON");
    if (out->root.type != JSON_OBJECT)
        return error_set(err, DRV_EINVAL, "the request body must be a JSON object");
    collect(&m, &out->root, operation);

    if (operation == OP(OLLAMA_SHOW) && m.models == 0 && m.names != 0) {
        m.model = m.name; /* the older name of the same field */
        m.models = m.names;
        model_member = "name";
    }
    if (m.folded != NULL)
        return refuse(param, m.folded, err,
                      "is ambiguous: it is there in other letters, which some engines read");
    if (m.models > 1)
        return refuse(param, model_member, err, twice);
    if (m.models == 1 && m.model.type != JSON_STRING)
        return refuse(param, model_member, err, "must be a string");
    if (m.models == 1 && !json_name(out->model, sizeof(out->model), &m.model))
        return refuse(param, model_member, err, "is too long or has unprintable characters");

    if (m.streams > 1)
        return refuse(param, "stream", err, twice);
    if (m.stream_option_members > 1)
        return refuse(param, "stream_options", err, twice);
    if (m.streams == 1 && m.stream.type != JSON_TRUE && m.stream.type != JSON_FALSE &&
        m.stream.type != JSON_NULL)
        return refuse(param, "stream", err, "must be true or false");
    if (can_stream(operation))
        out->stream = m.stream.type == JSON_TRUE ||
                      (m.stream.type != JSON_FALSE && streams_by_default(operation));

    include_usage = json_get(&m.stream_options, "include_usage");
    out->client_usage = include_usage.type == JSON_TRUE;
    read_session(out, &m);
    return 0;
}

/* ---- multipart/form-data ----------------------------------------------------------------- */

struct span {
    const char *p;
    size_t n;
};

/* The parameter `name` of a header value such as `form-data; name="model"; filename="x"`.
 * A quoted value may not hold escapes: engines disagree on them. */
static bool find_param(struct span *out, struct span header, const char *name)
{
    const char *p = header.p, *end = header.p + header.n;
    size_t name_len = strlen(name);

    while ((p = memchr(p, ';', (size_t)(end - p))) != NULL) {
        const char *stop;

        p++;
        while (p < end && (*p == ' ' || *p == '\t'))
            p++;
        if ((size_t)(end - p) > name_len && strncasecmp(p, name, name_len) == 0 &&
            p[name_len] == '=') {
            p += name_len + 1;
            if (p < end && *p == '"') {
                p++;
                stop = memchr(p, '"', (size_t)(end - p));
                if (stop == NULL || memchr(p, '\\', (size_t)(stop - p)) != NULL)
                    return false;
            } else {
                for (stop = p; stop < end && *stop != ';' && *stop != ' ' && *stop != '\t';)
                    stop++;
            }
            *out = (struct span){p, (size_t)(stop - p)};
            return true;
        }
        /* A quoted value may hold a semicolon: skip it whole. */
        while (p < end && *p != ';') {
            if (*p == '"') {
                stop = memchr(p + 1, '"', (size_t)(end - p - 1));
                if (stop == NULL)
                    return false;
                p = stop;
            }
            p++;
        }
    }
    return false;
}

/* The value of Content-Disposition in the head of a part. */
static bool find_disposition(struct span *out, struct span head)
{
    static const char name[] = "content-disposition:";
    const char *p = head.p, *end = head.p + head.n;

    while (p < end) {
        const char *line_end = memmem(p, (size_t)(end - p), "\r\n", 2);

        if (line_end == NULL)
            line_end = end;
        if ((size_t)(line_end - p) >= sizeof(name) - 1 &&
            strncasecmp(p, name, sizeof(name) - 1) == 0) {
            *out = (struct span){p + sizeof(name) - 1,
                                 (size_t)(line_end - p) - (sizeof(name) - 1)};
            return true;
        }
        p = line_end < end ? line_end + 2 : end;
    }
    return false;
}

static bool span_is(struct span s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

/* A form field's text as a model name, by the rules for JSON names. */
static bool take_name(char *out, size_t cap, struct span value)
{
    if (value.n == 0 || value.n >= cap)
        return false;
    for (size_t i = 0; i < value.n; i++)
        if ((unsigned char)value.p[i] < 0x20 || (unsigned char)value.p[i] >= 0x7F)
            return false;
    memcpy(out, value.p, value.n);
    out[value.n] = '\0';
    return true;
}

static int take_field(struct inspected *out, struct span name, struct span value,
                      bool *saw_stream, struct error *err)
{
    if (span_is(name, "model")) {
        if (out->model[0] != '\0')
            return error_set(err, DRV_EINVAL, "'model' is there more than once");
        if (!take_name(out->model, sizeof(out->model), value))
            return error_set(err, DRV_EINVAL,
                             "'model' is empty, too long or has unprintable characters");
    } else if (span_is(name, "stream")) {
        if (*saw_stream)
            return error_set(err, DRV_EINVAL, "'stream' is there more than once");
        *saw_stream = true;
        out->stream = span_is(value, "true") || span_is(value, "True") || span_is(value, "1");
    }
    return 0;
}

int inspect_multipart(struct inspected *out, const char *content_type, const uint8_t *body,
                      size_t n, struct error *err)
{
    char delimiter[4 + MAX_BOUNDARY_BYTES] = "\r\n--";
    struct span boundary;
    const char *p = n == 0 ? "" : (const char *)body, *end = p + n;
    size_t delimiter_len;
    bool saw_stream = false;

    memset(out, 0, sizeof(*out));
    if (!find_param(&boundary, (struct span){content_type, strlen(content_type)}, "boundary") ||
        boundary.n == 0 || boundary.n > MAX_BOUNDARY_BYTES)
        return error_set(err, DRV_EINVAL, "the content type names no usable boundary");
    memcpy(delimiter + 4, boundary.p, boundary.n);
    delimiter_len = 4 + boundary.n;

    /* The first delimiter may stand at the very start, without its line break. */
    if (n >= delimiter_len - 2 && memcmp(p, delimiter + 2, delimiter_len - 2) == 0) {
        p += delimiter_len - 2;
    } else {
        p = memmem(p, n, delimiter, delimiter_len);
        if (p == NULL)
            return error_set(err, DRV_EINVAL, "the body has no part");
        p += delimiter_len;
    }
    while (end - p >= 2 && memcmp(p, "--", 2) != 0) {
        const char *head, *head_end, *value, *part_end;
        struct span disposition, name;
        int rc;

        if (memcmp(p, "\r\n", 2) != 0)
            return error_set(err, DRV_EINVAL, "a part does not begin on a new line");
        head = p + 2;
        head_end = memmem(p, (size_t)(end - p), "\r\n\r\n", 4);
        if (head_end == NULL ||
            memmem(p, (size_t)(head_end - p), delimiter, delimiter_len) != NULL)
            return error_set(err, DRV_EINVAL, "the head of a part does not end");
        value = head_end + 4;
        part_end = memmem(head_end + 2, (size_t)(end - head_end - 2), delimiter, delimiter_len);
        if (part_end == NULL)
            return error_set(err, DRV_EINVAL, "the last part does not end");
        if (part_end < value)
            value = part_end; /* an empty part, whose break is the delimiter's own */
        if (head_end > head &&
            find_disposition(&disposition, (struct span){head, (size_t)(head_end - head)}) &&
            find_param(&name, disposition, "name")) {
            rc = take_field(out, name, (struct span){value, (size_t)(part_end - value)},
                            &saw_stream, err);
            if (rc != 0)
                return rc;
        }
        p = part_end + delimiter_len;
    }
    if (end - p < 2)
        return error_set(err, DRV_EINVAL, "the body is cut off");
    return 0;
}

/* ---- priority -------------------------------------------------------------------------- */

static bool is_word(const char *text, size_t n, const char *word)
{
    return n == strlen(word) && strncasecmp(text, word, n) == 0;
}

enum request_priority request_priority_parse(const char *text, size_t n)
{
    if (is_word(text, n, "interactive") || is_word(text, n, "system"))
        return REQUEST_PRIORITY_INTERACTIVE;
    if (is_word(text, n, "bulk"))
        return REQUEST_PRIORITY_BULK;
    if (n > 1 && text[0] == '-' && text[1] >= '1' && text[1] <= '9')
        return REQUEST_PRIORITY_INTERACTIVE;
    if (n > 0 && text[0] >= '1' && text[0] <= '9')
        return REQUEST_PRIORITY_BULK;
    return REQUEST_PRIORITY_DEFAULT;
}

int request_priority_number(enum request_priority priority)
{
    switch (priority) {
    case REQUEST_PRIORITY_DEFAULT:
        return 0;
    case REQUEST_PRIORITY_INTERACTIVE:
        return 1;
    case REQUEST_PRIORITY_BULK:
        return -1;
    }
    return 0;
}
