/* registration.c - keeps this node joined to one coordinator. */
#include "node/report/registration.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/io/resolve.h"
#include "base/log.h"
#include "node/agent.h"
#include "node/report/load_reporter.h"
#include "proto/drover_registry.pb-c.h"
#include "proto/rpc/grpc/client.h"
#include "proto/wire.h"

#define BACKOFF_MIN_US (250 * US_PER_MS)
#define BACKOFF_MAX_US (1500 * US_PER_MS)
/* The coordinator is there, but says no.  See REJOIN_US of worker/upstreams/upstreams.c. */
#define BACKOFF_DENIED_US (10 * US_PER_S)
/* Another process has its name, and keeps it for as long as it is there: 30 to 60 s. */
#define BACKOFF_NAME_US   (30 * US_PER_S)
#define HANDSHAKE_US      (10 * US_PER_S) /* from starting the call to Registered */
#define HEARTBEAT_MIN_MS  50
#define HEARTBEAT_MAX_MS  60000
#define HEARTBEAT_DEFAULT 1000

/*
 *   WAITING      the pause is over               RESOLVING
 *   RESOLVING    an address is known             GREETING
 *   GREETING     hello came, register is sent    REGISTERING
 *   REGISTERING  registered came, proof is good  JOINED
 *   JOINED       registration_leave()                  LEAVING
 *   LEAVING      left came, or the stream ended  LEFT
 *   any other    registration_leave()                  LEFT
 *   any but LEFT the stream ended                WAITING
 */
enum registration_phase {
    REGISTRATION_WAITING = 0, /* a timer runs */
    REGISTRATION_RESOLVING,
    REGISTRATION_GREETING,
    REGISTRATION_REGISTERING,
    REGISTRATION_JOINED,
    REGISTRATION_LEAVING,
    REGISTRATION_LEFT, /* for good */
};

struct registration {
    struct agent *agent; /* borrowed */
    struct loop *loop;   /* borrowed */
    char coordinator[256];
    char name[256];          /* its host part: what its certificate must name */
    char coordinator_id[64]; /* its own name, for the log */
    char host[64];
    uint16_t port;
    bool tls;
    SSL_CTX *coordinator_tls; /* borrowed */
    enum registration_phase phase;
    struct resolve *resolve;            /* non-NULL iff RESOLVING */
    struct channel *channel;            /* owned; while GREETING..LEAVING */
    struct call *call;                  /* likewise */
    struct timer timer;                 /* the pause, or the handshake's limit */
    struct load_reporter load_reporter; /* runs while JOINED or LEAVING */
    struct wire_arena arena;
    uint64_t backoff_us;
    bool denied;             /* the coordinator has sent it away, for a while */
    bool superseded;         /* ... as another process has its name */
    uint32_t spread_ms;      /* as the coordinator asked; 0 = not yet */
    unsigned token;          /* which token to prove: 0 newest, 1 previous */
    unsigned refused;        /* how many in turn were not good enough */
    uint64_t models_version; /* of the agent, as sent in Register */
    uint8_t server_nonce[JOIN_NONCE_BYTES];
    uint8_t node_nonce[JOIN_NONCE_BYTES];
    struct log_limit limit, superseded_limit;
};

static void begin(struct registration *registration);

static void on_pause_over(struct timer *timer)
{
    begin(CONTAINER_OF(timer, struct registration, timer));
}

/* Lets go of the stream and all that belongs to it. */
static void drop(struct registration *registration)
{
    load_reporter_stop(&registration->load_reporter);
    timer_stop(registration->loop, &registration->timer);
    resolve_cancel(registration->resolve);
    registration->resolve = NULL;
    channel_destroy(registration->channel); /* its call with it */
    registration->channel = NULL;
    registration->call = NULL;
}

static void settle(struct registration *registration)
{
    drop(registration);
    registration->phase = REGISTRATION_LEFT;
}

