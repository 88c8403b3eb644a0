/*
 * probe.c - asks one node whether it can serve.
 *
 * One question at a time:
 *
 *   WAITING -> CHECKING             the timer; probe_now(); the connection broke
 *   CHECKING -> DESCRIBING          SERVING and a description is due, or NOT_SERVING and the
 *                                   reason is wanted
 *   CHECKING, DESCRIBING -> WAITING an answer, or none in time; on_result runs
 */
#include "health/nodes/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/text/text.h"
#include "health/registry/identity.h"
#include "proto/call_proofs.h"
#include "proto/grpc_health_v1.pb-c.h"
#include "proto/rpc/grpc/client.h"
#include "proto/wire.h"

#define EAGER_US           (50 * US_PER_MS)
#define DESCRIBE_EVERY     5u /* checks */
#define LOAD_INTERVAL_MS   1000u
#define MAX_DESCRIBE_BYTES (512u * 1024)

enum probe_phase {
    PROBE_WAITING = 0,
    PROBE_CHECKING,
    PROBE_DESCRIBING,
};

struct probe {
    struct loop *loop;       /* borrowed */
    struct channel *channel; /* owned */
    const struct probe_events *events;
    void *data;
    uint64_t interval_us, timeout_us;
    char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1]; /* newest first; "" = none */
    bool watch_load;

    enum probe_phase phase;
    enum probe_pace pace;
    struct timer timer; /* running iff phase == PROBE_WAITING */
    struct call *call;  /* the question; NULL iff phase == PROBE_WAITING */
    uint64_t asked_mono_us;
    uint32_t rtt_us;
    bool serving;            /* CHECKING: the answer; DESCRIBING: what the check said */
    bool answered;           /* a message came for `call` */
    enum node_reason reason; /* so far */
    char detail[256];

    unsigned checks_until_describe; /* 0 = due */
    bool described;                 /* instance_id is known */
    uint8_t instance_id[JOIN_INSTANCE_BYTES];
    struct call *load_call; /* WatchLoad; NULL = not open */
    bool load_refused;      /* it refused the stream; not asked before the next Describe */
    struct wire_arena arena;
};

static void on_timer(struct timer *timer);

/* ---- results ----------------------------------------------------------------------------- */

static uint64_t next_delay_us(const struct probe *probe)
{
    uint64_t base = probe->interval_us, waited;

    switch (probe->pace) {
    case PROBE_STEADY:
        break;
    case PROBE_DOUBTING:
        base /= 4;
        break;
    case PROBE_EAGER:
        base = base < EAGER_US ? base : EAGER_US;
        break;
    }
    /* 80 % to 120 %. */
    base = base * 4 / 5 + arc4random_uniform((uint32_t)(base * 2 / 5) + 1);
    if (probe->pace != PROBE_DOUBTING)
        return base;
    /* A probe that timed out has already used up its interval. */
    waited = clock_mono_us() - probe->asked_mono_us;
    return waited < base ? base - waited : 0;
}

/* The question is over.  Reports to the owner and waits for the next one. */
static void deliver(struct probe *probe)
{
    struct probe_result result = {
        .reason = probe->reason, .rtt_us = probe->rtt_us, .detail = probe->detail};

    probe->phase = PROBE_WAITING;
    probe->call = NULL;
    if (probe->checks_until_describe != 0)
        probe->checks_until_describe--;
    probe->events->on_result(&result, probe->data);
    timer_start(probe->loop, &probe->timer, next_delay_us(probe), on_timer);
}

/* The question failed for a reason that says nothing of the node (no memory, no descriptors
 * here): as if it had not been asked. */
static void retract(struct probe *probe)
{
    probe->phase = PROBE_WAITING;
    probe->call = NULL;
    timer_start(probe->loop, &probe->timer, probe->interval_us, on_timer);
}

static void set_reason(struct probe *probe, enum node_reason reason, const char *detail)
{
    probe->reason = reason;
    (void)snprintf(probe->detail, sizeof(probe->detail), "%s", detail);
}

static void bad_answer(struct probe *probe, const char *what, const struct error *err)
{
    probe->reason = NODE_REASON_PROTOCOL;
    (void)snprintf(probe->detail, sizeof(probe->detail), "%s: %.200s", what, err->text);
}

