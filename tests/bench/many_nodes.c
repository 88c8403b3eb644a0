/*
 * many_nodes.c - a herd of nodes in one process: for tests of joining, routing and looking at
 * hundreds of them.
 *
 *   many_nodes COORDINATOR TOKEN_FILE URL...
 *
 * Each node is the real thing (agent, gRPC server, registry stream) before the engine at one of
 * the URLs, called n0, n1, ...; they share one event loop.  All begin to join at the same
 * moment, after the line "ready".  On SIGTERM they say goodbye and the process ends.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/io/net.h"
#include "node/agent.h"
#include "node/engine/engine.h"
#include "node/options.h"
#include "node/report/registration.h"
#include "node/service.h"
#include "proto/rpc/grpc/server.h"

#define MAX_COUNT 1024
#define LEAVE_US  (5 * US_PER_S)

struct herd_node {
    struct engine *engine;
    struct agent *agent;
    struct service *service;
    struct grpc_server *server;
    struct registration *attach;
    uint16_t port;
};

static struct herd_node herd[MAX_COUNT];
static volatile sig_atomic_t asked_to_stop;

static void on_term(int number)
{
    (void)number;
    asked_to_stop = 1;
}

static int start_node(struct herd_node *node, struct loop *loop, unsigned number,
                      const char *url, char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1],
                      struct error *err)
{
    struct agent_config config = {.queue = -1};
    struct engine_config engine = {.url = url};
    struct server_config server = {.methods_count = SERVICE_METHODS, .max_streams = 256};
    struct net_addr local;
    int rc = engine_create(&node->engine, loop, &engine, err);
    int fd;

    if (rc != 0)
        return rc;
    (void)snprintf(config.node_id, sizeof(config.node_id), "n%u", number);
    arc4random_buf(config.instance_id, sizeof(config.instance_id));
    rc = agent_create(&node->agent, loop, node->engine, &config, err);
    if (rc != 0)
        return rc;
    agent_set_tokens(node->agent, tokens);
    rc = service_create(&node->service, node->agent, err);
    if (rc != 0)
        return rc;
    server.methods = service_methods(node->service);
    rc = grpc_server_create(&node->server, loop, &server, err);
    if (rc != 0)
        return rc;
    fd = net_listen("127.0.0.1:0", 64, err);
    if (fd < 0)
        return fd;
    rc = net_local(&local, fd, err);
    if (rc == 0)
        rc = grpc_server_listen(node->server, fd, err);
    node->port = rc == 0 ? net_port(&local) : 0;
    return rc;
}

static int run(unsigned count, const char *coordinator, const char *token_file, char **urls,
               struct error *err)
{
    char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1] = {0};
    struct loop loop;
    uint64_t until_mono_us;
    unsigned left = 0;
    int rc = loop_init(&loop, err);

    if (rc == 0)
        rc = options_read_tokens(tokens, token_file, err);
    for (unsigned i = 0; rc == 0 && i < count; i++)
        rc = start_node(&herd[i], &loop, i, urls[i], tokens, err);
    if (rc != 0)
        return rc;
    (void)puts("ready");
    (void)fflush(stdout);
    for (unsigned i = 0; rc == 0 && i < count; i++) {
        struct registration_config config = {
            .coordinator = coordinator, .host = "127.0.0.1", .port = herd[i].port};

        rc = registration_create(&herd[i].attach, herd[i].agent, &config, err);
    }
    while (rc == 0 && !asked_to_stop)
        loop_turn(&loop, 100 * US_PER_MS);
    for (unsigned i = 0; i < count && herd[i].attach != NULL; i++)
        registration_leave(herd[i].attach, "SIGTERM", 1000);
    until_mono_us = clock_mono_us() + LEAVE_US;
    while (rc == 0 && left < count && clock_mono_us() < until_mono_us) {
        loop_turn(&loop, 100 * US_PER_MS);
        for (left = 0; left < count && registration_left(herd[left].attach);)
            left++;
    }
    for (unsigned i = 0; i < count; i++) {
        registration_destroy(herd[i].attach);
        grpc_server_destroy(herd[i].server);
        service_destroy(herd[i].service);
        agent_destroy(herd[i].agent);
        engine_destroy(herd[i].engine);
    }
    loop_finish(&loop);
    return rc;
}

int main(int argc, char **argv)
{
    struct error err = {0};
    unsigned count = argc < 4 ? 0 : (unsigned)argc - 3;

    if (count == 0 || count > MAX_COUNT) {
        (void)fprintf(stderr, "usage: many_nodes COORDINATOR TOKEN_FILE URL...\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGTERM, on_term);
    log_set_proc("herd");
    log_set_level(LOG_LEVEL_WARN);
    if (run(count, argv[1], argv[2], argv + 3, &err) != 0) {
        (void)fprintf(stderr, "many_nodes: %s\n", err.text);
        return 1;
    }
    return 0;
}
