/* test_tls.c - gRPC over TLS and mutual TLS; certificates are made by openssl(1) at test time.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "proto/rpc/h2/tls.h"
#include "rig.h"

static char dir[] = "/tmp/drover-tls.XXXXXX";

static char *path(const char *name)
{
    char *text = malloc(sizeof(dir) + 64);

    (void)snprintf(text, sizeof(dir) + 64, "%s/%s", dir, name);
    return text;
}

/* Two CAs, a server certificate by each, and a client certificate by the first. */
static const char script[] =
    "set -e; cd %s; exec >/dev/null 2>&1\n"
    "for ca in good evil; do\n"
    "  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
    "-subj /CN=$ca-ca -keyout $ca-ca.key -out $ca-ca.pem\n"
    "  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$ca "
    "-keyout $ca.key -out $ca.csr\n"
    "  printf 'subjectAltName=DNS:node.test,IP:127.0.0.1\\n' > ext\n"
    "  openssl x509 -req -in $ca.csr -CA $ca-ca.pem -CAkey $ca-ca.key -CAcreateserial -days 2 "
    "-extfile ext -out $ca.pem\n"
    "done\n";

static void make_certificates(void)
{
    char command[sizeof(script) + sizeof(dir)];

    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(command, sizeof(command), script, dir);
    cr_assert_eq(system(command), 0);
}

static void remove_certificates(void)
{
    char command[64];

    (void)snprintf(command, sizeof(command), "rm -rf %s", dir);
    (void)!system(command);
}

struct result {
    enum grpc_status status;
    char text[256];
    enum call_end end;
};

enum speaks { SPEAKS_H2, SPEAKS_HTTP1, SPEAKS_NO_ALPN, SPEAKS_CLEARTEXT };

/* One call with these files; NULL = not given. */
static struct result attempt(const char *server_ca, const char *client_identity,
                             const char *client_ca, const char *name, enum speaks speaks)
{
    struct config_tls server = {
        .enabled = true, .cert = path("good.pem"), .key = path("good.key")};
    struct config_tls client = {.enabled = true};
    const struct call_options options = {.path = "/t.T/Echo"};
    char identity[64];
    struct rig rig;
    struct probe probe = {0};
    struct result result = {0};
    struct error err = {0};
    SSL_CTX *server_ctx = NULL, *client_ctx = NULL;
    uint8_t *bytes = calloc(1, 300000);

    if (server_ca != NULL)
        server.ca = path(server_ca);
    if (client_ca != NULL)
        client.ca = path(client_ca);
    if (client_identity != NULL) {
        (void)snprintf(identity, sizeof(identity), "%s.pem", client_identity);
        client.cert = path(identity);
        (void)snprintf(identity, sizeof(identity), "%s.key", client_identity);
        client.key = path(identity);
    }
    cr_assert_eq(
        tls_server_context(&server_ctx, &server,
                           speaks == SPEAKS_HTTP1 ? TLS_PROTOCOL_HTTP1 : TLS_PROTOCOL_H2, &err),
        0, "%s", err.text);
    cr_assert_eq(tls_client_context(&client_ctx, &client, &err), 0, "%s", err.text);
    rig_init(&rig);
    if (speaks == SPEAKS_NO_ALPN)
        SSL_CTX_set_alpn_select_cb(server_ctx, NULL, NULL);
    if (speaks != SPEAKS_CLEARTEXT)
        rig.server_config.tls = server_ctx;
    rig.channel_config.tls = client_ctx;
    rig.channel_config.tls_name = name;
    rig.channel_config.connect_timeout_us = US_PER_S;
    rig_start(&rig);
    rig_call(&rig, &probe, &options, bytes, 300000);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    result.status = probe.status;
    result.end = probe.end;
    memcpy(result.text, probe.text, sizeof(result.text));
    if (result.status == GRPC_OK)
        cr_assert_eq(probe.bytes, 300000);
    probe_finish(&probe);
    rig_finish(&rig);
    SSL_CTX_free(server_ctx);
    SSL_CTX_free(client_ctx);
    free(server.cert);
    free(server.key);
    free(server.ca);
    free(client.cert);
    free(client.key);
    free(client.ca);
    free(bytes);
    return result;
}

