/*
 * client_request.c - the few fields of a body that routing needs.
 *
 * The body goes to the engine as it came, so both must read the same: where two parsers could
 * differ (a duplicate, a wrong type) the request is refused.
 */
#include "worker/http/client_request.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/text/json.h"
#include "base/text/text.h"
#include "proto/drover_common.pb-c.h"
#include "proto/operations.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* A walk over more members would be long; no API has nearly so many. */
#define MAX_MEMBERS 1024
/* The head of a part of a form. */
#define MAX_PART_HEAD_BYTES (16 * 1024)

static bool can_stream(int operation)
{
    return operation == OP(CHAT_COMPLETIONS) || operation == OP(COMPLETIONS) ||
           operation == OP(RESPONSES) || operation == OP(MESSAGES) ||
           operation == OP(TRANSCRIPTIONS) || operation == OP(OLLAMA_CHAT) ||
           operation == OP(OLLAMA_GENERATE) || operation == OP(COMPLETION) ||
           operation == OP(INFILL) || operation == OP(IMAGES_GENERATIONS) ||
           operation == OP(IMAGES_EDITS);
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

/* ---- one reading ------------------------------------------------------------------------- */

/* The members that this program or a node acts on, the shorter ones first; hints that only
 * choose among nodes are not here.  An engine must read the same in them. */
static const char *const acted_on[] = {"n",
                                       "name",
                                       "echo",
                                       "ebnf",
                                       "text",
                                       "model",
                                       "tools",
                                       "audio",
                                       "store",
                                       "regex",
                                       "input",
                                       "stream",
                                       "prompt",
                                       "format",
                                       "suffix",
                                       "n_probs",
                                       "best_of",
                                       "grammar",
                                       "options",
                                       "messages",
                                       "logprobs",
                                       "thinking",
                                       "functions",
                                       "n_predict",
                                       "max_tokens",
                                       "background",
                                       "keep_alive",
                                       "modalities",
                                       "min_tokens",
                                       "json_schema",
                                       "guided_json",
                                       "mcp_servers",
                                       "guided_regex",
                                       "top_logprobs",
                                       "conversation",
                                       "guided_choice",
                                       "return_tokens",
                                       "output_format",
                                       "output_config",
                                       "stream_options",
                                       "guided_grammar",
                                       "structural_tag",
                                       "prompt_logprobs",
                                       "response_format",
                                       "return_token_ids",
                                       "max_output_tokens",
                                       "structured_outputs",
                                       "web_search_options",
                                       "previous_response_id",
                                       "max_completion_tokens",
                                       "add_generation_prompt",
                                       "continue_final_message"};
#define LONGEST_BYTES 22

static_assert(ARRAY_LEN(acted_on) <= 64, "a bit each");

/* Those beyond ASCII that are a letter of ASCII once folded: the sign of Kelvin and the long s.
 */
static uint32_t fold(uint32_t code)
{
    if (code >= 'A' && code <= 'Z')
        return code - 'A' + 'a';
    return code == 0x212A ? 'k' : code == 0x017F ? 's' : code;
}

/* The member of ours that `key` is, or would be once folded; -1: none. */
static int find_acted_on(const struct json_value *key, bool *exact)
{
    char text[3 * LONGEST_BYTES + 1], folded[LONGEST_BYTES];
    size_t len = 0, n;
    uint32_t code;

    if (!json_name(text, sizeof(text), key))
        return -1;
    *exact = true;
    n = strlen(text);
    for (size_t i = 0, step; i < n; i += step) {
        step = text_utf8_sequence(text + i, n - i, &code);
        if (step == 0 || len == LONGEST_BYTES || fold(code) >= 0x80)
            return -1;
        *exact &= fold(code) == code;
        folded[len++] = (char)fold(code);
    }
    for (size_t i = 0; i < ARRAY_LEN(acted_on); i++) {
        size_t length = strlen(acted_on[i]);

        if (length > len)
            return -1;
        if (length == len && memcmp(acted_on[i], folded, len) == 0)
            return (int)i;
    }
    return -1;
}

/* Fields of the top level, found in one pass. */
struct members {
    struct json_value model, name, stream, stream_options, cache_key, user, metadata;
    struct json_value previous, conversation, store;
    uint64_t seen;        /* a bit for each of acted_on[] */
    const char *repeated; /* one of them that is there more than once */
    const char *folded;   /* ... in other letters */
};

/* Go's JSON, and so Ollama's, takes "Model" for "model", and of several the last one counts.  A
 * member of ours that only some engines would read must be read by none. */
static void note_acted_on(struct members *m, const struct json_value *key, int operation)
{
    bool exact;
    int i = find_acted_on(key, &exact);

    if (i == -1 || (operation != OP(OLLAMA_SHOW) && strcmp(acted_on[i], "name") == 0))
        return;
    if (!exact)
        m->folded = acted_on[i];
    else if ((m->seen >> i & 1) != 0)
        m->repeated = acted_on[i];
    m->seen |= UINT64_C(1) << i;
}

/* False: there are too many. */
static bool collect(struct members *m, const struct json_value *root, int operation)
{
    struct json_value key, value;
    unsigned count = 0;
    struct json_iter it;

    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &value)) {
        if (++count > MAX_MEMBERS)
            return false;
        if (json_equal(&key, "model"))
            m->model = value;
        else if (json_equal(&key, "name"))
            m->name = value;
        else if (json_equal(&key, "stream"))
            m->stream = value;
        else if (json_equal(&key, "stream_options"))
            m->stream_options = value;
        else if (json_equal(&key, "prompt_cache_key"))
            m->cache_key = value;
        else if (json_equal(&key, "user"))
            m->user = value;
        else if (json_equal(&key, "metadata"))
            m->metadata = value;
        else if (operation == OP(RESPONSES) && json_equal(&key, "previous_response_id"))
            m->previous = value;
        else if (operation == OP(RESPONSES) && json_equal(&key, "conversation"))
            m->conversation = value;
        else if (operation == OP(RESPONSES) && json_equal(&key, "store"))
            m->store = value;
        note_acted_on(m, &key, operation);
    }
    return true;
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

