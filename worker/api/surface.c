/* surface.c - paths to operations, errors to the shape that a client's library parses. */
#include "worker/api/surface.h"

#include <stdio.h>
#include <string.h>

#include "base/text/buf.h"
#include "base/text/json.h"
#include "base/text/text.h"
#include "proto/drover_common.pb-c.h"
#include "proto/operations.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* ---- routes ------------------------------------------------------------------------------ */

enum prefix {
    PREFIX_NONE,  /* the path as it is */
    PREFIX_BELOW, /* the path and all below it */
    PREFIX_BOTH,  /* with "/v1" or without: clients differ in what they call the base URL */
};

struct path_rule {
    const char *path; /* after the prefix */
    enum prefix prefix;
    enum surface surface;
    enum route_kind kind;
    int operation; /* ROUTE_INFER only */
};

static const struct path_rule path_rules[] = {
    {"/chat/completions", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(CHAT_COMPLETIONS)},
    {"/completions", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(COMPLETIONS)},
    {"/embeddings", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(EMBEDDINGS)},
    {"/responses", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(RESPONSES)},
    {"/rerank", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(RERANK)},
    {"/reranking", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(RERANK)},
    {"/v2/rerank", PREFIX_NONE, SURFACE_OPENAI, ROUTE_INFER, OP(RERANK)},
    {"/responses/input_tokens", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(INPUT_TOKENS)},
    {"/tokenize", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(TOKENIZE)},
    {"/detokenize", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(DETOKENIZE)},
    {"/apply-template", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(APPLY_TEMPLATE)},
    {"/completion", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(COMPLETION)},
    {"/infill", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(INFILL)},
    {"/props", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(PROPS)},
    {"/lora-adapters", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(LORA_ADAPTERS)},
    {"/audio/transcriptions", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(TRANSCRIPTIONS)},
    {"/audio/translations", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(TRANSLATIONS)},
    {"/audio/speech", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(SPEECH)},
    {"/images/generations", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(IMAGES_GENERATIONS)},
    {"/images/edits", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(IMAGES_EDITS)},
    {"/images/variations", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(IMAGES_VARIATIONS)},
    {"/moderations", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(MODERATIONS)},
    {"/score", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(SCORE)},
    {"/classify", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(CLASSIFY)},
    {"/pooling", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_INFER, OP(POOLING)},
    {"/messages", PREFIX_BOTH, SURFACE_ANTHROPIC, ROUTE_INFER, OP(MESSAGES)},
    {"/messages/count_tokens", PREFIX_BOTH, SURFACE_ANTHROPIC, ROUTE_INFER, OP(COUNT_TOKENS)},
    {"/api/chat", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_INFER, OP(OLLAMA_CHAT)},
    {"/api/generate", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_INFER, OP(OLLAMA_GENERATE)},
    {"/api/embed", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_INFER, OP(OLLAMA_EMBED)},
    {"/api/embeddings", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_INFER, OP(OLLAMA_EMBEDDINGS)},
    {"/api/show", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_INFER, OP(OLLAMA_SHOW)},
    {"/models", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_MODELS, 0},
    {"/api/tags", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_TAGS, 0},
    {"/api/ps", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_PS, 0},
    {"/api/pull", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_PULL, 0},
    {"/api/push", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_MANAGE, 0},
    {"/api/create", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_MANAGE, 0},
    {"/api/delete", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_MANAGE, 0},
    {"/api/copy", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_MANAGE, 0},
    {"/api/blobs", PREFIX_BELOW, SURFACE_OLLAMA, ROUTE_MANAGE, 0},
    {"/api/version", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_VERSION, 0},
    {"/", PREFIX_NONE, SURFACE_OLLAMA, ROUTE_ROOT, 0},
    {"/health", PREFIX_BOTH, SURFACE_OPENAI, ROUTE_HEALTH, 0},
    {"/healthz", PREFIX_NONE, SURFACE_OPENAI, ROUTE_HEALTH, 0},
    {"/readyz", PREFIX_NONE, SURFACE_OPENAI, ROUTE_HEALTH, 0},
    {"/readiness", PREFIX_NONE, SURFACE_OPENAI, ROUTE_HEALTH, 0},
    {"/livez", PREFIX_NONE, SURFACE_OPENAI, ROUTE_LIVE, 0},
    {"/live", PREFIX_NONE, SURFACE_OPENAI, ROUTE_LIVE, 0},
    {"/liveness", PREFIX_NONE, SURFACE_OPENAI, ROUTE_LIVE, 0},
};

