/* local.c - answers that need no node: health, versions, and lists of models. */
#include "worker/api/local.h"

#include <inttypes.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/attrs.h"
#include "base/config/config.h"
#include "base/kinds.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "base/text/text.h"
#include "proto/drover_common.pb-c.h"
#include "shm/scoreboard.h"
#include "worker/api/catalog.h"
#include "worker/api/reply.h"

/* The Ollama whose API we follow: the first with /v1/messages.  Clients compare it to choose
 * features. */
#define OLLAMA_VERSION "0.14.0"

static void add_instant(struct buf *out, uint64_t wall_ms)
{
    time_t wall_s = (time_t)(wall_ms / 1000);
    char text[32];
    struct tm tm;

    if (gmtime_r(&wall_s, &tm) == NULL || strftime(text, sizeof(text), "%FT%TZ", &tm) == 0)
        (void)strlcpy(text, "1970-01-01T00:00:00Z", sizeof(text));
    json_quote_str(out, text);
}

/* ---- OpenAI and Anthropic ---------------------------------------------------------------- */

/* Clients keep what they know of a model by its age, and engines do not say how old theirs is:
 * one instant for all, which no restart changes. */
#define CREATED_MS (UINT64_C(1764547200) * 1000)
/* A client that has to ask again, once nodes have said which models they have. */
#define RETRY_AFTER_S 5

/* As the engines said; a model of which none said anything has no such member. */
static void add_capabilities(struct buf *out, const struct catalog_model *model)
{
    const char *comma = "";

    if ((model->has | model->lacks) == 0)
        return;
    buf_str(out, ",\"capabilities\":[");
    for (unsigned a = 0; a < ABILITIES; a++) {
        if ((model->has & ABILITY_BIT(a)) == 0 || ability_name(a) == NULL)
            continue;
        buf_printf(out, "%s\"%s\"", comma, ability_name(a));
        comma = ",";
    }
    buf_str(out, "]");
}

/* One model in both shapes at once: each library ignores the other's fields. */
static void add_model(struct buf *out, const struct catalog_model *model)
{
    buf_str(out, "{\"id\":");
    json_quote_str(out, model->id);
    buf_printf(out, ",\"object\":\"model\",\"created\":%" PRIu64 ",\"owned_by\":\"drover\"",
               CREATED_MS / 1000);
    if (model->max_context != 0)
        buf_printf(out, ",\"max_model_len\":%" PRIu32 ",\"context_length\":%" PRIu32,
                   model->max_context, model->max_context);
    add_capabilities(out, model);
    if (model->simulated)
        buf_str(out, ",\"simulated\":true");
    buf_str(out, ",\"type\":\"model\",\"display_name\":");
    json_quote_str(out, model->id);
    buf_str(out, ",\"created_at\":");
    add_instant(out, CREATED_MS);
    buf_str(out, "}");
}

static void add_id_or_null(struct buf *out, const struct catalog_model *model)
{
    if (model == NULL)
        buf_str(out, "null");
    else
        json_quote_str(out, model->id);
}

static void list_models(struct reply *reply, const struct local_facts *facts)
{
    const struct catalog *catalog = facts->catalog;
    const struct catalog_model *first = NULL, *last = NULL;
    struct buf *out = &reply->body;

    buf_str(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < catalog->count; i++) {
        if (catalog->models[i].implied)
            continue;
        if (first == NULL)
            first = &catalog->models[i];
        else
            buf_str(out, ",");
        last = &catalog->models[i];
        add_model(out, last);
    }
    buf_str(out, "],\"has_more\":false,\"first_id\":");
    add_id_or_null(out, first);
    buf_str(out, ",\"last_id\":");
    add_id_or_null(out, last);
    /* Codex logs an error where there is no member "models".  An entry has its own instructions
     * in it, which would replace Codex' good ones; without one it takes those. */
    if (facts->for_codex)
        buf_str(out, ",\"models\":[]");
    buf_str(out, "}");
}

/* A model that no node has named yet may come with one. */
static void refuse_for_now(struct reply *reply, const struct route *route,
                           const char *request_id)
{
    reply_error(reply, route->surface, API_ERROR_NO_NODE,
                "not all nodes have said yet which models they have", NULL, RETRY_AFTER_S,
                request_id);
}

static void show_model(struct reply *reply, const struct route *route, const char *request_id,
                       const struct local_facts *facts)
{
    const struct catalog_model *model = NULL;
    struct catalog_model shown;
    char id[NODE_MODEL_BYTES];
    bool is_name = surface_decode(id, sizeof(id), route->tail, route->tail_len);

    if (is_name)
        model = catalog_find(facts->catalog, facts->config, id);
    if (model == NULL && facts->models_unknown(facts->data)) {
        refuse_for_now(reply, route, request_id);
        return;
    }
    if (model == NULL) {
        struct buf message = BUF_INIT;

        if (is_name)
            catalog_say_missing(&message, facts->config, id);
        else
            buf_str(&message, "this can be no model's name");
        reply_error(reply, route->surface, API_ERROR_MODEL_NOT_FOUND, buf_cstr(&message),
                    "model", 0, request_id);
        buf_finish(&message);
        return;
    }
    shown = *model;
    (void)strlcpy(shown.id, id, sizeof(shown.id)); /* clients compare it with what they asked */
    add_model(&reply->body, &shown);
}