static bool take_id(struct inspected *out, const struct json_value *id, const char *member)
{
    char text[REQUEST_KEPT_BYTES];

    if (!json_name(text, sizeof(text), id) || text[0] == '\0')
        return false;
    memcpy(out->kept_id, text, sizeof(text));
    out->kept_member = member;
    return true;
}

/* Is there one "id" in the object, in whatever letters? */
static bool has_one_id(const struct json_value *object)
{
    struct json_value key, value;
    struct json_iter it;
    unsigned count = 0;
    char name[3];

    json_iter_init(&it, object);
    while (json_iter_next(&it, &key, &value))
        count += json_name(name, sizeof(name), &key) && strcasecmp(name, "id") == 0;
    return count <= 1;
}

/* The response or conversation that the request goes on with.  A member that is no id is left
 * to the engine.  Whose it is has to be known of all that the engine could read: there is one.
 */
static int read_kept(struct inspected *out, const struct members *m, const char **param,
                     struct error *err)
{
    struct json_value id = m->conversation;
    bool goes_on = take_id(out, &m->previous, "previous_response_id");

    out->unkept = m->store.type == JSON_FALSE;
    if (m->conversation.type == JSON_OBJECT) {
        if (!has_one_id(&m->conversation))
            return refuse(param, "conversation", err, "is ambiguous: it has several ids");
        id = json_get(&m->conversation, "id");
    }
    if (take_id(out, &id, "conversation") && goes_on)
        return refuse(param, "conversation", err, "excludes 'previous_response_id'");
    return 0;
}

