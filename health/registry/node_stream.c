/*
 * node_stream.c - a stream of the registry: one node, from its first word to its last.
 *
 * registry_private.h has the life of a stream.  Until the token is proven the peer is a
 * stranger: it gets a small struct, a few seconds, and no answer that teaches it anything.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/kinds.h"
#include "base/text/text.h"
#include "health/nodes/checks.h"
#include "health/nodes/table.h"
#include "health/registry/identity.h"
#include "health/registry/join_request.h"
#include "health/registry/lease.h"
#include "health/registry/registry_private.h"
#include "proto/drover_registry.pb-c.h"

#define REGISTER_US      (5 * US_PER_S)
#define REFUSE_MIN_US    (50 * US_PER_MS)
#define REFUSE_SPAN_US   100000u
#define MAX_REASON_BYTES 127u
#define PUSHBACK_MS      1000

/* ---- sending and ending ------------------------------------------------------------------ */

static bool send_frame(struct node_stream *stream, Drover__V1__CoordinatorFrame *frame)
{
    return server_call_send(stream->call, &frame->base) == 0;
}

/* "192.0.2.1:4711", quoted for a log line. */
static const char *peer_of(const struct node_stream *stream)
{
    struct net_addr peer;
    char text[NET_TEXT_BYTES];

    server_call_peer(stream->call, &peer);
    net_format(text, sizeof(text), &peer);
    return log_quote(text);
}

/* The one place that leaves GREETED, REFUSING and JOINED. */
static void leave_phase(struct node_stream *stream, enum node_stream_phase next)
{
    struct registry *registry = stream->registry;

    if (stream->phase == NODE_STREAM_JOINED)
        registry->joined_streams--;
    else if (next != NODE_STREAM_REFUSING)
        crowd_leave(&registry->strangers, &stream->stranger);
    if (next == NODE_STREAM_JOINED)
        registry->joined_streams++;
    stream->phase = next;
}

static void finish(struct node_stream *stream, enum grpc_status status, const char *message)
{
    if (stream->phase == NODE_STREAM_ENDING)
        return;
    timer_stop(stream->registry->loop, &stream->timer);
    leave_phase(stream, NODE_STREAM_ENDING);
    stream->node = NULL;
    server_call_finish(stream->call, status, message);
}

static void evict(struct node_stream *stream, Drover__V1__Evicted__Reason reason,
                  enum grpc_status status, const char *detail)
{
    Drover__V1__CoordinatorFrame frame = DROVER__V1__COORDINATOR_FRAME__INIT;
    Drover__V1__Evicted evicted = DROVER__V1__EVICTED__INIT;

    if (stream->phase == NODE_STREAM_ENDING)
        return;
    evicted.reason = reason;
    evicted.detail = (char *)(uintptr_t)detail;
    frame.frame_case = DROVER__V1__COORDINATOR_FRAME__FRAME_EVICTED;
    frame.evicted = &evicted;
    (void)send_frame(stream, &frame); /* the status says the same */
    finish(stream, status, detail);
}

static void on_superseded(struct node_stream *stream, bool same)
{
    if (same)
        finish(stream, GRPC_ABORTED, "this instance has opened another stream");
    else
        evict(stream, DROVER__V1__EVICTED__REASON__REASON_SUPERSEDED, GRPC_ABORTED,
              "another instance has taken this node's name");
}

static void on_expired(struct node_stream *stream)
{
    evict(stream, DROVER__V1__EVICTED__REASON__REASON_LEASE_EXPIRED, GRPC_DEADLINE_EXCEEDED,
          "no message came for the time of the lease");
}

static void on_left(struct node_stream *stream)
{
    Drover__V1__CoordinatorFrame frame = DROVER__V1__COORDINATOR_FRAME__INIT;
    Drover__V1__Left left = DROVER__V1__LEFT__INIT;

    if (stream->phase == NODE_STREAM_ENDING)
        return;
    frame.frame_case = DROVER__V1__COORDINATOR_FRAME__FRAME_LEFT;
    frame.left = &left;
    (void)send_frame(stream, &frame);
    finish(stream, GRPC_OK, NULL);
}

