/* errors.c - what an engine's HTTP error means. */
#include "node/engine/errors.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/attrs.h"
#include "base/text/json.h"
#include "base/text/text.h"
#include "node/body/reported.h"

#define CAUSE(name) DROVER__V1__CAUSE__KIND__KIND_##name

#define ROUTER_LOST "proxy error: " /* the connection to the model's server broke */
#define ENGINE_CORE "EngineCore"

#define HAS_ANY(text, parts) text_has_any(text, parts, ARRAY_LEN(parts))

static bool ends(const char *text, const char *part)
{
    size_t n = strlen(text), m = strlen(part);

    return n >= m && strcmp(text + n - m, part) == 0;
}

/* 5xx for what the client sent, whichever engine gets it: JSON that does not parse, a template
 * that refuses the messages, a grammar that is none, a member that is missing. */
static bool blames_input(const char *text)
{
    static const char *const marks[] = {
        "json.exception",
        "Jinja Exception",
        "Failed to parse messages",
        "Failed to parse tools",
        "Unsupported param",
        "Failed to parse grammar",
        "TemplateError",
        "UndefinedError",
        "Conversation roles must alternate",
        "Invalid grammar",
        "Failed to compile grammar",
        "Invalid JSON schema",
        "invalid base64",
        "Incorrect padding",
    };

    return HAS_ANY(text, marks) || ends(text, " is required") || ends(text, "to be an array");
}

/* 5xx for something that the request names and that this engine cannot get or read.  Another
 * one may: it may have another way to the network. */
static bool blames_attachment(const char *text)
{
    static const char *const verbs[] = {"fetch",  "download", "load",    "open",
                                        "decode", "identify", "retrieve"};
    static const char *const things[] = {"image", "audio", "video", "media", "http:", "https:"};
    static const char *const failures[] = {"cannot", "can not", "could not", "couldn't", "fail",
                                           "error",  "unable",  "invalid",   "timed out"};

    return text_has(text, "cannot connect to host") ||
           (HAS_ANY(text, verbs) && HAS_ANY(text, things) && HAS_ANY(text, failures));
}

static bool names_no_model(const char *text)
{
    return text_has(text, "model") &&
           (ends(text, "not found") || text_has(text, "does not exist") ||
            text_has(text, "not found, try pulling"));
}

/* LM Studio has no 404: it says this with 200. */
static bool names_no_endpoint(const char *text)
{
    return text_has(text, "Unexpected endpoint");
}

/* A router's own 404, not the API's: llama.cpp, FastAPI, Go, OpenAI, express, aiohttp, Hono,
 * Fastify. */
static bool names_no_path(const char *text)
{
    static const char *const marks[] = {"Invalid URL",   "Cannot POST ",     "<html",
                                        "no such path",  "unknown endpoint", "404: Not Found",
                                        "404 Not Found", "Route POST:"};

    for (size_t i = 0; i < ARRAY_LEN(marks); i++)
        if (text_has(text, marks[i]))
            return true;
    return strcmp(text, "File Not Found") == 0 || strcasecmp(text, "Not Found") == 0 ||
           strncmp(text, "404 page not found", 18) == 0 || text[0] == '\0';
}

/* Credentials that the node's own key cannot give: a user of the engine has to sign in, to pay,
 * or to be let into a model. */
static bool wants_access(unsigned http_status, const void *body, size_t n, const char *text)
{
    static const char *const marks[] = {
        "sign in",        "signin",  "sign-in",  "subscription",
        "have access to", "upgrade", "admin key"}; /* TabbyAPI: to load another model */
    struct json_value root, url;

    if (http_status == 402)
        return true;
    if (json_check(&root, body, n, NULL) == 0) {
        url = json_get(&root, "signin_url");
        if (url.type == JSON_STRING)
            return true;
    }
    if (text_has(text, "flagged") || text_has(text, "moderation"))
        return false;
    return (http_status == 403 && text_has(text, "model")) || HAS_ANY(text, marks);
}

