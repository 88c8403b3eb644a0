/* test_surface.c - paths and errors as the clients' own libraries expect them. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/text/buf.h"
#include "base/text/json.h"
#include "proto/drover_common.pb-c.h"
#include "worker/api/reply.h"
#include "worker/api/surface.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

static struct route route(const char *method, const char *path)
{
    static char plain[256];

    (void)strlcpy(plain, path, sizeof(plain));
    return surface_route(method, strlen(method), plain,
                         surface_plain_path(plain, strlen(plain)));
}

Test(surface, base_urls_may_be_written_as_people_write_them)
{
    static const struct {
        const char *path, *plain;
    } rows[] = {
        {"/", "/"},
        {"//", "/"},
        {"/v1/chat/completions///", "/v1/chat/completions"},
        {"//v1//chat/completions", "/v1/chat/completions"},
        {"/v1/v1/chat/completions", "/v1/chat/completions"},
        {"/v1/v1/v1/messages", "/v1/messages"},
        {"/v1//v1/models", "/v1/models"},
        {"/v1/v1", "/v1/v1"},
        {"/v1x/v1/models", "/v1x/v1/models"},
        {"/openai/v1/responses", "/v1/responses"},
        {"/openai/v1/v1/responses", "/v1/responses"},
        {"/openai/responses", "/responses"},
        {"/openai/deployments/a%2Fb/chat/completions", "/deployments/a%2Fb/chat/completions"},
        {"/api/v1/chat/completions", "/v1/chat/completions"},
        {"/api/chat", "/api/chat"},
        {"/api/chat/", "/api/chat"},
        {"/api/v1", "/api/v1"},
        {"/v1/models/hf://org/name", "/v1/models/hf://org/name"},
        {"/v1//models//a", "/v1/models/a"},
        {"/v1/models/v1/v1/x", "/v1/models/v1/v1/x"},
        {"", ""},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char path[64];
        size_t n;

        (void)strlcpy(path, rows[i].path, sizeof(path));
        n = surface_plain_path(path, strlen(path));
        path[n] = '\0';
        cr_expect_str_eq(path, rows[i].plain, "%s", rows[i].path);
    }
}

Test(surface, a_path_of_azure_names_the_model)
{
    static const struct {
        const char *path, *model;
        int operation;
    } rows[] = {
        {"/openai/deployments/m/chat/completions", "m", OP(CHAT_COMPLETIONS)},
        {"/openai/deployments/m/completions/", "m", OP(COMPLETIONS)},
        {"/openai/deployments/org/m-1.5:8b/embeddings", "org/m-1.5:8b", OP(EMBEDDINGS)},
        {"/openai/deployments/org%2Fm%20x/audio/speech", "org/m x", OP(SPEECH)},
        {"/openai/deployments/completions/completions", "completions", OP(COMPLETIONS)},
        {"/deployments/m/audio/transcriptions", "m", OP(TRANSCRIPTIONS)},
        {"/openai/deployments/m", "", 0},
        {"/openai/deployments/m/messages", "", 0},
        {"/openai/deployments/a%0Ab/completions", "", 0},
        {"/openai/deployments/a%zz/completions", "", 0},
        {"/openai/deployments/%ff/completions", "", 0},
        {"/openai/responses", "", OP(RESPONSES)},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct route to = route("POST", rows[i].path);

        cr_expect_eq(to.kind, rows[i].operation == 0 ? ROUTE_UNKNOWN : ROUTE_INFER, "%s",
                     rows[i].path);
        cr_expect_eq(to.operation, rows[i].operation, "%s", rows[i].path);
        cr_expect_str_eq(to.model, rows[i].model, "%s", rows[i].path);
    }
    cr_expect_eq(route("GET", "/openai/deployments/m/embeddings").kind, ROUTE_BAD_METHOD);
}

Test(surface, every_spelling_of_an_inference_path_is_known)
{
    static const struct {
        const char *path;
        enum surface surface;
        int operation;
    } rows[] = {
        {"/v1/chat/completions", SURFACE_OPENAI, OP(CHAT_COMPLETIONS)},
        {"/chat/completions", SURFACE_OPENAI, OP(CHAT_COMPLETIONS)},
        {"/v1/chat/completions/", SURFACE_OPENAI, OP(CHAT_COMPLETIONS)},
        {"/v1/completions", SURFACE_OPENAI, OP(COMPLETIONS)},
        {"/completions", SURFACE_OPENAI, OP(COMPLETIONS)},
        {"/v1/embeddings", SURFACE_OPENAI, OP(EMBEDDINGS)},
        {"/embeddings", SURFACE_OPENAI, OP(EMBEDDINGS)},
        {"/v1/responses", SURFACE_OPENAI, OP(RESPONSES)},
        {"/responses", SURFACE_OPENAI, OP(RESPONSES)},
        {"/v1/rerank", SURFACE_OPENAI, OP(RERANK)},
        {"/rerank", SURFACE_OPENAI, OP(RERANK)},
        {"/v1/reranking", SURFACE_OPENAI, OP(RERANK)},
        {"/reranking", SURFACE_OPENAI, OP(RERANK)},
        {"/v1/audio/transcriptions", SURFACE_OPENAI, OP(TRANSCRIPTIONS)},
        {"/v2/rerank", SURFACE_OPENAI, OP(RERANK)},
        {"/v1/responses/input_tokens", SURFACE_OPENAI, OP(INPUT_TOKENS)},
        {"/responses/input_tokens", SURFACE_OPENAI, OP(INPUT_TOKENS)},
        {"/tokenize", SURFACE_OPENAI, OP(TOKENIZE)},
        {"/v1/tokenize", SURFACE_OPENAI, OP(TOKENIZE)},
        {"/detokenize", SURFACE_OPENAI, OP(DETOKENIZE)},
        {"/apply-template", SURFACE_OPENAI, OP(APPLY_TEMPLATE)},
        {"/completion", SURFACE_OPENAI, OP(COMPLETION)},
        {"/infill", SURFACE_OPENAI, OP(INFILL)},
        {"/v1/audio/speech", SURFACE_OPENAI, OP(SPEECH)},
        {"/audio/speech", SURFACE_OPENAI, OP(SPEECH)},
        {"/v1/audio/translations", SURFACE_OPENAI, OP(TRANSLATIONS)},
        {"/v1/images/generations", SURFACE_OPENAI, OP(IMAGES_GENERATIONS)},
        {"/v1/images/edits", SURFACE_OPENAI, OP(IMAGES_EDITS)},
        {"/v1/images/variations", SURFACE_OPENAI, OP(IMAGES_VARIATIONS)},
        {"/v1/moderations", SURFACE_OPENAI, OP(MODERATIONS)},
        {"/score", SURFACE_OPENAI, OP(SCORE)},
        {"/v1/score", SURFACE_OPENAI, OP(SCORE)},
        {"/classify", SURFACE_OPENAI, OP(CLASSIFY)},
        {"/v1/classify", SURFACE_OPENAI, OP(CLASSIFY)},
        {"/pooling", SURFACE_OPENAI, OP(POOLING)},
        {"/v1/messages", SURFACE_ANTHROPIC, OP(MESSAGES)},
        {"/messages", SURFACE_ANTHROPIC, OP(MESSAGES)},
        {"/messages/count_tokens", SURFACE_ANTHROPIC, OP(COUNT_TOKENS)},
        {"/v1/v1/messages", SURFACE_ANTHROPIC, OP(MESSAGES)},
        {"/v1/messages/count_tokens", SURFACE_ANTHROPIC, OP(COUNT_TOKENS)},
        {"/api/chat", SURFACE_OLLAMA, OP(OLLAMA_CHAT)},
        {"/api/generate", SURFACE_OLLAMA, OP(OLLAMA_GENERATE)},
        {"/api/embed", SURFACE_OLLAMA, OP(OLLAMA_EMBED)},
        {"/api/embeddings", SURFACE_OLLAMA, OP(OLLAMA_EMBEDDINGS)},
        {"/api/show", SURFACE_OLLAMA, OP(OLLAMA_SHOW)},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct route r = route("POST", rows[i].path);

        cr_expect_eq(r.kind, ROUTE_INFER, "%s", rows[i].path);
        cr_expect_eq(r.surface, rows[i].surface, "%s", rows[i].path);
        cr_expect_eq(r.operation, rows[i].operation, "%s", rows[i].path);
        r = route("GET", rows[i].path);
        cr_expect_eq(r.kind, ROUTE_BAD_METHOD, "%s", rows[i].path);
        cr_expect_str_eq(r.allow, "POST");
    }
}

Test(surface, things_that_engines_keep_have_paths_of_three_methods)
{
    static const char *const paths[] = {"/v1/responses/resp_1", "/responses/resp_1/cancel",
                                        "/v1/responses/resp_1/input_items", "/v1/conversations",
                                        "/conversations/conv_1/items"};
    static const char *const methods[] = {"GET", "POST", "DELETE"};

    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        for (size_t j = 0; j < sizeof(methods) / sizeof(methods[0]); j++) {
            struct route r = route(methods[j], paths[i]);

            cr_expect_eq(r.kind, ROUTE_INFER, "%s", paths[i]);
            cr_expect_eq(r.operation, OP(STATE));
            cr_expect_str_eq(r.method, methods[j]);
            cr_expect_eq(strncmp(r.tail, strstr(paths[i], i < 3 ? "resp" : "conv"), 4), 0);
        }
        cr_expect_eq(route("PUT", paths[i]).kind, ROUTE_BAD_METHOD);
    }
    cr_expect_eq(route("POST", "/v1/responses").operation, OP(RESPONSES));
    cr_expect_eq(route("POST", "/v1/responses/input_tokens").operation, OP(INPUT_TOKENS));
    cr_expect_eq(route("GET", "/v1/conversationsx").kind, ROUTE_UNKNOWN);
}

Test(surface, properties_are_read_and_never_changed)
{
    static const char *const paths[] = {"/props", "/lora-adapters", "/v1/props"};

    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        struct route r = route("GET", paths[i]);

        cr_expect_eq(r.kind, ROUTE_INFER, "%s", paths[i]);
        cr_expect_str_eq(r.method, "GET");
        r = route("POST", paths[i]);
        cr_expect_eq(r.kind, ROUTE_BAD_METHOD, "%s", paths[i]);
        cr_expect_str_eq(r.allow, "GET");
    }
}

Test(surface, local_paths)
{
    static const struct {
        const char *path;
        enum route_kind kind;
    } rows[] = {
        {"/v1/models", ROUTE_MODELS},
        {"/models", ROUTE_MODELS},
        {"/v1/models/", ROUTE_MODELS},
        {"/api/tags", ROUTE_TAGS},
        {"/api/ps", ROUTE_PS},
        {"/api/version", ROUTE_VERSION},
        {"/", ROUTE_ROOT},
        {"/health", ROUTE_HEALTH},
        {"/healthz", ROUTE_HEALTH},
        {"/readyz", ROUTE_HEALTH},
        {"/readiness", ROUTE_HEALTH},
        {"/livez", ROUTE_LIVE},
        {"/live", ROUTE_LIVE},
        {"/liveness", ROUTE_LIVE},
        {"/v1/models/a/b", ROUTE_MODEL},
        {"/models/x", ROUTE_MODEL},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        cr_expect_eq(route("GET", rows[i].path).kind, rows[i].kind, "%s", rows[i].path);
        cr_expect_eq(route("HEAD", rows[i].path).kind, rows[i].kind, "%s", rows[i].path);
        cr_expect_eq(route("POST", rows[i].path).kind, ROUTE_BAD_METHOD, "%s", rows[i].path);
    }
}

Test(surface, paths_that_manage_models_are_known)
{
    static const struct {
        const char *method, *path, *which;
    } rows[] = {
        {"POST", "/api/push", "push"},
        {"POST", "/api/create", "create"},
        {"DELETE", "/api/delete", "delete"},
        {"POST", "/api/copy", "copy"},
        {"HEAD", "/api/blobs/sha256:12", "blobs"},
        {"POST", "/api/blobs/sha256:12", "blobs"},
        {"POST", "/api/blobs", "blobs"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct route r = route(rows[i].method, rows[i].path);

        cr_expect_eq(r.kind, ROUTE_MANAGE, "%s", rows[i].path);
        cr_expect_eq(r.surface, SURFACE_OLLAMA);
        cr_expect_eq(r.tail_len, strlen(rows[i].which));
        cr_expect_eq(memcmp(r.tail, rows[i].which, r.tail_len), 0);
    }
    cr_expect_eq(route("POST", "/api/pull").kind, ROUTE_PULL);
    cr_expect_eq(route("GET", "/api/pull").kind, ROUTE_BAD_METHOD);
    cr_expect_eq(route("POST", "/api/blobsy").kind, ROUTE_UNKNOWN);
}

Test(surface, the_id_in_a_model_path_is_kept_as_it_is)
{
    struct route r = route("GET", "/v1/models/org/na%20me");

    cr_assert_eq(r.tail_len, strlen("org/na%20me"));
    cr_expect_eq(memcmp(r.tail, "org/na%20me", r.tail_len), 0);
    r = route("GET", "/models/x/");
    cr_assert_eq(r.tail_len, 1);
}

Test(surface, unknown_paths_are_refused_in_the_likely_shape)
{
    static const struct {
        const char *path;
        enum surface surface;
    } rows[] = {
        {"/v1/chat", SURFACE_OPENAI},
        {"/v1", SURFACE_OPENAI},
        {"/api/pulls", SURFACE_OLLAMA},
        {"/v1/messages/batches", SURFACE_ANTHROPIC},
        {"/messages/batches", SURFACE_ANTHROPIC},
        {"/v1/api/chat", SURFACE_OPENAI},
        {"", SURFACE_OPENAI},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        cr_expect_eq(route("POST", rows[i].path).kind, ROUTE_UNKNOWN, "%s", rows[i].path);
        cr_expect_eq(route("POST", rows[i].path).surface, rows[i].surface, "%s", rows[i].path);
    }
}

static const char *body(struct buf *out, enum surface surface, enum api_error error,
                        const char *param)
{
    buf_reset(out);
    surface_error_body(out, surface, error, "say \"hi\"\n", param, "req-1");
    return buf_cstr(out);
}

Test(surface, an_error_has_the_shape_of_its_surface)
{
    struct buf out = BUF_INIT;

    cr_expect_str_eq(body(&out, SURFACE_OPENAI, API_ERROR_MODEL_NOT_FOUND, "model"),
                     "{\"error\":{\"message\":\"say \\\"hi\\\"\\n\",\"type\":"
                     "\"invalid_request_error\",\"param\":\"model\",\"code\":"
                     "\"model_not_found\",\"src\":\"drover\"}}");
    cr_expect_str_eq(body(&out, SURFACE_OPENAI, API_ERROR_NO_NODE, NULL),
                     "{\"error\":{\"message\":\"say \\\"hi\\\"\\n\",\"type\":"
                     "\"service_unavailable\",\"param\":null,\"code\":\"no_node\","
                     "\"src\":\"drover\"}}");
    cr_expect_str_eq(body(&out, SURFACE_ANTHROPIC, API_ERROR_QUEUE_FULL, NULL),
                     "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":"
                     "\"say \\\"hi\\\"\\n\"},\"request_id\":\"req-1\"}");
    cr_expect_str_eq(body(&out, SURFACE_OLLAMA, API_ERROR_NO_NODE, NULL),
                     "{\"error\":\"say \\\"hi\\\"\\n\"}");
    buf_finish(&out);
}

Test(surface, statuses_follow_the_surface)
{
    cr_expect_eq(api_error_status(API_ERROR_QUEUE_FULL, SURFACE_OPENAI), 429);
    cr_expect_eq(api_error_status(API_ERROR_QUEUE_FULL, SURFACE_ANTHROPIC), 529);
    cr_expect_eq(api_error_status(API_ERROR_QUEUE_FULL, SURFACE_OLLAMA), 429);
    cr_expect_eq(api_error_status(API_ERROR_MODEL_NOT_FOUND, SURFACE_OLLAMA), 404);
    cr_expect_eq(api_error_status(API_ERROR_NODE_FAILED, SURFACE_ANTHROPIC), 502);
    cr_expect_str_eq(api_error_reason(API_ERROR_QUEUE_TIMEOUT), "queue_timeout");
    cr_expect_eq(api_error_status((enum api_error)99, SURFACE_OPENAI), 500);
}

Test(surface, the_status_of_an_engine_is_an_error_of_ours)
{
    static const struct {
        unsigned status;
        enum api_error error;
    } rows[] = {{400, API_ERROR_BAD_REQUEST}, {401, API_ERROR_UNAUTHORIZED},
                {402, API_ERROR_FORBIDDEN},   {403, API_ERROR_FORBIDDEN},
                {404, API_ERROR_NOT_FOUND},   {408, API_ERROR_NODE_TIMEOUT},
                {413, API_ERROR_TOO_LARGE},   {415, API_ERROR_MEDIA_TYPE},
                {422, API_ERROR_BAD_REQUEST}, {429, API_ERROR_QUEUE_FULL},
                {500, API_ERROR_NODE_FAILED}, {501, API_ERROR_NOT_SUPPORTED},
                {503, API_ERROR_NODE_FAILED}, {504, API_ERROR_NODE_TIMEOUT},
                {508, API_ERROR_LOOP},        {529, API_ERROR_QUEUE_FULL},
                {599, API_ERROR_NODE_FAILED}};

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        cr_expect_eq(api_error_of_status(rows[i].status), rows[i].error, "%u", rows[i].status);
}

Test(surface, every_error_is_valid_json_on_every_surface)
{
    struct buf out = BUF_INIT;
    struct json_value root;

    for (int error = API_ERROR_NONE; error <= API_ERROR_FORBIDDEN; error++)
        for (int surface = SURFACE_OPENAI; surface <= SURFACE_OLLAMA; surface++) {
            const char *text = body(&out, (enum surface)surface, (enum api_error)error, NULL);

            cr_expect_eq(json_check(&root, text, strlen(text), NULL), 0, "%s", text);
        }
    buf_finish(&out);
}

Test(surface, a_stream_is_ended_as_its_library_expects)
{
    struct buf out = BUF_INIT;

    surface_error_event(&out, SURFACE_OPENAI, OP(CHAT_COMPLETIONS), API_ERROR_NODE_FAILED, "m",
                        "r", 0);
    cr_expect_str_eq(buf_cstr(&out),
                     "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"param\":"
                     "null,\"code\":\"node_failed\",\"src\":\"drover\"}}\n\ndata: [DONE]\n\n");
    buf_reset(&out);
    surface_error_event(&out, SURFACE_OPENAI, OP(RESPONSES), API_ERROR_NODE_FAILED, "m", "r",
                        7);
    cr_expect_str_eq(buf_cstr(&out),
                     "event: error\ndata: "
                     "{\"type\":\"error\",\"sequence_number\":7,\"code\":\"node_failed\","
                     "\"message\":\"m\",\"param\":null,\"error\":{\"message\":\"m\",\"type\":"
                     "\"server_error\","
                     "\"param\":null,\"code\":\"node_failed\",\"src\":\"drover\"}}\n\n");
    buf_reset(&out);
    surface_error_event(&out, SURFACE_ANTHROPIC, OP(MESSAGES), API_ERROR_NODE_TIMEOUT, "m", "r",
                        0);
    cr_expect_str_eq(buf_cstr(&out),
                     "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":"
                     "\"timeout_error\",\"message\":\"m\"},\"request_id\":\"r\"}\n\n");
    buf_reset(&out);
    surface_error_event(&out, SURFACE_OLLAMA, OP(OLLAMA_CHAT), API_ERROR_NODE_FAILED, "m", "r",
                        0);
    cr_expect_str_eq(buf_cstr(&out), "{\"error\":\"m\"}\n");
    buf_finish(&out);
}

/* The value of a reply's header; NULL when it has none of the name. */
static const char *header_of(const struct reply *reply, const char *name)
{
    for (size_t i = 0; i < reply->headers_count; i++)
        if (strcmp(reply->headers[i].name, name) == 0)
            return reply->headers[i].value;
    return NULL;
}

