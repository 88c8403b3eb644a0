/* registration.c - keeps this node joined to one coordinator. */
#include "node/report/registration.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/net.h"
#include "base/resolve.h"
#include "node/agent.h"
#include "node/report/load_reporter.h"
#include "proto/drover_registry.pb-c.h"
#include "proto/rpc/grpc/client.h"
#include "proto/wire.h"

#define BACKOFF_MIN_US    (250 * US_PER_MS)
#define BACKOFF_MAX_US    (10 * US_PER_S)
#define HANDSHAKE_US      (10 * US_PER_S) /* from starting the call to Registered */
#define HEARTBEAT_MIN_MS  50
#define HEARTBEAT_MAX_MS  60000
#define HEARTBEAT_DEFAULT 1000

/*
 *   WAITING      the pause is over               RESOLVING
 *   RESOLVING    an address is known             GREETING
 *   GREETING     hello came, register is sent    REGISTERING
 *   REGISTERING  registered came, proof is good  JOINED
 *   JOINED       attach_leave()                  LEAVING
 *   LEAVING      left came, or the stream ended  LEFT
 *   any other    attach_leave()                  LEFT
 *   any but LEFT the stream ended                WAITING
 *   any          evicted, superseded             LEFT
 */
enum attach_phase {
    ATTACH_WAITING = 0, /* a timer runs */
    ATTACH_RESOLVING,
    ATTACH_GREETING,
    ATTACH_REGISTERING,
    ATTACH_JOINED,
    ATTACH_LEAVING,
    ATTACH_LEFT, /* for good */
};

struct attach {
    struct agent *agent; /* borrowed */
    struct loop *loop;   /* borrowed */
    char coordinator[256];
    char name[256];          /* its host part: what its certificate must name */
    char coordinator_id[64]; /* what it calls itself, for the log */
    char host[64];
    uint16_t port;
    bool tls;
    SSL_CTX *coordinator_tls; /* borrowed */
    enum attach_phase phase;
    struct resolve *resolve; /* non-NULL iff RESOLVING */
    struct channel *channel; /* owned; while GREETING..LEAVING */
    struct call *call;       /* likewise */
    struct timer timer;      /* the pause, or the handshake's limit */
    struct pacer pacer;      /* runs while JOINED or LEAVING */
    struct wire_arena arena;
    uint64_t backoff_us;
    uint32_t spread_ms;      /* the coordinator's wish; 0 = none yet */
    unsigned token;          /* which token to prove: 0 newest, 1 previous */
    uint64_t models_version; /* of the agent's, that Register told */
    uint8_t server_nonce[JOIN_NONCE_BYTES];
    uint8_t node_nonce[JOIN_NONCE_BYTES];
    struct log_limit limit;
};

static void begin(struct attach *attach);

static void on_pause_over(struct timer *timer)
{
    begin(CONTAINER_OF(timer, struct attach, timer));
}

/* Lets go of the stream and all that belongs to it. */
static void drop(struct attach *attach)
{
    pacer_stop(&attach->pacer);
    timer_stop(attach->loop, &attach->timer);
    resolve_cancel(attach->resolve);
    attach->resolve = NULL;
    channel_destroy(attach->channel); /* its call with it */
    attach->channel = NULL;
    attach->call = NULL;
}

static void settle(struct attach *attach)
{
    drop(attach);
    attach->phase = ATTACH_LEFT;
}