/* Tries again after a pause. */
static void retry(struct registration *registration, const char *why)
{
    bool was_joined = registration->phase == REGISTRATION_JOINED;
    bool was_denied = registration->denied, was_superseded = registration->superseded;
    uint64_t pause_us;
    uint32_t missed;

    if (registration->phase == REGISTRATION_LEAVING ||
        registration->phase == REGISTRATION_LEFT) {
        settle(registration);
        return;
    }
    drop(registration);
    registration->phase = REGISTRATION_WAITING;
    registration->denied = registration->superseded = false;
    if (was_superseded) {
        pause_us = BACKOFF_NAME_US + arc4random_uniform(BACKOFF_NAME_US + 1);
    } else if (was_denied) {
        pause_us = BACKOFF_DENIED_US * (80 + arc4random_uniform(41)) / 100;
    } else if (was_joined) {
        registration->backoff_us = BACKOFF_MIN_US;
        pause_us = registration->spread_ms == 0
                       ? BACKOFF_MIN_US
                       : (uint64_t)arc4random_uniform(registration->spread_ms + 1) * US_PER_MS;
    } else {
        pause_us = registration->backoff_us * (80 + arc4random_uniform(41)) / 100;
        registration->backoff_us = registration->backoff_us * 8 / 5;
        if (registration->backoff_us > BACKOFF_MAX_US)
            registration->backoff_us = BACKOFF_MAX_US;
    }
    if (was_joined || was_denied || log_limit_ok(&registration->limit, 1, &missed))
        log_warn("event=detached coordinator=%s why=%s retry_ms=%u",
                 log_quote(registration->coordinator), log_quote(why),
                 (unsigned)(pause_us / US_PER_MS));
    timer_start(registration->loop, &registration->timer, pause_us, on_pause_over);
}

/* ---- sending --------------------------------------------------------------------------- */

static bool send_frame(struct registration *registration, Drover__V1__NodeFrame *frame)
{
    if (call_send(registration->call, &frame->base) == 0)
        return true;
    retry(registration, "cannot send to the coordinator");
    return false;
}

static bool send_heartbeat(struct registration *registration)
{
    Drover__V1__NodeFrame frame = DROVER__V1__NODE_FRAME__INIT;
    Drover__V1__Heartbeat heartbeat = DROVER__V1__HEARTBEAT__INIT;
    Drover__V1__LoadReport load;

    agent_load(registration->agent, &load);
    heartbeat.load = &load;
    frame.frame_case = DROVER__V1__NODE_FRAME__FRAME_HEARTBEAT;
    frame.heartbeat = &heartbeat;
    return send_frame(registration, &frame);
}

static bool send_models(struct registration *registration)
{
    Drover__V1__NodeFrame frame = DROVER__V1__NODE_FRAME__INIT;
    Drover__V1__ModelsUpdate update = DROVER__V1__MODELS_UPDATE__INIT;
    struct describe *d = malloc(sizeof(*d));
    bool sent;

    if (d == NULL)
        return true; /* the next change sends it all again */
    agent_describe(registration->agent, d);
    update.n_models = d->count;
    update.models = d->list;
    update.capacity = &d->capacity;
    frame.frame_case = DROVER__V1__NODE_FRAME__FRAME_MODELS;
    frame.models = &update;
    sent = send_frame(registration, &frame);
    free(d);
    return sent;
}

static void on_report_due(struct load_reporter *load_reporter, unsigned changes)
{
    struct registration *registration =
        CONTAINER_OF(load_reporter, struct registration, load_reporter);

    if (call_queued(registration->call) > 64 * 1024)
        return; /* a coordinator that does not read: its lease on us runs out */
    if ((changes & AGENT_MODELS_CHANGED) != 0 && !send_models(registration))
        return;
    (void)send_heartbeat(registration);
}

static void fill_facts(const struct registration *registration, struct join_facts *facts)
{
    memcpy(facts->server_nonce, registration->server_nonce, sizeof(facts->server_nonce));
    memcpy(facts->node_nonce, registration->node_nonce, sizeof(facts->node_nonce));
    memcpy(facts->instance_id, registration->agent->config.instance_id,
           sizeof(facts->instance_id));
    facts->node_id = registration->agent->config.node_id;
    facts->host = registration->host;
    facts->port = registration->port;
}