Test(tls, a_verified_server_is_talked_to_by_name_and_by_address, .init = make_certificates,
     .fini = remove_certificates)
{
    struct result r = attempt(NULL, NULL, "good-ca.pem", "node.test", SPEAKS_H2);

    cr_expect_eq(r.status, GRPC_OK, "%s", r.text);
    r = attempt(NULL, NULL, "good-ca.pem", "127.0.0.1", SPEAKS_H2);
    cr_expect_eq(r.status, GRPC_OK, "%s", r.text);
    r = attempt(NULL, NULL, "good-ca.pem", NULL, SPEAKS_H2);
    cr_expect_eq(r.status, GRPC_OK, "%s", r.text);
}

Test(tls, a_server_of_another_ca_or_name_is_refused_with_the_reason, .init = make_certificates,
     .fini = remove_certificates)
{
    struct result r = attempt(NULL, NULL, "evil-ca.pem", "node.test", SPEAKS_H2);

    cr_expect_eq(r.status, GRPC_UNAVAILABLE);
    cr_expect_eq(r.end, CALL_END_CONNECT);
    cr_expect_not_null(strstr(r.text, "certificate"), "%s", r.text);
    r = attempt(NULL, NULL, "good-ca.pem", "other.test", SPEAKS_H2);
    cr_expect_eq(r.status, GRPC_UNAVAILABLE);
    cr_expect_not_null(strstr(r.text, "hostname mismatch"), "%s", r.text);
    r = attempt(NULL, NULL, "good-ca.pem", "127.0.0.2", SPEAKS_H2);
    cr_expect_eq(r.status, GRPC_UNAVAILABLE);
    cr_expect_not_null(strstr(r.text, "IP address mismatch"), "%s", r.text);
}

Test(tls, a_server_that_demands_a_certificate_takes_only_its_own_cas, .init = make_certificates,
     .fini = remove_certificates)
{
    struct result r = attempt("good-ca.pem", "good", "good-ca.pem", "node.test", SPEAKS_H2);

    cr_expect_eq(r.status, GRPC_OK, "%s", r.text);
    r = attempt("good-ca.pem", NULL, "good-ca.pem", "node.test", SPEAKS_H2);
    cr_expect_eq(r.status, GRPC_UNAVAILABLE, "%s", r.text);
    r = attempt("good-ca.pem", "evil", "good-ca.pem", "node.test", SPEAKS_H2);
    cr_expect_eq(r.status, GRPC_UNAVAILABLE, "%s", r.text);
}

Test(tls, a_cleartext_server_is_not_mistaken_for_a_tls_one, .init = make_certificates,
     .fini = remove_certificates)
{
    struct result r = attempt(NULL, NULL, "good-ca.pem", "node.test", SPEAKS_CLEARTEXT);

    cr_expect_eq(r.status, GRPC_UNAVAILABLE);
}

Test(tls, both_sides_demand_alpn_h2, .init = make_certificates, .fini = remove_certificates)
{
    struct result r = attempt(NULL, NULL, "good-ca.pem", "node.test", SPEAKS_HTTP1);

    cr_expect_eq(r.status, GRPC_UNAVAILABLE);
    cr_expect_not_null(strstr(r.text, "no application protocol"), "%s", r.text);
    r = attempt(NULL, NULL, "good-ca.pem", "node.test", SPEAKS_NO_ALPN);
    cr_expect_eq(r.status, GRPC_UNAVAILABLE);
    cr_expect_not_null(strstr(r.text, "no ALPN h2"), "%s", r.text);
}

Test(tls, a_bad_file_is_named, .init = make_certificates, .fini = remove_certificates)
{
    struct config_tls tls = {
        .enabled = true, .cert = path("missing.pem"), .key = path("good.key")};
    struct error err = {0};
    SSL_CTX *ctx;

    cr_expect_eq(tls_server_context(&ctx, &tls, TLS_PROTOCOL_H2, &err), DRV_ESYS);
    cr_expect_not_null(strstr(err.text, "missing.pem"), "%s", err.text);
    cr_expect_not_null(strstr(err.text, "No such file"), "%s", err.text);
    free(tls.cert);
    tls.cert = path("good.pem");
    free(tls.key);
    tls.key = path("evil.key");
    cr_expect_eq(tls_server_context(&ctx, &tls, TLS_PROTOCOL_H2, &err), DRV_EINVAL);
    cr_expect_not_null(strstr(err.text, "evil.key"), "%s", err.text);
    free(tls.key);
    tls.key = NULL;
    cr_expect_eq(tls_server_context(&ctx, &tls, TLS_PROTOCOL_H2, &err), DRV_EINVAL);
    cr_expect_eq(tls_client_context(&ctx, &tls, &err), DRV_EINVAL);
    free(tls.cert);
}