static void on_drain(struct node_stream *stream, bool drain)
{
    Drover__V1__CoordinatorFrame frame = DROVER__V1__COORDINATOR_FRAME__INIT;
    Drover__V1__DrainOrder order = DROVER__V1__DRAIN_ORDER__INIT;

    if (stream->phase != NODE_STREAM_JOINED)
        return;
    order.drain = drain;
    frame.frame_case = DROVER__V1__COORDINATOR_FRAME__FRAME_DRAIN;
    frame.drain = &order;
    (void)send_frame(stream, &frame); /* a stream that cannot send is about to end anyway */
}

const struct node_stream_ops registry_stream_ops = {
    .superseded = on_superseded, .expired = on_expired, .left = on_left, .drain = on_drain};

/* The peer broke a rule of the protocol.  A node goes the way of a broken stream. */
static void protocol_error(struct node_stream *stream, const char *detail)
{
    struct registry *registry = stream->registry;
    struct node *node = stream->node;
    uint32_t missed;

    registry->refused++;
    strikes_note(&registry->strikes, stream->peer_key, clock_mono_us());
    if (log_limit_ok(&registry->refused_limit, 10, &missed))
        log_warn("event=registry_protocol node=%s why=%s missed=%u",
                 log_quote(node == NULL ? "" : node->info.name), log_quote(detail), missed);
    evict(stream, DROVER__V1__EVICTED__REASON__REASON_PROTOCOL, GRPC_INVALID_ARGUMENT, detail);
    if (node != NULL)
        lease_broken(node);
}

void node_stream_shutdown(struct node_stream *stream)
{
    evict(stream, DROVER__V1__EVICTED__REASON__REASON_SHUTDOWN, GRPC_UNAVAILABLE,
          "the coordinator stops");
}

/* ---- register ---------------------------------------------------------------------------- */

static void on_refuse_timer(struct timer *timer)
{
    struct node_stream *stream = CONTAINER_OF(timer, struct node_stream, timer);

    finish(stream, GRPC_UNAUTHENTICATED, "the join token was not proven");
}

static void refuse(struct node_stream *stream, const char *node_id)
{
    struct registry *registry = stream->registry;
    uint32_t missed;

    registry->refused++;
    strikes_note(&registry->strikes, stream->peer_key, clock_mono_us());
    if (log_limit_ok(&registry->refused_limit, 10, &missed))
        log_warn("event=join_refused node=%s peer=%s why=\"bad proof\" missed=%u",
                 log_quote(node_id), peer_of(stream), missed);
    leave_phase(stream, NODE_STREAM_REFUSING);
    timer_start(registry->loop, &stream->timer,
                REFUSE_MIN_US + arc4random_uniform(REFUSE_SPAN_US), on_refuse_timer);
}

static bool send_registered(struct node_stream *stream, const char *token, bool resumed)
{
    const struct config_registry *config = &stream->registry->config->registry;
    Drover__V1__CoordinatorFrame frame = DROVER__V1__COORDINATOR_FRAME__INIT;
    Drover__V1__Registered registered = DROVER__V1__REGISTERED__INIT;
    uint8_t proof[JOIN_PROOF_BYTES];
    uint32_t third = config->lease_ms / 3;

    join_coordinator_proof(proof, token, &stream->facts);
    registered.coordinator_proof.data = proof;
    registered.coordinator_proof.len = sizeof(proof);
    registered.lease_ms = config->lease_ms;
    registered.heartbeat_ms = config->heartbeat_ms < third ? config->heartbeat_ms : third;
    registered.reconnect_spread_ms = lease_spread_ms(stream->registry->table);
    registered.resumed = resumed;
    frame.frame_case = DROVER__V1__COORDINATOR_FRAME__FRAME_REGISTERED;
    frame.registered = &registered;
    return send_frame(stream, &frame);
}

/* A node with a good proof that cannot be let in all the same. */
static void reject(struct node_stream *stream, const char *name,
                   Drover__V1__Evicted__Reason reason, enum grpc_status status, const char *why)
{
    struct registry *registry = stream->registry;
    uint32_t missed;

    registry->refused++;
    if (log_limit_ok(&registry->refused_limit, 10, &missed))
        log_warn("event=join_refused node=%s why=%s missed=%u", log_quote(name), log_quote(why),
                 missed);
    evict(stream, reason, status, why);
}