/* Tries again after a pause. */
static void retry(struct attach *attach, const char *why)
{
    bool was_joined = attach->phase == ATTACH_JOINED;
    uint64_t pause_us;
    uint32_t missed;

    if (attach->phase == ATTACH_LEAVING || attach->phase == ATTACH_LEFT) {
        settle(attach);
        return;
    }
    drop(attach);
    attach->phase = ATTACH_WAITING;
    if (was_joined) {
        attach->backoff_us = BACKOFF_MIN_US;
        pause_us = attach->spread_ms == 0
                       ? BACKOFF_MIN_US
                       : (uint64_t)arc4random_uniform(attach->spread_ms + 1) * US_PER_MS;
    } else {
        pause_us = attach->backoff_us * (80 + arc4random_uniform(41)) / 100;
        attach->backoff_us = attach->backoff_us * 8 / 5;
        if (attach->backoff_us > BACKOFF_MAX_US)
            attach->backoff_us = BACKOFF_MAX_US;
    }
    if (was_joined || log_limit_ok(&attach->limit, 1, &missed))
        log_warn("event=detached coordinator=%s why=%s retry_ms=%u",
                 log_quote(attach->coordinator), log_quote(why),
                 (unsigned)(pause_us / US_PER_MS));
    timer_start(attach->loop, &attach->timer, pause_us, on_pause_over);
}

/* ---- sending --------------------------------------------------------------------------- */

static bool send_frame(struct attach *attach, Drover__V1__NodeFrame *frame)
{
    if (call_send(attach->call, &frame->base) == 0)
        return true;
    retry(attach, "cannot send to the coordinator");
    return false;
}

static bool send_heartbeat(struct attach *attach)
{
    Drover__V1__NodeFrame frame = DROVER__V1__NODE_FRAME__INIT;
    Drover__V1__Heartbeat heartbeat = DROVER__V1__HEARTBEAT__INIT;
    Drover__V1__LoadReport load;

    agent_load(attach->agent, &load);
    heartbeat.load = &load;
    frame.frame_case = DROVER__V1__NODE_FRAME__FRAME_HEARTBEAT;
    frame.heartbeat = &heartbeat;
    return send_frame(attach, &frame);
}

static bool send_models(struct attach *attach)
{
    Drover__V1__NodeFrame frame = DROVER__V1__NODE_FRAME__INIT;
    Drover__V1__ModelsUpdate update = DROVER__V1__MODELS_UPDATE__INIT;
    struct describe *d = malloc(sizeof(*d));
    bool sent;

    if (d == NULL)
        return true; /* the next change tells it all again */
    agent_describe(attach->agent, d);
    update.n_models = d->count;
    update.models = d->list;
    update.capacity = &d->capacity;
    frame.frame_case = DROVER__V1__NODE_FRAME__FRAME_MODELS;
    frame.models = &update;
    sent = send_frame(attach, &frame);
    free(d);
    return sent;
}

static void on_pace(struct pacer *pacer, unsigned changes)
{
    struct attach *attach = CONTAINER_OF(pacer, struct attach, pacer);

    if (call_queued(attach->call) > 64 * 1024)
        return; /* a coordinator that does not read: its lease on us runs out */
    if ((changes & AGENT_MODELS_CHANGED) != 0 && !send_models(attach))
        return;
    (void)send_heartbeat(attach);
}

static void fill_facts(const struct attach *attach, struct join_facts *facts)
{
    memcpy(facts->server_nonce, attach->server_nonce, sizeof(facts->server_nonce));
    memcpy(facts->node_nonce, attach->node_nonce, sizeof(facts->node_nonce));
    memcpy(facts->instance_id, attach->agent->config.instance_id, sizeof(facts->instance_id));
    facts->node_id = attach->agent->config.node_id;
    facts->host = attach->host;
    facts->port = attach->port;
}