static bool has_no_quota(const char *text)
{
    static const char *const marks[] = {"insufficient_quota", "exceeded your current quota",
                                        "credit balance", "insufficient balance"};

    return HAS_ANY(text, marks);
}

/* Does an item of FastAPI's `detail` name the member, beside its words?  Its `input` is what
 * the client sent, and is not looked at. */
static bool detail_names(const struct json_value *root, const char *name)
{
    struct json_value detail = json_get(root, "detail"), key, item, loc, part;
    struct json_iter items, parts;

    if (detail.type != JSON_ARRAY)
        return false;
    json_iter_init(&items, &detail);
    while (json_iter_next(&items, &key, &item)) {
        loc = json_get(&item, "loc");
        if (loc.type != JSON_ARRAY)
            continue;
        json_iter_init(&parts, &loc);
        while (json_iter_next(&parts, &key, &part))
            if (json_equal(&part, name))
                return true;
    }
    return false;
}

/* Is it `stream_options`, which we added, that the engine does not know? */
static bool blames_stream_options(const void *body, size_t n, const char *text)
{
    static const char name[] = "stream_options";
    struct json_value root;

    return text_has(text, name) ||
           (json_check(&root, body, n, NULL) == 0 && detail_names(&root, name));
}

/* The engine, or a proxy before it, gave up: its client, which is we, was there all the time.
 * TGI's server behind its router failed: 424. */
static bool gave_up(unsigned http_status)
{
    return http_status == 408 || http_status == 424 || http_status == 499;
}

/* An apostrophe inside of a word is none. */
static bool has_quote(const char *text)
{
    for (const char *at = text; (at = strpbrk(at, "'\"`{")) != NULL; at++)
        if (*at != '\'' || at == text || !isalpha((unsigned char)at[-1]) ||
            !isalpha((unsigned char)at[1]))
            return true;
    return false;
}

/* Are the words after `head` the engine's own, and not repeated from the request?  An engine
 * that reports its end does so at once; what it repeats is quoted, or follows a verdict. */
static bool speaks_itself(const char *head, size_t n)
{
    static const char *const verdicts[] = {"valid", "supported", "recogni", "role", "field"};
    char text[64];

    if (n >= sizeof(text))
        return false;
    memcpy(text, head, n);
    text[n] = '\0';
    return !has_quote(text) && !HAS_ANY(text, verdicts);
}

/* The engine's own end, said with a 4xx: LM Studio (400), mlx_lm.server (404 for whatever goes
 * wrong). */
static bool blames_itself(unsigned http_status, const char *text)
{
    static const char *const marks[] = {
        "model has crashed",   "model unloaded", "failed to load model",
        "out of memory",       "cuda error",     "insufficient system resources",
        "insufficient memory", "metal::malloc",
    };
    const char *at;

    if (http_status != 400 && http_status != 404)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        at = strcasestr(text, marks[i]);
        if (at != NULL && speaks_itself(text, (size_t)(at - text)))
            return true;
    }
    return false;
}

/* Did what ran the request die of it, behind a server that lives?  Not so in the words in which
 * an older vLLM reports an earlier end to each request: "Background loop has errored". */
static bool lost_its_runner(const char *text)
{
    static const char *const marks[] = {
        ROUTER_LOST,                     /* llama.cpp's router */
        "runner process has terminated", /* Ollama */
        "runner process no longer running",
        "runner has unexpectedly stopped",
        "unexpected EOF",
        "error reading from server: EOF", /* LocalAI */
        "transport is closing",
        "model has crashed", /* LM Studio */
        ENGINE_CORE,         /* vLLM */
    };

    return HAS_ANY(text, marks) || ends(text, "\": EOF"); /* Ollama, asking its runner */
}