/* Reads what has been found to be JSON. */
static int read_members(struct inspected *out, int operation, const char **param,
                        struct error *err)
{
    struct members m = {0};
    struct json_value include_usage;
    const char *model_member = "model";

    if (out->root.type != JSON_OBJECT)
        return error_set(err, DRV_EINVAL, "the request body must be a JSON object");
    if (!collect(&m, &out->root, operation))
        return error_set(err, DRV_EINVAL, "the request body has more than %d members",
                         MAX_MEMBERS);

    if (operation == OP(OLLAMA_SHOW) &&
        (m.model.type == JSON_NONE || m.model.type == JSON_NULL)) {
        m.model = m.name; /* the older name of the same field */
        model_member = "name";
    }
    if (m.folded != NULL)
        return refuse(param, m.folded, err,
                      "is ambiguous: it is there in other letters, which some engines read");
    if (m.repeated != NULL)
        return refuse(param, m.repeated, err, "is ambiguous: it is there more than once");
    if (m.model.type == JSON_NULL)
        m.model.type = JSON_NONE; /* what libraries write for a field that is not set */
    if (m.model.type != JSON_NONE && m.model.type != JSON_STRING)
        return refuse(param, model_member, err, "must be a string");
    if (m.model.type == JSON_STRING && !json_name(out->model, sizeof(out->model), &m.model))
        return refuse(param, model_member, err, "is too long or has unprintable characters");
    if (m.stream.type != JSON_NONE && m.stream.type != JSON_TRUE &&
        m.stream.type != JSON_FALSE && m.stream.type != JSON_NULL)
        return refuse(param, "stream", err, "must be true or false");
    if (can_stream(operation))
        out->stream = m.stream.type == JSON_TRUE ||
                      (m.stream.type != JSON_FALSE && streams_by_default(operation));

    include_usage = json_get(&m.stream_options, "include_usage");
    out->client_usage = include_usage.type == JSON_TRUE;
    read_session(out, &m);
    return read_kept(out, &m, param, err);
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

static int begin_form(struct inspection *i, const char *content_type, struct error *err)
{
    struct span boundary;

    if (!find_param(&boundary, (struct span){content_type, strlen(content_type)}, "boundary") ||
        boundary.n == 0 || boundary.n > INSPECT_BOUNDARY_BYTES)
        return error_set(err, DRV_EINVAL, "the content type names no usable boundary");
    memcpy(i->form.delimiter, "\r\n--", 4);
    memcpy(i->form.delimiter + 4, boundary.p, boundary.n);
    i->form.delimiter_len = 4 + boundary.n;
    return 0;
}

/* The next delimiter, which begins at form.search or later: true, and it begins there.  `stop`:
 * it is not looked for behind this. */
static bool find_delimiter(struct inspection *i, size_t stop)
{
    size_t n = i->form.delimiter_len, from = i->form.search;
    const uint8_t *hit;

    if (stop - from < n)
        return false;
    hit = memmem(i->body + from, stop - from, i->form.delimiter, n);
    i->form.search = hit != NULL ? (size_t)(hit - i->body) : stop - n + 1;
    return hit != NULL;
}

/* The first delimiter may stand at the very start, without its line break. */
static int begin_parts(struct inspection *i, size_t stop, struct error *err)
{
    size_t n = i->form.delimiter_len;

    if (i->n >= n - 2 && memcmp(i->body, i->form.delimiter + 2, n - 2) == 0)
        i->form.at = n - 2;
    else if (find_delimiter(i, stop))
        i->form.at = i->form.search + n;
    else
        return stop < i->n ? DRV_EAGAIN : error_set(err, DRV_EINVAL, "the body has no part");
    i->form.begun = true;
    i->form.search = 0;
    return 0;
}

/* The part that begins behind the delimiter at form.at, and the next delimiter. */
static int take_part(struct inspection *i, size_t stop, struct inspected *out,
                     struct error *err)
{
    const char *body = (const char *)i->body, *p = body + i->form.at;
    size_t left = i->n - i->form.at;
    size_t head_most = left < MAX_PART_HEAD_BYTES ? left : MAX_PART_HEAD_BYTES;
    const char *head_end, *value, *part_end;
    struct span disposition, name;