static void send_register(struct attach *attach)
{
    struct agent *agent = attach->agent;
    const struct engine_facts *engine = engine_facts(agent->engine);
    Drover__V1__NodeFrame frame = DROVER__V1__NODE_FRAME__INIT;
    Drover__V1__Register message = DROVER__V1__REGISTER__INIT;
    uint8_t proof[JOIN_PROOF_BYTES];
    Drover__V1__LoadReport load;
    struct describe *d = malloc(sizeof(*d));
    struct join_facts facts;

    if (d == NULL) {
        retry(attach, "out of memory");
        return;
    }
    arc4random_buf(attach->node_nonce, sizeof(attach->node_nonce));
    fill_facts(attach, &facts);
    join_proof(proof, agent->tokens[attach->token], &facts);
    agent_describe(agent, d);
    attach->models_version = agent->models_version;
    agent_load(agent, &load);
    message.node_id = agent->config.node_id;
    message.instance_id.data = agent->config.instance_id;
    message.instance_id.len = sizeof(agent->config.instance_id);
    message.node_nonce.data = attach->node_nonce;
    message.node_nonce.len = sizeof(attach->node_nonce);
    message.join_proof.data = proof;
    message.join_proof.len = sizeof(proof);
    message.host = attach->host;
    message.port = attach->port;
    message.tls = attach->tls;
    message.engine = (Drover__V1__EngineKind)engine->kind;
    message.engine_version = (char *)(uintptr_t)engine->version; /* protobuf-c knows no const */
    message.agent_version = (char *)(uintptr_t)DROVER_VERSION;
    message.capacity = &d->capacity;
    message.n_models = d->count;
    message.models = d->list;
    message.load = &load;
    frame.frame_case = DROVER__V1__NODE_FRAME__FRAME_REGISTER;
    frame.register_ = &message;
    if (send_frame(attach, &frame))
        attach->phase = ATTACH_REGISTERING;
    free(d);
}

/* ---- what the coordinator says --------------------------------------------------------- */

static void on_hello(struct attach *attach, const Drover__V1__Hello *hello)
{
    if (attach->phase != ATTACH_GREETING ||
        hello->server_nonce.len != sizeof(attach->server_nonce)) {
        retry(attach, "the coordinator's hello is not as it should be");
        return;
    }
    memcpy(attach->server_nonce, hello->server_nonce.data, sizeof(attach->server_nonce));
    (void)strlcpy(attach->coordinator_id, hello->coordinator_id,
                  sizeof(attach->coordinator_id));
    send_register(attach);
}

static void on_registered(struct attach *attach, const Drover__V1__Registered *registered)
{
    uint8_t wanted[JOIN_PROOF_BYTES];
    struct join_facts facts;
    uint32_t heartbeat_ms = registered->heartbeat_ms;

    if (attach->phase != ATTACH_REGISTERING) {
        retry(attach, "the coordinator broke the protocol: registered");
        return;
    }
    fill_facts(attach, &facts);
    join_coordinator_proof(wanted, attach->agent->tokens[attach->token], &facts);
    if (attach->agent->has_token && (registered->coordinator_proof.len != sizeof(wanted) ||
                                     !join_equal(registered->coordinator_proof.data, wanted))) {
        retry(attach, "the coordinator does not hold the join token");
        return;
    }
    if (heartbeat_ms == 0)
        heartbeat_ms = HEARTBEAT_DEFAULT;
    if (heartbeat_ms < HEARTBEAT_MIN_MS)
        heartbeat_ms = HEARTBEAT_MIN_MS;
    if (heartbeat_ms > HEARTBEAT_MAX_MS)
        heartbeat_ms = HEARTBEAT_MAX_MS;
    attach->spread_ms =
        registered->reconnect_spread_ms > 60000 ? 60000 : registered->reconnect_spread_ms;
    attach->backoff_us = BACKOFF_MIN_US;
    attach->phase = ATTACH_JOINED;
    timer_stop(attach->loop, &attach->timer);
    log_info("event=joined coordinator=%s id=%s heartbeat_ms=%u lease_ms=%u resumed=%d",
             log_quote(attach->coordinator), log_quote(attach->coordinator_id),
             (unsigned)heartbeat_ms, (unsigned)registered->lease_ms, registered->resumed != 0);
    pacer_start(&attach->pacer, attach->agent, heartbeat_ms * US_PER_MS, on_pace);
    /* What changed while the coordinator checked our proof, nobody was told. */
    if (attach->models_version != attach->agent->models_version && !send_models(attach))
        return;
    (void)send_heartbeat(attach);
}