/* Refuses a node with a reason; false: it may join. */
static bool deny(struct node_stream *stream, const char *name, enum lease_answer answer)
{
    switch (answer) {
    case LEASE_FULL:
        reject(stream, name, DROVER__V1__EVICTED__REASON__REASON_TABLE_FULL,
               GRPC_RESOURCE_EXHAUSTED, "the node table is full");
        return true;
    case LEASE_RESERVED:
        reject(stream, name, DROVER__V1__EVICTED__REASON__REASON_PROTOCOL, GRPC_ALREADY_EXISTS,
               "a node of the coordinator's configuration has this name");
        return true;
    case LEASE_OLDER:
        reject(stream, name, DROVER__V1__EVICTED__REASON__REASON_SUPERSEDED, GRPC_ABORTED,
               "a newer instance has this node's name");
        return true;
    case LEASE_JOINED:
    case LEASE_RESUMED:
        break;
    }
    return false;
}

/* The stream is `node`'s from now on. */
static void welcome(struct node_stream *stream, struct node *node,
                    const Drover__V1__Register *said, const char *token, bool resumed)
{
    struct registry *registry = stream->registry;
    const struct node_info *info = &node->info;

    timer_stop(registry->loop, &stream->timer);
    leave_phase(stream, NODE_STREAM_JOINED);
    server_call_vouch(stream->call);
    stream->node = node;
    registry->joins++;
    if (node_speaks(node))
        log_info("event=node_joined node=%s address=%s engine=%s models=%u slots=%u resumed=%s",
                 log_quote(info->name), log_quote(info->address),
                 engine_kind_name(info->engine), info->models_count, info->slots,
                 resumed ? "yes" : "no");
    if (!send_registered(stream, token, resumed)) {
        finish(stream, GRPC_UNAVAILABLE, "out of memory");
        lease_broken(node);
        return;
    }
    if (node->verdict.drain_wanted)
        on_drain(stream, true);
    if (said->load != NULL) {
        /* Numbered from 1 by each instance; a resumed one goes on. */
        if (!resumed)
            node->load_seq = 0;
        checks_load(node, said->load);
    }
}

static void join(struct node_stream *stream, const Drover__V1__Register *said,
                 const char *token)
{
    struct registry *registry = stream->registry;
    struct node_info *info = &registry->scratch;
    struct error err = {0};
    struct net_addr addr, peer;
    struct node *node = NULL;
    enum lease_answer answer;

    server_call_peer(stream->call, &peer);
    if (join_request_address(&addr, said, &peer, &err) != 0 ||
        identity_register(info, said, &err) != 0) {
        protocol_error(stream, err.text);
        return;
    }
    if (info->tls && registry->table->registry_tls == NULL) {
        reject(stream, info->name, DROVER__V1__EVICTED__REASON__REASON_PROTOCOL,
               GRPC_FAILED_PRECONDITION,
               "the node serves TLS, and this coordinator has no registry.listen.tls to "
               "check it with");
        return;
    }
    net_format(info->address, sizeof(info->address), &addr);
    answer = lease_join(&node, registry->table, info, &addr, stream);
    if (!deny(stream, info->name, answer))
        welcome(stream, node, said, token, answer == LEASE_RESUMED);
}

static void on_register(struct node_stream *stream, const Drover__V1__Register *said)
{
    const char *wrong = join_request_facts(&stream->facts, said);
    const char *token;

    if (wrong != NULL) {
        protocol_error(stream, wrong);
        return;
    }
    token = join_request_token(stream->registry->config->tokens, &stream->facts,
                               said->join_proof.data);
    if (token == NULL)
        refuse(stream, said->node_id);
    else
        join(stream, said, token);
    /* Borrowed from the message. */
    stream->facts.node_id = "";
    stream->facts.host = "";
}

/* ---- the messages of a node ------------------------------------------------------------ */

static void on_heartbeat(struct node_stream *stream, const Drover__V1__Heartbeat *said)
{
    Drover__V1__CoordinatorFrame frame = DROVER__V1__COORDINATOR_FRAME__INIT;
    Drover__V1__HeartbeatAck ack = DROVER__V1__HEARTBEAT_ACK__INIT;

    if (said->load != NULL) {
        ack.load_seq = said->load->seq;
        checks_load(stream->node, said->load);
    }
    frame.frame_case = DROVER__V1__COORDINATOR_FRAME__FRAME_HEARTBEAT_ACK;
    frame.heartbeat_ack = &ack;
    (void)send_frame(stream, &frame);
}