Test(surface, an_error_reply_is_a_value_with_all_that_clients_act_on)
{
    struct reply full = REPLY_INIT, missing = REPLY_INIT;

    reply_error(&full, SURFACE_ANTHROPIC, API_ERROR_QUEUE_FULL, "busy", NULL, 900, "id1");
    cr_expect_eq(full.error, API_ERROR_QUEUE_FULL);
    cr_expect_eq(full.status, 529);
    cr_expect_str_eq(full.content_type, "application/json");
    cr_expect_str_eq(header_of(&full, "x-drover-reason"), "queue_full");
    cr_expect_str_eq(header_of(&full, "x-should-retry"), "true");
    cr_expect_str_eq(header_of(&full, "retry-after"), "60");
    cr_expect_not_null(strstr(buf_cstr(&full.body), "\"request_id\":\"id1\""));

    reply_error(&missing, SURFACE_OPENAI, API_ERROR_MODEL_NOT_FOUND, "none", "model", 0, "id2");
    cr_expect_eq(missing.status, 404);
    cr_expect_str_eq(header_of(&missing, "x-should-retry"), "false");
    cr_expect_null(header_of(&missing, "retry-after"));
    cr_expect_not_null(strstr(buf_cstr(&missing.body), "\"param\":\"model\""));
    reply_finish(&full);
    reply_finish(&missing);
}