static void send_register(struct registration *registration)
{
    struct agent *agent = registration->agent;
    const struct engine_facts *engine = engine_facts(agent->engine);
    Drover__V1__NodeFrame frame = DROVER__V1__NODE_FRAME__INIT;
    Drover__V1__Register message = DROVER__V1__REGISTER__INIT;
    uint8_t proof[JOIN_PROOF_BYTES];
    Drover__V1__LoadReport load;
    struct describe *d = malloc(sizeof(*d));
    struct join_facts facts;

    if (d == NULL) {
        retry(registration, "out of memory");
        return;
    }
    arc4random_buf(registration->node_nonce, sizeof(registration->node_nonce));
    fill_facts(registration, &facts);
    join_proof(proof, agent->tokens[registration->token], &facts);
    agent_describe(agent, d);
    registration->models_version = agent->models_version;
    agent_load(agent, &load);
    message.node_id = agent->config.node_id;
    message.instance_id.data = agent->config.instance_id;
    message.instance_id.len = sizeof(agent->config.instance_id);
    message.node_nonce.data = registration->node_nonce;
    message.node_nonce.len = sizeof(registration->node_nonce);
    message.join_proof.data = proof;
    message.join_proof.len = sizeof(proof);
    message.host = registration->host;
    message.port = registration->port;
    message.tls = registration->tls;
    message.engine = (Drover__V1__EngineKind)engine->kind;
    message.engine_version = (char *)(uintptr_t)engine->version; /* protobuf-c knows no const */
    message.agent_version = (char *)(uintptr_t)DROVER_VERSION;
    message.capacity = &d->capacity;
    message.n_models = d->count;
    message.models = d->list;
    message.load = &load;
    frame.frame_case = DROVER__V1__NODE_FRAME__FRAME_REGISTER;
    frame.register_ = &message;
    if (send_frame(registration, &frame))
        registration->phase = REGISTRATION_REGISTERING;
    free(d);
}

/* ---- what the coordinator says --------------------------------------------------------- */

static void on_hello(struct registration *registration, const Drover__V1__Hello *hello)
{
    if (registration->phase != REGISTRATION_GREETING ||
        hello->server_nonce.len != sizeof(registration->server_nonce)) {
        retry(registration, "the coordinator's hello is not as it should be");
        return;
    }
    memcpy(registration->server_nonce, hello->server_nonce.data,
           sizeof(registration->server_nonce));
    (void)strlcpy(registration->coordinator_id, hello->coordinator_id,
                  sizeof(registration->coordinator_id));
    send_register(registration);
}

static void on_registered(struct registration *registration,
                          const Drover__V1__Registered *registered)
{
    uint8_t wanted[JOIN_PROOF_BYTES];
    struct join_facts facts;
    uint32_t heartbeat_ms = registered->heartbeat_ms;

    if (registration->phase != REGISTRATION_REGISTERING) {
        retry(registration, "the coordinator broke the protocol: registered");
        return;
    }
    fill_facts(registration, &facts);
    join_coordinator_proof(wanted, registration->agent->tokens[registration->token], &facts);
    if (registration->agent->has_token &&
        (registered->coordinator_proof.len != sizeof(wanted) ||
         !join_equal(registered->coordinator_proof.data, wanted))) {
        retry(registration, "the coordinator does not hold the join token");
        return;
    }
    if (heartbeat_ms == 0)
        heartbeat_ms = HEARTBEAT_DEFAULT;
    if (heartbeat_ms < HEARTBEAT_MIN_MS)
        heartbeat_ms = HEARTBEAT_MIN_MS;
    if (heartbeat_ms > HEARTBEAT_MAX_MS)
        heartbeat_ms = HEARTBEAT_MAX_MS;
    registration->spread_ms =
        registered->reconnect_spread_ms > 60000 ? 60000 : registered->reconnect_spread_ms;
    registration->backoff_us = BACKOFF_MIN_US;
    registration->refused = 0;
    registration->phase = REGISTRATION_JOINED;
    timer_stop(registration->loop, &registration->timer);
    log_info("event=joined coordinator=%s id=%s heartbeat_ms=%u lease_ms=%u resumed=%d",
             log_quote(registration->coordinator), log_quote(registration->coordinator_id),
             (unsigned)heartbeat_ms, (unsigned)registered->lease_ms, registered->resumed != 0);
    load_reporter_start(&registration->load_reporter, registration->agent,
                        heartbeat_ms * US_PER_MS, on_report_due);
    /* Changes during the coordinator's check of our proof have not been sent. */
    if (registration->models_version != registration->agent->models_version &&
        !send_models(registration))
        return;
    (void)send_heartbeat(registration);
}

