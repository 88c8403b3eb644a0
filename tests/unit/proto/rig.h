/*
 * rig.h - a gRPC server and a channel on one loop, for tests in one process.
 *
 * The server's methods speak raw bytes, not protobuf:
 *   /t.T/Echo    unary, answers with the request
 *   /t.T/Chat    bidirectional, answers every message with itself, ends when the client does
 *   /t.T/Pour    unary: "COUNT SIZE", answers with COUNT messages of SIZE bytes as fast as the
 *                client takes them
 *   /t.T/Hang    unary, never answers
 *   /t.T/Fail    unary: "CODE TEXT", ends with that status
 */
#ifndef DROVER_TESTS_UNIT_PROTO_RIG_H
#define DROVER_TESTS_UNIT_PROTO_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/io/loop.h"
#include "base/text/buf.h"
#include "proto/health_service.h"
#include "proto/rpc/grpc/client.h"
#include "proto/rpc/grpc/server.h"

struct rig {
    struct loop loop;
    struct grpc_server *server;
    struct channel *channel;
    struct server_config server_config;   /* change before rig_start() */
    struct channel_config channel_config; /* likewise */
    struct net_addr addr;
    struct health_service *health;
    unsigned started, gone, closed; /* calls of the server */
    unsigned hanging;               /* Hang calls that are open */
    uint64_t poured;                /* messages that Pour has queued */
    enum channel_state states[16];  /* as on_state reported them */
    unsigned states_count;
};

/* A call and what it got. */
struct probe {
    struct call *call; /* NULL once over */
    unsigned messages, batches, ends, writables;
    size_t bytes;
    bool hold; /* do not release */
    bool keep; /* gathers all messages in `all` */
    struct buf all;
    bool bad;        /* a byte was not what Pour sends */
    struct buf last; /* the last message */
    enum grpc_status status;
    enum call_end end;
    int64_t pushback_ms;
    char text[256];
};

void rig_init(struct rig *rig);
void rig_start(struct rig *rig); /* listens on a free port and makes the channel */
void rig_finish(struct rig *rig);

/* Starts a call and, if `message` is not NULL, sends it and half-closes. */
void rig_call(struct rig *rig, struct probe *probe, const struct call_options *options,
              const void *message, size_t n);
void probe_finish(struct probe *probe);

/* As call_send() and server_call_send(), of bytes that are no message; see raw_message.h. */
MUST_CHECK int rig_send(struct call *call, const void *bytes, size_t n);
MUST_CHECK int rig_answer(struct server_call *call, const void *bytes, size_t n);

/* Turns the loop until the condition holds; false after 10 s. */
#define RIG_WAIT(rig, condition)                            \
    ({                                                      \
        uint64_t give_up = clock_mono_us() + 10 * US_PER_S; \
        bool happened = (condition);                        \
        while (!happened && clock_mono_us() < give_up) {    \
            loop_turn(&(rig)->loop, 10000);                 \
            happened = (condition);                         \
        }                                                   \
        happened;                                           \
    })

#endif