    if (memcmp(p, "\r\n", 2) != 0)
        return error_set(err, DRV_EINVAL, "a part does not begin on a new line");
    head_end = memmem(p, head_most, "\r\n\r\n", 4);
    if (head_end == NULL ||
        memmem(p, (size_t)(head_end - p), i->form.delimiter, i->form.delimiter_len) != NULL)
        return error_set(err, DRV_EINVAL, "the head of a part does not end");
    if (i->form.search < (size_t)(head_end + 2 - body))
        i->form.search = (size_t)(head_end + 2 - body);
    if (stop < i->form.search)
        stop = i->form.search;
    if (!find_delimiter(i, stop))
        return stop < i->n ? DRV_EAGAIN
                           : error_set(err, DRV_EINVAL, "the last part does not end");
    part_end = body + i->form.search;
    value = head_end + 4;
    if (part_end < value)
        value = part_end; /* an empty part, whose break is the delimiter's own */
    i->form.at = i->form.search + i->form.delimiter_len;
    p += 2;
    if (head_end > p &&
        find_disposition(&disposition, (struct span){p, (size_t)(head_end - p)}) &&
        find_param(&name, disposition, "name"))
        return take_field(out, name, (struct span){value, (size_t)(part_end - value)},
                          &i->form.stream_seen, err);
    return 0;
}

/* A part is taken when its end has been found, and its field is written to *out then. */
static int go_on_in_form(struct inspection *i, size_t most, struct inspected *out,
                         struct error *err)
{
    size_t from = i->form.search > i->form.at ? i->form.search : i->form.at;
    size_t stop = most > i->n - from ? i->n : from + most;
    int rc = 0;

    if (stop - from < i->form.delimiter_len && stop < i->n)
        stop =
            i->n - from < 2 * i->form.delimiter_len ? i->n : from + 2 * i->form.delimiter_len;
    if (!i->form.begun)
        rc = begin_parts(i, stop, err);
    while (rc == 0) {
        size_t left = i->n - i->form.at;

        if (left < 2)
            return error_set(err, DRV_EINVAL, "the body is cut off");
        if (memcmp(i->body + i->form.at, "--", 2) == 0)
            return 0;
        if (i->form.at >= stop)
            return DRV_EAGAIN;
        rc = take_part(i, stop, out, err);
    }
    return rc;
}

/* ---- a look through a body --------------------------------------------------------------- */

int inspection_begin(struct inspection *i, int operation, const char *content_type,
                     const uint8_t *body, size_t n, struct json_skips *skips, struct error *err)
{
    i->operation = operation;
    i->body = n == 0 ? (const uint8_t *)"" : body;
    i->n = n;
    i->seen = 0;
    json_checker_init(&i->checker, skips, false);
    memset(&i->form, 0, sizeof(i->form));
    if (content_type != NULL)
        return begin_form(i, content_type, err);
    return n == 0 ? error_set(err, DRV_EINVAL, "the request body is empty") : 0;
}

static int go_on_in_json(struct inspection *i, size_t most, struct inspected *out,
                         const char **param, struct error *err)
{
    size_t left = i->n - i->seen, n = most < left ? most : left;

    i->seen += n;
    switch (json_checker_go(&i->checker, i->body, i->seen, i->seen == i->n, &out->root, err)) {
    case JSON_CHECK_MORE:
        return DRV_EAGAIN;
    case JSON_CHECK_BAD:
        return error_wrap(err, DRV_EINVAL, "the request body is not valid JSON");
    case JSON_CHECKED:
        break;
    }
    return read_members(out, i->operation, param, err);
}

int inspection_go(struct inspection *i, size_t most, struct inspected *out, const char **param,
                  struct error *err)
{
    int rc;

