/*
 * interop_server.c - grpc.testing.TestService on our server library, for foreign clients.
 *
 * Prints "port=N" once it listens, and ends well when its standard input closes: then it stops
 * the server as drover-node would, and exits 0 only if no call was left behind.
 *
 *   interop_server [--cert F --key F [--ca F]] [--max-streams N]
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/io/loop.h"
#include "base/text/buf.h"
#include "proto/rpc/grpc/server.h"
#include "proto/rpc/h2/tls.h"
#include "proto/wire.h"
#include "test.pb-c.h"

#define ECHO_INITIAL  "x-grpc-test-echo-initial"
#define ECHO_TRAILING "x-grpc-test-echo-trailing-bin"

/* One call's state; its kind is its handler. */
struct state {
    int64_t total;                                   /* StreamingInputCall: payload bytes */
    Grpc__Testing__StreamingOutputCallRequest *plan; /* output calls: what is being answered */
    size_t next; /* first of its parameters not yet answered */
    struct server_call *call;
    struct timer pause;   /* until the next answer is due */
    struct queued *queue; /* FullDuplexCall: requests behind `plan` */
    bool no_more;         /* the client has half-closed */
};

struct queued {
    struct queued *next;
    Grpc__Testing__StreamingOutputCallRequest *plan;
};

static struct loop loop;
static struct wire_arena arena;
static unsigned open_calls;
static bool stopping, idle;

static void answer_next(struct state *state);

/* Answers with the metadata received, in a status. */
static void send_metadata(struct server_call *call)
{
    size_t n = 0;
    const char *initial = server_call_metadata(call, ECHO_INITIAL, NULL);
    const uint8_t *trailing = server_call_metadata(call, ECHO_TRAILING, &n);
    struct buf text = BUF_INIT;

    if (initial == NULL)
        return;
    buf_printf(&text, "%s ", initial);
    for (size_t i = 0; i < n; i++)
        buf_printf(&text, "%02x", trailing[i]);
    server_call_finish(call, GRPC_ABORTED, buf_cstr(&text));
    buf_finish(&text);
}

static void on_start(struct server_call *call, void *data)
{
    struct state *state = calloc(1, sizeof(*state));

    (void)data;
    if (state == NULL)
        abort();
    state->call = call;
    server_call_set_data(call, state);
    open_calls++;
    send_metadata(call);
}

static void on_over(struct server_call *call)
{
    struct state *state = server_call_data(call);

    timer_stop(&loop, &state->pause);
    if (state->plan != NULL)
        grpc__testing__streaming_output_call_request__free_unpacked(state->plan, NULL);
    while (state->queue != NULL) {
        struct queued *queued = state->queue;

        state->queue = queued->next;
        grpc__testing__streaming_output_call_request__free_unpacked(queued->plan, NULL);
        free(queued);
    }
    free(state);
    open_calls--;
}

static void send_or_fail(struct server_call *call, const ProtobufCMessage *message)
{
    if (server_call_send(call, message) != 0)
        server_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
}

static bool end_as_asked(struct server_call *call, const Grpc__Testing__EchoStatus *status)
{
    if (status == NULL || status->code == 0)
        return false;
    server_call_finish(call, (enum grpc_status)status->code, status->message);
    return true;
}

static uint8_t *zeroes(int32_t n)
{
    uint8_t *bytes = calloc(1, n > 0 ? (size_t)n : 1);

    if (bytes == NULL)
        abort();
    return bytes;
}

/* ---- EmptyCall, UnaryCall ------------------------------------------------------------- */

static void empty_message(struct server_call *call, const uint8_t *message, size_t n)
{
    Grpc__Testing__Empty answer = GRPC__TESTING__EMPTY__INIT;

    if (wire_unpack(&grpc__testing__empty__descriptor, &arena, message, n, NULL) == NULL) {
        server_call_finish(call, GRPC_INTERNAL, "malformed Empty");
        return;
    }
    send_or_fail(call, &answer.base);
    server_call_finish(call, GRPC_OK, NULL);
}