static void on_models(struct node_stream *stream, const Drover__V1__ModelsUpdate *said)
{
    struct node_info *next = &stream->registry->scratch;
    struct error err = {0};

    node_info_copy(next, &stream->node->info);
    if (identity_models(next, said->models, said->n_models, &err) != 0) {
        protocol_error(stream, err.text);
        return;
    }
    if (said->capacity != NULL)
        identity_capacity(next, said->capacity);
    node_publish(stream->node, next);
    checks_models(stream->node);
    /* Other models may mean that the engine is another, or is known at last. */
    if (stream->node->probe != NULL)
        probe_describe(stream->node->probe);
}

static void on_leave(struct node_stream *stream, const Drover__V1__Leave *said)
{
    if (stream->node->verdict.leaving != NODE_REASON_NONE)
        return; /* it has said so */
    if (said->reason[0] != '\0' && !text_is_label(said->reason, MAX_REASON_BYTES)) {
        protocol_error(stream, "the reason for leaving is no printable text");
        return;
    }
    if (node_speaks(stream->node))
        log_info("event=node_leaves node=%s why=%s drain_ms=%u",
                 log_quote(stream->node->info.name), log_quote(said->reason), said->drain_ms);
    lease_leave(stream->node, said->drain_ms);
}

static void on_node_frame(struct node_stream *stream, const Drover__V1__NodeFrame *frame)
{
    lease_heard(stream->node);
    switch (frame->frame_case) {
    case DROVER__V1__NODE_FRAME__FRAME_REGISTER:
        protocol_error(stream, "register came twice");
        break;
    case DROVER__V1__NODE_FRAME__FRAME_HEARTBEAT:
        on_heartbeat(stream, frame->heartbeat);
        break;
    case DROVER__V1__NODE_FRAME__FRAME_MODELS:
        on_models(stream, frame->models);
        break;
    case DROVER__V1__NODE_FRAME__FRAME_LEAVE:
        on_leave(stream, frame->leave);
        break;
    case DROVER__V1__NODE_FRAME__FRAME__NOT_SET:
        break; /* of a newer minor version */
#if defined(__clang__) || defined(__GNUC__)
    case _DROVER__V1__NODE_FRAME__FRAME__CASE_IS_INT_SIZE:
        break;
#endif
    }
}

static void on_message(struct server_call *call, const uint8_t *message, size_t n)
{
    struct node_stream *stream = server_call_data(call);
    const Drover__V1__NodeFrame *frame;
    struct error err = {0};

    if (stream == NULL || stream->phase == NODE_STREAM_ENDING ||
        stream->phase == NODE_STREAM_REFUSING)
        return;
    frame = (const Drover__V1__NodeFrame *)wire_unpack(
        &drover__v1__node_frame__descriptor, &stream->registry->arena, message, n, &err);
    if (frame == NULL) {
        protocol_error(stream, err.text);
        return;
    }
    if (stream->phase == NODE_STREAM_JOINED)
        on_node_frame(stream, frame);
    else if (frame->frame_case == DROVER__V1__NODE_FRAME__FRAME_REGISTER)
        on_register(stream, frame->register_);
    else
        protocol_error(stream, "the first message is not register");
}

/* ---- streams ----------------------------------------------------------------------------- */

static void on_register_timer(struct timer *timer)
{
    struct node_stream *stream = CONTAINER_OF(timer, struct node_stream, timer);
    struct registry *registry = stream->registry;
    uint32_t missed;

    registry->refused++;
    if (log_limit_minute(&registry->late_limit, &missed))
        log_warn("event=join_refused peer=%s why=\"register did not come in time\" missed=%u",
                 peer_of(stream), missed);
    finish(stream, GRPC_DEADLINE_EXCEEDED, "register did not come in time");
}