/* ---- Ollama ------------------------------------------------------------------------------ */

/* Clients show the first twelve digits of a digest and take it for a key, so there must be one;
 * where no engine says any, this is the name's. */
static void add_digest(struct buf *out, const struct catalog_model *model)
{
    unsigned char digest[SHA256_DIGEST_LENGTH];

    if (model->about.digest[0] != '\0') {
        json_quote_str(out, model->about.digest);
        return;
    }
    (void)SHA256((const unsigned char *)model->id, strlen(model->id), digest);
    buf_str(out, "\"");
    for (size_t i = 0; i < sizeof(digest); i++)
        buf_printf(out, "%02x", digest[i]);
    buf_str(out, "\"");
}

static void add_details(struct buf *out, const struct model_about *about)
{
    buf_str(out, ",\"details\":{\"parent_model\":\"\",\"format\":");
    json_quote_str(out, about->format[0] == '\0' ? "gguf" : about->format);
    buf_str(out, ",\"family\":");
    json_quote_str(out, about->family);
    buf_str(out, ",\"families\":[");
    if (about->family[0] != '\0')
        json_quote_str(out, about->family);
    buf_str(out, "],\"parameter_size\":");
    json_quote_str(out, about->parameter_size);
    buf_str(out, ",\"quantization_level\":");
    json_quote_str(out, about->quantization);
    buf_str(out, "}");
}

static void add_ollama_model(struct buf *out, const struct catalog_model *model, bool running)
{
    const struct model_about *about = &model->about;
    const char *expires =
        about->expires_at[0] == '\0' ? "9999-12-31T23:59:59Z" : about->expires_at;

    buf_str(out, "{\"name\":");
    json_quote_str(out, model->id);
    buf_str(out, ",\"model\":");
    json_quote_str(out, model->id);
    buf_str(out, running ? ",\"expires_at\":" : ",\"modified_at\":");
    if (running)
        json_quote_str(out, expires);
    else if (about->modified_at[0] != '\0')
        json_quote_str(out, about->modified_at);
    else
        add_instant(out, CREATED_MS);
    buf_printf(out, ",\"size\":%" PRIu64 ",\"digest\":",
               running ? about->memory_bytes : about->size_bytes);
    add_digest(out, model);
    if (running)
        buf_printf(out, ",\"size_vram\":%" PRIu64 ",\"context_length\":%" PRIu32,
                   about->vram_bytes, model->max_context);
    if (model->simulated)
        buf_str(out, ",\"simulated\":true");
    add_details(out, about);
    buf_str(out, "}");
}

/* Ollama's clients run what is listed, by these. */
#define RUN_OPERATIONS                                                 \
    (UINT32_C(1) << DROVER__V1__OPERATION__OPERATION_OLLAMA_CHAT |     \
     UINT32_C(1) << DROVER__V1__OPERATION__OPERATION_OLLAMA_GENERATE | \
     UINT32_C(1) << DROVER__V1__OPERATION__OPERATION_OLLAMA_EMBED |    \
     UINT32_C(1) << DROVER__V1__OPERATION__OPERATION_OLLAMA_EMBEDDINGS)

static bool can_run(const struct catalog_model *model)
{
    return (model->operations & RUN_OPERATIONS) != 0;
}

static void list_tags(struct reply *reply, const struct local_facts *facts, bool running)
{
    const struct catalog *catalog = facts->catalog;
    struct buf *out = &reply->body;
    bool first = true;

    buf_str(out, "{\"models\":[");
    for (size_t i = 0; i < catalog->count; i++) {
        if (catalog->models[i].implied || !can_run(&catalog->models[i]) ||
            (running && (!catalog->models[i].loaded || catalog->models[i].alias)))
            continue;
        if (!first)
            buf_str(out, ",");
        first = false;
        add_ollama_model(out, &catalog->models[i], running);
    }
    buf_str(out, "]}");
}

/* ---- what Ollama's clients do with models ------------------------------------------------ */

/* The nodes' own Ollamas have the models, and which of them should is not for us to say. */
static void refuse_managing(struct reply *reply, const struct route *route, const char *command,
                            const char *request_id)
{
    char message[256];

    (void)snprintf(
        message, sizeof(message),
        "models are managed at the Ollama of each node, not through Llama Drover: run "
        "'ollama %s' on the node's machine; what it has then is served here within a "
        "minute",
        command);
    reply_error(reply, route->surface, API_ERROR_NOT_SUPPORTED, message, NULL, 0, request_id);
}

static void manage(struct reply *reply, const struct route *route, const char *request_id)
{
    static const char *const commands[][2] = {{"push", "push"},
                                              {"create", "create"},
                                              {"blobs", "create"},
                                              {"delete", "rm"},
                                              {"copy", "cp"}};

    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (text_equals(route->tail, route->tail_len, commands[i][0]))
            refuse_managing(reply, route, commands[i][1], request_id);
}

