/* tls_stream.c - one TLS connection as a filter between byte buffers. */
#include "proto/rpc/h2/tls_stream.h"

#include <arpa/inet.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"

struct tls_stream {
    SSL *ssl; /* owned, with both BIOs */
    BIO *in;  /* ciphertext from the peer */
    BIO *out; /* ciphertext to the peer */
    bool established;
};

static bool is_address(const char *name)
{
    unsigned char raw[16];

    return inet_pton(AF_INET, name, raw) == 1 || inet_pton(AF_INET6, name, raw) == 1;
}

/* RFC 6066 forbids addresses in SNI. */
static bool set_name(SSL *ssl, const char *name)
{
    if (is_address(name))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

int tls_stream_create(struct tls_stream **out, SSL_CTX *ctx, bool server, const char *name,
                      struct error *err)
{
    struct tls_stream *tls = calloc(1, sizeof(*tls));

    *out = NULL;
    if (tls == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    tls->ssl = SSL_new(ctx);
    tls->in = BIO_new(BIO_s_mem());
    tls->out = BIO_new(BIO_s_mem());
    if (tls->ssl == NULL || tls->in == NULL || tls->out == NULL ||
        (name != NULL && !server && !set_name(tls->ssl, name))) {
        BIO_free(tls->in);
        BIO_free(tls->out);
        SSL_free(tls->ssl);
        free(tls);
        ERR_clear_error();
        return error_set(err, DRV_ENOMEM, "TLS: out of memory");
    }
    SSL_set_bio(tls->ssl, tls->in, tls->out);
    if (server)
        SSL_set_accept_state(tls->ssl);
    else
        SSL_set_connect_state(tls->ssl);
    *out = tls;
    return 0;
}

void tls_stream_destroy(struct tls_stream *tls)
{
    if (tls == NULL)
        return;
    SSL_free(tls->ssl);
    free(tls);
}

int tls_stream_feed(struct tls_stream *tls, const void *bytes, size_t n)
{
    if (n > INT_MAX || BIO_write(tls->in, bytes, (int)n) != (int)n)
        return DRV_ENOMEM;
    return 0;
}

/* The error in OpenSSL's words; empties its queue. */
static int explain(struct tls_stream *tls, int ssl_error, struct error *err)
{
    unsigned long code = ERR_peek_error();
    const char *reason = ERR_reason_error_string(code);
    long verdict = SSL_get_verify_result(tls->ssl);

    ERR_clear_error();
    if (verdict != X509_V_OK)
        return error_set(err, DRV_EPROTO, "TLS: certificate not accepted: %s",
                         X509_verify_cert_error_string(verdict));
    return error_set(err, DRV_EPROTO, "TLS: %s",
                     reason != NULL                       ? reason
                     : ssl_error == SSL_ERROR_ZERO_RETURN ? "closed"
                                                          : "handshake or record error");
}

enum tls_progress tls_stream_handshake(struct tls_stream *tls, struct error *err)
{
    const unsigned char *alpn = NULL;
    unsigned alpn_len = 0;
    int rc, why;

    ERR_clear_error();
    rc = SSL_do_handshake(tls->ssl);
    if (rc != 1) {
        why = SSL_get_error(tls->ssl, rc);
        if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
            return TLS_MORE;
        (void)explain(tls, why, err);
        return TLS_FAILED;
    }
    SSL_get0_alpn_selected(tls->ssl, &alpn, &alpn_len);
    if (alpn_len != 2 || memcmp(alpn, "h2", 2) != 0) {
        (void)error_set(err, DRV_EPROTO, "TLS: the peer does not speak HTTP/2 (no ALPN h2)");
        return TLS_FAILED;
    }
    tls->established = true;
    return TLS_DONE;
}

int tls_stream_read(struct tls_stream *tls, void *out, size_t cap, struct error *err)
{
    int n, why;

    ERR_clear_error();
    n = SSL_read(tls->ssl, out, cap > INT_MAX ? INT_MAX : (int)cap);
    if (n > 0)
        return n;
    why = SSL_get_error(tls->ssl, n);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        return 0;
    if (why == SSL_ERROR_ZERO_RETURN)
        return error_set(err, DRV_ECLOSED, "closed by peer");
    return explain(tls, why, err);
}

int tls_stream_write(struct tls_stream *tls, const void *bytes, size_t n)
{
    ERR_clear_error();
    /* A memory BIO takes everything, so there is no partial write. */
    if (n > INT_MAX || (n != 0 && SSL_write(tls->ssl, bytes, (int)n) != (int)n)) {
        ERR_clear_error();
        return DRV_EPROTO;
    }
    return 0;
}

void tls_stream_close(struct tls_stream *tls)
{
    if (!tls->established)
        return;
    ERR_clear_error();
    (void)SSL_shutdown(tls->ssl);
    ERR_clear_error();
}

void tls_stream_drain(struct tls_stream *tls, struct buf *out)
{
    size_t n = BIO_ctrl_pending(tls->out);
    uint8_t *to;
    int got;

    if (n == 0)
        return;
    to = buf_reserve(out, n);
    if (to == NULL)
        return;
    got = BIO_read(tls->out, to, n > INT_MAX ? INT_MAX : (int)n);
    if (got > 0)
        out->len += (size_t)got;
}
