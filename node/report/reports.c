/* reports.c - the calls that ask about the node: Describe and WatchLoad. */
#include "node/report/reports.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "node/agent.h"
#include "node/report/load_reporter.h"
#include "proto/drover_inference.pb-c.h"
#include "proto/wire.h"

#define WATCH_DEFAULT_MS 1000
#define WATCH_MIN_MS     100
#define WATCH_MAX_MS     60000

/* ---- Describe -------------------------------------------------------------------------- */

static void finish_with(struct server_call *call, const ProtobufCMessage *message)
{
    server_call_set_data(call, NULL);
    if (server_call_send(call, message) == 0)
        server_call_finish(call, GRPC_OK, NULL);
    else
        server_call_finish(call, GRPC_INTERNAL, "out of memory");
}

static void ignore_gone(struct server_call *call)
{
    (void)call;
}

static void describe_on_start(struct server_call *call, void *data)
{
    server_call_set_data(call, data);
}

static void describe_on_message(struct server_call *call, const uint8_t *message, size_t n)
{
    struct agent *agent = server_call_data(call);
    const struct engine_facts *facts = engine_facts(agent->engine);
    Drover__V1__DescribeResponse response = DROVER__V1__DESCRIBE_RESPONSE__INIT;
    struct describe *d = malloc(sizeof(*d));
    Drover__V1__LoadReport load;

    (void)message; /* the request has no fields; unknown ones may come */
    (void)n;
    if (d == NULL) {
        server_call_finish(call, GRPC_INTERNAL, "out of memory");
        return;
    }
    agent_describe(agent, d);
    agent_load(agent, &load);
    response.node_id = agent->config.node_id;
    response.instance_id.data = agent->config.instance_id;
    response.instance_id.len = sizeof(agent->config.instance_id);
    response.engine = (Drover__V1__EngineKind)facts->kind;
    response.engine_version = (char *)(uintptr_t)facts->version; /* protobuf-c knows no const */
    response.agent_version = (char *)(uintptr_t)DROVER_VERSION;
    response.capacity = &d->capacity;
    response.n_models = d->count;
    response.models = d->list;
    response.load = &load;
    finish_with(call, &response.base);
    free(d);
}

static const struct server_handler describe_handler = {
    .on_start = describe_on_start,
    .on_message = describe_on_message,
    .on_gone = ignore_gone,
};

/* ---- WatchLoad ------------------------------------------------------------------------- */

struct load_watcher {
    struct server_call *call; /* until gone or finished */
    struct agent *agent;      /* borrowed */
    struct wire_arena arena;
    struct load_reporter load_reporter;
};

static void forget(struct load_watcher *watcher)
{
    load_reporter_stop(&watcher->load_reporter);
    wire_arena_finish(&watcher->arena);
    free(watcher);
}

static void watch_send(struct load_reporter *load_reporter, unsigned changes)
{
    struct load_watcher *watcher =
        CONTAINER_OF(load_reporter, struct load_watcher, load_reporter);
    Drover__V1__LoadReport load;

    (void)changes;
    if (server_call_queued(watcher->call) > 64 * 1024)
        return; /* a reader that does not read gets fewer reports */
    agent_load(watcher->agent, &load);
    if (server_call_send(watcher->call, &load.base) == 0)
        return;
    server_call_set_data(watcher->call, NULL);
    server_call_finish(watcher->call, GRPC_INTERNAL, "out of memory");
    forget(watcher);
}

static void watch_on_start(struct server_call *call, void *data)
{
    struct load_watcher *watcher;

    if (!agent_authorised(data, call)) {
        server_call_finish(call, GRPC_UNAUTHENTICATED, "bad or missing call proof");
        return;
    }
    watcher = calloc(1, sizeof(*watcher));
    if (watcher == NULL) {
        server_call_finish(call, GRPC_INTERNAL, "out of memory");
        return;
    }
    watcher->call = call;
    watcher->agent = data;
    wire_arena_init(&watcher->arena);
    server_call_set_data(call, watcher);
}

static void watch_on_message(struct server_call *call, const uint8_t *message, size_t n)
{
    struct load_watcher *watcher = server_call_data(call);
    Drover__V1__WatchLoadRequest *request;
    struct error err = {0};
    uint32_t interval_ms;

    if (watcher == NULL)
        return;
    request = (Drover__V1__WatchLoadRequest *)wire_unpack(
        &drover__v1__watch_load_request__descriptor, &watcher->arena, message, n, &err);
    if (request == NULL) {
        server_call_set_data(call, NULL);
        server_call_finish(call, GRPC_INVALID_ARGUMENT, err.text);
        forget(watcher);
        return;
    }
    interval_ms = request->interval_ms == 0 ? WATCH_DEFAULT_MS : request->interval_ms;
    if (interval_ms < WATCH_MIN_MS)
        interval_ms = WATCH_MIN_MS;
    if (interval_ms > WATCH_MAX_MS)
        interval_ms = WATCH_MAX_MS;
    load_reporter_start(&watcher->load_reporter, watcher->agent, interval_ms * US_PER_MS,
                        watch_send);
    watch_send(&watcher->load_reporter, 0);
}

static void watch_on_gone(struct server_call *call)
{
    struct load_watcher *watcher = server_call_data(call);

    if (watcher == NULL)
        return;
    server_call_set_data(call, NULL);
    forget(watcher);
}

static const struct server_handler watch_handler = {
    .on_start = watch_on_start,
    .on_message = watch_on_message,
    .on_gone = watch_on_gone,
};

/* ---- reports.h ------------------------------------------------------------------------- */

void reports_methods(struct agent *agent, struct server_method out[REPORTS_METHODS])
{
    out[0] = (struct server_method){
        .path = "/drover.v1.Inference/Describe", .handler = &describe_handler, .data = agent};
    out[1] = (struct server_method){
        .path = "/drover.v1.Inference/WatchLoad", .handler = &watch_handler, .data = agent};
}
