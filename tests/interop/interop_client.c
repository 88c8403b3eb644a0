/*
 * interop_client.c - the interop cases on our client library, against foreign servers.
 *
 *   interop_client --address HOST:PORT --case NAME [--ca F --name N] [--cert F --key F]
 *                  [--calls N] [--parallel N] [--keepalive-ms N]
 *
 * A named case passes (exit 0) or says why not (exit 1).  The case "report" makes N large unary
 * calls, one after the other or in parallel, and prints a line for each: who judges them is the
 * test that runs the odd server.
 */
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "proto/rpc/grpc/client.h"
#include "proto/rpc/h2/tls.h"
#include "proto/wire.h"
#include "test.pb-c.h"

#define SERVICE       "/grpc.testing.TestService/"
#define LARGE_REQUEST 271828
#define LARGE_ANSWER  314159
#define PATIENCE_US   (30 * US_PER_S)

/* One call and what came of it. */
struct got {
    struct call *call; /* NULL once over */
    unsigned messages;
    size_t last_size; /* payload of the last message */
    int32_t aggregate;
    bool ended;
    enum grpc_status status;
    enum call_end end;
    char text[512];
};

static struct loop loop;
static struct channel *channel;
static struct wire_arena arena;
static unsigned calls = 1, parallel = 1;
static unsigned connections; /* made so far */