    *param = NULL;
    if (i->form.delimiter_len == 0)
        return go_on_in_json(i, most, out, param, err);
    rc = go_on_in_form(i, most, out, err);
    if (rc != 0 && rc != DRV_EAGAIN)
        *param = "model";
    return rc;
}

static int inspect_whole(struct inspected *out, int operation, const char *content_type,
                         const uint8_t *body, size_t n, const char **param, struct error *err)
{
    struct inspection i;
    int rc;

    *out = (struct inspected){0};
    *param = NULL;
    rc = inspection_begin(&i, operation, content_type, body, n, NULL, err);
    return rc != 0 ? rc : inspection_go(&i, SIZE_MAX, out, param, err);
}

int inspect_body(struct inspected *out, int operation, const uint8_t *body, size_t n,
                 const char **param, struct error *err)
{
    return inspect_whole(out, operation, NULL, body, n, param, err);
}

int inspect_multipart(struct inspected *out, const char *content_type, const uint8_t *body,
                      size_t n, struct error *err)
{
    const char *param;

    return inspect_whole(out, OP(TRANSCRIPTIONS), content_type, body, n, &param, err);
}

bool request_is_form(const struct client_request *request)
{
    return operation_takes_form(request->operation,
                                strcmp(request->content_type, "application/json") == 0);
}

void request_take(struct client_request *request, const struct inspected *body)
{
    request->root = body->root;
    request->stream = body->stream;
    request->client_usage = body->client_usage;
    request->unkept = body->unkept;
    request->kept_member = body->kept_member;
    if (request->operation == OP(RESPONSES))
        (void)strlcpy(request->kept_id, body->kept_id, sizeof(request->kept_id));
}

bool request_take_target(struct client_request *request, char *target, const char *path,
                         size_t path_len, const char *query, size_t query_len)
{
    const char *id;
    size_t n;

    if (path_len + query_len + 1 > OPERATION_TARGET_BYTES)
        return false;
    (void)snprintf(target, OPERATION_TARGET_BYTES + 1, "%.*s%s%.*s", (int)path_len, path,
                   query_len == 0 ? "" : "?", (int)query_len, query);
    if (strlen(target) != path_len + query_len + (query_len != 0) ||
        !operation_target_ok(target))
        return false;
    request->target = target;
    id = memchr(target, '/', path_len);
    if (id == NULL)
        return true;
    n = strcspn(++id, "/?");
    if (n >= sizeof(request->kept_id))
        return false;
    memcpy(request->kept_id, id, n);
    request->kept_id[n] = '\0';
    return true;
}

/* ---- query --------------------------------------------------------------------------------
 */

bool request_query(char *out, size_t cap, const char *query, size_t query_len, const char *name)
{
    size_t name_len = strlen(name), n = 0;
    const char *p = query, *end = query + query_len;

    while (p < end) {
        const char *stop = memchr(p, '&', (size_t)(end - p));

        if (stop == NULL)
            stop = end;
        if ((size_t)(stop - p) > name_len && memcmp(p, name, name_len) == 0 &&
            p[name_len] == '=') {
            for (p += name_len + 1; p < stop; p++) {
                unsigned code = (unsigned char)*p;
                char hex[3];

                if (*p == '%') {
                    if (stop - p < 3 || !isxdigit((unsigned char)p[1]) ||
                        !isxdigit((unsigned char)p[2]))
                        return false;
                    (void)snprintf(hex, sizeof(hex), "%c%c", p[1], p[2]);
                    code = (unsigned)strtoul(hex, NULL, 16);
                    p += 2;
                }
                if (code < 0x20 || code == 0x7F || n + 1 >= cap)
                    return false;
                out[n++] = (char)code;
            }
            out[n] = '\0';
            return n != 0 && text_is_utf8(out, n);
        }
        p = stop + 1;
    }
    return false;
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
