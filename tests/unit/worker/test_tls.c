/* test_tls.c - the HTTP server behind TLS, with a certificate made for the occasion. */
#include <criterion/criterion.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "http_fixture.h"

static char cert_path[64], key_path[64];
static SSL_CTX *client_context;

static void make_certificate(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_NAME *name = X509_get_subject_name(cert);
    FILE *f;

    cr_assert_not_null(key);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1,
                               0);
    X509_set_issuer_name(cert, name);
    cr_assert_neq(X509_sign(cert, key, EVP_sha256()), 0);
    (void)snprintf(cert_path, sizeof(cert_path), "/tmp/drover-test-cert-%d", (int)getpid());
    (void)snprintf(key_path, sizeof(key_path), "/tmp/drover-test-key-%d", (int)getpid());
    f = fopen(cert_path, "w");
    cr_assert_eq(PEM_write_X509(f, cert), 1);
    (void)fclose(f);
    f = fopen(key_path, "w");
    cr_assert_eq(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
    (void)fclose(f);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static void setup_tls(void)
{
    setup();
    make_certificate();
    config.api.tls.enabled = true;
    config.api.tls.cert = cert_path;
    config.api.tls.key = key_path;
    client_context = SSL_CTX_new(TLS_client_method());
    start();
}

static void teardown_tls(void)
{
    SSL_CTX_free(client_context);
    teardown();
    (void)unlink(cert_path);
    (void)unlink(key_path);
}

TestSuite(tls, .init = setup_tls, .fini = teardown_tls, .timeout = 60);

struct tls_client {
    struct client *c;
    SSL *ssl;
    struct buf in;
    bool eof;
};

/* Connects, offering both protocols. */
static struct tls_client dial_tls(void)
{
    static const unsigned char offer[] = "\x02h2\x08http/1.1";
    struct tls_client t = {.c = dial(), .ssl = SSL_new(client_context)};
    int rc;

    t.c->paused = true; /* the bytes are OpenSSL's */
    cr_assert_eq(SSL_set_fd(t.ssl, t.c->fd), 1);
    cr_assert_eq(SSL_set_alpn_protos(t.ssl, offer, sizeof(offer) - 1), 0);
    AWAIT((rc = SSL_connect(t.ssl)) == 1 || SSL_get_error(t.ssl, rc) != SSL_ERROR_WANT_READ);
    cr_assert_eq(rc, 1);
    return t;
}

static void pull(struct tls_client *t)
{
    char bytes[16384];
    int n;

    turn();
    while (!t->eof && (n = SSL_read(t->ssl, bytes, sizeof(bytes))) != 0) {
        if (n < 0 && SSL_get_error(t->ssl, n) == SSL_ERROR_WANT_READ)
            return;
        if (n < 0)
            break;
        buf_add(&t->in, bytes, (size_t)n);
    }
    t->eof = true;
}

static bool got(struct tls_client *t, const char *text)
{
    pull(t);
    return strstr(buf_cstr(&t->in), text) != NULL;
}

static void say_tls(struct tls_client *t, const char *text)
{
    cr_assert_eq(SSL_write(t->ssl, text, (int)strlen(text)), (int)strlen(text));
}

static void finish(struct tls_client *t)
{
    SSL_free(t->ssl);
    buf_finish(&t->in);
}

#define POST_BEGIN                                \
    "POST /v1/chat/completions HTTP/1.1\r\n" HOST \
    "content-length: 17\r\n\r\n{\"model\":\"begin\"}"
#define POST_ECHO                                 \
    "POST /v1/chat/completions HTTP/1.1\r\n" HOST \
    "content-length: 16\r\n\r\n{\"model\":\"echo\"}"

Test(tls, requests_are_answered_on_one_connection_that_speaks_http_1_1)
{
    struct tls_client t = dial_tls();
    const unsigned char *protocol;
    unsigned n;

    SSL_get0_alpn_selected(t.ssl, &protocol, &n);
    cr_assert_eq(n, 8);
    cr_expect_eq(memcmp(protocol, "http/1.1", 8), 0);
    say_tls(&t, POST_BEGIN);
    AWAIT(got(&t, "9\r\ndata: 1\n\n\r\n"));
    responder_end(exchanges[0].request->responder);
    AWAIT(got(&t, "\r\n0\r\n\r\n"));
    buf_reset(&t.in);
    say_tls(&t, POST_ECHO);
    say_tls(&t, POST_ECHO); /* pipelined */
    AWAIT(got(&t, "{\"model\":\"echo\"}HTTP/1.1 200 OK\r\n"));
    AWAIT(exchanges_count == 3 && exchanges[2].done == 1);
    finish(&t);
}

Test(tls, a_large_answer_arrives_whole)
{
    static char block[3 << 20];
    struct tls_client t = dial_tls();

    say_tls(&t, POST_BEGIN);
    AWAIT(got(&t, "data: 1"));
    memset(block, 'x', sizeof(block));
    responder_write(exchanges[0].request->responder, block, sizeof(block));
    responder_end(exchanges[0].request->responder);
    AWAIT(got(&t, "\r\n0\r\n\r\n"));
    cr_expect_gt(buf_size(&t.in), sizeof(block));
    cr_expect_not_null(memmem(buf_head(&t.in), buf_size(&t.in), block, sizeof(block)));
    finish(&t);
}

Test(tls, a_client_that_leaves_is_noticed)
{
    struct tls_client t = dial_tls();

    say_tls(&t, POST_BEGIN);
    AWAIT(got(&t, "data: 1"));
    hang_up(t.c);
    AWAIT(exchanges[0].gone == 1);
    AWAIT(http_server_connections(server) == 0);
    finish(&t);
}

Test(tls, an_aborted_answer_closes_the_connection)
{
    struct tls_client t = dial_tls();

    say_tls(&t, POST_BEGIN);
    AWAIT(got(&t, "data: 1"));
    responder_abort(exchanges[0].request->responder);
    AWAIT((pull(&t), t.eof));
    cr_expect_null(strstr(buf_cstr(&t.in), "\r\n0\r\n"));
    cr_expect_eq(exchanges[0].gone, 1);
    AWAIT(http_server_connections(server) == 0);
    finish(&t);
}

Test(tls, the_server_can_go_at_any_stage)
{
    struct tls_client t = dial_tls(), u = dial_tls(), idle = dial_tls();

    (void)dial(); /* has not said hello */
    say(dial(), "this is not TLS");
    say_tls(&t, POST_BEGIN);
    AWAIT(got(&t, "data: 1"));
    say_tls(&u, "POST /v1/chat");
    for (int i = 0; i < 5; i++)
        turn();
    http_server_destroy(server);
    server = NULL;
    cr_expect_eq(exchanges[0].gone, 1);
    finish(&t);
    finish(&u);
    finish(&idle);
}