static bool is_below(const char *path, size_t n, const char *prefix)
{
    size_t len = strlen(prefix);

    return n > len && memcmp(path, prefix, len) == 0 && path[len] == '/';
}

/* The character that "%61" at `text` stands for, where it need not have been encoded (RFC 3986,
 * 6.2.2.2); else 0. */
static char needlessly_encoded(const char *text, size_t n)
{
    int high = n < 3 ? -1 : json_hex_value(text[1]);
    int low = n < 3 ? -1 : json_hex_value(text[2]);
    char c = high < 0 || low < 0 ? '\0' : (char)(high * 16 + low);

    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
        c == '-' || c == '_' || c == '.' || c == '~')
        return c;
    return '\0';
}

size_t surface_plain_path(char *path, size_t path_len)
{
    static const char models[] = "/models/";
    size_t n = 0, skip = 0, len = sizeof(models) - 1;
    bool in_name = false;

    for (size_t i = 0; i < path_len; i++) {
        char c = path[i], meant;

        if (c == '/' && n != 0 && path[n - 1] == '/' && !in_name)
            continue;
        meant = c == '%' && !in_name ? needlessly_encoded(path + i, path_len - i) : '\0';
        if (meant != '\0') {
            c = meant;
            i += 2;
        }
        path[n++] = c;
        in_name |= n > len && memcmp(path + n - len - 1, models, len) == 0;
    }
    while (n > 1 && path[n - 1] == '/')
        n--;
    if (is_below(path, n, "/openai"))
        skip = strlen("/openai");
    else if (is_below(path, n, "/api/v1"))
        skip = strlen("/api");
    else if (is_below(path, n, "/anthropic/v1"))
        skip = strlen("/anthropic");
    while (is_below(path + skip, n - skip, "/v1/v1"))
        skip += strlen("/v1");
    memmove(path, path + skip, n - skip);
    return n - skip;
}

bool surface_decode(char *out, size_t cap, const char *text, size_t n)
{
    size_t len = 0;

    for (size_t i = 0; i < n; i++) {
        char c = text[i];

        if (c == '%') {
            int high, low;

            if (n - i < 3)
                return false;
            high = json_hex_value(text[i + 1]);
            low = json_hex_value(text[i + 2]);
            if (high < 0 || low < 0)
                return false;
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (c == '\0' || len + 1 >= cap)
            return false;
        out[len++] = c;
    }
    out[len] = '\0';
    return true;
}

static bool rule_matches(const struct path_rule *rule, const char *bare, size_t bare_len,
                         const char *path, size_t path_len)
{
    switch (rule->prefix) {
    case PREFIX_NONE:
        return text_equals(path, path_len, rule->path);
    case PREFIX_BELOW:
        return text_equals(path, path_len, rule->path) || is_below(path, path_len, rule->path);
    case PREFIX_BOTH:
        return text_equals(bare, bare_len, rule->path);
    }
    return false;
}

/* The rule of "/deployments/NAME/chat/completions", as Azure's clients ask for the model NAME,
 * which is not encoded and may have slashes; NULL: it is no such path. */
static const struct path_rule *find_deployed(const char *path, size_t n,
                                             char name[NODE_MODEL_BYTES])
{
    static const char before[] = "/deployments/";
    const struct path_rule *found = NULL;
    size_t longest = 0, skip = sizeof(before) - 1;

    if (!text_starts_with(path, n, before))
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(path_rules); i++) {
        const struct path_rule *rule = &path_rules[i];
        size_t len = strlen(rule->path);

        if (rule->kind == ROUTE_INFER && rule->prefix == PREFIX_BOTH &&
            rule->surface == SURFACE_OPENAI && len > longest && n > skip + len &&
            memcmp(path + n - len, rule->path, len) == 0) {
            found = rule;
            longest = len;
        }
    }
    if (found == NULL ||
        !surface_decode(name, NODE_MODEL_BYTES, path + skip, n - skip - longest) ||
        !text_is_utf8(name, strlen(name)))
        return NULL;
    for (const char *c = name; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F)
            return NULL;
    return found;
}