/* Did only what runs this model fail?  The core of a vLLM is all of it. */
static bool is_of_model(const char *text)
{
    static const char *const loads[] = {"failed to load", "insufficient system resources"};

    return (lost_its_runner(text) && !text_has(text, ENGINE_CORE)) || HAS_ANY(text, loads);
}

/* The engine lives and takes no more at present, or not yet. */
static bool is_overloaded(unsigned http_status, const char *text)
{
    static const char *const always[] = {
        "model limit reached",                         /* llama.cpp's router */
        "proxy error: Could not establish connection", /* ... of a model that it unloads */
        "concurrent requests"};
    static const char *const marks[] = {
        "Loading model",
        "server busy",
        "is busy", /* KoboldCpp */
        "are busy",
        "overloaded",
        "queue is full",
        "at capacity",
        "too many requests",
        "maximum pending requests",
        "no slot available",     /* llama-server */
        "reset reason: overflow" /* Envoy */
    };

    if (http_status >= 500 && HAS_ANY(text, always))
        return true;
    /* llama.cpp's router has just stopped the model that it was about to ask. */
    if (http_status == 400 && strncmp(text, "model name=", 11) == 0 &&
        ends(text, " is not running"))
        return true;
    return http_status == 429 || http_status == 529 ||
           (http_status == 503 && HAS_ANY(text, marks));
}

static void fail(struct engine_error *out, enum grpc_status status, const char *text)
{
    out->engine_error_action = ENGINE_ERROR_FAIL;
    out->status = status;
    if (text != out->text)
        (void)strlcpy(out->text, text, sizeof(out->text));
}

static void lack(struct engine_error *out, enum ability ability)
{
    out->cause = CAUSE(ABILITY);
    out->refusal = (struct refusal){.ability = ability};
}

static void credentials(struct engine_error *out, unsigned http_status, const void *body,
                        size_t n, const char *words)
{
    if (wants_access(http_status, body, n, words)) {
        lack(out, ABILITY_ACCESS);
    } else if (http_status == 403) {
        out->cause = CAUSE(REQUEST); /* a filter's verdict about what it holds */
    } else {
        lack(out, ABILITY_ACCESS);
        fail(out, GRPC_UNAVAILABLE, "the engine refuses this node's API key");
    }
}

static void no_operation(struct engine_error *out, const char *text)
{
    lack(out, ABILITY_OPERATION);
    fail(out, GRPC_UNIMPLEMENTED,
         text[0] != '\0' ? text : "the engine does not speak this API");
}

/* The engine's own trouble, as far as one engine can know. */
static void trouble(struct engine_error *out, unsigned http_status)
{
    bool gateway =
        http_status == 502 || http_status == 503 || http_status == 504 || gave_up(http_status);
    char text[sizeof(out->text)];

    (void)strlcpy(text, out->text, sizeof(text));
    (void)snprintf(out->text, sizeof(out->text), "the engine answered %u: %.320s", http_status,
                   text);
    out->cause = lost_its_runner(text) ? CAUSE(ENGINE_DIED) : CAUSE(ENGINE_ERROR);
    out->of_model = is_of_model(text);
    out->had_it = text_has(text, ROUTER_LOST);
    fail(out, gateway ? GRPC_UNAVAILABLE : GRPC_INTERNAL, out->text);
}

/* A context that is exceeded amid the work, in llama-server's words: the cache that all
 * requests share is full, and the next moment it is not. */
static bool is_shared_cache(const struct refusal *refusal, const char *text)
{
    return refusal->ability == ABILITY_CONTEXT && refusal->limit == 0 &&
           text_has(text, "has been exceeded");
}

/* Some engines repeat what they were sent: that is not to be read as their own words. */
static void cut_echo(char *text)
{
    static const char *const marks[] = {
        "'input': ",                                  /* FastAPI */
        "input_value=",                               /* Pydantic */
        "; messages = ", "; tools = ", "last read: '" /* llama-server */
    };

    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        char *at = strstr(text, marks[i]);

        if (at != NULL)
            *at = '\0';
    }
}