/* `ollama run` would fail at its first question. */
static void refuse_pull(struct reply *reply, const struct route *route, const char *request_id,
                        const struct config *config, const char *id)
{
    struct buf message = BUF_INIT;

    buf_str(&message, "No node serves Ollama's API for the model ");
    catalog_say_name(&message, config, id);
    buf_str(&message, ", which other APIs of Llama Drover have: GET /v1/models");
    reply_error(reply, route->surface, API_ERROR_NOT_SUPPORTED, buf_cstr(&message), NULL, 0,
                request_id);
    buf_finish(&message);
}

/* A model that Ollama's clients can run is pulled at once, as by an Ollama that has it:
 * `ollama run` and many programs pull before they ask. */
static void pull(struct reply *reply, const struct route *route, const char *request_id,
                 const struct local_facts *facts)
{
    struct json_value root, name = {0}, stream = {0};
    const struct catalog_model *model;
    char id[NODE_MODEL_BYTES];
    bool lines;

    if (json_check(&root, facts->body, facts->body_len, NULL) == 0) {
        name = json_get(&root, "model");
        if (name.type != JSON_STRING)
            name = json_get(&root, "name");
        stream = json_get(&root, "stream");
    }
    if (name.type != JSON_STRING || !json_name(id, sizeof(id), &name) || id[0] == '\0') {
        reply_error(reply, route->surface, API_ERROR_BAD_REQUEST, "'model' is missing", "model",
                    0, request_id);
        return;
    }
    model = catalog_find(facts->catalog, facts->config, id);
    if (model == NULL || !can_run(model)) {
        if (facts->models_unknown(facts->data))
            refuse_for_now(reply, route, request_id);
        else if (model == NULL)
            refuse_managing(reply, route, "pull", request_id);
        else
            refuse_pull(reply, route, request_id, facts->config, id);
        return;
    }
    lines = stream.type != JSON_FALSE;
    reply->content_type = lines ? "application/x-ndjson" : "application/json";
    buf_str(&reply->body, lines
                              ? "{\"status\":\"pulling manifest\"}\n{\"status\":\"success\"}\n"
                              : "{\"status\":\"success\"}");
}

/* ---- any list ---------------------------------------------------------------------------- */

static void list(struct reply *reply, const struct route *route, const char *request_id,
                 const struct local_facts *facts)
{
    catalog_refresh(facts->catalog, facts->board, facts->config);
    /* Clients drop for good what a list has no more: better none than an empty one. */
    if (facts->catalog->count == 0 && route->kind != ROUTE_PS &&
        facts->models_awaited(facts->data))
        refuse_for_now(reply, route, request_id);
    else if (route->kind == ROUTE_MODELS)
        list_models(reply, facts);
    else
        list_tags(reply, facts, route->kind == ROUTE_PS);
}

/* ---- health ------------------------------------------------------------------------------ */

static void set_text(struct reply *reply, const char *content_type, const char *text)
{
    reply->content_type = content_type;
    buf_str(&reply->body, text);
}

/* llama.cpp's shape, which load balancers and its web page know. */
static void show_health(struct reply *reply, const struct local_facts *facts)
{
    struct buf *out = &reply->body;

    if (facts->not_ready == NULL) {
        set_text(reply, "application/json", "{\"status\":\"ok\"}");
        return;
    }
    reply->status = 503;
    buf_printf(out,
               "{\"error\":{\"code\":503,\"message\":\"%s\",\"type\":\"unavailable_error\"}}",
               facts->not_ready);
}

void local_reply(struct reply *out, const struct route *route, const char *request_id,
                 const struct local_facts *facts)
{
    out->status = 200;
    out->content_type = "application/json";
    switch (route->kind) {
    case ROUTE_MODELS:
    case ROUTE_TAGS:
    case ROUTE_PS:
        list(out, route, request_id, facts);
        return;
    case ROUTE_MODEL:
        catalog_refresh(facts->catalog, facts->board, facts->config);
        show_model(out, route, request_id, facts);
        return;
    case ROUTE_PULL:
        catalog_refresh(facts->catalog, facts->board, facts->config);
        pull(out, route, request_id, facts);
        return;
    case ROUTE_MANAGE:
        manage(out, route, request_id);
        return;
    case ROUTE_VERSION:
        set_text(out, "application/json",
                 "{\"version\":\"" OLLAMA_VERSION "\",\"drover\":\"" DROVER_VERSION "\"}");
        return;
    case ROUTE_ROOT:
        /* Word for word: Ollama's clients look for it. */
        set_text(out, "text/plain; charset=utf-8", "Ollama is running");
        return;
    case ROUTE_HEALTH:
        show_health(out, facts);
        return;
    case ROUTE_LIVE:
        set_text(out, "application/json", "{\"status\":\"ok\"}");
        return;
    case ROUTE_UNKNOWN:
    case ROUTE_BAD_METHOD:
    case ROUTE_INFER:
        break;
    }
    reply_error(out, route->surface, API_ERROR_INTERNAL, "not a local route", NULL, 0,
                request_id);
}