/* The surface in whose shape an unknown path is refused. */
static enum surface guess_surface(const char *path, size_t path_len)
{
    if (text_starts_with(path, path_len, "/api/") || text_equals(path, path_len, "/api"))
        return SURFACE_OLLAMA;
    if (text_starts_with(path, path_len, "/v1/messages") ||
        text_starts_with(path, path_len, "/messages") ||
        text_starts_with(path, path_len, "/anthropic"))
        return SURFACE_ANTHROPIC;
    return SURFACE_OPENAI;
}

static struct route with_method(struct route route, const char *method, size_t method_len)
{
    /* In the order of `Allow`; HEAD of what is answered here. */
    static const char *const methods[] = {"GET", "HEAD", "POST", "DELETE"};

    if (route.kind == ROUTE_MANAGE)
        return route; /* refused whatever it is */
    route.allow[0] = '\0';
    route.method = NULL;
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        bool takes = route.kind == ROUTE_INFER
                         ? operation_takes_method(route.operation, methods[i])
                         : i < 2;

        if (route.kind == ROUTE_PULL)
            takes = i == 2;
        if (!takes)
            continue;
        if (route.allow[0] != '\0')
            (void)strlcat(route.allow, ", ", sizeof(route.allow));
        (void)strlcat(route.allow, methods[i], sizeof(route.allow));
        if (text_equals(method, method_len, methods[i]))
            route.method = methods[i];
    }
    if (route.method == NULL)
        route.kind = ROUTE_BAD_METHOD;
    return route;
}

struct route surface_route(const char *method, size_t method_len, const char *path,
                           size_t path_len)
{
    struct route route = {.surface = guess_surface(path, path_len)};
    const struct path_rule *deployed;
    const char *bare;
    size_t bare_len;
    bool v1;

    v1 = text_starts_with(path, path_len, "/v1/");
    bare = v1 ? path + 3 : path;
    bare_len = v1 ? path_len - 3 : path_len;
    for (size_t i = 0; i < ARRAY_LEN(path_rules); i++) {
        const struct path_rule *rule = &path_rules[i];

        if (!rule_matches(rule, bare, bare_len, path, path_len))
            continue;
        route.surface = rule->surface;
        route.kind = rule->kind;
        route.operation = rule->operation;
        if (rule->kind == ROUTE_MANAGE) {
            route.tail = rule->path + strlen("/api/");
            route.tail_len = strlen(route.tail);
        }
        return with_method(route, method, method_len);
    }
    deployed = find_deployed(bare, bare_len, route.model);
    if (deployed == NULL) {
        route.model[0] = '\0';
    } else {
        route.kind = ROUTE_INFER;
        route.operation = deployed->operation;
        return with_method(route, method, method_len);
    }
    if (text_starts_with(bare, bare_len, "/responses/") ||
        text_starts_with(bare, bare_len, "/conversations/") ||
        text_equals(bare, bare_len, "/conversations")) {
        route.kind = ROUTE_INFER;
        route.operation = OP(STATE);
        route.tail = bare + 1;
        route.tail_len = bare_len - 1;
        return with_method(route, method, method_len);
    }
    if (text_starts_with(bare, bare_len, "/models/")) {
        route.kind = ROUTE_MODEL;
        route.tail = bare + strlen("/models/");
        route.tail_len = bare_len - strlen("/models/");
        return with_method(route, method, method_len);
    }
    return route;
}

