/*
 * h2_server.c - a whole connection to our gRPC server: afterwards every call has ended once and
 * nothing of it is left.
 *
 * Input: see h2_bytes.h; the connection's preface and a SETTINGS frame go before it.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/attrs.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "proto/health_service.h"
#include "proto/rpc/grpc/server_private.h"
#include "tests/fuzz/wire/h2_bytes.h"
#include "tests/raw_message.h"

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"

static struct loop loop;
static struct grpc_server *server;
static struct sockaddr_un addr = {.sun_family = AF_UNIX};
static socklen_t addr_len = sizeof(addr);
static unsigned started, ended;

/* ---- methods: Echo answers each message with itself, Pour one with 100 KiB -------------- */

static void on_start(struct server_call *call, void *data)
{
    (void)data;
    started++;
    (void)server_call_metadata(call, "x-any-bin", NULL);
}

static void on_over(struct server_call *call)
{
    (void)call;
    ended++;
}

static void echo(struct server_call *call, const uint8_t *message, size_t n)
{
    struct raw_message raw;

    MUST(server_call_send(call, raw_message(&raw, message, n)) == 0);
}

static void pour(struct server_call *call, const uint8_t *message, size_t n)
{
    static const uint8_t zeroes[10240];
    struct raw_message raw;

    (void)message;
    (void)n;
    for (unsigned i = 0; i < 10; i++)
        MUST(server_call_send(call, raw_message(&raw, zeroes, sizeof(zeroes))) == 0);
}

static void finish(struct server_call *call)
{
    server_call_finish(call, GRPC_OK, "good\xe2\x98\xba");
}

static const struct server_handler echo_handler = {.on_start = on_start,
                                                   .on_message = echo,
                                                   .on_half_close = finish,
                                                   .on_gone = on_over,
                                                   .on_closed = on_over};
static const struct server_handler pour_handler = {.on_start = on_start,
                                                   .on_message = pour,
                                                   .on_half_close = finish,
                                                   .on_gone = on_over,
                                                   .on_closed = on_over};
static struct server_method methods[5] = {
    {.path = "/f.F/Echo", .handler = &echo_handler, .client_streaming = true},
    {.path = "/f.F/One", .handler = &echo_handler, .max_message_bytes = 256},
    {.path = "/f.F/Pour", .handler = &pour_handler},
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct server_config config = {.methods = methods, .methods_count = ARRAY_LEN(methods)};
    static struct health_service *health;
    struct error err = {0};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    (void)argc;
    (void)argv;
    config.max_streams = 8;
    config.max_buffered_bytes = 65536;
    MUST(loop_init(&loop, &err) == 0 && health_service_create(&health, &err) == 0);
    health_service_set(health, "", true);
    health_service_methods(health, methods + 3);
    /* Only the family: the kernel chooses an abstract name. */
    MUST(bind(fd, (struct sockaddr *)&addr, sizeof(addr.sun_family)) == 0 &&
         listen(fd, 8) == 0);
    MUST(getsockname(fd, (struct sockaddr *)&addr, &addr_len) == 0);
    MUST(grpc_server_create(&server, &loop, &config, &err) == 0);
    MUST(grpc_server_listen(server, fd, &err) == 0);
    return 0;
}

static void drain(int fd)
{
    uint8_t bytes[65536];

    while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
}

/* Sends all of it, or what the server takes. */
static void say(int fd, const uint8_t *bytes, size_t n)
{
    while (n != 0) {
        ssize_t sent = send(fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent > 0) {
            bytes += sent;
            n -= (size_t)sent;
        } else if (errno != EAGAIN) {
            return;
        }
        loop_turn(&loop, 0);
        drain(fd);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct buf bytes = BUF_INIT;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    MUST(connect(fd, (struct sockaddr *)&addr, addr_len) == 0);
    buf_add(&bytes, PREFACE, sizeof(PREFACE) - 1);
    h2_bytes(&bytes, &in);
    started = ended = 0;
    say(fd, buf_head(&bytes), buf_size(&bytes));
    for (unsigned i = 0; i < 3; i++) {
        loop_turn(&loop, 0);
        drain(fd);
    }
    (void)close(fd);
    for (unsigned i = 0; i < 100 && server->connections != 0; i++)
        loop_turn(&loop, 1000);
    MUST(server->connections == 0);
    MUST(started == ended);
    buf_finish(&bytes);
    return 0;
}