static void on_evicted(struct attach *attach, const Drover__V1__Evicted *evicted)
{
    switch (evicted->reason) {
    case DROVER__V1__EVICTED__REASON__REASON_SUPERSEDED:
        log_error("event=evicted coordinator=%s reason=superseded detail=%s "
                  "hint=\"another drover-node has this name: give --name\"",
                  log_quote(attach->coordinator), log_quote(evicted->detail));
        settle(attach);
        return;
    case DROVER__V1__EVICTED__REASON__REASON_PROTOCOL:
    case DROVER__V1__EVICTED__REASON__REASON_TABLE_FULL:
        if (attach->phase == ATTACH_JOINED)
            attach->phase = ATTACH_REGISTERING; /* back off, do not come back with spread */
        attach->backoff_us = BACKOFF_MAX_US;
        break;
    case DROVER__V1__EVICTED__REASON__REASON_UNSPECIFIED:
    case DROVER__V1__EVICTED__REASON__REASON_LEASE_EXPIRED:
    case DROVER__V1__EVICTED__REASON__REASON_SHUTDOWN:
    case _DROVER__V1__EVICTED__REASON_IS_INT_SIZE:
        break;
    }
    log_warn("event=evicted coordinator=%s reason=%d detail=%s", log_quote(attach->coordinator),
             (int)evicted->reason, log_quote(evicted->detail));
    retry(attach, "evicted");
}

static void on_message(struct call *call, const uint8_t *message, size_t n, void *data)
{
    struct attach *attach = data;
    Drover__V1__CoordinatorFrame *frame;
    struct error err = {0};

    if (attach->call != call)
        return; /* dropped earlier in this batch */
    frame = (Drover__V1__CoordinatorFrame *)wire_unpack(
        &drover__v1__coordinator_frame__descriptor, &attach->arena, message, n, &err);
    if (frame == NULL) {
        retry(attach, err.text);
        return;
    }
    switch (frame->frame_case) {
    case DROVER__V1__COORDINATOR_FRAME__FRAME_HELLO:
        on_hello(attach, frame->hello);
        break;
    case DROVER__V1__COORDINATOR_FRAME__FRAME_REGISTERED:
        on_registered(attach, frame->registered);
        break;
    case DROVER__V1__COORDINATOR_FRAME__FRAME_DRAIN:
        log_info("event=drain_order coordinator=%s drain=%d", log_quote(attach->coordinator),
                 frame->drain->drain != 0);
        break;
    case DROVER__V1__COORDINATOR_FRAME__FRAME_EVICTED:
        on_evicted(attach, frame->evicted);
        break;
    case DROVER__V1__COORDINATOR_FRAME__FRAME_LEFT:
        if (attach->phase == ATTACH_LEAVING) {
            log_info("event=left coordinator=%s", log_quote(attach->coordinator));
            settle(attach);
        }
        break;
    case DROVER__V1__COORDINATOR_FRAME__FRAME_HEARTBEAT_ACK:
    case DROVER__V1__COORDINATOR_FRAME__FRAME__NOT_SET: /* of a newer version */
    case _DROVER__V1__COORDINATOR_FRAME__FRAME__CASE_IS_INT_SIZE:
        break;
    }
}

static void on_end(struct call *call, const struct call_result *result, void *data)
{
    struct attach *attach = data;
    struct error err;

    if (attach->call != call)
        return;
    attach->call = NULL;
    /* After a rotation the coordinator may still know the other token only. */
    if ((result->status == GRPC_UNAUTHENTICATED || result->status == GRPC_PERMISSION_DENIED) &&
        attach->agent->tokens[1][0] != '\0')
        attach->token ^= 1;
    (void)error_set(&err, DRV_ECLOSED, "%s: %s%s", grpc_status_name(result->status),
                    result->status == GRPC_UNIMPLEMENTED
                        ? "it does not know drover.v1: another major version of the protocol, "
                          "or no coordinator: "
                        : "",
                    result->message);
    retry(attach, err.text);
}