/* Why a question got no good answer. */
static void failed(struct probe *probe, const struct call_result *result)
{
    enum node_reason reason = NODE_REASON_PROTOCOL;
    const char *detail =
        result->message[0] != '\0' ? result->message : grpc_status_name(result->status);

    switch (result->end) {
    case CALL_END_CONNECT:
    case CALL_END_LOST:
    case CALL_END_REFUSED:
        reason = NODE_REASON_CONNECT_FAILED;
        break;
    case CALL_END_DEADLINE:
        reason = channel_state(probe->channel) == CHANNEL_READY ? NODE_REASON_PROBE_TIMEOUT
                                                                : NODE_REASON_CONNECT_FAILED;
        break;
    case CALL_END_STATUS:
        if (result->status == GRPC_DEADLINE_EXCEEDED)
            reason = NODE_REASON_PROBE_TIMEOUT;
        else if (result->status == GRPC_UNAVAILABLE)
            reason = NODE_REASON_NOT_SERVING;
        break;
    case CALL_END_PROTOCOL:
    case CALL_END_LOCAL:
        break;
    }
    set_reason(probe, reason, detail);
}

/* ---- load reports ------------------------------------------------------------------------ */

static void on_load_message(struct call *call, const uint8_t *message, size_t n, void *data)
{
    struct probe *probe = data;
    ProtobufCMessage *load;

    (void)call;
    load = wire_unpack(&drover__v1__load_report__descriptor, &probe->arena, message, n, NULL);
    if (load != NULL)
        probe->events->on_load((const Drover__V1__LoadReport *)load, probe->data);
}

static void on_load_end(struct call *call, const struct call_result *result, void *data)
{
    struct probe *probe = data;

    (void)call;
    probe->load_call = NULL;
    /* Any other end is a reason to try again after the next passed check. */
    if (result->end == CALL_END_STATUS &&
        (result->status == GRPC_UNIMPLEMENTED || result->status == GRPC_UNAUTHENTICATED ||
         result->status == GRPC_PERMISSION_DENIED))
        probe->load_refused = true;
}

static void watch_load(struct probe *probe)
{
    static const struct call_handler handler = {.on_message = on_load_message,
                                                .on_end = on_load_end};
    Drover__V1__WatchLoadRequest request = DROVER__V1__WATCH_LOAD_REQUEST__INIT;
    char *tokens[TOKENS_MAX];
    struct call_proofs proofs;
    struct call_options options = {.path = "/drover.v1.Inference/WatchLoad",
                                   .metadata = proofs.metadata};

    if (!probe->watch_load || !probe->described || probe->load_refused ||
        probe->load_call != NULL)
        return;
    for (size_t i = 0; i < TOKENS_MAX; i++)
        tokens[i] = probe->tokens[i][0] == '\0' ? NULL : probe->tokens[i];
    options.metadata_count = call_proofs_make(&proofs, tokens, probe->instance_id);
    request.interval_ms = LOAD_INTERVAL_MS;
    if (call_start(&probe->load_call, probe->channel, &options, &handler, probe, NULL) != 0) {
        probe->load_call = NULL;
        return;
    }
    if (call_send(probe->load_call, &request.base) != 0) {
        call_cancel(probe->load_call);
        probe->load_call = NULL;
        return;
    }
    call_half_close(probe->load_call);
}

/* ---- questions --------------------------------------------------------------------------- */

/* Sends one unary question. */
static void ask(struct probe *probe, enum probe_phase phase, const char *path,
                const ProtobufCMessage *request, const struct call_handler *handler)
{
    struct call_options options = {
        .path = path, .timeout_us = probe->timeout_us, .max_message_bytes = MAX_DESCRIBE_BYTES};

    probe->answered = false;
    probe->call = NULL;
    if (call_start(&probe->call, probe->channel, &options, handler, probe, NULL) != 0 ||
        call_send(probe->call, request) != 0) {
        if (probe->call != NULL)
            call_cancel(probe->call);
        retract(probe);
        return;
    }
    call_half_close(probe->call);
    probe->phase = phase;
}

/* The reason why a node that says NOT_SERVING does so, from its load; the node's own words are
 * the detail. */
static void explain(struct probe *probe, const Drover__V1__DescribeResponse *said)
{
    const Drover__V1__LoadReport *load = said->load;
    enum node_reason reason =
        load == NULL ? NODE_REASON_NONE : identity_load_reason(load, said->n_models);

    set_reason(probe, reason == NODE_REASON_NONE ? NODE_REASON_NOT_SERVING : reason,
               load == NULL || load->engine_detail[0] == '\0' ? "not serving"
                                                              : load->engine_detail);
}

