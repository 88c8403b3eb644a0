/*
 * test_mutation.c - damaged HTTP/2 in both directions: nothing crashes, leaks or hangs.
 *
 * The bytes of an honest client and an honest server are recorded once, then played back with
 * random bytes changed, removed or repeated.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "proto/rpc/grpc/client_private.h"
#include "rig.h"

/* On a busy machine each round takes a while: then so many as fit into the time, and the least.
 */
#define ROUNDS      1500
#define ROUNDS_MIN  100
#define LONG_ENOUGH (20 * US_PER_S)

struct recording {
    uint8_t bytes[8192];
    size_t n;
};

static const struct call_options chat = {.path = "/t.T/Chat"};
static const struct call_options pour = {.path = "/t.T/Pour"};

static void read_more(struct recording *to, int fd)
{
    ssize_t n = recv(fd, to->bytes + to->n, sizeof(to->bytes) - to->n, MSG_DONTWAIT);

    if (n > 0)
        to->n += (size_t)n;
}

static int dial(const struct net_addr *addr)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(connect(fd, (const struct sockaddr *)&addr->sa, addr->len), 0);
    return fd;
}

/* A channel to a listener of ours, and the connection it makes. */
static int take_client(struct rig *rig, int listener, struct probe probes[2])
{
    struct error err = {0};
    int fd;

    channel_destroy(rig->channel);
    /* A client that lost its connection early may have made another. */
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) != -1)
        (void)close(fd);
    cr_assert_eq(net_local(&rig->channel_config.addr, listener, &err), 0);
    cr_assert_eq(channel_create(&rig->channel, &rig->loop, &rig->channel_config, &err), 0);
    memset(probes, 0, 2 * sizeof(*probes));
    rig_call(rig, &probes[0], &chat, "hello", 5);
    rig_call(rig, &probes[1], &pour, "3 500", 5);
    cr_assert(RIG_WAIT(rig, (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) != -1));
    return fd;
}

static const uint8_t settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};

static void record(struct rig *rig, int listener, struct recording *client,
                   struct recording *server)
{
    struct probe probes[2];
    int fd = take_client(rig, listener, probes);

    cr_assert_eq(write(fd, settings, sizeof(settings)), (ssize_t)sizeof(settings));
    /* Preface, SETTINGS, two HEADERS and two DATA are more than 200 bytes, and the last of them
     * is the text of the second request. */
    cr_assert(RIG_WAIT(rig, (read_more(client, fd),
                             client->n > 200 && memmem(client->bytes, client->n, "3 500", 5))));
    (void)close(fd);
    cr_assert(RIG_WAIT(rig, probes[0].ends == 1 && probes[1].ends == 1));

    fd = dial(&rig->addr);
    cr_assert_eq(write(fd, client->bytes, client->n), (ssize_t)client->n);
    cr_assert(RIG_WAIT(rig, (read_more(server, fd), rig->closed == 2 && server->n > 1500)));
    (void)close(fd);
}

static size_t damage(uint8_t *to, const struct recording *from)
{
    size_t n = from->n, at, len;
    unsigned changes = 1 + (unsigned)random() % 5;

    memcpy(to, from->bytes, n);
    while (changes-- != 0) {
        at = (size_t)random() % n;
        len = 1 + (size_t)random() % 16;
        if (len > n - at)
            len = n - at;
        switch (random() % 4) {
        case 0: /* remove */
            memmove(to + at, to + at + len, n - at - len);
            n -= len;
            break;
        case 1: /* repeat */
            if (n + len <= sizeof(from->bytes)) {
                memmove(to + at + len, to + at, n - at);
                n += len;
            }
            break;
        default:
            to[at] = (uint8_t)((random() & 1) != 0 ? random() : to[at] ^ 1 << random() % 8);
        }
        if (n == 0)
            return 0;
    }
    return n;
}

Test(mutation, damaged_http2_crashes_neither_server_nor_client, .timeout = 120)
{
    static struct recording client, server;
    static uint8_t bytes[sizeof(client.bytes)];
    struct error err = {0};
    struct rig rig;
    struct probe honest = {0};
    const struct call_options echo = {.path = "/t.T/Echo"};
    int listener = net_listen("127.0.0.1:0", 8, &err);
    unsigned round, answered = 0;
    uint64_t until = clock_mono_us() + LONG_ENOUGH;

    srandom(3);
    rig_init(&rig);
    rig.channel_config.connect_timeout_us = 20000;
    rig_start(&rig);
    record(&rig, listener, &client, &server);
    for (round = 0; round < ROUNDS && (round < ROUNDS_MIN || clock_mono_us() < until);
         round++) {
        struct probe probes[2];
        size_t n = damage(bytes, &client);
        int fd = dial(&rig.addr), turns;

        (void)send(fd, bytes, n, MSG_NOSIGNAL);
        for (turns = 0; turns < 4; turns++)
            loop_turn(&rig.loop, 0);
        (void)close(fd);

        fd = take_client(&rig, listener, probes);
        n = damage(bytes, &server);
        /* A client says nothing before SETTINGS, and answers to nothing are an error. */
        (void)send(fd, settings, sizeof(settings), MSG_NOSIGNAL);
        /* A call that has ended was kept waiting for longer than the connect timeout. */
        cr_assert(RIG_WAIT(&rig, probes[1].call == NULL || probes[1].call->stream.sent));
        (void)send(fd, bytes, n, MSG_NOSIGNAL);
        for (turns = 0; turns < 4; turns++)
            loop_turn(&rig.loop, 0);
        (void)close(fd);
        cr_assert(RIG_WAIT(&rig, probes[0].ends == 1 && probes[1].ends == 1));
        answered += probes[0].status == GRPC_OK;
        probe_finish(&probes[0]);
        probe_finish(&probes[1]);
    }
    /* Some of the damage must have got past the first frames for this to mean anything. */
    cr_assert_gt(answered, round / 20);
    cr_assert(RIG_WAIT(&rig, rig.gone + rig.closed == rig.started));
    channel_destroy(rig.channel);
    rig.channel_config.addr = rig.addr;
    cr_assert_eq(channel_create(&rig.channel, &rig.loop, &rig.channel_config, &err), 0);
    rig_call(&rig, &honest, &echo, "still here", 10);
    cr_assert(RIG_WAIT(&rig, honest.ends == 1));
    cr_assert_eq(honest.status, GRPC_OK);
    probe_finish(&honest);
    (void)close(listener);
    rig_finish(&rig);
}