static void fail(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void fail(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputc('\n', stderr);
    exit(1);
}

#define EXPECT(condition, got)                                                              \
    do {                                                                                    \
        if (!(condition))                                                                   \
            fail("line %d: not so: %s (status %s, end %d, \"%s\", %u messages)", __LINE__,  \
                 #condition, grpc_status_name((got)->status), (int)(got)->end, (got)->text, \
                 (got)->messages);                                                          \
    } while (0)

#define WAIT(condition, got)                                                            \
    do {                                                                                \
        uint64_t give_up = clock_mono_us() + PATIENCE_US;                               \
        while (!(condition)) {                                                          \
            if (clock_mono_us() > give_up)                                              \
                fail("line %d: never happened: %s (%u messages)", __LINE__, #condition, \
                     (got)->messages);                                                  \
            loop_turn(&loop, 100000);                                                   \
        }                                                                               \
    } while (0)

/* ---- calls ---------------------------------------------------------------------------- */

/* The field numbers of the three responses overlap so far that the kind identifies each:
 * field 1 is a payload in two and a number in the third. */
static void on_message(struct call *call, const uint8_t *message, size_t n, void *data)
{
    struct got *got = data;
    Grpc__Testing__SimpleResponse *response;
    Grpc__Testing__StreamingInputCallResponse *sum;

    (void)call;
    got->messages++;
    response = (void *)wire_unpack(&grpc__testing__simple_response__descriptor, &arena, message,
                                   n, NULL);
    if (response != NULL && response->base.n_unknown_fields == 0) {
        got->last_size = response->payload == NULL ? 0 : response->payload->body.len;
        return;
    }
    sum = (void *)wire_unpack(&grpc__testing__streaming_input_call_response__descriptor, &arena,
                              message, n, NULL);
    if (sum == NULL)
        fail("an answer that is no message of ours");
    got->aggregate = sum->aggregated_payload_size;
}

static void on_end(struct call *call, const struct call_result *result, void *data)
{
    struct got *got = data;

    (void)call;
    got->call = NULL;
    got->ended = true;
    got->status = result->status;
    got->end = result->end;
    (void)strlcpy(got->text, result->message, sizeof(got->text));
}

static const struct call_handler handler = {.on_message = on_message, .on_end = on_end};

static void start_with(struct got *got, const struct call_options *options)
{
    struct error err = {0};

    memset(got, 0, sizeof(*got));
    if (call_start(&got->call, channel, options, &handler, got, &err) != 0)
        fail("%s", err.text);
}

static void start(struct got *got, const char *path, bool unary)
{
    const struct call_options options = {
        .path = path, .unary = unary, .timeout_us = PATIENCE_US};

    start_with(got, &options);
}

static void send_message(struct got *got, const ProtobufCMessage *message)
{
    if (call_send(got->call, message) != 0)
        fail("cannot send");
}

static void send_simple(struct got *got, int32_t request_size, int32_t answer_size,
                        Grpc__Testing__EchoStatus *status)
{
    Grpc__Testing__SimpleRequest request = GRPC__TESTING__SIMPLE_REQUEST__INIT;
    Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;

    payload.body.len = (size_t)request_size;
    payload.body.data = calloc(1, (size_t)request_size + 1);
    request.payload = &payload;
    request.response_size = answer_size;
    request.response_status = status;
    send_message(got, &request.base);
    free(payload.body.data);
}

static void start_large(struct got *got)
{
    start(got, SERVICE "UnaryCall", true);
    send_simple(got, LARGE_REQUEST, LARGE_ANSWER, NULL);
    call_half_close(got->call);
}

static void send_output(struct got *got, const int32_t *sizes, size_t count,
                        int32_t payload_size, Grpc__Testing__EchoStatus *status)
{
    Grpc__Testing__StreamingOutputCallRequest request =
        GRPC__TESTING__STREAMING_OUTPUT_CALL_REQUEST__INIT;
    Grpc__Testing__ResponseParameters parameters[4], *list[4];
    Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;
    size_t i;

    for (i = 0; i < count; i++) {
        grpc__testing__response_parameters__init(&parameters[i]);
        parameters[i].size = sizes[i];
        list[i] = &parameters[i];
    }
    request.n_response_parameters = count;
    request.response_parameters = list;
    request.response_status = status;
    payload.body.len = (size_t)payload_size;
    payload.body.data = calloc(1, (size_t)payload_size + 1);
    request.payload = &payload;
    send_message(got, &request.base);
    free(payload.body.data);
}

/* ---- the cases ------------------------------------------------------------------------ */

static void empty_unary(void)
{
    Grpc__Testing__Empty empty = GRPC__TESTING__EMPTY__INIT;
    struct got got;

    start(&got, SERVICE "EmptyCall", true);
    send_message(&got, &empty.base);
    call_half_close(got.call);
    WAIT(got.ended, &got);
    EXPECT(got.status == GRPC_OK && got.messages == 1 && got.last_size == 0, &got);
}

static void large_unary(void)
{
    struct got got;

    start_large(&got);
    WAIT(got.ended, &got);
    EXPECT(got.status == GRPC_OK && got.last_size == LARGE_ANSWER, &got);
}

static void client_streaming(void)
{
    static const int32_t sizes[] = {27182, 8, 1828, 45904};
    struct got got;
    size_t i;

    start(&got, SERVICE "StreamingInputCall", true);
    for (i = 0; i < ARRAY_LEN(sizes); i++) {
        Grpc__Testing__StreamingInputCallRequest request =
            GRPC__TESTING__STREAMING_INPUT_CALL_REQUEST__INIT;
        Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;

        payload.body.len = (size_t)sizes[i];
        payload.body.data = calloc(1, (size_t)sizes[i]);
        request.payload = &payload;
        send_message(&got, &request.base);
        free(payload.body.data);
    }
    call_half_close(got.call);
    WAIT(got.ended, &got);
    EXPECT(got.status == GRPC_OK && got.aggregate == 74922, &got);
}

static const int32_t answer_sizes[] = {31415, 9, 2653, 58979};

static void server_streaming(void)
{
    struct got got;

    start(&got, SERVICE "StreamingOutputCall", false);
    send_output(&got, answer_sizes, 4, 0, NULL);
    call_half_close(got.call);
    WAIT(got.ended, &got);
    EXPECT(got.status == GRPC_OK && got.messages == 4 && got.last_size == 58979, &got);
}

static void ping_pong(void)
{
    static const int32_t payload_sizes[] = {27182, 8, 1828, 45904};
    struct got got;
    unsigned i;

    start(&got, SERVICE "FullDuplexCall", false);
    for (i = 0; i < 4; i++) {
        send_output(&got, answer_sizes + i, 1, payload_sizes[i], NULL);
        WAIT(got.messages == i + 1 || got.ended, &got);
        EXPECT(!got.ended && got.last_size == (size_t)answer_sizes[i], &got);
    }
    call_half_close(got.call);
    WAIT(got.ended, &got);
    EXPECT(got.status == GRPC_OK && got.messages == 4, &got);
}

static void empty_stream(void)
{
    struct got got;

    start(&got, SERVICE "FullDuplexCall", false);
    call_half_close(got.call);
    WAIT(got.ended, &got);
    EXPECT(got.status == GRPC_OK && got.messages == 0, &got);
}

static void custom_metadata(void)
{
    static const struct call_metadata fields[] = {
        {"x-grpc-test-echo-initial", "test_initial_metadata_value", 27},
        {"x-grpc-test-echo-trailing-bin", "\xab\xab\xab", 3}};
    struct call_options options = {
        .timeout_us = PATIENCE_US, .metadata = fields, .metadata_count = 2};
    int duplex;

    for (duplex = 0; duplex < 2; duplex++) {
        struct got got;

        options.path = duplex != 0 ? SERVICE "FullDuplexCall" : SERVICE "UnaryCall";
        start_with(&got, &options);
        if (duplex != 0)
            send_output(&got, (const int32_t[]){LARGE_ANSWER}, 1, LARGE_REQUEST, NULL);
        else
            send_simple(&got, LARGE_REQUEST, LARGE_ANSWER, NULL);
        call_half_close(got.call);
        WAIT(got.ended, &got);
        EXPECT(got.status == GRPC_ABORTED, &got);
        EXPECT(strcmp(got.text, "test_initial_metadata_value ababab") == 0, &got);
    }
}

static void echo_status(enum grpc_status code, const char *text, bool duplex)
{
    Grpc__Testing__EchoStatus status = GRPC__TESTING__ECHO_STATUS__INIT;
    char copy[128];
    struct got got;

    (void)strlcpy(copy, text, sizeof(copy));
    status.code = (int32_t)code;
    status.message = copy;
    start(&got, duplex ? SERVICE "FullDuplexCall" : SERVICE "UnaryCall", false);
    if (duplex)
        send_output(&got, NULL, 0, 0, &status);
    else
        send_simple(&got, 0, 0, &status);
    call_half_close(got.call);
    WAIT(got.ended, &got);
    EXPECT(got.status == code && strcmp(got.text, text) == 0, &got);
    EXPECT(got.end == CALL_END_STATUS, &got);
}

static void status_code_and_message(void)
{
    echo_status(GRPC_UNKNOWN, "test status message", false);
    echo_status(GRPC_UNKNOWN, "test status message", true);
}

static void special_status_message(void)
{
    echo_status(GRPC_UNKNOWN,
                "\t\ntest with whitespace\r\nand Unicode BMP \xe2\x98\xba and non-BMP "
                "\xf0\x9f\x98\x88\t\n",
                false);
}

static void unimplemented(const char *path)
{
    Grpc__Testing__Empty empty = GRPC__TESTING__EMPTY__INIT;
    struct got got;

    start(&got, path, false);
    send_message(&got, &empty.base);
    call_half_close(got.call);
    WAIT(got.ended, &got);
    EXPECT(got.status == GRPC_UNIMPLEMENTED && got.end == CALL_END_STATUS, &got);
}

static void unimplemented_method(void)
{
    unimplemented(SERVICE "UnimplementedCall");
}

static void unimplemented_service(void)
{
    unimplemented("/grpc.testing.UnimplementedService/UnimplementedCall");
}

/* Our client reports nothing of a call it cancels; that the channel is fine afterwards is what
 * there is to see. */
static void cancel_after_begin(void)
{
    struct got got;

    start(&got, SERVICE "StreamingInputCall", true);
    WAIT(channel_state(channel) == CHANNEL_READY, &got);
    loop_turn(&loop, 0);
    call_cancel(got.call);
    empty_unary();
    EXPECT(!got.ended, &got);
}

static void cancel_after_first_response(void)
{
    struct got got;

    start(&got, SERVICE "FullDuplexCall", false);
    send_output(&got, answer_sizes, 1, 27182, NULL);
    WAIT(got.messages == 1, &got);
    call_cancel(got.call);
    empty_unary();
    EXPECT(!got.ended, &got);
}

static void timeout_on_sleeping_server(void)
{
    const struct call_options options = {.path = SERVICE "FullDuplexCall", .timeout_us = 1000};
    struct got got;

    empty_unary(); /* so that the call leaves this process at all */
    start_with(&got, &options);
    send_output(&got, NULL, 0, 27182, NULL);
    WAIT(got.ended, &got);
    EXPECT(got.status == GRPC_DEADLINE_EXCEEDED, &got);
    empty_unary();
}

/* The server keeps a silent client, without a call and then within one. */
static void silence(void)
{
    const struct call_options quiet = {.path = SERVICE "FullDuplexCall",
                                       .timeout_us = 2600 * US_PER_MS};
    uint64_t until = clock_mono_us() + 2200 * US_PER_MS;
    struct got got;

    empty_unary();
    while (clock_mono_us() < until)
        loop_turn(&loop, 100 * US_PER_MS);
    start_with(&got, &quiet);
    WAIT(got.ended, &got);
    EXPECT(got.status == GRPC_DEADLINE_EXCEEDED, &got);
    empty_unary();
    EXPECT(connections == 1, &got);
}

static void concurrent_large_unary(void)
{
    enum { COUNT = 100 };
    static struct got got[COUNT];
    unsigned i;

    for (i = 0; i < COUNT; i++)
        start_large(&got[i]);
    for (i = 0; i < COUNT; i++) {
        WAIT(got[i].ended, &got[i]);
        EXPECT(got[i].status == GRPC_OK && got[i].last_size == LARGE_ANSWER, &got[i]);
    }
}

static void rpc_soak(void)
{
    unsigned i;

    for (i = 0; i < 1000; i++)
        empty_unary();
}

static void print_report(const struct got *got)
{
    static const char *const ends[] = {"status",   "refused",  "lost", "connect",
                                       "deadline", "protocol", "local"};

    (void)printf("status=%s end=%s messages=%u size=%zu text=%s\n",
                 grpc_status_name(got->status), ends[got->end], got->messages, got->last_size,
                 got->text);
    (void)fflush(stdout);
}

static void report(void)
{
    struct got *got = calloc(parallel, sizeof(*got));
    unsigned i, done;

    for (done = 0; done < calls; done += parallel) {
        for (i = 0; i < parallel; i++)
            start_large(&got[i]);
        for (i = 0; i < parallel; i++) {
            WAIT(got[i].ended, &got[i]);
            print_report(&got[i]);
        }
    }
    free(got);
}

static void on_state(struct channel *of, enum channel_state state, const char *why, void *data)
{
    (void)of;
    (void)why;
    (void)data;
    connections += state == CHANNEL_READY;
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {{"empty_unary", empty_unary},
             {"large_unary", large_unary},
             {"client_streaming", client_streaming},
             {"server_streaming", server_streaming},
             {"ping_pong", ping_pong},
             {"empty_stream", empty_stream},
             {"custom_metadata", custom_metadata},
             {"status_code_and_message", status_code_and_message},
             {"special_status_message", special_status_message},
             {"unimplemented_method", unimplemented_method},
             {"unimplemented_service", unimplemented_service},
             {"cancel_after_begin", cancel_after_begin},
             {"cancel_after_first_response", cancel_after_first_response},
             {"timeout_on_sleeping_server", timeout_on_sleeping_server},
             {"silence", silence},
             {"concurrent_large_unary", concurrent_large_unary},
             {"rpc_soak", rpc_soak},
             {"report", report}};

static void run_case(const char *name)
{
    size_t i;

    for (i = 0; i < ARRAY_LEN(cases); i++) {
        if (strcmp(name, cases[i].name) == 0) {
            cases[i].run();
            return;
        }
    }
    fail("no case called %s", name);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"address", required_argument, NULL, 'A'},
                                          {"case", required_argument, NULL, 'C'},
                                          {"ca", required_argument, NULL, 'a'},
                                          {"name", required_argument, NULL, 'n'},
                                          {"cert", required_argument, NULL, 'c'},
                                          {"key", required_argument, NULL, 'k'},
                                          {"calls", required_argument, NULL, 'N'},
                                          {"parallel", required_argument, NULL, 'P'},
                                          {"keepalive-ms", required_argument, NULL, 'K'},
                                          {NULL, 0, NULL, 0}};
    struct config_tls tls = {0};
    struct channel_config config = {.backoff_min_us = 100000, .on_state = on_state};
    const char *address = "", *name = "";
    struct error err = {0};
    int option;

    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (option) {
        case 'A':
            address = optarg;
            break;
        case 'C':
            name = optarg;
            break;
        case 'a':
            tls.ca = optarg;
            break;
        case 'n':
            config.tls_name = optarg;
            break;
        case 'c':
            tls.cert = optarg;
            break;
        case 'k':
            tls.key = optarg;
            break;
        case 'N':
            calls = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'P':
            parallel = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'K':
            config.keepalive_us = strtoull(optarg, NULL, 10) * US_PER_MS;
            config.keepalive_timeout_us = 10 * config.keepalive_us;
            config.keepalive_idle = true;
            break;
        default:
            return 2;
        }
    }
    if (tls.ca != NULL && tls_client_context(&config.tls, &tls, &err) != 0)
        fail("%s", err.text);
    if (net_parse(&config.addr, address, &err) != 0 || loop_init(&loop, &err) != 0 ||
        channel_create(&channel, &loop, &config, &err) != 0)
        fail("%s", err.text);
    wire_arena_init(&arena);
    run_case(name);
    channel_destroy(channel);
    loop_finish(&loop);
    wire_arena_finish(&arena);
    SSL_CTX_free(config.tls);
    return 0;
}
