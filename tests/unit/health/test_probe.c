/* test_probe.c - a probe and a node on one loop: what it proves to the node, and with what. */
#include "health/nodes/probe.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "proto/health_service.h"
#include "proto/join.h"
#include "tests/unit/freed.h"

static struct loop loop;
static uint8_t instance[JOIN_INSTANCE_BYTES] = {7};
static unsigned watches;                  /* WatchLoad calls so far */
static uint8_t proven[JOIN_PROOF_BYTES];  /* by the last one, with the newest token */
static uint8_t earlier[JOIN_PROOF_BYTES]; /* ... with the previous one */
static struct server_call *watching;      /* NULL = none is open */

/* ---- the node -------------------------------------------------------------------------- */

static void on_call(struct server_call *call, void *data)
{
    (void)call;
    (void)data;
}

static void describe(struct server_call *call, const uint8_t *message, size_t n)
{
    Drover__V1__DescribeResponse said = DROVER__V1__DESCRIBE_RESPONSE__INIT;

    (void)message;
    (void)n;
    said.node_id = (char *)(uintptr_t) "node";
    said.instance_id = (ProtobufCBinaryData){.len = sizeof(instance), .data = instance};
    cr_assert_eq(server_call_send(call, &said.base), 0);
    server_call_finish(call, GRPC_OK, NULL);
}

static void take_proof(struct server_call *call, const char *name, uint8_t *out)
{
    size_t n = 0;
    const void *proof = server_call_metadata(call, name, &n);

    memset(out, 0, JOIN_PROOF_BYTES);
    if (proof != NULL && n == JOIN_PROOF_BYTES)
        memcpy(out, proof, n);
}

static void watch_load(struct server_call *call, const uint8_t *message, size_t n)
{
    (void)message;
    (void)n;
    take_proof(call, JOIN_CALL_METADATA, proven);
    take_proof(call, JOIN_CALL_PREVIOUS_METADATA, earlier);
    watching = call;
    watches++;
}

static void on_gone(struct server_call *call)
{
    if (call == watching)
        watching = NULL;
}

static const struct server_handler describe_handler = {
    .on_start = on_call, .on_message = describe, .on_gone = on_gone};
static const struct server_handler watch_handler = {
    .on_start = on_call, .on_message = watch_load, .on_gone = on_gone};

static struct server_method methods[4] = {
    {.path = "/drover.v1.Inference/Describe", .handler = &describe_handler},
    {.path = "/drover.v1.Inference/WatchLoad", .handler = &watch_handler},
};

/* ---- the probe's owner ----------------------------------------------------------------- */

static void on_result(const struct probe_result *result, void *data)
{
    (void)result;
    (void)data;
}

static enum node_reason on_describe(const Drover__V1__DescribeResponse *said, void *data)
{
    (void)said;
    (void)data;
    return NODE_REASON_NONE;
}

static void on_load(const Drover__V1__LoadReport *load, void *data)
{
    (void)load;
    (void)data;
}

static const struct probe_events events = {
    .on_result = on_result, .on_describe = on_describe, .on_load = on_load};

/* Turns the loop until the node has been asked for its load so often. */
static bool watched(unsigned times)
{
    uint64_t give_up = clock_mono_us() + 10 * US_PER_S;

    while (watches < times && clock_mono_us() < give_up)
        loop_turn(&loop, 10000);
    return watches == times;
}

static void assert_proof(const uint8_t *got, const char *token)
{
    uint8_t wanted[JOIN_PROOF_BYTES];

    join_call_proof(wanted, token, instance);
    cr_assert(join_equal(got, wanted), "not with %s", token);
}

/* Tokens as a configuration holds them, which a reload frees. */
static void borrow(char *tokens[TOKENS_MAX], const char *newest, const char *previous)
{
    tokens[0] = strdup(newest);
    tokens[1] = strdup(previous);
}

static void give_back(char *tokens[TOKENS_MAX])
{
    for (size_t i = 0; i < TOKENS_MAX; i++) {
        explicit_bzero(tokens[i], strlen(tokens[i]));
        free(tokens[i]);
        tokens[i] = NULL;
    }
}

Test(probe, tokens_outlive_the_configuration_that_they_came_from)
{
    struct health_service *health;
    struct server_config server_config = {.methods = methods, .methods_count = 4};
    struct probe_config config = {
        .interval_us = 20 * US_PER_MS, .timeout_us = 5 * US_PER_S, .watch_load = true};
    char *tokens[TOKENS_MAX];
    struct grpc_server *server;
    struct probe *probe;
    struct error err = {0};
    int fd;

    cr_assert_eq(loop_init(&loop, &err), 0);
    cr_assert_eq(health_service_create(&health, &err), 0);
    health_service_set(health, "", true);
    health_service_methods(health, methods + 2);
    fd = net_listen("127.0.0.1:0", 8, &err);
    cr_assert_geq(fd, 0);
    cr_assert_eq(net_local(&config.addr, fd, &err), 0);
    cr_assert_eq(grpc_server_create(&server, &loop, &server_config, &err), 0);
    cr_assert_eq(grpc_server_listen(server, fd, &err), 0);

    borrow(tokens, "newest-token", "previous-token");
    config.tokens = tokens;
    cr_assert_eq(probe_create(&probe, &loop, &config, &events, NULL, &err), 0);
    give_back(tokens);
    cr_assert(watched(1), "no WatchLoad");
    assert_proof(proven, "newest-token");
    assert_proof(earlier, "previous-token");

    borrow(tokens, "latest-token", "newest-token");
    probe_set_tokens(probe, tokens);
    give_back(tokens);
    server_call_finish(watching, GRPC_UNAVAILABLE, "once more");
    cr_assert(watched(2), "no second WatchLoad");
    assert_proof(proven, "latest-token");
    assert_proof(earlier, "newest-token");

    freed_secret = "latest-token";
    probe_destroy(probe);
    cr_assert_eq(freed_with_secret, 0, "a token was left in memory");
    freed_secret = NULL;
    grpc_server_destroy(server);
    health_service_destroy(health);
    loop_finish(&loop);
}