void engine_error_http(struct engine_error *out, unsigned http_status, const void *body,
                       size_t n, bool usage_added)
{
    uint32_t inner;
    bool has_words;

    memset(out, 0, sizeof(*out));
    has_words = reported_text(body, n, out->text, sizeof(out->text), &inner);
    cut_echo(out->text);
    if (usage_added && blames_stream_options(body, n, out->text)) {
        out->engine_error_action = ENGINE_ERROR_WITHOUT_USAGE;
    } else if (http_status == 508) {
        out->cause = CAUSE(REQUEST); /* a coordinator that the request has passed before */
    } else if (http_status == 401 || http_status == 402 || http_status == 403) {
        credentials(out, http_status, body, n, out->text);
    } else if (http_status == 429 && has_no_quota(out->text)) {
        lack(out, ABILITY_ACCESS);
        fail(out, GRPC_UNAVAILABLE, out->text);
    } else if (is_overloaded(http_status, out->text)) {
        fail(out, GRPC_RESOURCE_EXHAUSTED,
             text_has(out->text, "Loading model") ? "the engine is loading its model"
             : out->text[0] != '\0'               ? out->text
                                                  : "the engine is full");
    } else if (blames_itself(http_status, out->text)) {
        trouble(out, http_status);
    } else if ((http_status == 404 || http_status == 400) && names_no_model(out->text)) {
        lack(out, ABILITY_MODEL);
        fail(out, GRPC_NOT_FOUND, out->text);
    } else if (http_status == 405 || names_no_endpoint(out->text) ||
               (http_status == 404 && names_no_path(out->text))) {
        no_operation(out, "");
        out->perhaps_stream = http_status == 405;
    } else if (refusal_read(&out->refusal, http_status, body, n, out->text)) {
        out->cause = CAUSE(ABILITY);
        if (out->refusal.ability == ABILITY_OPERATION) {
            out->own_words = has_words;
            no_operation(out, out->text);
        } else if (http_status >= 500 && is_shared_cache(&out->refusal, out->text)) {
            trouble(out, http_status);
        } else if (http_status >= 500) {
            out->engine_error_action = ENGINE_ERROR_PASS_AS_400;
        }
    } else if (http_status == 501) {
        out->own_words = has_words && out->text[0] != '\0';
        out->perhaps_stream = true;
        no_operation(out, out->text);
    } else if (http_status >= 500 && blames_input(out->text)) {
        out->engine_error_action = ENGINE_ERROR_PASS_AS_400;
    } else if (http_status >= 500 && blames_attachment(out->text)) {
        out->cause = CAUSE(REQUEST);
        out->engine_error_action = ENGINE_ERROR_PASS_AS_400;
    } else if (http_status >= 500 || gave_up(http_status)) {
        trouble(out, http_status);
    }
}

void engine_error_says_when(struct engine_error *error, unsigned http_status)
{
    if (http_status != 503 || error->cause != CAUSE(ENGINE_ERROR))
        return;
    error->cause = CAUSE(UNSPECIFIED);
    error->status = GRPC_RESOURCE_EXHAUSTED;
}

void engine_error_event(struct engine_error *out, uint32_t error_status, const void *body,
                        size_t n)
{
    /* Nothing but the status of an error says that the client is to blame. */
    unsigned status = error_status >= 400 && error_status <= 599 ? error_status : 500;

    engine_error_http(out, status, body, n, false);
}

size_t engine_error_appended(const void *bytes, size_t n)
{
    static const char mark[] = ROUTER_LOST;
    const char *text = bytes;
    size_t at = n;

    /* The words are short, and the text of a model ends in a quote at least. */
    while (at > 0 && n - at < 256 && strchr("\"{}\n\r", text[at - 1]) == NULL)
        at--;
    for (; at + strlen(mark) <= n; at++)
        if (memcmp(text + at, mark, strlen(mark)) == 0)
            return n - at;
    return 0;
}
