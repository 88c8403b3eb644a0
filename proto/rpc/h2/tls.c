/* tls.c - OpenSSL contexts for every listener and connection. */
#include "proto/rpc/h2/tls.h"

#include <openssl/err.h>
#include <openssl/rand.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

static const unsigned char alpn_h2[] = {2, 'h', '2'};
static const unsigned char alpn_http1[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};

/* "<what> <path>: <reason>", with OpenSSL's own reason; empties its queue. */
static int file_error(struct error *err, const char *what, const char *path)
{
    unsigned long code = ERR_peek_error();
    const char *reason = ERR_reason_error_string(code);
    int rc;

    if (access(path, R_OK) == -1) {
        rc = error_sys(err, path);
        rc = error_wrap(err, rc, "%s", what);
    } else {
        rc = error_set(err, DRV_EINVAL, "%s %s: %s", what, path,
                       reason != NULL ? reason : "not usable");
    }
    ERR_clear_error();
    return rc;
}

static int no_memory(struct error *err)
{
    ERR_clear_error();
    return error_set(err, DRV_ENOMEM, "TLS: out of memory");
}

static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                       const unsigned char *in, unsigned in_len, void *arg)
{
    const unsigned char *ours = arg;
    unsigned i;

    (void)ssl;
    for (i = 0; i < in_len && in[i] < in_len - i; i += 1U + in[i]) {
        if (in[i] == ours[0] && memcmp(in + i + 1, ours + 1, ours[0]) == 0) {
            *out = in + i + 1;
            *out_len = in[i];
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int load_identity(SSL_CTX *ctx, const struct config_tls *tls, struct error *err)
{
    if (SSL_CTX_use_certificate_chain_file(ctx, tls->cert) != 1)
        return file_error(err, "certificate", tls->cert);
    if (SSL_CTX_use_PrivateKey_file(ctx, tls->key, SSL_FILETYPE_PEM) != 1)
        return file_error(err, "private key", tls->key);
    if (SSL_CTX_check_private_key(ctx) != 1)
        return file_error(err, "private key does not fit the certificate:", tls->key);
    return 0;
}

static SSL_CTX *new_context(const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);

    if (ctx == NULL)
        return NULL;
    (void)SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                       SSL_OP_CIPHER_SERVER_PREFERENCE);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return ctx;
}

/* gRPC connections last; resuming their sessions gains nothing and shares state. */
static void no_resumption(SSL_CTX *ctx)
{
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    (void)SSL_CTX_set_num_tickets(ctx, 0);
}

int tls_server_context(SSL_CTX **out, const struct config_tls *tls, enum tls_protocol protocol,
                       struct error *err)
{
    unsigned char session_context[16];
    SSL_CTX *ctx;
    int rc = 0;

    *out = NULL;
    if (tls->cert == NULL || tls->key == NULL)
        return error_set(err, DRV_EINVAL, "TLS needs a certificate and a key");
    ctx = new_context(TLS_server_method());
    if (ctx == NULL)
        return no_memory(err);
    rc = load_identity(ctx, tls, err);
    if (rc == 0 && tls->ca != NULL) {
        STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(tls->ca);

        if (names == NULL || SSL_CTX_load_verify_locations(ctx, tls->ca, NULL) != 1) {
            sk_X509_NAME_pop_free(names, X509_NAME_free);
            rc = file_error(err, "CA file", tls->ca);
        } else {
            SSL_CTX_set_client_CA_list(ctx, names);
            SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        }
    }
    /* A session made on one listener must not be taken on another: the tickets' keys are the
     * context's own, and this is what session ids are bound to. */
    if (rc == 0 &&
        (RAND_bytes(session_context, sizeof(session_context)) != 1 ||
         SSL_CTX_set_session_id_context(ctx, session_context, sizeof(session_context)) != 1))
        rc = no_memory(err);
    if (rc != 0) {
        SSL_CTX_free(ctx);
        return rc;
    }
    switch (protocol) {
    case TLS_PROTOCOL_H2:
        no_resumption(ctx);
        SSL_CTX_set_alpn_select_cb(ctx, select_alpn, (void *)(uintptr_t)alpn_h2);
        break;
    case TLS_PROTOCOL_HTTP1:
        if (tls->ca != NULL)
            no_resumption(ctx);
        SSL_CTX_set_alpn_select_cb(ctx, select_alpn, (void *)(uintptr_t)alpn_http1);
        break;
    }
    *out = ctx;
    return 0;
}

int tls_client_context(SSL_CTX **out, const struct config_tls *tls, struct error *err)
{
    SSL_CTX *ctx;
    int rc = 0;

    *out = NULL;
    if ((tls->cert == NULL) != (tls->key == NULL))
        return error_set(err, DRV_EINVAL, "a client certificate needs its key, and vice versa");
    ctx = new_context(TLS_client_method());
    if (ctx == NULL)
        return no_memory(err);
    no_resumption(ctx);
    if (tls->ca != NULL) {
        if (SSL_CTX_load_verify_locations(ctx, tls->ca, NULL) != 1)
            rc = file_error(err, "CA file", tls->ca);
    } else if (SSL_CTX_set_default_verify_paths(ctx) != 1) {
        rc = no_memory(err);
    }
    if (rc == 0 && tls->cert != NULL)
        rc = load_identity(ctx, tls, err);
    /* This one returns 0 for success. */
    if (rc == 0 && SSL_CTX_set_alpn_protos(ctx, alpn_h2, sizeof(alpn_h2)) != 0)
        rc = no_memory(err);
    if (rc != 0) {
        SSL_CTX_free(ctx);
        return rc;
    }
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    *out = ctx;
    return 0;
}

int tls_context_take(SSL_CTX *to, SSL_CTX *from)
{
    X509 *cert = SSL_CTX_get0_certificate(from);
    EVP_PKEY *key = SSL_CTX_get0_privatekey(from);
    STACK_OF(X509) *chain = NULL;

    (void)SSL_CTX_get0_chain_certs(from, &chain);
    if (cert != NULL && key != NULL && SSL_CTX_use_cert_and_key(to, cert, key, chain, 1) != 1)
        return no_memory(NULL);
    SSL_CTX_set1_cert_store(to, SSL_CTX_get_cert_store(from));
    SSL_CTX_set_verify(to, SSL_CTX_get_verify_mode(from), NULL);
    return 0;
}
