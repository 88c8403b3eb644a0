/*
 * agent.c - the Inference service apart from Infer itself: Describe, WatchLoad, health, and
 * the bookkeeping that they and the coordinators see.
 */
#include "node/agent.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "node/infer.h"
#include "node/text/pacer.h"
#include "proto/health_service.h"

#define WATCH_DEFAULT_MS 1000
#define WATCH_MIN_MS     100
#define WATCH_MAX_MS     60000

/* ---- what changes ---------------------------------------------------------------------- */

void agent_listen(struct agent *agent, struct agent_listener *listener)
{
    listener->prev = agent->listeners.prev;
    listener->next = &agent->listeners;
    listener->prev->next = listener;
    listener->next->prev = listener;
}

void agent_unlisten(struct agent *agent, struct agent_listener *listener)
{
    (void)agent;
    if (listener->next == NULL)
        return;
    listener->prev->next = listener->next;
    listener->next->prev = listener->prev;
    listener->prev = NULL;
    listener->next = NULL;
}

static void on_turn(struct deferred *deferred)
{
    infer_turn(CONTAINER_OF(deferred, struct agent, turn));
}

void agent_changed(struct agent *agent, unsigned changes)
{
    struct agent_listener *listener, *next;

    if ((changes & AGENT_MODELS_CHANGED) != 0)
        agent->models_version++;
    loop_defer(agent->loop, &agent->turn, on_turn);
    for (listener = agent->listeners.next; listener != &agent->listeners; listener = next) {
        next = listener->next;
        listener->on_change(listener, changes);
    }
}

static void set_health(struct agent *agent)
{
    const struct engine_facts *facts = engine_facts(agent->engine);
    bool serving = facts->reachable && !facts->loading && !agent->draining;

    health_service_set(agent->health, "", serving);
    health_service_set(agent->health, "drover.v1.Inference", serving);
}

static void resize(struct agent *agent, const struct engine_facts *facts)
{
    uint32_t slots = agent->config.slots != 0 ? agent->config.slots : facts->slots;
    uint32_t queue;

    if (slots == 0)
        slots = 1;
    queue = agent->config.queue >= 0 ? (uint32_t)agent->config.queue : (slots + 1) / 2;
    admission_resize(&agent->admission, slots, queue);
}

static const char *kind_name(uint32_t kind)
{
    const ProtobufCEnumValue *value =
        protobuf_c_enum_descriptor_get_value(&drover__v1__engine_kind__descriptor, (int)kind);

    return value == NULL ? "UNKNOWN" : value->name;
}

static void log_facts(const struct agent *agent, const struct engine_facts *facts)
{
    if (facts->reachable && !facts->loading)
        log_info("event=engine state=ready kind=%s version=%s models=%u slots=%u queue=%u",
                 kind_name(facts->kind), log_quote(facts->version),
                 (unsigned)facts->models_count, (unsigned)agent->admission.slots,
                 (unsigned)agent->admission.queue);
    else
        log_warn("event=engine state=%s kind=%s detail=%s",
                 facts->loading ? "loading" : "unreachable", kind_name(facts->kind),
                 log_quote(facts->detail));
    if (facts->reachable && !facts->loading && agent->config.slots == 0 && facts->slots == 0)
        log_warn(
            "event=slots_unknown slots=1 hint=\"this engine does not say how many requests "
            "it runs at once: give --slots\"");
}

static void on_facts(void *data)
{
    struct agent *agent = data;
    const struct engine_facts *facts = engine_facts(agent->engine);
    unsigned changes = 0;

    resize(agent, facts);
    if (facts->has_load && facts->looked_mono_us != agent->looked_mono_us &&
        facts->looked_mono_us != 0)
        admission_looked(&agent->admission, facts->running, facts->looked_mono_us);
    agent->looked_mono_us = facts->looked_mono_us;
    if (facts->reachable != agent->told.reachable || facts->loading != agent->told.loading ||
        facts->kind != agent->told.kind)
        log_facts(agent, facts);
    if (describe_differs(facts, &agent->described)) {
        agent->described = *facts;
        changes |= AGENT_MODELS_CHANGED;
    }
    if (facts->reachable != agent->told.reachable || facts->loading != agent->told.loading ||
        facts->running != agent->told.running || facts->queued != agent->told.queued)
        changes |= AGENT_LOAD_CHANGED;
    if (!facts->reachable && agent->told.reachable)
        agent->no_stream_options = false; /* another engine may come up in its place */
    agent->told = *facts;
    set_health(agent);
    loop_defer(agent->loop, &agent->turn, on_turn); /* a slot may have become free */
    if (changes != 0)
        agent_changed(agent, changes);
}

void agent_drain(struct agent *agent)
{
    if (agent->draining)
        return;
    agent->draining = true;
    set_health(agent);
    agent_changed(agent, AGENT_LOAD_CHANGED);
}

bool agent_idle(const struct agent *agent)
{
    const struct admission *admission = &agent->admission;

    return admission->active == 0 && admission->queued == 0 && admission->questions == 0;
}

void agent_load(struct agent *agent, Drover__V1__LoadReport *out)
{
    const struct engine_facts *facts = engine_facts(agent->engine);

    drover__v1__load_report__init(out);
    out->seq = ++agent->load_seq;
    out->running = admission_busy(&agent->admission);
    out->queued = agent->admission.queued;
    out->engine_reachable = facts->reachable;
    out->loading = facts->loading;
    out->draining = agent->draining;
    out->kv_used_fraction = facts->kv_used_fraction >= 0 ? facts->kv_used_fraction : 0;
    out->engine_detail = (char *)(uintptr_t)facts->detail; /* protobuf-c knows no const */
    out->progress = facts->progress + agent->output_tokens;
}