static void on_describe_message(struct call *call, const uint8_t *message, size_t n, void *data)
{
    struct probe *probe = data;
    const Drover__V1__DescribeResponse *said;
    struct error err = {0};
    enum node_reason reason;

    (void)call;
    if (probe->answered)
        return;
    probe->answered = true;
    said = (const Drover__V1__DescribeResponse *)wire_unpack(
        &drover__v1__describe_response__descriptor, &probe->arena, message, n, &err);
    if (said == NULL) {
        bad_answer(probe, "Describe", &err);
        return;
    }
    if (!text_is_name(said->node_id, NODE_NAME_BYTES - 1) ||
        said->instance_id.len != JOIN_INSTANCE_BYTES) {
        set_reason(probe, NODE_REASON_PROTOCOL, "Describe: bad node_id or instance_id");
        return;
    }
    probe->load_refused = false; /* it may be another instance, or have another token by now */
    probe->described = true;
    memcpy(probe->instance_id, said->instance_id.data, JOIN_INSTANCE_BYTES);
    if (probe->serving)
        set_reason(probe, NODE_REASON_NONE, "");
    else
        explain(probe, said);
    reason = probe->events->on_describe(said, probe->data);
    if (reason != NODE_REASON_NONE)
        set_reason(probe, reason, "Describe: not the node that was expected, or a broken rule");
}

static void on_describe_end(struct call *call, const struct call_result *result, void *data)
{
    struct probe *probe = data;

    (void)call;
    if (result->end == CALL_END_LOCAL) {
        retract(probe);
        return;
    }
    if (result->end == CALL_END_STATUS && result->status == GRPC_UNIMPLEMENTED) {
        set_reason(probe, NODE_REASON_PROTOCOL,
                   "it does not know drover.v1: another major version of the protocol, or no "
                   "drover-node");
    } else if (result->status != GRPC_OK) {
        failed(probe, result);
    } else if (!probe->answered) {
        set_reason(probe, NODE_REASON_PROTOCOL, "Describe: no answer in the answer");
    } else if (probe->reason == NODE_REASON_NONE) {
        probe->checks_until_describe = DESCRIBE_EVERY;
        watch_load(probe);
    }
    deliver(probe);
}

static void describe(struct probe *probe)
{
    static const struct call_handler handler = {.on_message = on_describe_message,
                                                .on_end = on_describe_end};
    Drover__V1__DescribeRequest request = DROVER__V1__DESCRIBE_REQUEST__INIT;

    ask(probe, PROBE_DESCRIBING, "/drover.v1.Inference/Describe", &request.base, &handler);
}

static void on_check_message(struct call *call, const uint8_t *message, size_t n, void *data)
{
    struct probe *probe = data;
    const Grpc__Health__V1__HealthCheckResponse *said;
    struct error err = {0};

    (void)call;
    probe->answered = true;
    said = (const Grpc__Health__V1__HealthCheckResponse *)wire_unpack(
        &grpc__health__v1__health_check_response__descriptor, &probe->arena, message, n, &err);
    if (said == NULL) {
        bad_answer(probe, "health check", &err);
        return;
    }
    probe->serving =
        said->status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    set_reason(probe, probe->serving ? NODE_REASON_NONE : NODE_REASON_NOT_SERVING, "");
}

static void on_check_end(struct call *call, const struct call_result *result, void *data)
{
    struct probe *probe = data;
    uint64_t took_us = clock_mono_us() - probe->asked_mono_us;

    (void)call;
    if (result->end == CALL_END_LOCAL) {
        retract(probe);
        return;
    }
    if (result->status != GRPC_OK) {
        failed(probe, result);
        deliver(probe);
        return;
    }
    if (!probe->answered)
        set_reason(probe, NODE_REASON_PROTOCOL, "health check: no answer in the answer");
    probe->rtt_us = took_us > UINT32_MAX ? UINT32_MAX : (uint32_t)took_us;
    if (probe->reason == NODE_REASON_PROTOCOL) {
        deliver(probe);
    } else if (!probe->serving || probe->checks_until_describe == 0) {
        describe(probe);
    } else {
        watch_load(probe);
        deliver(probe);
    }
}