static void on_evicted(struct registration *registration, const Drover__V1__Evicted *evicted)
{
    uint32_t missed;

    switch (evicted->reason) {
    case DROVER__V1__EVICTED__REASON__REASON_SUPERSEDED:
        /* The coordinator keeps the name for the newer one as long as that one is there. */
        if (log_limit_minute(&registration->superseded_limit, &missed))
            log_error("event=evicted coordinator=%s reason=superseded detail=%s missed=%u "
                      "hint=\"another drover-node has this name: give --name; this one tries "
                      "again within a minute, and joins when the other has left\"",
                      log_quote(registration->coordinator), log_quote(evicted->detail), missed);
        registration->denied = registration->superseded = true;
        retry(registration, "evicted");
        return;
    case DROVER__V1__EVICTED__REASON__REASON_PROTOCOL:
    case DROVER__V1__EVICTED__REASON__REASON_TABLE_FULL:
        registration->denied = true;
        break;
    case DROVER__V1__EVICTED__REASON__REASON_UNSPECIFIED:
    case DROVER__V1__EVICTED__REASON__REASON_LEASE_EXPIRED:
    case DROVER__V1__EVICTED__REASON__REASON_SHUTDOWN:
    case _DROVER__V1__EVICTED__REASON_IS_INT_SIZE:
        break;
    }
    log_warn("event=evicted coordinator=%s reason=%d detail=%s",
             log_quote(registration->coordinator), (int)evicted->reason,
             log_quote(evicted->detail));
    retry(registration, "evicted");
}

static void on_message(struct call *call, const uint8_t *message, size_t n, void *data)
{
    struct registration *registration = data;
    Drover__V1__CoordinatorFrame *frame;
    struct error err = {0};

    if (registration->call != call)
        return; /* dropped earlier in this batch */
    frame = (Drover__V1__CoordinatorFrame *)wire_unpack(
        &drover__v1__coordinator_frame__descriptor, &registration->arena, message, n, &err);
    if (frame == NULL) {
        retry(registration, err.text);
        return;
    }
    switch (frame->frame_case) {
    case DROVER__V1__COORDINATOR_FRAME__FRAME_HELLO:
        on_hello(registration, frame->hello);
        break;
    case DROVER__V1__COORDINATOR_FRAME__FRAME_REGISTERED:
        on_registered(registration, frame->registered);
        break;
    case DROVER__V1__COORDINATOR_FRAME__FRAME_DRAIN:
        log_info("event=drain_order coordinator=%s drain=%d",
                 log_quote(registration->coordinator), frame->drain->drain != 0);
        break;
    case DROVER__V1__COORDINATOR_FRAME__FRAME_EVICTED:
        on_evicted(registration, frame->evicted);
        break;
    case DROVER__V1__COORDINATOR_FRAME__FRAME_LEFT:
        if (registration->phase == REGISTRATION_LEAVING) {
            log_info("event=left coordinator=%s", log_quote(registration->coordinator));
            settle(registration);
        }
        break;
    case DROVER__V1__COORDINATOR_FRAME__FRAME_HEARTBEAT_ACK:
    case DROVER__V1__COORDINATOR_FRAME__FRAME__NOT_SET: /* of a newer version */
    case _DROVER__V1__COORDINATOR_FRAME__FRAME__CASE_IS_INT_SIZE:
        break;
    }
}

/* For a person, where something listens that does not talk as a registry does. */
static const char *hint_of(const struct registration *registration,
                           const struct call_result *result)
{
    if (result->status == GRPC_UNIMPLEMENTED)
        return ": it does not know drover.v1: another major version of the protocol, or no "
               "coordinator";
    if (registration->phase != REGISTRATION_GREETING || result->status != GRPC_UNAVAILABLE ||
        result->end == CALL_END_LOCAL)
        return "";
    return registration->coordinator_tls == NULL
               ? ": is this the registry's port (8082), and not the API's?  A registry with "
                 "TLS "
                 "needs --coordinator-tls-ca"
               : ": is this the registry's port (8082), and has the registry TLS?";
}

/* After a rotation the coordinator may still know the other token only.  It counts failures, of
 * all nodes with one address together: when no token is good enough there is a longer pause. */
static void on_refused(struct registration *registration)
{
    bool has_other = registration->agent->tokens[1][0] != '\0';

    registration->refused++;
    registration->denied = !has_other || registration->refused % TOKENS_MAX == 0;
    if (has_other)
        registration->token ^= 1;
}