/* ---- errors ------------------------------------------------------------------------------ */

struct error_shape {
    unsigned status;
    const char *reason; /* x-drover-reason, and `code` of the OpenAI shape */
    const char *openai_type;
    const char *anthropic_type;
};

static const struct error_shape error_shapes[] = {
    [API_ERROR_NONE] = {200, "none", "server_error", "api_error"},
    [API_ERROR_BAD_REQUEST] = {400, "bad_request", "invalid_request_error",
                               "invalid_request_error"},
    [API_ERROR_CONTEXT_LENGTH] = {400, "context_length_exceeded", "invalid_request_error",
                                  "invalid_request_error"},
    [API_ERROR_NOT_FOUND] = {404, "not_found", "not_found_error", "not_found_error"},
    [API_ERROR_METHOD] = {405, "method_not_allowed", "invalid_request_error",
                          "invalid_request_error"},
    [API_ERROR_MODEL_NOT_FOUND] = {404, "model_not_found", "invalid_request_error",
                                   "not_found_error"},
    [API_ERROR_TOO_LARGE] = {413, "request_too_large", "invalid_request_error",
                             "request_too_large"},
    [API_ERROR_MEDIA_TYPE] = {415, "unsupported_media_type", "invalid_request_error",
                              "invalid_request_error"},
    [API_ERROR_NOT_SUPPORTED] = {501, "not_supported", "server_error", "api_error"},
    [API_ERROR_QUEUE_FULL] = {429, "queue_full", "rate_limit_error", "overloaded_error"},
    [API_ERROR_QUEUE_TIMEOUT] = {503, "queue_timeout", "service_unavailable",
                                 "overloaded_error"},
    [API_ERROR_NO_NODE] = {503, "no_node", "service_unavailable", "api_error"},
    [API_ERROR_NODE_FAILED] = {502, "node_failed", "server_error", "api_error"},
    [API_ERROR_NODE_TIMEOUT] = {504, "node_timeout", "server_error", "timeout_error"},
    [API_ERROR_DEADLINE] = {504, "deadline", "server_error", "timeout_error"},
    [API_ERROR_SHUTTING_DOWN] = {503, "shutting_down", "service_unavailable", "api_error"},
    [API_ERROR_INTERNAL] = {500, "internal", "server_error", "api_error"},
    [API_ERROR_OVERLOADED] = {503, "overloaded", "service_unavailable", "overloaded_error"},
    [API_ERROR_UNAUTHORIZED] = {401, "invalid_api_key", "authentication_error",
                                "authentication_error"},
    [API_ERROR_SLOW_BODY] = {408, "slow_body", "invalid_request_error",
                             "invalid_request_error"},
    [API_ERROR_LOOP] = {508, "loop_detected", "server_error", "api_error"},
    [API_ERROR_UPGRADE] = {426, "upgrade_required", "invalid_request_error",
                           "invalid_request_error"},
    [API_ERROR_HEAD_TOO_LARGE] = {431, "head_too_large", "invalid_request_error",
                                  "request_too_large"},
    [API_ERROR_EXPECTATION] = {417, "bad_request", "invalid_request_error",
                               "invalid_request_error"},
    [API_ERROR_FORBIDDEN] = {403, "forbidden", "permission_error", "permission_error"},
};

static const struct error_shape *shape_of(enum api_error error)
{
    size_t i = (size_t)error;

    return &error_shapes[i < ARRAY_LEN(error_shapes) ? i : API_ERROR_INTERNAL];
}

unsigned api_error_status(enum api_error error, enum surface surface)
{
    if (error == API_ERROR_QUEUE_FULL && surface == SURFACE_ANTHROPIC)
        return 529;
    return shape_of(error)->status;
}