/* One stranger more may come. */
static void make_room(struct registry *registry)
{
    struct crowd_member *first;
    struct node_stream *stream;
    uint32_t missed;

    if (registry->strangers.count < REGISTRY_MAX_STRANGERS)
        return;
    first = crowd_first_out(&registry->strangers);
    stream = CONTAINER_OF(first, struct node_stream, stranger);
    registry->crowded++;
    if (log_limit_minute(&registry->crowded_limit, &missed))
        log_warn("event=registry_crowded strangers=%u ended_peer=%s missed=%u",
                 registry->strangers.count, peer_of(stream), missed);
    timer_stop(registry->loop, &stream->timer);
    leave_phase(stream, NODE_STREAM_ENDING);
    server_call_finish_pushback(stream->call, GRPC_RESOURCE_EXHAUSTED,
                                "too many streams have not registered", PUSHBACK_MS);
}

static bool send_hello(struct node_stream *stream)
{
    Drover__V1__CoordinatorFrame frame = DROVER__V1__COORDINATOR_FRAME__INIT;
    Drover__V1__Hello hello = DROVER__V1__HELLO__INIT;

    hello.server_nonce.data = stream->facts.server_nonce;
    hello.server_nonce.len = sizeof(stream->facts.server_nonce);
    hello.coordinator_id = stream->registry->id;
    frame.frame_case = DROVER__V1__COORDINATOR_FRAME__FRAME_HELLO;
    frame.hello = &hello;
    return send_frame(stream, &frame);
}

static void on_start(struct server_call *call, void *method_data)
{
    struct registry *registry = method_data;
    struct node_stream *stream;
    struct net_addr peer;
    uint64_t key;

    server_call_set_data(call, NULL);
    server_call_peer(call, &peer);
    key = net_peer_key((const struct sockaddr *)&peer.sa);
    if (registry->stopping) {
        server_call_finish(call, GRPC_UNAVAILABLE, "the coordinator stops");
        return;
    }
    if (strikes_blocked(&registry->strikes, key, clock_mono_us())) {
        registry->refused++;
        server_call_finish_pushback(call, GRPC_RESOURCE_EXHAUSTED,
                                    "too many failures from this address", PUSHBACK_MS);
        return;
    }
    make_room(registry);
    stream = calloc(1, sizeof(*stream));
    if (stream == NULL || crowd_join(&registry->strangers, &stream->stranger, key) != 0) {
        free(stream);
        server_call_finish(call, GRPC_UNAVAILABLE, "out of memory");
        return;
    }
    stream->registry = registry;
    stream->call = call;
    stream->peer_key = key;
    stream->facts.node_id = "";
    stream->facts.host = "";
    arc4random_buf(stream->facts.server_nonce, sizeof(stream->facts.server_nonce));
    TAILQ_INSERT_TAIL(&registry->streams, stream, link);
    server_call_set_data(call, stream);
    timer_start(registry->loop, &stream->timer, REGISTER_US, on_register_timer);
    if (!send_hello(stream))
        finish(stream, GRPC_UNAVAILABLE, "out of memory");
}

void node_stream_free(struct node_stream *stream)
{
    timer_stop(stream->registry->loop, &stream->timer);
    crowd_leave(&stream->registry->strangers, &stream->stranger);
    TAILQ_REMOVE(&stream->registry->streams, stream, link);
    free(stream);
}

/* The node sends no more: it is as good as gone, unless it said that it leaves. */
static void on_half_close(struct server_call *call)
{
    struct node_stream *stream = server_call_data(call);
    struct node *node = stream == NULL ? NULL : stream->node;

    if (stream == NULL || (node != NULL && node->verdict.leaving != NODE_REASON_NONE))
        return;
    finish(stream, GRPC_OK, NULL);
    if (node != NULL)
        lease_broken(node);
}

static void on_gone(struct server_call *call)
{
    struct node_stream *stream = server_call_data(call);
    struct node *node;

    if (stream == NULL)
        return;
    node = stream->node;
    leave_phase(stream, NODE_STREAM_ENDING);
    node_stream_free(stream);
    if (node != NULL) {
        if (node_speaks(node))
            log_info("event=node_stream_broken node=%s", log_quote(node->info.name));
        lease_broken(node);
    }
}

static void on_closed(struct server_call *call)
{
    struct node_stream *stream = server_call_data(call);

    if (stream != NULL)
        node_stream_free(stream);
}

const struct server_handler registry_stream_handler = {
    .on_start = on_start,
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_gone = on_gone,
    .on_closed = on_closed,
};