static void on_end(struct call *call, const struct call_result *result, void *data)
{
    struct registration *registration = data;
    struct error err;

    if (registration->call != call)
        return;
    registration->call = NULL;
    if (result->status == GRPC_UNAUTHENTICATED || result->status == GRPC_PERMISSION_DENIED)
        on_refused(registration);
    (void)error_set(&err, DRV_ECLOSED, "%s: %s%s", grpc_status_name(result->status),
                    result->message, hint_of(registration, result));
    retry(registration, err.text);
}

static const struct call_handler call_handler = {.on_message = on_message, .on_end = on_end};

/* ---- connecting ------------------------------------------------------------------------ */

static void on_handshake_late(struct timer *timer)
{
    retry(CONTAINER_OF(timer, struct registration, timer),
          "the coordinator did not answer in time");
}

static void on_resolved(int rc, const struct net_addr *list, size_t n, const char *why,
                        void *data)
{
    struct registration *registration = data;
    const struct call_options options = {.path = "/drover.v1.Registry/Attach"};
    struct channel_config config = {.tls = registration->coordinator_tls,
                                    .keepalive_idle = true};
    struct error err = {0};

    registration->resolve = NULL;
    if (rc != 0 || n == 0) {
        retry(registration, why);
        return;
    }
    config.addr = list[0];
    config.authority = registration->coordinator;
    if (registration->coordinator_tls != NULL)
        config.tls_name = registration->name;
    if (channel_create(&registration->channel, registration->loop, &config, &err) != 0) {
        registration->channel = NULL;
        retry(registration, err.text);
        return;
    }
    channel_connect(registration->channel);
    if (call_start(&registration->call, registration->channel, &options, &call_handler,
                   registration, &err) != 0) {
        registration->call = NULL;
        retry(registration, err.text);
        return;
    }
    registration->phase = REGISTRATION_GREETING;
    timer_start(registration->loop, &registration->timer, HANDSHAKE_US, on_handshake_late);
}

static void begin(struct registration *registration)
{
    struct error err = {0};

    registration->phase = REGISTRATION_RESOLVING;
    if (registration->token == 1 && registration->agent->tokens[1][0] == '\0')
        registration->token = 0;
    if (resolve_start(&registration->resolve, registration->loop, registration->coordinator,
                      on_resolved, registration, &err) != 0)
        retry(registration, err.text);
}

int registration_create(struct registration **out, struct agent *agent,
                        const struct registration_config *config, struct error *err)
{
    struct registration *registration = calloc(1, sizeof(*registration));
    uint16_t port;
    int rc;

    *out = NULL;
    if (registration == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    rc = net_split(config->coordinator, registration->name, sizeof(registration->name), &port,
                   err);
    if (rc != 0) {
        free(registration);
        return rc;
    }
    registration->agent = agent;
    registration->loop = agent->loop;
    registration->port = config->port;
    registration->tls = config->tls;
    registration->coordinator_tls = config->coordinator_tls;
    registration->backoff_us = BACKOFF_MIN_US;
    (void)strlcpy(registration->coordinator, config->coordinator,
                  sizeof(registration->coordinator));
    (void)strlcpy(registration->host, config->host, sizeof(registration->host));
    wire_arena_init(&registration->arena);
    begin(registration);
    *out = registration;
    return 0;
}

void registration_destroy(struct registration *registration)
{
    if (registration == NULL)
        return;
    drop(registration);
    wire_arena_finish(&registration->arena);
    free(registration);
}

void registration_tokens_changed(struct registration *registration)
{
    registration->token = 0;
    registration->refused = 0;
    if (registration->phase >= REGISTRATION_JOINED)
        return;
    drop(registration);
    begin(registration);
}

void registration_leave(struct registration *registration, const char *reason,
                        uint32_t drain_ms)
{
    Drover__V1__NodeFrame frame = DROVER__V1__NODE_FRAME__INIT;
    Drover__V1__Leave leave = DROVER__V1__LEAVE__INIT;

    if (registration->phase != REGISTRATION_JOINED) {
        settle(registration);
        return;
    }
    leave.reason = (char *)(uintptr_t)reason; /* protobuf-c knows no const */
    leave.drain_ms = drain_ms;
    frame.frame_case = DROVER__V1__NODE_FRAME__FRAME_LEAVE;
    frame.leave = &leave;
    registration->phase = REGISTRATION_LEAVING;
    (void)send_frame(registration, &frame);
}

bool registration_left(const struct registration *registration)
{
    return registration->phase == REGISTRATION_LEFT;
}