static void unary_message(struct server_call *call, const uint8_t *message, size_t n)
{
    Grpc__Testing__SimpleRequest *request;
    Grpc__Testing__SimpleResponse response = GRPC__TESTING__SIMPLE_RESPONSE__INIT;
    Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;

    request = (void *)wire_unpack(&grpc__testing__simple_request__descriptor, &arena, message,
                                  n, NULL);
    if (request == NULL) {
        server_call_finish(call, GRPC_INTERNAL, "malformed SimpleRequest");
        return;
    }
    if (end_as_asked(call, request->response_status))
        return;
    payload.body.len = request->response_size > 0 ? (size_t)request->response_size : 0;
    payload.body.data = zeroes(request->response_size);
    response.payload = &payload;
    send_or_fail(call, &response.base);
    free(payload.body.data);
    server_call_finish(call, GRPC_OK, NULL);
}

/* ---- StreamingInputCall --------------------------------------------------------------- */

static void input_message(struct server_call *call, const uint8_t *message, size_t n)
{
    struct state *state = server_call_data(call);
    Grpc__Testing__StreamingInputCallRequest *request = (void *)wire_unpack(
        &grpc__testing__streaming_input_call_request__descriptor, &arena, message, n, NULL);

    if (request == NULL)
        server_call_finish(call, GRPC_INTERNAL, "malformed StreamingInputCallRequest");
    else if (request->payload != NULL)
        state->total += (int64_t)request->payload->body.len;
}

static void input_end(struct server_call *call)
{
    struct state *state = server_call_data(call);
    Grpc__Testing__StreamingInputCallResponse response =
        GRPC__TESTING__STREAMING_INPUT_CALL_RESPONSE__INIT;

    response.aggregated_payload_size = (int32_t)state->total;
    send_or_fail(call, &response.base);
    server_call_finish(call, GRPC_OK, NULL);
}

/* ---- StreamingOutputCall, FullDuplexCall ---------------------------------------------- */

static void on_pause_over(struct timer *timer)
{
    struct state *state = CONTAINER_OF(timer, struct state, pause);

    answer_next(state);
}

static void answer_one(struct state *state)
{
    Grpc__Testing__StreamingOutputCallResponse response =
        GRPC__TESTING__STREAMING_OUTPUT_CALL_RESPONSE__INIT;
    Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;
    int32_t size = state->plan->response_parameters[state->next]->size;

    payload.body.len = size > 0 ? (size_t)size : 0;
    payload.body.data = zeroes(size);
    response.payload = &payload;
    send_or_fail(state->call, &response.base);
    free(payload.body.data);
    state->next++;
}

/* Sends what is due now.  The pause before an answer is taken before the one after it. */
static void answer_next(struct state *state)
{
    for (;;) {
        if (state->plan == NULL) {
            struct queued *queued = state->queue;

            if (queued == NULL)
                break;
            state->plan = queued->plan;
            state->queue = queued->next;
            state->next = 0;
            free(queued);
            if (end_as_asked(state->call, state->plan->response_status))
                return;
        }
        while (state->next < state->plan->n_response_parameters) {
            uint32_t pause_us =
                (uint32_t)state->plan->response_parameters[state->next]->interval_us;

            answer_one(state);
            if (pause_us != 0) {
                timer_start(&loop, &state->pause, pause_us, on_pause_over);
                return;
            }
        }
        grpc__testing__streaming_output_call_request__free_unpacked(state->plan, NULL);
        state->plan = NULL;
    }
    if (state->no_more)
        server_call_finish(state->call, GRPC_OK, NULL);
}

static void output_message(struct server_call *call, const uint8_t *message, size_t n)
{
    struct state *state = server_call_data(call);
    struct queued *queued = calloc(1, sizeof(*queued)), **link = &state->queue;

    if (queued == NULL)
        abort();
    queued->plan = grpc__testing__streaming_output_call_request__unpack(NULL, n, message);
    if (queued->plan == NULL) {
        free(queued);
        server_call_finish(call, GRPC_INTERNAL, "malformed StreamingOutputCallRequest");
        return;
    }
    while (*link != NULL)
        link = &(*link)->next;
    *link = queued;
    if (!timer_running(&state->pause))
        answer_next(state);
}