void agent_describe(struct agent *agent, struct describe *out)
{
    describe_fill(out, engine_facts(agent->engine), agent->admission.slots,
                  agent->admission.queue, AGENT_MAX_REQUEST_BYTES);
}

/* ---- tokens ---------------------------------------------------------------------------- */

void agent_set_tokens(struct agent *agent, char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1])
{
    memcpy(agent->tokens, tokens, sizeof(agent->tokens));
    agent->has_token = tokens[0][0] != '\0';
}

/* All tokens are always tried, so that the time it takes does not tell which one it was. */
static bool proves(const struct agent *agent, const struct server_call *call, const char *name)
{
    uint8_t wanted[JOIN_PROOF_BYTES];
    size_t n = 0;
    const uint8_t *proof = server_call_metadata(call, name, &n);
    bool good = false;

    if (proof == NULL || n != JOIN_PROOF_BYTES)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(agent->tokens); i++) {
        if (agent->tokens[i][0] == '\0')
            continue;
        join_call_proof(wanted, agent->tokens[i], agent->config.instance_id);
        good |= join_equal(proof, wanted);
    }
    return good;
}

bool agent_authorised(const struct agent *agent, const struct server_call *call)
{
    return !agent->has_token || proves(agent, call, JOIN_CALL_METADATA) ||
           proves(agent, call, JOIN_CALL_PREVIOUS_METADATA);
}

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

struct watcher {
    struct server_call *call; /* until gone or finished */
    struct agent *agent;
    struct pacer pacer;
};

static void watch_send(struct pacer *pacer, unsigned changes)
{
    struct watcher *watcher = CONTAINER_OF(pacer, struct watcher, pacer);
    Drover__V1__LoadReport load;

    (void)changes;
    if (server_call_queued(watcher->call) > 64 * 1024)
        return; /* a reader that does not read gets fewer reports */
    agent_load(watcher->agent, &load);
    if (server_call_send(watcher->call, &load.base) == 0)
        return;
    pacer_stop(pacer);
    server_call_set_data(watcher->call, NULL);
    server_call_finish(watcher->call, GRPC_INTERNAL, "out of memory");
    free(watcher);
}

static void watch_on_start(struct server_call *call, void *data)
{
    struct watcher *watcher;

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
    server_call_set_data(call, watcher);
}

static void watch_on_message(struct server_call *call, const uint8_t *message, size_t n)
{
    struct watcher *watcher = server_call_data(call);
    Drover__V1__WatchLoadRequest *request;
    struct error err = {0};
    uint32_t interval_ms;

    if (watcher == NULL)
        return;
    request = (Drover__V1__WatchLoadRequest *)wire_unpack(
        &drover__v1__watch_load_request__descriptor, &watcher->agent->arena, message, n, &err);
    if (request == NULL) {
        server_call_set_data(call, NULL);
        server_call_finish(call, GRPC_INVALID_ARGUMENT, err.text);
        free(watcher);
        return;
    }
    interval_ms = request->interval_ms == 0 ? WATCH_DEFAULT_MS : request->interval_ms;
    if (interval_ms < WATCH_MIN_MS)
        interval_ms = WATCH_MIN_MS;
    if (interval_ms > WATCH_MAX_MS)
        interval_ms = WATCH_MAX_MS;
    pacer_start(&watcher->pacer, watcher->agent, interval_ms * US_PER_MS, watch_send);
    watch_send(&watcher->pacer, 0);
}

static void watch_on_gone(struct server_call *call)
{
    struct watcher *watcher = server_call_data(call);

    if (watcher == NULL)
        return;
    pacer_stop(&watcher->pacer);
    server_call_set_data(call, NULL);
    free(watcher);
}

static const struct server_handler watch_handler = {
    .on_start = watch_on_start,
    .on_message = watch_on_message,
    .on_gone = watch_on_gone,
};

/* ---- life ------------------------------------------------------------------------------ */

int agent_create(struct agent **out, struct loop *loop, struct engine *engine,
                 const struct agent_config *config, struct error *err)
{
    struct agent *agent = calloc(1, sizeof(*agent));
    int rc;

    *out = NULL;
    if (agent == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    agent->loop = loop;
    agent->engine = engine;
    agent->config = *config;
    agent->listeners.prev = &agent->listeners;
    agent->listeners.next = &agent->listeners;
    admission_init(&agent->admission, 1, 0);
    wire_arena_init(&agent->arena);
    rc = health_service_create(&agent->health, err);
    if (rc != 0) {
        agent_destroy(agent);
        return rc;
    }
    agent->methods[0] = (struct server_method){.path = "/drover.v1.Inference/Infer",
                                               .handler = &infer_handler,
                                               .max_message_bytes = AGENT_MAX_REQUEST_BYTES,
                                               .data = agent};
    agent->methods[1] = (struct server_method){
        .path = "/drover.v1.Inference/Describe", .handler = &describe_handler, .data = agent};
    agent->methods[2] = (struct server_method){
        .path = "/drover.v1.Inference/WatchLoad", .handler = &watch_handler, .data = agent};
    health_service_methods(agent->health, agent->methods + 3);
    engine_on_facts(engine, on_facts, agent);
    agent->told.kind = UINT32_MAX; /* so that the first facts are news */
    on_facts(agent);
    *out = agent;
    return 0;
}

void agent_destroy(struct agent *agent)
{
    if (agent == NULL)
        return;
    engine_on_facts(agent->engine, NULL, NULL);
    loop_undefer(agent->loop, &agent->turn);
    infer_free_all(agent);
    wire_arena_finish(&agent->arena);
    health_service_destroy(agent->health);
    explicit_bzero(agent->tokens, sizeof(agent->tokens));
    free(agent);
}