static const struct call_handler call_handler = {.on_message = on_message, .on_end = on_end};

/* ---- connecting ------------------------------------------------------------------------ */

static void on_handshake_late(struct timer *timer)
{
    retry(CONTAINER_OF(timer, struct attach, timer), "the coordinator did not answer in time");
}

static void on_resolved(int rc, const struct net_addr *list, size_t n, const char *why,
                        void *data)
{
    struct attach *attach = data;
    const struct call_options options = {.path = "/drover.v1.Registry/Attach"};
    struct channel_config config = {.tls = attach->coordinator_tls, .keepalive_idle = true};
    struct error err = {0};

    attach->resolve = NULL;
    if (rc != 0 || n == 0) {
        retry(attach, why);
        return;
    }
    config.addr = list[0];
    config.authority = attach->coordinator;
    if (attach->coordinator_tls != NULL)
        config.tls_name = attach->name;
    if (channel_create(&attach->channel, attach->loop, &config, &err) != 0) {
        attach->channel = NULL;
        retry(attach, err.text);
        return;
    }
    channel_connect(attach->channel);
    if (call_start(&attach->call, attach->channel, &options, &call_handler, attach, &err) !=
        0) {
        attach->call = NULL;
        retry(attach, err.text);
        return;
    }
    attach->phase = ATTACH_GREETING;
    timer_start(attach->loop, &attach->timer, HANDSHAKE_US, on_handshake_late);
}

static void begin(struct attach *attach)
{
    struct error err = {0};

    attach->phase = ATTACH_RESOLVING;
    if (attach->token == 1 && attach->agent->tokens[1][0] == '\0')
        attach->token = 0;
    if (resolve_start(&attach->resolve, attach->loop, attach->coordinator, on_resolved, attach,
                      &err) != 0)
        retry(attach, err.text);
}

int attach_create(struct attach **out, struct agent *agent, const struct attach_config *config,
                  struct error *err)
{
    struct attach *attach = calloc(1, sizeof(*attach));
    uint16_t port;
    int rc;

    *out = NULL;
    if (attach == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    rc = net_split(config->coordinator, attach->name, sizeof(attach->name), &port, err);
    if (rc != 0) {
        free(attach);
        return rc;
    }
    attach->agent = agent;
    attach->loop = agent->loop;
    attach->port = config->port;
    attach->tls = config->tls;
    attach->coordinator_tls = config->coordinator_tls;
    attach->backoff_us = BACKOFF_MIN_US;
    (void)strlcpy(attach->coordinator, config->coordinator, sizeof(attach->coordinator));
    (void)strlcpy(attach->host, config->host, sizeof(attach->host));
    wire_arena_init(&attach->arena);
    begin(attach);
    *out = attach;
    return 0;
}

void attach_destroy(struct attach *attach)
{
    if (attach == NULL)
        return;
    drop(attach);
    wire_arena_finish(&attach->arena);
    free(attach);
}

void attach_leave(struct attach *attach, const char *reason, uint32_t drain_ms)
{
    Drover__V1__NodeFrame frame = DROVER__V1__NODE_FRAME__INIT;
    Drover__V1__Leave leave = DROVER__V1__LEAVE__INIT;

    if (attach->phase != ATTACH_JOINED) {
        settle(attach);
        return;
    }
    leave.reason = (char *)(uintptr_t)reason; /* protobuf-c knows no const */
    leave.drain_ms = drain_ms;
    frame.frame_case = DROVER__V1__NODE_FRAME__FRAME_LEAVE;
    frame.leave = &leave;
    attach->phase = ATTACH_LEAVING;
    (void)send_frame(attach, &frame);
}

bool attach_left(const struct attach *attach)
{
    return attach->phase == ATTACH_LEFT;
}