static void output_end(struct server_call *call)
{
    struct state *state = server_call_data(call);

    state->no_more = true;
    if (!timer_running(&state->pause))
        answer_next(state);
}

static const struct server_handler empty_handler = {.on_start = on_start,
                                                    .on_message = empty_message,
                                                    .on_gone = on_over,
                                                    .on_closed = on_over};
static const struct server_handler unary_handler = {.on_start = on_start,
                                                    .on_message = unary_message,
                                                    .on_gone = on_over,
                                                    .on_closed = on_over};
static const struct server_handler input_handler = {.on_start = on_start,
                                                    .on_message = input_message,
                                                    .on_half_close = input_end,
                                                    .on_gone = on_over,
                                                    .on_closed = on_over};
static const struct server_handler output_handler = {.on_start = on_start,
                                                     .on_message = output_message,
                                                     .on_half_close = output_end,
                                                     .on_gone = on_over,
                                                     .on_closed = on_over};

static const struct server_method methods[] = {
    {.path = "/grpc.testing.TestService/EmptyCall", .handler = &empty_handler},
    {.path = "/grpc.testing.TestService/UnaryCall", .handler = &unary_handler},
    {.path = "/grpc.testing.TestService/StreamingInputCall",
     .handler = &input_handler,
     .client_streaming = true},
    {.path = "/grpc.testing.TestService/StreamingOutputCall", .handler = &output_handler},
    {.path = "/grpc.testing.TestService/FullDuplexCall",
     .handler = &output_handler,
     .client_streaming = true},
};

/* ---- main ----------------------------------------------------------------------------- */

static void on_idle(struct grpc_server *server, void *data)
{
    (void)server;
    (void)data;
    idle = true;
}

static void on_input(struct watch *watch, void *data)
{
    char byte;

    (void)watch;
    (void)data;
    if (read(STDIN_FILENO, &byte, 1) == 0)
        stopping = true;
}

static void die(const struct error *err)
{
    (void)fprintf(stderr, "interop_server: %s\n", err->text);
    exit(1);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"cert", required_argument, NULL, 'c'},
                                          {"key", required_argument, NULL, 'k'},
                                          {"ca", required_argument, NULL, 'a'},
                                          {"max-streams", required_argument, NULL, 'm'},
                                          {NULL, 0, NULL, 0}};
    struct config_tls tls = {0};
    struct server_config config = {.methods = methods, .methods_count = ARRAY_LEN(methods)};
    struct grpc_server *server;
    struct watch *input;
    struct net_addr addr;
    struct error err = {0};
    int fd, option;

    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (option == 'c')
            tls.cert = optarg;
        else if (option == 'k')
            tls.key = optarg;
        else if (option == 'a')
            tls.ca = optarg;
        else if (option == 'm')
            config.max_streams = (uint32_t)strtoul(optarg, NULL, 10);
        else
            return 2;
    }
    if (tls.cert != NULL && tls_server_context(&config.tls, &tls, TLS_PROTOCOL_H2, &err) != 0)
        die(&err);
    wire_arena_init(&arena);
    fd = net_listen("127.0.0.1:0", 128, &err);
    if (fd < 0 || net_local(&addr, fd, &err) != 0 || loop_init(&loop, &err) != 0 ||
        grpc_server_create(&server, &loop, &config, &err) != 0 ||
        grpc_server_listen(server, fd, &err) != 0)
        die(&err);
    input = watch_start(&loop, STDIN_FILENO, on_input, NULL, &err);
    if (input == NULL)
        die(&err);
    (void)printf("port=%u\n", net_port(&addr));
    (void)fflush(stdout);
    while (!stopping)
        loop_turn(&loop, 100000);
    watch_stop(input);
    grpc_server_shutdown(server, 2000000, on_idle, NULL);
    while (!idle)
        loop_turn(&loop, 100000);
    grpc_server_destroy(server);
    loop_finish(&loop);
    wire_arena_finish(&arena);
    SSL_CTX_free(config.tls);
    if (open_calls != 0) {
        (void)fprintf(stderr, "interop_server: %u calls were never closed\n", open_calls);
        return 1;
    }
    return 0;
}
