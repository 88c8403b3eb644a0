/*
 * http.c - any bytes on a connection to a worker: it answers HTTP or hangs up, and afterwards
 * holds neither the connection nor a request.
 *
 * Input: a byte for the size of the pieces (in 16s; 0: all at once), then the bytes.  A model
 * called "echo" answers with the request's body, "stream" in three events, "wait" never, any
 * other with an error.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "proto/drover_common.pb-c.h"
#include "shm/facts/procs.h"
#include "shm/scoreboard.h"
#include "tests/fuzz/fuzz.h"
#include "worker/http/client_request.h"
#include "worker/http/reject.h"
#include "worker/http/responder.h"
#include "worker/http/server.h"

static struct loop loop;
static struct config config;
static struct http_server *server;
static struct sockaddr_un addr = {.sun_family = AF_UNIX};
static socklen_t addr_len = sizeof(addr);
static unsigned asked, ended;

static void on_over(void *data)
{
    (void)data;
    ended++;
}

static void on_infer(struct client_request *request, void *data)
{
    static const struct responder_events events = {.on_gone = on_over, .on_done = on_over};
    struct responder *r = request->responder;

    (void)data;
    asked++;
    MUST(drover__v1__operation__descriptor.n_values > (unsigned)request->operation);
    MUST(request->operation > 0);
    for (const char *p = request->id; *p != '\0'; p++)
        MUST(*p > 0x20 && *p < 0x7f);
    for (size_t i = 0; i < request->forward_count; i++)
        for (const char *p = request->forward[i].value; *p != '\0'; p++)
            MUST(*p >= 0x20 && *p < 0x7f);
    responder_set_events(r, &events, NULL);
    if (strcmp(request->model, "echo") == 0) {
        responder_start(r, 200, "application/json", (int64_t)request->body_len);
        responder_write(r, request->body, request->body_len);
        responder_end(r);
    } else if (strcmp(request->model, "stream") == 0) {
        responder_start(r, 200, "text/event-stream", -1);
        for (unsigned i = 0; i < 3; i++)
            responder_write(r, "data: {}\n\n", 10);
        responder_end(r);
    } else if (strcmp(request->model, "wait") != 0) {
        http_reply_error(request, API_ERROR_QUEUE_FULL, request->model, 3);
    }
}

static void settle_name(struct client_request *request, void *data)
{
    unsigned models;
    const struct config_alias *alias = config_find_alias(&config, request->model, &models);

    (void)data;
    request->aliased = alias != NULL;
    if (alias != NULL)
        (void)strlcpy(request->model, alias->model, sizeof(request->model));
}

static bool yes(void *data)
{
    (void)data;
    return true;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static struct config_alias alias = {"gpt", "echo"};
    static char *proxies[] = {"unix", "10.0.0.0/8"};
    struct scoreboard_params sizes = {
        .max_nodes = 4, .max_workers = 2, .requests_per_worker = 4};
    struct http_server_params params = {.loop = &loop,
                                        .config = &config,
                                        .on_infer = on_infer,
                                        .settle_name = settle_name,
                                        .ready = yes,
                                        .models_unknown = yes,
                                        .models_awaited = yes};
    struct error err = {0};
    char path[64];

    (void)argc;
    (void)argv;
    config.limits.max_connections = 100;
    config.limits.max_body_bytes = 1u << 16;
    config.limits.max_body_total_bytes = 1u << 20;
    config.limits.header_timeout_ms = 10000;
    config.limits.idle_timeout_ms = 10000;
    config.limits.write_stall_ms = 10000;
    config.api.trusted_proxies = proxies;
    config.api.trusted_proxies_count = 2;
    config.aliases = &alias;
    config.aliases_count = 1;
    (void)snprintf(path, sizeof(path), "/tmp/drover-fuzz-%d", (int)getpid());
    MUST(scoreboard_create(&params.board, path, &sizes, &err) == 0);
    (void)unlink(path);
    procs_assign(params.board, 0, 1, false);
    MUST(loop_init(&loop, &err) == 0);
    params.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    /* Only the family: the kernel chooses an abstract name. */
    MUST(bind(params.listen_fd, (struct sockaddr *)&addr, sizeof(addr.sun_family)) == 0 &&
         listen(params.listen_fd, 8) == 0);
    MUST(getsockname(params.listen_fd, (struct sockaddr *)&addr, &addr_len) == 0);
    MUST(http_server_create(&server, &params, &err) == 0);
    return 0;
}

/* Keeps the beginning of what comes back. */
struct reply {
    char start[16];
    size_t n;
    bool over;
};

static void hear(struct reply *reply, int fd)
{
    char bytes[65536];
    ssize_t n;

    while ((n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) {
        size_t room = sizeof(reply->start) - reply->n;
        size_t take = (size_t)n < room ? (size_t)n : room;

        memcpy(reply->start + reply->n, bytes, take);
        reply->n += take;
    }
    reply->over = n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

static void say(struct reply *reply, int fd, const uint8_t *bytes, size_t n)
{
    while (n != 0 && !reply->over) {
        ssize_t sent = send(fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent > 0) {
            bytes += sent;
            n -= (size_t)sent;
        } else if (errno != EAGAIN) {
            return;
        }
        loop_turn(&loop, 0);
        hear(reply, fd);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    size_t step = input_byte(&in) * 16, n;
    struct reply reply = {.n = 0};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    asked = ended = 0;
    MUST(connect(fd, (struct sockaddr *)&addr, addr_len) == 0);
    do {
        const uint8_t *piece = input_piece(&in, step, &n);

        say(&reply, fd, piece, n);
    } while (in.left != 0);
    for (unsigned i = 0; i < 3 && !reply.over; i++) {
        loop_turn(&loop, 0);
        hear(&reply, fd);
    }
    (void)close(fd);
    for (unsigned i = 0; i < 100 && http_server_connections(server) != 0; i++)
        loop_turn(&loop, 1000);
    MUST(http_server_connections(server) == 0);
    MUST(asked == ended);
    MUST(reply.n < 9 || memcmp(reply.start, "HTTP/1.1 ", 9) == 0);
    return 0;
}