static void check(struct probe *probe)
{
    static const struct call_handler handler = {.on_message = on_check_message,
                                                .on_end = on_check_end};
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;

    probe->rtt_us = 0;
    probe->serving = false;
    set_reason(probe, NODE_REASON_PROTOCOL, "");
    probe->asked_mono_us = clock_mono_us();
    /* Skip the channel's own back-off: the probe's interval is the back-off. */
    channel_connect(probe->channel);
    ask(probe, PROBE_CHECKING, "/grpc.health.v1.Health/Check", &request.base, &handler);
}

static void on_timer(struct timer *timer)
{
    check(CONTAINER_OF(timer, struct probe, timer));
}

void probe_now(struct probe *probe)
{
    if (probe->phase == PROBE_WAITING)
        timer_start(probe->loop, &probe->timer, 0, on_timer);
}

void probe_describe(struct probe *probe)
{
    probe->checks_until_describe = 0;
    probe_now(probe);
}

/* ---- life -------------------------------------------------------------------------------- */

static void copy_tokens(struct probe *probe, char *const tokens[TOKENS_MAX])
{
    explicit_bzero(probe->tokens, sizeof(probe->tokens));
    for (size_t i = 0; i < TOKENS_MAX && tokens[i] != NULL; i++)
        if (strlcpy(probe->tokens[i], tokens[i], sizeof(probe->tokens[i])) >=
            sizeof(probe->tokens[i]))
            explicit_bzero(probe->tokens[i], sizeof(probe->tokens[i]));
}

static void on_state(struct channel *channel, enum channel_state state, const char *why,
                     void *data)
{
    struct probe *probe = data;

    (void)channel;
    (void)why;
    switch (state) {
    case CHANNEL_READY:
        /* It may be another process than before the connection was lost. */
        probe->checks_until_describe = 0;
        break;
    case CHANNEL_BACKOFF:
    case CHANNEL_IDLE:
        /* The connection broke: check at once, not at the next interval. */
        if (probe->checks_until_describe != 0) {
            probe->checks_until_describe = 0;
            probe_now(probe);
        }
        break;
    case CHANNEL_CONNECTING:
        break;
    }
}

int probe_create(struct probe **out, struct loop *loop, const struct probe_config *config,
                 const struct probe_events *events, void *data, struct error *err)
{
    struct probe *probe = calloc(1, sizeof(*probe));
    struct channel_config cc = {
        .addr = config->addr,
        .tls = config->tls,
        .tls_name = config->tls_name,
        .connect_timeout_us = config->timeout_us,
        .backoff_min_us = 60 * US_PER_S,
        .backoff_max_us = 60 * US_PER_S,
        .keepalive_us = UINT64_MAX,
        .stream_window_bytes = 1024u * 1024,
        .max_message_bytes = MAX_DESCRIBE_BYTES,
        .on_state = on_state,
        .data = probe,
    };
    int rc;

    *out = NULL;
    if (probe == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    probe->loop = loop;
    probe->events = events;
    probe->data = data;
    probe->interval_us = config->interval_us;
    probe->timeout_us = config->timeout_us;
    copy_tokens(probe, config->tokens);
    probe->watch_load = config->watch_load;
    wire_arena_init(&probe->arena);
    rc = channel_create(&probe->channel, loop, &cc, err);
    if (rc != 0) {
        wire_arena_finish(&probe->arena);
        explicit_bzero(probe->tokens, sizeof(probe->tokens));
        free(probe);
        return rc;
    }
    timer_start(loop, &probe->timer, 0, on_timer);
    *out = probe;
    return 0;
}

void probe_destroy(struct probe *probe)
{
    if (probe == NULL)
        return;
    timer_stop(probe->loop, &probe->timer);
    channel_destroy(probe->channel);
    wire_arena_finish(&probe->arena);
    explicit_bzero(probe->tokens, sizeof(probe->tokens));
    free(probe);
}

void probe_set_pace(struct probe *probe, enum probe_pace pace)
{
    probe->pace = pace;
}

void probe_set_timing(struct probe *probe, uint64_t interval_us, uint64_t timeout_us)
{
    probe->interval_us = interval_us;
    probe->timeout_us = timeout_us;
}

void probe_set_tokens(struct probe *probe, char *const tokens[TOKENS_MAX])
{
    copy_tokens(probe, tokens);
    probe->load_refused = false;
}
