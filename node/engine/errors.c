/* errors.c - what an engine's HTTP error means. */
#include "node/engine/errors.h"

#include <stdio.h>
#include <string.h>

#include "base/attrs.h"
#include "node/stream/meter.h"

static bool has(const char *text, const char *part)
{
    return strcasestr(text, part) != NULL;
}

static bool ends(const char *text, const char *part)
{
    size_t n = strlen(text), m = strlen(part);

    return n >= m && strcmp(text + n - m, part) == 0;
}

/* llama-server's 500s for what the client sent: JSON that does not parse, a template that
 * refuses the messages, an image for a model without vision, a member that is missing. */
static bool blames_input(const char *text)
{
    static const char *const marks[] = {"json.exception",        "input is not supported",
                                        "Jinja Exception",       "Failed to parse messages",
                                        "Failed to parse tools", "Unsupported param"};

    for (size_t i = 0; i < ARRAY_LEN(marks); i++)
        if (has(text, marks[i]))
            return true;
    return ends(text, " is required") || ends(text, "to be an array");
}

static bool names_no_model(const char *text)
{
    return has(text, "model") && (ends(text, "not found") || has(text, "does not exist") ||
                                  has(text, "not found, try pulling"));
}

/* A router's own 404, not the API's: llama.cpp, FastAPI, Go. */
static bool names_no_path(const char *text)
{
    return strcmp(text, "File Not Found") == 0 || strcmp(text, "Not Found") == 0 ||
           strncmp(text, "404 page not found", 18) == 0 || text[0] == '\0';
}

static void fail(struct engine_error *out, enum grpc_status status, const char *text)
{
    out->engine_error_action = ENGINE_ERROR_FAIL;
    out->status = status;
    if (text != out->text)
        (void)strlcpy(out->text, text, sizeof(out->text));
}

void engine_error_http(struct engine_error *out, unsigned http_status, const void *body,
                       size_t n, bool usage_added)
{
    uint32_t inner;
    char text[192];

    memset(out, 0, sizeof(*out));
    (void)meter_error(body, n, out->text, sizeof(out->text), &inner);
    if (usage_added && http_status == 400 && has(out->text, "stream_options")) {
        out->engine_error_action = ENGINE_ERROR_WITHOUT_USAGE;
    } else if (http_status == 401 || http_status == 403) {
        fail(out, GRPC_UNAVAILABLE, "the engine refuses this node's API key");
    } else if (http_status == 429) {
        fail(out, GRPC_RESOURCE_EXHAUSTED,
             out->text[0] != '\0' ? out->text : "the engine is full");
    } else if ((http_status == 404 || http_status == 400) && names_no_model(out->text)) {
        fail(out, GRPC_NOT_FOUND, out->text);
    } else if ((http_status == 404 || http_status == 405) && names_no_path(out->text)) {
        fail(out, GRPC_UNIMPLEMENTED, "the engine does not speak this API");
    } else if (http_status >= 400 && http_status < 500) {
        out->engine_error_action = ENGINE_ERROR_PASS;
    } else if (http_status == 501) {
        fail(out, GRPC_UNIMPLEMENTED,
             out->text[0] != '\0' ? out->text : "the engine does not speak this API");
    } else if (http_status == 503 && has(out->text, "Loading model")) {
        fail(out, GRPC_UNAVAILABLE, "the engine is loading its model");
    } else if (http_status == 502 || http_status == 503 || http_status == 504 ||
               http_status == 529) {
        (void)strlcpy(text, out->text, sizeof(text));
        (void)snprintf(out->text, sizeof(out->text), "the engine answered %u: %s", http_status,
                       text);
        fail(out, GRPC_UNAVAILABLE, out->text);
    } else if (http_status == 500 && blames_input(out->text)) {
        out->engine_error_action = ENGINE_ERROR_PASS_AS_400;
    } else {
        (void)strlcpy(text, out->text, sizeof(text));
        (void)snprintf(out->text, sizeof(out->text), "the engine answered %u: %s", http_status,
                       text);
        fail(out, GRPC_INTERNAL, out->text);
    }
}

enum grpc_status engine_error_event(uint32_t error_status)
{
    if (error_status == 429)
        return GRPC_RESOURCE_EXHAUSTED;
    if (error_status == 503 || error_status == 529)
        return GRPC_UNAVAILABLE;
    if (error_status >= 400 && error_status < 500)
        return GRPC_INVALID_ARGUMENT;
    return GRPC_INTERNAL;
}
