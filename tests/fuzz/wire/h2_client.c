/*
 * h2_client.c - our gRPC client and a server that answers with anything: every call ends, and
 * ends once.
 *
 * Input: see h2_bytes.h; a SETTINGS frame goes before it.
 */
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/attrs.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "proto/rpc/grpc/client_private.h"
#include "tests/fuzz/wire/h2_bytes.h"
#include "tests/raw_message.h"

static const uint8_t settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};

static struct loop loop;
static struct channel_config config;
static int listener;
static unsigned ends;
static struct call *calls[3];

static void on_message(struct call *call, const uint8_t *message, size_t n, void *data)
{
    uint32_t sum = 0;

    (void)data;
    for (size_t i = 0; i < n; i++)
        sum += message[i];
    call_release(call, n - (sum & 1) * (n / 2));
}

static void on_end(struct call *call, const struct call_result *result, void *data)
{
    struct call **slot = data;

    MUST(*slot == call);
    MUST(result->status <= GRPC_UNAUTHENTICATED && result->message != NULL);
    MUST(result->status != GRPC_OK || result->end == CALL_END_STATUS);
    *slot = NULL;
    ends++;
}

static const struct call_handler handler = {.on_message = on_message, .on_end = on_end};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct error err = {0};

    (void)argc;
    (void)argv;
    MUST(loop_init(&loop, &err) == 0);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    MUST(bind(listener, (struct sockaddr *)&addr, sizeof(addr.sun_family)) == 0 &&
         listen(listener, 8) == 0);
    config.addr.len = sizeof(config.addr.sa);
    MUST(getsockname(listener, (struct sockaddr *)&config.addr.sa, &config.addr.len) == 0);
    config.authority = "fuzz";
    config.max_message_bytes = 4096;
    config.stream_window_bytes = 4096;
    return 0;
}

static void begin(struct channel *channel)
{
    static const struct call_options options[] = {
        {.path = "/f.F/One", .unary = true},
        {.path = "/f.F/Many", .manual_window = true},
        {.path = "/f.F/Late", .wait_for_ready = true, .timeout_us = 60000000},
    };
    struct raw_message hello;
    struct error err = {0};

    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        MUST(call_start(&calls[i], channel, &options[i], &handler, &calls[i], &err) == 0);
        MUST(call_send(calls[i], raw_message(&hello, "hello", 5)) == 0);
        if (i != 1)
            call_half_close(calls[i]);
    }
}

static void drain(int fd)
{
    uint8_t bytes[65536];

    while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct buf bytes = BUF_INIT;
    struct channel *channel;
    struct error err = {0};
    int fd = -1;

    h2_bytes(&bytes, &in);
    ends = 0;
    MUST(channel_create(&channel, &loop, &config, &err) == 0);
    begin(channel);
    for (unsigned i = 0; i < 100 && fd == -1; i++) {
        loop_turn(&loop, 0);
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    }
    MUST(fd != -1);
    (void)send(fd, settings, sizeof(settings), MSG_NOSIGNAL);
    for (unsigned i = 0; i < 100 && !calls[1]->stream.sent; i++)
        loop_turn(&loop, 0);
    MUST(calls[1]->stream.sent);
    (void)send(fd, buf_head(&bytes), buf_size(&bytes), MSG_DONTWAIT | MSG_NOSIGNAL);
    for (unsigned i = 0; i < 4; i++) {
        loop_turn(&loop, 0);
        drain(fd);
    }
    (void)close(fd);
    /* The one that waits for a connection stays, unless it was sent on the first. */
    for (unsigned i = 0; i < 100 && (calls[0] != NULL || calls[1] != NULL); i++)
        loop_turn(&loop, 1000);
    MUST(calls[0] == NULL && calls[1] == NULL && ends >= 2);
    channel_destroy(channel);
    for (unsigned i = 0; i < 3; i++)
        loop_turn(&loop, 0);
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) != -1)
        (void)close(fd); /* it may have connected again */
    buf_finish(&bytes);
    return 0;
}
