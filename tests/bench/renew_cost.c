/*
 * renew_cost.c - what a worker pays when a node's state moves, or what a node says of itself.
 *
 *   renew_cost [NODES [MODELS]]    1024 nodes with 64 models each
 *
 * Every worker renews its picture of the nodes after every such change, at most every 10 ms.
 * The nodes are DOWN, so that no connections are made.  The shortest of many repetitions
 * counts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "shm/facts/nodes.h"
#include "shm/scoreboard.h"
#include "worker/upstreams/upstreams.h"

#define REPETITIONS    50
#define DEFAULT_MODELS 64 /* a row may have NODE_MAX_MODELS, but few nodes list so many */

static struct loop loop;
static struct scoreboard *board;
static struct upstreams *upstreams;

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "renew_cost: %s\n", what);
    exit(2);
}

static void on_change(void *data, bool models)
{
    (void)data;
    (void)models;
}

static void publish(unsigned node, unsigned models, unsigned slots)
{
    static struct node_info info;

    memset(&info, 0, sizeof(info));
    info.slots = slots;
    info.weight = 100;
    info.models_count = models;
    (void)snprintf(info.name, sizeof(info.name), "node-%u", node);
    (void)strlcpy(info.address, "127.0.0.1:7000", sizeof(info.address));
    for (unsigned m = 0; m < models; m++)
        (void)snprintf(info.models[m].id, sizeof(info.models[m].id),
                       "some-vendor/some-family-instruct-%u", m);
    nodes_publish(board, node, &info);
}

static uint64_t renew_us(void)
{
    uint64_t start;

    loop.now_mono_us += US_PER_S;
    start = clock_mono_us();
    upstreams_renew(upstreams);
    return clock_mono_us() - start;
}

static void make_board(unsigned nodes)
{
    struct scoreboard_params params = {
        .max_nodes = nodes, .max_workers = 1, .requests_per_worker = 1};
    char folder[] = "/dev/shm/renew-cost-XXXXXX", path[64];
    static struct config config;
    struct error err = {0};

    if (mkdtemp(folder) == NULL)
        die("no folder in /dev/shm");
    (void)snprintf(path, sizeof(path), "%s/%s", folder, SCOREBOARD_FILE_NAME);
    if (scoreboard_create(&board, path, &params, &err) != 0 || loop_init(&loop, &err) != 0 ||
        upstreams_create(&upstreams, &loop, &config, board, 0, on_change, NULL, &err) != 0)
        die(err.text);
    (void)unlink(path);
    (void)rmdir(folder);
}

int main(int argc, char **argv)
{
    unsigned nodes = argc > 1 ? (unsigned)atoi(argv[1]) : 1024;
    unsigned models = argc > 2 ? (unsigned)atoi(argv[2]) : DEFAULT_MODELS;
    uint64_t all_us, state_us = UINT64_MAX, row_us = UINT64_MAX;

    if (nodes < 1 || nodes > 1024 || models < 1 || models > NODE_MAX_MODELS)
        die("NODES and MODELS are 1 to 1024");
    make_board(nodes);
    for (unsigned i = 0; i < nodes; i++) {
        if (nodes_claim(board, 1) != (int)i)
            die("no row for a node");
        publish(i, models, 4);
        nodes_set_state(board, i, NODE_DOWN, NODE_REASON_CONNECT_FAILED, 1);
    }
    all_us = renew_us();
    for (unsigned i = 0; i < REPETITIONS; i++) {
        uint64_t us;

        nodes_set_state(board, i % nodes, NODE_EJECTED, NODE_REASON_FAILURES, i + 2);
        us = renew_us();
        state_us = us < state_us ? us : state_us;
        publish(i % nodes, models, 5 + i);
        us = renew_us();
        row_us = us < row_us ? us : row_us;
    }
    printf("%u nodes, %u models: all rows are new %llu us, one state moved %llu us, one row "
           "changed %llu us\n",
           nodes, models, (unsigned long long)all_us, (unsigned long long)state_us,
           (unsigned long long)row_us);
    upstreams_destroy(upstreams);
    loop_finish(&loop);
    scoreboard_detach(board);
    return 0;
}