enum api_error api_error_of_status(unsigned status)
{
    switch (status) {
    case 401:
        return API_ERROR_UNAUTHORIZED;
    case 402: /* of an account, as 403 */
    case 403:
        return API_ERROR_FORBIDDEN;
    case 404:
        return API_ERROR_NOT_FOUND;
    case 408:
    case 504:
        return API_ERROR_NODE_TIMEOUT;
    case 413:
        return API_ERROR_TOO_LARGE;
    case 415:
        return API_ERROR_MEDIA_TYPE;
    case 429:
    case 529:
        return API_ERROR_QUEUE_FULL;
    case 501:
        return API_ERROR_NOT_SUPPORTED;
    case 508:
        return API_ERROR_LOOP;
    default:
        return status < 500 ? API_ERROR_BAD_REQUEST : API_ERROR_NODE_FAILED;
    }
}

void api_loop_text(char *out, size_t cap, const char *node)
{
    (void)snprintf(out, cap,
                   "the engine of node '%s' is a coordinator that leads back to this one: give "
                   "its drover-node the URL of an engine (--engine), or take the node out",
                   node);
}

const char *api_error_reason(enum api_error error)
{
    return shape_of(error)->reason;
}

static void add_nullable(struct buf *out, const char *text)
{
    if (text == NULL)
        buf_str(out, "null");
    else
        json_quote_str(out, text);
}

/* {"message":...}: what OpenAI's libraries expect under "error". */
static void add_openai_error(struct buf *out, enum api_error error, const char *message,
                             const char *param)
{
    buf_str(out, "{\"message\":");
    json_quote_str(out, message);
    buf_printf(out, ",\"type\":\"%s\",\"param\":", shape_of(error)->openai_type);
    add_nullable(out, param);
    buf_printf(out, ",\"code\":\"%s\",\"src\":\"drover\"}", shape_of(error)->reason);
}

void surface_error_body(struct buf *out, enum surface surface, enum api_error error,
                        const char *message, const char *param, const char *request_id)
{
    switch (surface) {
    case SURFACE_OPENAI:
        buf_str(out, "{\"error\":");
        add_openai_error(out, error, message, param);
        buf_str(out, "}");
        return;
    case SURFACE_ANTHROPIC:
        buf_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":",
                   shape_of(error)->anthropic_type);
        json_quote_str(out, message);
        buf_str(out, "},\"request_id\":");
        add_nullable(out, request_id);
        buf_str(out, "}");
        return;
    case SURFACE_OLLAMA:
        buf_str(out, "{\"error\":");
        json_quote_str(out, message);
        buf_str(out, "}");
        return;
    }
}

void surface_error_event(struct buf *out, enum surface surface, int operation,
                         enum api_error error, const char *message, const char *request_id,
                         uint32_t sequence)
{
    switch (surface) {
    case SURFACE_OPENAI:
        if (operation == OP(RESPONSES)) {
            /* The Responses API names its events and has no [DONE].  The libraries raise the
             * object under "error", so it is there beside the documented fields. */
            buf_printf(out,
                       "event: error\ndata: {\"type\":\"error\",\"sequence_number\":%u,"
                       "\"code\":\"%s\",\"message\":",
                       sequence, shape_of(error)->reason);
            json_quote_str(out, message);
            buf_str(out, ",\"param\":null,\"error\":");
            add_openai_error(out, error, message, NULL);
            buf_str(out, "}\n\n");
            return;
        }
        buf_str(out, "data: ");
        surface_error_body(out, surface, error, message, NULL, request_id);
        buf_str(out, "\n\ndata: [DONE]\n\n");
        return;
    case SURFACE_ANTHROPIC:
        buf_str(out, "event: error\ndata: ");
        surface_error_body(out, surface, error, message, NULL, request_id);
        buf_str(out, "\n\n");
        return;
    case SURFACE_OLLAMA:
        surface_error_body(out, surface, error, message, NULL, request_id);
        buf_str(out, "\n");
        return;
    }
}
